//! Records of one replica are taken into another: the trees are equal, each record counts once, and what does not fit is told
//! exactly and changes nothing.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use common::work;
use common::{Bench, equal_trees, name, open, user};
use mezzo_core::reintegrate::Class;
use mezzo_core::tree::Tree;
use mezzo_core::{Attributes, Change, ObjectId, Origin, Place, Recno, Record, State, Xattr};
use mezzo_replica::log::Reader;
use mezzo_replica::receive::{Beside, How, OnData, Outgoing, Taken, Why};
use mezzo_replica::versions::Source;
use mezzo_replica::{Changes, Fileset, NewNode, Replica};
use rustix::fs::RenameFlags;

const ROOT: ObjectId = ObjectId::ROOT;

/// An empty replica of the same fileset.
fn replica_of(bench: &Bench) -> Bench {
    let id = bench.replica().fileset().config.id;
    let other = Bench::unopened_in_memory();
    let replica = Replica::create(Fileset::create_as(&other.root(), id).unwrap()).unwrap();
    Bench { replica: Some(replica), ..other }
}

/// How a use ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Kill,
    PowerLoss,
}

/// What a use leaves that ended before it wrote its index.
struct Ended {
    root: std::path::PathBuf,
    index: Vec<u8>,
    inodes: Vec<u8>,
}

impl Ended {
    /// Ends a use of `bench` after `work`.
    fn after(bench: &mut Bench, end: End, work: impl FnOnce(&Bench)) -> Ended {
        let root = bench.root();
        bench.replica = None;
        let index = std::fs::read(root.join(".mezzo/index")).unwrap();
        bench.reopen();
        work(bench);
        let inodes =
            if end == End::Kill { std::fs::read(root.join(".mezzo/inodes")).unwrap() } else { vec![] };
        bench.replica = None;
        let lml = std::fs::File::options().write(true).open(root.join(".mezzo/lml")).unwrap();
        lml.write_all_at(&[0], 32).unwrap();
        if end == End::PowerLoss {
            lml.write_all_at(&[0; 16], 8).unwrap();
        }
        let ended = Ended { root, index, inodes };
        ended.put_back();
        ended
    }

    /// Once more as it was left.
    fn put_back(&self) {
        std::fs::write(self.root.join(".mezzo/index"), &self.index).unwrap();
        std::fs::write(self.root.join(".mezzo/inodes"), &self.inodes).unwrap();
    }
}

/// Opens it again, and has the whole tree compared: returns what was recorded.
fn recorded_by_the_next_use(bench: &mut Bench) -> Vec<&'static str> {
    let before = bench.records().len();
    bench.reopen();
    bench.replica().take_in(&mut |_| true).unwrap();
    bench.kinds_since(Recno(before as u64))
}

/// What `from` has that another replica may want.
fn sent(from: &Bench) -> Vec<Record> {
    let reader = Reader::open(&from.root().join(".mezzo/kml")).unwrap();
    let (outgoing, _) = Outgoing::of(&reader).unwrap();
    from.records().into_iter().filter(|record| outgoing.sends(record)).collect()
}

fn beside(from: &Bench) -> Beside {
    let reader = Reader::open(&from.root().join(".mezzo/kml")).unwrap();
    let (_, tree) = Outgoing::of(&reader).unwrap();
    let source = Source { root: Some(open(&from.root())), attic: Some(from.root().join(".mezzo/attic")) };
    Beside { tree, source }
}

fn receive(onto: &Bench, records: &[Record], from: &Bench) -> Taken {
    let beside = beside(from);
    let how = How { data: OnData::Bring(&beside), judge: false };
    let taken = onto.replica().receive(records, how, &()).unwrap();
    let files: Vec<ObjectId> = tree_of(onto).objects().map(|(id, _)| id).collect();
    onto.replica().fill(&files, &beside).unwrap();
    taken
}

/// Everything of `from` that `onto` has not got, in batches of at most `batch`.
fn arrives(from: &Bench, onto: &Bench, batch: usize) {
    for records in sent(from).chunks(batch) {
        let taken = receive(onto, records, from);
        if let Some(stop) = taken.stopped {
            panic!("{:?} was stopped: {}", stop.record, stop.why);
        }
    }
}

fn tree_of(bench: &Bench) -> Tree {
    let mut tree = Tree::new();
    bench.records().iter().for_each(|record| tree.apply(record).unwrap());
    tree
}

