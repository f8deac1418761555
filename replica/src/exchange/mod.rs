//! What a session asks of a replica: what it has, records that another has not, their data, and another's records to be done.

mod snapshot;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mezzo_core::codec::{Frame, encode};
use mezzo_core::reintegrate::Class;
use mezzo_core::session::message::{Inline, Records, Refused};
use mezzo_core::session::{BATCH_BYTES, BATCH_RECORDS, Batch, Facts, INLINE_BYTES, Outcome, Stop};
use mezzo_core::{Change, DataVersion, ObjectId, Origin, Recno, Record, ReplicaId};
use rustix::fs::MemfdFlags;

use crate::Error;
use crate::log::Reader;
use crate::receive::{DataSource, How, OnData, Sought, Stop as Stopped, Taken, Why, data_of, with_few_large};
use crate::replica::Replica;
use crate::undo::Audience;
use crate::versions::{self, Had, Source};

pub use snapshot::Snapshot;
pub(crate) use snapshot::end_of;

/// Objects that are looked at in one go.
const LOOKED_AT: usize = 1024;

/// Files of a batch up to which each is synced by itself, and beyond which all of the host's file system is.
const SYNCED_ALONE: usize = 8;

/// Which records another replica has, as far as it is known: of each replica the newest, by origin.
#[derive(Clone, Debug, Default)]
pub struct Known {
    heads: HashMap<ReplicaId, Recno>,
}

impl Known {
    /// Another replica that has these.
    pub fn new(heads: impl IntoIterator<Item = (ReplicaId, Recno)>) -> Known {
        Known { heads: heads.into_iter().collect() }
    }

    /// The other has this record.
    pub fn add(&mut self, origin: Origin) {
        let head = self.heads.entry(origin.replica).or_default();
        *head = (*head).max(origin.recno);
    }

    /// Whether the other has it.
    pub fn has(&self, origin: Origin) -> bool {
        self.heads.get(&origin.replica).is_some_and(|head| origin.recno <= *head)
    }
}

impl Replica {
    /// Has `listener` called after each record that is added to the log, in the order: it may only wake somebody. One at a time.
    pub fn on_commit(&self, listener: Option<Box<dyn Fn() + Send + Sync>>) {
        *self.listener.write() = listener;
    }

