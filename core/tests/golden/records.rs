//! What the golden logs hold. Never change a row: add one.

use mezzo_core::attributes::{Attributes, Data, Device, Digest, Kind, State, Xattr};
use mezzo_core::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use mezzo_core::name::{Name, Place};
use mezzo_core::record::{Change, Displaced, EpochCause, Record, Removed};
use mezzo_core::time::{Step, Time, Times};
use mezzo_core::who::Who;

pub const FILESET: [u8; 16] = *b"a golden fileset";
pub const REPLICA: ReplicaId = ReplicaId(0x0123_4567_89ab_cdef);
const OTHER: ReplicaId = ReplicaId(0xfeed_0000_0000_0001);
const NOW: i64 = 1_790_000_000;
const DIGEST: Digest = [0xd1; 32];

/// The name of each golden log, and the changes that its records tell, from number 1 on.
pub fn all() -> Vec<(&'static str, Vec<Record>)> {
    let rows: Vec<(&str, Vec<Change>)> = vec![
        ("create", vec![make("file", Kind::File), made_elsewhere()]),
        ("mkdir", vec![make("directory", Kind::Directory)]),
        ("symlink", vec![make("link", Kind::Symlink)]),
        (
            "mknod",
            [Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice]
                .map(|kind| make("node", kind))
                .into(),
        ),
        ("link", vec![link()]),
        ("unlink", vec![remove(Kind::File, 0), remove(Kind::File, 2), remove(Kind::Symlink, 0)]),
        ("rmdir", vec![remove(Kind::Directory, 0)]),
        ("rename", vec![rename(true, Displaced::Nothing), rename(false, Displaced::Nothing)]),
        (
            "rename-replacing",
            vec![rename(false, replaced(Kind::File, 0)), rename(true, replaced(Kind::Directory, 0))],
        ),
        ("rename-exchanging", vec![rename(false, exchanged())]),
        ("chmod", vec![setattr("file", &|after| after.mode = 0o4755)]),
        ("chown", vec![setattr("file", &|after| (after.uid, after.gid) = (0, u32::MAX - 1))]),
        ("truncate", vec![truncate()]),
        (
            "utimes",
            vec![setattr("file", &utimes), setattr("", &|after| after.mtime = Time::new(-1, 999_999_999))],
        ),
        (
            "setxattr",
            vec![xattr("user.color", None, Some(b"blue")), xattr("user.color", Some(b"blue"), Some(b""))],
        ),
        ("removexattr", vec![xattr("user.color", Some(b""), None)]),
        ("acl", vec![acl()]),
        ("close", vec![close("directory/file", true), close("", false)]),
        ("digest", vec![digest()]),
        ("noop", vec![Change::Noop]),
        ("disable", vec![disable("lost to record 4: grün"), disable("")]),
        ("amend", vec![Change::Amend { record: origin(1), change: Box::new(make("file", Kind::File)) }]),
        ("alias", vec![Change::Alias { object: object(1), stands_for: foreign(7) }]),
        ("copied", vec![epoch(EpochCause::Copied)]),
        ("snapshot", vec![snapshot()]),
        ("epoch", [EpochCause::Recovered, EpochCause::Taken, EpochCause::Stolen].map(epoch).into()),
        ("undo-of", vec![undo(remove(Kind::File, 0)), undo(rename(false, exchanged())), undo(Change::Noop)]),
        ("names", vec![named(b"\xff\xfe"), named(&[b'n'; 255]), named("grün\n".as_bytes())]),
    ];
    let numbered =
        |changes: Vec<Change>| (1..).zip(changes).map(|(recno, change)| record(recno, change)).collect();
    let mut logs: Vec<_> = rows.into_iter().map(|(name, changes)| (name, numbered(changes))).collect();
    logs.push(("heads", heads()));
    logs
}

fn record(recno: u64, change: Change) -> Record {
    Record {
        recno: Recno(recno),
        previous: Recno(recno - 1),
        epoch: 3,
        origin: origin(recno),
        time: Time::new(NOW, 500_000_000),
        who: Who {
            uid: 1000,
            gid: 100,
            groups: vec![4, 27, 100_000],
            pid: 41_234,
            program: (*b"editor").into(),
            session: (*b"3217").into(),
        },
        change,
    }
}

