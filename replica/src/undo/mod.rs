//! Taking records back.
//!
//! First everything is checked on an overlay of the index, and nothing is done: what stands in the way, and data that is not
//! kept any more, is told. Then record by record, newest first, each is checked again, done on the host, and recorded as an
//! undo of it. The order is held meanwhile, so that nobody changes what was checked; reading goes on.
//!
//! A file that was written many times gets the data of before all that, and none of what was in between. Objects that will be gone when all is done are not put in order on the way: what was written to them stays with them, and
//! those that have to be made for a while are made without data that is not kept.
//!
//! What is being taken back is noted in a journal before. Every step can be done again, so that an undo that was cut off is
//! finished when the replica is opened next.

mod act;
mod data;
pub(crate) mod journal;
pub(crate) mod present;
mod selection;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mezzo_core::time::Step;
use mezzo_core::undo::{Action, Obstacle, Overlay, count, invert, rest};
use mezzo_core::{Attributes, Change, DataVersion, ObjectId, Origin, Place, Recno, Record, Time};

use crate::Error;
use crate::index::Local;
use crate::log::Reader;
use crate::perform::Caller;
use crate::replica::{Order, Replica};
use journal::{Journal, Work};
pub(crate) use present::Indexed;

pub use selection::Selection;
pub(crate) use selection::{innermost, subjects};

/// What an undo would do, or has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The records that are taken back, newest first.
    pub records: Vec<Recno>,
    /// Of them, those that were taken along because others depend on them.
    pub along: BTreeSet<Recno>,
    /// What stands in the way; then nothing is done.
    pub hindrances: Vec<Hindrance>,
    /// Objects that will be gone.
    pub gone: HashSet<ObjectId>,
    /// Of files whose data is changed by more than one of the records: the newest and the oldest of those. The data of before
    /// the oldest is what they get, and what was in between need not be kept.
    pub runs: HashMap<ObjectId, (Recno, Recno)>,
}

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hindrance {
    /// Of which record.
    pub record: Recno,
    /// The word for what that record changed.
    pub kind: &'static str,
    /// The path that it is about, for people.
    pub path: Vec<u8>,
    /// What it is.
    pub why: Why,
    /// A later record that is not taken back and is about the same, where there is one.
    pub by: Option<Recno>,
}

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The tree is not as the record left it.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// The data of before is not kept.
    #[error("its data of before is not kept any more")]
    NoData {
        /// Whose.
        object: ObjectId,
        /// Which.
        version: DataVersion,
    },
    /// Somebody has the file open for writing, or mapped so, whose data would be another.
    #[error("somebody has it open for writing")]
    Open {
        /// The file.
        object: ObjectId,
    },
}

/// Who has to know what is done to the tree while it is mounted by others than its users. The first two are called by who holds the
/// order; the others once it is free, as a kernel that is told waits for its users, and they may wait for the order.
pub trait Audience {
    /// Whether anybody can have files of the tree open.
    fn has_users(&self) -> bool {
        true
    }

    /// The object is about to lose a name, perhaps its last.
    fn losing(&self, object: ObjectId);

    /// The object, which nobody has open for writing, is about to be another inode of the host, with other data; `former` leads to
    /// the one that it was. `change` makes it so, on the host and in the index, and is called once; what it returns is returned. Who
    /// has the object open goes on with what it was, and who opens it meanwhile waits. [`Audience::object_changed`] is to follow.
    fn inode_changes(
        &self,
        object: ObjectId,
        former: &Arc<OwnedFd>,
        change: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Something else stands at a place now.
    fn entry_changed(&self, place: &Place);

    /// An object is another now.
    fn object_changed(&self, object: ObjectId);
}

/// Nobody uses the tree.
impl Audience for () {
    fn has_users(&self) -> bool {
        false
    }
    fn losing(&self, _: ObjectId) {}
    fn inode_changes(
        &self,
        _: ObjectId,
        _: &Arc<OwnedFd>,
        change: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        change()
    }
    fn entry_changed(&self, _: &Place) {}
    fn object_changed(&self, _: ObjectId) {}
}

impl Replica {
    /// What taking back `selection` would do. Nothing is done.
    pub fn plan_undo(&self, selection: &Selection<'_>) -> Result<Plan, Error> {
        let order = self.begin()?;
        self.plan_in_order(&order, selection)
    }

