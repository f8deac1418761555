//! Whose objects are, and who may do what.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::umask;

use crate::common::{ALICE, BOB, CAROL, Mounted, ROOT, TEAM, User, errno};

/// Owner, group and mode.
fn owner(path: &Path) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn directory(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    set_mode(path, mode);
}

/// One object of each kind, made with all permission bits; owner, group and mode of each.
fn make_each(dir: &Path) -> Vec<(u32, u32, u32)> {
    let mode = Mode::from_bits_retain(0o777);
    File::options().write(true).create_new(true).mode(0o777).open(dir.join("file")).unwrap();
    fs::DirBuilder::new().mode(0o777).create(dir.join("directory")).unwrap();
    symlink("x", dir.join("link")).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, dir.join("plain"), FileType::RegularFile, mode, 0).unwrap();
    UnixListener::bind(dir.join("socket")).unwrap();
    let names = ["file", "directory", "link", "fifo", "plain", "socket"];
    names.iter().map(|name| owner(&dir.join(name))).collect()
}

#[test]
fn objects_are_made_as_their_caller() {
    let m = Mounted::new();
    set_mode(&m.path(""), 0o777);
    for user in [ROOT, ALICE, CAROL] {
        let dir = m.path(&format!("{}", user.uid));
        user.does(|| {
            fs::create_dir(&dir).unwrap();
            for (uid, gid, _) in make_each(&dir) {
                assert_eq!((uid, gid), (user.uid, user.gid));
            }
        });
        assert_eq!(owner(&dir).0, user.uid);
    }
}

#[test]
fn the_mask_is_the_caller_s() {
    let m = Mounted::new();
    m.alike(|dir| {
        set_mode(dir, 0o777);
        [0o022, 0o000, 0o077, 0o777].map(|mask| {
            let dir = dir.join(format!("{mask:o}"));
            directory(&dir, 0o777);
            ALICE.does(|| {
                // The thread shares it with the test's, which is alone with it.
                let before = umask(Mode::from_bits_retain(mask));
                let made = make_each(&dir);
                umask(before);
                made
            })
        })
    });
}

#[test]
fn in_a_set_group_id_directory_the_group_is_inherited() {
    let m = Mounted::new();
    m.alike(|dir| {
        directory(&dir.join("d"), 0o755);
        chown(dir.join("d"), Some(0), Some(TEAM)).unwrap();
        set_mode(&dir.join("d"), 0o2777);
        let by = |user: User, name: &str| {
            user.does(|| {
                fs::create_dir(dir.join("d").join(name)).unwrap();
                make_each(&dir.join("d").join(name))
            })
        };
        let below = |name: &str| owner(&dir.join("d").join(name));
        // A stranger to the group loses the set-group-id bit of a file that would have it, a member keeps it.
        let set_id = |user: User, name: &str| {
            let path = dir.join("d").join(name);
            user.does(|| File::options().write(true).create_new(true).mode(0o2775).open(&path).unwrap());
            owner(&path)
        };
        let made = [by(ALICE, "alice"), by(CAROL, "carol"), by(ROOT, "root")];
        let subdirectories = ["alice", "carol", "root"].map(below);
        (made, subdirectories, set_id(ALICE, "a"), set_id(CAROL, "c"), set_id(ROOT, "r"))
    });
}

#[test]
fn a_supplementary_group_gives_access() {
    let m = Mounted::new();
    m.alike(|dir| {
        directory(&dir.join("d"), 0o770);
        fs::write(dir.join("d/f"), "team").unwrap();
        for path in [dir.join("d"), dir.join("d/f")] {
            chown(&path, Some(0), Some(TEAM)).unwrap();
        }
        set_mode(&dir.join("d/f"), 0o660);
        [ALICE, CAROL].map(|user| {
            user.does(|| {
                (
                    errno(fs::read(dir.join("d/f"))),
                    errno(fs::write(dir.join("d/f"), "changed")),
                    errno(fs::write(dir.join("d/new"), "new")),
                    errno(fs::rename(dir.join("d/new"), dir.join("d/newer"))),
                    errno(fs::create_dir(dir.join("d/sub"))),
                    errno(fs::remove_dir(dir.join("d/sub"))),
                    errno(fs::read_dir(dir.join("d"))),
                )
            })
        })
    });
}

