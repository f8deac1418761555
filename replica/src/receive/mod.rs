//! Records of another replica, taken into this one, with a mount over the tree or without.
//!
//! One record at a time, each in the place of order: what was changed unseen of what it is about is taken in, then it is
//! checked against what is here, done on the host, and appended to the log with the origin it came with. Where one can't be
//! done, it and those after it are left, and tree and log are as before it. A record that was received before, from whomever,
//! is known by its origin: each counts once.
//!
//! What is being taken is noted in a journal before, and each record in the LML. Every step can be done again, so that records
//! that were cut off are finished when the replica is opened next. After a power loss nobody knows which steps the tree has: the
//! records are put into the log, and the recovery makes the tree as the log has it.

mod data;
mod journal;
mod outgoing;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use mezzo_core::name::escape;
use mezzo_core::permission;
use mezzo_core::record::Displaced;
use mezzo_core::reintegrate::{
    Class, Conflict, Difference, Seen, Verdict, check, differing_versions, touches,
};
use mezzo_core::undo::{Action, Overlay};
use mezzo_core::{
    Attributes, Change, Data, DataVersion, Digest, Kind, ObjectId, Origin, Place, Recno, Record, Time,
};

use crate::Error;
use crate::fileset::OWN;
use crate::host::{self, Identity, SetTime, xattr};
use crate::index::{Lacking, Local};
use crate::lml::Operation;
use crate::meet::is_inode_of;
use crate::recover::Unmet;
use crate::reintegrate::{Bounds, finish_but_data};
use crate::replica::{Order, Replica};
use crate::undo::present::Indexed;
use crate::undo::{Audience, Touched, innermost, subjects};
use journal::Journal;

pub(crate) use data::with_few_large;
pub use data::{DataSource, Filled, Sought};
pub use outgoing::{Beside, Outgoing};

/// What becomes of the data that a record tells of.
#[derive(Clone, Copy)]
pub enum OnData<'a> {
    /// Files get their sizes, and nothing more is noted of them: for who keeps data elsewhere.
    Count,
    /// Files get their sizes, and the mark that their bytes are not here.
    Absent,
    /// Bytes are brought; where the source has them not, as with [`OnData::Absent`].
    Bring(&'a dyn DataSource),
}

/// How records are taken.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// What becomes of data.
    pub data: OnData<'a>,
    /// Whether each record's own user has to be allowed here what it did.
    pub judge: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Taken {
    /// Records that were done, and are in the log now.
    pub applied: u64,
    /// Records that were known already, or whose effect was here, or that concern no other replica.
    pub known: u64,
    /// Files whose bytes were brought.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that are without their bytes now.
    pub absent: u64,
    /// The record that could not be done, and why; those after it were not looked at.
    pub stopped: Option<Box<Stop>>,
}

/// A record that could not be done. Nothing of it is.
#[derive(Debug)]
pub struct Stop {
    /// The record.
    pub record: Record,
    /// Where it is about here, where it is about anything here.
    pub path: Vec<u8>,
    /// Why.
    pub why: Why,
}

/// Why a record could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It was made of something else than what is here.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// It can't have been made of any tree.
    #[error("damaged: {0}")]
    Damaged(String),
    /// There is no room, or the host fails: it may be tried again.
    #[error("{0}")]
    Resource(Error),
}

/// Records that were put into the log after a power loss. What is noted of them is needed until the tree has them too.
pub(crate) struct Logged {
    journal: Journal,
    /// How many.
    pub records: u64,
}

impl Logged {
    /// The tree has them, durably.
    pub fn end(self) -> Result<(), Error> {
        Ok(self.journal.end()?)
    }
}

/// What is noted of data on its way.
#[derive(Default)]
struct Wanted {
    /// The newest version of each file that the batch tells of: what is between need not be brought.
    newest: HashMap<ObjectId, DataVersion>,
    /// Digests that the batch tells of.
    digests: HashMap<DataVersion, Digest>,
    /// Of large files, the version that was here before the batch.
    older: HashMap<ObjectId, DataVersion>,
}