    /// Takes back `selection`, or tells what stands in the way. Everything else waits meanwhile.
    pub fn undo(
        &self,
        caller: &Caller,
        selection: &Selection<'_>,
        audience: &dyn Audience,
    ) -> Result<Plan, Error> {
        // Who only had it mapped for writing is in nobody's way.
        match self.settle_mappings() {
            Err(Error::Gone) => {}
            settled => settled?,
        }
        // What was written and not told of yet would be taken for no change.
        self.record_unseen_writes(caller)?;
        let mut touched = Touched::default();
        let mut order = self.begin()?;
        let plan = self.plan_in_order(&order, selection)?;
        if !plan.hindrances.is_empty() || plan.records.is_empty() {
            return Ok(plan);
        }
        let work = Work {
            began: order.last,
            records: plan.records.clone(),
            gone: plan.gone.clone(),
            runs: plan.runs.clone(),
            who: (*caller.who).clone(),
        };
        let journal = Journal::begin(self.fileset().own(), &work)?;
        let done = self.take_back(&mut order, &work, None, audience, &mut touched);
        if done.is_ok() {
            self.end_of_undo(journal)?;
        }
        // Kernel caches are told of changes only after leaving the order: it takes locks for that which a waiting user's
        // call may hold.
        drop(order);
        touched.tell(audience);
        done?;
        Ok(plan)
    }

    /// Finishes an undo that was cut off, and returns of how many records. Called before anything else looks at the tree.
    /// One that can't be finished ends as it is.
    pub(crate) fn resume_undo(&self) -> Result<Option<u64>, Error> {
        let reader = self.log.reader()?;
        let Some((journal, work)) = Journal::open(self.fileset().own(), reader.last()?)? else {
            return Ok(None);
        };
        let mut done: HashMap<Origin, usize> = HashMap::new();
        for record in reader.from(work.began.next()) {
            if let Change::UndoOf { record, .. } = record?.change {
                *done.entry(record).or_default() += 1;
            }
        }
        let mut order = self.begin()?;
        match self.take_back(&mut order, &work, Some(done), &(), &mut Touched::default()) {
            Err(Error::Undo(why)) => crate::say!("mezzo: an undo that was cut off can't be finished: {why}"),
            taken => taken?,
        }
        self.end_of_undo(journal)?;
        Ok(Some(work.records.len() as u64))
    }

    /// Ends it once its records are durable: a power loss that leaves some of them must leave the journal.
    fn end_of_undo(&self, journal: Journal) -> Result<(), Error> {
        self.sync_log()?;
        Ok(journal.end()?)
    }

    fn plan_in_order(&self, _order: &Order, selection: &Selection<'_>) -> Result<Plan, Error> {
        let mut along = BTreeSet::new();
        loop {
            let plan = self.plan_with(selection, &along)?;
            let before = along.len();
            if selection.along {
                along.extend(plan.hindrances.iter().filter_map(|hindrance| hindrance.by));
            }
            if along.len() == before {
                return Ok(plan);
            }
        }
    }

    fn plan_with(&self, selection: &Selection<'_>, along: &BTreeSet<Recno>) -> Result<Plan, Error> {
        let mut plan = Plan { along: along.clone(), ..Plan::default() };
        let mut overlay = Overlay::new(Indexed(&self.index));
        let mut later = Later::default();
        let reader = self.log.reader()?;
        for taken in selection.walk(&reader, along) {
            let (record, wanted) = taken?;
            if !wanted {
                later.note(&record);
                continue;
            }
            plan.records.push(record.recno);
            if let Some(object) = selection::data_of(&record.change) {
                plan.runs.entry(object).or_insert((record.recno, record.recno)).1 = record.recno;
            }
            match invert(&record.change, &overlay)? {
                Ok(actions) => {
                    for action in actions {
                        if let Some(why) = self.hindered(&action)? {
                            plan.hindrances.push(later.hindrance(&record, why));
                        }
                        overlay.act(&action)?;
                    }
                }
                Err(obstacle) => plan.hindrances.push(later.hindrance(&record, obstacle.into())),
            }
        }
        plan.gone = overlay.gone().collect();
        plan.runs.retain(|object, (newest, oldest)| newest != oldest && !plan.gone.contains(object));
        plan.hindrances.retain(|hindrance| match &hindrance.why {
            Why::NoData { object, .. } | Why::Open { object } => {
                let oldest = plan.runs.get(object).map_or(hindrance.record, |(_, oldest)| *oldest);
                !plan.gone.contains(object) && oldest == hindrance.record
            }
            Why::Obstacle(_) => true,
        });
        Ok(plan)
    }

