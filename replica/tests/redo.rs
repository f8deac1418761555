//! After a power loss the tree is made as the log has it, whatever stands where.

mod common;

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

use common::{Bench, name, user};
use mezzo_core::{ObjectId, Recno};
use mezzo_replica::{NewNode, Use};

const ROOT: ObjectId = ObjectId::ROOT;

fn mkdir(bench: &Bench, parent: ObjectId, directory: &str) -> ObjectId {
    let made = bench.replica().make(&user(0), parent, &name(directory), NewNode::Directory(0o755)).unwrap();
    made.entry.object
}

fn write(bench: &Bench, parent: ObjectId, file: &str) -> ObjectId {
    let replica = bench.replica();
    let (met, _) = replica.create_file(&user(0), parent, &name(file), 0o644).unwrap();
    let object = met.entry.object;
    replica.opened(object, Use::Write, None).unwrap();
    let to = std::fs::File::from(replica.open_data(object, rustix::fs::OFlags::WRONLY).unwrap());
    to.write_all_at(file.as_bytes(), 0).unwrap();
    drop(to);
    replica.released(&user(0), object, Use::Write).unwrap();
    object
}

/// a/b/c/f, a/b/g, d/h, d/empty/, d/link, and d/also, which is a/b/g too.
fn bench() -> Bench {
    let bench = Bench::new();
    let a = mkdir(&bench, ROOT, "a");
    let b = mkdir(&bench, a, "b");
    let c = mkdir(&bench, b, "c");
    write(&bench, c, "f");
    let g = write(&bench, b, "g");
    let d = mkdir(&bench, ROOT, "d");
    write(&bench, d, "h");
    mkdir(&bench, d, "empty");
    bench.replica().make(&user(0), d, &name("link"), NewNode::Symlink(b"h")).unwrap();
    bench.replica().link(&user(0), g, d, &name("also")).unwrap();
    bench
}

/// Notes that power was lost, and that the log has been being done again since ever: so nothing counts as newer than it.
fn lose_power(bench: &mut Bench) {
    bench.replica = None;
    let lml = std::fs::File::options().write(true).open(bench.root().join(".mezzo/lml")).unwrap();
    lml.write_all_at(&[0, 1], 32).unwrap();
    lml.write_all_at(&[0; 12], 40).unwrap();
}

/// After `mess` was made of the tree, it is put in order, and nothing is recorded.
fn check(what: &str, mess: impl FnOnce(&dyn Fn(&str) -> PathBuf)) {
    let mut bench = bench();
    lose_power(&mut bench);
    let root = bench.root();
    let before = bench.records().len();
    mess(&|path| root.join(path));
    bench.reopen();
    bench.replica().take_in(&mut |_| true).unwrap();
    let made = bench.kinds_since(Recno(before as u64));
    assert!(made.is_empty(), "{what}: recorded {made:?}");
    bench.check();
    let aside = std::fs::read_dir(root.join(".mezzo/aside")).unwrap().count();
    assert_eq!(aside, 0, "{what}: nothing stays aside");
}

fn exchange(a: PathBuf, b: PathBuf) {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).unwrap();
}

#[test]
fn every_mess_is_put_in_order() {
    use std::fs::{rename, set_permissions};
    check("nothing", |_| {});
    check("a file elsewhere", |at| rename(at("d/h"), at("a/h")).unwrap());
    check("a directory elsewhere", |at| rename(at("a/b"), at("b")).unwrap());
    check("a file over another", |at| {
        exchange(at("d/h"), at("a/b/g"));
        std::fs::rename(at("d/h"), at("d/also")).unwrap();
    });
    check("files exchanged", |at| exchange(at("d/h"), at("a/b/c/f")));
    check("directories exchanged", |at| exchange(at("a/b"), at("d")));
    check("a directory and a file exchanged", |at| exchange(at("a"), at("d/h")));
    check("parent and child turned over", |at| {
        rename(at("a/b"), at("b")).unwrap();
        rename(at("a"), at("b/a")).unwrap();
        rename(at("b/c"), at("c")).unwrap();
        rename(at("b"), at("c/b")).unwrap();
    });
    check("a link gone", |at| std::fs::remove_file(at("d/also")).unwrap());
    check("the other link gone", |at| std::fs::remove_file(at("a/b/g")).unwrap());
    check("a symbolic link gone", |at| std::fs::remove_file(at("d/link")).unwrap());
    check("a directory gone", |at| std::fs::remove_dir(at("d/empty")).unwrap());
    check("one more link", |at| std::fs::hard_link(at("d/h"), at("a/more")).unwrap());
    check("another mode", |at| set_permissions(at("a/b/g"), PermissionsExt::from_mode(0o600)).unwrap());
    check("all of it", |at| {
        rename(at("d"), at("a/b/c/d")).unwrap();
        exchange(at("a/b/c/f"), at("a/b/c/d/empty"));
        set_permissions(at("a/b"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::remove_file(at("a/b/c/d/link")).unwrap();
        rename(at("a/b"), at("z")).unwrap();
    });
}

#[test]
fn what_was_ended_begins_anew() {
    check("a directory was set aside", |at| {
        std::fs::create_dir(at(".mezzo/aside")).unwrap();
        std::fs::rename(at("a/b"), at(".mezzo/aside/7")).unwrap();
        std::fs::rename(at("d/h"), at(".mezzo/aside/8")).unwrap();
        symlink("half made", at(".mezzo/aside/9")).unwrap();
    });
}

#[test]
fn lost_bytes_are_no_change_of_a_file() {
    let mut bench = bench();
    lose_power(&mut bench);
    std::fs::remove_file(bench.root().join("d/h")).unwrap();
    std::fs::write(bench.root().join("a/b/c/f"), b"").unwrap();
    let before = bench.records().len();
    bench.reopen();
    assert_eq!(bench.replica().index().lost(), 2);
    // Without its index, it knows them by their marks.
    bench.replica = None;
    std::fs::remove_file(bench.root().join(".mezzo/index")).unwrap();
    bench.reopen();
    bench.replica().take_in(&mut |_| true).unwrap();
    assert_eq!(bench.replica().index().lost(), 2);
    let made = bench.kinds_since(Recno(before as u64));
    assert!(!made.contains(&"close"), "recorded {made:?}");
    // A write makes it whole.
    let f = bench.find("a/b/c/f");
    let replica = bench.replica();
    replica.opened(f, Use::Write, None).unwrap();
    let file = std::fs::File::from(replica.open_data(f, rustix::fs::OFlags::WRONLY).unwrap());
    file.write_all_at(b"new", 0).unwrap();
    drop(file);
    replica.released(&user(0), f, Use::Write).unwrap();
    assert_eq!(bench.replica().index().lost(), 1);
}
