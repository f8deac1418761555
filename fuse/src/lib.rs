//! A thin FUSE layer: the kernel's messages, ABI 7.31 to 7.45, over /dev/fuse and io_uring.
//!
//! [`mount()`] makes a [`Device`], [`Session::start`] greets the kernel, and [`Session::run`] brings its
//! requests to a [`Filesystem`] until the unmount. The layer keeps no state of files: node ids, handles and
//! lookup counts are the file system's.

mod abi;
mod backing;
mod directory;
mod errno;
mod interrupt;
mod mount;
mod negotiate;
mod notify;
mod parse;
mod reply;
mod request;
mod session;
mod signals;
mod transport;
mod values;

pub use backing::{BackingId, Backings};
pub use directory::Directory;
pub use errno::Errno;
pub use mount::{Device, MountOptions, mount, unmount};
pub use negotiate::{Granted, Wanted};
pub use notify::Notifier;
pub use reply::{Answered, Deferred, Reply};
pub use request::{
    Forgets, Header, Lock, LockKind, Malformed, Operation, Request, SetTime, Setattr, device_numbers,
    encode_device,
};
pub use session::{Filesystem, Session};
pub use transport::uring::enable_io_uring;
pub use values::{Attributes, Entry, HeldLock, OpenFlags, Opened, Statfs};

/// The node id of the mount's root.
pub const ROOT: u64 = 1;
