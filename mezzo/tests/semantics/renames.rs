//! Renames: what they replace, exchange and refuse.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use mezzo_core::Change;
use mezzo_core::record::Displaced;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::{Mounted, errno, kinds};

/// A file, a directory with a file, an empty directory, a link, and two names of one file.
fn furnish(dir: &std::path::Path) {
    fs::write(dir.join("file"), "file").unwrap();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/inside"), "inside").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    fs::write(dir.join("one"), "two names").unwrap();
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
}

/// All below a directory, a line each: name, kind, links, and what it holds.
fn seen(dir: &std::path::Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if found.is_dir() {
            lines.push(format!("{name}/ {}", found.nlink()));
            lines.extend(seen(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else if found.is_symlink() {
            lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            lines.push(format!("{name} {} {}", found.nlink(), fs::read_to_string(&path).unwrap()));
        }
    }
    lines.sort();
    lines
}

/// Every pair of what is there, with each flag, in the mount and on the host.
fn check(flags: RenameFlags) {
    let m = Mounted::new();
    let names =
        ["file", "full", "full/inside", "empty", "link", "one", "two", "absent", "absent/x", "empty/new"];
    for from in names {
        m.alike(|dir| {
            names.map(|to| {
                let dir = dir.join(to.replace('/', "-"));
                fs::create_dir(&dir).unwrap();
                furnish(&dir);
                let done = errno(renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags));
                (from, to, done, seen(&dir))
            })
        });
        for entry in fs::read_dir(m.path("")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
    // Something to compare at the end.
    furnish(&m.path(""));
}

#[test]
fn every_rename_is_as_on_the_host() {
    check(RenameFlags::empty());
}

#[test]
fn every_rename_that_may_replace_nothing_is_as_on_the_host() {
    check(RenameFlags::NOREPLACE);
}

#[test]
fn every_exchange_is_as_on_the_host() {
    check(RenameFlags::EXCHANGE);
}

#[test]
fn other_flags_are_refused() {
    let m = Mounted::new();
    fs::write(m.path("a"), "1").unwrap();
    let rename = |flags| errno(renameat_with(CWD, m.path("a"), CWD, m.path("b"), flags));
    assert_eq!(rename(RenameFlags::WHITEOUT), libc::EINVAL);
    assert_eq!(rename(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE), libc::EINVAL);
    assert_eq!(fs::read_to_string(m.path("a")).unwrap(), "1");
}

#[test]
fn a_rename_is_one_record_whatever_it_displaces() {
    let m = Mounted::new();
    furnish(&m.path(""));
    let displaced = |from: &str, to: &str, flags| {
        let records = m.records_of(|| renameat_with(CWD, m.path(from), CWD, m.path(to), flags).unwrap());
        assert_eq!(kinds(&records), ["rename"]);
        match &records[0].change {
            Change::Rename { displaced, .. } => displaced.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(displaced("file", "moved", RenameFlags::empty()), Displaced::Nothing);
    assert!(matches!(displaced("moved", "full/inside", RenameFlags::empty()), Displaced::Replaced(_)));
    assert!(matches!(displaced("one", "full", RenameFlags::EXCHANGE), Displaced::Exchanged { .. }));
    let Displaced::Replaced(removed) = displaced("link", "two", RenameFlags::empty()) else { panic!() };
    assert_eq!(removed.links_left, 1);
    let between_names = m.kinds_of(|| {
        fs::hard_link(m.path("full"), m.path("again")).unwrap();
        fs::rename(m.path("again"), m.path("full")).unwrap();
    });
    assert_eq!(between_names, ["link"], "two names of one file: nothing happens");
}

#[test]
fn a_directory_moves_with_all_that_is_below() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    fs::create_dir_all(m.path("x/y")).unwrap();
    fs::write(m.path("a/b/c/f"), "deep").unwrap();
    let inode = fs::metadata(m.path("a/b")).unwrap().ino();
    let kinds = m.kinds_of(|| {
        fs::rename(m.path("a/b"), m.path("x/y/z")).unwrap();
        assert_eq!(fs::read_to_string(m.path("x/y/z/c/f")).unwrap(), "deep");
        assert_eq!(fs::metadata(m.path("x/y/z")).unwrap().ino(), inode);
        assert_eq!(
            fs::metadata(m.path("x/y/z/..")).unwrap().ino(),
            fs::metadata(m.path("x/y")).unwrap().ino()
        );
        assert_eq!(errno(fs::metadata(m.path("a/b/c/f"))), libc::ENOENT);
    });
    assert_eq!(kinds, ["rename"]);
}

#[test]
fn a_directory_cannot_move_below_itself() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    let kinds = m.kinds_of(|| {
        for to in ["a/x", "a/b/x", "a/b/c/x"] {
            assert_eq!(errno(fs::rename(m.path("a"), m.path(to))), libc::EINVAL);
        }
        assert_eq!(errno(fs::rename(m.path("a/b/c"), m.path("a"))), libc::ENOTEMPTY);
        let swap = renameat_with(CWD, m.path("a"), CWD, m.path("a/b"), RenameFlags::EXCHANGE);
        assert_eq!(errno(swap), libc::EINVAL);
    });
    assert_eq!(kinds, [""; 0]);
}

#[test]
fn directories_are_exchanged_across_the_tree() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("a/inner")).unwrap();
    fs::create_dir_all(m.path("b/other/deep")).unwrap();
    fs::write(m.path("a/inner/f"), "f").unwrap();
    fs::write(m.path("b/other/deep/g"), "g").unwrap();
    renameat_with(CWD, m.path("a/inner"), CWD, m.path("b/other"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(m.path("a/inner/deep/g")).unwrap(), "g");
    assert_eq!(fs::read_to_string(m.path("b/other/f")).unwrap(), "f");
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 3);
}

/// Three save a file over and over, each by a rename; `read` reads it meanwhile.
fn save_by_rename(m: &Mounted, read: impl Fn() -> std::io::Result<Vec<u8>>) {
    fs::write(m.path("f"), "0".repeat(10_000)).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            scope.spawn(move || {
                for round in 0..50 {
                    let temporary = m.path(&format!("f.{writer}"));
                    let digit = char::from(b'0' + (round % 10) as u8);
                    fs::write(&temporary, digit.to_string().repeat(10_000)).unwrap();
                    fs::rename(&temporary, m.path("f")).unwrap();
                }
            });
        }
        for _ in 0..200 {
            let bytes = read().unwrap();
            assert_eq!(bytes.len(), 10_000);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        }
    });
}

#[test]
fn a_file_that_is_replaced_is_always_there_and_whole() {
    let m = Mounted::new();
    save_by_rename(&m, || fs::read(m.path("f")));
}
