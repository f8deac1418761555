//! A record of every kind, for tests.

use mezzo_core::record::{Displaced, EpochCause, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::{
    Attributes, Change, Data, DataVersion, Device, Kind, Name, ObjectId, Origin, Place, Recno, Record,
    ReplicaId, State, Time, Who, Xattr,
};

/// The replica whose log it is.
pub const HERE: ReplicaId = ReplicaId(0x0123_4567_89ab_cdef);

/// Another one.
pub const THERE: ReplicaId = ReplicaId(0xfedc_ba98_7654_3210);

/// A number that no system gives to a user or a group, so that what is shown is the same everywhere.
pub const UID: u32 = 3_999_999_999;

/// A moment of the year 2001, and `seconds` more.
pub fn at(seconds: i64) -> Time {
    Time::new(1_000_000_000 + seconds, 5_000_000)
}

/// Record `recno`, made here.
pub fn record(recno: u64, change: Change) -> Record {
    Record {
        recno: Recno(recno),
        previous: Recno(recno - 1),
        epoch: 1,
        origin: here(recno),
        time: at(recno as i64),
        who: Who {
            uid: UID,
            gid: UID,
            groups: vec![UID],
            pid: 77,
            program: b"vim".as_slice().into(),
            session: b"12".as_slice().into(),
        },
        change,
    }
}

/// Records 1, 2, 3 and so on, with at least one of every kind.
pub fn all() -> Vec<Record> {
    (1..).zip(changes()).map(|(recno, change)| record(recno, change)).collect()
}

/// A file `path` is made by record `recno`.
pub fn create(recno: u64, path: &[u8]) -> Change {
    make(recno, path, state(Kind::File))
}

/// A file loses its last name.
pub fn unlink(path: &[u8]) -> Change {
    remove(path, removed(Kind::File, 0))
}

/// A file changes its place.
pub fn rename(from: &[u8], to: &[u8], displaced: Displaced) -> Change {
    Change::Rename {
        object: object(3),
        attributes: step(Kind::File),
        from: place(from),
        from_path: from.into(),
        from_parent: times(),
        to: place(to),
        to_path: to.into(),
        to_parent: times(),
        displaced,
    }
}

fn changes() -> Vec<Change> {
    let mut changes = made();
    changes.extend(removed_and_renamed());
    changes.extend(attributes_and_data());
    changes.extend(about_records());
    changes
}

fn made() -> Vec<Change> {
    let device =
        Attributes { device: Device { major: 1, minor: 3 }, size: 0, ..attributes(Kind::CharDevice) };
    let link = State { target: b"../else\xff".as_slice().into(), ..state(Kind::Symlink) };
    vec![
        create(1, b"a.txt"),
        make(2, b"src", state(Kind::Directory)),
        make(3, b"src/l", link),
        make(4, b"null", State { attributes: device, ..state(Kind::CharDevice) }),
        Change::Link {
            object: object(1),
            place: place(b"b.txt"),
            path: b"b.txt".as_slice().into(),
            attributes: Step::new(attributes(Kind::File), Attributes { links: 2, ..attributes(Kind::File) }),
            parent: times(),
        },
    ]
}

fn removed_and_renamed() -> Vec<Change> {
    let exchanged = Displaced::Exchanged { object: object(9), attributes: step(Kind::Directory) };
    vec![
        remove(b"b.txt", removed(Kind::File, 1)),
        unlink(b"bad\xff\n"),
        remove(b"src", removed(Kind::Directory, 0)),
        rename(b"a.txt", b"c.txt", Displaced::Nothing),
        rename(b"c.txt", b"d.txt", Displaced::Replaced(Box::new(removed(Kind::File, 0)))),
        rename(b"d.txt", b"e", exchanged),
    ]
}

fn attributes_and_data() -> Vec<Change> {
    let after = Attributes { mode: 0o4755, size: 0, mtime: at(100), ..attributes(Kind::File) };
    let grown = Attributes { size: 30, mtime: at(200), ctime: at(200), ..attributes(Kind::File) };
    let close = |path: &[u8], stable| Change::Close {
        object: object(1),
        path: path.into(),
        attributes: Step::new(attributes(Kind::File), grown),
        data: Step::new(data(1), Data { digest: None, ..data(14) }),
        stable,
    };
    vec![
        Change::Setattr {
            object: object(1),
            path: b"e".as_slice().into(),
            attributes: Step::new(attributes(Kind::File), after),
            data: Some(Step::new(data(1), data(12))),
        },
        Change::Setattr {
            object: ObjectId::ROOT,
            path: Box::default(),
            attributes: step(Kind::Directory),
            data: None,
        },
        close(b"e", true),
        close(b"", false),
        xattr(None, Some(b"red")),
        xattr(Some(b"\x02\x00\xff"), None),
        Change::Digest { object: object(1), version: DataVersion(here(14)), size: 30, digest: [0xab; 32] },
    ]
}

fn about_records() -> Vec<Change> {
    vec![
        Change::Noop,
        Change::Disable { record: here(12), reason: "the name was taken".into() },
        Change::Amend { record: there(7), change: Box::new(create(7, b"kept.txt")) },
        Change::Alias { object: object(1), stands_for: ObjectId(there(1)) },
        Change::Epoch { epoch: 2, holder: THERE, cause: EpochCause::Taken, ended_at: Recno(22) },
        Change::UndoOf { record: here(9), change: Box::new(rename(b"c.txt", b"a.txt", Displaced::Nothing)) },
        Change::Snapshot { of: THERE, at: Recno(22), records: 5, heads: [there(22), here(3)].into() },
    ]
}

fn make(recno: u64, path: &[u8], state: State) -> Change {
    Change::Make { object: object(recno), place: place(path), path: path.into(), state, parent: times() }
}

fn remove(path: &[u8], removed: Removed) -> Change {
    Change::Remove { removed, place: place(path), path: path.into(), parent: times() }
}

fn xattr(before: Option<&[u8]>, after: Option<&[u8]>) -> Change {
    Change::Xattr {
        object: object(1),
        path: b"e".as_slice().into(),
        name: b"user.color".as_slice().into(),
        value: Step::new(before.map(Box::from), after.map(Box::from)),
        attributes: step(Kind::File),
    }
}

fn removed(kind: Kind, links_left: u32) -> Removed {
    let mut state = state(kind);
    state.attributes.links += links_left;
    Removed { object: object(5), state, links_left, ctime_after: at(50) }
}

fn state(kind: Kind) -> State {
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.into(), value: value.into() };
    State {
        attributes: attributes(kind),
        target: Box::default(),
        xattrs: vec![xattr(b"user.color", b"red")],
        data: (kind == Kind::File).then(|| data(1)),
    }
}

fn attributes(kind: Kind) -> Attributes {
    Attributes {
        kind,
        mode: 0o644,
        uid: UID,
        gid: UID,
        size: if kind == Kind::File { 12 } else { 0 },
        links: 1,
        device: Device::default(),
        atime: at(0),
        mtime: at(0),
        ctime: at(0),
    }
}

fn step(kind: Kind) -> Step<Attributes> {
    Step::new(attributes(kind), Attributes { ctime: at(1), ..attributes(kind) })
}

fn times() -> Step<Times> {
    Step::new(Times { mtime: at(0), ctime: at(0) }, Times { mtime: at(1), ctime: at(1) })
}

fn data(recno: u64) -> Data {
    Data { version: DataVersion(here(recno)), digest: Some([recno as u8; 32]) }
}

/// The last name of `path`, in a directory that the tests don't look into.
fn place(path: &[u8]) -> Place {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    Place::new(ObjectId::ROOT, Name::new(name).unwrap())
}

fn object(recno: u64) -> ObjectId {
    ObjectId(here(recno))
}

fn here(recno: u64) -> Origin {
    Origin::new(HERE, Recno(recno))
}

fn there(recno: u64) -> Origin {
    Origin::new(THERE, Recno(recno))
}
