//! An object that is where it should be, and is not as it should be.

use std::os::fd::BorrowedFd;

use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Kind, ObjectId};

use crate::Error;
use crate::demand::lacking;
use crate::host::{self, xattr};
use crate::index::{Lacking, Local};
use crate::meet::Met;
use crate::perform::{Caller, with_links};
use crate::reintegrate::finish_but_data;
use crate::replica::{Order, Replica};

impl Replica {
    /// Records how the object on the host differs from the log: extended attributes, attributes, and data.
    pub(crate) fn take_in_changes(
        &self,
        order: &mut Order,
        met: &Met,
        reach: BorrowedFd<'_>,
    ) -> Result<bool, Error> {
        if self.demand.is_filling(met.entry.object) || self.end_filling_after_kill(met, reach)? {
            return Ok(false);
        }
        let caller = order.behalf.clone();
        let first = order.last;
        let before = *met.entry.attributes();
        let now = with_links(&met.stat, before.links);
        let xattrs = changed_xattrs(met, reach)?;
        let explained = !xattrs.is_empty() || changed_apart_from_data(&before, &now);
        // What a power loss left of a file is no new version of it.
        let lost = now.kind == Kind::File && xattr::is_lost_still(reach, &now);
        let is_as_told = !explained && !data_changed(&before, &now);
        if met.entry.lost && is_as_told && !xattr::is_lost(reach) {
            // Its bytes were brought, and the program was killed before the index had that.
            self.index.set_lacking(met.entry.object, Lacking::Nothing)?;
            self.index.met(met.entry.object, None, now.ctime)?;
            return Ok(false);
        }
        let data = now.kind == Kind::File
            && !lost
            && (data_changed(&before, &now) || !explained && now.ctime != before.ctime);
        // A close tells of size and mtime, which are left to it.
        let after =
            if data || lost { Attributes { size: before.size, mtime: before.mtime, ..now } } else { now };
        let has_moved = !data && !lost && xattrs.is_empty() && after.ctime != met.entry.host_ctime;
        if changed_apart_from_data(&before, &after) || has_moved {
            let change = Change::Setattr {
                object: met.entry.object,
                path: self.index.path(met.entry.object)?.into(),
                attributes: Step::new(before, after),
                data: None,
            };
            self.commit(order, &caller, change, Local::default())?;
        }
        // After the attributes, all of which the first record would tell of.
        self.record_xattrs(order, &caller, met.entry.object, reach, &xattrs)?;
        if data {
            let met = Met { entry: self.entry(met.entry.object)?, stat: met.stat.clone() };
            self.record_close(order, &caller, &met, true)?;
        }
        if lost {
            self.index.set_lacking(met.entry.object, lacking(reach))?;
            self.index.met(met.entry.object, None, now.ctime)?;
        }
        Ok(order.last != first)
    }

    /// A file that was being filled, or emptied of what others have, when the program was killed is as the log has it again, and
    /// without its bytes: what was done to it by then is no change. True where it was one.
    fn end_filling_after_kill(&self, met: &Met, reach: BorrowedFd<'_>) -> Result<bool, Error> {
        if met.stat.attributes.kind != Kind::File || !xattr::is_filling(reach) {
            return Ok(false);
        }
        let object = met.entry.object;
        let lacking = lacking(reach);
        host::with_set_id_rights(true, || {
            host::set_size(reach, met.entry.attributes().size)?;
            finish_but_data(reach, &met.entry.state, true)
        })?;
        xattr::mark_lost(reach, Some(&host::stat(reach)?.attributes))?;
        self.index.set_lacking(object, lacking)?;
        self.index.met(object, None, host::stat(reach)?.attributes.ctime)?;
        Ok(true)
    }

    /// Records each extended attribute that differs.
    pub(crate) fn take_in_xattrs(
        &self,
        order: &mut Order,
        caller: &Caller,
        met: &Met,
        reach: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.record_xattrs(order, caller, met.entry.object, reach, &changed_xattrs(met, reach)?)
    }

    fn record_xattrs(
        &self,
        order: &mut Order,
        caller: &Caller,
        object: ObjectId,
        reach: BorrowedFd<'_>,
        names: &[Box<[u8]>],
    ) -> Result<(), Error> {
        names.iter().try_for_each(|name| self.record_xattr(order, caller, object, reach, name))
    }
}

/// The names of extended attributes that differ from the log's.
fn changed_xattrs(met: &Met, reach: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>, Error> {
    let now = xattr::all(reach)?;
    let known = &met.entry.state.xattrs;
    let changed = now.iter().filter(|xattr| !known.contains(xattr)).map(|xattr| xattr.name.clone());
    let gone = known.iter().map(|xattr| &xattr.name).filter(|name| !now.iter().any(|x| x.name == **name));
    Ok(changed.chain(gone.cloned()).collect())
}

fn changed_apart_from_data(before: &Attributes, after: &Attributes) -> bool {
    (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid)
        || after.kind != Kind::File && before.mtime != after.mtime
}

fn data_changed(before: &Attributes, after: &Attributes) -> bool {
    (before.size, before.mtime) != (after.size, after.mtime)
}
