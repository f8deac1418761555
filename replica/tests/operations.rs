//! Each operation is done, recorded in full, and done again by a replay.

mod common;

use std::os::unix::fs::{MetadataExt, symlink};

use common::{Bench, name, user};
use mezzo_core::record::Displaced;
use mezzo_core::{Change, Device, Kind, ObjectId, Time};
use mezzo_replica::host::SetTime;
use mezzo_replica::{Changes, NewNode, Use};
use rustix::fs::RenameFlags;

const ROOT: ObjectId = ObjectId::ROOT;

/// A file with bytes, closed.
fn write(bench: &Bench, parent: ObjectId, file: &str, bytes: &[u8]) -> ObjectId {
    let caller = user(0);
    let (met, _) = bench.replica().create_file(&caller, parent, &name(file), 0o644).unwrap();
    let object = met.entry.object;
    rewrite(bench, object, bytes);
    object
}

fn rewrite(bench: &Bench, object: ObjectId, bytes: &[u8]) {
    let replica = bench.replica();
    replica.opened(object, Use::Map, None).unwrap();
    let file = replica.open_data(object, rustix::fs::OFlags::WRONLY).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&std::fs::File::from(file), bytes, 0).unwrap();
    replica.flushed(&user(0), object).unwrap();
    replica.released(&user(0), object, Use::Map).unwrap();
}

fn mkdir(bench: &Bench, parent: ObjectId, directory: &str) -> ObjectId {
    let made = bench.replica().make(&user(0), parent, &name(directory), NewNode::Directory(0o755)).unwrap();
    made.entry.object
}

