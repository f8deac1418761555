//! Everything of mezzo that takes bytes from a disk, a peer, a socket or the kernel, as functions of bytes. They return whatever
//! the bytes are, and panic where something that has to hold does not.
//!
//! `fuzz/` calls them with what a fuzzer makes, and a test with what is in `fuzz/corpus`.

mod history;
mod mend;

use mezzo_core::codec::{Scanner, SegmentHead, decode, encode, record_before};
use mezzo_core::name::escape;
use mezzo_core::tree::Tree;
use mezzo_core::{Name, Origin, Record};
use mezzo_replica::outside as replica;

use history::history;

/// One of them.
pub type Taker = fn(&[u8]);

/// Each of them by its name, which its fuzz target and its corpus have too.
pub const ALL: [(&str, Taker); 18] = [
    ("frame", frame),
    ("segment", segment),
    ("log", log),
    ("shown", shown),
    ("history", history),
    ("names", names),
    ("lml", lml),
    ("inodes", inodes),
    ("entry", replica::entry),
    ("ranges", ranges),
    ("journal", replica::journal),
    ("config", replica::config),
    ("body", replica::body),
    ("events", replica::events),
    ("fuse", fuse),
    ("request", mezzo::outside::request),
    ("answer", mezzo::outside::answer),
    ("mount_line", mezzo::outside::mount_line),
];

/// Runs the one of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, run) = ALL.iter().find(|(known, _)| *known == name).expect("a name of ALL");
    run(bytes);
}

/// One frame, as it is and with its checksums made right.
fn frame(bytes: &[u8]) {
    for bytes in [bytes, &mend::frame(bytes)] {
        let _ = record_before(bytes, bytes.len() as u64);
        if let Ok(record) = decode(bytes) {
            assert_eq!(decode(&written(&record)), Ok(record));
        }
    }
}

/// A segment whose records are applied to a tree, as it is and with its checksums made right.
fn segment(bytes: &[u8]) {
    for bytes in [bytes, &mend::segment(bytes)] {
        if let Ok(head) = SegmentHead::decode(bytes) {
            assert_eq!(SegmentHead::decode(bytes), Ok(head));
        }
        let Ok((_, mut scanner)) = Scanner::segment(bytes) else { continue };
        let mut tree = Tree::new();
        while let Ok(Some(frame)) = scanner.next_frame() {
            let Ok(record) = frame.record() else { continue };
            let before = tree.clone();
            if tree.apply(&record).is_err() {
                assert_eq!(tree, before);
            }
        }
    }
}

/// The same, read as a log.
fn log(bytes: &[u8]) {
    replica::log(bytes);
    replica::log(&mend::segment(bytes));
}

/// A record as commands show it.
fn shown(bytes: &[u8]) {
    if let Ok(record) = decode(&mend::frame(bytes)) {
        mezzo::outside::shown(&record);
    }
}

/// Names, and ids in names.
fn names(bytes: &[u8]) {
    if let Ok(name) = Name::new(bytes) {
        assert!(name.as_bytes() == bytes && !bytes.iter().any(|b| matches!(b, 0 | b'/')));
    }
    assert!(!escape(bytes).chars().any(char::is_control));
    let origin = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Origin>().ok());
    if let Some(origin) = origin {
        assert_eq!(origin.to_string().parse(), Ok(origin));
    }
}

/// The LML, as it is and with its checksum made right.
fn lml(bytes: &[u8]) {
    replica::lml(bytes);
    replica::lml(&mend::lml(bytes));
}

/// The inodes of new objects, as they are and with their checksums made right.
fn inodes(bytes: &[u8]) {
    replica::inodes(bytes);
    replica::inodes(&mend::inodes(bytes));
}

/// A version that is kept by ranges, as it is and with its checksums made right.
fn ranges(bytes: &[u8]) {
    replica::ranges(bytes);
    replica::ranges(&mend::ranges(bytes));
}

/// A message of the kernel, and the same with its length made right.
fn fuse(bytes: &[u8]) {
    for bytes in [bytes, &mend::fuse(bytes)] {
        for setxattr_ext in [false, true] {
            if let Ok(request) = mezzo_fuse::Request::parse(bytes, setxattr_ext) {
                let _ = format!("{request:?}");
            }
        }
    }
}

fn written(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(record, &mut bytes).expect("what was read can be written");
    bytes
}
