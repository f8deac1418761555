//! Records are taken back: the tree is as it was before them, and everything is there to do them again.

mod common;

use common::work::{self, Random, Snapshot, snapshot};
use common::{Bench, equal_trees, name, user};
use mezzo_core::undo::Obstacle;
use mezzo_core::{Change, ObjectId, Recno, Record};
use mezzo_replica::undo::{Plan, Selection, Why};
use mezzo_replica::{AtticPolicy, Changes, NewNode};
use rustix::fs::RenameFlags;

const ROOT: ObjectId = ObjectId::ROOT;

/// Something that is done, and what it is called.
type Named<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn all(_: &Record) -> bool {
    true
}

/// Everything after a record.
fn after(recno: Recno) -> Selection<'static> {
    Selection { after: recno, most: usize::MAX, takes: &all, undos: false, along: false }
}

fn undo(bench: &Bench, selection: &Selection<'_>) -> Plan {
    bench.replica().undo(&user(0), selection, &()).unwrap()
}

fn undone(bench: &Bench, selection: &Selection<'_>) -> Plan {
    let plan = undo(bench, selection);
    assert_eq!(plan.hindrances, []);
    plan
}

/// Takes back the undos after a record.
fn redone(bench: &Bench, recno: Recno) -> Plan {
    undone(bench, &Selection { undos: true, ..after(recno) })
}

/// The tree is as it was then.
fn is_as(bench: &Bench, snapshot: &Snapshot) {
    let (now, replayed) = bench.replay(mezzo_replica::replay::Range::default());
    assert_eq!(replayed.without_data, []);
    equal_trees(snapshot.tree.path(), now.path());
    equal_trees(&bench.root(), now.path());
}

fn create(bench: &Bench, file: &str, bytes: &[u8]) -> ObjectId {
    let (met, _) = bench.replica().create_file(&user(0), ROOT, &name(file), 0o644).unwrap();
    work::write(bench, met.entry.object, bytes);
    met.entry.object
}

#[test]
fn each_kind_is_taken_back_and_done_again() {
    let bench = Bench::new();
    let replica = bench.replica();
    let caller = user(0);
    let file = create(&bench, "file", b"one");
    let other = create(&bench, "other", b"other");
    let directory = replica.make(&caller, ROOT, &name("d"), NewNode::Directory(0o755)).unwrap().entry.object;
    let steps: Vec<Named> = vec![
        (
            "create",
            Box::new(|| {
                create(&bench, "new", b"bytes");
            }),
        ),
        (
            "mkdir",
            Box::new(|| {
                drop(replica.make(&caller, directory, &name("e"), NewNode::Directory(0o700)).unwrap())
            }),
        ),
        (
            "symlink",
            Box::new(|| drop(replica.make(&caller, ROOT, &name("s"), NewNode::Symlink(b"t")).unwrap())),
        ),
        ("link", Box::new(|| drop(replica.link(&caller, file, directory, &name("l")).unwrap()))),
        ("close", Box::new(|| work::write(&bench, file, b"two"))),
        (
            "truncate",
            Box::new(|| {
                let changes = Changes { size: Some(0), ..Changes::default() };
                replica.set_attributes(&caller, file, &changes).unwrap();
            }),
        ),
        (
            "grow",
            Box::new(|| {
                let changes = Changes { size: Some(10), ..Changes::default() };
                replica.set_attributes(&caller, file, &changes).unwrap();
            }),
        ),
        (
            "chmod",
            Box::new(|| {
                let changes =
                    Changes { mode: Some(0o4711), uid: Some(5), gid: Some(6), ..Changes::default() };
                replica.set_attributes(&caller, file, &changes).unwrap();
            }),
        ),
        ("xattr", Box::new(|| replica.set_xattr(&caller, file, (b"user.k", b"v"), 0, false).unwrap())),
        (
            "rename",
            Box::new(|| {
                replica
                    .rename(&caller, (ROOT, &name("file")), (directory, &name("f")), RenameFlags::empty())
                    .unwrap();
            }),
        ),
        (
            "replace",
            Box::new(|| {
                replica
                    .rename(&caller, (directory, &name("f")), (ROOT, &name("other")), RenameFlags::empty())
                    .unwrap();
            }),
        ),
        (
            "exchange",
            Box::new(|| {
                let new = (ROOT, &name("new"));
                replica.rename(&caller, new, (directory, &name("e")), RenameFlags::EXCHANGE).unwrap();
            }),
        ),
        ("unlink a name", Box::new(|| replica.remove(&caller, directory, &name("l"), false).unwrap())),
        ("unlink", Box::new(|| replica.remove(&caller, ROOT, &name("other"), false).unwrap())),
        ("rmdir", Box::new(|| replica.remove(&caller, ROOT, &name("new"), true).unwrap())),
    ];
    let mut before = Vec::new();
    for (_, step) in &steps {
        before.push(snapshot(&bench));
        step();
    }
    let end = snapshot(&bench);
    for ((what, _), snapshot) in steps.iter().zip(&before).rev() {
        let last = replica.last();
        undone(&bench, &after(snapshot.at));
        is_as(&bench, snapshot);
        redone(&bench, last);
        is_as(&bench, &end);
        println!("{what}: undone and done again");
    }
    assert!(replica.entry(other).is_err(), "it was replaced");
    undone(&bench, &after(Recno(0)));
    assert_eq!(std::fs::read_dir(bench.root()).unwrap().count(), 1, "nothing is left but .mezzo");
    bench.check();
}

