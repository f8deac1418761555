//! Changes behind the mount while it is mounted: the host tells of everything on its file system, and what is ours is taken
//! in as at a first touch.
//!
//! An event says where to look, and never what to record: that is decided by what the host has and the index says when it is
//! looked at. So it does no harm that an event is old, comes twice, or is about a change that users made through the mount.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use mezzo_core::{Kind, Name, ObjectId};

use crate::Error;
use crate::fileset::OWN;
use crate::host::{self, At, Event, Fanotify, Handle, Queue, events};
use crate::index::Entry;
use crate::meet::Met;
use crate::replica::Replica;
use crate::take_in::is_gone;

/// Bytes that are read at once: about two thousand events.
const AT_ONCE: usize = 256 << 10;

/// The host's events on the file system that the tree is on.
#[derive(Debug)]
pub struct Watch {
    events: Fanotify,
    buffer: Box<[u8]>,
    /// This process, whose changes are recorded as they are made.
    own: i32,
}

/// What came of looking at the events that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Events, with those that this process caused.
    pub all: u64,
    /// Events that others than this process caused, on the whole file system.
    pub events: u64,
    /// Records that were made meanwhile of what was taken in.
    pub records: u64,
    /// Events were lost: the whole tree is to be compared.
    pub missed: bool,
}

/// Where to look, as some events together tell.
#[derive(Default)]
struct Batch {
    /// In the order of the events.
    names: Vec<(ObjectId, Name)>,
    known: HashSet<(ObjectId, Name)>,
    directories: HashSet<ObjectId>,
    /// With a name that each may have.
    objects: HashMap<Handle, Option<(ObjectId, Name)>>,
    /// The directory that was looked up last: events come in runs.
    last: Option<(Handle, Option<ObjectId>)>,
}

/// How a name looks before it is met. An object that went from name to name is known again where it came to, if it is met
/// there before it is missed where it was: so names are met in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Appearance {
    /// The index has nothing there.
    Came,
    /// Host and index have something there, perhaps not the same.
    IsThere,
    /// The host has nothing there.
    Gone,
}

impl Replica {
    /// Begins to watch the host's file system. What was changed before is found by [`Replica::take_in`], which is to begin
    /// afterwards.
    pub fn watch(&self, queue: Queue) -> io::Result<Watch> {
        Ok(Watch {
            events: Fanotify::watch(self.fileset().root(), queue)?,
            buffer: vec![0; AT_ONCE].into(),
            own: std::process::id() as i32,
        })
    }

    /// Looks at what the events that came since the last call are about, and takes in what was changed behind the mount.
    /// `go_on` is asked now and then, where there is much below a directory that was moved in.
    ///
    /// Fails when the events can't be read, and when nothing can be recorded any more.
    pub fn take_in_watched(
        &self,
        watch: &mut Watch,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Noticed, Error> {
        let mut noticed = Noticed::default();
        loop {
            let length = watch.events.read(&mut watch.buffer)?;
            if length == 0 {
                return Ok(noticed);
            }
            let batch = self.gather(&watch.buffer[..length], watch.own, &mut noticed)?;
            let first = self.last();
            self.look_at_batch(batch, go_on)?;
            noticed.records += self.last().0 - first.0;
        }
    }

    /// What is outdated of what users were told, since the last call: they are to be told anew, by who does not hold the
    /// order.
    pub fn outdated(&self) -> crate::Told {
        self.outdated.take()
    }

    fn gather(&self, bytes: &[u8], own: i32, noticed: &mut Noticed) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for event in events(bytes) {
            let event = event.map_err(io::Error::other)?;
            noticed.all += 1;
            if event.is_overflow() {
                noticed.missed = true;
            } else if event.pid != own {
                noticed.events += 1;
                self.add_to(&mut batch, &event)?;
            }
        }
        Ok(batch)
    }

    fn add_to(&self, batch: &mut Batch, event: &Event<'_>) -> Result<(), Error> {
        let about = event.about().map_err(io::Error::other)?;
        if event.is_of_names() {
            for at in about.at.iter().chain(&about.from) {
                self.add_name(batch, at)?;
            }
        }
        if event.is_of_object() {
            let place = about.at.as_ref().map(|at| self.place_of(batch, at)).transpose()?.flatten();
            if let Some(object) = about.object.or_else(|| about.at.map(|at| at.directory)) {
                batch.objects.insert(object, place);
            }
        }
        Ok(())
    }

    fn add_name(&self, batch: &mut Batch, at: &At) -> Result<(), Error> {
        if let Some((directory, name)) = self.place_of(batch, at)? {
            batch.directories.insert(directory);
            if batch.known.insert((directory, name.clone())) {
                batch.names.push((directory, name));
            }
        }
        Ok(())
    }

