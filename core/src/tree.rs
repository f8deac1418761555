//! The tree that a log describes, in memory: records in, objects and names out.
//!
//! A tree is what a log says there should be. It is compared with a host's tree to verify it, and it is what a second
//! implementation of "apply a record" is measured against, so it stays as plain as it can be.
//!
//! What is checked is identity and structure: that ids and names are where the record says, that a directory is empty
//! before it goes, that nothing is moved below itself. Attributes *before* a change are not: a file that is being
//! written has a size and times that no record tells of until its close, and reading moves `atime` without a record.

use std::collections::btree_map;
use std::collections::{HashMap, HashSet};

use crate::attributes::{Attributes, Device, Kind, State};
use crate::id::{ObjectId, Origin};
use crate::name::{Name, Place};
use crate::time::Time;

mod apply;
mod difference;
mod mismatch;
mod object;
#[cfg(test)]
mod tests;

pub use difference::{Difference, Field, Side, Sort, TimesAre, differences};
pub use mismatch::{Mismatch, Trouble};
pub use object::Object;

/// The objects and names that a log describes after some of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    objects: HashMap<ObjectId, Box<Object>>,
    aliases: HashMap<ObjectId, ObjectId>,
    disabled: HashSet<Origin>,
    amended: HashSet<Origin>,
    root_told: RootTold,
}

/// What records have told of the root, which no record makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootTold {
    /// Mode, owner and all the rest, by a change of attributes.
    pub attributes: bool,
    /// At least mtime and ctime, by a change of an entry.
    pub times: bool,
}

/// What the root is until a record tells of it: a directory of user and group 0 with mode 0755 and all times 0.
const ROOT: Attributes = Attributes {
    kind: Kind::Directory,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    links: 1,
    device: Device { major: 0, minor: 0 },
    atime: Time::new(0, 0),
    mtime: Time::new(0, 0),
    ctime: Time::new(0, 0),
};

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// A root with nothing in it. Its state is a stand-in until records tell of it: see [`Tree::root_told`].
    pub fn new() -> Tree {
        let state = State { attributes: ROOT, target: Box::default(), xattrs: Vec::new(), data: None };
        Tree {
            objects: HashMap::from([(ObjectId::ROOT, Box::new(Object::new(state)))]),
            aliases: HashMap::new(),
            disabled: HashSet::new(),
            amended: HashSet::new(),
            root_told: RootTold::default(),
        }
    }

    /// The root.
    pub fn root(&self) -> &Object {
        &self.objects[&ObjectId::ROOT]
    }

    /// How much of the root's state comes from records and not from [`Tree::new`].
    pub fn root_told(&self) -> RootTold {
        self.root_told
    }

    /// The object `id`, also under an id that an alias took out of use.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&self.id(id)).map(Box::as_ref)
    }

    /// The id that stands for `id`: itself, unless an alias was recorded.
    pub fn id(&self, id: ObjectId) -> ObjectId {
        if self.aliases.is_empty() { id } else { self.follow(id) }
    }

    /// How many objects there are, with the root.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Never: the root is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Every object, in no order.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object.as_ref()))
    }

    /// The entries of directory `id`, sorted by the bytes of their names; none for anything else.
    pub fn children(&self, id: ObjectId) -> Children<'_> {
        Children(self.object(id).map(|object| object.entries().iter()).unwrap_or_default())
    }

    /// What stands at `place`.
    pub fn at(&self, place: &Place) -> Option<ObjectId> {
        self.object(place.parent)?.entries().get(&place.name).copied()
    }

    /// What stands at `path`, whose names are separated by slashes; the empty path is the root.
    pub fn find(&self, path: &[u8]) -> Option<ObjectId> {
        path.split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(ObjectId::ROOT, |parent, name| self.at(&Place::new(parent, Name::new(name).ok()?)))
    }

    /// The path of object `id` by its first place; `None` where it has no name.
    pub fn path(&self, id: ObjectId) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = self.id(id);
        while at != ObjectId::ROOT {
            let place = self.object(at)?.places().first()?;
            names.push(place.name.as_bytes());
            at = place.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Whether a record said that the record made at `origin` counts no more. The tree has its change all the same:
    /// what takes it back are records of their own.
    pub fn is_disabled(&self, origin: Origin) -> bool {
        self.disabled.contains(&origin)
    }

    /// Whether a record said that the record made at `origin` counts as another.
    pub fn is_amended(&self, origin: Origin) -> bool {
        self.amended.contains(&origin)
    }

    fn follow(&self, mut id: ObjectId) -> ObjectId {
        // An alias never leads to itself, because it is recorded between resolved ids only.
        while let Some(stands_for) = self.aliases.get(&id) {
            id = *stands_for;
        }
        id
    }
}

/// The entries of one directory, in the order of their names' bytes.
#[derive(Clone, Debug, Default)]
pub struct Children<'a>(btree_map::Iter<'a, Name, ObjectId>);

impl<'a> Iterator for Children<'a> {
    type Item = (&'a Name, ObjectId);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, id)| (name, *id))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Children<'_> {}
