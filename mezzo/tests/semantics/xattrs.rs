//! Extended attributes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::fs::{getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};

use crate::common::{ALICE, BOB, Host, Mounted, ROOT, errno};

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 64 << 10];
    let length = listxattr(path, &mut list).unwrap();
    let mut names: Vec<_> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    names.sort();
    names
}

fn value(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 64 << 10];
    let length = getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

fn set(path: &Path, name: &str, value: &[u8]) -> i32 {
    errno(setxattr(path, name, value, XattrFlags::empty()))
}

#[test]
fn attributes_are_set_got_listed_and_removed() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(
            [set(&path, "user.a", &bytes), set(&path, "user.empty", b""), set(&path, "trusted.b", b"2")],
            [0; 3]
        );
        let before = (names(&path), value(&path, "user.a"), value(&path, "user.empty"));
        assert_eq!(set(&path, "user.a", b"shorter"), 0);
        let removed = (errno(removexattr(&path, "user.empty")), errno(removexattr(&path, "user.empty")));
        (
            before,
            removed,
            names(&path),
            value(&path, "user.a"),
            errno(getxattr(&path, "user.none", &mut [0; 9])),
        )
    });
}

#[test]
fn create_and_replace_are_kept_apart() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        let set = |flags| errno(setxattr(&path, "user.a", b"1", flags));
        [
            set(XattrFlags::REPLACE),
            set(XattrFlags::CREATE),
            set(XattrFlags::CREATE),
            set(XattrFlags::REPLACE),
            set(XattrFlags::CREATE | XattrFlags::REPLACE),
        ]
    });
}

/// Sizes at the limits, and buffers that are too small.
fn check_limits(host: Host) {
    let m = Mounted::on(host);
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        let long = format!("user.{}", "n".repeat(250));
        let results = vec![
            set(&path, &long, b"1"),
            set(&path, &format!("{long}n"), b"1"),
            set(&path, "user.", b"1"),
            set(&path, "unknown.a", b"1"),
            set(&path, "nodot", b"1"),
            set(&path, "user.large", &[7; 2000]),
            set(&path, "user.too large", &vec![7; (64 << 10) + 1]),
        ];
        let size = getxattr(&path, "user.large", &mut [0u8; 0][..]).unwrap();
        let short = errno(getxattr(&path, "user.large", &mut [0; 1999]));
        let list = (listxattr(&path, &mut [0u8; 0][..]).unwrap(), errno(listxattr(&path, &mut [0; 20])));
        (results, size, short, list, names(&path).len())
    });
}

#[test]
fn limits_are_the_host_s_on_ext4() {
    check_limits(Host::Ext4);
}

#[test]
fn limits_are_the_host_s_on_xfs() {
    check_limits(Host::Xfs);
}

#[test]
fn a_value_of_64_kib_is_kept_where_the_host_can() {
    let m = Mounted::on(Host::Xfs);
    fs::write(m.path("f"), "1").unwrap();
    let large: Vec<u8> = (0..64u32 << 10).map(|i| (i % 251) as u8).collect();
    assert_eq!(set(&m.path("f"), "user.large", &large), 0);
    assert!(value(&m.path("f"), "user.large") == large);
    for i in 0..100 {
        assert_eq!(set(&m.path("f"), &format!("user.number {i}"), &[i; 100]), 0);
    }
    assert_eq!(names(&m.path("f")).len(), 101);
}

#[test]
fn trusted_attributes_are_root_s_alone() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        std::os::unix::fs::chown(&path, Some(ALICE.uid), Some(ALICE.gid)).unwrap();
        assert_eq!([set(&path, "trusted.secret", b"1"), set(&path, "user.open", b"1")], [0; 2]);
        [ROOT, ALICE].map(|user| {
            user.does(|| {
                let get = errno(getxattr(&path, "trusted.secret", &mut [0; 9]));
                (
                    names(&path),
                    get,
                    set(&path, "trusted.secret", b"2"),
                    errno(removexattr(&path, "trusted.x")),
                )
            })
        })
    });
}

#[test]
fn who_may_set_what_is_as_on_the_host() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), "1").unwrap();
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::create_dir(dir.join("sticky")).unwrap();
        fs::set_permissions(dir.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("f", dir.join("l")).unwrap();
        mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_bits_retain(0o666), 0).unwrap();
        let on_link = |name| errno(lsetxattr(dir.join("l"), name, b"1", XattrFlags::empty()));
        let got = errno(lgetxattr(dir.join("l"), "user.a", &mut [0; 9]));
        let by_root = (on_link("user.a"), on_link("trusted.a"), set(&dir.join("fifo"), "user.a", b"1"), got);
        let by_bob = BOB.does(|| {
            let set = |name: &str| set(&dir.join(name), "user.a", b"1");
            (set("f"), set("sticky"), set("fifo"), errno(getxattr(dir.join("f"), "user.a", &mut [0; 9])))
        });
        (by_root, by_bob)
    });
}

#[test]
fn each_change_of_an_attribute_is_recorded_once() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let kinds = m.kinds_of(|| {
        set(&m.path("f"), "user.a", b"1");
        set(&m.path("f"), "user.a", b"2");
        set(&m.path("f"), "trusted.a", b"3");
        removexattr(m.path("f"), "user.a").unwrap();
        value(&m.path("f"), "trusted.a");
        names(&m.path("f"));
        errno(removexattr(m.path("f"), "user.a"));
    });
    assert_eq!(kinds, ["setxattr", "setxattr", "setxattr", "removexattr"]);
}
