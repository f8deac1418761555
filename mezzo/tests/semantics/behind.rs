//! What is changed behind the mount, in the host's directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use mezzo_core::{Change, ObjectId, Recno, Record};
use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};

use crate::common::{Host, Mounted, Process, ROOT, apart, errno, eventually, kinds, mezzo, succeeds};

/// Waits until the watch has seen everything that was done before the call. It looks at events that came together in an order
/// of its own, so that a second mark, made when the first was recorded, tells that it is done with those of the first.
fn caught_up(m: &Mounted, mark: &str) {
    for mark in [format!("{mark} 1"), format!("{mark} 2")] {
        let last = m.last();
        fs::create_dir(m.host(&mark)).unwrap();
        eventually("the watch has come that far", || {
            m.records_since(last).iter().any(|record| record.change.path() == Some(mark.as_bytes()))
        });
    }
}

/// The records since `recno` of what is not the marks that [`caught_up`] leaves, nor the times of the directory they are in.
fn since(m: &Mounted, recno: Recno, mark: &str) -> Vec<Record> {
    let mut records = m.records_since(recno);
    records.retain(|record| {
        !record.change.path().is_some_and(|path| path.is_empty() || path.starts_with(mark.as_bytes()))
    });
    records
}

/// All that the log tells is done by mezzo, and is of these kinds, apart from directories' own times.
#[track_caller]
fn told(records: &[Record], expected: &[&str]) {
    assert!(records.iter().all(|record| *record.who.program == *b"mezzo"), "{records:#?}");
    let mut found = kinds(records);
    found.retain(|kind| *kind != "setattr");
    found.sort();
    found.dedup();
    assert_eq!(found, expected);
}

fn made(records: &[Record], path: &str) -> Option<ObjectId> {
    records.iter().find_map(|record| match &record.change {
        Change::Make { object, .. } if record.change.path() == Some(path.as_bytes()) => Some(*object),
        _ => None,
    })
}

