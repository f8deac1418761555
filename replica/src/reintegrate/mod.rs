//! Records done again on a bare directory: no mount, no log, no index. It keeps the tree that the records describe in
//! memory, and uses it to find objects by id.
//!
//! Everything happens below the root's descriptor, and no symbolic link is followed.

mod act;
mod bounds;

pub(crate) use act::{create, finish, finish_but_data};

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::tree::{Mismatch, Tree};
use mezzo_core::{Kind, ObjectId, Place, Record};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::directories::Directories;
use crate::host;
pub(crate) use bounds::Bounds;

/// A record could not be done. Records before it are done, and the directory is as they left it. The tree in memory may have
/// more, so that no other record is to be done.
#[derive(Debug, thiserror::Error)]
pub enum ReintegrateError {
    /// It does not fit what the records before it made; nothing of it was done.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The host refused a step of it.
    #[error("could not do record {recno} ({kind} {path}): {cause}")]
    Host {
        /// Its number.
        recno: mezzo_core::Recno,
        /// The word for what it changes.
        kind: &'static str,
        /// Where, for people.
        path: String,
        /// Why.
        cause: io::Error,
    },
}

/// A directory that records are done on.
pub struct Bare {
    root: OwnedFd,
    tree: Tree,
    directories: Directories,
    bounds: Bounds,
}

impl Bare {
    /// Records are done on `root`, which is as `tree` says.
    pub fn new(root: OwnedFd, tree: Tree) -> Bare {
        Bare { root, tree, directories: Directories::default(), bounds: Bounds::default() }
    }

    /// What the records so far describe.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Lets go of the directory, and keeps what the records describe.
    pub fn into_tree(self) -> Tree {
        self.tree
    }

    /// Does one record. Files get their size; their bytes come later, by whoever has them.
    pub fn apply(&mut self, record: &Record) -> Result<(), ReintegrateError> {
        let failed = |cause| ReintegrateError::Host {
            recno: record.recno,
            kind: record.change.kind(),
            path: record.change.path().map_or_else(String::new, mezzo_core::name::escape),
            cause,
        };
        let prepared = match self.prepare(&record.change) {
            Ok(prepared) => prepared,
            Err(cause) => {
                // That it doesn't fit the records before it says more than what the host made of it.
                self.tree.clone().apply(record)?;
                return Err(failed(cause));
            }
        };
        self.tree.apply(record)?;
        self.act(prepared, &record.change).map_err(failed)
    }

    /// Opens what stands at `place`, without access to its data.
    pub fn open(&self, place: &Place) -> io::Result<OwnedFd> {
        host::open_entry(self.directory(place.parent)?.as_fd(), &place.name)
    }

    /// Opens the object `id` by its first place; `None` where it has none. Fails where something of another kind stands there.
    pub fn open_object(&self, id: ObjectId) -> io::Result<Option<OwnedFd>> {
        if self.tree.id(id) == ObjectId::ROOT {
            return host::reopen(self.root.as_fd(), OFlags::PATH | OFlags::DIRECTORY).map(Some);
        }
        let Some(object) = self.tree.object(id) else { return Ok(None) };
        let Some(place) = object.places().first() else { return Ok(None) };
        let opened = self.open(place)?;
        expect_kind(object.state().attributes.kind, host::stat(opened.as_fd())?.attributes.kind)?;
        Ok(Some(opened))
    }

    pub(crate) fn directory(&self, id: ObjectId) -> io::Result<Arc<OwnedFd>> {
        let id = self.tree.id(id);
        if let Some(directory) = self.directories.get(id) {
            return Ok(directory);
        }
        let path = self.tree.path(id).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let directory = Arc::new(open_beneath(&self.root, &path, OFlags::DIRECTORY)?);
        self.directories.put(id, directory.clone());
        Ok(directory)
    }
}

/// Records tell of one kind of object, and the host has another since somebody put it there.
fn expect_kind(told: Kind, found: Kind) -> io::Result<()> {
    if told == found {
        return Ok(());
    }
    let cause = format!("the records have a {} there, and the directory a {}", told.word(), found.word());
    Err(io::Error::other(cause))
}

/// Opens `path` below `root`, the root itself where it is empty, without access to data and without following a symbolic
/// link. Paths may be longer than a system call takes.
pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut at = root.try_clone()?;
    let mut rest = if path.is_empty() { &b"."[..] } else { path };
    loop {
        let (now, later) = split(rest);
        let wanted = if later.is_empty() { flags } else { flags | OFlags::DIRECTORY };
        at = rustix::fs::openat2(&at, now, wanted, Mode::empty(), below)?;
        if later.is_empty() {
            return Ok(at);
        }
        rest = later;
    }
}

/// As many names as a system call takes, and the rest.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    const PATH_MAX: usize = 4096;
    if path.len() < PATH_MAX {
        return (path, b"");
    }
    match path[..PATH_MAX - 1].iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, b""),
    }
}
