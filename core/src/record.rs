//! The record: one change, with what its author saw and what came of it.

use crate::attributes::{Attributes, Data, Digest, State};
use crate::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use crate::name::Place;
use crate::time::{Step, Time, Times};
use crate::who::Who;

/// One change of a fileset, as it stands in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in this log.
    pub recno: Recno,
    /// The number of the record before it in this log, so that records can be taken out later; 0 for the first.
    pub previous: Recno,
    /// The epoch of the log it was made in.
    pub epoch: u32,
    /// Where it was first made: this replica and `recno`, or what it was received with.
    pub origin: Origin,
    /// When it was made, by its author's clock.
    pub time: Time,
    /// Who made it.
    pub who: Who,
    /// What it changed.
    pub change: Change,
}

/// An object that lost a name, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The object.
    pub object: ObjectId,
    /// All of it, as it was before.
    pub state: State,
    /// The names it has left; with 0 it is gone.
    pub links_left: u32,
    /// Its ctime after, where names are left.
    pub ctime_after: Time,
}

/// What a record changed. Paths are for people; ids and places say what is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "records are handled one at a time, and most are of the large kinds"
)]
pub enum Change {
    /// A new object, or one that was there when it was taken in. A file's data has this record's origin as version,
    /// unless the object is reinstated.
    Make {
        /// The new object: this record's origin, or, reinstated, the id it had.
        object: ObjectId,
        /// Where it stands.
        place: Place,
        /// Where it stands, for people.
        path: Box<[u8]>,
        /// All of it, after.
        state: State,
        /// The directory it was made in.
        parent: Step<Times>,
    },
    /// One more name for an object that is not a directory.
    Link {
        /// The object.
        object: ObjectId,
        /// The new name's place.
        place: Place,
        /// The new name, for people.
        path: Box<[u8]>,
        /// The object's attributes.
        attributes: Step<Attributes>,
        /// The directory of the new name.
        parent: Step<Times>,
    },
    /// One name less: unlink or rmdir.
    Remove {
        /// What lost it.
        removed: Removed,
        /// Where it stood.
        place: Place,
        /// Where it stood, for people.
        path: Box<[u8]>,
        /// The directory it stood in.
        parent: Step<Times>,
    },
    /// Another place for an object.
    Rename {
        /// The object.
        object: ObjectId,
        /// Its attributes: a rename may change its ctime.
        attributes: Step<Attributes>,
        /// Where it stood.
        from: Place,
        /// Where it stood, for people.
        from_path: Box<[u8]>,
        /// The directory it stood in.
        from_parent: Step<Times>,
        /// Where it stands.
        to: Place,
        /// Where it stands, for people.
        to_path: Box<[u8]>,
        /// The directory it stands in; equal to `from_parent` where it is the same.
        to_parent: Step<Times>,
        /// What stood at `to`.
        displaced: Displaced,
    },
    /// Mode, owner, times or size.
    Setattr {
        /// The object.
        object: ObjectId,
        /// One of its places, for people.
        path: Box<[u8]>,
        /// All its attributes.
        attributes: Step<Attributes>,
        /// The data, where the size was set: the version after is this record's origin.
        data: Option<Step<Data>>,
    },
    /// One extended attribute set or removed.
    Xattr {
        /// The object.
        object: ObjectId,
        /// One of its places, for people.
        path: Box<[u8]>,
        /// The extended attribute's whole name.
        name: Box<[u8]>,
        /// Its value; `None` where there is none.
        value: Step<Option<Box<[u8]>>>,
        /// All the object's attributes: an ACL changes the mode.
        attributes: Step<Attributes>,
    },
    /// A file's data changed.
    Close {
        /// The file.
        object: ObjectId,
        /// One of its places, for people; empty where it has none left.
        path: Box<[u8]>,
        /// All its attributes.
        attributes: Step<Attributes>,
        /// Its data: the version after is this record's origin.
        data: Step<Data>,
        /// Whether nobody had the file open for writing any more.
        stable: bool,
    },
    /// The digest of data that an earlier record told of.
    Digest {
        /// The file.
        object: ObjectId,
        /// Which state of its bytes.
        version: DataVersion,
        /// How many bytes.
        size: u64,
        /// BLAKE3 of them.
        digest: Digest,
    },
    /// Nothing: keeps a number.
    Noop,
    /// An earlier record counts no more.
    Disable {
        /// Which.
        record: Origin,
        /// Why, for people: at most 4 KiB of UTF-8.
        reason: Box<str>,
    },
    /// An earlier record counts as another.
    Amend {
        /// Which.
        record: Origin,
        /// What it counts as; never an amend or an undo itself.
        change: Box<Change>,
    },
    /// Two ids are one object.
    Alias {
        /// The id that is no more used.
        object: ObjectId,
        /// The one that stands for both.
        stands_for: ObjectId,
    },
    /// Numbers go on under a new epoch.
    Epoch {
        /// The epoch that begins with this record.
        epoch: u32,
        /// Who may write in it.
        holder: ReplicaId,
        /// Why it began.
        cause: EpochCause,
        /// The last record of the epoch before, where that is known.
        ended_at: Recno,
    },
    /// The log begins with what the tree of another replica was at a record, in place of all records before: the `records` that
    /// follow make it, and have as origin that of the object they make. It is the first record of its log.
    Snapshot {
        /// The replica whose log it stands for.
        of: ReplicaId,
        /// The last record of that log which the tree has.
        at: Recno,
        /// How many records make the tree.
        records: u64,
        /// Of each replica whose records the tree has, the newest: at most 64 Ki.
        heads: Box<[Origin]>,
    },
    /// A change that takes an earlier record back.
    UndoOf {
        /// Which.
        record: Origin,
        /// What was done for it; never an amend or an undo itself.
        change: Box<Change>,
    },
}

