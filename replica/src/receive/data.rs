//! The data of records that are received: brought before the record is taken, or left, with a mark.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Data, DataVersion, ObjectId, Record, State};
use rustix::fs::OFlags;

use super::{Arriving, OnData, Taken, Wanted, data_of};
use crate::Error;
use crate::demand::partial::MOST;
use crate::demand::{Put, Stop, is_whole};
use crate::host::{self, SetTime, xattr};
use crate::index::Local;
use crate::perform::with_links;
use crate::reintegrate::finish_but_data;
use crate::replica::Replica;
use crate::undo::{Audience, innermost};

/// Bytes of a version from which on what came of it before an end is kept, to go on with.
const KEPT_FROM: u64 = 1 << 20;

/// Large files that are brought ahead at once: others are kept beside them.
const LARGE: usize = MOST / 4;

/// Where data may be had.
pub trait DataSource: Sync {
    /// Writes the bytes of a version. False where it has them not.
    fn bring(&self, sought: &Sought<'_>) -> io::Result<bool>;

    /// Whether the version is on this machine, so that others may wait while it is written.
    fn is_at_hand(&self, version: DataVersion) -> bool;
}

/// A version that is to be had, and where it is put.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    /// Whose data.
    pub object: ObjectId,
    /// Which.
    pub version: DataVersion,
    /// Its bytes.
    pub size: u64,
    /// Open for reading and writing. It has all bytes of the version afterwards and no more, if they were had.
    pub to: BorrowedFd<'a>,
    /// `to` has what an earlier attempt left, none of which is to be believed unseen; else it is empty, or what it has is of no use.
    pub is_partial: bool,
    /// Another version of the same file, which is here and may resemble it.
    pub older: Option<DataVersion>,
}

/// What came of filling files that were without their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Files that have them now.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that are still without.
    pub absent: u64,
}

impl Replica {
    /// Sees to the data that `change` gives a file: it is in the attic afterwards, or the file will be without.
    pub(super) fn bring(
        &self,
        change: &Change,
        on_data: OnData<'_>,
        wanted: &Wanted,
        taken: &mut Taken,
    ) -> Result<Arriving, Error> {
        let mut arriving = Arriving::default();
        let Some((object, data, attributes)) = data_of(change).filter(|(.., told)| told.size > 0) else {
            return Ok(arriving);
        };
        let size = attributes.size;
        // What is taken back there may be kept here.
        let is_here = match self.attic.file(data.version)? {
            Some(file) => {
                host::stat(file.as_fd())?.attributes.size == size && !self.is_marked(data.version)?
            }
            None => self.attic.has(data.version) && self.can_be_had(object, data.version)?,
        };
        let is_newest = wanted.newest.get(&object) == Some(&data.version);
        if let OnData::Bring(source) = on_data
            && is_newest
            && !is_here
        {
            let told = data.digest.or_else(|| wanted.digests.get(&data.version).copied());
            let told = Data { digest: told, ..data };
            let older = wanted.older.get(&object).copied();
            if self.bring_to_attic(object, (told, size), older, source)? {
                (taken.files, taken.bytes) = (taken.files + 1, taken.bytes + size);
                return Ok(arriving);
            }
        }
        if is_here {
            return Ok(arriving);
        }
        self.attic.bring(data.version, |to| {
            host::set_size(to, size)?;
            // Wherever a kill leaves it, it is never taken for the bytes.
            xattr::mark_lost(to, Some(attributes))?;
            Ok(true)
        })?;
        if matches!(innermost(change), Change::Make { .. }) {
            // It is made without what the attic has not got.
            self.attic.remove(data.version)?;
            arriving.without.insert(object);
        }
        if !matches!(on_data, OnData::Count) {
            arriving.marked.insert(object);
            taken.absent += u64::from(is_newest);
        }
        Ok(arriving)
    }

