//! The owner of a fileset's copy: it alone changes tree, log and index, in one order.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mezzo_core::limits::RECORD_BYTES;
use mezzo_core::permission;
use mezzo_core::record::Displaced;
use mezzo_core::{Change, IdMapping, Kind, Name, ObjectId, Origin, Place, Recno, Record, Time, Who};
use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::Error;
use crate::attic::Attic;
use crate::body::{self, Another, Body, Facts, NewId, take_new_id};
use crate::demand::{Demand, Evictions, Pins};
use crate::digest::Waiting;
use crate::directories::Directories;
use crate::fileset::{Fileset, Lock};
use crate::gate::Gate;
use crate::host::HostId;
use crate::host::{self, Volume, host_now, now};
use crate::index::{Entry, Index, Local};
use crate::inodes::Inodes;
use crate::lml::{InFlight, Lml, Operation, boot_id};
use crate::log::{Log, LogError, Tail};

use crate::opens::Opens;
use crate::outdated::Outdated;
use crate::perform::Caller;
use crate::receive::touched_by;
use crate::recover::{Recovered, Unmet};
use crate::undo::{Indexed, innermost};

/// Bytes that the log must have room for before any operation begins: a large record, and then some.
const ROOM: u64 = 512 << 10;

/// Bytes of room in the log that are left to what gives room back, or tells of what was done already: on a full host they are
/// enough for some ten thousand files to be removed or closed.
const KEPT_ROOM: u64 = 4 << 20;

/// What a change of the index may take on the host, at the usual size of an entry, and what it needs in any case.
const INDEX_ROOM: (u64, u64) = (512, 16 << 20);

/// Changes that the index may hold in memory. An entry takes about 600 bytes there.
const PENDING: usize = 64 << 10;

/// Records after which the index is made durable: how many are read at the start after a kill, in about a second.
const DURABLE_AFTER: u64 = 250_000;

/// One replica of a fileset, open for changes.
pub struct Replica {
    fileset: Fileset,
    pub(crate) index: Index,
    pub(crate) log: Log,
    order: Mutex<Order>,
    /// Held by who receives records of another replica: one at a time.
    pub(crate) receiving: Mutex<()>,
    /// The mount that the tree is seen through.
    pub(crate) mount: u64,
    /// `None` where handles can't be followed, for want of rights or of a host file system that has them.
    pub(crate) volume: Option<Volume>,
    pub(crate) directories: Directories,
    pub(crate) opens: Opens,
    pub(crate) inodes: Inodes,
    pub(crate) attic: Attic,
    pub(crate) waiting: Waiting,
    pub(crate) demand: Demand,
    pub(crate) pins: Pins,
    pub(crate) evictions: Evictions,
    /// When nothing was found that could be evicted.
    pub(crate) nothing_to_evict: Mutex<Option<Instant>>,
    /// What users may have been told, and is not so any more.
    pub(crate) outdated: Outdated,
    /// The last record that the index has durably.
    durable: AtomicU64,
    broken: OnceLock<String>,
    trouble: Mutex<Trouble>,
    /// Up to where the records of the snapshot go that the log begins with; 0 where it begins with none.
    pub(crate) snapshot_end: AtomicU64,
    /// Who is told that the log has grown.
    pub(crate) listener: RwLock<Option<Listener>>,
    gate: RwLock<Option<Arc<Gate>>>,
    /// Whether what was in flight at the last use is in order.
    in_order: AtomicBool,
    _lock: Lock,
}

/// What is called when the log has grown.
pub(crate) type Listener = Box<dyn Fn() + Send + Sync>;

/// Why nothing can be changed just now, since the last change that was possible.
#[derive(Debug, Default)]
struct Trouble {
    now: Option<String>,
    /// What was told last: on a full host the same happens again and again.
    told: Option<String>,
}

/// The one place of order: who holds it may change things.
#[derive(Debug)]
pub(crate) struct Order {
    /// The last record that the index knows of.
    pub last: Recno,
    /// Nothing is changed any more.
    pub closed: bool,
    /// In whose name it is recorded what was done without being recorded.
    pub behalf: Caller,
}

