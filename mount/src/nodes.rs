//! What the kernel refers to by node numbers.
//!
//! A walk makes the kernel know millions of objects at once, so that one takes 32 bytes here, and 5 to 10 more in the table
//! that finds it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use mezzo_core::ObjectId;
use parking_lot::RwLock;

/// The kernel's number of the root.
pub const ROOT: u64 = 1;

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// An object of the fileset.
    Object(ObjectId),
    /// `.mezzo`, which shows `elsewhere` alone.
    Own,
    /// Something in `.mezzo`, by its path there: `elsewhere`, and what is below it.
    Elsewhere(Arc<PathBuf>),
}

/// Nodes that the kernel has, each with the number of times it was told of it. Numbers are never used twice.
#[derive(Debug)]
pub struct Nodes {
    objects: RwLock<Objects>,
    others: RwLock<Others>,
}

/// An object's number is its place and, above it, how often the place was used before.
#[derive(Debug)]
struct Objects {
    places: Vec<Place>,
    free: Vec<u32>,
    by_object: HashTable<u32>,
    hasher: RandomState,
    /// By numbers of which the object is another inode of the host by now: what leads to the one that it was.
    formers: HashMap<u64, Arc<OwnedFd>>,
    /// Those of them that nobody has asked about, by object.
    untold: HashMap<ObjectId, Vec<u64>>,
}

#[derive(Debug)]
struct Place {
    object: ObjectId,
    /// Times that the kernel was told of it, and [`HELD`]; 0 where nothing is here.
    lookups: AtomicU64,
    uses: u32,
}

/// The object is kept for the kernel.
const HELD: u64 = 1 << 63;

/// Nodes that are not objects, of which there are few.
#[derive(Debug, Default)]
struct Others {
    by_number: HashMap<u64, (Node, u64)>,
    by_node: HashMap<Node, u64>,
    made: u64,
}

/// In the numbers of what is no object.
const OTHER: u64 = 1 << 63;

impl Nodes {
    /// The root alone, which the kernel never forgets.
    pub fn new() -> Nodes {
        let mut objects = Objects {
            places: Vec::new(),
            free: Vec::new(),
            by_object: HashTable::new(),
            hasher: RandomState::new(),
            formers: HashMap::new(),
            untold: HashMap::new(),
        };
        let root = objects.insert(ObjectId::ROOT);
        debug_assert_eq!(root, ROOT);
        Nodes { objects: RwLock::new(objects), others: RwLock::default() }
    }

    /// What `number` stands for.
    pub fn get(&self, number: u64) -> Option<Node> {
        if number & OTHER != 0 {
            return self.others.read().by_number.get(&number).map(|(node, _)| node.clone());
        }
        self.objects.read().place(number).map(|place| Node::Object(place.object))
    }

    /// The number of `node`, which the kernel is about to be told of once more.
    pub fn look_up(&self, node: Node) -> u64 {
        let Node::Object(object) = node else { return self.others.write().look_up(node) };
        if let Some(number) = self.objects.read().look_up(object) {
            return number;
        }
        let mut objects = self.objects.write();
        objects.look_up(object).unwrap_or_else(|| objects.insert(object))
    }

    /// The number that the kernel knows the object by.
    pub fn number_of(&self, object: ObjectId) -> Option<u64> {
        let objects = self.objects.read();
        objects.find(object).map(|index| objects.number_of(index))
    }

    /// Has the object be kept until the kernel forgets it; false where the kernel does not know it, or it is held already.
    pub fn hold(&self, object: ObjectId) -> bool {
        let objects = self.objects.read();
        objects
            .find(object)
            .is_some_and(|index| objects.places[index].lookups.fetch_or(HELD, Ordering::Relaxed) & HELD == 0)
    }

    /// The object need not be kept for the kernel after all; false where it was not.
    pub fn let_go(&self, object: ObjectId) -> bool {
        let objects = self.objects.read();
        objects.find(object).is_some_and(|index| {
            objects.places[index].lookups.fetch_and(!HELD, Ordering::Relaxed) & HELD != 0
        })
    }

    /// The object gets another number, as if the kernel was told of it once: it is about to be another inode of the host, and the
    /// kernel takes a node's data from one. What it has by the number that it knows stays what `former` leads to.
    pub fn replace(&self, object: ObjectId, former: Arc<OwnedFd>) -> u64 {
        let mut objects = self.objects.write();
        let Some(index) = objects.detach(object) else { return objects.insert(object) };
        let before = objects.number_of(index);
        let held = objects.places[index].lookups.fetch_and(!HELD, Ordering::Relaxed) & HELD;
        objects.formers.insert(before, former);
        objects.untold.entry(object).or_default().push(before);
        let number = objects.insert(object);
        if let Some(index) = index_of(number) {
            *objects.places[index].lookups.get_mut() |= held;
        }
        number
    }

