//! Fields of a body: a tag, the length of the value as a number of variable length, and the value.
//!
//! Fields stand in the order of their tags, each at most once. A tag with the highest bit set has to be understood; any
//! other may be left out by who does not know it.

use super::bytes::{Cursor, put_varint};
use super::error::{DecodeError, Fault};

/// Set in the tag of a field without which a record would mean something else.
const MUST: u8 = 0x80;

/// Tags, as `docs/format.md` lists them.
pub(super) mod tag {
    pub const WHO: u8 = 0x01;
    pub const PATH: u8 = 0x02;
    pub const DIRECTORY: u8 = 0x03;
    pub const TO_PATH: u8 = 0x04;
    pub const TO_DIRECTORY: u8 = 0x05;
    pub const REASON: u8 = 0x06;
    pub const OBJECT: u8 = 0x81;
    pub const PLACE: u8 = 0x82;
    pub const TO_PLACE: u8 = 0x83;
    pub const ATTRIBUTES: u8 = 0x84;
    pub const ATTRIBUTES_STEP: u8 = 0x85;
    pub const TARGET: u8 = 0x86;
    pub const XATTRS: u8 = 0x87;
    pub const DATA: u8 = 0x88;
    pub const DATA_STEP: u8 = 0x89;
    pub const PARENT_TIMES: u8 = 0x8a;
    pub const TO_PARENT_TIMES: u8 = 0x8b;
    pub const REMOVED: u8 = 0x8c;
    pub const EXCHANGED: u8 = 0x8d;
    pub const XATTR_NAME: u8 = 0x8e;
    pub const VALUE_BEFORE: u8 = 0x8f;
    pub const VALUE_AFTER: u8 = 0x90;
    pub const UNSTABLE: u8 = 0x91;
    pub const RECORD: u8 = 0x92;
    pub const CHANGE: u8 = 0x93;
    pub const STANDS_FOR: u8 = 0x94;
    pub const DIGEST: u8 = 0x95;
    pub const EPOCH: u8 = 0x96;
    pub const LEFT: u8 = 0x97;
    pub const SNAPSHOT: u8 = 0x98;
}

/// Appends field `tag` with what `write` appends as its value.
pub(super) fn put_field(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    // Nearly every value is shorter than 128 bytes, so one byte is kept for the length; longer values move up.
    out.extend([tag, 0]);
    let start = out.len();
    write(out);
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
    } else {
        let mut told = Vec::with_capacity(4);
        put_varint(&mut told, length as u64);
        out.splice(start - 1..start, told);
    }
}

/// Reads the fields of a body, which have to be asked for in the order of their tags.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: Cursor<'a>,
    /// The next field, whose tag was read.
    next: Option<(u8, &'a [u8])>,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Fields<'a>, DecodeError> {
        let mut fields = Fields { rest: Cursor::new(bytes), next: None };
        fields.advance()?;
        Ok(fields)
    }

    /// The value of field `tag`; `None` where it is not there.
    pub fn raw(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DecodeError> {
        self.skip_below(tag)?;
        match self.next {
            Some((found, value)) if found == tag => {
                self.advance()?;
                Ok(Some(value))
            }
            _ => Ok(None),
        }
    }

    /// Reads the whole value of field `tag` by `read`; `None` where it is not there.
    pub fn optional<T>(
        &mut self,
        tag: u8,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<Option<T>, DecodeError> {
        let Some(value) = self.raw(tag)? else { return Ok(None) };
        let mut cursor = Cursor::new(value);
        read(&mut cursor)
            .and_then(|value| cursor.finish().map(|()| Some(value)))
            .map_err(|fault| DecodeError::Field { tag, fault })
    }

    /// Reads the whole value of field `tag`, which has to be there, by `read`.
    pub fn required<T>(
        &mut self,
        tag: u8,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<T, DecodeError> {
        self.optional(tag, read)?.ok_or(DecodeError::Missing(tag))
    }

    /// The fields within field `tag`, where it is there.
    pub fn group(&mut self, tag: u8) -> Result<Option<Fields<'a>>, DecodeError> {
        self.raw(tag)?.map(Fields::new).transpose()
    }

    /// Makes sure that nothing is left that has to be understood.
    pub fn finish(mut self) -> Result<(), DecodeError> {
        while self.next.is_some() {
            self.skip()?;
        }
        Ok(())
    }

    fn skip_below(&mut self, tag: u8) -> Result<(), DecodeError> {
        while self.next.is_some_and(|(found, _)| found < tag) {
            self.skip()?;
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<(), DecodeError> {
        match self.next {
            Some((tag, _)) if tag & MUST != 0 => Err(DecodeError::Unknown(tag)),
            _ => self.advance(),
        }
    }

    fn advance(&mut self) -> Result<(), DecodeError> {
        let last = self.next.take().map_or(0, |(tag, _)| tag);
        if self.rest.is_empty() {
            return Ok(());
        }
        let tag = self.rest.u8().unwrap_or_default();
        if tag <= last {
            return Err(DecodeError::Order(tag));
        }
        let value = self.rest.counted().map_err(|fault| DecodeError::Field { tag, fault })?;
        self.next = Some((tag, value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in fields {
            put_field(&mut out, *tag, |out| out.extend_from_slice(value));
        }
        out
    }

    #[test]
    fn fields_of_every_length_read_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let value = vec![7; length];
            let bytes = body(&[(0x01, &value), (0x81, b"x")]);
            let mut fields = Fields::new(&bytes).unwrap();
            assert_eq!(fields.raw(0x01).unwrap(), Some(&*value));
            assert_eq!(fields.raw(0x81).unwrap(), Some(&b"x"[..]));
            fields.finish().unwrap();
        }
    }

    #[test]
    fn what_may_be_skipped_and_what_not() {
        let check = |fields: &[(u8, &[u8])], wanted: u8, expected: Result<Option<&[u8]>, DecodeError>| {
            let bytes = body(fields);
            let found = Fields::new(&bytes).and_then(|mut fields| {
                let value = fields.raw(wanted)?;
                fields.finish().map(|()| value)
            });
            assert_eq!(found, expected, "{fields:?}");
        };
        check(&[], 0x81, Ok(None));
        check(&[(0x7e, b"new"), (0x81, b"v")], 0x81, Ok(Some(b"v")));
        check(&[(0x81, b"v"), (0xff, b"new")], 0x81, Err(DecodeError::Unknown(0xff)));
        check(&[(0x80, b"new"), (0x81, b"v")], 0x81, Err(DecodeError::Unknown(0x80)));
        check(&[(0x81, b"v"), (0x81, b"v")], 0x81, Err(DecodeError::Order(0x81)));
        check(&[(0x81, b"v"), (0x02, b"")], 0x81, Err(DecodeError::Order(0x02)));
        check(&[(0x00, b"")], 0x81, Err(DecodeError::Order(0x00)));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let error = DecodeError::Field { tag: 0x81, fault: Fault::Short };
        assert_eq!(Fields::new(&[0x81, 0xff, 0xff, 0xff, 0x7f]).err(), Some(error));
        assert_eq!(Fields::new(&[0x81]).err(), Some(error));
    }
}
