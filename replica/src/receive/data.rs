//! The data of records that are received: brought before the record is taken, or left, with a mark.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Data, DataVersion, ObjectId, State};
use rustix::fs::OFlags;

use super::{Arriving, OnData, Taken, Wanted, data_of};
use crate::Error;
use crate::demand::{Put, Stop, is_whole};
use crate::host::{self, SetTime, xattr};
use crate::index::Local;
use crate::perform::with_links;
use crate::reintegrate::finish_but_data;
use crate::replica::Replica;
use crate::undo::{Audience, innermost};

/// Where data may be had.
pub trait DataSource: Sync {
    /// Writes the `size` bytes of a version to `to`, an empty file. False where it has them not.
    fn bring(
        &self,
        object: ObjectId,
        version: DataVersion,
        size: u64,
        to: BorrowedFd<'_>,
    ) -> io::Result<bool>;
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
            let brought = self.attic.bring(data.version, |to| {
                Ok(source.bring(object, data.version, size, to)? && is_whole(to, size, told)?)
            })?;
            if brought {
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
        (is_newest && told.size > 0 && is_empty && !audience.has_users()).then_some(source)
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
        let brought = source.bring(object, data.version, size, to.as_fd());
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
        let brought = self.attic.bring(data.version, |to| {
            Ok(source.bring(object, data.version, size, to)? && is_whole(to, size, data.digest)?)
        })?;
        let Some(file) = self.attic.file(data.version)?.filter(|_| brought) else { return Ok(None) };
        let from = host::reopen(file.as_fd(), OFlags::RDONLY)?;
        let put = self.put_bytes((object, data.version), size, from.as_fd(), &Stop::default());
        self.attic.remove(data.version)?;
        Ok((put? == Put::Done).then_some((data.version, size)))
    }
}
