//! The log's bytes: `docs/format.md` in code.
//!
//! A record is written as a *frame*: a fixed head, a body of fields, and a tail with a checksum and the length again.
//! A *segment* is a head of its own and frames behind it. Reading is total: there are no bytes that make it panic,
//! allocate more than they are worth, or pass for a record that breaks a limit.

mod bytes;
mod check;
mod decode;
mod encode;
mod error;
mod field;
mod frame;
mod scan;
mod segment;
mod value;

#[cfg(test)]
pub(crate) mod random;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use check::Refused;
pub use decode::decode;
pub use encode::encode;
pub use error::{DecodeError, Fault, FrameError};
pub use frame::{FRAME_BYTES, Frame, HEAD_BYTES, Head, TAIL_BYTES, length_before, record_before};
pub use scan::{Break, Cause, Chain, OutOfOrder, Scanner};
pub use segment::{MAJOR, MINOR, SEGMENT_HEAD_BYTES, SegmentError, SegmentHead};
