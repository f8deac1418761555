//! A record that does not fit the tree it is applied to.

use crate::attributes::Kind;
use crate::id::{ObjectId, Origin, Recno};
use crate::name::Place;

/// Why a record was not applied. The tree is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {recno} ({kind}, made as {origin}) does not fit the tree: {trouble}")]
pub struct Mismatch {
    /// Its number.
    pub recno: Recno,
    /// Where it was first made.
    pub origin: Origin,
    /// The word for what it changes, as commands print it.
    pub kind: &'static str,
    /// What was expected, and what is there.
    pub trouble: Trouble,
}

/// What a record expected, and what the tree has instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// An object was expected, and there is none with its id.
    #[error("there is no object {0}")]
    NoObject(ObjectId),
    /// A new object was expected, and there is one with its id.
    #[error("there is an object {0} already")]
    ObjectExists(ObjectId),
    /// An object of one kind was expected, and it is of another.
    #[error("object {object} should be a {}, and is a {}", expected.word(), found.word())]
    WrongKind {
        /// The object.
        object: ObjectId,
        /// The kind it should have.
        expected: Kind,
        /// The kind it has.
        found: Kind,
    },
    /// A directory was given one more name, or data.
    #[error("object {0} is a directory, which can have neither a second name nor data")]
    IsDirectory(ObjectId),
    /// Something else, or nothing, stands at a place.
    #[error("{} in {} should be {}, and is {}", place.name, place.parent, told(*expected), told(*found))]
    WrongOccupant {
        /// The place.
        place: Place,
        /// What should stand there.
        expected: Option<ObjectId>,
        /// What does.
        found: Option<ObjectId>,
    },
    /// A directory was removed or replaced that has entries.
    #[error("directory {object} should be empty, and has {entries} entries")]
    NotEmpty {
        /// The directory.
        object: ObjectId,
        /// How many it has.
        entries: usize,
    },
    /// A directory was moved below itself.
    #[error("directory {object} would come to stand below itself, in {parent}")]
    Cycle {
        /// The directory.
        object: ObjectId,
        /// Where it was to go.
        parent: ObjectId,
    },
    /// The root was made, linked, moved, removed or made an alias.
    #[error("the root can be neither made, moved nor removed")]
    Root,
    /// A replaced object and the one that takes its name are the same, or a rename leads where it started.
    #[error("object {0} can't take its own place")]
    OwnPlace(ObjectId),
    /// An undo of an undo, or of an amendment: a change that may not stand within an undo.
    #[error("an undo holds another undo or an amendment")]
    Nested,
}

fn told(occupant: Option<ObjectId>) -> String {
    occupant.map_or_else(|| "free".to_owned(), |id| format!("object {id}"))
}
