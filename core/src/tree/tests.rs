//! What fits, what does not, and that a tree follows every history that a file system could have had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::attributes::{Data, Xattr};
use crate::codec::sample;
use crate::id::{DataVersion, ReplicaId};
use crate::record::{Change, Displaced, EpochCause, Record, Removed};
use crate::reintegrate::{Verdict, check};
use crate::time::{Step, Times};
use crate::undo::{Overlay, Present, Standing, invert};

const ROOT_ID: ObjectId = ObjectId::ROOT;

fn id(number: u64) -> ObjectId {
    ObjectId(origin(number))
}

fn origin(number: u64) -> Origin {
    Origin::new(ReplicaId(1), crate::Recno(number))
}

fn place(parent: ObjectId, name: &str) -> Place {
    Place::new(parent, Name::new(name.as_bytes()).unwrap())
}

fn attributes(kind: Kind, mode: u16) -> Attributes {
    Attributes { kind, mode, ..ROOT }
}

fn state(kind: Kind) -> State {
    let data = (kind == Kind::File).then_some(data(1));
    let target = if kind == Kind::Symlink { (*b"target").into() } else { Box::default() };
    State { attributes: attributes(kind, 0o600), target, xattrs: Vec::new(), data }
}

fn data(version: u64) -> Data {
    Data { version: DataVersion(origin(version)), digest: None }
}

/// The step of a directory's times that leaves it at second `seconds`.
fn at(seconds: i64) -> Step<Times> {
    let time = Time::new(seconds, 0);
    Step::new(Times::default(), Times { mtime: time, ctime: time })
}

fn same(attributes: Attributes) -> Step<Attributes> {
    Step::new(attributes, attributes)
}

fn make(object: u64, place: Place, kind: Kind) -> Change {
    Change::Make { object: id(object), place, path: Box::default(), state: state(kind), parent: at(10) }
}

fn link(object: u64, place: Place, kind: Kind) -> Change {
    let attributes = same(Attributes { links: 2, ..attributes(kind, 0o600) });
    Change::Link { object: id(object), place, path: Box::default(), attributes, parent: at(20) }
}

fn removed(object: u64, kind: Kind, links_left: u32) -> Removed {
    Removed { object: id(object), state: state(kind), links_left, ctime_after: Time::new(30, 0) }
}

fn remove(object: u64, place: Place, kind: Kind, links_left: u32) -> Change {
    Change::Remove { removed: removed(object, kind, links_left), place, path: Box::default(), parent: at(30) }
}

fn rename(object: u64, from: Place, to: Place, kind: Kind, displaced: Displaced) -> Change {
    Change::Rename {
        object: id(object),
        attributes: Step::new(
            attributes(kind, 0o600),
            Attributes { ctime: Time::new(40, 0), ..attributes(kind, 0o600) },
        ),
        from,
        from_path: Box::default(),
        from_parent: at(40),
        to,
        to_path: Box::default(),
        to_parent: at(41),
        displaced,
    }
}

fn replaced(object: u64, kind: Kind, links_left: u32) -> Displaced {
    Displaced::Replaced(Box::new(removed(object, kind, links_left)))
}

fn exchanged(object: u64, kind: Kind) -> Displaced {
    Displaced::Exchanged { object: id(object), attributes: same(attributes(kind, 0o600)) }
}

fn setattr(object: ObjectId, path: &str, kind: Kind, data: Option<Step<Data>>) -> Change {
    Change::Setattr {
        object,
        path: path.as_bytes().into(),
        attributes: Step::new(attributes(kind, 0o600), attributes(kind, 0o640)),
        data,
    }
}

fn close(object: u64, path: &str, kind: Kind) -> Change {
    Change::Close {
        object: id(object),
        path: path.as_bytes().into(),
        attributes: same(attributes(kind, 0o600)),
        data: Step::new(data(1), data(2)),
        stable: true,
    }
}

fn xattr(object: u64, path: &str, kind: Kind, value: Option<&[u8]>) -> Change {
    Change::Xattr {
        object: id(object),
        path: path.as_bytes().into(),
        name: (*b"user.k").into(),
        value: Step { before: None, after: value.map(Into::into) },
        attributes: same(attributes(kind, 0o600)),
    }
}

fn apply(tree: &mut Tree, change: Change) -> Result<(), Trouble> {
    tree.apply(&sample::record(99, change)).map_err(|mismatch| mismatch.trouble)
}

/// `a` and `b` are file 1, `d` is directory 2 with file 3 at `d/f` and directory 4 at `d/e`, `l` is symlink 5, `o` is
/// directory 6, and nothing is known as 9.
fn sample_tree() -> Tree {
    let mut tree = Tree::new();
    let changes = [
        make(1, place(ROOT_ID, "a"), Kind::File),
        link(1, place(ROOT_ID, "b"), Kind::File),
        make(2, place(ROOT_ID, "d"), Kind::Directory),
        make(3, place(id(2), "f"), Kind::File),
        make(4, place(id(2), "e"), Kind::Directory),
        make(5, place(ROOT_ID, "l"), Kind::Symlink),
        make(6, place(ROOT_ID, "o"), Kind::Directory),
    ];
    changes.into_iter().for_each(|change| apply(&mut tree, change).unwrap());
    tree
}