impl Replica {
    /// Takes `records`, which another replica's log has in this order, up to the first that can't be done. What was taken is
    /// durable when this returns.
    pub fn receive(&self, records: &[Record], how: How<'_>, audience: &dyn Audience) -> Result<Taken, Error> {
        let _one_at_a_time = self.receiving.lock();
        let journal = Journal::begin(self.fileset().own(), records)?;
        let taken = self.take_all(records, None, how, audience);
        // Where it failed, what was taken before stays, and need not be finished by the next start.
        if taken.as_ref().map_or(true, |taken| taken.files > 0) {
            crate::host::sync_all(self.fileset().root())?;
        }
        self.sync_log()?;
        journal.end()?;
        taken
    }

    /// What would come of [`Replica::receive`], as far as it can be told without doing it.
    pub fn preview(&self, records: &[Record], judge: bool) -> Result<Taken, Error> {
        let mut overlay = Overlay::new(Indexed(&self.index));
        let mut taken = Taken::default();
        for record in records {
            if self.is_known(record) || !concerns_others(&record.change) {
                taken.known += 1;
                continue;
            }
            if let Some(why) = self.is_refused(record) {
                let path = self.path_of_change(&record.change)?;
                taken.stopped = Some(Box::new(Stop { record: record.clone(), path, why }));
                break;
            }
            let verdict = check(&record.change, &overlay)?;
            let judged =
                judge.then(|| permission::judge(&record.who, &record.change, &overlay)).transpose()?;
            let why = match (verdict, judged.flatten()) {
                (Verdict::Fits(actions), None) => {
                    actions.iter().try_for_each(|action| overlay.act(action))?;
                    taken.applied += 1;
                    continue;
                }
                (Verdict::Applied, _) => {
                    taken.known += 1;
                    continue;
                }
                (Verdict::Fits(_), Some(denied)) => {
                    Why::Conflict(Box::new(denied_conflict(&record.change, denied)))
                }
                (Verdict::Conflict(conflict), _) => Why::Conflict(conflict),
                (Verdict::Damaged(why), _) => Why::Damaged(why.to_owned()),
            };
            let path = self.path_of_change(&record.change)?;
            taken.stopped = Some(Box::new(Stop { record: record.clone(), path, why }));
            break;
        }
        Ok(taken)
    }

