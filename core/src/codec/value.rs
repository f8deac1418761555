//! The values of fields, each with its writer and its reader side by side.

use crate::attributes::{Attributes, Data, Device, Kind, Xattr};
use crate::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use crate::limits;
use crate::name::{Name, Place};
use crate::record::{EpochCause, Record};
use crate::time::{Step, Time, Times};
use crate::who::Who;

use super::bytes::{Cursor, put_counted, put_signed, put_varint};
use super::error::Fault;
use super::frame::Head;

type Read<T> = Result<T, Fault>;

/// What a record's head says, against which values are told shortly: most of what a record names was made by its own
/// replica, and most of its times are near its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    origin: Origin,
    time: Time,
}

/// The forms of an id.
mod form {
    pub const NONE: u8 = 0;
    pub const THIS_RECORD: u8 = 1;
    pub const THIS_REPLICA: u8 = 2;
    pub const FULL: u8 = 3;
}

/// Which attributes follow; what does not follow is as in the attributes that they are told against.
mod bit {
    pub const KIND: u16 = 1;
    pub const MODE: u16 = 1 << 1;
    pub const UID: u16 = 1 << 2;
    pub const GID: u16 = 1 << 3;
    pub const SIZE: u16 = 1 << 4;
    pub const LINKS: u16 = 1 << 5;
    pub const DEVICE: u16 = 1 << 6;
    pub const ATIME: u16 = 1 << 7;
    pub const MTIME: u16 = 1 << 8;
    pub const CTIME: u16 = 1 << 9;
    /// mtime is atime, and does not follow.
    pub const MTIME_IS_ATIME: u16 = 1 << 10;
    /// ctime is mtime, and does not follow.
    pub const CTIME_IS_MTIME: u16 = 1 << 11;
    pub const UNDEFINED: u16 = 0xf << 12;
}

impl Context {
    pub fn of_record(record: &Record) -> Context {
        Context { origin: record.origin, time: record.time }
    }

    pub fn of_head(head: &Head) -> Context {
        Context { origin: head.origin, time: head.time }
    }

