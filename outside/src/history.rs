//! Records that nobody's file system made, applied to a tree and taken back. Most are nearly right, since what is quite wrong is
//! refused at once.

use std::collections::HashSet;
use std::convert::Infallible;

use arbitrary::{Result, Unstructured};
use mezzo_core::id::DataVersion;
use mezzo_core::record::{Change, Displaced, Record, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::tree::Tree;
use mezzo_core::undo::{Overlay, Present, Standing, count, invert, rest};
use mezzo_core::{
    Attributes, Data, Device, Kind, Name, ObjectId, Origin, Place, Recno, ReplicaId, State, Time, Who, Xattr,
};

/// Records of one history.
const RECORDS: u64 = 64;

/// Objects and names there are: few, so that records meet.
const OBJECTS: u64 = 7;
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"\xff\n"];

/// Applies records made of `bytes` to a tree, and takes each back that fits.
pub(super) fn history(bytes: &[u8]) {
    let mut history = History { bytes: Unstructured::new(bytes), tree: Tree::new() };
    for recno in 1..=RECORDS {
        if history.bytes.is_empty() {
            return;
        }
        let Ok(change) = history.change(2) else { return };
        history.apply(recno, change);
    }
}

struct History<'a> {
    bytes: Unstructured<'a>,
    tree: Tree,
}

impl History<'_> {
    fn apply(&mut self, recno: u64, change: Change) {
        let origin = Origin::new(ReplicaId(1), Recno(recno));
        let (previous, time, who) = (Recno(recno - 1), Time::default(), Who::default());
        let record = Record { recno: Recno(recno), previous, epoch: 1, origin, time, who, change };
        let before = self.tree.clone();
        if let Err(mismatch) = self.tree.apply(&record) {
            assert!(!mismatch.to_string().is_empty());
            assert_eq!(self.tree, before, "a record was refused and left a trace: {record:?}");
        }
        assert_sound(&self.tree);
        take_back(&self.tree, &record.change);
    }

    fn change(&mut self, depth: u32) -> Result<Change> {
        Ok(match self.bytes.int_in_range(0..=13)? {
            0..=2 => {
                let object = self.object()?;
                let state = self.state(object)?;
                Change::Make {
                    object,
                    place: self.place()?,
                    path: self.path()?,
                    state,
                    parent: self.touched()?,
                }
            }
            3 => {
                let object = self.object()?;
                let attributes = self.step(object)?;
                Change::Link {
                    object,
                    place: self.place()?,
                    path: self.path()?,
                    attributes,
                    parent: self.touched()?,
                }
            }
            4 => {
                let place = self.place()?;
                Change::Remove {
                    removed: self.removed(&place)?,
                    place,
                    path: self.path()?,
                    parent: self.touched()?,
                }
            }
            5 | 6 => self.rename()?,
            7 => {
                let object = self.object()?;
                let attributes = self.step(object)?;
                let data = if self.bytes.arbitrary()? { Some(self.data_step()?) } else { None };
                Change::Setattr { object, path: self.path()?, attributes, data }
            }
            8 => {
                let object = self.object()?;
                let attributes = self.step(object)?;
                let value = Step::new(self.value()?, self.value()?);
                let name = self.xattr_name()?;
                Change::Xattr { object, path: self.path()?, name, value, attributes }
            }
            9 => {
                let object = self.object()?;
                let attributes = self.step(object)?;
                let (data, stable) = (self.data_step()?, self.bytes.arbitrary()?);
                Change::Close { object, path: self.path()?, attributes, data, stable }
            }
            10 => {
                let (object, version) = (self.object()?, self.version()?);
                Change::Digest { object, version, size: self.bytes.arbitrary()?, digest: [7; 32] }
            }
            11 => Change::Alias { object: self.object()?, stands_for: self.object()? },
            12 if depth > 0 => {
                let (record, change) = (self.origin()?, Box::new(self.change(depth - 1)?));
                match self.bytes.arbitrary()? {
                    true => Change::UndoOf { record, change },
                    false => Change::Amend { record, change },
                }
            }
            _ => Change::Disable { record: self.origin()?, reason: Box::default() },
        })
    }

    fn rename(&mut self) -> Result<Change> {
        let (from, to) = (self.place()?, self.place()?);
        let object = self.occupant(&from)?;
        let attributes = self.step(object)?;
        let displaced = match self.bytes.int_in_range(0..=2)? {
            0 => Displaced::Nothing,
            1 => Displaced::Replaced(Box::new(self.removed(&to)?)),
            _ => {
                let other = self.occupant(&to)?;
                Displaced::Exchanged { object: other, attributes: self.step(other)? }
            }
        };
        Ok(Change::Rename {
            object,
            attributes,
            from,
            from_path: self.path()?,
            from_parent: self.touched()?,
            to,
            to_path: self.path()?,
            to_parent: self.touched()?,
            displaced,
        })
    }

    /// Mostly what stands there, or something else.
    fn occupant(&mut self, place: &Place) -> Result<ObjectId> {
        match self.tree.at(place) {
            Some(object) if self.bytes.ratio(15, 16)? => Ok(object),
            _ => self.object(),
        }
    }

    fn removed(&mut self, place: &Place) -> Result<Removed> {
        let object = self.occupant(place)?;
        let state = self.state(object)?;
        let left = self.tree.object(object).map_or(0, |there| there.places().len().saturating_sub(1) as u32);
        let links_left = if self.bytes.ratio(7, 8)? { left } else { self.bytes.int_in_range(0..=3)? };
        Ok(Removed { object, state, links_left, ctime_after: self.time()? })
    }

    fn state(&mut self, object: ObjectId) -> Result<State> {
        let attributes = self.attributes(object)?;
        let is_file = attributes.kind == Kind::File;
        let data = if is_file { Some(self.data()?) } else { None };
        let target = if attributes.kind == Kind::Symlink { (*b"/etc").into() } else { Box::default() };
        let xattrs = match self.value()? {
            Some(value) => vec![Xattr { name: self.xattr_name()?, value }],
            None => Vec::new(),
        };
        Ok(State { attributes, target, xattrs, data })
    }

    fn step(&mut self, object: ObjectId) -> Result<Step<Attributes>> {
        let before = self.attributes(object)?;
        let after = self.attributes(object)?;
        Ok(Step::new(before, Attributes { kind: before.kind, ..after }))
    }

    /// Attributes of the kind that the object has, mostly.
    fn attributes(&mut self, object: ObjectId) -> Result<Attributes> {
        let kind = match self.tree.object(object) {
            Some(there) if self.bytes.ratio(15, 16)? => there.state().attributes.kind,
            _ => Kind::from_number(self.bytes.int_in_range(1..=7)?).expect("there are seven"),
        };
        Ok(Attributes {
            kind,
            mode: self.bytes.int_in_range(0..=0o7777)?,
            uid: self.bytes.int_in_range(0..=2)?,
            gid: self.bytes.int_in_range(0..=2)?,
            size: *self.bytes.choose(&[0, 1, 1 << 63, u64::MAX])?,
            links: self.bytes.int_in_range(0..=3)?,
            device: Device::default(),
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
        })
    }

    fn object(&mut self) -> Result<ObjectId> {
        let number = self.bytes.int_in_range(0..=OBJECTS)?;
        let replica = ReplicaId(u64::from(number > 0));
        Ok(ObjectId(Origin::new(replica, Recno(number))))
    }

    fn place(&mut self) -> Result<Place> {
        let parent = if self.bytes.ratio(1, 3)? { ObjectId::ROOT } else { self.object()? };
        Ok(Place::new(parent, Name::new(self.bytes.choose(&NAMES)?).expect("they are names")))
    }

    fn path(&mut self) -> Result<Box<[u8]>> {
        Ok(if self.bytes.ratio(1, 8)? { Box::default() } else { (*b"path").into() })
    }

    fn touched(&mut self) -> Result<Step<Times>> {
        let times = Times { mtime: self.time()?, ctime: self.time()? };
        Ok(Step::new(Times::default(), times))
    }

    fn time(&mut self) -> Result<Time> {
        Ok(Time::new(*self.bytes.choose(&[0, 1, i64::MIN, i64::MAX])?, 999_999_999))
    }

    fn data_step(&mut self) -> Result<Step<Data>> {
        Ok(Step::new(self.data()?, self.data()?))
    }

    fn data(&mut self) -> Result<Data> {
        Ok(Data { version: self.version()?, digest: None })
    }

    fn version(&mut self) -> Result<DataVersion> {
        self.origin().map(DataVersion)
    }

    fn origin(&mut self) -> Result<Origin> {
        Ok(Origin::new(ReplicaId(1), Recno(self.bytes.int_in_range(1..=RECORDS)?)))
    }

    fn value(&mut self) -> Result<Option<Box<[u8]>>> {
        Ok(if self.bytes.ratio(1, 4)? { Some((*b"value").into()) } else { None })
    }

    fn xattr_name(&mut self) -> Result<Box<[u8]>> {
        Ok((*self.bytes.choose(&[&b"user.a"[..], b"user.b", b"trusted.mezzo.lost"])?).into())
    }
}

