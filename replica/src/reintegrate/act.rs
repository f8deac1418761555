//! The steps of each kind of record on the host.
//!
//! The order makes each step stick: owner and data (which take set-id bits away), mode, extended attributes, times, and last the
//! times of the directories.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::name::escape;
use mezzo_core::record::Displaced;
use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Kind, Name, ObjectId, Place, State};
use rustix::fs::{Mode, OFlags, RenameFlags};

use super::{Bare, expect_kind};
use crate::fileset::OWN;
use crate::host::{self, SetTime, xattr};

/// What was looked up before the tree in memory took the record in: afterwards it would lead elsewhere.
#[derive(Default)]
pub(super) struct Prepared {
    /// Directories of the places that the record names, in its order.
    directories: Vec<Arc<OwnedFd>>,
    /// The object that the record changes; `None` where it is gone, or is about to be made.
    object: Option<OwnedFd>,
}

/// The host has `cause` against it.
fn refused(cause: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, cause)
}

impl Bare {
    /// Looks up what `change` needs, and makes sure that the host will do all of it, as far as that can be told before.
    pub(super) fn prepare(&self, change: &Change) -> io::Result<Prepared> {
        if let Change::UndoOf { change, .. } = change {
            return self.prepare(change);
        }
        let places = |places: &[&Place]| -> io::Result<Vec<Arc<OwnedFd>>> {
            places.iter().map(|place| self.directory(place.parent)).collect()
        };
        let object = |id: &ObjectId| self.open_object(*id);
        let prepared = match change {
            Change::Make { place, state, .. } => {
                self.expect_user_s(place)?;
                state.xattrs.iter().try_for_each(|xattr| expect_carried(&xattr.name))?;
                Prepared { directories: places(&[place])?, object: None }
            }
            Change::Remove { place, removed, .. } => {
                let directories = places(&[place])?;
                expect_at(&directories[0], place, removed.state.attributes.kind)?;
                Prepared { directories, object: None }
            }
            Change::Link { object: id, place, .. } => {
                self.expect_user_s(place)?;
                let object = object(id)?;
                if object.is_none() {
                    return Err(refused(format!("object {id} has no name that it could be reached by")));
                }
                Prepared { directories: places(&[place])?, object }
            }
            Change::Rename { attributes, from, to, displaced, .. } => {
                self.expect_user_s(to)?;
                let directories = places(&[from, to])?;
                expect_at(&directories[0], from, attributes.after.kind)?;
                match displaced {
                    Displaced::Nothing => {}
                    // It may be gone by then where both sides took it away.
                    Displaced::Replaced(_) if self.tree.at(to).is_none() => {}
                    Displaced::Replaced(removed) => {
                        expect_at(&directories[1], to, removed.state.attributes.kind)?;
                    }
                    Displaced::Exchanged { attributes, .. } => {
                        expect_at(&directories[1], to, attributes.after.kind)?;
                    }
                }
                Prepared { directories, object: None }
            }
            Change::Xattr { object: id, name, .. } => {
                expect_carried(name)?;
                Prepared { directories: Vec::new(), object: object(id)? }
            }
            Change::Setattr { object: id, .. } | Change::Close { object: id, .. } => {
                Prepared { directories: Vec::new(), object: object(id)? }
            }
            _ => Prepared::default(),
        };
        self.bounds.check(self.root.as_fd(), change)?;
        Ok(prepared)
    }

    /// Makes sure that nothing comes to stand where mezzo keeps what is its own: a directory that a log made there would be taken
    /// for a fileset.
    fn expect_user_s(&self, place: &Place) -> io::Result<()> {
        if place.name.as_bytes() == OWN && self.tree.id(place.parent) == ObjectId::ROOT {
            return Err(refused(format!("{} in the root is mezzo's own", place.name)));
        }
        Ok(())
    }