/// Records whose heads are unusual.
fn heads() -> Vec<Record> {
    let nobody = Record { who: Who::default(), ..record(1, Change::Noop) };
    let received = Record {
        recno: Recno(1000),
        epoch: u32::MAX,
        origin: Origin::new(OTHER, Recno(u64::MAX)),
        time: Time::new(-62_135_596_800, 1),
        ..record(2, setattr("file", &utimes))
    };
    let last = Record {
        recno: Recno(u64::MAX),
        previous: Recno(1000),
        epoch: u32::MAX,
        time: Time::new(i64::MAX, 999_999_999),
        ..record(3, close("file", true))
    };
    vec![nobody, received, last]
}

fn origin(recno: u64) -> Origin {
    Origin::new(REPLICA, Recno(recno))
}

fn object(recno: u64) -> ObjectId {
    ObjectId(origin(recno))
}

fn foreign(recno: u64) -> ObjectId {
    ObjectId(Origin::new(OTHER, Recno(recno)))
}

fn place(parent: ObjectId, name: &str) -> Place {
    Place::new(parent, Name::new(name.as_bytes()).unwrap())
}

fn attributes(kind: Kind) -> Attributes {
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Attributes {
        kind,
        mode: if kind == Kind::Directory { 0o2755 } else { 0o644 },
        uid: 1000,
        gid: 100,
        size: if kind == Kind::Symlink { 8 } else { 0 },
        links: 1,
        device: if is_device { Device { major: 8, minor: 1_048_575 } } else { Device::default() },
        atime: Time::new(NOW - 86_400, 1),
        mtime: Time::new(NOW, 499_000_000),
        ctime: Time::new(NOW, 499_000_000),
    }
}

fn state(kind: Kind) -> State {
    State {
        attributes: attributes(kind),
        target: if kind == Kind::Symlink { (*b"../where").into() } else { Box::default() },
        xattrs: Vec::new(),
        data: (kind == Kind::File).then_some(Data { version: DataVersion(origin(1)), digest: None }),
    }
}

fn rich_state(kind: Kind) -> State {
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.as_bytes().into(), value: value.into() };
    let data = Data { version: DataVersion(foreign(12).0), digest: Some(DIGEST) };
    State {
        xattrs: vec![
            xattr("security.selinux", b"label\0"),
            xattr("user.empty", b""),
            xattr("user.long", &[7; 200]),
        ],
        data: (kind == Kind::File).then_some(data),
        ..state(kind)
    }
}

fn times(mtime: i64, ctime: i64) -> Times {
    Times { mtime: Time::new(mtime, 123_456_789), ctime: Time::new(ctime, 123_456_789) }
}

fn touched() -> Step<Times> {
    Step::new(times(NOW - 5000, NOW - 5000), times(NOW, NOW))
}

fn step(change: &dyn Fn(&mut Attributes)) -> Step<Attributes> {
    let before = attributes(Kind::File);
    let mut after = Attributes { ctime: Time::new(NOW, 499_500_000), ..before };
    change(&mut after);
    Step::new(before, after)
}

fn make(name: &str, kind: Kind) -> Change {
    Change::Make {
        object: object(1),
        place: place(ObjectId::ROOT, name),
        path: name.as_bytes().into(),
        state: state(kind),
        parent: touched(),
    }
}

fn made_elsewhere() -> Change {
    Change::Make {
        object: foreign(300),
        place: place(foreign(200), "file"),
        path: (*b"directory/file").into(),
        state: rich_state(Kind::File),
        parent: Step::new(times(NOW, NOW - 1), times(NOW + 1, NOW)),
    }
}

fn named(name: &[u8]) -> Change {
    Change::Make {
        object: object(1),
        place: Place::new(object(9), Name::new(name).unwrap()),
        path: [&b"a/\xff/"[..], name].concat().into(),
        state: state(Kind::File),
        parent: touched(),
    }
}

fn link() -> Change {
    Change::Link {
        object: object(77),
        place: place(object(9), "again"),
        path: (*b"a path that does not end so").into(),
        attributes: step(&|after| after.links = 2),
        parent: touched(),
    }
}

