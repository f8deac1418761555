//! Data of before, from the attic. It comes as another inode, so that nobody who has the file open sees a mixture, and what
//! it replaces goes to the attic in its stead.

use std::os::fd::{AsFd, BorrowedFd};

use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Data, DataVersion, Name, ObjectId, State};

use super::Audience;
use crate::Error;
use crate::host::{self, SetTime};
use crate::index::{Entry, Local};
use crate::meet::is_inode_of;
use crate::perform::with_links;
use crate::reintegrate::finish_but_data;
use crate::replica::Replica;

impl Replica {
    /// Moves a version out of the attic, to `name`.
    pub(super) fn take_from_attic(
        &self,
        (object, version): (ObjectId, DataVersion),
        directory: BorrowedFd<'_>,
        name: &Name,
    ) -> Result<(), Error> {
        self.make_whole(object, version)?;
        self.attic.give(version, directory, name)?;
        Ok(self.index.given_up(version)?)
    }

    /// Gives a file that nobody has open for writing the data that it had.
    pub(super) fn restore_data(
        &self,
        object: ObjectId,
        wanted: &Attributes,
        data: Data,
        size: u64,
        audience: &dyn Audience,
    ) -> Result<(Change, Local), Error> {
        let before = self.entry(object)?;
        let now = before.state.data.ok_or_else(|| Error::Undo(format!("{object} has no data")))?;
        // As it will be but for its bytes, so that under its name it is whole.
        let state = State { attributes: *wanted, ..before.state.clone() };
        let first = before.places.first().ok_or(Error::Gone)?;
        let directory = self.directory(first.parent)?;
        // Otherwise it has been exchanged before.
        if self.is_at(&before, directory.as_fd(), &first.name)? {
            // A file that is empty already was exchanged, and noted.
            if size == 0
                && (before.attributes().size == 0
                    || host::stat_entry(directory.as_fd(), &first.name)?.attributes.size > 0)
            {
                self.attic.make_empty(data.version)?;
            }
            self.make_whole(object, data.version)?;
            self.part_from_users(data.version)?;
        }
        let former = self.reach(&before)?;
        audience.inode_changes(object, &former, &mut || {
            self.exchange_data(&before, &state, (data.version, size))
        })?;
        let reach = host::open_entry(directory.as_fd(), &first.name)?;
        let after = with_links(&host::stat(reach.as_fd())?, before.attributes().links);
        if after.size != size {
            return Err(Error::Undo(format!("the data that is kept of {object} has another size")));
        }
        let change = Change::Close {
            object,
            path: self.index.path(object)?.into(),
            attributes: Step::new(*before.attributes(), after),
            data: Step::new(now, data),
            stable: true,
        };
        self.restore_places(&before.places)?;
        Ok((change, Local::default()))
    }

    /// Puts the attic's file of a version in the place of the object's at each of its names, as `state` has it but for its bytes.
    /// What it was goes to the attic.
    fn exchange_data(
        &self,
        before: &Entry,
        state: &State,
        (version, size): (DataVersion, u64),
    ) -> Result<(), Error> {
        let object = before.object;
        let (first, others) = before.places.split_first().ok_or(Error::Gone)?;
        let directory = self.directory(first.parent)?;
        let old = self.attic.file(version)?;
        let is_exchanged = match &old {
            Some(old) => is_inode_of(before, &host::stat(old.as_fd())?),
            None => true,
        };
        // After a power loss, what was kept may have lost its bytes or be gone. Then nothing is changed.
        let kept = match old.as_ref().filter(|_| !is_exchanged) {
            Some(old) => host::stat(old.as_fd())?,
            None => host::stat_entry(directory.as_fd(), &first.name)?,
        };
        if kept.attributes.size != size {
            return Err(Error::Undo(format!("the data that is kept of {object} has another size")));
        }
        if let Some(old) = old.as_ref().filter(|_| !is_exchanged) {
            finish_but_data(old.as_fd(), state, false)?;
            self.attic.exchange(version, directory.as_fd(), &first.name)?;
        }
        let reach = host::open_entry(directory.as_fd(), &first.name)?;
        for place in others {
            let directory = self.directory(place.parent)?;
            if self.is_at(before, directory.as_fd(), &place.name)? {
                self.attic.link_over(reach.as_fd(), directory.as_fd(), &place.name)?;
            }
        }
        if let (Some(replaced), Some(now)) = (self.attic.file(version)?, before.version()) {
            // What had its size only is not to be kept as if it had its bytes, and there is nothing to keep of what had none.
            if before.attributes().size == 0 || host::xattr::is_lost(replaced.as_fd()) {
                self.attic.discard(version)?;
            } else {
                self.attic.rename(version, now)?;
                self.note_kept(now, before.attributes().size);
            }
            self.index.given_up(version)?;
        }
        if is_exchanged {
            finish_but_data(reach.as_fd(), state, false)?;
        }
        let Attributes { atime, mtime, .. } = state.attributes;
        host::set_times(reach.as_fd(), SetTime::To(atime), SetTime::To(mtime))?;
        let host = self.note_host(object, reach.as_fd())?;
        let ctime = host::stat(reach.as_fd())?.attributes.ctime;
        self.index.met(object, Some(host), ctime)?;
        Ok(self.opens.another_inode(object)?)
    }

    /// To exchange a name moves the times of its directory, which no record tells of.
    fn restore_places(&self, places: &[mezzo_core::Place]) -> Result<(), Error> {
        for place in places {
            let entry = self.entry(place.parent)?;
            let directory = self.directory(place.parent)?;
            host::set_times(directory.as_fd(), SetTime::Omit, SetTime::To(entry.attributes().mtime))?;
            let ctime = host::stat(directory.as_fd())?.attributes.ctime;
            self.index.met(place.parent, None, ctime)?;
        }
        Ok(())
    }
}
