//! Large files on a host that can't clone: what is overwritten is kept before it changes. Files here are above the limit up to
//! which they are copied whole.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use mezzo_core::Recno;
use rustix::fs::{FallocateFlags, fallocate};

use super::mapping::Mapping;
use crate::common::{Host, Mounted, PATIENCE, Process, ROOT, apart, errno, eventually, mezzo, succeeds};

const MIB: usize = 1 << 20;

/// Bytes that look like no others, the same each time.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut at = seed;
    let next = || {
        at = at.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        at.to_le_bytes()
    };
    std::iter::repeat_with(next).take(count.div_ceil(8)).flatten().take(count).collect()
}

fn writing() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    options
}

/// What `path` held after record `to`; the error that a replay ends with where it is not known.
fn then(m: &Mounted, path: &str, to: Recno) -> Result<Vec<u8>, String> {
    let onto: PathBuf = m.beside("then");
    let output = mezzo()
        .arg("replay")
        .arg(m.path(""))
        .args(["--to", &to.to_string()])
        .arg("--onto")
        .arg(&onto)
        .output()
        .unwrap();
    let found = match output.status.success() {
        true => Ok(fs::read(onto.join(path)).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    };
    fs::remove_dir_all(&onto).unwrap();
    found
}

/// The kernel tells of the end of an open in its own time, and what is written by two at once is one version.
fn is_closed(m: &Mounted) {
    eventually("nobody writes", || m.status()["open_for_writing"] == 0);
}

/// How many versions are kept by ranges, and how many bytes in all.
fn by_ranges(m: &Mounted) -> (i64, i64) {
    let status = m.status();
    (status["attic_by_ranges"].as_i64().unwrap(), status["attic_bytes"].as_i64().unwrap())
}

/// Does `act` to a file of `size` bytes, in a process of its own; what was before must be there afterwards, by ranges.
#[track_caller]
fn is_kept(m: &Mounted, size: usize, act: impl FnOnce(&Mounted)) {
    let old = bytes(1, size);
    fs::write(m.path("f"), &old).unwrap();
    is_closed(m);
    let before = m.last();
    apart(ROOT, || act(m));
    is_closed(m);
    let (count, taken) = by_ranges(m);
    assert_eq!(count, 1, "it is kept by ranges");
    assert!(taken < size as i64 * 11 / 10, "{taken} bytes of {size}");
    assert!(then(m, "f", before).unwrap() == old, "the old bytes");
    let now = fs::read(m.path("f")).unwrap();
    assert!(then(m, "f", m.last()).unwrap() == now, "the new bytes");
}

#[test]
fn what_is_overwritten_in_a_large_file_is_kept() {
    let m = Mounted::new();
    is_kept(&m, 64 * MIB, |m| {
        let file = writing().open(m.path("f")).unwrap();
        file.write_all_at(&bytes(2, 5000), 32 * MIB as u64 - 1234).unwrap();
        file.write_all_at(b"!", 0).unwrap();
        file.write_all_at(&bytes(3, 3 * MIB), 50 * MIB as u64 + 7).unwrap();
        file.write_all_at(&bytes(4, 3 * MIB), 50 * MIB as u64 + 7).unwrap();
    });
    assert!(by_ranges(&m).1 < 5 * MIB as i64, "no more than what was overwritten: {:?}", by_ranges(&m));
}

#[test]
fn a_large_file_is_kept_when_it_grows() {
    let m = Mounted::new();
    is_kept(&m, 5 * MIB + 123, |m| {
        let file = File::options().append(true).open(m.path("f")).unwrap();
        file.write_at(&bytes(2, 2 * MIB), 0).unwrap();
        file.set_len(20 * MIB as u64).unwrap();
    });
    assert!(by_ranges(&m).1 < 10_000, "{:?}", by_ranges(&m));
}

#[test]
fn what_a_truncation_takes_from_a_large_file_is_kept() {
    let m = Mounted::new();
    is_kept(&m, 16 * MIB + 5, |m| {
        let file = writing().open(m.path("f")).unwrap();
        file.set_len(10 * MIB as u64 + 11).unwrap();
        file.set_len(15 * MIB as u64).unwrap();
        file.write_all_at(&bytes(2, MIB), 12 * MIB as u64).unwrap();
        file.set_len(6 * MIB as u64).unwrap();
    });
    let (old, before) = (fs::read(m.path("f")).unwrap(), m.last());
    is_closed(&m);
    apart(ROOT, || {
        let path = std::ffi::CString::new(m.path("f").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path ends with a NUL.
        assert_eq!(unsafe { libc::truncate(path.as_ptr(), 5 * MIB as i64 + 1) }, 0);
    });
    assert_eq!(by_ranges(&m).0, 2);
    assert!(then(&m, "f", before).unwrap() == old);
}

#[test]
fn a_large_file_that_is_emptied_is_kept() {
    let m = Mounted::new();
    let old = bytes(1, 10 * MIB);
    fs::write(m.path("f"), &old).unwrap();
    let before = m.last();
    apart(ROOT, || fs::write(m.path("f"), bytes(2, 9 * MIB)).unwrap());
    assert!(then(&m, "f", before).unwrap() == old);
}

#[test]
fn what_is_punched_zeroed_and_copied_over_in_a_large_file_is_kept() {
    let m = Mounted::new();
    fs::write(m.path("from"), bytes(9, 6 * MIB)).unwrap();
    is_kept(&m, 32 * MIB, |m| {
        let file = writing().open(m.path("f")).unwrap();
        let keep = FallocateFlags::KEEP_SIZE;
        fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, MIB as u64 + 1, 2 * MIB as u64).unwrap();
        fallocate(&file, FallocateFlags::ZERO_RANGE, 5 * MIB as u64, MIB as u64 + 1).unwrap();
        fallocate(&file, keep, 31 * MIB as u64, 3 * MIB as u64).unwrap();
        let from = File::open(m.path("from")).unwrap();
        let (mut at, mut to, end) = (0, 10 * MIB as u64 + 3, 6 * MIB as u64);
        while at < end {
            let left = (end - at) as usize;
            let copied =
                rustix::fs::copy_file_range(&from, Some(&mut at), &file, Some(&mut to), left).unwrap();
            assert!(copied > 0);
        }
    });
    assert!(by_ranges(&m).1 < 11 * MIB as i64, "{:?}", by_ranges(&m));
}

#[test]
fn what_is_stored_through_a_mapping_of_a_large_file_is_kept() {
    let m = Mounted::new();
    is_kept(&m, 16 * MIB, |m| {
        let file = writing().open(m.path("f")).unwrap();
        let mapping = Mapping::shared(&file, 16 * MIB);
        drop(file);
        mapping.store(5 * MIB - 3, b"across blocks");
        mapping.store(0, b"first");
        mapping.sync();
        mapping.store(16 * MIB - 4, b"last");
    });
    let text = &fs::read(m.path("f")).unwrap()[5 * MIB - 3..][..13];
    assert_eq!(text, b"across blocks");
}

#[test]
fn two_writers_of_a_large_file_keep_one_version() {
    let m = Mounted::new();
    is_kept(&m, 16 * MIB, |m| {
        std::thread::scope(|scope| {
            for writer in 0..2u64 {
                scope.spawn(move || {
                    let file = writing().open(m.path("f")).unwrap();
                    for step in 0..200 {
                        let at = (step * 2 + writer) * 30_000;
                        file.write_all_at(&bytes(step + 2, 40_000), at).unwrap();
                    }
                });
            }
        });
    });
}

#[test]
fn readers_of_a_large_file_see_what_is_written() {
    let m = Mounted::new();
    is_kept(&m, 16 * MIB, |m| {
        let writer = writing().open(m.path("f")).unwrap();
        let reader = File::open(m.path("f")).unwrap();
        let mapping = Mapping::readable(&reader, 16 * MIB);
        assert_eq!(mapping.load(8 * MIB, 16), &bytes(1, 16 * MIB)[8 * MIB..][..16]);
        for round in 0..3 {
            let new = bytes(round + 2, 100);
            writer.write_all_at(&new, 8 * MIB as u64 - 50).unwrap();
            let mut seen = vec![0; 100];
            reader.read_exact_at(&mut seen, 8 * MIB as u64 - 50).unwrap();
            assert_eq!(seen, new);
            assert_eq!(mapping.load(8 * MIB - 50, 100), new);
        }
    });
    // What the kernel had of it is not shown to those who come later, past whom it was changed.
    apart(ROOT, || {
        let reader = File::open(m.path("f")).unwrap();
        writing().open(m.path("f")).unwrap().write_all_at(b"unseen", 8 * MIB as u64).unwrap();
        let mut seen = [0; 6];
        reader.read_exact_at(&mut seen, 8 * MIB as u64).unwrap();
        assert_eq!(&seen, b"unseen");
        drop(reader);
    });
    apart(ROOT, || {
        let file = writing().open(m.path("f")).unwrap();
        let mut seen = [0; 6];
        file.read_exact_at(&mut seen, 8 * MIB as u64).unwrap();
        assert_eq!(&seen, b"unseen");
    });
}

#[test]
fn a_large_file_that_others_read_already_is_copied_whole() {
    let m = Mounted::new();
    let old = bytes(1, 8 * MIB);
    fs::write(m.path("f"), &old).unwrap();
    let before = m.last();
    apart(ROOT, || {
        let reader = File::open(m.path("f")).unwrap();
        let writer = writing().open(m.path("f")).unwrap();
        writer.write_all_at(b"new", MIB as u64).unwrap();
        let mut seen = [0; 3];
        reader.read_exact_at(&mut seen, MIB as u64).unwrap();
        assert_eq!(&seen, b"new");
    });
    assert_eq!(by_ranges(&m), (0, 8 * MIB as i64));
    assert!(then(&m, "f", before).unwrap() == old);
}

#[test]
fn each_version_of_a_large_file_is_kept() {
    let m = Mounted::new();
    fs::write(m.path("f"), bytes(1, 6 * MIB)).unwrap();
    let mut versions = vec![(m.last(), fs::read(m.path("f")).unwrap())];
    for round in 0..6u64 {
        is_closed(&m);
        apart(ROOT, || {
            let file = writing().open(m.path("f")).unwrap();
            file.write_all_at(&bytes(round, 70_000), round * 500_000 + 17).unwrap();
            if round % 2 == 0 {
                file.set_len(6 * MIB as u64 - round * 10_001).unwrap();
            }
        });
        versions.push((m.last(), fs::read(m.path("f")).unwrap()));
    }
    let check = || {
        for (at, version) in &versions {
            assert!(then(&m, "f", *at).unwrap() == *version, "as of record {at}");
        }
    };
    check();
    fs::rename(m.path("f"), m.path("g")).unwrap();
    check();
    fs::remove_file(m.path("g")).unwrap();
    check();
    assert_eq!(by_ranges(&m).0, 6);
}

#[test]
fn a_large_file_s_versions_are_taken_back() {
    let m = Mounted::new();
    let first = bytes(1, 6 * MIB);
    fs::write(m.path("f"), &first).unwrap();
    let before = m.last();
    for round in 0..3 {
        is_closed(&m);
        apart(ROOT, || {
            let file = writing().open(m.path("f")).unwrap();
            file.write_all_at(&bytes(round + 2, MIB), round * 1_500_000 + 1).unwrap();
        });
    }
    is_closed(&m);
    apart(ROOT, || {
        let path = std::ffi::CString::new(m.path("f").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path ends with a NUL.
        assert_eq!(unsafe { libc::truncate(path.as_ptr(), 4 * MIB as i64 + 5) }, 0);
    });
    let last = fs::read(m.host("f")).unwrap();
    assert_eq!(by_ranges(&m).0, 4);
    succeeds(mezzo().arg("undo").arg(m.path("")).args(["--to", &before.to_string()]));
    // Read past the mount: the kernel tells of a close in its own time, and what is open is not taken back.
    assert!(fs::read(m.host("f")).unwrap() == first);
    succeeds(mezzo().arg("redo").arg(m.path("")));
    assert!(fs::read(m.path("f")).unwrap() == last);
}

#[test]
fn a_large_file_that_is_removed_or_replaced_while_it_is_written_is_kept() {
    let m = Mounted::new();
    for replaced in [false, true] {
        let old = bytes(1, 6 * MIB);
        fs::write(m.path("f"), &old).unwrap();
        fs::write(m.path("g"), "replaces").unwrap();
        let before = m.last();
        apart(ROOT, || {
            let file = writing().open(m.path("f")).unwrap();
            file.write_all_at(b"while it has a name", 10).unwrap();
            match replaced {
                true => fs::rename(m.path("g"), m.path("f")).unwrap(),
                false => fs::remove_file(m.path("f")).unwrap(),
            }
            file.write_all_at(&bytes(2, 100_000), 3 * MIB as u64).unwrap();
            assert!(then(&m, "f", before).unwrap() == old, "while it is open");
            file.set_len(100).unwrap();
            assert_eq!(rustix::fs::fstat(&file).unwrap().st_nlink, 0);
        });
        eventually("it is let go", || then(&m, "f", before).is_ok_and(|then| then == old));
        let _ = fs::remove_file(m.path("f"));
    }
}

#[test]
fn a_kill_amid_writes_to_a_large_file_leaves_what_was_kept() {
    for round in 0..3 {
        let mut m = Mounted::new();
        let old = bytes(1, 16 * MIB);
        fs::write(m.path("f"), &old).unwrap();
        let before = m.last();
        let path = m.path("f");
        let writer = Process::start(ROOT, |talk| {
            let file = writing().open(path).unwrap();
            file.write_all_at(b"begun", 0).unwrap();
            talk.go_on();
            for step in 0.. {
                let at = step * 7_919_001 % (16 * MIB as u64 - 100_000);
                if file.write_all_at(&bytes(step, 30_000), at).is_err() {
                    break;
                }
            }
        });
        writer.talk().wait();
        std::thread::sleep(std::time::Duration::from_millis(20 * round));
        m.kill_daemon();
        writer.finish();
        m.mount();
        assert!(then(&m, "f", before).unwrap() == old, "round {round}");
        assert_eq!(by_ranges(&m).0, 1);
    }
}

#[test]
fn what_somebody_else_wrote_after_a_kill_is_not_taken_for_kept() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), bytes(1, 6 * MIB)).unwrap();
    let before = m.last();
    let path = m.path("f");
    let writer = Process::start(ROOT, |talk| {
        let file = writing().open(path).unwrap();
        file.write_all_at(b"seen", 0).unwrap();
        talk.go_on();
        std::thread::sleep(PATIENCE);
    });
    writer.talk().wait();
    m.kill_daemon();
    drop(writer);
    let file = writing().open(m.host("f")).unwrap();
    file.write_all_at(b"unseen", 1000).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(60)).unwrap();
    drop(file);
    m.mount();
    assert!(then(&m, "f", before).unwrap_err().contains("not kept"));
    assert_eq!(by_ranges(&m).0, 0);
}

