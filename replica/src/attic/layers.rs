//! Versions that are kept by ranges while their files are written.
//!
//! A version's ranges are told against the version that was recorded when nobody wrote to the file any more, or against the
//! file itself until then. So versions of a file form a chain that ends in the tree, or in a file that the attic has whole.
//! A version whose chain is broken is given up: what is here is right, or not here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::ObjectId;
use mezzo_core::id::DataVersion;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::blocks::Blocks;
use super::ranges::{Head, State, Writer};
use super::{Attic, Form, UNFINISHED};
use crate::Error;
use crate::host;
use crate::host::now;
use crate::index::Entry;
use crate::replica::Replica;

/// Bytes that are kept at once where a file is written from front to back, so that the next writes need not wait.
const AHEAD: u64 = 256 << 10;

/// Bytes of which it is looked at together whether they are kept.
const PIECE: u64 = 64 << 20;

/// When ranges that are written no more are put on disk, and a power loss takes nothing of them. By then Linux has written
/// them by itself, so that this costs next to nothing.
const SETTLES_AFTER: Duration = Duration::from_secs(70);

/// How much later than noted a file may have been written: the note is a second old at most, and a write takes its time.
pub(crate) const NOTED_WITHIN_SECONDS: i64 = 5;

/// What is known of versions that are kept by ranges.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// Those of files that are being written.
    open: Mutex<HashMap<ObjectId, Arc<Mutex<Option<Layer>>>>>,
    /// Those that are written no more, by what they are told against.
    against: Mutex<HashMap<DataVersion, Vec<DataVersion>>>,
    /// Those that a power loss would take, and since when they are written no more.
    settling: Mutex<Vec<(Instant, DataVersion)>>,
    /// Those that were found open, as the program ended before their files were closed.
    found: Mutex<Vec<Head>>,
}

/// A version that is kept by ranges, and whose file is being written.
#[derive(Debug)]
struct Layer {
    head: Head,
    from: OwnedFd,
    writer: Writer,
    kept: Blocks,
    /// Where the last range ended.
    last: u64,
}

impl Layers {
    fn get(&self, object: ObjectId) -> Option<Arc<Mutex<Option<Layer>>>> {
        self.open.lock().get(&object).cloned()
    }

    /// The version of the file that is being kept by ranges.
    pub fn version(&self, object: ObjectId) -> Option<DataVersion> {
        self.get(object)?.lock().as_ref().map(|layer| layer.head.version)
    }

    /// Keeps nothing more of the version. The place stays, for those who write: their file is as it was.
    pub fn forget(&self, version: DataVersion) {
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        for layer in open {
            layer.lock().take_if(|layer| layer.head.version == version);
        }
    }

    fn take(&self, object: ObjectId) -> Option<Layer> {
        let layer = self.open.lock().remove(&object)?;
        layer.lock().take()
    }

    /// Versions that are told against this one, and mean nothing without it.
    pub fn against(&self, version: DataVersion) -> Vec<DataVersion> {
        self.against.lock().remove(&version).unwrap_or_default()
    }

    /// Whether there are such.
    pub fn is_told_against(&self, version: DataVersion) -> bool {
        self.against.lock().contains_key(&version)
    }

    fn ended(&self, head: &Head) {
        if let State::Against { version, .. } = head.state {
            self.against.lock().entry(version).or_default().push(head.version);
        }
    }
}

impl Layer {
    /// Keeps what the version has in `bytes`, as far as that is not kept yet. Fails where that would be more than `most`.
    fn keep(&mut self, bytes: Range<u64>, most: u64) -> io::Result<()> {
        let (size, before) = (self.head.size, self.writer.entries);
        let mut wanted = bytes.start.min(size)..bytes.end.min(size);
        let piece = most.min(PIECE);
        while let Some(run) = self.kept.missing(wanted.clone(), piece) {
            if self.writer.entries - before > most {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if run.start == self.last {
                wanted.end = wanted.end.max(run.start + AHEAD).min(size);
            }
            let run = run.start
                ..self.kept.missing(run.start..wanted.end, piece).map_or(run.end, |run| run.end).min(size);
            self.writer.keep(self.from.as_fd(), run.clone())?;
            self.kept.add(run.clone());
            self.last = run.end;
        }
        self.note()
    }

    /// Notes that the file is written about now, once a second.
    fn note(&mut self) -> io::Result<()> {
        let now = now().seconds;
        if now == self.head.written {
            return Ok(());
        }
        self.head.written = now;
        self.head.write(&self.writer.file)
    }
}

impl Attic {
    /// Looks for versions that are kept by ranges.
    pub(super) fn find_layers(&self) -> io::Result<()> {
        for (name, _, _) in host::entries(&self.directory)? {
            let Some((version, Form::Ranges)) = Form::of(&name) else { continue };
            let head = Head::read(&self.open_ranges(version, OFlags::RDONLY)?)?;
            let Some(head) = head.filter(|head| head.version == version) else {
                let _ = self.remove(version);
                continue;
            };
            self.layers.ended(&head);
            if head.state == State::Open {
                self.layers.found.lock().push(head);
            } else if head.state.settles() {
                self.layers.settling.lock().push((Instant::now(), version));
            }
        }
        Ok(())
    }