/// What was found when a replica was opened.
#[derive(Debug)]
pub struct Start {
    /// How the log ended.
    pub tail: Tail,
    /// Records that the index did not know yet.
    pub replayed: u64,
    /// Whether the index had to be made anew.
    pub rebuilt: bool,
    /// How the last use ended.
    pub recovered: Recovered,
    /// Records of an undo that was cut off, and is done now.
    pub resumed: Option<u64>,
    /// Records of another replica that were cut off, and are here now.
    pub received: Option<u64>,
    /// The replica was another than it was, and has an id of its own now.
    pub new_id: Option<NewId>,
}

impl Start {
    /// What people should know, a line each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(NewId { why, before, now }) = self.new_id {
            let why = why.words();
            notes.push(format!("{why}: what replica {before} was goes on here as replica {now}, a new one"));
        }
        if let Tail::Torn { offset, bytes, cause, kept } = &self.tail {
            let kept = kept.display();
            notes.push(format!(
                "the log ended in a record that was not whole ({cause}): {bytes} bytes at {offset} were cut off and are kept in {kept}"
            ));
        }
        match self.recovered {
            Recovered::InOrder => {}
            Recovered::Killed { records } => {
                notes.push(format!(
                    "the daemon was killed: {records} records were made of what was in flight"
                ));
            }
            Recovered::PowerLost => notes
                .push("the machine lost power: what the tree lacked of the log was done again".to_owned()),
        }
        if let Some(records) = self.resumed {
            notes.push(format!("an undo of {records} records had been cut off, and is finished now"));
        }
        if let Some(records) = self.received {
            notes.push(format!("{records} records of another replica had been cut off, and are here now"));
        }
        if self.rebuilt && self.replayed > 0 {
            notes.push(format!("the index was made anew from {} records", self.replayed));
        }
        notes
    }
}

impl Replica {
    /// Makes `fileset`, which was just created, a replica with an empty log.
    pub fn create(fileset: Fileset) -> Result<Replica, Error> {
        let directory = fileset.own_path("kml");
        Log::create(&directory, fileset.config.id.0, fileset.config.replica, 1)?;
        Ok(Replica::open(fileset)?.0)
    }

    /// Opens a replica: takes the lock, reads the end of the log, and brings the index up to it.
    ///
    /// A replica that is another than it was, such as a copy, gets a new id before anything is recorded. It counts as what
    /// it was until all is done, so that a start that was cut short is made anew.
    pub fn open(mut fileset: Fileset) -> Result<(Replica, Start), Error> {
        let lock = fileset.lock()?;
        let (log, opened) = Log::open(&fileset.own_path("kml"))?;
        let (path, boot) = (fileset.own_path("lml"), boot_id()?);
        let facts = facts(&fileset, &log)?;
        let mut another = facts.judge();
        let is_elsewhere = another.is_some_and(Another::has_other_inodes);
        if is_elsewhere {
            forget_inodes(&fileset)?;
        }
        let mut in_flight = Lml::read(&path, fileset.config.replica, boot)?;
        if is_elsewhere {
            // The tree is as somebody put it there.
            in_flight = InFlight::Nothing;
        }
        let (index, rebuilt, knew_more) = open_index(&fileset, opened.last)?;
        if knew_more || in_flight.tells_of_more(opened.last) {
            another = another.or(Some(Another::Shorter));
        }
        let new_id = another.map(|why| take_new_id(&mut fileset, &log, why)).transpose()?;
        let volume = Volume::of(fileset.root()).ok().filter(|_| host::may_switch());
        let mount = host::stat(fileset.root())?.mount;
        let last = index.applied();
        let (inodes, known) = Inodes::open(&fileset.own_path("inodes"))?;
        let demand = Demand::open(fileset.own())?;
        let pins = Pins::open(fileset.own())?;
        let snapshot_end = crate::exchange::end_of(&log.reader()?)?;
        let (evictions, evicted) = Evictions::open(&fileset.own_path("evicted"))?;
        let begun = host_now();
        let attic = Attic::open(fileset.own(), fileset.config.attic.clone())?;
        let lml = Lml::begin(&path, fileset.config.replica, boot, &in_flight, begun)?;
        let in_flight = match in_flight {
            InFlight::PowerLost { since: None } => InFlight::PowerLost { since: Some(begun) },
            in_flight => in_flight,
        };
        let replica = Replica {
            fileset,
            index,
            log,
            order: Mutex::new(Order { last, closed: false, behalf: Caller::program() }),
            receiving: Mutex::new(()),
            mount,
            volume,
            directories: Directories::default(),
            opens: Opens::new(lml),
            inodes,
            attic,
            waiting: Waiting::default(),
            demand,
            pins,
            evictions,
            nothing_to_evict: Mutex::default(),
            outdated: Outdated::default(),
            durable: AtomicU64::new(last.0),
            broken: OnceLock::new(),
            trouble: Mutex::default(),
            snapshot_end: AtomicU64::new(snapshot_end.0),
            listener: RwLock::default(),
            gate: RwLock::default(),
            in_order: AtomicBool::new(false),
            _lock: lock,
        };
        let CaughtUp { records: replayed, mut made, received, changed_here } = replica.catch_up()?;
        let is_power_lost = matches!(in_flight, InFlight::PowerLost { .. });
        replica.remember(known, is_power_lost)?;
        replica.meet_root()?;
        // In the order of their records, so that directories come before what is in them. After a power loss the log is done
        // again before more is added to it, and another inode may stand where an object should be.
        if !is_power_lost {
            replica.adopt_all(&made, is_elsewhere)?;
            replica.settle_caught_up(&received)?;
            replica.find_lost(&changed_here)?;
            replica.settle_evicted(&evicted)?;
        }
        if facts.told.as_ref() != Some(&facts.here) || new_id.is_some() {
            replica.make_index_durable()?;
            facts.here.write(&replica.fileset)?;
        }
        if let Some(written) = body::written(&replica.fileset)? {
            replica.opens.lml().seal(written)?;
        }
        let (resumed, received, logged) = if is_power_lost {
            for object in received {
                replica.index.met(object, None, begun)?;
            }
            let logged = replica.log_received(&mut made, begun)?;
            (None, logged.as_ref().map(|logged| logged.records), logged)
        } else {
            let operation = match &in_flight {
                InFlight::Killed { operation, .. } => operation.as_ref(),
                _ => None,
            };
            (replica.resume_undo()?, replica.resume_receiving(operation)?, None)
        };
        let recovered = replica.recover(in_flight, &made, logged)?;
        let resumed = if is_power_lost { replica.resume_undo()? } else { resumed };
        replica.take_in_ranges(recovered == Recovered::PowerLost)?;
        if recovered != Recovered::InOrder || rebuilt {
            let lost = (recovered == Recovered::PowerLost).then(|| replica.last_time()).transpose()?;
            replica.take_in_attic(lost)?;
        }
        replica.tidy_partials()?;
        replica.in_order.store(true, Ordering::Relaxed);
        Ok((replica, Start { tail: opened.tail, replayed, rebuilt, recovered, resumed, received, new_id }))
    }

