//! Numbers and strings in bytes: little-endian, or of variable length.

use super::error::Fault;

type Read<T> = Result<T, Fault>;

/// Reads from the front of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of variable length (LEB128) in its shortest form.
    pub fn varint(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and a last byte of zero could have been left out.
            let fits = bits << shift >> shift == bits;
            if !fits || (byte == 0 && shift > 0) {
                return Err(Fault::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Varint)
    }

    /// A number of variable length that must fit `T`.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Read<T> {
        let value = self.varint()?;
        T::try_from(value).map_err(|_| Fault::Large(value))
    }

    /// A signed number of variable length: 0, -1, 1, -2, … are written as 0, 1, 2, 3, …
    pub fn signed(&mut self) -> Read<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Bytes with their count in front.
    pub fn counted(&mut self) -> Read<&'a [u8]> {
        let count = self.number()?;
        self.take(count)
    }

    pub fn finish(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::Trailing(self.0.len())) }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63) as u64);
}

pub(super) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_in_their_shortest_form() {
        let check = |value: u64, bytes: &[u8]| {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(Cursor::new(bytes).varint(), Ok(value));
        };
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[test]
    fn what_is_not_a_number() {
        let check = |bytes: &[u8], fault| assert_eq!(Cursor::new(bytes).varint(), Err(fault), "{bytes:?}");
        check(&[], Fault::Short);
        check(&[0x80], Fault::Short);
        check(&[0x80, 0], Fault::Varint);
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], Fault::Varint);
        check(&[0x80; 11], Fault::Varint);
        check(&[0xff; 11], Fault::Varint);
    }

    #[test]
    fn signed_numbers_read_back() {
        for value in [0, -1, 1, -2, 63, -64, 64, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(Cursor::new(&out).signed(), Ok(value));
        }
    }
}
