//! Meeting objects on the host: what stands there against what the index says.
//!
//! The way without the order is the usual one: host and index agree. Where they don't, either a change is on its way,
//! or the host was changed behind the mount; with the order in hand only the second can be, and it is taken in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::{Attributes, Name, ObjectId};

use crate::host::{self, HostId, Stat, xattr};
use crate::index::Entry;
use crate::replica::{Order, Replica};
use crate::{Error, error};

/// An object as index and host have it.
#[derive(Clone, Debug)]
pub struct Met {
    /// What the log says.
    pub entry: Arc<Entry>,
    /// What the host has.
    pub stat: Stat,
}

impl Met {
    /// What a user sees: the host's attributes, with the link count of the log, and with its ctime as long as the
    /// host's is the one that belongs to it.
    pub fn shown(&self) -> Attributes {
        let mut shown = self.stat.attributes;
        shown.links = self.entry.attributes().links;
        if self.is_current() {
            shown.ctime = self.entry.attributes().ctime;
        }
        if self.entry.absent {
            // While its bytes are brought, the host has other times.
            (shown.mtime, shown.ctime) = (self.entry.attributes().mtime, self.entry.attributes().ctime);
        }
        shown
    }

    /// Whether nothing has changed on the host since the last record. The size is looked at too: after a power loss a
    /// host may have an inode's new times, and not yet its bytes.
    pub fn is_current(&self) -> bool {
        let (here, told) = (&self.stat.attributes, self.entry.attributes());
        here.ctime == self.entry.host_ctime && here.size == told.size
    }

    pub(crate) fn is_same_inode(&self) -> bool {
        is_inode_of(&self.entry, &self.stat)
    }
}

/// Whether the inode that was found is the one that the entry tells of.
pub(crate) fn is_inode_of(entry: &Entry, stat: &Stat) -> bool {
    entry.host.as_ref().is_some_and(|host| host.inode == stat.inode && host.born == stat.born)
        && entry.attributes().kind == stat.attributes.kind
}

impl Replica {
    /// The entry's stat; `None` where the host has no such name. EBUSY where something is mounted there and could not be
    /// left out of sight (see [`host::without_mounts`]): what it covers can't be looked at.
    pub(crate) fn stat_if_there(
        &self,
        directory: BorrowedFd<'_>,
        name: &Name,
    ) -> Result<Option<Stat>, Error> {
        match host::stat_entry(directory, name) {
            Ok(stat) if stat.mount != self.mount => Err(error::refused(libc::EBUSY)),
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands at `name` in `parent`; `None` where nothing does.
    pub fn meet(&self, parent: ObjectId, name: &Name) -> Result<Option<Met>, Error> {
        let directory = self.directory(parent)?;
        let stat = self.stat_if_there(directory.as_fd(), name)?;
        match (stat, self.index.child(parent, name)?) {
            (None, None) => return Ok(None),
            (Some(stat), Some(object)) => {
                if let Some(entry) = self.index.entry(object)? {
                    let met = Met { entry, stat };
                    if met.is_same_inode() && (met.is_current() || self.opens.writers(object) > 0) {
                        return Ok(Some(met));
                    }
                }
            }
            _ => {}
        }
        let mut order = self.begin_when_full()?;
        self.meet_in_order(&mut order, parent, name)
    }

    /// The object `object` as it is now.
    pub fn observe(&self, object: ObjectId) -> Result<Met, Error> {
        let met = self.look(object)?;
        if met.is_current() || self.opens.writers(object) > 0 || self.is_nameless(&met.entry) {
            return Ok(met);
        }
        let mut order = self.begin_when_full()?;
        self.observe_in_order(&mut order, object)
    }

    /// As [`Replica::observe`], for a caller that is about to change the object: what was changed unseen is noted first.
    pub(crate) fn observe_in_order(&self, order: &mut Order, object: ObjectId) -> Result<Met, Error> {
        Ok(self.reach_in_order(order, object)?.0)
    }

    /// The same, with a descriptor that reaches the object.
    pub(crate) fn reach_in_order(
        &self,
        order: &mut Order,
        object: ObjectId,
    ) -> Result<(Met, Arc<OwnedFd>), Error> {
        let entry = self.entry(object)?;
        let reach = self.reach(&entry)?;
        let met = Met { entry, stat: host::stat(reach.as_fd())? };
        // A write between this look and the change would hide behind the change's ctime.
        if self.opens.writers(object) > 0 && self.opens.mark_dirty(object)? {
            return Ok((met, reach));
        }
        if met.is_current() || self.is_nameless(&met.entry) {
            return Ok((met, reach));
        }
        self.take_in_changes(order, &met, reach.as_fd())?;
        let met = Met { entry: self.entry(object)?, stat: host::stat(reach.as_fd())? };
        Ok((met, reach))
    }

    /// Looks at an object that was touched behind the mount while users have it open for writing. Its data is told by the
    /// close to come, which would hide extended attributes: those are noted now.
    pub(crate) fn observe_written(&self, object: ObjectId) -> Result<(), Error> {
        self.outdated.add_object(object);
        let mut order = self.begin()?;
        let met = self.look(object)?;
        let reach = self.reach(&met.entry)?;
        if self.is_nameless(&met.entry) || xattr::all(reach.as_fd())? == met.entry.state.xattrs {
            return Ok(());
        }
        self.opens.mark_dirty(object)?;
        let caller = order.behalf.clone();
        self.take_in_xattrs(&mut order, &caller, &met, reach.as_fd())
    }

    /// Whether the object is in the tree no more, or not yet.
    pub(crate) fn is_nameless(&self, entry: &Entry) -> bool {
        entry.places.is_empty() && entry.object != ObjectId::ROOT
    }

    fn look(&self, object: ObjectId) -> Result<Met, Error> {
        let entry = self.entry(object)?;
        let stat = host::stat(self.reach(&entry)?.as_fd())?;
        Ok(Met { entry, stat })
    }

    /// Which inode `reach` leads to.
    pub(crate) fn host_id(&self, reach: BorrowedFd<'_>, stat: &Stat) -> Result<HostId, Error> {
        Ok(HostId { inode: stat.inode, born: stat.born, handle: host::Handle::of(reach)? })
    }
}
