//! Why two trees could not be compared.

use std::fmt;
use std::io;

use crate::escape;

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::A => "A",
            Side::B => "B",
        })
    }
}

/// Why two trees could not be compared; nothing is said then about whether they are equal.
#[derive(Debug)]
pub enum Trouble {
    /// A system call failed.
    Io {
        /// What was tried, as in "could not …".
        operation: &'static str,
        /// In which tree.
        side: Side,
        /// Where, relative to the root of the tree.
        path: Vec<u8>,
        /// Why.
        cause: io::Error,
    },
    /// A and B are one directory; it would be equal to itself, whatever it holds.
    SameDirectory,
    /// Something was not what it was a moment ago.
    Changed {
        /// In which tree.
        side: Side,
        /// Where, relative to the root of the tree.
        path: Vec<u8>,
    },
}

impl Trouble {
    pub(crate) fn io(
        operation: &'static str,
        side: Side,
        path: &[u8],
        cause: impl Into<io::Error>,
    ) -> Trouble {
        Trouble::Io { operation, side, path: path.to_vec(), cause: cause.into() }
    }

    pub(crate) fn changed(side: Side, path: &[u8]) -> Trouble {
        Trouble::Changed { side, path: path.to_vec() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Io { operation, side, path, cause } => {
                write!(f, "could not {operation} {} in {side}: {cause}", escape(path))
            }
            Trouble::SameDirectory => f.write_str("A and B are the same directory"),
            Trouble::Changed { side, path } => {
                write!(f, "{} in {side} changed while it was compared", escape(path))
            }
        }
    }
}

impl std::error::Error for Trouble {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Trouble::Io { cause, .. } => Some(cause),
            Trouble::SameDirectory | Trouble::Changed { .. } => None,
        }
    }
}
