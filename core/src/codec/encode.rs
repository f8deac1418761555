//! Records to bytes: which fields each kind of change has, in the order of their tags.

use crate::attributes::{Attributes, Data, State};
use crate::id::Origin;
use crate::limits::{PATH_BYTES, RECORD_BYTES};
use crate::name::{Name, Place};
use crate::record::{Change, Displaced, Record, Removed};
use crate::time::{Step, Time, Times};

use super::bytes::put_varint;
use super::check::{Refused, check, limit};
use super::field::{put_field, tag};
use super::frame::put_frame;
use super::value::{Context, put_who, put_xattrs};

/// Numbers of kinds of change, as `docs/format.md` lists them.
pub(super) mod kind {
    pub const MAKE: u8 = 1;
    pub const LINK: u8 = 2;
    pub const REMOVE: u8 = 3;
    pub const RENAME: u8 = 4;
    pub const SETATTR: u8 = 5;
    pub const XATTR: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const DIGEST: u8 = 8;
    pub const NOOP: u8 = 9;
    pub const DISABLE: u8 = 10;
    pub const AMEND: u8 = 11;
    pub const ALIAS: u8 = 12;
    pub const EPOCH: u8 = 13;
    pub const UNDO_OF: u8 = 14;
    pub const SNAPSHOT: u8 = 15;
}

/// Appends `record` to `out` as one frame. The same record always gives the same bytes. Where it breaks a rule or is
/// beyond a limit, `out` stays as it is. A path longer than [`PATH_BYTES`] loses its front.
pub fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), Refused> {
    check(record)?;
    let start = out.len();
    let context = Context::of_record(record);
    let length = put_frame(out, record, kind_of(&record.change), |out| {
        put_field(out, tag::WHO, |out| put_who(out, &record.who));
        Body { out, context }.change(&record.change);
    });
    limit("a record in bytes", length, RECORD_BYTES).inspect_err(|_| out.truncate(start))
}

fn kind_of(change: &Change) -> u8 {
    match change {
        Change::Make { .. } => kind::MAKE,
        Change::Link { .. } => kind::LINK,
        Change::Remove { .. } => kind::REMOVE,
        Change::Rename { .. } => kind::RENAME,
        Change::Setattr { .. } => kind::SETATTR,
        Change::Xattr { .. } => kind::XATTR,
        Change::Close { .. } => kind::CLOSE,
        Change::Digest { .. } => kind::DIGEST,
        Change::Noop => kind::NOOP,
        Change::Disable { .. } => kind::DISABLE,
        Change::Amend { .. } => kind::AMEND,
        Change::Alias { .. } => kind::ALIAS,
        Change::Epoch { .. } => kind::EPOCH,
        Change::Snapshot { .. } => kind::SNAPSHOT,
        Change::UndoOf { .. } => kind::UNDO_OF,
    }
}

/// Writes the fields of a change, or of what is nested in one.
struct Body<'a> {
    out: &'a mut Vec<u8>,
    context: Context,
}