/// All that users are shown of every object, by path: ctime too.
fn shown(bench: &Bench) -> BTreeMap<Vec<u8>, Attributes> {
    let replica = bench.replica();
    let mut shown = BTreeMap::new();
    let mut directories = vec![(ROOT, Vec::new())];
    while let Some((directory, path)) = directories.pop() {
        for (name, child) in replica.index().children(directory).unwrap() {
            let met = replica.meet(directory, &name).unwrap().unwrap();
            assert_eq!(met.entry.object, child);
            let path = mezzo_core::name::join(&path, name.as_bytes());
            if met.entry.is_directory() {
                directories.push((child, path.clone()));
            }
            let mut attributes = met.shown();
            // Reading moves it, and is no change.
            attributes.atime = Default::default();
            (attributes.size, attributes.links) =
                if met.entry.is_directory() { (0, 1) } else { (attributes.size, attributes.links) };
            shown.insert(path, attributes);
        }
    }
    shown
}

fn are_equal(one: &Bench, other: &Bench) {
    equal_trees(&one.root(), &other.root());
    let (shown_one, shown_other) = (shown(one), shown(other));
    for (path, attributes) in &shown_one {
        assert_eq!(Some(attributes), shown_other.get(path), "{}", path.escape_ascii());
    }
    assert_eq!(shown_one.len(), shown_other.len());
}

#[test]
fn random_work_arrives_whatever_the_batches() {
    work::with_histories(4, 240, |steps| {
        let mut one = Bench::new();
        let mut other = replica_of(&one);
        // They work in turns, which the steps end.
        let mut turns = steps.split_inclusive(|step| step % 15 == 0);
        while let Some(turn) = turns.next() {
            let end = turn.last().copied().unwrap_or_default();
            let batch = [1, 3, 1000][(end / 15 % 3) as usize];
            for (at, to, steps) in [(&one, &other, turn), (&other, &one, turns.next().unwrap_or_default())] {
                steps.iter().for_each(|step| work::step(at, *step));
                arrives(at, to, batch);
                are_equal(at, to);
            }
            if end % 3 == 0 {
                one.reopen();
                other.reopen();
            }
        }
        one.check();
        other.check();
        let all_at_once = replica_of(&one);
        arrives(&one, &all_at_once, usize::MAX);
        are_equal(&one, &all_at_once);
        all_at_once.check();
    });
}

#[test]
fn each_record_counts_once() {
    work::with_histories(1, 60, |steps| {
        let one = Bench::new();
        steps.iter().for_each(|step| work::step(&one, *step));
        let mut other = replica_of(&one);
        arrives(&one, &other, 7);
        let last = other.replica().last();
        let taken = receive(&other, &sent(&one), &one);
        assert_eq!((taken.applied, other.replica().last()), (0, last), "a second time");
        // Over another replica, and back to where they were made.
        let third = replica_of(&one);
        arrives(&other, &third, 100);
        are_equal(&other, &third);
        let last = one.replica().last();
        let taken = receive(&one, &sent(&third), &third);
        assert_eq!((taken.applied, one.replica().last()), (0, last), "one's own");
        // The index is made anew from the log.
        other.replica = None;
        std::fs::remove_file(other.root().join(".mezzo/index")).unwrap();
        other.reopen();
        let taken = receive(&other, &sent(&one), &one);
        assert_eq!(taken.applied, 0, "without its index");
    });
}

#[test]
fn what_was_received_is_taken_back_and_done_again() {
    work::with_histories(1, 60, |steps| {
        let one = Bench::new();
        steps.iter().for_each(|step| work::step(&one, *step));
        let other = replica_of(&one);
        arrives(&one, &other, 10);
        let all = |_: &Record| true;
        let selection = mezzo_replica::undo::Selection {
            after: Recno(1),
            most: usize::MAX,
            takes: &all,
            undos: false,
            along: false,
        };
        let undone = other.replica().undo(&user(0), &selection, &()).unwrap();
        assert_eq!(undone.hindrances, []);
        assert_eq!(other.replica().index().children(ROOT).unwrap().len(), 0);
        arrives(&other, &one, 10);
        are_equal(&one, &other);
        let redo = mezzo_replica::undo::Selection { undos: true, after: Recno(1), ..selection };
        assert_eq!(other.replica().undo(&user(0), &redo, &()).unwrap().hindrances, []);
        arrives(&other, &one, 10);
        are_equal(&one, &other);
    });
}

