//! What was done is taken back, and done again.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use mezzo_core::Recno;

use crate::common::{
    BOB, Host, Mounted, Process, ROOT, apart, equal, errno, eventually, kinds, mezzo, succeeds,
};
use crate::mapping::Mapping;

fn undo(m: &Mounted, arguments: &[&str]) -> String {
    let output = succeeds(mezzo().arg("undo").arg(m.path("")).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

fn redo(m: &Mounted) {
    succeeds(mezzo().arg("redo").arg(m.path("")));
}

/// A command that is refused, and what it says.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(1 | 3)), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A few directories with files of some bytes each.
fn tree(root: &Path, files: usize) {
    for number in 0..files {
        let directory = root.join(format!("d{}", number % 20)).join("deep");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{number}")), format!("bytes of {number}")).unwrap();
    }
    symlink("target", root.join("link")).unwrap();
    fs::hard_link(root.join("d0/deep/f0"), root.join("other")).unwrap();
}

/// What is there now, somewhere else.
fn copy(m: &Mounted, name: &str) -> std::path::PathBuf {
    let copy = m.beside(name);
    succeeds(Command::new("cp").arg("-aT").arg(m.path("")).arg(&copy));
    copy
}

#[test]
fn the_last_change_is_taken_back_and_done_again() {
    let m = Mounted::new();
    fs::write(m.path("f"), "first").unwrap();
    fs::write(m.path("f"), "second").unwrap();
    let before = m.last();
    assert_eq!(undo(&m, &[]), "1 records taken back\n");
    assert_eq!(fs::read(m.path("f")).unwrap(), b"");
    assert_eq!(undo(&m, &[]), "1 records taken back\n");
    assert_eq!(fs::read(m.path("f")).unwrap(), b"first");
    redo(&m);
    redo(&m);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"second");
    assert_eq!(kinds(&m.records_since(before)), ["undo"; 4]);
}

#[test]
fn a_removed_tree_is_back_with_all_that_it_was() {
    for host in [Host::Ext4, Host::Xfs] {
        let m = Mounted::on(host);
        tree(&m.path(""), 200);
        let before = copy(&m, "before");
        let directories = fs::read_dir(m.path("")).unwrap().map(|entry| entry.unwrap().path());
        succeeds(Command::new("rm").arg("-rf").args(directories));
        assert_eq!(fs::read_dir(m.path("")).unwrap().count(), 0);
        undo(&m, &["--program", "rm"]);
        equal(&before, &m.path(""));
        redo(&m);
        assert_eq!(fs::read_dir(m.path("")).unwrap().count(), 0);
    }
}

#[test]
fn users_see_at_once_what_was_taken_back() {
    let m = Mounted::new();
    fs::write(m.path("f"), "first").unwrap();
    let mtime = fs::metadata(m.path("f")).unwrap().mtime_nsec();
    let before = m.last();
    fs::write(m.path("f"), "and more").unwrap();
    fs::write(m.path("g"), "new").unwrap();
    fs::rename(m.path("f"), m.path("h")).unwrap();
    let looked = (fs::metadata(m.path("h")).unwrap().len(), fs::metadata(m.path("g")).unwrap().len());
    assert_eq!(looked, (8, 3));
    undo(&m, &["--to", &before.to_string()]);
    assert_eq!(errno(fs::metadata(m.path("h"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(m.path("g"))), libc::ENOENT);
    let now = fs::metadata(m.path("f")).unwrap();
    assert_eq!((now.len(), now.mtime_nsec()), (5, mtime));
    assert_eq!(fs::read(m.path("f")).unwrap(), b"first");
    fs::write(m.path("f"), "it can be written").unwrap();
    assert_eq!(fs::read(m.path("f")).unwrap(), b"it can be written");
}

#[test]
fn one_program_s_work_is_taken_back_and_another_s_is_untouched() {
    let m = Mounted::new();
    for number in 0..20 {
        succeeds(Command::new("touch").arg(m.path(&format!("touched-{number}"))));
        succeeds(Command::new("mkdir").arg(m.path(&format!("made-{number}"))));
    }
    undo(&m, &["--program", "touch"]);
    let left: Vec<_> = fs::read_dir(m.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 20);
    assert!(left.iter().all(|name| name.to_str().unwrap().starts_with("made")));
}

#[test]
fn what_stands_in_the_way_is_told_and_nothing_is_done() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let made = m.last();
    fs::write(m.path("d/f"), "1").unwrap();
    let before = m.last();
    let told = refused(mezzo().arg("undo").arg(m.path("")).arg("--record").arg(made.to_string()));
    assert!(told.contains("nothing was taken back") && told.contains("has something in it"), "{told}");
    assert_eq!(m.last(), before);
    let planned = undo(&m, &["--record", &made.to_string(), "--along", "--dry-run"]);
    assert!(planned.ends_with("3 records would be taken back, 2 of them taken along\n"), "{planned}");
    assert_eq!(m.last(), before);
    undo(&m, &["--record", &made.to_string(), "--along"]);
    assert_eq!(errno(fs::metadata(m.path("d"))), libc::ENOENT);
}

#[test]
fn data_is_not_changed_under_those_who_write_to_it() {
    let m = Mounted::new();
    fs::write(m.path("f"), "first").unwrap();
    let before = m.last().to_string();
    fs::write(m.path("f"), "second").unwrap();
    let taking_back = || {
        let mut command = mezzo();
        command.arg("undo").arg(m.path("")).args(["--to", &before]);
        command
    };
    let writer = Process::start(ROOT, |talk| {
        let open = File::options().read(true).write(true).open(m.path("f")).unwrap();
        talk.go_on();
        talk.wait();
        let mapping = Mapping::shared(&open, 6);
        drop(open);
        talk.go_on();
        talk.wait();
        drop(mapping);
        talk.go_on();
        talk.wait();
    });
    for _ in ["it is open", "it is mapped"] {
        writer.talk().wait();
        let told = refused(&mut taking_back());
        assert!(told.contains("somebody has it open for writing"), "{told}");
        writer.talk().go_on();
    }
    writer.talk().wait();
    succeeds(&mut taking_back());
    assert_eq!(fs::read(m.path("f")).unwrap(), b"first");
    writer.talk().go_on();
    writer.finish();
}

#[test]
fn a_removed_file_stays_with_those_who_have_it_open() {
    let m = Mounted::new();
    let before = m.last();
    fs::write(m.path("f"), "bytes").unwrap();
    let open = File::open(m.path("f")).unwrap();
    undo(&m, &["--to", &before.to_string()]);
    assert_eq!(errno(fs::metadata(m.path("f"))), libc::ENOENT);
    assert_eq!(std::io::read_to_string(&open).unwrap(), "bytes");
    assert_eq!(open.metadata().unwrap().len(), 5);
}

#[test]
fn others_may_not_take_back() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let before = m.last();
    apart(BOB, || {
        assert!(!mezzo().arg("undo").arg(m.path("")).output().unwrap().status.success());
    });
    assert_eq!(m.last(), before);
    apart(ROOT, || drop(undo(&m, &[])));
}

#[test]
fn an_unmounted_fileset_is_taken_back_too() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    m.unmount();
    succeeds(mezzo().arg("undo").arg(m.tree()).args(["--last", "2"]));
    assert!(!m.tree().join("f").exists());
    succeeds(mezzo().arg("redo").arg(m.tree()));
    assert_eq!(fs::read(m.tree().join("f")).unwrap(), b"1");
}

