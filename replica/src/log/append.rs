//! The one writer of a log.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mezzo_core::codec::{Chain, FrameError, MINOR, OutOfOrder, SegmentHead, encode};
use mezzo_core::{Recno, Record, ReplicaId};

use crate::host::now;
use parking_lot::{Mutex, MutexGuard};

use super::SEGMENT_BYTES;
use super::commit::Commit;
use super::error::LogError;
use super::frames::{Found, Frames};
use super::room::{RESERVE_BYTES, Room};
use super::segment::{Access, Directory, Segment};
use super::torn;

/// A log that records are appended to. There must be one for a directory, in one process: whoever opens it holds the
/// fileset's lock, and calls `append` in the order of the records. Everything else may be called by any thread.
#[derive(Debug)]
pub struct Log {
    directory: Directory,
    writer: Mutex<Writer>,
    commit: Commit,
    /// Whether what is allocated ahead stays when the log is closed.
    keeps_room: AtomicBool,
    /// A write or sync failed and nobody knows what the host has of it.
    failed: AtomicBool,
    pub(super) segment_bytes: u64,
}

/// What was found when a log was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The last record; 0 where there is none.
    pub last: Recno,
    /// The last record's epoch, or the one the log was created with.
    pub epoch: u32,
    /// How the log ended.
    pub tail: Tail,
}

/// How a log ended when it was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record.
    Clean,
    /// With bytes that are no whole record, as a crash leaves them. They were cut off.
    Torn {
        /// Where they began in the last segment.
        offset: u64,
        /// How many there were.
        bytes: u64,
        /// What was wrong with them.
        cause: FrameError,
        /// The file that they are kept in.
        kept: PathBuf,
    },
}

#[derive(Debug)]
struct Writer {
    segment: Arc<Segment>,
    /// Bytes of the segment.
    bytes: u64,
    /// Bytes of all segments before it.
    bytes_before: u64,
    room: Room,
    chain: Chain,
    buffer: Vec<u8>,
}

impl Log {
    /// Makes a log in `directory`, which must exist and hold none: no record yet, and `epoch` to begin with. It is
    /// durable when this returns.
    pub fn create(
        directory: &Path,
        fileset: [u8; 16],
        replica: ReplicaId,
        epoch: u32,
    ) -> Result<Log, LogError> {
        let directory = Directory::open(directory)?;
        if !directory.segments()?.is_empty() {
            return Err(LogError::Exists(directory.path));
        }
        let head = SegmentHead::new(fileset, replica, epoch, Recno::NONE, now());
        let segment = directory.begin_segment(head)?;
        let (bytes, chain) = (segment.start(), segment.chain());
        Ok(Log::with(directory, Writer::new(segment, bytes, 0, chain)))
    }

    /// Opens the log in `directory` to go on. Reads its last segment only; a torn record at its end is cut off.
    pub fn open(directory: &Path) -> Result<(Log, Opened), LogError> {
        let directory = Directory::open(directory)?;
        directory.remove_unfinished()?;
        let segments = directory.segments()?;
        let Some((last, before)) = segments.split_last() else { return Err(LogError::None(directory.path)) };
        let segment = directory.open_segment(*last, Access::Write)?;
        if segment.head.minor > MINOR {
            return Err(LogError::Newer { path: segment.path.clone(), minor: segment.head.minor });
        }
        let (frames, tail) = find_end(&directory, &segment)?;
        let (bytes, chain) = (frames.offset(), frames.chain());
        let bytes_before = before.iter().try_fold(0, |sum, first| {
            Ok::<_, LogError>(sum + directory.open_segment(*first, Access::Read)?.bytes()?)
        })?;
        let log = Log::with(directory, Writer::new(segment, bytes, bytes_before, chain));
        Ok((log, Opened { last: chain.last, epoch: chain.epoch, tail }))
    }