    fn hindered(&self, action: &Action) -> Result<Option<Why>, Error> {
        if let Some((object, version)) = action.wants()
            && !self.can_be_had(object, version)?
        {
            return Ok(Some(Why::NoData { object, version }));
        }
        let open = match action {
            Action::Set { object, data: Some(_), .. } if self.opens.writers(*object) > 0 => Some(*object),
            // Who has it open writes to another file than what the attic has.
            Action::Make { object, .. } if self.opens.writers(*object) > 0 => Some(*object),
            _ => None,
        };
        Ok(open.map(|object| Why::Open { object }))
    }

    /// `done` is how many actions are done for each record by one that was cut off.
    fn take_back(
        &self,
        order: &mut Order,
        work: &Work,
        done: Option<HashMap<Origin, usize>>,
        audience: &dyn Audience,
        touched: &mut Touched,
    ) -> Result<(), Error> {
        let caller = Caller { who: work.who.clone().into(), ..Caller::program() };
        let mut is_cut_off = done.is_some();
        let mut done = done.unwrap_or_default();
        let reader = self.log.reader()?;
        let mut log = reader.backwards(work.records.first().copied().unwrap_or_default());
        for recno in &work.records {
            let record = loop {
                match log.next().transpose()? {
                    Some(record) if record.recno == *recno => break record,
                    Some(_) => {}
                    None => return Err(missing(*recno)),
                }
            };
            let before = done.remove(&record.origin).unwrap_or(0);
            if before > 0 && before >= count(&record.change) {
                continue;
            }
            let actions = self.actions(&reader, &record, before, work)?;
            if actions.is_empty() && before == 0 && selection::counts(&record) {
                let undo = Change::UndoOf { record: record.origin, change: Box::new(Change::Noop) };
                self.commit(order, &caller, undo, Local::default())?;
            }
            for action in actions {
                if std::mem::take(&mut is_cut_off) {
                    self.settle_begun_action(&action)?;
                }
                touched.note(&action);
                self.act(order, &caller, (record.origin, &work.gone), &action, audience)?;
            }
        }
        Ok(())
    }

    /// What is to be done for a record of which `done` actions are done. What stood in the way was found before.
    fn actions(
        &self,
        reader: &Reader,
        record: &Record,
        done: usize,
        work: &Work,
    ) -> Result<Vec<Action>, Error> {
        let inverse = match selection::innermost(&record.change) {
            Change::Setattr { object, .. } | Change::Xattr { object, .. } | Change::Close { object, .. }
                if work.gone.contains(object) =>
            {
                return Ok(Vec::new());
            }
            Change::Make { object, place, .. } if work.gone.contains(object) => {
                let touch = self.touch_of(record)?;
                return Ok(vec![Action::Remove { object: *object, place: place.clone(), touch }]);
            }
            change => match selection::data_of(change).and_then(|object| work.runs.get(&object)) {
                Some((_, oldest)) if record.recno != *oldest => match without_data(change) {
                    Some(change) => invert(&change, &Indexed(&self.index))?,
                    None => return Ok(Vec::new()),
                },
                Some((newest, _)) => {
                    let newest = reader.get(*newest)?.ok_or_else(|| missing(*newest))?;
                    let change = joined(change, selection::innermost(&newest.change));
                    invert(&change, &Indexed(&self.index))?
                }
                None => rest(change, done, &Indexed(&self.index))?,
            },
        };
        inverse.map_err(|obstacle| Error::Undo(format!("record {}: {obstacle}", record.recno)))
    }

