//! The host file system: the system calls that the replica makes, each with one meaning.
//!
//! An object is reached by its handle, so that nothing depends on paths that others may change meanwhile.

mod bare;
mod fanotify;
mod handle;
mod identity;
mod stand_in;
mod stat;
pub mod xattr;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mezzo_core::{Device, Kind, Name, Time};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

pub use bare::without_mounts;
pub use fanotify::Queue;
pub(crate) use fanotify::{At, Event, Fanotify, events};
pub use handle::{Handle, Volume};
pub use identity::{Identity, Switched, as_author, may_switch, serve_users, set_umask, with_set_id_rights};
pub use stand_in::StandIn;
pub(crate) use stand_in::{host_now, now, process, random, sync_all};
pub use stat::{HostId, Stat, stat, stat_entry};

/// A name as system calls take it. Names hold no NUL.
pub fn c_name(name: &Name) -> CString {
    CString::new(name.as_bytes()).expect("a name holds no NUL")
}

/// The path that leads to what `fd` has open, for calls that take no descriptor. Good as long as `fd` is open.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL")
}

/// Turns a libc call's result into a Rust one.
pub(crate) fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens an entry of `directory` itself, whatever it is, without following or touching it.
pub fn open_entry(directory: BorrowedFd<'_>, name: &Name) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty())?)
}

/// Opens what `fd`, usually an `O_PATH` one, stands for.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(proc_path(fd).as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the file at `path` for reading, which must be a regular one and no symbolic link: somebody else may have put it there.
pub fn open_regular(path: &std::path::Path) -> io::Result<std::fs::File> {
    // A fifo would wait for somebody who writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no regular file", path.display())))
}

/// Where the symbolic link behind an `O_PATH` descriptor leads.
pub fn read_link(fd: BorrowedFd<'_>) -> io::Result<Box<[u8]>> {
    Ok(rustix::fs::readlinkat(fd, c"", Vec::with_capacity(256))?.into_bytes().into_boxed_slice())
}

/// Makes a special file, a fifo or a socket's name.
pub fn make_node(
    directory: BorrowedFd<'_>,
    name: &Name,
    kind: Kind,
    mode: u32,
    device: Device,
) -> io::Result<()> {
    let kind_bits = match kind {
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
        _ => libc::S_IFREG,
    };
    let number = libc::makedev(device.major, device.minor);
    // SAFETY: the name is NUL-terminated and the descriptor is open.
    checked(unsafe {
        libc::mknodat(directory.as_raw_fd(), c_name(name).as_ptr(), kind_bits | mode, number)
    })?;
    Ok(())
}

/// Renames as `renameat2` does.
pub fn rename(
    from: BorrowedFd<'_>,
    from_name: &Name,
    to: BorrowedFd<'_>,
    to_name: &Name,
    flags: RenameFlags,
) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from, from_name.as_bytes(), to, to_name.as_bytes(), flags)?)
}

/// Removes a name: of a directory where `directory_entry` is true, else of anything else.
pub fn unlink(parent: BorrowedFd<'_>, name: &Name, directory_entry: bool) -> io::Result<()> {
    let flags = if directory_entry { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(rustix::fs::unlinkat(parent, name.as_bytes(), flags)?)
}

/// Gives what `fd` stands for one more name. Needs CAP_DAC_READ_SEARCH or the process's own /proc.
pub fn link(fd: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
    let path = proc_path(fd);
    Ok(rustix::fs::linkat(
        rustix::fs::CWD,
        path.as_c_str(),
        directory,
        name.as_bytes(),
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

/// Sets permission bits of anything but a symbolic link.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated and empty, and the descriptor is open.
    let result = unsafe {
        libc::syscall(libc::SYS_fchmodat2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    };
    match io::Error::last_os_error().raw_os_error() {
        _ if result == 0 => Ok(()),
        // Kernels before 6.6 have no such call.
        Some(libc::ENOSYS) => {
            // SAFETY: the path is NUL-terminated.
            checked(unsafe { libc::chmod(proc_path(fd).as_ptr(), mode) })?;
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets owner and group; `None` leaves one as it is.
pub fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the path is NUL-terminated and empty, and the descriptor is open.
    checked(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })?;
    Ok(())
}

/// What to do with one of the two times that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The host's clock.
    Now,
    /// This time.
    To(Time),
}

impl SetTime {
    fn timespec(self) -> libc::timespec {
        match self {
            SetTime::Omit => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            SetTime::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            SetTime::To(time) => libc::timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        }
    }
}

/// Sets access and modification times, of a symbolic link too.
pub fn set_times(fd: BorrowedFd<'_>, atime: SetTime, mtime: SetTime) -> io::Result<()> {
    let times = [atime.timespec(), mtime.timespec()];
    // SAFETY: the path is NUL-terminated and empty, times are two, and the descriptor is open.
    checked(unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) })?;
    Ok(())
}

/// Makes `to` share all bytes of `from`, where the host file system can.
pub fn reflink(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

/// What is hardly more than a block is not looked at for holes.
const SMALL_BYTES: u64 = 4096;

/// Copies `length` bytes from `from` at `offset` to the same place of `to`, leaving holes where `from` has some.
pub fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    if length <= SMALL_BYTES {
        return copy_bytes(from, to, offset, length);
    }
    let end = offset + length;
    let mut at = offset;
    while at < end {
        let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start.min(end),
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stop = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start))?.min(end);
        copy_bytes(from, to, start, stop - start)?;
        at = stop;
    }
    Ok(())
}

