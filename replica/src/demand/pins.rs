//! What is to be here: objects that are pinned, with all that is below them.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;

use mezzo_core::{ObjectId, Origin};
use parking_lot::RwLock;

use crate::Error;
use crate::fileset::own_path;
use crate::host::write_whole;
use crate::index::Entry;
use crate::replica::Replica;

const FILE: &str = "pins";

/// Objects that may be pinned: a line of 34 bytes each, read at each start and written at each change.
const MOST: usize = 65_536;

const HEADING: &str =
    "# Objects whose data is to be here, with all that is below. mezzo pin and mezzo unpin change it.\n";

/// Objects that are pinned. Held by the replica.
#[derive(Debug, Default)]
pub(crate) struct Pins(RwLock<HashSet<ObjectId>>);

/// A pin can't be set or taken away.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is not pinned itself; what it is pinned with.
    #[error("it is pinned with {0}, above it")]
    Above(String),
    /// It is not pinned at all.
    #[error("it is not pinned")]
    NotPinned,
    /// There are too many.
    #[error("{MOST} objects are pinned already")]
    TooMany,
    /// It could not be written or looked up.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A pin, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// What is pinned.
    pub object: ObjectId,
    /// Where it is; `None` where it is in the tree no more.
    pub path: Option<Vec<u8>>,
}

impl Pins {
    /// Reads those of the fileset whose `.mezzo` is `own`.
    pub fn open(own: BorrowedFd<'_>) -> io::Result<Pins> {
        let text = match std::fs::read_to_string(own_path(own, FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let parsed: Option<HashSet<ObjectId>> =
            lines.take(MOST).map(|line| Some(ObjectId(line.parse::<Origin>().ok()?))).collect();
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a line of .mezzo/pins is no object's id");
        Ok(Pins(RwLock::new(parsed.ok_or_else(wrong)?)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    fn has(&self, object: ObjectId) -> bool {
        self.0.read().contains(&object)
    }

    fn all(&self) -> Vec<ObjectId> {
        let mut all: Vec<ObjectId> = self.0.read().iter().copied().collect();
        all.sort_unstable();
        all
    }

    /// Changes them, durably when it returns.
    fn change(&self, own: BorrowedFd<'_>, change: impl FnOnce(&mut HashSet<ObjectId>)) -> io::Result<()> {
        let mut pins = self.0.write();
        let mut changed = pins.clone();
        change(&mut changed);
        let mut sorted: Vec<ObjectId> = changed.iter().copied().collect();
        sorted.sort_unstable();
        let lines: String = sorted.iter().map(|object| format!("{object}\n")).collect();
        write_whole(own, FILE, format!("{HEADING}{lines}").as_bytes())?;
        *pins = changed;
        Ok(())
    }
}

impl Replica {
    /// Pins an object: its data, and that of all that is or will be below it, is brought, and not evicted. Durable when it returns.
    pub fn pin(&self, object: ObjectId) -> Result<(), PinError> {
        if self.pins.0.read().len() >= MOST && !self.pins.has(object) {
            // Those that are gone make room: until then an undo that brings one back finds its pin.
            let gone: Vec<ObjectId> = self
                .pins
                .all()
                .into_iter()
                .filter(|pin| matches!(self.index.entry(*pin), Ok(None)))
                .collect();
            if gone.is_empty() {
                return Err(PinError::TooMany);
            }
            let remove = |pins: &mut HashSet<ObjectId>| pins.retain(|pin| !gone.contains(pin));
            self.pins.change(self.fileset().own(), remove).map_err(Error::from)?;
        }
        let add = |pins: &mut HashSet<ObjectId>| {
            pins.insert(object);
        };
        self.pins.change(self.fileset().own(), add).map_err(Error::from)?;
        self.demand.look_again();
        Ok(())
    }

    /// Takes a pin away. Durable when it returns.
    pub fn unpin(&self, object: ObjectId) -> Result<(), PinError> {
        if !self.pins.has(object) {
            let entry = self.entry(object)?;
            return Err(match self.pinned_with(&entry)? {
                Some(above) => PinError::Above(self.path_in_words(above)?),
                None => PinError::NotPinned,
            });
        }
        let remove = |pins: &mut HashSet<ObjectId>| {
            pins.remove(&object);
        };
        Ok(self.pins.change(self.fileset().own(), remove).map_err(Error::from)?)
    }

    /// How many objects are pinned.
    pub fn count_pins(&self) -> usize {
        self.pins.0.read().len()
    }

    /// Whether the entry is pinned, or what it is below of.
    pub fn is_pinned(&self, entry: &Entry) -> Result<bool, Error> {
        Ok(self.pinned_with(entry)?.is_some())
    }

    /// What is pinned, sorted by path; what is gone comes last.
    pub fn pins(&self) -> Result<Vec<Pinned>, Error> {
        let mut pinned = Vec::new();
        for object in self.pins.all() {
            let is_here = self.index.entry(object)?.is_some();
            let path = is_here.then(|| self.index.path(object)).transpose()?;
            pinned.push(Pinned { object, path });
        }
        pinned.sort_by(|a, b| (a.path.is_none(), &a.path).cmp(&(b.path.is_none(), &b.path)));
        Ok(pinned)
    }

    /// The pinned object that the entry is, or is below of by any of its names.
    pub(super) fn pinned_with(&self, entry: &Entry) -> Result<Option<ObjectId>, Error> {
        if self.pins.is_empty() {
            return Ok(None);
        }
        if self.pins.has(entry.object) {
            return Ok(Some(entry.object));
        }
        for place in &entry.places {
            let mut at = place.parent;
            // A chain of parents is as long as the tree is deep; more steps than objects would be a circle.
            for _ in 0..=self.index.objects() {
                if self.pins.has(at) {
                    return Ok(Some(at));
                }
                let above = self.index.entry(at)?.and_then(|entry| Some(entry.places.first()?.parent));
                match above {
                    Some(above) => at = above,
                    None => break,
                }
            }
        }
        Ok(None)
    }

    pub(super) fn path_in_words(&self, object: ObjectId) -> Result<String, Error> {
        let path = self.index.path(object)?;
        Ok(if path.is_empty() { "the whole fileset".to_owned() } else { mezzo_core::name::escape(&path) })
    }
}
