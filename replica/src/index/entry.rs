//! What the index knows of one object, and its bytes.

use mezzo_core::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use mezzo_core::time::Step;
use mezzo_core::{Attributes, Data, Device, Kind, Name, Place, State, Time, Xattr};

use crate::host::{Handle, HostId};

/// One object: all that the log says of it, and which inode of the host it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its id.
    pub object: ObjectId,
    /// All of it, as the log has it: what users see.
    pub state: State,
    /// Its names; a directory has one, the root none, a removed file that is still open none either.
    pub places: Vec<Place>,
    /// Its inode; `None` until it was met on the host.
    pub host: Option<HostId>,
    /// The host's ctime when tree and log last agreed. Another one there means a change that was not seen.
    pub host_ctime: Time,
    /// It lacks bytes that the log tells of, and nobody has written it since: they went with the power, or are absent.
    pub lost: bool,
    /// Its bytes never were here, or were evicted: nobody is shown what the host has instead. Then it is `lost` too.
    pub absent: bool,
}

/// What a file counts for in totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    pub bytes: u64,
    pub lost: bool,
    pub absent: bool,
}

/// What a file lacks of the bytes that the log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// Nothing.
    Nothing,
    /// Some, since the machine lost power.
    Lost,
    /// All: they never were here, or were evicted.
    Absent,
}

impl Entry {
    /// The object as a new one with this state.
    pub fn new(object: ObjectId, state: State) -> Entry {
        let host_ctime = state.attributes.ctime;
        Entry { object, state, places: Vec::new(), host: None, host_ctime, lost: false, absent: false }
    }

    /// What `stat` tells of it.
    pub fn attributes(&self) -> &Attributes {
        &self.state.attributes
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.state.attributes.kind == Kind::Directory
    }

    /// Takes in what a record left, on the log's side and the host's: see [`Entry::host_ctime`].
    pub(super) fn step(&mut self, attributes: &Step<Attributes>) {
        let after = attributes.onto(&self.state.attributes);
        self.state.set_attributes(after);
        self.host_ctime = after.ctime;
    }

    pub(super) fn set_ctime(&mut self, ctime: Time) {
        self.state.attributes.ctime = ctime;
        self.host_ctime = ctime;
    }

    pub(super) fn replace_place(&mut self, old: &Place, new: &Place) {
        match self.places.iter_mut().find(|place| *place == old) {
            Some(place) => *place = new.clone(),
            None => self.places.push(new.clone()),
        }
    }

    /// What its data counts for in totals.
    pub(super) fn weight(&self) -> Weight {
        let bytes = if self.state.attributes.kind == Kind::File { self.state.attributes.size } else { 0 };
        Weight { bytes, lost: self.lost, absent: self.absent }
    }

    /// The version of its data, for regular files.
    pub fn version(&self) -> Option<DataVersion> {
        self.state.data.map(|data| data.version)
    }