/// All paths with what stands at them.
fn listing(tree: &Tree) -> BTreeMap<String, ObjectId> {
    let mut found = BTreeMap::new();
    let mut directories = vec![(String::new(), ROOT_ID)];
    while let Some((path, directory)) = directories.pop() {
        for (name, child) in tree.children(directory) {
            let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            found.insert(path.clone(), child);
            directories.push((path, child));
        }
    }
    found
}

/// What holds of every tree: places and entries are each other's counterpart, directories have one place, and all that
/// has a place hangs below the root.
fn assert_sound(tree: &Tree) {
    let mut reached = 0;
    for (id, object) in tree.objects() {
        for place in object.places() {
            assert_eq!(tree.at(place), Some(id));
        }
        assert!(object.is_directory() || tree.children(id).len() == 0);
        assert!(!object.is_directory() || object.places().len() == usize::from(id != ROOT_ID));
        reached += object.places().len();
        for (name, child) in tree.children(id) {
            assert!(tree.object(child).unwrap().places().contains(&Place::new(id, name.clone())));
        }
    }
    assert_eq!(listing(tree).len(), reached, "something hangs nowhere");
}

#[test]
fn what_is_different_after_changes() {
    let check = |changes: &[Change], expected: &[&str]| {
        let before = sample_tree();
        let mut after = before.clone();
        changes.iter().for_each(|change| apply(&mut after, change.clone()).unwrap());
        let told = |difference: &Difference<'_>| {
            let path = |side: &Option<Side<'_>>| {
                side.as_ref().map_or("-".to_owned(), |side| crate::name::escape(&side.path))
            };
            let fields: Vec<_> = difference.fields.iter().map(|field| field.word()).collect();
            let (from, to) = (path(&difference.before), path(&difference.after));
            format!("{} {from} {to} {}", difference.sort.word(), fields.join(",")).trim_end().to_owned()
        };
        let found: Vec<_> = differences(&before, &after, TimesAre::Left).iter().map(told).collect();
        assert_eq!(found, expected, "{changes:?}");
    };
    let root = |name| place(ROOT_ID, name);
    let (file, directory, nothing) = (Kind::File, Kind::Directory, Displaced::Nothing);

    check(&[], &[]);
    check(&[make(9, root("n"), file), link(9, root("m"), file)], &["linked - m", "added - n"]);
    check(&[link(3, root("n"), file)], &["linked - n"]);
    check(&[remove(1, root("a"), file, 1)], &["unlinked a -"]);
    check(&[remove(1, root("a"), file, 1), remove(1, root("b"), file, 0)], &["removed a -", "unlinked b -"]);
    check(&[rename(1, root("a"), root("n"), file, nothing.clone())], &["renamed a n"]);
    // What is below a directory that was renamed stays where it is in it.
    check(&[rename(2, root("d"), root("n"), directory, nothing)], &["renamed d n"]);
    check(&[rename(1, root("a"), root("o"), file, exchanged(6, directory))], &["renamed o a", "renamed a o"]);
    check(&[remove(5, root("l"), Kind::Symlink, 0), make(9, root("l"), Kind::Symlink)], &["replaced l l"]);
    check(
        &[make(9, root("n"), file), rename(9, root("n"), root("l"), file, replaced(5, Kind::Symlink, 0))],
        &["replaced l l kind,data,target"],
    );
    check(
        &[rename(3, place(id(2), "f"), root("l"), file, replaced(5, Kind::Symlink, 0))],
        &["removed l -", "renamed d/f l"],
    );
    check(&[close(1, "a", file)], &["changed a a data"]);
    check(&[setattr(id(4), "d/e", directory, None)], &["changed d/e d/e mode"]);
    check(&[xattr(3, "d/f", file, Some(b"1"))], &["changed d/f d/f xattrs"]);
    check(
        &[rename(2, root("d"), root("n"), directory, Displaced::Nothing), close(3, "n/f", file)],
        &["renamed d n", "changed d/f n/f data"],
    );
    // Of the root nothing was known before.
    check(&[setattr(ROOT_ID, "", directory, None)], &[]);
}