fn changes_are_recorded(host: Host) {
    let m = Mounted::on(host);
    for name in ["changed", "renamed", "removed", "mode", "attribute"] {
        fs::write(m.path(name), name).unwrap();
    }
    fs::create_dir(m.path("d")).unwrap();
    let last = m.last();
    fs::write(m.host("changed"), "behind").unwrap();
    fs::rename(m.host("renamed"), m.host("d/moved")).unwrap();
    fs::remove_file(m.host("removed")).unwrap();
    fs::set_permissions(m.host("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    rustix::fs::setxattr(m.host("attribute"), "user.a", b"1", XattrFlags::empty()).unwrap();
    fs::create_dir_all(m.host("d/e/f")).unwrap();
    fs::write(m.host("d/e/f/new"), "new").unwrap();
    symlink("nowhere", m.host("link")).unwrap();
    caught_up(&m, "mark");
    let records = since(&m, last, "mark");
    told(&records, &["close", "create", "mkdir", "rename", "setxattr", "symlink", "unlink"]);
    assert_eq!(fs::read_to_string(m.path("d/e/f/new")).unwrap(), "new");
    assert_eq!(m.status()["watch"], true);
    eventually("status counts them", || {
        m.status()["watch_records"].as_u64().unwrap() >= records.len() as u64
    });
}

#[test]
fn what_is_changed_behind_the_mount_is_recorded() {
    changes_are_recorded(Host::Ext4);
}

#[test]
fn what_is_changed_behind_the_mount_is_recorded_on_xfs() {
    changes_are_recorded(Host::Xfs);
}

#[test]
fn users_see_what_was_changed_behind_the_mount() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    for name in ["changed", "removed", "mode"] {
        fs::write(m.path(&format!("d/{name}")), name).unwrap();
    }
    let listed = || {
        let entries = fs::read_dir(m.path("d")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    // The kernel knows all of it, and that there is no more.
    assert_eq!(listed().len(), 3);
    assert_eq!(errno(fs::metadata(m.path("d/new"))), libc::ENOENT);
    assert_eq!(fs::metadata(m.path("d/changed")).unwrap().len(), 7);
    fs::write(m.host("d/changed"), "something longer").unwrap();
    fs::remove_file(m.host("d/removed")).unwrap();
    fs::set_permissions(m.host("d/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(m.host("d/new"), "new").unwrap();
    eventually("a new file is there", || fs::read(m.path("d/new")).is_ok_and(|bytes| bytes == b"new"));
    eventually("a removed file is gone", || fs::metadata(m.path("d/removed")).is_err());
    eventually("the size is shown", || fs::metadata(m.path("d/changed")).unwrap().len() == 16);
    eventually("the mode is shown", || fs::metadata(m.path("d/mode")).unwrap().mode() & 0o777 == 0o600);
    eventually("the list is right", || listed().into_iter().eq(["changed", "mode", "new"]));
    assert_eq!(fs::read_to_string(m.path("d/changed")).unwrap(), "something longer");
}

#[test]
fn what_is_renamed_or_linked_behind_the_mount_is_the_same_object() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("d/below")).unwrap();
    fs::create_dir(m.path("e")).unwrap();
    for name in ["f", "g", "one", "other", "d/below/deep"] {
        fs::write(m.path(name), name).unwrap();
    }
    let last = m.last();
    let (before, deep) = (m.records(), fs::metadata(m.path("d/below/deep")).unwrap().ino());
    fs::rename(m.host("d"), m.host("e/d")).unwrap();
    fs::rename(m.host("f"), m.host("f2")).unwrap();
    fs::rename(m.host("f2"), m.host("e/f3")).unwrap();
    fs::hard_link(m.host("g"), m.host("e/g2")).unwrap();
    renameat_with(CWD, m.host("one"), CWD, m.host("other"), RenameFlags::EXCHANGE).unwrap();
    caught_up(&m, "mark");
    let records = since(&m, last, "mark");
    told(&records, &["close", "link", "rename"]);
    let moved = |path: &str| {
        records.iter().find_map(|record| match &record.change {
            Change::Rename { object, to_path, .. } if **to_path == *path.as_bytes() => Some(*object),
            _ => None,
        })
    };
    assert_eq!(moved("e/d"), made(&before, "d"));
    assert_eq!(moved("e/f3"), made(&before, "f"));
    assert_eq!(fs::metadata(m.path("e/d/below/deep")).unwrap().ino(), deep);
    assert_eq!(fs::metadata(m.path("e/g2")).unwrap().nlink(), 2);
    assert_eq!(fs::read_to_string(m.path("one")).unwrap(), "other");
}

#[test]
fn what_is_moved_in_is_taken_in_with_all_below_and_what_is_moved_out_is_gone() {
    let m = Mounted::new();
    let outside = m.beside("outside");
    fs::create_dir_all(outside.join("tree/a/b")).unwrap();
    fs::write(outside.join("tree/a/b/f"), "came along").unwrap();
    fs::hard_link(outside.join("tree/a/b/f"), outside.join("tree/a/g")).unwrap();
    fs::create_dir_all(m.path("old/x/y")).unwrap();
    fs::write(m.path("old/x/y/f"), "goes").unwrap();
    let last = m.last();
    let root = m.host("");
    fs::rename(outside.join("tree"), m.tree().join("in")).unwrap_err();
    move_across(&outside.join("tree"), &root.join("in"));
    move_across(&root.join("old"), &outside.join("out"));
    caught_up(&m, "mark");
    let records = since(&m, last, "mark");
    told(&records, &["create", "link", "mkdir", "rmdir", "unlink"]);
    assert_eq!(records.iter().filter(|record| record.change.kind() == "rmdir").count(), 3);
    assert_eq!(fs::read_to_string(m.path("in/a/b/f")).unwrap(), "came along");
    assert_eq!(errno(fs::metadata(m.path("old"))), libc::ENOENT);
    // What is done there from now on is none of the fileset's.
    let last = m.last();
    fs::write(outside.join("out/x/y/f"), "elsewhere").unwrap();
    fs::write(m.host("in/a/b/new"), "here").unwrap();
    caught_up(&m, "second mark");
    told(&since(&m, last, "second mark"), &["create"]);
}

/// By a process that sees both on one mount.
fn move_across(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

#[test]
fn what_users_do_is_recorded_once() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let last = m.last();
    apart(ROOT, || {
        for number in 0..200 {
            let path = m.path(&format!("d/{number}"));
            fs::write(&path, "some bytes").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&path, m.path(&format!("d/renamed {number}"))).unwrap();
            if number % 2 == 0 {
                fs::remove_file(m.path(&format!("d/renamed {number}"))).unwrap();
            }
        }
    });
    caught_up(&m, "mark");
    let records = since(&m, last, "mark");
    let by_mezzo: Vec<_> =
        records.iter().filter(|record| *record.who.program == *b"mezzo").map(|r| r.change.kind()).collect();
    assert!(by_mezzo.is_empty(), "{by_mezzo:?}");
    assert_eq!(records.len(), 200 * 4 + 100);
}

#[test]
fn a_file_that_users_write_to_is_changed_behind_the_mount() {
    let m = Mounted::new();
    fs::write(m.path("f"), "12345").unwrap();
    let last = m.last();
    let user = Process::start(ROOT, |talk| {
        let file = File::options().read(true).write(true).open(m.path("f")).unwrap();
        file.write_at(b"A", 0).unwrap();
        talk.go_on();
        talk.wait();
        file.write_at(b"B", 1).unwrap();
    });
    user.talk().wait();
    let behind = File::options().write(true).open(m.host("f")).unwrap();
    behind.write_at(b"67", 5).unwrap();
    drop(behind);
    rustix::fs::setxattr(m.host("f"), "user.a", b"1", XattrFlags::empty()).unwrap();
    caught_up(&m, "mark");
    assert_eq!(kinds(&since(&m, last, "mark")), ["setxattr"], "the data is told by the close");
    eventually("the size is shown", || fs::metadata(m.path("f")).unwrap().len() == 7);
    user.talk().go_on();
    user.finish();
    assert_eq!(kinds(&since(&m, last, "mark")), ["setxattr", "close"]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "AB34567");
}

#[test]
fn what_was_open_before_the_mount_is_written_behind_it() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| {
        fs::create_dir(tree.join("d")).unwrap();
        fs::write(tree.join("f"), "1").unwrap();
    });
    let user = Process::start(ROOT, |talk| {
        std::env::set_current_dir(m.tree().join("d")).unwrap();
        let file = File::options().write(true).open(m.tree().join("f")).unwrap();
        talk.go_on();
        talk.wait();
        file.write_at(b"from before", 0).unwrap();
        fs::write("beside", "2").unwrap();
    });
    user.talk().wait();
    m.mount();
    let last = m.last();
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "1");
    user.talk().go_on();
    user.finish();
    caught_up(&m, "mark");
    told(&since(&m, last, "mark"), &["close", "create"]);
    eventually("users see it", || fs::metadata(m.path("d/beside")).is_ok());
    eventually("users see its size", || fs::metadata(m.path("f")).unwrap().len() == 11);
}