#[test]
fn a_stranger_is_refused_what_the_host_refuses() {
    let m = Mounted::new();
    m.alike(|dir| {
        directory(&dir.join("d"), 0o755);
        fs::write(dir.join("d/f"), "1").unwrap();
        directory(&dir.join("d/sub"), 0o755);
        directory(&dir.join("open"), 0o777);
        fs::write(dir.join("open/f"), "1").unwrap();
        BOB.does(|| {
            let (f, new) = (dir.join("d/f"), dir.join("d/new"));
            vec![
                errno(File::create_new(&new)),
                errno(fs::create_dir(&new)),
                errno(symlink("x", &new)),
                errno(mknodat(CWD, &new, FileType::Fifo, Mode::RWXU, 0)),
                errno(UnixListener::bind(&new)),
                errno(fs::hard_link(&f, &new)),
                errno(fs::remove_file(&f)),
                errno(fs::remove_dir(dir.join("d/sub"))),
                errno(fs::rename(&f, &new)),
                errno(fs::rename(&f, dir.join("open/new"))),
                errno(fs::rename(dir.join("open/f"), &new)),
                errno(File::options().write(true).open(&f)),
                errno(File::options().write(true).truncate(true).open(&f)),
                errno(fs::read(&f)),
                errno(fs::set_permissions(&f, fs::Permissions::from_mode(0o777))),
                errno(chown(&f, Some(BOB.uid), None)),
                errno(chown(&f, None, Some(BOB.gid))),
                errno(rustix::fs::utimensat(CWD, &f, &now(), AtFlags::empty())),
                errno(rustix::fs::utimensat(CWD, &f, &long_ago(), AtFlags::empty())),
                errno(rustix::fs::setxattr(&f, "user.a", b"1", rustix::fs::XattrFlags::empty())),
                errno(rustix::fs::setxattr(&f, "trusted.a", b"1", rustix::fs::XattrFlags::empty())),
                errno(rustix::fs::access(&f, rustix::fs::Access::WRITE_OK)),
                errno(rustix::fs::access(&f, rustix::fs::Access::READ_OK)),
                errno(rustix::fs::open(dir.join("d"), OFlags::RDWR | OFlags::TMPFILE, Mode::RWXU)),
            ]
        })
    });
}

fn now() -> rustix::fs::Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::Timestamps { last_access: now, last_modification: now }
}

fn long_ago() -> rustix::fs::Timestamps {
    let then = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    rustix::fs::Timestamps { last_access: then, last_modification: then }
}

#[test]
fn what_is_refused_is_not_recorded() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let last = m.last();
    BOB.does(|| {
        assert_eq!(errno(fs::write(m.path("g"), "1")), libc::EACCES);
        assert_eq!(errno(fs::write(m.path("f"), "1")), libc::EACCES);
        assert_eq!(errno(fs::remove_file(m.path("f"))), libc::EACCES);
        assert_eq!(errno(chown(m.path("f"), Some(BOB.uid), None)), libc::EPERM);
    });
    assert_eq!(m.last(), last);
}

#[test]
fn a_sticky_directory_protects_what_is_in_it() {
    let m = Mounted::new();
    m.alike(|dir| {
        directory(&dir.join("tmp"), 0o1777);
        directory(&dir.join("open"), 0o777);
        ALICE.does(|| {
            for name in ["a", "b", "c"] {
                fs::write(dir.join("tmp").join(name), name).unwrap();
            }
            fs::create_dir(dir.join("tmp/d")).unwrap();
        });
        let theft = BOB.does(|| {
            fs::write(dir.join("tmp/bob's"), "1").unwrap();
            [
                errno(fs::remove_file(dir.join("tmp/a"))),
                errno(fs::rename(dir.join("tmp/a"), dir.join("tmp/mine"))),
                errno(fs::rename(dir.join("tmp/a"), dir.join("open/mine"))),
                errno(fs::rename(dir.join("tmp/bob's"), dir.join("tmp/b"))),
                errno(fs::remove_dir(dir.join("tmp/d"))),
                errno(fs::rename(dir.join("tmp/bob's"), dir.join("tmp/bob's own"))),
            ]
        });
        let own = ALICE
            .does(|| [errno(fs::remove_file(dir.join("tmp/a"))), errno(fs::remove_dir(dir.join("tmp/d")))]);
        (theft, own, errno(fs::remove_file(dir.join("tmp/b"))))
    });
}

