//! File handles: how an object is reached, and told from a later one with the same inode number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;

use super::checked;

/// FILEID_INO32_GEN: an inode's number and generation, 4 bytes each.
const INO32_GEN: u32 = 1;
/// FILEID_INO64_GEN, which xfs uses: 8 bytes and 4.
const INO64_GEN: u32 = 0x81;
/// FILEID_BTRFS_WITHOUT_PARENT: 8 bytes of inode number, 8 of the subvolume, 4 of generation.
const BTRFS: u32 = 0x4d;

/// MAX_HANDLE_SZ of the kernel.
const LARGEST: usize = 128;

/// A file handle as `name_to_handle_at` gives it: its type, then its bytes. It names one inode of one file system,
/// generation included, for as long as the inode lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle(Box<[u8]>);

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; LARGEST],
}

impl Handle {
    /// The handle of what `fd` has open; `O_PATH` is enough.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Handle> {
        Handle::at(fd, c"", libc::AT_EMPTY_PATH)
    }

    /// The handle of an entry of `directory`, which is not followed.
    pub fn of_entry(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Handle> {
        Handle::at(directory, name, 0)
    }

    fn at(fd: BorrowedFd<'_>, path: &std::ffi::CStr, flags: i32) -> io::Result<Handle> {
        let mut raw = RawHandle { bytes: LARGEST as u32, kind: 0, data: [0; LARGEST] };
        let mut mount = 0;
        // SAFETY: RawHandle is laid out as struct file_handle with room for `bytes` bytes; the rest outlives the call.
        checked(unsafe {
            libc::name_to_handle_at(
                fd.as_raw_fd(),
                path.as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount,
                flags,
            )
        })?;
        let mut bytes = Vec::with_capacity(4 + raw.bytes as usize);
        bytes.extend_from_slice(&raw.kind.to_le_bytes());
        bytes.extend_from_slice(&raw.data[..raw.bytes as usize]);
        Ok(Handle(bytes.into()))
    }

    /// The handle whose bytes these are, as `as_bytes` gave them; `None` for what can't be one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Handle> {
        (4..=4 + LARGEST).contains(&bytes.len()).then(|| Handle(bytes.into()))
    }

    /// Type (4 bytes, little-endian), then the handle proper.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of the inode that it leads to, where the host file system writes it into its handles in a way that is known
    /// (`include/linux/exportfs.h`): ext4, xfs and btrfs do.
    pub fn inode(&self) -> Option<u64> {
        let (kind, data) = self.0.split_at(4);
        match (u32::from_le_bytes(kind.try_into().expect("four bytes")), data.len()) {
            (INO32_GEN, 8) => Some(u32::from_ne_bytes(data[..4].try_into().expect("four bytes")).into()),
            (INO64_GEN, 12) | (BTRFS, 20) => {
                Some(u64::from_ne_bytes(data[..8].try_into().expect("eight bytes")))
            }
            _ => None,
        }
    }
}

/// The file system that holds the tree, opened so that handles can be followed. Needs CAP_DAC_READ_SEARCH.
#[derive(Debug)]
pub struct Volume {
    anchor: OwnedFd,
}

impl Volume {
    /// The file system that `directory` is on.
    pub fn of(directory: impl AsFd) -> io::Result<Volume> {
        // open_by_handle_at refuses O_PATH descriptors as its anchor.
        let anchor = super::reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Volume { anchor })
    }

    /// Opens the object; ESTALE where it is no more.
    pub fn open(&self, handle: &Handle, flags: OFlags) -> io::Result<OwnedFd> {
        let (kind, data) = handle.0.split_at(4);
        let kind = i32::from_le_bytes(kind.try_into().expect("four bytes"));
        let mut raw = RawHandle { bytes: data.len() as u32, kind, data: [0; LARGEST] };
        raw.data[..data.len()].copy_from_slice(data);
        let flags = (flags | OFlags::CLOEXEC).bits() as i32;
        // SAFETY: RawHandle is laid out as struct file_handle with `bytes` bytes; the result is a new descriptor.
        unsafe {
            let fd = checked(libc::open_by_handle_at(self.anchor.as_raw_fd(), (&raw mut raw).cast(), flags))?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Opens the object without access to its data, whatever it is.
    pub fn reach(&self, handle: &Handle) -> io::Result<OwnedFd> {
        self.open(handle, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// A directory of the file system, open for reading.
    pub fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }
}
