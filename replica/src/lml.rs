//! The LML: the small file of what is in flight, so that a program that was killed, or a machine that lost power, loses
//! nothing. It holds the operation that was begun and may not be recorded yet, and the files that are open for writing.
//!
//! ```text
//! at 0     64 bytes   head: magic (8), boot id (16), replica (8), clean (1), redo (1), 0 (6), seal (8),
//!                     since when the log is done again (seconds 8, nanoseconds 4), rest 0
//! at 64    4,032      the operation: length (4), CRC32C of what follows (4), its bytes
//! at 4096  24 each    files open for writing: object (16), state (1: 0 free, 1 open, 2 open and changed), rest 0
//! ```
//!
//! Numbers are little-endian. It is mapped, so that a note costs no system call, and its notes are not synced: what the page cache
//! has survives the program, and after a power loss the boot id tells that it may be old. There is one operation, because the order lets one through at a time.
//! It needs no clearing: once the log has a record of its number, it is done.
//!
//! What was in flight is kept until it was put in order, and so is that the log has to be done again: recovery may be ended at
//! any moment, and begins anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mezzo_core::{Name, ObjectId, Origin, Place, Recno, ReplicaId, Time, Who};
use parking_lot::Mutex;

use crate::host::Handle;

const MAGIC: [u8; 8] = *b"MZLML\x01\0\0";
const CLEAN_AT: usize = 32;
const REDO_AT: usize = 33;
const SEAL_AT: u64 = 40;
const SINCE_AT: usize = 48;
const OPERATION_AT: u64 = 64;
const OPERATION_BYTES: usize = 4032;
const WRITERS_AT: u64 = 4096;
const WRITER_BYTES: usize = 24;

/// Entries that are read at most: as many as can be open, and then some.
const WRITERS: usize = 1 << 20;

/// Bytes that are mapped: room for 20,000 files open for writing. Entries beyond that are written with system calls.
const MAPPED_BYTES: usize = WRITERS_AT as usize + 20_000 * WRITER_BYTES;

const _: () = assert!(OPERATION_AT as usize + OPERATION_BYTES == WRITERS_AT as usize);

/// The file, of a replica that is in use.
#[derive(Debug)]
pub(crate) struct Lml {
    file: File,
    mapping: Mapping,
    slots: Mutex<Slots>,
}

/// The front of the file, mapped.
#[derive(Debug)]
struct Mapping {
    start: *mut u8,
}

// SAFETY: the mapping is plain memory that lives as long as this. Only notes are copied into it, each to a place of its
// own: the operation's by who holds the order, a writer's under the lock of `Opens`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[derive(Debug, Default)]
struct Slots {
    free: BTreeSet<u32>,
    used: u32,
}

/// An operation that is about to be done: where to look, if it turns out that no record tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// The record that will tell of it.
    pub recno: Recno,
    /// Whose it is.
    pub who: Who,
    /// The object that it changes.
    pub object: Option<ObjectId>,
    /// Names that it makes, moves or removes.
    pub places: Vec<Place>,
}

/// A file that was open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub object: ObjectId,
    /// Its data was seen to have changed, and no record tells of that yet.
    pub dirty: bool,
}

/// What was in flight when the replica was in use last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InFlight {
    /// Nothing: it was closed in order, or never opened.
    Nothing,
    /// The program was killed, and the machine went on.
    Killed { operation: Option<Operation>, writers: Vec<Writer> },
    /// The machine lost power, or was restarted without closing it; since when the log has been being done again, if that was
    /// begun before and not brought to its end.
    PowerLost { since: Option<Time> },
}

impl InFlight {
    /// Whether it tells of records behind record `last`, which a log that was whole could not end with.
    pub fn tells_of_more(&self, last: Recno) -> bool {
        matches!(self, InFlight::Killed { operation: Some(operation), .. } if operation.recno > last.next())
    }
}

