//! Taking a record that was made on another replica: whether it fits what is here, what has to be done for it, and what
//! stands in the way. Pure: whoever asks hands in what is here, and does what comes out.
//!
//! A record expects what its author saw of just what it touches: that name, that attribute, that extended attribute, that
//! file's data. A directory's size, times and other entries are never in the way, and no times are: two changes of them are
//! both right, and the later one stays.

use crate::attributes::{Attributes, Data, Digest, Kind, State};
use crate::id::ObjectId;
use crate::name::Place;
use crate::record::{Change, Displaced, Removed};
use crate::time::{Step, Time, Times};
use crate::undo::{Action, Present, Standing};

/// What becomes of a record here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits: this is to be done, in order.
    Fits(Vec<Action>),
    /// What it did is here already.
    Applied,
    /// It was made of something else than what is here.
    Conflict(Box<Conflict>),
    /// It can't have been made of any tree.
    Damaged(&'static str),
}

/// How a record and what is here fall out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A name that the record makes is taken by another object.
    NameName,
    /// The same was changed to different values.
    UpdateUpdate,
    /// One side removed what the other changed, or the directory of what the other made.
    UpdateDelete,
    /// The object was moved elsewhere, or two moves together would make a directory stand below itself.
    RenameRename,
    /// The record's own user may not do it here.
    Permission,
}

impl Class {
    /// The word for it that commands print.
    pub fn word(self) -> &'static str {
        match self {
            Class::NameName => "name/name",
            Class::UpdateUpdate => "update/update",
            Class::UpdateDelete => "update/delete",
            Class::RenameRename => "rename/rename",
            Class::Permission => "permission",
        }
    }
}

/// Why a record does not fit. Nothing was done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// How.
    pub class: Class,
    /// The object that it is about.
    pub object: ObjectId,
    /// The place that it is about, where it is about one.
    pub place: Option<Place>,
    /// What the record expected and what is here, field by field; at least one.
    pub differences: Vec<Difference>,
}

/// One thing that a record expected to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What of the object: `name`, `place`, `data`, `mode`, `owner`, `entries`, or the whole name of an extended attribute.
    pub field: Box<str>,
    /// What the record expected.
    pub expected: Seen,
    /// What is here.
    pub found: Seen,
}

/// A value that was expected, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// An object.
    Object(ObjectId),
    /// A place.
    Place(Place),
    /// Permission bits.
    Mode(u16),
    /// User and group.
    Owner(u32, u32),
    /// Data, and how many bytes.
    Data(Data, u64),
    /// A number: of entries, of bytes.
    Count(u64),
    /// The value of an extended attribute.
    Value(Box<[u8]>),
    /// A time.
    Time(Time),
    /// Somebody who is writing to it.
    Writer,
    /// The permission that an object withholds.
    Denied(ObjectId),
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.class.word())?;
        for (at, difference) in self.differences.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{difference}")?;
        }
        write!(f, " (object {}", self.object)?;
        match &self.place {
            Some(place) => write!(f, ", {} in {})", place.name, place.parent),
            None => write!(f, ")"),
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} should be {}, and is {}", self.field, self.expected, self.found)
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seen::Nothing => write!(f, "nothing"),
            Seen::Object(object) => write!(f, "object {object}"),
            Seen::Place(place) => write!(f, "{} in {}", place.name, place.parent),
            Seen::Mode(mode) => write!(f, "{mode:04o}"),
            Seen::Owner(uid, gid) => write!(f, "{uid}:{gid}"),
            Seen::Data(data, size) => write!(f, "version {} of {size} bytes", data.version.0),
            Seen::Count(count) => write!(f, "{count}"),
            Seen::Time(time) => write!(f, "{}.{:09}", time.seconds, time.nanoseconds),
            Seen::Writer => write!(f, "being written here"),
            Seen::Denied(object) => write!(f, "withheld by object {object}"),
            Seen::Value(value) => {
                write!(f, "{} bytes, {}", value.len(), value[..value.len().min(32)].escape_ascii())
            }
        }
    }
}

