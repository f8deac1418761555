//! TLS as both sides speak it: version 1.3, certificates of the server's authority on both sides, no session resumed.
//!
//! A resumed session would not show the certificate again, and a client that was revoked would get in with it.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use super::authority::{Authority, Certified, ClientName, SERVER_NAME, key_hash};
use super::error::IdentityError;
use super::link::Fingerprint;
use super::registry::Registry;
use super::{Clock, Peer};
use crate::limits;

/// What both sides must want to speak: keeps other protocols' messages out.
const PROTOCOL: &[u8] = b"mezzo";

/// The name by which a client asks for a server: see [`SERVER_NAME`].
pub(super) fn server_name() -> ServerName<'static> {
    SERVER_NAME.try_into().expect("it is a name of DNS")
}

/// Seconds since 1970; 0 where the clock can't be read.
pub(super) fn now(clock: &dyn Clock) -> u64 {
    clock.current_time().map_or(0, |time| time.as_secs())
}

/// How a server speaks: it shows a certificate of `authority`, and takes those of the clients that `registry` has, or none.
pub(super) fn server_config(
    authority: Arc<Authority>,
    registry: Arc<RwLock<Registry>>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, IdentityError> {
    let failed = failed("set up TLS for the server");
    let roots = roots(authority.certificate())?;
    let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let certificate = ServerCertificate::new(authority, clock.clone())?;
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(Arc::new(KnownClients { chain, registry }))
        .with_cert_resolver(Arc::new(certificate));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// How an enrolled client speaks to the server whose authority has the certificate `authority`.
pub(super) fn client_config(
    authority: &CertificateDer<'static>,
    own: Certified,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, IdentityError> {
    let failed = failed("set up TLS for the client");
    let config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(own.chain, own.key)
        .map_err(|error| failed(&error))?;
    Ok(finish(config))
}

/// How somebody who has a link speaks to the server that it names.
pub(super) fn enrolment_config(
    authority: Fingerprint,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, IdentityError> {
    let config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed("set up TLS for enrolment")(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KnownAuthority { authority, provider: provider() }))
        .with_no_client_auth();
    Ok(finish(config))
}

/// Who is at the other end of a connection whose handshake is done.
pub(super) fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Peer {
    let name = certificates.and_then(|chain| ClientName::of(chain.first()?));
    name.map_or(Peer::Unknown, |name| Peer::Client(name.client))
}

/// What a failed connection means, for people: of what the other side said or showed, where `error` tells; else its own words.
pub fn explain(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let known = match tls {
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateRevoked => "the server has revoked this client",
            AlertDescription::CertificateExpired => {
                "the server says that this client's certificate has expired"
            }
            AlertDescription::UnknownCA => "the server does not know who signed this client's certificate",
            AlertDescription::CertificateUnknown => "the other side does not take this certificate",
            AlertDescription::AccessDenied => "the server has no such client",
            AlertDescription::ProtocolVersion => "the other side does not speak TLS 1.3",
            AlertDescription::NoApplicationProtocol => "the other side does not speak mezzo's protocol",
            _ => return error.to_string(),
        },
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(own)))) => {
            return own.to_string();
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "it is another server: its certificate is not signed by the authority that is known"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => "its certificate is not valid yet: the clocks of both sides differ",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its certificate has expired, or the clocks of both sides differ",
        _ => return error.to_string(),
    };
    known.to_owned()
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

/// The one provider of cryptography: given everywhere, so that none is looked for in the process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|error| failed("use the authority's certificate")(&error))?;
    Ok(Arc::new(roots))
}

fn failed(operation: &'static str) -> impl Fn(&dyn std::error::Error) -> IdentityError {
    move |cause| IdentityError::Certificate { operation, cause: cause.to_string() }
}

/// Takes certificates of the authority whose client is in the registry, with the same key, and was not revoked.
#[derive(Debug)]
struct KnownClients {
    chain: Arc<dyn ClientCertVerifier>,
    registry: Arc<RwLock<Registry>>,
}

impl ClientCertVerifier for KnownClients {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let registry = self.registry.read();
        let holder = ClientName::of(end_entity).zip(key_hash(end_entity));
        let client = holder.and_then(|(name, key_hash)| registry.holder(name, &key_hash));
        match client {
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
            Some(client) if client.revoked.is_some() => Err(CertificateError::Revoked.into()),
            Some(_) => Ok(verified),
        }
    }

    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes servers that show, beside their own, the authority's certificate that has the fingerprint.
#[derive(Debug)]
struct KnownAuthority {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

/// The server has nothing to show that a link's fingerprint fits.
#[derive(Debug, thiserror::Error)]
#[error("it is another server: it does not show the authority {0} that the link names")]
struct WrongAuthority(Fingerprint);

impl ServerCertVerifier for KnownAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.authority)
            .ok_or_else(|| OtherError(Arc::new(WrongAuthority(self.authority))))
            .map_err(|error| rustls::Error::from(CertificateError::Other(error)))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server's key and certificate, which it makes anew when half their time is over. They are stored nowhere.
struct ServerCertificate {
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    made: u64,
}

impl ServerCertificate {
    fn new(authority: Arc<Authority>, clock: Arc<dyn Clock>) -> Result<ServerCertificate, IdentityError> {
        let current = Mutex::new(Current::make(&authority, now(&*clock))?);
        Ok(ServerCertificate { authority, clock, current })
    }
}

impl Current {
    fn make(authority: &Authority, now: u64) -> Result<Current, IdentityError> {
        let Certified { chain, key } = authority.server(now)?;
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| failed("use the server's certificate")(&error))?;
        Ok(Current { key: Arc::new(key), made: now })
    }

    /// Whether it is time for another: also when the clock was set back behind where this one begins.
    fn is_old(&self, now: u64) -> bool {
        let half = limits::SERVER_CERTIFICATE_TIME.as_secs() / 2;
        now >= self.made + half || now + limits::CLOCK_SLACK.as_secs() / 2 < self.made
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock();
        let now = now(&*self.clock);
        // A failure to make another leaves the one that is there, and is seen again at the next connection.
        if current.is_old(now)
            && let Ok(made) = Current::make(&self.authority, now)
        {
            *current = made;
        }
        Some(current.key.clone())
    }
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("made", &self.current.lock().made).finish_non_exhaustive()
    }
}
