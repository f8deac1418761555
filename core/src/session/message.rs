//! What two replicas say to each other: the table of messages in `docs/protocol.md`, in code.
//!
//! Fields that are not known are skipped, and those that are missing have their zero, so that either side may be newer.

use crate::id::{Recno, ReplicaId};

/// The newest version of the protocol that is spoken here.
pub const VERSION: u32 = 1;

/// The oldest version that is still spoken.
pub const OLDEST_VERSION: u32 = 1;

/// One message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// What it says; a kind that is not known is none.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    pub body: Option<Body>,
}

/// What a message says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Client to server, first.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Server to client, in answer.
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    /// Either way: records that the other has not.
    #[prost(message, tag = "3")]
    Records(Records),
    /// Either way: up to where records are durable.
    #[prost(message, tag = "4")]
    Ack(Ack),
    /// Either way: a record that can't be done there; nothing of it is, and none behind it.
    #[prost(message, tag = "5")]
    Refused(Refused),
    /// Either way, where nothing else was said for a while.
    #[prost(message, tag = "6")]
    Ping(Ping),
    /// The answer to it.
    #[prost(message, tag = "7")]
    Pong(Ping),
    /// Either way, last.
    #[prost(message, tag = "8")]
    Goodbye(Goodbye),
    /// Client to server: a writer needs the permit.
    #[prost(message, tag = "9")]
    AskPermit(AskPermit),
    /// Server to client: who holds the permit now.
    #[prost(message, tag = "10")]
    Permit(Permit),
    /// Server to client: another needs the permit.
    #[prost(message, tag = "11")]
    RecallPermit(RecallPermit),
    /// Client to server: the permit is not needed any more.
    #[prost(message, tag = "12")]
    ReleasePermit(ReleasePermit),
    /// Server to client: the tree as it was at a record, in pieces, instead of the records up to it.
    #[prost(message, tag = "13")]
    Snapshot(Snapshot),
    /// Client to server: up to where a snapshot is here.
    #[prost(message, tag = "14")]
    SnapshotAck(SnapshotAck),
    /// Server to client: the permit can't be stolen just now.
    #[prost(message, tag = "15")]
    NoPermit(NoPermit),
}

/// Up to where the records of a replica's log are somewhere.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Position {
    /// The replica.
    #[prost(fixed64, tag = "1")]
    pub replica: u64,
    /// The last record.
    #[prost(uint64, tag = "2")]
    pub recno: u64,
}

/// Who the client is and what it has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// The oldest and the newest version that it speaks.
    #[prost(uint32, tag = "1")]
    pub oldest_version: u32,
    /// The newest one.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// The fileset's id: 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub fileset: Vec<u8>,
    /// The client's replica.
    #[prost(fixed64, tag = "4")]
    pub replica: u64,
    /// The last durable record of its log.
    #[prost(uint64, tag = "5")]
    pub last: u64,
    /// Up to where it has received the logs of others: of each one that it ever received from.
    #[prost(message, repeated, tag = "6")]
    pub received: Vec<Position>,
    /// It has no records but those of a snapshot that was cut off, and takes a snapshot instead of what happened before.
    #[prost(bool, tag = "7")]
    pub takes_snapshot: bool,
    /// Of a snapshot that was cut off: the server's replica and record that it is of.
    #[prost(message, optional, tag = "8")]
    pub snapshot: Option<Position>,
    /// How many of its records are here.
    #[prost(uint64, tag = "9")]
    pub snapshot_records: u64,
    /// The replicas that its log was one of before: the last one is `replica`.
    #[prost(message, repeated, tag = "10")]
    pub ids: Vec<Position>,
    /// The name of its machine, for people.
    #[prost(string, tag = "11")]
    pub host: String,
}

/// What the server has of the client.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Welcome {
    /// The version that is spoken from now on.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The server's replica.
    #[prost(fixed64, tag = "2")]
    pub replica: u64,
    /// The last durable record of its log.
    #[prost(uint64, tag = "3")]
    pub last: u64,
    /// Up to where it has received the client's log.
    #[prost(uint64, tag = "4")]
    pub received: u64,
    /// Of each replica, the newest of its records that the server has, by origin.
    #[prost(message, repeated, tag = "5")]
    pub heads: Vec<Position>,
    /// The record after which it sends its own: the client's position in its log.
    #[prost(uint64, tag = "6")]
    pub from: u64,
    /// The client may send records.
    #[prost(bool, tag = "7")]
    pub may_write: bool,
    /// A snapshot comes first; then `from` is the record that it is of.
    #[prost(bool, tag = "8")]
    pub snapshot: bool,
    /// A writer needs the permit.
    #[prost(bool, tag = "9")]
    pub exclusive: bool,
    /// The permit as it stands.
    #[prost(message, optional, tag = "10")]
    pub permit: Option<Permit>,
}