#[test]
fn the_daemon_keeps_nothing_open_that_its_caller_had() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| fs::write(tree.join("f"), "1").unwrap());
    let file = File::options().append(true).open(m.tree().join("f")).unwrap();
    // As a shell's are, which commands get from it.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    m.mount();
    let last = m.last();
    file.write_at(b"2", 1).unwrap();
    drop(file);
    eventually("the close is noticed", || kinds(&m.records_since(last)) == ["close"]);
}

#[test]
fn what_is_not_in_the_fileset_is_not_recorded() {
    let m = Mounted::new();
    let last = m.last();
    let outside = m.beside("outside");
    fs::create_dir(outside.join("d")).unwrap();
    fs::write(outside.join("d/f"), "1").unwrap();
    fs::create_dir(m.host(".mezzo/elsewhere/1")).unwrap();
    fs::write(m.host(".mezzo/elsewhere/1/f"), "1").unwrap();
    // What is gone before anybody looks leaves at most the directory's times.
    fs::create_dir(m.host("d")).unwrap();
    fs::remove_dir(m.host("d")).unwrap();
    caught_up(&m, "mark");
    told(&m.records_since(last), &["mkdir"]);
}

#[test]
fn without_the_watch_the_mount_says_so_and_the_next_one_finds_it() {
    let mut m = Mounted::unmounted(Host::Ext4, |_| {});
    let output = succeeds(mezzo().arg("mount").arg("--no-watch").arg(m.tree()));
    assert!(String::from_utf8(output.stderr).unwrap().contains("without a watch"));
    m.mounted_at(&m.tree());
    let status = m.status();
    assert_eq!(status["watch"], false);
    assert!(status["without"][0].as_str().unwrap().contains("watch"), "{status}");
    fs::write(m.host("f"), "1").unwrap();
    m.unmount();
    let last = m.last();
    m.mount();
    told(&m.records_since(last), &["create"]);
}

#[test]
fn what_is_changed_until_the_unmount_is_recorded_by_then() {
    let mut m = Mounted::new();
    let last = m.last();
    for number in 0..50 {
        fs::write(m.host(&number.to_string()), "1").unwrap();
    }
    m.unmount();
    assert_eq!(m.records_since(last).iter().filter(|record| record.change.kind() == "create").count(), 50);
}
