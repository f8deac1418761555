//! Several names for one object, files without a name, and symbolic links.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};

use crate::common::{ALICE, BOB, Mounted, ROOT, apart, errno};

#[test]
fn a_file_has_several_names_in_several_directories() {
    let m = Mounted::new();
    fs::create_dir(m.path("a")).unwrap();
    fs::create_dir_all(m.path("b/c")).unwrap();
    fs::write(m.path("a/one"), "1").unwrap();
    fs::hard_link(m.path("a/one"), m.path("b/two")).unwrap();
    fs::hard_link(m.path("b/two"), m.path("b/c/three")).unwrap();
    let names = ["a/one", "b/two", "b/c/three"];
    for (round, name) in names.into_iter().enumerate() {
        fs::write(m.path(name), format!("by {name}")).unwrap();
        fs::set_permissions(m.path(name), fs::Permissions::from_mode(0o600 + round as u32)).unwrap();
        let inode = fs::metadata(m.path(name)).unwrap().ino();
        for other in names {
            let found = fs::metadata(m.path(other)).unwrap();
            assert_eq!((found.ino(), found.nlink()), (inode, 3));
            assert_eq!(found.mode() & 0o7777, 0o600 + round as u32);
            assert_eq!(fs::read_to_string(m.path(other)).unwrap(), format!("by {name}"));
        }
    }
    fs::remove_file(m.path("b/two")).unwrap();
    assert_eq!(fs::metadata(m.path("a/one")).unwrap().nlink(), 2);
    fs::rename(m.path("a/one"), m.path("a/uno")).unwrap();
    fs::remove_file(m.path("a/uno")).unwrap();
    let left = fs::metadata(m.path("b/c/three")).unwrap();
    assert_eq!((left.nlink(), left.len()), (1, 12));
}

#[test]
fn a_file_open_by_one_name_lives_on_by_another() {
    let m = Mounted::new();
    fs::write(m.path("a"), "1").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    let kinds = m.kinds_of(|| {
        let file = File::options().write(true).open(m.path("a")).unwrap();
        fs::remove_file(m.path("a")).unwrap();
        file.write_all_at(b"22", 0).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
    });
    assert_eq!(kinds, ["unlink", "close"]);
    assert_eq!(fs::read_to_string(m.path("b")).unwrap(), "22");
}

#[test]
fn what_can_be_linked_is_as_on_the_host() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), "1").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        symlink("f", dir.join("l")).unwrap();
        let fifo = rustix::fs::mknodat(
            CWD,
            dir.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_bits_retain(0o644),
            0,
        );
        let link =
            |from: &str, to: &str| errno(linkat(CWD, dir.join(from), CWD, dir.join(to), AtFlags::empty()));
        let follow = errno(linkat(CWD, dir.join("l"), CWD, dir.join("l2"), AtFlags::SYMLINK_FOLLOW));
        let kind = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().mode() & libc::S_IFMT;
        (
            (errno(fifo), link("fifo", "fifo2"), link("l", "l1"), kind("l1"), follow, kind("l2")),
            (link("d", "d2"), link("f", "d"), link("f", "f"), link("absent", "x"), link("f", "absent/x")),
            (
                fs::metadata(dir.join("f")).unwrap().nlink(),
                fs::symlink_metadata(dir.join("l")).unwrap().nlink(),
            ),
        )
    });
}

#[test]
fn links_to_what_others_own_are_protected_as_on_the_host() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("root's"), "1").unwrap();
        BOB.does(|| {
            (
                errno(fs::hard_link(dir.join("root's"), dir.join("mine"))),
                errno(fs::write(dir.join("bob's"), "2")),
                errno(fs::hard_link(dir.join("bob's"), dir.join("bob's too"))),
            )
        })
    });
}

#[test]
fn nothing_is_linked_or_renamed_across_the_border() {
    let m = Mounted::new();
    let outside = m.beside("outside");
    fs::write(m.path("in"), "1").unwrap();
    fs::write(outside.join("out"), "1").unwrap();
    assert_eq!(errno(fs::hard_link(m.path("in"), outside.join("in"))), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(outside.join("out"), m.path("out"))), libc::EXDEV);
    assert_eq!(errno(fs::rename(m.path("in"), outside.join("in"))), libc::EXDEV);
    assert_eq!(errno(fs::rename(outside.join("out"), m.path("out"))), libc::EXDEV);
    // mv copies then.
    crate::common::succeeds(std::process::Command::new("mv").arg(outside.join("out")).arg(m.path("")));
    assert_eq!(fs::read_to_string(m.path("out")).unwrap(), "1");
}

fn unnamed(directory: &Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(directory, OFlags::RDWR | OFlags::TMPFILE | flags, Mode::from_bits_retain(0o640))
        .unwrap()
}

#[test]
fn a_file_without_a_name_leaves_no_trace() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        let file = File::from(unnamed(&m.path(""), OFlags::empty()));
        file.write_all_at(b"temporary", 0).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!((found.nlink(), found.len(), found.mode()), (0, 9, libc::S_IFREG | 0o640));
        assert_eq!(fs::read_dir(m.path("")).unwrap().count(), 0);
    });
    assert_eq!(kinds, ["noop"], "all that is taken is a number");
}