/// One thing that somebody does to the sample.
struct Deed {
    what: &'static str,
    act: fn(&Bench),
}

/// `f` with data, `g` with data, `l`, which is `h` too, `d/x`, the empty directory `e`.
fn sample() -> Bench {
    let bench = Bench::in_memory();
    for file in ["f", "g", "l"] {
        let (met, _) = bench.replica().create_file(&user(0), ROOT, &name(file), 0o644).unwrap();
        work::write(&bench, met.entry.object, file.as_bytes());
    }
    let l = bench.find("l");
    bench.replica().link(&user(0), l, ROOT, &name("h")).unwrap();
    let d = bench.replica().make(&user(0), ROOT, &name("d"), NewNode::Directory(0o755)).unwrap().entry.object;
    bench.replica().create_file(&user(0), d, &name("x"), 0o644).unwrap();
    bench.replica().make(&user(0), ROOT, &name("e"), NewNode::Directory(0o755)).unwrap();
    bench
}

fn chmod(bench: &Bench, path: &str, mode: u32) {
    let changes = Changes { mode: Some(mode), ..Changes::default() };
    bench.replica().set_attributes(&user(0), bench.find(path), &changes).unwrap();
}

fn rename(bench: &Bench, from: (&str, &str), to: (&str, &str), flags: RenameFlags) {
    let (from_parent, to_parent) = (bench.find(from.0), bench.find(to.0));
    let (from, to) = ((from_parent, &name(from.1)), (to_parent, &name(to.1)));
    bench.replica().rename(&user(0), from, to, flags).unwrap();
}

fn unlink(bench: &Bench, parent: &str, file: &str) {
    bench.replica().remove(&user(0), bench.find(parent), &name(file), false).unwrap();
}

fn make(bench: &Bench, parent: &str, file: &str) {
    bench.replica().create_file(&user(0), bench.find(parent), &name(file), 0o644).unwrap();
}

const DEEDS: &[Deed] = &[
    Deed { what: "make n", act: |b| make(b, "", "n") },
    Deed { what: "make d/n", act: |b| make(b, "d", "n") },
    Deed { what: "make e/n", act: |b| make(b, "e", "n") },
    Deed {
        what: "mkdir n",
        act: |b| drop(b.replica().make(&user(0), ROOT, &name("n"), NewNode::Directory(0o700)).unwrap()),
    },
    Deed {
        what: "symlink n",
        act: |b| drop(b.replica().make(&user(0), ROOT, &name("n"), NewNode::Symlink(b"t")).unwrap()),
    },
    Deed {
        what: "link f n",
        act: |b| drop(b.replica().link(&user(0), b.find("f"), ROOT, &name("n")).unwrap()),
    },
    Deed { what: "unlink f", act: |b| unlink(b, "", "f") },
    Deed { what: "unlink h", act: |b| unlink(b, "", "h") },
    Deed { what: "unlink l", act: |b| unlink(b, "", "l") },
    Deed { what: "unlink d/x", act: |b| unlink(b, "d", "x") },
    Deed { what: "rmdir e", act: |b| b.replica().remove(&user(0), ROOT, &name("e"), true).unwrap() },
    Deed { what: "rename f n", act: |b| rename(b, ("", "f"), ("", "n"), RenameFlags::empty()) },
    Deed { what: "rename f m", act: |b| rename(b, ("", "f"), ("", "m"), RenameFlags::empty()) },
    Deed { what: "rename f d/f", act: |b| rename(b, ("", "f"), ("d", "f"), RenameFlags::empty()) },
    Deed { what: "rename f e/f", act: |b| rename(b, ("", "f"), ("e", "f"), RenameFlags::empty()) },
    Deed { what: "rename g over f", act: |b| rename(b, ("", "g"), ("", "f"), RenameFlags::empty()) },
    Deed { what: "rename d c", act: |b| rename(b, ("", "d"), ("", "c"), RenameFlags::empty()) },
    Deed { what: "rename d e/d", act: |b| rename(b, ("", "d"), ("e", "d"), RenameFlags::empty()) },
    Deed { what: "rename e d/e", act: |b| rename(b, ("", "e"), ("d", "e"), RenameFlags::empty()) },
    Deed { what: "exchange f g", act: |b| rename(b, ("", "f"), ("", "g"), RenameFlags::EXCHANGE) },
    Deed { what: "write f", act: |b| work::write(b, b.find("f"), b"written") },
    Deed { what: "write l", act: |b| work::write(b, b.find("l"), b"written") },
    Deed {
        what: "truncate f",
        act: |b| {
            let changes = Changes { size: Some(0), ..Changes::default() };
            b.replica().set_attributes(&user(0), b.find("f"), &changes).unwrap();
        },
    },
    Deed { what: "chmod f 600", act: |b| chmod(b, "f", 0o600) },
    Deed { what: "chmod f 640", act: |b| chmod(b, "f", 0o640) },
    Deed { what: "chmod d 700", act: |b| chmod(b, "d", 0o700) },
    Deed { what: "chmod e 700", act: |b| chmod(b, "e", 0o700) },
    Deed {
        what: "chown f",
        act: |b| {
            let changes = Changes { uid: Some(7), ..Changes::default() };
            b.replica().set_attributes(&user(0), b.find("f"), &changes).unwrap();
        },
    },
    Deed {
        what: "setxattr f k 1",
        act: |b| b.replica().set_xattr(&user(0), b.find("f"), (b"user.k", b"1"), 0, false).unwrap(),
    },
    Deed {
        what: "setxattr f k 2",
        act: |b| b.replica().set_xattr(&user(0), b.find("f"), (b"user.k", b"2"), 0, false).unwrap(),
    },
];