/// Where the next data is at or after `at`; `None` where only a hole is left, or nothing.
pub fn next_data(fd: BorrowedFd<'_>, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(fd, rustix::fs::SeekFrom::Data(at)) {
        Err(rustix::io::Errno::NXIO) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Where the data that `at` is in ends, at `end` at the latest.
pub fn next_hole(fd: BorrowedFd<'_>, at: u64, end: u64) -> io::Result<u64> {
    if at >= end {
        return Ok(end);
    }
    Ok(rustix::fs::seek(fd, rustix::fs::SeekFrom::Hole(at))?.min(end))
}

/// Makes `length` bytes at `offset` zeros, of a file that need not reach that far.
pub fn clear(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(fd, punch, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(fd, offset, length),
        punched => Ok(punched?),
    }
}

fn write_zeros(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let step = zeros.len().min((end - at) as usize);
        at += rustix::io::pwrite(fd, &zeros[..step], at)? as u64;
    }
    Ok(())
}

fn copy_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    copy_bytes_to(from, to, (offset, offset), length)
}

/// Copies `length` bytes from one place of `from` to another of `to`, holes as zeros. What `from` has not is left out.
pub fn copy_bytes_to(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    (from_at, to_at): (u64, u64),
    length: u64,
) -> io::Result<()> {
    let (mut read_at, mut write_at, mut left) = (from_at, to_at, length);
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), step) {
            Ok(0) => return Ok(()),
            Ok(copied) => left -= copied as u64,
            // From one file system to another, the kernel leaves it to us.
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                return copy_through_memory(from, to, (read_at, write_at), left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    (from_at, to_at): (u64, u64),
    length: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; (256 << 10).min(usize::try_from(length).unwrap_or(usize::MAX))];
    let (mut at, end) = (from_at, from_at + length);
    while at < end {
        let wanted = buffer.len().min((end - at) as usize);
        let read = rustix::io::pread(from, &mut buffer[..wanted], at)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            written +=
                rustix::io::pwrite(to, &buffer[written..read], to_at + (at - from_at) + written as u64)?;
        }
        at += read as u64;
    }
    Ok(())
}

/// Whether nobody has the file open for writing or mapped writable: `fd` must be open read-only, and be the caller's
/// only descriptor. A read lease can be taken only then (`fcntl(2)`, F_SETLEASE).
pub fn has_no_writers(fd: BorrowedFd<'_>) -> bool {
    can_lease(fd, libc::F_RDLCK)
}

/// Whether nobody else has the file open, mapped or running: `fd` must be open read-only. A write lease can be taken only then.
pub fn has_no_users(fd: BorrowedFd<'_>) -> bool {
    can_lease(fd, libc::F_WRLCK)
}

fn can_lease(fd: BorrowedFd<'_>, kind: libc::c_int) -> bool {
    // SAFETY: the descriptor is open; the calls take no pointers.
    unsafe {
        let taken = libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) == 0;
        if taken {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
        }
        taken
    }
}

/// Whether the file system that `fd` is on enforces quotas of users, groups or projects (`quotactl_fd(2)`, Q_XGETQSTAT).
pub fn has_quotas(fd: BorrowedFd<'_>) -> bool {
    const GET_STATE: libc::c_uint = 0x5805 << 8;
    const ENFORCED: u16 = 1 << 1 | 1 << 3 | 1 << 5;
    // A struct fs_quota_stat is shorter: its version is the first byte, its flags the third and fourth.
    let mut state = [0u64; 32];
    // SAFETY: the kernel fills in a structure that fits the buffer, which outlives the call.
    let got =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, fd.as_raw_fd(), GET_STATE, 0, state.as_mut_ptr()) };
    let [_, _, low, high, ..] = state[0].to_ne_bytes();
    got == 0 && u16::from_ne_bytes([low, high]) & ENFORCED != 0
}

/// Writes the file's dirty pages out and makes them read-only to mappings, so that the next store into one moves the file's
/// times again. Makes nothing durable (`sync_file_range(2)`).
pub fn write_out(fd: BorrowedFd<'_>) -> io::Result<()> {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open; the call takes no pointers.
    if unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, all) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The entries of a directory: name, inode number and `d_type`, without `.` and `..`, in the host's order.
pub fn entries(directory: impl AsFd) -> io::Result<Vec<(Name, u64, rustix::fs::FileType)>> {
    let directory = reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut reader = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry?;
        if let Ok(name) = Name::new(entry.file_name().to_bytes()) {
            found.push((name, entry.ino(), entry.file_type()));
        }
    }
    Ok(found)
}

/// Replaces the file `name` in `directory` by one that holds `bytes`: whole or not at all, and durable when it returns.
pub fn write_whole(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let fresh = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file =
        std::fs::File::from(rustix::fs::openat(directory, &fresh, flags, Mode::from_bits_retain(0o600))?);
    file.write_all(bytes)?;
    file.sync_all()?;
    rustix::fs::renameat(directory, &fresh, directory, name)?;
    Ok(rustix::fs::fsync(directory)?)
}

/// Sets the size of a regular file.
pub fn set_size(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the path is NUL-terminated.
    checked(unsafe { libc::truncate(proc_path(fd).as_ptr(), size) })?;
    Ok(())
}

/// The bits of `st_mode` that say what an object is.
pub fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}
