//! Every bound on what a record may hold, with its reason.

/// Bytes of a name: NAME_MAX of Linux.
pub const NAME_BYTES: usize = 255;

/// Bytes of a path that is kept for people. Longer ones than PATH_MAX (4,096) exist, since a tree can be deeper than
/// any path that a system call takes; the front of such a path is cut off.
pub const PATH_BYTES: usize = 16 << 10;

/// Bytes of a link's target: PATH_MAX less the NUL.
pub const TARGET_BYTES: usize = 4095;

/// Bytes of an extended attribute's name: XATTR_NAME_MAX.
pub const XATTR_NAME_BYTES: usize = 255;

/// Bytes of an extended attribute's value: XATTR_SIZE_MAX.
pub const XATTR_VALUE_BYTES: usize = 64 << 10;

/// Extended attributes of one object: XATTR_LIST_MAX (64 KiB) holds at most this many names of the shortest kind.
pub const XATTRS: usize = 16 << 10;

/// Supplementary groups: NGROUPS_MAX.
pub const GROUPS: usize = 65_536;

/// Bytes of a program's or a session's name: `comm` has 15, a `mezzo run` may have more.
pub const WHO_BYTES: usize = 64;

/// Bytes of the reason that a disabled record is given, for people.
pub const REASON_BYTES: usize = 4 << 10;

/// Pairs in each of a mapping's two tables, users and groups: a household or a department; where whole directories of users
/// differ, their ids are better made the same. The text of a full mapping has some 50 KiB.
pub const MAPPED_IDS: usize = 1024;

/// Replicas whose records a tree has.
pub const HEADS: usize = 64 << 10;

/// Bytes of a whole record. Some hosts (xfs) hold extended attributes of many MiB in one inode; beyond this a record can't
/// be written and the operation that would need it is refused.
pub const RECORD_BYTES: usize = 16 << 20;

/// Bytes whose checksums are made while a good record is looked for behind a bad one. Heads that somebody planted could each
/// ask for those of a whole record, 64 bytes apart: hours for one segment. Damage has next to none.
pub const SEARCH_BYTES: usize = 1 << 30;

const _: () = assert!(SEARCH_BYTES >= 16 * RECORD_BYTES);
const _: () = assert!(RECORD_BYTES > 4 * XATTR_VALUE_BYTES + 4 * PATH_BYTES + 4 * GROUPS);