    /// What attributes are told against where there are none before.
    fn base(&self) -> Attributes {
        let Context { time, .. } = *self;
        Attributes {
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            device: Device::default(),
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    pub fn put_origin(&self, out: &mut Vec<u8>, id: Origin) {
        if id == Origin::default() {
            out.push(form::NONE);
        } else if id == self.origin {
            out.push(form::THIS_RECORD);
        } else if id.replica == self.origin.replica {
            out.push(form::THIS_REPLICA);
            put_varint(out, id.recno.0);
        } else {
            out.push(form::FULL);
            out.extend(id.replica.0.to_le_bytes());
            put_varint(out, id.recno.0);
        }
    }

    pub fn origin(&self, value: &mut Cursor<'_>) -> Read<Origin> {
        match value.u8()? {
            form::NONE => Ok(Origin::default()),
            form::THIS_RECORD => Ok(self.origin),
            form::THIS_REPLICA => Ok(Origin::new(self.origin.replica, Recno(value.varint()?))),
            form::FULL => Ok(Origin::new(ReplicaId(value.u64()?), Recno(value.varint()?))),
            found => Err(Fault::Undefined { what: "form of an id", found: found.into() }),
        }
    }

    pub fn object(&self, value: &mut Cursor<'_>) -> Read<ObjectId> {
        self.origin(value).map(ObjectId)
    }

    pub fn put_place(&self, out: &mut Vec<u8>, place: &Place) {
        self.put_origin(out, place.parent.0);
        out.extend(place.name.as_bytes());
    }

    pub fn place(&self, value: &mut Cursor<'_>) -> Read<Place> {
        let parent = self.object(value)?;
        Ok(Place::new(parent, Name::new(value.rest())?))
    }

    pub fn put_time(&self, out: &mut Vec<u8>, time: Time) {
        put_signed(out, time.seconds.wrapping_sub(self.time.seconds));
        out.extend(time.nanoseconds.to_le_bytes());
    }

    pub fn time(&self, value: &mut Cursor<'_>) -> Read<Time> {
        let seconds = self.time.seconds.wrapping_add(value.signed()?);
        Ok(Time::new(seconds, value.u32()?))
    }

    pub fn put_attributes(&self, out: &mut Vec<u8>, attributes: &Attributes) {
        self.put_differences(out, &self.base(), attributes);
    }

    pub fn attributes(&self, value: &mut Cursor<'_>) -> Read<Attributes> {
        self.differences(value, self.base())
    }

    pub fn put_attributes_step(&self, out: &mut Vec<u8>, step: &Step<Attributes>) {
        self.put_attributes(out, &step.before);
        self.put_differences(out, &step.before, &step.after);
    }

    pub fn attributes_step(&self, value: &mut Cursor<'_>) -> Read<Step<Attributes>> {
        let before = self.attributes(value)?;
        Ok(Step::new(before, self.differences(value, before)?))
    }

    fn put_differences(&self, out: &mut Vec<u8>, base: &Attributes, to: &Attributes) {
        let bits = differing(base, to);
        let has = |bit| bits & bit != 0;
        out.extend(bits.to_le_bytes());
        if has(bit::KIND) {
            out.push(to.kind as u8);
        }
        let numbers = [
            (bit::MODE, u64::from(to.mode)),
            (bit::UID, to.uid.into()),
            (bit::GID, to.gid.into()),
            (bit::SIZE, to.size),
            (bit::LINKS, to.links.into()),
            (bit::DEVICE, to.device.major.into()),
            (bit::DEVICE, to.device.minor.into()),
        ];
        numbers.into_iter().filter(|(bit, _)| has(*bit)).for_each(|(_, number)| put_varint(out, number));
        let times = [(bit::ATIME, to.atime), (bit::MTIME, to.mtime), (bit::CTIME, to.ctime)];
        times.into_iter().filter(|(bit, _)| has(*bit)).for_each(|(_, time)| self.put_time(out, time));
    }

    fn differences(&self, value: &mut Cursor<'_>, base: Attributes) -> Read<Attributes> {
        let bits = value.u16()?;
        let has = |bit| bits & bit != 0;
        if has(bit::UNDEFINED) {
            return Err(Fault::Undefined { what: "bits of attributes", found: bits.into() });
        }
        let kind = if has(bit::KIND) { kind(value)? } else { base.kind };
        let mode = if has(bit::MODE) { value.number()? } else { base.mode };
        let uid = if has(bit::UID) { value.number()? } else { base.uid };
        let gid = if has(bit::GID) { value.number()? } else { base.gid };
        let size = if has(bit::SIZE) { value.varint()? } else { base.size };
        let links = if has(bit::LINKS) { value.number()? } else { base.links };
        let device = if has(bit::DEVICE) { device(value)? } else { base.device };
        let atime = if has(bit::ATIME) { self.time(value)? } else { base.atime };
        let mtime =
            self.later_time(value, has(bit::MTIME), has(bit::MTIME_IS_ATIME).then_some(atime), base.mtime)?;
        let ctime =
            self.later_time(value, has(bit::CTIME), has(bit::CTIME_IS_MTIME).then_some(mtime), base.ctime)?;
        Ok(Attributes { kind, mode, uid, gid, size, links, device, atime, mtime, ctime })
    }

    fn later_time(
        &self,
        value: &mut Cursor<'_>,
        follows: bool,
        same: Option<Time>,
        base: Time,
    ) -> Read<Time> {
        match (follows, same) {
            (true, None) => self.time(value),
            (false, Some(same)) => Ok(same),
            (false, None) => Ok(base),
            (true, Some(_)) => Err(Fault::Undefined { what: "a time that follows and does not:", found: 1 }),
        }
    }

    /// Four times: each that is not like the one before it follows.
    pub fn put_times_step(&self, out: &mut Vec<u8>, step: &Step<Times>) {
        let times = [step.before.mtime, step.before.ctime, step.after.mtime, step.after.ctime];
        let same = (0..3).filter(|i| times[i + 1] == times[*i]).fold(0u8, |bits, i| bits | 1 << i);
        out.push(same);
        self.put_time(out, times[0]);
        (0..3).filter(|i| same & 1 << i == 0).for_each(|i| self.put_time(out, times[i + 1]));
    }

    pub fn times_step(&self, value: &mut Cursor<'_>) -> Read<Step<Times>> {
        let same = value.u8()?;
        if same > 0b111 {
            return Err(Fault::Undefined { what: "bits of times", found: same.into() });
        }
        let mut times = [self.time(value)?; 4];
        for i in 0..3 {
            times[i + 1] = if same & 1 << i == 0 { self.time(value)? } else { times[i] };
        }
        let [mtime, ctime, mtime_after, ctime_after] = times;
        Ok(Step::new(Times { mtime, ctime }, Times { mtime: mtime_after, ctime: ctime_after }))
    }

    pub fn put_data(&self, out: &mut Vec<u8>, data: &Data) {
        self.put_origin(out, data.version.0);
        out.push(data.digest.is_some().into());
        out.extend(data.digest.iter().flatten());
    }

    pub fn data(&self, value: &mut Cursor<'_>) -> Read<Data> {
        let version = DataVersion(self.origin(value)?);
        let digest = match value.u8()? {
            0 => None,
            1 => Some(value.array()?),
            found => return Err(Fault::Undefined { what: "form of data", found: found.into() }),
        };
        Ok(Data { version, digest })
    }

    pub fn put_data_step(&self, out: &mut Vec<u8>, step: &Step<Data>) {
        self.put_data(out, &step.before);
        self.put_data(out, &step.after);
    }

    pub fn data_step(&self, value: &mut Cursor<'_>) -> Read<Step<Data>> {
        Ok(Step::new(self.data(value)?, self.data(value)?))
    }
}

fn differing(base: &Attributes, to: &Attributes) -> u16 {
    let bit = |differs, bit| if differs { bit } else { 0 };
    let time = |to: Time, base: Time, before: Option<Time>, follows: u16, same: u16| match before {
        _ if to == base => 0,
        Some(before) if to == before => same,
        _ => follows,
    };
    bit(to.kind != base.kind, bit::KIND)
        | bit(to.mode != base.mode, bit::MODE)
        | bit(to.uid != base.uid, bit::UID)
        | bit(to.gid != base.gid, bit::GID)
        | bit(to.size != base.size, bit::SIZE)
        | bit(to.links != base.links, bit::LINKS)
        | bit(to.device != base.device, bit::DEVICE)
        | bit(to.atime != base.atime, bit::ATIME)
        | time(to.mtime, base.mtime, Some(to.atime), bit::MTIME, bit::MTIME_IS_ATIME)
        | time(to.ctime, base.ctime, Some(to.mtime), bit::CTIME, bit::CTIME_IS_MTIME)
}

fn kind(value: &mut Cursor<'_>) -> Read<Kind> {
    let found = value.u8()?;
    Kind::from_number(found).ok_or(Fault::Undefined { what: "kind of object", found: found.into() })
}

fn device(value: &mut Cursor<'_>) -> Read<Device> {
    Ok(Device { major: value.number()?, minor: value.number()? })
}

pub(super) fn put_who(out: &mut Vec<u8>, who: &Who) {
    [who.uid, who.gid, who.pid].into_iter().for_each(|number| put_varint(out, number.into()));
    put_counted(out, &who.program);
    put_counted(out, &who.session);
    who.groups.iter().for_each(|group| put_varint(out, (*group).into()));
}

pub(super) fn who(value: &mut Cursor<'_>) -> Read<Who> {
    let (uid, gid, pid) = (value.number()?, value.number()?, value.number()?);
    let (program, session) = (value.counted()?.into(), value.counted()?.into());
    let mut groups = Vec::new();
    while !value.is_empty() {
        if groups.len() == limits::GROUPS {
            return Err(Fault::Many { what: "groups", limit: limits::GROUPS });
        }
        groups.push(value.number()?);
    }
    Ok(Who { uid, gid, groups, pid, program, session })
}

pub(super) fn put_xattrs(out: &mut Vec<u8>, xattrs: &[Xattr]) {
    for xattr in xattrs {
        put_counted(out, &xattr.name);
        put_counted(out, &xattr.value);
    }
}

pub(super) fn xattrs(value: &mut Cursor<'_>) -> Read<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    while !value.is_empty() {
        if xattrs.len() == limits::XATTRS {
            return Err(Fault::Many { what: "extended attributes", limit: limits::XATTRS });
        }
        xattrs.push(Xattr { name: value.counted()?.into(), value: value.counted()?.into() });
    }
    Ok(xattrs)
}

pub(super) fn epoch_cause(value: &mut Cursor<'_>) -> Read<EpochCause> {
    match value.u8()? {
        1 => Ok(EpochCause::Recovered),
        2 => Ok(EpochCause::Taken),
        3 => Ok(EpochCause::Stolen),
        4 => Ok(EpochCause::Copied),
        found => Err(Fault::Undefined { what: "cause of an epoch", found: found.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sample;

    /// Checks that `put` and `read` are each other's counterpart, and how many bytes are between them.
    fn check<T: PartialEq + std::fmt::Debug>(
        value: T,
        bytes: usize,
        put: impl Fn(&Context, &mut Vec<u8>, &T),
        read: impl Fn(&Context, &mut Cursor<'_>) -> Read<T>,
    ) {
        let context = Context::of_record(&sample::create(80_000));
        let mut out = Vec::new();
        put(&context, &mut out, &value);
        let mut cursor = Cursor::new(&out);
        assert_eq!(read(&context, &mut cursor).as_ref(), Ok(&value));
        assert_eq!((out.len(), cursor.finish()), (bytes, Ok(())), "{value:?}");
    }

    #[test]
    fn what_is_near_the_record_is_told_shortly() {
        let id = |value, bytes| check(value, bytes, |c, out, id| c.put_origin(out, *id), Context::origin);
        let own = sample::create(80_000).origin;
        id(Origin::default(), 1);
        id(own, 1);
        id(Origin::new(own.replica, Recno(79_000)), 4);
        id(Origin::new(ReplicaId(5), Recno(79_000)), 12);
        id(Origin::new(ReplicaId(0), Recno(u64::MAX)), 19);

        let time = |value, bytes| check(value, bytes, |c, out, time| c.put_time(out, *time), Context::time);
        let now = sample::create(80_000).time;
        time(now, 5);
        time(Time::new(now.seconds - 3600, 1), 6);
        time(Time::new(i64::MIN, 0), 14);
        time(Time::new(i64::MAX, 999_999_999), 14);
    }

    #[test]
    fn what_did_not_change_costs_little() {
        let attributes = |value, bytes| {
            let put = |c: &Context, out: &mut Vec<u8>, step: &_| c.put_attributes_step(out, step);
            check(value, bytes, put, Context::attributes_step);
        };
        let context = Context::of_record(&sample::create(80_000));
        let base = context.base();
        let made = Attributes { mode: 0o644, uid: 1000, gid: 1000, ..base };
        attributes(Step::new(base, base), 4);
        attributes(Step::new(made, made), 10);
        let later = Time::new(base.mtime.seconds + 1, 0);
        attributes(Step::new(made, Attributes { mtime: later, ctime: later, ..made }), 15);
        attributes(Step::new(made, Attributes { atime: later, mtime: later, ctime: later, ..made }), 15);

        let times = |value, bytes| {
            let put = |c: &Context, out: &mut Vec<u8>, step: &_| c.put_times_step(out, step);
            check(value, bytes, put, Context::times_step);
        };
        let both = |time| Times { mtime: time, ctime: time };
        times(Step::new(both(later), both(later)), 6);
        times(Step::new(both(later), both(base.mtime)), 11);
        times(Step::new(Times { mtime: later, ctime: base.mtime }, both(later)), 16);
    }
}
