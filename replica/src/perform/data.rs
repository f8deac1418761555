//! Files that are open, and their data, which is written unseen.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::time::Step;
use mezzo_core::{Change, Data, DataVersion, Kind, ObjectId};
use rustix::fs::OFlags;

use super::make::digest_if_empty;
use super::{Caller, with_links};
use crate::Error;
use crate::host::{self, xattr};
use crate::index::{Entry, Local};
use crate::meet::{Met, is_inode_of};
use crate::opens::{Bytes, Sight, Use};
use crate::replica::{Order, Replica};

/// Open files whose descriptors are kept, to look at them quickly. Of 20,000 descriptors that a process may have, this
/// leaves most to others.
const KEPT_OPEN: usize = 4096;

/// Open files that are looked at in one go, for what was written to them: a few milliseconds.
const LOOKED_AT: usize = 1000;

/// How long a release is waited with for the kernel to close the host's file; most have it closed at once.
const CLOSES_WITHIN: [Duration; 4] = [
    Duration::from_micros(20),
    Duration::from_micros(80),
    Duration::from_micros(300),
    Duration::from_millis(1),
];

/// On what occasion data is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// A writer is closing the file.
    Closing,
    /// The file stays open.
    Open,
}

impl Replica {
    /// Tells that somebody has opened the object, whose bytes are here or are not wanted, and writes to it unseen. `reach` leads to it, and is kept while there is
    /// room for it.
    pub fn opened(&self, object: ObjectId, usage: Use, reach: Option<OwnedFd>) -> Result<(), Error> {
        self.opening(object, usage, Some(Sight::Unseen), Bytes::NotNeeded)?;
        self.keep_reach(object, reach);
        Ok(())
    }

    /// Tells that somebody is about to open the object. `fixed` is how its data goes for those who have it open; `None` where
    /// nobody has. Returns how it is to go from now on, and what the open is to be released as. ENODATA for a file whose bytes
    /// are not here, where those are needed.
    pub fn opening(
        &self,
        object: ObjectId,
        usage: Use,
        fixed: Option<Sight>,
        bytes: Bytes,
    ) -> Result<(Sight, Use), Error> {
        if bytes == Bytes::Needed {
            self.note_used(object);
        }
        let mut sight = fixed.unwrap_or(Sight::Unseen);
        // In order, so that nobody gives it other data between the look at who writes and the open.
        let mut order = (usage != Use::Read).then(|| self.begin_when_full()).transpose()?;
        if let Some(order) = &mut order {
            self.mark_before_write(object)?;
            sight = self.keep_before_write(order, object, fixed)?;
        }
        // What is stored through a mapping is seen too, before the mapping's open is released.
        let usage = if sight == Sight::Seen && usage == Use::Map { Use::Write } else { usage };
        self.opens.add(object, usage)?;
        // Looked at after it was noted, as who evicts it marks it before looking who has it open.
        if bytes == Bytes::Needed && self.is_without_bytes(object)? {
            if self.opens.remove(object, usage, false)? {
                self.let_go_of_removed(object);
            }
            return Err(crate::error::refused(libc::ENODATA));
        }
        Ok((sight, usage))
    }

    /// A file that lost bytes, and whose filling was cut off, is known as one that somebody wrote to by what it looks like.
    fn mark_before_write(&self, object: ObjectId) -> Result<(), Error> {
        let Some(entry) = self.index.entry(object)?.filter(|entry| entry.lost && !entry.absent) else {
            return Ok(());
        };
        let reach = self.reach(&entry)?;
        if xattr::is_filling(reach.as_fd()) && !self.demand.is_filling(object) {
            xattr::mark_lost(reach.as_fd(), Some(&host::stat(reach.as_fd())?.attributes))?;
            self.index.met(object, None, host::stat(reach.as_fd())?.attributes.ctime)?;
        }
        Ok(())
    }

    /// Whether the object's bytes are not here, by its mark.
    fn is_without_bytes(&self, object: ObjectId) -> Result<bool, Error> {
        match self.index.entry(object)?.filter(|entry| entry.lost) {
            Some(entry) => Ok(entry.absent || xattr::is_absent(self.reach(&entry)?.as_fd())),
            None => Ok(false),
        }
    }

