//! Extended attributes, ACLs among them.

use std::os::fd::{AsFd, BorrowedFd};

use mezzo_core::time::Step;
use mezzo_core::{Change, ObjectId};

use super::Caller;
use crate::Error;
use crate::host::{self, xattr};
use crate::index::{Entry, Local};
use crate::meet::Met;
use crate::replica::{Order, Replica};

impl Replica {
    /// Sets an extended attribute, with the flags of `setxattr(2)`. With `kill_set_gid` an ACL takes the set-group-id bit
    /// away, since the caller is not in the group.
    pub fn set_xattr(
        &self,
        caller: &Caller,
        object: ObjectId,
        (name, value): (&[u8], &[u8]),
        flags: u32,
        kill_set_gid: bool,
    ) -> Result<(), Error> {
        self.change_xattr(caller, object, name, |reach| {
            // An ACL changes the mode, and a mode set without the right may lose its set-group-id bit.
            let keep = name.starts_with(b"system.posix_acl") && !kill_set_gid;
            host::with_set_id_rights(keep, || xattr::set(reach, name, value, flags as i32))
        })
    }

    /// Removes an extended attribute; ENODATA where there is none.
    pub fn remove_xattr(&self, caller: &Caller, object: ObjectId, name: &[u8]) -> Result<(), Error> {
        self.change_xattr(caller, object, name, |reach| xattr::remove(reach, name))
    }

    fn change_xattr(
        &self,
        caller: &Caller,
        object: ObjectId,
        name: &[u8],
        act: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let mut order = self.begin()?;
        let (Met { entry: before, .. }, reach) = self.reach_in_order(&mut order, object)?;
        self.intend(&order, caller, Some(object), &[])?;
        act(reach.as_fd())?;
        if xattr::is_carried(name) && !self.is_nameless(&before) {
            self.record_xattr(&mut order, caller, object, reach.as_fd(), name)?;
        }
        Ok(())
    }

    /// Records the value that the host has now, where it is another than the log's; hosts keep some in a form of their
    /// own.
    pub(crate) fn record_xattr(
        &self,
        order: &mut Order,
        caller: &Caller,
        object: ObjectId,
        reach: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Error> {
        let before = self.entry(object)?;
        let stat = host::stat(reach)?;
        let value = Step::new(value_of(&before, name), value_now(reach, name)?);
        let after = self.told_after(&before, &stat, before.attributes().links);
        if value.before == value.after && after == *before.attributes() {
            return Ok(());
        }
        let change = Change::Xattr {
            object,
            path: self.index.path(object)?.into(),
            name: name.into(),
            value,
            attributes: Step::new(*before.attributes(), after),
        };
        self.commit(order, caller, change, Local::default())?;
        Ok(())
    }
}

fn value_of(entry: &Entry, name: &[u8]) -> Option<Box<[u8]>> {
    entry.state.xattrs.iter().find(|xattr| *xattr.name == *name).map(|xattr| xattr.value.clone())
}

fn value_now(reach: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Box<[u8]>>, Error> {
    match xattr::get(reach, name) {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
