//! What is recorded of which system call, and who is named.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use mezzo_core::{Change, Record};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags, mknodat};

use crate::common::{ALICE, CAROL, Mounted, ROOT, apart, errno, kinds, mezzo, succeeds};

/// What is done, by name, and the kinds of the records that come of it.
type Row = (&'static str, fn(&Path), &'static [&'static str]);

const CALLS: &[Row] = &[
    ("create and close", |d| drop(File::create_new(d.join("f")).unwrap()), &["create"]),
    ("open to write and close", |d| drop(File::options().write(true).open(d.join("f")).unwrap()), &[]),
    ("open to read and close", |d| drop(File::open(d.join("f")).unwrap()), &[]),
    ("write", |d| write(&d.join("f"), b"some bytes"), &["close"]),
    ("write the same bytes", |d| write(&d.join("f"), b"some bytes"), &["close"]),
    ("write nothing", |d| write(&d.join("f"), b""), &[]),
    ("create, write and close", |d| fs::write(d.join("g"), "1").unwrap(), &["create", "close"]),
    (
        "write and fsync twice",
        |d| {
            let file = File::options().write(true).open(d.join("f")).unwrap();
            for byte in [b"1", b"2"] {
                file.write_all_at(byte, 0).unwrap();
                file.sync_all().unwrap();
            }
        },
        &["close", "close", "close"],
    ),
    ("open to truncate", |d| drop(File::create(d.join("g")).unwrap()), &["setattr"]),
    ("truncate an empty file", |d| drop(File::create(d.join("g")).unwrap()), &["setattr"]),
    ("rewrite", |d| fs::write(d.join("g"), "22").unwrap(), &["setattr", "close"]),
    (
        "truncate",
        |d| File::options().write(true).open(d.join("g")).unwrap().set_len(1).unwrap(),
        // Somebody may have written through the same descriptor just then.
        &["setattr", "close"],
    ),
    (
        "allocate",
        |d| {
            let file = File::options().write(true).open(d.join("g")).unwrap();
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 10_000).unwrap();
        },
        &["close"],
    ),
    ("chmod", |d| set_mode(&d.join("f"), 0o600), &["setattr"]),
    ("chown", |d| chown(d.join("f"), Some(ALICE.uid), None).unwrap(), &["setattr"]),
    ("utimens", |d| set_time(&d.join("f")), &["setattr"]),
    ("setxattr", |d| set_xattr(&d.join("f")), &["setxattr"]),
    ("removexattr", |d| rustix::fs::removexattr(d.join("f"), "user.a").unwrap(), &["removexattr"]),
    ("mkdir", |d| fs::create_dir(d.join("d")).unwrap(), &["mkdir"]),
    ("symlink", |d| symlink("f", d.join("l")).unwrap(), &["symlink"]),
    ("mknod fifo", |d| node(&d.join("fifo"), FileType::Fifo), &["mknod"]),
    ("mknod device", |d| node(&d.join("null"), FileType::CharacterDevice), &["mknod"]),
    ("mknod file", |d| node(&d.join("file"), FileType::RegularFile), &["create"]),
    ("link", |d| fs::hard_link(d.join("f"), d.join("d/f2")).unwrap(), &["link"]),
    ("rename", |d| fs::rename(d.join("g"), d.join("d/g")).unwrap(), &["rename"]),
    ("rename over", |d| fs::rename(d.join("file"), d.join("d/g")).unwrap(), &["rename"]),
    ("rename to itself", |d| fs::rename(d.join("d/g"), d.join("d/g")).unwrap(), &[]),
    (
        "exchange",
        |d| rustix::fs::renameat_with(CWD, d.join("f"), CWD, d.join("l"), RenameFlags::EXCHANGE).unwrap(),
        &["rename"],
    ),
    ("unlink one name of two", |d| fs::remove_file(d.join("d/f2")).unwrap(), &["unlink"]),
    ("unlink", |d| fs::remove_file(d.join("d/g")).unwrap(), &["unlink"]),
    ("unlink a link", |d| fs::remove_file(d.join("f")).unwrap(), &["unlink"]),
    ("rmdir", |d| fs::remove_dir(d.join("d")).unwrap(), &["rmdir"]),
    ("look", |d| fs::read_dir(d).unwrap().for_each(|entry| assert!(entry.unwrap().metadata().is_ok())), &[]),
    ("fail", |d| assert_ne!(errno(fs::remove_dir(d.join("absent"))), 0), &[]),
    (
        "write while it is removed",
        |d| {
            let file = File::create(d.join("gone")).unwrap();
            fs::remove_file(d.join("gone")).unwrap();
            file.write_all_at(b"1", 0).unwrap();
        },
        &["create", "unlink"],
    ),
    (
        "write, chmod and close",
        |d| {
            let file = File::create(d.join("h")).unwrap();
            file.write_all_at(b"1", 0).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        },
        &["create", "setattr", "close"],
    ),
];

fn write(path: &Path, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, 0).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path) {
    File::open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
}

