//! Taking in what was done to the tree without being recorded: what was there before `init`, and what was changed behind
//! the mount.
//!
//! The host's tree is what users have, so that it is right, and the log follows. An object is told by its inode: one that
//! stands elsewhere was renamed, one that also stands elsewhere was linked, and an unknown one was made.

mod changes;
mod entry;
mod scan;

pub use scan::TakenIn;
pub(crate) use scan::is_gone;