    /// The fileset.
    pub fn fileset(&self) -> &Fileset {
        &self.fileset
    }

    /// The index, for reading.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The number of the last record.
    pub fn last(&self) -> Recno {
        self.order.lock().last
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// How many files somebody may be writing to.
    pub fn open_for_writing(&self) -> usize {
        self.opens.written().len()
    }

    /// Whether anybody can write to a file without asking for it again.
    pub fn has_writers(&self) -> bool {
        !self.opens.written().is_empty() || !self.opens.lingering().is_empty()
    }

    /// Users' changes are to pass this gate from now on.
    pub fn set_gate(&self, gate: Option<Arc<Gate>>) {
        *self.gate.write() = gate;
    }

    /// The gate that users' changes have to pass.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.read().clone()
    }

    /// Why nothing is recorded any more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Why nothing can be changed just now, if so: there is no room for the log, or its host takes no writes.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().now.clone()
    }

    /// Makes all records durable, and tells up to which.
    pub fn sync_log(&self) -> Result<Recno, Error> {
        self.log.sync().map_err(|error| self.log_failed(error))
    }

    /// Where nobody knows any more what the log holds, nothing is changed from now on.
    fn log_failed(&self, error: LogError) -> Error {
        if self.log.has_failed() {
            self.break_with("could not write the log", &error);
        }
        error.into()
    }

    fn break_with(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.broken.set(error.to_string()).is_ok() {
            crate::say!("mezzo: {what}: {error}; nothing is changed any more");
        }
    }

    /// Records what was written to files that are open, and makes everything durable; tells up to which record.
    pub fn sync_all(&self) -> Result<Recno, Error> {
        self.record_unseen_writes(&Caller::program())?;
        host::sync_all(self.fileset.root())?;
        self.sync_log()
    }

    /// Records what was written to files that stay open.
    pub(crate) fn record_unseen_writes(&self, caller: &Caller) -> Result<(), Error> {
        for object in self.opens.written() {
            match self.record_while_open(caller, object) {
                Err(Error::Gone) => {}
                recorded => drop(recorded?),
            }
        }
        Ok(())
    }

    /// Writes to the index file what is due, or everything, durably, with `all`. Called from time to time.
    pub fn write_behind(&self, all: bool) -> Result<(), Error> {
        let since_durable = self.index.applied().0 - self.durable.load(Ordering::Relaxed);
        if !all && !self.has_room_for_index() {
            return Ok(());
        }
        if all || since_durable >= DURABLE_AFTER {
            return self.make_index_durable();
        }
        if self.index.pending() >= PENDING {
            self.index.write_behind(false)?;
        }
        Ok(())
    }

    /// An index file that meets a full host can't be read any more either, until it is opened anew. So what it lacks waits in
    /// memory, up to a bound.
    fn has_room_for_index(&self) -> bool {
        let pending = self.index.pending();
        let needed = pending as u64 * INDEX_ROOM.0 + INDEX_ROOM.1;
        pending >= 4 * PENDING
            || rustix::fs::fstatvfs(self.fileset.root())
                .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= needed)
    }

    fn make_index_durable(&self) -> Result<(), Error> {
        // In order, as what was received has its own ctimes only once it is settled.
        let order = self.order.lock();
        // What was noted before the layer is taken is in the layer.
        let (noted, evicted) = (self.inodes.noted(), self.evictions.noted());
        let applied = self.index.applied();
        self.index.write_behind_after(true, || {
            drop(order);
            // The index never knows of records that the log may lose.
            self.sync_log().map(drop)
        })?;
        self.durable.store(applied.0, Ordering::Relaxed);
        let _order = self.order.lock();
        self.evictions.forget(evicted)?;
        Ok(self.inodes.forget(noted)?)
    }

    /// When the last record was made: about when the power was lost, if it was.
    pub(crate) fn last_time(&self) -> Result<Time, Error> {
        let last = self.log.reader()?.backwards(Recno(u64::MAX)).next().transpose()?;
        Ok(last.map_or_else(now, |record| record.time))
    }

    /// Takes in which inodes objects have that the index on disk does not know yet: those of new objects, and of files that got
    /// data of before, which comes as another inode. After a power loss only what is there is believed.
    fn remember(&self, known: Vec<(ObjectId, HostId)>, is_power_lost: bool) -> Result<(), Error> {
        for (object, host) in known {
            let Some(entry) = self.index.entry(object)? else { continue };
            if entry.host.is_none() || !is_power_lost || self.stands(&entry, &host)? {
                self.index.met(object, Some(host), entry.host_ctime)?;
            }
        }
        Ok(())
    }

    /// Whether the inode stands at a place of the object.
    fn stands(&self, entry: &Entry, host: &HostId) -> Result<bool, Error> {
        for place in &entry.places {
            let Ok(directory) = self.directory(place.parent) else { continue };
            let found = self.stat_if_there(directory.as_fd(), &place.name)?;
            if found.is_some_and(|found| (found.inode, found.born) == (host.inode, host.born)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the order, for a change: nothing else changes until it is dropped, and there is room for the record.
    pub(crate) fn begin(&self) -> Result<MutexGuard<'_, Order>, Error> {
        self.begin_with(ROOM + KEPT_ROOM)
    }

    /// As [`Replica::begin`], for what gives room back or tells of what was done already: it finds room where others find none.
    pub(crate) fn begin_when_full(&self) -> Result<MutexGuard<'_, Order>, Error> {
        self.begin_with(ROOM)
    }

    fn begin_with(&self, room: u64) -> Result<MutexGuard<'_, Order>, Error> {
        if let Some(reason) = self.broken.get() {
            return Err(Error::Broken(reason.clone()));
        }
        let order = self.order.lock();
        if order.closed {
            return Err(Error::Closed);
        }
        self.ensure_room(room)?;
        Ok(order)
    }

    /// Makes sure that the next record will find room in the log, which the attic gives up for it.
    pub(crate) fn ensure_room(&self, bytes: u64) -> Result<(), Error> {
        let ensured =
            self.making_room(|| self.log.ensure_room(bytes).map_err(|error| self.log_failed(error)));
        ensured.inspect_err(|error| self.note_trouble(error))
    }

    /// Notes that a change was not possible, and not for what it was.
    pub(crate) fn note_trouble(&self, error: &Error) {
        let error = error.to_string();
        let mut trouble = self.trouble.lock();
        if trouble.told.as_ref() != Some(&error) {
            crate::say!("mezzo: nothing can be changed: {error}");
            trouble.told = Some(error.clone());
        }
        trouble.now = Some(error);
    }

    /// Makes sure that there is room for one more record of many that are made in one order.
    pub(crate) fn ensure_one_more(&self) -> Result<(), Error> {
        self.ensure_room(ROOM)
    }

    /// Makes sure that there is room for a record that tells all of an object, and that it can be written at all.
    pub(crate) fn ensure_told(&self, entry: &Entry) -> Result<(), Error> {
        let bytes: usize =
            entry.state.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 8).sum();
        if bytes + ROOM as usize > RECORD_BYTES {
            return Err(crate::error::refused(libc::E2BIG));
        }
        if bytes > 0 { self.ensure_room(bytes as u64 + ROOM) } else { Ok(()) }
    }

    /// Notes what is about to be done, so that it is found if no record comes to tell of it.
    pub(crate) fn intend(
        &self,
        order: &Order,
        caller: &Caller,
        object: Option<ObjectId>,
        places: &[(ObjectId, &Name)],
    ) -> Result<(), Error> {
        let operation = Operation {
            recno: order.last.next(),
            who: (*caller.who).clone(),
            object,
            places: places.iter().map(|(parent, name)| Place::new(*parent, (*name).clone())).collect(),
        };
        Ok(self.opens.lml().note(&operation)?)
    }

    /// The origin that the next record will have.
    pub(crate) fn next_origin(&self, order: &Order) -> Origin {
        Origin::new(self.fileset.config.replica, order.last.next())
    }

    /// Records what was done. Where that fails after the tree was changed, nothing is changed any more.
    pub(crate) fn commit(
        &self,
        order: &mut Order,
        caller: &Caller,
        change: Change,
        local: Local,
    ) -> Result<Recno, Error> {
        let mut record = record(&self.log, order.last, caller, change);
        let mapping = &self.fileset.ids.mapping;
        if *mapping != IdMapping::Same {
            record.who = mapping.agent(&record.who, self.owner_before(&record.change)?);
        }
        self.commit_record(order, &record, local)?;
        self.waiting.add(&record.change);
        if Arc::ptr_eq(&caller.who, &order.behalf.who) {
            self.outdated.add(&record.change);
        }
        Ok(record.recno)
    }

    /// Who may surely do it: owner and group of what is changed, or of the directory that loses or gets an entry; of something new,
    /// its own.
    fn owner_before(&self, change: &Change) -> Result<(u32, u32), Error> {
        let object = match change {
            Change::Make { state, .. } => return Ok((state.attributes.uid, state.attributes.gid)),
            Change::Link { place, .. } => place.parent,
            Change::Remove { place, .. } => place.parent,
            Change::Rename { from, .. } => from.parent,
            Change::Setattr { object, .. } | Change::Xattr { object, .. } | Change::Close { object, .. } => {
                *object
            }
            _ => ObjectId::ROOT,
        };
        let entry = self.index.entry(object)?;
        Ok(entry.map_or((0, 0), |entry| (entry.attributes().uid, entry.attributes().gid)))
    }

    /// As [`Replica::commit`], for a record that is made already.
    pub(crate) fn commit_record(
        &self,
        order: &mut Order,
        record: &Record,
        local: Local,
    ) -> Result<(), Error> {
        let written = self.log.append(record).map_err(Error::from);
        let applied = written.and_then(|()| Ok(self.index.apply(record, local)?));
        if let Err(error) = applied {
            self.break_with(&format!("could not record {}", record.change.kind()), &error);
            return Err(error);
        }
        self.trouble.lock().now = None;
        self.forget_directories(&record.change);
        order.last = record.recno;
        if let Some(listener) = &*self.listener.read() {
            listener();
        }
        Ok(())
    }

    /// Whether the user may do that, by what the log says; EACCES or EPERM where not.
    pub fn expect_right(&self, who: &Who, need: permission::Need<'_>) -> Result<(), Error> {
        match permission::lacks(who, need, &Indexed(&self.index))? {
            None => Ok(()),
            Some(denied) if ["search", "write"].contains(&denied.what) => {
                Err(crate::error::refused(libc::EACCES))
            }
            Some(_) => Err(crate::error::refused(libc::EPERM)),
        }
    }

    /// The entry of `object`; ESTALE where it is gone.
    pub fn entry(&self, object: ObjectId) -> Result<Arc<Entry>, Error> {
        self.index.entry(object)?.ok_or(Error::Gone)
    }

    /// A descriptor that reaches the directory `object`, for names below it.
    pub fn directory(&self, object: ObjectId) -> Result<Arc<OwnedFd>, Error> {
        if let Some(directory) = self.directories.get(object) {
            return Ok(directory);
        }
        let entry = self.entry(object)?;
        let directory = self.reach(&entry)?;
        self.directories.put(object, directory.clone());
        // Who does not hold the order may have come too late: the directory was removed meanwhile, and perhaps made again.
        if self.index.entry(object)?.is_none_or(|now| now.host != entry.host) {
            self.directories.forget(object);
        }
        Ok(directory)
    }

    /// Lets go of directories that are gone, or are another inode now. The index knows already, so that nobody finds what was
    /// before once more.
    fn forget_directories(&self, change: &Change) {
        let gone = match change {
            Change::Make { object, state, .. } if state.attributes.kind == Kind::Directory => *object,
            Change::Remove { removed, .. } if removed.state.attributes.kind == Kind::Directory => {
                removed.object
            }
            Change::Rename { displaced: Displaced::Replaced(removed), .. } => removed.object,
            Change::UndoOf { change, .. } => return self.forget_directories(change),
            _ => return,
        };
        self.directories.forget(gone);
    }

    /// A descriptor that reaches the object, whatever it is: to ask about it, or to open it through.
    pub fn reach(&self, entry: &Entry) -> Result<Arc<OwnedFd>, Error> {
        if let Some(open) = self.opens.reach(entry.object) {
            return Ok(open);
        }
        if entry.attributes().kind == Kind::Directory
            && let Some(directory) = self.directories.get(entry.object)
        {
            return Ok(directory);
        }
        Ok(Arc::new(self.reach_anew(entry)?))
    }

    fn reach_anew(&self, entry: &Entry) -> Result<OwnedFd, Error> {
        if entry.object == ObjectId::ROOT {
            return Ok(host::reopen(self.fileset.root(), OFlags::PATH | OFlags::DIRECTORY)?);
        }
        match (&self.volume, &entry.host) {
            (Some(volume), Some(host)) => match volume.reach(&host.handle) {
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => self.reach_by_path(entry),
                reached => Ok(reached?),
            },
            _ => self.reach_by_path(entry),
        }
    }

    /// Opens the object's data with `flags`, whatever its permissions: the caller has been judged.
    pub fn open_data(&self, object: ObjectId, flags: OFlags) -> Result<OwnedFd, Error> {
        let entry = self.entry(object)?;
        let reach = self.reach(&entry)?;
        Ok(host::reopen(reach.as_fd(), flags)?)
    }

    /// Opens a file for reading, whatever its permissions, and asks about it.
    pub fn open_to_read(&self, object: ObjectId) -> Result<(OwnedFd, host::Stat), Error> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let entry = self.entry(object)?;
        let opened = match (self.opens.reach(object), &self.volume, &entry.host) {
            (None, Some(volume), Some(host)) => volume.open(&host.handle, flags).ok(),
            _ => None,
        };
        let file = match opened {
            Some(file) => file,
            None => host::reopen(self.reach(&entry)?.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)?,
        };
        let stat = host::stat(file.as_fd())?;
        Ok((file, stat))
    }

    fn reach_by_path(&self, entry: &Entry) -> Result<OwnedFd, Error> {
        if entry.places.is_empty() {
            return Err(Error::Gone);
        }
        let path = self.index.path(entry.object)?;
        Ok(self.open_beneath(&path)?)
    }

    fn open_beneath(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(self.fileset.root(), path, flags, Mode::empty(), below)?)
    }

    fn meet_root(&self) -> Result<(), Error> {
        let root = self.fileset.root();
        let stat = host::stat(root)?;
        let handle = host::Handle::of(root)?;
        let id = host::HostId { inode: stat.inode, born: stat.born, handle };
        let entry = self.entry(ObjectId::ROOT)?;
        self.index.met(ObjectId::ROOT, Some(id), entry.host_ctime)?;
        // The directory may have been renamed, which moved its ctime and is no change of what is in it.
        self.settle_copied(&entry, root, &stat)
    }

    /// Brings the index up to the end of the log.
    fn catch_up(&self) -> Result<CaughtUp, Error> {
        let mut order = self.order.lock();
        let mut caught_up = CaughtUp::default();
        for record in self.log.reader()?.from(order.last.next()) {
            let record = record?;
            self.index.apply(&record, Local::default())?;
            if let Change::Make { object, state, .. } = innermost(&record.change) {
                caught_up.made.push(Unmet { object: *object, made: state.attributes.ctime });
            }
            let is_own = record.origin.recno == record.recno && record.origin.replica == self.log.replica();
            let told = touched_by(&record.change);
            for object in told.iter().filter(|_| is_own) {
                let was_received = caught_up.received.remove(object);
                caught_up.changed_here.extend(was_received.then_some(*object));
            }
            if !is_own || matches!(record.change, Change::UndoOf { .. }) {
                let moved = self.moved_by(&record.change)?.into_iter();
                caught_up.received.extend(moved.filter(|object| !is_own || !told.contains(object)));
            }
            order.last = record.recno;
            caught_up.records += 1;
            if self.index.pending() >= PENDING {
                self.index.write_behind(false)?;
            }
        }
        Ok(caught_up)
    }
}

