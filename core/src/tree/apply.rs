//! What each kind of record does to a tree. Everything is checked first, so that a record is applied whole or not at
//! all.

use crate::attributes::{Attributes, Data, Digest, Kind, State};
use crate::id::{DataVersion, ObjectId};
use crate::name::Place;
use crate::record::{Change, Displaced, Record, Removed};
use crate::time::{Step, Times};

use super::object::Object;
use super::{Mismatch, RootTold, Tree, Trouble};

type Fit<T = ()> = Result<T, Trouble>;

impl Tree {
    /// Does what `record` says. Where it does not fit, the tree stays as it is.
    ///
    /// What happens to an object that is gone while it is still open (its record has no path) fits and does nothing.
    pub fn apply(&mut self, record: &Record) -> Result<(), Mismatch> {
        self.change(&record.change, true).map_err(|trouble| Mismatch {
            recno: record.recno,
            origin: record.origin,
            kind: record.change.kind(),
            trouble,
        })
    }

    fn change(&mut self, change: &Change, outermost: bool) -> Fit {
        match change {
            Change::Make { object, place, state, parent, .. } => self.make(*object, place, state, parent),
            Change::Link { object, place, attributes, parent, .. } => {
                self.link(*object, place, attributes, parent)
            }
            Change::Remove { removed, place, parent, .. } => self.remove(removed, place, parent),
            Change::Rename { object, attributes, from, from_parent, to, to_parent, displaced, .. } => {
                let (from, to) = (self.resolved(from), self.resolved(to));
                self.check_rename(*object, &attributes.after, &from, &to, displaced)?;
                let (old_parent, new_parent) = (from.parent, to.parent);
                self.rename(*object, attributes, from, to, displaced);
                self.touch(old_parent, from_parent);
                if new_parent != old_parent {
                    self.touch(new_parent, to_parent);
                }
                Ok(())
            }
            Change::Setattr { object, path, attributes, data } => {
                self.set_attributes(*object, path, attributes, data.map(|data| data.after))
            }
            Change::Xattr { object, path, name, value, attributes } => {
                self.set_xattr(*object, path, name, value.after.as_deref(), attributes)
            }
            Change::Close { object, path, attributes, data, .. } => {
                self.set_attributes(*object, path, attributes, Some(data.after))
            }
            Change::Digest { object, version, digest, .. } => {
                self.fill_digest(*object, *version, *digest);
                Ok(())
            }
            Change::Alias { object, stands_for } => self.alias(*object, *stands_for),
            Change::Disable { record, .. } => {
                self.disabled.insert(*record);
                Ok(())
            }
            Change::Amend { record, .. } if outermost => {
                self.amended.insert(*record);
                Ok(())
            }
            Change::UndoOf { change, .. } if outermost => self.change(change, false),
            Change::Amend { .. } | Change::UndoOf { .. } => Err(Trouble::Nested),
            Change::Noop | Change::Epoch { .. } | Change::Snapshot { .. } => Ok(()),
        }
    }

    fn make(&mut self, object: ObjectId, place: &Place, state: &State, parent: &Step<Times>) -> Fit {
        let object = self.not_root(object)?;
        if self.objects.contains_key(&object) {
            return Err(Trouble::ObjectExists(object));
        }
        let place = self.resolved(place);
        self.expect(&place, None)?;
        self.objects.insert(object, Box::new(Object::new(state.clone())));
        self.touch(place.parent, parent);
        self.enter(place, object);
        Ok(())
    }

    fn link(
        &mut self,
        object: ObjectId,
        place: &Place,
        attributes: &Step<Attributes>,
        parent: &Step<Times>,
    ) -> Fit {
        let object = self.not_root(object)?;
        if self.expect_kind(object, attributes.after.kind)? == Kind::Directory {
            return Err(Trouble::IsDirectory(object));
        }
        let place = self.resolved(place);
        self.expect(&place, None)?;
        self.set(object, attributes);
        self.touch(place.parent, parent);
        self.enter(place, object);
        let there = self.known(object);
        there.state.attributes.links = there.places().len() as u32;
        Ok(())
    }

    fn remove(&mut self, removed: &Removed, place: &Place, parent: &Step<Times>) -> Fit {
        let place = self.resolved(place);
        self.check_removal(removed, &place)?;
        self.lose(removed, &place);
        self.touch(place.parent, parent);
        Ok(())
    }