    /// What a session begins with.
    pub fn facts(&self) -> Result<Facts, Error> {
        let last = self.sync_log()?;
        let segments = self.log.reader()?.replicas()?;
        let mut ids = Vec::with_capacity(segments.len());
        for (at, (replica, _)) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(last, |(_, first)| Recno(first.0.saturating_sub(1)));
            ids.push((*replica, end));
        }
        let heard = self.index().all_heard();
        let received = heard.iter().filter(|(.., received)| received.0 > 0);
        Ok(Facts {
            fileset: self.fileset().config.id.0,
            ids,
            last,
            received: received.map(|(replica, _, received)| (*replica, *received)).collect(),
            heads: heard.iter().map(|(replica, made, _)| (*replica, *made)).collect(),
            snapshot: Recno::NONE,
            host: host_name(),
        })
    }

    /// Files that are without their bytes, up to `most` of them behind `after`.
    pub fn without_bytes(&self, after: Option<ObjectId>, most: usize) -> Result<Vec<ObjectId>, Error> {
        let (mut found, mut after) = (Vec::new(), after);
        let totals = self.index().data();
        while found.len() < most && totals.lost_files + totals.absent_files > 0 {
            let entries = self.index().objects_after(after, LOOKED_AT)?;
            let lacking = entries.iter().filter(|entry| entry.lost).map(|entry| entry.object);
            found.extend(lacking);
            match entries.last() {
                Some(last) if entries.len() == LOOKED_AT => after = Some(last.object),
                _ => break,
            }
        }
        found.truncate(most);
        Ok(found)
    }

    /// A reader of the log, for [`Replica::outgoing`].
    pub fn log_reader(&self) -> Result<Reader, Error> {
        Ok(self.log.reader()?)
    }

    /// Records after `after` and up to `upto` that `known` has not, up to the bounds of a batch, with small data of them.
    pub fn outgoing(
        &self,
        reader: &Reader,
        (after, upto): (Recno, Recno),
        known: &mut Known,
    ) -> Result<Batch, Error> {
        // What the log begins with is another's.
        let after = after.max(self.snapshot_end().min(upto));
        let mut batch = Batch { upto: after, ..Batch::default() };
        let (mut count, mut is_whole) = (0, true);
        let (mut files, mut written) = (HashMap::new(), HashSet::new());
        for record in reader.from(after.next()) {
            let record = record?;
            if record.recno > upto {
                break;
            }
            if count == BATCH_RECORDS {
                is_whole = false;
                break;
            }
            if !is_sent(&record) || known.has(record.origin) {
                batch.upto = record.recno;
                continue;
            }
            let before = batch.frames.len();
            encode(&record, &mut batch.frames).map_err(|error| Error::Host(io::Error::other(error)))?;
            if count > 0 && batch.frames.len() > BATCH_BYTES {
                batch.frames.truncate(before);
                is_whole = false;
                break;
            }
            count += 1;
            batch.upto = record.recno;
            known.add(record.origin);
            if let Some((object, ..)) = data_of(&record.change)
                && record.origin.replica == self.log.replica()
            {
                written.insert(object);
            }
            if let Some((object, data, told)) = data_of(&record.change)
                && (1..=INLINE_BYTES).contains(&told.size)
            {
                // What is overtaken by a later version of the same batch need not be sent.
                files.insert(object, (data.version, told.size));
            }
        }
        self.make_data_durable(&written)?;
        let mut bytes = batch.frames.len();
        for (object, (version, size)) in files {
            if bytes + size as usize > 2 * BATCH_BYTES {
                break;
            }
            if let Ok(data) = self.read_version(object, version, size)? {
                bytes += data.len();
                let DataVersion(origin) = version;
                batch.data.push(Inline { replica: origin.replica.0, recno: origin.recno.0, bytes: data });
            }
        }
        if is_whole {
            // Numbers that no record has are looked at as well.
            batch.upto = upto;
        }
        Ok(batch)
    }

    /// Makes the bytes of files durable that are about to be told of: a record that others have is not taken back by a power loss here.
    fn make_data_durable(&self, files: &HashSet<ObjectId>) -> Result<(), Error> {
        if files.len() > SYNCED_ALONE {
            return Ok(crate::host::sync_all(self.fileset().root())?);
        }
        for object in files {
            match self.open_to_read(*object) {
                Ok((file, _)) => rustix::fs::fdatasync(&file)?,
                // What is gone has no bytes to lose.
                Err(error) if matches!(error.errno(), libc::ESTALE | libc::ENOENT | libc::ENODATA) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All bytes of a version of a file's data, where this replica has them.
    pub fn read_version(
        &self,
        object: ObjectId,
        version: DataVersion,
        size: u64,
    ) -> Result<Had<Vec<u8>>, Error> {
        Ok(versions::read(self.index(), (object, version), size, &self.own_data()?)?)
    }

    /// A file of a version of a file's data that nobody changes, where this replica has it: a copy without a name, which shares
    /// its blocks where the host can.
    pub fn open_version(
        &self,
        object: ObjectId,
        version: DataVersion,
        size: u64,
    ) -> Result<Had<OwnedFd>, Error> {
        let copy = self.attic.nameless()?;
        let had = versions::copy(self.index(), (object, version), size, &self.own_data()?, copy.as_fd())?;
        Ok(had.map(|()| copy))
    }

    /// The file that has all of a version of a file's data and nothing else; `None` where several have parts of it.
    pub(crate) fn open_data_of(
        &self,
        object: ObjectId,
        version: DataVersion,
    ) -> Result<Had<Option<OwnedFd>>, Error> {
        Ok(versions::open(self.index(), object, version, &self.own_data()?)?)
    }

    /// Whether the attic has the version, which it does before anybody writes to the file that has it.
    pub(crate) fn has_in_attic(&self, version: DataVersion) -> bool {
        self.attic.has(version)
    }

    fn own_data(&self) -> Result<Source, Error> {
        let root = self.fileset().root().try_clone_to_owned()?;
        Ok(Source { root: Some(root), attic: Some(self.fileset().own_path("attic")) })
    }

    /// Does the records of another replica's log, each once, up to the first that can't be done. `is_allowed` says of each
    /// whether that replica may send it.
    pub fn incoming(
        &self,
        peer: ReplicaId,
        records: &Records,
        (data, judge): (OnData<'_>, bool),
        is_allowed: &dyn Fn(&Record) -> Result<(), Refused>,
        audience: &dyn Audience,
    ) -> Outcome {
        let parsed = match records_of(&records.frames) {
            Ok(parsed) => parsed,
            Err(cause) => return stopped(records.after + 1, "damage", cause),
        };
        // Those before the one that is refused are done: it is refused as soon as it comes.
        let allowed = parsed.iter().position(|record| is_allowed(record).is_err()).unwrap_or(parsed.len());
        let mut taken = Taken::default();
        for part in with_few_large(&parsed[..allowed]) {
            // While large data is on its way, the records of others are received.
            let ahead =
                if let OnData::Bring(source) = data { self.bring_ahead(part, source) } else { Ok(()) };
            match ahead.and_then(|()| self.receive(part, How { data, judge }, audience)) {
                Ok(done) => taken = done,
                Err(error) => return Outcome::Failed(error.to_string()),
            }
            if taken.stopped.is_some() {
                break;
            }
        }
        if let Taken { stopped: Some(stop), .. } = taken {
            self.index().note_received(peer, Recno(stop.record.recno.0.saturating_sub(1)));
            return match stop.why {
                Why::Resource(error) => Outcome::Later(error.to_string()),
                _ => Outcome::Stopped(told(*stop)),
            };
        }
        if let Some(record) = parsed.get(allowed)
            && let Err(refused) = is_allowed(record)
        {
            self.index().note_received(peer, Recno(record.recno.0.saturating_sub(1)));
            return Outcome::Stopped(Stop { refused: Refused { recno: record.recno.0, ..refused } });
        }
        self.index().note_received(peer, Recno(records.upto));
        Outcome::Done
    }
}

/// Data that came along with records; what is not among it is had elsewhere.
pub struct Along<'a> {
    inline: HashMap<DataVersion, &'a [u8]>,
    rest: &'a dyn DataSource,
}

impl<'a> Along<'a> {
    /// What came with `records`, before `rest`.
    pub fn new(records: &'a Records, rest: &'a dyn DataSource) -> Along<'a> {
        let inline = records.data.iter().map(|data| {
            let origin = Origin::new(ReplicaId(data.replica), Recno(data.recno));
            (DataVersion(origin), &*data.bytes)
        });
        Along { inline: inline.collect(), rest }
    }
}

impl DataSource for Along<'_> {
    fn bring(&self, sought: &Sought<'_>) -> io::Result<bool> {
        match self.inline.get(&sought.version) {
            Some(bytes) if bytes.len() as u64 == sought.size => {
                let mut at = 0;
                while at < bytes.len() {
                    at += rustix::io::pwrite(sought.to, &bytes[at..], at as u64)?;
                }
                Ok(true)
            }
            _ => self.rest.bring(sought),
        }
    }

    fn is_at_hand(&self, version: DataVersion) -> bool {
        self.inline.contains_key(&version) || self.rest.is_at_hand(version)
    }
}