/// The class under which `second` does not fit what `first` left; `None` where it fits.
fn clash(first: &Deed, second: &Deed) -> Option<Class> {
    let one = sample();
    let other = replica_of(&one);
    arrives(&one, &other, 100);
    are_equal(&one, &other);
    (first.act)(&one);
    (second.act)(&other);
    let what = format!("{}, and {} arrives", first.what, second.what);
    println!("{what}");
    let (before, log) = (shown(&one), one.replica().last());
    let taken = receive(&one, &sent(&other), &other);
    one.check();
    let Some(stop) = taken.stopped else {
        // What fits here may not fit there: what was removed there can't be given one more name. That is the resolver's.
        let back = receive(&other, &sent(&one), &one);
        other.check();
        match back.stopped {
            None => are_equal(&one, &other),
            Some(stop) => assert!(matches!(stop.why, Why::Conflict(_)), "{what}, back: {}", stop.why),
        }
        return None;
    };
    let Why::Conflict(conflict) = stop.why else { panic!("{what}: {}", stop.why) };
    assert!(!conflict.differences.is_empty(), "{what}");
    let first_of_theirs = sent(&other).into_iter().find(|record| record.recno.0 > log_of(&other));
    if first_of_theirs.is_some_and(|record| record.recno == stop.record.recno) {
        assert_eq!((shown(&one), one.replica().last()), (before, log), "{what}: nothing was done");
    }
    Some(conflict.class)
}

/// The last record that both have.
fn log_of(bench: &Bench) -> u64 {
    let own = bench.replica().fileset().config.replica;
    let received = |record: &&Record| record.origin.replica != own;
    bench.records().iter().filter(received).map(|record| record.recno.0).max().unwrap_or(0)
}

#[test]
fn every_pair_of_deeds_fits_or_is_told() {
    let mut counts: BTreeMap<Option<Class>, u32> = BTreeMap::new();
    for first in DEEDS {
        for second in DEEDS {
            *counts.entry(clash(first, second)).or_default() += 1;
        }
    }
    println!("{counts:?}");
    assert_eq!(counts.values().sum::<u32>() as usize, DEEDS.len() * DEEDS.len());
}

