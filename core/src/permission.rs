//! Whether a record's own user may do what it did, on what is here: judged from modes, owners and ACLs alone, by one function
//! that is the same on every replica, and never by trial.
//!
//! User 0 may do everything. The owner of a file may always write its data, since a descriptor that was opened before a change of
//! its mode allows it; servers of NFS do the same.

use crate::acl;
use crate::attributes::{Attributes, Kind, State};
use crate::id::ObjectId;
use crate::name::Place;
use crate::record::{Change, Displaced, Removed};
use crate::time::Step;
use crate::undo::Present;
use crate::who::Who;

/// What a user may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What would be needed: `search`, `write`, `owner`, `sticky`, `group` or `root`.
    pub what: &'static str,
    /// Of which object.
    pub object: ObjectId,
}

const WRITE: u16 = 0o2;
const SEARCH: u16 = 0o1;

/// What of `change` its user may not do, with what is here; `None` where all is allowed.
pub fn judge<P: Present>(who: &Who, change: &Change, present: &P) -> Result<Option<Denied>, P::Error> {
    if who.uid == 0 {
        return Ok(None);
    }
    match (Judge { who, present }).change(change) {
        Ok(()) => Ok(None),
        Err(Out::Denied(denied)) => Ok(Some(denied)),
        Err(Out::Error(error)) => Err(error),
    }
}

/// Something that a user is about to do.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// Add an entry to the directory.
    Entry(ObjectId),
    /// Take the object from its place.
    Take(ObjectId, &'a Place),
    /// What only an object's owner may do.
    Own(ObjectId),
    /// Write the object's data.
    Write(ObjectId),
    /// What only root may do.
    Root(ObjectId),
}

/// What a user may not do of what they are about to; `None` where they may.
pub fn lacks<P: Present>(who: &Who, need: Need<'_>, present: &P) -> Result<Option<Denied>, P::Error> {
    if who.uid == 0 {
        return Ok(None);
    }
    let judge = Judge { who, present };
    let judged = match need {
        Need::Entry(directory) => judge.may_change_entries(directory),
        Need::Take(object, place) => judge.may_take(object, place),
        Need::Own(object) => judge.may_reach(object).and_then(|()| judge.owns(object)),
        Need::Write(object) => judge.may_reach(object).and_then(|()| judge.may_write(object)),
        Need::Root(object) => judge.expect(false, "root", object),
    };
    match judged {
        Ok(()) => Ok(None),
        Err(Out::Denied(denied)) => Ok(Some(denied)),
        Err(Out::Error(error)) => Err(error),
    }
}

struct Judge<'a, P> {
    who: &'a Who,
    present: &'a P,
}

enum Out<E> {
    Denied(Denied),
    Error(E),
}

type Judged<P> = Result<(), Out<<P as Present>::Error>>;

