//! Logs made by hand: every byte of them is right, but for what a test makes wrong.

use mezzo_core::codec::{HEAD_BYTES, SegmentHead, TAIL_BYTES, encode};
use mezzo_core::id::DataVersion;
use mezzo_core::record::{Displaced, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::{
    Attributes, Change, Data, Device, Kind, Name, ObjectId, Origin, Place, Recno, Record, ReplicaId, State,
    Time, Who, Xattr,
};

pub const REPLICA: ReplicaId = ReplicaId(7);
pub const ROOT: ObjectId = ObjectId::ROOT;

/// What [`Log::new`] has made: in the root `d`, `f`, `s`, which leads to the canary, and `d/e`.
pub const D: ObjectId = id(1);
pub const F: ObjectId = id(2);
pub const S: ObjectId = id(3);
pub const E: ObjectId = id(4);

/// Bytes of a segment.
#[derive(Clone)]
pub struct Log {
    pub bytes: Vec<u8>,
    /// The number of its last record.
    pub last: u64,
    /// Bytes and last number of all but that one.
    pub before: (usize, u64),
}

impl Log {
    pub fn new() -> Log {
        let head = SegmentHead::new([9; 16], REPLICA, 3, Recno::NONE, Time::new(1_790_000_000, 0));
        let mut log = Log { bytes: head.encode().to_vec(), last: 0, before: (0, 0) };
        log.push(make(1, ROOT, b"d", state(Kind::Directory)));
        log.push(make(2, ROOT, b"f", state(Kind::File)));
        log.push(make(3, ROOT, b"s", State { target: (*b"../canary").into(), ..state(Kind::Symlink) }));
        log.push(make(4, D, b"e", state(Kind::Directory)));
        log
    }

    /// With these changes behind those.
    pub fn with(changes: impl IntoIterator<Item = Change>) -> Log {
        let mut log = Log::new();
        changes.into_iter().for_each(|change| log.push(change));
        log
    }

    pub fn next(&self, change: Change) -> Record {
        let origin = Origin::new(REPLICA, Recno(self.last + 1));
        let (recno, previous, time) = (origin.recno, Recno(self.last), Time::new(1_790_000_100, 5));
        Record { recno, previous, epoch: 3, origin, time, who: Who::default(), change }
    }

    pub fn push(&mut self, change: Change) {
        let record = self.next(change);
        self.push_record(&record);
    }

    pub fn push_record(&mut self, record: &Record) {
        self.before = (self.bytes.len(), self.last);
        encode(record, &mut self.bytes).unwrap();
        self.last = record.recno.0;
    }

    /// Appends a frame of this kind with these fields, whatever they are.
    pub fn push_fields(&mut self, kind: u8, fields: &[(u8, Vec<u8>)]) {
        let body = fields.iter().flat_map(|(tag, value)| [vec![*tag], counted(value)].concat());
        self.push_body(kind, &body.collect::<Vec<u8>>());
    }

    pub fn push_body(&mut self, kind: u8, body: &[u8]) {
        let mut frame = Vec::new();
        encode(&self.next(Change::Noop), &mut frame).unwrap();
        frame.truncate(HEAD_BYTES);
        frame.extend(body);
        let padding = frame.len().next_multiple_of(8) - frame.len();
        frame.resize(frame.len() + padding + TAIL_BYTES, 0);
        (frame[9], frame[11]) = (kind, padding as u8);
        let length = frame.len() as u32;
        mend(&mut frame, length);
        self.before = (self.bytes.len(), self.last);
        self.bytes.extend(frame);
        self.last += 1;
    }
}

/// Gives a frame this length at both ends, and the checksums for what is in it.
pub fn mend(frame: &mut [u8], length: u32) {
    let end = frame.len();
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[end - TAIL_BYTES..end - 4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[..HEAD_BYTES - 4]);
    frame[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[..end - 4]);
    frame[end - 4..].copy_from_slice(&checksum.to_le_bytes());
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub fn counted(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len() as u64), bytes.to_vec()].concat()
}

