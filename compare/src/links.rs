//! Which names are links to one object, in both trees.
//!
//! Two trees have the same hard links if pairing the objects that share a name is one-to-one. So for each object
//! with further names, the object of the other tree that its first name led to is kept, until all its names were
//! seen: memory grows with hard links, not with files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::both::Both;
use crate::object::{Identity, Object};

/// What the names of an object led to so far.
#[derive(Debug)]
struct Partner {
    identity: Identity,
    first_path: Vec<u8>,
    /// Names of the object that were not seen yet; some may be outside of the tree.
    names_left: u64,
}

/// The pairs of objects that share names.
#[derive(Debug, Default)]
pub(crate) struct Links {
    of_a: HashMap<Identity, Partner>,
    of_b: HashMap<Identity, Partner>,
}

/// What a further name of an object says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// These two objects share a name for the first time.
    First,
    /// These two objects share another name already.
    Again,
    /// In A, or in B, or in each, it is a link to what is at another name, and in the other tree it is not.
    Unequal {
        /// The name that it is a link to in A, and not in B.
        only_in_a: Option<Vec<u8>>,
        /// The name that it is a link to in B, and not in A.
        only_in_b: Option<Vec<u8>>,
    },
}

impl Links {
    /// Takes a name that leads to one of `objects` in each tree.
    pub(crate) fn see(&mut self, path: &[u8], objects: &Both<Object>) -> Verdict {
        let Both { a, b } = objects;
        let partner_of_a = see_one(&mut self.of_a, a, b.identity(), path);
        let partner_of_b = see_one(&mut self.of_b, b, a.identity(), path);
        let only_in_a = partner_of_a.as_ref().filter(|(identity, _)| *identity != b.identity());
        let only_in_b = partner_of_b.as_ref().filter(|(identity, _)| *identity != a.identity());
        match (only_in_a, only_in_b) {
            (None, None) if partner_of_a.is_none() && partner_of_b.is_none() => Verdict::First,
            (None, None) => Verdict::Again,
            (only_in_a, only_in_b) => Verdict::Unequal {
                only_in_a: only_in_a.map(|(_, path)| path.clone()),
                only_in_b: only_in_b.map(|(_, path)| path.clone()),
            },
        }
    }
}

/// What the first name of an object led to, if this one is not the first.
fn see_one(
    partners: &mut HashMap<Identity, Partner>,
    object: &Object,
    other: Identity,
    path: &[u8],
) -> Option<(Identity, Vec<u8>)> {
    if !object.has_links() {
        return None;
    }
    match partners.entry(object.identity()) {
        Entry::Vacant(vacant) => {
            vacant.insert(Partner {
                identity: other,
                first_path: path.to_vec(),
                names_left: object.stat.st_nlink - 1,
            });
            None
        }
        Entry::Occupied(mut occupied) => {
            let partner = occupied.get_mut();
            let seen = (partner.identity, partner.first_path.clone());
            partner.names_left = partner.names_left.saturating_sub(1);
            if partner.names_left == 0 {
                occupied.remove();
            }
            Some(seen)
        }
    }
}