/// What becomes of `change`, with what is here.
pub fn check<P: Present>(change: &Change, present: &P) -> Result<Verdict, P::Error> {
    match Checking(present).check(change) {
        Ok(actions) => Ok(Verdict::Fits(actions)),
        Err(Out::Verdict(verdict)) => Ok(verdict),
        Err(Out::Error(error)) => Err(error),
    }
}

/// What the times become of an object that `change` gave a place, and of the directories whose entries it changed, where that is
/// another than they are: of a record whose effect is here already, the later time stays all the same.
pub fn touches<P: Present>(
    change: &Change,
    present: &P,
) -> Result<Vec<(ObjectId, Step<Attributes>)>, P::Error> {
    let parents: &[(&Place, &Step<Times>)] = match change {
        Change::Make { place, parent, .. }
        | Change::Link { place, parent, .. }
        | Change::Remove { place, parent, .. } => &[(place, parent)],
        Change::Rename { from, from_parent, to, to_parent, .. } if from.parent != to.parent => {
            &[(from, from_parent), (to, to_parent)]
        }
        Change::Rename { from, from_parent, .. } => &[(from, from_parent)],
        Change::UndoOf { change, .. } => return touches(change, present),
        _ => &[],
    };
    let lost_name = |removed: &Removed| {
        let before = removed.state.attributes;
        let ctime = if removed.links_left > 0 { removed.ctime_after } else { before.ctime };
        (removed.object, Step::new(before, Attributes { ctime, ..before }))
    };
    let objects = match change {
        Change::Link { object, attributes, .. } => vec![(*object, *attributes)],
        Change::Remove { removed, .. } => vec![lost_name(removed)],
        Change::Rename { object, attributes, displaced: Displaced::Replaced(removed), .. } => {
            vec![(*object, *attributes), lost_name(removed)]
        }
        Change::Rename {
            object,
            attributes,
            displaced: Displaced::Exchanged { object: other, attributes: theirs },
            ..
        } => vec![(*object, *attributes), (*other, *theirs)],
        Change::Rename { object, attributes, .. } => vec![(*object, *attributes)],
        _ => Vec::new(),
    };
    let mut touched = Vec::new();
    for (object, attributes) in objects {
        let Some(here) = present.object(object)? else { continue };
        let now = here.state.attributes;
        let after = attributes.onto(&now);
        let after = Attributes { mtime: after.mtime, ctime: after.ctime, ..now };
        touched.extend((after != now).then_some((object, Step::new(now, after))));
    }
    for (place, times) in parents {
        let Some(here) = present.object(place.parent)? else { continue };
        let now = here.state.attributes;
        let Times { mtime, ctime } = times.onto(Times { mtime: now.mtime, ctime: now.ctime });
        let after = Attributes { mtime, ctime, ..now };
        touched.extend((after != now).then_some((place.parent, Step::new(now, after))));
    }
    Ok(touched)
}

/// Where size, mtime and ctime that a record saw of its object are not those that are here: the version of InterMezzo's. Files
/// that both sides changed apart from data differ so, and fit.
pub fn differing_versions<P: Present>(change: &Change, present: &P) -> Result<Vec<Difference>, P::Error> {
    let (object, saw) = match change {
        Change::Link { object, attributes, .. }
        | Change::Rename { object, attributes, .. }
        | Change::Setattr { object, attributes, .. }
        | Change::Xattr { object, attributes, .. }
        | Change::Close { object, attributes, .. } => (*object, &attributes.before),
        Change::Remove { removed, .. } => (removed.object, &removed.state.attributes),
        Change::UndoOf { change, .. } => return differing_versions(change, present),
        _ => return Ok(Vec::new()),
    };
    let Some(here) = present.object(object)? else { return Ok(Vec::new()) };
    let now = &here.state.attributes;
    let mut differences = Vec::new();
    if saw.size != now.size {
        differences.push(one("size", Seen::Count(saw.size), Seen::Count(now.size)));
    }
    for (field, saw, now) in [("mtime", saw.mtime, now.mtime), ("ctime", saw.ctime, now.ctime)] {
        if saw != now {
            differences.push(one(field, Seen::Time(saw), Seen::Time(now)));
        }
    }
    Ok(differences)
}

