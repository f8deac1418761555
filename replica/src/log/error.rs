//! What can go wrong with a log on disk.

use std::io;
use std::path::{Path, PathBuf};

use mezzo_core::Recno;
use mezzo_core::codec::{Break, Cause, DecodeError, OutOfOrder, Refused, SegmentError};

/// A log can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is none.
    #[error("there is no log in {}", .0.display())]
    None(PathBuf),
    /// There is one already.
    #[error("there is a log in {} already", .0.display())]
    Exists(PathBuf),
    /// A segment holds what no crash leaves. Nothing behind it is read.
    #[error("the log {} is damaged at byte {offset}: {cause}{}", path.display(), told(*next_valid))]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        cause: Damage,
        /// Where in it a later record begins that is whole.
        next_valid: Option<u64>,
    },
    /// A record is whole, and this program does not understand it.
    #[error("could not read record {recno}, at byte {offset} of {}: {cause}", path.display())]
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The record's number.
        recno: Recno,
        /// What it has that is not understood.
        cause: DecodeError,
    },
    /// A later version of mezzo has written to the log. It can be read, but not written.
    #[error("{} was written by a later version of mezzo (format 2.{minor}), so it can only be read", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its minor version.
        minor: u16,
    },
    /// A record breaks a rule or is beyond a limit.
    #[error("record {recno} can't be written: {cause}")]
    Refused {
        /// The record's number.
        recno: Recno,
        /// Why.
        cause: Refused,
    },
    /// A record to be written does not follow the last one.
    #[error("the record can't be written: {0}")]
    OutOfOrder(#[from] OutOfOrder),
    /// Since a write or a sync failed in a way that could not be taken back, nobody knows what is durable.
    #[error("the log in {} failed earlier, and takes no records until it is opened anew", .0.display())]
    Failed(PathBuf),
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
}

/// What is wrong at a place of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Records, or their order.
    #[error(transparent)]
    Record(#[from] Cause),
    /// More bytes that are no record than a crash can leave.
    #[error("{0} bytes of it are no record")]
    Long(u64),
    /// The head of the segment.
    #[error(transparent)]
    Head(#[from] SegmentError),
    /// The segment was begun for other records than its name says.
    #[error("its head says that it begins with record {found}")]
    Name {
        /// What the head says.
        found: Recno,
    },
    /// The segment is of another fileset than the first one, or of another replica without a new epoch.
    #[error("it is the log of another fileset or replica")]
    Foreign,
    /// The segment does not continue the one before it: one is missing, or was cut.
    #[error("it continues record {told}, and record {last} is the last before it")]
    Gap {
        /// What its head says.
        told: Recno,
        /// What is there.
        last: Recno,
    },
}

impl LogError {
    /// Whether the host has no room left for the log: out of space, or of quota.
    pub fn is_no_room(&self) -> bool {
        let full = [libc::ENOSPC, libc::EDQUOT];
        matches!(self, LogError::Io { cause, .. } if cause.raw_os_error().is_some_and(|e| full.contains(&e)))
    }

    pub(super) fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> LogError {
        move |cause| LogError::Io { operation, path: path.to_owned(), cause: cause.into() }
    }

    pub(super) fn damaged(path: &Path, offset: u64, cause: impl Into<Damage>) -> LogError {
        LogError::Damaged { path: path.to_owned(), offset, cause: cause.into(), next_valid: None }
    }

    /// A break that no crash leaves at this place.
    pub(super) fn broken(path: &Path, found: Break) -> LogError {
        let (offset, cause, next_valid) = match found {
            Break::Torn { offset, cause, .. } => (offset, Cause::Frame(cause), None),
            Break::Damaged { offset, cause, next_valid } => (offset, cause, next_valid),
        };
        LogError::Damaged { path: path.to_owned(), offset, cause: cause.into(), next_valid }
    }
}

fn told(next_valid: Option<u64>) -> String {
    next_valid.map_or_else(String::new, |offset| format!("; a good record follows at byte {offset}"))
}