/// Where a file open for writing has its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Lml {
    /// Reads what was in flight at the last use, on the boot `boot`. Changes nothing.
    pub fn read(path: &Path, replica: ReplicaId, boot: [u8; 16]) -> io::Result<InFlight> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(InFlight::Nothing),
            bytes => bytes?,
        };
        Ok(in_flight(&bytes, replica, boot))
    }

    /// Begins a use. What was in flight of the last one stays noted until it is in order; what is to be done about a power loss
    /// is begun at `now`, if it was not before.
    pub fn begin(
        path: &Path,
        replica: ReplicaId,
        boot: [u8; 16],
        in_flight: &InFlight,
        now: Time,
    ) -> io::Result<Lml> {
        let file = File::options().create(true).read(true).write(true).truncate(false).open(path)?;
        let mut head = [0; OPERATION_AT as usize];
        head[..8].copy_from_slice(&MAGIC);
        head[8..24].copy_from_slice(&boot);
        head[24..CLEAN_AT].copy_from_slice(&replica.0.to_le_bytes());
        match in_flight {
            // Notes of the last use go before its head does, so that they can't be taken for this one's.
            InFlight::Nothing => clear(&file)?,
            InFlight::Killed { .. } => take_room(&file)?,
            InFlight::PowerLost { since } => {
                let since = since.unwrap_or(now);
                head[REDO_AT] = 1;
                head[SINCE_AT..][..8].copy_from_slice(&since.seconds.to_le_bytes());
                head[SINCE_AT + 8..][..4].copy_from_slice(&since.nanoseconds.to_le_bytes());
            }
        }
        file.write_all_at(&head, 0)?;
        // The last use may have ended in order; after a power loss, nobody may read that it still does.
        file.sync_all()?;
        if matches!(in_flight, InFlight::PowerLost { .. }) {
            clear(&file)?;
        }
        let mapping = Mapping::of(&file)?;
        Ok(Lml { file, mapping, slots: Mutex::default() })
    }

    /// Seals the file, and `body` with it, whose ctime is told: neither can be put back from a copy without breaking it.
    pub fn seal(&self, body: Time) -> io::Result<()> {
        self.file.write_all_at(&seal(&self.file, body)?, SEAL_AT)
    }

    /// Whether the seal is whole; `None` where there is none.
    pub fn is_sealed(path: &Path, body: Option<Time>) -> io::Result<Option<bool>> {
        let mut found = [0; 8];
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.read_exact_at(&mut found, SEAL_AT).is_err() || found == [0; 8] {
            return Ok(None);
        }
        Ok(Some(body.is_some_and(|body| seal(&file, body).is_ok_and(|seal| seal == found))))
    }

    /// What was in flight is in order: nothing is any more.
    pub fn recovered(&self) -> io::Result<()> {
        clear(&self.file)?;
        self.file.write_all_at(&[0], REDO_AT as u64)?;
        self.file.sync_data()
    }

    /// Notes an operation that is about to be done.
    pub fn note(&self, operation: &Operation) -> io::Result<()> {
        self.write(&operation.to_bytes(), OPERATION_AT)
    }

    /// Notes a file that is open for writing.
    pub fn open(&self, object: ObjectId) -> io::Result<Slot> {
        let slot = self.slots.lock().take();
        self.set(slot, Some(Writer { object, dirty: false }))?;
        Ok(slot)
    }

    /// Changes the note of a file that is open for writing; `None` when it is closed.
    pub fn set(&self, slot: Slot, writer: Option<Writer>) -> io::Result<()> {
        let bytes = writer.map_or([0; WRITER_BYTES], Writer::to_bytes);
        self.write(&bytes, WRITERS_AT + u64::from(slot.0) * WRITER_BYTES as u64)?;
        if writer.is_none() {
            self.slots.lock().free.insert(slot.0);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if at as usize + bytes.len() > MAPPED_BYTES {
            return self.file.write_all_at(bytes, at);
        }
        self.mapping.copy(bytes, at as usize);
        Ok(())
    }

    /// Ends a use: everything is recorded, and on disk.
    pub fn end(&self) -> io::Result<()> {
        self.file.write_all_at(&[1], CLEAN_AT as u64)?;
        self.file.sync_data()
    }
}

/// Takes all notes away, and room for new ones: a mapping of a file without it is a fault when the host is full. What was taken at
/// an earlier use is not let go for it.
fn clear(file: &File) -> io::Result<()> {
    file.set_len((MAPPED_BYTES as u64).min(file.metadata()?.len()))?;
    file.write_all_at(&vec![0; MAPPED_BYTES - OPERATION_AT as usize], OPERATION_AT)
}

/// Takes the room that is missing.
fn take_room(file: &File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(MAPPED_BYTES);
    file.write_all_at(&vec![0; MAPPED_BYTES.saturating_sub(length)], length as u64)
}

/// Eight bytes that tell this file from one that holds the same, and belong to a `body` with this ctime.
fn seal(file: &File, body: Time) -> io::Result<[u8; 8]> {
    let mut hasher = blake3::Hasher::new();
    // Where a host has no handles, the ctime alone tells.
    if let Ok(handle) = Handle::of(file.as_fd()) {
        hasher.update(handle.as_bytes());
    }
    hasher.update(&body.seconds.to_le_bytes()).update(&body.nanoseconds.to_le_bytes());
    let hash = hasher.finalize();
    Ok(*hash.as_bytes().first_chunk().expect("a hash is longer"))
}