    fn check_rename(
        &self,
        object: ObjectId,
        after: &Attributes,
        from: &Place,
        to: &Place,
        displaced: &Displaced,
    ) -> Fit {
        let object = self.not_root(object)?;
        self.expect_kind(object, after.kind)?;
        self.expect(from, Some(object))?;
        self.expect_above(object, to.parent)?;
        match displaced {
            Displaced::Nothing => self.expect(to, None),
            Displaced::Replaced(removed) if self.id(removed.object) == object => {
                Err(Trouble::OwnPlace(object))
            }
            // It may be gone by then where both sides took it away.
            Displaced::Replaced(_) if self.at(to).is_none() => self.expect(to, None),
            Displaced::Replaced(removed) => {
                self.check_removal(removed, to)?;
                let (moved, gone) = (after.kind, removed.state.attributes.kind);
                match (moved == Kind::Directory) == (gone == Kind::Directory) {
                    true => Ok(()),
                    false => Err(Trouble::WrongKind { object: removed.object, expected: moved, found: gone }),
                }
            }
            Displaced::Exchanged { object: other, .. } if self.id(*other) == object => {
                Err(Trouble::OwnPlace(object))
            }
            Displaced::Exchanged { object: other, attributes } => {
                let other = self.not_root(*other)?;
                self.expect_kind(other, attributes.after.kind)?;
                self.expect(to, Some(other))?;
                self.expect_above(other, from.parent)
            }
        }
    }

    fn rename(
        &mut self,
        object: ObjectId,
        moved: &Step<Attributes>,
        from: Place,
        to: Place,
        displaced: &Displaced,
    ) {
        let object = self.id(object);
        self.leave(&from, object);
        match displaced {
            Displaced::Nothing => {}
            Displaced::Replaced(removed) if self.at(&to).is_some() => self.lose(removed, &to),
            Displaced::Replaced(_) => {}
            Displaced::Exchanged { object: other, attributes } => {
                let other = self.id(*other);
                self.leave(&to, other);
                self.enter(from, other);
                self.set(other, attributes);
            }
        }
        self.enter(to, object);
        self.set(object, moved);
    }

    fn set_attributes(
        &mut self,
        object: ObjectId,
        path: &[u8],
        attributes: &Step<Attributes>,
        data: Option<Data>,
    ) -> Fit {
        let Some(object) = self.expect_present(object, path)? else { return Ok(()) };
        self.expect_kind(object, attributes.after.kind)?;
        if data.is_some() {
            self.expect_kind(object, Kind::File)?;
        }
        self.set(object, attributes);
        if let Some(data) = data {
            self.known(object).state.data = Some(data);
        }
        Ok(())
    }

    fn set_xattr(
        &mut self,
        object: ObjectId,
        path: &[u8],
        name: &[u8],
        value: Option<&[u8]>,
        attributes: &Step<Attributes>,
    ) -> Fit {
        let Some(object) = self.expect_present(object, path)? else { return Ok(()) };
        self.expect_kind(object, attributes.after.kind)?;
        self.set(object, attributes);
        self.known(object).state.set_xattr(name, value);
        Ok(())
    }

    /// Digests come late: the object may be gone, or its data another by now.
    fn fill_digest(&mut self, object: ObjectId, version: DataVersion, digest: Digest) {
        let object = self.id(object);
        let data = self.objects.get_mut(&object).and_then(|object| object.state.data.as_mut());
        if let Some(data) = data.filter(|data| data.version == version) {
            data.digest = Some(digest);
        }
    }

    /// What was known as `object` is `stands_for` from here on, with the names of both.
    fn alias(&mut self, object: ObjectId, stands_for: ObjectId) -> Fit {
        let object = self.not_root(object)?;
        let stands_for = self.id(stands_for);
        if object == stands_for {
            return Ok(());
        }
        if let (Some(_), Some(there)) = (self.objects.get(&object), self.objects.get(&stands_for)) {
            let kind = self.expect_kind(object, there.state.attributes.kind)?;
            if kind == Kind::Directory {
                return Err(Trouble::IsDirectory(object));
            }
        }
        if let Some(old) = self.objects.remove(&object) {
            self.join(*old, object, stands_for);
        }
        self.aliases.insert(object, stands_for);
        Ok(())
    }

    /// Gives the names and entries of `old` to `stands_for`, which becomes `old` where it isn't there.
    fn join(&mut self, old: Object, gone: ObjectId, stands_for: ObjectId) {
        for place in old.places() {
            self.known(place.parent).enter(place.name.clone(), stands_for);
        }
        for (name, child) in old.entries() {
            let places = &mut self.known(*child).places;
            places.remove(&Place::new(gone, name.clone()));
            places.add(Place::new(stands_for, name.clone()));
        }
        match self.objects.get_mut(&stands_for) {
            Some(there) => old.places().iter().for_each(|place| there.places.add(place.clone())),
            None => drop(self.objects.insert(stands_for, Box::new(old))),
        }
    }
}

