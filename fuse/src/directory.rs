//! Directory entries on their way into an answer.

use crate::abi;
use crate::values::{Entry, entry_out};
use zerocopy::{FromZeros, IntoBytes};

/// A directory's entries on their way into an answer.
pub struct Directory<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Directory<'a> {
    /// A listing that fills `room`.
    pub(crate) fn new(room: &'a mut [u8]) -> Directory<'a> {
        Directory { room, used: 0 }
    }

    /// The bytes taken.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Adds an entry of READDIR. False when there is no room for it; nothing was added then.
    ///
    /// `next_offset` is where a later request goes on after this entry; not 0. `kind` is one of `libc::DT_*`.
    pub fn add(&mut self, inode: u64, next_offset: u64, kind: u32, name: &[u8]) -> bool {
        self.add_after(&[], inode, next_offset, kind, name)
    }

    /// Adds an entry of READDIRPLUS; else as [`Directory::add`]. Unless the name is "." or ".." or the
    /// entry's node is 0, this adds one to the node's lookup count.
    pub fn add_plus(&mut self, entry: &Entry, inode: u64, next_offset: u64, kind: u32, name: &[u8]) -> bool {
        self.add_after(entry_out(entry).as_bytes(), inode, next_offset, kind, name)
    }

    /// Whether an entry with a name of `name_length` bytes would be added; `plus` for READDIRPLUS.
    pub fn fits(&self, name_length: usize, plus: bool) -> bool {
        let lead = if plus { size_of::<abi::EntryOut>() } else { 0 };
        entry_size(lead, name_length) <= self.room.len() - self.used
    }

    /// Whether no entry has been added.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn add_after(&mut self, lead: &[u8], inode: u64, next_offset: u64, kind: u32, name: &[u8]) -> bool {
        let size = entry_size(lead.len(), name.len());
        if size > self.room.len() - self.used {
            return false;
        }
        let header = abi::Dirent { ino: inode, off: next_offset, namelen: name.len() as u32, kind };
        let space = &mut self.room[self.used..self.used + size];
        let mut end = 0;
        for part in [lead, header.as_bytes(), name] {
            space[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        space[end..].zero();
        self.used += size;
        true
    }
}

fn entry_size(lead: usize, name_length: usize) -> usize {
    abi::aligned(lead + size_of::<abi::Dirent>() + name_length)
}
