//! Changes of the index that are not on disk yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mezzo_core::id::DataVersion;
use mezzo_core::{Name, ObjectId, Time};

use super::attic::Kept;
use super::entry::Entry;

/// What became of keys: a new value, or `None` for what is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub objects: HashMap<ObjectId, Option<Arc<Entry>>>,
    pub inodes: HashMap<u64, Option<ObjectId>>,
    pub numbers: HashMap<u64, Option<u64>>,
    pub names: BTreeMap<(ObjectId, Name), Option<ObjectId>>,
    pub attic: BTreeMap<Kept, Option<u64>>,
    pub kept: HashMap<DataVersion, Option<Time>>,
    /// Files that lack bytes, and whether those are absent.
    pub lacking: BTreeMap<ObjectId, Option<bool>>,
    /// When files were opened, in milliseconds since 1970.
    pub used: HashMap<ObjectId, Option<u64>>,
}

impl Layer {
    /// Keys in it: what writing it costs.
    pub fn len(&self) -> usize {
        self.objects.len() + self.names.len() + self.attic.len() + self.used.len()
    }

    /// Lays `newer` over this one.
    pub fn cover(&mut self, newer: Layer) {
        self.objects.extend(newer.objects);
        self.inodes.extend(newer.inodes);
        self.numbers.extend(newer.numbers);
        self.names.extend(newer.names);
        self.attic.extend(newer.attic);
        self.kept.extend(newer.kept);
        self.lacking.extend(newer.lacking);
        self.used.extend(newer.used);
    }
}
