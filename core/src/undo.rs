//! Taking a record back: what has to be done for it, and what stands in the way. Pure: whoever asks hands in what is there
//! now, and does what comes out.
//!
//! A record is taken back by what it changed and nothing else: of its attributes those that it changed, and a time only
//! where nobody has moved it since.

mod overlay;

pub use overlay::Overlay;

use crate::attributes::{Attributes, Data, Kind, State};
use crate::id::{DataVersion, ObjectId};
use crate::name::Place;
use crate::record::{Change, Displaced, Removed};
use crate::time::{Step, Time, Times};

/// What is there now.
pub trait Present {
    /// Why it can't be told.
    type Error;

    /// The object as it is; `None` where it is gone.
    fn object(&self, object: ObjectId) -> Result<Option<Standing>, Self::Error>;

    /// What stands at `place`.
    fn at(&self, place: &Place) -> Result<Option<ObjectId>, Self::Error>;

    /// How many entries the directory has; 0 where there is none.
    fn entries(&self, directory: ObjectId) -> Result<usize, Self::Error>;
}

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// All of it.
    pub state: State,
    /// Its names; the root has none.
    pub places: Vec<Place>,
}

/// One thing to do, which a record of its own will tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the object again, with the id it had.
    Make {
        /// Its id.
        object: ObjectId,
        /// Where.
        place: Place,
        /// All of it.
        state: State,
        /// What the directory's time becomes, where it is set back.
        touch: Option<Time>,
    },
    /// Give the object one more name.
    Link {
        /// The object.
        object: ObjectId,
        /// Where.
        place: Place,
        /// What the directory's time becomes, where it is set back.
        touch: Option<Time>,
    },
    /// Take a name from the object.
    Remove {
        /// The object.
        object: ObjectId,
        /// Where.
        place: Place,
        /// What the directory's time becomes, where it is set back.
        touch: Option<Time>,
    },
    /// Move the object, or exchange it with what stands there.
    Move {
        /// The object.
        object: ObjectId,
        /// From where.
        from: Place,
        /// To where.
        to: Place,
        /// What the object there is that takes its place.
        exchange: Option<ObjectId>,
        /// What the object there is that loses the name.
        replaces: Option<ObjectId>,
        /// What the times of the directories become, where they are set back.
        touch: [Option<Time>; 2],
    },
    /// Set attributes.
    Set {
        /// The object.
        object: ObjectId,
        /// All its attributes as they are to be; sizes and link counts are not set by this.
        attributes: Attributes,
        /// The data it is to have, with its size, where that changes.
        data: Option<(Data, u64)>,
    },
    /// Set or remove an extended attribute.
    Xattr {
        /// The object.
        object: ObjectId,
        /// Its whole name.
        name: Box<[u8]>,
        /// Its value; `None` to remove it.
        value: Option<Box<[u8]>>,
        /// The mode that it is to have then: an ACL changes it.
        mode: u16,
    },
}

/// Why a record can't be taken back now. Nothing was done for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The object is gone.
    #[error("object {0} is not there any more")]
    Gone(ObjectId),
    /// The object is there again.
    #[error("object {0} is there already")]
    Alive(ObjectId),
    /// Something of it was changed since.
    #[error("the {what} of object {object} was changed since")]
    Changed {
        /// The object.
        object: ObjectId,
        /// What of it.
        what: &'static str,
    },
    /// The object stands there no more.
    #[error("object {object} does not stand at {} in {} any more", place.name, place.parent)]
    Moved {
        /// The object.
        object: ObjectId,
        /// Where it stood.
        place: Place,
    },
    /// Something else stands where it has to go.
    #[error("object {by} stands at {} in {} now", place.name, place.parent)]
    Taken {
        /// Where.
        place: Place,
        /// What.
        by: ObjectId,
    },
    /// The directory has entries that the records to take back did not make.
    #[error("directory {0} has something in it")]
    NotEmpty(ObjectId),
    /// It would come to stand below itself.
    #[error("directory {0} would come to stand below itself")]
    Cycle(ObjectId),
    /// It is of a kind that is not taken back.
    #[error("a record of this kind is not taken back")]
    Kind,
}

