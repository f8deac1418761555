//! Files: opened, read, written, truncated, while names come and go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::Duration;

use mezzo_core::{Change, Record, Time};
use rustix::fs::{Mode, OFlags, openat};

use crate::common::{
    ALICE, Host, Mounted, PATIENCE, Process, ROOT, apart, errno, eventually, kinds, mezzo, succeeds,
};

#[test]
fn a_file_is_read_as_it_was_written() {
    let m = Mounted::new();
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    let kinds = m.kinds_of(|| fs::write(m.path("large"), &bytes).unwrap());
    assert_eq!(kinds, ["create", "close"]);
    assert!(fs::read(m.path("large")).unwrap() == bytes);
    assert!(fs::read(m.host("large")).unwrap() == bytes, "the host holds a plain file");
}

#[test]
fn the_same_on_xfs() {
    let m = Mounted::on(Host::Xfs);
    let kinds = m.kinds_of(|| {
        fs::write(m.path("f"), "1").unwrap();
        fs::create_dir(m.path("d")).unwrap();
        fs::hard_link(m.path("f"), m.path("d/g")).unwrap();
        fs::rename(m.path("f"), m.path("d/h")).unwrap();
        fs::write(m.path("d/g"), "22").unwrap();
        fs::remove_file(m.path("d/h")).unwrap();
    });
    assert_eq!(kinds, ["create", "close", "mkdir", "link", "rename", "setattr", "close", "unlink"]);
    assert_eq!(fs::read_to_string(m.path("d/g")).unwrap(), "22");
}

#[test]
fn a_truncating_open_empties_the_file_and_is_recorded() {
    let m = Mounted::new();
    fs::write(m.path("f"), "bytes").unwrap();
    let reader = File::open(m.path("f")).unwrap();
    let kinds = m.kinds_of(|| drop(OpenOptions::new().write(true).truncate(true).open(m.path("f")).unwrap()));
    assert_eq!(kinds, ["setattr"]);
    assert_eq!(fs::metadata(m.path("f")).unwrap().len(), 0);
    assert_eq!(reader.metadata().unwrap().len(), 0, "also for those who had it open before");
    assert_eq!((&reader).read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(m.kinds_of(|| fs::write(m.path("f"), "again").unwrap()), ["setattr", "close"]);
}

#[test]
fn truncation_by_path_and_by_descriptor() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "0123456789").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.set_len(4).unwrap();
        let short = fs::read(&path).unwrap();
        file.set_len(8).unwrap();
        let long = fs::read(&path).unwrap();
        let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path ends with a NUL.
        let by_path = unsafe { libc::truncate(path.as_ptr(), 3) };
        (short, long, by_path, file.metadata().unwrap().len())
    });
}

#[test]
fn appending_writes_go_to_the_end() {
    let m = Mounted::new();
    let open = || OpenOptions::new().append(true).create(true).open(m.path("log")).unwrap();
    let (mut a, mut b) = (open(), open());
    for round in 0..100 {
        a.write_all(format!("a{round:02}\n").as_bytes()).unwrap();
        b.write_all(format!("b{round:02}\n").as_bytes()).unwrap();
    }
    // As Linux has it, a position makes no difference.
    a.write_all_at(b"end\n", 0).unwrap();
    let expected: String = (0..100).map(|round| format!("a{round:02}\nb{round:02}\n")).collect();
    assert_eq!(fs::read_to_string(m.path("log")).unwrap(), expected + "end\n");
}

#[test]
fn an_exclusive_create_is_refused_where_something_stands() {
    let m = Mounted::new();
    fs::write(m.path("file"), "1").unwrap();
    fs::create_dir(m.path("directory")).unwrap();
    std::os::unix::fs::symlink("nowhere", m.path("dangling")).unwrap();
    let kinds = m.kinds_of(|| {
        for name in ["file", "directory", "dangling"] {
            assert_eq!(errno(File::create_new(m.path(name))), libc::EEXIST, "{name}");
        }
    });
    assert_eq!(kinds, [""; 0]);
    assert_eq!(fs::read_to_string(m.path("file")).unwrap(), "1");
    // Without O_EXCL a dangling link makes what it leads to.
    fs::write(m.path("dangling"), "2").unwrap();
    assert_eq!(fs::read_to_string(m.path("nowhere")).unwrap(), "2");
}

