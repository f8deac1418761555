//! Times: set, moved by what is done, and not moved.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens, statx, utimensat,
};

use crate::common::{ALICE, Mounted, ROOT, apart, errno};

type Time = (i64, i64);

fn mtime(path: &Path) -> Time {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mtime(), found.mtime_nsec())
}

fn ctime(path: &Path) -> Time {
    let found = fs::symlink_metadata(path).unwrap();
    (found.ctime(), found.ctime_nsec())
}

fn atime(path: &Path) -> Time {
    let found = fs::symlink_metadata(path).unwrap();
    (found.atime(), found.atime_nsec())
}

fn set(path: &Path, accessed: Time, modified: Time) -> i32 {
    let time = |(tv_sec, tv_nsec): Time| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
    errno(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW))
}

#[test]
fn times_are_set_to_any_moment() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        [
            (0, 0),
            (1, 999_999_999),
            (-1, 1),
            (-2_000_000_000, 5),
            (4_000_000_000, 123_456_789),
            (10_000_000_000, 0),
        ]
        .map(|time| {
            let done = set(&path, (time.0 + 5, time.1), time);
            (done, mtime(&path), atime(&path))
        })
    });
}

#[test]
fn one_time_is_set_and_the_other_left() {
    let m = Mounted::new();
    let path = m.path("f");
    fs::write(&path, "1").unwrap();
    assert_eq!(set(&path, (100, 1), (200, 2)), 0);
    assert_eq!(set(&path, (0, UTIME_OMIT), (300, 3)), 0);
    assert_eq!((atime(&path), mtime(&path)), ((100, 1), (300, 3)));
    assert_eq!(set(&path, (400, 4), (0, UTIME_OMIT)), 0);
    assert_eq!((atime(&path), mtime(&path)), ((400, 4), (300, 3)));
    let kinds = m.kinds_of(|| assert_eq!(set(&path, (0, UTIME_OMIT), (0, UTIME_OMIT)), 0));
    assert_eq!(kinds, [""; 0], "nothing was set");
    assert_eq!(set(&path, (0, UTIME_NOW), (0, UTIME_NOW)), 0);
    assert!(mtime(&path) > (1_600_000_000, 0) && atime(&path) > (1_600_000_000, 0));
}

#[test]
fn setting_a_time_is_recorded_to_the_nanosecond() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let records = m.records_of(|| assert_eq!(set(&m.path("f"), (-5, 7), (-6, 999_999_998)), 0));
    let [mezzo_core::Record { change: mezzo_core::Change::Setattr { attributes, .. }, .. }] = &records[..]
    else {
        panic!("{records:?}")
    };
    let (accessed, modified) = (attributes.after.atime, attributes.after.mtime);
    assert_eq!((accessed.seconds, accessed.nanoseconds), (-5, 7));
    assert_eq!((modified.seconds, modified.nanoseconds), (-6, 999_999_998));
}

#[test]
fn times_set_through_a_descriptor_hold_until_the_next_write() {
    let m = Mounted::new();
    let path = m.path("f");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"written", 0).unwrap();
    let then = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    futimens(&file, &Timestamps { last_access: then, last_modification: then }).unwrap();
    drop(file);
    assert_eq!(mtime(&path), (1_000_000, 5), "as tar, cp -p and rsync do");
    File::options().write(true).open(&path).unwrap().write_all_at(b"W", 0).unwrap();
    assert!(mtime(&path) > (1_600_000_000, 0));
}

