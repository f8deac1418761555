//! The attic: data that the tree has no more, kept for undo and for replays, until its bounds say otherwise.
//!
//! A file of the attic is named by the version of the data that it holds. How data gets there, cheapest first: what is
//! removed is renamed into it, what is replaced is linked into it, and what is about to be written is cloned, or copied
//! where the host can't clone and the file is small enough. Of a larger file the ranges that are overwritten are kept, each
//! before it changes, for which its data must not pass through the kernel unseen. The attic's space counts as free: it is
//! given up, oldest first, before anybody lacks it.

mod blocks;
mod bounds;
mod keep;
mod layers;
pub(crate) mod ranges;
mod whole;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::id::DataVersion;
use mezzo_core::{Name, Origin};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use crate::host::{self, Stat};

pub use bounds::AtticPolicy;
pub(crate) use keep::Going;
use layers::Layers;
pub(crate) use layers::NOTED_WITHIN_SECONDS;

/// The name of a file that is being made or moved, which is no version's. There is one at a time, under the order.
const UNFINISHED: &str = "unfinished";

/// What comes from another replica, until it is whole.
const INCOMING: &str = "incoming";

/// The directory.
#[derive(Debug)]
pub(crate) struct Attic {
    directory: OwnedFd,
    policy: AtticPolicy,
    /// Whether the host limits what each user has: then what is kept must be nobody's but mezzo's.
    has_quotas: bool,
    layers: Layers,
}

/// How a version is there: what a file of the attic holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of its data.
    Whole,
    /// The ranges in which what came after it differs.
    Ranges,
    /// The file that ranges are told against, where that lost its last name while it was being written.
    Removed,
}

impl Form {
    const ALL: [Form; 3] = [Form::Whole, Form::Ranges, Form::Removed];

    /// The file's name.
    pub fn name(self, version: DataVersion) -> String {
        match self {
            Form::Whole => version.to_string(),
            Form::Ranges => format!("{version}.ranges"),
            Form::Removed => format!("{version}.removed"),
        }
    }

    fn as_name(self, version: DataVersion) -> Name {
        Name::new(self.name(version).as_bytes()).expect("digits, a dash and letters")
    }

    fn of(name: &Name) -> Option<(DataVersion, Form)> {
        let text = std::str::from_utf8(name.as_bytes()).ok()?;
        let (version, form) = match text.split_once('.') {
            None => (text, Form::Whole),
            Some((version, "ranges")) => (version, Form::Ranges),
            Some((version, "removed")) => (version, Form::Removed),
            Some(_) => return None,
        };
        let origin: Origin = version.parse().ok()?;
        Some((DataVersion(origin), form))
    }
}

