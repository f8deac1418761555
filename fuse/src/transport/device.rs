//! Messages over /dev/fuse: a read takes a request, a write answers it.

use super::{Dispatcher, LateOutlet, Outlet};
use crate::Filesystem;
use crate::abi::{self, InHeader, OutHeader};
use crate::interrupt::Ticket;
use crate::parse::Message;
use rustix::io::Errno as Error;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// The alignment of bulk data, in bytes: of memory pages, as direct I/O of a backing file may need.
const PAGE: usize = 4096;

/// Where a WRITE's data begin in a message.
const WRITE_DATA_OFFSET: usize = size_of::<InHeader>() + size_of::<abi::WriteIn>();

/// How long FORGETs are gathered. To be woken for each costs those who remove files more than the removal, and nobody
/// waits for one.
const GATHER: Duration = Duration::from_millis(2);

/// An open /dev/fuse. An answer must go to the one that its request came from.
pub(crate) struct Channel {
    fd: OwnedFd,
}

impl Channel {
    pub fn new(fd: OwnedFd) -> Channel {
        Channel { fd }
    }

    /// The descriptor, for ioctls and notifications.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Another queue of the same connection.
    pub fn try_clone(&self) -> io::Result<Channel> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/fuse", flags, rustix::fs::Mode::empty())?;
        let source = self.fd.as_raw_fd() as u32;
        // SAFETY: the ioctl reads one u32, the descriptor to join, from the pointer, which is valid for it.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), abi::DEV_IOC_CLONE, &raw const source) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Channel { fd }) }
    }

    /// Takes one message into `buffer`; `None` when the file system is unmounted.
    ///
    /// ENOENT, EINTR and EAGAIN mean that a request vanished or a signal came: try again. Fails with
    /// ECONNABORTED when the connection was aborted, and with the system's error otherwise.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match rustix::io::read(self.fd.as_fd(), &mut *buffer) {
                Ok(0) | Err(Error::NODEV) => Ok(None),
                Ok(length) => Ok(Some(length)),
                Err(Error::NOENT | Error::INTR | Error::AGAIN) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Writes a header and what follows it.
    pub fn write(&self, mut header: OutHeader, parts: [&[u8]; 2]) -> Result<(), Error> {
        header.len = (size_of::<OutHeader>() + parts[0].len() + parts[1].len()) as u32;
        let slices = [IoSlice::new(header.as_bytes()), IoSlice::new(parts[0]), IoSlice::new(parts[1])];
        let used = 1 + if parts[1].is_empty() { usize::from(!parts[0].is_empty()) } else { 2 };
        retry(|| rustix::io::writev(&self.fd, &slices[..used]))
    }
}

impl LateOutlet for Channel {
    fn send(&self, unique: u64, error: i32, parts: [&[u8]; 2]) {
        // A failed answer has no one to be told to: ENOENT is a request that was interrupted, ENODEV an
        // unmounted file system, EINVAL an answer that doesn't suit the question, which the kernel has turned
        // into EIO.
        let _ = self.write(OutHeader { len: 0, error, unique }, parts);
    }
}

fn retry(mut call: impl FnMut() -> Result<usize, Error>) -> Result<(), Error> {
    loop {
        match call() {
            Ok(_) => return Ok(()),
            Err(Error::INTR) => continue,
            Err(error) => return Err(error),
        }
    }
}

/// Memory in which the byte at `lead` begins a page. Pages that are never touched take no memory.
pub(crate) struct PageBuffer {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl PageBuffer {
    /// `lead` bytes and `size` more.
    pub fn new(lead: usize, size: usize) -> PageBuffer {
        let storage = vec![0; lead + size + PAGE];
        let start = (storage.as_ptr() as usize + lead).wrapping_neg() % PAGE;
        PageBuffer { storage, start, length: lead + size }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

/// A worker's answers: built in one buffer behind room for the header.
struct DeviceOutlet<'w> {
    channel: &'w Arc<Channel>,
    buffer: &'w mut PageBuffer,
}

impl Outlet for DeviceOutlet<'_> {
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.buffer.bytes()[size_of::<OutHeader>()..].get_mut(..size)
    }

    fn send_room(&mut self, unique: u64, length: usize) {
        let end = size_of::<OutHeader>() + length;
        let message = &mut self.buffer.bytes()[..end];
        let header = OutHeader { len: end as u32, error: 0, unique };
        message[..size_of::<OutHeader>()].copy_from_slice(header.as_bytes());
        // As for `LateOutlet::send`: there is no one to tell.
        let _ = retry(|| rustix::io::write(self.channel.fd(), message));
    }

    fn send(&mut self, unique: u64, error: i32, parts: [&[u8]; 2]) {
        LateOutlet::send(&**self.channel, unique, error, parts);
    }

    fn detach(&mut self) -> Arc<dyn LateOutlet> {
        self.channel.clone()
    }
}

/// Serves requests of `channel` until the file system is unmounted. `bulk` is the largest read or write, in
/// bytes. With `beside`, others come over io_uring: then what is left here can wait, and is gathered.
///
/// Fails as [`Channel::receive`] does.
pub(crate) fn serve<F: Filesystem>(
    channel: &Arc<Channel>,
    dispatcher: &Dispatcher<'_, F>,
    bulk: usize,
    beside: bool,
) -> io::Result<()> {
    let mut input = PageBuffer::new(WRITE_DATA_OFFSET, bulk.max(abi::MIN_READ_BUFFER) + PAGE);
    let mut output = PageBuffer::new(size_of::<OutHeader>(), bulk);
    while let Some(length) = channel.receive(input.bytes())? {
        let mut outlet = DeviceOutlet { channel, buffer: &mut output };
        take(&input.bytes()[..length], dispatcher, &mut outlet);
        if beside && is_forget(&input.bytes()[..length]) {
            thread::sleep(GATHER);
        }
    }
    Ok(())
}

fn is_forget(bytes: &[u8]) -> bool {
    let header = InHeader::read_from_prefix(bytes);
    header.is_ok_and(|(header, _)| matches!(header.opcode, abi::opcode::FORGET | abi::opcode::BATCH_FORGET))
}

fn take<F: Filesystem>(bytes: &[u8], dispatcher: &Dispatcher<'_, F>, outlet: &mut DeviceOutlet<'_>) {
    match Message::split(bytes, dispatcher.setxattr_ext()) {
        Ok(message) => dispatcher.dispatch(message, outlet),
        Err(_) => {
            if let Ok((header, _)) = InHeader::read_from_prefix(bytes) {
                dispatcher.refuse(Ticket::of(&header), outlet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_after_the_lead_begins_a_page() {
        for lead in [0, 16, 40, 80, 4096] {
            let mut buffer = PageBuffer::new(lead, 100);
            assert_eq!(buffer.bytes().len(), lead + 100);
            assert_eq!(buffer.bytes()[lead..].as_ptr() as usize % PAGE, 0);
        }
    }
}
