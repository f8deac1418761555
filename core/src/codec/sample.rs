//! Records as everyday work makes them, for tests.

use crate::attributes::{Attributes, Data, Device, Kind, State};
use crate::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use crate::name::{Name, Place};
use crate::record::{Change, Displaced, Record, Removed};
use crate::time::{Step, Time, Times};
use crate::who::Who;

const REPLICA: ReplicaId = ReplicaId(0x6d65_7a7a_6f00_0001);
const NOW: i64 = 1_790_000_000;

/// Record `recno` behind `recno - 1`.
pub fn record(recno: u64, change: Change) -> Record {
    Record {
        recno: Recno(recno),
        previous: Recno(recno - 1),
        epoch: 1,
        origin: Origin::new(REPLICA, Recno(recno)),
        time: Time::new(NOW, 504_000_000),
        who: Who {
            uid: 1000,
            gid: 1000,
            groups: vec![4, 24, 27, 1000],
            pid: 41_234,
            program: (*b"rustc").into(),
            session: (*b"3217").into(),
        },
        change,
    }
}

/// A file made at `src/library/parser.rs`.
pub fn create(recno: u64) -> Record {
    let version = DataVersion(Origin::new(REPLICA, Recno(recno)));
    let state = State {
        attributes: attributes(0, 500_000_000),
        target: Box::default(),
        xattrs: Vec::new(),
        data: Some(Data { version, digest: None }),
    };
    let change =
        Change::Make { object: ObjectId(version.0), place: place(), path: path(), state, parent: times() };
    record(recno, change)
}

/// Its data written, after it had some that was digested.
pub fn close(recno: u64) -> Record {
    let version = |recno| DataVersion(Origin::new(REPLICA, Recno(recno)));
    let after = Attributes {
        size: 12_345,
        mtime: Time::new(NOW, 502_000_000),
        ctime: Time::new(NOW, 502_000_000),
        ..attributes(0, 500_000_000)
    };
    let change = Change::Close {
        object: file(),
        path: path(),
        attributes: Step::new(attributes(11_111, 400_000_000), after),
        data: Step::new(
            Data { version: version(70_000), digest: Some([0xd1; 32]) },
            Data { version: version(recno), digest: None },
        ),
        stable: true,
    };
    record(recno, change)
}

/// It is removed.
pub fn unlink(recno: u64) -> Record {
    let change = Change::Remove { removed: removed(), place: place(), path: path(), parent: times() };
    record(recno, change)
}

/// It replaces another, as editors save.
pub fn rename_over(recno: u64) -> Record {
    let after = Attributes { ctime: Time::new(NOW, 503_000_000), ..attributes(12_345, 500_000_000) };
    let temporary = Name::new(b".parser.rs.swp").unwrap();
    let change = Change::Rename {
        object: ObjectId(Origin::new(REPLICA, Recno(79_999))),
        attributes: Step::new(attributes(12_345, 500_000_000), after),
        from: Place::new(directory(), temporary),
        from_path: (*b"src/library/.parser.rs.swp").into(),
        from_parent: times(),
        to: place(),
        to_path: path(),
        to_parent: times(),
        displaced: Displaced::Replaced(Box::new(removed())),
    };
    record(recno, change)
}

fn removed() -> Removed {
    let version = DataVersion(Origin::new(REPLICA, Recno(70_000)));
    let state = State {
        attributes: attributes(12_345, 400_000_000),
        target: Box::default(),
        xattrs: Vec::new(),
        data: Some(Data { version, digest: Some([0xd1; 32]) }),
    };
    Removed { object: file(), state, links_left: 0, ctime_after: Time::default() }
}

fn attributes(size: u64, nanoseconds: u32) -> Attributes {
    let time = Time::new(NOW, nanoseconds);
    Attributes {
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size,
        links: 1,
        device: Device::default(),
        atime: time,
        mtime: time,
        ctime: time,
    }
}

fn times() -> Step<Times> {
    let times = |seconds, nanoseconds| {
        let time = Time::new(seconds, nanoseconds);
        Times { mtime: time, ctime: time }
    };
    Step::new(times(NOW - 5000, 123_456_789), times(NOW, 500_000_000))
}

fn file() -> ObjectId {
    ObjectId(Origin::new(REPLICA, Recno(60_000)))
}

fn directory() -> ObjectId {
    ObjectId(Origin::new(REPLICA, Recno(54_321)))
}

fn place() -> Place {
    Place::new(directory(), Name::new(b"parser.rs").unwrap())
}

fn path() -> Box<[u8]> {
    (*b"src/library/parser.rs").into()
}
