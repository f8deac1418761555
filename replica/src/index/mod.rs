//! The index: which objects there are, what they look like, where they stand, and which inode each is.
//!
//! It is a fold of the log (`apply`), joined with what only the host knows (`met`). What changed since the file was last
//! written is held in memory, in a live layer; `write_behind` moves it to the file while operations go on. After a
//! crash the file is at some earlier record, and the log leads from there. Without the file the log is read from its
//! beginning.

mod apply;
mod attic;
mod cache;
mod entry;
mod layer;
mod memory;
mod store;
mod view;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mezzo_core::id::{DataVersion, Origin, ReplicaId};
use mezzo_core::name::join;
use mezzo_core::tree::Tree;
use mezzo_core::{Name, ObjectId, Recno, Record, Time};
use parking_lot::{Mutex, RwLock};

pub use apply::Local;
pub use attic::Kept;
pub use entry::{Entry, Lacking};
pub use store::{DataTotals, StoreError};
pub use view::View;

use crate::host::HostId;
use apply::Fold;
use cache::Cache;
use layer::Layer;
use memory::Memory;
use store::Store;

/// The index of one fileset. Readers and the one writer, which holds the order, may use it at once.
pub struct Index {
    store: Store,
    memory: RwLock<Memory>,
    cache: Mutex<Cache>,
    /// Held while a layer is written, so that layers reach the file in their order.
    writing: Mutex<()>,
}

impl Index {
    /// Opens the index file, or makes one that knows of the root alone.
    pub fn open(path: &Path) -> Result<Index, StoreError> {
        let store = Store::open(path)?;
        let snapshot = store.snapshot()?;
        let memory = Memory {
            live: Layer::default(),
            frozen: None,
            totals: snapshot.totals,
            snapshot: Arc::new(snapshot),
            heard: store.heard()?,
            numbers: store.numbers()?,
            orphans: BTreeMap::new(),
        };
        let index = Index {
            store,
            memory: RwLock::new(memory),
            cache: Mutex::new(Cache::default()),
            writing: Mutex::new(()),
        };
        if index.entry(ObjectId::ROOT)?.is_none() {
            let root = Tree::new().root().state().clone();
            index.memory.write().insert(Entry::new(ObjectId::ROOT, root));
        }
        Ok(index)
    }

    /// The last record that was applied.
    pub fn applied(&self) -> Recno {
        self.memory.read().totals.applied
    }

    /// Whether the record that was first made as `origin` has been applied. A replica's records come in the order in which it
    /// made them.
    pub fn has_heard(&self, origin: Origin) -> bool {
        self.memory.read().heard.get(&origin.replica).is_some_and(|told| origin.recno <= told.made)
    }

    /// The last record of another replica's log that was received; 0 where none was.
    pub fn received_from(&self, replica: ReplicaId) -> Recno {
        self.memory.read().heard.get(&replica).map_or(Recno::NONE, |told| told.received)
    }

    /// Of each replica, the newest of its records that has been applied, by origin, and the last record of its log that was
    /// received.
    pub fn all_heard(&self) -> Vec<(ReplicaId, Recno, Recno)> {
        let memory = self.memory.read();
        memory.heard.iter().map(|(replica, told)| (*replica, told.made, told.received)).collect()
    }

    /// Notes up to where another replica's log was received. After a crash it may be less: what is received again is known by
    /// its origin.
    pub fn note_received(&self, replica: ReplicaId, recno: Recno) {
        let mut memory = self.memory.write();
        let told = memory.heard.entry(replica).or_default();
        told.received = told.received.max(recno);
    }

    /// Objects that have a name, the root among them.
    pub fn objects(&self) -> u64 {
        self.memory.read().totals.objects
    }

    /// How much data there is, and how much of it is not here.
    pub fn data(&self) -> DataTotals {
        self.memory.read().totals.data
    }

    /// Files that lack bytes.
    pub fn lost(&self) -> u64 {
        let data = self.data();
        data.lost_files + data.absent_files
    }

