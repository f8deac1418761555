//! The index as a fold of the log: what each record changes in it.
//!
//! A record that was performed here left the host with the times that it tells, so that they are taken as the host's
//! too. Whoever applies a record that was made elsewhere tells afterwards, by `met`, what the host has.

use mezzo_core::id::DataVersion;
use mezzo_core::record::{Change, Displaced, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Data, Digest, ObjectId, Place, Record, State};
use parking_lot::Mutex;

use super::cache::Cache;
use super::entry::Entry;
use super::memory::Memory;
use super::store::StoreError;
use crate::host::HostId;

/// What only the host knows of the object that a record is about.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Which inode the object is, where it was just made or met.
    pub host: Option<HostId>,
    /// Somebody has the removed object open: it is kept until they are done.
    pub keep: bool,
}

pub(super) struct Fold<'a> {
    pub memory: &'a mut Memory,
    pub cache: &'a Mutex<Cache>,
}

type Done = Result<(), StoreError>;

impl Fold<'_> {
    pub fn apply(&mut self, record: &Record, local: Local) -> Done {
        self.change(&record.change, local)?;
        self.memory.totals.applied = record.recno;
        let told = self.memory.heard.entry(record.origin.replica).or_default();
        told.made = told.made.max(record.origin.recno);
        Ok(())
    }

    fn change(&mut self, change: &Change, local: Local) -> Done {
        match change {
            Change::Make { object, place, state, parent, .. } => {
                self.make(*object, place, state, parent, local)
            }
            Change::Link { object, place, attributes, parent, .. } => {
                self.memory.add_name(place, *object);
                self.update(*object, |entry| {
                    entry.places.push(place.clone());
                    entry.step(attributes);
                    entry.state.attributes.links = entry.places.len() as u32;
                })?;
                self.touch(place.parent, parent)
            }
            Change::Remove { removed, place, parent, .. } => {
                self.lose(removed, place, local.keep)?;
                self.touch(place.parent, parent)
            }
            Change::Rename { object, attributes, from, from_parent, to, to_parent, displaced, .. } => {
                self.rename(*object, attributes, (from, to), displaced, local.keep)?;
                self.touch(from.parent, from_parent)?;
                if to.parent == from.parent { Ok(()) } else { self.touch(to.parent, to_parent) }
            }
            Change::Setattr { object, attributes, data, .. } => {
                self.set(*object, attributes, data.map(|data| data.after))
            }
            Change::Xattr { object, name, value, attributes, .. } => self.update(*object, |entry| {
                entry.step(attributes);
                entry.state.set_xattr(name, value.after.as_deref());
            }),
            Change::Close { object, attributes, data, .. } => self.set(*object, attributes, Some(data.after)),
            Change::Digest { object, version, digest, .. } => self.fill_digest(*object, *version, *digest),
            Change::UndoOf { change, .. } => self.change(change, local),
            Change::Alias { .. }
            | Change::Noop
            | Change::Disable { .. }
            | Change::Amend { .. }
            | Change::Epoch { .. } => Ok(()),
            Change::Snapshot { of, at, heads, .. } => {
                for head in heads {
                    let told = self.memory.heard.entry(head.replica).or_default();
                    told.made = told.made.max(head.recno);
                }
                let told = self.memory.heard.entry(*of).or_default();
                told.received = told.received.max(*at);
                Ok(())
            }
        }
    }

    fn make(
        &mut self,
        object: ObjectId,
        place: &Place,
        state: &State,
        parent: &Step<Times>,
        local: Local,
    ) -> Done {
        let mut entry = Entry::new(object, state.clone());
        entry.places.push(place.clone());
        entry.host = local.host;
        self.memory.orphans.remove(&object);
        self.memory.insert(entry);
        self.touch(place.parent, parent)
    }

    fn rename(
        &mut self,
        object: ObjectId,
        attributes: &Step<Attributes>,
        (from, to): (&Place, &Place),
        displaced: &Displaced,
        keep: bool,
    ) -> Done {
        self.memory.remove_name(from);
        match displaced {
            Displaced::Nothing => {}
            // It may be gone by then where both sides took it away.
            Displaced::Replaced(removed) if self.memory.child(to.parent, &to.name)?.is_some() => {
                self.lose(removed, to, keep)?;
            }
            Displaced::Replaced(_) => {}
            Displaced::Exchanged { object: other, attributes } => {
                self.memory.add_name(from, *other);
                self.update(*other, |entry| {
                    entry.replace_place(to, from);
                    entry.step(attributes);
                })?;
            }
        }
        self.memory.add_name(to, object);
        self.update(object, |entry| {
            entry.replace_place(from, to);
            entry.step(attributes);
        })
    }

    /// Takes a name from an object, and the object away with its last one: the names that are here say which is the last, as
    /// somebody may have given it others elsewhere.
    fn lose(&mut self, removed: &Removed, place: &Place, keep: bool) -> Done {
        self.memory.remove_name(place);
        let Some(entry) = self.memory.entry(removed.object, self.cache)? else { return Ok(()) };
        if entry.places.iter().any(|other| other != place) {
            return self.update(removed.object, |entry| {
                entry.places.retain(|other| other != place);
                entry.state.attributes.links = entry.places.len() as u32;
                let ctime = Step::new(removed.state.attributes.ctime, removed.ctime_after);
                entry.set_ctime(ctime.onto(entry.state.attributes.ctime));
            });
        }
        self.memory.remove(&entry)?;
        if keep {
            let mut orphan = Entry::clone(&entry);
            orphan.places.clear();
            orphan.state.attributes.links = 0;
            self.memory.orphans.insert(removed.object, orphan.into());
        }
        Ok(())
    }

    fn set(&mut self, object: ObjectId, attributes: &Step<Attributes>, data: Option<Data>) -> Done {
        self.update(object, |entry| {
            entry.step(attributes);
            if let Some(data) = data {
                entry.state.data = Some(data);
                (entry.lost, entry.absent) = (false, false);
            }
        })
    }

    fn fill_digest(&mut self, object: ObjectId, version: DataVersion, digest: Digest) -> Done {
        self.update(object, |entry| {
            if let Some(data) = entry.state.data.as_mut().filter(|data| data.version == version) {
                data.digest = Some(digest);
            }
        })
    }

    fn touch(&mut self, directory: ObjectId, times: &Step<Times>) -> Done {
        self.update(directory, |entry| {
            let attributes = &entry.state.attributes;
            let after = times.onto(Times { mtime: attributes.mtime, ctime: attributes.ctime });
            entry.state.attributes.mtime = after.mtime;
            entry.set_ctime(after.ctime);
        })
    }

    /// Objects that are gone by now, such as a file written after its removal, are left alone.
    fn update(&mut self, object: ObjectId, change: impl FnOnce(&mut Entry)) -> Done {
        self.memory.update(object, self.cache, change).map(drop)
    }
}
