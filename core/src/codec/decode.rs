//! Bytes to records. The counterpart of `encode`, for bytes that nobody vouches for.

use crate::attributes::State;
use crate::id::{DataVersion, ReplicaId};
use crate::limits::PATH_BYTES;
use crate::name::{Name, join};
use crate::record::{Change, Displaced, Record, Removed};

use super::check::{check, limit};
use super::encode::kind;
use super::error::{DecodeError, Fault, FrameError};
use super::field::{Fields, tag};
use super::frame::{Frame, Head};
use super::value::{Context, epoch_cause, who, xattrs};

type Decoded<T> = Result<T, DecodeError>;

/// Reads `bytes`, which have to be exactly one frame, as a record that keeps every rule and limit.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let frame = Frame::read(bytes, 0)?;
    match bytes.len() - frame.head.length {
        0 => frame.record(),
        more => Err(FrameError::Trailing(more).into()),
    }
}

/// Reads the body of a whole frame.
pub(super) fn record(head: &Head, body: &[u8]) -> Decoded<Record> {
    if head.flags != 0 {
        return Err(DecodeError::Flags(head.flags));
    }
    let mut fields = Fields::new(body)?;
    let record = Record {
        recno: head.recno,
        previous: head.previous,
        epoch: head.epoch,
        origin: head.origin,
        time: head.time,
        who: fields.optional(tag::WHO, who)?.unwrap_or_default(),
        change: Context::of_head(head).change(head.kind, fields, true)?,
    };
    check(&record)?;
    Ok(record)
}

/// A path as its fields tell it.
struct Path<'a> {
    whole: Option<&'a [u8]>,
    directory: Option<&'a [u8]>,
}

impl Context {
    /// Reads a change of kind `number` from what `fields` have left.
    fn change(&self, number: u8, mut fields: Fields<'_>, outermost: bool) -> Decoded<Change> {
        let change = match number {
            kind::MAKE => self.make(&mut fields),
            kind::LINK => self.link(&mut fields),
            kind::REMOVE => self.remove(&mut fields),
            kind::RENAME => self.rename(&mut fields),
            kind::SETATTR => self.setattr(&mut fields),
            kind::XATTR => self.xattr(&mut fields),
            kind::CLOSE => self.close(&mut fields),
            kind::DIGEST => self.digest(&mut fields),
            kind::NOOP => Ok(Change::Noop),
            kind::DISABLE => self.disable(&mut fields),
            kind::AMEND | kind::UNDO_OF if outermost => self.nesting(number, &mut fields),
            kind::ALIAS => self.alias(&mut fields),
            kind::EPOCH => self.epoch(&mut fields),
            kind::SNAPSHOT => self.snapshot(&mut fields),
            _ => Err(DecodeError::Kind(number)),
        }?;
        fields.finish()?;
        Ok(change)
    }

    fn make(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = Path::read(fields, tag::PATH, tag::DIRECTORY)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let place = fields.required(tag::PLACE, |value| self.place(value))?;
        let state = self.state(fields)?;
        let parent = fields.required(tag::PARENT_TIMES, |value| self.times_step(value))?;
        Ok(Change::Make { object, path: path.with(&place.name)?, place, state, parent })
    }

