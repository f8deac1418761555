//! A directory without what is mounted below it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::checked;

/// Opens `directory`, a directory that is open, once more: as a mount of its own that nobody else sees. What is mounted
/// below it, before or from now on, is not seen through it: each place shows the directory of the same file system that
/// the mount covers. Needs CAP_SYS_ADMIN.
pub fn without_mounts(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = rustix::mount::open_tree(directory, c"", flags)?;
    make_private(clone.as_fd())?;
    // The clone's own descriptor takes no system calls but those that name things. Once it is closed the mount lives on
    // for as long as something in it is open, as after a lazy unmount.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&clone, c".", flags, Mode::empty())?)
}

/// Mounts that are made elsewhere do not come along.
fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is empty and NUL-terminated, and the attributes are there for the call, with their size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result as libc::c_int).map(drop)
}