    fn with(directory: Directory, writer: Writer) -> Log {
        // What is in the last segment may be in the host's memory only, also when another process wrote it.
        let durable = writer.segment.head.previous;
        Log {
            directory,
            writer: Mutex::new(writer),
            commit: Commit::new(durable),
            keeps_room: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// Appends `record`, which has to follow the last one. When this returns, the record outlives this process, but
    /// not the machine: see [`Log::sync`]. On an error the log is as it was.
    pub fn append(&self, record: &Record) -> Result<(), LogError> {
        let mut writer = self.writer()?;
        let mut chain = writer.chain;
        chain.take(record.recno, record.previous, record.epoch)?;
        let mut buffer = std::mem::take(&mut writer.buffer);
        buffer.clear();
        let result = encode(record, &mut buffer)
            .map_err(|cause| LogError::Refused { recno: record.recno, cause })
            .and_then(|()| self.append_bytes(&mut writer, &buffer));
        writer.buffer = buffer;
        result?;
        writer.chain = chain;
        Ok(())
    }

    fn append_bytes(&self, writer: &mut Writer, bytes: &[u8]) -> Result<(), LogError> {
        self.make_room(writer, bytes.len() as u64)?;
        let written = writer.segment.file.write_all_at(bytes, writer.bytes);
        if written.is_err() {
            self.take_back(writer);
        }
        written.map_err(LogError::io("append to", &writer.segment.path))?;
        writer.bytes += bytes.len() as u64;
        // Where there is no room ahead, `ensure_room` says so before the next operation.
        let _ = writer.room.reach(&writer.segment.file, writer.bytes + RESERVE_BYTES);
        Ok(())
    }

    /// Cuts off what was written of a record.
    fn take_back(&self, writer: &mut Writer) {
        writer.room.shrink(writer.bytes);
        if writer.segment.file.set_len(writer.bytes).is_err() {
            self.failed.store(true, Ordering::Release);
        }
    }

    /// Makes sure that the next records, of `bytes` altogether, can be appended without the host running out of room:
    /// called before an operation is done, so that it fails early ([`LogError::is_no_room`]) where its record would
    /// not fit. A host that can't allocate ahead gives no such promise.
    pub fn ensure_room(&self, bytes: u64) -> Result<(), LogError> {
        self.make_room(&mut *self.writer()?, bytes)
    }

    fn make_room(&self, writer: &mut Writer, bytes: u64) -> Result<(), LogError> {
        let is_begun = writer.bytes > writer.segment.start();
        if is_begun && writer.bytes + bytes > self.segment_bytes {
            self.roll_over(writer)?;
        }
        let end = writer.bytes + bytes;
        let Writer { segment, room, .. } = writer;
        room.reach(&segment.file, end).map_err(LogError::io("make room in", &segment.path))
    }

    /// Begins the next segment.
    fn roll_over(&self, writer: &mut Writer) -> Result<(), LogError> {
        let (replica, epoch) = (writer.segment.head.replica, writer.chain.epoch);
        self.begin_segment(writer, replica, epoch)
    }

    /// Begins a segment that is of another replica and epoch: what is appended from now on is theirs. It is durable when
    /// this returns.
    pub fn begin_epoch(&self, replica: ReplicaId, epoch: u32) -> Result<(), LogError> {
        let mut writer = self.writer()?;
        let Chain { last, epoch: found } = writer.chain;
        if epoch <= found {
            return Err(OutOfOrder::Epoch { recno: last.next(), last: found, found: epoch }.into());
        }
        self.begin_segment(&mut writer, replica, epoch)
    }

    /// The old segment is made durable first, so that only the last one can be torn. One without a record is replaced.
    fn begin_segment(&self, writer: &mut Writer, replica: ReplicaId, epoch: u32) -> Result<(), LogError> {
        self.sync_file(&writer.segment)?;
        self.commit.advance(writer.chain.last);
        writer.give_back_room();
        let Chain { last, .. } = writer.chain;
        let head = SegmentHead::new(writer.segment.head.fileset, replica, epoch, last, now());
        let segment = self.directory.begin_segment(head)?;
        let is_replaced = segment.head.first == writer.segment.head.first;
        let bytes_before = writer.bytes_before + if is_replaced { 0 } else { writer.bytes };
        let (bytes, chain) = (segment.start(), Chain { last, epoch });
        let buffer = std::mem::take(&mut writer.buffer);
        *writer = Writer { buffer, ..Writer::new(segment, bytes, bytes_before, chain) };
        Ok(())
    }

    /// Makes every record appended so far durable, and tells up to which that is. Callers at the same time share one
    /// sync of the host. After a failure the log takes nothing any more: the host may have dropped what it could not
    /// write, and a later sync would not tell.
    pub fn sync(&self) -> Result<Recno, LogError> {
        let target = self.last();
        self.commit.reach(target, || {
            let (segment, last) = {
                let writer = self.writer()?;
                (writer.segment.clone(), writer.chain.last)
            };
            self.sync_file(&segment)?;
            Ok(last)
        })
    }

    fn sync_file(&self, segment: &Segment) -> Result<(), LogError> {
        let synced = segment.file.sync_data();
        if synced.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        synced.map_err(LogError::io("sync", &segment.path))
    }

    /// Whether a write or a sync failed so that nobody knows what is durable.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Leaves what is allocated ahead allocated when the log is closed, for a host that is full.
    pub fn keep_room(&self) {
        self.keeps_room.store(true, Ordering::Release);
    }

    /// The number that the next record should have.
    pub fn next_recno(&self) -> Recno {
        self.last().next()
    }

    /// The last record's number; 0 where there is none.
    pub fn last(&self) -> Recno {
        self.writer.lock().chain.last
    }

    /// The last record's epoch, or the one the log was created with.
    pub fn epoch(&self) -> u32 {
        self.writer.lock().chain.epoch
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        let writer = self.writer.lock();
        writer.bytes_before + writer.bytes
    }

    /// The fileset's id.
    pub fn fileset(&self) -> [u8; 16] {
        self.writer.lock().segment.head.fileset
    }

    /// The replica whose log it is now.
    pub fn replica(&self) -> ReplicaId {
        self.writer.lock().segment.head.replica
    }

    /// As on a host that can't allocate ahead.
    #[cfg(test)]
    pub(super) fn forget_room(&self) {
        self.writer.lock().room = Room::Unknown;
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, LogError> {
        let writer = self.writer.lock();
        match self.failed.load(Ordering::Acquire) {
            true => Err(LogError::Failed(self.directory.path.clone())),
            false => Ok(writer),
        }
    }
}

/// Blocks that were allocated ahead go back to the host.
impl Drop for Log {
    fn drop(&mut self) {
        if !self.failed.load(Ordering::Acquire) && !self.keeps_room.load(Ordering::Acquire) {
            self.writer.get_mut().give_back_room();
        }
    }
}

impl Writer {
    fn new(segment: Arc<Segment>, bytes: u64, bytes_before: u64, chain: Chain) -> Writer {
        Writer { segment, bytes, bytes_before, room: Room::Until(bytes), chain, buffer: Vec::new() }
    }

    fn give_back_room(&mut self) {
        // It costs only room where this fails.
        let _ = self.segment.file.set_len(self.bytes);
        self.room.shrink(self.bytes);
    }
}

/// Reads a segment to its end, and cuts off a torn record there.
fn find_end(directory: &Directory, segment: &Arc<Segment>) -> Result<(Frames, Tail), LogError> {
    let mut frames = Frames::new(segment.clone());
    loop {
        match frames.next(|_| ())? {
            Found::Frame(()) => {}
            Found::End => return Ok((frames, Tail::Clean)),
            Found::Torn { offset, bytes, cause } => {
                let kept = torn::cut(directory, segment, frames.chain().last.next(), offset)?;
                return Ok((frames, Tail::Torn { offset, bytes, cause, kept }));
            }
        }
    }
}
