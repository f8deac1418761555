//! Users of a client who have other ids than at the server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::acls::{Entry, acl};
use crate::common::{ALICE, BOB, ROOT, Served, errno, succeeds};

const ACCESS: &str = "system.posix_acl_access";

/// Alice and Bob, with other numbers at the server; its root is nobody here.
const TABLE: &str = "table:u3001=4001,g3001=4001,u3002=4002,g3002=4002";

/// Some user and group of the server who are nobody here.
const STRANGER: u32 = 9999;
const NOBODY: u32 = 65534;

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

fn given(path: &Path, id: u32, mode: u32) {
    chown(path, Some(id), Some(id)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(path: &Path, id: u32, mode: u32) {
    fs::write(path, "bytes").unwrap();
    given(path, id, mode);
}

fn directory(path: &Path, id: u32, mode: u32) {
    fs::create_dir(path).unwrap();
    given(path, id, mode);
}

fn acl_of(path: &Path) -> Vec<u8> {
    let mut value = [0; 1024];
    let length = getxattr(path, ACCESS, &mut value).unwrap();
    value[..length].to_vec()
}

/// The owner may read and write, and so may these.
fn for_users(users: &[u32]) -> Vec<u8> {
    let named = users.iter().map(|id| Entry::User(*id, 6));
    let owner = [Entry::Owner(6)].into_iter().chain(named);
    acl(&owner.chain([Entry::Group(0), Entry::Mask(6), Entry::Others(0)]).collect::<Vec<_>>())
}

#[test]
fn users_see_and_make_what_is_theirs_by_another_number() {
    let mut served = Served::new(|tree| {
        given(tree, 4001, 0o755);
        file(&tree.join("hers"), 4001, 0o600);
        file(&tree.join("a_stranger_s"), STRANGER, 0o644);
        directory(&tree.join("for_all"), STRANGER, 0o1777);
    });
    served.serve();
    let clone = served.clone_mapped("clone", TABLE);
    assert_eq!(owner(&clone), (ALICE.uid, ALICE.gid));
    assert_eq!(owner(&clone.join("hers")), (ALICE.uid, ALICE.gid));
    assert_eq!(owner(&clone.join("a_stranger_s")), (NOBODY, NOBODY));
    // Whatever way it is asked.
    let listed = succeeds(Command::new("ls").args(["-lnU"]).arg(&clone));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words: Vec<&str> = listed.split_whitespace().collect();
    let shows = |id: &str| words.windows(2).any(|two| two == [id, id]);
    assert!(shows("3001") && shows("65534") && !shows("4001"), "{listed}");
    // The kernel judges by what is shown.
    assert_eq!(BOB.does(|| errno(fs::read(clone.join("hers")))), libc::EACCES);
    ALICE.does(|| {
        assert_eq!(fs::read(clone.join("hers")).unwrap(), b"bytes");
        fs::write(clone.join("hers"), "more").unwrap();
        fs::write(clone.join("new"), "new").unwrap();
        fs::create_dir(clone.join("d")).unwrap();
        std::os::unix::fs::symlink("d", clone.join("link")).unwrap();
        fs::rename(clone.join("d"), clone.join("moved")).unwrap();
    });
    BOB.does(|| fs::write(clone.join("for_all/his"), "his").unwrap());
    assert_eq!(ALICE.does(|| errno(fs::remove_file(clone.join("for_all/his")))), libc::EPERM);
    for name in ["new", "moved", "link"] {
        assert_eq!(owner(&clone.join(name)), (ALICE.uid, ALICE.gid), "{name}");
    }
    served.sync(&clone);
    for (name, id) in [("hers", 4001), ("new", 4001), ("moved", 4001), ("link", 4001), ("for_all/his", 4002)]
    {
        assert_eq!(owner(&served.tree().join(name)), (id, id), "{name}");
    }
    assert_eq!(fs::read(served.tree().join("hers")).unwrap(), b"more");
}

#[test]
fn who_is_nobody_at_the_server_changes_nothing() {
    let mut served = Served::new(|tree| {
        given(tree, 4001, 0o777);
        file(&tree.join("f"), 4001, 0o666);
    });
    served.serve();
    let clone = served.clone_mapped("clone", TABLE);
    let f = clone.join("f");
    // Not even root, who is another there.
    assert_eq!(errno(fs::write(clone.join("new"), "1")), libc::EOVERFLOW);
    assert_eq!(errno(fs::remove_file(&f)), libc::EOVERFLOW);
    assert_eq!(errno(fs::set_permissions(&f, fs::Permissions::from_mode(0o600))), libc::EOVERFLOW);
    assert_eq!(fs::read(&f).unwrap(), b"bytes");
    served.sync(&clone);
    assert_eq!(fs::read_dir(served.tree()).unwrap().count(), 2, "f and .mezzo");
}

#[test]
fn owners_and_groups_are_given_by_the_numbers_of_the_client() {
    let mut served = Served::new(|tree| file(&tree.join("f"), 4001, 0o644));
    served.serve();
    let clone = served.clone_mapped("clone", &format!("{TABLE},u0=0,g0=0,g3100=4100"));
    let (f, there) = (clone.join("f"), served.tree().join("f"));
    ROOT.does(|| chown(&f, Some(BOB.uid), Some(3100)).unwrap());
    assert_eq!(owner(&f), (BOB.uid, 3100));
    assert_eq!(errno(chown(&f, Some(4001), None)), libc::EOVERFLOW);
    served.sync(&clone);
    assert_eq!(owner(&there), (4002, 4100));
}

#[test]
fn acls_name_the_users_of_the_client_and_whom_it_does_not_know_stays() {
    let mut served = Served::new(|tree| {
        let f = tree.join("f");
        file(&f, 4001, 0o600);
        setxattr(&f, ACCESS, &for_users(&[4002, STRANGER]), XattrFlags::empty()).unwrap();
    });
    served.serve();
    let clone = served.clone_mapped("clone", TABLE);
    let (f, there) = (clone.join("f"), served.tree().join("f"));
    assert_eq!(acl_of(&f), for_users(&[BOB.uid]));
    assert_eq!(BOB.does(|| fs::read(&f).unwrap()), b"bytes");
    let set =
        |users: &[u32]| ALICE.does(|| errno(setxattr(&f, ACCESS, &for_users(users), XattrFlags::empty())));
    assert_eq!(set(&[STRANGER]), libc::EOVERFLOW);
    assert_eq!(set(&[ALICE.uid]), 0);
    assert_eq!(acl_of(&f), for_users(&[ALICE.uid]));
    assert_eq!(BOB.does(|| errno(fs::read(&f))), libc::EACCES);
    served.sync(&clone);
    assert_eq!(acl_of(&there), for_users(&[4001, STRANGER]));
}

#[test]
fn where_all_are_one_user_the_owner_of_the_directory_works_as_that_one() {
    let mut served = Served::new(|tree| {
        given(tree, 4001, 0o755);
        file(&tree.join("f"), 4001, 0o600);
        directory(&tree.join("root_s"), 0, 0o755);
        directory(&tree.join("group_s"), STRANGER, 0o2777);
    });
    served.serve();
    fs::create_dir(served.place("clone")).unwrap();
    given(&served.place("clone"), ALICE.uid, 0o700);
    let clone = served.clone_mapped("clone", "all:4001:4001");
    let f = clone.join("f");
    assert_eq!(owner(&f), (ALICE.uid, ALICE.gid));
    assert_eq!(owner(&clone.join("root_s")), (NOBODY, NOBODY));
    ALICE.does(|| {
        fs::write(&f, "more").unwrap();
        fs::write(clone.join("new"), "new").unwrap();
        // To somebody else, and to whom it is shown as.
        assert_eq!(errno(chown(&f, None, Some(BOB.gid))), libc::EPERM);
        chown(&f, Some(ALICE.uid), Some(ALICE.gid)).unwrap();
        // Of the directory's group, which is nobody's here.
        fs::write(clone.join("group_s/new"), "new").unwrap();
    });
    assert_eq!(errno(chown(&f, Some(BOB.uid), None)), libc::EPERM);
    // Root is that one user at the server, and no more.
    assert_eq!(errno(fs::write(clone.join("root_s/new"), "1")), libc::EACCES);
    assert_eq!(errno(fs::remove_dir(clone.join("root_s"))), 0, "it is in a directory of that user's");
    fs::write(clone.join("by_root"), "1").unwrap();
    served.sync(&clone);
    for name in ["new", "by_root"] {
        assert_eq!(owner(&served.tree().join(name)), (4001, 4001), "{name}");
    }
    assert_eq!(owner(&served.tree().join("group_s/new")), (4001, STRANGER));
}

#[test]
fn what_is_recorded_without_a_user_is_somebody_s_whom_the_server_knows() {
    let mut served = Served::new(|tree| {
        given(tree, 4001, 0o755);
        file(&tree.join("f"), 4001, 0o644);
    });
    served.serve();
    let clone = served.clone_mapped("clone", TABLE);
    // While it is not mounted: nobody knows who did it.
    served.unmount(&clone);
    fs::write(clone.join("f"), "changed behind the mount").unwrap();
    succeeds(crate::common::mezzo().arg("mount").arg(&clone));
    crate::common::eventually("the change was found", || {
        served.status(&clone)["scan"].as_str().is_some_and(|scan| scan.starts_with("done"))
    });
    served.sync(&clone);
    assert_eq!(fs::read(served.tree().join("f")).unwrap(), b"changed behind the mount");
}
