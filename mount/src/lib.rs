//! The filter: a replica as a mounted file system. What users do through the mount is done on the host and recorded; data
//! passes through the kernel where it can.

#![warn(clippy::print_stderr)]

mod audience;
mod behind;
mod emptying;
mod filter;
mod handles;
mod ids;
mod nodes;
mod serve;
mod who;

pub use audience::Users;
pub use behind::Behind;
pub use serve::{Access, Mount, MountError, Options, Transport, unmount};
