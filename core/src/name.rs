//! Names and places of objects.

use std::fmt;
use std::sync::Arc;

use crate::id::ObjectId;
use crate::limits::NAME_BYTES;

/// One entry's name: 1 to 255 bytes, of any value but `/` and NUL, and neither `.` nor `..`. Not always UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// A directory entry: where an object stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The directory.
    pub parent: ObjectId,
    /// The entry's name in it.
    pub name: Name,
}

/// Bytes that are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No bytes at all.
    #[error("a name is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a name has {0} bytes, more than 255")]
    Long(usize),
    /// `.` or `..`
    #[error("a name is . or ..")]
    Dots,
    /// A `/` or a NUL.
    #[error("a name holds a slash or a NUL")]
    Forbidden,
}

impl Name {
    /// Takes `bytes` as a name.
    pub fn new(bytes: &[u8]) -> Result<Name, BadName> {
        match bytes {
            [] => Err(BadName::Empty),
            b"." | b".." => Err(BadName::Dots),
            _ if bytes.len() > NAME_BYTES => Err(BadName::Long(bytes.len())),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(BadName::Forbidden),
            _ => Ok(Name(bytes.into())),
        }
    }

    /// The smallest name in the order of bytes.
    pub fn first() -> Name {
        Name([1].into())
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Place {
    /// The entry `name` of `parent`.
    pub fn new(parent: ObjectId, name: Name) -> Place {
        Place { parent, name }
    }
}

/// Escaped, so that it is one line of UTF-8.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(&self.0))
    }
}

/// `directory` and `name` with one slash between them, or `name` alone where `directory` is empty.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// A path or name as text for people: bytes that are not UTF-8, control characters and backslashes become `\xNN`
/// or `\\`, so that two paths never look the same.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| text.push_str(&format!("\\x{b:02x}")))
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        let check = |bytes: &[u8], expected| assert_eq!(Name::new(bytes).map(|_| ()), expected, "{bytes:?}");
        check(b"a", Ok(()));
        check(b"...", Ok(()));
        check(b"\xff\n", Ok(()));
        check(&[b'a'; 255], Ok(()));
        check(&[b'a'; 256], Err(BadName::Long(256)));
        check(b"", Err(BadName::Empty));
        check(b".", Err(BadName::Dots));
        check(b"..", Err(BadName::Dots));
        check(b"a/b", Err(BadName::Forbidden));
        check(b"a\0", Err(BadName::Forbidden));
    }

    #[test]
    fn escaped_texts_differ_where_bytes_do() {
        let check = |bytes: &[u8], expected| assert_eq!(escape(bytes), expected);
        check("grün".as_bytes(), "grün");
        check(b"\xff", "\\xff");
        check(b"\\xff", "\\\\xff");
        check(b"a\nb", "a\\x0ab");
    }
}
