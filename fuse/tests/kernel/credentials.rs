//! What the kernel tells of callers: their groups, and the privileges that files must lose.

use crate::mounted::Mounted;
use mezzo_fuse::Wanted;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

/// Runs a shell command as user 1000, group 1000 and supplementary group 5000.
#[track_caller]
fn as_user(mounted: &Mounted, command: &str) {
    let directory = mounted.path("").parent().unwrap().to_owned();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid", "1000", "--regid", "1000", "--groups", "5000", "sh", "-c", command])
        .current_dir(mounted.path(""))
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn the_group_that_matters_to_a_creation() {
    let wanted = Wanted { create_supplementary_group: true, ..Wanted::default() };
    let mounted = Mounted::with(wanted, 1);
    assert!(mounted.granted.create_supplementary_group);
    fs::create_dir(mounted.path("shared")).unwrap();
    chown(mounted.path("shared"), None, Some(5000)).unwrap();
    fs::set_permissions(mounted.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    let group = || *mounted.filesystem.last_group.lock().unwrap();
    as_user(&mounted, "mkdir shared/directory");
    assert_eq!(group(), Some(5000));
    as_user(&mounted, "ln -s target shared/link");
    assert_eq!(group(), Some(5000));
    as_user(&mounted, "echo > shared/file");
    assert_eq!(group(), Some(5000));
    assert_eq!(fs::read_link(mounted.host("shared/link")).unwrap().to_str(), Some("target"));
    fs::create_dir(mounted.path("other")).unwrap();
    fs::set_permissions(mounted.path("other"), fs::Permissions::from_mode(0o777)).unwrap();
    as_user(&mounted, "mkdir other/directory");
    assert_eq!(group(), None);
}

/// A file that has privileges to lose.
fn set_id_file(mounted: &Mounted) {
    fs::write(mounted.path("a"), "data").unwrap();
    fs::set_permissions(mounted.path("a"), fs::Permissions::from_mode(0o6777)).unwrap();
    assert!(mounted.filesystem.killing.lock().unwrap().is_empty(), "root keeps them");
}

fn check_killing(wanted: Wanted, command: &str, operation: &str) {
    let mounted = Mounted::with(Wanted { handle_killpriv_v2: true, ..wanted }, 1);
    assert!(mounted.granted.handle_killpriv_v2);
    set_id_file(&mounted);
    as_user(&mounted, command);
    assert_eq!(*mounted.filesystem.killing.lock().unwrap(), [operation]);
}

#[test]
fn privileges_that_must_go_are_ours_to_take() {
    check_killing(Wanted::default(), "echo >> a", "Write");
}

#[test]
fn a_truncation_takes_privileges() {
    check_killing(Wanted::default(), ": > a", "Setattr");
}

#[test]
fn an_open_that_truncates_takes_privileges() {
    check_killing(Wanted { atomic_o_trunc: true, ..Wanted::default() }, ": > a", "Open");
}

/// With ACLs granted, the kernel reads them as attributes and obeys them.
#[test]
fn access_control_lists_are_obeyed() {
    let mounted = Mounted::with(Wanted { posix_acl: true, ..Wanted::default() }, 1);
    assert!(mounted.granted.posix_acl);
    fs::write(mounted.path("a"), "data").unwrap();
    fs::set_permissions(mounted.path("a"), fs::Permissions::from_mode(0o600)).unwrap();
    // Version 2, then tag, permissions and id of each entry: owner rw, user 1000 r, group none, mask r,
    // others none.
    let none = u32::MAX;
    let entries = [(1u16, 6u16, none), (2, 4, 1000), (4, 0, none), (0x10, 4, none), (0x20, 0, none)];
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(mounted.path("a"), "system.posix_acl_access", &list, flags).unwrap();
    as_user(&mounted, "test \"$(cat a)\" = data");
    as_user(&mounted, "! (echo >> a) 2> /dev/null");
}
