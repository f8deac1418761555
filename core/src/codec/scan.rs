//! Reading frames one after the other, and judging what is found where no good one follows.

use crate::id::Recno;
use crate::limits::SEARCH_BYTES;

use super::error::FrameError;
use super::frame::{ALIGNMENT, Frame, Head};
use super::segment::{SegmentError, SegmentHead};

/// The last record of a log so far: what the next one has to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its number; 0 where there is none yet.
    pub last: Recno,
    /// Its epoch.
    pub epoch: u32,
}

/// A record that does not follow the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Its number was used already.
    #[error("record {found} follows record {last}")]
    Number {
        /// The last number used.
        last: Recno,
        /// The record's number.
        found: Recno,
    },
    /// It was written behind another record than the one that is there.
    #[error("record {recno} was written behind record {told}, and follows {last}")]
    Previous {
        /// The record's number.
        recno: Recno,
        /// What it says of the number before.
        told: Recno,
        /// The number before.
        last: Recno,
    },
    /// Its epoch is over.
    #[error("record {recno} is of epoch {found}, and follows one of epoch {last}")]
    Epoch {
        /// The record's number.
        recno: Recno,
        /// The last epoch.
        last: u32,
        /// The record's epoch.
        found: u32,
    },
}

/// Why reading can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The last record was not written whole, as a crash leaves it: nothing valid follows.
    #[error("the last record, at byte {offset}, was not written whole: {cause}")]
    Torn {
        /// Where the good records end.
        offset: u64,
        /// How many bytes follow them.
        bytes: u64,
        /// What is wrong with those.
        cause: FrameError,
    },
    /// Damage that no crash leaves.
    #[error("the log is damaged at byte {offset}: {cause}")]
    Damaged {
        /// Where the good records end.
        offset: u64,
        /// What is wrong there.
        cause: Cause,
        /// Where a later record begins that is whole.
        next_valid: Option<u64>,
    },
}

/// What is wrong where a log is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The bytes are no record, and later ones are.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The record is whole, and does not belong here.
    #[error(transparent)]
    Order(#[from] OutOfOrder),
}

/// Reads the frames of a segment, or of its end, and stops at the first that is not good.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    rest: &'a [u8],
    offset: u64,
    chain: Chain,
}

impl Chain {
    /// Takes the record with this head as the next one, if it is.
    pub fn follow(&mut self, head: &Head) -> Result<(), OutOfOrder> {
        self.take(head.recno, head.previous, head.epoch)
    }

    /// Takes the record with these numbers as the next one, if it is.
    pub fn take(&mut self, recno: Recno, previous: Recno, epoch: u32) -> Result<(), OutOfOrder> {
        let Chain { last, epoch: last_epoch } = *self;
        if recno <= last {
            return Err(OutOfOrder::Number { last, found: recno });
        }
        if previous != last {
            return Err(OutOfOrder::Previous { recno, told: previous, last });
        }
        if epoch < last_epoch {
            return Err(OutOfOrder::Epoch { recno, last: last_epoch, found: epoch });
        }
        *self = Chain { last: recno, epoch };
        Ok(())
    }
}

impl<'a> Scanner<'a> {
    /// Reads a whole segment, from its head on.
    pub fn segment(bytes: &'a [u8]) -> Result<(SegmentHead, Scanner<'a>), SegmentError> {
        let head = SegmentHead::decode(bytes)?;
        let chain = Chain { last: head.previous, epoch: head.epoch };
        Ok((head, Scanner::resume(&bytes[head.length..], head.length as u64, chain)))
    }

    /// Goes on where the next frame should be: `bytes` are all that the segment has from byte `offset` on.
    pub fn resume(bytes: &'a [u8], offset: u64, chain: Chain) -> Scanner<'a> {
        Scanner { rest: bytes, offset, chain }
    }

    /// The next frame; `None` where the bytes end with the last one. After an error, the same error again.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'a>>, Break> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let frame = Frame::read(self.rest, self.offset).map_err(|cause| self.judge(cause))?;
        self.chain.follow(&frame.head).map_err(|cause| self.misplaced(&frame, cause))?;
        self.rest = &self.rest[frame.head.length..];
        self.offset = frame.end();
        Ok(Some(frame))
    }

