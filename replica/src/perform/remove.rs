//! One name less: unlink and rmdir.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::record::Removed;
use mezzo_core::{Change, Kind, Name, ObjectId, Place, Time};

use super::Caller;
use crate::Error;
use crate::attic::Going;
use crate::error::refused;
use crate::host;
use crate::index::{Entry, Local};
use crate::replica::Replica;

impl Replica {
    /// Takes the name `name` in `parent` from what it stands for: an empty directory where `directory` is true, else
    /// anything else.
    pub fn remove(
        &self,
        caller: &Caller,
        parent: ObjectId,
        name: &Name,
        directory: bool,
    ) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        let parent = self.parent_entry(parent)?;
        let handle = self.directory(parent.object)?;
        let met =
            self.meet_in_order(&mut order, parent.object, name)?.ok_or_else(|| refused(libc::ENOENT))?;
        let doomed = &met.entry;
        let reach = self.reach_of_doomed(doomed)?;
        self.ensure_told(doomed)?;
        self.intend(&order, caller, None, &[(parent.object, name)])?;
        let going = if directory { Going::Remove } else { self.keep_removed(&met, handle.as_fd(), name)? };
        if going == Going::Remove {
            host::unlink(handle.as_fd(), name, directory)?;
        }
        let change = Change::Remove {
            removed: self.removed(doomed, reach.as_ref())?,
            place: Place::new(parent.object, name.clone()),
            path: self.path_of(parent.object, name)?,
            parent: self.parent_step(&parent, handle.as_fd())?,
        };
        self.commit(&mut order, caller, change, self.kept_if_open(doomed, reach))?;
        // Whoever removes something from a full host wants its room.
        if going == Going::Moved && self.is_host_full() { self.bound_attic() } else { Ok(()) }
    }

    /// A descriptor for what will be needed of an object after it lost a name: it has other names, or is open.
    pub(crate) fn reach_of_doomed(&self, doomed: &Entry) -> Result<Option<Arc<OwnedFd>>, Error> {
        let needed = doomed.attributes().links > 1 || self.opens.is_open(doomed.object);
        needed.then(|| self.reach(doomed)).transpose()
    }

    /// What a record tells of an object that just lost a name.
    pub(crate) fn removed(&self, doomed: &Entry, reach: Option<&Arc<OwnedFd>>) -> Result<Removed, Error> {
        let is_directory = doomed.attributes().kind == Kind::Directory;
        let links_left = if is_directory { 0 } else { doomed.attributes().links.saturating_sub(1) };
        let ctime_after = match reach {
            Some(reach) if links_left > 0 => host::stat(reach.as_fd())?.attributes.ctime,
            _ => Time::default(),
        };
        Ok(Removed { object: doomed.object, state: doomed.state.clone(), links_left, ctime_after })
    }

    /// What becomes of a removed object here: it is kept for those who have it open, else let go.
    pub(crate) fn kept_if_open(&self, doomed: &Entry, reach: Option<Arc<OwnedFd>>) -> Local {
        let last = doomed.attributes().kind == Kind::Directory || doomed.attributes().links <= 1;
        if !last {
            return Local::default();
        }
        self.directories.forget(doomed.object);
        let keep = self.opens.is_open(doomed.object);
        if let Some(reach) = reach.filter(|_| keep) {
            self.opens.keep_reach(doomed.object, reach, |_| true);
        }
        Local { host: None, keep }
    }
}
