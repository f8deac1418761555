//! What the kernel asks.

use crate::abi;
use crate::errno::Errno;
use std::fmt;
use zerocopy::FromBytes;

/// Who asks, and about which node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Names the request while it is open.
    pub unique: u64,
    /// The node it is about; for operations with a name, the directory. 1 is the root.
    pub node: u64,
    /// File system user id of the caller.
    pub uid: u32,
    /// File system group id of the caller.
    pub gid: u32,
    /// The caller's thread (its process is not told); 0 where the kernel itself asks, or where the thread is
    /// of a foreign pid namespace.
    pub pid: u32,
}

/// One request of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who asks, and about which node.
    pub header: Header,
    /// What is asked.
    pub operation: Operation<'a>,
    /// The one supplementary group of the caller that matters to a creation, where the kernel tells it
    /// (`Wanted::create_supplementary_group`).
    pub supplementary_group: Option<u32>,
}

/// A change of attributes; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setattr {
    /// New permission bits (with the file type, which can't change).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New time of access.
    pub atime: Option<SetTime>,
    /// New time of modification.
    pub mtime: Option<SetTime>,
    /// New time of change, as seconds and nanoseconds; only with the write-back cache.
    pub ctime: Option<(i64, u32)>,
    /// The open file through which the change is made.
    pub handle: Option<u64>,
    /// Owner of the locks that a truncation must respect.
    pub lock_owner: Option<u64>,
    /// Whether set-user-id, and set-group-id of a group-executable file, must go as well.
    pub kill_suidgid: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which the change is made.
    Now,
    /// A given time since the epoch.
    At {
        /// Whole seconds; negative before 1970.
        seconds: i64,
        /// 0 to 999 999 999.
        nanoseconds: u32,
    },
}

/// What a lock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared (F_RDLCK).
    Read,
    /// Exclusive (F_WRLCK).
    Write,
    /// None, or its removal (F_UNLCK).
    Unlock,
}

impl LockKind {
    /// The number that fcntl(2) has for it.
    pub fn raw(self) -> i32 {
        match self {
            LockKind::Read => libc::F_RDLCK,
            LockKind::Write => libc::F_WRLCK,
            LockKind::Unlock => libc::F_UNLCK,
        }
    }

    /// The kind with fcntl(2)'s number `raw`.
    pub fn from_raw(raw: i32) -> Option<LockKind> {
        [LockKind::Read, LockKind::Write, LockKind::Unlock].into_iter().find(|kind| kind.raw() == raw)
    }
}

/// A request about a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The open file.
    pub handle: u64,
    /// Who holds or wants it; opaque.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` for "to the end".
    pub end: u64,
    /// What is wanted.
    pub kind: LockKind,
    /// Process of the caller.
    pub pid: u32,
    /// Whether this is flock(2) rather than fcntl(2).
    pub flock: bool,
}