pub const fn id(number: u64) -> ObjectId {
    ObjectId(Origin { replica: REPLICA, recno: Recno(number) })
}

pub fn place(parent: ObjectId, name: &[u8]) -> Place {
    Place::new(parent, Name::new(name).unwrap())
}

pub fn attributes(kind: Kind) -> Attributes {
    let time = Time::new(1_790_000_000, 7);
    let mode = if kind == Kind::Directory { 0o755 } else { 0o640 };
    Attributes {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        links: 1,
        device: Device::default(),
        atime: time,
        mtime: time,
        ctime: time,
    }
}

pub fn state(kind: Kind) -> State {
    let target = if kind == Kind::Symlink { (*b"anywhere").into() } else { Box::default() };
    State {
        attributes: attributes(kind),
        target,
        xattrs: Vec::new(),
        data: (kind == Kind::File).then(|| data(2)),
    }
}

pub fn with(kind: Kind, set: impl FnOnce(&mut Attributes)) -> State {
    let mut state = state(kind);
    set(&mut state.attributes);
    state
}

pub fn with_xattr(kind: Kind, name: &[u8], value: &[u8]) -> State {
    State { xattrs: vec![Xattr { name: name.into(), value: value.into() }], ..state(kind) }
}

pub fn data(version: u64) -> Data {
    Data { version: DataVersion(Origin::new(REPLICA, Recno(version))), digest: None }
}

pub fn touched(time: Time) -> Step<Times> {
    Step::new(Times::default(), Times { mtime: time, ctime: time })
}

/// When directories were changed.
pub const THEN: Time = Time::new(1_790_000_050, 9);

pub fn make(number: u64, parent: ObjectId, name: &[u8], state: State) -> Change {
    let path = (*b"a path").into();
    Change::Make { object: id(number), place: place(parent, name), path, state, parent: touched(THEN) }
}

pub fn link(object: ObjectId, kind: Kind, place: Place) -> Change {
    let attributes = Step::new(attributes(kind), Attributes { links: 2, ..attributes(kind) });
    Change::Link { object, place, path: (*b"a path").into(), attributes, parent: touched(THEN) }
}

pub fn removed(object: ObjectId, kind: Kind, links_left: u32) -> Removed {
    Removed { object, state: state(kind), links_left, ctime_after: THEN }
}

pub fn remove(object: ObjectId, kind: Kind, place: Place) -> Change {
    let removed = removed(object, kind, 0);
    Change::Remove { removed, place, path: (*b"a path").into(), parent: touched(THEN) }
}

pub fn rename(object: ObjectId, kind: Kind, from: Place, to: Place, displaced: Displaced) -> Change {
    let path: Box<[u8]> = (*b"a path").into();
    Change::Rename {
        object,
        attributes: Step::new(attributes(kind), attributes(kind)),
        from,
        from_path: path.clone(),
        from_parent: touched(THEN),
        to,
        to_path: path,
        to_parent: touched(THEN),
        displaced,
    }
}

pub fn setattr(object: ObjectId, kind: Kind, set: impl FnOnce(&mut Attributes)) -> Change {
    let after = with(kind, set).attributes;
    let attributes = Step::new(attributes(kind), after);
    Change::Setattr { object, path: (*b"a path").into(), attributes, data: None }
}

pub fn close(object: ObjectId, kind: Kind, set: impl FnOnce(&mut Attributes)) -> Change {
    let attributes = Step::new(attributes(kind), with(kind, set).attributes);
    let data = Step::new(data(2), data(9));
    Change::Close { object, path: (*b"a path").into(), attributes, data, stable: true }
}

pub fn xattr(object: ObjectId, kind: Kind, name: &[u8], value: Option<&[u8]>) -> Change {
    let attributes = Step::new(attributes(kind), attributes(kind));
    let value = Step { before: None, after: value.map(Into::into) };
    Change::Xattr { object, path: (*b"a path").into(), name: name.into(), value, attributes }
}

pub fn undo(change: Change) -> Change {
    Change::UndoOf { record: Origin::new(REPLICA, Recno(1)), change: Box::new(change) }
}
