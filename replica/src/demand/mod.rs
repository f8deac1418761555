//! Data on demand: files whose bytes are not here have them brought when somebody opens them, or before.
//!
//! Bytes come from an [`Upstream`] into a partial file (`partial`), which outlives a cut and a restart, and go from there into
//! the object's own inode (`fill`), whose marks say until the very end that it has none. Who waits for them is in a queue
//! (`queue`): neither the order nor a thread that serves users waits. What is pinned (`pins`) is brought beforehand, and what
//! others have can be given up (`evict`), by command or to keep within a limit (`cache`).

mod cache;
mod evict;
mod evictions;
mod fill;
pub(crate) mod partial;
mod pins;
mod queue;
mod stop;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use mezzo_core::{DataVersion, Digest, ObjectId};

use crate::Error;
use crate::host::xattr;
use crate::index::Lacking;
use crate::replica::Replica;

pub use cache::CachePolicy;
pub use evict::{Evicted, Refused};
pub(crate) use evictions::Evictions;
pub(crate) use fill::{Put, is_whole};
pub(crate) use pins::Pins;
pub use pins::{PinError, Pinned};
pub(crate) use queue::Demand;
pub use queue::{Fetching, Waiter};
pub use stop::Stop;

/// Where a replica's data is besides: its server, or another replica.
///
/// Whoever knows the way sets it ([`Replica::set_upstream`]), and leaves it there while there is no connection: a fetch
/// then fails with [`FetchError::Offline`], at once.
pub trait Upstream: Send + Sync {
    /// Brings one version into `wanted.to`, which has all its bytes afterwards and no more, each of them verified as far as
    /// that can be done. Called on a thread of its own, by several at a time for different versions. Returns soon after
    /// `wanted.stop` says so; what was brought by then may stay.
    fn fetch(&self, wanted: &Wanted<'_>) -> Result<(), FetchError>;

    /// Whether this version was acknowledged there: it can be had again at any later time. Answered without asking there, also
    /// offline.
    fn is_safe_to_evict(&self, object: ObjectId, version: DataVersion) -> bool;

    /// What it is, in words for people.
    fn describe(&self) -> String;
}

/// A version that is to be brought.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Whose data.
    pub object: ObjectId,
    /// Which.
    pub version: DataVersion,
    /// Its bytes.
    pub size: u64,
    /// Its digest, where it is known.
    pub digest: Option<Digest>,
    /// Open for reading and writing. Empty, or what an earlier fetch of the same version left: it may have any length, holes, and
    /// after a power loss bytes that nobody wrote, so that none of it is to be believed unseen.
    pub to: BorrowedFd<'a>,
    /// Whether an earlier fetch left something in `to`.
    pub is_partial: bool,
    /// Who waits.
    pub urgency: Urgency,
    /// Whether nobody does any more.
    pub stop: &'a Stop,
}

/// Who waits for a fetch, when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody's system call.
    Open,
    /// Nobody.
    Background,
}

/// Bytes did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There never was a place that they could come from.
    #[error("there is no other replica that it could come from")]
    NoUpstream,
    /// There is no connection.
    #[error("offline")]
    Offline,
    /// They are not had there any more, as newer ones were made, or they never were.
    #[error("they are not to be had any more: {0}")]
    Superseded(String),
    /// There is a connection, and nobody answers.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// There is no room here.
    #[error("there is no room for them: {0}")]
    NoRoom(io::Error),
    /// Nobody waits for them any more.
    #[error("stopped")]
    Stopped,
    /// Something else.
    #[error(transparent)]
    Failed(Error),
}

impl FetchError {
    /// The error number that a system call gives which waited for them.
    pub fn errno(&self) -> i32 {
        match self {
            FetchError::NoUpstream | FetchError::Superseded(_) => libc::ENODATA,
            FetchError::Offline => libc::EHOSTUNREACH,
            FetchError::Unreachable(_) => libc::ETIMEDOUT,
            FetchError::NoRoom(error) => error.raw_os_error().unwrap_or(libc::ENOSPC),
            FetchError::Stopped => libc::EINTR,
            FetchError::Failed(error) => error.errno(),
        }
    }

    /// Whether other files would fare the same now.
    fn is_of_upstream(&self) -> bool {
        matches!(self, FetchError::NoUpstream | FetchError::Offline | FetchError::Unreachable(_))
    }
}

impl<T: Into<Error>> From<T> for FetchError {
    fn from(error: T) -> FetchError {
        match error.into() {
            Error::Host(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                FetchError::NoRoom(error)
            }
            error => FetchError::Failed(error),
        }
    }
}

/// What is being brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Fetches that are under way.
    pub running: u64,
    /// Files that somebody waits for.
    pub awaited: u64,
}

impl Replica {
    /// Sets where data is besides, or that it is nowhere.
    pub fn set_upstream(&self, upstream: Option<Arc<dyn Upstream>>) {
        self.demand.set_upstream(upstream);
    }

    /// Where data is besides.
    pub fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        self.demand.upstream()
    }

    /// What is being brought now.
    pub fn fetching(&self) -> Activity {
        self.demand.activity()
    }

    /// Whether the object is a file whose bytes are not here.
    pub fn is_absent(&self, object: ObjectId) -> Result<bool, Error> {
        Ok(self.index.entry(object)?.is_some_and(|entry| entry.absent))
    }
}

/// What the marks say that a file lacks, which has one.
pub(crate) fn lacking(fd: BorrowedFd<'_>) -> Lacking {
    if xattr::is_absent(fd) { Lacking::Absent } else { Lacking::Lost }
}
