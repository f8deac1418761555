//! Links: what somebody who is invited is given, as one line of text.
//!
//! `mezzo://HOST:PORT/FILESET?ca=FINGERPRINT&secret=SECRET`, with further addresses as `&at=HOST:PORT`. FILESET is the
//! fileset's id; fingerprint and secret are 32 bytes in base64 as URLs have it (43 characters). Whoever has the link can use
//! it, once.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mezzo_core::FilesetId;

use super::{IdentityError, random, sha256};
use crate::limits;

const SCHEME: &str = "mezzo://";

/// An invitation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the server is: 1 to 8 addresses, the first to be tried first.
    pub addresses: Vec<Address>,
    /// The fileset.
    pub fileset: FilesetId,
    /// By which the server is known.
    pub authority: Fingerprint,
    /// By which the invited are known.
    pub secret: Secret,
}

/// A host and a port. The host is a name, an IPv4 address, or an IPv6 address, without brackets here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// SHA-256 of an authority's certificate, in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// What only who has the link knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// A text is no link, or no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a link of mezzo: {0}")]
pub struct NotALink(pub &'static str);

impl Secret {
    /// A new one.
    pub fn random() -> Result<Secret, IdentityError> {
        Ok(Secret(random()?))
    }

    /// The secret that has these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// Its bytes, to be sent to the server that was authenticated.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a server stores of it. The secret has 256 random bits: it can't be found from the hash by trying.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

/// Secrets don't get into logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Fingerprint {
    /// That of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        Fingerprint(sha256(certificate))
    }
}

/// 64 hexadecimal digits, as other programs show fingerprints.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Address {
    /// The port of `host`: a name of letters, digits, dots and dashes, or an IP address without brackets.
    pub fn new(host: &str, port: u16) -> Result<Address, NotALink> {
        let named = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_';
        let is_name = !host.is_empty() && host.len() <= limits::HOST_BYTES && host.bytes().all(named);
        if !is_name && host.parse::<Ipv6Addr>().is_err() {
            return Err(NotALink("a host is a name of letters, digits, dots and dashes, or an IP address"));
        }
        if port == 0 {
            return Err(NotALink("a port is a number from 1 to 65535"));
        }
        Ok(Address { host: host.to_owned(), port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which is not 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for Address {
    type Err = NotALink;

    fn from_str(text: &str) -> Result<Address, NotALink> {
        let (host, port) = text.rsplit_once(':').ok_or(NotALink("an address is HOST:PORT"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if host.contains(':') => host,
            None if !host.contains(':') => host,
            _ => return Err(NotALink("an IPv6 address, and nothing else, stands in brackets")),
        };
        let digits = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits);
        Address::new(host, port.ok_or(NotALink("a port is a number from 1 to 65535"))?)
    }
}

/// The link itself: it carries the secret, and is for who is invited alone.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Link { addresses, fileset, authority, secret } = self;
        let [first, others @ ..] = &addresses[..] else { return Err(fmt::Error) };
        let encode = |bytes: &[u8; 32]| URL_SAFE_NO_PAD.encode(bytes);
        write!(f, "{SCHEME}{first}/{fileset}?ca={}&secret={}", encode(&authority.0), encode(&secret.0))?;
        others.iter().try_for_each(|address| write!(f, "&at={address}"))
    }
}

impl FromStr for Link {
    type Err = NotALink;

    fn from_str(text: &str) -> Result<Link, NotALink> {
        if text.len() > limits::LINK_BYTES {
            return Err(NotALink("it is too long"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NotALink("it does not begin with mezzo://"))?;
        let (address, rest) = rest.split_once('/').ok_or(NotALink("it names no fileset"))?;
        let (fileset, query) = rest.split_once('?').ok_or(NotALink("it is cut off: there is no secret"))?;
        let fileset =
            fileset.parse().map_err(|_| NotALink("the fileset's id is not 32 hexadecimal digits"))?;
        let mut addresses = vec![address.parse()?];
        let [mut authority, mut secret] = [None, None];
        for parameter in query.split('&') {
            let once = match parameter.split_once('=') {
                Some(("ca", value)) => authority.replace(decode(value)?),
                Some(("secret", value)) => secret.replace(decode(value)?),
                Some(("at", _)) if addresses.len() == limits::ADDRESSES => {
                    return Err(NotALink("it has too many addresses"));
                }
                Some(("at", value)) => {
                    addresses.push(value.parse()?);
                    None
                }
                _ => return Err(NotALink("it has a part that is not known: a newer mezzo may have made it")),
            };
            if once.is_some() {
                return Err(NotALink("fingerprint or secret stand in it twice"));
            }
        }
        let authority = Fingerprint(authority.ok_or(NotALink("the server's fingerprint is missing"))?);
        let secret = Secret(secret.ok_or(NotALink("the secret is missing"))?);
        Ok(Link { addresses, fileset, authority, secret })
    }
}

fn decode(text: &str) -> Result<[u8; 32], NotALink> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(NotALink(
        "fingerprint and secret are 43 letters, digits, dashes and underscores: it may be cut off",
    ))
}