#[test]
fn what_was_removed_comes_back_as_what_it_was() {
    let bench = Bench::new();
    let replica = bench.replica();
    let file = create(&bench, "f", b"bytes");
    let inode = replica.meet(ROOT, &name("f")).unwrap().unwrap().stat.inode;
    let last = replica.last();
    replica.remove(&user(0), ROOT, &name("f"), false).unwrap();
    undone(&bench, &after(last));
    let met = replica.meet(ROOT, &name("f")).unwrap().unwrap();
    assert_eq!((met.entry.object, met.stat.inode), (file, inode));
    assert_eq!(std::fs::read(bench.root().join("f")).unwrap(), b"bytes");
    assert_eq!(bench.kinds_since(last), ["unlink", "undo"]);
    bench.check();
}

#[test]
fn undo_goes_further_back_each_time_and_redo_forward() {
    let bench = Bench::new();
    let last = Selection { most: 1, ..after(Recno(0)) };
    let text = || std::fs::read_to_string(bench.root().join("f")).unwrap();
    let file = create(&bench, "f", b"1");
    work::write(&bench, file, b"2");
    work::write(&bench, file, b"3");
    undone(&bench, &last);
    assert_eq!(text(), "2");
    undone(&bench, &last);
    assert_eq!(text(), "1");
    let redo = Selection { undos: true, most: 1, ..after(Recno(0)) };
    undone(&bench, &redo);
    assert_eq!(text(), "2");
    undone(&bench, &redo);
    assert_eq!(text(), "3");
    assert!(undone(&bench, &redo).records.is_empty(), "there is nothing more to do again");
    undone(&bench, &last);
    assert_eq!(text(), "2");
    bench.check();
}

#[test]
fn of_two_programs_one_is_taken_back() {
    let bench = Bench::new();
    let replica = bench.replica();
    let shared = create(&bench, "shared", b"0");
    let last = replica.last();
    let of = |uid| replica.create_file(&user(uid), ROOT, &name(&format!("of-{uid}")), 0o644).unwrap();
    of(1000);
    of(1001);
    let mode = |uid, mode| {
        let changes = Changes { mode: Some(mode), ..Changes::default() };
        replica.set_attributes(&user(uid), shared, &changes).unwrap();
    };
    mode(1000, 0o600);
    replica.set_xattr(&user(1001), shared, (b"user.k", b"v"), 0, false).unwrap();
    let by = |record: &Record| record.who.uid == 1000;
    undone(&bench, &Selection { takes: &by, ..after(last) });
    assert!(!bench.root().join("of-1000").exists());
    assert!(bench.root().join("of-1001").exists());
    let met = replica.meet(ROOT, &name("shared")).unwrap().unwrap();
    assert_eq!((met.shown().mode, met.entry.state.xattrs.len()), (0o644, 1));
    bench.check();
}

#[test]
fn what_depends_is_named_or_taken_along() {
    let bench = Bench::new();
    let replica = bench.replica();
    let last = replica.last();
    let directory =
        replica.make(&user(1000), ROOT, &name("d"), NewNode::Directory(0o777)).unwrap().entry.object;
    replica.create_file(&user(1001), directory, &name("f"), 0o644).unwrap();
    let depends = replica.last();
    let by = |record: &Record| record.who.uid == 1000;
    let plan = undo(&bench, &Selection { takes: &by, ..after(last) });
    let [hindrance] = &plan.hindrances[..] else { panic!("{plan:?}") };
    assert_eq!(hindrance.why, Why::Obstacle(Obstacle::NotEmpty(directory)));
    assert_eq!((hindrance.record, hindrance.by), (last.next(), Some(depends)));
    assert_eq!(replica.last(), depends, "nothing was done");
    let plan = undone(&bench, &Selection { takes: &by, along: true, ..after(last) });
    assert_eq!(plan.along.iter().copied().collect::<Vec<_>>(), [depends]);
    assert!(!bench.root().join("d").exists());
    bench.check();
}

#[test]
fn data_that_is_not_kept_is_told_before_anything_is_done() {
    let bench = Bench::new();
    let replica = bench.replica();
    let file = create(&bench, "f", b"one");
    let last = replica.last();
    work::write(&bench, file, b"two");
    replica.remove(&user(0), ROOT, &name("f"), false).unwrap();
    for kept in std::fs::read_dir(bench.root().join(".mezzo/attic")).unwrap() {
        std::fs::remove_file(kept.unwrap().path()).unwrap();
    }
    let at = replica.last();
    let plan = undo(&bench, &after(last));
    assert!(plan.hindrances.iter().all(|hindrance| matches!(hindrance.why, Why::NoData { .. })), "{plan:?}");
    assert_eq!((plan.hindrances.len(), replica.last()), (2, at));
}