    /// The time that the directory had before something was made in it, where nobody has moved it since.
    fn touch_of(&self, record: &Record) -> Result<Option<Time>, Error> {
        let Change::Make { place, parent, .. } = selection::innermost(&record.change) else {
            return Ok(None);
        };
        let directory = self.entry(place.parent)?;
        Ok((directory.attributes().mtime == parent.after.mtime).then_some(parent.before.mtime))
    }
}

fn missing(recno: Recno) -> Error {
    Error::Undo(format!("record {recno} is not in the log"))
}

/// What a change of data did beside: a write may take set-id bits away. `None` where that is nothing.
fn without_data(change: &Change) -> Option<Change> {
    let (Change::Setattr { object, path, attributes, .. } | Change::Close { object, path, attributes, .. }) =
        change
    else {
        return None;
    };
    let Step { before, after } = *attributes;
    if (before.mode, before.uid, before.gid) == (after.mode, after.uid, after.gid) {
        return None;
    }
    // The times go with the data.
    let after = Attributes { mtime: before.mtime, atime: before.atime, ..after };
    let attributes = Step::new(before, after);
    Some(Change::Setattr { object: *object, path: path.clone(), attributes, data: None })
}

/// Changes of a file's data from the `oldest` to the `newest` as one; what the oldest did beside is its own.
fn joined(oldest: &Change, newest: &Change) -> Change {
    let data_step = |change: &Change| match change {
        Change::Setattr { attributes, data: Some(data), .. } | Change::Close { attributes, data, .. } => {
            Some((*attributes, *data))
        }
        _ => None,
    };
    let (Some((first, from)), Some((last, to))) = (data_step(oldest), data_step(newest)) else {
        return oldest.clone();
    };
    let (object, path) = match oldest {
        Change::Setattr { object, path, .. } | Change::Close { object, path, .. } => (*object, path.clone()),
        _ => return oldest.clone(),
    };
    let after = Attributes { mtime: last.after.mtime, atime: last.after.atime, ..first.after };
    Change::Close {
        object,
        path,
        attributes: Step::new(first.before, after),
        data: Step::new(from.before, to.after),
        stable: true,
    }
}

/// Records that are left alone and are newer than the one in hand, by what they are about: the newest and the oldest.
#[derive(Default)]
struct Later {
    objects: HashMap<ObjectId, (Recno, Recno)>,
    places: HashMap<Place, (Recno, Recno)>,
}

impl Later {
    fn note(&mut self, record: &Record) {
        let (objects, places) = selection::subjects(&record.change);
        let recno = record.recno;
        // What is in a directory is about the directory as well.
        for object in objects.into_iter().chain(places.iter().map(|place| place.parent)) {
            self.objects.entry(object).or_insert((recno, recno)).1 = recno;
        }
        for place in places {
            self.places.entry(place.clone()).or_insert((recno, recno)).1 = recno;
        }
    }

    fn hindrance(&self, record: &Record, why: Why) -> Hindrance {
        let by = match &why {
            Why::Obstacle(obstacle) => {
                let (object, place) = obstacle.subject();
                let of_place = place.and_then(|place| self.places.get(place));
                let (newest, oldest) = of_place.or_else(|| self.objects.get(&object?)).copied().unzip();
                // The last one removed it; what is in the way was put there by the first.
                if matches!(obstacle, Obstacle::Gone(_)) { newest } else { oldest }
            }
            _ => None,
        };
        let path = record.change.path().unwrap_or_default().to_vec();
        Hindrance { record: record.recno, kind: record.change.kind(), path, why, by }
    }
}

/// What the kernel has to be told of.
#[derive(Default)]
pub(crate) struct Touched {
    places: BTreeMap<Place, ()>,
    pub objects: BTreeSet<ObjectId>,
}

impl Touched {
    pub fn note(&mut self, action: &Action) {
        let (object, places): (ObjectId, &[&Place]) = match action {
            Action::Make { object, place, .. }
            | Action::Link { object, place, .. }
            | Action::Remove { object, place, .. } => (*object, &[place]),
            Action::Move { object, from, to, exchange, replaces, .. } => {
                self.objects.extend(exchange);
                self.objects.extend(replaces);
                (*object, &[from, to])
            }
            Action::Set { object, .. } | Action::Xattr { object, .. } => (*object, &[]),
        };
        self.objects.insert(object);
        for place in places {
            self.objects.insert(place.parent);
            self.places.insert((*place).clone(), ());
        }
    }

    pub fn tell(self, audience: &dyn Audience) {
        self.places.keys().for_each(|place| audience.entry_changed(place));
        self.objects.into_iter().for_each(|object| audience.object_changed(object));
    }
}
