//! A host file system that is full, of bytes, of inodes or of somebody's quota, or that writes no more.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with, setxattr};

use crate::common::{ALICE, BOB, Mounted, Process, ROOT, SmallHost, apart, errno, eventually, kinds};

/// Without the blocks that ext4 keeps for root: the log has none then that users have not.
const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F", "-m", "0"];
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];

/// Does `act` with numbers from 0 on, until it fails; how often it was done, and the error.
fn until_it_fails(act: &dyn Fn(u32) -> std::io::Result<()>) -> (u32, i32) {
    for number in 0..100_000 {
        if let Err(error) = act(number) {
            return (number, error.raw_os_error().expect("the system's error"));
        }
    }
    panic!("it never failed");
}

/// Writes to a file until that fails.
fn fill(path: &Path, step: usize) -> i32 {
    let file = File::create(path).unwrap();
    let bytes = vec![7; step];
    until_it_fails(&|_| (&file).write_all(&bytes)).1
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

type Act = fn(&Path, u32) -> std::io::Result<()>;

/// What takes room. Nothing of it may be there where it fails.
const ACTS: &[(&str, Act)] = &[
    ("create", |d, n| File::create_new(d.join(format!("create {n}"))).map(drop)),
    ("write", |d, n| File::create_new(d.join(format!("write {n}")))?.write_all(&[1; 5000])),
    ("mkdir", |d, n| fs::create_dir(d.join(format!("mkdir {n}")))),
    ("symlink", |d, n| symlink("x".repeat(900), d.join(format!("symlink {n}")))),
    ("link", |d, n| fs::hard_link(d.join("file"), d.join(format!("link {n} {}", "l".repeat(200))))),
    ("rename", |d, n| {
        fs::rename(d.join(format!("create {n}")), d.join(format!("rename {n} {}", "r".repeat(200))))
    }),
    ("xattr", |d, n| {
        Ok(setxattr(d.join(format!("mkdir {n}")), "user.a", &[b'x'; 700], XattrFlags::empty())?)
    }),
    ("replace", |d, n| {
        let new = d.join("new");
        let _ = fs::remove_file(&new);
        File::create_new(&new)?.write_all(&vec![2; 3000 + n as usize % 5000])?;
        fs::rename(new, d.join(format!("replace {}", n % 50)))
    }),
];

/// Fills the host through the mount, in every way, and makes room again.
fn fill_and_empty(m: &mut Mounted, expected: &[i32]) {
    m.mount();
    let root = m.path("");
    for round in 0..4 {
        let d = root.join("d");
        fs::create_dir(&d).unwrap();
        fs::write(d.join("file"), "1").unwrap();
        let error = fill(&d.join("large"), 1 << 20);
        assert!(expected.contains(&error), "round {round}: {error}");
        for (what, act) in ACTS {
            let error = (0..3000).find_map(|number| {
                let failed = act(&d, number).err()?.raw_os_error().unwrap();
                let made = d.join(format!("{what} {number}"));
                assert!(
                    !matches!(*what, "create" | "mkdir" | "symlink") || !is_there(&made),
                    "{what} {number} is there"
                );
                Some(failed)
            });
            let allowed = error.is_none_or(|error| expected.contains(&error) || error == libc::ENOENT);
            assert!(allowed, "round {round}: {what}: {error:?}");
        }
        let _ = renameat_with(CWD, d.join("file"), CWD, d.join("large"), RenameFlags::EXCHANGE);
        assert_eq!(m.status()["broken"], serde_json::Value::Null);
        // What is removed is removed, however full it is, and its room can be used at once.
        for entry in fs::read_dir(&d).unwrap() {
            let path = entry.unwrap().path();
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("round {round}: {}: {error}", path.display()));
        }
        fs::remove_dir(&d).unwrap();
        eventually("there is room again", || fs::write(root.join("small"), vec![3; 1 << 20]).is_ok());
        fs::remove_file(root.join("small")).unwrap();
    }
    assert_eq!(m.status()["broken"], serde_json::Value::Null);
}