fn set_xattr(path: &Path) {
    rustix::fs::setxattr(path, "user.a", b"1", XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType) {
    mknodat(CWD, path, kind, Mode::RWXU, rustix::fs::makedev(1, 3)).unwrap();
}

#[test]
fn each_call_makes_its_records() {
    let m = Mounted::new();
    for (call, act, expected) in CALLS {
        let root = m.path("");
        assert_eq!(m.kinds_of(|| act(&root)), *expected, "{call}");
    }
}

#[test]
fn a_call_is_recorded_when_it_returns() {
    let m = Mounted::new();
    for number in 0..50 {
        let name = format!("{number}");
        fs::create_dir(m.path(&name)).unwrap();
        assert_eq!(m.records().last().unwrap().change.path(), Some(name.as_bytes()));
    }
}

#[test]
fn a_record_tells_who_it_was() {
    let m = Mounted::new();
    set_mode(&m.path(""), 0o777);
    let mut touch = CAROL.command("touch").arg(m.path("f")).spawn().unwrap();
    let pid = touch.id();
    assert!(touch.wait().unwrap().success());
    let Record { who, change, .. } = m.records().swap_remove(2);
    assert_eq!(change.kind(), "create");
    assert_eq!((who.uid, who.gid, who.pid), (CAROL.uid, CAROL.gid, pid));
    assert_eq!(&*who.program, b"touch");
    let mut expected = CAROL.groups.to_vec();
    expected.sort();
    assert_eq!(who.groups, expected);
    // SAFETY: It takes a number and returns one; 0 is a session from outside of this namespace, which is not told.
    let session = match unsafe { libc::getsid(0) } {
        0 => String::new(),
        session => session.to_string(),
    };
    assert_eq!(&*who.session, session.as_bytes());
}

#[test]
fn a_record_tells_of_the_process_and_not_of_a_thread() {
    let m = Mounted::new();
    std::thread::scope(|scope| {
        scope.spawn(|| fs::create_dir(m.path("d")).unwrap());
    });
    assert_eq!(m.records().pop().unwrap().who.pid, std::process::id());
}

#[test]
fn a_close_names_who_wrote() {
    let m = Mounted::new();
    set_mode(&m.path(""), 0o777);
    let script = format!("echo 1 > '{0}/f'; echo 2 >> '{0}/f'", m.path("").display());
    succeeds(ALICE.command("sh").arg("-c").arg(script));
    let records = m.records();
    let closes: Vec<_> = records.iter().filter(|record| record.change.kind() == "close").collect();
    assert_eq!(closes.len(), 2);
    assert!(closes.iter().all(|record| record.who.uid == ALICE.uid && *record.who.program == *b"sh"));
}

#[test]
fn records_hold_what_was_and_what_came() {
    let m = Mounted::new();
    fs::write(m.path("f"), "12345").unwrap();
    File::options()
        .write(true)
        .open(m.path("f"))
        .unwrap()
        .set_permissions(fs::Permissions::from_mode(0o640))
        .unwrap();
    let last = m.last();
    apart(ROOT, || {
        set_mode(&m.path("f"), 0o4711);
        write(&m.path("f"), b"123456789");
        fs::remove_file(m.path("f")).unwrap();
    });
    let records = m.records_since(last);
    let [chmod, close, unlink] = &records[..] else { panic!("{records:#?}") };
    let Change::Setattr { attributes, .. } = &chmod.change else { panic!() };
    assert_eq!((attributes.before.mode, attributes.after.mode), (0o640, 0o4711));
    let Change::Close { attributes, data, stable: true, .. } = &close.change else { panic!() };
    assert_eq!((attributes.before.size, attributes.after.size), (5, 9));
    assert_ne!(data.before.version, data.after.version);
    let Change::Remove { removed, parent, .. } = &unlink.change else { panic!() };
    assert_eq!((removed.state.attributes.size, removed.links_left), (9, 0));
    assert_eq!(removed.state.data.unwrap().version, data.after.version);
    assert!(parent.before.mtime < parent.after.mtime);
}

#[test]
fn numbers_follow_each_other() {
    let m = Mounted::new();
    (0..20).for_each(|number| fs::write(m.path(&format!("{number}")), "1").unwrap());
    let records = m.records();
    for pair in records.windows(2) {
        assert!(pair[1].previous >= pair[0].recno && pair[1].recno > pair[0].recno);
    }
}

#[test]
fn the_log_is_shown_as_json() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    ALICE.does(|| assert_eq!(errno(fs::write(m.path("d/f"), "1")), libc::EACCES));
    File::options().write(true).create_new(true).mode(0o600).open(m.path("d/f")).unwrap();
    let output = succeeds(mezzo().arg("log").arg("--json").arg(m.path("")));
    let lines = String::from_utf8(output.stdout).unwrap();
    let records: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = records.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    let mut expected = kinds(&m.records());
    expected.reverse();
    assert_eq!(told, expected);
    assert_eq!((&records[0]["path"], &records[0]["after"]["mode"]), (&"d/f".into(), &"0600".into()));
    assert_eq!(records[0]["who"]["pid"], std::process::id());
}

#[test]
fn programs_that_only_read_make_no_record() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "some text\n").unwrap();
    symlink("f", m.path("d/l")).unwrap();
    let last = m.last();
    for command in
        ["cat d/f", "ls -lR", "find . -type f", "grep -r text .", "tar -cf /dev/null d", "du -s", "stat d/f"]
    {
        succeeds(std::process::Command::new("sh").arg("-c").arg(command).current_dir(m.path("")));
    }
    assert_eq!(kinds(&m.records_since(last)), [""; 0]);
}