#[test]
fn of_many_exclusive_creates_one_succeeds() {
    let m = Mounted::new();
    for name in ["a", "b", "c", "d", "e"] {
        let made: usize = std::thread::scope(|scope| {
            let create = || usize::from(File::create_new(m.path(name)).is_ok());
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(made, 1);
    }
}

#[test]
fn an_open_unlinked_file_lives_on() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(m.path("f")).unwrap();
        file.write_all_at(b"before", 0).unwrap();
        fs::remove_file(m.path("f")).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.write_all_at(b"after that", 0).unwrap();
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, file.metadata().unwrap().len()), (b"after that", 10));
        file.set_len(3).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777, found.mtime(), found.nlink()), (3, 0o600, 0, 0));
        rustix::fs::fsetxattr(&file, "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
        file.sync_all().unwrap();
        // The name is free for another.
        fs::write(m.path("f"), "new").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
    });
    assert_eq!(
        kinds,
        ["create", "unlink", "create", "close"],
        "what happens to a file without names is not recorded"
    );
}

#[test]
fn an_unlinked_file_is_there_for_every_open() {
    let m = Mounted::new();
    fs::write(m.path("f"), "shared").unwrap();
    let (mut a, b) =
        (File::open(m.path("f")).unwrap(), File::options().write(true).open(m.path("f")).unwrap());
    fs::remove_file(m.path("f")).unwrap();
    b.write_all_at(b"SH", 0).unwrap();
    drop(b);
    let again = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&a)));
    let mut text = String::new();
    a.read_to_string(&mut text).unwrap();
    assert_eq!(text, "SHared");
    text.clear();
    again.unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "SHared", "opened once more through its descriptor");
}

#[test]
fn an_open_file_can_be_renamed() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let kinds = m.kinds_of(|| {
        let mut file = File::create(m.path("a")).unwrap();
        file.write_all(b"one ").unwrap();
        fs::rename(m.path("a"), m.path("d/b")).unwrap();
        file.write_all(b"two").unwrap();
        assert_eq!(fs::read_to_string(m.path("d/b")).unwrap(), "one two");
        assert_eq!(file.metadata().unwrap().ino(), fs::metadata(m.path("d/b")).unwrap().ino());
    });
    assert_eq!(kinds, ["create", "rename", "close"]);
}

#[test]
fn a_rename_over_an_open_file_leaves_the_old_one_to_those_who_have_it() {
    let m = Mounted::new();
    fs::write(m.path("old"), "old bytes").unwrap();
    let mut old = File::options().read(true).write(true).open(m.path("old")).unwrap();
    fs::write(m.path("new"), "new bytes!").unwrap();
    fs::rename(m.path("new"), m.path("old")).unwrap();
    old.seek(SeekFrom::End(0)).unwrap();
    old.write_all(b", written").unwrap();
    old.rewind().unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), old.metadata().unwrap().nlink()), ("old bytes, written", 0));
    assert_eq!(fs::read_to_string(m.path("old")).unwrap(), "new bytes!");
}

#[test]
fn two_writers_at_once_are_both_recorded() {
    let m = Mounted::new();
    fs::write(m.path("f"), [b'.'; 20_000]).unwrap();
    let last = m.last();
    let writer = |byte: u8, from: u64| {
        let path = m.path("f");
        Process::start(ROOT, move |talk| {
            let file = File::options().write(true).open(path).unwrap();
            for at in 0..100 {
                file.write_all_at(&[byte; 100], from + at * 200).unwrap();
            }
            talk.go_on();
            talk.wait();
        })
    };
    let (a, b) = (writer(b'a', 0), writer(b'b', 100));
    a.talk().wait();
    b.talk().wait();
    a.talk().go_on();
    a.finish();
    let closes = stable(&m.records_since(last));
    assert!(!closes.is_empty() && !closes.contains(&true), "somebody may still write: {closes:?}");
    b.talk().go_on();
    b.finish();
    let bytes = fs::read(m.path("f")).unwrap();
    assert!(bytes.chunks(200).all(|chunk| chunk[..100] == [b'a'; 100] && chunk[100..] == [b'b'; 100]));
}

#[test]
fn each_close_after_a_write_is_recorded() {
    let m = Mounted::new();
    fs::write(m.path("f"), "0").unwrap();
    let last = m.last();
    apart(ROOT, || {
        let (a, b) =
            (File::options().write(true).open(m.path("f")), File::options().write(true).open(m.path("f")));
        let (a, b) = (a.unwrap(), b.unwrap());
        a.write_all_at(b"a", 0).unwrap();
        drop(a);
        b.write_all_at(b"b", 1).unwrap();
        drop(b);
    });
    // The kernel tells of the end of the first in its own time. Where that is after the close of the second, a third record
    // settles it.
    let closes = || stable(&m.records_since(last));
    eventually("the last one is stable", || closes().ends_with(&[true]));
    assert!([&[false, true][..], &[false, false, true]].contains(&&closes()[..]), "{:?}", closes());
}