    fn link(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = Path::read(fields, tag::PATH, tag::DIRECTORY)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let place = fields.required(tag::PLACE, |value| self.place(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        let parent = fields.required(tag::PARENT_TIMES, |value| self.times_step(value))?;
        Ok(Change::Link { object, path: path.with(&place.name)?, place, attributes, parent })
    }

    fn remove(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = Path::read(fields, tag::PATH, tag::DIRECTORY)?;
        let place = fields.required(tag::PLACE, |value| self.place(value))?;
        let parent = fields.required(tag::PARENT_TIMES, |value| self.times_step(value))?;
        let removed = self.removed(fields)?.ok_or(DecodeError::Missing(tag::REMOVED))?;
        Ok(Change::Remove { removed, path: path.with(&place.name)?, place, parent })
    }

    fn rename(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let from_path = Path::read(fields, tag::PATH, tag::DIRECTORY)?;
        let to_path = Path::read(fields, tag::TO_PATH, tag::TO_DIRECTORY)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let from = fields.required(tag::PLACE, |value| self.place(value))?;
        let to = fields.required(tag::TO_PLACE, |value| self.place(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        let from_parent = fields.required(tag::PARENT_TIMES, |value| self.times_step(value))?;
        let to_parent = fields.optional(tag::TO_PARENT_TIMES, |value| self.times_step(value))?;
        Ok(Change::Rename {
            object,
            attributes,
            from_path: from_path.with(&from.name)?,
            from,
            from_parent,
            to_path: to_path.with(&to.name)?,
            to,
            to_parent: to_parent.unwrap_or(from_parent),
            displaced: self.displaced(fields)?,
        })
    }

    fn displaced(&self, fields: &mut Fields<'_>) -> Decoded<Displaced> {
        if let Some(removed) = self.removed(fields)? {
            return Ok(Displaced::Replaced(Box::new(removed)));
        }
        let Some(mut fields) = fields.group(tag::EXCHANGED)? else { return Ok(Displaced::Nothing) };
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        fields.finish()?;
        Ok(Displaced::Exchanged { object, attributes })
    }

    fn setattr(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = whole_path(fields)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        let data = fields.optional(tag::DATA_STEP, |value| self.data_step(value))?;
        Ok(Change::Setattr { object, path, attributes, data })
    }

    fn xattr(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = whole_path(fields)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        let name = fields.required(tag::XATTR_NAME, |value| Ok(value.rest().into()))?;
        let before = fields.raw(tag::VALUE_BEFORE)?.map(Into::into);
        let after = fields.raw(tag::VALUE_AFTER)?.map(Into::into);
        let value = crate::time::Step { before, after };
        Ok(Change::Xattr { object, path, name, value, attributes })
    }

    fn close(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let path = whole_path(fields)?;
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let attributes = fields.required(tag::ATTRIBUTES_STEP, |value| self.attributes_step(value))?;
        let data = fields.required(tag::DATA_STEP, |value| self.data_step(value))?;
        let stable = fields.optional(tag::UNSTABLE, |_| Ok(()))?.is_none();
        Ok(Change::Close { object, path, attributes, data, stable })
    }

    fn digest(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let (version, size, digest) = fields.required(tag::DIGEST, |value| {
            Ok((DataVersion(self.origin(value)?), value.varint()?, value.array()?))
        })?;
        Ok(Change::Digest { object, version, size, digest })
    }

    fn disable(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let reason = fields.optional(tag::REASON, |value| {
            std::str::from_utf8(value.rest()).map(Box::from).map_err(|_| Fault::Text)
        })?;
        let record = fields.required(tag::RECORD, |value| self.origin(value))?;
        Ok(Change::Disable { record, reason: reason.unwrap_or_default() })
    }

    fn nesting(&self, number: u8, fields: &mut Fields<'_>) -> Decoded<Change> {
        let record = fields.required(tag::RECORD, |value| self.origin(value))?;
        let change = fields.raw(tag::CHANGE)?.ok_or(DecodeError::Missing(tag::CHANGE))?;
        let fault = DecodeError::Field { tag: tag::CHANGE, fault: Fault::Short };
        let (nested, body) = change.split_first().ok_or(fault)?;
        let change = Box::new(self.change(*nested, Fields::new(body)?, false)?);
        Ok(match number {
            kind::AMEND => Change::Amend { record, change },
            _ => Change::UndoOf { record, change },
        })
    }

    fn alias(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let stands_for = fields.required(tag::STANDS_FOR, |value| self.object(value))?;
        Ok(Change::Alias { object, stands_for })
    }

    fn epoch(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        fields.required(tag::EPOCH, |value| {
            let (epoch, holder) = (value.number()?, ReplicaId(value.u64()?));
            let (cause, ended_at) = (epoch_cause(value)?, crate::id::Recno(value.varint()?));
            Ok(Change::Epoch { epoch, holder, cause, ended_at })
        })
    }

    fn snapshot(&self, fields: &mut Fields<'_>) -> Decoded<Change> {
        fields.required(tag::SNAPSHOT, |value| {
            let (of, at) = (ReplicaId(value.u64()?), crate::id::Recno(value.varint()?));
            let records = value.varint()?;
            let mut heads = Vec::new();
            while !value.is_empty() {
                heads
                    .push(crate::id::Origin::new(ReplicaId(value.u64()?), crate::id::Recno(value.varint()?)));
            }
            Ok(Change::Snapshot { of, at, records, heads: heads.into() })
        })
    }

    fn state(&self, fields: &mut Fields<'_>) -> Decoded<State> {
        Ok(State {
            attributes: fields.required(tag::ATTRIBUTES, |value| self.attributes(value))?,
            target: fields.raw(tag::TARGET)?.unwrap_or_default().into(),
            xattrs: fields.optional(tag::XATTRS, xattrs)?.unwrap_or_default(),
            data: fields.optional(tag::DATA, |value| self.data(value))?,
        })
    }

    fn removed(&self, fields: &mut Fields<'_>) -> Decoded<Option<Removed>> {
        let Some(mut fields) = fields.group(tag::REMOVED)? else { return Ok(None) };
        let object = fields.required(tag::OBJECT, |value| self.object(value))?;
        let state = self.state(&mut fields)?;
        let left = fields.optional(tag::LEFT, |value| Ok((value.number()?, self.time(value)?)))?;
        let (links_left, ctime_after) = left.unwrap_or_default();
        fields.finish()?;
        Ok(Some(Removed { object, state, links_left, ctime_after }))
    }
}

impl<'a> Path<'a> {
    fn read(fields: &mut Fields<'a>, whole: u8, directory: u8) -> Decoded<Path<'a>> {
        let path = Path { whole: fields.raw(whole)?, directory: fields.raw(directory)? };
        if path.whole.is_some() && path.directory.is_some() {
            return Err(DecodeError::Field { tag: directory, fault: Fault::TwoPaths });
        }
        Ok(path)
    }

    /// The whole path of an object whose last name is `name`.
    fn with(&self, name: &Name) -> Decoded<Box<[u8]>> {
        let path = match self.directory {
            Some(directory) => join(directory, name.as_bytes()),
            None => self.whole.unwrap_or_default().into(),
        };
        limited(path.into())
    }
}

fn whole_path(fields: &mut Fields<'_>) -> Decoded<Box<[u8]>> {
    limited(fields.raw(tag::PATH)?.unwrap_or_default().into())
}

fn limited(path: Box<[u8]>) -> Decoded<Box<[u8]>> {
    limit("a path in bytes", path.len(), PATH_BYTES)?;
    Ok(path)
}
