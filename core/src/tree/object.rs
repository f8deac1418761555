//! One object of a tree: its state and where it stands. A tree may hold a million of them, so that each byte counts.

use std::collections::BTreeMap;
use std::slice;

use crate::attributes::{Kind, State};
use crate::id::ObjectId;
use crate::name::{Name, Place};

/// An object as the records left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub(super) state: State,
    pub(super) places: Places,
    // Boxed, and made with the first entry: most objects are files.
    #[expect(clippy::box_collection, reason = "it saves 16 bytes of every object that has no entries")]
    entries: Option<Box<BTreeMap<Name, ObjectId>>>,
}

/// Nearly every object has one place, which then needs no allocation of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Places {
    #[default]
    None,
    One(Place),
    Many(Vec<Place>),
}

impl Object {
    pub(super) fn new(state: State) -> Object {
        Object { state, places: Places::None, entries: None }
    }

    /// All that is known of it apart from its names.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it stands, oldest first. None for the root, and for an object whose last known name went while its record
    /// said that others are left.
    pub fn places(&self) -> &[Place] {
        match &self.places {
            Places::None => &[],
            Places::One(place) => slice::from_ref(place),
            Places::Many(places) => places,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.state.attributes.kind == Kind::Directory
    }

    /// The names in it; none for what is no directory.
    pub(super) fn entries(&self) -> &BTreeMap<Name, ObjectId> {
        static NONE: BTreeMap<Name, ObjectId> = BTreeMap::new();
        self.entries.as_deref().unwrap_or(&NONE)
    }

    pub(super) fn enter(&mut self, name: Name, child: ObjectId) {
        self.entries.get_or_insert_default().insert(name, child);
    }

    pub(super) fn leave(&mut self, name: &Name) {
        let Some(entries) = &mut self.entries else { return };
        entries.remove(name);
        if entries.is_empty() {
            self.entries = None;
        }
    }
}

impl Places {
    pub(super) fn add(&mut self, place: Place) {
        *self = match std::mem::take(self) {
            Places::None => Places::One(place),
            Places::One(first) => Places::Many(vec![first, place]),
            Places::Many(mut places) => {
                places.push(place);
                Places::Many(places)
            }
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        match self {
            Places::One(only) if only == place => *self = Places::None,
            Places::Many(places) => {
                places.retain(|other| other != place);
                if let [last] = places.as_slice() {
                    *self = Places::One(last.clone());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stays_small() {
        assert!(
            size_of::<Object>() <= 224,
            "{} bytes; a million objects have to fit 400 MiB",
            size_of::<Object>()
        );
    }

    #[test]
    fn places_are_added_and_removed() {
        let place = |name: &str| Place::new(ObjectId::ROOT, Name::new(name.as_bytes()).unwrap());
        let mut object = Object::new(crate::tree::Tree::new().root().state().clone());
        for name in ["a", "b", "c"] {
            object.places.add(place(name));
        }
        assert_eq!(object.places(), [place("a"), place("b"), place("c")]);
        object.places.remove(&place("b"));
        object.places.remove(&place("not there"));
        assert_eq!(object.places(), [place("a"), place("c")]);
        object.places.remove(&place("a"));
        assert_eq!(object.places(), [place("c")]);
        object.places.remove(&place("c"));
        assert!(object.places().is_empty());
    }
}