/// Of each close, whether it is stable. There must be nothing but closes.
fn stable(records: &[mezzo_core::Record]) -> Vec<bool> {
    let close = |record: &mezzo_core::Record| match record.change {
        Change::Close { stable, .. } => stable,
        ref other => panic!("{other:?}"),
    };
    records.iter().map(close).collect()
}

#[test]
fn direct_io_reads_and_writes() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let mut block = Aligned([7; 4096]);
        file.write_all_at(&block.0, 8192).unwrap();
        block.0.fill(0);
        file.read_exact_at(&mut block.0, 8192).unwrap();
        assert!(block.0 == [7; 4096]);
        let unaligned = errno(file.write_at(&block.0[1..513], 0));
        (unaligned, fs::read(&path).unwrap())
    });
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

#[test]
fn writing_needs_no_permission_that_the_open_did_not_need() {
    let m = Mounted::new();
    fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    apart(ALICE, || {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o0).open(m.path("f")).unwrap();
        file.write_all_at(b"written", 0).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0);
        assert_eq!(errno(File::open(m.path("f"))), libc::EACCES);
        file.set_permissions(fs::Permissions::from_mode(0o400)).unwrap();
        file.write_all_at(b"W", 0).unwrap();
        assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "Written");
    });
}

#[test]
fn descriptors_allow_what_they_were_opened_for() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), "bytes").unwrap();
        let reading = File::open(dir.join("f")).unwrap();
        let writing = File::options().write(true).open(dir.join("f")).unwrap();
        let path = openat(rustix::fs::CWD, dir.join("f"), OFlags::PATH, Mode::empty()).unwrap();
        let path = File::from(path);
        let directory =
            openat(rustix::fs::CWD, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        [
            errno(reading.write_at(b"1", 0)),
            errno(reading.set_len(1)),
            errno(writing.read_at(&mut [0], 0)),
            errno(path.read_at(&mut [0], 0)),
            errno(path.set_permissions(fs::Permissions::from_mode(0o600))),
            path.metadata().unwrap().len() as i32,
            errno(openat(directory, "f", OFlags::RDONLY, Mode::empty())),
            errno(File::options().write(true).open(dir)),
            errno(openat(rustix::fs::CWD, dir.join("f"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())),
            errno(fs::read(dir.join("f/below"))),
            errno(fs::read(dir.join("absent"))),
        ]
    });
}

#[test]
fn fsync_records_what_was_written() {
    let m = Mounted::new();
    let path = m.path("f");
    let last = m.last();
    let writer = Process::start(ROOT, |talk| {
        let file = File::create(path).unwrap();
        for sync in [File::sync_all, File::sync_data] {
            file.write_at(b"more", file.metadata().unwrap().len()).unwrap();
            sync(&file).unwrap();
            talk.go_on();
            talk.wait();
        }
    });
    for closes in 1..=2 {
        writer.talk().wait();
        assert_eq!(kinds(&m.records_since(last)), [&["create"][..], &["close"; 2][..closes]].concat());
        writer.talk().go_on();
    }
    writer.finish();
    let stable: Vec<bool> = m.records_since(last).iter().filter_map(is_stable).collect();
    assert_eq!(stable, [false, false, true], "the last close finds nothing new, and settles it");
}

/// Whether a close was recorded as a stable one; `None` for other records.
fn is_stable(record: &Record) -> Option<bool> {
    match record.change {
        Change::Close { stable, .. } => Some(stable),
        _ => None,
    }
}

/// A fileset in which files that stay open are recorded after a second.
fn impatient() -> Mounted {
    let mut m = Mounted::unmounted(Host::Ext4, |_| {});
    let path = m.tree().join(".mezzo/fileset.toml");
    let text = fs::read_to_string(&path).unwrap();
    let edited = text.replace("unstable_seconds = 60", "unstable_seconds = 1");
    assert_ne!(edited, text);
    fs::write(path, edited).unwrap();
    m.mount();
    m
}

#[test]
fn a_file_that_stays_open_is_recorded_after_a_while() {
    let m = impatient();
    let last = m.last();
    let closes = || -> Vec<bool> { m.records_since(last).iter().filter_map(is_stable).collect() };
    let writer = Process::start(ROOT, |talk| {
        let file = File::create(m.path("f")).unwrap();
        file.write_at(b"1", 0).unwrap();
        talk.wait();
        file.write_at(b"23", 1).unwrap();
        talk.wait();
    });
    eventually("it is recorded", || closes() == [false]);
    writer.talk().go_on();
    eventually("it is recorded again", || closes() == [false, false]);
    assert!(m.records().iter().rev().take(2).all(|record| *record.who.program == *b"mezzo"));
    writer.talk().go_on();
    writer.finish();
    eventually("the last close settles it", || closes() == [false, false, true]);
}

