//! What the tree has no more is kept: a replay to any record has all data.

mod common;

use std::os::unix::fs::FileExt;

use common::work::{self, Random, Snapshot, snapshot, write};
use common::{Bench, equal_trees, name, user};
use mezzo_core::ObjectId;
use mezzo_replica::replay::Range;
use mezzo_replica::{AtticPolicy, Bytes, Changes, NewNode, Sight, Use};
use rustix::fs::{OFlags, RenameFlags};

const ROOT: ObjectId = ObjectId::ROOT;

fn create(bench: &Bench, file: &str, bytes: &[u8]) -> ObjectId {
    let (met, _) = bench.replica().create_file(&user(0), ROOT, &name(file), 0o644).unwrap();
    write(bench, met.entry.object, bytes);
    met.entry.object
}

fn truncate(bench: &Bench, object: ObjectId, size: u64) {
    let changes = Changes { size: Some(size), ..Changes::default() };
    bench.replica().set_attributes(&user(0), object, &changes).unwrap();
}

fn rename(bench: &Bench, from: &str, to: &str) {
    bench.replica().rename(&user(0), (ROOT, &name(from)), (ROOT, &name(to)), RenameFlags::empty()).unwrap();
}

fn check(bench: &Bench, snapshots: &[Snapshot]) {
    for Snapshot { at, tree } in snapshots {
        let (again, replayed) = bench.replay(Range { from: None, to: Some(*at) });
        assert_eq!(replayed.without_data, [], "up to record {at}");
        equal_trees(tree.path(), again.path());
    }
}

#[test]
fn each_way_of_losing_data_keeps_it() {
    let bench = Bench::with(AtticPolicy::default());
    let mut snapshots = Vec::new();
    let f = create(&bench, "f", b"first");
    snapshots.push(snapshot(&bench));
    write(&bench, f, b"SECOND and longer");
    snapshots.push(snapshot(&bench));
    truncate(&bench, f, 3);
    snapshots.push(snapshot(&bench));
    truncate(&bench, f, 0);
    write(&bench, f, b"third");
    snapshots.push(snapshot(&bench));
    create(&bench, "g", b"replaces");
    snapshots.push(snapshot(&bench));
    rename(&bench, "g", "f");
    snapshots.push(snapshot(&bench));
    bench.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    snapshots.push(snapshot(&bench));
    check(&bench, &snapshots);
    bench.check();
}

#[test]
fn a_file_that_is_removed_while_it_is_written_is_kept_as_it_was_closed() {
    let bench = Bench::with(AtticPolicy::default());
    let f = create(&bench, "f", b"closed");
    let before = snapshot(&bench);
    let replica = bench.replica();
    replica.opened(f, Use::Write, None).unwrap();
    let file = std::fs::File::from(replica.open_data(f, OFlags::WRONLY).unwrap());
    replica.remove(&user(0), ROOT, &name("f"), false).unwrap();
    file.write_all_at(b"LATER!", 0).unwrap();
    drop(file);
    replica.released(&user(0), f, Use::Write).unwrap();
    check(&bench, &[before]);
}

#[test]
fn other_names_keep_a_file_as_well_as_the_attic_would() {
    let bench = Bench::with(AtticPolicy::default());
    let f = create(&bench, "f", b"bytes");
    bench.replica().link(&user(0), f, ROOT, &name("g")).unwrap();
    bench.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    assert_eq!(bench.replica().attic_size(), (0, 0));
    bench.replica().remove(&user(0), ROOT, &name("g"), false).unwrap();
    assert_eq!(bench.replica().attic_size(), (5, 1));
}

#[test]
fn an_open_that_changes_nothing_leaves_nothing() {
    let bench = Bench::with(AtticPolicy::default());
    let f = create(&bench, "f", b"bytes");
    bench.replica().opened(f, Use::Write, None).unwrap();
    assert_eq!(bench.replica().attic_size(), (5, 1));
    bench.replica().released(&user(0), f, Use::Write).unwrap();
    assert_eq!(bench.replica().attic_size(), (0, 0));
}

