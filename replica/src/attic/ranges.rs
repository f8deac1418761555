//! A version of a file's data that is kept by the ranges in which what came after it differs: the file in the attic.
//!
//! ```text
//! at 0     96 bytes   head: magic (8), object (16), version (16), bytes of the version (8), when the file was last written,
//!                     in seconds (8), state (1), 7 reserved, the version it is told against (16), bytes of the entries (8),
//!                     4 reserved, CRC32C of all before (4)
//! at 96    entries    where in the version (8), length (8), kind (1: 1 bytes, 2 zeros), 7 reserved, CRC32C of the bytes (4),
//!                     CRC32C of all before (4); then the bytes
//! ```
//!
//! Numbers are little-endian. Entries are appended, each before the file's own bytes change there; a range is kept once, so
//! that no two entries overlap. While the file is being written, the first entry that is not whole ends the file: what it
//! was to keep had not been changed yet. Once nobody writes any more, the head tells how many bytes of entries there are, and
//! all of them must be whole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mezzo_core::id::DataVersion;
use mezzo_core::{ObjectId, Origin, Recno, ReplicaId};

use super::Form;
use crate::host;

const MAGIC: [u8; 8] = *b"MZRNG\x01\0\0";
const HEAD_BYTES: usize = 96;
const ENTRY_BYTES: usize = 32;

/// Bytes of a range that are kept at once. Longer ones become several entries.
pub(super) const LONGEST: u64 = 1 << 20;

/// Versions that one may be told against another in a row. Each is a file in the attic, and bounds drop the oldest.
const CHAIN: usize = 1 << 16;

/// What a version is read from, apart from its own ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// From the file, which is being written, or was when the program ended.
    Open,
    /// From this version. `durable`: all of it is on disk, so that a power loss takes nothing of it.
    Against { version: DataVersion, durable: bool },
    /// From nothing: all of it is kept.
    Alone { durable: bool },
    /// From the file, which lost its last name while it was open, and is in the attic under the version's name.
    Removed { durable: bool },
}

/// What the front of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whose data it is.
    pub object: ObjectId,
    /// Which.
    pub version: DataVersion,
    /// Its size.
    pub size: u64,
    /// Seconds since 1970: the file was not written through the mount much later.
    pub written: i64,
    pub state: State,
    /// Bytes of the entries; unknown while it is open.
    pub entries: u64,
}

impl State {
    /// Whether a power loss would take it, though nobody writes any more.
    pub fn settles(self) -> bool {
        self.durable().is_some_and(|durable| durable != self)
    }

    /// The same, once all of it is on disk; `None` while it is open.
    pub fn durable(self) -> Option<State> {
        let durable = true;
        match self {
            State::Open => None,
            State::Against { version, .. } => Some(State::Against { version, durable }),
            State::Alone { .. } => Some(State::Alone { durable }),
            State::Removed { .. } => Some(State::Removed { durable }),
        }
    }
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let (state, against) = match self.state {
            State::Open => (0, None),
            State::Against { version, durable } => (if durable { 2 } else { 1 }, Some(version.0)),
            State::Removed { durable } => (if durable { 4 } else { 3 }, None),
            State::Alone { durable } => (if durable { 6 } else { 5 }, None),
        };
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        put_origin(&mut bytes[8..24], self.object.0);
        put_origin(&mut bytes[24..40], self.version.0);
        bytes[40..48].copy_from_slice(&self.size.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.written.to_le_bytes());
        bytes[56] = state;
        put_origin(&mut bytes[64..80], against.unwrap_or_default());
        bytes[80..88].copy_from_slice(&self.entries.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..92]);
        bytes[92..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
        let whole = bytes[..8] == MAGIC && crc32c::crc32c(&bytes[..92]) == u32_at(bytes, 92);
        let version = DataVersion(origin_at(bytes, 64));
        let state = match bytes[56] {
            0 => State::Open,
            state @ 1..=2 => State::Against { version, durable: state == 2 },
            state @ 3..=4 => State::Removed { durable: state == 4 },
            state @ 5..=6 => State::Alone { durable: state == 6 },
            _ => return None,
        };
        whole.then(|| Head {
            object: ObjectId(origin_at(bytes, 8)),
            version: DataVersion(origin_at(bytes, 24)),
            size: u64_at(bytes, 40),
            written: u64_at(bytes, 48) as i64,
            state,
            entries: u64_at(bytes, 80),
        })
    }

    /// Writes it over the one that is there. Its bytes are within one sector.
    pub fn write(self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.to_bytes(), 0)
    }

    /// Reads it; `None` where there is no good one.
    pub fn read(file: &File) -> io::Result<Option<Head>> {
        let mut bytes = [0; HEAD_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| Head::from_bytes(&bytes)),
        }
    }
}

