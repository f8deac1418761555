//! One action on the host, and its record. Each can be done again where it was cut off: what is done already is left as it
//! is, and recorded.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use mezzo_core::record::Displaced;
use mezzo_core::time::Step;
use mezzo_core::undo::Action;
use mezzo_core::{Attributes, Change, Kind, Name, ObjectId, Origin, Place, State, Time, Xattr};
use rustix::fs::RenameFlags;

use super::Audience;
use crate::Error;
use crate::attic::Going;
use crate::host::{self, HostId, SetTime};
use crate::index::{Entry, Local};
use crate::meet::{Met, is_inode_of};
use crate::perform::{Caller, Changes, keep_lost_mark, set_on_host, with_links};
use crate::reintegrate::{create, finish_but_data};
use crate::replica::{Order, Replica};

/// What is recorded of an action.
type Done = (Change, Local);

impl Replica {
    /// Does `action`, and records it as taking `record` back. Objects of `gone` will not be there in the end.
    pub(super) fn act(
        &self,
        order: &mut Order,
        caller: &Caller,
        (record, gone): (Origin, &HashSet<ObjectId>),
        action: &Action,
        audience: &dyn Audience,
    ) -> Result<(), Error> {
        let (change, local) = self.take_action(order, action, gone, audience)?;
        let undo = Change::UndoOf { record, change: Box::new(change) };
        self.commit(order, caller, undo, local)?;
        Ok(())
    }

    /// Does `action` on the host, and tells what came of it.
    pub(crate) fn take_action(
        &self,
        order: &mut Order,
        action: &Action,
        gone: &HashSet<ObjectId>,
        audience: &dyn Audience,
    ) -> Result<Done, Error> {
        match action {
            Action::Make { object, place, state, touch } => {
                self.make_again(*object, place, state, *touch, gone.contains(object), audience)
            }
            Action::Link { object, place, touch } => self.link_again(*object, place, *touch),
            Action::Remove { object, place, touch } => {
                audience.losing(*object);
                self.remove_again(order, *object, place, *touch, gone.contains(object))
            }
            Action::Move { object, from, to, exchange, replaces, touch } => {
                if let Some(replaced) = replaces {
                    audience.losing(*replaced);
                }
                self.move_back(*object, (from, to), (*exchange, *replaces), *touch)
            }
            Action::Set { object, attributes, data: None } => self.set_back(order, *object, attributes),
            Action::Set { object, attributes, data: Some((data, size)) } => {
                self.restore_data(*object, attributes, *data, *size, audience)
            }
            Action::Xattr { object, name, value, mode } => {
                self.set_xattr_back(order, *object, name, value.as_deref(), *mode)
            }
        }
    }

