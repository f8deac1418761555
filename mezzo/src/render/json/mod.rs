//! Records as JSON: `docs/json.md` in code.

mod change;
mod fields;
mod past;
mod value;

use mezzo_core::{Record, Who};
use serde::Serialize;
use serde_json::Value;

use fields::Fields;
pub use past::{difference, entry, kept, line};

/// All of `record`.
pub fn record(record: &Record) -> Value {
    let mut fields = Fields::default();
    fields.put("recno", record.recno.0);
    fields.put("previous", record.previous.0);
    fields.put("epoch", record.epoch);
    fields.put("origin", record.origin.to_string());
    fields.put("time", value::time(record.time));
    fields.put("who", who(&record.who));
    change::put(&mut fields, &record.change);
    fields.into()
}

/// What a command reports, as it is serialised, with every `path` of bytes in it as text.
pub fn report(report: &impl Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    paths_as_text(&mut value);
    Ok(value)
}

fn paths_as_text(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(paths_as_text),
        Value::Object(old) => {
            let mut fields = Fields::default();
            for (name, mut value) in std::mem::take(old) {
                match bytes(&value).filter(|_| name == "path") {
                    Some(bytes) => fields.put_text(&name, &bytes),
                    None => {
                        paths_as_text(&mut value);
                        fields.put(&name, value);
                    }
                }
            }
            *value = fields.into();
        }
        _ => {}
    }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let numbers = value.as_array()?.iter().map(|number| number.as_u64()?.try_into().ok());
    numbers.collect()
}

/// The value as one line, without a control character in it: JSON leaves DEL and those from U+0080 to U+009F as they are, which
/// some terminals obey.
pub fn one_line(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains(char::is_control) {
        return Ok(text);
    }
    Ok(text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        match c.is_control() {
            true => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
        line
    }))
}

fn who(who: &Who) -> Value {
    let mut fields = Fields::default();
    fields.put("uid", who.uid);
    fields.put("gid", who.gid);
    fields.put("groups", who.groups.as_slice());
    fields.put("pid", who.pid);
    fields.put_text("program", &who.program);
    fields.put_text("session", &who.session);
    fields.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::render::samples;

    const DOCUMENT: &str = include_str!("../../../../docs/json.md");

    /// Every name in `value` and below, without those that a rule of the document adds.
    fn names(value: &Value, names_found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                let told = fields.keys().map(|name| name.strip_suffix("_bytes").unwrap_or(name));
                names_found.extend(told.map(str::to_owned));
                fields.values().for_each(|value| names(value, names_found));
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, names_found)),
            _ => {}
        }
    }

    /// The names in the first columns of the document's tables of fields, as far as they are about records.
    fn documented() -> BTreeSet<String> {
        let about = DOCUMENT.split("\n## ").find(|part| part.starts_with("Records\n")).unwrap();
        let tables = about.split("\n\n").filter(|part| part.starts_with("| field |"));
        let cells =
            tables.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `")?.split("` |").next());
        cells.flat_map(|cell| cell.split("` `")).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_written_is_what_is_documented() {
        let mut written = BTreeSet::new();
        samples::all().iter().for_each(|sample| names(&record(sample), &mut written));
        assert_eq!(written, documented());
    }

    #[test]
    fn no_control_character_is_written() {
        let text = "a\u{7f}b\u{9b}31m\n\u{ad}ü".to_owned();
        let line = one_line(&text).unwrap();
        assert_eq!(line, "\"a\\u007fb\\u009b31m\\n\u{ad}ü\"");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    #[test]
    fn every_kind_is_documented() {
        for kind in crate::render::told::KINDS {
            assert!(DOCUMENT.contains(&format!("`{kind}`")), "{kind}");
        }
    }

    #[test]
    fn the_document_s_examples_are_what_is_written() {
        let examples: Vec<&str> =
            DOCUMENT.split("```json\n").skip(1).map(|part| part.split("```").next().unwrap()).collect();
        assert!(!examples.is_empty());
        let samples: Vec<Value> = samples::all().iter().map(record).collect();
        for example in examples {
            let example: Value = serde_json::from_str(example).unwrap();
            assert!(samples.contains(&example), "{example}");
        }
    }

    #[test]
    fn a_record_s_order_of_fields_is_fixed() {
        let text = record(&samples::record(7, mezzo_core::Change::Noop)).to_string();
        let expected = concat!(
            r#"{"recno":7,"previous":6,"epoch":1,"origin":"0123456789abcdef-7","#,
            r#""time":"2001-09-09T01:46:47.005000000Z","who":{"uid":3999999999,"gid":3999999999,"#,
            r#""groups":[3999999999],"pid":77,"program":"vim","session":"12"},"kind":"noop"}"#,
        );
        assert_eq!(text, expected);
    }
}
