//! Why an operation on a replica failed.

use std::io;

use crate::fileset::FilesetError;
use crate::index::StoreError;
use crate::log::LogError;

/// An operation on a replica failed; tree and log are as they were before it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused, with the error that the caller should see.
    #[error(transparent)]
    Host(#[from] io::Error),
    /// The log can't be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index can't be read or written.
    #[error(transparent)]
    Index(#[from] StoreError),
    /// The fileset can't be opened.
    #[error(transparent)]
    Fileset(#[from] FilesetError),
    /// An earlier change was done in the tree and could not be recorded: nothing is changed any more.
    #[error("the fileset takes no changes, because the log could not be written: {0}")]
    Broken(String),
    /// An undo can't go on. What it took back so far is recorded.
    #[error("could not undo: {0}")]
    Undo(String),
    /// The use has ended.
    #[error("the fileset is closed")]
    Closed,
    /// There is no object with this id any more.
    #[error("the object is gone")]
    Gone,
}

impl Error {
    /// The error number that a system call would give.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Host(error) => error.raw_os_error().unwrap_or(libc::EIO),
            Error::Log(LogError::Io { cause, .. }) => cause.raw_os_error().unwrap_or(libc::EIO),
            Error::Log(_) => libc::EIO,
            Error::Index(_) | Error::Fileset(_) | Error::Undo(_) => libc::EIO,
            Error::Broken(_) | Error::Closed => libc::EROFS,
            Error::Gone => libc::ESTALE,
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Error {
        Error::Host(errno.into())
    }
}

/// The host's refusal `errno`, made here.
pub(crate) fn refused(errno: i32) -> Error {
    Error::Host(io::Error::from_raw_os_error(errno))
}
