//! A client's side: its key, its certificate, and how it finds and knows its server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mezzo_core::{FilesetId, IdMapping};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{self, Certified, ClientName};
use super::directory::Directory;
use super::enrolment::{Admission, Answer, Request};
use super::error::IdentityError;
use super::link::{Address, Fingerprint, Link};
use super::registry::clean_name;
use super::{ClientId, Clock, Rights, tls};
use crate::frame::{FrameLimits, FrameReader, FrameWriter};
use crate::limits;

const KEY: &str = "key.pem";
const FILE: &str = "client.toml";

/// The version of `client.toml` that this program writes.
const FORMAT: u32 = 1;

const HEADING: &str =
    "# A client of mezzo as its server knows it. addresses may be edited while it is not mounted.\n\n";

/// An enrolled client. One process has it, until it is dropped.
pub struct ClientIdentity {
    directory: Directory,
    key: KeyPair,
    clock: Arc<dyn Clock>,
    stored: Stored,
}

/// A directory with a key, for which no certificate has come yet. Asking again with the same key is safe.
pub struct PendingClient {
    directory: Directory,
    key: KeyPair,
    clock: Arc<dyn Clock>,
}

/// What `client.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    client: ClientId,
    fileset: FilesetId,
    rights: Rights,
    mapping: IdMapping,
    addresses: Vec<Address>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

impl PendingClient {
    /// Opens the directory `path`, or makes it; makes a key if it has none.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<PendingClient, IdentityError> {
        let directory = Directory::open(path, &[KEY, FILE])?;
        if directory.read(FILE)?.is_some() {
            return Err(IdentityError::Enrolled(path.to_owned()));
        }
        let key = match read_key(&directory)? {
            Some(key) => key,
            None => {
                let key = authority::new_key()?;
                directory.write(KEY, key.serialize_pem().as_bytes())?;
                key
            }
        };
        Ok(PendingClient { directory, key, clock })
    }

    /// How to speak TLS to the server that the link names, and to no other.
    pub fn tls_config(&self, link: &Link) -> Result<Arc<ClientConfig>, IdentityError> {
        tls::enrolment_config(link.authority, self.clock.clone()).map(Arc::new)
    }

    /// What to send to that server, once it has shown who it is: the message holds the link's secret. `name` is what the
    /// machine is called; other characters than letters, digits, dots and dashes become dashes, and what is too long is cut off.
    pub fn request(&self, link: &Link, name: &str) -> Result<Vec<u8>, IdentityError> {
        let name = clean_name(name);
        let signing_request = authority::signing_request(&self.key)?;
        Ok(Request::Enrol { fileset: link.fileset, secret: link.secret, name, signing_request }.to_bytes())
    }

    /// Takes the server's answer, and stores what it says.
    pub fn finish(self, link: &Link, answer: &[u8]) -> Result<ClientIdentity, IdentityError> {
        let admission = admitted(answer)?;
        if Fingerprint::of(&admission.authority) != link.authority {
            return Err(wrong("the authority in the answer is not the one that the link names"));
        }
        let stored = Stored {
            client: admission.client,
            fileset: link.fileset,
            rights: admission.rights,
            mapping: admission.mapping,
            addresses: link.addresses.clone(),
            certificate: admission.certificate.into(),
            authority: admission.authority.into(),
        };
        let PendingClient { directory, key, clock } = self;
        stored.check(&key).map_err(wrong)?;
        directory.write(FILE, stored.to_text().as_bytes())?;
        Ok(ClientIdentity { directory, key, clock, stored })
    }

    /// Does all of it: finds the server at one of the link's addresses, and enrols there. A failure leaves the key, with which
    /// it can be tried again.
    pub async fn enrol(self, link: &Link, name: &str) -> Result<ClientIdentity, IdentityError> {
        let config = self.tls_config(link)?;
        let (stream, address) = connect(&link.addresses, &config).await?;
        let answer = exchange(stream, &self.request(link, name)?, &address).await?;
        self.finish(link, &answer)
    }
}

