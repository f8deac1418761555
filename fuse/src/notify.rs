//! What the file system tells the kernel unasked: that names, attributes or data it caches are no longer
//! true.

use crate::abi::{self, OutHeader, notify};
use crate::transport::device::Channel;
use rustix::io::Errno as Error;
use std::io;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Tells the kernel of changes. Any thread may, at any time, but for one trap: a notification about a name
/// waits for the directory's lock, so it must not come from a thread that holds a request on that directory
/// unanswered; one about data waits for pages whose reads or writes are unanswered.
///
/// What the kernel doesn't know (ENOENT) needs no invalidation and is no error; after the unmount that is
/// everything. Every call fails with EINVAL or ENOSYS where the kernel is too old for the notification.
#[derive(Clone)]
pub struct Notifier {
    channel: Arc<Channel>,
}

impl Notifier {
    pub(crate) fn new(channel: Arc<Channel>) -> Notifier {
        Notifier { channel }
    }

    /// Drops the name from the kernel's cache, with what is mounted below it.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.entry(parent, name, 0)
    }

    /// Lets the name expire: it is looked up again at its next use, and mounts below stay. Linux 6.2 and
    /// newer, else EINVAL or as [`Notifier::inval_entry`].
    pub fn expire_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.entry(parent, name, abi::EXPIRE_ONLY)
    }

    /// Drops the node's attributes, and its cached data from byte `offset` on: `length` bytes, or all if it
    /// is 0. A negative `offset` leaves the data.
    pub fn inval_inode(&self, node: u64, offset: i64, length: i64) -> io::Result<()> {
        let body = abi::NotifyInvalInodeOut { ino: node, off: offset, len: length };
        self.send(notify::INVAL_INODE, &body, &[])
    }

    /// Tells that `name`, if it is still `child`, was removed; watchers of the directory (inotify) hear of
    /// it. ENOTEMPTY or EBUSY when the kernel still needs the directory.
    pub fn delete(&self, parent: u64, child: u64, name: &[u8]) -> io::Result<()> {
        let body = abi::NotifyDeleteOut { parent, child, namelen: name_length(name)?, padding: 0 };
        self.send(notify::DELETE, &body, &terminated(name))
    }

    /// Puts data of the node at `offset` into the page cache.
    pub fn store(&self, node: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| Error::INVAL)?;
        let body = abi::NotifyStoreOut { nodeid: node, offset, size, padding: 0 };
        self.send(notify::STORE, &body, data)
    }

    /// Asks the kernel to forget those of `nodes` that nobody uses. ABI 7.45.
    pub fn prune(&self, nodes: &[u64]) -> io::Result<()> {
        let count = u32::try_from(nodes.len()).map_err(|_| Error::INVAL)?;
        let body = abi::NotifyPruneOut { count, padding: 0, spare: 0 };
        self.send(notify::PRUNE, &body, nodes.as_bytes())
    }

    /// Makes every name that is cached now expire. ABI 7.44.
    pub fn increment_epoch(&self) -> io::Result<()> {
        self.send(notify::INC_EPOCH, &[0u8; 0], &[])
    }

    /// Wakes those who poll a file; `wakeup` is what the POLL request had.
    pub fn poll_wakeup(&self, wakeup: u64) -> io::Result<()> {
        self.send(notify::POLL, &abi::NotifyPollWakeupOut { kh: wakeup }, &[])
    }

    fn entry(&self, parent: u64, name: &[u8], flags: u32) -> io::Result<()> {
        let body = abi::NotifyInvalEntryOut { parent, namelen: name_length(name)?, flags };
        self.send(notify::INVAL_ENTRY, &body, &terminated(name))
    }

    fn send(&self, code: i32, body: &(impl IntoBytes + Immutable), tail: &[u8]) -> io::Result<()> {
        let header = OutHeader { len: 0, error: code, unique: 0 };
        match self.channel.write(header, [body.as_bytes(), tail]) {
            Err(Error::NOENT) => Ok(()),
            result => result.map_err(io::Error::from),
        }
    }
}

fn name_length(name: &[u8]) -> io::Result<u32> {
    u32::try_from(name.len()).map_err(|_| Error::NAMETOOLONG.into())
}

/// The name with the NUL that the kernel expects.
fn terminated(name: &[u8]) -> Vec<u8> {
    [name, &[0]].concat()
}
