//! A frame: head, body, padding, tail. See "A record" in `docs/format.md`.

use crate::id::{Origin, Recno, ReplicaId};
use crate::limits::RECORD_BYTES;
use crate::record::Record;
use crate::time::Time;

use super::decode;
use super::error::{DecodeError, FrameError};

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 64;

/// Bytes of a frame's tail.
pub const TAIL_BYTES: usize = 8;

/// Bytes of the smallest frame.
pub const FRAME_BYTES: usize = HEAD_BYTES + TAIL_BYTES;

/// Every frame's length is a multiple of this, so that the next one can be looked for behind damage.
pub(super) const ALIGNMENT: usize = 8;

/// How every frame begins.
pub(super) const MAGIC: [u8; 4] = *b"KMLr";

const VERSION: u8 = 2;

/// The bytes of the head that its checksum covers.
const CHECKED: usize = HEAD_BYTES - 4;

const _: () = assert!(FRAME_BYTES.is_multiple_of(ALIGNMENT) && RECORD_BYTES.is_multiple_of(ALIGNMENT));

/// What stands in a frame's head: enough to find, order and select records without reading what they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the whole frame.
    pub length: usize,
    /// The number of the kind of change: see "Kinds" in `docs/format.md`.
    pub kind: u8,
    /// None are defined yet.
    pub flags: u8,
    /// The record's number.
    pub recno: Recno,
    /// The number of the record before it.
    pub previous: Recno,
    /// The epoch it was made in.
    pub epoch: u32,
    /// Where it was first made.
    pub origin: Origin,
    /// When it was made. Nanoseconds are as they were read.
    pub time: Time,
    padding: usize,
}

/// One whole and undamaged frame. What it says may still be refused when it is read as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it begins: bytes from the start of the segment, or of what was scanned.
    pub offset: u64,
    /// What stands in its head.
    pub head: Head,
    bytes: &'a [u8],
}

impl Head {
    /// Reads the head at the beginning of `bytes`. The head is checked, the rest of the frame need not be there.
    pub fn read(bytes: &[u8]) -> Result<Head, FrameError> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(FrameError::Short(bytes.len()))?;
        if head[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if head[8] != VERSION {
            return Err(FrameError::Version(head[8]));
        }
        if crc32c::crc32c(&head[..CHECKED]) != u32_at(head, CHECKED) {
            return Err(FrameError::HeadChecksum);
        }
        Head::parse(head)
    }

    fn parse(head: &[u8; HEAD_BYTES]) -> Result<Head, FrameError> {
        let length = u32_at(head, 4);
        let padding = usize::from(head[11]);
        let bytes = usize::try_from(length).ok().filter(|bytes| is_length(*bytes));
        let bytes = bytes.ok_or(FrameError::Length(length))?;
        if padding >= ALIGNMENT || bytes - FRAME_BYTES < padding {
            return Err(FrameError::Padding);
        }
        Ok(Head {
            length: bytes,
            kind: head[9],
            flags: head[10],
            padding,
            epoch: u32_at(head, 12),
            recno: Recno(u64_at(head, 16)),
            previous: Recno(u64_at(head, 24)),
            origin: Origin::new(ReplicaId(u64_at(head, 32)), Recno(u64_at(head, 40))),
            time: Time::new(u64_at(head, 48) as i64, u32_at(head, 56)),
        })
    }
}

