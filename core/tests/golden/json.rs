//! A log as JSON, with the names of `docs/format.md`: bytes in hexadecimal, times as seconds and nanoseconds.

use mezzo_core::attributes::{Attributes, Data, State, Xattr};
use mezzo_core::codec::{Break, Scanner, SegmentHead};
use mezzo_core::name::Place;
use mezzo_core::record::{Change, Displaced, Record, Removed};
use mezzo_core::time::{Step, Time, Times};
use mezzo_core::who::Who;
use serde_json::{Value, json};

/// A whole segment, as this crate reads it.
pub fn segment(bytes: &[u8]) -> Value {
    let (head, mut scanner) = Scanner::segment(bytes).unwrap();
    let mut records = Vec::new();
    let ending = loop {
        match scanner.next_frame() {
            Ok(Some(frame)) => records.push(record(&frame.record().unwrap())),
            Ok(None) => break json!({ "clean": scanner.offset() }),
            Err(Break::Torn { offset, .. }) => break json!({ "torn": offset }),
            Err(Break::Damaged { offset, next_valid, .. }) => {
                break json!({ "damaged": offset, "next": next_valid });
            }
        }
    };
    json!({ "segment": self::head(&head), "records": records, "ending": ending })
}

fn head(head: &SegmentHead) -> Value {
    json!({
        "minor": head.minor,
        "fileset": hex(&head.fileset),
        "replica": head.replica.to_string(),
        "epoch": head.epoch,
        "first": head.first.0,
        "previous": head.previous.0,
        "created": time(&head.created),
    })
}

fn record(record: &Record) -> Value {
    json!({
        "recno": record.recno.0,
        "previous": record.previous.0,
        "epoch": record.epoch,
        "origin": record.origin.to_string(),
        "time": time(&record.time),
        "who": who(&record.who),
        "change": change(&record.change),
    })
}

fn who(who: &Who) -> Value {
    json!({
        "uid": who.uid,
        "gid": who.gid,
        "pid": who.pid,
        "program": hex(&who.program),
        "session": hex(&who.session),
        "groups": who.groups,
    })
}

fn change(change: &Change) -> Value {
    match change {
        Change::Make { object, place, path, state, parent } => json!({
            "kind": "make",
            "object": object.to_string(),
            "place": self::place(place),
            "path": hex(path),
            "state": self::state(state),
            "parent times": times(parent),
        }),
        Change::Link { object, place, path, attributes, parent } => json!({
            "kind": "link",
            "object": object.to_string(),
            "place": self::place(place),
            "path": hex(path),
            "attributes": step(attributes),
            "parent times": times(parent),
        }),
        Change::Remove { removed, place, path, parent } => json!({
            "kind": "remove",
            "place": self::place(place),
            "path": hex(path),
            "parent times": times(parent),
            "removed": self::removed(removed),
        }),
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
        } => json!({
            "kind": "rename",
            "object": object.to_string(),
            "place": place(from),
            "path": hex(from_path),
            "to place": place(to),
            "to path": hex(to_path),
            "attributes": step(attributes),
            "parent times": times(from_parent),
            "to parent times": times(to_parent),
            "displaced": self::displaced(displaced),
        }),
        Change::Setattr { object, path, attributes, data } => json!({
            "kind": "setattr",
            "object": object.to_string(),
            "path": hex(path),
            "attributes": step(attributes),
            "data": data.map(|data| data_step(&data)),
        }),
        Change::Xattr { object, path, name, value, attributes } => json!({
            "kind": "xattr",
            "object": object.to_string(),
            "path": hex(path),
            "name": hex(name),
            "value": [value.before.as_deref().map(hex), value.after.as_deref().map(hex)],
            "attributes": step(attributes),
        }),
        Change::Close { object, path, attributes, data, stable } => json!({
            "kind": "close",
            "object": object.to_string(),
            "path": hex(path),
            "attributes": step(attributes),
            "data": data_step(data),
            "unstable": !stable,
        }),
        Change::Digest { object, version, size, digest } => json!({
            "kind": "digest",
            "object": object.to_string(),
            "version": version.to_string(),
            "size": size,
            "digest": hex(digest),
        }),
        Change::Noop => json!({ "kind": "noop" }),
        Change::Disable { record, reason } => json!({
            "kind": "disable",
            "record": record.to_string(),
            "reason": **reason,
        }),
        Change::Amend { record, change } => json!({
            "kind": "amend",
            "record": record.to_string(),
            "change": self::change(change),
        }),
        Change::Alias { object, stands_for } => json!({
            "kind": "alias",
            "object": object.to_string(),
            "stands for": stands_for.to_string(),
        }),
        Change::Epoch { epoch, holder, cause, ended_at } => json!({
            "kind": "epoch",
            "epoch": epoch,
            "holder": holder.to_string(),
            "cause": *cause as u8,
            "ended at": ended_at.0,
        }),
        Change::Snapshot { of, at, records, heads } => json!({
            "kind": "snapshot",
            "of": of.to_string(),
            "at": at.0,
            "records": records,
            "heads": heads.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Change::UndoOf { record, change } => json!({
            "kind": "undo of",
            "record": record.to_string(),
            "change": self::change(change),
        }),
    }
}

fn displaced(displaced: &Displaced) -> Value {
    match displaced {
        Displaced::Nothing => Value::Null,
        Displaced::Replaced(removed) => json!({ "removed": self::removed(removed) }),
        Displaced::Exchanged { object, attributes } => json!({
            "exchanged": { "object": object.to_string(), "attributes": step(attributes) },
        }),
    }
}

fn removed(removed: &Removed) -> Value {
    json!({
        "object": removed.object.to_string(),
        "state": state(&removed.state),
        "links left": removed.links_left,
        "ctime after": time(&removed.ctime_after),
    })
}

fn state(state: &State) -> Value {
    let pair = |xattr: &Xattr| json!([hex(&xattr.name), hex(&xattr.value)]);
    json!({
        "attributes": attributes(&state.attributes),
        "target": hex(&state.target),
        "xattrs": state.xattrs.iter().map(pair).collect::<Vec<_>>(),
        "data": state.data.as_ref().map(data),
    })
}

fn step(step: &Step<Attributes>) -> Value {
    json!([attributes(&step.before), attributes(&step.after)])
}

fn attributes(attributes: &Attributes) -> Value {
    json!({
        "kind": attributes.kind as u8,
        "mode": attributes.mode,
        "uid": attributes.uid,
        "gid": attributes.gid,
        "size": attributes.size,
        "links": attributes.links,
        "device": [attributes.device.major, attributes.device.minor],
        "atime": time(&attributes.atime),
        "mtime": time(&attributes.mtime),
        "ctime": time(&attributes.ctime),
    })
}

fn data_step(step: &Step<Data>) -> Value {
    json!([data(&step.before), data(&step.after)])
}

fn data(data: &Data) -> Value {
    json!({ "version": data.version.to_string(), "digest": data.digest.map(|digest| hex(&digest)) })
}

fn times(step: &Step<Times>) -> Value {
    json!([step.before.mtime, step.before.ctime, step.after.mtime, step.after.ctime].each_ref().map(time))
}

fn place(place: &Place) -> Value {
    json!({ "parent": place.parent.to_string(), "name": hex(place.name.as_bytes()) })
}

fn time(time: &Time) -> Value {
    json!([time.seconds, time.nanoseconds])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
