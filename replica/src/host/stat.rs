//! What the host tells of an inode.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use mezzo_core::{Attributes, Device, Kind, Name, Time};
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};

use super::handle::Handle;

/// One `statx`.
#[derive(Clone, Debug)]
pub struct Stat {
    /// The inode's number.
    pub inode: u64,
    /// When the inode was made; the host's own mark, where the file system has none it is 0.
    pub born: Time,
    /// What records carry. `ctime` is the host's here.
    pub attributes: Attributes,
    /// 512-byte blocks that are allocated.
    pub blocks: u64,
    /// The preferred size of a read.
    pub block_size: u32,
    /// The link count as the host has it, for directories too.
    pub host_links: u32,
    /// A directory's size as the host has it.
    pub host_size: u64,
    /// The mount that the object was found through.
    pub mount: u64,
    /// Major and minor number of the file system's device.
    pub volume: (u32, u32),
    /// Marked immutable (chattr +i).
    pub immutable: bool,
    /// Marked append-only (chattr +a).
    pub append_only: bool,
}

/// Which inode of the host an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostId {
    /// The inode's number.
    pub inode: u64,
    /// When the inode was made: tells it from a later one where a handle has no generation.
    pub born: Time,
    /// Its handle.
    pub handle: Handle,
}

/// Asks about what `fd` has open; `O_PATH` is enough.
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd, c"", AtFlags::EMPTY_PATH)
}

/// Asks about an entry of `directory`, which is not followed.
pub fn stat_entry(directory: BorrowedFd<'_>, name: &Name) -> io::Result<Stat> {
    statx(directory, &super::c_name(name), AtFlags::SYMLINK_NOFOLLOW)
}

fn statx(fd: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> io::Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(fd, path, flags | AtFlags::NO_AUTOMOUNT, wanted)?;
    Ok(Stat::from(&found))
}

fn time(stamp: &StatxTimestamp) -> Time {
    Time::new(stamp.tv_sec, stamp.tv_nsec)
}

impl From<&Statx> for Stat {
    fn from(found: &Statx) -> Stat {
        let file_type = FileType::from_raw_mode(found.stx_mode.into());
        let kind = match file_type {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => Kind::File,
        };
        let marks = found.stx_attributes;
        Stat {
            inode: found.stx_ino,
            born: time(&found.stx_btime),
            attributes: Attributes {
                kind,
                mode: found.stx_mode & 0o7777,
                uid: found.stx_uid,
                gid: found.stx_gid,
                size: if matches!(kind, Kind::File | Kind::Symlink) { found.stx_size } else { 0 },
                links: if kind == Kind::Directory { 1 } else { found.stx_nlink },
                device: Device { major: found.stx_rdev_major, minor: found.stx_rdev_minor },
                atime: time(&found.stx_atime),
                mtime: time(&found.stx_mtime),
                ctime: time(&found.stx_ctime),
            },
            blocks: found.stx_blocks,
            block_size: found.stx_blksize,
            host_links: found.stx_nlink,
            host_size: found.stx_size,
            mount: found.stx_mnt_id,
            volume: (found.stx_dev_major, found.stx_dev_minor),
            immutable: marks.contains(StatxAttributes::IMMUTABLE),
            append_only: marks.contains(StatxAttributes::APPEND),
        }
    }
}
