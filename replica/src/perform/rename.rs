//! Another place for an object.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::record::Displaced;
use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Name, ObjectId, Place};
use rustix::fs::RenameFlags;

use super::Caller;
use crate::Error;
use crate::error::refused;
use crate::host;
use crate::index::{Entry, Local};
use crate::replica::Replica;

impl Replica {
    /// Renames as `renameat2` does, with NOREPLACE and EXCHANGE.
    pub fn rename(
        &self,
        caller: &Caller,
        (from, name): (ObjectId, &Name),
        (to, new_name): (ObjectId, &Name),
        flags: RenameFlags,
    ) -> Result<(), Error> {
        if flags.intersects(!(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)) {
            return Err(refused(libc::EINVAL));
        }
        let mut order = self.begin()?;
        let (from, to) = (self.parent_entry(from)?, self.parent_entry(to)?);
        let from_handle = self.directory(from.object)?;
        let to_handle = self.directory(to.object)?;
        let moved =
            self.meet_in_order(&mut order, from.object, name)?.ok_or_else(|| refused(libc::ENOENT))?.entry;
        let met = self.meet_in_order(&mut order, to.object, new_name)?;
        let there = met.as_ref().map(|met| met.entry.clone());
        let reach = there.as_deref().map(|there| self.reach_of_doomed(there)).transpose()?.flatten();
        there.as_deref().map_or(Ok(()), |there| self.ensure_told(there))?;
        let paths = (self.path_of(from.object, name)?, self.path_of(to.object, new_name)?);
        self.intend(&order, caller, None, &[(to.object, new_name), (from.object, name)])?;
        let doomed = met.filter(|met| flags.is_empty() && met.entry.object != moved.object);
        let kept = doomed.as_ref().and_then(|doomed| self.keep_replaced(doomed, to_handle.as_fd(), new_name));
        let done = host::rename(from_handle.as_fd(), name, to_handle.as_fd(), new_name, flags);
        if let Some(doomed) = doomed {
            self.replaced(kept, &doomed.entry, done.is_ok());
        }
        done?;
        if there.as_deref().is_some_and(|there| there.object == moved.object) {
            // Two names of one object: nothing happens, as POSIX has it.
            return Ok(());
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let displaced = match there.as_deref() {
            None => Displaced::Nothing,
            Some(there) if exchange => Displaced::Exchanged {
                object: there.object,
                attributes: self.moved_step(there, from_handle.as_fd(), name)?,
            },
            Some(there) => Displaced::Replaced(Box::new(self.removed(there, reach.as_ref())?)),
        };
        let from_parent = self.parent_step(&from, from_handle.as_fd())?;
        let to_parent =
            if from.object == to.object { from_parent } else { self.parent_step(&to, to_handle.as_fd())? };
        let change = Change::Rename {
            object: moved.object,
            attributes: self.moved_step(&moved, to_handle.as_fd(), new_name)?,
            from: Place::new(from.object, name.clone()),
            from_path: paths.0,
            from_parent,
            to: Place::new(to.object, new_name.clone()),
            to_path: paths.1,
            to_parent,
            displaced,
        };
        let local = self.local_of_replaced(there.as_deref().filter(|_| !exchange), reach);
        self.commit(&mut order, caller, change, local)?;
        Ok(())
    }

    fn local_of_replaced(&self, replaced: Option<&Entry>, reach: Option<Arc<OwnedFd>>) -> Local {
        replaced.map_or_else(Local::default, |replaced| self.kept_if_open(replaced, reach))
    }

    /// The attributes of an object before, and after it came to its new place.
    pub(crate) fn moved_step(
        &self,
        moved: &Entry,
        directory: BorrowedFd<'_>,
        name: &Name,
    ) -> Result<Step<Attributes>, Error> {
        let stat = host::stat_entry(directory, name)?;
        let after = self.told_after(moved, &stat, moved.attributes().links);
        Ok(Step::new(*moved.attributes(), after))
    }
}
