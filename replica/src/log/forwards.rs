//! Records from the oldest to the newest.

use mezzo_core::codec::{Break, Frame};
use mezzo_core::{Recno, Record};

use super::error::{Damage, LogError};
use super::frames::{Found, Frames};
use super::reader::Reader;
use super::segment::Segment;

/// Records in their order: see [`Reader::from`].
#[derive(Debug)]
pub struct Forwards<'a, T = Record> {
    reader: &'a Reader,
    /// Records with lower numbers are passed over.
    wanted: Recno,
    read: Read<T>,
    state: State,
}

/// What is made of a frame.
pub(super) type Read<T> = fn(&Segment, &Frame<'_>) -> Result<T, LogError>;

#[derive(Debug)]
enum State {
    Start,
    Within(Frames),
    Done,
}

impl<'a, T> Forwards<'a, T> {
    pub(super) fn new(reader: &'a Reader, wanted: Recno, read: Read<T>) -> Forwards<'a, T> {
        Forwards { reader, wanted, read, state: State::Start }
    }

    fn advance(&mut self) -> Result<Option<T>, LogError> {
        if let State::Start = self.state {
            let segment = self.reader.segment_of(self.wanted)?;
            self.state = State::Within(self.reader.frames_to(&segment, self.wanted));
        }
        // A segment that has a next one is complete, but only what was read after the next one was seen is sure to be.
        let mut next = None;
        while let State::Within(frames) = &mut self.state {
            let (segment, wanted, read) = (frames.segment().clone(), self.wanted, self.read);
            let found = frames.next(|frame| (frame.head.recno >= wanted).then(|| read(&segment, frame)))?;
            self.reader.note(frames);
            match (found, next) {
                (Found::Frame(Some(value)), _) => return value.map(Some),
                (Found::Frame(None), _) => {}
                (_, None) => {
                    next = self.reader.segment_after(segment.head.first)?;
                    if next.is_none() {
                        return Ok(None);
                    }
                }
                (Found::Torn { offset, bytes, cause }, Some(_)) => {
                    return Err(LogError::broken(&segment.path, Break::Torn { offset, bytes, cause }));
                }
                (Found::End, Some(first)) => {
                    *frames = follow(self.reader, frames, first)?;
                    next = None;
                }
            }
        }
        Ok(None)
    }
}

/// The frames of the segment that begins with record `first`, if it goes on where `frames` ended.
fn follow(reader: &Reader, frames: &Frames, first: Recno) -> Result<Frames, LogError> {
    let segment = reader.segment(first)?;
    let before = frames.segment().head;
    if segment.head.replica != before.replica && segment.head.epoch <= frames.chain().epoch {
        return Err(LogError::damaged(&segment.path, 0, Damage::Foreign));
    }
    let (told, last) = (segment.head.previous, frames.chain().last);
    if told == last {
        Ok(Frames::new(segment))
    } else {
        Err(LogError::damaged(&segment.path, 0, Damage::Gap { told, last }))
    }
}

impl<T> Iterator for Forwards<'_, T> {
    type Item = Result<T, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let advanced = self.advance();
        if advanced.is_err() {
            self.state = State::Done;
        }
        advanced.transpose()
    }
}