#[test]
fn what_is_below_a_closed_directory_is_out_of_reach() {
    let m = Mounted::new();
    let deep = m.path("closed/open");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "1").unwrap();
    set_mode(&deep.join("f"), 0o666);
    // Known to the kernel before the door is shut.
    BOB.does(|| assert_eq!(fs::read_to_string(deep.join("f")).unwrap(), "1"));
    set_mode(&m.path("closed"), 0o700);
    BOB.does(|| {
        assert_eq!(errno(fs::read(deep.join("f"))), libc::EACCES);
        assert_eq!(errno(fs::write(deep.join("g"), "1")), libc::EACCES);
        assert_eq!(errno(fs::metadata(deep.join("f"))), libc::EACCES);
        assert_eq!(errno(fs::read_dir(&deep)), libc::EACCES);
    });
    // To look names up is one thing, to list them is another.
    set_mode(&m.path("closed"), 0o711);
    BOB.does(|| {
        assert_eq!(errno(fs::read(deep.join("f"))), 0);
        assert_eq!(errno(fs::read_dir(m.path("closed"))), libc::EACCES);
    });
    set_mode(&m.path("closed"), 0o744);
    BOB.does(|| {
        assert_eq!(errno(fs::read_dir(m.path("closed"))), 0);
        assert_eq!(errno(fs::metadata(&deep)), libc::EACCES);
    });
}

#[test]
fn the_owner_may_change_mode_and_group_and_no_more() {
    let m = Mounted::new();
    m.alike(|dir| {
        set_mode(dir, 0o777);
        CAROL.does(|| {
            fs::write(dir.join("f"), "1").unwrap();
            let f = dir.join("f");
            let done = [
                errno(fs::set_permissions(&f, fs::Permissions::from_mode(0o600))),
                errno(chown(&f, None, Some(TEAM))),
                errno(chown(&f, None, Some(ALICE.gid))),
                errno(chown(&f, Some(ALICE.uid), None)),
                errno(chown(&f, Some(CAROL.uid), Some(CAROL.gid))),
                errno(rustix::fs::utimensat(CWD, &f, &long_ago(), AtFlags::empty())),
            ];
            (done, owner(&f), fs::metadata(&f).unwrap().mtime())
        })
    });
}

#[test]
fn a_write_to_another_s_file_changes_no_owner() {
    let m = Mounted::new();
    ROOT.does(|| fs::write(m.path("f"), "1").unwrap());
    set_mode(&m.path("f"), 0o666);
    BOB.does(|| fs::write(m.path("f"), "22").unwrap());
    assert_eq!(owner(&m.path("f")), (0, 0, 0o666));
    let records = m.records();
    assert_eq!(records.last().unwrap().who.uid, BOB.uid, "the record tells who it was");
}

#[test]
fn no_user_has_more_rights_after_another_s_operation() {
    let m = Mounted::new();
    directory(&m.path("root's"), 0o755);
    directory(&m.path("alice's"), 0o700);
    chown(m.path("alice's"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
    std::thread::scope(|scope| {
        for (user, allowed, refused) in
            [(ROOT, "root's", "-"), (ALICE, "alice's", "root's"), (BOB, "-", "alice's")]
        {
            let m = &m;
            scope.spawn(move || {
                user.does(|| {
                    for round in 0..100 {
                        let name = format!("{}-{round}", user.uid);
                        if allowed != "-" {
                            let path = m.path(allowed).join(&name);
                            fs::write(&path, "1").unwrap();
                            assert_eq!(owner(&path).0, user.uid);
                        }
                        if refused != "-" {
                            assert_eq!(errno(fs::write(m.path(refused).join(&name), "1")), libc::EACCES);
                        }
                    }
                });
            });
        }
    });
}
