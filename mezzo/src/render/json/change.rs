//! What a change says: its kind, and the fields that go with it.

use mezzo_core::record::{Displaced, Removed};
use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Change, ObjectId, Place, State};
use serde_json::Value;

use super::fields::Fields;
use super::value::{attributes, data, times, xattr, xattrs};
use crate::render::{detail, told};

/// Adds the fields of `change`.
pub fn put(fields: &mut Fields, change: &Change) {
    fields.put("kind", change.kind());
    match change {
        Change::Make { object, place, path, state, parent } => {
            put_place(fields, PLACE, path, place, parent);
            put_object(fields, *object, None, Some(state.attributes));
            put_state(fields, state, data(None, state.data));
        }
        Change::Link { object, place, path, attributes, parent } => {
            put_place(fields, PLACE, path, place, parent);
            put_step(fields, *object, attributes);
        }
        Change::Remove { removed, place, path, parent } => {
            put_place(fields, PLACE, path, place, parent);
            put_removed(fields, removed);
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
            put_place(fields, FROM, from_path, from, from_parent);
            put_place(fields, TO, to_path, to, to_parent);
            put_step(fields, *object, attributes);
            fields.put("displaced", self::displaced(displaced));
        }
        Change::Setattr { object, path, attributes, data: step } => {
            fields.put_text("path", path);
            put_step(fields, *object, attributes);
            fields.put("data", data(step.map(|step| step.before), step.map(|step| step.after)));
        }
        Change::Xattr { object, path, name, value, attributes } => {
            fields.put_text("path", path);
            put_step(fields, *object, attributes);
            fields.put("xattr", xattr(name, value.before.as_deref(), value.after.as_deref()));
        }
        Change::Close { object, path, attributes, data: step, stable } => {
            fields.put_text("path", path);
            put_step(fields, *object, attributes);
            fields.put("data", data(Some(step.before), Some(step.after)));
            fields.put("stable", *stable);
        }
        Change::Digest { object, version, size, digest } => {
            fields.put("object", object.to_string());
            fields.put("version", version.to_string());
            fields.put("size", *size);
            fields.put("digest", detail::hex(digest));
        }
        Change::Disable { record, reason } => {
            fields.put("record", record.to_string());
            fields.put("reason", &**reason);
        }
        Change::Amend { record, change } | Change::UndoOf { record, change } => {
            fields.put("record", record.to_string());
            let mut inner = Fields::default();
            put(&mut inner, change);
            fields.put("change", inner);
        }
        Change::Alias { object, stands_for } => {
            fields.put("object", object.to_string());
            fields.put("stands_for", stands_for.to_string());
        }
        Change::Epoch { epoch, holder, cause, ended_at } => {
            fields.put("new_epoch", *epoch);
            fields.put("holder", holder.to_string());
            fields.put("cause", detail::why(*cause));
            fields.put("ended_at", ended_at.0);
        }
        Change::Snapshot { of, at, records, heads } => {
            fields.put("of", of.to_string());
            fields.put("at", at.0);
            fields.put("records", *records);
            fields.put("heads", heads.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        Change::Noop => {}
    }
}

/// The names of a place's fields: path, directory, name in it, the directory's times.
type PlaceNames = [&'static str; 4];

const PLACE: PlaceNames = ["path", "parent", "name", "parent_times"];
const FROM: PlaceNames = ["from", "from_parent", "from_name", "from_parent_times"];
const TO: PlaceNames = ["to", "to_parent", "to_name", "to_parent_times"];

fn put_place(fields: &mut Fields, names: PlaceNames, path: &[u8], place: &Place, parent: &Step<Times>) {
    let [path_name, parent_name, name, times_name] = names;
    fields.put_text(path_name, path);
    fields.put(parent_name, place.parent.to_string());
    fields.put_text(name, place.name.as_bytes());
    fields.put(times_name, times(parent));
}

fn displaced(displaced: &Displaced) -> Value {
    let mut fields = Fields::default();
    match displaced {
        Displaced::Nothing => return Value::Null,
        Displaced::Replaced(removed) => {
            fields.put("how", "replaced");
            put_removed(&mut fields, removed);
        }
        Displaced::Exchanged { object, attributes } => {
            fields.put("how", "exchanged");
            put_step(&mut fields, *object, attributes);
        }
    }
    fields.into()
}

fn put_removed(fields: &mut Fields, removed: &Removed) {
    let Removed { object, state, .. } = removed;
    let left = told::left(removed);
    put_object(fields, *object, Some(state.attributes), left);
    put_state(fields, state, data(state.data, left.and(state.data)));
}

fn put_step(fields: &mut Fields, object: ObjectId, attributes: &Step<Attributes>) {
    put_object(fields, object, Some(attributes.before), Some(attributes.after));
}

fn put_object(fields: &mut Fields, object: ObjectId, before: Option<Attributes>, after: Option<Attributes>) {
    fields.put("object", object.to_string());
    fields.put("before", before.as_ref().map(attributes));
    fields.put("after", after.as_ref().map(attributes));
}

/// What is known of a whole object besides its attributes.
fn put_state(fields: &mut Fields, state: &State, data: Value) {
    let target = state.attributes.kind == mezzo_core::Kind::Symlink;
    fields.put_optional_text("target", target.then_some(&*state.target));
    fields.put("xattrs", xattrs(&state.xattrs));
    fields.put("data", data);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::render::samples;

    /// Every field of `fields` has to be there with that value; times are left to the document's examples.
    fn check(change: &Change, expected: Value) {
        let mut fields = Fields::default();
        put(&mut fields, change);
        let written = Value::from(fields);
        contains(&written, &expected, change.kind());
    }

    fn contains(written: &Value, expected: &Value, at: &str) {
        match expected {
            Value::Object(fields) => {
                fields
                    .iter()
                    .for_each(|(name, value)| contains(&written[name], value, &format!("{at}.{name}")));
            }
            value => assert_eq!(written, value, "{at}"),
        }
    }

    #[test]
    fn what_each_kind_says() {
        let id = |number: u64| format!("0123456789abcdef-{number}");
        let digest = |number: u8| detail::hex(&[number; 32]);
        let color = json!([{ "name": "user.color", "value": "red" }]);
        let rows = [
            json!({ "kind": "create", "path": "a.txt", "object": id(1), "parent": ObjectId::ROOT.to_string(),
                "name": "a.txt", "before": null, "after": { "kind": "file", "mode": "0644", "size": 12, "links": 1,
                "device": null }, "target": null, "xattrs": color,
                "data": { "before": null, "after": { "version": id(1), "digest": digest(1) } } }),
            json!({ "kind": "mkdir", "path": "src", "after": { "kind": "directory", "size": 0 }, "data": null }),
            json!({ "kind": "symlink", "path": "src/l", "target": "../else\u{fffd}",
                "target_bytes": "2e2e2f656c7365ff" }),
            json!({ "kind": "mknod", "after": { "kind": "char-device", "device": { "major": 1, "minor": 3 } } }),
            json!({ "kind": "link", "path": "b.txt", "before": { "links": 1 }, "after": { "links": 2 } }),
            json!({ "kind": "unlink", "before": { "links": 2 }, "after": { "links": 1 },
                "data": { "before": { "version": id(1) }, "after": { "version": id(1) } } }),
            json!({ "kind": "unlink", "path": "bad\u{fffd}\n", "path_bytes": "626164ff0a", "after": null,
                "name_bytes": "626164ff0a", "data": { "before": { "version": id(1) }, "after": null } }),
            json!({ "kind": "rmdir", "path": "src", "before": { "kind": "directory" }, "after": null, "data": null }),
            json!({ "kind": "rename", "from": "a.txt", "to": "c.txt", "from_name": "a.txt", "to_name": "c.txt",
                "object": id(3), "displaced": null }),
            json!({ "kind": "rename", "displaced": { "how": "replaced", "object": id(5), "after": null,
                "xattrs": color } }),
            json!({ "kind": "rename", "displaced": { "how": "exchanged", "object": id(9),
                "after": { "kind": "directory" } } }),
            json!({ "kind": "setattr", "path": "e", "before": { "mode": "0644", "size": 12 },
                "after": { "mode": "4755", "size": 0 }, "data": { "before": { "version": id(1) },
                "after": { "version": id(12) } } }),
            json!({ "kind": "setattr", "path": "", "object": ObjectId::ROOT.to_string(), "data": null }),
            json!({ "kind": "close", "path": "e", "stable": true, "data": { "after": { "version": id(14),
                "digest": null } } }),
            json!({ "kind": "close", "path": "", "stable": false }),
            json!({ "kind": "setxattr", "xattr": { "name": "user.color", "before": null, "after": "red" } }),
            json!({ "kind": "removexattr", "xattr": { "before_bytes": "0200ff", "after": null } }),
            json!({ "kind": "digest", "object": id(1), "version": id(14), "size": 30, "digest": digest(0xab) }),
            json!({ "kind": "noop" }),
            json!({ "kind": "disable", "record": id(12), "reason": "the name was taken" }),
            json!({ "kind": "amend", "record": "fedcba9876543210-7",
                "change": { "kind": "create", "path": "kept.txt" } }),
            json!({ "kind": "alias", "object": id(1), "stands_for": "fedcba9876543210-1" }),
            json!({ "kind": "epoch", "new_epoch": 2, "holder": "fedcba9876543210", "cause": "taken", "ended_at": 22 }),
            json!({ "kind": "undo", "record": id(9), "change": { "kind": "rename", "to": "a.txt" } }),
            json!({ "kind": "snapshot", "of": "fedcba9876543210", "at": 22, "records": 5,
                "heads": ["fedcba9876543210-22", id(3)] }),
        ];
        let samples = samples::all();
        assert_eq!(samples.len(), rows.len());
        samples.iter().zip(rows).for_each(|(sample, row)| check(&sample.change, row));
    }
}