#[test]
fn set_id_bits_do_not_go_to_the_attic() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::with(AtticPolicy::default());
    let f = create(&bench, "f", b"#!");
    let changes = Changes { mode: Some(0o6755), ..Changes::default() };
    bench.replica().set_attributes(&user(0), f, &changes).unwrap();
    bench.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    let kept = std::fs::read_dir(bench.root().join(".mezzo/attic")).unwrap().next().unwrap().unwrap();
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn what_the_bounds_drop_is_named() {
    let bench = Bench::with(AtticPolicy { max_bytes: 10, ..AtticPolicy::default() });
    for file in ["a", "b", "c"] {
        create(&bench, file, b"seven 7");
    }
    let before = bench.replica().last();
    for file in ["a", "b", "c"] {
        bench.replica().remove(&user(0), ROOT, &name(file), false).unwrap();
    }
    assert_eq!(bench.replica().attic_size(), (21, 3));
    bench.replica().bound_attic().unwrap();
    assert_eq!(bench.replica().attic_size(), (7, 1), "the oldest go");
    let (_, replayed) = bench.replay(Range { from: None, to: Some(before) });
    let paths: Vec<&[u8]> = replayed.without_data.iter().map(|(path, _)| &**path).collect();
    assert_eq!(paths, [b"a", b"b"]);
}

#[test]
fn what_policy_leaves_out_is_not_kept() {
    let off = Bench::with(AtticPolicy { on: false, ..AtticPolicy::default() });
    create(&off, "f", b"1");
    off.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    assert_eq!(off.replica().attic_size(), (0, 0));
    let some =
        Bench::with(AtticPolicy { exclude: vec!["*.o".to_owned()], copy_limit: 3, ..AtticPolicy::default() });
    create(&some, "f.o", b"1");
    some.replica().remove(&user(0), ROOT, &name("f.o"), false).unwrap();
    let large = create(&some, "large", b"1234");
    truncate(&some, large, 0);
    let small = create(&some, "small", b"123");
    truncate(&some, small, 0);
    // Where the host can clone, no size is too large.
    assert!(matches!(some.replica().attic_size(), (3, 1) | (7, 2)), "{:?}", some.replica().attic_size());
}

#[test]
fn the_attic_is_found_again_without_the_index() {
    let mut bench = Bench::with(AtticPolicy::default());
    create(&bench, "f", b"bytes");
    bench.replica().remove(&user(0), ROOT, &name("f"), false).unwrap();
    bench.replica = None;
    std::fs::remove_file(bench.root().join(".mezzo/index")).unwrap();
    bench.reopen();
    assert_eq!(bench.replica().attic_size().1, 1);
}

#[test]
fn random_work_can_be_replayed_to_any_point() {
    random_work(AtticPolicy::default());
}

/// Nearly every file is too large to be copied.
#[test]
fn random_work_on_large_files_can_be_replayed_to_any_point() {
    let bench = random_work(AtticPolicy { copy_limit: 2000, ..AtticPolicy::default() });
    assert!(
        bench.replica().kept_by_ranges() > 0 || can_clone(&bench),
        "{}",
        bench.replica().kept_by_ranges()
    );
}

fn can_clone(bench: &Bench) -> bool {
    use std::os::fd::AsFd;
    let file = |name: &str| std::fs::File::create(bench.root().join(".mezzo").join(name)).unwrap();
    mezzo_replica::host::reflink(file("a").as_fd(), file("b").as_fd()).is_ok()
}

/// Random work by a seed, which is printed; `MEZZO_SEED` takes it back.
fn random_work(policy: AtticPolicy) -> Bench {
    let mut random = Random::new(work::seed());
    let bench = Bench::with(policy);
    let mut snapshots = Vec::new();
    let mut opens = Vec::new();
    for step in 0..300 {
        random_step(&bench, &mut random, &opens);
        random_open(&bench, &mut random, &mut opens);
        if step % 10 == 0 {
            // What is written while a file stays open is no point to go back to.
            opens.drain(..).for_each(|open| close(&bench, open));
            snapshots.push(snapshot(&bench));
        }
    }
    opens.drain(..).for_each(|open| close(&bench, open));
    check(&bench, &snapshots);
    bench.check();
    bench
}

/// A file that is open.
struct Opened {
    object: ObjectId,
    usage: Use,
    sight: Sight,
    file: std::fs::File,
}

/// Opens a file, or does something to one that is open.
fn random_open(bench: &Bench, random: &mut Random, opens: &mut Vec<Opened>) {
    let replica = bench.replica();
    let which = random.below(4) as usize;
    if which >= opens.len() {
        let file = name(["a", "b", "c", "d", "e"][random.below(5) as usize]);
        let Some(met) = replica.meet(ROOT, &file).unwrap() else { return };
        if met.entry.version().is_some() {
            let usage = if random.below(3) == 0 { Use::Read } else { Use::Write };
            opens.push(open(bench, opens, met.entry.object, usage));
        }
        return;
    }
    let Opened { object, usage, sight, file } = &opens[which];
    match random.below(6) {
        0 => close(bench, opens.swap_remove(which)),
        1 if *usage == Use::Write => replica.flushed(&user(0), *object).unwrap(),
        2 if *usage == Use::Write => truncate(bench, *object, random.below(60_000)),
        _ if *usage == Use::Write => {
            let (at, count) = (random.below(60_000), random.below(20_000));
            if *sight == Sight::Seen {
                replica.before_change(*object, at..at + count);
            }
            file.write_all_at(&vec![b'A' + random.below(26) as u8; count as usize], at).unwrap();
        }
        _ => {}
    }
}