    /// Up to `count` files behind `after`, in the order of their ids, that lack bytes, and whether those are absent.
    pub fn lacking(
        &self,
        after: Option<ObjectId>,
        count: usize,
    ) -> Result<Vec<(ObjectId, bool)>, StoreError> {
        let memory = self.memory.read();
        let layers: Vec<_> = memory.layers().collect();
        let changed: usize = layers.iter().map(|layer| layer.lacking.len()).sum();
        let mut found: BTreeMap<_, _> =
            memory.snapshot.lacking(after, count + changed)?.into_iter().collect();
        for (object, absent) in layers.iter().rev().flat_map(|layer| &layer.lacking) {
            match absent.filter(|_| after.is_none_or(|after| *object > after)) {
                Some(absent) => found.insert(*object, absent),
                None => found.remove(object),
            };
        }
        Ok(found.into_iter().take(count).collect())
    }

    /// Up to `count` objects behind `after`, in the order of their ids; fewer only at the end.
    pub fn objects_after(
        &self,
        after: Option<ObjectId>,
        count: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let memory = self.memory.read();
        let mut changed = BTreeMap::new();
        for layer in memory.layers().collect::<Vec<_>>().into_iter().rev() {
            let behind =
                layer.objects.iter().filter(|(object, _)| after.is_none_or(|after| **object > after));
            changed.extend(behind.map(|(object, entry)| (*object, entry.clone())));
        }
        let snapshot = memory.snapshot.clone();
        drop(memory);
        let mut found: BTreeMap<_, _> = snapshot
            .objects(after, count + changed.len())?
            .into_iter()
            .map(|entry| (entry.object, Some(Arc::new(entry))))
            .collect();
        found.extend(changed);
        Ok(found.into_values().flatten().take(count).collect())
    }

    /// When somebody opened the object last, in milliseconds since 1970; 0 where that is not known.
    pub fn used(&self, object: ObjectId) -> Result<u64, StoreError> {
        Ok(self.memory.read().used(object)?.unwrap_or(0))
    }

    /// Notes that somebody opened the object, in milliseconds since 1970.
    pub fn note_used(&self, object: ObjectId, used: u64) {
        self.memory.write().live.used.insert(object, Some(used));
    }

    /// Bytes and files in the attic.
    pub fn attic_size(&self) -> (u64, u64) {
        let totals = self.memory.read().totals;
        (totals.attic_bytes, totals.attic_files)
    }

    /// The object's entry, also where it has no name left but is still open.
    pub fn entry(&self, object: ObjectId) -> Result<Option<Arc<Entry>>, StoreError> {
        let snapshot = {
            let memory = self.memory.read();
            match memory.entry_in_layers(object) {
                Some(found) => return Ok(found),
                None => match self.cache.lock().get(object) {
                    Some(entry) => return Ok(Some(entry)),
                    None => memory.snapshot.clone(),
                },
            }
        };
        let Some(entry) = snapshot.entry(object)?.map(Arc::new) else { return Ok(None) };
        // A layer may have changed it meanwhile; what a cache holds is only looked at after the layers, and a
        // layer's keys are taken out of it when the layer is dropped.
        let memory = self.memory.read();
        if Arc::ptr_eq(&memory.snapshot, &snapshot) {
            self.cache.lock().put(entry.clone());
        }
        Ok(memory.entry_in_layers(object).unwrap_or(Some(entry)))
    }

    /// Which object an inode of the host is, as far as it is known.
    pub fn by_inode(&self, inode: u64) -> Result<Option<ObjectId>, StoreError> {
        self.memory.read().by_inode(inode)
    }

    /// The number that an inode of the host is shown with. An object keeps the one it had when it becomes another inode, until the
    /// index is made again.
    pub fn number(&self, inode: u64) -> u64 {
        self.memory.read().number(inode)
    }