    fn make_again(
        &self,
        object: ObjectId,
        place: &Place,
        state: &State,
        touch: Option<Time>,
        for_a_while: bool,
        audience: &dyn Audience,
    ) -> Result<Done, Error> {
        let parent = self.parent_entry(place.parent)?;
        let directory = self.directory(place.parent)?;
        let kept = state.data.filter(|_| state.attributes.size > 0);
        match kept {
            Some(data) if !for_a_while || self.can_be_had(object, data.version)? => {
                if self.stat_if_there(directory.as_fd(), &place.name)?.is_none() {
                    self.take_from_attic((object, data.version), directory.as_fd(), &place.name)?;
                }
            }
            _ => match create(directory.as_fd(), &place.name, state) {
                // It was made before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            },
        }
        let reach = host::open_entry(directory.as_fd(), &place.name)?;
        let lost = for_a_while && host::stat(reach.as_fd())?.attributes.size != state.attributes.size;
        if lost && state.attributes.kind == Kind::File {
            // It has its size, and is not to be kept as if it had its bytes: marked first, as a file of that size may be whole.
            host::xattr::mark_lost(reach.as_fd(), Some(&state.attributes))?;
            host::set_size(reach.as_fd(), state.attributes.size)?;
        }
        finish_but_data(reach.as_fd(), state, true)?;
        set_back_time(directory.as_fd(), touch)?;
        let stat = host::stat(reach.as_fd())?;
        let host = self.host_id(reach.as_fd(), &stat)?;
        self.inodes.note(object, &host);
        let attributes = with_links(&stat, 1);
        if attributes.size != state.attributes.size && attributes.kind == Kind::File {
            return Err(Error::Undo(format!("the data that is kept of {object} has another size")));
        }
        if let Some(removed) = self.index.entry(object)?.filter(|removed| !is_inode_of(removed, &stat)) {
            // Who still has the removed one open has another file than those who find it from now on.
            let former = self.reach(&removed)?;
            audience.inode_changes(object, &former, &mut || {
                self.index.met(object, Some(host.clone()), attributes.ctime)?;
                Ok(self.opens.another_inode(object)?)
            })?;
        }
        let change = Change::Make {
            object,
            place: place.clone(),
            path: self.path_of(place.parent, &place.name)?,
            state: State { attributes, ..state.clone() },
            parent: self.parent_step(&parent, directory.as_fd())?,
        };
        Ok((change, Local { host: Some(host), keep: false }))
    }

    fn link_again(&self, object: ObjectId, place: &Place, touch: Option<Time>) -> Result<Done, Error> {
        let before = self.entry(object)?;
        let parent = self.parent_entry(place.parent)?;
        let directory = self.directory(place.parent)?;
        let reach = self.reach(&before)?;
        if !self.is_at(&before, directory.as_fd(), &place.name)? {
            host::link(reach.as_fd(), directory.as_fd(), &place.name)?;
        }
        set_back_time(directory.as_fd(), touch)?;
        let after = self.told_after(&before, &host::stat(reach.as_fd())?, before.attributes().links + 1);
        let change = Change::Link {
            object,
            place: place.clone(),
            path: self.path_of(place.parent, &place.name)?,
            attributes: Step::new(*before.attributes(), after),
            parent: self.parent_step(&parent, directory.as_fd())?,
        };
        Ok((change, Local::default()))
    }

    fn remove_again(
        &self,
        order: &mut Order,
        object: ObjectId,
        place: &Place,
        touch: Option<Time>,
        for_good: bool,
    ) -> Result<Done, Error> {
        let parent = self.parent_entry(place.parent)?;
        let directory = self.directory(place.parent)?;
        let doomed = self.entry(object)?;
        // Also where the name was removed before: other names' ctime is told by the record.
        let reach = self.reach_of_doomed(&doomed)?;
        if let Some(stat) = self.stat_if_there(directory.as_fd(), &place.name)? {
            let is_directory = doomed.attributes().kind == Kind::Directory;
            let met = Met { entry: doomed.clone(), stat };
            let made_for_a_while = for_good && self.is_without_data(&met)?;
            if is_directory || made_for_a_while {
                host::unlink(directory.as_fd(), &place.name, is_directory)?;
            } else if self.keep_removed(&met, directory.as_fd(), &place.name)? == Going::Remove {
                self.save_or_remove(order, &met, directory.as_fd(), &place.name)?;
            }
        }
        set_back_time(directory.as_fd(), touch)?;
        let change = Change::Remove {
            removed: self.removed(&doomed, reach.as_ref())?,
            place: place.clone(),
            path: self.path_of(place.parent, &place.name)?,
            parent: self.parent_step(&parent, directory.as_fd())?,
        };
        Ok((change, self.kept_if_open(&doomed, reach)))
    }

    /// Whether the file has its size only.
    fn is_without_data(&self, met: &Met) -> Result<bool, Error> {
        let attributes = met.entry.attributes();
        Ok(attributes.kind == Kind::File
            && attributes.size > 0
            && host::xattr::is_lost(self.reach(&met.entry)?.as_fd()))
    }

    /// Bytes that nothing else keeps go to elsewhere.
    fn save_or_remove(
        &self,
        order: &Order,
        met: &Met,
        directory: BorrowedFd<'_>,
        name: &Name,
    ) -> Result<(), Error> {
        let attributes = met.entry.attributes();
        let keep = attributes.kind == Kind::File
            && attributes.links <= 1
            && attributes.size > 0
            && !met.entry.version().is_some_and(|version| self.attic.has(version));
        if !keep {
            return Ok(host::unlink(directory, name, false)?);
        }
        let elsewhere = rustix::fs::openat(
            self.fileset().own(),
            "elsewhere",
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let mut saved = format!("undone-{}-", order.last.next()).into_bytes();
        saved.extend_from_slice(&name.as_bytes()[..name.as_bytes().len().min(200)]);
        let saved = Name::new(&saved).map_err(|_| Error::Undo("a name can't be kept".to_owned()))?;
        Ok(host::rename(directory, name, elsewhere.as_fd(), &saved, RenameFlags::NOREPLACE)?)
    }

    fn move_back(
        &self,
        object: ObjectId,
        (from, to): (&Place, &Place),
        (exchange, replaces): (Option<ObjectId>, Option<ObjectId>),
        touch: [Option<Time>; 2],
    ) -> Result<Done, Error> {
        let (from_parent, to_parent) = (self.parent_entry(from.parent)?, self.parent_entry(to.parent)?);
        let (from_handle, to_handle) = (self.directory(from.parent)?, self.directory(to.parent)?);
        let moved = self.entry(object)?;
        let other = exchange.map(|other| self.entry(other)).transpose()?;
        let paths = (self.path_of(from.parent, &from.name)?, self.path_of(to.parent, &to.name)?);
        let replaced = replaces.map(|replaced| self.entry(replaced)).transpose()?;
        let reach = replaced.as_deref().map(|replaced| self.reach_of_doomed(replaced)).transpose()?.flatten();
        if self.is_at(&moved, from_handle.as_fd(), &from.name)? {
            let over =
                |flags| host::rename(from_handle.as_fd(), &from.name, to_handle.as_fd(), &to.name, flags);
            let there = |_: &Arc<Entry>| self.stat_if_there(to_handle.as_fd(), &to.name);
            match (&replaced, replaced.as_ref().map(there).transpose()?.flatten()) {
                (Some(entry), Some(stat)) => {
                    let met = Met { entry: entry.clone(), stat };
                    let kept = self.keep_replaced(&met, to_handle.as_fd(), &to.name);
                    let done = over(RenameFlags::empty());
                    self.replaced(kept, entry, done.is_ok());
                    done?;
                }
                _ if other.is_some() => over(RenameFlags::EXCHANGE)?,
                _ => over(RenameFlags::NOREPLACE)?,
            }
        }
        if let Some(other) = &other {
            keep_time(&moved, to_handle.as_fd(), &to.name)?;
            keep_time(other, from_handle.as_fd(), &from.name)?;
        }
        let local = replaced.as_deref().map_or_else(Local::default, |entry| self.kept_if_open(entry, reach));
        if from.parent != to.parent || touch[0] != touch[1] {
            set_back_time(from_handle.as_fd(), touch[0])?;
        }
        set_back_time(to_handle.as_fd(), touch[1])?;
        let displaced = match other {
            None => Displaced::Nothing,
            Some(other) => Displaced::Exchanged {
                object: other.object,
                attributes: self.moved_step(&other, from_handle.as_fd(), &from.name)?,
            },
        };
        let from_step = self.parent_step(&from_parent, from_handle.as_fd())?;
        let to_step = if from.parent == to.parent {
            from_step
        } else {
            self.parent_step(&to_parent, to_handle.as_fd())?
        };
        let change = Change::Rename {
            object,
            attributes: self.moved_step(&moved, to_handle.as_fd(), &to.name)?,
            from: from.clone(),
            from_path: paths.0,
            from_parent: from_step,
            to: to.clone(),
            to_path: paths.1,
            to_parent: to_step,
            displaced,
        };
        Ok((change, local))
    }

    /// What an action that may have been begun has changed of its object is no change of anybody else's, who would be told to have
    /// made it: so far, each thing is as it was or as it is to be.
    pub(super) fn settle_begun_action(&self, action: &Action) -> Result<(), Error> {
        let (Action::Set { object, data: None, .. } | Action::Xattr { object, .. }) = action else {
            return Ok(());
        };
        let entry = self.entry(*object)?;
        let reach = self.reach(&entry)?;
        let stat = host::stat(reach.as_fd())?;
        let is_begun = match action {
            Action::Set { attributes, .. } => {
                is_between(&stat.attributes, entry.attributes(), attributes)
                    && host::xattr::all(reach.as_fd())? == entry.state.xattrs
            }
            Action::Xattr { name, mode, .. } => {
                let wanted = Attributes { mode: *mode, ..*entry.attributes() };
                let others = |xattrs: &[Xattr]| -> Vec<Xattr> {
                    xattrs.iter().filter(|xattr| *xattr.name != **name).cloned().collect()
                };
                is_between(&stat.attributes, entry.attributes(), &wanted)
                    && others(&host::xattr::all(reach.as_fd())?) == others(&entry.state.xattrs)
            }
            _ => false,
        };
        if is_begun && is_inode_of(&entry, &stat) {
            self.index.met(*object, None, stat.attributes.ctime)?;
        }
        Ok(())
    }

    fn set_back(&self, order: &mut Order, object: ObjectId, wanted: &Attributes) -> Result<Done, Error> {
        let (Met { entry: before, .. }, reach) = self.reach_in_order(order, object)?;
        let now = before.attributes();
        let mut changes = Changes {
            atime: SetTime::To(wanted.atime),
            mtime: SetTime::To(wanted.mtime),
            ..Changes::default()
        };
        if (now.uid, now.gid) != (wanted.uid, wanted.gid) {
            (changes.uid, changes.gid) = (Some(wanted.uid), Some(wanted.gid));
        }
        if now.mode != wanted.mode || changes.uid.is_some() {
            changes.mode = (now.kind != Kind::Symlink).then_some(wanted.mode.into());
        }
        keep_lost_mark(&before, reach.as_fd(), || {
            set_on_host(reach.as_fd(), now.mode & 0o6000 != 0, true, &changes)
        })?;
        let mut after = self.told_after(&before, &host::stat(reach.as_fd())?, now.links);
        after.mtime = wanted.mtime;
        let change = Change::Setattr {
            object,
            path: self.index.path(object)?.into(),
            attributes: Step::new(*now, after),
            data: None,
        };
        Ok((change, Local::default()))
    }

    fn set_xattr_back(
        &self,
        order: &mut Order,
        object: ObjectId,
        name: &[u8],
        value: Option<&[u8]>,
        mode: u16,
    ) -> Result<Done, Error> {
        let (Met { entry: before, .. }, reach) = self.reach_in_order(order, object)?;
        let now = before.attributes();
        match value {
            Some(value) => host::xattr::set(reach.as_fd(), name, value, 0)?,
            None => match host::xattr::remove(reach.as_fd(), name) {
                Err(error) if error.raw_os_error() == Some(libc::ENODATA) => {}
                removed => removed?,
            },
        }
        if now.kind != Kind::Symlink && host::stat(reach.as_fd())?.attributes.mode != mode {
            host::with_set_id_rights(true, || host::set_mode(reach.as_fd(), mode.into()))?;
        }
        let after = self.told_after(&before, &host::stat(reach.as_fd())?, now.links);
        let found = before.state.xattrs.iter().find(|xattr| *xattr.name == *name);
        let change = Change::Xattr {
            object,
            path: self.index.path(object)?.into(),
            name: name.into(),
            value: Step::new(found.map(|xattr| xattr.value.clone()), value.map(Into::into)),
            attributes: Step::new(*now, after),
        };
        Ok((change, Local::default()))
    }

    /// Whether the host has the entry's object under this name.
    pub(super) fn is_at(&self, entry: &Entry, directory: BorrowedFd<'_>, name: &Name) -> Result<bool, Error> {
        Ok(self.stat_if_there(directory, name)?.is_some_and(|stat| is_inode_of(entry, &stat)))
    }

    /// Which inode an object is from now on, noted before the record that tells of it.
    pub(super) fn note_host(&self, object: ObjectId, reach: BorrowedFd<'_>) -> Result<HostId, Error> {
        let host = self.host_id(reach, &host::stat(reach)?)?;
        self.inodes.note(object, &host);
        Ok(host)
    }
}

/// Whether something on its way from `before` to `after` may be so now. Another owner takes set-id bits away for a while.
fn is_between(now: &Attributes, before: &Attributes, after: &Attributes) -> bool {
    let modes = [before.mode, after.mode, before.mode & !0o6000, after.mode & !0o6000];
    modes.contains(&now.mode)
        && [before.uid, after.uid].contains(&now.uid)
        && [before.gid, after.gid].contains(&now.gid)
        && [before.mtime, after.mtime].contains(&now.mtime)
        && (now.kind, now.size) == (before.kind, before.size)
}

/// A directory that is exchanged has another parent, which xfs counts as a change of what it holds.
fn keep_time(entry: &Entry, directory: BorrowedFd<'_>, name: &Name) -> Result<(), Error> {
    let mtime = entry.is_directory().then_some(entry.attributes().mtime);
    let reach = mtime.map(|_| host::open_entry(directory, name)).transpose()?;
    reach.map_or(Ok(()), |reach| set_back_time(reach.as_fd(), mtime))
}

fn set_back_time(directory: BorrowedFd<'_>, mtime: Option<Time>) -> Result<(), Error> {
    match mtime {
        Some(mtime) => Ok(host::set_times(directory, SetTime::Omit, SetTime::To(mtime))?),
        None => Ok(()),
    }
}