    /// Does on the host what the tree in memory has taken in already: what two sides changed apart is joined there.
    pub(super) fn act(&self, prepared: Prepared, change: &Change) -> io::Result<()> {
        let directory = |at: usize| prepared.directories[at].as_fd();
        match change {
            Change::Make { place, state, .. } => {
                make(directory(0), &place.name, state)?;
                self.touch(directory(0), place)
            }
            Change::Link { place, .. } => {
                let object = prepared.object.as_ref().expect("it was opened before");
                host::link(object.as_fd(), directory(0), &place.name)?;
                self.touch(directory(0), place)
            }
            Change::Remove { removed, place, .. } => {
                self.directories.forget(self.tree.id(removed.object));
                host::unlink(directory(0), &place.name, removed.state.attributes.kind == Kind::Directory)?;
                self.touch(directory(0), place)
            }
            Change::Rename { object, from, to, displaced, .. } => {
                let flags = match displaced {
                    Displaced::Nothing => RenameFlags::NOREPLACE,
                    Displaced::Replaced(removed) => {
                        self.directories.forget(self.tree.id(removed.object));
                        RenameFlags::empty()
                    }
                    Displaced::Exchanged { .. } => RenameFlags::EXCHANGE,
                };
                host::rename(directory(0), &from.name, directory(1), &to.name, flags)?;
                self.touch_moved(directory(1), to, *object)?;
                if let Displaced::Exchanged { object, .. } = displaced {
                    self.touch_moved(directory(0), from, *object)?;
                }
                self.touch(directory(0), from)?;
                self.touch(directory(1), to)
            }
            Change::Setattr { object, attributes, data, .. } => {
                self.set(*object, &prepared, attributes, data.is_some())
            }
            Change::Close { object, attributes, .. } => self.set(*object, &prepared, attributes, true),
            Change::Xattr { object: id, name, value, .. } => match &prepared.object {
                Some(object) => {
                    set_xattr(object.as_fd(), name, value.after.as_deref())?;
                    self.told(*id).map_or(Ok(()), |told| set_mode(object.as_fd(), told))
                }
                None => Ok(()),
            },
            Change::UndoOf { change, .. } => self.act(prepared, change),
            Change::Digest { .. }
            | Change::Noop
            | Change::Disable { .. }
            | Change::Amend { .. }
            | Change::Alias { .. }
            | Change::Snapshot { .. }
            | Change::Epoch { .. } => Ok(()),
        }
    }

    fn told(&self, object: ObjectId) -> Option<&Attributes> {
        self.tree.object(object).map(|object| &object.state().attributes)
    }

    /// What a change of attributes or data did: what it left as it was is left here too. Where the host refuses a part of it, the
    /// rest is as it was, but for bytes that a smaller size took.
    fn set(
        &self,
        id: ObjectId,
        prepared: &Prepared,
        attributes: &Step<Attributes>,
        data: bool,
    ) -> io::Result<()> {
        let (Some(object), Some(told)) = (&prepared.object, self.told(id)) else { return Ok(()) };
        let Step { before, after } = attributes;
        let owner = (before.uid, before.gid) != (after.uid, after.gid);
        let found = host::stat(object.as_fd())?.attributes;
        let done = set_all(object.as_fd(), told, owner, data);
        if done.is_err() {
            // What the host said first is told, whatever it says now.
            let _ = set_all(object.as_fd(), &found, owner, data);
        }
        done
    }

    fn touch(&self, directory: BorrowedFd<'_>, place: &Place) -> io::Result<()> {
        let Some(told) = self.told(place.parent) else { return Ok(()) };
        host::set_times(directory, SetTime::Omit, SetTime::To(told.mtime))
    }

    /// A directory that moves has another parent, which some hosts count as a change of what it holds: xfs does in an exchange.
    fn touch_moved(&self, parent: BorrowedFd<'_>, place: &Place, object: ObjectId) -> io::Result<()> {
        let Some(told) = self.told(object).filter(|told| told.kind == Kind::Directory) else { return Ok(()) };
        let moved = host::open_entry(parent, &place.name)?;
        host::set_times(moved.as_fd(), SetTime::Omit, SetTime::To(told.mtime))
    }
}

/// Makes an object as `state` says; a file gets its size and no bytes. Where the host refuses a part of it, nothing was made.
fn make(directory: BorrowedFd<'_>, name: &Name, state: &State) -> io::Result<()> {
    let before = host::stat(directory)?.attributes;
    create(directory, name, state)?;
    let finished = host::open_entry(directory, name).and_then(|object| finish(object.as_fd(), state));
    if finished.is_err() {
        // What the host said first is told, whatever it says now.
        let _ = host::unlink(directory, name, state.attributes.kind == Kind::Directory);
        let _ = host::set_times(directory, SetTime::Omit, SetTime::To(before.mtime));
    }
    finished
}

