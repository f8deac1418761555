//! A server's side: its authority, whom it invited, and who came.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::{FilesetId, IdMapping};
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::{Authority, ClientName, ProvenKey};
use super::directory::Directory;
use super::enrolment::{Admission, Answer, Refusal, Request};
use super::error::{IdentityError, NotAdmitted};
use super::link::{Address, Fingerprint, Link, Secret};
use super::registry::{Arrival, Client, Invitation, Registry};
use super::{ClientId, Clock, Peer, Rights, random, tls};
use crate::frame::{FrameError, FrameLimits, FrameReader, FrameWriter};
use crate::limits;

const KEY: &str = "authority-key.pem";
const REGISTRY: &str = "registry.toml";
// Written last: where it is, the others are.
const CERTIFICATE: &str = "authority.pem";

/// A server as its clients know it. A clone is the same server. One process has it, until all clones are dropped.
#[derive(Clone)]
pub struct ServerIdentity(Arc<Inner>);

struct Inner {
    directory: Directory,
    authority: Arc<Authority>,
    // What is here is durable, but for when clients were seen.
    registry: Arc<RwLock<Registry>>,
    // Held while a change is made durable, so that readers need not wait for the disk.
    writing: Mutex<()>,
    clock: Arc<dyn Clock>,
    revocations: watch::Sender<u64>,
}

/// The answer to a request, and what became of it.
#[derive(Debug)]
pub struct Answered {
    /// For the peer.
    pub bytes: Vec<u8>,
    /// For the log: who was enrolled or renewed, or why nobody was.
    pub outcome: Result<ClientId, Refused>,
}

/// A request was refused.
#[derive(Debug)]
pub struct Refused {
    /// What the peer is told.
    pub refusal: Refusal,
    /// The trouble behind it, which it is not told.
    pub cause: Option<IdentityError>,
}