    /// The size of a version that is kept by ranges.
    pub(super) fn size_by_ranges(&self, version: DataVersion) -> io::Result<Option<u64>> {
        Ok(Head::read(&self.open_ranges(version, OFlags::RDONLY)?)?.map(|head| head.size))
    }

    fn open_ranges(&self, version: DataVersion, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, Form::Ranges.name(version), flags, Mode::empty())?.into())
    }
}

impl Replica {
    /// Begins to keep `entry`'s version by ranges. From now on [`Replica::before_change`] is called before each change of the
    /// file's bytes. The caller holds the order, nobody writes, and the file is as the log says.
    pub(super) fn begin_ranges(&self, entry: &Entry, version: DataVersion) -> io::Result<()> {
        let error = |error: Error| io::Error::from_raw_os_error(error.errno());
        let from = self.open_data(entry.object, OFlags::RDONLY | OFlags::NOATIME).map_err(error)?;
        let attic = self.attic.directory.as_fd();
        let file = File::from(self.attic.begin_unfinished()?);
        let (object, size) = (entry.object, entry.attributes().size);
        let head = Head { object, version, size, written: now().seconds, state: State::Open, entries: 0 };
        head.write(&file)?;
        rustix::fs::renameat(attic, UNFINISHED, attic, Form::Ranges.name(version))?;
        let layer = Layer { head, from, writer: Writer::new(file), kept: Blocks::default(), last: u64::MAX };
        self.attic.layers.open.lock().insert(object, Arc::new(Mutex::new(Some(layer))));
        self.note_kept(version, self.attic.bytes_of(version));
        Ok(())
    }

    /// Called before bytes of a file change in this range: where they are of a version that is kept by ranges, they are kept
    /// now. Where that fails, the version is given up, and the change can go on.
    pub fn before_change(&self, object: ObjectId, bytes: Range<u64>) {
        let Some(layer) = self.attic.layers.get(object) else { return };
        let most = self.attic.policy.at_once();
        let keep = || match layer.lock().as_mut() {
            Some(open) if open.writer.entries > self.attic.policy.max_bytes => {
                Err(Error::Host(io::ErrorKind::FileTooLarge.into()))
            }
            Some(open) => Ok(open.keep(bytes.clone(), most)?),
            None => Ok(()),
        };
        if self.making_room(keep).is_ok() {
            return;
        }
        let version = layer.lock().as_ref().map(|layer| layer.head.version);
        if let Some(Err(error)) = version.map(|version| self.give_up(version)) {
            crate::say!("mezzo: {error}");
        }
    }

    /// Called when nobody writes to a file any more, and what was written is recorded. Where nothing was, nothing is kept.
    pub(crate) fn end_ranges(&self, entry: &Entry) {
        let Some(layer) = self.attic.layers.take(entry.object) else { return };
        let version = layer.head.version;
        let done = match entry.version() {
            Some(after) if after != version => {
                let alone = layer.kept.are_all_of(layer.head.size);
                let against = State::Against { version: after, durable: false };
                self.end_layer(layer, if alone { State::Alone { durable: false } } else { against })
            }
            _ => self.unkeep(version),
        };
        if done.is_err() {
            self.give_up_loudly(version);
        }
    }

    /// Called when nobody has a file open any more that has no name left.
    pub(crate) fn end_ranges_of_removed(&self, object: ObjectId) {
        let Some(layer) = self.attic.layers.take(object) else { return };
        let version = layer.head.version;
        let is_there = self.attic.has_form(version, Form::Removed);
        if !is_there || self.end_layer(layer, State::Removed { durable: false }).is_err() {
            self.give_up_loudly(version);
        }
    }