impl<'a> Frame<'a> {
    /// Takes the frame at the beginning of `bytes`, which stand at `offset`, and checks every byte of it.
    pub fn read(bytes: &'a [u8], offset: u64) -> Result<Frame<'a>, FrameError> {
        let head = Head::read(bytes)?;
        let found = bytes.len();
        let bytes = bytes.get(..head.length).ok_or(FrameError::Incomplete { length: head.length, found })?;
        let (checked, checksum) = bytes.split_at(head.length - 4);
        if crc32c::crc32c(checked) != u32_at(checksum, 0) {
            return Err(FrameError::Checksum);
        }
        let (head_length, tail) = (u32_at(bytes, 4), u32_at(checked, checked.len() - 4));
        if head_length != tail {
            return Err(FrameError::TwoLengths { head: head_length, tail });
        }
        let body_end = head.length - TAIL_BYTES;
        if bytes[body_end - head.padding..body_end].iter().any(|byte| *byte != 0) {
            return Err(FrameError::Padding);
        }
        Ok(Frame { offset, head, bytes })
    }

    /// The whole frame's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the next frame begins.
    pub fn end(&self) -> u64 {
        self.offset + self.head.length as u64
    }

    /// The record that it is.
    pub fn record(&self) -> Result<Record, DecodeError> {
        decode::record(&self.head, self.body())
    }

    fn body(&self) -> &'a [u8] {
        &self.bytes[HEAD_BYTES..self.head.length - TAIL_BYTES - self.head.padding]
    }
}

/// The frame that ends where `bytes` end, found by the length at its end. `bytes` end at `end` of the segment.
pub fn record_before(bytes: &[u8], end: u64) -> Result<Frame<'_>, FrameError> {
    let length = length_before(bytes)?;
    let found = bytes.len();
    let start = found.checked_sub(length).ok_or(FrameError::Incomplete { length, found })?;
    let frame = Frame::read(&bytes[start..], end.saturating_sub(length as u64))?;
    if frame.head.length == length { Ok(frame) } else { Err(two_lengths(frame.head.length, length)) }
}

/// The length of the frame that ends where `bytes` end, of which the last 8 are needed.
pub fn length_before(bytes: &[u8]) -> Result<usize, FrameError> {
    let tail = bytes.last_chunk::<TAIL_BYTES>().ok_or(FrameError::Short(bytes.len()))?;
    let length = u32_at(tail, 0);
    usize::try_from(length).ok().filter(|length| is_length(*length)).ok_or(FrameError::Length(length))
}

fn two_lengths(head: usize, tail: usize) -> FrameError {
    FrameError::TwoLengths { head: head as u32, tail: tail as u32 }
}

/// Appends a frame whose body is what `write` appends. Returns its length in bytes, which the caller has to judge.
pub(super) fn put_frame(
    out: &mut Vec<u8>,
    record: &Record,
    kind: u8,
    write: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    write(out);
    let padding = (out.len() - start).next_multiple_of(ALIGNMENT) - (out.len() - start);
    out.resize(out.len() + padding, 0);
    let length = out.len() - start + TAIL_BYTES;
    // A length that does not fit is refused by the caller, who takes the bytes back.
    let told = u32::try_from(length).unwrap_or(u32::MAX);
    let head = out[start..].first_chunk_mut().expect("the head was appended above");
    fill_head(head, record, kind, told, padding as u8);
    out.extend(told.to_le_bytes());
    let checksum = crc32c::crc32c(&out[start..]);
    out.extend(checksum.to_le_bytes());
    length
}

fn fill_head(head: &mut [u8; HEAD_BYTES], record: &Record, kind: u8, length: u32, padding: u8) {
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(4, &length.to_le_bytes());
    put(8, &[VERSION, kind, 0, padding]);
    put(12, &record.epoch.to_le_bytes());
    put(16, &record.recno.0.to_le_bytes());
    put(24, &record.previous.0.to_le_bytes());
    put(32, &record.origin.replica.0.to_le_bytes());
    put(40, &record.origin.recno.0.to_le_bytes());
    put(48, &record.time.seconds.to_le_bytes());
    put(56, &record.time.nanoseconds.to_le_bytes());
    let checksum = crc32c::crc32c(&head[..CHECKED]);
    head[CHECKED..].copy_from_slice(&checksum.to_le_bytes());
}

fn is_length(bytes: usize) -> bool {
    (FRAME_BYTES..=RECORD_BYTES).contains(&bytes) && bytes.is_multiple_of(ALIGNMENT)
}

/// Callers have made sure that the bytes are there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}