/// No data is to be had.
impl DataSource for () {
    fn bring(&self, _: &Sought<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn is_at_hand(&self, _: DataVersion) -> bool {
        true
    }
}

/// The records of frames that stand one behind the other.
pub fn records_of(frames: &[u8]) -> Result<Vec<Record>, String> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < frames.len() {
        let frame = Frame::read(&frames[at..], at as u64).map_err(|error| error.to_string())?;
        at += frame.head.length;
        let record = frame.record().map_err(|error| error.to_string())?;
        if records.last().is_some_and(|last: &Record| last.recno >= record.recno) {
            return Err(format!("record {} is not behind the one before it", record.recno));
        }
        records.push(record);
    }
    Ok(records)
}

/// A log's own affairs are not sent.
pub(crate) fn is_sent(record: &Record) -> bool {
    !matches!(
        record.change,
        Change::Disable { .. }
            | Change::Amend { .. }
            | Change::Alias { .. }
            | Change::Epoch { .. }
            | Change::Snapshot { .. }
            | Change::Noop
    )
}

fn stopped(recno: u64, answer: &str, message: String) -> Outcome {
    Outcome::Stopped(Stop {
        refused: Refused { recno, answer: answer.to_owned(), message, ..Refused::default() },
    })
}

fn told(stop: Stopped) -> Stop {
    let Stopped { record, path, why } = stop;
    let message = format!("{} {}: {why}", record.change.kind(), mezzo_core::name::escape(&path));
    let (answer, class) = match &why {
        Why::Conflict(conflict) if conflict.class == Class::Permission => {
            ("permission", conflict.class.word())
        }
        Why::Conflict(conflict) => ("conflict", conflict.class.word()),
        Why::Damaged(_) => ("damage", ""),
        Why::Resource(_) => ("resource", ""),
    };
    Stop {
        refused: Refused {
            recno: record.recno.0,
            answer: answer.to_owned(),
            class: class.to_owned(),
            path,
            message,
        },
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A file in memory: what is small is put together there.
pub fn in_memory() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("data", MemfdFlags::CLOEXEC)?)
}
