//! What a record is about: who made it and when, where it took place, which objects it is about.

use mezzo_core::name::escape;
use mezzo_core::{Change, Place, Record, Who};

use super::Field;
use crate::render::{View, clock, detail, line};

/// What every record says.
pub fn record(view: &View, record: &Record) -> Vec<Field> {
    let Record { recno, previous, epoch, origin, time, who, change } = record;
    let made = if origin.replica == view.here { "here" } else { "on another replica" };
    vec![
        field("record", recno),
        field("kind", line::kind(view, change)),
        field("time", clock::full(*time, &view.zone)),
        field("who", self::who(view, who)),
        field("made", format_args!("{made}, as {origin}")),
        field("in the log", format_args!("epoch {epoch}, after record {previous}")),
    ]
}

/// What `change` says apart from values before and after.
pub fn change(change: &Change) -> Vec<Field> {
    match change {
        Change::Make { place, .. } | Change::Link { place, .. } | Change::Remove { place, .. } => {
            vec![path(change), at("place", place)]
        }
        Change::Rename { from, from_path, to, to_path, .. } => vec![
            field("from", escape(from_path)),
            at("from place", from),
            field("to", escape(to_path)),
            at("to place", to),
        ],
        Change::Setattr { .. } | Change::Xattr { .. } => vec![path(change)],
        Change::Close { stable: true, .. } => vec![path(change)],
        Change::Close { stable: false, .. } => {
            vec![path(change), field("unstable", "it was still open for writing")]
        }
        Change::Digest { object, version, size, digest } => vec![
            field("object", object),
            field("data version", version),
            field("size", detail::bytes(*size)),
            field("digest", detail::hex(digest)),
        ],
        Change::Noop => Vec::new(),
        Change::Disable { record, reason } => {
            vec![field("disables", record), field("reason", escape(reason.as_bytes()))]
        }
        Change::Amend { record, change } => first(field("amends", record), change),
        Change::UndoOf { record, change } => first(field("takes back", record), change),
        Change::Alias { object, stands_for } => {
            vec![field("object", object), field("is one with", stands_for)]
        }
        Change::Epoch { epoch, holder, cause, ended_at } => vec![
            field("new epoch", format_args!("{epoch}, {}", detail::why(*cause))),
            field("holder", holder),
            field("last before", ended_at),
        ],
        Change::Snapshot { of, at, records, .. } => vec![
            field("of", format_args!("record {at} of replica {of}")),
            field("made by", format_args!("the {records} records that follow")),
        ],
    }
}

/// What an undo or an amendment says: `field`, and all of the change in it.
fn first(field: Field, inner: &Change) -> Vec<Field> {
    let mut fields = vec![field];
    fields.extend(change(inner));
    fields
}

fn path(change: &Change) -> Field {
    field("path", line::paths(change))
}

fn at(name: &str, place: &Place) -> Field {
    field(name, format_args!("{} in {}", place.name, place.parent))
}

fn field(name: &str, value: impl ToString) -> Field {
    (name.to_owned(), value.to_string())
}

fn who(view: &View, who: &Who) -> String {
    let users = &view.users;
    let mut parts = vec![
        line::program(who),
        format!("user {}", named(users.user(who.uid), who.uid)),
        format!("group {}", named(users.group(who.gid), who.gid)),
    ];
    if !who.groups.is_empty() {
        let groups: Vec<String> = who.groups.iter().map(|gid| users.group(*gid)).collect();
        parts.push(format!("also in {}", groups.join(" ")));
    }
    if !who.session.is_empty() {
        parts.push(format!("session {}", escape(&who.session)));
    }
    parts.join(", ")
}

/// A name with its number, or the number alone where there is no name.
fn named(name: String, number: u32) -> String {
    if name == number.to_string() { name } else { format!("{name} ({number})") }
}
