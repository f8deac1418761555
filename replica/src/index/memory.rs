//! What the index holds in memory: changes on their way to the file, above the file as it was last written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mezzo_core::id::DataVersion;
use mezzo_core::{Name, ObjectId, Place, Time};
use parking_lot::Mutex;

use super::attic::Kept;
use super::cache::Cache;
use super::entry::{Entry, Weight};
use super::layer::Layer;
use super::store::{Heard, Snapshot, StoreError, Totals};

/// Layers from the newest to the oldest: `live`, `frozen` while it is written, `snapshot`.
pub(super) struct Memory {
    pub live: Layer,
    pub frozen: Option<Arc<Layer>>,
    pub snapshot: Arc<Snapshot>,
    pub totals: Totals,
    pub heard: Heard,
    /// What inodes are shown as, where that is not their own number. Two for each object that became another inode, at most.
    pub numbers: HashMap<u64, u64>,
    /// Removed objects that somebody still has open; they are in no table.
    pub orphans: BTreeMap<ObjectId, Arc<Entry>>,
}

impl Memory {
    /// The layers, newest first.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.live).chain(self.frozen.as_deref())
    }

    /// What the layers say of `object`: nothing, that it is gone, or its entry. Orphans count as present.
    pub fn entry_in_layers(&self, object: ObjectId) -> Option<Option<Arc<Entry>>> {
        if let Some(orphan) = self.orphans.get(&object) {
            return Some(Some(orphan.clone()));
        }
        self.layers().find_map(|layer| layer.objects.get(&object)).cloned()
    }

    /// The entry of `object`, wherever it is.
    pub fn entry(&self, object: ObjectId, cache: &Mutex<Cache>) -> Result<Option<Arc<Entry>>, StoreError> {
        match self.entry_in_layers(object) {
            Some(found) => Ok(found),
            None => match cache.lock().get(object) {
                Some(entry) => Ok(Some(entry)),
                None => Ok(self.snapshot.entry(object)?.map(Arc::new)),
            },
        }
    }

    pub fn by_inode(&self, inode: u64) -> Result<Option<ObjectId>, StoreError> {
        match self.layers().find_map(|layer| layer.inodes.get(&inode)) {
            Some(found) => Ok(*found),
            None => self.snapshot.by_inode(inode),
        }
    }

    /// What an inode is shown as.
    pub fn number(&self, inode: u64) -> u64 {
        self.numbers.get(&inode).copied().unwrap_or(inode)
    }

    /// Two inodes are shown as each other from now on. So no two are ever shown as the same, whatever becomes of either.
    pub fn exchange_numbers(&mut self, one: u64, other: u64) {
        let (of_one, of_other) = (self.number(one), self.number(other));
        for (inode, number) in [(one, of_other), (other, of_one)] {
            let number = Some(number).filter(|number| *number != inode);
            self.live.numbers.insert(inode, number);
            match number {
                Some(number) => self.numbers.insert(inode, number),
                None => self.numbers.remove(&inode),
            };
        }
    }

    pub fn child(&self, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>, StoreError> {
        let key = (parent, name.clone());
        match self.layers().find_map(|layer| layer.names.get(&key)) {
            Some(found) => Ok(*found),
            None => self.snapshot.child(parent, name),
        }
    }

    pub fn children(&self, parent: ObjectId) -> Result<BTreeMap<Name, ObjectId>, StoreError> {
        let mut found = BTreeMap::new();
        self.snapshot.children(parent, |name, object| {
            found.insert(name, object);
        })?;
        // The frozen layer first, so that the live one has the last word.
        for layer in [self.frozen.as_deref(), Some(&self.live)].into_iter().flatten() {
            let first = (parent, Name::first());
            for ((_, name), object) in layer.names.range(first..).take_while(|((p, _), _)| *p == parent) {
                match object {
                    Some(object) => found.insert(name.clone(), *object),
                    None => found.remove(name),
                };
            }
        }
        Ok(found)
    }

    /// When somebody opened the object, in milliseconds since 1970; `None` where that was not noted.
    pub fn used(&self, object: ObjectId) -> Result<Option<u64>, StoreError> {
        match self.layers().find_map(|layer| layer.used.get(&object)) {
            Some(found) => Ok(*found),
            None => self.snapshot.used(object),
        }
    }

    pub fn kept_since(&self, version: DataVersion) -> Result<Option<Time>, StoreError> {
        match self.layers().find_map(|layer| layer.kept.get(&version)) {
            Some(found) => Ok(*found),
            None => self.snapshot.kept_since(version),
        }
    }

    pub fn kept_bytes(&self, kept: &Kept) -> Result<u64, StoreError> {
        match self.layers().find_map(|layer| layer.attic.get(kept)) {
            Some(found) => Ok(found.unwrap_or(0)),
            None => self.snapshot.kept_bytes(kept),
        }
    }

    /// Changes the entry of `object` in place; false where there is none.
    pub fn update(
        &mut self,
        object: ObjectId,
        cache: &Mutex<Cache>,
        change: impl FnOnce(&mut Entry),
    ) -> Result<bool, StoreError> {
        if let Some(orphan) = self.orphans.get_mut(&object) {
            change(Arc::make_mut(orphan));
            return Ok(true);
        }
        let (before, after) = match self.live.objects.get_mut(&object) {
            Some(None) => return Ok(false),
            Some(Some(entry)) => {
                let before = entry.weight();
                change(Arc::make_mut(entry));
                (before, entry.weight())
            }
            None => {
                let Some(mut entry) = self.entry(object, cache)? else { return Ok(false) };
                let before = entry.weight();
                change(Arc::make_mut(&mut entry));
                let after = entry.weight();
                self.live.objects.insert(object, Some(entry));
                (before, after)
            }
        };
        self.weigh(object, Some(before), Some(after));
        Ok(true)
    }

    /// Counts a file that was `before` and is `after`.
    fn weigh(&mut self, object: ObjectId, before: Option<Weight>, after: Option<Weight>) {
        if before == after {
            return;
        }
        before.into_iter().for_each(|weight| self.totals.data.remove(weight));
        after.into_iter().for_each(|weight| self.totals.data.add(weight));
        let lacking = |weight: Option<Weight>| weight.filter(|w| w.lost).map(|w| w.absent);
        if lacking(before) != lacking(after) {
            self.live.lacking.insert(object, lacking(after));
        }
    }

    /// Takes in a new object.
    pub fn insert(&mut self, entry: Entry) {
        if let Some(host) = &entry.host {
            self.live.inodes.insert(host.inode, Some(entry.object));
        }
        for place in &entry.places {
            self.live.names.insert((place.parent, place.name.clone()), Some(entry.object));
        }
        self.totals.objects += 1;
        self.weigh(entry.object, None, Some(entry.weight()));
        self.live.objects.insert(entry.object, Some(Arc::new(entry)));
    }

    /// Forgets an object that has no names any more.
    pub fn remove(&mut self, entry: &Entry) -> Result<(), StoreError> {
        if let Some(host) = &entry.host
            && self.by_inode(host.inode)? == Some(entry.object)
        {
            self.live.inodes.insert(host.inode, None);
        }
        self.totals.objects = self.totals.objects.saturating_sub(1);
        self.weigh(entry.object, Some(entry.weight()), None);
        if self.used(entry.object)?.is_some() {
            self.live.used.insert(entry.object, None);
        }
        self.live.objects.insert(entry.object, None);
        Ok(())
    }

    pub fn add_name(&mut self, place: &Place, object: ObjectId) {
        self.live.names.insert((place.parent, place.name.clone()), Some(object));
    }

    pub fn remove_name(&mut self, place: &Place) {
        self.live.names.insert((place.parent, place.name.clone()), None);
    }
}