#[test]
fn a_full_host_is_told_as_such_and_nothing_is_half_done_on_ext4() {
    let mut m = Mounted::on_small(SmallHost::new(EXT4, 64, "rw"));
    fill_and_empty(&mut m, &[libc::ENOSPC]);
}

#[test]
fn a_full_host_is_told_as_such_and_nothing_is_half_done_on_xfs() {
    let mut m = Mounted::on_small(SmallHost::new(XFS, 320, "rw"));
    fill_and_empty(&mut m, &[libc::ENOSPC]);
}

#[test]
fn a_full_host_is_told_as_such_and_nothing_is_half_done_in_memory() {
    let mut m = Mounted::on_small(SmallHost::in_memory(64));
    fill_and_empty(&mut m, &[libc::ENOSPC]);
}

#[test]
fn a_host_without_inodes_is_told_as_such() {
    let mut m = Mounted::on_small(SmallHost::new(&[EXT4, &["-N", "200"]].concat(), 64, "rw"));
    m.mount();
    for _ in 0..3 {
        let (made, error) =
            until_it_fails(&|number| File::create_new(m.path(&format!("{number}"))).map(drop));
        assert!(made > 50 && error == libc::ENOSPC, "{made}: {error}");
        assert_eq!(errno(fs::create_dir(m.path("d"))), libc::ENOSPC);
        (0..made).for_each(|number| fs::remove_file(m.path(&format!("{number}"))).unwrap());
        // What the attic keeps has inodes too, which it gives up.
        for number in 0..made {
            fs::write(m.path(&format!("{number}")), "1").unwrap();
            fs::remove_file(m.path(&format!("{number}"))).unwrap();
        }
    }
}

#[test]
fn what_the_host_keeps_for_root_is_root_s_alone() {
    let mut m = Mounted::on_small(SmallHost::new(&["mkfs.ext4", "-q", "-F", "-m", "30"], 64, "rw"));
    m.mount();
    fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    apart(ALICE, || assert_eq!(fill(&m.path("large"), 64 << 10), libc::ENOSPC));
    apart(BOB, || assert_eq!(fill(&m.path("other"), 64 << 10), libc::ENOSPC));
    apart(ROOT, || fs::write(m.path("root's"), vec![1; 4 << 20]).unwrap());
    apart(BOB, || assert_eq!(fill(&m.path("other"), 64 << 10), libc::ENOSPC));
}

/// Gives a user so many KiB and inodes on the file system at `path`.
fn set_quota(path: &Path, uid: u32, kibibytes: u64, inodes: u64) {
    #[repr(C)]
    #[derive(Default)]
    struct Quota {
        hard_blocks: u64,
        soft_blocks: u64,
        space: u64,
        hard_inodes: u64,
        soft_inodes: u64,
        inodes: u64,
        block_time: u64,
        inode_time: u64,
        valid: u32,
    }
    let quota = Quota {
        hard_blocks: kibibytes,
        soft_blocks: kibibytes,
        hard_inodes: inodes,
        soft_inodes: inodes,
        // QIF_LIMITS.
        valid: 5,
        ..Quota::default()
    };
    let file = File::open(path).unwrap();
    // Q_SETQUOTA for users (quotactl(2)), on an open file.
    let command: libc::c_uint = 0x0080_0008 << 8;
    // SAFETY: Quota is laid out as struct if_dqblk, and outlives the call.
    let set =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, uid, &raw const quota) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_user_s_quota_holds() {
    let with_quotas = [EXT4, &["-O", "quota"]].concat();
    let Some(host) = SmallHost::if_possible(&with_quotas, 64, "usrquota") else {
        eprintln!("this kernel has no quotas: skipped");
        return;
    };
    set_quota(&host.path(), ALICE.uid, 4096, 50);
    let mut m = Mounted::on_small(host);
    m.mount();
    let d = m.path("d");
    fs::create_dir(&d).unwrap();
    fs::set_permissions(&d, fs::Permissions::from_mode(0o777)).unwrap();
    for _ in 0..3 {
        apart(ALICE, || {
            assert_eq!(fill(&d.join("large"), 64 << 10), libc::EDQUOT);
            let size = fs::metadata(d.join("large")).unwrap().len();
            assert!((3 << 20..=4 << 20).contains(&size), "{size}");
            // What is removed may be kept, but not at the user's cost.
            fs::remove_file(d.join("large")).unwrap();
            fs::write(d.join("small"), vec![1; 2 << 20]).unwrap();
            fs::remove_file(d.join("small")).unwrap();
            let (made, error) =
                until_it_fails(&|number| File::create_new(d.join(format!("{number}"))).map(drop));
            assert!((20..=50).contains(&made) && error == libc::EDQUOT, "{made}: {error}");
            (0..made).for_each(|number| fs::remove_file(d.join(format!("{number}"))).unwrap());
        });
        apart(BOB, || fs::write(d.join("other"), "has room").unwrap());
    }
    assert_eq!(m.status()["broken"], serde_json::Value::Null);
}