#[test]
fn conflicts_are_of_their_class() {
    let deed = |what: &str| DEEDS.iter().find(|deed| deed.what == what).unwrap_or_else(|| panic!("{what}"));
    let rows: &[(&str, &str, Option<Class>)] = &[
        ("make n", "make n", Some(Class::NameName)),
        ("make n", "mkdir n", Some(Class::NameName)),
        ("mkdir n", "symlink n", Some(Class::NameName)),
        ("make n", "rename f n", Some(Class::NameName)),
        ("rename f n", "make n", Some(Class::NameName)),
        ("link f n", "make n", Some(Class::NameName)),
        ("write f", "write f", Some(Class::UpdateUpdate)),
        ("write f", "truncate f", Some(Class::UpdateUpdate)),
        ("write f", "chmod f 600", None),
        ("chmod f 600", "write f", None),
        ("chmod f 600", "chmod f 600", None),
        ("chmod f 600", "chmod f 640", Some(Class::UpdateUpdate)),
        ("chmod f 600", "chown f", None),
        ("setxattr f k 1", "setxattr f k 1", None),
        ("setxattr f k 1", "setxattr f k 2", Some(Class::UpdateUpdate)),
        ("unlink f", "write f", Some(Class::UpdateDelete)),
        ("write f", "unlink f", Some(Class::UpdateDelete)),
        ("unlink f", "chmod f 600", Some(Class::UpdateDelete)),
        ("chmod f 600", "unlink f", Some(Class::UpdateDelete)),
        ("unlink f", "unlink f", None),
        ("unlink f", "link f n", Some(Class::UpdateDelete)),
        ("unlink h", "write l", None),
        ("unlink h", "unlink l", None),
        ("link f n", "unlink f", None),
        ("rename f n", "write f", None),
        ("write f", "rename f n", None),
        ("rename f n", "unlink f", Some(Class::UpdateDelete)),
        ("unlink f", "rename f n", Some(Class::UpdateDelete)),
        ("rename f n", "rename f m", Some(Class::RenameRename)),
        ("rename f n", "rename f n", None),
        ("rename d c", "make d/n", None),
        ("make d/n", "rename d c", None),
        ("rename d e/d", "rename e d/e", Some(Class::RenameRename)),
        ("rename g over f", "write f", Some(Class::UpdateDelete)),
        ("write f", "rename g over f", Some(Class::UpdateDelete)),
        ("rmdir e", "make e/n", Some(Class::UpdateDelete)),
        ("make e/n", "rmdir e", Some(Class::UpdateDelete)),
        ("rename f e/f", "rmdir e", Some(Class::UpdateDelete)),
        ("rmdir e", "rename f e/f", Some(Class::UpdateDelete)),
        ("rmdir e", "rmdir e", None),
        ("exchange f g", "write f", None),
        ("write f", "exchange f g", None),
    ];
    for (first, second, class) in rows {
        assert_eq!(clash(deed(first), deed(second)), *class, "{first}, and {second} arrives");
    }
}

#[test]
fn data_may_come_later_or_not_at_all() {
    let one = sample();
    for data in [OnData::Absent, OnData::Count] {
        let other = replica_of(&one);
        let how = How { data, judge: false };
        let taken = other.replica().receive(&sent(&one), how, &()).unwrap();
        assert!(taken.stopped.is_none() && taken.files == 0);
        assert_eq!(shown(&one), shown(&other));
        let marked = matches!(data, OnData::Absent);
        assert_eq!((other.replica().index().lost(), taken.absent), if marked { (3, 3) } else { (0, 0) });
        if marked {
            other.replica().take_in(&mut |_| true).unwrap();
            let files: Vec<ObjectId> = ["f", "g", "l"].map(|path| other.find(path)).into();
            let filled = other.replica().fill(&files, &beside(&one)).unwrap();
            assert_eq!((filled.files, filled.bytes, filled.absent), (3, 3, 0));
            are_equal(&one, &other);
            other.check();
        }
    }
}

/// Data comes as another inode, which moves the times of the directories of all its names.
#[test]
fn directories_that_a_file_was_replaced_in_have_not_changed() {
    for end in [End::Kill, End::PowerLoss] {
        let one = Bench::new();
        for directory in ["d", "e"] {
            one.replica().make(&user(0), ROOT, &name(directory), NewNode::Directory(0o755)).unwrap();
        }
        make(&one, "d", "f");
        work::write(&one, one.find("d/f"), b"first");
        one.replica().link(&user(0), one.find("d/f"), one.find("e"), &name("g")).unwrap();
        let mut other = replica_of(&one);
        arrives(&one, &other, 1000);
        Ended::after(&mut other, end, |other| {
            work::write(&one, one.find("d/f"), b"second");
            arrives(&one, other, 1000);
        });
        assert_eq!(recorded_by_the_next_use(&mut other), [""; 0]);
        let files = [other.find("d/f")];
        other.replica().fill(&files, &beside(&one)).unwrap();
        are_equal(&one, &other);
    }
}

/// After a power loss, what was replaced is found in the attic by the inode that the index knows.
#[test]
fn what_the_attic_has_is_not_linked_back() {
    let one = Bench::new();
    make(&one, "", "f");
    work::write(&one, one.find("f"), b"first");
    let mut other = replica_of(&one);
    arrives(&one, &other, 1000);
    Ended::after(&mut other, End::PowerLoss, |other| {
        let empty = Changes { size: Some(0), ..Changes::default() };
        one.replica().set_attributes(&user(0), one.find("f"), &empty).unwrap();
        make(&one, "", "more");
        arrives(&one, other, 1000);
    });
    assert_eq!(recorded_by_the_next_use(&mut other), [""; 0]);
    are_equal(&one, &other);
}