#[test]
fn times_and_digests_are_compared_where_that_says_something() {
    let check = |before: &dyn Fn(&mut State), after: &dyn Fn(&mut State), expected: &[Field]| {
        let (mut old, mut new) = (sample_tree(), sample_tree());
        before(&mut old.objects.get_mut(&id(1)).unwrap().state);
        after(&mut new.objects.get_mut(&id(1)).unwrap().state);
        let of = |times| differences(&old, &new, times).first().map_or(Vec::new(), |one| one.fields.clone());
        assert_eq!(of(TimesAre::Compared), expected);
        let untimed = expected.iter().filter(|field| !matches!(field, Field::Atime | Field::Mtime));
        assert_eq!(of(TimesAre::Left), untimed.copied().collect::<Vec<_>>());
    };
    let digest =
        |version, digest| move |state: &mut State| state.data = Some(Data { digest, ..data(version) });
    let time = Time::new(7, 0);
    check(&|_| {}, &|_| {}, &[]);
    check(&|_| {}, &|state| state.attributes.mtime = time, &[Field::Mtime]);
    check(&|_| {}, &|state| state.attributes.atime = time, &[Field::Atime]);
    check(&|_| {}, &|state| state.attributes.ctime = time, &[]);
    check(&digest(1, Some([1; 32])), &digest(2, Some([2; 32])), &[Field::Data]);
    check(&digest(1, Some([1; 32])), &digest(2, Some([1; 32])), &[]);
    check(&digest(1, Some([1; 32])), &digest(2, None), &[Field::Data]);
    check(&digest(1, None), &digest(1, Some([1; 32])), &[]);
}

#[test]
fn what_fits_and_what_it_does() {
    let check = |change: Change, expected: &str| {
        let mut tree = sample_tree();
        apply(&mut tree, change.clone()).unwrap_or_else(|trouble| panic!("{change:?}: {trouble}"));
        assert_sound(&tree);
        let numbers = listing(&tree).into_iter().map(|(path, id)| format!("{path}={}", id.0.recno));
        assert_eq!(numbers.collect::<Vec<_>>().join(" "), expected, "{change:?}");
    };
    let root = |name| place(ROOT_ID, name);
    let (file, directory, nothing) = (Kind::File, Kind::Directory, Displaced::Nothing);
    let unchanged = "a=1 b=1 d=2 d/e=4 d/f=3 l=5 o=6";

    check(make(9, root("n"), file), "a=1 b=1 d=2 d/e=4 d/f=3 l=5 n=9 o=6");
    check(make(9, place(id(4), "n"), directory), "a=1 b=1 d=2 d/e=4 d/e/n=9 d/f=3 l=5 o=6");
    check(link(3, root("n"), file), "a=1 b=1 d=2 d/e=4 d/f=3 l=5 n=3 o=6");
    check(link(5, root("n"), Kind::Symlink), "a=1 b=1 d=2 d/e=4 d/f=3 l=5 n=5 o=6");
    check(remove(1, root("a"), file, 1), "b=1 d=2 d/e=4 d/f=3 l=5 o=6");
    check(remove(3, place(id(2), "f"), file, 0), "a=1 b=1 d=2 d/e=4 l=5 o=6");
    // Its other names may be outside of what the log tells.
    check(remove(3, place(id(2), "f"), file, 7), "a=1 b=1 d=2 d/e=4 l=5 o=6");
    check(remove(6, root("o"), directory, 0), "a=1 b=1 d=2 d/e=4 d/f=3 l=5");
    check(rename(1, root("a"), root("n"), file, nothing.clone()), "b=1 d=2 d/e=4 d/f=3 l=5 n=1 o=6");
    check(
        rename(2, root("d"), place(id(6), "d"), directory, nothing.clone()),
        "a=1 b=1 l=5 o=6 o/d=2 o/d/e=4 o/d/f=3",
    );
    check(
        rename(1, root("a"), root("l"), file, replaced(5, Kind::Symlink, 0)),
        "b=1 d=2 d/e=4 d/f=3 l=1 o=6",
    );
    check(rename(3, place(id(2), "f"), root("a"), file, replaced(1, file, 1)), "a=3 b=1 d=2 d/e=4 l=5 o=6");
    check(
        rename(2, root("d"), root("o"), directory, replaced(6, directory, 0)),
        "a=1 b=1 l=5 o=2 o/e=4 o/f=3",
    );
    check(
        rename(1, root("a"), place(id(2), "f"), file, exchanged(3, file)),
        "a=3 b=1 d=2 d/e=4 d/f=1 l=5 o=6",
    );
    check(rename(2, root("d"), root("a"), directory, exchanged(1, file)), "a=2 a/e=4 a/f=3 b=1 d=1 l=5 o=6");
    check(
        rename(4, place(id(2), "e"), root("o"), directory, exchanged(6, directory)),
        "a=1 b=1 d=2 d/e=6 d/f=3 l=5 o=4",
    );
    for change in [
        setattr(ROOT_ID, "", directory, None),
        setattr(id(3), "d/f", file, Some(Step::new(data(1), data(2)))),
        setattr(id(9), "", file, None),
        close(3, "d/f", file),
        close(9, "", file),
        xattr(2, "d", directory, Some(b"v")),
        xattr(9, "", file, None),
        Change::Digest { object: id(9), version: data(1).version, size: 0, digest: [0; 32] },
        Change::Noop,
        Change::Disable { record: origin(1), reason: "".into() },
        Change::Amend { record: origin(1), change: Box::new(make(9, root("n"), file)) },
        Change::Epoch { epoch: 2, holder: ReplicaId(1), cause: EpochCause::Taken, ended_at: crate::Recno(1) },
        Change::Alias { object: id(1), stands_for: id(1) },
        Change::Alias { object: id(8), stands_for: id(9) },
    ] {
        check(change, unchanged);
    }
    let inner = Box::new(make(9, root("n"), file));
    check(Change::UndoOf { record: origin(1), change: inner }, "a=1 b=1 d=2 d/e=4 d/f=3 l=5 n=9 o=6");
    check(Change::Alias { object: id(3), stands_for: id(1) }, "a=1 b=1 d=2 d/e=4 d/f=1 l=5 o=6");
    check(Change::Alias { object: id(2), stands_for: id(9) }, "a=1 b=1 d=9 d/e=4 d/f=3 l=5 o=6");
}