    /// The place in the fileset. A directory that is not known is elsewhere on the file system, or in one that is about to be
    /// met, and then with all that is in it.
    fn place_of(&self, batch: &mut Batch, at: &At) -> Result<Option<(ObjectId, Name)>, Error> {
        let directory = match &batch.last {
            Some((handle, found)) if *handle == at.directory => *found,
            _ => {
                let found = self.known_by_handle(&at.directory)?.map(|entry| entry.object);
                batch.last = Some((at.directory.clone(), found));
                found
            }
        };
        let is_own = directory == Some(ObjectId::ROOT) && *at.name == *OWN;
        let name = Name::new(&at.name).ok().filter(|_| !is_own);
        Ok(directory.zip(name))
    }

    /// The object that a handle of the host's leads to.
    fn known_by_handle(&self, handle: &Handle) -> Result<Option<Arc<Entry>>, Error> {
        let inode = match (handle.inode(), &self.volume) {
            (Some(inode), _) => inode,
            (None, Some(volume)) => match volume.reach(handle) {
                Ok(reach) => host::stat(reach.as_fd())?.inode,
                Err(_) => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let Some(object) = self.index.by_inode(inode)? else { return Ok(None) };
        let known = self.index.entry(object)?;
        Ok(known.filter(|entry| entry.host.as_ref().is_some_and(|host| host.handle == *handle)))
    }

    fn look_at_batch(&self, batch: Batch, go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        let mut names = Vec::with_capacity(batch.names.len());
        for (directory, name) in batch.names {
            match self.appearance(directory, &name) {
                Ok(appearance) => names.push((appearance, directory, name)),
                Err(error) => self.unless_vain(error)?,
            }
        }
        names.sort_by_key(|(appearance, ..)| *appearance);
        for (_, directory, name) in &names {
            self.look_at_name(*directory, name, go_on).or_else(|error| self.unless_vain(error))?;
        }
        for (handle, place) in &batch.objects {
            self.look_at_object(handle, place.as_ref()).or_else(|error| self.unless_vain(error))?;
        }
        // What came and went between two looks has moved the directory's times.
        for directory in batch.directories {
            self.observe(directory).map(drop).or_else(|error| self.unless_vain(error))?;
        }
        Ok(())
    }

    fn appearance(&self, directory: ObjectId, name: &Name) -> Result<Appearance, Error> {
        let reach = self.directory(directory)?;
        let there = self.stat_if_there(reach.as_fd(), name)?.is_some();
        Ok(match (there, self.index.child(directory, name)?) {
            (true, None) => Appearance::Came,
            (true, Some(_)) => Appearance::IsThere,
            (false, _) => Appearance::Gone,
        })
    }

    fn look_at_name(
        &self,
        directory: ObjectId,
        name: &Name,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        let last = self.last();
        let Some(met) = self.meet(directory, name)? else { return Ok(()) };
        // What was made or moved in came with all that is in it; what was known before keeps what it had.
        let ObjectId(made) = met.entry.object;
        let is_new = made.replica == self.fileset().config.replica && made.recno > last;
        if is_new && met.entry.attributes().kind == Kind::Directory {
            self.take_in_below(met.entry.object, &mut |_| go_on())?;
        }
        Ok(())
    }

    fn look_at_object(&self, handle: &Handle, place: Option<&(ObjectId, Name)>) -> Result<(), Error> {
        let is_it = |met: &Met| met.entry.host.as_ref().is_some_and(|host| host.handle == *handle);
        // By its name it is found faster than by its handle, if it still has that name.
        let met = match place.map(|(directory, name)| self.meet(*directory, name)).transpose() {
            Ok(Some(Some(met))) if is_it(&met) => met,
            _ => {
                let Some(entry) = self.known_by_handle(handle)? else { return Ok(()) };
                self.observe(entry.object)?
            }
        };
        if self.opens.writers(met.entry.object) > 0 && !met.is_current() {
            self.observe_written(met.entry.object)?;
        }
        Ok(())
    }

    /// What stands nowhere any more needs no look. Anything else that fails is told, and met again by the next comparison; the
    /// rest is looked at all the same.
    fn unless_vain(&self, error: Error) -> Result<(), Error> {
        match error {
            Error::Broken(_) | Error::Closed => return Err(error),
            error if is_gone(&error) => {}
            error => crate::say!("mezzo: could not take in what was changed behind the mount: {error}"),
        }
        Ok(())
    }
}