impl ClientIdentity {
    /// Opens the directory `path` of a client that is enrolled.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<ClientIdentity, IdentityError> {
        let directory = Directory::open(path, &[KEY, FILE])?;
        let missing = |why: &str| IdentityError::Incomplete { path: path.to_owned(), why: why.to_owned() };
        let text = directory.read_text(FILE)?.ok_or_else(|| missing("it was not enrolled yet"))?;
        let key = read_key(&directory)?
            .ok_or_else(|| missing("key.pem is missing; enrol anew in another directory"))?;
        let damaged = |why| IdentityError::Damaged { path: directory.path_of(FILE), why };
        let stored = Stored::from_text(&text).map_err(damaged)?;
        stored.check(&key).map_err(|why| damaged(why.to_owned()))?;
        Ok(ClientIdentity { directory, key, clock, stored })
    }

    /// How to speak TLS to the server, and to no other.
    pub fn tls_config(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let own = Certified {
            chain: vec![self.stored.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(self.key.serialize_der()).into(),
        };
        tls::client_config(&self.stored.authority, own, self.clock.clone()).map(Arc::new)
    }

    /// Connects to the server at the first of its addresses where it is. What it says to this client's certificate comes with
    /// the first bytes that are read; [`super::explain`] puts it in words.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, IdentityError> {
        Ok(connect(&self.stored.addresses, &self.tls_config()?).await?.0)
    }

    /// Which client it is.
    pub fn client(&self) -> ClientId {
        self.stored.client
    }

    /// The fileset that it was invited to.
    pub fn fileset(&self) -> FilesetId {
        self.stored.fileset
    }

    /// What it may do, as the server said last. The server decides.
    pub fn rights(&self) -> Rights {
        self.stored.rights
    }

    /// How its users and groups are the server's, as the server said last.
    pub fn mapping(&self) -> &IdMapping {
        &self.stored.mapping
    }

    /// Where the server is.
    pub fn addresses(&self) -> &[Address] {
        &self.stored.addresses
    }

    /// By which the server is known.
    pub fn authority(&self) -> Fingerprint {
        Fingerprint::of(&self.stored.authority)
    }

    /// Has the server elsewhere from now on: 1 to 8 addresses.
    pub fn set_addresses(&mut self, addresses: Vec<Address>) -> Result<(), IdentityError> {
        if addresses.is_empty() || addresses.len() > limits::ADDRESSES {
            return Err(IdentityError::Invitation("a server has 1 to 8 addresses"));
        }
        self.store(Stored { addresses, ..self.stored.clone() })
    }

    /// Whether more than half of the certificate's time is over: [`ClientIdentity::renewal_request`] then.
    pub fn wants_renewal(&self) -> bool {
        self.remaining() < limits::CLIENT_CERTIFICATE_TIME / 2
    }

    /// How long the certificate is valid yet.
    pub fn remaining(&self) -> Duration {
        let until = authority::validity(&self.stored.certificate).map_or(0, |(_, until)| until);
        Duration::from_secs(until.saturating_sub(tls::now(&*self.clock)))
    }

    /// What to send on a connection with this client's certificate to get a new one.
    pub fn renewal_request(&self) -> Result<Vec<u8>, IdentityError> {
        let signing_request = authority::signing_request(&self.key)?;
        Ok(Request::Renew { signing_request }.to_bytes())
    }

    /// Takes the answer to that: certificate, rights and id mapping. [`ClientIdentity::tls_config`] has the new certificate.
    pub fn renew(&mut self, answer: &[u8]) -> Result<(), IdentityError> {
        let admission = admitted(answer)?;
        if admission.authority != *self.stored.authority || admission.client != self.stored.client {
            return Err(wrong("the answer is for another client, or of another authority"));
        }
        let stored = Stored {
            certificate: admission.certificate.into(),
            rights: admission.rights,
            mapping: admission.mapping,
            ..self.stored.clone()
        };
        stored.check(&self.key).map_err(wrong)?;
        self.store(stored)
    }

    fn store(&mut self, stored: Stored) -> Result<(), IdentityError> {
        self.directory.write(FILE, stored.to_text().as_bytes())?;
        self.stored = stored;
        Ok(())
    }
}

/// Connects to the first of the addresses where there is a server that shows what `config` asks for.
async fn connect(
    addresses: &[Address],
    config: &Arc<ClientConfig>,
) -> Result<(TlsStream<TcpStream>, Address), IdentityError> {
    let mut failed = None;
    for address in addresses {
        match connect_to(address, config).await {
            Ok(stream) => return Ok((stream, address.clone())),
            Err(cause) => failed = Some(IdentityError::Connect { address: address.to_string(), cause }),
        }
    }
    Err(failed.unwrap_or(IdentityError::Invitation("a server has 1 to 8 addresses")))
}

async fn connect_to(address: &Address, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
    let explained = |error: std::io::Error| tls::explain(&error);
    let stream = timeout(limits::CONNECT_TIME, TcpStream::connect((address.host(), address.port()))).await;
    let stream = stream.map_err(|_| "nobody answers".to_owned())?.map_err(explained)?;
    stream.set_nodelay(true).map_err(explained)?;
    let connecting = TlsConnector::from(config.clone()).connect(tls::server_name(), stream);
    let connected = timeout(limits::HANDSHAKE_TIME, connecting).await;
    connected.map_err(|_| "the handshake takes too long".to_owned())?.map_err(explained)
}