impl<P: Present> Judge<'_, P> {
    fn change(&self, change: &Change) -> Judged<P> {
        match change {
            Change::Make { object, place, state, .. } => {
                self.may_change_entries(place.parent)?;
                let attributes = &state.attributes;
                let is_device = matches!(attributes.kind, Kind::CharDevice | Kind::BlockDevice);
                self.expect(!is_device && attributes.uid == self.who.uid, "root", *object)?;
                let inherited = self.state(place.parent)?.map(|parent| parent.attributes);
                let inherits =
                    inherited.is_some_and(|parent| parent.mode & 0o2000 != 0 && parent.gid == attributes.gid);
                self.expect(inherits || self.who.is_in(attributes.gid), "group", *object)
            }
            Change::Link { place, .. } => self.may_change_entries(place.parent),
            Change::Remove { removed, place, .. } => self.may_remove(removed, place),
            Change::Rename { object, from, to, displaced, .. } => {
                self.may_take(*object, from)?;
                match displaced {
                    Displaced::Nothing => self.may_change_entries(to.parent),
                    Displaced::Replaced(removed) => self.may_remove(removed, to),
                    Displaced::Exchanged { object, .. } => self.may_take(*object, to),
                }
            }
            Change::Setattr { object, attributes, data, .. } => self.set(*object, attributes, data.is_some()),
            Change::Close { object, .. } => self.may_write(*object),
            Change::Xattr { object, name, .. } => {
                self.may_reach(*object)?;
                match &**name {
                    name if name.starts_with(b"user.") => self.may_write(*object),
                    name if name.starts_with(b"system.posix_acl_") => self.owns(*object),
                    _ => self.expect(false, "root", *object),
                }
            }
            Change::UndoOf { change, .. } => self.change(change),
            _ => Ok(()),
        }
    }

    fn set(&self, object: ObjectId, step: &Step<Attributes>, data: bool) -> Judged<P> {
        let Step { before, after } = step;
        self.may_reach(object)?;
        if before.uid != after.uid {
            self.expect(false, "root", object)?;
        }
        if before.gid != after.gid {
            self.owns(object)?;
            self.expect(self.who.is_in(after.gid), "group", object)?;
        }
        // A write takes set-id bits away, whoever writes.
        if (before.mode ^ after.mode) & if data { 0o1777 } else { 0o7777 } != 0 {
            self.owns(object)?;
        }
        if data || before.mtime != after.mtime || before.atime != after.atime {
            self.may_write(object)?;
        }
        Ok(())
    }

    fn may_remove(&self, removed: &Removed, place: &Place) -> Judged<P> {
        self.may_take(removed.object, place)
    }

    /// Whether an entry may be taken from its directory.
    fn may_take(&self, object: ObjectId, place: &Place) -> Judged<P> {
        self.may_change_entries(place.parent)?;
        let (Some(parent), Some(taken)) = (self.state(place.parent)?, self.state(object)?) else {
            return Ok(());
        };
        let is_sticky = parent.attributes.mode & 0o1000 != 0;
        let owns = [parent.attributes.uid, taken.attributes.uid].contains(&self.who.uid);
        self.expect(!is_sticky || owns, "sticky", object)
    }

    fn may_change_entries(&self, directory: ObjectId) -> Judged<P> {
        self.may_search_to(directory)?;
        self.has(directory, WRITE | SEARCH)
    }

    fn may_write(&self, object: ObjectId) -> Judged<P> {
        match self.state(object)? {
            Some(state) if state.attributes.uid == self.who.uid => Ok(()),
            _ => self.has(object, WRITE),
        }
    }

    fn owns(&self, object: ObjectId) -> Judged<P> {
        let state = self.state(object)?;
        self.expect(state.is_none_or(|state| state.attributes.uid == self.who.uid), "owner", object)
    }

    /// Whether one of the object's names can be come to.
    fn may_reach(&self, object: ObjectId) -> Judged<P> {
        let standing = self.ask(self.present.object(object))?;
        let mut judged = Ok(());
        for place in standing.iter().flat_map(|standing| &standing.places) {
            judged = self.may_search_to(place.parent).and_then(|()| self.has(place.parent, SEARCH));
            if judged.is_ok() {
                break;
            }
        }
        judged
    }

    /// Whether every directory above may be searched.
    fn may_search_to(&self, directory: ObjectId) -> Judged<P> {
        let mut at = directory;
        while let Some(place) =
            self.ask(self.present.object(at))?.and_then(|here| here.places.into_iter().next())
        {
            self.has(place.parent, SEARCH)?;
            at = place.parent;
        }
        Ok(())
    }

    fn has(&self, object: ObjectId, wanted: u16) -> Judged<P> {
        let Some(state) = self.state(object)? else { return Ok(()) };
        let what = if wanted == SEARCH { "search" } else { "write" };
        self.expect(permits(&state, self.who, wanted), what, object)
    }

    fn state(&self, object: ObjectId) -> Result<Option<State>, Out<P::Error>> {
        Ok(self.ask(self.present.object(object))?.map(|standing| standing.state))
    }

    fn ask<T>(&self, answer: Result<T, P::Error>) -> Result<T, Out<P::Error>> {
        answer.map_err(Out::Error)
    }

    fn expect(&self, holds: bool, what: &'static str, object: ObjectId) -> Judged<P> {
        if holds { Ok(()) } else { Err(Out::Denied(Denied { what, object })) }
    }
}

/// Whether mode, owner and ACL give a user all of the `wanted` permissions: bits as in a mode's last digit.
pub fn permits(state: &State, who: &Who, wanted: u16) -> bool {
    let Attributes { mode, uid, gid, .. } = state.attributes;
    let found = state.xattrs.iter().find(|xattr| *xattr.name == *acl::ACCESS);
    let permissions = found.and_then(|xattr| acl::permissions_of(&xattr.value, (uid, gid), who));
    let permissions = permissions.unwrap_or_else(|| {
        let shift = if who.uid == uid {
            6
        } else if who.is_in(gid) {
            3
        } else {
            0
        };
        vec![mode >> shift & 0o7]
    });
    permissions.iter().any(|has| has & wanted == wanted)
}
