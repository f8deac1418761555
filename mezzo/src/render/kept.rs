//! Whether a version of data can still be had.

use mezzo_replica::versions;

/// Where a version can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the tree, or in the attic.
    In(versions::Kept),
    /// Everywhere: it has no bytes.
    Empty,
    /// Nowhere.
    Nowhere,
}

impl Kept {
    /// The word for it in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Kept::In(versions::Kept::Tree) => "tree",
            Kept::In(versions::Kept::Attic) => "attic",
            Kept::Empty => "empty",
            Kept::Nowhere => "nowhere",
        }
    }

    /// What people are told; nothing of what has no bytes.
    pub fn text(self) -> Option<&'static str> {
        match self {
            Kept::In(versions::Kept::Tree) => Some("in the tree"),
            Kept::In(versions::Kept::Attic) => Some("in the attic"),
            Kept::Empty => None,
            Kept::Nowhere => Some("not kept"),
        }
    }
}
