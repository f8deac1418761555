//! Giving up bytes that others have. The file keeps its size and times, and is absent from then on.

use std::os::fd::AsFd;

use mezzo_core::id::DataVersion;
use mezzo_core::{Kind, ObjectId};
use rustix::fs::OFlags;

use crate::Error;
use crate::host::{self, xattr};
use crate::index::Lacking;
use crate::meet::is_inode_of;
use crate::reintegrate::finish_but_data;
use crate::replica::Replica;

/// Files whose marks are made durable together.
const BATCH: usize = 256;

/// Why a file keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no file.
    #[error("it is no regular file")]
    NotAFile,
    /// Somebody has it open.
    #[error("somebody has it open")]
    Open,
    /// What was written to it is not recorded yet.
    #[error("it was written, and that is not recorded yet")]
    Written,
    /// It is pinned, or what it is below of.
    #[error("it is pinned with {0}")]
    Pinned(String),
    /// It is not known where else its bytes are.
    #[error("there is no other replica that is known to have its bytes")]
    NoUpstream,
    /// They are not known to be there.
    #[error("{0} has not acknowledged its bytes")]
    NotAcknowledged(String),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Evicted {
    /// Files whose bytes were given up.
    pub files: u64,
    /// How many.
    pub bytes: u64,
    /// Files that were without them already.
    pub absent: u64,
    /// Files that keep them, and why.
    pub refused: Vec<(ObjectId, Refused)>,
}

/// What came of marking a file.
enum Marked {
    Done(DataVersion, u64),
    Absent,
    Refused(Refused),
}

impl Replica {
    /// Gives up the bytes of those of `objects` that may be evicted.
    pub fn evict(&self, objects: &[ObjectId]) -> Result<Evicted, Error> {
        let mut evicted = Evicted::default();
        for objects in objects.chunks(BATCH) {
            let mut marked = Vec::new();
            for object in objects {
                match self.mark_evicted(*object) {
                    Ok(Marked::Done(version, size)) => marked.push((*object, version, size)),
                    Ok(Marked::Absent) => evicted.absent += 1,
                    Ok(Marked::Refused(why)) => evicted.refused.push((*object, why)),
                    Err(Error::Gone) => {}
                    Err(error) => return Err(error),
                }
            }
            if marked.is_empty() {
                continue;
            }
            // The marks are durable before the first byte is gone.
            rustix::fs::syncfs(self.fileset().root())?;
            for (object, version, size) in marked {
                if self.drop_bytes(object, version)? {
                    (evicted.files, evicted.bytes) = (evicted.files + 1, evicted.bytes + size);
                }
            }
        }
        Ok(evicted)
    }

    /// Why the file keeps its bytes whatever it is used for; `None` where it may be evicted.
    fn is_kept(&self, object: ObjectId) -> Result<Option<Refused>, Error> {
        let entry = self.entry(object)?;
        let Some(version) = entry.version().filter(|_| entry.attributes().kind == Kind::File) else {
            return Ok(Some(Refused::NotAFile));
        };
        if let Some(with) = self.pinned_with(&entry)? {
            return Ok(Some(Refused::Pinned(self.path_in_words(with)?)));
        }
        let Some(upstream) = self.demand.upstream() else { return Ok(Some(Refused::NoUpstream)) };
        // What waits for its digest, the upstream can't have.
        let has_it = upstream.is_safe_to_evict(object, version);
        Ok((!has_it).then(|| Refused::NotAcknowledged(upstream.describe())))
    }

    /// Marks a file as absent whose bytes are to go.
    fn mark_evicted(&self, object: ObjectId) -> Result<Marked, Error> {
        let before = self.entry(object)?;
        if before.absent || before.attributes().size == 0 && before.attributes().kind == Kind::File {
            return Ok(Marked::Absent);
        }
        if self.opens.is_open(object) {
            return Ok(Marked::Refused(if self.opens.writers(object) > 0 {
                Refused::Written
            } else {
                Refused::Open
            }));
        }
        // Asked before the order is taken: it is not known how long the answer takes.
        if let Some(why) = self.is_kept(object)? {
            return Ok(Marked::Refused(why));
        }
        let mut order = self.begin_when_full()?;
        let (met, reach) = self.reach_in_order(&mut order, object)?;
        let is_as_before = met.entry.version() == before.version() && met.is_current() && !met.entry.lost;
        let Some(version) = met.entry.version().filter(|_| is_as_before && !self.is_nameless(&met.entry))
        else {
            return Ok(Marked::Refused(Refused::Written));
        };
        // Who opens it notes that first, and then looks whether it is absent.
        self.index.set_lacking(object, Lacking::Absent)?;
        let file = host::reopen(reach.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)?;
        drop(reach);
        if self.opens.is_open(object) || !host::has_no_users(file.as_fd()) {
            self.index.set_lacking(object, Lacking::Nothing)?;
            return Ok(Marked::Refused(Refused::Open));
        }
        self.evictions.note(object);
        xattr::mark_absent_whatever(file.as_fd())?;
        self.index.met(object, None, host::stat(file.as_fd())?.attributes.ctime)?;
        Ok(Marked::Done(version, met.entry.attributes().size))
    }

    /// After a kill: of those that were evicted, some have their bytes again, which is no change of theirs.
    pub(crate) fn settle_evicted(&self, evicted: &[ObjectId]) -> Result<(), Error> {
        for object in evicted {
            let Some(entry) = self.index.entry(*object)?.filter(|entry| !self.is_nameless(entry)) else {
                continue;
            };
            let Ok(reach) = self.reach(&entry) else { continue };
            let stat = host::stat(reach.as_fd())?;
            if is_inode_of(&entry, &stat) && !xattr::is_lost(reach.as_fd()) {
                self.index.set_lacking(*object, Lacking::Nothing)?;
                self.settle_copied(&entry, reach.as_fd(), &stat)?;
            }
        }
        Ok(())
    }

    /// Takes the bytes of a file that is marked; false where it has others by now, or needs them again.
    fn drop_bytes(&self, object: ObjectId, version: DataVersion) -> Result<bool, Error> {
        let order = self.begin_when_full()?;
        let Some(entry) = self.index.entry(object)? else { return Ok(false) };
        let is_marked = entry.absent && entry.version() == Some(version);
        if !is_marked || self.demand.is_filling(object) || self.opens.writers(object) > 0 {
            return Ok(false);
        }
        let reach = self.reach(&entry)?;
        if !is_inode_of(&entry, &host::stat(reach.as_fd())?) {
            return Ok(false);
        }
        let to = host::reopen(reach.as_fd(), OFlags::RDWR)?;
        xattr::mark_absent_whatever(to.as_fd())?;
        host::with_set_id_rights(true, || {
            host::clear(to.as_fd(), 0, entry.attributes().size)?;
            finish_but_data(to.as_fd(), &entry.state, true)
        })?;
        xattr::mark_absent(to.as_fd(), &host::stat(to.as_fd())?.attributes)?;
        self.index.met(object, None, host::stat(to.as_fd())?.attributes.ctime)?;
        self.outdated.add_object(object);
        drop(order);
        Ok(true)
    }
}
