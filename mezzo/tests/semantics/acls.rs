//! Access control lists, which are extended attributes that the kernel obeys.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, mknodat, setxattr};
use rustix::process::umask;

use crate::common::{ALICE, BOB, CAROL, Host, Mounted, TEAM, errno, succeeds};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Whom an entry is about, and what they may: from linux/posix_acl_xattr.h.
#[derive(Clone, Copy)]
pub enum Entry {
    Owner(u16),
    User(u32, u16),
    Group(u16),
    OtherGroup(u32, u16),
    Mask(u16),
    Others(u16),
}

pub fn acl(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for entry in entries {
        let (tag, may, id) = match *entry {
            Entry::Owner(may) => (1u16, may, u32::MAX),
            Entry::User(id, may) => (2, may, id),
            Entry::Group(may) => (4, may, u32::MAX),
            Entry::OtherGroup(id, may) => (8, may, id),
            Entry::Mask(may) => (16, may, u32::MAX),
            Entry::Others(may) => (32, may, u32::MAX),
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Alice may read and write what is root's, the team may read, nobody else may anything.
fn for_alice() -> Vec<u8> {
    use Entry::*;
    acl(&[Owner(6), User(ALICE.uid, 6), Group(0), OtherGroup(TEAM, 4), Mask(6), Others(0)])
}

/// As an extended attribute tells it, in hexadecimal; empty where there is none.
fn told(path: &Path, name: &str) -> String {
    let mut value = [0; 1024];
    let length = getxattr(path, name, &mut value).unwrap_or(0);
    value[..length].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn set(path: &Path, name: &str, value: &[u8]) -> i32 {
    errno(setxattr(path, name, value, XattrFlags::empty()))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn file(path: &Path) {
    fs::write(path, "1").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn check_obeyed(host: Host) {
    let m = Mounted::on(host);
    m.alike(|dir| {
        let path = dir.join("f");
        file(&path);
        let before = [ALICE, BOB, CAROL].map(|user| user.does(|| errno(fs::read(&path))));
        assert_eq!(set(&path, ACCESS, &for_alice()), 0);
        let reads = [ALICE, BOB, CAROL].map(|user| user.does(|| errno(fs::read(&path))));
        let writes = [ALICE, BOB, CAROL].map(|user| user.does(|| errno(fs::write(&path, "2"))));
        (before, reads, writes, format!("{:o}", mode(&path)), told(&path, ACCESS))
    });
}

#[test]
fn an_acl_is_obeyed() {
    check_obeyed(Host::Ext4);
}

#[test]
fn an_acl_is_obeyed_on_xfs() {
    check_obeyed(Host::Xfs);
}

#[test]
fn an_acl_and_its_removal_are_recorded() {
    let m = Mounted::new();
    file(&m.path("f"));
    assert_eq!(m.kinds_of(|| assert_eq!(set(&m.path("f"), ACCESS, &for_alice()), 0)), ["setxattr"]);
    let removed = m.kinds_of(|| rustix::fs::removexattr(m.path("f"), ACCESS).unwrap());
    assert_eq!(removed, ["removexattr"]);
    assert_eq!(ALICE.does(|| errno(fs::read(m.path("f")))), libc::EACCES);
}

#[test]
fn chmod_sets_the_mask_of_an_acl() {
    let m = Mounted::new();
    file(&m.path("f"));
    set(&m.path("f"), ACCESS, &for_alice());
    let kinds = m.kinds_of(|| fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o640)).unwrap());
    assert_eq!(kinds, ["setattr"]);
    assert_eq!(
        ALICE.does(|| [errno(fs::read(m.path("f"))), errno(fs::write(m.path("f"), "2"))]),
        [0, libc::EACCES]
    );
    m.alike(|dir| {
        let path = dir.join("g");
        file(&path);
        set(&path, ACCESS, &for_alice());
        [0o600, 0o660, 0o777, 0o604].map(|bits| {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            (format!("{:o}", mode(&path)), told(&path, ACCESS), ALICE.does(|| errno(fs::write(&path, "2"))))
        })
    });
}

#[test]
fn a_default_acl_is_inherited_and_the_mask_is_not_applied() {
    let m = Mounted::new();
    m.alike(|dir| {
        use Entry::*;
        let default = acl(&[Owner(7), User(ALICE.uid, 6), Group(5), Mask(7), Others(4)]);
        fs::create_dir(dir.join("d")).unwrap();
        fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(set(&dir.join("d"), DEFAULT, &default), 0);
        [(0o022, BOB), (0o077, BOB), (0o000, CAROL)].map(|(mask, user)| {
            let dir = dir.join("d").join(format!("{mask:o}"));
            user.does(|| {
                let before = umask(Mode::from_bits_retain(mask));
                fs::create_dir(&dir).unwrap();
                File::options().write(true).create_new(true).mode(0o666).open(dir.join("file")).unwrap();
                File::options().write(true).create_new(true).mode(0o600).open(dir.join("narrow")).unwrap();
                mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_bits_retain(0o666), 0).unwrap();
                symlink("x", dir.join("link")).unwrap();
                let unnamed = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::WRONLY;
                let unnamed = rustix::fs::open(&dir, unnamed, Mode::from_bits_retain(0o666)).unwrap();
                rustix::fs::linkat(
                    CWD,
                    format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&unnamed)),
                    CWD,
                    dir.join("unnamed"),
                    rustix::fs::AtFlags::SYMLINK_FOLLOW,
                )
                .ok();
                umask(before);
            });
            let names = ["", "file", "narrow", "fifo", "link"].map(|name| dir.join(name));
            names.map(|path| (format!("{:o}", mode(&path)), told(&path, ACCESS), told(&path, DEFAULT)))
        })
    });
}

#[test]
fn what_inherits_an_acl_is_recorded_as_one() {
    let m = Mounted::new();
    use Entry::*;
    fs::create_dir(m.path("d")).unwrap();
    set(&m.path("d"), DEFAULT, &acl(&[Owner(7), User(ALICE.uid, 7), Group(5), Mask(7), Others(0)]));
    assert_eq!(m.kinds_of(|| drop(File::create(m.path("d/f")).unwrap())), ["create"]);
    assert_eq!(m.kinds_of(|| fs::create_dir(m.path("d/e")).unwrap()), ["mkdir"]);
    let state = |record: &mezzo_core::Record| match &record.change {
        mezzo_core::Change::Make { state, .. } => state.xattrs.len(),
        other => panic!("{other:?}"),
    };
    let records = m.records();
    let made: Vec<_> = records[records.len() - 2..].iter().map(state).collect();
    assert_eq!(made, [1, 2], "the directory hands it on");
}

#[test]
fn only_the_owner_sets_an_acl_and_only_directories_have_a_default_one() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        file(&path);
        fs::create_dir(dir.join("d")).unwrap();
        chown(dir.join("d"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
        symlink("f", dir.join("l")).unwrap();
        let broken = acl(&[Entry::Owner(6), Entry::Group(6)]);
        (
            BOB.does(|| [set(&path, ACCESS, &for_alice()), set(&dir.join("d"), DEFAULT, &for_alice())]),
            ALICE.does(|| set(&dir.join("d"), DEFAULT, &for_alice())),
            set(&path, DEFAULT, &for_alice()),
            set(&path, ACCESS, &broken),
            errno(rustix::fs::lsetxattr(dir.join("l"), ACCESS, &for_alice(), XattrFlags::empty())),
        )
    });
}