#[test]
fn a_file_that_is_written_all_the_time_is_recorded_less_and_less_often() {
    let m = impatient();
    let last = m.last();
    let closes = |path: &str| -> Vec<Time> {
        let of =
            |record: &Record| is_stable(record).is_some() && record.change.path() == Some(path.as_bytes());
        m.records_since(last).into_iter().filter(of).map(|record| record.time).collect()
    };
    let writer = Process::start(ROOT, |talk| {
        let file = File::create(m.path("f")).unwrap();
        let mut at = 0;
        while !talk.is_told() {
            file.write_at(b"more", at).unwrap();
            at += 4;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    eventually("it is recorded some times", || closes("f").len() >= 3);
    let times = closes("f");
    let apart = |pair: &[Time]| pair[1].seconds - pair[0].seconds;
    assert!(apart(&times[1..3]) > apart(&times[..2]), "{times:?}");
    writer.talk().go_on();
    writer.finish();
}

#[test]
fn a_file_that_is_open_and_not_written_makes_no_record() {
    let m = impatient();
    fs::write(m.path("open"), "1").unwrap();
    let last = m.last();
    let kept = File::options().write(true).open(m.path("open")).unwrap();
    let writer = File::create(m.path("f")).unwrap();
    // Both are looked at in the same ticks.
    for round in 1..=2 {
        writer.write_at(b"1", round).unwrap();
        eventually("the other is recorded", || kinds(&m.records_since(last)).len() as u64 == 1 + round);
    }
    drop(kept);
    assert_eq!(kinds(&m.records_since(last)), ["create", "close", "close"]);
}

#[test]
fn a_killed_writer_s_data_is_recorded() {
    let m = Mounted::new();
    let path = m.path("f");
    let writer = Process::start(ROOT, |talk| {
        let mut file = File::create(path).unwrap();
        file.write_all(b"as far as it came").unwrap();
        talk.go_on();
        std::thread::sleep(PATIENCE);
    });
    writer.talk().wait();
    let last = m.last();
    drop(writer);
    eventually("its file is closed", || !m.records_since(last).is_empty());
    assert_eq!(stable(&m.records_since(last)), [true]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "as far as it came");
}

#[test]
fn a_file_may_be_larger_than_the_host_s_disk() {
    let m = Mounted::new();
    let file = File::create(m.path("sparse")).unwrap();
    file.write_all_at(b"end", 1 << 40).unwrap();
    file.write_all_at(b"middle", 5 << 30).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!(found.len(), (1 << 40) + 3);
    assert!(found.blocks() * 512 < 1 << 20, "holes take no room");
    let mut bytes = [0; 6];
    File::open(m.path("sparse")).unwrap().read_exact_at(&mut bytes, 5 << 30).unwrap();
    assert_eq!(&bytes, b"middle");
    drop(file);
    // A comparison reads all of a file: this one must not stay.
    fs::remove_file(m.path("sparse")).unwrap();
}

#[test]
fn the_limit_of_file_sizes_holds() {
    let m = Mounted::new();
    apart(ROOT, || {
        let limit = rustix::process::Rlimit { current: Some(100_000), maximum: Some(100_000) };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
        // SAFETY: to ignore a signal takes no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let file = File::create(m.path("f")).unwrap();
        assert_eq!(errno(file.write_at(b"1", 100_000)), libc::EFBIG);
        assert_eq!(errno(file.set_len(100_001)), libc::EFBIG);
        file.set_len(100_000).unwrap();
    });
}

#[test]
fn what_is_kept_is_not_changed_by_those_who_have_it_open() {
    let m = Mounted::new();
    fs::write(m.path("f"), "precious").unwrap();
    let before = m.last();
    apart(ROOT, || {
        let file = File::open(m.path("f")).unwrap();
        fs::remove_file(m.path("f")).unwrap();
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        File::options().write(true).open(again).unwrap().write_all_at(b"REPLACED", 0).unwrap();
    });
    let onto = m.beside("then");
    let to = before.0.to_string();
    succeeds(mezzo().arg("replay").arg(m.path("")).arg("--to").arg(to).arg("--onto").arg(&onto));
    assert_eq!(fs::read_to_string(onto.join("f")).unwrap(), "precious");
}
