//! What `history`, `blame` and `diff` write.

use mezzo_core::tree::{Difference, Side};
use mezzo_core::{Name, ObjectId, Record};
use serde_json::Value;

use super::fields::Fields;
use super::{value, who};
use crate::render::Kept;
use crate::render::difference::xattrs;

/// All of `record`, and where the data that it brought can be had.
pub fn kept(record: &Record, kept: Option<Kept>) -> Value {
    let mut record = super::record(record);
    record["kept"] = kept.map(Kept::word).into();
    record
}

/// A line of a file, and the record that brought it, or one before.
pub fn line(number: usize, text: &[u8], record: &Record, or_before: bool) -> Value {
    let mut fields = Fields::default();
    fields.put("line", number);
    fields.put_text("text", text);
    fields.put("or_before", or_before);
    put_author(&mut fields, record);
    fields.into()
}

/// An entry of a directory, and the record that changed it last.
pub fn entry(name: &Name, object: ObjectId, record: &Record) -> Value {
    let mut fields = Fields::default();
    fields.put_text("name", name.as_bytes());
    fields.put("object", object.to_string());
    put_author(&mut fields, record);
    fields.into()
}

fn put_author(fields: &mut Fields, record: &Record) {
    fields.put("recno", record.recno.0);
    fields.put("origin", record.origin.to_string());
    fields.put("time", value::time(record.time));
    fields.put("who", who(&record.who));
    fields.put("kind", record.change.kind());
}

/// A difference between two trees. `content` is the one between bytes, where that was asked for and bytes differ: as text, or why
/// there is none.
pub fn difference(difference: &Difference<'_>, content: Option<Option<&Result<Vec<u8>, String>>>) -> Value {
    let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
    let path = |side: Option<&Side<'_>>| side.map(|side| side.path.clone());
    let object = |side: &Side<'_>| side.object;
    let both = before.zip(after);
    let mut fields = Fields::default();
    fields.put("difference", difference.sort.word());
    fields.put_optional_text("from", path(before).as_deref());
    fields.put_optional_text("to", path(after).as_deref());
    fields.put("object", after.or(before).map(object).map(|id| id.to_string()));
    let replaced = both.filter(|(before, after)| before.object != after.object);
    fields.put("replaced", replaced.map(|(before, _)| before.object.to_string()));
    fields.put("fields", difference.fields.iter().map(|field| field.word()).collect::<Vec<_>>());
    fields.put("before", before.map(|side| value::attributes(&side.state.attributes)));
    fields.put("after", after.map(|side| value::attributes(&side.state.attributes)));
    let data = |side: Option<&Side<'_>>| side.and_then(|side| side.state.data);
    fields.put("data", value::data(data(before), data(after)));
    let changed = both.into_iter().flat_map(|(before, after)| xattrs(before.state, after.state));
    fields.put(
        "xattrs",
        changed.map(|(name, before, after)| value::xattr(name, before, after)).collect::<Vec<_>>(),
    );
    if let Some(content) = content {
        let diff = content.and_then(|content| content.as_deref().ok());
        fields.put_optional_text("diff", diff);
        fields.put("no_diff", content.and_then(|content| content.as_ref().err().cloned()));
    }
    fields.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mezzo_core::Change;
    use mezzo_core::tree::{TimesAre, Tree, differences};

    use super::*;
    use crate::render::samples;

    const DOCUMENT: &str = include_str!("../../../../docs/json.md");

    /// The names in the first columns of the tables of the document's part `title`.
    fn documented(title: &str) -> BTreeSet<String> {
        let part = DOCUMENT.split("\n## ").find(|part| part.starts_with(&format!("{title}\n"))).unwrap();
        let cells = part.lines().filter_map(|line| line.strip_prefix("| `")?.split("` |").next());
        cells.flat_map(|cell| cell.split("` `")).map(str::to_owned).collect()
    }

    fn names(values: &[Value]) -> BTreeSet<String> {
        values.iter().flat_map(|value| value.as_object().unwrap().keys().cloned()).collect()
    }

    #[test]
    fn what_is_written_is_what_is_documented() {
        let record = samples::record(1, samples::create(1, b"f"));
        let with = kept(&record, Some(Kept::Empty));
        let more: BTreeSet<_> = names(std::slice::from_ref(&with))
            .difference(&names(&[super::super::record(&record)]))
            .cloned()
            .collect();
        assert_eq!((more, &with["kept"]), (documented("History"), &"empty".into()));
        assert!(kept(&samples::record(2, Change::Noop), None)["kept"].is_null());

        let name = Name::new(b"f").unwrap();
        let blamed = [line(1, b"text", &record, true), entry(&name, ObjectId::ROOT, &record)];
        let author = ["recno", "origin", "time", "who", "kind"].map(str::to_owned);
        assert_eq!(names(&blamed), documented("Blame").into_iter().chain(author).collect());

        let (before, mut after) = (Tree::new(), Tree::new());
        after.apply(&record).unwrap();
        let found = differences(&before, &after, TimesAre::Left);
        let diff = Ok(b"+a\xff\n".to_vec());
        let told = difference(&found[0], Some(Some(&diff)));
        assert_eq!(
            (&told["difference"], &told["from"], &told["to"], &told["diff_bytes"]),
            (&"added".into(), &Value::Null, &"f".into(), &"2b61ff0a".into())
        );
        let mut told = names(&[told]);
        assert!(told.remove("diff_bytes"));
        assert_eq!(told, documented("Differences"));
        let told = names(&[difference(&found[0], None)]);
        assert!(!told.contains("diff") && !told.contains("no_diff"));
    }
}