#[test]
fn what_does_not_fit_and_why() {
    let check = |change: Change, expected: Trouble| {
        let mut tree = sample_tree();
        assert_eq!(apply(&mut tree, change.clone()), Err(expected), "{change:?}");
        assert_eq!(tree, sample_tree(), "{change:?} left a trace");
    };
    let root = |name| place(ROOT_ID, name);
    let (file, directory, nothing) = (Kind::File, Kind::Directory, Displaced::Nothing);
    let kind = |object, expected, found| Trouble::WrongKind { object: id(object), expected, found };
    let occupant = |place, expected: Option<u64>, found: Option<u64>| Trouble::WrongOccupant {
        place,
        expected: expected.map(id),
        found: found.map(id),
    };
    let cycle = |object, parent| Trouble::Cycle { object: id(object), parent: id(parent) };

    check(make(1, root("n"), file), Trouble::ObjectExists(id(1)));
    check(make(9, root("a"), file), occupant(root("a"), None, Some(1)));
    check(make(9, place(id(8), "n"), file), Trouble::NoObject(id(8)));
    check(make(9, place(id(1), "n"), file), kind(1, directory, file));
    check(make(9, place(id(9), "n"), directory), Trouble::NoObject(id(9)));

    check(link(9, root("n"), file), Trouble::NoObject(id(9)));
    check(link(1, root("n"), Kind::Fifo), kind(1, Kind::Fifo, file));
    check(link(2, root("n"), directory), Trouble::IsDirectory(id(2)));
    check(link(1, root("l"), file), occupant(root("l"), None, Some(5)));
    check(link(1, place(id(9), "n"), file), Trouble::NoObject(id(9)));

    check(remove(9, root("n"), file, 0), Trouble::NoObject(id(9)));
    check(remove(1, root("n"), file, 0), occupant(root("n"), Some(1), None));
    check(remove(1, root("l"), file, 0), occupant(root("l"), Some(1), Some(5)));
    check(remove(1, root("a"), directory, 0), kind(1, directory, file));
    check(remove(2, root("d"), directory, 0), Trouble::NotEmpty { object: id(2), entries: 2 });
    check(remove(6, root("o"), directory, 1), Trouble::IsDirectory(id(6)));
    check(remove(1, place(id(9), "a"), file, 1), Trouble::NoObject(id(9)));

    check(rename(9, root("x"), root("n"), file, nothing.clone()), Trouble::NoObject(id(9)));
    check(rename(1, root("l"), root("n"), file, nothing.clone()), occupant(root("l"), Some(1), Some(5)));
    check(rename(1, root("a"), root("l"), file, nothing.clone()), occupant(root("l"), None, Some(5)));
    check(rename(1, root("a"), root("a"), file, nothing.clone()), occupant(root("a"), None, Some(1)));
    check(rename(1, root("a"), root("n"), directory, nothing.clone()), kind(1, directory, file));
    check(rename(1, root("a"), place(id(9), "n"), file, nothing.clone()), Trouble::NoObject(id(9)));
    check(rename(2, root("d"), place(id(4), "n"), directory, nothing.clone()), cycle(2, 4));
    check(rename(2, root("d"), place(id(2), "n"), directory, nothing), cycle(2, 2));
    check(rename(1, root("a"), root("b"), file, replaced(1, file, 1)), Trouble::OwnPlace(id(1)));
    check(rename(1, root("a"), root("o"), file, replaced(6, directory, 0)), kind(6, file, directory));
    check(
        rename(6, root("o"), root("l"), directory, replaced(5, Kind::Symlink, 0)),
        kind(5, directory, Kind::Symlink),
    );
    check(rename(4, place(id(2), "e"), root("d"), directory, replaced(2, directory, 0)), not_empty());
    check(rename(1, root("a"), root("b"), file, exchanged(1, file)), Trouble::OwnPlace(id(1)));
    check(rename(1, root("a"), root("l"), file, exchanged(9, file)), Trouble::NoObject(id(9)));
    check(rename(1, root("a"), root("l"), file, exchanged(3, file)), occupant(root("l"), Some(3), Some(5)));
    check(rename(2, root("d"), place(id(2), "e"), directory, exchanged(4, directory)), cycle(2, 2));
    check(rename(4, place(id(2), "e"), root("d"), directory, exchanged(2, directory)), cycle(2, 2));

    check(setattr(id(9), "x", file, None), Trouble::NoObject(id(9)));
    check(setattr(id(1), "a", directory, None), kind(1, directory, file));
    check(setattr(id(2), "d", directory, Some(Step::new(data(1), data(2)))), kind(2, file, directory));
    check(close(9, "x", file), Trouble::NoObject(id(9)));
    check(close(5, "l", Kind::Symlink), kind(5, file, Kind::Symlink));
    check(xattr(9, "x", file, None), Trouble::NoObject(id(9)));
    check(xattr(1, "a", directory, None), kind(1, directory, file));

    check(Change::Alias { object: ROOT_ID, stands_for: id(2) }, Trouble::Root);
    check(Change::Alias { object: id(2), stands_for: id(6) }, Trouble::IsDirectory(id(2)));
    check(Change::Alias { object: id(1), stands_for: id(5) }, kind(1, Kind::Symlink, file));
    let undo = |change| Change::UndoOf { record: origin(1), change: Box::new(change) };
    check(undo(make(1, root("n"), file)), Trouble::ObjectExists(id(1)));
    check(undo(undo(Change::Noop)), Trouble::Nested);
    check(undo(Change::Amend { record: origin(1), change: Box::new(Change::Noop) }), Trouble::Nested);
}

