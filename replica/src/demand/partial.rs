//! Files on their way: what came of a version by now, until it is whole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::id::DataVersion;
use mezzo_core::{Name, ObjectId};
use rustix::fs::{Mode, OFlags};

use crate::host;

/// Where they are, in `.mezzo`.
const DIRECTORY: &str = "incoming";

/// Files that are kept there at once; beyond that the oldest goes. A cut leaves as many as were under way, a dozen or two, and
/// somebody who gives up waiting leaves one.
const MOST: usize = 64;

/// The directory.
#[derive(Debug)]
pub(super) struct Partials(OwnedFd);

/// One of them, open for reading and writing.
#[derive(Debug)]
pub(super) struct Partial {
    pub file: OwnedFd,
    /// An earlier fetch has left something in it.
    pub is_partial: bool,
}

fn name(object: ObjectId, version: DataVersion) -> Name {
    Name::new(format!("{object}.{version}").as_bytes()).expect("digits, dashes and a dot")
}

fn parse(name: &Name) -> Option<(ObjectId, DataVersion)> {
    let (object, version) = std::str::from_utf8(name.as_bytes()).ok()?.split_once('.')?;
    Some((ObjectId(object.parse().ok()?), DataVersion(version.parse().ok()?)))
}

impl Partials {
    /// The directory below `own`, which is made where it is missing.
    pub fn open(own: BorrowedFd<'_>) -> io::Result<Partials> {
        match rustix::fs::mkdirat(own, DIRECTORY, Mode::from_bits_retain(0o700)) {
            Err(rustix::io::Errno::EXIST) => {}
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Partials(rustix::fs::openat(own, DIRECTORY, flags, Mode::empty())?))
    }

    /// The file of a version, which is made where there is none.
    pub fn begin(&self, object: ObjectId, version: DataVersion) -> io::Result<Partial> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = name(object, version);
        let file = rustix::fs::openat(&self.0, name.as_bytes(), flags, Mode::from_bits_retain(0o600))?;
        let is_partial = host::stat(file.as_fd())?.attributes.size > 0;
        if !is_partial {
            self.bound(&name)?;
        }
        Ok(Partial { file, is_partial })
    }

    /// Removes the file of a version.
    pub fn end(&self, object: ObjectId, version: DataVersion) -> io::Result<()> {
        match host::unlink(self.0.as_fd(), &name(object, version), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes what nobody needs any more.
    pub fn keep_only(&self, is_needed: impl Fn(ObjectId, DataVersion) -> bool) -> io::Result<()> {
        for (name, _, _) in host::entries(&self.0)? {
            if !parse(&name).is_some_and(|(object, version)| is_needed(object, version)) {
                host::unlink(self.0.as_fd(), &name, false)?;
            }
        }
        Ok(())
    }

    /// Removes the oldest beyond the limit, but `new`.
    fn bound(&self, new: &Name) -> io::Result<()> {
        let entries = host::entries(&self.0)?;
        if entries.len() <= MOST {
            return Ok(());
        }
        let oldest = entries
            .into_iter()
            .filter(|(name, _, _)| name != new)
            .filter_map(|(name, _, _)| {
                let stat = host::stat_entry(self.0.as_fd(), &name).ok()?;
                Some((stat.attributes.mtime, name))
            })
            .min();
        oldest.map_or(Ok(()), |(_, name)| host::unlink(self.0.as_fd(), &name, false))
    }
}
