//! The daemon: started, in the way of others, ended, and killed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Host, Mounted, Process, ROOT, apart, errno, eventually, kinds, mezzo, succeeds};

/// What a command that fails says, with its exit status.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(!status.success() && stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

#[test]
fn the_mount_is_ready_when_the_command_returns() {
    for _ in 0..5 {
        let mut m = Mounted::unmounted(Host::Ext4, |_| {});
        succeeds(mezzo().arg("mount").arg(m.tree()));
        fs::write(m.path("f"), "1").unwrap();
        assert_eq!(kinds(&m.records()[1..]), ["create", "close"]);
        m.mounted_at(&m.tree());
    }
}

#[test]
fn what_was_there_before_is_taken_in() {
    let m = Mounted::with(Host::Ext4, |tree| {
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/f"), "before").unwrap();
        fs::hard_link(tree.join("a/b/f"), tree.join("g")).unwrap();
        symlink("a", tree.join("l")).unwrap();
    });
    let taken = m.records();
    assert_eq!(fs::read_to_string(m.path("l/b/f")).unwrap(), "before");
    assert_eq!(taken.iter().filter(|record| record.change.kind() == "link").count(), 1);
    assert_eq!(m.records().len(), taken.len());
}

#[test]
fn a_second_mount_is_refused() {
    let mut m = Mounted::new();
    let other = m.beside("other");
    for arguments in [vec![m.tree()], vec![m.tree(), other.clone()], vec![other.clone()]] {
        let (status, said) = refused(mezzo().arg("mount").args(&arguments));
        assert_eq!(status, Some(1));
        let expected = if arguments[0] == other { "is not a fileset" } else { "is a mounted fileset" };
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(!is_mounted(&other));
    m.unmount();
    succeeds(mezzo().arg("mount").arg(m.tree()).arg(&other));
    m.mounted_at(&other);
    let (_, said) = refused(mezzo().arg("mount").arg(m.tree()));
    assert!(said.contains(&format!("process {}", m.daemon().as_raw_nonzero())), "{said}");
}

#[test]
fn what_cannot_be_done_is_told_in_a_line() {
    let mut m = Mounted::new();
    let absent = m.tree().with_file_name("absent");
    let check = |arguments: &[&std::ffi::OsStr], expected: &str| {
        let (status, said) = refused(mezzo().args(arguments));
        assert!(status == Some(1) && said.contains(expected) && said.lines().count() == 1, "{said}");
    };
    let (tree, absent) = (m.tree().into_os_string(), absent.into_os_string());
    check(&["mount".as_ref(), &absent], "No such file");
    check(&["unmount".as_ref(), &absent], "not a mounted fileset");
    check(&["init".as_ref(), &tree], "is in the mounted fileset");
    let inside = m.path("d").into_os_string();
    fs::create_dir(m.path("d")).unwrap();
    check(&["init".as_ref(), &inside], "is in the mounted fileset");
    m.unmount();
    check(&["unmount".as_ref(), &tree], "not a mounted fileset");
    check(&["init".as_ref(), &tree], "is a fileset already");
    check(&["mount".as_ref(), &tree, &absent], "No such file");
}

#[test]
fn a_busy_mount_is_not_unmounted() {
    let m = Mounted::new();
    let user = Process::start(ROOT, |talk| {
        let file = File::create(m.path("f")).unwrap();
        talk.go_on();
        talk.wait();
        file.write_at(b"still here", 0).unwrap();
    });
    user.talk().wait();
    let (status, said) = refused(mezzo().arg("unmount").arg(m.tree()));
    assert_eq!(status, Some(1));
    assert!(said.contains("busy") && said.contains("--lazy"), "{said}");
    user.talk().go_on();
    user.finish();
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "still here");
}

