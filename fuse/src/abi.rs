//! The bytes of the FUSE protocol, ABI 7.45, as Linux `include/uapi/linux/fuse.h` defines them.
//!
//! Every structure has the kernel's layout and native byte order. Names are the header's without `fuse_`;
//! fields keep the header's names, so that this page can be compared with it line by line. Sizes are asserted
//! in the tests below.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// The newest minor version spoken here.
pub const MINOR: u32 = 45;
/// The oldest minor version accepted (Linux 5.4: `max_pages`, `copy_file_range`, explicit invalidation).
pub const OLDEST_MINOR: u32 = 31;
/// The smallest buffer the kernel accepts in a read of the device, in bytes.
pub const MIN_READ_BUFFER: usize = 8192;

macro_rules! abi {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[allow(missing_docs)]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct $name { $(pub $field: $type,)* }
    )*};
}

abi! {
    /// Heads every request.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    /// Heads every answer and every notification.
    OutHeader { len: u32, error: i32, unique: u64, }
    /// Attributes of a node.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32,
        rdev: u32, blksize: u32, flags: u32,
    }
    /// A time of [`Statx`].
    SxTime { tv_sec: i64, tv_nsec: u32, reserved: i32, }
    /// Attributes as statx(2) has them.
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16,
        ino: u64, size: u64, blocks: u64, attributes_mask: u64,
        atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    /// The answer to STATFS.
    Kstatfs {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
    }
    /// A lock, as asked and as answered.
    FileLock { start: u64, end: u64, kind: u32, pid: u32, }
    /// The answer to LOOKUP and to all that makes a name.
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
        entry_valid_nsec: u32, attr_valid_nsec: u32, attr: Attr,
    }
    ForgetIn { nlookup: u64, }
    ForgetOne { nodeid: u64, nlookup: u64, }
    BatchForgetIn { count: u32, dummy: u32, }
    GetattrIn { getattr_flags: u32, dummy: u32, fh: u64, }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr, }
    StatxIn { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32, }
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx, }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32, }
    MkdirIn { mode: u32, umask: u32, }
    RenameIn { newdir: u64, }
    Rename2In { newdir: u64, flags: u32, padding: u32, }
    LinkIn { oldnodeid: u64, }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32,
        unused5: u32,
    }
    OpenIn { flags: u32, open_flags: u32, }
    /// Of CREATE and of TMPFILE.
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32, }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64, }
    /// Of READ, READDIR and READDIRPLUS.
    ReadIn {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteIn {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// Also the answer to the 32-bit COPY_FILE_RANGE.
    WriteOut { size: u32, padding: u32, }
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32, }
    /// Of a connection without SETXATTR_EXT.
    SetxattrShortIn { size: u32, flags: u32, }
    SetxattrIn { size: u32, flags: u32, setxattr_flags: u32, padding: u32, }
    GetxattrIn { size: u32, padding: u32, }
    GetxattrOut { size: u32, padding: u32, }
    LkIn { fh: u64, owner: u64, lk: FileLock, lk_flags: u32, padding: u32, }
    AccessIn { mask: u32, padding: u32, }
    /// What every kernel that is new enough sends; INIT_EXT makes it longer.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, }
    /// Follows [`InitIn`] when INIT_EXT is set.
    InitInExt { flags2: u32, unused: [u32; 11], }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16,
        flags2: u32, max_stack_depth: u32, request_timeout: u16, unused: [u16; 11],
    }
    InterruptIn { unique: u64, }
    BmapIn { block: u64, blocksize: u32, padding: u32, }
    BmapOut { block: u64, }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32, }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32, }
    PollIn { fh: u64, kh: u64, flags: u32, events: u32, }
    PollOut { revents: u32, padding: u32, }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32, }
    LseekOut { offset: u64, }
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
    /// The answer to the 64-bit COPY_FILE_RANGE.
    CopyFileRangeOut { bytes_copied: u64, }
    SyncfsIn { padding: u64, }
    /// Heads one directory entry; the name follows, padded to 8 bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32, }
    /// Heads one extension at the end of a request.
    ExtHeader { size: u32, kind: u32, }
    NotifyInvalInodeOut { ino: u64, off: i64, len: i64, }
    NotifyInvalEntryOut { parent: u64, namelen: u32, flags: u32, }
    NotifyDeleteOut { parent: u64, child: u64, namelen: u32, padding: u32, }
    NotifyStoreOut { nodeid: u64, offset: u64, size: u32, padding: u32, }
    NotifyPruneOut { count: u32, padding: u32, spare: u64, }
    NotifyPollWakeupOut { kh: u64, }
    /// Argument of the ioctl [`DEV_IOC_BACKING_OPEN`].
    BackingMap { fd: i32, flags: u32, padding: u64, }
    /// Tells of one io_uring request or answer: what the kernel commits it by, and how long its payload is.
    UringEntInOut { flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64, }
    /// In the 80-byte command area of a submission.
    UringCmdReq { flags: u64, commit_id: u64, qid: u16, padding: [u8; 6], }
}