/// Makes sure that what stands at `place` is what records tell of.
fn expect_at(directory: &OwnedFd, place: &Place, told: Kind) -> io::Result<()> {
    expect_kind(told, host::stat_entry(directory.as_fd(), &place.name)?.attributes.kind)
}

/// Makes sure that the extended attribute is none of mezzo's own or the host's.
fn expect_carried(name: &[u8]) -> io::Result<()> {
    if xattr::is_carried(name) {
        return Ok(());
    }
    Err(refused(format!("records carry no extended attribute {}", escape(name))))
}

/// Makes an object of the kind that `state` says, and leaves the rest to [`finish`].
pub(crate) fn create(directory: BorrowedFd<'_>, name: &Name, state: &State) -> io::Result<()> {
    // Nobody but the owner may have it open before it has its mode.
    let first_mode = Mode::from_bits_retain(0o600);
    match state.attributes.kind {
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name.as_bytes(), flags, first_mode)?;
        }
        Kind::Directory => rustix::fs::mkdirat(directory, name.as_bytes(), Mode::from_bits_retain(0o700))?,
        Kind::Symlink => rustix::fs::symlinkat(&*state.target, directory, name.as_bytes())?,
        kind => host::make_node(directory, name, kind, 0o600, state.attributes.device)?,
    }
    Ok(())
}

/// Gives an object everything that `state` says, apart from its bytes; a file gets its size.
pub(crate) fn finish(object: BorrowedFd<'_>, state: &State) -> io::Result<()> {
    if state.attributes.kind == Kind::File {
        host::set_size(object, state.attributes.size)?;
    }
    finish_but_data(object, state, true)
}

/// Gives an object everything that `state` says and that has nothing to do with its data; its times only with `times`.
pub(crate) fn finish_but_data(object: BorrowedFd<'_>, state: &State, times: bool) -> io::Result<()> {
    let attributes = &state.attributes;
    let here = host::stat(object)?.attributes;
    let is_owner_s = (here.uid, here.gid) == (attributes.uid, attributes.gid);
    if !is_owner_s {
        host::set_owner(object, Some(attributes.uid), Some(attributes.gid))?;
    }
    // What it inherited from its directory goes, unless the record has it too.
    for name in xattr::names(object)?.iter().filter(|name| xattr::is_carried(name)) {
        if !state.xattrs.iter().any(|xattr| xattr.name == *name) {
            xattr::remove(object, name)?;
        }
    }
    if !is_owner_s || here.mode != attributes.mode {
        set_mode(object, attributes)?;
    }
    for xattr in &state.xattrs {
        set_xattr(object, &xattr.name, Some(&xattr.value))?;
    }
    if !state.xattrs.is_empty() {
        set_mode(object, attributes)?;
    }
    if times { set_times(object, attributes) } else { Ok(()) }
}

/// The owner comes first, since it is what a host refuses, and shrinking a file can't be taken back.
fn set_all(object: BorrowedFd<'_>, wanted: &Attributes, owner: bool, data: bool) -> io::Result<()> {
    if owner {
        host::set_owner(object, Some(wanted.uid), Some(wanted.gid))?;
    }
    if data {
        host::set_size(object, wanted.size)?;
    }
    set_mode(object, wanted)?;
    set_times(object, wanted)
}

fn set_mode(object: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    if attributes.kind == Kind::Symlink || host::stat(object)?.attributes.mode == attributes.mode {
        return Ok(());
    }
    host::set_mode(object, attributes.mode.into())
}

fn set_times(object: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    host::set_times(object, SetTime::To(attributes.atime), SetTime::To(attributes.mtime))
}

fn set_xattr(object: BorrowedFd<'_>, name: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    match value {
        Some(value) => xattr::set(object, name, value, 0),
        None => match xattr::remove(object, name) {
            // The host took it away along with something else, as a mode does with an ACL.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            removed => removed,
        },
    }
}
