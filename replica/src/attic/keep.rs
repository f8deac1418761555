//! Getting data into the attic, before the tree loses it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use mezzo_core::id::DataVersion;
use mezzo_core::{Kind, Name, ObjectId};
use rustix::fs::{OFlags, RenameFlags};

use super::{Attic, Form, UNFINISHED};
use crate::Error;
use crate::host::now;
use crate::host::{self, xattr};
use crate::index::{Entry, Kept};
use crate::meet::Met;
use crate::opens::Sight;
use crate::replica::{Order, Replica};

/// How a file that loses its last name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    /// Its data is in the attic, or need not be kept: it can be removed.
    Remove,
    /// It was renamed into the attic, and is removed by that.
    Moved,
}

/// What a file becomes in the attic that loses its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InAttic {
    version: DataVersion,
    form: Form,
}

impl InAttic {
    fn name(self) -> Name {
        self.form.as_name(self.version)
    }
}

impl Replica {
    /// Called before a file loses its last name, `name` in `directory`. Nobody's data is lost where keeping it fails: then
    /// it is not kept, which a replay will tell.
    pub(crate) fn keep_removed(
        &self,
        met: &Met,
        directory: BorrowedFd<'_>,
        name: &Name,
    ) -> io::Result<Going> {
        let doomed = &met.entry;
        let Some(kept) = self.way_of_keeping(met) else {
            self.lose_doomed(doomed);
            return Ok(Going::Remove);
        };
        let attic = self.attic.directory.as_fd();
        match host::rename(directory, name, attic, &kept.name(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // Marks that forbid it forbid the removal too.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(error),
            // It is there already, or there is no room for the name.
            Err(_) => {
                self.lose_doomed(doomed);
                return Ok(Going::Remove);
            }
        }
        self.is_in_attic(kept, doomed);
        Ok(Going::Moved)
    }

    /// Called before a rename replaces a file that has no other name. Returns what to take back if the rename fails.
    pub(crate) fn keep_replaced(&self, met: &Met, directory: BorrowedFd<'_>, name: &Name) -> Option<InAttic> {
        let kept = self.way_of_keeping(met)?;
        let reach = host::open_entry(directory, name).ok()?;
        host::link(reach.as_fd(), self.attic.directory.as_fd(), &kept.name()).ok()?;
        Some(kept)
    }

    /// The rename that was to replace a file was done, or failed.
    pub(crate) fn replaced(&self, kept: Option<InAttic>, doomed: &Entry, done: bool) {
        match kept {
            Some(kept) if done => self.is_in_attic(kept, doomed),
            Some(kept) => {
                // It would stay below .mezzo as one more name of a file that is there, until the bounds drop it.
                let _ = host::unlink(self.attic.directory.as_fd(), &kept.name(), false);
                self.forget_link(doomed);
            }
            None if done => self.lose_doomed(doomed),
            None => {}
        }
    }

    /// How a file gets into the attic that is about to lose its last name; `None` where it does not.
    fn way_of_keeping(&self, met: &Met) -> Option<InAttic> {
        let doomed = &met.entry;
        if self.opens.writers(doomed.object) == 0 && !self.attic.has_quotas {
            let version = self.worth_keeping(met)?;
            return Some(InAttic { version, form: Form::Whole });
        }
        // Whoever writes to it goes on writing, and the attic's data must stay as it is. Or somebody's quota would go on paying
        // for it.
        if let Some(version) = self.worth_keeping(met)
            && !self.attic.has(version)
        {
            self.keep_copy(doomed, version, self.attic.policy.copy_limit);
        }
        let version = self.attic.layers.version(doomed.object)?;
        let last = doomed.attributes().links <= 1 && met.stat.host_links == 1 && !self.attic.has_quotas;
        last.then_some(InAttic { version, form: Form::Removed })
    }

    fn is_in_attic(&self, kept: InAttic, doomed: &Entry) {
        self.attic.disarm(&kept.name(), doomed);
        match kept.form {
            Form::Whole => self.note_kept(kept.version, doomed.attributes().size),
            _ => {
                let _ = self.index.resize_kept(kept.version, self.attic.bytes_of(kept.version));
            }
        }
    }

    /// A file loses its last name, and is not in the attic.
    fn lose_doomed(&self, doomed: &Entry) {
        if doomed.attributes().links <= 1
            && let Some(version) = doomed.version()
        {
            self.lose(version);
        }
    }

    /// A link that was made and taken back moved the host's ctime, and is no change of the file.
    fn forget_link(&self, entry: &Entry) {
        let stat = self.reach(entry).and_then(|reach| Ok(host::stat(reach.as_fd())?));
        let met = stat.and_then(|stat| Ok(self.index.met(entry.object, None, stat.attributes.ctime)?));
        if let Err(error) = met {
            crate::say!("mezzo: {error}; the file will be taken for changed");
        }
    }

    /// Called before somebody can write to a file. `fixed` is how its data goes already, where somebody has it open. Tells
    /// how it is to go.
    pub(crate) fn keep_before_write(
        &self,
        order: &mut Order,
        object: ObjectId,
        fixed: Option<Sight>,
    ) -> Result<Sight, Error> {
        if let Some(version) = self.attic.layers.version(object) {
            if fixed != Some(Sight::Unseen) {
                return Ok(Sight::Seen);
            }
            self.give_up(version)?;
        }
        let sight = fixed.unwrap_or(Sight::Unseen);
        let entry = self.entry(object)?;
        let Some(version) = self.worth_keeping_now(&entry) else { return Ok(sight) };
        if self.keep_copy(&entry, version, self.attic.policy.copy_limit) {
            return Ok(sight);
        }
        if fixed == Some(Sight::Unseen) {
            self.keep_copy(&entry, version, self.attic.policy.at_once());
        } else if self.begin_ranges_of(order, object, version)? {
            return Ok(Sight::Seen);
        }
        self.lose(version);
        Ok(sight)
    }

    /// Called before a file gets another size, by whoever holds the order.
    pub(crate) fn keep_before_cut(&self, order: &mut Order, entry: &Entry, size: u64) -> Result<(), Error> {
        let object = entry.object;
        if !self.has_ranges(object) {
            let Some(version) = self.worth_keeping_now(entry) else { return Ok(()) };
            let policy = &self.attic.policy;
            let limit = if size == 0 { policy.at_once() } else { policy.copy_limit };
            if self.keep_copy(entry, version, limit) {
                return Ok(());
            }
            if size == 0 || !self.begin_ranges_of(order, object, version)? {
                self.lose(version);
                return Ok(());
            }
        }
        self.before_change(object, size..u64::MAX);
        Ok(())
    }

    /// The size was set, or could not be.
    pub(crate) fn was_cut(&self, object: ObjectId) -> Result<(), Error> {
        if self.opens.writers(object) == 0
            && let Some(entry) = self.index.entry(object)?
        {
            self.end_ranges(&entry);
        }
        Ok(())
    }

    /// Begins to keep the version by ranges; false where it is not the file's any more, or that can't be done.
    fn begin_ranges_of(
        &self,
        order: &mut Order,
        object: ObjectId,
        version: DataVersion,
    ) -> Result<bool, Error> {
        let met = self.observe_in_order(order, object)?;
        let current = met.is_current() && met.entry.version() == Some(version);
        Ok(current && self.begin_ranges(&met.entry, version).is_ok())
    }

    /// The version to be kept of a file that is about to change, where nobody changes it yet and it is not kept already.
    fn worth_keeping_now(&self, entry: &Entry) -> Option<DataVersion> {
        if !self.attic.policy.on || self.opens.writers(entry.object) > 0 {
            return None;
        }
        if self.is_nameless(entry) {
            self.part_from_attic(entry);
            return None;
        }
        let version = entry.version().filter(|_| entry.attributes().size > 0 && !entry.lost)?;
        if self.is_excluded(entry) {
            self.lose(version);
            return None;
        }
        (!self.attic.has(version)).then_some(version)
    }

    /// A removed file that somebody still has open, and now writes to, may be the very one that the attic has: then the attic
    /// gets a copy in its stead, or gives it up where it can have none.
    fn part_from_attic(&self, entry: &Entry) {
        let Some(version) = entry.version().filter(|version| self.attic.is_file_of(*version, entry)) else {
            return;
        };
        if !self.copy_to_attic(entry, version, self.attic.policy.at_once()).unwrap_or(false)
            && let Err(error) = self.give_up(version)
        {
            crate::say!("mezzo: {error}");
        }
    }

    /// Called when nobody writes to the file any more: where nothing was changed, the copy is needed no more.
    pub(crate) fn unkeep_unchanged(&self, entry: &Entry) {
        if self.is_nameless(entry) {
            return;
        }
        let kept = entry.version().filter(|version| self.index.is_kept(*version).unwrap_or(false));
        if let Some(version) = kept
            && let Err(error) = self.unkeep(version)
        {
            crate::say!("mezzo: {error}");
        }
    }

    /// Whether the version is kept now. Where it is not, a replay will tell that the data is gone.
    fn keep_copy(&self, entry: &Entry, version: DataVersion, limit: u64) -> bool {
        // The attic never takes room that somebody else may need now.
        if self.is_host_full() {
            return false;
        }
        let copied = self.copy_to_attic(entry, version, limit);
        if copied.is_err() {
            let _ = self.attic.remove_unfinished();
        }
        let kept = copied.unwrap_or(false);
        if kept {
            self.note_kept(version, entry.attributes().size);
        }
        kept
    }

    /// Clones the data, or copies it where it has up to `limit` bytes; false where it is neither.
    fn copy_to_attic(&self, entry: &Entry, version: DataVersion, limit: u64) -> io::Result<bool> {
        let error = |error: crate::Error| io::Error::from_raw_os_error(error.errno());
        let from = self.open_data(entry.object, OFlags::RDONLY | OFlags::NOATIME).map_err(error)?;
        self.attic.copy(from.as_fd(), version, entry.attributes().size, limit)
    }

    /// Called before a version becomes an object's data: a file that somebody still has open, from when it was that before, stays
    /// theirs alone, and a copy of it is the version's from now on.
    pub(crate) fn part_from_users(&self, version: DataVersion) -> Result<(), Error> {
        let Some(file) = self.attic.file(version)? else { return Ok(()) };
        let file = match host::reopen(file.as_fd(), OFlags::RDONLY | OFlags::NOATIME) {
            // Without root, what the owner may not read, nobody else may.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            opened => opened?,
        };
        if host::has_no_users(file.as_fd()) {
            return Ok(());
        }
        let size = host::stat(file.as_fd())?.attributes.size;
        let copied =
            self.making_room(|| Ok(self.attic.copy(file.as_fd(), version, size, u64::MAX).map(drop)?));
        copied.inspect_err(|_| drop(self.attic.remove_unfinished()))
    }

    /// The version to be kept of a file that is about to lose the name; `None` where there is nothing to keep.
    fn worth_keeping(&self, Met { entry: doomed, stat }: &Met) -> Option<DataVersion> {
        let last = doomed.attributes().kind == Kind::File && doomed.attributes().links <= 1;
        if !self.attic.policy.on || !last || doomed.lost || self.is_excluded(doomed) {
            return None;
        }
        // What the log has not told of yet can't be named by a version; other names outside of the tree keep it anyhow.
        let told = stat.attributes.size == doomed.attributes().size && stat.host_links == 1;
        doomed.version().filter(|_| told && stat.attributes.size > 0)
    }

    fn is_excluded(&self, entry: &Entry) -> bool {
        let policy = &self.attic.policy;
        entry.attributes().size > policy.max_bytes
            || entry.places.iter().any(|place| policy.excludes(place.name.as_bytes()))
    }

    pub(crate) fn note_kept(&self, version: DataVersion, bytes: u64) {
        self.index.kept(Kept { since: now(), version }, bytes);
    }
}

impl Attic {
    /// Has the version in a file of its own: clones `from`, or copies it where it has up to `limit` bytes; false where it is neither.
    fn copy(&self, from: BorrowedFd<'_>, version: DataVersion, size: u64, limit: u64) -> io::Result<bool> {
        let attic = self.directory.as_fd();
        let to = self.begin_unfinished()?;
        if host::reflink(from, to.as_fd()).is_err() {
            if size > limit {
                return Ok(false);
            }
            host::set_size(to.as_fd(), size)?;
            host::copy_range(from, to.as_fd(), 0, size)?;
        }
        // Under its name it is whole, whenever the program is killed.
        rustix::fs::renameat(attic, UNFINISHED, attic, Form::Whole.name(version))?;
        Ok(true)
    }

    /// Whether the attic's file of this version is the object itself.
    fn is_file_of(&self, version: DataVersion, entry: &Entry) -> bool {
        host::stat_entry(self.directory.as_fd(), &Form::Whole.as_name(version))
            .is_ok_and(|stat| crate::meet::is_inode_of(entry, &stat))
    }

    /// Takes away what could give somebody rights that the file's directory no longer withholds.
    fn disarm(&self, name: &Name, entry: &Entry) {
        let attributes = entry.attributes();
        let armed = attributes.mode & 0o6000 != 0;
        let capable = entry.state.xattrs.iter().any(|xattr| *xattr.name == *b"security.capability");
        if !armed && !capable {
            return;
        }
        if let Ok(file) = host::open_entry(self.directory.as_fd(), name) {
            // The attic's directory is closed to all but root, so that this is a second fence.
            let _ = host::set_mode(file.as_fd(), u32::from(attributes.mode) & 0o1777);
            let _ = xattr::remove(file.as_fd(), b"security.capability");
        }
    }
}
