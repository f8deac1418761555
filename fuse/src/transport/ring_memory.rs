//! The memory that a ring's entries share with the kernel.

use crate::abi;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::{self, NonNull};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

/// The alignment of payloads, in bytes.
const PAGE: usize = 4096;

/// What the kernel calls `fuse_uring_req_header`: of a request as it comes, of its answer as it goes.
#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout)]
pub(crate) struct RingHeader {
    pub in_out: [u8; abi::URING_HEADER_SIZE],
    pub argument: [u8; abi::URING_ARGUMENT_SIZE],
    pub entry: abi::UringEntInOut,
}

/// For each entry a page with its header and whole pages of payload. Pages that are never touched take no
/// memory.
pub(crate) struct RingMemory {
    base: NonNull<u8>,
    entries: usize,
    payload_size: usize,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it is bound to a thread.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// Memory for `entries` entries with payloads of `payload_size` bytes or a little more.
    pub fn new(entries: usize, payload_size: usize) -> io::Result<RingMemory> {
        let payload_size = payload_size.next_multiple_of(PAGE);
        let length = entries * (PAGE + payload_size);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, replaces nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(RingMemory { base, entries, payload_size })
    }

    /// The two places of an entry, as the kernel is told of them.
    pub fn places(&self, index: usize) -> [libc::iovec; 2] {
        let (header, payload) = self.pointers(index);
        [
            libc::iovec { iov_base: header.cast(), iov_len: size_of::<RingHeader>() },
            libc::iovec { iov_base: payload.cast(), iov_len: self.payload_size },
        ]
    }

    /// The header and the payload of an entry.
    ///
    /// # Safety
    ///
    /// The entry must be ours: not handed to the kernel since the kernel last handed it to us.
    pub unsafe fn entry(&mut self, index: usize) -> (&mut RingHeader, &mut [u8]) {
        let (header, payload) = self.pointers(index);
        // SAFETY: both lie in the mapping, apart from each other and from other entries, and are aligned to
        // pages; any bytes are valid for both; the kernel doesn't write them, as the caller grants; `self` is
        // borrowed meanwhile.
        unsafe { (&mut *header.cast(), std::slice::from_raw_parts_mut(payload, self.payload_size)) }
    }

    fn pointers(&self, index: usize) -> (*mut u8, *mut u8) {
        assert!(index < self.entries, "an entry outside the ring's memory");
        // SAFETY: the index is checked, so that both stay within the mapping.
        unsafe {
            let header = self.base.add(index * (PAGE + self.payload_size));
            (header.as_ptr(), header.add(PAGE).as_ptr())
        }
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        let length = self.entries * (PAGE + self.payload_size);
        // SAFETY: the mapping is ours and whole, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_kernel_s_layout() {
        assert_eq!(size_of::<RingHeader>(), 288);
        assert_eq!(std::mem::offset_of!(RingHeader, argument), 128);
        assert_eq!(std::mem::offset_of!(RingHeader, entry), 256);
    }

    #[test]
    fn entries_lie_apart_on_pages() {
        let mut memory = RingMemory::new(3, 5000).unwrap();
        for index in 0..3 {
            // SAFETY: no kernel knows of this memory.
            let (header, payload) = unsafe { memory.entry(index) };
            assert_eq!((payload.len(), payload.as_ptr() as usize % PAGE), (8192, 0));
            header.in_out.fill(index as u8 + 1);
            payload.fill(index as u8 + 1);
        }
        for index in 0..3 {
            // SAFETY: as above.
            let (header, payload) = unsafe { memory.entry(index) };
            assert!(header.in_out.iter().chain(&*payload).all(|byte| *byte == index as u8 + 1));
        }
    }
}