/// One entry's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    length: u64,
    /// Checksum of the bytes that follow; `None` where zeros are meant, and none follow.
    bytes: Option<u32>,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16] = if self.bytes.is_some() { 1 } else { 2 };
        bytes[24..28].copy_from_slice(&self.bytes.unwrap_or(0).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Option<Entry> {
        let checksum = match bytes[16] {
            1 => Some(u32_at(bytes, 24)),
            2 => None,
            _ => return None,
        };
        let entry = Entry { offset: u64_at(bytes, 0), length: u64_at(bytes, 8), bytes: checksum };
        let long = entry.bytes.is_some() && entry.length > LONGEST;
        (crc32c::crc32c(&bytes[..28]) == u32_at(bytes, 28) && !long).then_some(entry)
    }
}

fn put_origin(bytes: &mut [u8], origin: Origin) {
    bytes[..8].copy_from_slice(&origin.replica.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&origin.recno.0.to_le_bytes());
}

fn origin_at(bytes: &[u8], at: usize) -> Origin {
    Origin::new(ReplicaId(u64_at(bytes, at)), Recno(u64_at(bytes, at + 8)))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Appends entries to a file that is being made.
#[derive(Debug)]
pub(super) struct Writer {
    pub file: File,
    /// Bytes of the entries so far.
    pub entries: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// Writes to `file`, which has a head and no entries.
    pub fn new(file: File) -> Writer {
        Writer { file, entries: 0, buffer: Vec::new() }
    }

    /// Appends what `from` has in `range`.
    pub fn keep(&mut self, from: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let data = host::next_data(from, at)?.unwrap_or(range.end).min(range.end);
            if data > at {
                self.append(Entry { offset: at, length: data - at, bytes: None })?;
            }
            let end = host::next_hole(from, data, range.end)?.min(data.saturating_add(LONGEST));
            self.keep_bytes(from, data..end)?;
            at = end;
        }
        Ok(())
    }

    fn keep_bytes(&mut self, from: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let length = (range.end - range.start) as usize;
        self.buffer.resize(ENTRY_BYTES + length, 0);
        let mut filled = 0;
        while filled < length {
            let read = rustix::io::pread(
                from,
                &mut self.buffer[ENTRY_BYTES + filled..],
                range.start + filled as u64,
            )?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        let checksum = crc32c::crc32c(&self.buffer[ENTRY_BYTES..]);
        let head = Entry { offset: range.start, length: length as u64, bytes: Some(checksum) };
        self.buffer[..ENTRY_BYTES].copy_from_slice(&head.to_bytes());
        self.file.write_all_at(&self.buffer, HEAD_BYTES as u64 + self.entries)?;
        self.entries += self.buffer.len() as u64;
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        self.file.write_all_at(&entry.to_bytes(), HEAD_BYTES as u64 + self.entries)?;
        self.entries += ENTRY_BYTES as u64;
        Ok(())
    }
}

/// Gives `to`, which holds what the version is told against, the bytes of the version where they differ, up to `size`. False
/// where an entry that must be there is not whole.
pub(crate) fn restore(path: &Path, to: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
    let file = match host::open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    restore_from(&file, to, size)
}

/// The same, from the file itself.
pub(crate) fn restore_from(file: &File, to: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
    let Some(head) = Head::read(file)? else { return Ok(false) };
    let ended = head.state != State::Open;
    let mut at = 0;
    let mut bytes = Vec::new();
    while !ended || at < head.entries {
        let Some(entry) = read_entry(file, HEAD_BYTES as u64 + at, &mut bytes)? else {
            return Ok(!ended);
        };
        let end = entry.offset.saturating_add(entry.length).min(size);
        if entry.offset < end {
            let length = end - entry.offset;
            match entry.bytes {
                Some(_) => write_at(to, &bytes[..length as usize], entry.offset)?,
                None => host::clear(to, entry.offset, length)?,
            }
        }
        at += ENTRY_BYTES as u64 + bytes.len() as u64;
    }
    Ok(at == head.entries)
}

/// Bytes of the entries of a file that was left open, as far as they are whole.
pub(super) fn whole_entries(file: &File) -> io::Result<u64> {
    let (mut at, mut bytes) = (0, Vec::new());
    while read_entry(file, HEAD_BYTES as u64 + at, &mut bytes)?.is_some() {
        at += ENTRY_BYTES as u64 + bytes.len() as u64;
    }
    Ok(at)
}

/// The entry that begins at `at`, with its bytes; `None` where there is no whole one.
fn read_entry(file: &File, at: u64, bytes: &mut Vec<u8>) -> io::Result<Option<Entry>> {
    let mut head = [0; ENTRY_BYTES];
    if !read_whole(file, &mut head, at)? {
        return Ok(None);
    }
    let Some(entry) = Entry::from_bytes(&head) else { return Ok(None) };
    bytes.clear();
    if let Some(checksum) = entry.bytes {
        bytes.resize(entry.length as usize, 0);
        if !read_whole(file, bytes, at + ENTRY_BYTES as u64)? || crc32c::crc32c(bytes) != checksum {
            return Ok(None);
        }
    }
    Ok(Some(entry))
}

fn read_whole(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn write_at(to: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(to, &bytes[written..], offset + written as u64)?;
    }
    Ok(())
}

/// How a version is put together: what has all of its bytes but those that the ranges have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// What the last of the ranges is told against.
    pub end: ChainEnd,
    /// Files with ranges, the version's own first. Those behind have older bytes only where it has none.
    pub ranges: Vec<PathBuf>,
}

