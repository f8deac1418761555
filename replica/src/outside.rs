//! Every parser of this crate whose bytes come from elsewhere: files of a fileset that somebody may have changed, and the
//! kernel's events. For those who throw bytes at them. Each asserts what has to hold of whatever it takes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use mezzo_core::{ObjectId, Recno, ReplicaId};
use rustix::fs::MemfdFlags;

use crate::attic::ranges;
use crate::body::Body;
use crate::fileset::Config;
use crate::host;
use crate::index::Entry;
use crate::log::Reader;
use crate::undo::journal::Work;
use crate::{inodes, lml};

/// Records that a journal's log has.
const RECORDS: u64 = 10_000;

/// Bytes of a file that ranges are put into.
const SIZE: u64 = 1 << 20;

/// A log of one segment, read in both directions.
pub fn log(bytes: &[u8]) {
    let file = in_memory(bytes);
    let path = host::proc_path(file.as_fd()).into_string().expect("a path of digits");
    let Ok(reader) = Reader::open(path.as_ref()) else { return };
    let forwards: Vec<_> = reader.from(Recno(1)).map_while(Result::ok).collect();
    assert!(forwards.is_sorted_by(|a, b| a.recno < b.recno && a.recno == b.previous));
    let backwards: Vec<_> = reader.backwards(Recno(u64::MAX)).map_while(Result::ok).collect();
    assert!(backwards.is_sorted_by(|a, b| a.recno > b.recno && a.previous == b.recno));
    if let Some(last) = forwards.last() {
        assert_eq!(reader.get(last.recno).ok().flatten().as_ref(), Some(last));
    }
}

/// The LML, also as if it were of this boot and this replica.
pub fn lml(bytes: &[u8]) {
    let own = |range| bytes.get::<std::ops::Range<usize>>(range).unwrap_or_default();
    let boot = own(8..24).try_into().unwrap_or_default();
    let replica = own(24..32).try_into().map_or(0, u64::from_le_bytes);
    lml::in_flight(bytes, ReplicaId(replica), boot);
    lml::in_flight(bytes, ReplicaId(7), [7; 16]);
}

/// The inodes of new objects.
pub fn inodes(bytes: &[u8]) {
    let (known, end) = inodes::read(bytes);
    let written: Vec<u8> = known.iter().flat_map(|(object, host)| inodes::write(*object, host)).collect();
    assert_eq!(written, bytes[..end]);
}

/// An object's entry in the index.
pub fn entry(bytes: &[u8]) {
    if let Some(entry) = Entry::from_bytes(ObjectId::ROOT, bytes) {
        assert_eq!(Entry::from_bytes(ObjectId::ROOT, &entry.to_bytes()), Some(entry));
    }
}

/// A version that the attic keeps by ranges.
pub fn ranges(bytes: &[u8]) {
    let (file, to) = (in_memory(bytes), in_memory(&[]));
    let head = ranges::Head::read(&file).expect("a file in memory can be read");
    let whole = ranges::restore_from(&file, to.as_fd(), SIZE).expect("a file in memory can be written");
    assert!(head.is_some() || !whole, "ranges without a head were believed");
    assert!(to.metadata().expect("it is open").len() <= SIZE, "more was written than the version has");
}

/// The journal of an undo.
pub fn journal(bytes: &[u8]) {
    if let Ok(work) = Work::parse(bytes, Recno(RECORDS)) {
        assert!(work.records.is_sorted_by(|a, b| a > b) && work.records.len() as u64 <= RECORDS + 1);
    }
}

/// `fileset.toml`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = Config::parse(text) {
        let written = config.text().expect("what was read can be written");
        assert_eq!(Config::parse(&written), Ok(config));
    }
}

/// `body`.
pub fn body(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Body::parse(text);
}

/// What the host tells of changes.
pub fn events(bytes: &[u8]) {
    host::events(bytes).map_while(Result::ok).for_each(|event| {
        let _ = event.about();
    });
}

fn in_memory(bytes: &[u8]) -> File {
    let file = rustix::fs::memfd_create(c"bytes", MemfdFlags::CLOEXEC);
    let file = File::from(file.expect("memory has room for a file"));
    file.write_all_at(bytes, 0).expect("memory has room for the bytes");
    file
}
