//! Versions of files' data: whether they can still be had, where, and their bytes.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use mezzo_core::id::DataVersion;
use mezzo_core::tree::Tree;
use mezzo_core::{Attributes, Data, Kind, ObjectId, Time};
use rustix::fs::{MemfdFlags, OFlags};

use crate::attic::NOTED_WITHIN_SECONDS;
use crate::attic::ranges::{Chain, ChainEnd, chain, restore};
use crate::host;
use crate::index::Index;
use crate::reintegrate::open_beneath;

/// Times that the bytes of a file are copied where somebody goes on writing to it.
const TRIES: usize = 8;

const REPLACED: &str = "it was replaced since, and what it was before is not kept";

/// Where data may still be.
#[derive(Debug, Default)]
pub struct Source {
    /// The tree whose log it is.
    pub root: Option<OwnedFd>,
    /// Its attic.
    pub attic: Option<PathBuf>,
}

/// A file as a log has it after its last record.
pub struct FileThere {
    /// Its attributes.
    pub attributes: Attributes,
    /// Its data.
    pub data: Option<Data>,
    /// One of its paths.
    pub path: Vec<u8>,
}

/// What a log says of files after its last record.
pub trait Files {
    /// The file; `None` where there is none.
    fn file(&self, id: ObjectId) -> io::Result<Option<FileThere>>;
}

impl Files for Tree {
    fn file(&self, id: ObjectId) -> io::Result<Option<FileThere>> {
        let Some(object) = self.object(id) else { return Ok(None) };
        let state = object.state();
        let (attributes, data) = (state.attributes, state.data);
        Ok(self.path(id).map(|path| FileThere { attributes, data, path }))
    }
}

impl Files for Index {
    fn file(&self, id: ObjectId) -> io::Result<Option<FileThere>> {
        let entry = self.entry(id).map_err(io::Error::other)?.filter(|entry| !entry.places.is_empty());
        let Some(entry) = entry else { return Ok(None) };
        let path = self.path(id).map_err(io::Error::other)?;
        Ok(Some(FileThere { attributes: *entry.attributes(), data: entry.state.data, path }))
    }
}

/// What can be had, or why it can't.
pub type Had<T> = Result<T, &'static str>;

/// Where a version can be had from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The file in the tree has it.
    Tree,
    /// The attic has it, whole or what leads to it.
    Attic,
}

/// Where `version` of the data of object `id` can be had. `last` tells of the files after the last record.
pub fn kept(last: &dyn Files, id: ObjectId, version: DataVersion, source: &Source) -> io::Result<Had<Kept>> {
    Ok(find(last, id, version, source)?.map(|found| match found.chain {
        Some(Chain { end: ChainEnd::Version(_), ranges }) if ranges.is_empty() => Kept::Tree,
        None => Kept::Tree,
        Some(_) => Kept::Attic,
    }))
}

/// All `size` bytes of `version` of the data of object `id`, in memory. `last` tells of the files after the last record.
pub fn read(
    last: &dyn Files,
    (id, version): (ObjectId, DataVersion),
    size: u64,
    source: &Source,
) -> io::Result<Had<Vec<u8>>> {
    if size == 0 {
        return Ok(Ok(Vec::new()));
    }
    let copy: File = rustix::fs::memfd_create("version", MemfdFlags::CLOEXEC)?.into();
    if let Err(why) = self::copy(last, (id, version), size, source, copy.as_fd())? {
        return Ok(Err(why));
    }
    let mut bytes = Vec::new();
    (&copy).rewind()?;
    (&copy).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}

/// Copies all `size` bytes of `version` of the data of object `id` to the file `to`, in place of what it holds. `last` tells of
/// the files after the last record. Where they can't be had, `to` may hold anything afterwards.
///
/// Somebody may be writing to the file: as each range is kept before it changes, it is right to copy what has the rest first,
/// unless that was kept in another way meanwhile.
pub fn copy(
    last: &dyn Files,
    (id, version): (ObjectId, DataVersion),
    size: u64,
    source: &Source,
    to: BorrowedFd<'_>,
) -> io::Result<Had<()>> {
    for _ in 0..TRIES {
        let found = match find(last, id, version, source)? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let before = mtime(&found)?;
        let is_whole = put_together(&found, size, to)?;
        let is_written = found.is_newest && mtime(&found)? != before;
        let still = source.attic.as_deref().map(|attic| chain(attic, version)).transpose()?;
        let is_same = match (&still, &found.chain) {
            (Some(still), Some(was)) => still.is_as(was),
            (still, was) => still.is_none() && was.is_none(),
        };
        if is_same && !is_written {
            return Ok(if is_whole { Ok(()) } else { Err("what is kept of it is damaged") });
        }
    }
    Ok(Err("it is written again and again"))
}