fn not_empty() -> Trouble {
    Trouble::NotEmpty { object: id(2), entries: 2 }
}

#[test]
fn the_root_is_nobodys_to_take() {
    let root = |change: &dyn Fn(ObjectId) -> Change| apply(&mut sample_tree(), change(ROOT_ID));
    let (nowhere, parent) = (place(id(2), "n"), at(1));
    let state = state(Kind::Directory);
    let attributes = same(attributes(Kind::Directory, 0o700));
    let changes: [&dyn Fn(ObjectId) -> Change; 4] = [
        &|object| Change::Make {
            object,
            place: nowhere.clone(),
            path: [].into(),
            state: state.clone(),
            parent,
        },
        &|object| Change::Link { object, place: nowhere.clone(), path: [].into(), attributes, parent },
        &|object| {
            let removed =
                Removed { object, state: state.clone(), links_left: 0, ctime_after: Time::default() };
            Change::Remove { removed, place: nowhere.clone(), path: [].into(), parent }
        },
        &|object| Change::Rename {
            object,
            attributes,
            from: nowhere.clone(),
            from_path: [].into(),
            from_parent: parent,
            to: nowhere.clone(),
            to_path: [].into(),
            to_parent: parent,
            displaced: Displaced::Nothing,
        },
    ];
    for change in changes {
        assert_eq!(root(change), Err(Trouble::Root));
    }
}

#[test]
fn records_leave_what_they_tell() {
    let mut tree = sample_tree();
    assert_eq!(tree.root_told(), RootTold { attributes: false, times: true });
    assert_eq!(tree.root().state().attributes.mtime, Time::new(20, 0));
    assert_eq!(tree.object(id(1)).unwrap().state().attributes.links, 2);

    apply(&mut tree, remove(1, place(ROOT_ID, "a"), Kind::File, 1)).unwrap();
    let left = tree.object(id(1)).unwrap().state().attributes;
    assert_eq!((left.links, left.ctime), (1, Time::new(30, 0)));

    apply(&mut tree, rename(3, place(id(2), "f"), place(ROOT_ID, "g"), Kind::File, Displaced::Nothing))
        .unwrap();
    assert_eq!(tree.object(id(3)).unwrap().state().attributes.ctime, Time::new(40, 0));
    assert_eq!(tree.object(id(2)).unwrap().state().attributes.mtime, Time::new(40, 0));
    assert_eq!(tree.root().state().attributes.mtime, Time::new(41, 0));

    apply(&mut tree, setattr(ROOT_ID, "", Kind::Directory, None)).unwrap();
    assert_eq!(tree.root().state().attributes.mode, 0o640);
    assert_eq!(tree.root_told(), RootTold { attributes: true, times: true });
    assert_eq!(tree.path(id(4)).as_deref(), Some(&b"d/e"[..]));
    assert_eq!(tree.find(b"d/e"), Some(id(4)));
    assert_eq!(tree.path(id(9)), None);
}

#[test]
fn data_and_digests_meet_by_version() {
    let mut tree = sample_tree();
    let digest =
        |version| Change::Digest { object: id(3), version: data(version).version, size: 0, digest: [7; 32] };
    let told = |tree: &Tree| tree.object(id(3)).unwrap().state().data.unwrap();
    apply(&mut tree, close(3, "d/f", Kind::File)).unwrap();
    assert_eq!(told(&tree), data(2));
    apply(&mut tree, digest(1)).unwrap();
    assert_eq!(told(&tree).digest, None);
    apply(&mut tree, digest(2)).unwrap();
    assert_eq!(told(&tree).digest, Some([7; 32]));
}

