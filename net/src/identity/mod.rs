//! Who is who between a server and its clients: a certificate authority for each server, invitations that are good once,
//! and the registry of those who came.
//!
//! `docs/security.md` says who is authenticated by what, and what is stored where.

mod authority;
mod client;
mod directory;
mod enrolment;
mod error;
mod link;
mod registry;
mod server;
mod tls;

use std::fmt;
use std::str::FromStr;

pub use client::{ClientIdentity, PendingClient};
pub use enrolment::{NotAMessage, Refusal};
pub use error::{IdentityError, NotAdmitted};
pub use link::{Address, Fingerprint, Link, NotALink, Secret};
pub use registry::{Client, Invitation};
pub use rustls::time_provider::{DefaultTimeProvider as SystemClock, TimeProvider as Clock};
pub use server::{Answered, Refused, ServerIdentity};
pub use tls::explain;

/// A client of one server: a random number that is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a client may do with a fileset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Rights {
    /// Receive records and data.
    #[serde(rename = "read")]
    Read,
    /// Send them, too.
    #[serde(rename = "read-write")]
    ReadWrite,
}

/// Who is at the other end of a connection that a server accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client with a certificate of this server's authority; [`ServerIdentity::admit`] says whether it may use a fileset.
    Client(ClientId),
    /// Somebody without a certificate, who may ask to be enrolled, and nothing else.
    Unknown,
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ClientId {
    type Err = mezzo_core::id::NotAnId;

    fn from_str(text: &str) -> Result<ClientId, Self::Err> {
        let number = text.parse::<mezzo_core::ReplicaId>()?.0;
        if number == 0 { Err(mezzo_core::id::NotAnId) } else { Ok(ClientId(number)) }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rights::Read => "read",
            Rights::ReadWrite => "read-write",
        })
    }
}

/// SHA-256.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(random.map_err(|_| IdentityError::NoRandomness)?.expose())
}
