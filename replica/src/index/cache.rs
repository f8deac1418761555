//! Entries that were used lately, so that the index file is not asked for them again.

use std::collections::HashMap;
use std::sync::Arc;

use mezzo_core::ObjectId;

use super::entry::Entry;

/// Entries in one generation. An entry takes about 400 bytes, so that both generations stay below 16 MiB.
const GENERATION: usize = 16 << 10;

/// Two generations: what is used moves to the young one, and when that is full the old one is forgotten.
#[derive(Debug, Default)]
pub(super) struct Cache {
    young: HashMap<ObjectId, Arc<Entry>>,
    old: HashMap<ObjectId, Arc<Entry>>,
}

impl Cache {
    pub fn get(&mut self, object: ObjectId) -> Option<Arc<Entry>> {
        if let Some(entry) = self.young.get(&object) {
            return Some(entry.clone());
        }
        let entry = self.old.remove(&object)?;
        self.put(entry.clone());
        Some(entry)
    }

    pub fn put(&mut self, entry: Arc<Entry>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entry.object, entry);
    }

    /// What is known of `object` from now on; nothing, where it is no more.
    pub fn replace(&mut self, object: ObjectId, entry: Option<Arc<Entry>>) {
        self.old.remove(&object);
        self.young.remove(&object);
        if let Some(entry) = entry {
            self.put(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_core::tree::Tree;
    use mezzo_core::{Origin, Recno, ReplicaId};

    fn entry(number: u64) -> Arc<Entry> {
        let object = ObjectId(Origin::new(ReplicaId(1), Recno(number)));
        Arc::new(Entry::new(object, Tree::new().root().state().clone()))
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        for number in 0..5 * GENERATION as u64 {
            cache.put(entry(number));
            assert!(cache.get(entry(0).object).is_some(), "used all the time, gone after {number}");
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
        assert!(cache.get(entry(1).object).is_none());
    }
}
