//! The kernel trusts its caches until it is told.

use crate::mounted::{Mounted, wait_for};
use mezzo_fuse::{ROOT, Wanted};
use std::fs;

#[test]
fn names_are_forgotten_on_demand() {
    let mounted = Mounted::new();
    let there = || mounted.path("a").exists();
    assert!(!there());
    fs::write(mounted.host("a"), "").unwrap();
    assert!(!there(), "the absence is cached");
    mounted.notifier.inval_entry(ROOT, b"a").unwrap();
    assert!(there());
    fs::remove_file(mounted.host("a")).unwrap();
    assert!(there(), "the presence is cached");
    assert!(mounted.granted.expire_entry);
    mounted.notifier.expire_entry(ROOT, b"a").unwrap();
    assert!(!there());
    mounted.notifier.inval_entry(ROOT, b"never seen").unwrap();
    mounted.notifier.inval_entry(12345, b"unknown directory").unwrap();
}

#[test]
fn attributes_and_data_are_forgotten_on_demand() {
    let mounted = Mounted::with(Wanted { explicit_invalidation: true, ..Wanted::default() }, 2);
    fs::write(mounted.host("a"), "old").unwrap();
    let read = || fs::read_to_string(mounted.path("a")).unwrap();
    assert_eq!(read(), "old");
    fs::write(mounted.host("a"), "new").unwrap();
    assert_eq!(read(), "old", "the data are cached");
    let node = mounted.filesystem.node_of(&mounted.host("a")).unwrap();
    mounted.notifier.inval_inode(node, 0, 0).unwrap();
    assert_eq!(read(), "new");
    // Reading has made the time of access stale: fetch the attributes once more.
    fs::metadata(mounted.path("a")).unwrap();
    fs::write(mounted.host("a"), "longer").unwrap();
    assert_eq!(fs::metadata(mounted.path("a")).unwrap().len(), 3, "the attributes are cached");
    mounted.notifier.inval_inode(node, -1, 0).unwrap();
    assert_eq!(fs::metadata(mounted.path("a")).unwrap().len(), 6);
    mounted.notifier.inval_inode(99_999, 0, 0).unwrap();
}

#[test]
fn data_can_be_put_into_the_cache() {
    let mounted = Mounted::new();
    fs::write(mounted.host("a"), "xxxx").unwrap();
    assert_eq!(fs::metadata(mounted.path("a")).unwrap().len(), 4);
    let node = mounted.filesystem.node_of(&mounted.host("a")).unwrap();
    mounted.notifier.store(node, 0, b"abcd").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("a")).unwrap(), "abcd");
    assert_eq!(mounted.filesystem.count("Read"), 0);
}

#[test]
fn a_removal_is_told() {
    let mounted = Mounted::new();
    fs::write(mounted.host("a"), "").unwrap();
    assert!(mounted.path("a").exists());
    let node = mounted.filesystem.node_of(&mounted.host("a")).unwrap();
    fs::remove_file(mounted.host("a")).unwrap();
    mounted.notifier.delete(ROOT, node, b"a").unwrap();
    assert!(!mounted.path("a").exists());
    wait_for("the forget", || mounted.filesystem.known_nodes() == 0);
}

#[test]
fn a_new_epoch_makes_all_names_expire() {
    let mounted = Mounted::new();
    assert!(mounted.granted.increment_epoch);
    fs::write(mounted.host("a"), "").unwrap();
    assert!(mounted.path("a").exists());
    fs::remove_file(mounted.host("a")).unwrap();
    assert!(mounted.path("a").exists());
    mounted.notifier.increment_epoch().unwrap();
    assert!(!mounted.path("a").exists());
}

#[test]
fn unused_nodes_can_be_pruned() {
    let mounted = Mounted::new();
    for name in ["a", "b"] {
        fs::write(mounted.host(name), "").unwrap();
        assert!(mounted.path(name).exists());
    }
    let node = |name| mounted.filesystem.node_of(&mounted.host(name)).unwrap();
    let in_use = fs::File::open(mounted.path("b")).unwrap();
    let result = mounted.notifier.prune(&[node("a"), node("b"), 99_999]);
    if mounted.granted.prune {
        result.unwrap();
        wait_for("the forget", || mounted.filesystem.node_of(&mounted.host("a")).is_none());
        assert!(mounted.filesystem.node_of(&mounted.host("b")).is_some());
    }
    drop(in_use);
}

#[test]
fn after_the_unmount_nothing_needs_to_be_told() {
    let mounted = Mounted::new();
    let notifier = mounted.notifier.clone();
    mounted.end().unwrap();
    notifier.inval_entry(ROOT, b"a").unwrap();
}