/// What stood at the place that a rename led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// Nothing.
    Nothing,
    /// An object that lost this name.
    Replaced(Box<Removed>),
    /// An object that took the place left behind.
    Exchanged {
        /// The object.
        object: ObjectId,
        /// Its attributes.
        attributes: Step<Attributes>,
    },
}

/// Why an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EpochCause {
    /// The log was found shorter than it had been, so numbers may have been lost.
    Recovered = 1,
    /// The permit was taken.
    Taken = 2,
    /// The permit was stolen from a holder that could not be reached.
    Stolen = 3,
    /// The replica was found to be a copy, or restored, and goes on under an id of its own.
    Copied = 4,
}

impl Change {
    /// The path that it is about, for people: where something came to stand, for a rename; `None` where it is about no
    /// object's place.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Change::Make { path, .. }
            | Change::Link { path, .. }
            | Change::Remove { path, .. }
            | Change::Setattr { path, .. }
            | Change::Xattr { path, .. }
            | Change::Close { path, .. } => Some(path),
            Change::Rename { to_path, .. } => Some(to_path),
            Change::UndoOf { change, .. } | Change::Amend { change, .. } => change.path(),
            _ => None,
        }
    }

    /// The word for it that commands print and `log --kind` takes.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Make { state, .. } => match state.attributes.kind {
                crate::Kind::File => "create",
                crate::Kind::Directory => "mkdir",
                crate::Kind::Symlink => "symlink",
                _ => "mknod",
            },
            Change::Link { .. } => "link",
            Change::Remove { removed, .. } => match removed.state.attributes.kind {
                crate::Kind::Directory => "rmdir",
                _ => "unlink",
            },
            Change::Rename { .. } => "rename",
            Change::Setattr { .. } => "setattr",
            Change::Xattr { value, .. } if value.after.is_some() => "setxattr",
            Change::Xattr { .. } => "removexattr",
            Change::Close { .. } => "close",
            Change::Digest { .. } => "digest",
            Change::Noop => "noop",
            Change::Disable { .. } => "disable",
            Change::Amend { .. } => "amend",
            Change::Alias { .. } => "alias",
            Change::Epoch { .. } => "epoch",
            Change::Snapshot { .. } => "snapshot",
            Change::UndoOf { .. } => "undo",
        }
    }
}
