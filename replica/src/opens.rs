//! Which objects users have open, and what is known of data that was written unseen.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::ObjectId;
use parking_lot::Mutex;

use crate::lml::{Lml, Slot, Writer};

/// What an open, or what has come of it, can do to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Read,
    /// It can write, with system calls that the kernel takes note of.
    Write,
    /// It can write through a mapping too, of which nobody takes note.
    Map,
}

/// Whether it is seen what is written through an open. Until everybody has closed a file, it is the same for all: the kernel has
/// it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Data passes between users and the host's file unseen.
    Unseen,
    /// [`crate::Replica::before_change`] is called before each change of data.
    Seen,
}

/// Whether an open needs the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// It may read them, or write some of them.
    Needed,
    /// The file is emptied before the open is used, or the bytes are of another inode, and here.
    NotNeeded,
}

/// What is open. Held by the replica, told by whoever serves users. What can be written is noted in the LML too.
#[derive(Debug)]
pub(crate) struct Opens {
    lml: Lml,
    open: Mutex<HashMap<ObjectId, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Opens, of any access.
    handles: u32,
    /// Opens that can write.
    writers: u32,
    /// Those of them that can map the object to write to it.
    mappers: u32,
    /// There were such, and a mapping of theirs may be there yet.
    was_mapped: bool,
    /// A mapping may have stored since the last record without moving a time, as only the first store into a page that is
    /// clean moves one.
    silent: bool,
    /// Data was seen to have changed since the last record, whatever the host's times say now.
    dirty: bool,
    /// Everybody has closed it, and a mapping may still write to it.
    lingering: bool,
    /// The last record of its data was made while it stayed open.
    unsettled: bool,
    /// When it was last looked at for what was written, and how long from then to the next look.
    looks: Option<Looks>,
    /// Where the LML has it, while it can be written.
    slot: Option<Slot>,
    /// Reaches the object, also when it has lost its last name.
    reach: Option<Arc<OwnedFd>>,
}

/// When a file that stays open is looked at.
#[derive(Clone, Copy, Debug)]
struct Looks {
    last: Instant,
    wait: Duration,
}

/// How much longer than at first a file is left alone that is written all the time: a minute becomes a bit over half an hour,
/// and a log that grows for days makes some fifty records a day.
const LONGEST_WAIT: u32 = 32;

impl Open {
    /// Whether no time tells if data has changed since the last record.
    fn is_unsure(&self) -> bool {
        self.dirty || self.silent
    }
}

impl Opens {
    /// Nothing is open yet.
    pub fn new(lml: Lml) -> Opens {
        Opens { lml, open: Mutex::default() }
    }

    /// The LML.
    pub fn lml(&self) -> &Lml {
        &self.lml
    }

    /// One more open.
    pub fn add(&self, object: ObjectId, usage: Use) -> io::Result<()> {
        let mut opens = self.open.lock();
        let open = opens.entry(object).or_default();
        if usage != Use::Read && open.slot.is_none() {
            open.slot = Some(self.lml.open(object)?);
        }
        open.handles += 1;
        open.writers += u32::from(usage != Use::Read);
        open.mappers += u32::from(usage == Use::Map);
        open.was_mapped |= usage == Use::Map;
        Ok(())
    }

    /// One open less; true when it was the last. With `lingers` the object counts as written all the same.
    pub fn remove(&self, object: ObjectId, usage: Use, lingers: bool) -> io::Result<bool> {
        let mut opens = self.open.lock();
        let Some(open) = opens.get_mut(&object) else { return Ok(true) };
        open.handles = open.handles.saturating_sub(1);
        open.writers = open.writers.saturating_sub(u32::from(usage != Use::Read));
        open.mappers = open.mappers.saturating_sub(u32::from(usage == Use::Map));
        open.lingering |= lingers;
        self.let_go(&mut opens, object)
    }

    /// The mapping is gone; true when nobody has the object open either.
    pub fn settle(&self, object: ObjectId) -> io::Result<bool> {
        let mut opens = self.open.lock();
        if let Some(open) = opens.get_mut(&object) {
            open.lingering = false;
        }
        self.let_go(&mut opens, object)
    }

    fn let_go(&self, opens: &mut HashMap<ObjectId, Open>, object: ObjectId) -> io::Result<bool> {
        let Some(open) = opens.get_mut(&object) else { return Ok(true) };
        let slot = open.slot.take_if(|_| open.writers == 0 && !open.lingering && !open.dirty);
        let last = open.handles == 0 && !open.lingering;
        if last {
            opens.remove(&object);
        }
        slot.map_or(Ok(()), |slot| self.lml.set(slot, None))?;
        Ok(last)
    }

    /// Objects that are closed, and that a mapping may still write to.
    pub fn lingering(&self) -> Vec<ObjectId> {
        self.open.lock().iter().filter(|(_, open)| open.lingering).map(|(object, _)| *object).collect()
    }

    pub fn is_open(&self, object: ObjectId) -> bool {
        self.open.lock().contains_key(&object)
    }

    /// How many may write to the object: opens, and a mapping that outlived its open.
    pub fn writers(&self, object: ObjectId) -> u32 {
        self.open.lock().get(&object).map_or(0, |open| open.writers + u32::from(open.lingering))
    }

