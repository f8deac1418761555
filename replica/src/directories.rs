//! Descriptors of directories that are in use, a bounded number of them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mezzo_core::ObjectId;
use parking_lot::Mutex;

/// Descriptors in one generation. A process may have as few as 20,000 open, and two generations are kept.
const GENERATION: usize = 1024;

/// Two generations: what is used moves to the young one, and when that is full the old one is closed.
#[derive(Debug, Default)]
pub(crate) struct Directories(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<ObjectId, Arc<OwnedFd>>,
    old: HashMap<ObjectId, Arc<OwnedFd>>,
}

impl Directories {
    pub fn get(&self, object: ObjectId) -> Option<Arc<OwnedFd>> {
        let mut generations = self.0.lock();
        if let Some(directory) = generations.young.get(&object) {
            return Some(directory.clone());
        }
        let directory = generations.old.remove(&object)?;
        generations.put(object, directory.clone());
        Some(directory)
    }

    pub fn put(&self, object: ObjectId, directory: Arc<OwnedFd>) {
        self.0.lock().put(object, directory);
    }

    /// Closes the descriptor of a directory that is gone, so that the host can free it.
    pub fn forget(&self, object: ObjectId) {
        let mut generations = self.0.lock();
        generations.young.remove(&object);
        generations.old.remove(&object);
    }
}

impl Generations {
    fn put(&mut self, object: ObjectId, directory: Arc<OwnedFd>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(object, directory);
    }
}
