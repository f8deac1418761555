//! What the host can't hold, found out before anything of a record is done: sizes beyond the largest file, and times that it
//! would replace by the nearest that it has without a word.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::record::Displaced;
use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Change, Kind, Time};
use rustix::fs::{Mode, OFlags};

use crate::host::{self, SetTime};

/// Seconds since 1970 that every host can hold: 32 bits with a sign, as in the smallest inodes of ext4. At both ends hosts drop the
/// nanoseconds.
const SECONDS: std::ops::RangeInclusive<i64> = i32::MIN as i64 + 1..=i32::MAX as i64 - 1;

/// Bytes of a file that every host can hold.
const SIZE_BYTES: u64 = i32::MAX as u64;

/// What is known of the host. Whatever is beyond it is tried on a file without a name.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// The largest size that was tried and is held, or need not be tried.
    size: Cell<u64>,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { size: Cell::new(SIZE_BYTES) }
    }
}

impl Bounds {
    /// Makes sure that the file system of the directory `root` can hold what `change` sets. A host without files that have no
    /// name is not asked.
    pub fn check(&self, root: BorrowedFd<'_>, change: &Change) -> io::Result<()> {
        let size = size_of(change).filter(|size| *size > self.size.get());
        let times: Vec<Time> =
            times_of(change).into_iter().filter(|time| !SECONDS.contains(&time.seconds)).collect();
        if size.is_none() && times.is_empty() {
            return Ok(());
        }
        let Some(file) = nameless(root)? else { return Ok(()) };
        if let Some(size) = size {
            host::set_size(file.as_fd(), size)?;
            self.size.set(size);
        }
        times.into_iter().try_for_each(|time| try_time(file.as_fd(), time))
    }
}

/// A file without a name; `None` where the host has no such thing.
fn nameless(root: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(root, c".", flags, Mode::from_bits_retain(0o600)) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => Ok(None),
        file => Ok(Some(file?)),
    }
}

fn try_time(file: BorrowedFd<'_>, time: Time) -> io::Result<()> {
    host::set_times(file, SetTime::Omit, SetTime::To(time))?;
    if host::stat(file)?.attributes.mtime == time {
        return Ok(());
    }
    let Time { seconds, nanoseconds } = time;
    let told = format!("the host has no time {seconds}.{nanoseconds:09} seconds from 1970");
    Err(io::Error::new(io::ErrorKind::InvalidInput, told))
}

/// The size that `change` gives a file.
fn size_of(change: &Change) -> Option<u64> {
    match change {
        Change::Make { state, .. } if state.attributes.kind == Kind::File => Some(state.attributes.size),
        Change::Setattr { attributes, data: Some(_), .. } | Change::Close { attributes, .. } => {
            Some(attributes.after.size)
        }
        Change::UndoOf { change, .. } => size_of(change),
        _ => None,
    }
}

/// The times that `change` sets on the host.
fn times_of(change: &Change) -> Vec<Time> {
    let both = |attributes: &Attributes| vec![attributes.atime, attributes.mtime];
    match change {
        Change::Make { state, parent, .. } => [both(&state.attributes), touched([parent])].concat(),
        Change::Link { parent, .. } | Change::Remove { parent, .. } => touched([parent]),
        Change::Rename { attributes, from_parent, to_parent, displaced, .. } => {
            let mut times = touched([from_parent, to_parent]);
            times.push(attributes.after.mtime);
            if let Displaced::Exchanged { attributes, .. } = displaced {
                times.push(attributes.after.mtime);
            }
            times
        }
        Change::Setattr { attributes, .. } | Change::Close { attributes, .. } => both(&attributes.after),
        Change::UndoOf { change, .. } => times_of(change),
        _ => Vec::new(),
    }
}

fn touched<const N: usize>(directories: [&Step<Times>; N]) -> Vec<Time> {
    directories.map(|times| times.after.mtime).to_vec()
}