/// What is asked. `name`s are one path component without the ending NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are told with their variants.
pub enum Operation<'a> {
    /// Finds a name; the answer, an entry, adds one to the node's lookup count.
    Lookup { name: &'a [u8] },
    /// The kernel gives back `lookups` of the node's count. No answer.
    Forget { lookups: u64 },
    /// Many of them. No answer.
    BatchForget(Forgets<'a>),
    /// Attributes.
    Getattr { handle: Option<u64> },
    /// Attributes with birth time. `flags` and `mask` are those of statx(2).
    Statx { handle: Option<u64>, flags: u32, mask: u32 },
    /// Changes attributes; answered with the new ones.
    Setattr(Setattr),
    /// Target of a symbolic link.
    Readlink,
    /// Makes a symbolic link.
    Symlink { name: &'a [u8], target: &'a [u8] },
    /// Makes a file, device, FIFO or socket; `device` is in the kernel's encoding, see [`device_numbers`].
    Mknod { name: &'a [u8], mode: u32, device: u32, umask: u32 },
    /// Makes a directory.
    Mkdir { name: &'a [u8], mode: u32, umask: u32 },
    /// Removes a name that is no directory.
    Unlink { name: &'a [u8] },
    /// Removes an empty directory.
    Rmdir { name: &'a [u8] },
    /// Renames; `flags` are those of renameat2(2).
    Rename { name: &'a [u8], new_parent: u64, new_name: &'a [u8], flags: u32 },
    /// Gives `node` another name in the directory `header.node`.
    Link { node: u64, name: &'a [u8] },
    /// Opens a file; `flags` are those of open(2) without O_CREAT, O_EXCL and O_NOCTTY.
    Open { flags: u32, kill_suidgid: bool },
    /// Makes and opens a file.
    Create { name: &'a [u8], mode: u32, umask: u32, flags: u32, kill_suidgid: bool },
    /// Makes and opens a file without a name in the directory `header.node`.
    Tmpfile { mode: u32, umask: u32, flags: u32 },
    /// Reads up to `size` bytes; `flags` are the open file's.
    Read { handle: u64, offset: u64, size: u32, flags: u32, lock_owner: Option<u64> },
    /// Writes; `cached` when it comes from the page cache and not from a call of the header's caller.
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        flags: u32,
        cached: bool,
        kill_suidgid: bool,
        lock_owner: Option<u64>,
    },
    /// One descriptor of an open file is being closed.
    Flush { handle: u64, lock_owner: u64 },
    /// The last descriptor is gone. `unlock_flock` names the owner whose flock goes with it.
    Release { handle: u64, flags: u32, flush: bool, unlock_flock: Option<u64> },
    /// Makes a file durable.
    Fsync { handle: u64, data_only: bool },
    /// Opens a directory.
    Opendir { flags: u32 },
    /// Lists a directory from `offset`, which is 0 or what an entry before named as the next.
    Readdir { handle: u64, offset: u64, size: u32 },
    /// The same with attributes; each entry but "." and ".." adds to its node's lookup count.
    Readdirplus { handle: u64, offset: u64, size: u32 },
    /// Closes a directory.
    Releasedir { handle: u64, flags: u32 },
    /// Makes a directory durable.
    Fsyncdir { handle: u64, data_only: bool },
    /// Sizes of the file system.
    Statfs,
    /// Sets an extended attribute; `flags` are those of setxattr(2). `kill_sgid`: an access ACL was set by
    /// one who may not keep set-group-id.
    Setxattr { name: &'a [u8], value: &'a [u8], flags: u32, kill_sgid: bool },
    /// Reads an extended attribute; `size` 0 asks for its length.
    Getxattr { name: &'a [u8], size: u32 },
    /// Lists the names of extended attributes; `size` 0 asks for the list's length.
    Listxattr { size: u32 },
    /// Removes an extended attribute.
    Removexattr { name: &'a [u8] },
    /// access(2); never comes with `default_permissions`.
    Access { mask: u32 },
    /// Which lock stands in the way.
    Getlk(Lock),
    /// Sets or drops a lock without waiting.
    Setlk(Lock),
    /// Sets a lock, waiting for it.
    Setlkw(Lock),
    /// fallocate(2).
    Fallocate { handle: u64, offset: u64, length: u64, mode: u32 },
    /// Finds data (SEEK_DATA) or a hole (SEEK_HOLE).
    Lseek { handle: u64, offset: u64, whence: u32 },
    /// Copies between open files of this file system.
    CopyFileRange {
        handle: u64,
        offset: u64,
        to_node: u64,
        to_handle: u64,
        to_offset: u64,
        length: u64,
        flags: u64,
    },
    /// ioctl(2) with `argument` as passed and `input` as read from where it points.
    Ioctl { handle: u64, flags: u32, command: u32, argument: u64, input: &'a [u8], output_size: u32 },
    /// poll(2). `wakeup` is what `Notifier::poll_wakeup` takes, when `notify` asks for that.
    Poll { handle: u64, wakeup: u64, notify: bool, events: u32 },
    /// Which block of the device a block of the file is (block device mounts only).
    Bmap { block: u64, block_size: u32 },
    /// syncfs(2).
    Syncfs,
    /// The file system is unmounted; comes once, last.
    Destroy,
    /// An operation unknown here. ENOSYS is the usual answer.
    Other { opcode: u32 },
}

/// The pairs of node and count of a batch of forgets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Forgets<'a> {
    bytes: &'a [u8],
}

impl<'a> Forgets<'a> {
    /// `bytes` are whole pairs.
    pub(crate) fn new(bytes: &'a [u8]) -> Forgets<'a> {
        Forgets { bytes }
    }
}

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (one, rest) = abi::ForgetOne::read_from_prefix(self.bytes).ok()?;
        self.bytes = rest;
        Some((one.nodeid, one.nlookup))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.bytes.len() / size_of::<abi::ForgetOne>();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Forgets<'_> {}

impl fmt::Debug for Forgets<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(*self).finish()
    }
}

/// A message whose parts don't fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's message is malformed")]
pub struct Malformed;

impl From<Malformed> for Errno {
    fn from(_: Malformed) -> Errno {
        Errno::EIO
    }
}

/// Major and minor number of a device in the kernel's 32-bit encoding.
pub fn device_numbers(device: u32) -> (u32, u32) {
    ((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00))
}

/// The kernel's 32-bit encoding of a device: 12 bits of major number, 20 of minor.
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}
