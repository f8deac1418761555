//! The right to change a fileset: one process has it.

use std::io::{self, Read, Seek, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{FilesetError, own_path};

/// How long it is waited for a process that has the fileset open.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Held until dropped, or until the process ends in whichever way.
#[derive(Debug)]
pub struct Lock {
    // The kernel's lock goes with the open file.
    _file: std::fs::File,
}

impl Lock {
    pub(super) fn take(own: BorrowedFd<'_>, path: &Path) -> Result<Lock, FilesetError> {
        let failed = |cause: io::Error| FilesetError::Io { operation: "lock", path: path.to_owned(), cause };
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(own_path(own, "lock"))
            .map_err(failed)?;
        match patiently(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The number is for people; without it they are told all the same.
                let _ = file.read_to_string(&mut text);
                let holder = text.trim().parse().unwrap_or(0);
                return Err(FilesetError::InUse { path: path.to_owned(), holder });
            }
            taken => taken.map_err(io::Error::from).map_err(failed)?,
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", crate::host::process()).map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

/// Tries again for a while: a process that ends, or was killed, lets go of its files in its own time.
fn patiently(mut attempt: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            attempted => return attempted,
        }
    }
}