impl Obstacle {
    /// The object or the place that it is about.
    pub fn subject(&self) -> (Option<ObjectId>, Option<&Place>) {
        match self {
            Obstacle::Gone(object)
            | Obstacle::Alive(object)
            | Obstacle::NotEmpty(object)
            | Obstacle::Cycle(object)
            | Obstacle::Changed { object, .. } => (Some(*object), None),
            Obstacle::Moved { object, place } => (Some(*object), Some(place)),
            Obstacle::Taken { place, .. } => (None, Some(place)),
            Obstacle::Kind => (None, None),
        }
    }
}

/// What has to be done, in order, or what stands in the way.
pub type Inverse = Result<Vec<Action>, Obstacle>;

/// How `change` is taken back, with what is there now.
pub fn invert<P: Present>(change: &Change, present: &P) -> Result<Inverse, P::Error> {
    told::<P>(Taking(present).invert(change))
}

/// How many actions take `change` back, at the most.
pub fn count(change: &Change) -> usize {
    match change {
        Change::Rename { displaced: Displaced::Replaced(_), .. } => 2,
        Change::UndoOf { change, .. } => count(change),
        Change::Digest { .. } | Change::Noop | Change::Epoch { .. } | Change::Snapshot { .. } => 0,
        _ => 1,
    }
}

/// As [`invert`], for a change of which the first `done` actions have been done and recorded.
pub fn rest<P: Present>(change: &Change, done: usize, present: &P) -> Result<Inverse, P::Error> {
    match change {
        Change::UndoOf { change, .. } => rest(change, done, present),
        _ if done == 0 => invert(change, present),
        Change::Rename { displaced: Displaced::Replaced(removed), to, to_parent, .. } if done == 1 => {
            let taking = Taking(present);
            let action = taking
                .touch(to.parent, to_parent)
                .and_then(|touch| taking.reinstated(removed, to, touch))
                .map(|action| vec![action]);
            told::<P>(action)
        }
        _ => Ok(Ok(Vec::new())),
    }
}

fn told<P: Present>(taken: Taken<Vec<Action>, P>) -> Result<Inverse, P::Error> {
    match taken {
        Ok(actions) => Ok(Ok(actions)),
        Err(Trouble::Obstacle(obstacle)) => Ok(Err(obstacle)),
        Err(Trouble::Error(error)) => Err(error),
    }
}

struct Taking<'p, P>(&'p P);

enum Trouble<E> {
    Obstacle(Obstacle),
    Error(E),
}

type Taken<T, P> = Result<T, Trouble<<P as Present>::Error>>;

