//! The process that the replicas are in: it does a history, or opens what is left of one and looks at it. Its host may end it at any
//! step.

mod check;
mod perform;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mezzo_core::record::Displaced;
use mezzo_core::{Change, ObjectId, Recno, Record, Time};
use mezzo_replica::host::StandIn;
use mezzo_replica::log::Reader;
use serde::{Deserialize, Serialize};

use crate::host::SYNC;
use crate::page::Page;

pub use check::check;
pub use perform::perform;

/// What is asked of it, as one line of JSON on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Makes replicas and does the operations, which count from 1, with them.
    Perform { replicas: usize, history: Vec<String> },
    /// Opens the replicas after a crash amid operation `at` of the history that `facts` tell of.
    Check { facts: Facts, at: usize, loss: bool },
}

/// The operation as which replicas are made: before all others.
pub const MAKING: u64 = 0;

/// The operation as which what was left is opened and put in order; none of a history has this number.
pub const RECOVERY: u64 = 1 << 32;

/// The operation as which it is looked at.
pub const LOOKING: u64 = RECOVERY + 1;

/// What came of a history that nothing interrupted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The records of each replica's log.
    pub records: Vec<Vec<Told>>,
    /// After each operation, the first element before all: the last record of each replica.
    pub last: Vec<Vec<u64>>,
    /// What was promised to be durable, by whom, and after which operation.
    pub promises: Vec<Promise>,
    /// The operations that have a journal: those that take records back, or from another replica.
    pub journaled: Vec<usize>,
    /// Whether a replica could not take another's records.
    pub conflicts: bool,
}

/// A record as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// A hash of all of it.
    pub digest: u64,
    /// The word for its change.
    pub kind: String,
    /// The objects that it is about.
    pub objects: Vec<String>,
    /// Whether it takes another back.
    pub undoes: bool,
    /// Whether it brings bytes.
    pub brings: bool,
}

/// A replica has said that all is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub replica: usize,
    pub operation: usize,
    pub last: u64,
    /// Every file by its id, with a hash of its mode and bytes.
    pub files: Vec<(String, u64)>,
}

static PAGE: OnceLock<Page> = OnceLock::new();

/// The page that is shared with the host.
pub fn page() -> &'static Page {
    PAGE.get().expect("the page is there before anything else")
}

/// Whether this is the replicas' process.
pub fn is_here() -> bool {
    PAGE.get().is_some()
}

/// Makes the host's clock and the rest of what is no file this process's own.
pub fn settle(page: Page) {
    let _ = PAGE.set(page);
    StandIn { now, process: 1, random, sync }.install();
}

fn now() -> Time {
    let (seconds, nanoseconds) = page().now();
    Time::new(seconds, nanoseconds)
}

fn random(bytes: &mut [u8]) {
    bytes
        .chunks_mut(8)
        .for_each(|bytes| bytes.copy_from_slice(&page().random().to_le_bytes()[..bytes.len()]));
}

fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the command has no argument.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(SYNC), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where replica `number` is.
fn place(host: &Path, number: usize) -> PathBuf {
    host.join(format!("r{number}"))
}

fn records(path: &Path) -> Result<Vec<Record>, String> {
    let reader = Reader::open(&path.join(".mezzo/kml")).map_err(|error| error.to_string())?;
    reader.from(Recno(1)).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

impl Told {
    fn of(record: &Record) -> Told {
        Told {
            digest: digest(format!("{record:?}").as_bytes()),
            kind: record.change.kind().to_owned(),
            objects: objects(&record.change).iter().map(ObjectId::to_string).collect(),
            undoes: matches!(record.change, Change::UndoOf { .. }),
            brings: brings(&record.change),
        }
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash is longer"))
}

/// Whether a change brings bytes to a file.
fn brings(change: &Change) -> bool {
    match change {
        Change::Make { state, .. } => state.data.is_some() && state.attributes.size > 0,
        Change::Setattr { data, .. } => data.is_some(),
        Change::Close { .. } => true,
        Change::UndoOf { change, .. } => brings(change),
        _ => false,
    }
}

/// The objects that a change is about, but for directories whose entries it changes.
fn objects(change: &Change) -> Vec<ObjectId> {
    match change {
        Change::Make { object, .. }
        | Change::Link { object, .. }
        | Change::Setattr { object, .. }
        | Change::Xattr { object, .. }
        | Change::Close { object, .. } => vec![*object],
        Change::Remove { removed, .. } => vec![removed.object],
        Change::Rename { object, displaced, .. } => match displaced {
            Displaced::Replaced(removed) => vec![*object, removed.object],
            Displaced::Exchanged { object: other, .. } => vec![*object, *other],
            _ => vec![*object],
        },
        Change::UndoOf { change, .. } => objects(change),
        _ => Vec::new(),
    }
}