/// What the index did not know of the log.
#[derive(Default)]
struct CaughtUp {
    records: u64,
    /// Objects that the records made.
    made: Vec<Unmet>,
    /// Objects whose ctimes on the host the record that touched them last does not tell: it is another replica's, or took back data,
    /// which moves directories.
    received: HashSet<ObjectId>,
    /// Objects that were touched here after that.
    changed_here: HashSet<ObjectId>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.close();
    }
}

impl Replica {
    /// Ends the use: everything is put on disk, and noted to have ended in order. Nothing may be changed afterwards. Called
    /// by itself when the last one lets go, which in a process that ends with threads running may be never.
    pub fn close(&self) {
        let mut order = self.order.lock();
        if std::mem::replace(&mut order.closed, true) {
            return;
        }
        drop(order);
        let synced = host::sync_all(self.fileset.root()).map_err(Error::Host);
        if synced.is_ok() {
            self.all_is_durable();
        }
        let written = synced.and_then(|()| self.write_behind(true));
        if let Err(error) = &written {
            crate::say!("mezzo: could not write the index: {error}; it will be made up from the log");
        }
        // What is not in order is looked at again at the next start.
        let in_order = self.in_order.load(Ordering::Relaxed)
            && written.is_ok()
            && self.broken.get().is_none()
            && self.opens.written().is_empty();
        if self.is_host_full() {
            // The room that was kept must be there for whoever removes things first.
            self.log.keep_room();
        }
        if in_order && let Err(error) = self.opens.lml().end() {
            crate::say!("mezzo: could not note that the fileset was closed in order: {error}");
        }
    }
}

