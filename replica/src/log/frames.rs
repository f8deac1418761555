//! Reading a segment forwards in blocks, while it may still grow.

use std::sync::Arc;

use mezzo_core::codec::{Break, Chain, Frame, FrameError, HEAD_BYTES, Head, Scanner};
use mezzo_core::limits::RECORD_BYTES;

use super::error::{Damage, LogError};
use super::segment::{Segment, read_at};
use super::{BLOCK_BYTES, SEGMENT_BYTES};

/// Bytes that are searched for a good record behind a bad one: more than any segment of ours has.
const SEARCHED_BYTES: usize = SEGMENT_BYTES as usize + RECORD_BYTES;

/// Reads the frames of one segment.
#[derive(Debug)]
pub(super) struct Frames {
    segment: Arc<Segment>,
    offset: u64,
    chain: Chain,
    /// What the segment has from `offset` on, as far as it was read.
    block: Block,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// A frame, as it was read.
    Frame(T),
    /// Nothing yet.
    End,
    /// Bytes that are no whole record, at the end: a crash left them, or somebody is appending just now.
    Torn { offset: u64, bytes: u64, cause: FrameError },
}

impl Frames {
    /// From the segment's first record on.
    pub fn new(segment: Arc<Segment>) -> Frames {
        let (offset, chain) = (segment.start(), segment.chain());
        Frames::at(segment, offset, chain)
    }

    /// From `offset` on, where the record behind `chain` begins.
    pub fn at(segment: Arc<Segment>, offset: u64, chain: Chain) -> Frames {
        Frames { segment, offset, chain, block: Block::default() }
    }

    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The last record before it.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Hands the next frame to `read`. May be called again after anything: what was not there may be by then.
    pub fn next<T>(&mut self, read: impl FnOnce(&Frame<'_>) -> T) -> Result<Found<T>, LogError> {
        self.load()?;
        if self.block.rest().is_empty() {
            return Ok(Found::End);
        }
        let mut chain = self.chain;
        match Frame::read(self.block.rest(), self.offset) {
            Ok(frame) if chain.follow(&frame.head).is_ok() => {
                let (value, length) = (read(&frame), frame.head.length);
                self.step(length, chain);
                Ok(Found::Frame(value))
            }
            _ => self.judge(read),
        }
    }

    /// Reads as much as the next frame needs.
    fn load(&mut self) -> Result<(), LogError> {
        self.load_bytes(HEAD_BYTES)?;
        match Head::read(self.block.rest()) {
            Ok(head) => self.load_bytes(head.length),
            Err(_) => Ok(()),
        }
    }

    fn load_bytes(&mut self, wanted: usize) -> Result<(), LogError> {
        let loaded = self.block.load(&self.segment.file, self.offset, wanted);
        loaded.map_err(LogError::io("read", &self.segment.path))
    }

    fn step(&mut self, length: usize, chain: Chain) {
        self.block.take(length);
        self.offset += length as u64;
        self.chain = chain;
    }

    /// Looks anew at everything from here on: what was loaded may be old, and whether a bad record is the last one is
    /// seen by what follows.
    fn judge<T>(&mut self, read: impl FnOnce(&Frame<'_>) -> T) -> Result<Found<T>, LogError> {
        self.block = Block::default();
        self.load_bytes(SEARCHED_BYTES)?;
        let mut scanner = Scanner::resume(self.block.rest(), self.offset, self.chain);
        match scanner.next_frame() {
            Ok(Some(frame)) => {
                let (value, length) = (read(&frame), frame.head.length);
                let chain = scanner.chain();
                self.step(length, chain);
                Ok(Found::Frame(value))
            }
            Ok(None) => Ok(Found::End),
            Err(found) => self.broken(found),
        }
    }

    fn broken<T>(&mut self, found: Break) -> Result<Found<T>, LogError> {
        self.block = Block::default();
        let path = &self.segment.path;
        match found {
            Break::Torn { offset, bytes, .. } if bytes >= SEARCHED_BYTES as u64 => {
                let bytes = self.segment.bytes()?.saturating_sub(offset);
                Err(LogError::damaged(path, offset, Damage::Long(bytes)))
            }
            Break::Torn { offset, bytes, cause } => Ok(Found::Torn { offset, bytes, cause }),
            found => Err(LogError::broken(path, found)),
        }
    }
}

/// Bytes that were read ahead.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    taken: usize,
}

impl Block {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// Makes sure that `wanted` bytes are there, or all that the file has from `offset` on, where the rest begins.
    fn load(&mut self, file: &std::fs::File, offset: u64, wanted: usize) -> std::io::Result<()> {
        let there = self.rest().len();
        if there >= wanted {
            return Ok(());
        }
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let more = self.missing(file, offset, wanted)?;
        self.bytes.resize(there + more, 0);
        let read = read_at(file, &mut self.bytes[there..], offset + there as u64)?;
        self.bytes.truncate(there + read);
        Ok(())
    }

    /// How many bytes to read: at least a block, and no more than the file has, so that no length costs memory that is
    /// only claimed.
    fn missing(&self, file: &std::fs::File, offset: u64, wanted: usize) -> std::io::Result<usize> {
        let there = self.bytes.len();
        let available = file.metadata()?.len().saturating_sub(offset + there as u64);
        Ok((wanted - there).max(BLOCK_BYTES).min(usize::try_from(available).unwrap_or(usize::MAX)))
    }
}
