//! A JSON object while it is put together.

use serde_json::{Map, Value};

use crate::render::detail::hex;

/// Fields, in the order in which they were put.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Adds field `name`.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds text, of which nobody knows that it is UTF-8. Where it is not, U+FFFD stands for what is not, and
    /// `name_bytes` has all.
    pub fn put_text(&mut self, name: &str, bytes: &[u8]) {
        self.put(name, String::from_utf8_lossy(bytes));
        if std::str::from_utf8(bytes).is_err() {
            self.put(&format!("{name}_bytes"), hex(bytes));
        }
    }

    /// The same, where there may be none.
    pub fn put_optional_text(&mut self, name: &str, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.put_text(name, bytes),
            None => self.put(name, Value::Null),
        }
    }
}

impl From<Fields> for Value {
    fn from(fields: Fields) -> Value {
        Value::Object(fields.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_keeps_every_byte() {
        let check = |bytes: Option<&[u8]>, expected: Value| {
            let mut fields = Fields::default();
            fields.put_optional_text("path", bytes);
            assert_eq!(Value::from(fields), expected);
        };
        check(None, json!({ "path": null }));
        check(Some("ü\n\0".as_bytes()), json!({ "path": "ü\n\0" }));
        check(Some(b"a\xffb"), json!({ "path": "a\u{fffd}b", "path_bytes": "61ff62" }));
    }
}
