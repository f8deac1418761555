//! The head of a segment: one file of the log. See "A segment" in `docs/format.md`.

use crate::id::{Recno, ReplicaId};
use crate::time::Time;

use super::frame::{u32_at, u64_at};

/// The format's major version: a reader of another one can't read anything.
pub const MAJOR: u16 = 2;

/// The format's minor version: later ones add what earlier readers may skip or will refuse by name.
pub const MINOR: u16 = 2;

/// Bytes of the head that this version writes, and the least that any has. The first frame follows.
pub const SEGMENT_HEAD_BYTES: usize = 80;

/// A later minor version may have a longer head, up to this.
const LONGEST: usize = 4096;

/// As in PNG: a transfer that changes line ends, or stops at a Ctrl-Z, shows at once.
const MAGIC: [u8; 8] = *b"KML2\r\n\x1a\n";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The minor version that wrote it.
    pub minor: u16,
    /// Bytes of the head, after which the first frame begins.
    pub length: usize,
    /// The fileset's id.
    pub fileset: [u8; 16],
    /// The replica whose log it is.
    pub replica: ReplicaId,
    /// The epoch when it was begun.
    pub epoch: u32,
    /// No record in it has a lower number. It is also the file's name.
    pub first: Recno,
    /// The last record in the segment before; 0 where there is none.
    pub previous: Recno,
    /// When it was begun.
    pub created: Time,
}

/// Bytes that are not the head of a segment which can be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// It begins otherwise, or is too short.
    #[error("this is not a segment of a log")]
    Magic,
    /// Another major version.
    #[error("the log's format is version {major}.{minor}, and this program reads version 2 only")]
    Version {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The head's length can't be one, or its bytes are not all there.
    #[error("the segment's head can't have {0} bytes")]
    Length(u32),
    /// The head is damaged.
    #[error("the segment's head does not match its checksum")]
    Checksum,
    /// Flags that a later version gave it.
    #[error("the segment has flags {0:#x}, which a later version of mezzo defined")]
    Flags(u32),
    /// The numbers can't be.
    #[error("the segment's numbers don't fit: first {first}, previous {previous}")]
    Numbers {
        /// The first record's number.
        first: Recno,
        /// The number before.
        previous: Recno,
    },
}

impl SegmentHead {
    /// The head of a segment of this version.
    pub fn new(
        fileset: [u8; 16],
        replica: ReplicaId,
        epoch: u32,
        previous: Recno,
        created: Time,
    ) -> SegmentHead {
        let (minor, length, first) = (MINOR, SEGMENT_HEAD_BYTES, previous.next());
        SegmentHead { minor, length, fileset, replica, epoch, first, previous, created }
    }

    /// Its bytes. They are always those of this version: what a later one added is not kept.
    pub fn encode(&self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &MAJOR.to_le_bytes());
        put(10, &MINOR.to_le_bytes());
        put(12, &(SEGMENT_HEAD_BYTES as u32).to_le_bytes());
        put(16, &self.fileset);
        put(32, &self.replica.0.to_le_bytes());
        put(40, &self.epoch.to_le_bytes());
        put(48, &self.first.0.to_le_bytes());
        put(56, &self.previous.0.to_le_bytes());
        put(64, &self.created.seconds.to_le_bytes());
        put(72, &self.created.nanoseconds.to_le_bytes());
        let checksum = crc32c::crc32c(&head[..SEGMENT_HEAD_BYTES - 4]);
        head[SEGMENT_HEAD_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// Reads the head at the beginning of `bytes`: give it 4,096 where there are as many.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHead, SegmentError> {
        let fixed: &[u8; SEGMENT_HEAD_BYTES] = bytes.first_chunk().ok_or(SegmentError::Magic)?;
        if fixed[..8] != MAGIC {
            return Err(SegmentError::Magic);
        }
        let version = u32_at(fixed, 8);
        let (major, minor) = (version as u16, (version >> 16) as u16);
        if major != MAJOR {
            return Err(SegmentError::Version { major, minor });
        }
        let length = checked_length(bytes)?;
        SegmentHead::parse(fixed, minor, length)
    }

    fn parse(
        fixed: &[u8; SEGMENT_HEAD_BYTES],
        minor: u16,
        length: usize,
    ) -> Result<SegmentHead, SegmentError> {
        let flags = u32_at(fixed, 44);
        if flags != 0 {
            return Err(SegmentError::Flags(flags));
        }
        let (first, previous) = (Recno(u64_at(fixed, 48)), Recno(u64_at(fixed, 56)));
        if previous >= first {
            return Err(SegmentError::Numbers { first, previous });
        }
        Ok(SegmentHead {
            minor,
            length,
            fileset: *fixed[16..].first_chunk().expect("the head is longer"),
            replica: ReplicaId(u64_at(fixed, 32)),
            epoch: u32_at(fixed, 40),
            first,
            previous,
            created: Time::new(u64_at(fixed, 64) as i64, u32_at(fixed, 72)),
        })
    }
}

/// The length that the head tells, after its checksum, which stands at its end, has been found right.
fn checked_length(bytes: &[u8]) -> Result<usize, SegmentError> {
    let told = u32_at(bytes, 12);
    let fits = |length: &usize| (SEGMENT_HEAD_BYTES..=LONGEST).contains(length) && length.is_multiple_of(8);
    let length = usize::try_from(told).ok().filter(fits).ok_or(SegmentError::Length(told))?;
    let head = bytes.get(..length).ok_or(SegmentError::Length(told))?;
    let (checked, checksum) = head.split_at(length - 4);
    if crc32c::crc32c(checked) == u32_at(checksum, 0) { Ok(length) } else { Err(SegmentError::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHead {
        SegmentHead::new([7; 16], ReplicaId(9), 3, Recno(41), Time::new(-5, 6))
    }

    #[test]
    fn it_reads_what_it_writes() {
        assert_eq!(SegmentHead::decode(&sample().encode()), Ok(sample()));
        assert_eq!(sample().first, Recno(42));
    }

    #[test]
    fn no_flipped_bit_passes() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHead::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        let check = |at: usize, bytes: &[u8], error| {
            let mut head = sample().encode().to_vec();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            let checksum = crc32c::crc32c(&head[..76]);
            head[76..].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(SegmentHead::decode(&head), Err(error));
        };
        check(0, b"KML1", SegmentError::Magic);
        check(8, &[3, 0, 1, 0], SegmentError::Version { major: 3, minor: 1 });
        check(12, &[72], SegmentError::Length(72));
        check(12, &[88], SegmentError::Length(88));
        check(44, &[1], SegmentError::Flags(1));
        check(56, &[42], SegmentError::Numbers { first: Recno(42), previous: Recno(42) });
        assert_eq!(SegmentHead::decode(&sample().encode()[..79]), Err(SegmentError::Magic));
    }

    #[test]
    fn a_longer_head_of_a_later_minor_version_is_read() {
        let mut head = sample().encode()[..76].to_vec();
        head.resize(92, 0xee);
        head[10] = 5;
        head[12] = 96;
        let checksum = crc32c::crc32c(&head);
        head.extend(checksum.to_le_bytes());
        let expected = SegmentHead { minor: 5, length: 96, ..sample() };
        assert_eq!(SegmentHead::decode(&head), Ok(expected));
    }
}