#[test]
fn a_lazy_unmount_lets_users_finish() {
    let mut m = Mounted::new();
    let user = Process::start(ROOT, |talk| {
        let file = File::create(m.path("f")).unwrap();
        std::env::set_current_dir(m.path("")).unwrap();
        talk.go_on();
        talk.wait();
        file.write_at(b"to the end", 0).unwrap();
        fs::write("g", "also by name").unwrap();
    });
    user.talk().wait();
    succeeds(mezzo().arg("unmount").arg("--lazy").arg(m.tree()));
    assert!(!is_mounted(&m.tree()));
    user.talk().go_on();
    user.finish();
    m.daemon_ends();
    assert_eq!(fs::read_to_string(m.tree().join("g")).unwrap(), "also by name");
    assert_eq!(kinds(&m.records()[1..]), ["create", "create", "close", "close"]);
}

#[test]
fn a_fileset_is_mounted_elsewhere() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| fs::write(tree.join("old"), "1").unwrap());
    let place = m.beside("a place, with spaces\tand a tab");
    succeeds(mezzo().arg("mount").arg(m.tree()).arg(&place));
    m.mounted_at(&place);
    fs::write(place.join("f"), "through the mount").unwrap();
    assert_eq!(fs::read_to_string(m.tree().join("f")).unwrap(), "through the mount");
    assert_eq!(fs::read_to_string(place.join("old")).unwrap(), "1");
    // What is changed behind the mount is taken in when somebody comes by.
    fs::write(m.tree().join("behind"), "2").unwrap();
    assert_eq!(fs::read_to_string(place.join("behind")).unwrap(), "2");
    assert!(m.records().iter().any(|record| record.change.path() == Some(b"behind")));
    m.unmount();
    assert!(!is_mounted(&place));
}

#[test]
fn paths_to_a_fileset_may_be_relative_or_lead_through_links() {
    let mut m = Mounted::unmounted(Host::Ext4, |_| {});
    let link = m.tree().with_file_name("link");
    symlink("tree", &link).unwrap();
    succeeds(mezzo().arg("mount").arg("tree/").current_dir(m.tree().parent().unwrap()));
    m.mounted_at(&m.tree());
    fs::create_dir(m.path("d")).unwrap();
    succeeds(mezzo().arg("status").current_dir(m.path("d")));
    succeeds(mezzo().arg("status").arg(link.join("d")));
    succeeds(mezzo().arg("unmount").arg(&link));
    assert!(!is_mounted(&m.tree()));
    m.daemon_ends();
}

#[test]
fn in_the_foreground_it_stays_until_it_is_unmounted() {
    let mut m = Mounted::unmounted(Host::Ext4, |_| {});
    let mut foreground = mezzo().arg("mount").arg("--foreground").arg(m.tree()).spawn().unwrap();
    eventually("it is mounted", || is_mounted(&m.tree()));
    m.mounted_at(&m.tree());
    assert_eq!(m.daemon().as_raw_nonzero().get() as u32, foreground.id());
    fs::write(m.path("f"), "1").unwrap();
    assert!(foreground.try_wait().unwrap().is_none());
    m.unmount_while(|| {
        foreground.try_wait().unwrap();
    });
    assert!(foreground.wait().unwrap().success());
}

#[test]
fn after_a_kill_the_next_mount_clears_the_dead_one() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "before").unwrap();
    m.kill_daemon();
    // The kernel takes the connection down in its own time.
    eventually("nobody answers", || errno(fs::metadata(m.path("d/f"))) == libc::ENOTCONN);
    m.mount();
    assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "before");
    fs::write(m.path("d/g"), "after").unwrap();
}