#[test]
fn an_undo_that_was_cut_off_is_finished() {
    let mut m = Mounted::new();
    let before = m.last();
    let empty = copy(&m, "empty");
    tree(&m.path(""), 3000);
    let last = m.last();
    let mut undoing =
        mezzo().arg("undo").arg(m.path("")).args(["--to", &before.to_string()]).spawn().unwrap();
    eventually("it has begun", || m.last() > Recno(last.0 + 100));
    m.kill_daemon();
    undoing.wait().unwrap();
    // The kernel takes the connection down in its own time.
    eventually("nobody answers", || errno(rustix::fs::statvfs(m.path(""))) == libc::ENOTCONN);
    let notes = m.mount();
    assert!(notes.contains("had been cut off, and is finished now"), "{notes}");
    equal(&empty, &m.path(""));
}

#[test]
fn what_was_there_is_restored_beside_what_is() {
    let m = Mounted::new();
    tree(&m.path(""), 40);
    let before = copy(&m, "before");
    let last = m.last().to_string();
    fs::write(m.path("d0/deep/f0"), "other bytes").unwrap();
    fs::remove_dir_all(m.path("d1")).unwrap();
    fs::rename(m.path("d2"), m.path("d3/moved")).unwrap();
    let restore = |path: &str, onto: &Path| {
        let mut command = mezzo();
        command.arg("restore").arg(m.path("")).arg(path).args(["--at", &last, "--onto"]).arg(onto);
        command
    };
    let restored = m.beside("restored");
    for directory in ["d0", "d1", "d2"] {
        let onto = restored.join(directory);
        succeeds(&mut restore(directory, &onto));
        // Of the names of a file that has several, one is outside of the directory.
        fs::remove_file(before.join("other")).ok();
        equal(&before.join(directory), &onto);
    }
    succeeds(&mut restore("d0/deep/f0", &m.path("f0 as it was")));
    assert_eq!(fs::read(m.path("f0 as it was")).unwrap(), b"bytes of 0");
    assert!(refused(&mut restore("d0", &m.path("d0"))).contains("something stands there"));
    assert!(refused(&mut restore("nothing", &m.path("n"))).contains("nothing stood there after record"));
}

#[test]
fn records_are_taken_back_by_their_numbers() {
    let m = Mounted::new();
    fs::write(m.path("a"), "1").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    let made = m.last();
    fs::write(m.path("b"), "2").unwrap();
    succeeds(mezzo().arg("revert").arg(m.path("")).arg(made.to_string()));
    assert_eq!(errno(fs::metadata(m.path("d"))), libc::ENOENT);
    assert_eq!(fs::read_to_string(m.path("a")).unwrap() + &fs::read_to_string(m.path("b")).unwrap(), "12");
    redo(&m);
    assert!(m.path("d").is_dir());
    // Inside the fileset its directory may be left out.
    succeeds(mezzo().arg("revert").arg(made.to_string()).current_dir(m.path("")));
    assert_eq!(errno(fs::metadata(m.path("d"))), libc::ENOENT);
    let status = |arguments: &[&str]| {
        mezzo().arg("revert").arg(m.path("")).args(arguments).output().unwrap().status.code()
    };
    assert_eq!([status(&[]), status(&["x"]), status(&["9999"])], [Some(2), Some(2), Some(1)]);
}