/// Opens a file as the kernel would have it: as those who have it open already, where somebody has.
fn open(bench: &Bench, opens: &[Opened], object: ObjectId, usage: Use) -> Opened {
    let replica = bench.replica();
    let fixed = opens.iter().find(|open| open.object == object).map(|open| open.sight);
    let (sight, usage) = replica.opening(object, usage, fixed, Bytes::Needed).unwrap();
    let flags = if usage == Use::Read { OFlags::RDONLY } else { OFlags::RDWR };
    replica.keep_reach(object, Some(replica.open_data(object, OFlags::RDONLY).unwrap()));
    Opened { object, usage, sight, file: replica.open_data(object, flags).unwrap().into() }
}

fn close(bench: &Bench, open: Opened) {
    drop(open.file);
    if open.usage != Use::Read {
        bench.replica().flushed(&user(0), open.object).unwrap();
    }
    bench.replica().released(&user(0), open.object, open.usage).unwrap();
}

/// One operation on a few names; many are refused, and change nothing.
fn random_step(bench: &Bench, random: &mut Random, opens: &[Opened]) {
    let replica = bench.replica();
    let file = name(["a", "b", "c", "d", "e"][random.below(5) as usize]);
    let other = name(["a", "b", "c", "d", "e"][random.below(5) as usize]);
    let caller = user(if random.below(2) == 0 { 0 } else { 1000 });
    let object = replica.meet(ROOT, &file).unwrap().map(|met| met.entry.object);
    let is_file = object.is_some_and(|object| replica.entry(object).unwrap().version().is_some());
    match random.below(10) {
        0 | 1 => drop(replica.create_file(&caller, ROOT, &file, 0o644)),
        2 => drop(replica.make(&caller, ROOT, &file, NewNode::Directory(0o755))),
        3 => drop(replica.make(&caller, ROOT, &file, NewNode::Symlink(b"a"))),
        4 => drop(replica.remove(&caller, ROOT, &file, random.below(2) == 0)),
        5 => drop(replica.rename(&caller, (ROOT, &file), (ROOT, &other), RenameFlags::empty())),
        6 => drop(replica.rename(&caller, (ROOT, &file), (ROOT, &other), RenameFlags::EXCHANGE)),
        7 => drop(object.map(|object| replica.link(&caller, object, ROOT, &other))),
        8 if is_file => truncate(bench, object.unwrap(), random.below(9)),
        9 if is_file && !opens.iter().any(|open| Some(open.object) == object) => {
            let bytes = vec![b'0' + random.below(10) as u8; 1 + random.below(2000) as usize];
            write(bench, object.unwrap(), &bytes);
        }
        _ => {}
    }
}

/// A file that is given to others of its names is linked into the attic on its way.
#[test]
fn a_link_that_an_end_left_in_the_attic_is_not_written_over() {
    let mut bench = Bench::with(AtticPolicy::default());
    create(&bench, "f", b"first");
    let g = create(&bench, "g", b"other");
    bench.replica = None;
    let root = bench.root();
    std::fs::hard_link(root.join("f"), root.join(".mezzo/attic/unfinished")).unwrap();
    bench.reopen();
    write(&bench, g, b"again");
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"first");
    bench.replica().take_in(&mut |_| true).unwrap();
    bench.check();
}

/// What is about to be replaced is linked into the attic before, and may stay in the tree after all.
#[test]
fn a_file_of_the_tree_is_not_kept_as_it_stands() {
    let mut bench = Bench::with(AtticPolicy::default());
    let f = create(&bench, "f", b"first");
    let version = bench.replica().entry(f).unwrap().version().unwrap();
    let last = bench.replica().last();
    bench.replica = None;
    let root = bench.root();
    let kept = root.join(".mezzo/attic").join(version.to_string());
    std::fs::hard_link(root.join("f"), &kept).unwrap();
    // It was killed.
    std::fs::File::options()
        .write(true)
        .open(root.join(".mezzo/lml"))
        .unwrap()
        .write_all_at(&[0], 32)
        .unwrap();
    bench.reopen();
    bench.replica().take_in(&mut |_| true).unwrap();
    assert_eq!(bench.kinds_since(last), [""; 0]);
    assert!(!kept.exists());
    let snapshots = [snapshot(&bench)];
    write(&bench, f, b"SECOND");
    check(&bench, &snapshots);
    bench.check();
}