#[test]
fn what_comes_and_goes_needs_no_data() {
    let mut bench = Bench::new();
    let begin = bench.replica().last();
    let before = snapshot(&bench);
    create(&bench, "temporary", b"much");
    bench
        .replica()
        .rename(&user(0), (ROOT, &name("temporary")), (ROOT, &name("t")), RenameFlags::empty())
        .unwrap();
    bench.replica().remove(&user(0), ROOT, &name("t"), false).unwrap();
    create(&bench, "t", b"it stays");
    let after_all = snapshot(&bench);
    for _ in 0..2 {
        for kept in std::fs::read_dir(bench.root().join(".mezzo/attic")).unwrap() {
            let kept = kept.unwrap().path();
            if std::fs::read(&kept).unwrap() == b"much" {
                std::fs::remove_file(kept).unwrap();
            }
        }
        let last = bench.replica().last();
        undone(&bench, &after(begin));
        is_as(&bench, &before);
        redone(&bench, last);
        is_as(&bench, &after_all);
    }
    bench.reopen();
    bench.check();
}

#[test]
fn what_was_in_between_need_not_be_kept() {
    let bench = Bench::new();
    let replica = bench.replica();
    let file = create(&bench, "f", b"stays");
    let begin = replica.last();
    let before = snapshot(&bench);
    work::write(&bench, file, b"between");
    let mode = Changes { mode: Some(0o4755), ..Changes::default() };
    replica.set_attributes(&user(0), file, &mode).unwrap();
    let size = Changes { size: Some(3), kill_set_id: true, ..Changes::default() };
    replica.set_attributes(&user(0), file, &size).unwrap();
    work::write(&bench, file, b"and the last one");
    let after_all = snapshot(&bench);
    for kept in std::fs::read_dir(bench.root().join(".mezzo/attic")).unwrap() {
        let kept = kept.unwrap().path();
        if std::fs::read(&kept).unwrap() != b"stays" {
            std::fs::remove_file(kept).unwrap();
        }
    }
    for _ in 0..2 {
        let last = replica.last();
        undone(&bench, &after(begin));
        is_as(&bench, &before);
        redone(&bench, last);
        is_as(&bench, &after_all);
    }
    let between = begin.next();
    let plan = undo(&bench, &after(between));
    assert!(matches!(plan.hindrances[..], [ref one] if matches!(one.why, Why::NoData { .. })), "{plan:?}");
}

#[test]
fn an_undo_is_made_of_records() {
    let bench = Bench::new();
    let file = create(&bench, "f", b"one");
    work::write(&bench, file, b"two");
    let close = bench.records().pop().unwrap();
    undone(&bench, &Selection { most: 1, ..after(Recno(0)) });
    let Change::UndoOf { record, change } = bench.last_change() else { panic!() };
    let Change::Close { data, attributes, .. } = *change else { panic!("{change:?}") };
    let Change::Close { data: then, attributes: was, .. } = close.change else { panic!() };
    assert_eq!(record, close.origin);
    assert_eq!((data.before.version, data.after.version), (then.after.version, then.before.version));
    assert_eq!(attributes.after.mtime, was.before.mtime);
    assert!(attributes.after.ctime > was.after.ctime, "an undo is a change");
}

/// Undo of any suffix is the tree before it, and undo then redo is the identity.
#[test]
fn random_work_is_taken_back_to_any_point() {
    take_back_random_work(&AtticPolicy::default());
}

/// Nearly every file is too large to be copied, so that the ranges are kept that are overwritten.
#[test]
fn random_work_on_large_files_is_taken_back_to_any_point() {
    take_back_random_work(&AtticPolicy { copy_limit: 100, ..AtticPolicy::default() });
}

fn take_back_random_work(policy: &AtticPolicy) {
    work::with_histories(6, 80, |steps| {
        // What is taken back when is chosen by the history too.
        let mut random = Random::new(steps.iter().sum());
        let mut bench = Bench::with(policy.clone());
        let mut snapshots = vec![snapshot(&bench)];
        for (at, step) in steps.iter().enumerate() {
            work::step(&bench, *step);
            if at % 8 == 7 || steps.len() < 8 {
                snapshots.push(snapshot(&bench));
            }
        }
        while let Some(then) = snapshots.pop() {
            let now = snapshot(&bench);
            undone(&bench, &after(then.at));
            is_as(&bench, &then);
            if random.below(2) == 0 && now.at < bench.replica().last() {
                redone(&bench, now.at);
                is_as(&bench, &now);
                undone(&bench, &after(then.at));
                is_as(&bench, &then);
            }
            if random.below(4) == 0 {
                bench.reopen();
            }
        }
        bench.check();
    });
}
