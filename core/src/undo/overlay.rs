//! What would be there after some actions, on top of what is there: a plan is checked on it, and nothing is done.

use std::collections::HashMap;

use crate::attributes::{Attributes, Kind};
use crate::id::ObjectId;
use crate::name::Place;

use super::{Action, Present, Standing};

/// What is there, with actions that were not done.
#[derive(Clone, Debug)]
pub struct Overlay<P> {
    under: P,
    objects: HashMap<ObjectId, Option<Standing>>,
    names: HashMap<Place, Option<ObjectId>>,
    /// How many entries a directory has, for those of which one changed.
    entries: HashMap<ObjectId, usize>,
}

impl<P: Present> Overlay<P> {
    /// Nothing was done yet.
    pub fn new(under: P) -> Overlay<P> {
        Overlay { under, objects: HashMap::new(), names: HashMap::new(), entries: HashMap::new() }
    }

    /// Objects that some action was about, and that are not there after all of them.
    pub fn gone(&self) -> impl Iterator<Item = ObjectId> {
        self.objects.iter().filter(|(_, standing)| standing.is_none()).map(|(object, _)| *object)
    }

    /// As if `action` had been done. What it leaves of ctimes is not known and not told.
    pub fn act(&mut self, action: &Action) -> Result<(), P::Error> {
        match action {
            Action::Make { object, place, state, touch } => {
                let standing = Standing { state: state.clone(), places: vec![place.clone()] };
                self.objects.insert(*object, Some(standing));
                self.enter(place, *object)?;
                self.touch(place.parent, *touch)
            }
            Action::Link { object, place, touch } => {
                self.change(*object, |standing| {
                    standing.places.push(place.clone());
                    standing.state.attributes.links += 1;
                })?;
                self.enter(place, *object)?;
                self.touch(place.parent, *touch)
            }
            Action::Remove { object, place, touch } => {
                self.lose(*object, place)?;
                self.touch(place.parent, *touch)
            }
            Action::Move { object, from, to, exchange, replaces, touch } => {
                self.leave(from)?;
                if let Some(other) = exchange {
                    self.leave(to)?;
                    self.change(*other, |standing| replace(&mut standing.places, to, from))?;
                    self.enter(from, *other)?;
                }
                if let Some(replaced) = replaces {
                    self.lose(*replaced, to)?;
                }
                self.change(*object, |standing| replace(&mut standing.places, from, to))?;
                self.enter(to, *object)?;
                self.touch(from.parent, touch[0])?;
                self.touch(to.parent, touch[1])
            }
            Action::Set { object, attributes, data } => self.change(*object, |standing| {
                standing.state.set_attributes(*attributes);
                if let Some((data, size)) = data {
                    standing.state.data = Some(*data);
                    standing.state.attributes.size = *size;
                }
            }),
            Action::Xattr { object, name, value, mode } => self.change(*object, |standing| {
                standing.state.set_attributes(Attributes { mode: *mode, ..standing.state.attributes });
                standing.state.set_xattr(name, value.as_deref());
            }),
        }
    }

    fn lose(&mut self, object: ObjectId, place: &Place) -> Result<(), P::Error> {
        self.leave(place)?;
        let mut last = true;
        self.change(object, |standing| {
            standing.places.retain(|other| other != place);
            last = standing.places.is_empty();
            if standing.state.attributes.kind != Kind::Directory {
                standing.state.attributes.links = standing.state.attributes.links.saturating_sub(1);
            }
        })?;
        if last {
            self.objects.insert(object, None);
        }
        Ok(())
    }

    fn change(&mut self, object: ObjectId, change: impl FnOnce(&mut Standing)) -> Result<(), P::Error> {
        let mut standing = self.object(object)?;
        if let Some(standing) = &mut standing {
            change(standing);
        }
        self.objects.insert(object, standing);
        Ok(())
    }

    fn enter(&mut self, place: &Place, object: ObjectId) -> Result<(), P::Error> {
        let entries = self.entries(place.parent)?;
        self.entries.insert(place.parent, entries + 1);
        self.names.insert(place.clone(), Some(object));
        Ok(())
    }

    fn leave(&mut self, place: &Place) -> Result<(), P::Error> {
        let entries = self.entries(place.parent)?;
        self.entries.insert(place.parent, entries.saturating_sub(1));
        self.names.insert(place.clone(), None);
        Ok(())
    }

    fn touch(&mut self, directory: ObjectId, mtime: Option<crate::Time>) -> Result<(), P::Error> {
        let Some(mtime) = mtime else { return Ok(()) };
        self.change(directory, |standing| standing.state.attributes.mtime = mtime)
    }
}

fn replace(places: &mut [Place], old: &Place, new: &Place) {
    places.iter_mut().filter(|place| *place == old).for_each(|place| *place = new.clone());
}

impl<P: Present> Present for Overlay<P> {
    type Error = P::Error;

    fn object(&self, object: ObjectId) -> Result<Option<Standing>, P::Error> {
        match self.objects.get(&object) {
            Some(standing) => Ok(standing.clone()),
            None => self.under.object(object),
        }
    }

    fn at(&self, place: &Place) -> Result<Option<ObjectId>, P::Error> {
        match self.names.get(place) {
            Some(object) => Ok(*object),
            None => self.under.at(place),
        }
    }

    fn entries(&self, directory: ObjectId) -> Result<usize, P::Error> {
        match self.entries.get(&directory) {
            Some(entries) => Ok(*entries),
            None => self.under.entries(directory),
        }
    }
}