    /// Makes a version that `source` has a file of the attic, whole; false where it has it not.
    fn bring_to_attic(
        &self,
        object: ObjectId,
        (data, size): (Data, u64),
        older: Option<DataVersion>,
        source: &dyn DataSource,
    ) -> Result<bool, Error> {
        let version = data.version;
        let bring = |to: BorrowedFd<'_>, is_partial| {
            let sought = Sought { object, version, size, to, is_partial, older };
            Ok(source.bring(&sought)? && is_whole(to, size, data.digest)?)
        };
        if !is_large(source, data, size) {
            return Ok(self.attic.bring(version, |to| bring(to, false))?);
        }
        let partials = self.demand.partials();
        let partial = partials.begin(object, version)?;
        let to = partial.file.as_fd();
        let is_here = partials.is_whole(object, version) && host::stat(to)?.attributes.size == size;
        let is_brought = if is_here { Ok(true) } else { bring(to, partial.is_partial) };
        let is_brought = self.keep_or_end((object, version), is_brought)?;
        if is_brought {
            self.attic.take(version, partials.directory(), &partials.name(object, version))?;
            partials.set_whole(object, version, false);
        }
        Ok(is_brought)
    }

    /// Brings large data that `records` tell of, as far as `source` has it, to where it is found when they are received: as long
    /// as that takes, the records of others can be.
    pub fn bring_ahead(&self, records: &[Record], source: &dyn DataSource) -> Result<(), Error> {
        let wanted = self.wanted_of(records)?;
        for record in records.iter().filter(|record| !self.index.has_heard(record.origin)) {
            let Some((object, data, told)) = data_of(&record.change) else { continue };
            let (version, size) = (data.version, told.size);
            let is_newest = wanted.newest.get(&object) == Some(&version);
            if !is_newest || !is_large(source, data, size) || self.attic.has(version) {
                continue;
            }
            // Another may have the same brought.
            let _claim = self.demand.claim(object);
            let partials = self.demand.partials();
            if self.index.has_heard(record.origin) || partials.is_whole(object, version) {
                continue;
            }
            let digest = data.digest.or_else(|| wanted.digests.get(&version).copied());
            let partial = partials.begin(object, version)?;
            let (to, is_partial) = (partial.file.as_fd(), partial.is_partial);
            let older = wanted.older.get(&object).copied();
            let sought = Sought { object, version, size, to, is_partial, older };
            let is_brought = source.bring(&sought).and_then(|had| Ok(had && is_whole(to, size, digest)?));
            self.keep_or_end((object, version), is_brought)?;
        }
        Ok(())
    }

    /// Sees to what an attempt left.
    fn keep_or_end(
        &self,
        (object, version): (ObjectId, DataVersion),
        is_brought: io::Result<bool>,
    ) -> Result<bool, Error> {
        let partials = self.demand.partials();
        match is_brought {
            Ok(true) => partials.set_whole(object, version, true),
            Ok(false) => partials.end(object, version)?,
            // What takes room that is wanted is not kept.
            Err(ref error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                partials.end(object, version)?;
            }
            Err(_) => {}
        }
        Ok(is_brought?)
    }

    /// What is noted of the data that `records` tell of.
    pub(super) fn wanted_of(&self, records: &[Record]) -> Result<Wanted, Error> {
        let mut wanted = Wanted::of(records);
        for (object, _, told) in records.iter().filter_map(|record| data_of(&record.change)) {
            if told.size >= KEPT_FROM
                && let Some(entry) = self.index.entry(object)?.filter(|entry| !entry.lost)
                && let Some(version) = entry.version().filter(|_| entry.attributes().size > 0)
            {
                wanted.older.insert(object, version);
            }
        }
        Ok(wanted)
    }

    /// What was brought of a record that was begun. Where the attic has not got it, it is in its place, or was being written there.
    pub(super) fn brought(
        &self,
        change: &Change,
        wanted: &Wanted,
        taken: &mut Taken,
    ) -> Result<Arriving, Error> {
        let mut arriving = Arriving { is_begun: true, ..Arriving::default() };
        let Some((object, data, told)) = data_of(change) else { return Ok(arriving) };
        if self.attic.has(data.version) {
            return Ok(arriving);
        }
        if matches!(innermost(change), Change::Make { .. }) {
            arriving.without.insert(object);
        } else if let Some(entry) = self.index.entry(object)?
            && let Some(place) = entry.places.first()
        {
            let directory = self.directory(place.parent)?;
            let here = self.stat_if_there(directory.as_fd(), &place.name)?;
            if here.is_some_and(|here| here.attributes.size != told.size) {
                return self.bring(change, OnData::Absent, wanted, taken);
            }
        }
        Ok(arriving)
    }

    /// Where the data of a record comes from that can be written to its file as it is: an empty one, which nobody can have open.
    pub(super) fn in_place<'a>(
        &self,
        change: &Change,
        on_data: OnData<'a>,
        wanted: &Wanted,
        audience: &dyn Audience,
    ) -> Option<&'a dyn DataSource> {
        let OnData::Bring(source) = on_data else { return None };
        let (object, data, told) = data_of(change)?;
        let is_newest = wanted.newest.get(&object) == Some(&data.version);
        let entry = self.index.entry(object).ok()??;
        let is_empty = entry.attributes().size == 0 && !entry.lost && !self.is_nameless(&entry);
        // The order is held while it is written.
        let is_at_hand = source.is_at_hand(data.version);
        (is_newest && told.size > 0 && is_at_hand && is_empty && !audience.has_users()).then_some(source)
    }

    /// Writes a version to a file that is empty; `None` where the source has it not, and the file is as it was.
    pub(super) fn write_in_place(
        &self,
        object: ObjectId,
        wanted: &Attributes,
        (data, size): (Data, u64),
        source: &dyn DataSource,
    ) -> Result<Option<(Change, Local)>, Error> {
        let before = self.entry(object)?;
        let now = before.state.data.ok_or_else(|| Error::Undo(format!("{object} has no data")))?;
        let reach = self.reach(&before)?;
        let to = host::reopen(reach.as_fd(), OFlags::RDWR)?;
        let (version, to_fd) = (data.version, to.as_fd());
        let sought = Sought { object, version, size, to: to_fd, is_partial: false, older: None };
        let brought = source.bring(&sought);
        let is_brought = brought.and_then(|had| Ok(had && is_whole(to.as_fd(), size, data.digest)?));
        if !matches!(is_brought, Ok(true)) {
            let told = before.attributes();
            host::set_size(to.as_fd(), 0)?;
            host::set_times(reach.as_fd(), SetTime::To(told.atime), SetTime::To(told.mtime))?;
            self.index.met(object, None, host::stat(reach.as_fd())?.attributes.ctime)?;
            return Ok(is_brought.map(|_| None)?);
        }
        finish_but_data(reach.as_fd(), &State { attributes: *wanted, ..before.state.clone() }, true)?;
        let after = with_links(&host::stat(reach.as_fd())?, before.attributes().links);
        let change = Change::Close {
            object,
            path: Box::default(),
            attributes: Step::new(*before.attributes(), after),
            data: Step::new(now, data),
            stable: true,
        };
        Ok(Some((change, Local::default())))
    }

    /// Whether what the attic has of a version is its size alone.
    fn is_marked(&self, version: DataVersion) -> Result<bool, Error> {
        Ok(self.attic.file(version)?.is_some_and(|file| xattr::is_lost(file.as_fd())))
    }

    /// Brings the bytes of files that are without them, as far as `source` has them.
    pub fn fill(&self, objects: &[ObjectId], source: &dyn DataSource) -> Result<Filled, Error> {
        let _one_at_a_time = self.receiving.lock();
        let mut filled = Filled::default();
        let mut whole = Vec::new();
        for object in objects {
            let is_absent = self.index.entry(*object)?.is_some_and(|entry| entry.lost);
            match if is_absent { self.fill_one(*object, source)? } else { continue } {
                Some((version, bytes)) => {
                    whole.push((*object, version));
                    (filled.files, filled.bytes) = (filled.files + 1, filled.bytes + bytes);
                }
                None => filled.absent += 1,
            }
        }
        if !whole.is_empty() {
            // The marks stay until all bytes are durable.
            crate::host::sync_all(self.fileset().root())?;
        }
        for (object, version) in whole {
            self.settle_put((object, version))?;
        }
        Ok(filled)
    }

    /// Puts the bytes into a file that is marked still. Returns the version and how many.
    fn fill_one(
        &self,
        object: ObjectId,
        source: &dyn DataSource,
    ) -> Result<Option<(DataVersion, u64)>, Error> {
        // Else somebody brings it already, from elsewhere.
        let Some(_claim) = self.demand.try_claim(object) else { return Ok(None) };
        let entry = self.entry(object)?;
        let (Some(data), size) = (entry.state.data, entry.attributes().size) else { return Ok(None) };
        let brought = self.bring_to_attic(object, (data, size), None, source)?;
        let Some(file) = self.attic.file(data.version)?.filter(|_| brought) else { return Ok(None) };
        let from = host::reopen(file.as_fd(), OFlags::RDONLY)?;
        let put = self.put_bytes((object, data.version), size, from.as_fd(), &Stop::default());
        self.attic.remove(data.version)?;
        Ok((put? == Put::Done).then_some((data.version, size)))
    }
}

/// Whether what came of a version before an end is kept, to go on with.
fn is_large(source: &dyn DataSource, data: Data, size: u64) -> bool {
    size >= KEPT_FROM && !source.is_at_hand(data.version)
}

/// Parts of `records` that tell of so few large files each that what comes of them ahead is kept until they are received.
pub(crate) fn with_few_large(records: &[Record]) -> Vec<&[Record]> {
    let mut parts = Vec::new();
    let (mut from, mut large) = (0, 0);
    for (at, record) in records.iter().enumerate() {
        large += usize::from(data_of(&record.change).is_some_and(|(.., told)| told.size >= KEPT_FROM));
        if large > LARGE {
            parts.push(&records[from..at]);
            (from, large) = (at, 1);
        }
    }
    parts.push(&records[from..]);
    parts
}