    /// Keeps a descriptor that leads to an open object, while there is room for it. One of an inode that the object was before is
    /// not kept.
    pub fn keep_reach(&self, object: ObjectId, reach: Option<OwnedFd>) {
        // Hosts find no inode without a name by its handle.
        let keep = self.opens.len() < KEPT_OPEN || self.index.is_orphan(object);
        if let Some(reach) = reach.filter(|_| keep) {
            // Looked up under the lock that whoever makes it another inode takes afterwards.
            let is_current = |reach: &OwnedFd| {
                let entry = self.index.entry(object).ok().flatten();
                entry
                    .zip(host::stat(reach.as_fd()).ok())
                    .is_some_and(|(entry, stat)| is_inode_of(&entry, &stat))
            };
            self.opens.keep_reach(object, Arc::new(reach), is_current);
        }
    }

    /// Tells that an open is done with. What was written through it after its last flush, by a mapping or by a write that
    /// was still under way, is recorded now. Where a mapping outlives the open, the object is looked at from time to time
    /// until that is gone.
    pub fn released(&self, caller: &Caller, object: ObjectId, usage: Use) -> Result<(), Error> {
        if usage != Use::Read && self.opens.writers(object) == 1 && self.opens.was_mapped(object) {
            self.let_the_kernel_close(object);
        }
        let closed =
            if usage == Use::Read { Ok(()) } else { self.seen(caller, object, When::Closing).map(drop) };
        // In order, so that of two who close at once one is the last.
        let order = if usage == Use::Read { None } else { self.begin_when_full().ok() };
        let last = usage != Use::Read && self.opens.writers(object) == 1;
        let lingers = last && self.opens.was_mapped(object) && self.is_mapped_writable(object);
        if last
            && !lingers
            && let Some(entry) = self.index.entry(object)?
        {
            // What was not recorded is looked at again at the next start.
            if !self.is_nameless(&entry) && closed.is_ok() {
                self.end_ranges(&entry);
            }
            self.unkeep_unchanged(&entry);
        }
        if self.opens.remove(object, usage, lingers)? {
            self.let_go_of_removed(object);
        }
        drop(order);
        closed
    }

    /// Records what mappings have written that outlived every open; called from time to time.
    pub fn settle_mappings(&self) -> Result<(), Error> {
        let caller = Caller::program();
        for object in self.opens.lingering() {
            let mapped = self.is_mapped_writable(object);
            if self.may_have_changed(object)? || !mapped && self.opens.is_unsettled(object) {
                self.record_mapped(&caller, object, if mapped { When::Open } else { When::Closing })?;
            }
            if !mapped && self.opens.settle(object)? {
                self.let_go_of_removed(object);
            }
        }
        Ok(())
    }

    /// Records what was written to files that stay open; called from time to time. Each is looked at when the policy's time is
    /// over, and later and later while it is written to all the time.
    pub fn record_open_files(&self) -> Result<(), Error> {
        let interval = Duration::from_secs(self.fileset().config.unstable_seconds.into());
        if interval.is_zero() {
            return Ok(());
        }
        let caller = Caller::program();
        for object in self.opens.due(Instant::now(), interval, LOOKED_AT) {
            match self.record_while_open(&caller, object) {
                Err(Error::Gone) => {}
                recorded => self.opens.looked(object, recorded?, interval),
            }
        }
        Ok(())
    }

    /// Nobody has the object open any more. Where it has no name left either, it is gone.
    fn let_go_of_removed(&self, object: ObjectId) {
        if self.index.is_orphan(object) {
            self.end_ranges_of_removed(object);
            self.index.drop_orphan(object);
        }
    }

    /// Tells that somebody has closed a descriptor, of which there may be copies. What changed is recorded.
    pub fn flushed(&self, caller: &Caller, object: ObjectId) -> Result<(), Error> {
        self.record_if_written(caller, object, When::Closing).map(drop)
    }

    /// Records what was written to a file that stays open; tells whether anything was.
    pub(crate) fn record_while_open(&self, caller: &Caller, object: ObjectId) -> Result<bool, Error> {
        self.record_if_written(caller, object, When::Open)
    }

    fn record_if_written(&self, caller: &Caller, object: ObjectId, when: When) -> Result<bool, Error> {
        if self.opens.is_silent(object) {
            self.record_mapped(caller, object, when)?;
            Ok(true)
        } else {
            self.seen(caller, object, when)
        }
    }

    /// Whether nobody writes to the object any more, but for the one who is closing it.
    fn is_stable(&self, object: ObjectId, when: When) -> bool {
        when == When::Closing && self.opens.writers(object) <= 1
    }