/// A fileset whose attic has these lines in its policy.
fn with_policy(host: Host, lines: &[(&str, &str)]) -> Mounted {
    let mut m = Mounted::unmounted(host, |_| {});
    let path = m.tree().join(".mezzo/fileset.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    for (key, value) in lines {
        let at = text.find(&format!("\n{key} = ")).unwrap() + 1;
        let end = at + text[at..].find('\n').unwrap();
        text.replace_range(at..end, &format!("{key} = {value}"));
    }
    fs::write(path, text).unwrap();
    m.mount();
    m
}

#[test]
fn where_nothing_or_all_of_a_large_file_is_kept_its_data_passes_by() {
    let check = |m: Mounted, files: i64| {
        fs::write(m.path("f"), bytes(1, 6 * MIB)).unwrap();
        apart(ROOT, || writing().open(m.path("f")).unwrap().write_all_at(b"new", 0).unwrap());
        assert_eq!((by_ranges(&m).0, m.status()["attic_files"].as_i64().unwrap()), (0, files));
    };
    check(with_policy(Host::Ext4, &[("on", "false")]), 0);
    check(with_policy(Host::Ext4, &[("exclude", "[\"f\"]")]), 0);
    check(with_policy(Host::Ext4, &[("max_bytes", "6000000")]), 0);
    check(with_policy(Host::Ext4, &[("copy_limit", "8000000")]), 1);
    check(with_policy(Host::Xfs, &[]), 1);
}