#[test]
fn an_acl_that_says_no_more_than_a_mode_becomes_one() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        file(&path);
        let done = set(&path, ACCESS, &acl(&[Entry::Owner(7), Entry::Group(5), Entry::Others(1)]));
        (done, format!("{:o}", mode(&path)), told(&path, ACCESS))
    });
}

#[test]
fn an_acl_set_by_a_stranger_to_the_group_takes_set_group_id_away() {
    let m = Mounted::new();
    m.alike(|dir| {
        [ALICE, CAROL].map(|user| {
            let path = dir.join(format!("{}", user.uid));
            file(&path);
            chown(&path, Some(user.uid), Some(TEAM)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2755)).unwrap();
            use Entry::*;
            let value = acl(&[Owner(7), User(BOB.uid, 5), Group(5), Mask(5), Others(5)]);
            let done = user.does(|| set(&path, ACCESS, &value));
            (done, format!("{:o}", mode(&path)))
        })
    });
}

#[test]
fn getfacl_and_setfacl_work() {
    let tools =
        ["getfacl", "setfacl"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !tools {
        eprintln!("skipped: there is no getfacl");
        return;
    }
    let m = Mounted::new();
    file(&m.path("f"));
    succeeds(Command::new("setfacl").args(["-m", "u:3001:rw,g:3100:r"]).arg(m.path("f")));
    succeeds(Command::new("chmod").arg("g-w").arg(m.path("f")));
    let output = succeeds(Command::new("getfacl").args(["-n", "-c", "-E", "-p"]).arg(m.path("f")));
    let expected = "user::rw-\nuser:3001:rw-\ngroup::---\ngroup:3100:r--\nmask::r--\nother::---\n\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