impl<P: Present> Taking<'_, P> {
    fn invert(&self, change: &Change) -> Taken<Vec<Action>, P> {
        match change {
            Change::Make { object, place, state, parent, .. } => {
                let here = self.standing(*object)?;
                self.expect_at(*object, place)?;
                expect_as_made(*object, &here.state, state)?;
                if here.places.len() > 1 {
                    return changed(*object, "number of names");
                }
                if state.attributes.kind == Kind::Directory && self.ask(self.0.entries(*object))? > 0 {
                    return Err(Trouble::Obstacle(Obstacle::NotEmpty(*object)));
                }
                Ok(vec![Action::Remove {
                    object: *object,
                    place: place.clone(),
                    touch: self.touch(place.parent, parent)?,
                }])
            }
            Change::Link { object, place, parent, .. } => {
                let here = self.standing(*object)?;
                self.expect_at(*object, place)?;
                if here.places.len() < 2 {
                    return changed(*object, "number of names");
                }
                Ok(vec![Action::Remove {
                    object: *object,
                    place: place.clone(),
                    touch: self.touch(place.parent, parent)?,
                }])
            }
            Change::Remove { removed, place, parent, .. } => {
                let touch = self.touch(place.parent, parent)?;
                self.expect_free(place)?;
                Ok(vec![self.reinstated(removed, place, touch)?])
            }
            Change::Rename { object, from, from_parent, to, to_parent, displaced, .. } => {
                self.standing(*object)?;
                self.expect_at(*object, to)?;
                let touch = [self.touch(to.parent, to_parent)?, self.touch(from.parent, from_parent)?];
                self.expect_no_cycle(*object, from.parent)?;
                let back = |exchange| Action::Move {
                    object: *object,
                    from: to.clone(),
                    to: from.clone(),
                    exchange,
                    replaces: None,
                    touch,
                };
                match displaced {
                    Displaced::Exchanged { object: other, .. } => {
                        self.standing(*other)?;
                        self.expect_at(*other, from)?;
                        self.expect_no_cycle(*other, to.parent)?;
                        Ok(vec![back(Some(*other))])
                    }
                    Displaced::Nothing => {
                        self.expect_free(from)?;
                        Ok(vec![back(None)])
                    }
                    Displaced::Replaced(removed) => {
                        self.expect_free(from)?;
                        Ok(vec![back(None), self.reinstated(removed, to, touch[0])?])
                    }
                }
            }
            Change::Setattr { object, path, attributes, data } => {
                self.set(*object, path, attributes, data.as_ref())
            }
            Change::Close { object, path, attributes, data, .. } => {
                self.set(*object, path, attributes, Some(data))
            }
            Change::Xattr { object, path, name, value, attributes } => {
                let Some(here) = self.named(*object, path)? else { return Ok(Vec::new()) };
                let found = here.state.xattrs.iter().find(|xattr| xattr.name == *name);
                if found.map(|xattr| &xattr.value) != value.after.as_ref() {
                    return changed(*object, "extended attribute");
                }
                let now = here.state.attributes.mode;
                let mode = if now == attributes.after.mode { attributes.before.mode } else { now };
                let value = value.before.clone();
                Ok(vec![Action::Xattr { object: *object, name: name.clone(), value, mode }])
            }
            Change::UndoOf { change, .. } => self.invert(change),
            Change::Digest { .. } | Change::Noop | Change::Epoch { .. } | Change::Snapshot { .. } => {
                Ok(Vec::new())
            }
            Change::Disable { .. } | Change::Amend { .. } | Change::Alias { .. } => {
                Err(Trouble::Obstacle(Obstacle::Kind))
            }
        }
    }

    fn set(
        &self,
        object: ObjectId,
        path: &[u8],
        step: &Step<Attributes>,
        data: Option<&Step<Data>>,
    ) -> Taken<Vec<Action>, P> {
        let Some(here) = self.named(object, path)? else { return Ok(Vec::new()) };
        let now = here.state.attributes;
        let mut wanted = now;
        let Step { before, after } = step;
        if before.mode != after.mode {
            expect(object, "mode", now.mode == after.mode)?;
            wanted.mode = before.mode;
        }
        if (before.uid, before.gid) != (after.uid, after.gid) {
            expect(object, "owner", (now.uid, now.gid) == (after.uid, after.gid))?;
            (wanted.uid, wanted.gid) = (before.uid, before.gid);
            // A new owner takes set-id bits away.
            wanted.mode = if now.mode == after.mode { before.mode } else { now.mode };
        }
        if let Some(data) = data {
            let version = here.state.data.map(|data| data.version);
            expect(object, "data", version == Some(data.after.version))?;
        }
        if now.mtime == after.mtime {
            wanted.mtime = before.mtime;
        }
        if now.atime == after.atime {
            wanted.atime = before.atime;
        }
        let data = data.map(|data| (data.before, before.size));
        Ok(vec![Action::Set { object, attributes: wanted, data }])
    }

    /// The removed object with the name it lost.
    fn reinstated(&self, removed: &Removed, place: &Place, touch: Option<Time>) -> Taken<Action, P> {
        let object = removed.object;
        let here = self.ask(self.0.object(object))?;
        match (here, removed.links_left) {
            (None, 0) => {
                let mut state = removed.state.clone();
                if state.attributes.kind != Kind::Directory {
                    state.attributes.links = 1;
                }
                Ok(Action::Make { object, place: place.clone(), state, touch })
            }
            (None, _) => Err(Trouble::Obstacle(Obstacle::Gone(object))),
            (Some(_), 0) => Err(Trouble::Obstacle(Obstacle::Alive(object))),
            (Some(_), _) => Ok(Action::Link { object, place: place.clone(), touch }),
        }
    }

    fn ask<T>(&self, answer: Result<T, P::Error>) -> Taken<T, P> {
        answer.map_err(Trouble::Error)
    }

    fn standing(&self, object: ObjectId) -> Taken<Standing, P> {
        self.ask(self.0.object(object))?.ok_or(Trouble::Obstacle(Obstacle::Gone(object)))
    }

    /// The object; `None` where the record was about one that had no name left.
    fn named(&self, object: ObjectId, path: &[u8]) -> Taken<Option<Standing>, P> {
        match self.ask(self.0.object(object))? {
            None if path.is_empty() && object != ObjectId::ROOT => Ok(None),
            None => Err(Trouble::Obstacle(Obstacle::Gone(object))),
            here => Ok(here),
        }
    }

    fn expect_at(&self, object: ObjectId, place: &Place) -> Taken<(), P> {
        if self.ask(self.0.at(place))? == Some(object) {
            return Ok(());
        }
        Err(Trouble::Obstacle(Obstacle::Moved { object, place: place.clone() }))
    }

    fn expect_free(&self, place: &Place) -> Taken<(), P> {
        match self.ask(self.0.at(place))? {
            None => Ok(()),
            Some(by) => Err(Trouble::Obstacle(Obstacle::Taken { place: place.clone(), by })),
        }
    }

    fn expect_no_cycle(&self, object: ObjectId, parent: ObjectId) -> Taken<(), P> {
        let mut at = parent;
        while at != ObjectId::ROOT {
            if at == object {
                return Err(Trouble::Obstacle(Obstacle::Cycle(object)));
            }
            at = match self.standing(at)?.places.first() {
                Some(place) => place.parent,
                None => ObjectId::ROOT,
            };
        }
        Ok(())
    }

    /// The directory's time of before, where nobody has moved it since; the directory has to be there.
    fn touch(&self, directory: ObjectId, step: &Step<Times>) -> Taken<Option<Time>, P> {
        let here = self.standing(directory)?;
        Ok((here.state.attributes.mtime == step.after.mtime).then_some(step.before.mtime))
    }
}

