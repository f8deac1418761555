//! Files that the kernel reads and writes itself, in place of asking for their data (passthrough).

use crate::abi;
use crate::transport::device::Channel;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Registers backing files with the kernel. Any thread may.
#[derive(Clone)]
pub struct Backings {
    channel: Arc<Channel>,
}

impl Backings {
    pub(crate) fn new(channel: Arc<Channel>) -> Backings {
        Backings { channel }
    }

    /// Registers an open regular file. The kernel uses it with the calling thread's credentials of this
    /// moment and with the access it was opened with; the descriptor itself may be closed.
    ///
    /// Fails with EPERM without CAP_SYS_ADMIN or where passthrough was not granted, with ELOOP on a file
    /// system stacked too deep, with EOPNOTSUPP for what is no regular file or can't be read and written in
    /// this way.
    pub fn open(&self, file: BorrowedFd<'_>) -> io::Result<BackingId> {
        let map = abi::BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the ioctl reads one `fuse_backing_map` from the pointer, which is valid and has its layout.
        let id =
            unsafe { libc::ioctl(self.channel.fd().as_raw_fd(), abi::DEV_IOC_BACKING_OPEN, &raw const map) };
        if id <= 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(BackingId { channel: self.channel.clone(), id })
        }
    }
}

/// A registered backing file. Dropped it is closed; files opened with it go on with it.
pub struct BackingId {
    channel: Arc<Channel>,
    id: i32,
}

impl BackingId {
    /// The kernel's number for it, above 0.
    pub fn id(&self) -> i32 {
        self.id
    }
}

impl std::fmt::Debug for BackingId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "BackingId({})", self.id)
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        let id = self.id as u32;
        // SAFETY: the ioctl reads one u32 from the pointer, which is valid for it.
        let _ =
            unsafe { libc::ioctl(self.channel.fd().as_raw_fd(), abi::DEV_IOC_BACKING_CLOSE, &raw const id) };
        // It fails when the connection is gone, and the backing file with it.
    }
}
