//! Names and paths, whatever bytes they hold and however long they are.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat, unlinkat};

use crate::common::{Host, Mounted, ROOT, apart, errno};

/// The names in a directory, sorted.
fn names(path: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_vec()).collect();
    names.sort();
    names
}

#[test]
fn a_name_is_any_bytes() {
    let m = Mounted::new();
    let strange: [&[u8]; 12] = [
        b"new\nline",
        b"\xff\xfe not UTF-8 \x80",
        b" ",
        b"...",
        b"-rf",
        b"a\tb",
        b"\x01\x7f",
        b"back\\slash",
        b"quote\"'`$",
        "naïve ✓".as_bytes(),
        // The same to the eye, and two names.
        "n\u{308}".as_bytes(),
        b".mezzo2",
    ];
    let mut expected: Vec<_> = strange.iter().map(|name| name.to_vec()).collect();
    expected.sort();
    for name in strange {
        let path = m.path("").join(OsStr::from_bytes(name));
        fs::write(&path, name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), name);
    }
    assert_eq!(names(&m.path("")), expected);
    let path = m.path("").join(OsStr::from_bytes(strange[1]));
    fs::rename(&path, m.path("").join(OsStr::from_bytes(b"\xfd"))).unwrap();
    assert_eq!(errno(fs::read(path)), libc::ENOENT);
}

#[test]
fn case_matters() {
    let m = Mounted::new();
    fs::write(m.path("File"), "1").unwrap();
    fs::write(m.path("file"), "2").unwrap();
    assert_eq!(fs::read_to_string(m.path("File")).unwrap(), "1");
    assert_eq!(errno(fs::read(m.path("FILE"))), libc::ENOENT);
}

fn check_longest(host: Host) {
    let m = Mounted::on(host);
    m.alike(|dir| {
        let (long, longer) = ("n".repeat(255), "n".repeat(256));
        fs::write(dir.join(&long), "1").unwrap();
        (
            names(dir),
            errno(fs::write(dir.join(&longer), "1")),
            errno(fs::metadata(dir.join(&longer))),
            errno(fs::create_dir(dir.join(&longer))),
            errno(fs::rename(dir.join(&long), dir.join(&longer))),
            errno(fs::hard_link(dir.join(&long), dir.join(&longer))),
            errno(std::os::unix::fs::symlink("x", dir.join(&longer))),
            errno(fs::remove_file(dir.join(&longer))),
        )
    });
}

#[test]
fn a_name_has_255_bytes_and_no_more() {
    check_longest(Host::Ext4);
}

#[test]
fn a_name_has_255_bytes_on_xfs_too() {
    check_longest(Host::Xfs);
}

#[test]
fn what_is_no_name_is_refused_as_on_the_host() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        [
            errno(fs::create_dir(dir.join("d/."))),
            errno(fs::create_dir(dir.join("d/.."))),
            errno(fs::remove_dir(dir.join("d/."))),
            errno(fs::remove_dir(dir.join("d/.."))),
            errno(fs::rename(dir.join("d/."), dir.join("e"))),
            errno(fs::rename(dir.join("d"), dir.join("d/.."))),
            errno(fs::write(dir.join("slash/"), "1")),
            errno(fs::metadata(dir.join(""))),
            errno(fs::remove_file(dir.join("d"))),
        ]
    });
}

/// Directories below each other, `depth` of them, all with the same long name; returns the deepest.
fn descend(root: impl AsFd, depth: usize) -> OwnedFd {
    let name = "d".repeat(200);
    let mut at = openat(root, ".", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        match mkdirat(&at, &name, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => {}
            made => made.unwrap(),
        }
        at = openat(&at, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    at
}

#[test]
fn a_tree_may_be_deeper_than_any_path() {
    let m = Mounted::new();
    apart(ROOT, || {
        let root = File::open(m.path("")).unwrap();
        let deepest = descend(&root, 50);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = File::from(openat(&deepest, "f", flags, Mode::RWXU).unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, b"deep", 0).unwrap();
        drop(file);
        rustix::fs::renameat(&deepest, "f", &deepest, "g").unwrap();
        rustix::fs::linkat(&deepest, "g", &deepest, "h", AtFlags::empty()).unwrap();
        unlinkat(&deepest, "g", AtFlags::empty()).unwrap();
        let again = descend(&root, 50);
        assert_eq!(statat(&again, "h", AtFlags::empty()).unwrap().st_size, 4);
        let path = m.path(&["d".repeat(200).as_str(); 50].join("/"));
        assert_eq!(errno(fs::metadata(path)), libc::ENAMETOOLONG, "the path is longer than a call takes");
    });
    let deepest = m.records().pop().unwrap();
    let path = deepest.change.path().unwrap();
    assert!(path.len() > 50 * 200 && path.ends_with(b"/g"), "the record tells all of the path");
}

#[test]
fn a_working_directory_stays_when_it_is_renamed() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("a/b")).unwrap();
    apart(ROOT, || {
        std::env::set_current_dir(m.path("a/b")).unwrap();
        fs::rename(m.path("a"), m.path("z")).unwrap();
        fs::write("f", "here").unwrap();
        assert_eq!(std::env::current_dir().unwrap(), m.path("z/b"));
        assert_eq!(fs::read_to_string("../b/f").unwrap(), "here");
    });
    assert_eq!(fs::read_to_string(m.path("z/b/f")).unwrap(), "here");
}

#[test]
fn a_removed_directory_takes_no_more_names() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let handle = openat(CWD, m.path("d"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    let kinds = m.kinds_of(|| {});
    let create = openat(&handle, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU);
    assert_eq!((errno(create), errno(mkdirat(&handle, "e", Mode::RWXU))), (libc::ENOENT, libc::ENOENT));
    assert_eq!(kinds, [""; 0]);
}

#[test]
fn a_removed_directory_is_there_for_those_who_have_it() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        let handle = openat(CWD, dir.join("d"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::remove_dir(dir.join("d")).unwrap();
        let found = rustix::fs::fstat(&handle).unwrap();
        let listed = rustix::fs::Dir::new(handle.try_clone().unwrap()).unwrap().count();
        (found.st_nlink, listed)
    });
}

#[test]
fn a_removed_file_is_there_for_a_descriptor_that_only_names_it() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), "1").unwrap();
        let handle = openat(CWD, dir.join("f"), OFlags::PATH, Mode::empty()).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
        let found = rustix::fs::fstat(&handle).unwrap();
        (found.st_nlink, found.st_size)
    });
}