    /// Whether somebody may be writing to the object through a mapping.
    pub fn is_mapped(&self, object: ObjectId) -> bool {
        self.open.lock().get(&object).is_some_and(|open| open.mappers > 0 || open.lingering)
    }

    /// Whether a mapping may have outlived the open that it was made through.
    pub fn was_mapped(&self, object: ObjectId) -> bool {
        self.open.lock().get(&object).is_some_and(|open| open.was_mapped)
    }

    /// Remembers that data changed; false where nobody has it open, so that nobody will close it.
    pub fn mark_dirty(&self, object: ObjectId) -> io::Result<bool> {
        self.change(object, |open| open.dirty = true)
    }

    /// A record has told of the data, by a stable close or not. What a mapping may have stored after the record's times were
    /// read is not told.
    pub fn clean(&self, object: ObjectId, stable: bool) -> io::Result<()> {
        self.change(object, |open| {
            open.dirty = false;
            open.silent = open.was_mapped;
            open.unsettled = !stable;
        })?;
        Ok(())
    }

    /// A record has told that there are no bytes any more, nor pages that a mapping could have stored to.
    pub fn emptied(&self, object: ObjectId) -> io::Result<()> {
        self.change(object, |open| {
            open.dirty = false;
            open.silent = false;
        })?;
        Ok(())
    }

    /// Whether the last record of the object's data was made while it stayed open.
    pub fn is_unsettled(&self, object: ObjectId) -> bool {
        self.open.lock().get(&object).is_some_and(|open| open.unsettled)
    }

    /// Whether the object's data may have changed since the last record though no time of it moved.
    pub fn is_silent(&self, object: ObjectId) -> bool {
        self.open.lock().get(&object).is_some_and(|open| open.silent)
    }

    /// From now on any store moves a time.
    pub fn not_silent(&self, object: ObjectId) -> io::Result<()> {
        self.change(object, |open| open.silent = false)?;
        Ok(())
    }

    /// Changes what is known of the object's data; false where nobody has it open. The LML is told: after a kill, data that may
    /// have changed without moving a time has to be recorded again.
    fn change(&self, object: ObjectId, change: impl FnOnce(&mut Open)) -> io::Result<bool> {
        let mut opens = self.open.lock();
        let Some(open) = opens.get_mut(&object) else { return Ok(false) };
        let before = open.is_unsure();
        change(open);
        let dirty = open.is_unsure();
        if dirty != before
            && let Some(slot) = open.slot
        {
            self.lml.set(slot, Some(Writer { object, dirty }))?;
        }
        Ok(true)
    }

    pub fn is_dirty(&self, object: ObjectId) -> bool {
        self.open.lock().get(&object).is_some_and(|open| open.dirty)
    }

    /// How to reach the object from now on, also when its last name is gone; not where `is_current` tells that it is another inode
    /// by now.
    pub fn keep_reach(
        &self,
        object: ObjectId,
        reach: Arc<OwnedFd>,
        is_current: impl FnOnce(&OwnedFd) -> bool,
    ) {
        if let Some(open) = self.open.lock().get_mut(&object)
            && open.reach.is_none()
            && is_current(&reach)
        {
            open.reach = Some(reach);
        }
    }

    /// The object is another inode now, which nobody can have mapped yet. The caller holds the order, and nobody writes to it.
    pub fn another_inode(&self, object: ObjectId) -> io::Result<()> {
        self.change(object, |open| {
            open.reach = None;
            (open.was_mapped, open.silent, open.dirty, open.unsettled) = (false, false, false, false);
        })?;
        Ok(())
    }

    pub fn reach(&self, object: ObjectId) -> Option<Arc<OwnedFd>> {
        self.open.lock().get(&object)?.reach.clone()
    }

    /// How many objects are open.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Up to `count` objects that somebody has open for writing, and that nobody has looked at for as long as each has to wait;
    /// `interval` at first.
    pub fn due(&self, now: Instant, interval: Duration, count: usize) -> Vec<ObjectId> {
        let mut opens = self.open.lock();
        let writers = opens.iter_mut().filter(|(_, open)| open.writers > 0);
        let due = writers.filter_map(|(object, open)| {
            let looks = open.looks.get_or_insert(Looks { last: now, wait: interval });
            let is_due = now.duration_since(looks.last) >= looks.wait;
            is_due.then(|| {
                looks.last = now;
                *object
            })
        });
        due.take(count).collect()
    }

    /// Tells what a look at a file that is open has found: one that had been written waits twice as long for the next.
    pub fn looked(&self, object: ObjectId, was_written: bool, interval: Duration) {
        if let Some(looks) = self.open.lock().get_mut(&object).and_then(|open| open.looks.as_mut()) {
            let longer = (looks.wait * 2).min(interval * LONGEST_WAIT);
            looks.wait = if was_written { longer } else { interval };
        }
    }

    /// Objects that somebody can write to.
    pub fn written(&self) -> Vec<ObjectId> {
        let opens = self.open.lock();
        opens
            .iter()
            .filter(|(_, open)| open.writers > 0 || open.lingering)
            .map(|(object, _)| *object)
            .collect()
    }
}