impl Attic {
    /// The attic below `own`, which is made where it is missing.
    pub fn open(own: BorrowedFd<'_>, policy: AtticPolicy) -> io::Result<Attic> {
        match rustix::fs::mkdirat(own, "attic", Mode::from_bits_retain(0o700)) {
            Err(rustix::io::Errno::EXIST) => {}
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(own, "attic", flags, Mode::empty())?;
        let has_quotas = host::has_quotas(directory.as_fd());
        let attic = Attic { directory, policy, has_quotas, layers: Layers::default() };
        attic.remove_unfinished()?;
        attic.find_layers()?;
        Ok(attic)
    }

    /// Whether the version is there, whole or by ranges.
    pub fn has(&self, version: DataVersion) -> bool {
        self.has_form(version, Form::Whole) || self.has_form(version, Form::Ranges)
    }

    fn has_form(&self, version: DataVersion, form: Form) -> bool {
        let access = rustix::fs::Access::EXISTS;
        rustix::fs::accessat(&self.directory, form.name(version), access, AtFlags::empty()).is_ok()
    }

    /// Everything in it. What is no version's name is left out.
    fn all(&self) -> io::Result<Vec<(DataVersion, Form, Stat)>> {
        let mut found = Vec::new();
        for (name, _, _) in host::entries(&self.directory)? {
            if let Some((version, form)) = Form::of(&name) {
                found.push((version, form, host::stat_entry(self.directory.as_fd(), &name)?));
            }
        }
        Ok(found)
    }

    /// Files that are there as a whole, by their versions.
    pub fn files(&self) -> io::Result<Vec<(DataVersion, Stat)>> {
        let whole = |(version, form, stat)| (form == Form::Whole).then_some((version, stat));
        Ok(self.all()?.into_iter().filter_map(whole).collect())
    }

    /// The file of a version; `None` where it is not there as a whole.
    pub fn file(&self, version: DataVersion) -> io::Result<Option<OwnedFd>> {
        match host::open_entry(self.directory.as_fd(), &Form::Whole.as_name(version)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Moves the file of a version to `name`, where nothing stands.
    pub fn give(&self, version: DataVersion, directory: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
        let attic = self.directory.as_fd();
        host::rename(attic, &Form::Whole.as_name(version), directory, name, RenameFlags::NOREPLACE)
    }

    /// Exchanges the file of a version with the one at `name`.
    pub fn exchange(&self, version: DataVersion, directory: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
        let attic = self.directory.as_fd();
        host::rename(attic, &Form::Whole.as_name(version), directory, name, RenameFlags::EXCHANGE)
    }

    /// Makes a file without bytes the file of a version, unless there is one.
    pub fn make_empty(&self, version: DataVersion) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = Form::Whole.as_name(version);
        rustix::fs::openat(&self.directory, name.as_bytes(), flags, Mode::from_bits_retain(0o600))?;
        Ok(())
    }

    /// Makes what `write` writes the file of a version, whole or not at all.
    pub fn bring(
        &self,
        version: DataVersion,
        write: impl FnOnce(BorrowedFd<'_>) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let between = Name::new(INCOMING.as_bytes()).expect("letters");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.directory, between.as_bytes(), flags, Mode::from_bits_retain(0o600))?;
        let attic = self.directory.as_fd();
        if !write(file.as_fd())? {
            host::unlink(attic, &between, false)?;
            return Ok(false);
        }
        host::rename(attic, &between, attic, &Form::Whole.as_name(version), RenameFlags::empty())?;
        Ok(true)
    }

    /// Makes the file at `name` the file of a version.
    pub fn take(&self, version: DataVersion, directory: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
        let attic = self.directory.as_fd();
        host::rename(directory, name, attic, &Form::Whole.as_name(version), RenameFlags::empty())
    }

    /// A file without a name, on the same host file system.
    pub fn nameless(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, ".", flags, Mode::from_bits_retain(0o600))?)
    }

    /// Removes the file of a version that is there as a whole. The index is not told.
    pub fn discard(&self, version: DataVersion) -> io::Result<()> {
        host::unlink(self.directory.as_fd(), &Form::Whole.as_name(version), false)
    }

    /// The file of one version is that of another from now on.
    pub fn rename(&self, version: DataVersion, to: DataVersion) -> io::Result<()> {
        let attic = self.directory.as_fd();
        host::rename(
            attic,
            &Form::Whole.as_name(version),
            attic,
            &Form::Whole.as_name(to),
            RenameFlags::empty(),
        )
    }

    /// Puts `file` at `name` in place of what stands there.
    pub fn link_over(&self, file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &Name) -> io::Result<()> {
        let attic = self.directory.as_fd();
        let between = Name::new(UNFINISHED.as_bytes()).expect("letters");
        self.remove_unfinished()?;
        host::link(file, attic, &between)?;
        host::rename(attic, &between, directory, name, RenameFlags::empty())
    }

    /// A new file that has the name of no version yet. What an end left of another goes: it may be a file of the tree, on its way to
    /// one of its names.
    fn begin_unfinished(&self) -> io::Result<OwnedFd> {
        self.remove_unfinished()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, UNFINISHED, flags, Mode::from_bits_retain(0o600))?)
    }

    /// A copy that could not be made whole must not keep its room.
    fn remove_unfinished(&self) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, UNFINISHED, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Takes a version out, in whatever way it is kept. The index is not told.
    pub fn remove(&self, version: DataVersion) -> io::Result<()> {
        self.layers.forget(version);
        Form::ALL.into_iter().try_for_each(|form| {
            match host::unlink(self.directory.as_fd(), &form.as_name(version), false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        })
    }

    /// Bytes that the version takes up here.
    fn bytes_of(&self, version: DataVersion) -> u64 {
        let size = |form: Form| {
            host::stat_entry(self.directory.as_fd(), &form.as_name(version))
                .map_or(0, |stat| stat.attributes.size)
        };
        Form::ALL.into_iter().map(size).sum()
    }
}
