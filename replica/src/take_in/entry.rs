//! One name: what the host has there, against what the index has.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use mezzo_core::record::{Displaced, Removed};
use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Kind, Name, ObjectId, Place, Time};

use crate::Error;
use crate::host::{self, Stat};
use crate::index::{Entry, Local};
use crate::meet::{Met, is_inode_of};
use crate::perform::Made;
use crate::recover::Unmet;
use crate::replica::{Order, Replica};

impl Replica {
    /// What stands at `name` in `parent`, with everything that was changed there behind the mount taken in.
    pub(crate) fn meet_in_order(
        &self,
        order: &mut Order,
        parent: ObjectId,
        name: &Name,
    ) -> Result<Option<Met>, Error> {
        let directory = self.directory(parent)?;
        let stat = self.stat_if_there(directory.as_fd(), name)?;
        let known = self.index.child(parent, name)?;
        let place = Place::new(parent, name.clone());
        match (stat, known) {
            (None, None) => Ok(None),
            (None, Some(object)) => {
                self.take_in_absence(order, &place, object)?;
                Ok(None)
            }
            (Some(stat), None) => self.take_in_new(order, &place, directory.as_fd(), stat).map(Some),
            (Some(stat), Some(object)) => {
                let entry = self.entry(object)?;
                if entry.host.is_none() && entry.attributes().kind == stat.attributes.kind {
                    self.adopt(&entry, &place, directory.as_fd(), &stat)?;
                }
                let met = Met { entry: self.entry(object)?, stat };
                if met.is_same_inode() {
                    return self.meet_again(order, met, &place).map(Some);
                }
                if let Some(other) = self.known_by_inode(&met.stat)?
                    && let Some(from) = self.exchanged_from(&met.entry, &other)?
                {
                    self.take_in_exchange(order, (&other, &from), (&met.entry, &place))?;
                    let met = Met { entry: self.entry(other.object)?, stat: met.stat };
                    return self.meet_again(order, met, &place).map(Some);
                }
                self.take_in_absence(order, &place, object)?;
                self.take_in_new(order, &place, directory.as_fd(), met.stat).map(Some)
            }
        }
    }

    /// The object is the one that was expected; what changed about it is taken in, or left to a close to come.
    fn meet_again(&self, order: &mut Order, met: Met, place: &Place) -> Result<Met, Error> {
        let object = met.entry.object;
        if self.opens.writers(object) > 0 && self.opens.mark_dirty(object)? || met.is_current() {
            return Ok(met);
        }
        let directory = self.directory(place.parent)?;
        let reach = host::open_entry(directory.as_fd(), &place.name)?;
        self.take_in_changes(order, &met, reach.as_fd())?;
        Ok(Met { entry: self.entry(object)?, stat: met.stat })
    }

    /// Takes an inode as the one of an object that was not met yet, since the log tells of no inodes; unless it is known to
    /// be another's. Whether it is as the log says is judged afterwards.
    fn adopt(
        &self,
        entry: &Entry,
        place: &Place,
        directory: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), Error> {
        if self.known_by_inode(stat)?.is_some() {
            return Ok(());
        }
        let reach = host::open_entry(directory, &place.name)?;
        let id = self.host_id(reach.as_fd(), stat)?;
        Ok(self.index.met(entry.object, Some(id), entry.host_ctime)?)
    }