    /// Where the next frame should begin: bytes from the start of the segment.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The last record that was read.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    fn judge(&self, cause: FrameError) -> Break {
        // Behind the end of a bad frame whose head is good, never within it: what looks like a record there is part of
        // it, such as an extended attribute's value that somebody made to look so. Since records are appended, a frame
        // that reaches beyond the end has none behind it.
        let found = self.find_valid(Head::read(self.rest).map_or(ALIGNMENT, |head| head.length));
        match found {
            Search::Nothing => Break::Torn { offset: self.offset, bytes: self.rest.len() as u64, cause },
            found => Break::Damaged { offset: self.offset, cause: cause.into(), next_valid: found.offset() },
        }
    }

    fn misplaced(&self, frame: &Frame<'_>, cause: OutOfOrder) -> Break {
        let next_valid = self.find_valid(frame.head.length).offset();
        Break::Damaged { offset: self.offset, cause: cause.into(), next_valid }
    }

    /// Looks for the first whole frame with a number of its own, from `start` of what is left.
    fn find_valid(&self, start: usize) -> Search {
        let mut searched = 0;
        for at in (start..self.rest.len()).step_by(ALIGNMENT) {
            let bytes = &self.rest[at..];
            let Ok(head) = Head::read(bytes) else { continue };
            searched += head.length.min(bytes.len());
            if searched > SEARCH_BYTES {
                return Search::GivenUp;
            }
            let offset = self.offset + at as u64;
            if head.recno > self.chain.last && Frame::read(bytes, offset).is_ok() {
                return Search::Found(offset);
            }
        }
        Search::Nothing
    }
}

/// What came of looking for a good frame behind a bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Found(u64),
    Nothing,
    /// So many bytes pass for the beginning of a frame that no crash left them: see [`SEARCH_BYTES`].
    GivenUp,
}