    /// What leads to the inode of the host that a node stands for, where its object is another inode by now.
    pub fn former(&self, number: u64) -> Option<Arc<OwnedFd>> {
        self.objects.read().formers.get(&number).cloned()
    }

    /// The numbers that the object had before it became another inode, since this was asked last.
    pub fn replaced(&self, object: ObjectId) -> Vec<u64> {
        if self.objects.read().untold.is_empty() {
            return Vec::new();
        }
        self.objects.write().untold.remove(&object).unwrap_or_default()
    }

    /// The kernel forgets the node `lookups` times. Returns the object that was kept for it, once it knows it no more.
    pub fn forget(&self, number: u64, lookups: u64) -> Option<ObjectId> {
        if number == ROOT {
            return None;
        }
        if number & OTHER != 0 {
            self.others.write().forget(number, lookups);
            return None;
        }
        if self.objects.read().forget(number, lookups)? {
            // Another lookup may have come between the count and the lock.
            return self.objects.write().remove_if_forgotten(number);
        }
        None
    }
}

impl Objects {
    fn place(&self, number: u64) -> Option<&Place> {
        let place = self.places.get(index_of(number)?)?;
        (u64::from(place.uses) == number >> 32 && place.lookups.load(Ordering::Relaxed) != 0).then_some(place)
    }

    fn number_of(&self, index: usize) -> u64 {
        u64::from(self.places[index].uses) << 32 | (index as u64 + 1)
    }

    fn find(&self, object: ObjectId) -> Option<usize> {
        let hash = self.hasher.hash_one(object);
        self.by_object
            .find(hash, |index| self.places[*index as usize].object == object)
            .map(|index| *index as usize)
    }

    fn look_up(&self, object: ObjectId) -> Option<u64> {
        let index = self.find(object)?;
        self.places[index].lookups.fetch_add(1, Ordering::Relaxed);
        Some(self.number_of(index))
    }

    /// An object that is not there, told of once.
    fn insert(&mut self, object: ObjectId) -> u64 {
        let index = match self.free.pop() {
            Some(index) => {
                let place = &mut self.places[index as usize];
                place.object = object;
                place.lookups = AtomicU64::new(1);
                index
            }
            None => {
                self.places.push(Place { object, lookups: AtomicU64::new(1), uses: 0 });
                u32::try_from(self.places.len() - 1).expect("the kernel has not room for so many nodes")
            }
        };
        let Objects { places, by_object, hasher, .. } = self;
        by_object.insert_unique(hasher.hash_one(object), index, |index| {
            hasher.hash_one(places[*index as usize].object)
        });
        self.number_of(index as usize)
    }

    /// The object is found by no number any more. Returns where it is.
    fn detach(&mut self, object: ObjectId) -> Option<usize> {
        let Objects { places, by_object, hasher, .. } = self;
        let found =
            by_object.find_entry(hasher.hash_one(object), |index| places[*index as usize].object == object);
        found.ok().map(|entry| entry.remove().0 as usize)
    }

    /// Whether that were all.
    fn forget(&self, number: u64, lookups: u64) -> Option<bool> {
        let before = self.place(number)?.lookups.fetch_sub(lookups, Ordering::Relaxed);
        Some(before & !HELD <= lookups)
    }

    fn remove_if_forgotten(&mut self, number: u64) -> Option<ObjectId> {
        let index = index_of(number)?;
        let place = &mut self.places[index];
        let lookups = *place.lookups.get_mut();
        if u64::from(place.uses) != number >> 32 || lookups & !HELD != 0 {
            return None;
        }
        let object = place.object;
        place.lookups = AtomicU64::new(0);
        // Where it could be used no more, it stays empty.
        if let Some(uses) = place.uses.checked_add(1).filter(|uses| u64::from(*uses) << 32 & OTHER == 0) {
            place.uses = uses;
            self.free.push(index as u32);
        }
        self.formers.remove(&number);
        // It may have another number by now.
        if self.find(object) == Some(index) {
            self.detach(object);
        }
        (lookups & HELD != 0).then_some(object)
    }
}

fn index_of(number: u64) -> Option<usize> {
    (number as u32).checked_sub(1).map(|index| index as usize)
}