#[test]
fn extended_attributes_stay_sorted() {
    let mut tree = sample_tree();
    let mut set = |name: &str, value: Option<&[u8]>| {
        let change = Change::Xattr {
            object: id(3),
            path: (*b"d/f").into(),
            name: name.as_bytes().into(),
            value: Step { before: None, after: value.map(Into::into) },
            attributes: same(attributes(Kind::File, 0o600)),
        };
        apply(&mut tree, change).unwrap();
        let xattrs = &tree.object(id(3)).unwrap().state().xattrs;
        let told = |xattr: &Xattr| format!("{}={}", xattr.name.escape_ascii(), xattr.value.escape_ascii());
        xattrs.iter().map(told).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(set("user.b", Some(b"1")), "user.b=1");
    assert_eq!(set("user.a", Some(b"2")), "user.a=2 user.b=1");
    assert_eq!(set("user.b", Some(b"3")), "user.a=2 user.b=3");
    assert_eq!(set("user.c", None), "user.a=2 user.b=3");
    assert_eq!(set("user.a", None), "user.b=3");
}

#[test]
fn an_alias_leads_to_what_stands_for_both() {
    let mut tree = sample_tree();
    apply(&mut tree, Change::Alias { object: id(3), stands_for: id(1) }).unwrap();
    assert_eq!(tree.id(id(3)), id(1));
    assert_eq!(tree.object(id(3)).unwrap().places().len(), 3);
    apply(&mut tree, Change::Alias { object: id(1), stands_for: id(9) }).unwrap();
    assert_eq!((tree.id(id(3)), tree.id(id(1))), (id(9), id(9)));
    apply(&mut tree, Change::Alias { object: id(9), stands_for: id(3) }).unwrap();
    assert_sound(&tree);

    // A hard link's other places stay when one of its directories gets another id.
    apply(&mut tree, link(1, place(id(2), "again"), Kind::File)).unwrap();
    apply(&mut tree, Change::Alias { object: id(2), stands_for: id(8) }).unwrap();
    assert_sound(&tree);
    apply(&mut tree, make(7, place(id(2), "new"), Kind::File)).unwrap();
    assert_eq!(tree.find(b"d/new"), Some(id(7)));
    assert_sound(&tree);
}

#[test]
fn disabled_and_amended_records_are_remembered() {
    let mut tree = Tree::new();
    apply(&mut tree, Change::Disable { record: origin(1), reason: "r".into() }).unwrap();
    apply(&mut tree, Change::Amend { record: origin(2), change: Box::new(Change::Noop) }).unwrap();
    assert!(tree.is_disabled(origin(1)) && !tree.is_disabled(origin(2)));
    assert!(tree.is_amended(origin(2)) && !tree.is_amended(origin(1)));
}

#[test]
fn a_mismatch_tells_which_record() {
    let record = sample::record(5, remove(9, place(ROOT_ID, "n"), Kind::File, 0));
    let told = sample_tree().apply(&record).unwrap_err().to_string();
    assert!(told.starts_with("record 5 (unlink, made as "), "{told}");
    assert!(told.ends_with("there is no object 0000000000000001-9"), "{told}");
}

/// A file system told by paths: a second opinion on what can happen and what comes of it.
#[derive(Default)]
struct Model {
    paths: BTreeMap<String, u64>,
    kinds: HashMap<u64, Kind>,
    made: u64,
}

impl Model {
    /// The directories, as id and path.
    fn directories(&self) -> Vec<(ObjectId, String)> {
        let is_directory = |number: &u64| self.kinds[number] == Kind::Directory;
        let below = self.paths.iter().filter(|(_, number)| is_directory(number));
        let below = below.map(|(path, number)| (id(*number), path.clone()));
        std::iter::once((ROOT_ID, String::new())).chain(below).collect()
    }

    fn join(directory: &str, name: &str) -> String {
        if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
    }

    fn is_empty(&self, path: &str) -> bool {
        !self.paths.keys().any(|other| other.starts_with(&format!("{path}/")))
    }

    fn names(&self, number: u64) -> u32 {
        self.paths.values().filter(|other| **other == number).count() as u32
    }

    /// Where `path` stands.
    fn place(&self, path: &str) -> Place {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if directory.is_empty() { ROOT_ID } else { id(self.paths[directory]) };
        place(parent, name)
    }

    /// Does what `choice` says, if a file system would, and tells it as a change.
    fn step(&mut self, choice: &[Index; 4]) -> Option<Change> {
        let directories = self.directories();
        let (parent, directory) = choice[1].get(&directories).clone();
        let name = *choice[2].get(&["a", "b", "c"]);
        let (to, path) = (place(parent, name), Model::join(&directory, name));
        let paths: Vec<String> = self.paths.keys().cloned().collect();
        let picked = (!paths.is_empty()).then(|| choice[3].get(&paths).clone());
        match choice[0].index(9) {
            0 | 1 => self.make(to, path, *choice[3].get(&[Kind::File, Kind::Fifo, Kind::Symlink])),
            2 | 3 => self.make(to, path, Kind::Directory),
            4 => self.link(picked?, to, path),
            5 => self.remove(picked?),
            6 => self.exchange(picked?, path, to),
            _ => self.rename(picked?, path, to),
        }
    }

    fn make(&mut self, to: Place, path: String, kind: Kind) -> Option<Change> {
        if self.paths.contains_key(&path) {
            return None;
        }
        self.made += 1;
        self.paths.insert(path, self.made);
        self.kinds.insert(self.made, kind);
        Some(make(self.made, to, kind))
    }

    fn link(&mut self, of: String, to: Place, path: String) -> Option<Change> {
        let number = self.paths[&of];
        if self.kinds[&number] == Kind::Directory || self.paths.contains_key(&path) {
            return None;
        }
        self.paths.insert(path, number);
        Some(link(number, to, self.kinds[&number]))
    }

    fn remove(&mut self, path: String) -> Option<Change> {
        if !self.is_empty(&path) {
            return None;
        }
        let from = self.place(&path);
        let number = self.paths.remove(&path)?;
        Some(remove(number, from, self.kinds[&number], self.names(number)))
    }

    fn rename(&mut self, from_path: String, path: String, to: Place) -> Option<Change> {
        let number = self.paths[&from_path];
        let kind = self.kinds[&number];
        let from = self.place(&from_path);
        let inside = path.starts_with(&format!("{from_path}/"));
        let over = self.paths.get(&path).copied();
        let fits = over.is_none_or(|over| {
            let directories = (kind == Kind::Directory, self.kinds[&over] == Kind::Directory);
            over != number && directories.0 == directories.1 && self.is_empty(&path)
        });
        if inside || !fits {
            return None;
        }
        self.paths.remove(&path);
        let displaced =
            over.map_or(Displaced::Nothing, |over| replaced(over, self.kinds[&over], self.names(over)));
        self.move_all(&[(&from_path, &path)]);
        Some(rename(number, from, to, kind, displaced))
    }

    fn exchange(&mut self, from_path: String, path: String, to: Place) -> Option<Change> {
        let (number, other) = (self.paths[&from_path], *self.paths.get(&path)?);
        let nested = |a: &str, b: &str| a.starts_with(&format!("{b}/"));
        if number == other || nested(&path, &from_path) || nested(&from_path, &path) {
            return None;
        }
        let from = self.place(&from_path);
        self.move_all(&[(&from_path, &path), (&path, &from_path)]);
        Some(rename(number, from, to, self.kinds[&number], exchanged(other, self.kinds[&other])))
    }

    /// Moves everything at and below each first path to the second, all at once.
    fn move_all(&mut self, moves: &[(&str, &str)]) {
        let moved = |path: &str| {
            moves.iter().find_map(|(from, to)| {
                let rest = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
                Some(format!("{to}{rest}"))
            })
        };
        let paths = std::mem::take(&mut self.paths);
        self.paths = paths.into_iter().map(|(path, number)| (moved(&path).unwrap_or(path), number)).collect();
    }
}

/// The changes of a file system's history, and the tree before each and after the last.
fn history(choices: &[[Index; 4]]) -> (Vec<Change>, Vec<Tree>) {
    let mut model = Model::default();
    let changes: Vec<Change> = choices.iter().filter_map(|choice| model.step(choice)).collect();
    let mut trees = vec![Tree::new()];
    for change in &changes {
        let mut tree = trees.last().unwrap().clone();
        apply(&mut tree, change.clone()).unwrap();
        trees.push(tree);
    }
    (changes, trees)
}

/// A tree, as what is present.
struct There<'t>(&'t Tree);

