//! Files mapped into memory. Each test has processes of its own, since a fork elsewhere would copy its mappings.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::process::Signal;

use crate::common::{Ended, Mounted, Process, ROOT, apart, eventually, kinds, mezzo};

const PAGE: usize = 4096;

/// A file's first pages in memory.
pub struct Mapping {
    start: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn new(file: impl AsFd, bytes: usize, access: ProtFlags, flags: MapFlags) -> Mapping {
        // SAFETY: the kernel chooses a place that nothing else uses.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, flags, file, 0) };
        Mapping { start: start.unwrap().cast(), bytes }
    }

    pub fn readable(file: impl AsFd, bytes: usize) -> Mapping {
        Mapping::new(file, bytes, ProtFlags::READ, MapFlags::SHARED)
    }

    pub fn shared(file: impl AsFd, bytes: usize) -> Mapping {
        Mapping::new(file, bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub fn store(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes);
        // SAFETY: that is in the mapping; where the file is shorter, the process gets a signal.
        bytes
            .iter()
            .enumerate()
            .for_each(|(i, byte)| unsafe { self.start.add(at + i).write_volatile(*byte) });
    }

    pub fn load(&self, at: usize, count: usize) -> Vec<u8> {
        assert!(at + count <= self.bytes);
        // SAFETY: as for a store.
        (0..count).map(|i| unsafe { self.start.add(at + i).read_volatile() }).collect()
    }

    pub fn sync(&self) {
        // SAFETY: the mapping is there.
        unsafe { rustix::mm::msync(self.start.cast(), self.bytes, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is there, and is not used any more.
        unsafe { rustix::mm::munmap(self.start.cast(), self.bytes) }.unwrap();
    }
}

fn file_of(m: &Mounted, name: &str, pages: usize) -> std::path::PathBuf {
    fs::write(m.path(name), vec![b'.'; pages * PAGE]).unwrap();
    m.path(name)
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_store_through_a_shared_mapping_is_seen_by_read_and_recorded() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 2);
    let kinds = m.kinds_of(|| {
        let file = open(&path);
        let mapping = Mapping::shared(&file, 2 * PAGE);
        mapping.store(PAGE - 2, b"stored");
        assert_eq!(&fs::read(&path).unwrap()[PAGE - 3..PAGE + 5], b".stored.");
        file.write_all_at(b"written", 0).unwrap();
        assert_eq!(mapping.load(0, 7), b"written");
        mapping.sync();
        drop(mapping);
    });
    assert_eq!(kinds, ["close"]);
}

#[test]
fn two_processes_share_a_mapping() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let other = Process::start(ROOT, |talk| {
        let mapping = Mapping::shared(open(&path), PAGE);
        talk.go_on();
        talk.wait();
        assert_eq!(mapping.load(100, 4), b"ping");
        mapping.store(100, b"pong");
    });
    other.talk().wait();
    apart(ROOT, || Mapping::shared(open(&path), PAGE).store(100, b"ping"));
    other.talk().go_on();
    other.finish();
    assert_eq!(&fs::read(&path).unwrap()[99..105], b".pong.");
}

#[test]
fn a_store_after_the_last_close_is_recorded() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let process = Process::start(ROOT, |talk| {
        let mapping = Mapping::shared(open(&path), PAGE);
        talk.go_on();
        talk.wait();
        mapping.store(0, b"late");
        drop(mapping);
        talk.go_on();
        talk.wait();
    });
    process.talk().wait();
    let last = m.last();
    process.talk().go_on();
    process.talk().wait();
    eventually("the store is recorded", || !m.records_since(last).is_empty());
    assert_eq!(m.records_since(last)[0].change.kind(), "close");
    process.talk().go_on();
    process.finish();
}

#[test]
fn a_store_after_the_last_close_is_recorded_at_the_unmount_at_the_latest() {
    let mut m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let last = m.last();
    apart(ROOT, || Mapping::shared(open(&path), PAGE).store(0, b"late"));
    m.unmount();
    assert_eq!(kinds(&m.records_since(last)), ["close"]);
}

