//! `.mezzo`, as the mount shows it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};

use crate::common::{ALICE, BOB, Mounted, ROOT, errno};

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn mezzo_s_own_directory_is_not_listed() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    fs::create_dir(m.path("d/.mezzo")).unwrap();
    assert_eq!(names(&m.path("")), ["d", "f"]);
    assert_eq!(names(&m.path("d")), [".mezzo"], "the name means something at the top alone");
    fs::write(m.path("d/.mezzo/kml"), "a user's").unwrap();
    assert!(m.host(".mezzo/kml").is_dir(), "it is there for the daemon");
}

#[test]
fn log_and_attic_are_out_of_reach() {
    let m = Mounted::new();
    for user in [ROOT, ALICE] {
        user.does(|| {
            for name in ["kml", "attic", "index", "lml", "fileset.toml", "daemon.log", "state", "x"] {
                let path = m.path(".mezzo").join(name);
                assert_eq!(errno(fs::symlink_metadata(&path)), libc::ENOENT, "{name}");
                assert_eq!(errno(File::open(&path)), libc::ENOENT);
            }
            assert_eq!(names(&m.path(".mezzo")), ["elsewhere"]);
            assert_eq!(errno(fs::read(m.path(".mezzo/elsewhere/../kml"))), libc::ENOENT);
        });
    }
}

#[test]
fn what_was_put_aside_is_read_by_those_whose_it_is() {
    let m = Mounted::new();
    let host = m.host(".mezzo/elsewhere/1");
    fs::create_dir_all(host.join("d")).unwrap();
    fs::write(host.join("d/work"), "lost, and found").unwrap();
    symlink("work", host.join("d/link")).unwrap();
    chown(host.join("d/work"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
    fs::set_permissions(host.join("d/work"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = m.path(".mezzo/elsewhere/1/d");
    ALICE.does(|| {
        assert_eq!(names(&m.path(".mezzo/elsewhere")), ["1"]);
        assert_eq!(names(&path), ["link", "work"]);
        assert_eq!(fs::read_to_string(path.join("work")).unwrap(), "lost, and found");
        assert_eq!(fs::read_to_string(path.join("link")).unwrap(), "lost, and found");
    });
    assert_eq!(BOB.does(|| errno(fs::read(path.join("work")))), libc::EACCES);
    // What comes later is seen as well.
    fs::create_dir(m.host(".mezzo/elsewhere/2")).unwrap();
    assert_eq!(names(&m.path(".mezzo/elsewhere")), ["1", "2"]);
    fs::remove_dir_all(host).unwrap();
    assert_eq!(names(&m.path(".mezzo/elsewhere")), ["2"]);
}

#[test]
fn nothing_in_it_can_be_changed() {
    let m = Mounted::new();
    let host = m.host(".mezzo/elsewhere/1");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "kept").unwrap();
    fs::write(m.path("mine"), "1").unwrap();
    let (own, file) = (m.path(".mezzo"), m.path(".mezzo/elsewhere/1/f"));
    let kinds = m.kinds_of(|| {
        let rename = |from: &Path, to: &Path, flags| errno(renameat_with(CWD, from, CWD, to, flags));
        let (none, exchange) = (RenameFlags::empty(), RenameFlags::EXCHANGE);
        let attempts = [
            errno(fs::create_dir(&own)),
            errno(fs::remove_dir(&own)),
            rename(&own, &m.path("elsewhere"), none),
            rename(&m.path("mine"), &own, none),
            rename(&m.path("mine"), &own, exchange),
            rename(&m.path("mine"), &own.join("mine"), none),
            rename(&file, &m.path("stolen"), none),
            errno(File::create_new(own.join("new"))),
            errno(fs::create_dir(own.join("elsewhere/3"))),
            errno(symlink("x", own.join("link"))),
            errno(mknodat(CWD, own.join("fifo"), FileType::Fifo, Mode::RWXU, 0)),
            errno(fs::hard_link(&file, m.path("linked"))),
            errno(fs::hard_link(m.path("mine"), own.join("linked"))),
            errno(fs::write(&file, "changed")),
            errno(File::options().append(true).open(&file)),
            errno(fs::remove_file(&file)),
            errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o777))),
            errno(fs::set_permissions(&own, fs::Permissions::from_mode(0o777))),
            errno(chown(&file, Some(1), None)),
            errno(rustix::fs::setxattr(&file, "user.a", b"1", XattrFlags::empty())),
        ];
        assert!(attempts.iter().all(|done| *done != 0), "{attempts:?}");
    });
    assert_eq!(kinds, [""; 0]);
    assert_eq!(fs::read_to_string(host.join("f")).unwrap(), "kept");
}

#[test]
fn the_root_goes_when_told_all_but_that() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("a/b")).unwrap();
    fs::write(m.path("a/f"), "1").unwrap();
    crate::common::succeeds(
        std::process::Command::new("sh").arg("-c").arg("rm -rf -- *").current_dir(m.path("")),
    );
    assert_eq!(names(&m.path("")), [""; 0]);
    assert!(m.host(".mezzo/kml").is_dir());
}

#[test]
fn the_root_s_own_attributes_are_recorded() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o1777)).unwrap();
        chown(m.path(""), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
        rustix::fs::setxattr(m.path(""), "user.a", b"1", XattrFlags::empty()).unwrap();
    });
    assert_eq!(kinds, ["setattr", "setattr", "setxattr"]);
}

#[test]
fn the_root_s_link_count_is_the_host_s() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let links = |path: &Path| std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).unwrap());
    assert_eq!((links(&m.path("")), links(&m.host(""))), (4, 4));
}