impl Present for There<'_> {
    type Error = Infallible;

    fn object(&self, object: ObjectId) -> Result<Option<Standing>, Infallible> {
        let standing =
            |object: &Object| Standing { state: object.state().clone(), places: object.places().to_vec() };
        Ok(self.0.object(object).map(standing))
    }

    fn at(&self, place: &Place) -> Result<Option<ObjectId>, Infallible> {
        Ok(self.0.at(place))
    }

    fn entries(&self, directory: ObjectId) -> Result<usize, Infallible> {
        Ok(self.0.children(directory).len())
    }
}

/// What stands where, of all that is in one of `trees`: each object's kind and names, and what the names lead to.
fn standing(
    present: &impl Present<Error = Infallible>,
    trees: &[Tree],
) -> BTreeMap<ObjectId, (Kind, Vec<Place>, usize)> {
    let objects: BTreeSet<ObjectId> =
        trees.iter().flat_map(|tree| tree.objects().map(|(id, _)| id)).collect();
    let mut found = BTreeMap::new();
    for id in objects {
        let Ok(object) = present.object(id);
        let Some(Standing { state, mut places }) = object else { continue };
        places.sort();
        for place in &places {
            assert_eq!(present.at(place), Ok(Some(id)));
        }
        let Ok(entries) = present.entries(id);
        found.insert(id, (state.attributes.kind, places, entries));
    }
    found
}