    /// Records the object's data, which a mapping may have changed without moving a time. Its pages are written out before:
    /// what is stored from then on moves one.
    fn record_mapped(&self, caller: &Caller, object: ObjectId, when: When) -> Result<(), Error> {
        let file = self.open_data(object, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let before = host::stat(file.as_fd())?.attributes.mtime;
        host::write_out(file.as_fd())?;
        let mut order = self.begin_when_full()?;
        let met = self.observe_open(object)?;
        self.record_close(&mut order, caller, &met, self.is_stable(object, when))?;
        if met.stat.attributes.mtime == before {
            self.opens.not_silent(object)?;
        }
        Ok(())
    }

    fn may_have_changed(&self, object: ObjectId) -> Result<bool, Error> {
        Ok(self.opens.is_dirty(object)
            || self.opens.is_silent(object)
            || !self.observe_open(object)?.is_current())
    }

    /// The kernel tells of a release a moment before it closes the host's file. Until then that looks as if it were mapped.
    fn let_the_kernel_close(&self, object: ObjectId) {
        for wait in CLOSES_WITHIN {
            if !self.is_mapped_writable(object) {
                break;
            }
            std::thread::sleep(wait);
        }
    }

    /// Whether the host knows of somebody who can still write to the file, though every open here is done with.
    fn is_mapped_writable(&self, object: ObjectId) -> bool {
        match self.open_data(object, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => !host::has_no_writers(file.as_fd()),
            Err(_) => false,
        }
    }

    /// Whether somebody may be writing to the object through a mapping, so that what is known of it may be old at once.
    pub fn is_mapped(&self, object: ObjectId) -> bool {
        self.opens.is_mapped(object)
    }

    /// Records the object's data, where it is seen to have changed since the last record; tells whether it was. The caller has
    /// it open for writing.
    fn seen(&self, caller: &Caller, object: ObjectId, when: When) -> Result<bool, Error> {
        // What was recorded while the file was open is settled by the last to close it, changed or not.
        let is_due = |met: &Met| {
            self.opens.is_dirty(object)
                || !met.is_current()
                || self.opens.is_unsettled(object) && self.is_stable(object, when)
        };
        if is_due(&self.observe_open(object)?) {
            let mut order = self.begin_when_full()?;
            let met = self.observe_open(object)?;
            if is_due(&met) {
                self.record_close(&mut order, caller, &met, self.is_stable(object, when))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the object's data durable, with the record of it and all records before.
    pub fn sync_data(&self, caller: &Caller, object: ObjectId, data_only: bool) -> Result<(), Error> {
        if self.opens.writers(object) > 0 {
            self.seen(caller, object, When::Open)?;
        }
        let file = self.open_data(object, OFlags::RDONLY)?;
        if data_only { rustix::fs::fdatasync(&file) } else { rustix::fs::fsync(&file) }?;
        self.sync_log()?;
        Ok(())
    }

    /// Records the data of a file as it is on the host.
    pub(crate) fn record_close(
        &self,
        order: &mut Order,
        caller: &Caller,
        met: &Met,
        stable: bool,
    ) -> Result<(), Error> {
        let before = &met.entry;
        if self.is_nameless(before) || before.attributes().kind != Kind::File {
            return Ok(());
        }
        let Some(data) = before.state.data else { return Ok(()) };
        let after = with_links(&met.stat, before.attributes().links);
        let version = DataVersion(self.next_origin(order));
        let change = Change::Close {
            object: before.object,
            path: self.index.path(before.object)?.into(),
            attributes: Step::new(*before.attributes(), after),
            data: Step::new(data, Data { version, digest: digest_if_empty(after.size) }),
            stable,
        };
        self.commit(order, caller, change, Local::default())?;
        self.opens.clean(before.object, stable)?;
        self.unmark_lost(before)?;
        if before.state.xattrs.iter().any(|xattr| *xattr.name == *b"security.capability") {
            let reach = self.reach(before)?;
            self.refresh_xattrs(order, caller, before, reach.as_fd())?;
        }
        Ok(())
    }

    /// New data was recorded: what the file lacked of the old is no matter any more.
    pub(crate) fn unmark_lost(&self, before: &Entry) -> Result<(), Error> {
        if !before.lost {
            return Ok(());
        }
        let reach = self.reach(before)?;
        xattr::mark_lost(reach.as_fd(), None)?;
        let ctime = host::stat(reach.as_fd())?.attributes.ctime;
        Ok(self.index.met(before.object, None, ctime)?)
    }

    fn observe_open(&self, object: ObjectId) -> Result<Met, Error> {
        let entry = self.entry(object)?;
        let stat = host::stat(self.reach(&entry)?.as_fd())?;
        Ok(Met { entry, stat })
    }
}