    fn end_layer(&self, layer: Layer, state: State) -> Result<(), Error> {
        let head = Head { state, entries: layer.writer.entries, ..layer.head };
        head.write(&layer.writer.file)?;
        drop(layer);
        self.attic.layers.ended(&head);
        self.attic.layers.settling.lock().push((Instant::now(), head.version));
        Ok(self.index.resize_kept(head.version, self.attic.bytes_of(head.version))?)
    }

    fn give_up_loudly(&self, version: DataVersion) {
        if let Err(error) = self.give_up(version) {
            crate::say!("mezzo: {error}");
        }
    }

    /// Whether a version of the file is being kept by ranges.
    pub(crate) fn has_ranges(&self, object: ObjectId) -> bool {
        self.attic.layers.version(object).is_some()
    }

    /// Sees to versions that are kept by ranges: how large they are, and that they outlast a power loss. Called from time to
    /// time.
    pub fn tend_ranges(&self) -> Result<(), Error> {
        let open: Vec<_> = self.attic.layers.open.lock().values().cloned().collect();
        for layer in open {
            let version = layer.lock().as_ref().map(|layer| layer.head.version);
            if let Some(version) = version {
                self.index.resize_kept(version, self.attic.bytes_of(version))?;
            }
        }
        let due = self
            .attic
            .layers
            .settling
            .lock()
            .first()
            .is_some_and(|(since, _)| since.elapsed() > SETTLES_AFTER);
        if due { self.settle_ranges() } else { Ok(()) }
    }

    fn settle_ranges(&self) -> Result<(), Error> {
        let settling = std::mem::take(&mut *self.attic.layers.settling.lock());
        crate::host::sync_all(self.fileset().root())?;
        self.ranges_are_durable(settling);
        Ok(())
    }

    /// Everything was synced: notes that no power loss takes what is kept by ranges, and written no more.
    pub(crate) fn all_is_durable(&self) {
        let settling = std::mem::take(&mut *self.attic.layers.settling.lock());
        self.ranges_are_durable(settling);
    }

    fn ranges_are_durable(&self, settling: Vec<(Instant, DataVersion)>) {
        for (_, version) in settling {
            // What was given up meanwhile is not there. Without the note it may be given up later, which is no harm.
            let Ok(file) = self.attic.open_ranges(version, OFlags::RDWR) else { continue };
            let Ok(Some(head)) = Head::read(&file) else { continue };
            let Some(state) = head.state.durable() else { continue };
            let _ = Head { state, ..head }.write(&file);
        }
    }

    /// Sees to what was kept by ranges when the last use ended, once what was in flight then is recorded.
    pub(crate) fn take_in_ranges(&self, power_lost: bool) -> Result<(), Error> {
        if power_lost {
            let settling = std::mem::take(&mut *self.attic.layers.settling.lock());
            settling.into_iter().try_for_each(|(_, version)| self.give_up(version))?;
        }
        let found = std::mem::take(&mut *self.attic.layers.found.lock());
        found.into_iter().try_for_each(|head| self.take_in_open(head, power_lost))
    }

    fn take_in_open(&self, head: Head, power_lost: bool) -> Result<(), Error> {
        let version = head.version;
        let entry = self.index.entry(head.object)?;
        let state = match entry.as_deref() {
            _ if power_lost => return self.give_up(version),
            Some(entry) if entry.version() == Some(version) => return self.unkeep(version),
            Some(entry)
                if entry.attributes().mtime.seconds <= head.written.saturating_add(NOTED_WITHIN_SECONDS) =>
            {
                // One that was emptied was kept in full before.
                let alone = entry.attributes().size == 0;
                let against = entry.version().map(|version| State::Against { version, durable: false });
                if alone { Some(State::Alone { durable: false }) } else { against }
            }
            // Somebody else has written to it, and what that took is not kept.
            Some(_) => None,
            None => self.attic.has_form(version, Form::Removed).then_some(State::Removed { durable: false }),
        };
        let Some(state) = state else { return self.give_up(version) };
        let file = self.attic.open_ranges(version, OFlags::RDWR)?;
        let entries = super::ranges::whole_entries(&file)?;
        let head = Head { state, entries, ..head };
        head.write(&file)?;
        self.attic.layers.ended(&head);
        self.attic.layers.settling.lock().push((Instant::now(), version));
        Ok(())
    }

    /// How many versions are kept by ranges.
    pub fn kept_by_ranges(&self) -> u64 {
        let names = host::entries(&self.attic.directory).unwrap_or_default();
        names.iter().filter(|(name, _, _)| matches!(Form::of(name), Some((_, Form::Ranges)))).count() as u64
    }
}
