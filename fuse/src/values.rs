//! What answers are made of, and how the kernel wants it.

use crate::abi;
use crate::backing::BackingId;
use crate::request::{LockKind, encode_device};
use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;

/// Attributes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number as callers see it; not the node id.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space taken, in 512-byte blocks.
    pub blocks: u64,
    /// Last access, as seconds and nanoseconds since the epoch.
    pub atime: (i64, u32),
    /// Last modification.
    pub mtime: (i64, u32),
    /// Last change.
    pub ctime: (i64, u32),
    /// File type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Preferred size of reads and writes, in bytes; a power of two.
    pub block_size: u32,
}

/// A name's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The node's id; 0 for "no such name", which the kernel remembers for `entry_valid`.
    pub node: u64,
    /// Tells apart nodes that had the same id one after the other.
    pub generation: u64,
    /// How long the kernel may trust the name.
    pub entry_valid: Duration,
    /// How long the kernel may trust the attributes.
    pub attributes_valid: Duration,
    /// The node's attributes.
    pub attributes: Attributes,
}

/// How the kernel is to treat an open file. Values join with `|`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags(u32);

impl OpenFlags {
    /// Nothing special.
    pub const NONE: OpenFlags = OpenFlags(0);
    /// Reads and writes go past the page cache.
    pub const DIRECT_IO: OpenFlags = OpenFlags(abi::fopen::DIRECT_IO);
    /// What the page cache has of the file stays valid.
    pub const KEEP_CACHE: OpenFlags = OpenFlags(abi::fopen::KEEP_CACHE);
    /// lseek(2) fails.
    pub const NONSEEKABLE: OpenFlags = OpenFlags(abi::fopen::NONSEEKABLE);
    /// The directory's listing may be cached.
    pub const CACHE_DIR: OpenFlags = OpenFlags(abi::fopen::CACHE_DIR);
    /// There is no file position.
    pub const STREAM: OpenFlags = OpenFlags(abi::fopen::STREAM);
    /// No FLUSH at close (unless the write-back cache is on).
    pub const NOFLUSH: OpenFlags = OpenFlags(abi::fopen::NOFLUSH);
    /// Direct writes to the file may run side by side.
    pub const PARALLEL_DIRECT_WRITES: OpenFlags = OpenFlags(abi::fopen::PARALLEL_DIRECT_WRITES);
    /// Data go straight to the backing file. [`Opened::backing`] implies it.
    pub const PASSTHROUGH: OpenFlags = OpenFlags(abi::fopen::PASSTHROUGH);

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: OpenFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The kernel's bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for OpenFlags {
    type Output = OpenFlags;

    fn bitor(self, other: OpenFlags) -> OpenFlags {
        OpenFlags(self.0 | other.0)
    }
}

impl BitOrAssign for OpenFlags {
    fn bitor_assign(&mut self, other: OpenFlags) {
        self.0 |= other.0;
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened<'b> {
    /// The file system's own name for it, which comes back with each use.
    pub handle: u64,
    /// How the kernel is to treat it.
    pub flags: OpenFlags,
    /// The backing file for passthrough. It must live until the answer is given; the kernel then holds the
    /// file itself. With it, flags that only mean something without it (KEEP_CACHE and the like) are left
    /// out, as the kernel would fail the open with EIO.
    pub backing: Option<&'b BackingId>,
}

/// Sizes of the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// Total, in blocks of `fragment_size`.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for those who are not privileged.
    pub blocks_available: u64,
    /// Total inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred size of transfers, in bytes.
    pub block_size: u32,
    /// Longest name, in bytes.
    pub name_length: u32,
    /// Unit of the block counts, in bytes.
    pub fragment_size: u32,
}

/// A lock as GETLK tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` for "to the end".
    pub end: u64,
    /// [`LockKind::Unlock`] when nothing stands in the way.
    pub kind: LockKind,
    /// Process that holds it.
    pub pid: u32,
}

pub(crate) fn entry_out(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        nodeid: entry.node,
        generation: entry.generation,
        entry_valid: entry.entry_valid.as_secs(),
        attr_valid: entry.attributes_valid.as_secs(),
        entry_valid_nsec: entry.entry_valid.subsec_nanos(),
        attr_valid_nsec: entry.attributes_valid.subsec_nanos(),
        attr: attr(&entry.attributes),
    }
}

pub(crate) fn open_out(opened: &Opened<'_>) -> abi::OpenOut {
    let open_flags = match opened.backing {
        Some(_) => opened.flags.bits() & abi::fopen::WITH_PASSTHROUGH | abi::fopen::PASSTHROUGH,
        None => opened.flags.bits(),
    };
    abi::OpenOut { fh: opened.handle, open_flags, backing_id: opened.backing.map_or(0, BackingId::id) }
}

pub(crate) fn attr(attributes: &Attributes) -> abi::Attr {
    abi::Attr {
        ino: attributes.inode,
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.atime.0 as u64,
        mtime: attributes.mtime.0 as u64,
        ctime: attributes.ctime.0 as u64,
        atimensec: attributes.atime.1,
        mtimensec: attributes.mtime.1,
        ctimensec: attributes.ctime.1,
        mode: attributes.mode,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: encode_device(attributes.device.0, attributes.device.1),
        blksize: attributes.block_size,
        flags: 0,
    }
}

pub(crate) fn statx(attributes: &Attributes, born: Option<(i64, u32)>) -> abi::Statx {
    let birth_mask = born.map_or(0, |_| libc::STATX_BTIME);
    abi::Statx {
        mask: libc::STATX_BASIC_STATS | birth_mask,
        blksize: attributes.block_size,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        mode: attributes.mode as u16,
        ino: attributes.inode,
        size: attributes.size,
        blocks: attributes.blocks,
        atime: statx_time(attributes.atime),
        btime: statx_time(born.unwrap_or_default()),
        ctime: statx_time(attributes.ctime),
        mtime: statx_time(attributes.mtime),
        rdev_major: attributes.device.0,
        rdev_minor: attributes.device.1,
        ..Default::default()
    }
}

fn statx_time((tv_sec, tv_nsec): (i64, u32)) -> abi::SxTime {
    abi::SxTime { tv_sec, tv_nsec, reserved: 0 }
}
