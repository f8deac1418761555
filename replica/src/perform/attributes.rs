//! Mode, owner, size and times.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Data, DataVersion, Kind, ObjectId};

use super::Caller;
use super::make::digest_if_empty;
use crate::Error;
use crate::host::{self, SetTime, Stat, xattr};
use crate::index::{Entry, Local};
use crate::meet::Met;
use crate::replica::{Order, Replica};

/// What is to be set; the rest stays.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// Permission bits with set-id and sticky bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Bytes, of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of data.
    pub mtime: SetTime,
    /// Set-id bits and capabilities of a file go when its size is set, as the caller may not keep them.
    pub kill_set_id: bool,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: SetTime::Omit,
            mtime: SetTime::Omit,
            kill_set_id: false,
        }
    }
}

impl Replica {
    /// Sets attributes. An object without a name has them set, and nothing is recorded.
    /// ENODATA where a file gets another size whose bytes are not here, unless it is emptied.
    pub fn set_attributes(&self, caller: &Caller, object: ObjectId, changes: &Changes) -> Result<Met, Error> {
        let mut order = loop {
            // What is cut off gives room back.
            let order = if changes.size == Some(0) { self.begin_when_full() } else { self.begin() }?;
            if changes.size.is_none() || !self.demand.is_filling(object) {
                break order;
            }
            drop(order);
            self.demand.end_filling(object);
        };
        if changes.size.is_some_and(|size| size > 0) && self.is_absent(object)? {
            return Err(crate::error::refused(libc::ENODATA));
        }
        let (Met { entry: before, .. }, reach) = self.reach_in_order(&mut order, object)?;
        if let Some(size) = changes.size {
            self.keep_before_cut(&mut order, &before, size)?;
        }
        let set = self.set_in_order(&mut order, caller, before, reach.as_fd(), changes);
        if changes.size.is_some() {
            self.was_cut(object)?;
        }
        set
    }

    fn set_in_order(
        &self,
        order: &mut Order,
        caller: &Caller,
        before: Arc<Entry>,
        reach: BorrowedFd<'_>,
        changes: &Changes,
    ) -> Result<Met, Error> {
        let object = before.object;
        self.intend(order, caller, Some(object), &[])?;
        let has_set_id = before.attributes().mode & 0o6000 != 0;
        let set = || set_on_host(reach, has_set_id, caller.identity.uid == 0, changes);
        let done = if changes.size.is_some() { set() } else { keep_lost_mark(&before, reach, set) };
        let stat = host::stat(reach)?;
        // Of several changes the first may have been done, and is recorded, whatever became of the others.
        if done.is_err() && stat.attributes.ctime == before.host_ctime || self.is_nameless(&before) {
            return done.map(|()| Met { entry: before, stat });
        }
        let after = self.attributes_after(&before, &stat, changes);
        if after == *before.attributes() && changes.size.is_none() {
            return Ok(Met { entry: before, stat });
        }
        let origin = self.next_origin(order);
        let size = changes.size.filter(|_| after.kind == Kind::File);
        let data = before.state.data.filter(|_| size.is_some()).map(|data| {
            let digest = digest_if_empty(after.size);
            Step::new(data, Data { version: DataVersion(origin), digest })
        });
        let change = Change::Setattr {
            object,
            path: self.index.path(object)?.into(),
            attributes: Step::new(*before.attributes(), after),
            data,
        };
        self.commit(order, caller, change, Local::default())?;
        if data.is_some() {
            self.unmark_lost(&before)?;
        }
        if size == Some(0) {
            // Nothing is left of what was written before unseen, and what is written from now on is seen.
            self.opens.emptied(object)?;
        }
        self.refresh_xattrs(order, caller, &before, reach)?;
        done?;
        Ok(Met { entry: self.entry(object)?, stat })
    }

    /// Does `act` to the object on the host: something of which a record tells no more than that the ctime moved.
    pub fn set_marks(
        &self,
        caller: &Caller,
        object: ObjectId,
        act: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let mut order = self.begin()?;
        let (Met { entry: before, .. }, reach) = self.reach_in_order(&mut order, object)?;
        act(reach.as_fd())?;
        let after = self.told_after(&before, &host::stat(reach.as_fd())?, before.attributes().links);
        if after == *before.attributes() || self.is_nameless(&before) {
            return Ok(());
        }
        let attributes = Step::new(*before.attributes(), after);
        let change =
            Change::Setattr { object, path: self.index.path(object)?.into(), attributes, data: None };
        self.commit(&mut order, caller, change, Local::default())?;
        Ok(())
    }

    fn attributes_after(&self, before: &Entry, stat: &Stat, changes: &Changes) -> Attributes {
        let mut after = self.told_after(before, stat, before.attributes().links);
        if changes.size.is_some() {
            after.size = stat.attributes.size;
        }
        if changes.mtime != SetTime::Omit || changes.size.is_some() {
            after.mtime = stat.attributes.mtime;
        }
        after
    }

    /// Records what became of extended attributes that the host changes along with others: a mode changes an ACL, and a
    /// new owner or new data takes capabilities away.
    pub(crate) fn refresh_xattrs(
        &self,
        order: &mut Order,
        caller: &Caller,
        before: &Entry,
        reach: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        for name in [&b"system.posix_acl_access"[..], b"security.capability"] {
            if before.state.xattrs.iter().any(|xattr| *xattr.name == *name) {
                self.record_xattr(order, caller, before.object, reach, name)?;
            }
        }
        Ok(())
    }
}

/// Runs `act`, which sets attributes and no data, so that a file without its bytes stays known as one: its mark tells of an mtime.
pub(crate) fn keep_lost_mark<T>(
    before: &Entry,
    reach: BorrowedFd<'_>,
    act: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let is_lost = before.lost
        && xattr::is_lost_still(reach, &host::stat(reach)?.attributes)
        && !xattr::is_filling(reach);
    let done = act();
    if is_lost {
        xattr::mark_lost(reach, Some(&host::stat(reach)?.attributes))?;
    }
    done
}

/// In the order that makes each stick: a new owner takes set-id bits away, and everything else moves the times.
pub(crate) fn set_on_host(
    reach: BorrowedFd<'_>,
    has_set_id: bool,
    by_root: bool,
    changes: &Changes,
) -> Result<(), Error> {
    if let Some(size) = changes.size {
        host::with_set_id_rights(has_set_id && !changes.kill_set_id, || host::set_size(reach, size))?;
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        // Only root keeps a set-group-id bit that goes with no permission to execute.
        host::with_set_id_rights(has_set_id && by_root, || host::set_owner(reach, changes.uid, changes.gid))?;
    }
    if let Some(mode) = changes.mode {
        let set = || host::set_mode(reach, mode & 0o7777);
        if mode & 0o2000 != 0 { host::with_set_id_rights(true, set) } else { set() }?;
    }
    if changes.atime != SetTime::Omit || changes.mtime != SetTime::Omit {
        host::set_times(reach, changes.atime, changes.mtime)?;
    }
    Ok(())
}