impl ServerIdentity {
    /// Opens the state directory `path`; where there is nothing, or what an earlier start left unfinished, makes a new
    /// authority. Anything else that is not whole is refused and left as it is.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<ServerIdentity, IdentityError> {
        let directory = Directory::open(path, &[KEY, REGISTRY, CERTIFICATE])?;
        let certificate = match directory.read_text(CERTIFICATE)? {
            Some(certificate) => certificate,
            None => make(&directory, tls::now(&*clock))?,
        };
        let missing = |name: &str| IdentityError::Incomplete {
            path: path.to_owned(),
            why: format!("{name} is missing; put it back, since clients trust this authority"),
        };
        let key = directory.read_text(KEY)?.ok_or_else(|| missing(KEY))?;
        let registry = directory.read_text(REGISTRY)?.ok_or_else(|| missing(REGISTRY))?;
        let damaged = |name| move |why| IdentityError::Damaged { path: path.join(name), why };
        let authority = Authority::from_pem(&key, &certificate).map_err(damaged(CERTIFICATE))?;
        let registry = Registry::from_text(&registry).map_err(damaged(REGISTRY))?;
        Ok(ServerIdentity(Arc::new(Inner {
            directory,
            authority: Arc::new(authority),
            registry: Arc::new(RwLock::new(registry)),
            writing: Mutex::new(()),
            clock,
            revocations: watch::Sender::new(0),
        })))
    }

    /// By which clients know this server.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.authority.fingerprint()
    }

    /// How the server speaks TLS. It makes its own certificate anew in time, so one configuration lasts for ever.
    ///
    /// Clients that are not in the registry, and revoked ones, are refused in the handshake; peers without a certificate are
    /// not: ask [`ServerIdentity::peer`] before anything is said.
    pub fn tls_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let Inner { authority, registry, clock, .. } = &*self.0;
        tls::server_config(authority.clone(), registry.clone(), clock.clone()).map(Arc::new)
    }

    /// Who is at the other end, after the handshake.
    pub fn peer(&self, connection: &rustls::ServerConnection) -> Peer {
        tls::peer(connection.peer_certificates())
    }

    /// Does the handshake on a connection that came in, within [`limits::HANDSHAKE_TIME`].
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        config: &Arc<ServerConfig>,
        stream: S,
    ) -> std::io::Result<(TlsStream<S>, Peer)> {
        let accepted =
            timeout(limits::HANDSHAKE_TIME, TlsAcceptor::from(config.clone()).accept(stream)).await;
        let stream = accepted.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let peer = self.peer(stream.get_ref().1);
        Ok((stream, peer))
    }

    /// The client behind a connection, if it may use the fileset now. To be asked for each fileset that a connection opens.
    pub fn admit(&self, peer: Peer, fileset: FilesetId) -> Result<Client, NotAdmitted> {
        self.0.registry.read().admit(peer, fileset).cloned()
    }

    /// Invites somebody: makes a link that is good once, from now on for `valid_for`, durable when it returns.
    pub fn mint(
        &self,
        rights: Rights,
        valid_for: Duration,
        mapping: IdMapping,
        fileset: FilesetId,
        addresses: Vec<Address>,
    ) -> Result<Link, IdentityError> {
        if addresses.is_empty() || addresses.len() > limits::ADDRESSES {
            return Err(IdentityError::Invitation("a link has 1 to 8 addresses"));
        }
        if valid_for < Duration::from_secs(1) || valid_for > limits::INVITATION_TIME {
            return Err(IdentityError::Invitation("an invitation is good for a second to a year"));
        }
        let secret = Secret::random()?;
        self.change(|registry, now| {
            let expires = now.saturating_add(valid_for.as_secs());
            let invitation = Invitation { fileset, rights, mapping, made: now, expires, used_by: None };
            registry.invite(secret.hash(), invitation, now)
        })?;
        Ok(Link { addresses, fileset, authority: self.fingerprint(), secret })
    }

    /// Answers a request to be enrolled or to have a certificate renewed, from `peer`. What it changes is durable before there
    /// is an answer. Waits for the disk.
    pub fn answer(&self, peer: Peer, request: &[u8]) -> Answered {
        let outcome = self.decide(peer, request);
        let answer = match &outcome {
            Ok(admission) => Answer::Admitted(admission.clone()),
            Err(refused) => Answer::Refused(refused.refusal),
        };
        Answered { bytes: answer.to_bytes(), outcome: outcome.map(|admission| admission.client) }
    }

    /// Reads one request, and answers it: all that a [`Peer::Unknown`] can have. Within [`limits::ENROLMENT_TIME`] for each of
    /// reading and writing.
    pub async fn serve_enrolment<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: Peer,
        stream: S,
    ) -> Result<Result<ClientId, Refused>, FrameError> {
        let (from, to) = tokio::io::split(stream);
        let bounds = FrameLimits { bytes: limits::REQUEST_BYTES, time: limits::ENROLMENT_TIME };
        let mut reader = FrameReader::new(from, bounds);
        let too_slow = FrameError::TooSlow { operation: "read", time: bounds.time };
        let request = timeout(bounds.time, reader.next()).await.map_err(|_| too_slow)??;
        let request = request.ok_or(FrameError::Cut(0))?;
        let server = self.clone();
        let answered = tokio::task::spawn_blocking(move || server.answer(peer, &request)).await;
        let Answered { bytes, outcome } =
            answered.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let mut writer = FrameWriter::new(to, FrameLimits { bytes: limits::ANSWER_BYTES, ..bounds });
        writer.write(&[&bytes]).await?;
        writer.shut_down().await?;
        Ok(outcome)
    }

    /// Revokes a client: durable, and in force for new connections, when it returns; live ones learn of it by
    /// [`ServerIdentity::until_revoked`]. Whether it was not revoked before.
    pub fn revoke(&self, client: ClientId) -> Result<bool, IdentityError> {
        let first = self.change(|registry, now| registry.revoke(client, now))?;
        self.0.revocations.send_modify(|count| *count += 1);
        Ok(first)
    }

    /// Returns once the client is revoked, or is not in the registry: a live connection of its ends then.
    pub async fn until_revoked(&self, client: ClientId) {
        let mut revocations = self.revocations();
        while self.client(client).is_some_and(|client| client.revoked.is_none()) {
            if revocations.changed().await.is_err() {
                return;
            }
        }
    }

    /// How often clients were revoked since the start: changes with each.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.0.revocations.subscribe()
    }

    /// Notes that a client is connected now. Durable with the next change, or by [`ServerIdentity::save_seen`].
    pub fn see(&self, client: ClientId) {
        self.0.registry.write().see(client, tls::now(&*self.0.clock));
    }

    /// Makes durable when clients were seen.
    pub fn save_seen(&self) -> Result<(), IdentityError> {
        let _writing = self.0.writing.lock();
        let text = self.0.registry.read().to_text();
        self.0.directory.write(REGISTRY, text.as_bytes())
    }

    /// The client with this number.
    pub fn client(&self, client: ClientId) -> Option<Client> {
        self.0.registry.read().client(client).cloned()
    }

    /// All clients, revoked ones too, by number.
    pub fn clients(&self) -> Vec<Client> {
        self.0.registry.read().clients().cloned().collect()
    }

    /// All invitations that are remembered.
    pub fn invitations(&self) -> Vec<Invitation> {
        self.0.registry.read().invitations().cloned().collect()
    }

    fn decide(&self, peer: Peer, request: &[u8]) -> Result<Admission, Refused> {
        let request = Request::from_bytes(request).map_err(|_| Refusal::NotARequest)?;
        let (client, key) = match request {
            Request::Enrol { fileset, secret, name, signing_request } => {
                let key = ProvenKey::from_request(&signing_request).ok_or(Refusal::NotARequest)?;
                let id = ClientId(u64::from_le_bytes(random()?).max(1));
                let (secret_hash, key_hash) = (secret.hash(), key.hash());
                let arrival = Arrival { fileset, secret_hash, key_hash, name, id };
                (self.change(|registry, now| registry.enrol(arrival, now).map_err(Refused::from))?, key)
            }
            Request::Renew { signing_request } => {
                let key = ProvenKey::from_request(&signing_request).ok_or(Refusal::NotARequest)?;
                (self.0.registry.read().renew(peer, &key.hash())?, key)
            }
        };
        let client = self.client(client).ok_or(Refusal::Unable)?;
        let name = ClientName { fileset: client.fileset, client: client.id };
        let certificate = self.0.authority.client(name, &key, tls::now(&*self.0.clock))?;
        Ok(Admission {
            client: client.id,
            certificate: certificate.to_vec(),
            authority: self.0.authority.certificate().to_vec(),
            rights: client.rights,
            mapping: client.mapping,
        })
    }

    /// Changes the registry: on disk first, then for everybody.
    fn change<T, E: From<IdentityError>>(
        &self,
        step: impl FnOnce(&mut Registry, u64) -> Result<T, E>,
    ) -> Result<T, E> {
        let Inner { directory, registry, writing, clock, .. } = &*self.0;
        let _writing = writing.lock();
        let before = registry.read().clone();
        let mut after = before.clone();
        let done = step(&mut after, tls::now(&**clock))?;
        if after != before {
            directory.write(REGISTRY, after.to_text().as_bytes())?;
            let mut registry = registry.write();
            after.take_seen(&registry);
            *registry = after;
        }
        Ok(done)
    }
}

