//! Reading a log, while it may still grow.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use mezzo_core::codec::{Chain, Frame};
use mezzo_core::{Recno, Record, ReplicaId};
use parking_lot::Mutex;

use super::append::Log;
use super::backwards::Backwards;
use super::error::{Damage, LogError};
use super::forwards::{Forwards, Read};
use super::frames::{Found, Frames};
use super::segment::{Access, Directory, Segment};

/// A place in a segment is noted about every so many bytes, so that a record is found by reading no more than this.
const NOTED_BYTES: u64 = 64 << 10;

/// A log to be read. It needs nothing of the writer and takes no locks; it never changes anything.
#[derive(Debug)]
pub struct Reader {
    source: Source,
    first: Arc<Segment>,
    /// By a segment's first number: places in it, in their order.
    places: Mutex<HashMap<Recno, Vec<Place>>>,
}

#[derive(Debug)]
enum Source {
    Directory(Directory),
    /// One segment without the others.
    Segment,
}

/// A place in a segment: where a record begins, and what is before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub offset: u64,
    pub chain: Chain,
}

impl Reader {
    /// Opens a log: `path` is a log's directory, a fileset's directory, or one segment.
    pub fn open(path: &Path) -> Result<Reader, LogError> {
        if !path.is_dir() {
            return Ok(Reader::with(Source::Segment, Arc::new(Segment::open(path)?)));
        }
        let within = path.join(".mezzo/kml");
        let directory = Directory::open(if within.is_dir() { &within } else { path })?;
        Reader::of(directory)
    }

    fn of(directory: Directory) -> Result<Reader, LogError> {
        let segments = directory.segments()?;
        let Some(first) = segments.first() else { return Err(LogError::None(directory.path)) };
        let first = directory.open_segment(*first, Access::Read)?;
        Ok(Reader::with(Source::Directory(directory), first))
    }

    fn with(source: Source, first: Arc<Segment>) -> Reader {
        Reader { source, first, places: Mutex::default() }
    }

    /// The fileset's id.
    pub fn fileset(&self) -> [u8; 16] {
        self.first.head.fileset
    }

    /// The replica whose log it is now, as far as its last segment can be read; else the one whose log it was at first.
    pub fn replica(&self) -> ReplicaId {
        let last = self.segments().ok().and_then(|segments| self.segment(*segments.last()?).ok());
        last.map_or(self.first.head.replica, |last| last.head.replica)
    }

    /// All replicas whose log it has been, in their order, each with the number of the first record that may be its: a
    /// replica that was found to be a copy goes on under another id.
    pub fn replicas(&self) -> Result<Vec<(ReplicaId, Recno)>, LogError> {
        let mut found: Vec<(ReplicaId, Recno)> = Vec::new();
        for first in self.segments()? {
            let replica = self.segment(first)?.head.replica;
            if found.last().is_none_or(|(last, _)| *last != replica) {
                found.push((replica, first));
            }
        }
        Ok(found)
    }

    /// The number of the first record that the log still has; 0 where it has none.
    pub fn first(&self) -> Result<Recno, LogError> {
        let mut numbers = self.walk(Recno::NONE, |_, frame| Ok(frame.head.recno));
        Ok(numbers.next().transpose()?.unwrap_or_default())
    }

    /// The number of the last record by now; 0 where the log never had any.
    pub fn last(&self) -> Result<Recno, LogError> {
        let segments = self.segments()?;
        let last = segments.last().copied().unwrap_or(self.first.head.first);
        Ok(self.find(&self.segment(last)?, Recno(u64::MAX))?.chain.last)
    }

    /// Record `recno`; `None` where the log has none with this number.
    pub fn get(&self, recno: Recno) -> Result<Option<Record>, LogError> {
        let found = self.from(recno).next().transpose()?;
        Ok(found.filter(|record| record.recno == recno))
    }

