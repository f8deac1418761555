//! Records from the newest to the oldest.

use std::sync::Arc;

use mezzo_core::codec::{Cause, Frame, FrameError, TAIL_BYTES, length_before, record_before};
use mezzo_core::{Recno, Record};

use super::BLOCK_BYTES;
use super::error::{Damage, LogError};
use super::reader::{Place, Reader, record_of};
use super::segment::{Segment, read_at};

/// Records in the opposite of their order: see [`Reader::backwards`].
#[derive(Debug)]
pub struct Backwards<'a> {
    reader: &'a Reader,
    state: State,
}

#[derive(Debug)]
enum State {
    Start(Recno),
    Within(Tail),
    Done,
}

/// What a segment has before a place, read block by block.
#[derive(Debug)]
struct Tail {
    segment: Arc<Segment>,
    /// Where the next record to give ends.
    end: u64,
    /// Its number.
    expected: Recno,
    /// Bytes of the segment up to `end`, as far as they were read.
    bytes: Vec<u8>,
}

impl<'a> Backwards<'a> {
    pub(super) fn new(reader: &'a Reader, from: Recno) -> Backwards<'a> {
        Backwards { reader, state: State::Start(from) }
    }

    fn advance(&mut self) -> Result<Option<Record>, LogError> {
        if let State::Start(from) = self.state {
            let segment = self.reader.segment_of(from)?;
            let Place { offset, chain } = self.reader.find(&segment, from)?;
            self.state = State::Within(Tail::new(segment, offset, chain.last));
        }
        while let State::Within(tail) = &mut self.state {
            if tail.end > tail.segment.start() {
                return tail.take(self.reader).map(Some);
            }
            self.state = tail.before(self.reader)?.map_or(State::Done, State::Within);
        }
        Ok(None)
    }
}

impl Iterator for Backwards<'_> {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let advanced = self.advance();
        if advanced.is_err() {
            self.state = State::Done;
        }
        advanced.transpose()
    }
}

impl Tail {
    fn new(segment: Arc<Segment>, end: u64, expected: Recno) -> Tail {
        Tail { segment, end, expected, bytes: Vec::new() }
    }

    /// The last record before the end, which then ends where it begins.
    fn take(&mut self, reader: &Reader) -> Result<Record, LogError> {
        self.load(TAIL_BYTES)?;
        let length = length_before(&self.bytes).map_err(|cause| self.blame(reader, cause))?;
        self.load(length)?;
        let frame = record_before(&self.bytes, self.end).map_err(|cause| self.blame(reader, cause))?;
        self.expect(&frame)?;
        let record = record_of(&self.segment, &frame)?;
        self.expected = record.previous;
        self.end = frame.offset;
        self.bytes.truncate(self.bytes.len() - length);
        Ok(record)
    }

    fn expect(&self, frame: &Frame<'_>) -> Result<(), LogError> {
        let (told, last) = (self.expected, frame.head.recno);
        if told == last {
            return Ok(());
        }
        Err(LogError::damaged(&self.segment.path, frame.offset, Damage::Gap { told, last }))
    }

    /// The end of the segment before this one, if the log still has it.
    fn before(&self, reader: &Reader) -> Result<Option<Tail>, LogError> {
        let segments = reader.segments()?;
        let before = segments.partition_point(|first| *first < self.segment.head.first);
        let Some(first) = before.checked_sub(1).map(|at| segments[at]) else { return Ok(None) };
        let segment = reader.segment(first)?;
        let end = segment.bytes()?;
        Ok(Some(Tail::new(segment, end, self.segment.head.previous)))
    }

    /// Reads until `wanted` bytes before the end are there, or all from the segment's first record on.
    fn load(&mut self, wanted: usize) -> Result<(), LogError> {
        let there = self.bytes.len();
        if there >= wanted {
            return Ok(());
        }
        let until = self.end - there as u64;
        let more = ((wanted - there).max(BLOCK_BYTES) as u64).min(until - self.segment.start()) as usize;
        let mut bytes = vec![0; more];
        let read = read_at(&self.segment.file, &mut bytes, until - more as u64);
        let read = read.map_err(LogError::io("read", &self.segment.path))?;
        bytes.truncate(read);
        bytes.append(&mut self.bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// Where the damage is, of which a bad record was seen from behind: reading forwards finds the place.
    fn blame(&self, reader: &Reader, cause: FrameError) -> LogError {
        let found = reader.find(&self.segment, self.expected);
        let place = |place: Place| LogError::damaged(&self.segment.path, place.offset, Cause::Frame(cause));
        found.map_or_else(|error| error, place)
    }
}
