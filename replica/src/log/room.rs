//! Room on the host for what will be appended, so that an operation that was done always gets its record.

use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use std::fs::File;

/// Bytes that are allocated at once.
pub(super) const STEP_BYTES: u64 = 4 << 20;

/// Bytes that `append` keeps allocated ahead, as long as the host has them: most records need less by far.
pub(super) const RESERVE_BYTES: u64 = 1 << 20;

/// How far a segment has blocks on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Up to this byte.
    Until(u64),
    /// Not known: the host can't allocate ahead, so that an append may still find it full.
    Unknown,
}

impl Room {
    /// Makes sure that `file` has blocks for all bytes up to `end`. The file's size stays.
    pub fn reach(&mut self, file: &File, end: u64) -> io::Result<()> {
        let Room::Until(start) = *self else { return Ok(()) };
        if end <= start {
            return Ok(());
        }
        let ahead = end.next_multiple_of(STEP_BYTES);
        *self = match allocate(file, start, ahead) {
            Err(Errno::NOSPC | Errno::DQUOT) => {
                allocate(file, start, end)?;
                Room::Until(end)
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Room::Unknown,
            done => done.map(|()| Room::Until(ahead))?,
        };
        Ok(())
    }

    /// Notes that blocks behind byte `size` were given back.
    pub fn shrink(&mut self, size: u64) {
        if let Room::Until(end) = self {
            *end = size;
        }
    }
}

fn allocate(file: &File, start: u64, end: u64) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, start, end - start) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