/// Sends a request as a frame, and waits for the answer.
async fn exchange(
    stream: TlsStream<TcpStream>,
    request: &[u8],
    address: &Address,
) -> Result<Vec<u8>, IdentityError> {
    let failed = |cause: String| IdentityError::Exchange { address: address.to_string(), cause };
    let bounds = FrameLimits { bytes: limits::ANSWER_BYTES, time: limits::ENROLMENT_TIME };
    let (from, to) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(to, bounds);
    writer.write(&[request]).await.map_err(|error| failed(error.to_string()))?;
    writer.flush().await.map_err(|error| failed(error.to_string()))?;
    let mut reader = FrameReader::new(from, bounds);
    let answer = timeout(bounds.time, reader.next()).await;
    let answer = answer.map_err(|_| failed("the server does not answer".to_owned()))?;
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    Ok(answer.ok_or_else(|| failed("the server ended the connection".to_owned()))?.to_vec())
}

fn admitted(answer: &[u8]) -> Result<Admission, IdentityError> {
    match Answer::from_bytes(answer) {
        Ok(Answer::Admitted(admission)) => Ok(admission),
        Ok(Answer::Refused(refusal)) => Err(IdentityError::Refused(refusal)),
        Err(error) => Err(IdentityError::Certificate {
            operation: "understand the server's answer",
            cause: error.to_string(),
        }),
    }
}

fn wrong(why: &str) -> IdentityError {
    IdentityError::Certificate {
        operation: "use the certificate that the server sent",
        cause: why.to_owned(),
    }
}

fn read_key(directory: &Directory) -> Result<Option<KeyPair>, IdentityError> {
    let Some(text) = directory.read_text(KEY)? else { return Ok(None) };
    let key = KeyPair::from_pem(&text);
    let damaged = |error: rcgen::Error| IdentityError::Damaged {
        path: directory.path_of(KEY),
        why: format!("the key can't be read: {error}"),
    };
    key.map(Some).map_err(damaged)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    client: String,
    fileset: String,
    rights: Rights,
    mapping: String,
    addresses: Vec<String>,
    certificate: String,
    authority: String,
}

impl Stored {
    /// Whether all parts belong together, and to `key`; the error says which does not.
    fn check(&self, key: &KeyPair) -> Result<(), &'static str> {
        if !authority::is_for(&self.certificate, key) {
            return Err("the certificate is for another key");
        }
        let name = ClientName { fileset: self.fileset, client: self.client };
        if ClientName::of(&self.certificate) != Some(name) {
            return Err("the certificate is another client's");
        }
        if !authority::is_signed_by(&self.certificate, &self.authority) {
            return Err("the certificate is not signed by the authority");
        }
        Ok(())
    }

    fn to_text(&self) -> String {
        let file = File {
            format: FORMAT,
            client: self.client.to_string(),
            fileset: self.fileset.to_string(),
            rights: self.rights,
            mapping: self.mapping.to_string(),
            addresses: self.addresses.iter().map(Address::to_string).collect(),
            certificate: STANDARD.encode(&self.certificate),
            authority: STANDARD.encode(&self.authority),
        };
        format!("{HEADING}{}", toml::to_string(&file).expect("short texts can be written as TOML"))
    }

    fn from_text(text: &str) -> Result<Stored, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("format is {}, and this program knows {FORMAT} only", file.format));
        }
        if file.addresses.is_empty() || file.addresses.len() > limits::ADDRESSES {
            return Err("a server has 1 to 8 addresses".to_owned());
        }
        let decode = |text: &str| match STANDARD.decode(text) {
            Ok(bytes) if bytes.len() <= limits::CERTIFICATE_BYTES => Ok(CertificateDer::from(bytes)),
            _ => Err("a certificate is no base64, or too long".to_owned()),
        };
        Ok(Stored {
            client: file.client.parse().map_err(|_| "client is not 16 hexadecimal digits other than 0")?,
            fileset: file.fileset.parse().map_err(|_| "fileset is not 32 hexadecimal digits")?,
            rights: file.rights,
            mapping: file
                .mapping
                .parse()
                .map_err(|error: mezzo_core::mapping::NotAMapping| error.to_string())?,
            addresses: file
                .addresses
                .iter()
                .map(|address| address.parse())
                .collect::<Result<_, super::NotALink>>()
                .map_err(|error| format!("addresses: {}", error.0))?,
            certificate: decode(&file.certificate)?,
            authority: decode(&file.authority)?,
        })
    }
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity").field("client", &self.stored.client).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PendingClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingClient").field("path", &self.directory.path()).finish_non_exhaustive()
    }
}