/// Records, in the order of their log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Records {
    /// The record of the sender's log that these follow.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// The last record of the sender's log that these cover; those that don't concern the other are left out.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
    /// Frames, as docs/format.md has them, one behind the other.
    #[prost(bytes = "vec", tag = "3")]
    pub frames: Vec<u8>,
    /// Small data that they tell of.
    #[prost(message, repeated, tag = "4")]
    pub data: Vec<Inline>,
    /// The epoch of the permit under which they are sent; 0 where none is needed.
    #[prost(uint64, tag = "5")]
    pub permit: u64,
}

/// The bytes of one version of a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Inline {
    /// The version: where it was made.
    #[prost(fixed64, tag = "1")]
    pub replica: u64,
    /// The version's record.
    #[prost(uint64, tag = "2")]
    pub recno: u64,
    /// All its bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
}

/// Up to where the other's records are durable here.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ack {
    /// The last one.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
}

/// Why a record can't be done.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// Its number in the log of who sent it.
    #[prost(uint64, tag = "1")]
    pub recno: u64,
    /// `conflict`, `permission`, `damage`, `rights`, or `fenced`.
    #[prost(string, tag = "2")]
    pub answer: String,
    /// The class of a conflict.
    #[prost(string, tag = "3")]
    pub class: String,
    /// Where it is about there: bytes of a path.
    #[prost(bytes = "vec", tag = "4")]
    pub path: Vec<u8>,
    /// All of it in words.
    #[prost(string, tag = "5")]
    pub message: String,
}

/// A question for a sign of life, and its answer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ping {
    /// Comes back as it was.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Of the answer: the last durable record of the log of who answers.
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

/// Why nothing more is said.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Goodbye {
    /// A word for programs: see [`super::Reason`].
    #[prost(string, tag = "1")]
    pub reason: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// A writer needs the permit.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AskPermit {
    /// Take it from a holder that can't be reached.
    #[prost(bool, tag = "1")]
    pub steal: bool,
}

/// Who holds the permit.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Permit {
    /// Its epoch: one more for each that was given.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Who holds it; 0 for nobody.
    #[prost(fixed64, tag = "2")]
    pub holder: u64,
    /// The last record of the server's log that was made before.
    #[prost(uint64, tag = "3")]
    pub at: u64,
    /// It was taken from a holder that could not be reached.
    #[prost(bool, tag = "4")]
    pub stolen: bool,
}

/// Why the permit can't be stolen just now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NoPermit {
    /// For people.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// Another needs the permit.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RecallPermit {
    /// The epoch that is recalled.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
}

/// The permit is not needed any more; everything that was made under it was sent before.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReleasePermit {
    /// Its epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
}

/// A piece of a snapshot.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Snapshot {
    /// The record of the server's log that it is of.
    #[prost(uint64, tag = "1")]
    pub at: u64,
    /// How many records of the snapshot come before this piece.
    #[prost(uint64, tag = "2")]
    pub after: u64,
    /// How many have come with it.
    #[prost(uint64, tag = "3")]
    pub upto: u64,
    /// Frames of records that make the tree, one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    pub frames: Vec<u8>,
    /// It was the last piece.
    #[prost(bool, tag = "5")]
    pub is_last: bool,
    /// How many records the snapshot has.
    #[prost(uint64, tag = "6")]
    pub records: u64,
}

/// Up to where a snapshot is durable.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SnapshotAck {
    /// How many of its records.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
}

impl Position {
    /// The position of `replica` at `recno`.
    pub fn new(replica: ReplicaId, recno: Recno) -> Position {
        Position { replica: replica.0, recno: recno.0 }
    }
}

impl From<Body> for Message {
    fn from(body: Body) -> Message {
        Message { body: Some(body) }
    }
}
