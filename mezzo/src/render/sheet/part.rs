//! What a change found and what it left, object by object.

use mezzo_core::name::escape;
use mezzo_core::record::{Displaced, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Change, Data, Kind, ObjectId, Place, State, Xattr};

use super::Field;
use crate::render::{View, clock, detail, told};

/// An object, or a directory whose entries changed. The fields of both sides are the same, in the same order.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Which one.
    pub title: String,
    /// As it was; `None` where it was not there.
    pub before: Option<Vec<Field>>,
    /// As it is; `None` where it is gone.
    pub after: Option<Vec<Field>>,
}

/// All that `change` tells of objects.
pub fn parts(view: &View, change: &Change) -> Vec<Part> {
    match change {
        Change::Make { object, place, path, state, parent } => {
            let title = format!("object {object}, as it was made");
            let made = Part { title, before: None, after: Some(whole(view, state, &state.attributes)) };
            vec![made, directory(view, path, place, parent)]
        }
        Change::Link { object, place, path, attributes, parent } => {
            vec![changed(view, *object, attributes), directory(view, path, place, parent)]
        }
        Change::Remove { removed, place, path, parent } => {
            vec![lost(view, removed, "as it was removed"), directory(view, path, place, parent)]
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
            let mut parts =
                vec![changed(view, *object, attributes), directory(view, from_path, from, from_parent)];
            if from.parent != to.parent {
                parts.push(directory(view, to_path, to, to_parent));
            }
            parts.extend(self::displaced(view, displaced));
            parts
        }
        Change::Setattr { object, attributes, data: step, .. } => {
            let part = changed(view, *object, attributes);
            vec![
                step.iter()
                    .fold(part, |part, step| with(part, data(Some(step.before)), data(Some(step.after)))),
            ]
        }
        Change::Xattr { object, name, value, attributes, .. } => {
            let field = |value: &Option<Box<[u8]>>| vec![xattr(name, value.as_deref())];
            vec![with(changed(view, *object, attributes), field(&value.before), field(&value.after))]
        }
        Change::Close { object, attributes, data: step, .. } => {
            vec![with(changed(view, *object, attributes), data(Some(step.before)), data(Some(step.after)))]
        }
        Change::Amend { change, .. } | Change::UndoOf { change, .. } => parts(view, change),
        Change::Digest { .. }
        | Change::Noop
        | Change::Disable { .. }
        | Change::Alias { .. }
        | Change::Epoch { .. }
        | Change::Snapshot { .. } => Vec::new(),
    }
}

fn changed(view: &View, object: ObjectId, step: &Step<Attributes>) -> Part {
    Part {
        title: format!("object {object}"),
        before: Some(attributes(view, &step.before)),
        after: Some(attributes(view, &step.after)),
    }
}

fn lost(view: &View, removed: &Removed, how: &str) -> Part {
    let Removed { object, state, .. } = removed;
    let left = told::left(removed);
    Part {
        title: if left.is_some() { format!("object {object}") } else { format!("object {object}, {how}") },
        before: Some(whole(view, state, &state.attributes)),
        after: left.map(|left| whole(view, state, &left)),
    }
}

fn displaced(view: &View, displaced: &Displaced) -> Option<Part> {
    match displaced {
        Displaced::Nothing => None,
        Displaced::Replaced(removed) => Some(lost(view, removed, "as it was replaced")),
        Displaced::Exchanged { object, attributes } => {
            let part = changed(view, *object, attributes);
            Some(Part { title: format!("{}, which took the place left behind", part.title), ..part })
        }
    }
}

/// The directory in which `place` is, whose path for people is `path`.
fn directory(view: &View, path: &[u8], place: &Place, step: &Step<Times>) -> Part {
    let times = |times: &Times| vec![time(view, "mtime", times.mtime), time(view, "ctime", times.ctime)];
    let end = path.iter().rposition(|byte| *byte == b'/');
    let path = end.map_or_else(|| ".".to_owned(), |end| escape(&path[..end]));
    Part {
        title: format!("directory {path} ({})", place.parent),
        before: Some(times(&step.before)),
        after: Some(times(&step.after)),
    }
}

/// `part` with more fields.
fn with(part: Part, before: Vec<Field>, after: Vec<Field>) -> Part {
    let both = |fields: Option<Vec<Field>>, more: Vec<Field>| fields.map(|fields| [fields, more].concat());
    Part { before: both(part.before, before), after: both(part.after, after), ..part }
}

/// An object whose state is `state`, apart from its attributes.
fn whole(view: &View, state: &State, attributes: &Attributes) -> Vec<Field> {
    let mut fields = self::attributes(view, attributes);
    if attributes.kind == Kind::Symlink {
        fields.push(field("target", escape(&state.target)));
    }
    fields.extend(state.xattrs.iter().map(|Xattr { name, value }| xattr(name, Some(value))));
    fields.extend(data(state.data));
    fields
}

fn attributes(view: &View, attributes: &Attributes) -> Vec<Field> {
    let Attributes { kind, mode, uid, gid, size, links, device, atime, mtime, ctime } = *attributes;
    let mut fields = vec![
        field("kind", kind.word().to_owned()),
        field("mode", detail::mode(mode)),
        field("owner", view.users.user(uid)),
        field("group", view.users.group(gid)),
        field("size", detail::bytes(size)),
        field("links", links.to_string()),
    ];
    if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        fields.push(field("device", detail::device(device)));
    }
    fields.extend([time(view, "atime", atime), time(view, "mtime", mtime), time(view, "ctime", ctime)]);
    fields
}

fn data(data: Option<Data>) -> Vec<Field> {
    let Some(Data { version, digest }) = data else { return Vec::new() };
    vec![field("data version", version.to_string()), field("digest", detail::digest(digest))]
}

fn xattr(name: &[u8], value: Option<&[u8]>) -> Field {
    field(&escape(name), value.map_or_else(|| "none".to_owned(), detail::value))
}

fn time(view: &View, name: &str, time: mezzo_core::Time) -> Field {
    field(name, clock::full(time, &view.zone))
}

fn field(name: &str, value: String) -> Field {
    (name.to_owned(), value)
}