impl Body<'_> {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Make { object, place, path, state, parent } => {
                self.path((tag::PATH, tag::DIRECTORY), path, &place.name);
                self.id(tag::OBJECT, object.0);
                self.place(tag::PLACE, place);
                self.state(state);
                self.times(tag::PARENT_TIMES, parent);
            }
            Change::Link { object, place, path, attributes, parent } => {
                self.path((tag::PATH, tag::DIRECTORY), path, &place.name);
                self.id(tag::OBJECT, object.0);
                self.place(tag::PLACE, place);
                self.attributes(attributes);
                self.times(tag::PARENT_TIMES, parent);
            }
            Change::Remove { removed, place, path, parent } => {
                self.path((tag::PATH, tag::DIRECTORY), path, &place.name);
                self.place(tag::PLACE, place);
                self.times(tag::PARENT_TIMES, parent);
                self.removed(removed);
            }
            Change::Rename {
                object,
                attributes,
                from,
                from_path,
                from_parent,
                to,
                to_path,
                to_parent,
                displaced,
            } => {
                self.path((tag::PATH, tag::DIRECTORY), from_path, &from.name);
                self.path((tag::TO_PATH, tag::TO_DIRECTORY), to_path, &to.name);
                self.id(tag::OBJECT, object.0);
                self.place(tag::PLACE, from);
                self.place(tag::TO_PLACE, to);
                self.attributes(attributes);
                self.times(tag::PARENT_TIMES, from_parent);
                if to_parent != from_parent {
                    self.times(tag::TO_PARENT_TIMES, to_parent);
                }
                self.displaced(displaced);
            }
            Change::Setattr { object, path, attributes, data } => {
                self.bytes(tag::PATH, kept(path));
                self.id(tag::OBJECT, object.0);
                self.attributes(attributes);
                data.iter().for_each(|data| self.data_step(data));
            }
            Change::Xattr { object, path, name, value, attributes } => {
                self.bytes(tag::PATH, kept(path));
                self.id(tag::OBJECT, object.0);
                self.attributes(attributes);
                self.bytes(tag::XATTR_NAME, name);
                self.value(tag::VALUE_BEFORE, &value.before);
                self.value(tag::VALUE_AFTER, &value.after);
            }
            Change::Close { object, path, attributes, data, stable } => {
                self.bytes(tag::PATH, kept(path));
                self.id(tag::OBJECT, object.0);
                self.attributes(attributes);
                self.data_step(data);
                if !stable {
                    self.field(tag::UNSTABLE, |_| {});
                }
            }
            Change::Digest { object, version, size, digest } => {
                self.id(tag::OBJECT, object.0);
                self.field(tag::DIGEST, |body| {
                    body.context.put_origin(body.out, version.0);
                    put_varint(body.out, *size);
                    body.out.extend(digest);
                });
            }
            Change::Noop => {}
            Change::Disable { record, reason } => {
                self.bytes(tag::REASON, reason.as_bytes());
                self.id(tag::RECORD, *record);
            }
            Change::Amend { record, change } | Change::UndoOf { record, change } => {
                self.id(tag::RECORD, *record);
                self.field(tag::CHANGE, |body| {
                    body.out.push(kind_of(change));
                    body.change(change);
                });
            }
            Change::Alias { object, stands_for } => {
                self.id(tag::OBJECT, object.0);
                self.id(tag::STANDS_FOR, stands_for.0);
            }
            Change::Epoch { epoch, holder, cause, ended_at } => self.field(tag::EPOCH, |body| {
                put_varint(body.out, (*epoch).into());
                body.out.extend(holder.0.to_le_bytes());
                body.out.push(*cause as u8);
                put_varint(body.out, ended_at.0);
            }),
            Change::Snapshot { of, at, records, heads } => self.field(tag::SNAPSHOT, |body| {
                body.out.extend(of.0.to_le_bytes());
                put_varint(body.out, at.0);
                put_varint(body.out, *records);
                for head in heads {
                    body.out.extend(head.replica.0.to_le_bytes());
                    put_varint(body.out, head.recno.0);
                }
            }),
        }
    }

    fn displaced(&mut self, displaced: &Displaced) {
        match displaced {
            Displaced::Nothing => {}
            Displaced::Replaced(removed) => self.removed(removed),
            Displaced::Exchanged { object, attributes } => self.field(tag::EXCHANGED, |body| {
                body.id(tag::OBJECT, object.0);
                body.attributes(attributes);
            }),
        }
    }

    fn removed(&mut self, removed: &Removed) {
        self.field(tag::REMOVED, |body| {
            body.id(tag::OBJECT, removed.object.0);
            body.state(&removed.state);
            if (removed.links_left, removed.ctime_after) != (0, Time::default()) {
                body.field(tag::LEFT, |body| {
                    put_varint(body.out, removed.links_left.into());
                    body.context.put_time(body.out, removed.ctime_after);
                });
            }
        });
    }

    fn state(&mut self, state: &State) {
        self.field(tag::ATTRIBUTES, |body| body.context.put_attributes(body.out, &state.attributes));
        self.bytes(tag::TARGET, &state.target);
        if !state.xattrs.is_empty() {
            self.field(tag::XATTRS, |body| put_xattrs(body.out, &state.xattrs));
        }
        if let Some(data) = &state.data {
            self.field(tag::DATA, |body| body.context.put_data(body.out, data));
        }
    }

    fn field(&mut self, tag: u8, write: impl FnOnce(&mut Body<'_>)) {
        let context = self.context;
        put_field(self.out, tag, |out| write(&mut Body { out, context }));
    }

    fn id(&mut self, tag: u8, id: Origin) {
        self.field(tag, |body| body.context.put_origin(body.out, id));
    }

    fn place(&mut self, tag: u8, place: &Place) {
        self.field(tag, |body| body.context.put_place(body.out, place));
    }

    fn attributes(&mut self, step: &Step<Attributes>) {
        self.field(tag::ATTRIBUTES_STEP, |body| body.context.put_attributes_step(body.out, step));
    }

    fn times(&mut self, tag: u8, step: &Step<Times>) {
        self.field(tag, |body| body.context.put_times_step(body.out, step));
    }

    fn data_step(&mut self, step: &Step<Data>) {
        self.field(tag::DATA_STEP, |body| body.context.put_data_step(body.out, step));
    }

    /// A path whose last name the record has already is told by its directory.
    fn path(&mut self, (whole, directory): (u8, u8), path: &[u8], name: &Name) {
        let path = kept(path);
        match directory_of(path, name) {
            Some(parent) => self.field(directory, |body| body.out.extend(parent)),
            None => self.bytes(whole, path),
        }
    }

    /// Bytes, where there are any.
    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.field(tag, |body| body.out.extend(bytes));
        }
    }

    /// A value, which may be there and be empty.
    fn value(&mut self, tag: u8, value: &Option<Box<[u8]>>) {
        if let Some(value) = value {
            self.field(tag, |body| body.out.extend(value));
        }
    }
}

/// The part of `path` that is kept: all of it, or the end.
fn kept(path: &[u8]) -> &[u8] {
    &path[path.len().saturating_sub(PATH_BYTES)..]
}

fn directory_of<'a>(path: &'a [u8], name: &Name) -> Option<&'a [u8]> {
    match path.strip_suffix(name.as_bytes())? {
        [] => Some(&[]),
        [directory @ .., b'/'] if !directory.is_empty() => Some(directory),
        _ => None,
    }
}
