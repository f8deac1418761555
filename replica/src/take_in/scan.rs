//! The whole tree, directory by directory, while users go on.

use std::collections::HashSet;
use std::os::fd::AsFd;

use mezzo_core::{Kind, Name, ObjectId, Place};

use crate::Error;
use crate::fileset::OWN;
use crate::host;
use crate::replica::Replica;

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenIn {
    /// Objects that were looked at.
    pub seen: u64,
    /// Records that were made.
    pub records: u64,
    /// Names that could not be looked at, and are not in the log.
    pub skipped: u64,
}

impl Replica {
    /// Compares the whole tree with the index and records what differs. `progress` is called now and then with the
    /// number of objects seen, and says whether to go on.
    ///
    /// Names that are missing are judged last, since their objects may turn up elsewhere.
    pub fn take_in(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<TakenIn, Error> {
        let first = self.last();
        self.take_in_root()?;
        let mut taken = self.take_in_below(ObjectId::ROOT, progress)?;
        taken.records = self.last().0 - first.0;
        Ok(taken)
    }

    /// As [`Replica::take_in`], of what is below `directory` alone; records are not counted.
    pub(crate) fn take_in_below(
        &self,
        directory: ObjectId,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<TakenIn, Error> {
        let mut taken = TakenIn::default();
        let mut missing = Vec::new();
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            if !progress(taken.seen) {
                return Ok(taken);
            }
            match self.take_in_directory(directory, &mut directories, &mut missing, &mut taken) {
                Err(error) if is_gone(&error) => {}
                scanned => scanned?,
            }
            self.write_behind(false)?;
        }
        for place in missing {
            let mut order = self.begin_when_full()?;
            match self.meet_in_order(&mut order, place.parent, &place.name) {
                Err(error) if is_gone(&error) => {}
                met => drop(met?),
            }
        }
        Ok(taken)
    }

    fn take_in_root(&self) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        let root = self.observe_in_order(&mut order, ObjectId::ROOT)?;
        debug_assert!(root.is_same_inode());
        Ok(())
    }

    fn take_in_directory(
        &self,
        directory: ObjectId,
        below: &mut Vec<ObjectId>,
        missing: &mut Vec<Place>,
        taken: &mut TakenIn,
    ) -> Result<(), Error> {
        let handle = self.directory(directory)?;
        let mut there = HashSet::new();
        for (name, _, _) in host::entries(handle.as_fd())? {
            if directory == ObjectId::ROOT && name.as_bytes() == OWN {
                continue;
            }
            there.insert(name.clone());
            match self.meet(directory, &name) {
                Ok(Some(met)) if met.stat.attributes.kind == Kind::Directory => below.push(met.entry.object),
                Ok(_) => {}
                Err(error) if is_gone(&error) || is_covered(&error) => taken.skipped += 1,
                Err(error) => return Err(error),
            }
            taken.seen += 1;
        }
        missing.extend(self.missing_names(directory, &there)?);
        self.take_in_times(directory)
    }

    fn missing_names(&self, directory: ObjectId, there: &HashSet<Name>) -> Result<Vec<Place>, Error> {
        let known = self.index.children(directory)?.into_keys();
        Ok(known.filter(|name| !there.contains(name)).map(|name| Place::new(directory, name)).collect())
    }

    /// The directory's own times, once its entries are in.
    fn take_in_times(&self, directory: ObjectId) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        self.observe_in_order(&mut order, directory)?;
        Ok(())
    }
}

/// What vanishes while it is looked at was removed by somebody, whose record tells of it.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), libc::ENOENT | libc::ESTALE | libc::ENOTDIR)
}

/// Another mount hides what is there: see [`Replica::stat_if_there`].
fn is_covered(error: &Error) -> bool {
    error.errno() == libc::EBUSY
}
