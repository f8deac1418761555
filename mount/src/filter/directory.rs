//! Directories, read without being opened: a position in one is the host's, and good for any later read.

use std::os::fd::{AsFd, OwnedFd};

use mezzo_core::{Name, ObjectId};
use mezzo_fuse::{Answered, Directory, Errno, Header, Reply, Statfs};
use mezzo_replica::host;
use rustix::fs::OFlags;

use super::{Filter, Outcome, own, told};
use crate::nodes::Node;

/// Bytes of entries that are asked of the host at once, for each byte that the kernel asks for. Its entries and the
/// host's are about as long.
const LEAST: usize = 4 << 10;

impl Filter {
    pub(super) fn read_directory(
        &self,
        header: &Header,
        offset: u64,
        size: u32,
        reply: Reply<'_>,
    ) -> Answered {
        reply.directory(size, |directory| match self.node(header.node)? {
            Node::Object(object) => self.each_entry(object, offset, size, |name, inode, next, kind| {
                Ok(directory.add(inode, next, kind, name))
            }),
            node => self.read_own(&node, offset, directory, false),
        })
    }

    pub(super) fn read_directory_plus(
        &self,
        header: &Header,
        offset: u64,
        size: u32,
        reply: Reply<'_>,
    ) -> Answered {
        reply.directory(size, |directory| match self.node(header.node)? {
            Node::Object(object) => self.each_entry(object, offset, size, |name, inode, next, kind| {
                self.add_plus(directory, object, (name, inode, next, kind))
            }),
            node => self.read_own(&node, offset, directory, true),
        })
    }

    /// Calls `each` with name, inode number, position after it and type, until it returns false.
    fn each_entry(
        &self,
        object: ObjectId,
        offset: u64,
        size: u32,
        mut each: impl FnMut(&[u8], u64, u64, u32) -> Outcome<bool>,
    ) -> Outcome<()> {
        let directory = self.replica.directory(object).map_err(told)?;
        let directory: OwnedFd = host::reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        if offset != 0 {
            rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(offset))?;
        }
        let mut buffer = Vec::with_capacity(LEAST.max(size as usize));
        let mut entries = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if own::is_own(object, name) {
                continue;
            }
            let kind = entry.file_type().as_raw_mode() >> 12;
            let inode = self.replica.index().number(entry.ino());
            if !each(name, inode, entry.next_entry_cookie(), kind)? {
                break;
            }
        }
        Ok(())
    }

    fn add_plus(
        &self,
        directory: &mut Directory<'_>,
        parent: ObjectId,
        (name, inode, next, kind): (&[u8], u64, u64, u32),
    ) -> Outcome<bool> {
        if !directory.fits(name.len(), true) {
            return Ok(false);
        }
        // Dots, and what vanished or can't be looked at, is told by its name alone.
        let met = match Name::new(name) {
            Ok(name) => self.replica.meet(parent, &name).ok().flatten(),
            Err(_) => None,
        };
        let entry = met.map(|met| self.entry_of(&met)).unwrap_or_default();
        Ok(directory.add_plus(&entry, inode, next, kind, name))
    }

    pub(super) fn statfs(&self) -> Outcome<Statfs> {
        let found = rustix::fs::fstatvfs(self.replica.fileset().root())?;
        // What the attic holds is given up when it is needed, so that it counts as free.
        let (bytes, files) = self.replica.attic_size();
        let kept = (bytes / found.f_frsize.max(1)).min(found.f_blocks - found.f_bfree);
        Ok(Statfs {
            blocks: found.f_blocks,
            blocks_free: found.f_bfree + kept,
            blocks_available: found.f_bavail + kept,
            files: found.f_files,
            files_free: found.f_ffree + files,
            block_size: found.f_bsize as u32,
            name_length: found.f_namemax as u32,
            fragment_size: found.f_frsize as u32,
        })
    }

    pub(super) fn fsync_directory(&self, header: &Header) -> Outcome<()> {
        let object = self.object(header.node)?;
        let directory = self.replica.directory(object).map_err(told)?;
        let directory = host::reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(directory).map_err(Errno::from)?;
        self.replica.sync_log().map_err(told).map(drop)
    }
}
