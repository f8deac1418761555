//! A thing of each of the two trees.

use crate::Side;

/// The same kind of thing from tree A and from tree B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Both<T> {
    pub(crate) a: T,
    pub(crate) b: T,
}

impl<T> Both<T> {
    /// Makes one for each side; the first failure ends it.
    pub(crate) fn try_each<E>(mut make: impl FnMut(Side) -> Result<T, E>) -> Result<Both<T>, E> {
        Ok(Both { a: make(Side::A)?, b: make(Side::B)? })
    }

    /// The one of a side.
    pub(crate) fn of(&self, side: Side) -> &T {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }
}
