//! Compares two directory trees by everything that a record carries.
//!
//! It is what "the same tree" means in mezzo's tests, so it is written apart from mezzo's other crates and
//! shares no code with them: a mistake made there cannot hide here.
//!
//! Compared are names as bytes, kinds, permission bits, owners, sizes, modification times to the nanosecond,
//! link targets, device numbers, contents byte for byte, extended attributes (ACLs and capabilities are among
//! them), and which names are links to one object. Not compared are what no program can set or what a host
//! file system chooses: sizes of directories, ctime, atime, inode numbers, link counts (a name may be outside of
//! the tree), and where a file has holes, which is only noted.
//!
//! The trees must be at rest. Nothing in them is followed or changed, and whatever cannot be read ends the
//! comparison with [`Trouble`]: an unread thing is not an equal one.

mod both;
mod content;
mod escape;
mod finding;
mod links;
mod object;
mod trouble;
mod walk;

pub use escape::escape;
pub use finding::{Counts, Difference, Field, Finding, Note};
pub use trouble::{Side, Trouble};
pub use walk::{Options, compare};
