//! Data of files between replicas: asked for by version, sent in pieces that are compressed and checked.
//!
//! A file that nothing here resembles is sent from its first byte to its last. Of one that does, because an earlier version is
//! here, or because it came in part before the connection was cut, the chunks that it consists of are asked for first: their
//! lengths and digests, cut where the content says (`chunks`). What is here already is put together from what is here (`gather`),
//! and the rest is asked for, a run of bytes each. `docs/data-transfer.md` has the messages.
//!
//! Who asks says how many answers may be on their way, so that data that nobody takes stops nothing else.

mod chunks;
mod demand;
mod fetch;
mod gather;
mod manifests;
mod provide;
#[cfg(test)]
mod tests;

pub use demand::{Acknowledges, FromServer};
pub use fetch::{Fetches, Moved, NotFetched};
pub use manifests::Manifests;
pub(crate) use provide::Provider;

use bytes::Bytes;

/// Bytes of a piece, before it is compressed.
pub const PIECE_BYTES: usize = 256 << 10;

/// Answers that may be on their way of what one question asked for: 8 MiB of pieces, which fill 100 ms of a link of 640 Mbit/s; or
/// chunks of 2 GiB, in 1.3 MiB.
pub const WINDOW: u64 = 32;

/// Versions that are sent to one peer at once, and as many whose chunks are told; further ones wait.
pub const AT_ONCE: usize = 8;

/// Questions of one peer that may wait at once.
pub const QUESTIONS: usize = 4096;

/// Runs of bytes that may be asked for in one message, and that may wait to be sent.
pub const RUNS: usize = 4096;

/// Chunks that one message tells of: 40 KiB.
pub const CHUNKS: usize = 1024;

/// Bytes of a file from which on it is looked for what of it is here: less is sent in the time that a question takes.
pub const CHUNKED_FROM: u64 = 1 << 20;

/// Bytes of zeros that are told as such, and left out: less is sent as it is, so that chunks stay long.
pub const ZEROS_FROM: u64 = 64 << 10;

// What the frame of a piece may have is far above it.
const _: () = assert!(2 * PIECE_BYTES < mezzo_core::session::MESSAGE_BYTES);
const _: () = assert!(CHUNKS * 42 + 1024 < mezzo_core::session::MESSAGE_BYTES);
const _: () = assert!(RUNS * 20 + 1024 < mezzo_core::session::MESSAGE_BYTES);

/// One message about data. The number tells which question it belongs to; who asks chooses it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DataMessage {
    /// The question.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What it says; a kind that is not known is none.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub body: Option<Body>,
}

/// What a message about data says.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Body {
    /// Bytes of a version are wanted.
    #[prost(message, tag = "2")]
    Want(Want),
    /// More bytes of it are wanted.
    #[prost(message, tag = "3")]
    Further(Runs),
    /// It can't be had.
    #[prost(message, tag = "4")]
    Gone(Gone),
    /// More answers may be sent.
    #[prost(message, tag = "5")]
    More(More),
    /// No more is wanted.
    #[prost(message, tag = "6")]
    Stop(Stop),
    /// The chunks of a version are wanted.
    #[prost(message, tag = "7")]
    Describe(Describe),
    /// Some of them.
    #[prost(message, tag = "8")]
    Chunks(Chunks),
}

/// A version of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Version {
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
}

/// Bytes of a version are wanted. Each run is answered by pieces, in the order of the runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Want {
    /// Of which.
    #[prost(message, required, tag = "1")]
    pub version: Version,
    /// Which bytes.
    #[prost(message, required, tag = "2")]
    pub runs: Runs,
    /// Pieces that may be sent before [`More`] is said.
    #[prost(uint64, tag = "3")]
    pub answers: u64,
    /// Pieces are to have their digests: who asks has no others.
    #[prost(bool, tag = "4")]
    pub with_digests: bool,
}

/// Runs of bytes, each behind the one before it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Runs {
    /// Where each begins, and how many bytes it has, by turns: at most [`RUNS`].
    #[prost(uint64, repeated, tag = "1")]
    pub runs: Vec<u64>,
    /// More may be asked for by [`Body::Further`].
    #[prost(bool, tag = "2")]
    pub may_follow: bool,
}

/// The chunks of a version are wanted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Describe {
    /// Of which.
    #[prost(message, required, tag = "1")]
    pub version: Version,
    /// Messages that may be sent before [`More`] is said.
    #[prost(uint64, tag = "2")]
    pub answers: u64,
}

/// Chunks of a version, the first of which begins where the last of the message before ended. The last one ends with the file.
/// A message without any says that they are being made.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Chunks {
    /// The length of each: at most [`CHUNKS`].
    #[prost(uint64, repeated, tag = "1")]
    pub lengths: Vec<u64>,
    /// BLAKE3 of each, 32 bytes, one behind the other; 32 zeros for a chunk that is of zeros.
    #[prost(bytes = "bytes", tag = "2")]
    pub digests: Bytes,
}

/// The head of a piece of a version. Its bytes follow it, as they are or compressed by zstd; none where all are zeros.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Piece {
    /// The question.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Where it begins.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// How many bytes it has: at most [`PIECE_BYTES`], unless all are zeros.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Its bytes are compressed.
    #[prost(bool, tag = "4")]
    pub is_compressed: bool,
    /// BLAKE3 of its bytes before they were compressed, where it was asked for and not all are zeros.
    #[prost(bytes = "bytes", tag = "5")]
    pub digest: Bytes,
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

/// More answers may be sent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct More {
    /// So many of the question in all.
    #[prost(uint64, tag = "1")]
    pub answers: u64,
}

/// No more is wanted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Stop {}

/// What comes of a question.
#[derive(Debug)]
pub(crate) enum Answer {
    Piece(Piece, Bytes),
    Chunks(Chunks),
    Gone(Gone),
}

impl DataMessage {
    pub(crate) fn new(number: u64, body: Body) -> DataMessage {
        DataMessage { number, body: Some(body) }
    }
}

/// Takes what the other side says of data. An error is a breach of the protocol.
pub(crate) fn hear(
    provider: &std::sync::Arc<Provider>,
    fetches: &Fetches,
    DataMessage { number, body }: DataMessage,
) -> Result<(), String> {
    match body {
        Some(Body::Want(want)) => provider.want(number, want),
        Some(Body::Describe(describe)) => provider.describe(number, describe),
        Some(Body::Further(runs)) => provider.further(number, runs),
        Some(Body::More(more)) => {
            provider.more(number, more.answers);
            Ok(())
        }
        Some(Body::Stop(_)) => {
            provider.stop(number);
            Ok(())
        }
        Some(Body::Chunks(chunks)) => fetches.hear(number, Answer::Chunks(chunks)),
        Some(Body::Gone(gone)) => fetches.hear(number, Answer::Gone(gone)),
        None => Ok(()),
    }
}