    /// Records from number `recno` on, or from the first one that the log still has, oldest first.
    ///
    /// At the end, `next` gives `None`; when it is called again later, it goes on with what came in the meantime, so
    /// this follows a growing log as well. A record that is just being written is not there yet. After an error it
    /// gives nothing more.
    pub fn from(&self, recno: Recno) -> Forwards<'_> {
        self.walk(recno, record_of)
    }

    /// Records from number `recno` down, newest first; `Recno(u64::MAX)` begins with the last one. Reads blocks from
    /// the end. After an error it gives nothing more.
    pub fn backwards(&self, recno: Recno) -> Backwards<'_> {
        Backwards::new(self, recno)
    }

    fn walk<T>(&self, recno: Recno, read: Read<T>) -> Forwards<'_, T> {
        Forwards::new(self, recno, read)
    }

    /// The first numbers of all segments, in their order.
    pub(super) fn segments(&self) -> Result<Vec<Recno>, LogError> {
        match &self.source {
            Source::Directory(directory) => directory.segments(),
            Source::Segment => Ok(vec![self.first.head.first]),
        }
    }

    /// The first number of the segment that follows the one that begins with `first`.
    pub(super) fn segment_after(&self, first: Recno) -> Result<Option<Recno>, LogError> {
        Ok(self.segments()?.into_iter().find(|other| *other > first))
    }

    /// The segment whose first number is `first`.
    pub(super) fn segment(&self, first: Recno) -> Result<Arc<Segment>, LogError> {
        let segment = match &self.source {
            Source::Directory(directory) if first != self.first.head.first => {
                directory.open_segment(first, Access::Read)?
            }
            _ => self.first.clone(),
        };
        let same = segment.head.fileset == self.fileset();
        if same { Ok(segment) } else { Err(LogError::damaged(&segment.path, 0, Damage::Foreign)) }
    }

    /// The segment that holds record `recno`, if any does.
    pub(super) fn segment_of(&self, recno: Recno) -> Result<Arc<Segment>, LogError> {
        let segments = self.segments()?;
        let after = segments.partition_point(|first| *first <= recno);
        let first = segments.get(after.saturating_sub(1)).copied().unwrap_or(self.first.head.first);
        self.segment(first)
    }

    /// Frames of `segment` from a noted place on that is not behind record `recno`.
    pub(super) fn frames_to(&self, segment: &Arc<Segment>, recno: Recno) -> Frames {
        let places = self.places.lock();
        let noted = places.get(&segment.head.first).map_or(&[][..], Vec::as_slice);
        let after = noted.partition_point(|place| place.chain.last < recno);
        match after.checked_sub(1) {
            Some(at) => Frames::at(segment.clone(), noted[at].offset, noted[at].chain),
            None => Frames::new(segment.clone()),
        }
    }

    /// Where record `recno` of `segment` ends, or the last one before it.
    pub(super) fn find(&self, segment: &Arc<Segment>, recno: Recno) -> Result<Place, LogError> {
        let mut frames = self.frames_to(segment, recno);
        loop {
            let place = Place { offset: frames.offset(), chain: frames.chain() };
            self.note(&frames);
            match frames.next(|frame| frame.head.recno)? {
                Found::Frame(found) if found <= recno => {}
                _ => return Ok(place),
            }
        }
    }

    /// Remembers where `frames` stand, if that is far from what was noted.
    pub(super) fn note(&self, frames: &Frames) {
        let segment = frames.segment();
        let mut places = self.places.lock();
        let places = places.entry(segment.head.first).or_default();
        let noted = places.last().map_or(segment.start(), |place| place.offset);
        if frames.offset() >= noted + NOTED_BYTES {
            places.push(Place { offset: frames.offset(), chain: frames.chain() });
        }
    }
}

impl Log {
    /// A reader of this log, which sees each record once it was appended.
    pub fn reader(&self) -> Result<Reader, LogError> {
        Reader::of(self.directory().another()?)
    }
}

/// The record of a whole frame of `segment`.
pub(super) fn record_of(segment: &Segment, frame: &Frame<'_>) -> Result<Record, LogError> {
    frame.record().map_err(|cause| LogError::Unreadable {
        path: segment.path.clone(),
        offset: frame.offset,
        recno: frame.head.recno,
        cause,
    })
}
