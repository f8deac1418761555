//! The certificate authority of one server, and the certificates that it signs.
//!
//! All keys are ECDSA with P-256. The authority's certificate has no end (RFC 5280, 4.1.2.5): clients know it by its
//! fingerprint, for ever.

use std::time::Duration;

use mezzo_core::FilesetId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::IdentityError;
use super::link::Fingerprint;
use super::{ClientId, random};
use crate::limits;

/// The name in every server's certificate. Servers are known by their authority, and may change their addresses; `.invalid`
/// is kept from ever being somebody's (RFC 2606).
pub(super) const SERVER_NAME: &str = "server.mezzo.invalid";

/// Signs certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A key with its certificate, and the certificate of who signed it.
pub(super) struct Certified {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientName {
    pub fileset: FilesetId,
    pub client: ClientId,
}

/// A public key that somebody has proved to have the private key of.
#[derive(Debug)]
pub(super) struct ProvenKey(CertificateSigningRequestParams);

impl Authority {
    /// The text of a new authority's key.
    pub fn new_key() -> Result<String, IdentityError> {
        new_key().map(|key| key.serialize_pem())
    }

    /// The text of the certificate of the authority whose key is `key`, valid from `now`.
    pub fn new_certificate(key: &str, now: u64) -> Result<String, IdentityError> {
        let failed = failed("make the authority's certificate");
        let key = KeyPair::from_pem(key).map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        // A part at random tells the authorities of several servers apart, for people and in TLS's hints.
        name.push(DnType::CommonName, format!("mezzo authority {:016x}", u64::from_le_bytes(random()?)));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial()?);
        set_validity(&mut params, now, NO_END);
        Ok(params.self_signed(&key).map_err(failed)?.pem())
    }

    /// The authority with this key and this certificate; the text tells what is wrong with them.
    pub fn from_pem(key: &str, certificate: &str) -> Result<Authority, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("the key can't be read: {error}"))?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| format!("the certificate can't be read: {error}"))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| format!("the certificate can't be read: {error}"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("key and certificate don't belong together".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| format!("the certificate is no authority's: {error}"))?;
        Ok(Authority { issuer, certificate })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// By which clients know the authority.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A new key for a server, with its certificate, and the authority's for those who know the fingerprint only.
    pub fn server(&self, now: u64) -> Result<Certified, IdentityError> {
        let key = new_key()?;
        let name = SERVER_NAME.try_into().expect("the server's name is ASCII");
        let mut params =
            end_entity("mezzo server", SanType::DnsName(name), now, limits::SERVER_CERTIFICATE_TIME)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(failed("sign the server's certificate"))?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        Ok(Certified { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }

    /// A certificate for a client's key.
    pub fn client(
        &self,
        name: ClientName,
        key: &ProvenKey,
        now: u64,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let uri = name.uri().try_into().expect("a client's URI is ASCII");
        let mut params = end_entity("mezzo client", SanType::URI(uri), now, limits::CLIENT_CERTIFICATE_TIME)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key.0.public_key, &self.issuer);
        Ok(certificate.map_err(failed("sign the client's certificate"))?.der().clone())
    }
}

impl ProvenKey {
    /// Reads a signing request, checks that it is signed by the key that it names, and takes nothing from it but the key;
    /// `None` if it is no such request, or the key is of another kind than ours.
    pub fn from_request(request: &[u8]) -> Option<ProvenKey> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).ok()?;
        (request.public_key.algorithm() == &PKCS_ECDSA_P256_SHA256).then_some(ProvenKey(request))
    }

    /// SHA-256 of the public key.
    pub fn hash(&self) -> [u8; 32] {
        super::sha256(&self.0.public_key.subject_public_key_info())
    }
}

/// A request to sign a certificate for `key`, in DER.
pub(super) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let request = CertificateParams::default().serialize_request(key);
    Ok(request.map_err(failed("make a signing request"))?.der().to_vec())
}

/// A key at random.
pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a key"))
}

impl ClientName {
    /// How it stands in a certificate.
    pub fn uri(&self) -> String {
        format!("mezzo://{}/client/{}", self.fileset, self.client)
    }

    /// The name in a certificate; `None` where it is no client's.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<ClientName> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = &certificate.subject_alternative_name().ok()??.value.general_names;
        let [GeneralName::URI(uri)] = names[..] else { return None };
        let (fileset, client) = uri.strip_prefix("mezzo://")?.split_once("/client/")?;
        Some(ClientName { fileset: fileset.parse().ok()?, client: client.parse().ok()? })
    }
}

/// Seconds since 1970 from and until which a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    Some((seconds(validity.not_before)?, seconds(validity.not_after)?))
}

/// SHA-256 of the public key in a certificate, as [`ProvenKey::hash`] makes it.
pub(super) fn key_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(super::sha256(certificate.public_key().raw))
}

/// Whether a certificate is for the key.
pub(super) fn is_for(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

/// Whether a certificate's signature is of the authority's key.
pub(super) fn is_signed_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate).ok().zip(X509Certificate::from_der(authority).ok());
    parsed.is_some_and(|((_, certificate), (_, authority))| {
        certificate.verify_signature(Some(authority.public_key())).is_ok()
    })
}

fn end_entity(
    common_name: &str,
    name: SanType,
    now: u64,
    valid_for: Duration,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![name];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    set_validity(&mut params, now, now.saturating_add(valid_for.as_secs()));
    Ok(params)
}

/// A certificate's number: at random, so that no list of those that were given out is needed.
fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = random::<16>()?;
    // It is a positive number that has no zero in front (RFC 5280, 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// How "no end" is written: the last second of the year 9999.
const NO_END: u64 = 253_402_300_799;

fn set_validity(params: &mut CertificateParams, from: u64, until: u64) {
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(NO_END));
    params.not_before = at(from.saturating_sub(limits::CLOCK_SLACK.as_secs()));
    params.not_after = at(until);
}

fn failed(operation: &'static str) -> impl Fn(rcgen::Error) -> IdentityError + Copy {
    move |cause| IdentityError::Certificate { operation, cause: cause.to_string() }
}