/// What is expected before a change.
impl Tree {
    fn resolved(&self, place: &Place) -> Place {
        Place::new(self.id(place.parent), place.name.clone())
    }

    fn not_root(&self, object: ObjectId) -> Fit<ObjectId> {
        match self.id(object) {
            ObjectId::ROOT => Err(Trouble::Root),
            object => Ok(object),
        }
    }

    /// Makes sure that `occupant` stands at the resolved `place`, or nothing.
    fn expect(&self, place: &Place, occupant: Option<ObjectId>) -> Fit {
        self.expect_kind(place.parent, Kind::Directory)?;
        let found = self.at(place);
        if found == occupant {
            return Ok(());
        }
        Err(Trouble::WrongOccupant { place: place.clone(), expected: occupant, found })
    }

    fn expect_kind(&self, object: ObjectId, expected: Kind) -> Fit<Kind> {
        let found = self.objects.get(&object).ok_or(Trouble::NoObject(object))?.state.attributes.kind;
        if found == expected { Ok(found) } else { Err(Trouble::WrongKind { object, expected, found }) }
    }

    /// Makes sure that `parent` is neither `object` nor below it.
    fn expect_above(&self, object: ObjectId, parent: ObjectId) -> Fit {
        let mut at = Some(parent);
        while let Some(directory) = at {
            if directory == object {
                return Err(Trouble::Cycle { object, parent });
            }
            at = self
                .objects
                .get(&directory)
                .and_then(|object| object.places().first())
                .map(|place| place.parent);
        }
        Ok(())
    }

    /// The object to change; `None` where it is gone, as its record knew.
    fn expect_present(&self, object: ObjectId, path: &[u8]) -> Fit<Option<ObjectId>> {
        let object = self.id(object);
        match (self.objects.contains_key(&object), path) {
            (true, _) => Ok(Some(object)),
            (false, []) => Ok(None),
            (false, _) => Err(Trouble::NoObject(object)),
        }
    }

    fn check_removal(&self, removed: &Removed, place: &Place) -> Fit {
        let object = self.not_root(removed.object)?;
        self.expect_kind(object, removed.state.attributes.kind)?;
        self.expect(place, Some(object))?;
        let there = &self.objects[&object];
        match (there.is_directory(), removed.links_left) {
            (true, _) if !there.entries().is_empty() => {
                Err(Trouble::NotEmpty { object, entries: there.entries().len() })
            }
            (true, 1..) => Err(Trouble::IsDirectory(object)),
            _ => Ok(()),
        }
    }
}

/// Changes that were found to fit.
impl Tree {
    /// Takes a name from an object, and the object away with its last one: the names that are here say which is the last, as
    /// somebody may have given it others elsewhere.
    fn lose(&mut self, removed: &Removed, place: &Place) {
        let object = self.id(removed.object);
        self.leave(place, object);
        let there = self.known(object);
        let names = there.places().len();
        if names == 0 {
            self.objects.remove(&object);
            return;
        }
        let attributes = &mut there.state.attributes;
        attributes.links = names as u32;
        let ctime = Step::new(removed.state.attributes.ctime, removed.ctime_after);
        attributes.ctime = ctime.onto(attributes.ctime);
    }

    fn enter(&mut self, place: Place, object: ObjectId) {
        self.known(place.parent).enter(place.name.clone(), object);
        self.known(object).places.add(place);
    }

    fn leave(&mut self, place: &Place, object: ObjectId) {
        self.known(place.parent).leave(&place.name);
        self.known(object).places.remove(place);
    }

    fn set(&mut self, object: ObjectId, attributes: &Step<Attributes>) {
        let is_told = object != ObjectId::ROOT || self.root_told.attributes;
        let state = &mut self.known(object).state;
        let after = if is_told { attributes.onto(&state.attributes) } else { attributes.after };
        state.set_attributes(after);
        if object == ObjectId::ROOT {
            self.root_told = RootTold { attributes: true, times: true };
        }
    }

    fn touch(&mut self, directory: ObjectId, step: &Step<Times>) {
        let is_told = directory != ObjectId::ROOT || self.root_told.times;
        let attributes = &mut self.known(directory).state.attributes;
        let now = Times { mtime: attributes.mtime, ctime: attributes.ctime };
        let after = if is_told { step.onto(now) } else { step.after };
        (attributes.mtime, attributes.ctime) = (after.mtime, after.ctime);
        self.root_told.times |= directory == ObjectId::ROOT;
    }

    /// An object that was found to be there.
    fn known(&mut self, object: ObjectId) -> &mut Object {
        self.objects.get_mut(&object).expect("it was looked up before anything was changed")
    }
}
