//! One replica of a fileset: its tree on the host, its log, its index, and the one place where operations and records
//! get their order.

#![warn(clippy::print_stderr)]

mod attic;
mod body;
pub mod demand;
mod digest;
mod directories;
mod error;
pub mod exchange;
pub mod fileset;
pub mod gate;
pub mod host;
pub mod index;
mod inodes;
mod lml;
pub mod log;
mod meet;
mod opens;
mod outdated;
#[doc(hidden)]
pub mod outside;
pub mod past;
mod perform;
pub mod reading;
pub mod receive;
mod recover;
pub mod reintegrate;
pub mod replay;
mod replica;
pub mod restore;
mod say;
mod take_in;
pub mod undo;
pub mod verify;
pub mod versions;
mod watch;

pub use attic::AtticPolicy;
pub use body::{Another, NewId};
pub use error::Error;
pub use fileset::{Fileset, FilesetError};
pub use meet::Met;
pub use mezzo_core::FilesetId;
pub use opens::{Bytes, Sight, Use};
pub use outdated::Told;
pub use perform::{Caller, Changes, NewNode};
pub use replica::{Replica, Start};
pub use take_in::TakenIn;
pub use watch::{Noticed, Watch};