struct Checking<'p, P>(&'p P);

enum Out<E> {
    Verdict(Verdict),
    Error(E),
}

type Checked<T, P> = Result<T, Out<<P as Present>::Error>>;

impl<P: Present> Checking<'_, P> {
    fn check(&self, change: &Change) -> Checked<Vec<Action>, P> {
        match change {
            Change::Make { object, place, state, parent, .. } => self.make(*object, place, state, parent),
            Change::Link { object, place, attributes, parent, .. } => {
                self.link(*object, place, attributes, parent)
            }
            Change::Remove { removed, place, parent, .. } => {
                if !self.is_removable(removed, place)? {
                    return applied();
                }
                let touch = self.touch(place.parent, parent)?;
                Ok(vec![Action::Remove { object: removed.object, place: place.clone(), touch }])
            }
            Change::Rename { object, from, from_parent, to, to_parent, displaced, .. } => {
                self.rename(*object, (from, from_parent), (to, to_parent), displaced)
            }
            Change::Setattr { object, path, attributes, data } => {
                self.set(*object, path, attributes, data.as_ref())
            }
            Change::Close { object, path, attributes, data, .. } => {
                self.set(*object, path, attributes, Some(data))
            }
            Change::Xattr { object, path, name, value, attributes } => {
                self.xattr(*object, path, name, value, attributes)
            }
            Change::Digest { .. } | Change::Noop => Ok(Vec::new()),
            Change::UndoOf { change, .. } => self.check(change),
            Change::Snapshot { .. } => damaged("a snapshot is for a replica that has no records"),
            Change::Disable { .. } | Change::Amend { .. } | Change::Alias { .. } | Change::Epoch { .. } => {
                damaged("a record of this kind is for the log that it stands in alone")
            }
        }
    }

    fn make(
        &self,
        object: ObjectId,
        place: &Place,
        state: &State,
        parent: &Step<Times>,
    ) -> Checked<Vec<Action>, P> {
        if object == ObjectId::ROOT {
            return damaged("the root can't be made");
        }
        if let Some(here) = self.ask(self.0.object(object))? {
            if here.places.contains(place) {
                return applied();
            }
            let found = here.places.first().map_or(Seen::Nothing, |place| Seen::Place(place.clone()));
            return conflict(
                Class::RenameRename,
                (object, Some(place)),
                difference("place", Seen::Nothing, found),
            );
        }
        self.expect_directory(object, place)?;
        self.expect_free(object, place)?;
        let mut state = state.clone();
        if state.attributes.kind != Kind::Directory {
            state.attributes.links = 1;
        }
        Ok(vec![Action::Make {
            object,
            place: place.clone(),
            state,
            touch: self.touch(place.parent, parent)?,
        }])
    }

    fn link(
        &self,
        object: ObjectId,
        place: &Place,
        attributes: &Step<Attributes>,
        parent: &Step<Times>,
    ) -> Checked<Vec<Action>, P> {
        let here = self.standing(object, Some(place))?;
        self.expect_kind(&here, attributes.after.kind)?;
        if here.state.attributes.kind == Kind::Directory {
            return damaged("a directory can't have a second name");
        }
        if here.places.contains(place) {
            return applied();
        }
        self.expect_directory(object, place)?;
        self.expect_free(object, place)?;
        Ok(vec![Action::Link { object, place: place.clone(), touch: self.touch(place.parent, parent)? }])
    }

    /// Makes sure that what a record removed, or replaced, is here as it saw it. False where it is gone already.
    fn is_removable(&self, removed: &Removed, place: &Place) -> Checked<bool, P> {
        let object = removed.object;
        if object == ObjectId::ROOT {
            return damaged("the root can't be removed");
        }
        let Some(here) = self.ask(self.0.object(object))? else { return Ok(false) };
        self.expect_kind(&here, removed.state.attributes.kind)?;
        if !here.places.contains(place) {
            // Another name of it is another's affair; one that was moved is not.
            if removed.links_left > 0 && here.places.len() <= removed.links_left as usize {
                return Ok(false);
            }
            let found = here.places.first().map_or(Seen::Nothing, |place| Seen::Place(place.clone()));
            let expected = Seen::Place(place.clone());
            return conflict(
                Class::UpdateDelete,
                (object, Some(place)),
                difference("place", expected, found),
            );
        }
        let mut differences = Vec::new();
        let (told, now) = (&removed.state, &here.state);
        if here.places.len() == 1 {
            // Only what goes with it counts.
            differences.extend(data_difference(told, now));
            differences.extend(attribute_differences(told, now));
        }
        if now.attributes.kind == Kind::Directory {
            let entries = self.ask(self.0.entries(object))? as u64;
            if entries > 0 {
                differences.push(one("entries", Seen::Count(0), Seen::Count(entries)));
            }
        }
        match differences.is_empty() {
            true => Ok(true),
            false => conflict(Class::UpdateDelete, (object, Some(place)), differences),
        }
    }

    fn rename(
        &self,
        object: ObjectId,
        (from, from_parent): (&Place, &Step<Times>),
        (to, to_parent): (&Place, &Step<Times>),
        displaced: &Displaced,
    ) -> Checked<Vec<Action>, P> {
        if object == ObjectId::ROOT || from == to {
            return damaged("neither the root nor an object that stays where it is can be moved");
        }
        let here = self.standing(object, Some(to))?;
        if !here.places.contains(from) {
            if here.places.contains(to) {
                return applied();
            }
            let found = here.places.first().map_or(Seen::Nothing, |place| Seen::Place(place.clone()));
            let expected = Seen::Place(from.clone());
            return conflict(Class::RenameRename, (object, Some(to)), difference("place", expected, found));
        }
        self.expect_directory(object, to)?;
        self.expect_no_cycle(object, to)?;
        let touch = [self.touch(from.parent, from_parent)?, self.touch(to.parent, to_parent)?];
        let moved = |exchange, replaces| Action::Move {
            object,
            from: from.clone(),
            to: to.clone(),
            exchange,
            replaces,
            touch,
        };
        match displaced {
            Displaced::Nothing => {
                self.expect_free(object, to)?;
                Ok(vec![moved(None, None)])
            }
            Displaced::Replaced(removed) if removed.object == object => {
                damaged("an object can't take its own place")
            }
            Displaced::Replaced(removed) => match self.ask(self.0.at(to))? {
                Some(by) if by != removed.object => conflict(
                    Class::NameName,
                    (object, Some(to)),
                    difference("name", Seen::Object(removed.object), Seen::Object(by)),
                ),
                _ => {
                    let replaces = self.is_removable(removed, to)?.then_some(removed.object);
                    Ok(vec![moved(None, replaces)])
                }
            },
            Displaced::Exchanged { object: other, .. } if *other == object => {
                damaged("an object can't take its own place")
            }
            Displaced::Exchanged { object: other, .. } => {
                let there = self.standing(*other, Some(to))?;
                if !there.places.contains(to) {
                    let found =
                        there.places.first().map_or(Seen::Nothing, |place| Seen::Place(place.clone()));
                    return conflict(
                        Class::RenameRename,
                        (*other, Some(from)),
                        difference("place", Seen::Place(to.clone()), found),
                    );
                }
                self.expect_no_cycle(*other, from)?;
                Ok(vec![moved(Some(*other), None)])
            }
        }
    }

    fn set(
        &self,
        object: ObjectId,
        path: &[u8],
        step: &Step<Attributes>,
        data: Option<&Step<Data>>,
    ) -> Checked<Vec<Action>, P> {
        let here = match self.ask(self.0.object(object))? {
            // It was about an object that had no name left.
            None if path.is_empty() && object != ObjectId::ROOT => return applied(),
            None => self.standing(object, None)?,
            Some(here) => here,
        };
        self.expect_kind(&here, step.after.kind)?;
        let (now, Step { before, after }) = (&here.state.attributes, step);
        let mut differences = Vec::new();
        if before.mode != after.mode && ![before.mode, after.mode].contains(&now.mode) {
            differences.push(one("mode", Seen::Mode(before.mode), Seen::Mode(now.mode)));
        }
        let owner = |attributes: &Attributes| (attributes.uid, attributes.gid);
        if owner(before) != owner(after) && ![owner(before), owner(after)].contains(&owner(now)) {
            let (expected, found) = (owner(before), owner(now));
            let seen = |(uid, gid)| Seen::Owner(uid, gid);
            differences.push(one("owner", seen(expected), seen(found)));
        }
        let mut new_data = None;
        if let Some(data) = data {
            let Some(found) = here.state.data else { return damaged("only a file has data") };
            let is_same = found.version == data.after.version
                || is_known(found.digest, data.after.digest) && now.size == after.size;
            if found.version != data.before.version && !is_same {
                differences.push(one(
                    "data",
                    Seen::Data(data.before, before.size),
                    Seen::Data(found, now.size),
                ));
            }
            new_data = (!is_same).then_some((data.after, after.size));
        }
        if !differences.is_empty() {
            return conflict(Class::UpdateUpdate, (object, None), differences);
        }
        let mut attributes = step.onto(now);
        attributes.size = now.size;
        Ok(vec![Action::Set { object, attributes, data: new_data }])
    }

    fn xattr(
        &self,
        object: ObjectId,
        path: &[u8],
        name: &[u8],
        value: &Step<Option<Box<[u8]>>>,
        attributes: &Step<Attributes>,
    ) -> Checked<Vec<Action>, P> {
        let here = match self.ask(self.0.object(object))? {
            None if path.is_empty() && object != ObjectId::ROOT => return applied(),
            None => self.standing(object, None)?,
            Some(here) => here,
        };
        self.expect_kind(&here, attributes.after.kind)?;
        let found = here.state.xattrs.iter().find(|xattr| *xattr.name == *name).map(|xattr| &xattr.value);
        if found != value.before.as_ref() && found != value.after.as_ref() {
            let seen =
                |value: Option<&Box<[u8]>>| value.map_or(Seen::Nothing, |value| Seen::Value(value.clone()));
            let field = String::from_utf8_lossy(name).into_owned().into();
            let difference = Difference { field, expected: seen(value.before.as_ref()), found: seen(found) };
            return conflict(Class::UpdateUpdate, (object, None), vec![difference]);
        }
        let mode = attributes.onto(&here.state.attributes).mode;
        Ok(vec![Action::Xattr { object, name: name.into(), value: value.after.clone(), mode }])
    }

    fn ask<T>(&self, answer: Result<T, P::Error>) -> Checked<T, P> {
        answer.map_err(Out::Error)
    }

    fn standing(&self, object: ObjectId, place: Option<&Place>) -> Checked<Standing, P> {
        match self.ask(self.0.object(object))? {
            Some(standing) => Ok(standing),
            None => conflict(
                Class::UpdateDelete,
                (object, place),
                difference("object", Seen::Object(object), Seen::Nothing),
            ),
        }
    }

    /// The directory that something goes to, which has to be one.
    fn expect_directory(&self, object: ObjectId, place: &Place) -> Checked<(), P> {
        match self.ask(self.0.object(place.parent))? {
            Some(parent) if parent.state.attributes.kind == Kind::Directory => Ok(()),
            Some(_) => damaged("what something was made in is no directory"),
            None => conflict(
                Class::UpdateDelete,
                (object, Some(place)),
                difference("directory", Seen::Object(place.parent), Seen::Nothing),
            ),
        }
    }

    fn expect_free(&self, object: ObjectId, place: &Place) -> Checked<(), P> {
        match self.ask(self.0.at(place))? {
            None => Ok(()),
            Some(by) => conflict(
                Class::NameName,
                (object, Some(place)),
                difference("name", Seen::Nothing, Seen::Object(by)),
            ),
        }
    }

    fn expect_kind(&self, here: &Standing, told: Kind) -> Checked<(), P> {
        match here.state.attributes.kind == told {
            true => Ok(()),
            false => damaged("the object is of another kind than the record has it"),
        }
    }

    /// Makes sure that the object, if it is a directory, does not come to stand below itself.
    fn expect_no_cycle(&self, object: ObjectId, place: &Place) -> Checked<(), P> {
        let mut at = place.parent;
        while at != ObjectId::ROOT {
            if at == object {
                return conflict(
                    Class::RenameRename,
                    (object, Some(place)),
                    difference("directory", Seen::Place(place.clone()), Seen::Object(object)),
                );
            }
            at = match self.ask(self.0.object(at))?.and_then(|here| here.places.into_iter().next()) {
                Some(place) => place.parent,
                None => ObjectId::ROOT,
            };
        }
        Ok(())
    }

    /// What the directory's time becomes.
    fn touch(&self, directory: ObjectId, step: &Step<Times>) -> Checked<Option<Time>, P> {
        let here = self.ask(self.0.object(directory))?;
        Ok(here.map(|here| Step::new(step.before.mtime, step.after.mtime).onto(here.state.attributes.mtime)))
    }
}