    /// What stands at `name` in `parent`.
    pub fn child(&self, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>, StoreError> {
        self.memory.read().child(parent, name)
    }

    /// The entries of `parent`, in the order of their names.
    pub fn children(&self, parent: ObjectId) -> Result<BTreeMap<Name, ObjectId>, StoreError> {
        self.memory.read().children(parent)
    }

    /// The path of an object from the root, by its first name; empty for the root, and for what has no name.
    pub fn path(&self, object: ObjectId) -> Result<Vec<u8>, StoreError> {
        let mut names = Vec::new();
        let mut at = object;
        // A chain of parents is as long as the tree is deep; more steps than objects would be a circle.
        for _ in 0..=self.objects() {
            let Some(place) = self.entry(at)?.and_then(|entry| entry.places.first().cloned()) else { break };
            at = place.parent;
            names.push(place.name);
        }
        Ok(names.iter().rev().fold(Vec::new(), |path, name| join(&path, name.as_bytes())))
    }

    /// Takes in what a record changed. The caller holds the order, and the record is in the log.
    pub fn apply(&self, record: &Record, local: Local) -> Result<(), StoreError> {
        let mut memory = self.memory.write();
        Fold { memory: &mut memory, cache: &self.cache }.apply(record, local)
    }

    /// Takes in what only the host knows of an object: its inode, or the ctime that tree and log agree on.
    pub fn met(&self, object: ObjectId, host: Option<HostId>, host_ctime: Time) -> Result<(), StoreError> {
        let mut memory = self.memory.write();
        let now = host.as_ref().map(|host| host.inode);
        if let Some(inode) = now {
            memory.live.inodes.insert(inode, Some(object));
        }
        let mut before = None;
        memory.update(object, &self.cache, |entry| {
            entry.host_ctime = host_ctime;
            before = entry.host.as_ref().map(|host| host.inode);
            entry.host = host.or(entry.host.take());
        })?;
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            memory.exchange_numbers(before, now);
        }
        Ok(())
    }

    /// Notes what a file lacks of its bytes.
    pub fn set_lacking(&self, object: ObjectId, lacking: Lacking) -> Result<(), StoreError> {
        let marks = (lacking != Lacking::Nothing, lacking == Lacking::Absent);
        let set = |entry: &mut Entry| (entry.lost, entry.absent) = marks;
        self.memory.write().update(object, &self.cache, set).map(drop)
    }

    /// Keeps an object that never had a name, for those who have it open.
    pub fn keep_orphan(&self, entry: Entry) {
        self.memory.write().orphans.insert(entry.object, Arc::new(entry));
    }

    /// Drops an object that has no name, since nobody has it open any more.
    pub fn drop_orphan(&self, object: ObjectId) {
        self.memory.write().orphans.remove(&object);
    }

    /// Whether any object has lost its last name and is kept for those who have it open.
    pub fn has_orphans(&self) -> bool {
        !self.memory.read().orphans.is_empty()
    }

    /// Whether the object has lost its last name and is kept for those who have it open.
    pub fn is_orphan(&self, object: ObjectId) -> bool {
        self.memory.read().orphans.contains_key(&object)
    }

    /// Tells that the attic holds one more file.
    pub fn kept(&self, kept: Kept, bytes: u64) {
        let mut memory = self.memory.write();
        memory.live.attic.insert(kept, Some(bytes));
        memory.live.kept.insert(kept.version, Some(kept.since));
        memory.totals.attic_bytes += bytes;
        memory.totals.attic_files += 1;
    }

    /// Tells how many bytes the attic's file has by now; nothing where it has none of this version.
    pub fn resize_kept(&self, version: DataVersion, bytes: u64) -> Result<(), StoreError> {
        let mut memory = self.memory.write();
        let Some(since) = memory.kept_since(version)? else { return Ok(()) };
        let kept = Kept { since, version };
        let before = memory.kept_bytes(&kept)?;
        if before != bytes {
            memory.live.attic.insert(kept, Some(bytes));
            memory.totals.attic_bytes = (memory.totals.attic_bytes + bytes).saturating_sub(before);
        }
        Ok(())
    }

    /// Whether the attic holds the version.
    pub fn is_kept(&self, version: DataVersion) -> Result<bool, StoreError> {
        Ok(self.memory.read().kept_since(version)?.is_some())
    }

    /// Tells that the attic has given up a file.
    pub fn given_up(&self, version: DataVersion) -> Result<(), StoreError> {
        let mut memory = self.memory.write();
        let Some(since) = memory.kept_since(version)? else { return Ok(()) };
        let kept = Kept { since, version };
        let bytes = memory.kept_bytes(&kept)?;
        memory.live.attic.insert(kept, None);
        memory.live.kept.insert(version, None);
        memory.totals.attic_bytes = memory.totals.attic_bytes.saturating_sub(bytes);
        memory.totals.attic_files = memory.totals.attic_files.saturating_sub(1);
        Ok(())
    }

