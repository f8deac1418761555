//! Set-user-id and set-group-id bits, and capabilities of files: what takes them away.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, getxattr, setxattr};

use crate::common::{ALICE, BOB, CAROL, Mounted, ROOT, TEAM, User, apart, errno};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(path: &Path, owner: User, mode: u32) {
    fs::write(path, "0123456789").unwrap();
    chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
    set_mode(path, mode);
}

/// A way to change a file's data or owner.
type Act = (&'static str, fn(&Path));

const ACTS: [Act; 7] = [
    ("write", |path| File::options().write(true).open(path).unwrap().write_all_at(b"x", 0).unwrap()),
    ("append", |path| {
        use std::io::Write;
        File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
    }),
    ("truncate", |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
    ("open to truncate", |path| drop(File::create(path).unwrap())),
    ("allocate", |path| {
        let file = File::options().write(true).open(path).unwrap();
        fallocate(file, FallocateFlags::empty(), 0, 100_000).unwrap();
    }),
    ("copy range", |path| {
        let to = File::options().read(true).write(true).open(path).unwrap();
        rustix::fs::copy_file_range(&to, Some(&mut 0), &to, Some(&mut 5), 5).unwrap();
    }),
    ("read", |path| drop(fs::read(path).unwrap())),
];

/// Where a member of the group may not execute, set-group-id once meant something else, and hosts ask whether the writer is
/// in the group. The daemon is not.
const EXECUTABLE: [u32; 3] = [0o6777, 0o4777, 0o2777];

/// What each act leaves of the bits, for files with different bits, in the mount and on the host.
fn check(user: User) {
    let m = Mounted::new();
    m.alike(|dir| {
        let mut left = Vec::new();
        for (name, act) in ACTS {
            for bits in
                if user.uid == ALICE.uid { &EXECUTABLE[..] } else { &[0o6777, 0o4777, 0o2777, 0o2767] }
            {
                let path = dir.join(format!("{name}-{bits:o}"));
                file(&path, ALICE, *bits);
                user.does(|| act(&path));
                left.push((name, format!("{bits:o}"), format!("{:o}", mode(&path))));
            }
        }
        left
    });
}

#[test]
fn a_user_s_write_takes_set_id_bits_away() {
    check(BOB);
}

#[test]
fn the_owner_s_write_takes_set_id_bits_away() {
    check(ALICE);
}

#[test]
fn root_s_write_keeps_set_id_bits() {
    check(ROOT);
}

#[test]
fn bits_that_a_write_took_away_are_recorded() {
    let m = Mounted::new();
    file(&m.path("f"), ALICE, 0o6777);
    let last = m.last();
    apart(BOB, || File::options().write(true).open(m.path("f")).unwrap().write_all_at(b"x", 0).unwrap());
    let records = m.records_since(last);
    let told: Vec<u16> = records.iter().filter_map(|record| Some(after(record)?.mode)).collect();
    assert_eq!(told.last(), Some(&0o777), "{records:?}");
}

fn after(record: &mezzo_core::Record) -> Option<mezzo_core::Attributes> {
    match &record.change {
        mezzo_core::Change::Close { attributes, .. } | mezzo_core::Change::Setattr { attributes, .. } => {
            Some(attributes.after)
        }
        _ => None,
    }
}

#[test]
fn a_new_owner_takes_set_id_bits_away() {
    let m = Mounted::new();
    m.alike(|dir| {
        let mut left = Vec::new();
        for bits in [0o6777, 0o4755, 0o2755, 0o2745] {
            for (uid, gid) in [(Some(BOB.uid), None), (None, Some(BOB.gid)), (Some(ALICE.uid), None)] {
                let path = dir.join(format!("{bits:o}-{uid:?}-{gid:?}"));
                file(&path, ALICE, bits);
                chown(&path, uid, gid).unwrap();
                left.push((uid, gid, format!("{:o}", mode(&path))));
            }
        }
        let directory = dir.join("d");
        fs::create_dir(&directory).unwrap();
        set_mode(&directory, 0o6777);
        chown(&directory, Some(BOB.uid), None).unwrap();
        (left, format!("{:o}", mode(&directory)))
    });
}

#[test]
fn a_change_to_no_owner_takes_nothing_away() {
    let m = Mounted::new();
    file(&m.path("f"), ALICE, 0o6777);
    // Here the host would take the bits, and the kernel does not tell that it was asked.
    chown(m.path("f"), None, None).unwrap();
    assert_eq!(mode(&m.path("f")), 0o6777);
}

#[test]
fn a_member_alone_may_set_the_set_group_id_bit() {
    let m = Mounted::new();
    m.alike(|dir| {
        [CAROL, ALICE].map(|user| {
            let path = dir.join(format!("{}", user.uid));
            file(&path, user, 0o755);
            chown(&path, None, Some(TEAM)).unwrap();
            user.does(|| set_mode(&path, 0o2755));
            format!("{:o}", mode(&path))
        })
    });
}

/// From linux/capability.h: revision 2, effective, CAP_NET_BIND_SERVICE permitted.
const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn has_capabilities(path: &Path) -> bool {
    getxattr(path, "security.capability", &mut [0; 64]).is_ok()
}

#[test]
fn a_write_takes_capabilities_away() {
    let m = Mounted::new();
    m.alike(|dir| {
        ACTS.map(|(name, act)| {
            [ROOT, BOB].map(|user| {
                let path = dir.join(format!("{name}-{}", user.uid));
                file(&path, ALICE, 0o777);
                setxattr(&path, "security.capability", &CAPABILITIES, XattrFlags::empty()).unwrap();
                assert!(has_capabilities(&path));
                user.does(|| act(&path));
                (name, user.uid, has_capabilities(&path))
            })
        })
    });
}

#[test]
fn capabilities_that_a_write_took_away_are_recorded() {
    let m = Mounted::new();
    file(&m.path("f"), ALICE, 0o777);
    let set = m.kinds_of(|| {
        setxattr(m.path("f"), "security.capability", &CAPABILITIES, XattrFlags::empty()).unwrap();
    });
    assert_eq!(set, ["setxattr"]);
    let written = m.kinds_of(|| {
        File::options().write(true).open(m.path("f")).unwrap().write_all_at(b"x", 0).unwrap();
    });
    assert!(written.contains(&"removexattr"), "{written:?}");
    assert!(!has_capabilities(&m.path("f")));
}

#[test]
fn a_new_owner_takes_capabilities_away() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        file(&path, ALICE, 0o777);
        setxattr(&path, "security.capability", &CAPABILITIES, XattrFlags::empty()).unwrap();
        chown(&path, Some(BOB.uid), None).unwrap();
        has_capabilities(&path)
    });
}

#[test]
fn users_may_not_set_capabilities() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        file(&path, ALICE, 0o777);
        ALICE.does(|| errno(setxattr(&path, "security.capability", &CAPABILITIES, XattrFlags::empty())))
    });
}

#[test]
fn set_id_bits_go_also_after_others_made_files() {
    let m = Mounted::new();
    set_mode(&m.path(""), 0o777);
    for round in 0..20 {
        // Whatever thread serves them, it must not have kept the right to keep the bits.
        apart(ALICE, || fs::create_dir(m.path(&format!("d{round}"))).unwrap());
        let path = m.path(&format!("f{round}"));
        file(&path, ROOT, 0o6777);
        apart(BOB, || File::options().write(true).open(&path).unwrap().write_all_at(b"2", 0).unwrap());
        assert_eq!(mode(&path), 0o777, "round {round}: {:o}", mode(&path));
    }
}