/// A recovery may be ended too, and the next one knows as well which bytes are unsure.
#[test]
fn a_recovery_that_begins_anew_knows_of_lost_bytes() {
    let one = Bench::new();
    make(&one, "", "f");
    work::write(&one, one.find("f"), b"bytes");
    let records = sent(&one);
    let mut other = replica_of(&one);
    let ended = Ended::after(&mut other, End::PowerLoss, |other| {
        receive(other, &records, &one);
    });
    let own = other.root().join(".mezzo");
    let mut journal = vec![0; 4];
    records.iter().for_each(|record| mezzo_core::codec::encode(record, &mut journal).unwrap());
    let sum = crc32c::crc32c(&journal[4..]);
    journal[..4].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(own.join("receiving"), journal).unwrap();
    // The file got its size and times, and not its bytes.
    let file = std::fs::File::options().write(true).open(other.root().join("f")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[0; 5], 0).unwrap();
    file.set_modified(modified).unwrap();
    // Nothing can be set aside there.
    std::fs::write(own.join("aside"), "").unwrap();
    assert!(Replica::open(Fileset::open(&other.root()).unwrap()).is_err());
    std::fs::remove_file(own.join("aside")).unwrap();
    ended.put_back();
    assert_eq!(recorded_by_the_next_use(&mut other), [""; 0]);
    assert_eq!(other.replica().index().lost(), 1);
    let files = [other.find("f")];
    assert_eq!(other.replica().fill(&files, &beside(&one)).unwrap().files, 1);
    are_equal(&one, &other);
    assert!(!own.join("receiving").exists());
}

/// What was in flight is not in order because the next use could not begin.
#[test]
fn a_use_that_could_not_begin_has_not_ended_in_order() {
    let mut bench = sample();
    Ended::after(&mut bench, End::Kill, |_| {});
    let own = bench.root().join(".mezzo");
    std::fs::write(own.join("undo"), "no journal").unwrap();
    assert!(Replica::open(Fileset::open(&bench.root()).unwrap()).is_err());
    assert_eq!(std::fs::read(own.join("lml")).unwrap()[32], 0);
    std::fs::remove_file(own.join("undo")).unwrap();
    assert_eq!(recorded_by_the_next_use(&mut bench), [""; 0]);
    bench.check();
}

#[test]
fn a_user_is_judged_by_what_is_here() {
    let one = sample();
    let other = replica_of(&one);
    arrives(&one, &other, 100);
    chmod(&one, "d", 0o700);
    let d = other.find("d");
    // Nobody is asked by the library itself: the mount's kernel did.
    other.replica().create_file(&user(1000), d, &name("theirs"), 0o644).unwrap();
    let how = How { data: OnData::Absent, judge: true };
    let records = sent(&other);
    let previewed = one.replica().preview(&records, true).unwrap();
    for taken in [previewed, one.replica().receive(&records, how, &()).unwrap()] {
        let stop = taken.stopped.unwrap();
        let Why::Conflict(conflict) = stop.why else { panic!("{}", stop.why) };
        assert_eq!((conflict.class, stop.path.as_slice()), (Class::Permission, &b"d/theirs"[..]));
    }
    let how = How { judge: false, ..how };
    assert!(one.replica().receive(&records, how, &()).unwrap().stopped.is_none());
}

#[test]
fn forged_names_are_damage() {
    let one = sample();
    let other = replica_of(&one);
    let mut records = sent(&one);
    let at = records.iter().position(|record| record.change.kind() == "create").unwrap();
    let Change::Make { object, .. } = &mut records[at].change else { panic!() };
    *object = ObjectId(Origin::new(object.0.replica, Recno(object.0.recno.0 + 1000)));
    let how = How { data: OnData::Absent, judge: false };
    let stop = other.replica().receive(&records, how, &()).unwrap().stopped.unwrap();
    assert!(matches!(stop.why, Why::Damaged(_)), "{}", stop.why);
    assert_eq!(stop.record.recno, records[at].recno);
}

