//! What was changed behind the mount and taken in: whoever was told of it before was told what is not so any more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use mezzo_core::record::Displaced;
use mezzo_core::{Change, ObjectId, Place};
use parking_lot::Mutex;

/// Names and objects that are remembered between two times that they are asked for. Beyond, all counts as outdated: 100,000
/// take 10 MB, and as many are taken in in a few seconds.
const MOST: usize = 100_000;

/// Names and objects of which users may have been told something else.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Names that lead elsewhere, or nowhere, or somewhere at last.
    pub names: HashSet<Place>,
    /// Objects with other attributes or data, and directories with other entries.
    pub objects: HashSet<ObjectId>,
    /// There was too much to remember: anything may be outdated.
    pub all: bool,
}

/// Gathers what is outdated, for one who asks for it from time to time.
#[derive(Debug, Default)]
pub(crate) struct Outdated {
    /// Somebody asks.
    wanted: AtomicBool,
    told: Mutex<Told>,
}

impl Outdated {
    /// Takes in a change that users did not make.
    pub fn add(&self, change: &Change) {
        if self.wanted.load(Ordering::Relaxed) {
            self.told.lock().add(change);
        }
    }

    /// The object's attributes changed, and no record tells of it yet.
    pub fn add_object(&self, object: ObjectId) {
        if self.wanted.load(Ordering::Relaxed) {
            self.told.lock().objects.insert(object);
        }
    }

    /// What was gathered since the last call. From the first call on, it is.
    pub fn take(&self) -> Told {
        self.wanted.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.told.lock())
    }
}

impl Told {
    fn add(&mut self, change: &Change) {
        if self.names.len() + self.objects.len() >= MOST {
            *self = Told { all: true, ..Told::default() };
        }
        if self.all {
            return;
        }
        match change {
            Change::Make { object, place, .. } | Change::Link { object, place, .. } => {
                self.name(place);
                self.objects.insert(*object);
            }
            Change::Remove { removed, place, .. } => {
                self.name(place);
                self.objects.insert(removed.object);
            }
            Change::Rename { object, from, to, displaced, .. } => {
                self.name(from);
                self.name(to);
                self.objects.insert(*object);
                if let Displaced::Exchanged { object, .. } = displaced {
                    self.objects.insert(*object);
                }
            }
            Change::Setattr { object, .. } | Change::Xattr { object, .. } | Change::Close { object, .. } => {
                self.objects.insert(*object);
            }
            _ => {}
        }
    }

    fn name(&mut self, place: &Place) {
        self.names.insert(place.clone());
        self.objects.insert(place.parent);
    }
}
