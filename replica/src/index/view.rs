//! The index file as it was at one moment, whatever is written to it afterwards.

use std::sync::Arc;

use mezzo_core::{Name, ObjectId, Origin, Recno};

use super::entry::Entry;
use super::store::{Heard, Snapshot, StoreError};

/// The index as its file had it.
pub struct View {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) heard: Heard,
}

impl View {
    /// The last record that it knows of.
    pub fn applied(&self) -> Recno {
        self.snapshot.totals.applied
    }

    /// Of each replica, the newest of its records that it knows of.
    pub fn heads(&self) -> Vec<Origin> {
        let made = self.heard.iter().filter(|(_, told)| told.made.0 > 0);
        made.map(|(replica, told)| Origin::new(*replica, told.made)).collect()
    }

    /// How many names there are.
    pub fn names(&self) -> Result<u64, StoreError> {
        self.snapshot.names()
    }

    /// The object's entry.
    pub fn entry(&self, object: ObjectId) -> Result<Option<Entry>, StoreError> {
        self.snapshot.entry(object)
    }

    /// What is in a directory.
    pub fn children(&self, parent: ObjectId, found: impl FnMut(Name, ObjectId)) -> Result<(), StoreError> {
        self.snapshot.children(parent, found)
    }
}
