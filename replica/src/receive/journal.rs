//! What is being received, noted before it begins and removed when it is done: a checksum, then the records as the log has
//! them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::Record;
use mezzo_core::codec::{Frame, encode};
use rustix::fs::{AtFlags, Mode, OFlags};

const NAME: &str = "receiving";
const UNFINISHED: &str = "receiving.new";

/// The file, as long as records are being received.
pub(super) struct Journal(OwnedFd);

impl Journal {
    /// Notes what is about to be received.
    pub fn begin(own: BorrowedFd<'_>, records: &[Record]) -> io::Result<Journal> {
        let mut bytes = vec![0; 4];
        for record in records {
            encode(record, &mut bytes)
                .map_err(|refused| io::Error::new(io::ErrorKind::InvalidInput, refused))?;
        }
        let sum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(own, UNFINISHED, flags, Mode::from_bits_retain(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(&bytes)?;
        file.sync_data()?;
        rustix::fs::renameat(own, UNFINISHED, own, NAME)?;
        rustix::fs::fsync(own)?;
        Ok(Journal(own.try_clone_to_owned()?))
    }

    /// What was being received; `None` where nothing was.
    pub fn open(own: BorrowedFd<'_>) -> io::Result<Option<(Journal, Vec<Record>)>> {
        let file = match rustix::fs::openat(own, NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        std::fs::File::from(file).read_to_end(&mut bytes)?;
        let records = read(&bytes).unwrap_or_default();
        Ok(Some((Journal(own.try_clone_to_owned()?), records)))
    }

    /// Everything was received, or will not be.
    pub fn end(self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.0.as_fd(), NAME, AtFlags::empty())?)
    }
}

/// The records, where the file is whole: it has its name only then.
fn read(bytes: &[u8]) -> Option<Vec<Record>> {
    let (sum, frames) = bytes.split_at_checked(4)?;
    if crc32c::crc32c(frames).to_le_bytes() != sum {
        return None;
    }
    let (mut records, mut at) = (Vec::new(), 0);
    while at < frames.len() {
        let frame = Frame::read(&frames[at..], at as u64).ok()?;
        at += frame.head.length;
        records.push(frame.record().ok()?);
    }
    Some(records)
}
