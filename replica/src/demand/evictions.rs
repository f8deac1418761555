//! Which files were evicted since the index was on disk: one that has its bytes again after a kill has another ctime than the
//! index knows, and was not changed.
//!
//! Entries are appended, and the file is emptied whenever the index is durable. Each entry: object (16 bytes), CRC32C of that (4).
//! Numbers are little-endian. The first entry that is not whole ends the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use mezzo_core::{ObjectId, Origin, Recno, ReplicaId};

/// Bytes of an entry.
const ENTRY: usize = 20;

/// The file, of a replica that is in use. Only who holds the order appends.
#[derive(Debug)]
pub(crate) struct Evictions {
    file: File,
    end: AtomicU64,
}

impl Evictions {
    /// Opens the file, or makes it, and reads what is in it.
    pub fn open(path: &Path) -> io::Result<(Evictions, Vec<ObjectId>)> {
        let file = File::options().create(true).read(true).write(true).truncate(false).open(path)?;
        let evicted = read(&std::fs::read(path)?);
        let end = (evicted.len() * ENTRY) as u64;
        file.set_len(end)?;
        Ok((Evictions { file, end: AtomicU64::new(end) }, evicted))
    }

    /// Notes that an object is about to be evicted. Where the host has no room for that, it is not noted: then a kill makes a
    /// record of data that did not change.
    pub fn note(&self, object: ObjectId) {
        let at = self.noted();
        if self.file.write_all_at(&write(object), at).is_ok() {
            self.end.store(at + ENTRY as u64, Ordering::Relaxed);
        }
    }

    /// Bytes noted so far: what [`Evictions::forget`] may drop, once the index has all of it on disk.
    pub fn noted(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Forgets everything, unless more was noted than `noted`. The caller holds the order.
    pub fn forget(&self, noted: u64) -> io::Result<()> {
        if self.noted() == noted && noted > 0 {
            self.file.set_len(0)?;
            self.end.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn write(object: ObjectId) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..8].copy_from_slice(&object.0.replica.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&object.0.recno.0.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Vec<ObjectId> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
    let object = |entry: &[u8]| {
        let object = ObjectId(Origin::new(ReplicaId(number(&entry[..8])), Recno(number(&entry[8..16]))));
        (write(object) == entry).then_some(object)
    };
    bytes.chunks_exact(ENTRY).map_while(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_up_to_what_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evicted");
        let (evictions, evicted) = Evictions::open(&path).unwrap();
        assert_eq!(evicted, []);
        let all: Vec<_> = (1..5).map(|n| ObjectId(Origin::new(ReplicaId(u64::MAX - n), Recno(n)))).collect();
        all.iter().for_each(|object| evictions.note(*object));
        assert_eq!(Evictions::open(&path).unwrap().1, all);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), all[..at / ENTRY], "damaged at {at}");
            assert_eq!(read(&bytes[..at]), all[..at / ENTRY], "cut at {at}");
        }
        let noted = evictions.noted();
        evictions.note(all[0]);
        evictions.forget(noted).unwrap();
        assert_eq!(Evictions::open(&path).unwrap().1.len(), 5, "the last one came too late to be forgotten");
        evictions.forget(evictions.noted()).unwrap();
        assert_eq!(Evictions::open(&path).unwrap().1, []);
    }
}