#[test]
fn a_kill_amid_work_loses_nothing_and_tree_and_log_agree() {
    for round in 0..3 {
        let mut m = Mounted::new();
        let worker = Process::start(ROOT, |talk| {
            fs::create_dir(m.path("d")).unwrap();
            fs::write(m.path("d/first"), "1").unwrap();
            talk.go_on();
            for number in 0.. {
                let path = m.path(&format!("d/{number}"));
                let ended = fs::write(&path, "some bytes")
                    .and_then(|()| fs::rename(&path, m.path(&format!("d/renamed {}", number % 50))))
                    .is_err();
                if ended {
                    break;
                }
            }
        });
        worker.talk().wait();
        eventually("it is at work", || m.records().len() > 20 * (round + 1));
        m.kill_daemon();
        worker.finish();
        m.mount();
        assert_eq!(fs::read_to_string(m.path("d/first")).unwrap(), "1");
        fs::write(m.path("d/after"), "2").unwrap();
    }
}

#[test]
fn a_write_that_was_under_way_at_a_kill_is_recorded() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "12345").unwrap();
    let last = m.last();
    let writer = Process::start(ROOT, |talk| {
        let file = File::options().write(true).open(m.path("f")).unwrap();
        file.write_at(b"five!", 0).unwrap();
        talk.go_on();
        talk.wait();
        // The data goes past the daemon.
        let _ = file.write_at(b"FIVE!", 0);
    });
    writer.talk().wait();
    m.kill_daemon();
    writer.talk().go_on();
    writer.finish();
    m.mount();
    let text = fs::read_to_string(m.path("f")).unwrap();
    assert!(text == "five!" || text == "FIVE!", "{text}");
    assert_eq!(kinds(&m.records_since(last)), ["close"]);
}

#[test]
fn a_terminated_daemon_is_as_a_killed_one() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    rustix::process::kill_process(m.daemon(), rustix::process::Signal::TERM).unwrap();
    m.daemon_ends();
    m.mount();
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "1");
}

#[test]
fn what_is_changed_while_unmounted_is_taken_in() {
    let mut m = Mounted::new();
    for name in ["kept", "changed", "renamed", "removed"] {
        fs::write(m.path(name), name).unwrap();
    }
    m.unmount();
    let last = m.last();
    fs::write(m.tree().join("changed"), "behind").unwrap();
    fs::rename(m.tree().join("renamed"), m.tree().join("moved")).unwrap();
    fs::remove_file(m.tree().join("removed")).unwrap();
    fs::write(m.tree().join("new"), "new").unwrap();
    m.mount();
    // That something about a file changed and nobody can tell what may count as a change of its data.
    let mut told = kinds(&m.records_since(last));
    told.retain(|kind| *kind != "setattr");
    told.sort();
    told.dedup();
    assert_eq!(told, ["close", "create", "rename", "unlink"]);
    assert!(m.records_since(last).iter().all(|record| *record.who.program == *b"mezzo"));
}

#[test]
fn a_mount_again_and_again_records_nothing() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    let last = m.last();
    for _ in 0..10 {
        // The kernel tells of the end of an open in its own time.
        apart(ROOT, || drop(File::options().read(true).write(true).open(m.path("f")).unwrap()));
        m.unmount();
        assert_eq!(m.mount(), "", "the end was in order");
        assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "1");
    }
    // A digest may have become due meanwhile.
    let mut told = kinds(&m.records_since(last));
    told.retain(|kind| *kind != "digest");
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn what_is_no_directory_is_not_mounted_on_and_what_is_inside_not_unmounted() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| fs::create_dir(tree.join("d")).unwrap());
    let file = m.beside("file").join("f");
    fs::write(&file, "1").unwrap();
    let (_, said) = refused(mezzo().arg("mount").arg(m.tree()).arg(&file));
    assert!(said.contains("is not a directory"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"1");
    m.mount();
    let (_, said) = refused(mezzo().arg("unmount").arg(m.path("d")));
    assert!(said.contains("is not a mounted fileset, but in one"), "{said}");
    assert!(is_mounted(&m.tree()));
}

#[test]
fn an_end_that_is_not_over_is_not_taken_for_a_copy_in_use() {
    let mut m = Mounted::new();
    for _ in 0..10 {
        succeeds(Command::new("umount").arg(m.tree()));
        assert_eq!(m.mount(), "");
    }
}
