//! The values that records are made of.

use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Data, Device, Kind, Time, Xattr};
use serde_json::{Value, json};

use super::fields::Fields;
use crate::render::{clock, detail};

/// A point in time.
pub fn time(time: Time) -> Value {
    clock::exact(time).into()
}

/// What a record tells of a directory that it changes.
pub fn times(times: &Step<Times>) -> Value {
    let one = |times: Times| json!({ "mtime": time(times.mtime), "ctime": time(times.ctime) });
    json!({ "before": one(times.before), "after": one(times.after) })
}

/// What `stat` tells.
pub fn attributes(attributes: &Attributes) -> Value {
    let device = |Device { major, minor }| json!({ "major": major, "minor": minor });
    let is_device = matches!(attributes.kind, Kind::CharDevice | Kind::BlockDevice);
    json!({
        "kind": attributes.kind.word(),
        "mode": detail::mode(attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "size": attributes.size,
        "links": attributes.links,
        "device": is_device.then(|| device(attributes.device)),
        "atime": time(attributes.atime),
        "mtime": time(attributes.mtime),
        "ctime": time(attributes.ctime),
    })
}

/// A file's data before and after; null where there is neither.
pub fn data(before: Option<Data>, after: Option<Data>) -> Value {
    let one = |data: Data| {
        let digest = data.digest.map(|digest| detail::hex(&digest));
        json!({ "version": data.version.to_string(), "digest": digest })
    };
    match (before, after) {
        (None, None) => Value::Null,
        (before, after) => json!({ "before": before.map(one), "after": after.map(one) }),
    }
}

/// All extended attributes of an object.
pub fn xattrs(xattrs: &[Xattr]) -> Value {
    let one = |xattr: &Xattr| {
        let mut fields = Fields::default();
        fields.put_text("name", &xattr.name);
        fields.put_text("value", &xattr.value);
        Value::from(fields)
    };
    xattrs.iter().map(one).collect()
}

/// One extended attribute set or removed.
pub fn xattr(name: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) -> Value {
    let mut fields = Fields::default();
    fields.put_text("name", name);
    fields.put_optional_text("before", before);
    fields.put_optional_text("after", after);
    fields.into()
}