/// Names and objects lead to each other, and every object's directories end at the root.
fn assert_sound(tree: &Tree) {
    for (id, object) in tree.objects() {
        for place in object.places() {
            assert_eq!(tree.at(place), Some(id), "{id} does not stand where it says");
        }
        for (name, child) in tree.children(id) {
            let place = Place::new(id, name.clone());
            let there = tree.object(child).unwrap_or_else(|| panic!("{name} in {id} leads nowhere"));
            assert!(there.places().contains(&place), "{child} does not know that it is {name} in {id}");
        }
        let (mut at, mut met) = (object, HashSet::from([id]));
        while let Some(place) = at.places().first() {
            assert!(met.insert(place.parent), "{id} stands below itself");
            at = tree.object(place.parent).expect("a directory is there");
        }
    }
}

/// Takes the change back on top of the tree, where nothing stands in the way: nothing is done for it here.
fn take_back(tree: &Tree, change: &Change) {
    let there = There(tree);
    for done in 0..2 {
        let Ok(Ok(actions)) = rest(change, done, &there) else { continue };
        assert!(actions.len() <= count(change), "more is done than was said");
        let mut overlay = Overlay::new(There(tree));
        for action in &actions {
            let Ok(()) = overlay.act(action);
            assert!(action.wants().is_none_or(|(object, _)| object != ObjectId::ROOT));
        }
        let Ok(_) = invert(change, &overlay);
    }
}

struct There<'t>(&'t Tree);

impl Present for There<'_> {
    type Error = Infallible;

    fn object(&self, object: ObjectId) -> std::result::Result<Option<Standing>, Infallible> {
        Ok(self
            .0
            .object(object)
            .map(|object| Standing { state: object.state().clone(), places: object.places().to_vec() }))
    }

    fn at(&self, place: &Place) -> std::result::Result<Option<ObjectId>, Infallible> {
        Ok(self.0.at(place))
    }

    fn entries(&self, directory: ObjectId) -> std::result::Result<usize, Infallible> {
        Ok(self.0.children(directory).len())
    }
}