proptest! {
    #[test]
    fn every_history_of_a_file_system_applies(choices in prop::collection::vec(any::<[Index; 4]>(), 1..150)) {
        let (mut model, mut tree) = (Model::default(), Tree::new());
        for change in choices.iter().filter_map(|choice| model.step(choice)) {
            let applied = apply(&mut tree, change.clone());
            prop_assert_eq!(applied, Ok(()), "{:?}", change);
        }
        assert_sound(&tree);
        let expected: BTreeMap<_, _> = model.paths.iter().map(|(path, number)| (path.clone(), id(*number))).collect();
        prop_assert_eq!(listing(&tree), expected);
        prop_assert_eq!(tree.len(), 1 + model.paths.values().collect::<HashSet<_>>().len());
        for (path, number) in &model.paths {
            prop_assert_eq!(tree.find(path.as_bytes()), Some(id(*number)));
        }
    }

    /// Newest first, the changes since any moment are taken back, and all stands where it stood then.
    #[test]
    fn what_is_taken_back_leaves_the_tree_before(
        choices in prop::collection::vec(any::<[Index; 4]>(), 1..80),
        moment in any::<Index>(),
    ) {
        let (changes, trees) = history(&choices);
        let moment = moment.index(trees.len());
        let mut overlay = Overlay::new(There(trees.last().unwrap()));
        for change in changes[moment..].iter().rev() {
            let Ok(inverse) = invert(change, &overlay);
            let actions = inverse.unwrap_or_else(|obstacle| panic!("{obstacle} before {change:?}"));
            actions.iter().for_each(|action| { let Ok(()) = overlay.act(action); });
        }
        prop_assert_eq!(standing(&overlay, &trees), standing(&There(&trees[moment]), &trees));
    }

    /// A history fits, record by record, where it begins: on another replica, in whatever batches it comes.
    #[test]
    fn what_is_checked_and_done_elsewhere_is_the_same_tree(choices in prop::collection::vec(any::<[Index; 4]>(), 1..80)) {
        let (changes, trees) = history(&choices);
        let mut overlay = Overlay::new(There(&trees[0]));
        for change in &changes {
            let Ok(verdict) = check(change, &overlay);
            let Verdict::Fits(actions) = verdict else { panic!("{verdict:?} for {change:?}") };
            actions.iter().for_each(|action| { let Ok(()) = overlay.act(action); });
            // A second time it is known by its effect, or does not fit; it never does harm.
            let Ok(again) = check(change, &overlay);
            prop_assert!(!matches!(again, Verdict::Damaged(_)), "{:?} for {:?}", again, change);
        }
        prop_assert_eq!(standing(&overlay, &trees), standing(&There(trees.last().unwrap()), &trees));
    }

    /// Changes of another file system's history: some fit, and most don't.
    #[test]
    fn what_does_not_fit_leaves_no_trace(
        ours in prop::collection::vec(any::<[Index; 4]>(), 1..40),
        others in prop::collection::vec(any::<[Index; 4]>(), 1..80),
    ) {
        let (mut model, mut other, mut tree) = (Model::default(), Model::default(), Tree::new());
        ours.iter().filter_map(|choice| model.step(choice)).for_each(|change| apply(&mut tree, change).unwrap());
        for change in others.iter().filter_map(|choice| other.step(choice)) {
            let before = tree.clone();
            if apply(&mut tree, change).is_err() {
                prop_assert_eq!(&tree, &before);
            }
            assert_sound(&tree);
        }
    }

    #[test]
    fn random_records_leave_a_sound_tree(changes in prop::collection::vec(crate::codec::random::change(), 1..40)) {
        let mut tree = sample_tree();
        for change in changes {
            let before = tree.clone();
            let record = Record { change, ..sample::create(7) };
            if tree.apply(&record).is_err() {
                prop_assert_eq!(&tree, &before);
            }
            assert_sound(&tree);
        }
    }
}

#[test]
fn what_two_sides_changed_is_there_in_either_order() {
    let before = Attributes { ctime: Time::new(1, 0), ..attributes(Kind::File, 0o600) };
    let chmod = Attributes { mode: 0o640, ctime: Time::new(5, 0), ..before };
    let write = Attributes { size: 7, mtime: Time::new(3, 0), ctime: Time::new(3, 0), ..before };
    let set = |after| Change::Setattr {
        object: id(3),
        path: (*b"d/f").into(),
        attributes: Step::new(before, after),
        data: None,
    };
    let told = |order: [Attributes; 2]| {
        let mut tree = sample_tree();
        tree.objects.get_mut(&id(3)).unwrap().state.attributes = before;
        order.into_iter().for_each(|after| apply(&mut tree, set(after)).unwrap());
        tree.object(id(3)).unwrap().state().attributes
    };
    let both = Attributes { mode: 0o640, size: 7, mtime: Time::new(3, 0), ctime: Time::new(5, 0), ..before };
    assert_eq!([told([chmod, write]), told([write, chmod])], [both; 2]);
}

#[test]
fn names_say_which_is_the_last() {
    let mut tree = sample_tree();
    apply(&mut tree, remove(1, place(ROOT_ID, "a"), Kind::File, 0)).unwrap();
    assert!(tree.object(id(1)).is_some(), "it has a name that the record did not know");
    apply(&mut tree, remove(1, place(ROOT_ID, "b"), Kind::File, 1)).unwrap();
    assert!(tree.object(id(1)).is_none());
}