#[test]
fn ranges_count_and_what_is_beyond_the_bounds_is_given_up() {
    let m = with_policy(Host::Ext4, &[("max_bytes", "8000000"), ("copy_limit", "1000000")]);
    fs::write(m.path("f"), bytes(1, 6 * MIB)).unwrap();
    let first = m.last();
    apart(ROOT, || writing().open(m.path("f")).unwrap().write_all_at(&bytes(2, 5 * MIB), 0).unwrap());
    let (second, old) = (m.last(), fs::read(m.path("f")).unwrap());
    assert!(then(&m, "f", first).is_ok());
    apart(ROOT, || writing().open(m.path("f")).unwrap().write_all_at(&bytes(3, 4 * MIB), 0).unwrap());
    eventually("the first is given up", || by_ranges(&m).0 == 1);
    assert!(then(&m, "f", first).unwrap_err().contains("not kept"));
    assert!(then(&m, "f", second).unwrap() == old);
}

#[test]
fn a_full_host_takes_the_write_and_gives_up_what_was_kept() {
    let m = with_policy(Host::Ext4, &[("leave_free_percent", "0")]);
    let old = bytes(1, 40 * MIB);
    fs::write(m.path("f"), &old).unwrap();
    let before = m.last();
    let free = rustix::fs::statvfs(m.tree().as_path()).unwrap();
    // Root may use what is reserved, too.
    let room = free.f_bfree * free.f_frsize;
    let ballast = File::create(m.beside("ballast").join("file")).unwrap();
    fallocate(&ballast, FallocateFlags::empty(), 0, room - 20 * MIB as u64).unwrap();
    apart(ROOT, || {
        let file = writing().open(m.path("f")).unwrap();
        file.write_all_at(&bytes(2, 40 * MIB), 0).unwrap();
    });
    drop(ballast);
    fs::remove_dir_all(m.tree().parent().unwrap().join("ballast")).unwrap();
    assert!(fs::read(m.path("f")).unwrap() == bytes(2, 40 * MIB));
    assert!(then(&m, "f", before).unwrap_err().contains("not kept"));
    assert_eq!(by_ranges(&m), (0, 0));
}