    /// Up to `count` files that have been in the attic longest, with their sizes.
    pub fn oldest_kept(&self, count: usize) -> Result<Vec<(Kept, u64)>, StoreError> {
        let memory = self.memory.read();
        let gone: usize =
            memory.layers().map(|layer| layer.attic.values().filter(|v| v.is_none()).count()).sum();
        let mut found: BTreeMap<Kept, u64> = memory.snapshot.oldest_kept(count + gone)?.into_iter().collect();
        let layers: Vec<&Layer> = memory.layers().collect();
        for layer in layers.into_iter().rev() {
            for (kept, bytes) in &layer.attic {
                match bytes {
                    Some(bytes) => found.insert(*kept, *bytes),
                    None => found.remove(kept),
                };
            }
        }
        Ok(found.into_iter().take(count).collect())
    }

    /// The file as it was written last.
    pub fn view(&self) -> Result<View, StoreError> {
        let _writing = self.writing.lock();
        let snapshot = self.memory.read().snapshot.clone();
        Ok(View { snapshot, heard: self.store.heard()? })
    }

    /// Changes that are not in the file yet: what `write_behind` would write.
    pub fn pending(&self) -> usize {
        self.memory.read().live.len()
    }

    /// Writes what changed to the file, while others go on. With `durable`, all of it survives a power loss.
    pub fn write_behind(&self, durable: bool) -> Result<(), StoreError> {
        self.write_behind_after(durable, || Ok(()))
    }

    /// The same, once `then` has succeeded, which is called when it is settled what is written.
    pub(crate) fn write_behind_after<E: From<StoreError>>(
        &self,
        durable: bool,
        then: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _one_at_a_time = self.writing.lock();
        let (layer, totals, heard) = {
            let mut memory = self.memory.write();
            if memory.live.len() == 0 && !durable && memory.totals == memory.snapshot.totals {
                return Ok(());
            }
            let layer = Arc::new(std::mem::take(&mut memory.live));
            memory.frozen = Some(layer.clone());
            (layer, memory.totals, memory.heard.clone())
        };
        let write = || self.store.merge(&layer, totals, &heard, durable).and_then(|()| self.store.snapshot());
        let result = then().and_then(|()| Ok(write()?));
        let mut memory = self.memory.write();
        match result {
            Ok(snapshot) => {
                let mut cache = self.cache.lock();
                layer.objects.iter().for_each(|(object, entry)| cache.replace(*object, entry.clone()));
                memory.snapshot = Arc::new(snapshot);
                memory.frozen = None;
                Ok(())
            }
            Err(error) => {
                // Nothing is lost: the layer goes back below what came meanwhile.
                memory.frozen = None;
                let newer = std::mem::replace(&mut memory.live, Layer::clone(&layer));
                memory.live.cover(newer);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Handle;

    /// An object that becomes inode after inode is shown as the first, and no two inodes are ever shown as the same.
    #[test]
    fn an_object_keeps_its_number_and_numbers_are_nobody_else_s() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let mut index = Index::open(&path).unwrap();
        for inode in [5, 7, 6, 5, 7, 9, 5] {
            let handle = Handle::from_bytes(&[1, 0, 0, 0, inode as u8]).unwrap();
            let host = HostId { inode, born: Time::default(), handle };
            index.met(ObjectId::ROOT, Some(host), Time::default()).unwrap();
            assert_eq!(index.number(inode), 5);
            let mut shown: Vec<u64> = (0..20).map(|inode| index.number(inode)).collect();
            shown.sort_unstable();
            assert!(shown.into_iter().eq(0..20));
            let before: Vec<u64> = (0..20).map(|inode| index.number(inode)).collect();
            index.write_behind(true).unwrap();
            drop(index);
            index = Index::open(&path).unwrap();
            assert!((0..20).map(|inode| index.number(inode)).eq(before));
        }
    }
}
