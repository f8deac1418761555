//! Error numbers as the kernel wants them in an answer.

use std::fmt;
use std::io;

/// A positive error number of Linux, such as 2 for ENOENT.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errno_constants {
    ($($name:ident,)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)*
        }

        const NAMES: &[(i32, &str)] = &[$((libc::$name, stringify!($name)),)*];
    };
}

errno_constants! {
    EPERM, ENOENT, ESRCH, EINTR, EIO, ENXIO, E2BIG, EBADF, EAGAIN, ENOMEM, EACCES, EFAULT, EBUSY, EEXIST,
    EXDEV, ENODEV, ENOTDIR, EISDIR, EINVAL, ENFILE, EMFILE, ENOTTY, ETXTBSY, EFBIG, ENOSPC, ESPIPE, EROFS,
    EMLINK, EPIPE, ERANGE, EDEADLK, ENAMETOOLONG, ENOLCK, ENOSYS, ENOTEMPTY, ELOOP, ENODATA, ETIME, EPROTO,
    EOVERFLOW, EOPNOTSUPP, ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ESTALE, EREMOTEIO, EDQUOT,
    ENOTCONN, ECANCELED,
}

/// The largest number the kernel takes in an answer; from 512 on they are the kernel's own.
const LARGEST: i32 = 511;

impl Errno {
    /// The number as an answer carries it: negative, and EIO where the kernel would refuse the number.
    pub(crate) fn wire(self) -> i32 {
        match self.0 {
            1..=LARGEST => -self.0,
            _ => -libc::EIO,
        }
    }

    /// The name, for messages; `None` for a number without a constant here.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(formatter)
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    /// The system's number when the error has one; else EIO.
    fn from(error: io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        Errno(error.raw_os_error())
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_and_names() {
        assert_eq!(Errno::from(io::Error::from_raw_os_error(2)), Errno::ENOENT);
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::EIO);
        assert_eq!(Errno::from(rustix::io::Errno::NOTEMPTY), Errno::ENOTEMPTY);
        assert_eq!(format!("{:?}", Errno::ESTALE), "ESTALE");
        assert_eq!(format!("{:?}", Errno(500)), "errno 500");
    }

    #[test]
    fn an_impossible_number_becomes_eio() {
        assert_eq!(Errno::ENOENT.wire(), -2);
        for wrong in [0, -2, 512, i32::MIN, i32::MAX] {
            assert_eq!(Errno(wrong).wire(), -libc::EIO);
        }
    }
}