/// What each act moves: the mtime and the ctime of what it is done to, and of the directories.
#[test]
fn what_moves_which_time_is_as_on_the_host() {
    type Act = fn(&Path);
    let acts: [(&str, Act); 14] = [
        ("create", |dir| drop(File::create(dir.join("a/new")).unwrap())),
        ("mkdir", |dir| fs::create_dir(dir.join("a/newd")).unwrap()),
        ("link", |dir| fs::hard_link(dir.join("a/f"), dir.join("b/g")).unwrap()),
        ("rename", |dir| fs::rename(dir.join("a/f"), dir.join("b/f")).unwrap()),
        ("rename back", |dir| fs::rename(dir.join("b/f"), dir.join("a/f")).unwrap()),
        ("rename here", |dir| fs::rename(dir.join("a/new"), dir.join("a/newer")).unwrap()),
        ("unlink", |dir| fs::remove_file(dir.join("b/g")).unwrap()),
        ("rmdir", |dir| fs::remove_dir(dir.join("a/newd")).unwrap()),
        ("write", |dir| {
            File::options().write(true).open(dir.join("a/f")).unwrap().write_all_at(b"x", 0).unwrap()
        }),
        ("truncate", |dir| File::options().write(true).open(dir.join("a/f")).unwrap().set_len(1).unwrap()),
        ("same size", |dir| File::options().write(true).open(dir.join("a/f")).unwrap().set_len(1).unwrap()),
        ("chmod", |dir| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir.join("a/f"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("chown", |dir| std::os::unix::fs::chown(dir.join("a/f"), Some(ALICE.uid), None).unwrap()),
        ("setxattr", |dir| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(dir.join("a/f"), "user.a", b"1", flags).unwrap();
        }),
    ];
    let m = Mounted::new();
    m.alike(|dir| {
        fs::create_dir(dir.join("a")).unwrap();
        fs::create_dir(dir.join("b")).unwrap();
        fs::write(dir.join("a/f"), "12345").unwrap();
        let file = File::open(dir.join("a/f")).unwrap();
        let times = || {
            let found = file.metadata().unwrap();
            let file = [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())];
            let [a, b] = [dir.join("a"), dir.join("b")];
            [file[0], file[1], mtime(&a), ctime(&a), mtime(&b), ctime(&b)]
        };
        acts.map(|(name, act)| {
            let before = times();
            // The clock that times are taken from may stand still for a few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(15));
            act(dir);
            let after = times();
            (name, [0, 1, 2, 3, 4, 5].map(|at| before[at] != after[at]))
        })
    });
}

#[test]
fn the_time_of_birth_is_told_and_stays() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let born = |path: &Path| {
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BTIME | StatxFlags::BASIC_STATS).unwrap();
        assert!(found.stx_mask & StatxFlags::BTIME.bits() != 0);
        (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
    };
    let first = born(&m.path("f"));
    assert!(first.0 > 1_600_000_000);
    fs::write(m.path("f"), "2").unwrap();
    assert_eq!(set(&m.path("f"), (1, 1), (1, 1)), 0);
    fs::rename(m.path("f"), m.path("g")).unwrap();
    assert_eq!(born(&m.path("g")), first);
    assert_eq!(born(&m.host("g")), first, "it is the host's");
}

#[test]
fn reading_makes_no_record() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    std::os::unix::fs::symlink("f", m.path("l")).unwrap();
    // Older than a day, so that relatime moves them.
    assert_eq!(set(&m.path("f"), (1000, 0), (2000, 0)), 0);
    let kinds = m.kinds_of(|| {
        fs::read(m.path("f")).unwrap();
        fs::read(m.path("l")).unwrap();
        fs::read_link(m.path("l")).unwrap();
        fs::read_dir(m.path("")).unwrap().count();
        fs::metadata(m.path("f")).unwrap();
        File::open(m.path("f")).unwrap().sync_all().unwrap();
        drop(File::options().read(true).write(true).open(m.path("f")).unwrap());
    });
    assert_eq!(kinds, [""; 0]);
}

#[test]
fn the_owner_sets_times_and_a_writer_sets_them_to_now() {
    let m = Mounted::new();
    m.alike(|dir| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        [0o666, 0o644].map(|mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            ALICE.does(|| {
                [
                    set(&path, (1, 1), (2, 2)),
                    set(&path, (0, UTIME_NOW), (0, UTIME_NOW)),
                    set(&path, (0, UTIME_OMIT), (0, UTIME_NOW)),
                    set(&path, (0, UTIME_OMIT), (0, UTIME_OMIT)),
                ]
            })
        })
    });
}

#[test]
fn attributes_are_the_same_before_and_after_a_remount() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "1").unwrap();
    fs::hard_link(m.path("d/f"), m.path("g")).unwrap();
    let all = |m: &Mounted| {
        ["", "d", "d/f", "g"].map(|name| {
            let path = m.path(name);
            let found = fs::metadata(&path).unwrap();
            (found.ino(), found.nlink(), mtime(&path), ctime(&path), found.blocks(), found.mode())
        })
    };
    let before = all(&m);
    apart(ROOT, || drop(fs::read(m.path("g")).unwrap()));
    m.unmount();
    m.mount();
    assert_eq!(all(&m), before);
    let host = ["d", "d/f", "g"].map(|name| (mtime(&m.host(name)), ctime(&m.host(name))));
    assert_eq!(["d", "d/f", "g"].map(|name| (mtime(&m.path(name)), ctime(&m.path(name)))), host);
}