    /// Where sizes and times that records saw are not those that are here. None of it is in the way.
    pub fn differing_versions(&self, records: &[Record]) -> Result<Vec<(Recno, Difference)>, Error> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for record in records.iter().filter(|record| !self.is_known(record)) {
            // Of what the records tell first: later ones saw what the earlier ones left.
            let (objects, _) = subjects(&record.change);
            let is_first = objects.iter().all(|object| !seen.contains(object));
            seen.extend(objects);
            if is_first {
                let differing = differing_versions(&record.change, &Indexed(&self.index))?;
                found.extend(differing.into_iter().map(|difference| (record.recno, difference)));
            }
        }
        Ok(found)
    }

    /// Finishes records that were cut off by a kill, and returns how many; `operation` was in flight. Called before anything else
    /// looks at the tree. Data that was not here yet is marked absent.
    pub(crate) fn resume_receiving(&self, operation: Option<&Operation>) -> Result<Option<u64>, Error> {
        let Some((journal, records)) = Journal::open(self.fileset().own())? else { return Ok(None) };
        let last = self.last();
        // Of one whose effect was here, the times of one object may be in the log, and not those of the next.
        if let Some(record) = records.iter().rfind(|record| self.is_known(record))
            && operation.is_some_and(|operation| is_about(operation, &record.change))
            && !touches(&record.change, &Indexed(&self.index))?.is_empty()
        {
            self.settle_begun(&record.change)?;
            self.take_applied(&mut *self.begin()?, record, &mut Touched::default())?;
        }
        let begun = records.iter().find(|record| !self.is_known(record)).filter(|record| {
            operation.is_some_and(|operation| operation.recno > last && is_about(operation, &record.change))
        });
        if let Some(record) = begun {
            self.settle_begun(&record.change)?;
        }
        let how = How { data: OnData::Absent, judge: false };
        let taken = self.take_all(&records, begun.map(|record| record.origin), how, &())?;
        self.sync_log()?;
        journal.end()?;
        Ok(Some(taken.applied))
    }

    /// Puts records that were cut off by a power loss into the log, before the tree is made as the log has it. What they make is
    /// added to `made`. It is done again where the recovery is.
    pub(crate) fn log_received(&self, made: &mut Vec<Unmet>, since: Time) -> Result<Option<Logged>, Error> {
        let Some((journal, records)) = Journal::open(self.fileset().own())? else { return Ok(None) };
        let mut order = self.begin_when_full()?;
        let mut taken = 0;
        let begun = records.iter().rposition(|record| self.is_known(record));
        for (at, record) in records.iter().enumerate() {
            let is_heard = self.is_known(record);
            if let Change::Snapshot { .. } = &record.change
                && order.last == Recno::NONE
            {
                self.begin_snapshot(&mut order, record)?;
                continue;
            }
            if is_heard && begun != Some(at) || !concerns_others(&record.change) {
                continue;
            }
            let changes = match check(&record.change, &Indexed(&self.index))? {
                _ if is_heard => self.left_of(&record.change)?,
                Verdict::Fits(_) => vec![record.change.clone()],
                Verdict::Applied => match self.left_of(&record.change)? {
                    left if left.is_empty() => vec![Change::Noop],
                    left => left,
                },
                Verdict::Conflict(_) | Verdict::Damaged(_) => break,
            };
            if changes.is_empty() {
                continue;
            }
            for change in changes {
                self.ensure_one_more()?;
                self.commit_received(&mut order, record, change, Local::default())?;
            }
            if let Change::Make { object, state, .. } = innermost(&record.change) {
                made.push(Unmet { object: *object, made: state.attributes.ctime });
            }
            // Whatever the tree has of it is older.
            for object in self.moved_by(&record.change)? {
                self.index.met(object, None, since)?;
            }
            taken += u64::from(!is_heard);
        }
        // The bytes that came with them may be gone, whatever the file's size and times are.
        for (object, data, _) in records.iter().filter_map(|record| data_of(&record.change)) {
            let entry = self.index.entry(object)?.filter(|entry| entry.attributes().size > 0);
            if let Some(entry) = entry
                && entry.version() == Some(data.version)
                && entry.state.data.is_some_and(|data| data.digest.is_none())
            {
                self.index.set_lacking(object, Lacking::Lost)?;
            }
        }
        self.sync_log()?;
        Ok(Some(Logged { journal, records: taken }))
    }

    /// Whether a record was received before. The records of a snapshot have the numbers that they get here.
    fn is_known(&self, record: &Record) -> bool {
        if self.is_partial() {
            return record.recno <= self.log.last();
        }
        self.index.has_heard(record.origin)
    }

    /// The log begins with a snapshot, whose records follow.
    fn begin_snapshot(&self, order: &mut Order, record: &Record) -> Result<(), Error> {
        let Change::Snapshot { records, .. } = &record.change else { return Ok(()) };
        self.commit_received(order, record, record.change.clone(), Local::default())?;
        self.snapshot_end.store(records.saturating_add(1), Ordering::Relaxed);
        Ok(())
    }

    /// A record was begun, and what it changed on the host so far is no change of anybody else's.
    fn settle_begun(&self, change: &Change) -> Result<(), Error> {
        for object in self.moved_by(change)? {
            let Some(entry) = self.index.entry(object)?.filter(|entry| !self.is_nameless(entry)) else {
                continue;
            };
            if let Ok(reach) = self.reach(&entry) {
                let stat = host::stat(reach.as_fd())?;
                if is_inode_of(&entry, &stat) {
                    self.index.met(object, None, stat.attributes.ctime)?;
                }
            }
        }
        Ok(())
    }

    /// Takes `records`, of which `begun` was begun before.
    fn take_all(
        &self,
        records: &[Record],
        begun: Option<Origin>,
        how: How<'_>,
        audience: &dyn Audience,
    ) -> Result<Taken, Error> {
        let wanted = self.wanted_of(records)?;
        let mut taken = Taken::default();
        for record in records {
            let mut touched = Touched::default();
            let is_begun = begun == Some(record.origin);
            let done = self.take((record, is_begun), how, &wanted, &mut taken, audience, &mut touched);
            // After the order was left: the kernel takes locks for it that a waiting user's call may hold.
            touched.tell(audience);
            match done {
                Ok(None) => {}
                Ok(Some(why)) => {
                    let path = self.path_of_change(&record.change)?;
                    taken.stopped = Some(Box::new(Stop { record: record.clone(), path, why }));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn take(
        &self,
        (record, is_begun): (&Record, bool),
        how: How<'_>,
        wanted: &Wanted,
        taken: &mut Taken,
        audience: &dyn Audience,
        touched: &mut Touched,
    ) -> Result<Option<Why>, Error> {
        if let Change::Snapshot { .. } = &record.change
            && self.last() == Recno::NONE
        {
            self.begin_snapshot(&mut *self.begin()?, record)?;
            taken.applied += 1;
            return Ok(None);
        }
        if self.is_known(record) || !concerns_others(&record.change) {
            taken.known += 1;
            return Ok(None);
        }
        if let Some(why) = self.is_refused(record) {
            return Ok(Some(why));
        }
        // Data is brought before the order is taken: nobody waits for it.
        let in_place = self.in_place(&record.change, how.data, wanted, audience).filter(|_| !is_begun);
        let mut data = match (is_begun, in_place) {
            (true, _) => self.brought(&record.change, wanted, taken)?,
            (false, Some(_)) => Arriving::default(),
            (false, None) => self.bring(&record.change, how.data, wanted, taken)?,
        };
        let mut order = match self.begin() {
            Err(error) if is_passing(&error) => return Ok(Some(Why::Resource(error))),
            order => order?,
        };
        // What was begun would be taken for a change that somebody else made.
        if !is_begun && let Err(error) = self.meet_subjects(&mut order, &record.change) {
            return if is_passing(&error) { Ok(Some(Why::Resource(error))) } else { Err(error) };
        }
        let present = Indexed(&self.index);
        let verdict = check(&record.change, &present)?;
        let actions = match verdict {
            Verdict::Fits(actions) => actions,
            Verdict::Applied => {
                taken.known += 1;
                return self.take_applied(&mut order, record, touched).map(|()| None);
            }
            Verdict::Conflict(conflict) => return Ok(Some(Why::Conflict(conflict))),
            Verdict::Damaged(why) => return Ok(Some(Why::Damaged(why.to_owned()))),
        };
        if how.judge
            && let Some(denied) = permission::judge(&record.who, &record.change, &present)?
        {
            return Ok(Some(Why::Conflict(Box::new(denied_conflict(&record.change, denied)))));
        }
        if let Some(why) = self.written_here(&actions)? {
            return Ok(Some(why));
        }
        self.note_begun(&order, record)?;
        let mut local = Local::default();
        let mut ctimes = HashMap::new();
        for action in &actions {
            touched.note(action);
            let author = Identity { uid: record.who.uid, gid: record.who.gid };
            let written = match (in_place, action) {
                (Some(source), Action::Set { object, attributes, data: Some((data, size)) }) => {
                    let told = data.digest.or_else(|| wanted.digests.get(&data.version).copied());
                    let told = Data { digest: told, ..*data };
                    self.write_in_place(*object, attributes, (told, *size), source)
                }
                _ => Ok(None),
            };
            if in_place.is_some() && matches!(written, Ok(None)) {
                data = self.bring(&record.change, how.data, wanted, taken)?;
            }
            let done = match written {
                Ok(Some(done)) => {
                    (taken.files, taken.bytes) = (taken.files + 1, taken.bytes + size_of(&record.change));
                    Ok(done)
                }
                Ok(None) => host::as_author(author, &record.who.groups, || {
                    Ok(self.take_action(&mut order, action, &data.without, audience))
                })?,
                Err(error) => Err(error),
            };
            let (done_change, done) = match done {
                Err(error) => {
                    self.put_back(action)?;
                    return Ok(Some(Why::Resource(error)));
                }
                Ok(done) => done,
            };
            ctimes.extend(ctimes_of(&done_change));
            local = Local { host: done.host.or(local.host), keep: done.keep || local.keep };
        }
        self.commit_received(&mut order, record, record.change.clone(), local)?;
        self.settle_received(touched, &data, &ctimes)?;
        taken.applied += 1;
        Ok(None)
    }

    /// What a record did is here already. It is in the log all the same, so that nobody is asked for it again, as what is left
    /// of it: times.
    fn take_applied(&self, order: &mut Order, record: &Record, touched: &mut Touched) -> Result<(), Error> {
        let left = self.left_of(&record.change)?;
        if left.is_empty() {
            return self.commit_received(order, record, Change::Noop, Local::default());
        }
        for change in left {
            if let Change::Setattr { object, attributes, .. } = &change {
                self.note_begun(order, record)?;
                let reach = self.reach(&*self.entry(*object)?)?;
                host::set_times(reach.as_fd(), SetTime::Omit, SetTime::To(attributes.after.mtime))?;
                touched.objects.insert(*object);
            }
            self.commit_received(order, record, change, Local::default())?;
        }
        self.settle_received(touched, &Arriving::default(), &HashMap::new())
    }

    /// What is left of a change whose effect is here: a record for each object that gets other times.
    fn left_of(&self, change: &Change) -> Result<Vec<Change>, Error> {
        let left = touches(change, &Indexed(&self.index))?.into_iter();
        left.map(|(object, attributes)| {
            let path = self.index.path(object)?.into();
            Ok(Change::Setattr { object, path, attributes, data: None })
        })
        .collect()
    }

    /// Notes that something is about to be done for a record.
    fn note_begun(&self, order: &Order, record: &Record) -> Result<(), Error> {
        let (objects, places) = subjects(&record.change);
        Ok(self.opens.lml().note(&Operation {
            recno: order.last.next(),
            who: record.who.clone(),
            object: objects.first().copied(),
            places: places.into_iter().cloned().collect(),
        })?)
    }

    /// Objects whose ctimes a change moves that is taken from elsewhere, or taken back: data comes as another inode, which takes
    /// each of its names.
    pub(crate) fn moved_by(&self, change: &Change) -> Result<Vec<ObjectId>, Error> {
        let mut objects = touched_by(change);
        if !matches!(innermost(change), Change::Make { .. })
            && let Some((object, ..)) = data_of(change)
            && let Some(entry) = self.index.entry(object)?
        {
            objects.extend(entry.places.iter().map(|place| place.parent));
        }
        Ok(objects)
    }

    /// What the record is about, with what was changed of it unseen taken in. The root of a tree that has no record yet is what
    /// the first record will say.
    fn meet_subjects(&self, order: &mut Order, change: &Change) -> Result<(), Error> {
        if order.last.0 == 0 || self.is_partial() && order.last.0 == 1 {
            let ctime = host::stat(self.fileset().root())?.attributes.ctime;
            self.index.met(ObjectId::ROOT, None, ctime)?;
        }
        let (objects, places) = subjects(change);
        let mut met = Vec::new();
        for place in places {
            let parent = self.index.entry(place.parent)?;
            if parent.is_some_and(|parent| parent.is_directory() && !self.is_nameless(&parent)) {
                met.extend(self.meet_in_order(order, place.parent, &place.name)?.map(|met| met.entry.object));
            }
        }
        for object in objects.into_iter().filter(|object| !met.contains(object)) {
            if self.index.entry(object)?.is_some_and(|entry| !self.is_nameless(&entry)) {
                self.observe_in_order(order, object)?;
            }
        }
        Ok(())
    }

    /// What no record may say, and what the host can't hold: found out before anything is done.
    fn is_refused(&self, record: &Record) -> Option<Why> {
        // What a snapshot says of an object has the object's origin, and may name what was made later.
        if !self.is_partial()
            && let Some(why) = is_forged(record)
        {
            return Some(Why::Damaged(why.to_owned()));
        }
        let (_, places) = subjects(&record.change);
        let is_own = |place: &&&Place| place.parent == ObjectId::ROOT && place.name.as_bytes() == OWN;
        if let Some(place) = places.iter().find(is_own) {
            return Some(Why::Damaged(format!("{} in the root is mezzo's own", place.name)));
        }
        if let Some(name) = xattr_names(&record.change).into_iter().find(|name| !xattr::is_carried(name)) {
            let name = escape(name);
            return Some(Why::Damaged(format!("records carry no extended attribute {name}")));
        }
        let held = Bounds::default().check(self.fileset().root(), &record.change);
        held.err().map(|error| Why::Resource(error.into()))
    }

    /// The host refused a part of an action: nothing of it is left.
    fn put_back(&self, action: &Action) -> Result<(), Error> {
        let object = match action {
            Action::Make { place, state, .. } => {
                let directory = self.directory(place.parent)?;
                let is_directory = state.attributes.kind == Kind::Directory;
                match host::unlink(directory.as_fd(), &place.name, is_directory) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
                place.parent
            }
            Action::Set { object, .. } | Action::Xattr { object, .. } => *object,
            Action::Link { place, .. } | Action::Remove { place, .. } => place.parent,
            Action::Move { to, .. } => to.parent,
        };
        let entry = self.entry(object)?;
        let reach = self.reach(&entry)?;
        // What the host said first is told, whatever it says now.
        let _ = finish_but_data(reach.as_fd(), &entry.state, true);
        Ok(self.index.met(object, None, host::stat(reach.as_fd())?.attributes.ctime)?)
    }

    /// A file that somebody here writes to counts as changed here.
    fn written_here(&self, actions: &[Action]) -> Result<Option<Why>, Error> {
        for action in actions {
            let (object, class) = match action {
                Action::Set { object, data: Some(_), .. } => (*object, Class::UpdateUpdate),
                Action::Remove { object, .. } | Action::Move { replaces: Some(object), .. } => {
                    (*object, Class::UpdateDelete)
                }
                _ => continue,
            };
            let goes = class == Class::UpdateUpdate || self.entry(object)?.places.len() == 1;
            if goes && self.opens.writers(object) > 0 {
                let difference =
                    Difference { field: "data".into(), expected: Seen::Nothing, found: Seen::Writer };
                let conflict = Conflict { class, object, place: None, differences: vec![difference] };
                return Ok(Some(Why::Conflict(Box::new(conflict))));
            }
        }
        Ok(None)
    }

    /// Appends a record under the origin that it came with.
    fn commit_received(
        &self,
        order: &mut Order,
        record: &Record,
        change: Change,
        local: Local,
    ) -> Result<(), Error> {
        let received = Record {
            recno: order.last.next(),
            previous: order.last,
            epoch: self.log.epoch(),
            change,
            ..record.clone()
        };
        self.commit_record(order, &received, local)
    }

    /// What the host has now belongs to the log: its ctimes are others than the record's. Of those in `ctimes` they are known, as
    /// long as nothing more is to be done.
    fn settle_received(
        &self,
        touched: &Touched,
        data: &Arriving,
        ctimes: &HashMap<ObjectId, Time>,
    ) -> Result<(), Error> {
        for object in &touched.objects {
            let is_done = !data.is_begun && !data.without.contains(object) && !data.marked.contains(object);
            if let Some(ctime) = ctimes.get(object).filter(|_| is_done) {
                self.index.met(*object, None, *ctime)?;
                continue;
            }
            let Some(entry) = self.index.entry(*object)?.filter(|entry| !self.is_nameless(entry)) else {
                continue;
            };
            let reach = self.reach(&entry)?;
            let marked = data.marked.contains(object) || data.is_begun && xattr::is_lost(reach.as_fd());
            if marked || data.without.contains(object) {
                let attributes = host::stat(reach.as_fd())?.attributes;
                match marked {
                    true => xattr::mark_absent(reach.as_fd(), &attributes)?,
                    false => xattr::mark_lost(reach.as_fd(), None)?,
                }
                let lacking = if marked { Lacking::Absent } else { Lacking::Nothing };
                self.index.set_lacking(*object, lacking)?;
            }
            let mut here = host::stat(reach.as_fd())?.attributes;
            let mtime = entry.attributes().mtime;
            if entry.is_directory() && here.mtime != mtime {
                // xfs counts it as a change of a directory that it is exchanged.
                host::set_times(reach.as_fd(), SetTime::Omit, SetTime::To(mtime))?;
                here = host::stat(reach.as_fd())?.attributes;
            }
            self.index.met(*object, None, here.ctime)?;
        }
        Ok(())
    }

    fn path_of_change(&self, change: &Change) -> Result<Vec<u8>, Error> {
        let (objects, places) = subjects(change);
        if let Some(place) = places.first()
            && self.index.entry(place.parent)?.is_some()
        {
            return Ok(self.path_of(place.parent, &place.name)?.into());
        }
        match objects.first() {
            Some(object) if self.index.entry(*object)?.is_some() => Ok(self.index.path(*object)?),
            _ => Ok(change.path().unwrap_or_default().to_vec()),
        }
    }
}

/// What is done about the data of a record.
#[derive(Default)]
struct Arriving {
    /// Objects that get their sizes only.
    without: HashSet<ObjectId>,
    /// Of them, those that are marked.
    marked: HashSet<ObjectId>,
    /// It was brought before, and may be in its place: there the mark tells.
    is_begun: bool,
}

impl Wanted {
    fn of(records: &[Record]) -> Wanted {
        let mut wanted = Wanted::default();
        for record in records {
            if let Change::Digest { version, digest, .. } = &record.change {
                wanted.digests.insert(*version, *digest);
            }
            if let Some((object, data, _)) = data_of(&record.change) {
                wanted.newest.insert(object, data.version);
            }
        }
        wanted
    }
}

/// The data that a record gives a file, with what it looks like then.
pub(crate) fn data_of(change: &Change) -> Option<(ObjectId, mezzo_core::Data, &Attributes)> {
    match change {
        Change::Make { object, state, .. } => Some((*object, state.data?, &state.attributes)),
        Change::Setattr { object, data, attributes, .. } => {
            data.map(|data| (*object, data.after, &attributes.after))
        }
        Change::Close { object, data, attributes, .. } => Some((*object, data.after, &attributes.after)),
        Change::UndoOf { change, .. } => data_of(change),
        _ => None,
    }
}

/// The extended attributes that a record sets.
fn xattr_names(change: &Change) -> Vec<&[u8]> {
    match change {
        Change::Make { state, .. } => state.xattrs.iter().map(|xattr| &*xattr.name).collect(),
        Change::Xattr { name, .. } => vec![name],
        Change::UndoOf { change, .. } => xattr_names(change),
        _ => Vec::new(),
    }
}

fn size_of(change: &Change) -> u64 {
    data_of(change).map_or(0, |(.., told)| told.size)
}

/// Objects whose ctimes a record moves.
pub(crate) fn touched_by(change: &Change) -> Vec<ObjectId> {
    let (mut objects, places) = subjects(change);
    objects.extend(places.into_iter().map(|place| place.parent));
    objects
}

/// The host's ctimes, as the action told them that was done. What an exchange does to those of directories is looked at.
fn ctimes_of(done: &Change) -> Vec<(ObjectId, Time)> {
    match done {
        Change::Make { object, place, state, parent, .. } => {
            vec![(*object, state.attributes.ctime), (place.parent, parent.after.ctime)]
        }
        Change::Link { object, place, attributes, parent, .. } => {
            vec![(*object, attributes.after.ctime), (place.parent, parent.after.ctime)]
        }
        Change::Remove { place, parent, .. } => vec![(place.parent, parent.after.ctime)],
        Change::Rename { displaced: Displaced::Exchanged { .. }, .. } => Vec::new(),
        Change::Rename { object, attributes, from, from_parent, to, to_parent, .. } => vec![
            (*object, attributes.after.ctime),
            (from.parent, from_parent.after.ctime),
            (to.parent, to_parent.after.ctime),
        ],
        Change::Setattr { object, attributes, .. }
        | Change::Xattr { object, attributes, .. }
        | Change::Close { object, attributes, .. } => vec![(*object, attributes.after.ctime)],
        _ => Vec::new(),
    }
}

/// Whether the operation is what the LML has of `change`.
fn is_about(operation: &Operation, change: &Change) -> bool {
    let (objects, places) = subjects(change);
    operation.object.as_ref() == objects.first() && operation.places.iter().eq(places)
}

/// A log's own affairs are no other replica's.
fn concerns_others(change: &Change) -> bool {
    !matches!(change, Change::Epoch { .. } | Change::Snapshot { .. } | Change::Noop)
}

/// An object or a version that a record makes is named by it, or was named before it: never after.
fn is_forged(record: &Record) -> Option<&'static str> {
    let is_later =
        |origin: Origin| origin.replica == record.origin.replica && origin.recno > record.origin.recno;
    let (objects, places) = subjects(&record.change);
    let ids = objects.into_iter().map(|object| object.0).chain(places.iter().map(|place| place.parent.0));
    let versions = data_of(&record.change).map(|(_, data, _)| data.version.0);
    ids.chain(versions).any(is_later).then_some("it names what was made after it")
}

fn denied_conflict(change: &Change, denied: permission::Denied) -> Conflict {
    let (objects, places) = subjects(change);
    Conflict {
        class: Class::Permission,
        object: objects.first().copied().unwrap_or(ObjectId::ROOT),
        place: places.first().map(|place| (*place).clone()),
        differences: vec![Difference {
            field: denied.what.into(),
            expected: Seen::Nothing,
            found: Seen::Denied(denied.object),
        }],
    }
}

/// Whether the same may be possible at another time.
fn is_passing(error: &Error) -> bool {
    matches!(
        error.errno(),
        libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO | libc::EMFILE | libc::ENOMEM
    ) && !matches!(error, Error::Undo(_))
}
