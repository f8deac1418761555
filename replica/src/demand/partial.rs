//! Files on their way: what came of a version by now, until it is whole. Some are of versions that the log tells of, and some of
//! those that records tell of which can't be taken before their data is here.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::id::DataVersion;
use mezzo_core::{Name, ObjectId};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::host;

/// Where they are, in `.mezzo`.
const DIRECTORY: &str = "incoming";

/// Files that are kept there at once; beyond that the oldest goes. A cut leaves as many as were under way, a dozen or two, and
/// somebody who gives up waiting leaves one.
pub(crate) const MOST: usize = 64;

/// How long one is kept of a version that the log does not tell of: as it is until its records come again.
const KEPT_SECONDS: i64 = 7 * 24 * 60 * 60;

/// The directory.
#[derive(Debug)]
pub(crate) struct Partials {
    directory: OwnedFd,
    /// Those that are whole, and wait to be taken.
    whole: Mutex<HashSet<(ObjectId, DataVersion)>>,
}

/// One of them, open for reading and writing.
#[derive(Debug)]
pub(crate) struct Partial {
    pub file: OwnedFd,
    /// An earlier fetch has left something in it.
    pub is_partial: bool,
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
        let directory = rustix::fs::openat(own, DIRECTORY, flags, Mode::empty())?;
        Ok(Partials { directory, whole: Mutex::default() })
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What the file of a version is called.
    pub fn name(&self, object: ObjectId, version: DataVersion) -> Name {
        Name::new(format!("{object}.{version}").as_bytes()).expect("digits, dashes and a dot")
    }

    /// The file of a version, which is made where there is none.
    pub fn begin(&self, object: ObjectId, version: DataVersion) -> io::Result<Partial> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = self.name(object, version);
        let file =
            rustix::fs::openat(&self.directory, name.as_bytes(), flags, Mode::from_bits_retain(0o600))?;
        let is_partial = host::stat(file.as_fd())?.attributes.size > 0;
        if !is_partial {
            self.bound(&name)?;
        }
        Ok(Partial { file, is_partial })
    }

    /// The file of a version has all of its bytes, or is no more.
    pub fn set_whole(&self, object: ObjectId, version: DataVersion, is_whole: bool) {
        let mut whole = self.whole.lock();
        match is_whole {
            true => whole.insert((object, version)),
            false => whole.remove(&(object, version)),
        };
    }

    /// Whether the file of a version has all of its bytes, as was found out since the start.
    pub fn is_whole(&self, object: ObjectId, version: DataVersion) -> bool {
        self.whole.lock().contains(&(object, version))
    }

    /// Removes the file of a version.
    pub fn end(&self, object: ObjectId, version: DataVersion) -> io::Result<()> {
        self.set_whole(object, version, false);
        match host::unlink(self.directory.as_fd(), &self.name(object, version), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes what is not needed by the log, nor was written to lately and may be needed by records that are still to come.
    pub fn keep_only(
        &self,
        is_needed: impl Fn(ObjectId, DataVersion) -> bool,
        may_come: impl Fn(DataVersion) -> bool,
        now: i64,
    ) -> io::Result<()> {
        for (name, _, _) in host::entries(&self.directory)? {
            let written = host::stat_entry(self.directory.as_fd(), &name)?.attributes.mtime.seconds;
            let is_late = written.saturating_add(KEPT_SECONDS) >= now;
            let is_kept = parse(&name)
                .is_some_and(|(object, version)| is_needed(object, version) || is_late && may_come(version));
            if !is_kept {
                host::unlink(self.directory.as_fd(), &name, false)?;
            }
        }
        Ok(())
    }

    /// Removes the oldest beyond the limit, but `new`.
    fn bound(&self, new: &Name) -> io::Result<()> {
        let entries = host::entries(&self.directory)?;
        if entries.len() <= MOST {
            return Ok(());
        }
        let oldest = entries
            .into_iter()
            .filter(|(name, _, _)| name != new)
            .filter_map(|(name, _, _)| {
                let stat = host::stat_entry(self.directory.as_fd(), &name).ok()?;
                Some((stat.attributes.mtime, name))
            })
            .min();
        let Some((_, oldest)) = oldest else { return Ok(()) };
        if let Some((object, version)) = parse(&oldest) {
            self.set_whole(object, version, false);
        }
        host::unlink(self.directory.as_fd(), &oldest, false)
    }
}
