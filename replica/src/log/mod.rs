//! The log on disk: a directory of segments, each a file named by the first record that it may hold.
//!
//! One [`Log`] appends; any number of [`Reader`]s read meanwhile, in this process or in others. The bytes are
//! `mezzo_core::codec`'s, and `docs/format.md` describes them.
//!
//! Only the last segment can end in a torn record: a segment is made durable before the next one is begun.

mod append;
mod backwards;
mod commit;
mod error;
mod forwards;
mod frames;
mod reader;
mod room;
mod segment;
mod torn;

#[cfg(test)]
mod tests;

pub use append::{Log, Opened, Tail};
pub use backwards::Backwards;
pub use error::{Damage, LogError};
pub use forwards::Forwards;
pub use reader::Reader;

/// Bytes after which a segment is full: opening a log reads one, and it takes some ten milliseconds to read so many.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 256 << 10;

const _: () = assert!(SEGMENT_BYTES > 2 * mezzo_core::limits::RECORD_BYTES as u64);