impl Search {
    fn offset(self) -> Option<u64> {
        if let Search::Found(offset) = self { Some(offset) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::frame::put_frame;
    use crate::codec::{SEGMENT_HEAD_BYTES, encode, sample};
    use crate::id::ReplicaId;
    use crate::limits::RECORD_BYTES;
    use crate::record::{Change, Record};
    use crate::time::Time;

    /// A segment with `records`, and where each begins.
    fn segment(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
        let head = SegmentHead::new([7; 16], ReplicaId(1), 1, Recno::NONE, Time::default());
        let mut bytes = head.encode().to_vec();
        let starts = records.iter().map(|record| {
            let start = bytes.len();
            encode(record, &mut bytes).unwrap();
            start
        });
        let starts = starts.collect();
        (bytes, starts)
    }

    fn everyday() -> Vec<Record> {
        vec![sample::create(1), sample::close(2), sample::unlink(3), sample::rename_over(4)]
    }

    /// How many records there are, and how they end.
    fn scan(bytes: &[u8]) -> (usize, Result<(), Break>) {
        let (_, mut scanner) = Scanner::segment(bytes).unwrap();
        let mut count = 0;
        loop {
            match scanner.next_frame() {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, Ok(())),
                Err(found) => {
                    assert_eq!(scanner.next_frame(), Err(found), "it goes on behind a break");
                    return (count, Err(found));
                }
            }
        }
    }

    #[test]
    fn records_come_in_their_order_with_their_places() {
        let (bytes, starts) = segment(&everyday());
        let (_, mut scanner) = Scanner::segment(&bytes).unwrap();
        for (record, start) in everyday().into_iter().zip(starts) {
            let frame = scanner.next_frame().unwrap().unwrap();
            assert_eq!(frame.offset, start as u64);
            assert_eq!(frame.record(), Ok(record));
        }
        assert_eq!(scanner.next_frame(), Ok(None));
        assert_eq!(scanner.chain(), Chain { last: Recno(4), epoch: 1 });
        assert_eq!(scanner.offset(), bytes.len() as u64);
    }

    #[test]
    fn a_record_cut_anywhere_is_torn() {
        let (bytes, starts) = segment(&everyday());
        for end in starts[3] + 1..bytes.len() {
            let (count, found) = scan(&bytes[..end]);
            assert!(
                matches!(found, Err(Break::Torn { offset, bytes, .. })
                    if offset == starts[3] as u64 && bytes == (end - starts[3]) as u64),
                "{found:?} at {end}"
            );
            assert_eq!(count, 3);
        }
        assert_eq!(scan(&bytes[..starts[3]]), (3, Ok(())));
    }

    #[test]
    fn a_last_record_with_a_flipped_bit_is_torn() {
        let (bytes, starts) = segment(&everyday());
        for bit in starts[3] * 8..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(scan(&bad), (3, Err(Break::Torn { .. }))), "bit {bit}");
        }
    }

    #[test]
    fn zeros_at_the_end_are_torn() {
        let (bytes, starts) = segment(&everyday());
        for zeros in [1, 7, 8, 63, 64, 4096] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + zeros, 0);
            let torn = Break::Torn {
                offset: bytes.len() as u64,
                bytes: zeros as u64,
                cause: if zeros < 64 { FrameError::Short(zeros) } else { FrameError::Magic },
            };
            assert_eq!(scan(&longer), (4, Err(torn)));
        }
        let mut half = bytes.clone();
        half[starts[3] + 80..].fill(0);
        assert!(matches!(scan(&half), (3, Err(Break::Torn { .. }))));
    }

    #[test]
    fn a_flipped_bit_before_the_last_record_is_damage() {
        let (bytes, starts) = segment(&everyday());
        for bit in SEGMENT_HEAD_BYTES * 8..starts[3] * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let at = starts.partition_point(|start| *start <= bit / 8) - 1;
            let (count, found) = scan(&bad);
            let expected = (starts[at] as u64, Some(starts[at + 1] as u64));
            assert!(
                matches!(found, Err(Break::Damaged { offset, next_valid, cause: Cause::Frame(_) })
                    if (offset, next_valid) == expected),
                "{found:?} for bit {bit}"
            );
            assert_eq!(count, at);
        }
    }

    #[test]
    fn a_hole_before_good_records_is_damage() {
        let (mut bytes, starts) = segment(&everyday());
        bytes[starts[1]..starts[3]].fill(0);
        let found = Break::Damaged {
            offset: starts[1] as u64,
            cause: FrameError::Magic.into(),
            next_valid: Some(starts[3] as u64),
        };
        assert_eq!(scan(&bytes), (1, Err(found)));
    }

    #[test]
    fn a_record_within_a_torn_one_is_no_record() {
        let mut trap = Vec::new();
        encode(&sample::record(900, Change::Noop), &mut trap).unwrap();
        for shift in 0..8 {
            let value = [&trap[..shift], &trap, &trap, &[7; 100]].concat();
            let mut outer = sample::create(2);
            if let Change::Make { state, .. } = &mut outer.change {
                state.xattrs = vec![crate::Xattr { name: (*b"user.trap").into(), value: value.into() }];
            }
            let (bytes, starts) = segment(&[sample::create(1), outer]);
            for end in starts[1] + 64..bytes.len() {
                assert!(matches!(scan(&bytes[..end]), (1, Err(Break::Torn { .. }))), "cut at {end}");
            }
        }
    }

    #[test]
    fn an_older_record_behind_a_torn_one_does_not_count() {
        let (bytes, starts) = segment(&everyday());
        let older = &bytes[starts[1]..starts[2]];
        let stale = [&bytes[..starts[3]], &[0; 64], older].concat();
        assert!(matches!(scan(&stale), (3, Err(Break::Torn { .. }))));
    }

    /// Heads that are good, one behind the other, each of which claims the largest record and has the tail for it.
    #[test]
    fn planted_heads_do_not_make_a_search_long() {
        const BLOCK: usize = 72;
        let length = RECORD_BYTES / BLOCK / 8 * BLOCK * 8;
        let (bytes, starts) = segment(&everyday());
        let mut planted = Vec::new();
        put_frame(&mut planted, &sample::record(900, Change::Noop), 9, |_| {});
        planted[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&planted[..60]);
        planted[60..64].copy_from_slice(&checksum.to_le_bytes());
        planted[64..68].copy_from_slice(&(length as u32).to_le_bytes());
        assert_eq!(planted.len(), BLOCK);
        let hostile = [&bytes[..starts[3]], &[0; 64], &planted.repeat(4 * length / BLOCK)].concat();
        let begun = std::time::Instant::now();
        assert!(matches!(scan(&hostile), (3, Err(Break::Damaged { next_valid: None, .. }))));
        assert!(begun.elapsed().as_secs() < 60, "each of {} heads was believed", 4 * length / BLOCK);
    }

    #[test]
    fn what_does_not_follow_is_damage() {
        let check = |second: Record, cause: OutOfOrder| {
            let (bytes, starts) = segment(&[sample::create(1), second]);
            let found = Break::Damaged { offset: starts[1] as u64, cause: cause.into(), next_valid: None };
            assert_eq!(scan(&bytes), (1, Err(found)));
        };
        let second = sample::create(2);
        let (recno, last) = (Recno(2), Recno(1));
        check(sample::create(1), OutOfOrder::Number { last, found: last });
        check(
            Record { previous: Recno::NONE, ..second.clone() },
            OutOfOrder::Previous { recno, told: Recno(0), last },
        );
        check(sample::create(3), OutOfOrder::Previous { recno: Recno(3), told: Recno(2), last });
        check(Record { epoch: 0, ..second }, OutOfOrder::Epoch { recno, last: 1, found: 0 });
        let (bytes, _) =
            segment(&[sample::create(1), Record { recno: Recno(9), previous: last, ..sample::create(8) }]);
        assert_eq!(scan(&bytes), (2, Ok(())), "numbers may be left out");
    }
}