/// The file that has all of `version` of the data of object `id` and nothing else; `None` where several have parts of it. Others
/// may write to it.
pub(crate) fn open(
    last: &dyn Files,
    id: ObjectId,
    version: DataVersion,
    source: &Source,
) -> io::Result<Had<Option<OwnedFd>>> {
    Ok(find(last, id, version, source)?.map(|found| {
        let is_in_parts = found.chain.is_some_and(|chain| !chain.ranges.is_empty());
        found.file.filter(|_| !is_in_parts)
    }))
}

fn mtime(found: &Found) -> io::Result<Option<Time>> {
    found.file.as_ref().map(|file| Ok(host::stat(file.as_fd())?.attributes.mtime)).transpose()
}

/// Where a version of data still is.
struct Found {
    /// All of its bytes but those of the ranges; `None` where these are all.
    file: Option<OwnedFd>,
    /// The file is the one in the tree, and must stay as it is.
    is_newest: bool,
    /// Where its bytes are in the attic.
    chain: Option<Chain>,
}

/// Where a version of data still is: in the attic, or in the tree where it is the newest; or why it is nowhere.
fn find(
    last: &dyn Files,
    id: ObjectId,
    version: DataVersion,
    source: &Source,
) -> io::Result<Result<Found, &'static str>> {
    let chain = source.attic.as_deref().map(|attic| chain(attic, version)).transpose()?;
    let newest = match chain.as_ref().map(|chain| &chain.end) {
        Some(ChainEnd::Kept(path)) => match host::open_regular(path) {
            Ok(file) => return Ok(Ok(Found { file: Some(file.into()), is_newest: false, chain })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(REPLACED)),
            Err(error) => return Err(error),
        },
        Some(ChainEnd::Nothing) => return Ok(Ok(Found { file: None, is_newest: false, chain })),
        Some(ChainEnd::File { written }) => Err(*written),
        Some(ChainEnd::Version(version)) => Ok(*version),
        None => Ok(version),
    };
    let Some(root) = &source.root else { return Ok(Err("the log is alone: there is no tree beside it")) };
    let is_newest = |data: Option<Data>| newest.is_err() || data.map(|data| data.version) == newest.ok();
    let there = last.file(id)?.filter(|there| is_newest(there.data));
    let Some(FileThere { attributes: told, path, .. }) = there else {
        return Ok(Err(REPLACED));
    };
    let file = match open_beneath(root, &path, OFlags::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err("it is not in the tree, though the log has it there"));
        }
        file => file?,
    };
    if host::xattr::is_absent(file.as_fd()) {
        return Ok(Err("its bytes are not here"));
    }
    if host::xattr::is_lost(file.as_fd()) {
        return Ok(Err("it was lost with the power"));
    }
    let found = host::stat(file.as_fd())?.attributes;
    let is_as_told = match newest {
        Ok(_) => (found.size, found.mtime) == (told.size, told.mtime),
        Err(written) => found.mtime.seconds <= written.saturating_add(NOTED_WITHIN_SECONDS),
    };
    if found.kind != Kind::File || !is_as_told {
        return Ok(Err("the file in the tree was changed since, and that is not recorded yet"));
    }
    let file = Some(host::reopen(file.as_fd(), OFlags::RDONLY)?);
    Ok(Ok(Found { file, is_newest: newest.is_ok(), chain }))
}

/// Copies a version of `size` bytes to `to`; false where what is kept of it is not whole.
fn put_together(from: &Found, size: u64, to: BorrowedFd<'_>) -> io::Result<bool> {
    // To cut a file that is empty would have ext4 write it out when it is closed.
    if host::stat(to)?.attributes.size > 0 {
        host::set_size(to, 0)?;
    }
    if let Some(file) = &from.file
        && host::reflink(file.as_fd(), to).is_err()
    {
        host::copy_range(file.as_fd(), to, 0, size)?;
    }
    let mut is_whole = true;
    // The newest first, so that the oldest have the last word.
    for path in from.chain.iter().flat_map(|chain| chain.ranges.iter().rev()) {
        is_whole &= restore(path, to, size)?;
    }
    if host::stat(to)?.attributes.size != size {
        host::set_size(to, size)?;
    }
    Ok(is_whole)
}