/// Numbers of the requests.
#[allow(missing_docs)]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const GETLK: u32 = 31;
    pub const SETLK: u32 = 32;
    pub const SETLKW: u32 = 33;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const BMAP: u32 = 37;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Bits of INIT; those from 32 on travel in `flags2`.
#[allow(missing_docs)]
pub mod init {
    pub const ASYNC_READ: u64 = 1;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const OVER_IO_URING: u64 = 1 << 41;
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;
}

/// Bits of `setattr_in.valid`.
#[allow(missing_docs)]
pub mod fattr {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const LOCKOWNER: u32 = 1 << 9;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Bits of an open's answer.
#[allow(missing_docs)]
pub mod fopen {
    pub const DIRECT_IO: u32 = 1;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NONSEEKABLE: u32 = 1 << 2;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const STREAM: u32 = 1 << 4;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    pub const PASSTHROUGH: u32 = 1 << 7;
    /// Those that the kernel takes together with PASSTHROUGH.
    pub const WITH_PASSTHROUGH: u32 = DIRECT_IO | NOFLUSH | PARALLEL_DIRECT_WRITES;
}

/// Numbers of the notifications.
#[allow(missing_docs)]
pub mod notify {
    pub const POLL: i32 = 1;
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const STORE: i32 = 4;
    pub const DELETE: i32 = 6;
    pub const INC_EPOCH: i32 = 8;
    pub const PRUNE: i32 = 9;
}

/// `getattr_in.getattr_flags`: the handle is set.
pub const GETATTR_FH: u32 = 1;
/// `open_in.open_flags`: clear set-user-id and set-group-id.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// `read_in.read_flags`: the lock owner is set.
pub const READ_LOCKOWNER: u32 = 1 << 1;
/// `write_in.write_flags`: written back from the page cache.
pub const WRITE_CACHE: u32 = 1;
/// `write_in.write_flags`: the lock owner is set.
pub const WRITE_LOCKOWNER: u32 = 1 << 1;
/// `write_in.write_flags`: clear set-user-id and set-group-id.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `release_in.release_flags`: flush as well.
pub const RELEASE_FLUSH: u32 = 1;
/// `release_in.release_flags`: drop the owner's flock.
pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `fsync_in.fsync_flags`: data only.
pub const FSYNC_FDATASYNC: u32 = 1;
/// `setxattr_in.setxattr_flags`: clear set-group-id, as an ACL was set.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// `lk_in.lk_flags`: a BSD lock (flock).
pub const LK_FLOCK: u32 = 1;
/// `notify_inval_entry_out.flags`: let the entry expire rather than go.
pub const EXPIRE_ONLY: u32 = 1;
/// `ext_header.kind`: supplementary groups.
pub const EXT_GROUPS: u32 = 32;

/// `_IOR(229, 0, u32)`: makes a device file another queue of an existing connection.
pub const DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;
/// `_IOW(229, 1, struct fuse_backing_map)`: registers a backing file.
pub const DEV_IOC_BACKING_OPEN: libc::c_ulong = 0x4010_e501;
/// `_IOW(229, 2, u32)`: releases a backing file.
pub const DEV_IOC_BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// io_uring command: registers a buffer and waits for a request in it.
pub const URING_CMD_REGISTER: u32 = 1;
/// io_uring command: answers a request and waits for the next.
pub const URING_CMD_COMMIT_AND_FETCH: u32 = 2;
/// Bytes that an io_uring header block keeps for the request's or answer's header.
pub const URING_HEADER_SIZE: usize = 128;
/// Bytes that an io_uring header block keeps for the operation's own structure.
pub const URING_ARGUMENT_SIZE: usize = 128;

/// A length rounded up to 8 bytes, as entries and extensions are aligned.
pub fn aligned(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// The size in bytes of the structure that opens an operation's arguments. 0 where there is none or the
/// operation is unknown. `setxattr_ext` tells whether SETXATTR_EXT was negotiated.
pub fn argument_size(opcode: u32, setxattr_ext: bool) -> usize {
    match opcode {
        opcode::FORGET => size_of::<ForgetIn>(),
        opcode::GETATTR => size_of::<GetattrIn>(),
        opcode::SETATTR => size_of::<SetattrIn>(),
        opcode::MKNOD => size_of::<MknodIn>(),
        opcode::MKDIR => size_of::<MkdirIn>(),
        opcode::RENAME => size_of::<RenameIn>(),
        opcode::RENAME2 => size_of::<Rename2In>(),
        opcode::LINK => size_of::<LinkIn>(),
        opcode::OPEN | opcode::OPENDIR => size_of::<OpenIn>(),
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => size_of::<ReadIn>(),
        opcode::WRITE => size_of::<WriteIn>(),
        opcode::RELEASE | opcode::RELEASEDIR => size_of::<ReleaseIn>(),
        opcode::FSYNC | opcode::FSYNCDIR => size_of::<FsyncIn>(),
        opcode::SETXATTR if setxattr_ext => size_of::<SetxattrIn>(),
        opcode::SETXATTR => size_of::<SetxattrShortIn>(),
        opcode::GETXATTR | opcode::LISTXATTR => size_of::<GetxattrIn>(),
        opcode::FLUSH => size_of::<FlushIn>(),
        opcode::INIT => size_of::<InitIn>(),
        opcode::GETLK | opcode::SETLK | opcode::SETLKW => size_of::<LkIn>(),
        opcode::ACCESS => size_of::<AccessIn>(),
        opcode::CREATE | opcode::TMPFILE => size_of::<CreateIn>(),
        opcode::INTERRUPT => size_of::<InterruptIn>(),
        opcode::BMAP => size_of::<BmapIn>(),
        opcode::IOCTL => size_of::<IoctlIn>(),
        opcode::POLL => size_of::<PollIn>(),
        opcode::BATCH_FORGET => size_of::<BatchForgetIn>(),
        opcode::FALLOCATE => size_of::<FallocateIn>(),
        opcode::LSEEK => size_of::<LseekIn>(),
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => size_of::<CopyFileRangeIn>(),
        opcode::SYNCFS => size_of::<SyncfsIn>(),
        opcode::STATX => size_of::<StatxIn>(),
        _ => 0,
    }
}

/// Whether the kernel waits for an answer to this operation.
pub fn wants_answer(opcode: u32) -> bool {
    !matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT | opcode::NOTIFY_REPLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    macro_rules! check_sizes {
        ($($type:ty = $size:expr;)*) => {$(
            assert_eq!(size_of::<$type>(), $size, "size of {}", stringify!($type));
        )*};
    }

    /// The sizes that the kernel's header gives on every architecture.
    #[test]
    fn structures_have_the_kernel_s_sizes() {
        check_sizes! {
            InHeader = 40; OutHeader = 16; Attr = 88; SxTime = 16; Statx = 256; Kstatfs = 80; FileLock = 24;
            EntryOut = 128; ForgetIn = 8; ForgetOne = 16; BatchForgetIn = 8; GetattrIn = 16; AttrOut = 104;
            StatxIn = 24; StatxOut = 288; MknodIn = 16; MkdirIn = 8; RenameIn = 8; Rename2In = 16; LinkIn = 8;
            SetattrIn = 88; OpenIn = 8; CreateIn = 16; OpenOut = 16; ReleaseIn = 24; FlushIn = 24;
            ReadIn = 40; WriteIn = 40; WriteOut = 8; FsyncIn = 16; SetxattrShortIn = 8; SetxattrIn = 16;
            GetxattrIn = 8; GetxattrOut = 8; LkIn = 48; AccessIn = 8; InitIn = 16; InitInExt = 48;
            InitOut = 64; InterruptIn = 8; BmapIn = 16; BmapOut = 8; IoctlIn = 32; IoctlOut = 16; PollIn = 24;
            PollOut = 8; FallocateIn = 32; LseekIn = 24; LseekOut = 8; CopyFileRangeIn = 56;
            CopyFileRangeOut = 8; SyncfsIn = 8; Dirent = 24; ExtHeader = 8; NotifyInvalInodeOut = 24;
            NotifyInvalEntryOut = 16; NotifyDeleteOut = 24; NotifyStoreOut = 24; NotifyPruneOut = 16;
            NotifyPollWakeupOut = 8; BackingMap = 16; UringEntInOut = 32; UringCmdReq = 24;
        }
    }

    #[test]
    fn fields_lie_where_the_kernel_has_them() {
        assert_eq!(offset_of!(InHeader, total_extlen), 36);
        assert_eq!(offset_of!(SetattrIn, mode), 68);
        assert_eq!(offset_of!(InitOut, max_write), 20);
        assert_eq!(offset_of!(InitOut, flags2), 32);
        assert_eq!(offset_of!(InitOut, request_timeout), 40);
        assert_eq!(offset_of!(Statx, ino), 32);
        assert_eq!(offset_of!(Statx, btime), 80);
        assert_eq!(offset_of!(Statx, rdev_major), 128);
        assert_eq!(offset_of!(StatxOut, stat), 32);
        assert_eq!(offset_of!(EntryOut, attr), 40);
        assert_eq!(offset_of!(OpenOut, backing_id), 12);
        assert_eq!(offset_of!(UringCmdReq, qid), 16);
        assert_eq!(offset_of!(UringEntInOut, payload_sz), 16);
    }
}