fn data_difference(told: &State, now: &State) -> Option<Difference> {
    let (expected, found) = (told.data?, now.data?);
    let is_same = expected.version == found.version
        || is_known(expected.digest, found.digest) && told.attributes.size == now.attributes.size;
    let seen = |data, state: &State| Seen::Data(data, state.attributes.size);
    (!is_same).then(|| one("data", seen(expected, told), seen(found, now)))
}

fn attribute_differences(told: &State, now: &State) -> Vec<Difference> {
    let mut differences = Vec::new();
    let (expected, found) = (&told.attributes, &now.attributes);
    if expected.mode != found.mode {
        differences.push(one("mode", Seen::Mode(expected.mode), Seen::Mode(found.mode)));
    }
    if (expected.uid, expected.gid) != (found.uid, found.gid) {
        let seen = |attributes: &Attributes| Seen::Owner(attributes.uid, attributes.gid);
        differences.push(one("owner", seen(expected), seen(found)));
    }
    let value = |state: &State, name: &[u8]| {
        let found = state.xattrs.iter().find(|xattr| *xattr.name == *name);
        found.map_or(Seen::Nothing, |xattr| Seen::Value(xattr.value.clone()))
    };
    let mut names: Vec<&[u8]> = told.xattrs.iter().chain(&now.xattrs).map(|xattr| &*xattr.name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (expected, found) = (value(told, name), value(now, name));
        if expected != found {
            let field = String::from_utf8_lossy(name).into_owned().into();
            differences.push(Difference { field, expected, found });
        }
    }
    differences
}

/// Whether two digests are known, and the same.
fn is_known(one: Option<Digest>, other: Option<Digest>) -> bool {
    one.is_some() && one == other
}

fn one(field: &str, expected: Seen, found: Seen) -> Difference {
    Difference { field: field.into(), expected, found }
}

fn difference(field: &str, expected: Seen, found: Seen) -> Vec<Difference> {
    vec![one(field, expected, found)]
}

fn conflict<T, E>(
    class: Class,
    (object, place): (ObjectId, Option<&Place>),
    differences: Vec<Difference>,
) -> Result<T, Out<E>> {
    let conflict = Conflict { class, object, place: place.cloned(), differences };
    Err(Out::Verdict(Verdict::Conflict(Box::new(conflict))))
}

fn applied<T, E>() -> Result<T, Out<E>> {
    Err(Out::Verdict(Verdict::Applied))
}

fn damaged<T, E>(why: &'static str) -> Result<T, Out<E>> {
    Err(Out::Verdict(Verdict::Damaged(why)))
}
