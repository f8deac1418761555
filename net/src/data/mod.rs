//! Data of files between replicas: asked for by version, sent in pieces that are compressed and checked.
//!
//! Who asks says how much may be on its way, so that data that nobody takes stops nothing else.

mod demand;
mod fetch;
mod provide;

pub use demand::{Acknowledges, FromServer};
pub use fetch::{Fetches, NotFetched};
pub(crate) use provide::Provider;

/// Bytes of a piece, before it is compressed.
pub const PIECE_BYTES: usize = 256 << 10;

/// Bytes that may be on their way of what one question asked for.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// Versions that are sent to one peer at once; further ones wait.
pub const AT_ONCE: usize = 8;

/// One message about data. The number tells which question it belongs to; who asks chooses it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DataMessage {
    /// The question.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What it says; a kind that is not known is none.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6")]
    pub body: Option<Body>,
}

/// What a message about data says.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Body {
    /// A version is wanted.
    #[prost(message, tag = "2")]
    Want(Want),
    /// A piece of it.
    #[prost(message, tag = "3")]
    Piece(Piece),
    /// It can't be had.
    #[prost(message, tag = "4")]
    Gone(Gone),
    /// More may be sent.
    #[prost(message, tag = "5")]
    More(More),
    /// No more is wanted.
    #[prost(message, tag = "6")]
    Stop(Stop),
}

/// A version is wanted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Want {
    /// The file's id.
    #[prost(fixed64, tag = "1")]
    pub object_replica: u64,
    /// See `object_replica`.
    #[prost(uint64, tag = "2")]
    pub object_recno: u64,
    /// The version.
    #[prost(fixed64, tag = "3")]
    pub version_replica: u64,
    /// See `version_replica`.
    #[prost(uint64, tag = "4")]
    pub version_recno: u64,
    /// Its bytes.
    #[prost(uint64, tag = "5")]
    pub size: u64,
    /// The first byte that is wanted.
    #[prost(uint64, tag = "6")]
    pub from: u64,
    /// Bytes, from the file's beginning, up to which may be sent before [`More`] is said.
    #[prost(uint64, tag = "7")]
    pub upto: u64,
}

/// A piece of a version.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Piece {
    /// Where it begins.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// How many bytes it has: at most [`PIECE_BYTES`].
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// Its bytes, as they are or compressed by zstd; none where all are zeros.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    /// They are compressed.
    #[prost(bool, tag = "4")]
    pub is_compressed: bool,
    /// BLAKE3 of the bytes before they were compressed.
    #[prost(bytes = "vec", tag = "5")]
    pub digest: Vec<u8>,
}

/// A version can't be had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Gone {
    /// For people.
    #[prost(string, tag = "1")]
    pub message: String,
    /// It may be had at another time.
    #[prost(bool, tag = "2")]
    pub is_passing: bool,
}

/// More may be sent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct More {
    /// Up to this byte of the file.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
}

/// No more is wanted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stop {}

impl DataMessage {
    fn new(number: u64, body: Body) -> DataMessage {
        DataMessage { number, body: Some(body) }
    }
}
