//! Digests of data, made after the fact: a close is recorded at once, and what it closed is hashed when the file has been
//! left alone for a while. Data that is overtaken meanwhile is never hashed.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mezzo_core::id::DataVersion;
use mezzo_core::{Change, ObjectId};
use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::Error;
use crate::fileset::Digests;
use crate::host;
use crate::index::Local;
use crate::meet::Met;
use crate::perform::Caller;
use crate::replica::Replica;
use crate::verify::digest_of;

/// How long a file is left alone before it is hashed: builds write most files more than once.
const LEFT_ALONE: Duration = Duration::from_secs(3);

/// Versions that may wait, of 40 bytes each; what comes beyond that is hashed when something asks for it.
const WAITING: usize = 256 << 10;

/// Versions of data that wait to be hashed, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<VecDeque<(Instant, ObjectId, DataVersion)>>);

impl Waiting {
    /// Takes note of data that a record told of without its digest.
    pub fn add(&self, change: &Change) {
        let (object, data) = match change {
            Change::Close { object, data, .. } => (*object, data.after),
            Change::Setattr { object, data: Some(data), .. } => (*object, data.after),
            _ => return,
        };
        let mut waiting = self.0.lock();
        if data.digest.is_none() && waiting.len() < WAITING {
            waiting.push_back((Instant::now(), object, data.version));
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn due(&self, now: Instant) -> Option<(ObjectId, DataVersion)> {
        let mut waiting = self.0.lock();
        let (since, object, version) = waiting.front().copied()?;
        if now.duration_since(since) < LEFT_ALONE {
            return None;
        }
        waiting.pop_front();
        Some((object, version))
    }
}

impl Replica {
    /// Hashes data that has been left alone, for about as long as `budget`; at least one file, which may take longer.
    pub fn make_digests(&self, budget: Duration) -> Result<(), Error> {
        if self.fileset().config.digests == Digests::Demand {
            return Ok(());
        }
        let began = Instant::now();
        while let Some((object, version)) = self.waiting.due(Instant::now()) {
            match self.make_digest(object, version) {
                Err(Error::Gone) => {}
                made => made?,
            }
            if began.elapsed() > budget {
                break;
            }
        }
        Ok(())
    }

    /// Versions of data that wait to be hashed.
    pub fn digests_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Hashes one version, unless it was overtaken, and records the digest, unless it was overtaken meanwhile.
    fn make_digest(&self, object: ObjectId, version: DataVersion) -> Result<(), Error> {
        if !self.is_settled(object, version)? {
            return Ok(());
        }
        let file = self.open_data(object, OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK)?;
        let before = Met { entry: self.entry(object)?, stat: host::stat(file.as_fd())? };
        if !before.is_current() {
            return Ok(());
        }
        let digest = digest_of(&file)?;
        let mut order = self.begin()?;
        let after = Met { entry: self.entry(object)?, stat: host::stat(file.as_fd())? };
        if after.is_current() && self.is_settled(object, version)? {
            let size = after.stat.attributes.size;
            let change = Change::Digest { object, version, size, digest };
            self.commit(&mut order, &Caller::program(), change, Local::default())?;
        }
        Ok(())
    }

    fn is_settled(&self, object: ObjectId, version: DataVersion) -> Result<bool, Error> {
        let entry = self.entry(object)?;
        Ok(entry.version() == Some(version)
            && !entry.lost
            && !self.is_nameless(&entry)
            && self.opens.writers(object) == 0)
    }
}