fn remove(kind: Kind, links_left: u32) -> Change {
    Change::Remove {
        removed: removed(kind, links_left),
        place: place(object(9), "gone"),
        path: (*b"directory/gone").into(),
        parent: touched(),
    }
}

fn removed(kind: Kind, links_left: u32) -> Removed {
    let ctime_after = if links_left > 0 { Time::new(NOW, 499_900_000) } else { Time::default() };
    Removed { object: object(300), state: rich_state(kind), links_left, ctime_after }
}

fn replaced(kind: Kind, links_left: u32) -> Displaced {
    Displaced::Replaced(Box::new(removed(kind, links_left)))
}

fn exchanged() -> Displaced {
    Displaced::Exchanged { object: foreign(55), attributes: step(&|_| {}) }
}

fn rename(within: bool, displaced: Displaced) -> Change {
    let to = if within { object(9) } else { foreign(11) };
    Change::Rename {
        object: object(77),
        attributes: step(&|_| {}),
        from: place(object(9), "old"),
        from_path: (*b"directory/old").into(),
        from_parent: touched(),
        to: place(to, "new"),
        to_path: if within { (*b"directory/new").into() } else { (*b"elsewhere/new").into() },
        to_parent: if within { touched() } else { Step::new(times(1, 2), times(3, 4)) },
        displaced,
    }
}

fn setattr(path: &str, change: &dyn Fn(&mut Attributes)) -> Change {
    Change::Setattr { object: object(77), path: path.as_bytes().into(), attributes: step(change), data: None }
}

fn utimes(after: &mut Attributes) {
    (after.atime, after.mtime) = (Time::new(i64::MIN, 0), Time::new(i64::MAX, 999_999_999));
}

fn truncate() -> Change {
    let before = Data { version: DataVersion(origin(70)), digest: Some(DIGEST) };
    let after = Data { version: DataVersion(origin(1)), digest: None };
    let attributes = step(&|after| after.size = u64::MAX);
    Change::Setattr {
        object: object(77),
        path: (*b"file").into(),
        attributes,
        data: Some(Step::new(before, after)),
    }
}

fn xattr(name: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> Change {
    Change::Xattr {
        object: object(77),
        path: (*b"directory/file").into(),
        name: name.as_bytes().into(),
        value: Step { before: before.map(Into::into), after: after.map(Into::into) },
        attributes: step(&|_| {}),
    }
}

fn acl() -> Change {
    let Change::Xattr { object, path, .. } = xattr("user.any", None, None) else { unreachable!("it is one") };
    let entries = [1u16, 6, 2, 6, 4, 4, 16, 6, 32, 4].map(u16::to_le_bytes).concat();
    Change::Xattr {
        object,
        path,
        name: (*b"system.posix_acl_access").into(),
        value: Step { before: None, after: Some([&2u32.to_le_bytes()[..], &entries].concat().into()) },
        attributes: step(&|after| after.mode = 0o664),
    }
}

fn close(path: &str, stable: bool) -> Change {
    let after = Data { version: DataVersion(origin(1)), digest: None };
    let attributes = step(&|after| {
        after.size = 12_345;
        after.mtime = after.ctime;
    });
    let before = Data { version: DataVersion(origin(70)), digest: Some(DIGEST) };
    Change::Close {
        object: object(77),
        path: path.as_bytes().into(),
        attributes,
        data: Step::new(before, after),
        stable,
    }
}

fn digest() -> Change {
    Change::Digest { object: object(77), version: DataVersion(foreign(5).0), size: 1 << 40, digest: DIGEST }
}

fn disable(reason: &str) -> Change {
    Change::Disable { record: Origin::new(OTHER, Recno(4)), reason: reason.into() }
}

fn undo(change: Change) -> Change {
    Change::UndoOf { record: origin(70), change: Box::new(change) }
}

fn snapshot() -> Change {
    let heads = [Origin::new(OTHER, Recno(4)), Origin::new(ReplicaId(7), Recno(1 << 40))];
    Change::Snapshot { of: OTHER, at: Recno(70_000), records: 300, heads: heads.into() }
}

fn epoch(cause: EpochCause) -> Change {
    Change::Epoch { epoch: 3, holder: OTHER, cause, ended_at: Recno(cause as u64 * 1000) }
}
