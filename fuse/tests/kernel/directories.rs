//! Listings.

use crate::mounted::{Mounted, names, wait_for};
use mezzo_fuse::Wanted;
use std::fs;
use std::os::unix::fs::MetadataExt;

pub fn check_listing(wanted: Wanted, operation: &str) {
    let mounted = Mounted::with(wanted, 1);
    let mut expected: Vec<_> =
        (0..2000).map(|number| format!("a rather long name, number {number:05}")).collect();
    expected.sort();
    for name in &expected {
        fs::write(mounted.host(name), name).unwrap();
    }
    assert_eq!(names(&mounted.path("")), expected);
    assert_ne!(mounted.filesystem.count(operation), 0);
    for name in &expected[..20] {
        let (above, below) = (mounted.path(name).metadata().unwrap(), mounted.host(name).metadata().unwrap());
        assert_eq!((above.ino(), above.size()), (below.ino(), below.size()));
    }
    let lookups = mounted.filesystem.count("Lookup");
    match operation {
        "Readdirplus" => assert_eq!(lookups, 0, "all came with the listing"),
        _ => assert_eq!(lookups, 20),
    }
}

#[test]
fn without_attributes() {
    check_listing(Wanted { readdirplus: false, ..Wanted::default() }, "Readdir");
}

#[test]
fn with_attributes() {
    check_listing(Wanted { readdirplus_auto: false, ..Wanted::default() }, "Readdirplus");
}

#[test]
fn lookup_counts_come_back() {
    let mounted = Mounted::with(Wanted { readdirplus_auto: false, ..Wanted::default() }, 2);
    for number in 0..500 {
        fs::write(mounted.host(&number.to_string()), "").unwrap();
    }
    assert_eq!(names(&mounted.path("")).len(), 500);
    assert_eq!(mounted.filesystem.known_nodes(), 500);
    for number in 0..500 {
        fs::remove_file(mounted.path(&number.to_string())).unwrap();
    }
    wait_for("the forgets", || mounted.filesystem.known_nodes() == 0);
}

#[test]
fn directories_come_and_go() {
    let mounted = Mounted::new();
    fs::create_dir_all(mounted.path("a/b/c")).unwrap();
    fs::write(mounted.path("a/b/c/file"), "deep").unwrap();
    assert_eq!(fs::read_to_string(mounted.host("a/b/c/file")).unwrap(), "deep");
    let error = fs::remove_dir(mounted.path("a")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    fs::remove_dir_all(mounted.path("a")).unwrap();
    assert!(!mounted.host("a").exists());
    let directory = fs::File::open(mounted.path("")).unwrap();
    directory.sync_all().unwrap();
    assert_eq!(mounted.filesystem.count("Fsyncdir"), 1);
}