/// What there is to know of whether the replica is what it was.
fn facts(fileset: &Fileset, log: &Log) -> Result<Facts, Error> {
    Ok(Facts {
        told: Body::read(fileset)?,
        here: Body::here(fileset.own())?,
        sealed: Lml::is_sealed(&fileset.own_path("lml"), body::written(fileset)?)?,
        is_config_s: log.replica() == fileset.config.replica,
        has_twin: fileset.has_twin,
    })
}

/// What is known of inodes is of others.
fn forget_inodes(fileset: &Fileset) -> Result<(), Error> {
    for name in ["index", "inodes"] {
        match std::fs::remove_file(fileset.own_path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(rustix::fs::fsync(fileset.own())?)
}

/// The index, whether it was made anew, and whether that is because it knew of records that the log has lost.
fn open_index(fileset: &Fileset, last: Recno) -> Result<(Index, bool, bool), Error> {
    let path = fileset.own_path("index");
    let existed = path.exists();
    let index = Index::open(&path)?;
    if index.applied() <= last {
        return Ok((index, !existed, false));
    }
    drop(index);
    std::fs::remove_file(&path)?;
    Ok((Index::open(&path)?, true, true))
}

/// The record that follows record `last`.
pub(crate) fn record(log: &Log, last: Recno, caller: &Caller, change: Change) -> Record {
    let origin = Origin::new(log.replica(), last.next());
    let (recno, epoch) = (origin.recno, log.epoch());
    Record { recno, previous: last, epoch, origin, time: now(), who: (*caller.who).clone(), change }
}