#[test]
fn a_hostile_record_changes_nothing() {
    let one = sample();
    let other = replica_of(&one);
    arrives(&one, &other, 100);
    let template = sent(&one).into_iter().find(|record| record.change.kind() == "create").unwrap();
    let Change::Make { path, state, parent, .. } = template.change.clone() else { panic!() };
    let origin = Origin::new(template.origin.replica, Recno(1000));
    let make = |place: Place, state: &State| Record {
        origin,
        change: Change::Make {
            object: ObjectId(origin),
            place,
            path: path.clone(),
            state: state.clone(),
            parent,
        },
        ..template.clone()
    };
    let at = |file: &str| Place::new(ROOT, name(file));
    let with = |change: &dyn Fn(&mut State)| {
        let mut state = state.clone();
        change(&mut state);
        state
    };
    let mark = Xattr { name: (*b"trusted.mezzo.lost").into(), value: (*b"x").into() };
    let no_such = Xattr { name: (*b"nonsense.x").into(), value: (*b"x").into() };
    let f = other.find("f");
    let rows = [
        ("mezzo's own directory", make(at(".mezzo"), &state), "mezzo's own"),
        (
            "mezzo's own mark",
            make(at("n"), &with(&|state| state.xattrs = vec![mark.clone()])),
            "records carry no",
        ),
        (
            "a name space that is none",
            make(at("n"), &with(&|state| state.xattrs = vec![no_such.clone()])),
            "not supported",
        ),
        ("a size", make(at("n"), &with(&|state| state.attributes.size = 1 << 63)), "File too large"),
        ("below a file", make(Place::new(f, name("n")), &state), "no directory"),
        ("a name that is taken", make(at("f"), &state), "name/name"),
    ];
    for (what, record, told) in rows {
        let before = (shown(&other), other.replica().last());
        let how = How { data: OnData::Absent, judge: false };
        let stop =
            other.replica().receive(&[record], how, &()).unwrap().stopped.unwrap_or_else(|| panic!("{what}"));
        assert!(stop.why.to_string().contains(told), "{what}: {}", stop.why);
        assert_eq!((shown(&other), other.replica().last()), before, "{what}");
        other.replica().take_in(&mut |_| true).unwrap();
        assert_eq!(other.replica().last(), before.1, "{what}: nothing of it is left");
    }
    other.check();
}

#[test]
fn what_has_no_bytes_is_not_kept_as_if_it_had_them() {
    let one = sample();
    let other = replica_of(&one);
    let how = How { data: OnData::Absent, judge: false };
    assert!(other.replica().receive(&sent(&one), how, &()).unwrap().stopped.is_none());
    // The first of the two is not brought either: nobody sees it.
    work::write(&one, one.find("f"), b"written");
    work::write(&one, one.find("f"), b"written again");
    let taken = receive(&other, &sent(&one), &one);
    assert_eq!((taken.files, other.replica().index().lost()), (1, 0), "the other two are filled");
    let kept = std::fs::read_dir(other.root().join(".mezzo/attic")).unwrap();
    assert_eq!(kept.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), [""; 0]);
    let version = std::fs::read(other.root().join("f")).unwrap();
    assert_eq!(version, std::fs::read(one.root().join("f")).unwrap());
}

#[test]
fn what_has_no_bytes_is_known_as_that_whatever_its_times_become() {
    let one = sample();
    let mut other = replica_of(&one);
    let how = How { data: OnData::Absent, judge: false };
    assert!(other.replica().receive(&sent(&one), how, &()).unwrap().stopped.is_none());
    let mtime = mezzo_replica::host::SetTime::To(mezzo_core::Time::new(1_000_000_000, 5));
    let changes = Changes { mode: Some(0o600), mtime, ..Changes::default() };
    one.replica().set_attributes(&user(0), one.find("f"), &changes).unwrap();
    assert!(other.replica().receive(&sent(&one), how, &()).unwrap().stopped.is_none());
    other.replica().set_attributes(&user(0), other.find("g"), &changes).unwrap();
    let last = other.replica().last();
    // The marks alone tell of it then.
    other.replica = None;
    std::fs::remove_file(other.root().join(".mezzo/index")).unwrap();
    other.reopen();
    other.replica().take_in(&mut |_| true).unwrap();
    let made = other.kinds_since(last);
    assert!(!made.contains(&"close"), "{made:?}");
    for path in ["f", "g", "l"] {
        assert!(other.replica().entry(other.find(path)).unwrap().lost, "{path}");
    }
}
