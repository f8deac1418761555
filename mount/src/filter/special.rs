//! Control calls that make sense on any file: the marks that `lsattr` and `chattr` show and set.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mezzo_core::permission::Need;
use mezzo_fuse::{Answered, Errno, Header, Reply};
use mezzo_replica::host;
use rustix::fs::OFlags;

use super::{Filter, Outcome, told};

/// From linux/fs.h: a file's flags as a number, and its attributes as `struct fsxattr` (28 bytes).
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

impl Filter {
    pub(super) fn ioctl(
        &self,
        header: &Header,
        command: u32,
        input: &[u8],
        output_size: u32,
        reply: Reply<'_>,
    ) -> Answered {
        match self.marks(header, command, input, output_size) {
            Ok(output) => reply.ioctl(0, &output),
            Err(errno) => reply.error(errno),
        }
    }

    fn marks(&self, header: &Header, command: u32, input: &[u8], output_size: u32) -> Outcome<Vec<u8>> {
        let sets = match command {
            FS_IOC_GETFLAGS | FS_IOC_FSGETXATTR => false,
            FS_IOC_SETFLAGS | FS_IOC_FSSETXATTR => true,
            _ => return Err(Errno::ENOTTY),
        };
        let object = self.object(header.node)?;
        let mut buffer = [0u8; 32];
        let given = input.len().min(buffer.len());
        buffer[..given].copy_from_slice(&input[..given]);
        if sets {
            let set = |reach: BorrowedFd<'_>| call(reach, command, &mut buffer);
            let caller = self.caller(header, 0)?;
            self.judge_anew(header, &caller, &[Need::Own(object)])?;
            self.replica.set_marks(&caller, object, set).map_err(told)?;
            self.was_changed_by(header.node, object);
        } else {
            let entry = self.replica.entry(object).map_err(told)?;
            call(self.replica.reach(&entry).map_err(told)?.as_fd(), command, &mut buffer)?;
        }
        Ok(buffer[..(output_size as usize).min(buffer.len())].to_vec())
    }
}

/// One of the four commands on the host's object. All of them need no more than an open for reading.
fn call(reach: BorrowedFd<'_>, command: u32, buffer: &mut [u8; 32]) -> io::Result<()> {
    let file = host::reopen(reach, OFlags::RDONLY | OFlags::NONBLOCK)?;
    // SAFETY: these four commands read or write at most 28 bytes of the buffer, and the descriptor is open.
    match unsafe { libc::ioctl(file.as_raw_fd(), command.into(), buffer.as_mut_ptr()) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
