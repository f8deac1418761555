//! What every way of showing a change asks of it.

use mezzo_core::record::Removed;
use mezzo_core::{Attributes, Change, ObjectId};

/// Every word of [`Change::kind`].
pub const KINDS: [&str; 20] = [
    "create",
    "mkdir",
    "symlink",
    "mknod",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "setattr",
    "setxattr",
    "removexattr",
    "close",
    "digest",
    "noop",
    "disable",
    "amend",
    "alias",
    "epoch",
    "undo",
    "snapshot",
];

/// Where a change took place, by the paths that it keeps for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths<'a> {
    /// It has to do with no place.
    None,
    /// It changed the fileset's own directory.
    Root,
    /// It changed a file that had no name left.
    Nameless,
    /// It took place here.
    At(&'a [u8]),
    /// It led from one place to another.
    Moved(&'a [u8], &'a [u8]),
}

impl<'a> Paths<'a> {
    /// Those of `change`, or of the change that it wraps.
    pub fn of(change: &'a Change) -> Paths<'a> {
        match change {
            Change::Make { object, path, .. }
            | Change::Link { object, path, .. }
            | Change::Remove { removed: Removed { object, .. }, path, .. }
            | Change::Setattr { object, path, .. }
            | Change::Xattr { object, path, .. }
            | Change::Close { object, path, .. } => Paths::one(*object, path),
            Change::Rename { from_path, to_path, .. } => Paths::Moved(from_path, to_path),
            Change::Amend { change, .. } | Change::UndoOf { change, .. } => Paths::of(change),
            Change::Digest { .. }
            | Change::Noop
            | Change::Disable { .. }
            | Change::Alias { .. }
            | Change::Epoch { .. }
            | Change::Snapshot { .. } => Paths::None,
        }
    }

    fn one(object: ObjectId, path: &'a [u8]) -> Paths<'a> {
        match path {
            [] if object == ObjectId::ROOT => Paths::Root,
            [] => Paths::Nameless,
            path => Paths::At(path),
        }
    }

    /// Whether one of them is `path` or below it.
    pub fn touch(self, path: &[u8]) -> bool {
        let below = |told: &[u8]| told.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        match self {
            Paths::None | Paths::Root | Paths::Nameless => false,
            Paths::At(told) => below(told),
            Paths::Moved(from, to) => below(from) || below(to),
        }
    }
}

/// The change that an undo or an amendment wraps, or itself.
pub fn innermost(change: &Change) -> &Change {
    match change {
        Change::Amend { change, .. } | Change::UndoOf { change, .. } => innermost(change),
        change => change,
    }
}

/// The attributes of an object that lost a name, after; `None` where it was its last.
pub fn left(removed: &Removed) -> Option<Attributes> {
    let attributes = removed.state.attributes;
    (removed.links_left > 0).then_some(Attributes {
        links: removed.links_left,
        ctime: removed.ctime_after,
        ..attributes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::samples;

    #[test]
    fn every_kind_is_listed_once_and_has_a_sample() {
        let mut told: Vec<&str> = samples::all().iter().map(|record| record.change.kind()).collect();
        let mut listed = KINDS.to_vec();
        told.sort_unstable();
        told.dedup();
        listed.sort_unstable();
        assert_eq!(told, listed);
    }

    #[test]
    fn what_a_path_touches() {
        let check =
            |told: Paths<'_>, path: &[u8], expected| assert_eq!(told.touch(path), expected, "{told:?}");
        check(Paths::At(b"a"), b"a", true);
        check(Paths::At(b"a/b"), b"a", true);
        check(Paths::At(b"ab"), b"a", false);
        check(Paths::At(b"a"), b"a/b", false);
        check(Paths::Moved(b"a/b", b"c"), b"a", true);
        check(Paths::Moved(b"c", b"a/b"), b"a/b", true);
        check(Paths::Moved(b"c", b"d"), b"a", false);
        check(Paths::None, b"a", false);
        check(Paths::Root, b"a", false);
        check(Paths::Nameless, b"a", false);
    }
}