#[test]
fn a_large_file_that_is_opened_and_not_written_leaves_nothing() {
    let m = Mounted::new();
    fs::write(m.path("f"), bytes(1, 6 * MIB)).unwrap();
    let kinds = m.kinds_of(|| drop(writing().open(m.path("f")).unwrap()));
    assert_eq!(kinds, [""; 0]);
    eventually("it is let go", || by_ranges(&m) == (0, 0));
}

#[test]
fn a_large_file_does_what_a_small_one_does() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), bytes(1, 5 * MIB)).unwrap();
        let file = writing().open(dir.join("f")).unwrap();
        let append = File::options().append(true).open(dir.join("f")).unwrap();
        file.write_all_at(b"middle", MIB as u64).unwrap();
        append.write_at(b"end", 0).unwrap();
        let reading = File::open(dir.join("f")).unwrap();
        let renamed = fs::rename(dir.join("f"), dir.join("g")).is_ok();
        file.write_all_at(b"beyond", 6 * MIB as u64).unwrap();
        file.sync_all().unwrap();
        let holes = [libc::SEEK_HOLE, libc::SEEK_DATA].map(|whence| {
            // SAFETY: the descriptor is open.
            unsafe { libc::lseek(std::os::fd::AsRawFd::as_raw_fd(&file), 5 * MIB as i64 + 100_000, whence) }
        });
        (
            renamed,
            holes,
            errno(reading.write_at(b"1", 0)),
            file.metadata().unwrap().len(),
            fs::read(dir.join("g")).unwrap(),
        )
    });
}