impl Others {
    fn look_up(&mut self, node: Node) -> u64 {
        let number = *self.by_node.entry(node.clone()).or_insert_with(|| {
            self.made += 1;
            OTHER | self.made
        });
        self.by_number.entry(number).or_insert((node, 0)).1 += 1;
        number
    }

    fn forget(&mut self, number: u64, lookups: u64) {
        let Some((node, known)) = self.by_number.get_mut(&number) else { return };
        *known = known.saturating_sub(lookups);
        if *known == 0 {
            self.by_node.remove(node);
            self.by_number.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_core::{Origin, Recno, ReplicaId};

    #[test]
    fn a_node_lives_as_long_as_the_kernel_knows_it() {
        let nodes = Nodes::new();
        let node = Node::Object(ObjectId(Origin::new(ReplicaId(1), Recno(1))));
        let number = nodes.look_up(node.clone());
        assert_eq!(nodes.look_up(node.clone()), number);
        nodes.forget(number, 1);
        assert_eq!(nodes.get(number), Some(node.clone()));
        nodes.forget(number, 1);
        assert_eq!(nodes.get(number), None);
        assert_ne!(nodes.look_up(node), number, "numbers are never used twice");
    }

    #[test]
    fn what_is_held_is_told_when_it_is_forgotten() {
        let nodes = Nodes::new();
        let object = ObjectId(Origin::new(ReplicaId(1), Recno(1)));
        assert!(!nodes.hold(object), "the kernel does not know it");
        let number = nodes.look_up(Node::Object(object));
        assert_eq!(nodes.number_of(object), Some(number));
        assert_eq!((nodes.hold(object), nodes.hold(object)), (true, false));
        assert_eq!((nodes.let_go(object), nodes.let_go(object)), (true, false));
        nodes.hold(object);
        nodes.look_up(Node::Object(object));
        assert_eq!((nodes.forget(number, 1), nodes.forget(number, 1)), (None, Some(object)));
    }

    #[test]
    fn an_object_that_is_replaced_has_another_number_and_what_was_held_is_held() {
        let nodes = Nodes::new();
        let object = ObjectId(Origin::new(ReplicaId(1), Recno(1)));
        let former = nodes.look_up(Node::Object(object));
        nodes.hold(object);
        let reach: Arc<OwnedFd> = Arc::new(std::fs::File::open("/").unwrap().into());
        let current = nodes.replace(object, reach);
        assert_ne!(current, former);
        assert_eq!((nodes.number_of(object), nodes.look_up(Node::Object(object))), (Some(current), current));
        assert!([former, current].iter().all(|number| nodes.get(*number) == Some(Node::Object(object))));
        assert_eq!([former, current].map(|number| nodes.former(number).is_some()), [true, false]);
        assert_eq!((nodes.replaced(object), nodes.replaced(object)), (vec![former], vec![]));
        assert_eq!(nodes.forget(former, 1), None);
        assert!(nodes.get(former).is_none() && nodes.former(former).is_none());
        assert_eq!((nodes.forget(current, 1), nodes.forget(current, 1)), (None, Some(object)));
        assert_eq!(nodes.number_of(object), None);
    }

    #[test]
    fn a_place_is_used_again_under_another_number() {
        let nodes = Nodes::new();
        let object = |number| Node::Object(ObjectId(Origin::new(ReplicaId(1), Recno(number))));
        let numbers: Vec<_> = (1..1000).map(|number| nodes.look_up(object(number))).collect();
        numbers.iter().for_each(|number| assert_eq!(nodes.forget(*number, 1), None));
        let again: Vec<_> = (1..1000).map(|number| nodes.look_up(object(1000 - number))).collect();
        assert!(again.iter().all(|number| !numbers.contains(number)));
        assert!(numbers.iter().all(|number| nodes.get(*number).is_none()));
        assert!((1..1000).all(|number| nodes.get(again[number - 1]) == Some(object(1000 - number as u64))));
        assert_eq!(nodes.objects.read().places.len(), 1000);
    }

    #[test]
    fn the_root_stays() {
        let nodes = Nodes::new();
        nodes.forget(ROOT, 1);
        assert_eq!(nodes.get(ROOT), Some(Node::Object(ObjectId::ROOT)));
        let own = nodes.look_up(Node::Own);
        assert_ne!(own, nodes.look_up(Node::Elsewhere(Arc::new("elsewhere".into()))));
        assert_eq!(own, nodes.look_up(Node::Own));
    }
}