impl Mapping {
    fn of(file: &File) -> io::Result<Mapping> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: the kernel chooses where; the file is in a directory of mezzo's own, and nobody cuts it.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                MAPPED_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        Ok(Mapping { start: start.cast() })
    }

    fn copy(&self, bytes: &[u8], at: usize) {
        assert!(at + bytes.len() <= MAPPED_BYTES);
        // SAFETY: the range is in the mapping, which no Rust reference leads to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing uses it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), MAPPED_BYTES) };
    }
}

impl Slots {
    fn take(&mut self) -> Slot {
        Slot(self.free.pop_first().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        }))
    }
}

/// What the file's bytes tell on the boot `boot`.
pub(crate) fn in_flight(bytes: &[u8], replica: ReplicaId, boot: [u8; 16]) -> InFlight {
    let known = bytes.len() > OPERATION_AT as usize
        && bytes[..8] == MAGIC
        && bytes[24..32] == replica.0.to_le_bytes();
    if !known {
        // It was torn while it was first made, or is of a copied replica: the tree is compared as after a power loss.
        return InFlight::PowerLost { since: None };
    }
    if bytes[REDO_AT] == 1 {
        return InFlight::PowerLost { since: Some(since(bytes)) };
    }
    if bytes[CLEAN_AT] == 1 {
        return InFlight::Nothing;
    }
    if bytes[8..24] != boot {
        return InFlight::PowerLost { since: None };
    }
    let writers = bytes.get(WRITERS_AT as usize..).unwrap_or_default();
    InFlight::Killed {
        operation: operation(&bytes[OPERATION_AT as usize..]),
        writers: writers.chunks_exact(WRITER_BYTES).take(WRITERS).filter_map(Writer::from_bytes).collect(),
    }
}

fn since(head: &[u8]) -> Time {
    let mut seconds = [0; 8];
    seconds.copy_from_slice(&head[SINCE_AT..SINCE_AT + 8]);
    let mut nanoseconds = [0; 4];
    nanoseconds.copy_from_slice(&head[SINCE_AT + 8..SINCE_AT + 12]);
    Time::new(i64::from_le_bytes(seconds), u32::from_le_bytes(nanoseconds))
}

fn operation(bytes: &[u8]) -> Option<Operation> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let bytes = bytes.get(8..8usize.checked_add(length)?)?;
    (length > 0 && length <= OPERATION_BYTES && crc32c::crc32c(bytes) == checksum)
        .then(|| Operation::read(bytes))
        .flatten()
}

impl Writer {
    fn to_bytes(self) -> [u8; WRITER_BYTES] {
        let mut bytes = [0; WRITER_BYTES];
        bytes[..16].copy_from_slice(&id_bytes(self.object));
        bytes[16] = if self.dirty { 2 } else { 1 };
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Writer> {
        let dirty = match bytes.get(16)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Writer { object: id_of(bytes.get(..16)?)?, dirty })
    }
}

impl Operation {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        self.write(&mut bytes);
        let length = bytes.len() - 8;
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        debug_assert!(bytes.len() <= OPERATION_BYTES);
        bytes
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.recno.0.to_le_bytes());
        for number in [self.who.uid, self.who.gid, self.who.pid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        write_short(out, &self.who.program);
        write_short(out, &self.who.session);
        out.push(u8::from(self.object.is_some()));
        out.extend_from_slice(&id_bytes(self.object.unwrap_or(ObjectId::ROOT)));
        out.push(self.places.len() as u8);
        for place in &self.places {
            out.extend_from_slice(&id_bytes(place.parent));
            write_short(out, place.name.as_bytes());
        }
    }

    fn read(mut bytes: &[u8]) -> Option<Operation> {
        let from = &mut bytes;
        let recno = Recno(u64::from_le_bytes(take(from, 8)?.try_into().ok()?));
        let mut number = || Some(u32::from_le_bytes(take(from, 4)?.try_into().ok()?));
        let (uid, gid, pid) = (number()?, number()?, number()?);
        let (program, session) = (read_short(from)?.into(), read_short(from)?.into());
        let is_object = take(from, 1)?[0] != 0;
        let object = id_of(take(from, 16)?)?;
        let mut places = Vec::new();
        for _ in 0..take(from, 1)?[0] {
            let parent = id_of(take(from, 16)?)?;
            places.push(Place::new(parent, Name::new(read_short(from)?).ok()?));
        }
        let who = Who { uid, gid, groups: Vec::new(), pid, program, session };
        Some(Operation { recno, who, object: Some(object).filter(|_| is_object), places })
    }
}