#[test]
fn everything_can_be_made() {
    let bench = Bench::new();
    let replica = bench.replica();
    let d = mkdir(&bench, ROOT, "d");
    write(&bench, d, "f", b"bytes");
    for (file, node) in [
        ("link", NewNode::Symlink(b"d/f")),
        ("fifo", NewNode::Node(Kind::Fifo, 0o640, Device::default())),
        ("socket", NewNode::Node(Kind::Socket, 0o600, Device::default())),
        ("null", NewNode::Node(Kind::CharDevice, 0o666, Device { major: 1, minor: 3 })),
        ("disk", NewNode::Node(Kind::BlockDevice, 0o660, Device { major: 7, minor: 300 })),
        ("plain", NewNode::Node(Kind::File, 0o4711, Device::default())),
    ] {
        replica.make(&user(1000), ROOT, &name(file), node).unwrap();
    }
    let owner = std::fs::symlink_metadata(bench.root().join("fifo")).unwrap().uid();
    assert_eq!(owner, 1000, "objects are made as the caller");
    bench.check();
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_is_recorded() {
    let bench = Bench::new();
    write(&bench, ROOT, "f", b"1");
    let last = bench.replica().last();
    let error = bench.replica().make(&user(0), ROOT, &name("f"), NewNode::Directory(0o755)).unwrap_err();
    assert_eq!(error.errno(), libc::EEXIST);
    assert_eq!(bench.replica().last(), last);
    bench.check();
}

#[test]
fn hard_links_are_one_object() {
    let bench = Bench::new();
    let f = write(&bench, ROOT, "f", b"1");
    let d = mkdir(&bench, ROOT, "d");
    let met = bench.replica().link(&user(0), f, d, &name("g")).unwrap();
    assert_eq!((met.entry.object, met.shown().links), (f, 2));
    bench.check();
    bench.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    assert_eq!(bench.find("d/g"), f);
    assert_eq!(bench.replica().observe(f).unwrap().shown().links, 1);
    rewrite(&bench, f, b"after");
    bench.check();
}

#[test]
fn renames_of_every_sort() {
    let bench = Bench::new();
    let (a, b) = (write(&bench, ROOT, "a", b"a"), write(&bench, ROOT, "b", b"b"));
    let d = mkdir(&bench, ROOT, "d");
    let rename = |from, old: &str, to, new: &str, flags| {
        bench.replica().rename(&user(0), (from, &name(old)), (to, &name(new)), flags)
    };
    rename(ROOT, "a", d, "a", RenameFlags::empty()).unwrap();
    assert_eq!(bench.find("d/a"), a);
    bench.check();
    rename(ROOT, "b", d, "a", RenameFlags::NOREPLACE).unwrap_err();
    rename(ROOT, "b", d, "a", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((bench.find("d/a"), bench.find("b")), (b, a));
    bench.check();
    rename(ROOT, "b", d, "a", RenameFlags::empty()).unwrap();
    assert_eq!(bench.find("d/a"), a);
    match bench.last_change() {
        Change::Rename { displaced: Displaced::Replaced(removed), .. } => assert_eq!(removed.object, b),
        other => panic!("{other:?}"),
    }
    bench.check();
    let last = bench.replica().last();
    bench.replica().link(&user(0), a, ROOT, &name("same")).unwrap();
    rename(ROOT, "same", d, "a", RenameFlags::empty()).unwrap();
    assert_eq!(bench.kinds_since(last), ["link"], "two names of one object: nothing happens");
    let e = mkdir(&bench, d, "e");
    assert_eq!(rename(ROOT, "d", e, "d", RenameFlags::empty()).unwrap_err().errno(), libc::EINVAL);
    bench.check();
}

#[test]
fn attributes_and_times() {
    let bench = Bench::new();
    let f = write(&bench, ROOT, "f", b"0123456789");
    let set = |changes| bench.replica().set_attributes(&user(0), f, &changes).unwrap();
    set(Changes { mode: Some(0o6750), ..Changes::default() });
    set(Changes { uid: Some(5), gid: Some(6), ..Changes::default() });
    set(Changes { size: Some(4), ..Changes::default() });
    set(Changes { size: Some(1 << 30), ..Changes::default() });
    set(Changes {
        mtime: SetTime::To(Time::new(-1, 999_999_999)),
        atime: SetTime::Now,
        ..Changes::default()
    });
    bench.check();
    bench.replica().set_xattr(&user(0), f, (b"user.colour", b"\0green"), 0, false).unwrap();
    bench.replica().set_xattr(&user(0), f, (b"trusted.x", b""), 0, false).unwrap();
    bench.check();
    bench.replica().remove_xattr(&user(0), f, b"user.colour").unwrap();
    let error = bench.replica().remove_xattr(&user(0), f, b"user.colour").unwrap_err();
    assert_eq!(error.errno(), libc::ENODATA);
    bench.check();
}

#[test]
fn removed_while_open() {
    let bench = Bench::new();
    let f = write(&bench, ROOT, "f", b"1");
    let replica = bench.replica();
    replica.opened(f, Use::Map, None).unwrap();
    replica.remove(&user(0), ROOT, &name("f"), false).unwrap();
    let last = replica.last();
    let file = replica.open_data(f, rustix::fs::OFlags::WRONLY).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&std::fs::File::from(file), b"more", 0).unwrap();
    let met =
        replica.set_attributes(&user(0), f, &Changes { mode: Some(0o600), ..Changes::default() }).unwrap();
    assert_eq!((met.stat.attributes.size, met.shown().links), (4, 0));
    replica.flushed(&user(0), f).unwrap();
    replica.released(&user(0), f, Use::Map).unwrap();
    assert_eq!(replica.last(), last, "what happens to a file that is gone is not recorded");
    assert_eq!(replica.observe(f).unwrap_err().errno(), libc::ESTALE);
    bench.check();
}

#[test]
fn a_file_without_a_name_is_recorded_when_it_gets_one() {
    let bench = Bench::new();
    let replica = bench.replica();
    let (met, file) = replica.create_unnamed(&user(7), ROOT, 0o640).unwrap();
    let object = met.entry.object;
    replica.opened(object, Use::Map, Some(file)).unwrap();
    let mut writer = std::fs::File::from(replica.open_data(object, rustix::fs::OFlags::WRONLY).unwrap());
    std::io::Write::write_all(&mut writer, b"late").unwrap();
    drop(writer);
    let last = replica.last();
    let met = replica.link(&user(7), object, ROOT, &name("named")).unwrap();
    assert_eq!((met.entry.object, met.entry.attributes().size), (object, 4));
    assert_eq!(bench.kinds_since(last), ["create"]);
    rewrite(&bench, object, b"later");
    replica.released(&user(7), object, Use::Map).unwrap();
    assert_eq!(replica.open_for_writing(), 0, "what it was made with is closed");
    bench.check();
}

#[test]
fn a_write_that_no_record_tells_of_yet_is_not_lost_in_another_change() {
    let bench = Bench::new();
    let f = write(&bench, ROOT, "f", b"first");
    let before = std::fs::metadata(bench.root().join("f")).unwrap().modified().unwrap();
    let replica = bench.replica();
    replica.opened(f, Use::Map, None).unwrap();
    let file = std::fs::File::from(replica.open_data(f, rustix::fs::OFlags::WRONLY).unwrap());
    std::os::unix::fs::FileExt::write_all_at(&file, b"FIRST", 0).unwrap();
    let since = before.duration_since(std::time::UNIX_EPOCH).unwrap();
    let mtime = SetTime::To(Time::new(since.as_secs() as i64, since.subsec_nanos()));
    replica.set_attributes(&user(0), f, &Changes { mtime, ..Changes::default() }).unwrap();
    let last = replica.last();
    replica.flushed(&user(0), f).unwrap();
    assert_eq!(bench.kinds_since(last), ["close"], "the size and mtime are the old ones, the bytes are not");
    replica.released(&user(0), f, Use::Map).unwrap();
    bench.check();
}

#[test]
fn what_was_there_before_is_taken_in() {
    let bench = Bench::unopened();
    let root = bench.root();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/b/f"), "bytes").unwrap();
    std::fs::hard_link(root.join("a/b/f"), root.join("a/g")).unwrap();
    symlink("a/b", root.join("l")).unwrap();
    let bench = Bench {
        replica: Some(
            mezzo_replica::Replica::create(mezzo_replica::Fileset::create(&root).unwrap()).unwrap(),
        ),
        ..bench
    };
    let taken = bench.replica().take_in(&mut |_| true).unwrap();
    assert_eq!(taken.seen, 5);
    bench.check();
    let last = bench.replica().last();
    bench.replica().take_in(&mut |_| true).unwrap();
    assert_eq!(bench.replica().last(), last, "a second look finds nothing");
}

#[test]
fn what_was_changed_behind_is_taken_in() {
    let mut bench = Bench::new();
    let root = bench.root();
    let d = mkdir(&bench, ROOT, "d");
    let f = write(&bench, d, "f", b"1");
    let g = write(&bench, d, "g", b"2");
    let h = write(&bench, ROOT, "h", b"3");
    write(&bench, ROOT, "gone", b"4");
    bench.replica = None;
    std::fs::rename(root.join("d"), root.join("e")).unwrap();
    std::fs::rename(root.join("e/f"), root.join("f2")).unwrap();
    std::fs::write(root.join("e/g"), "changed").unwrap();
    std::fs::hard_link(root.join("h"), root.join("e/h2")).unwrap();
    std::fs::remove_file(root.join("gone")).unwrap();
    std::fs::write(root.join("new"), "n").unwrap();
    bench.reopen();
    bench.replica().take_in(&mut |_| true).unwrap();
    bench.check();
    assert_eq!((bench.find("e"), bench.find("f2"), bench.find("e/g")), (d, f, g), "told by their inodes");
    assert_eq!(bench.find("e/h2"), h);
}

#[test]
fn the_index_is_made_again_from_the_log() {
    let mut bench = Bench::new();
    let d = mkdir(&bench, ROOT, "d");
    let f = write(&bench, d, "f", b"1");
    bench.replica().link(&user(0), f, ROOT, &name("g")).unwrap();
    let last = bench.replica().last();
    bench.replica = None;
    std::fs::remove_file(bench.root().join(".mezzo/index")).unwrap();
    bench.reopen();
    assert_eq!((bench.find("d"), bench.find("d/f"), bench.find("g")), (d, f, f));
    bench.replica().take_in(&mut |_| true).unwrap();
    assert_eq!(bench.replica().last(), last, "nothing differs");
    rewrite(&bench, f, b"again");
    bench.check();
}