/// Makes an authority in a directory that has none, and returns its certificate. What was made before is taken up: nobody can
/// have seen anything of it.
fn make(directory: &Directory, now: u64) -> Result<String, IdentityError> {
    let refused =
        |why: &str| IdentityError::Incomplete { path: directory.path().to_owned(), why: why.to_owned() };
    if directory.names()?.iter().any(|name| ![KEY, REGISTRY].contains(&&**name)) {
        return Err(refused("other things are in it, and no authority: give an empty directory"));
    }
    let damaged = |name| move |why| IdentityError::Damaged { path: directory.path_of(name), why };
    if let Some(text) = directory.read_text(REGISTRY)?
        && !Registry::from_text(&text).map_err(damaged(REGISTRY))?.is_empty()
    {
        return Err(refused("authority.pem is missing; put it back, since clients trust this authority"));
    }
    let key = match directory.read_text(KEY)? {
        Some(key) => key,
        None => {
            let key = Authority::new_key()?;
            directory.write(KEY, key.as_bytes())?;
            key
        }
    };
    let certificate = Authority::new_certificate(&key, now)?;
    directory.write(REGISTRY, Registry::default().to_text().as_bytes())?;
    directory.write(CERTIFICATE, certificate.as_bytes())?;
    Ok(certificate)
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{}: {cause}", self.refusal),
            None => self.refusal.fmt(f),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, cause: None }
    }
}

impl From<IdentityError> for Refused {
    fn from(cause: IdentityError) -> Refused {
        Refused { refusal: Refusal::Unable, cause: Some(cause) }
    }
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity").field("path", &self.0.directory.path()).finish_non_exhaustive()
    }
}