/// What was written to an object since it was made, or set, is somebody's work that would go with it.
fn expect_as_made<E>(object: ObjectId, now: &State, made: &State) -> Result<(), Trouble<E>> {
    let version = |state: &State| state.data.map(|data| data.version);
    let (here, then) = (&now.attributes, &made.attributes);
    expect(object, "data", version(now) == version(made))?;
    expect(object, "mode", here.mode == then.mode)?;
    expect(object, "owner", (here.uid, here.gid) == (then.uid, then.gid))?;
    expect(object, "extended attributes", now.xattrs == made.xattrs)
}

fn expect<E>(object: ObjectId, what: &'static str, kept: bool) -> Result<(), Trouble<E>> {
    if kept { Ok(()) } else { changed(object, what) }
}

fn changed<T, E>(object: ObjectId, what: &'static str) -> Result<T, Trouble<E>> {
    Err(Trouble::Obstacle(Obstacle::Changed { object, what }))
}

impl Action {
    /// The data that the object is to have, where that is not nothing: which has to be found somewhere.
    pub fn wants(&self) -> Option<(ObjectId, DataVersion)> {
        let (object, data, size) = match self {
            Action::Make { object, state, .. } => (*object, state.data?, state.attributes.size),
            Action::Set { object, data, .. } => {
                let (data, size) = (*data)?;
                (*object, data, size)
            }
            _ => return None,
        };
        (size > 0).then_some((object, data.version))
    }
}
