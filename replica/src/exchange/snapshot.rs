//! A tree as it was at a record, as records that make it: what a new replica takes instead of all that happened before.
//!
//! It is made of the index file as it stood at one moment, while others go on writing, and kept in a file in `.mezzo/snapshots`
//! until nobody can be expected to want the rest of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mezzo_core::codec::{HEAD_BYTES, Head, encode};
use mezzo_core::name::join;
use mezzo_core::session::BATCH_BYTES;
use mezzo_core::session::message::{self, Position};
use mezzo_core::time::Step;
use mezzo_core::tree::Tree;
use mezzo_core::{Change, ObjectId, Origin, Place, Recno, Record, Who};

use crate::Error;
use crate::host::now;
use crate::index::{Entry, View};
use crate::log::Reader;
use crate::perform::times;
use crate::replica::Replica;

const DIRECTORY: &str = "snapshots";

/// How long a snapshot is kept after somebody took a piece of it.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Names below which a log is sent as it is, however long.
const SMALL: u64 = 1000;

/// A snapshot in a file, which is read from its beginning.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    /// The record that it is of.
    pub at: Recno,
    /// Records of it that were read, and where the next one begins.
    read: (u64, u64),
    /// How many it has, with the first, which says what it is.
    records: u64,
}

impl Replica {
    /// The records that make the tree which this log begins with, up to their last one; 0 where it begins with nothing.
    pub fn snapshot_end(&self) -> Recno {
        Recno(self.snapshot_end.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Whether a snapshot was begun to be taken, and is not here as a whole.
    pub fn is_partial(&self) -> bool {
        self.log.last() < self.snapshot_end()
    }

    /// What a snapshot that is here in part is of, and how many of its records are here.
    pub fn partial_snapshot(&self) -> Result<Option<(Position, u64)>, Error> {
        if !self.is_partial() {
            return Ok(None);
        }
        let first = self.log.reader()?.get(Recno(1))?;
        let Some(Change::Snapshot { of, at, .. }) = first.map(|record| record.change) else {
            return Ok(None);
        };
        Ok(Some((Position::new(of, at), self.log.last().0)))
    }

    /// Whether a new replica is better off with a snapshot than with all records.
    pub fn offers_snapshot(&self) -> bool {
        let objects = self.index.objects();
        self.log.last().0 > 2 * objects + SMALL
    }

    /// The snapshot of record `wanted`, if it is kept; else a new one.
    pub fn snapshot(&self, wanted: Option<Recno>) -> Result<Snapshot, Error> {
        let directory = self.fileset().own_path(DIRECTORY);
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let kept = kept(&directory)?;
        let now = SystemTime::now();
        for (at, path, used) in &kept {
            let is_old = now.duration_since(*used).is_ok_and(|age| age > KEPT_FOR);
            if is_old && Some(*at) != wanted {
                std::fs::remove_file(path)?;
            }
        }
        let usual = || kept.iter().filter(|(at, ..)| self.is_recent(*at)).max_by_key(|(at, ..)| *at);
        let found = match wanted {
            Some(wanted) => kept.iter().find(|(at, ..)| *at == wanted),
            None => usual(),
        };
        if let Some((at, path, _)) = found {
            return Snapshot::open(path, *at);
        }
        let view = self.durable_view()?;
        let at = view.applied();
        let path = directory.join(at.0.to_string());
        let unfinished = directory.join("unfinished");
        write(self, &view, BufWriter::new(File::create(&unfinished)?))?.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        Snapshot::open(&path, at)
    }

    /// What came after it is less than what it stands for.
    fn is_recent(&self, at: Recno) -> bool {
        self.log.last().0 - at.0 < self.index.objects()
    }

    /// The index as its file has it from now on.
    fn durable_view(&self) -> Result<View, Error> {
        // The log is never behind the index.
        self.write_behind(true)?;
        Ok(self.index.view()?)
    }
}

impl Snapshot {
    fn open(path: &std::path::Path, at: Recno) -> Result<Snapshot, Error> {
        let file = File::open(path)?;
        // By when it was used it is told how long it is kept.
        file.set_modified(SystemTime::now())?;
        let mut snapshot = Snapshot { file, at, read: (0, 0), records: 0 };
        let first = snapshot.frame(0)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let records = super::records_of(&first).map_err(io::Error::other)?;
        let Some(Change::Snapshot { records, .. }) = records.first().map(|record| &record.change) else {
            return Err(io::Error::other("a snapshot does not begin as one").into());
        };
        snapshot.records = records + 1;
        Ok(snapshot)
    }

    /// The piece that follows record `after` of it.
    pub fn piece(&mut self, after: u64) -> Result<message::Snapshot, Error> {
        if after < self.read.0 {
            self.read = (0, 0);
        }
        while self.read.0 < after && self.pass()?.is_some() {}
        let mut frames = Vec::new();
        while frames.len() < BATCH_BYTES
            && let Some(frame) = self.frame(self.read.1)?
        {
            frames.extend_from_slice(&frame);
            self.read = (self.read.0 + 1, self.read.1 + frame.len() as u64);
        }
        if frames.is_empty() && after < self.records {
            return Err(io::Error::other(format!("the snapshot of record {} ends early", self.at)).into());
        }
        Ok(message::Snapshot {
            at: self.at.0,
            after,
            upto: self.read.0,
            frames,
            is_last: self.read.0 == self.records,
            records: self.records,
        })
    }

    /// Goes on behind the next frame.
    fn pass(&mut self) -> Result<Option<()>, Error> {
        let Some(head) = self.head(self.read.1)? else { return Ok(None) };
        self.read = (self.read.0 + 1, self.read.1 + head.length as u64);
        Ok(Some(()))
    }

    fn head(&self, at: u64) -> Result<Option<Head>, Error> {
        let mut bytes = [0; HEAD_BYTES];
        match self.file.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Some(Head::read(&bytes).map_err(io::Error::other)?))
    }

    fn frame(&self, at: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(head) = self.head(at)? else { return Ok(None) };
        let mut bytes = vec![0; head.length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Some(bytes))
    }
}

/// Snapshots that are kept: what they are of, where, and when they were used last.
fn kept(directory: &std::path::Path) -> io::Result<Vec<(Recno, PathBuf, SystemTime)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number {
            found.push((Recno(number), entry.path(), entry.metadata()?.modified()?));
        }
    }
    Ok(found)
}

