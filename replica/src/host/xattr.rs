//! Extended attributes of an object behind any descriptor, `O_PATH` ones and symbolic links included.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use mezzo_core::{Attributes, Xattr};

use super::{checked, proc_path};

fn c_string(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The value of `name`; ENODATA where there is none.
pub fn get(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Box<[u8]>> {
    let (path, name) = (proc_path(fd), c_string(name)?);
    sized(|buffer| {
        // SAFETY: strings are NUL-terminated, and the buffer has the length that is told.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// The names that the calling thread may see, sorted.
pub fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<Box<[u8]>>> {
    let path = proc_path(fd);
    let list = match sized(|buffer| {
        // SAFETY: the path is NUL-terminated, and the buffer has the length that is told.
        unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    }) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut names: Vec<Box<[u8]>> =
        list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(Box::from).collect();
    names.sort();
    Ok(names)
}

/// All of them that records carry, sorted by name. One that vanishes meanwhile is left out.
pub fn all(fd: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
    let mut found = Vec::new();
    for name in names(fd)?.into_iter().filter(|name| is_carried(name)) {
        match get(fd, &name) {
            Ok(value) => found.push(Xattr { name, value }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// How the names of marks begin that are mezzo's own.
pub const OWN: &[u8] = b"trusted.mezzo.";

/// The durable mark of a file that lacks bytes which the log tells of.
pub const LOST: &[u8] = b"trusted.mezzo.lost";

/// Whether the file has the mark [`LOST`].
pub fn is_lost(fd: BorrowedFd<'_>) -> bool {
    get(fd, LOST).is_ok()
}

/// Whether the file has the mark [`LOST`], and nobody has written to it since it was set.
pub fn is_lost_still(fd: BorrowedFd<'_>, now: &Attributes) -> bool {
    get(fd, LOST).is_ok_and(|mark| mark.is_empty() || *mark == look(now))
}

/// Sets the mark [`LOST`] on a file whose bytes are being brought: it holds whatever the file looks like.
pub fn mark_filling(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, LOST, b"", 0)
}

/// The durable mark of a file, beside [`LOST`], whose bytes never were here: what it has instead is shown to nobody.
pub const ABSENT: &[u8] = b"trusted.mezzo.absent";

/// Whether the file has the mark [`ABSENT`].
pub fn is_absent(fd: BorrowedFd<'_>) -> bool {
    get(fd, ABSENT).is_ok()
}

/// Sets both marks on a file: they hold whatever it looks like.
pub fn mark_absent_whatever(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, ABSENT, b"", 0)?;
    mark_filling(fd)
}

/// Whether the file has the mark [`LOST`], and it holds whatever the file looks like.
pub fn is_filling(fd: BorrowedFd<'_>) -> bool {
    get(fd, LOST).is_ok_and(|mark| mark.is_empty())
}

/// Sets both marks on a file that looks like this.
pub fn mark_absent(fd: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    set(fd, ABSENT, b"", 0)?;
    mark_lost(fd, Some(attributes))
}

/// Sets the mark [`LOST`] on a file that looks like this, or takes all marks away.
pub fn mark_lost(fd: BorrowedFd<'_>, lost: Option<&Attributes>) -> io::Result<()> {
    if lost.is_none() && is_absent(fd) {
        remove(fd, ABSENT)?;
    }
    match lost.map_or_else(|| remove(fd, LOST), |attributes| set(fd, LOST, &look(attributes), 0)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(()),
        marked => marked,
    }
}

/// What a write changes of a file: its size and mtime.
fn look(attributes: &Attributes) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&attributes.size.to_le_bytes());
    bytes[8..16].copy_from_slice(&attributes.mtime.seconds.to_le_bytes());
    bytes[16..].copy_from_slice(&attributes.mtime.nanoseconds.to_le_bytes());
    bytes
}

/// Whether records carry it: a mark of mezzo's is of one replica, a security module's own label belongs to the host, and xfs tells of an ACL a second time, in a
/// form of its own.
pub fn is_carried(name: &[u8]) -> bool {
    !name.starts_with(OWN)
        && !matches!(
            name,
            b"security.selinux"
                | b"security.SMACK64"
                | b"security.ima"
                | b"security.evm"
                | b"trusted.SGI_ACL_FILE"
                | b"trusted.SGI_ACL_DEFAULT"
        )
}

/// Sets `name`, with the flags of `setxattr(2)`.
pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (proc_path(fd), c_string(name)?);
    // SAFETY: strings are NUL-terminated, and the value has the length that is told.
    checked(unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    })?;
    Ok(())
}

/// Removes `name`; ENODATA where there is none.
pub fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let (path, name) = (proc_path(fd), c_string(name)?);
    // SAFETY: strings are NUL-terminated.
    checked(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })?;
    Ok(())
}

/// Calls with a growing buffer: most values fit at once.
fn sized(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Box<[u8]>> {
    let mut buffer = vec![0u8; 1024];
    loop {
        let length = call(&mut buffer);
        if length >= 0 {
            buffer.truncate(length as usize);
            return Ok(buffer.into_boxed_slice());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() >= 1 << 20 {
            return Err(error);
        }
        buffer.resize(buffer.len() * 4, 0);
    }
}
