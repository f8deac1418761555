//! A log done again on an empty directory, with the data that it tells of brought from where it still is.
//!
//! Records come first, each with its sizes; then the bytes of what is left, so that a file which was written many times, or
//! removed again, moves nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mezzo_core::id::DataVersion;
use mezzo_core::tree::Tree;
use mezzo_core::{Kind, ObjectId, Recno};
use rustix::fs::OFlags;

use crate::host;
use crate::log::{LogError, Reader};
use crate::past::{PastError, begins_at_first};
use crate::reintegrate::{Bare, ReintegrateError, finish};
use crate::versions::{self, Had, Source};

/// Which records of a log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// The first; the directory is as the records before it made it.
    pub from: Option<Recno>,
    /// The last.
    pub to: Option<Recno>,
}

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Records that were done.
    pub records: u64,
    /// Files whose bytes were brought.
    pub files: u64,
    /// Bytes that were brought, holes apart.
    pub bytes: u64,
    /// Files that have their size and not their bytes, by path, and why.
    pub without_data: Vec<(Vec<u8>, &'static str)>,
}

/// A replay failed. What it did so far is there.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record could not be done.
    #[error(transparent)]
    Record(#[from] ReintegrateError),
    /// What was before the first record wanted can't be told.
    #[error(transparent)]
    Past(#[from] PastError),
    /// There is nothing to restore.
    #[error("nothing stood there after record {0}")]
    Nothing(Recno),
    /// Bytes could not be brought.
    #[error("could not bring the data of {path}: {cause}")]
    Data {
        /// Whose.
        path: String,
        /// Why.
        cause: io::Error,
    },
}

/// Does the records of `log` in `range` on `target`, and brings data from `source`. `progress` is called now and then with
/// how many records, or files after that, are done.
pub fn replay(
    log: &Reader,
    range: Range,
    target: OwnedFd,
    source: &Source,
    progress: &mut dyn FnMut(u64),
) -> Result<Replayed, ReplayError> {
    begins_at_first(log)?;
    let (from, to) = (range.from.unwrap_or(Recno(1)), range.to.unwrap_or(Recno(u64::MAX)));
    let mut records = log.from(Recno(1));
    let mut tree = Tree::new();
    let mut replayed = Replayed::default();
    let mut next = None;
    for record in records.by_ref() {
        let record = record?;
        if record.recno >= from {
            next = Some(record);
            break;
        }
        tree.apply(&record).map_err(PastError::from)?;
    }
    let mut bare = Bare::new(target, tree);
    let mut later = None;
    for record in next.into_iter().map(Ok).chain(records.by_ref()) {
        let record = record?;
        if record.recno > to {
            later = Some(record);
            break;
        }
        bare.apply(&record)?;
        replayed.records += 1;
        if replayed.records.is_multiple_of(1000) {
            progress(replayed.records);
        }
    }
    let wanted = wanted(bare.tree());
    let mut last = bare.tree().clone();
    for record in later.into_iter().map(Ok).chain(records) {
        last.apply(&record?).map_err(PastError::from)?;
    }
    bring(&bare, &last, wanted, source, &mut replayed, progress)?;
    Ok(replayed)
}

/// The files that have bytes.
pub(crate) fn wanted(tree: &Tree) -> HashMap<ObjectId, DataVersion> {
    tree.objects()
        .filter(|(_, object)| {
            object.state().attributes.kind == Kind::File && object.state().attributes.size > 0
        })
        .filter_map(|(id, object)| Some((id, object.state().data?.version)))
        .collect()
}

pub(crate) fn bring(
    bare: &Bare,
    last: &Tree,
    wanted: HashMap<ObjectId, DataVersion>,
    source: &Source,
    replayed: &mut Replayed,
    progress: &mut dyn FnMut(u64),
) -> Result<(), ReplayError> {
    let mut paths: Vec<(Vec<u8>, ObjectId, DataVersion)> =
        wanted.into_iter().filter_map(|(id, version)| Some((bare.tree().path(id)?, id, version))).collect();
    paths.sort();
    for (path, id, version) in paths {
        let failed = |cause| ReplayError::Data { path: mezzo_core::name::escape(&path), cause };
        match bring_one(bare, last, (id, version), source).map_err(failed)? {
            Ok(bytes) => {
                replayed.bytes += bytes;
                replayed.files += 1;
                if replayed.files.is_multiple_of(100) {
                    progress(replayed.files);
                }
            }
            Err(reason) => replayed.without_data.push((path, reason)),
        }
    }
    Ok(())
}

/// Brings the bytes of one file, or tells why they are nowhere.
fn bring_one(
    bare: &Bare,
    last: &Tree,
    (id, version): (ObjectId, DataVersion),
    source: &Source,
) -> io::Result<Had<u64>> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let object = bare.open_object(id)?.ok_or_else(missing)?;
    let state = bare.tree().object(id).ok_or_else(missing)?.state();
    let size = state.attributes.size;
    let to = host::reopen(object.as_fd(), OFlags::WRONLY)?;
    let copied = versions::copy(last, (id, version), size, source, to.as_fd())?;
    // Writing took away what it takes away from any file.
    finish(object.as_fd(), state)?;
    Ok(copied.map(|()| size))
}