    /// Finds the inodes of objects that the index does not know them of, where they should be: before anything is taken in,
    /// so that no known inode is taken for a new one.
    /// In a copy, ctimes tell nothing.
    pub(crate) fn adopt_all(&self, objects: &[Unmet], is_copied: bool) -> Result<(), Error> {
        for Unmet { object, .. } in objects {
            self.write_behind(false)?;
            let Some(entry) = self.index.entry(*object)?.filter(|entry| entry.host.is_none()) else {
                continue;
            };
            for place in &entry.places {
                let Ok(directory) = self.directory(place.parent) else { continue };
                let stat = self.stat_if_there(directory.as_fd(), &place.name)?;
                if let Some(stat) = stat.filter(|stat| stat.attributes.kind == entry.attributes().kind) {
                    self.adopt(&entry, place, directory.as_fd(), &stat)?;
                    if is_copied {
                        let reach = host::open_entry(directory.as_fd(), &place.name)?;
                        self.settle_copied(&entry, reach.as_fd(), &stat)?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Something stands where the log has nothing.
    fn take_in_new(
        &self,
        order: &mut Order,
        place: &Place,
        directory: BorrowedFd<'_>,
        stat: Stat,
    ) -> Result<Met, Error> {
        let reach = host::open_entry(directory, &place.name)?;
        let object = match self.known_by_inode(&stat)? {
            Some(known) => self.take_in_moved(order, &known, place, directory)?,
            None => {
                let parent = self.entry(place.parent)?;
                let made = Made {
                    parent: &parent,
                    directory,
                    name: &place.name,
                    reach: reach.as_fd(),
                    stat: &stat,
                    object: None,
                    has_xattrs: true,
                };
                self.record_made(order, &order.behalf.clone(), made)?
            }
        };
        let met = Met { entry: self.entry(object)?, stat };
        if !met.is_current() {
            self.take_in_changes(order, &met, reach.as_fd())?;
        }
        Ok(Met { entry: self.entry(object)?, stat: met.stat })
    }

    /// Where `other` stood, if `entry` stands there now: the two were exchanged.
    fn exchanged_from(&self, entry: &Entry, other: &Entry) -> Result<Option<Place>, Error> {
        for place in &other.places {
            let directory = self.directory(place.parent)?;
            if self
                .stat_if_there(directory.as_fd(), &place.name)?
                .is_some_and(|stat| is_inode_of(entry, &stat))
            {
                return Ok(Some(place.clone()));
            }
        }
        Ok(None)
    }

    fn take_in_exchange(
        &self,
        order: &mut Order,
        (moved, from): (&Entry, &Place),
        (other, to): (&Entry, &Place),
    ) -> Result<(), Error> {
        let (from_parent, to_parent) = (self.entry(from.parent)?, self.entry(to.parent)?);
        let (from_handle, to_handle) = (self.directory(from.parent)?, self.directory(to.parent)?);
        let change = Change::Rename {
            object: moved.object,
            // What else changed of the two is taken in when each is met at its new place.
            attributes: unchanged(moved),
            from: from.clone(),
            from_path: self.path_of(from.parent, &from.name)?,
            from_parent: self.parent_step(&from_parent, from_handle.as_fd())?,
            to: to.clone(),
            to_path: self.path_of(to.parent, &to.name)?,
            to_parent: self.parent_step(&to_parent, to_handle.as_fd())?,
            displaced: Displaced::Exchanged { object: other.object, attributes: unchanged(other) },
        };
        self.commit(order, &order.behalf.clone(), change, Local::default())?;
        Ok(())
    }

    /// The object in the tree that an inode is.
    pub(crate) fn known_by_inode(&self, stat: &Stat) -> Result<Option<Arc<Entry>>, Error> {
        let Some(object) = self.index.by_inode(stat.inode)? else { return Ok(None) };
        Ok(self.index.entry(object)?.filter(|entry| is_inode_of(entry, stat) && !entry.places.is_empty()))
    }

    /// A known object has one more name, or another one.
    fn take_in_moved(
        &self,
        order: &mut Order,
        known: &Entry,
        place: &Place,
        directory: BorrowedFd<'_>,
    ) -> Result<ObjectId, Error> {
        let left = known.places.iter().find(|old| !self.stands_at(known, old));
        let parent = self.entry(place.parent)?;
        let to_parent = self.parent_step(&parent, directory)?;
        let before = *known.attributes();
        let change = match left {
            Some(from) => {
                let from_entry = self.entry(from.parent)?;
                let from_directory = self.directory(from.parent)?;
                Change::Rename {
                    object: known.object,
                    attributes: Step::new(before, before),
                    from: from.clone(),
                    from_path: self.path_of(from.parent, &from.name)?,
                    from_parent: self.parent_step(&from_entry, from_directory.as_fd())?,
                    to: place.clone(),
                    to_path: self.path_of(place.parent, &place.name)?,
                    to_parent,
                    displaced: Displaced::Nothing,
                }
            }
            None => Change::Link {
                object: known.object,
                place: place.clone(),
                path: self.path_of(place.parent, &place.name)?,
                attributes: Step::new(before, Attributes { links: before.links + 1, ..before }),
                parent: to_parent,
            },
        };
        self.commit(order, &order.behalf.clone(), change, Local::default())?;
        Ok(known.object)
    }

    /// Whether the host still has the object at `place`. A directory has one place, so that it stands nowhere else.
    fn stands_at(&self, entry: &Entry, place: &Place) -> bool {
        entry.attributes().kind != Kind::Directory
            && self
                .directory(place.parent)
                .and_then(|directory| self.stat_if_there(directory.as_fd(), &place.name))
                .is_ok_and(|stat| stat.is_some_and(|stat| is_inode_of(entry, &stat)))
    }

    /// Nothing, or another object, stands where the log has `object`: it lost this name, and all below it is gone too.
    pub(crate) fn take_in_absence(
        &self,
        order: &mut Order,
        place: &Place,
        object: ObjectId,
    ) -> Result<(), Error> {
        for (name, child) in self.index.children(object)? {
            self.take_in_absence(order, &Place::new(object, name), child)?;
        }
        let entry = self.entry(object)?;
        // There may be many.
        self.ensure_one_more()?;
        self.ensure_told(&entry)?;
        let parent = self.entry(place.parent)?;
        let is_directory = entry.attributes().kind == Kind::Directory;
        let links_left = if is_directory { 0 } else { entry.attributes().links.saturating_sub(1) };
        let parent_step = match self.directory(place.parent) {
            Ok(directory) => self.parent_step(&parent, directory.as_fd())?,
            // The directory is gone too, which is recorded next.
            Err(_) => {
                let times = crate::perform::times(parent.attributes());
                Step::new(times, times)
            }
        };
        let ctime_after = if links_left > 0 { entry.attributes().ctime } else { Time::default() };
        let change = Change::Remove {
            removed: Removed { object, state: entry.state.clone(), links_left, ctime_after },
            place: place.clone(),
            path: self.path_of(place.parent, &place.name)?,
            parent: parent_step,
        };
        self.directories.forget(object);
        self.commit(
            order,
            &order.behalf.clone(),
            change,
            Local { host: None, keep: self.opens.is_open(object) },
        )?;
        Ok(())
    }
}

fn unchanged(entry: &Entry) -> Step<Attributes> {
    Step::new(*entry.attributes(), *entry.attributes())
}
