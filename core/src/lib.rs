//! The pure part of mezzo: what a record says, how it is written down, and what it means for a tree.
//!
//! Nothing here does I/O or reads a clock. Everything that decides takes its facts as arguments.

pub mod acl;
pub mod attributes;
pub mod codec;
pub mod id;
pub mod limits;
pub mod mapping;
pub mod name;
pub mod permission;
pub mod record;
pub mod reintegrate;
pub mod session;
pub mod time;
pub mod tree;
pub mod undo;
pub mod who;

pub use attributes::{Attributes, Data, Device, Digest, Kind, State, Xattr};
pub use id::{DataVersion, FilesetId, ObjectId, Origin, Recno, ReplicaId};
pub use mapping::IdMapping;
pub use name::{Name, Place};
pub use record::{Change, Record};
pub use time::Time;
pub use who::Who;