#[test]
fn a_file_without_a_name_can_be_given_one() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let kinds = m.kinds_of(|| {
        let file = unnamed(&m.path(""), OFlags::empty());
        File::from(file.try_clone().unwrap()).write_all(b"whole").unwrap();
        rustix::fs::fsetxattr(&file, "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        linkat(&file, "", CWD, m.path("d/named"), AtFlags::EMPTY_PATH).unwrap();
        assert_eq!(errno(linkat(&file, "", CWD, m.path("d/named"), AtFlags::EMPTY_PATH)), libc::EEXIST);
        assert_eq!(fs::read_to_string(m.path("d/named")).unwrap(), "whole");
        linkat(&file, "", CWD, m.path("second"), AtFlags::EMPTY_PATH).unwrap();
        assert_eq!(fs::metadata(m.path("second")).unwrap().nlink(), 2);
    });
    // It was open for writing when it was linked, so that it may have been written to just then.
    assert_eq!(kinds, ["noop", "create", "link", "close"]);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(m.path("second"), "user.a", &mut value).unwrap();
    assert_eq!(&value[..length], b"1");
}

#[test]
fn what_is_written_after_the_name_was_given_is_recorded() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        let file = File::from(unnamed(&m.path(""), OFlags::empty()));
        file.write_all_at(b"first", 0).unwrap();
        linkat(&file, "", CWD, m.path("f"), AtFlags::EMPTY_PATH).unwrap();
        file.write_all_at(b", then", 5).unwrap();
    });
    assert_eq!(kinds, ["noop", "create", "close"]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "first, then");
}

#[test]
fn a_user_names_a_file_through_proc() {
    let m = Mounted::new();
    fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    apart(ALICE, || {
        let file = unnamed(&m.path(""), OFlags::empty());
        File::from(file.try_clone().unwrap()).write_all(b"hers").unwrap();
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, through.as_str(), CWD, m.path("f"), AtFlags::SYMLINK_FOLLOW).unwrap();
    });
    let found = fs::metadata(m.path("f")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (ALICE.uid, ALICE.gid, 0o640));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "hers");
}

#[test]
fn a_file_that_may_not_be_named_is_not() {
    let m = Mounted::new();
    m.alike(|dir| {
        let file = unnamed(dir, OFlags::EXCL);
        let linked = errno(linkat(file.as_fd(), "", CWD, dir.join("f"), AtFlags::EMPTY_PATH));
        let open = rustix::fs::open(dir.join("absent"), OFlags::RDWR | OFlags::TMPFILE, Mode::empty());
        let reading = rustix::fs::open(dir, OFlags::RDONLY | OFlags::TMPFILE, Mode::empty());
        (linked, errno(open), errno(reading))
    });
}

#[test]
fn symbolic_links_lead_on() {
    let m = Mounted::new();
    m.alike(|dir| {
        let long = "x/".repeat(2047) + "y";
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/f"), "found").unwrap();
        symlink("d", dir.join("to d")).unwrap();
        symlink("../d/f", dir.join("d/to f")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        symlink(&long, dir.join("long")).unwrap();
        (
            fs::read_to_string(dir.join("to d/to f")).unwrap(),
            fs::read_link(dir.join("long")).unwrap().into_os_string().len(),
            errno(symlink(format!("{long}z"), dir.join("longer"))),
            errno(symlink("", dir.join("empty"))),
            errno(symlink("x", dir.join("d"))),
            errno(fs::read(dir.join("loop"))),
            errno(fs::read_link(dir.join("d/f"))),
            fs::symlink_metadata(dir.join("to d")).unwrap().len(),
            fs::symlink_metadata(dir.join("to d")).unwrap().mode(),
            errno(rustix::fs::open(dir.join("to d"), OFlags::NOFOLLOW, Mode::empty())),
        )
    });
}

#[test]
fn a_symbolic_link_has_an_owner_and_times_of_its_own() {
    let m = Mounted::new();
    m.alike(|dir| {
        symlink("nowhere", dir.join("l")).unwrap();
        let path = dir.join("l");
        std::os::unix::fs::lchown(&path, Some(5), Some(6)).unwrap();
        let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 1 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        (found.uid(), found.gid(), found.mtime(), found.mtime_nsec(), found.mode())
    });
}

#[test]
fn an_open_symbolic_link_is_reached_by_its_descriptor() {
    let m = Mounted::new();
    symlink("target", m.path("l")).unwrap();
    apart(ROOT, || {
        let link = rustix::fs::open(m.path("l"), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let target = rustix::fs::readlinkat(&link, "", Vec::new()).unwrap();
        assert_eq!(target.as_bytes(), b"target");
        assert!(rustix::fs::fstat(&link).unwrap().st_mode & libc::S_IFMT == libc::S_IFLNK);
    });
}