fn write_short(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names and words of who it was are at most 255 bytes.
    let bytes = &bytes[..bytes.len().min(255)];
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn read_short<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(from, 1)?[0];
    take(from, length.into())
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

fn id_bytes(object: ObjectId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&object.0.replica.0.to_le_bytes());
    bytes[8..].copy_from_slice(&object.0.recno.0.to_le_bytes());
    bytes
}

fn id_of(bytes: &[u8]) -> Option<ObjectId> {
    let (replica, recno) = bytes.split_at_checked(8)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    Some(ObjectId(Origin::new(ReplicaId(number(replica)?), Recno(number(recno)?))))
}

/// What tells one boot of the machine from another.
pub(crate) fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: ReplicaId = ReplicaId(7);
    const BOOT: [u8; 16] = [3; 16];

    fn object(number: u64) -> ObjectId {
        ObjectId(Origin::new(REPLICA, Recno(number)))
    }

    fn sample() -> Operation {
        Operation {
            recno: Recno(900),
            who: Who {
                uid: 5,
                gid: 6,
                groups: Vec::new(),
                pid: 77,
                program: (*b"cc").into(),
                session: (*b"12").into(),
            },
            object: Some(object(3)),
            places: vec![
                Place::new(object(2), Name::new(b"\xff").unwrap()),
                Place::new(ObjectId::ROOT, Name::new(&[b'n'; 255]).unwrap()),
            ],
        }
    }

    #[test]
    fn what_was_in_flight_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lml");
        let read = |boot| Lml::read(&path, REPLICA, boot).unwrap();
        assert_eq!(read(BOOT), InFlight::Nothing, "never used");
        let begin =
            |in_flight: &InFlight| Lml::begin(&path, REPLICA, BOOT, in_flight, Time::new(5, 6)).unwrap();
        let lml = begin(&InFlight::Nothing);
        assert_eq!(read(BOOT), InFlight::Killed { operation: None, writers: Vec::new() });
        lml.note(&sample()).unwrap();
        let (a, b) = (lml.open(object(1)).unwrap(), lml.open(object(2)).unwrap());
        lml.set(b, Some(Writer { object: object(2), dirty: true })).unwrap();
        lml.set(a, None).unwrap();
        let writers = vec![Writer { object: object(2), dirty: true }];
        let in_flight = InFlight::Killed { operation: Some(sample()), writers };
        assert_eq!(read(BOOT), in_flight);
        assert_eq!(lml.open(object(4)).unwrap(), a, "room is used again");
        lml.set(a, None).unwrap();
        let lost = InFlight::PowerLost { since: None };
        assert_eq!(read([4; 16]), lost);
        assert_eq!(Lml::read(&path, ReplicaId(8), BOOT).unwrap(), lost);
        let lml = begin(&in_flight);
        assert_eq!(read(BOOT), in_flight, "until it is in order");
        lml.recovered().unwrap();
        assert_eq!(read(BOOT), InFlight::Killed { operation: None, writers: Vec::new() });
        begin(&lost);
        let begun = InFlight::PowerLost { since: Some(Time::new(5, 6)) };
        assert_eq!((read(BOOT), read([4; 16])), (begun.clone(), begun.clone()), "until it is in order");
        let lml = begin(&InFlight::PowerLost { since: Some(Time::new(5, 6)) });
        lml.recovered().unwrap();
        lml.end().unwrap();
        assert_eq!(read([4; 16]), InFlight::Nothing);
        begin(&InFlight::Nothing);
        assert_eq!(
            read(BOOT),
            InFlight::Killed { operation: None, writers: Vec::new() },
            "of this use alone"
        );
    }

    #[test]
    fn no_damaged_operation_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lml");
        let lml = Lml::begin(&path, REPLICA, BOOT, &InFlight::Nothing, Time::default()).unwrap();
        lml.note(&sample()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let start = OPERATION_AT as usize;
        let length = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap()) as usize;
        for at in start..start + 8 + length {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(
                matches!(in_flight(&damaged, REPLICA, BOOT), InFlight::Killed { operation: None, .. }),
                "at {at}"
            );
        }
        for length in 0..OPERATION_AT as usize + 700 {
            let _ = in_flight(&bytes[..length], REPLICA, BOOT);
        }
    }
}
