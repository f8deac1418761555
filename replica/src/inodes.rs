//! Which inodes new objects have, until the index has it on disk: the log can't tell, and after a kill an object that was
//! moved meanwhile would not be known again.
//!
//! Entries are appended, and the file is emptied whenever the index is durable. Each entry: length of what follows but the
//! checksum (1 byte), object (16), inode (8), born (8 and 4), handle, CRC32C of all before (4). Numbers are little-endian. The
//! first entry that is not whole ends the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use mezzo_core::{ObjectId, Origin, Recno, ReplicaId, Time};

use crate::host::{Handle, HostId};

/// Bytes before the handle.
const FIXED: usize = 16 + 8 + 12;

/// The file, of a replica that is in use. Only who holds the order appends.
#[derive(Debug)]
pub(crate) struct Inodes {
    file: File,
    end: AtomicU64,
}

impl Inodes {
    /// Opens the file, or makes it, and reads what is in it.
    pub fn open(path: &Path) -> io::Result<(Inodes, Vec<(ObjectId, HostId)>)> {
        let file = File::options().create(true).read(true).write(true).truncate(false).open(path)?;
        let bytes = std::fs::read(path)?;
        let (known, end) = read(&bytes);
        file.set_len(end as u64)?;
        Ok((Inodes { file, end: AtomicU64::new(end as u64) }, known))
    }

    /// Notes which inode an object has. Where the host has no room for that, it is not noted: the object was made by then, and
    /// the note is needed only for one that is moved after a kill.
    pub fn note(&self, object: ObjectId, host: &HostId) {
        let bytes = write(object, host);
        let at = self.end.load(Ordering::Relaxed);
        if self.file.write_all_at(&bytes, at).is_ok() {
            self.end.store(at + bytes.len() as u64, Ordering::Relaxed);
        }
    }

    /// Bytes noted so far: what [`Inodes::forget`] may drop, once the index has all of it on disk.
    pub fn noted(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Forgets everything, unless more was noted than `noted`. The caller holds the order.
    pub fn forget(&self, noted: u64) -> io::Result<()> {
        if self.noted() == noted {
            self.file.set_len(0)?;
            self.end.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// An entry's bytes.
pub(crate) fn write(object: ObjectId, host: &HostId) -> Vec<u8> {
    let handle = host.handle.as_bytes();
    let mut bytes = Vec::with_capacity(1 + FIXED + handle.len() + 4);
    bytes.push((FIXED + handle.len()) as u8);
    bytes.extend_from_slice(&object.0.replica.0.to_le_bytes());
    bytes.extend_from_slice(&object.0.recno.0.to_le_bytes());
    bytes.extend_from_slice(&host.inode.to_le_bytes());
    bytes.extend_from_slice(&host.born.seconds.to_le_bytes());
    bytes.extend_from_slice(&host.born.nanoseconds.to_le_bytes());
    bytes.extend_from_slice(handle);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The whole entries, and where they end.
pub(crate) fn read(bytes: &[u8]) -> (Vec<(ObjectId, HostId)>, usize) {
    let mut known = Vec::new();
    let mut at = 0;
    while let Some((entry, length)) = read_entry(&bytes[at..]) {
        known.push(entry);
        at += length;
    }
    (known, at)
}

fn read_entry(bytes: &[u8]) -> Option<((ObjectId, HostId), usize)> {
    let end = 1 + usize::from(*bytes.first()?);
    let (body, checksum) = (bytes.get(..end)?, bytes.get(end..end + 4)?);
    if crc32c::crc32c(body).to_le_bytes() != *checksum || end < 1 + FIXED {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let object = ObjectId(Origin::new(ReplicaId(number(1)?), Recno(number(9)?)));
    let nanoseconds = u32::from_le_bytes(body.get(33..37)?.try_into().ok()?);
    let born = Time::new(number(25)? as i64, nanoseconds);
    let host = HostId { inode: number(17)?, born, handle: Handle::from_bytes(body.get(37..)?)? };
    Some(((object, host), end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> (ObjectId, HostId) {
        let handle = Handle::from_bytes(&[1, 0, 0, 0, 9, 8, 7, number as u8]).unwrap();
        let host = HostId { inode: number << 33, born: Time::new(-4, 999), handle };
        (ObjectId(Origin::new(ReplicaId(u64::MAX), Recno(number))), host)
    }

    #[test]
    fn what_is_noted_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inodes");
        let (inodes, known) = Inodes::open(&path).unwrap();
        assert!(known.is_empty());
        let all: Vec<_> = (1..5).map(entry).collect();
        all.iter().for_each(|(object, host)| inodes.note(*object, host));
        assert_eq!(Inodes::open(&path).unwrap().1, all);
        let noted = inodes.noted();
        inodes.note(entry(9).0, &entry(9).1);
        inodes.forget(noted).unwrap();
        assert_eq!(Inodes::open(&path).unwrap().1.len(), 5, "the last one came too late to be forgotten");
        inodes.forget(inodes.noted()).unwrap();
        assert!(Inodes::open(&path).unwrap().1.is_empty());
    }

    #[test]
    fn a_torn_or_damaged_entry_ends_it() {
        let bytes: Vec<u8> = (1..4).flat_map(|number| write(entry(number).0, &entry(number).1)).collect();
        let one = bytes.len() / 3;
        for at in 0..bytes.len() {
            assert_eq!(read(&bytes[..at]).0.len(), at / one, "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged).0.len(), at / one, "damaged at {at}");
        }
    }
}