#[test]
fn a_log_that_cannot_be_written_ends_all_changes_and_the_next_mount_makes_up_for_it() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let last = m.last();
    let log = fs::metadata(m.host(".mezzo/kml/00000000000000000001.kml")).unwrap().len();
    // The daemon may write no file further than this, and what is done before the record is done.
    let limit = rustix::process::Rlimit { current: Some(log), maximum: Some(log) };
    rustix::process::prlimit(Some(m.daemon()), rustix::process::Resource::Fsize, limit).unwrap();
    assert_eq!(errno(fs::create_dir(m.path("d"))), libc::EFBIG);
    for _ in 0..2 {
        assert_eq!(errno(fs::create_dir(m.path("e"))), libc::EROFS);
        assert_eq!(errno(fs::remove_file(m.path("f"))), libc::EROFS);
        assert_eq!(errno(File::options().write(true).open(m.path("f"))), libc::EROFS);
        assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "1");
    }
    let told = fs::read_to_string(m.host(".mezzo/daemon.log")).unwrap();
    assert!(told.contains("could not record mkdir"), "{told}");
    assert!(m.status()["broken"].as_str().is_some_and(|reason| reason.contains("File too large")));
    m.unmount();
    let said = m.mount();
    assert!(said.contains("1 records were made of what was in flight"), "{said}");
    assert_eq!(kinds(&m.records_since(last)), ["mkdir"]);
    fs::write(m.path("d/after"), "2").unwrap();
}

#[test]
fn a_host_that_turned_read_only_is_told_and_nothing_is_lost() {
    let mut m = Mounted::on_small(SmallHost::new(EXT4, 64, "rw"));
    m.mount();
    fs::write(m.path("f"), "1").unwrap();
    let last = m.last();
    m.small_host().abort();
    let refused = [libc::EROFS, libc::EIO];
    assert!(refused.contains(&errno(fs::create_dir(m.path("d")))));
    assert!(refused.contains(&errno(fs::remove_file(m.path("f")))));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "1");
    let status = m.status();
    assert!(status["broken"].is_string() || status["trouble"].is_string(), "{status}");
    m.unmount();
    m.host_again();
    m.mount();
    assert!(kinds(&m.records_since(last)).is_empty());
    fs::write(m.path("f"), "22").unwrap();
}

#[test]
fn an_fsync_that_fails_ends_all_changes() {
    let mut m = Mounted::on_small(SmallHost::new(EXT4, 64, "rw"));
    m.mount();
    let writer = Process::start(ROOT, |talk| {
        let file = File::create(m.path("f")).unwrap();
        (&file).write_all(b"1").unwrap();
        talk.go_on();
        talk.wait();
        assert_ne!(errno(file.sync_all()), 0);
    });
    writer.talk().wait();
    m.small_host().abort();
    writer.talk().go_on();
    writer.finish();
    assert!(m.status()["broken"].is_string() || m.status()["trouble"].is_string());
    assert_ne!(errno(fs::create_dir(m.path("d"))), 0);
    m.unmount();
    m.host_again();
    m.mount();
}
