//! What the host and the replicas' process share beside the file system: the clock, random numbers, and which operation is under
//! way.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::random::Random;

/// When every history begins, in seconds since the epoch.
const BEGIN_S: u64 = 1_800_000_000;

/// By how much the clock goes on whenever it is read: no two readings are the same.
const TICK_NS: u64 = 1_000;

/// A page of memory that several processes have.
#[derive(Debug)]
pub struct Page {
    fd: OwnedFd,
    shared: *const Shared,
}

// SAFETY: the page holds atomics only, and is mapped for as long as the process lives.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

#[repr(C)]
struct Shared {
    time_ns: AtomicU64,
    random: AtomicU64,
    operation: AtomicU64,
}

impl Page {
    /// A new one, which children inherit.
    pub fn new() -> io::Result<Page> {
        let fd = rustix::fs::memfd_create("mezzo-sim", MemfdFlags::empty())?;
        rustix::fs::ftruncate(&fd, size_of::<Shared>() as u64)?;
        let page = Page::map(fd)?;
        page.set((BEGIN_S * 1_000_000_000, 0));
        Ok(page)
    }

    /// The one that was inherited as descriptor `fd`.
    pub fn inherited(fd: RawFd) -> io::Result<Page> {
        // SAFETY: whoever started this process gave it the descriptor for this alone.
        Page::map(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn map(fd: OwnedFd) -> io::Result<Page> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where, and nothing unmaps it.
        let shared = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), size_of::<Shared>(), access, MapFlags::SHARED, &fd, 0)?
        };
        Ok(Page { fd, shared: shared.cast() })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is mapped for ever, is as large as this, and all zeros are valid in it.
        unsafe { &*self.shared }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The time, which is never told twice.
    pub fn now(&self) -> (i64, u32) {
        stamp(self.shared().time_ns.fetch_add(TICK_NS, SeqCst))
    }

    /// The time that was told last.
    pub fn last(&self) -> (i64, u32) {
        stamp(self.shared().time_ns.load(SeqCst) - TICK_NS)
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        Random::new(self.shared().random.fetch_add(1, SeqCst)).next()
    }

    /// Where clock and random numbers are.
    pub fn get(&self) -> (u64, u64) {
        (self.shared().time_ns.load(SeqCst), self.shared().random.load(SeqCst))
    }

    /// Puts clock and random numbers there.
    pub fn set(&self, (time_ns, random): (u64, u64)) {
        self.shared().time_ns.store(time_ns, SeqCst);
        self.shared().random.store(random, SeqCst);
    }

    /// The operation that is under way.
    pub fn operation(&self) -> u64 {
        self.shared().operation.load(SeqCst)
    }

    pub fn set_operation(&self, operation: u64) {
        self.shared().operation.store(operation, SeqCst);
    }
}

fn stamp(time_ns: u64) -> (i64, u32) {
    ((time_ns / 1_000_000_000) as i64, (time_ns % 1_000_000_000) as u32)
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it is left.
        let _ = unsafe { rustix::mm::munmap(self.shared.cast_mut().cast(), size_of::<Shared>()) };
    }
}
