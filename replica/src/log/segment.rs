//! The files of a log: their names, how one is opened, and how one is begun.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mezzo_core::Recno;
use mezzo_core::codec::{Chain, SegmentHead};
use rustix::fs::{Dir, Mode, OFlags};

use super::error::{Damage, LogError};

/// What a segment is called until its head is durable.
const UNFINISHED: &str = ".new";

/// As many bytes as a segment's head may have.
const LONGEST_HEAD: usize = 4096;

/// A log's directory, held open, so that a mount over it does not hide it.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// What errors call it.
    pub path: PathBuf,
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub file: File,
    /// What errors call it.
    pub path: PathBuf,
    pub head: SegmentHead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Directory {
    pub fn open(path: &Path) -> Result<Directory, LogError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(LogError::io("open", path))?;
        Ok(Directory { fd, path: path.to_owned() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same directory, held open once more.
    pub fn another(&self) -> Result<Directory, LogError> {
        let fd = self.fd.try_clone().map_err(LogError::io("open", &self.path))?;
        Ok(Directory { fd, path: self.path.clone() })
    }

    /// The first numbers of all segments, in their order.
    pub fn segments(&self) -> Result<Vec<Recno>, LogError> {
        let mut firsts: Vec<Recno> = self.names()?.iter().filter_map(|name| first_of(name)).collect();
        firsts.sort_unstable();
        Ok(firsts)
    }

    pub fn open_segment(&self, first: Recno, access: Access) -> Result<Arc<Segment>, LogError> {
        let name = name_of(first);
        let path = self.path.join(&name);
        let access = if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY };
        // A fifo of that name would wait for somebody who writes to it.
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd =
            rustix::fs::openat(&self.fd, &name, flags, Mode::empty()).map_err(LogError::io("open", &path))?;
        let segment = Segment::read(File::from(fd), path)?;
        if segment.head.first != first {
            let cause = Damage::Name { found: segment.head.first };
            return Err(LogError::damaged(&segment.path, 0, cause));
        }
        Ok(Arc::new(segment))
    }

    /// Begins a segment. It gets its name when its head is durable, so that no crash leaves half a head under it, and
    /// is returned when its name is durable too.
    pub fn begin_segment(&self, head: SegmentHead) -> Result<Arc<Segment>, LogError> {
        let name = name_of(head.first);
        let unfinished = format!("{name}{UNFINISHED}");
        let path = self.path.join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let failed = || LogError::io("begin", &path);
        let fd = rustix::fs::openat(&self.fd, &unfinished, flags, Mode::from_bits_retain(0o600))
            .map_err(LogError::io("begin", &path))?;
        let file = File::from(fd);
        file.write_all_at(&head.encode(), 0).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        rustix::fs::renameat(&self.fd, &unfinished, &self.fd, &name).map_err(LogError::io("begin", &path))?;
        self.sync()?;
        Ok(Arc::new(Segment { file, path, head }))
    }

    /// Removes segments that were begun and never got their name. They hold no records.
    pub fn remove_unfinished(&self) -> Result<(), LogError> {
        for name in self.names()? {
            if name.strip_suffix(UNFINISHED).and_then(first_of).is_some() {
                let removed = rustix::fs::unlinkat(&self.fd, &name, rustix::fs::AtFlags::empty());
                removed.map_err(LogError::io("remove", &self.path.join(&name)))?;
            }
        }
        Ok(())
    }

    /// Makes names durable.
    pub fn sync(&self) -> Result<(), LogError> {
        rustix::fs::fsync(&self.fd).map_err(LogError::io("sync", &self.path))
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        let failed = LogError::io("list", &self.path);
        let read = || -> rustix::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.fd)? {
                names.extend(entry?.file_name().to_str().map(str::to_owned));
            }
            Ok(names)
        };
        read().map_err(failed)
    }
}

impl Segment {
    /// Opens the segment at `path`, whatever its name.
    pub fn open(path: &Path) -> Result<Segment, LogError> {
        let file = File::open(path).map_err(LogError::io("open", path))?;
        Segment::read(file, path.to_owned())
    }

    fn read(file: File, path: PathBuf) -> Result<Segment, LogError> {
        let mut bytes = vec![0; LONGEST_HEAD];
        let length = read_at(&file, &mut bytes, 0).map_err(LogError::io("read", &path))?;
        let head =
            SegmentHead::decode(&bytes[..length]).map_err(|cause| LogError::damaged(&path, 0, cause))?;
        Ok(Segment { file, path, head })
    }

    /// Where its first record begins.
    pub fn start(&self) -> u64 {
        self.head.length as u64
    }

    /// What its first record follows.
    pub fn chain(&self) -> Chain {
        Chain { last: self.head.previous, epoch: self.head.epoch }
    }

    /// How long it is by now.
    pub fn bytes(&self) -> Result<u64, LogError> {
        Ok(self.file.metadata().map_err(LogError::io("read", &self.path))?.len())
    }
}

/// Reads as many bytes as fit `buffer`, or as there are.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub(super) fn name_of(first: Recno) -> String {
    format!("{first:0>20}.kml")
}

fn first_of(name: &str) -> Option<Recno> {
    let digits = name.strip_suffix(".kml").filter(|digits| digits.len() == 20)?;
    let valid = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| valid).map(Recno)
}
