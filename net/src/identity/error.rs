//! Why an identity can't be made, read or used.

use std::io;
use std::path::PathBuf;

use mezzo_core::FilesetId;

use super::{ClientId, Refusal};
use crate::frame::FrameError;

/// An operation on an identity failed; what is stored is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A system call failed.
    #[error("could not {operation} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// Another process has the directory.
    #[error("{} is in use: process {holder} has it open", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The process that holds it, as far as it can be told; else 0.
        holder: u32,
    },
    /// Others than the owner can get at it.
    #[error("{} holds secrets and others may use it: mode {mode:03o}, owner {owner} (chmod go= and chown make it private)", path.display())]
    NotPrivate {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner, who is not who asks, or is root.
        owner: u32,
    },
    /// Something is missing, or is no identity at all. Nothing is made anew in its place: those who trust it would be lost.
    #[error("{} can't be used as an identity: {why}", path.display())]
    Incomplete {
        /// The state directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A stored file is not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is an identity already.
    #[error("{} holds the identity of an enrolled client already", .0.display())]
    Enrolled(PathBuf),
    /// A limit is reached.
    #[error("no more than {limit} {what} can be stored")]
    Full {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A certificate can't be made or used.
    #[error("could not {operation}: {cause}")]
    Certificate {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        cause: String,
    },
    /// No client has this id.
    #[error("there is no client {0}")]
    NoClient(ClientId),
    /// An invitation that makes no sense.
    #[error("could not invite: {0}")]
    Invitation(&'static str),
    /// The system gives no random numbers.
    #[error("could not get random numbers from the system")]
    NoRandomness,
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(Refusal),
    /// The server could not be reached, or one of both sides did not trust the other.
    #[error("could not connect to {address}: {cause}")]
    Connect {
        /// The server's address.
        address: String,
        /// Why.
        cause: String,
    },
    /// The peer was too slow, or said what makes no sense.
    #[error("could not enrol with {address}: {cause}")]
    Exchange {
        /// The peer's address.
        address: String,
        /// Why.
        cause: String,
    },
    /// A frame of the enrolment failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Why a peer may not use a fileset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// It has no certificate.
    #[error("no certificate was shown: only enrolment is possible without one")]
    Unknown,
    /// The registry does not have it.
    #[error("client {0} is not in the registry of this server")]
    NoClient(ClientId),
    /// It was revoked.
    #[error("client {0} was revoked")]
    Revoked(ClientId),
    /// It is enrolled for another fileset.
    #[error("client {client} was invited to fileset {invited} and not to {asked}")]
    OtherFileset {
        /// The client.
        client: ClientId,
        /// What it may use.
        invited: FilesetId,
        /// What it asks for.
        asked: FilesetId,
    },
}