/// Where a chain of ranges ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChainEnd {
    /// Nowhere: all of it is kept by ranges.
    Nothing,
    /// A file of the attic.
    Kept(PathBuf),
    /// This version, which the attic doesn't have: it must be the newest in the tree.
    Version(DataVersion),
    /// The file in the tree, whatever it holds by now; it was last written about then.
    File {
        /// Seconds since 1970.
        written: i64,
    },
}

impl Chain {
    /// Whether it is the same still.
    pub fn is_as(&self, other: &Chain) -> bool {
        let same_end = match (&self.end, &other.end) {
            (ChainEnd::File { .. }, ChainEnd::File { .. }) => true,
            (end, other) => end == other,
        };
        same_end && self.ranges == other.ranges
    }
}

/// How `version` is put together from what is in `attic`.
pub(crate) fn chain(attic: &Path, version: DataVersion) -> io::Result<Chain> {
    let mut ranges = Vec::new();
    let mut at = version;
    for _ in 0..CHAIN {
        let whole = attic.join(Form::Whole.name(at));
        if whole.exists() {
            return Ok(Chain { end: ChainEnd::Kept(whole), ranges });
        }
        let path = attic.join(Form::Ranges.name(at));
        let head = match host::open_regular(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Head::read(&file?)?,
        };
        let Some(head) = head.filter(|head| head.version == at) else { break };
        ranges.push(path);
        let removed = attic.join(Form::Removed.name(at));
        match head.state {
            State::Against { version, .. } => at = version,
            State::Alone { .. } => return Ok(Chain { end: ChainEnd::Nothing, ranges }),
            _ if removed.exists() => return Ok(Chain { end: ChainEnd::Kept(removed), ranges }),
            // Its file was removed, and is gone.
            State::Removed { .. } => break,
            State::Open => return Ok(Chain { end: ChainEnd::File { written: head.written }, ranges }),
        }
    }
    Ok(Chain { end: ChainEnd::Version(at), ranges })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn head(state: State) -> Head {
        let id = |recno| Origin::new(ReplicaId(7), Recno(recno));
        Head { object: ObjectId(id(1)), version: DataVersion(id(2)), size: 3, written: -4, state, entries: 5 }
    }

    #[test]
    fn a_head_reads_back_and_nothing_else_does() {
        let version = DataVersion(Origin::new(ReplicaId(8), Recno(9)));
        let states = [false, true].map(|durable| {
            [State::Against { version, durable }, State::Alone { durable }, State::Removed { durable }]
        });
        for state in [State::Open].into_iter().chain(states.into_iter().flatten()) {
            let bytes = head(state).to_bytes();
            assert_eq!(Head::from_bytes(&bytes), Some(head(state)));
            for at in 0..HEAD_BYTES {
                let mut damaged = bytes;
                damaged[at] ^= 1;
                assert_eq!(Head::from_bytes(&damaged), None, "byte {at}");
            }
        }
    }

    /// A file of 5 blocks, with a hole in it, whose first and last blocks are kept and then overwritten.
    fn sample(directory: &Path) -> (Vec<u8>, PathBuf, File) {
        let old = [vec![1; 4096], vec![0; 8192], vec![2; 4096], vec![3; 100]].concat();
        let file = directory.join("file");
        let tree = File::options().read(true).write(true).create_new(true).open(&file).unwrap();
        tree.write_all_at(&old[..4096], 0).unwrap();
        tree.write_all_at(&old[12288..], 12288).unwrap();
        let path = directory.join("ranges");
        let mut writer =
            Writer::new(File::options().read(true).write(true).create_new(true).open(&path).unwrap());
        head(State::Open).write(&writer.file).unwrap();
        writer.keep(tree.as_fd(), 0..8192).unwrap();
        writer.keep(tree.as_fd(), 16384..16484).unwrap();
        tree.write_all_at(&[9; 8192], 0).unwrap();
        tree.write_all_at(&[9; 500], 16384).unwrap();
        Head { entries: writer.entries, ..head(State::Removed { durable: false }) }
            .write(&writer.file)
            .unwrap();
        (old, path, tree)
    }

    #[test]
    fn what_was_overwritten_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let (old, path, tree) = sample(directory.path());
        assert!(restore(&path, tree.as_fd(), old.len() as u64).unwrap());
        tree.set_len(old.len() as u64).unwrap();
        assert!(std::fs::read(directory.path().join("file")).unwrap() == old);
    }

    #[test]
    fn what_is_not_whole_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let (old, path, tree) = sample(directory.path());
        let ranges = File::options().write(true).read(true).open(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in (HEAD_BYTES..good.len()).step_by(37) {
            ranges.write_all_at(&[good[at] ^ 1], at as u64).unwrap();
            assert!(!restore(&path, tree.as_fd(), old.len() as u64).unwrap(), "damaged at {at}");
            ranges.write_all_at(&good[at..=at], at as u64).unwrap();
        }
        ranges.set_len(good.len() as u64 - 1).unwrap();
        assert!(!restore(&path, tree.as_fd(), old.len() as u64).unwrap());
        // While it is being written, an end that is not whole is no damage.
        head(State::Open).write(&ranges).unwrap();
        assert!(restore(&path, tree.as_fd(), old.len() as u64).unwrap());
    }
}