#[test]
fn a_mapping_keeps_the_mount() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let process = Process::start(ROOT, |talk| {
        let mapping = Mapping::shared(open(&path), PAGE);
        talk.go_on();
        talk.wait();
        mapping.store(0, b"at the very end");
    });
    process.talk().wait();
    let output = mezzo().arg("unmount").arg(m.path("")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    process.talk().go_on();
    process.finish();
}

#[test]
fn a_mapping_is_not_forgotten_when_a_writer_closes_after_it() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let writer = Process::start(ROOT, |talk| {
        let _file = File::options().write(true).open(&path).unwrap();
        talk.go_on();
        talk.wait();
    });
    writer.talk().wait();
    let mapper = Process::start(ROOT, |talk| {
        let mapping = Mapping::shared(open(&path), PAGE);
        talk.go_on();
        talk.wait();
        mapping.store(0, b"late");
        talk.go_on();
        talk.wait();
    });
    mapper.talk().wait();
    writer.talk().go_on();
    writer.finish();
    let last = m.last();
    mapper.talk().go_on();
    mapper.talk().wait();
    eventually("the store is recorded", || !m.records_since(last).is_empty());
    mapper.talk().go_on();
    mapper.finish();
}

#[test]
fn stores_while_others_open_and_close_are_recorded() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let process = Process::start(ROOT, |talk| {
        let mapping = Mapping::shared(open(&path), PAGE);
        for round in 0..3 {
            talk.wait();
            mapping.store(round, b"x");
            talk.go_on();
        }
        talk.wait();
    });
    for _ in 0..3 {
        process.talk().go_on();
        process.talk().wait();
        // Attributes that are set meanwhile must not hide what was stored.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        apart(ROOT, || drop(open(&path)));
    }
    process.talk().go_on();
    process.finish();
    assert_eq!(&fs::read(&path).unwrap()[..4], b"xxx.");
}

#[test]
fn a_private_mapping_changes_nothing() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let kinds = m.kinds_of(|| {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::new(File::open(&path).unwrap(), PAGE, access, MapFlags::PRIVATE);
        mapping.store(0, b"mine alone");
        assert_eq!(mapping.load(0, 4), b"mine");
    });
    assert_eq!(kinds, [""; 0]);
    assert_eq!(&fs::read(&path).unwrap()[..4], b"....");
}

#[test]
fn a_mapping_outlives_the_file_s_last_name() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let kinds = m.kinds_of(|| {
        let mapping = Mapping::shared(open(&path), PAGE);
        fs::remove_file(&path).unwrap();
        mapping.store(0, b"still");
        assert_eq!(mapping.load(0, 6), b"still.");
    });
    assert_eq!(kinds, ["unlink"]);
}

#[test]
fn what_a_truncation_took_from_a_mapping_is_gone() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 2);
    let process = Process::start(ROOT, |_| {
        let file = open(&path);
        let mapping = Mapping::shared(&file, 2 * PAGE);
        mapping.store(PAGE, b"gone");
        file.set_len(10).unwrap();
        assert_eq!(mapping.load(0, 12), b"..........\0\0", "the rest of the last page is zeros");
        file.set_len(2 * PAGE as u64).unwrap();
        assert_eq!(mapping.load(PAGE, 4), [0; 4], "what comes back is a hole");
        file.set_len(PAGE as u64).unwrap();
        mapping.load(PAGE, 1);
        unreachable!("there is nothing");
    });
    assert_eq!(process.end().0, Ended::Killed(Signal::BUS.as_raw()));
    assert_eq!(fs::metadata(path).unwrap().len(), PAGE as u64);
}

#[test]
fn a_store_after_a_copy_of_the_descriptor_was_closed_is_recorded() {
    let m = Mounted::new();
    let path = file_of(&m, "f", 1);
    let kinds = m.kinds_of(|| {
        let file = open(&path);
        let mapping = Mapping::shared(&file, PAGE);
        mapping.store(0, b"first");
        // As a child process that has a copy does at its end.
        drop(file.try_clone().unwrap());
        mapping.store(0, b"second");
    });
    assert_eq!(kinds, ["close", "close"]);
}