    /// The entry's bytes in the index file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(192));
        let attributes = &self.state.attributes;
        out.byte(attributes.kind as u8);
        out.byte(u8::from(self.lost) | u8::from(self.absent) << 1);
        out.number(attributes.mode.into());
        out.number(attributes.uid.into());
        out.number(attributes.gid.into());
        out.number(attributes.size);
        out.number(attributes.links.into());
        out.number(attributes.device.major.into());
        out.number(attributes.device.minor.into());
        [attributes.atime, attributes.mtime, attributes.ctime, self.host_ctime]
            .into_iter()
            .for_each(|t| out.time(t));
        out.bytes(&self.state.target);
        out.number(self.state.xattrs.len() as u64);
        for xattr in &self.state.xattrs {
            out.bytes(&xattr.name);
            out.bytes(&xattr.value);
        }
        out.option(self.state.data, |out, data| {
            out.origin(data.version.0);
            out.option(data.digest, |out, digest| out.0.extend_from_slice(&digest));
        });
        out.option(self.host.as_ref(), |out, host| {
            out.number(host.inode);
            out.time(host.born);
            out.bytes(host.handle.as_bytes());
        });
        out.number(self.places.len() as u64);
        for place in &self.places {
            out.origin(place.parent.0);
            out.bytes(place.name.as_bytes());
        }
        out.0
    }

    /// The entry of `object` from its bytes; `None` where they are not what `to_bytes` writes.
    pub fn from_bytes(object: ObjectId, bytes: &[u8]) -> Option<Entry> {
        let mut from = Reader(bytes);
        let kind = Kind::from_number(from.byte()?)?;
        let marks = from.byte()?;
        let (lost, absent) = (marks & 1 != 0, marks & 2 != 0);
        let mut small = || from.number().and_then(|n| u32::try_from(n).ok());
        let (mode, uid, gid) = (small()?, small()?, small()?);
        let size = from.number()?;
        let mut small = || from.number().and_then(|n| u32::try_from(n).ok());
        let (links, major, minor) = (small()?, small()?, small()?);
        let (atime, mtime, ctime, host_ctime) = (from.time()?, from.time()?, from.time()?, from.time()?);
        let mode = u16::try_from(mode).ok()?;
        let device = Device { major, minor };
        let attributes = Attributes { kind, mode, uid, gid, size, links, device, atime, mtime, ctime };
        let target = from.bytes()?.into();
        let xattrs =
            from.list(|from| Some(Xattr { name: from.bytes()?.into(), value: from.bytes()?.into() }))?;
        let data = from.option(|from| {
            let version = DataVersion(from.origin()?);
            let digest = from.option(|from| from.take(32)?.try_into().ok())?;
            Some(Data { version, digest })
        })?;
        let host = from.option(|from| {
            let (inode, born) = (from.number()?, from.time()?);
            Some(HostId { inode, born, handle: Handle::from_bytes(from.bytes()?)? })
        })?;
        let places =
            from.list(|from| Some(Place::new(ObjectId(from.origin()?), Name::new(from.bytes()?).ok()?)))?;
        let state = State { attributes, target, xattrs, data };
        Some(Entry { object, state, places, host, host_ctime, lost, absent })
    }
}

/// Numbers as LEB128, everything else by its length.
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn time(&mut self, time: Time) {
        self.number(((time.seconds << 1) ^ (time.seconds >> 63)) as u64);
        self.number(time.nanoseconds.into());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn origin(&mut self, origin: Origin) {
        self.0.extend_from_slice(&origin.replica.0.to_le_bytes());
        self.number(origin.recno.0);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn time(&mut self) -> Option<Time> {
        let zigzag = self.number()?;
        let seconds = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        Some(Time::new(seconds, u32::try_from(self.number()?).ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn origin(&mut self) -> Option<Origin> {
        let replica = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Some(Origin::new(ReplicaId(replica), Recno(self.number()?)))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<Option<T>> {
        if self.byte()? == 0 { Some(None) } else { read(self).map(Some) }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        let origin = Origin::new(ReplicaId(7), Recno(300));
        let attributes = Attributes {
            kind: Kind::File,
            mode: 0o6755,
            uid: 1000,
            gid: u32::MAX - 1,
            size: 1 << 40,
            links: 2,
            device: Device::default(),
            atime: Time::new(-5, 999_999_999),
            mtime: Time::new(i64::from(u32::MAX) + 9, 1),
            ctime: Time::new(i64::MIN, 0),
        };
        let xattrs = vec![Xattr { name: (*b"user.a").into(), value: (*b"\0\xff").into() }];
        let data = Some(Data { version: DataVersion(origin), digest: Some([9; 32]) });
        let mut entry =
            Entry::new(ObjectId(origin), State { attributes, target: (*b"").into(), xattrs, data });
        entry.places.push(Place::new(ObjectId::ROOT, Name::new(b"\xfe").unwrap()));
        (entry.lost, entry.absent) = (true, true);
        entry.host = Handle::from_bytes(&[1, 0, 0, 0, 5, 6]).map(|handle| HostId {
            inode: 12,
            born: Time::new(3, 4),
            handle,
        });
        entry
    }

    #[test]
    fn an_entry_reads_back_what_it_writes() {
        let entry = sample();
        assert_eq!(Entry::from_bytes(entry.object, &entry.to_bytes()), Some(entry));
    }

    #[test]
    fn no_cut_entry_is_taken() {
        let bytes = sample().to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Entry::from_bytes(ObjectId::ROOT, &bytes[..length]), None, "cut to {length}");
        }
    }
}