/// Up to where the records of the snapshot go that a log begins with.
pub(crate) fn end_of(reader: &Reader) -> Result<Recno, Error> {
    let first = reader.get(Recno(1))?;
    Ok(match first.map(|record| record.change) {
        Some(Change::Snapshot { records, .. }) => Recno(records.saturating_add(1)),
        _ => Recno::NONE,
    })
}

struct Writer {
    to: BufWriter<File>,
    last: Recno,
    bytes: Vec<u8>,
}

impl Writer {
    fn put(&mut self, origin: Origin, change: Change) -> Result<(), Error> {
        let record = Record {
            recno: self.last.next(),
            previous: self.last,
            epoch: 1,
            origin,
            time: now(),
            who: Who::default(),
            change,
        };
        self.last = record.recno;
        self.bytes.clear();
        encode(&record, &mut self.bytes).map_err(io::Error::other)?;
        Ok(self.to.write_all(&self.bytes)?)
    }
}

/// Writes the tree, each directory before what is in it.
fn write(replica: &Replica, view: &View, to: BufWriter<File>) -> Result<File, Error> {
    let root = view.entry(ObjectId::ROOT)?.ok_or(Error::Gone)?;
    let (of, at) = (replica.log.replica(), view.applied());
    let heads = view.heads();
    let records = view.names()? + 1 + root.state.xattrs.len() as u64;
    let mut writer = Writer { to, last: Recno::NONE, bytes: Vec::new() };
    let first = Origin::new(of, at);
    writer.put(first, Change::Snapshot { of, at, records, heads: heads.into() })?;
    writer.root(&root, first)?;
    let mut linked = HashMap::new();
    let mut directories = vec![(root, Vec::new())];
    while let Some((directory, path)) = directories.pop() {
        let mut children = Vec::new();
        view.children(directory.object, |name, object| children.push((name, object)))?;
        for (name, object) in children {
            let entry = view.entry(object)?.ok_or(Error::Gone)?;
            let path = join(&path, name.as_bytes());
            let place = Place::new(directory.object, name);
            writer.name(&directory, &entry, (place, &path), &mut linked)?;
            if entry.is_directory() {
                directories.push((entry, path));
            }
        }
    }
    if writer.last.0 != records + 1 {
        let why = format!("{} records were written of {}", writer.last, records + 1);
        return Err(io::Error::other(why).into());
    }
    Ok(writer.to.into_inner().map_err(|error| error.into_error())?)
}

impl Writer {
    fn root(&mut self, root: &Entry, origin: Origin) -> Result<(), Error> {
        let fresh = Tree::new().root().state().attributes;
        let attributes = Step::new(fresh, *root.attributes());
        let object = ObjectId::ROOT;
        self.put(origin, Change::Setattr { object, path: Box::default(), attributes, data: None })?;
        for xattr in &root.state.xattrs {
            self.put(
                origin,
                Change::Xattr {
                    object,
                    path: Box::default(),
                    name: xattr.name.clone(),
                    value: Step::new(None, Some(xattr.value.clone())),
                    attributes: Step::new(*root.attributes(), *root.attributes()),
                },
            )?;
        }
        Ok(())
    }

    /// One name: of an object that has none yet, or one more.
    fn name(
        &mut self,
        directory: &Entry,
        entry: &Entry,
        (place, path): (Place, &[u8]),
        linked: &mut HashMap<ObjectId, u32>,
    ) -> Result<(), Error> {
        let parent = Step::new(times(directory.attributes()), times(directory.attributes()));
        let path = path.into();
        let object = entry.object;
        let is_linked = !entry.is_directory() && entry.places.len() > 1;
        let before = if is_linked { linked.get(&object).copied().unwrap_or(0) } else { 0 };
        if is_linked {
            linked.insert(object, before + 1);
        }
        let mut state = entry.state.clone();
        if is_linked {
            state.attributes.links = before + 1;
        }
        if before == 0 {
            return self.put(object.0, Change::Make { object, place, path, state, parent });
        }
        let after = state.attributes;
        let attributes = Step::new(mezzo_core::Attributes { links: before, ..after }, after);
        self.put(object.0, Change::Link { object, place, path, attributes, parent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_no_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["7", "unfinished", "12", "x1"] {
            File::create(directory.path().join(name)).unwrap();
        }
        let mut found: Vec<u64> = kept(directory.path()).unwrap().into_iter().map(|(at, ..)| at.0).collect();
        found.sort_unstable();
        assert_eq!(found, [7, 12]);
    }
}
