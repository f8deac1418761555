//! Who is who: filesets, replicas, records, objects and versions of data.

use std::fmt;
use std::str::FromStr;

/// Identifies a fileset: a random number, the same on all its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilesetId(pub [u8; 16]);

/// One machine's copy of a fileset: a random number that is never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// The number of a record in its log. Numbers start at 1, grow, and are never used twice; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recno(pub u64);

/// Where a record was first made, which it keeps for ever on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The replica that made the record.
    pub replica: ReplicaId,
    /// Its number in that replica's log.
    pub recno: Recno,
}

/// The identity of a file, directory, link or special file: the origin of the record that first made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub Origin);

/// One state of a file's bytes: the origin of the record that first told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataVersion(pub Origin);

impl Recno {
    /// No record.
    pub const NONE: Recno = Recno(0);

    /// The number after this one; the last number there is has none, and is its own.
    pub fn next(self) -> Recno {
        Recno(self.0.saturating_add(1))
    }
}

impl Origin {
    /// The origin of record `recno` of `replica`.
    pub fn new(replica: ReplicaId, recno: Recno) -> Origin {
        Origin { replica, recno }
    }
}

impl ObjectId {
    /// The root of every fileset, which no record makes.
    pub const ROOT: ObjectId = ObjectId(Origin { replica: ReplicaId(0), recno: Recno(0) });
}

/// Thirty-two hexadecimal digits.
impl fmt::Display for FilesetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Recno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `REPLICA-RECNO`: sixteen hexadecimal digits, a dash, decimal digits.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.replica, self.recno)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not what `Display` of the same type writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an id: expected thirty-two hexadecimal digits for a fileset, sixteen for a replica, and for an origin sixteen, a dash and a number"
)]
pub struct NotAnId;

impl FromStr for FilesetId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<FilesetId, NotAnId> {
        let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| valid);
        number.map(|n| FilesetId(n.to_be_bytes())).ok_or(NotAnId)
    }
}

impl FromStr for ReplicaId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<ReplicaId, NotAnId> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAnId);
        }
        u64::from_str_radix(text, 16).map(ReplicaId).map_err(|_| NotAnId)
    }
}

impl FromStr for Origin {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Origin, NotAnId> {
        let (replica, recno) = text.split_once('-').ok_or(NotAnId)?;
        if !recno.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAnId);
        }
        Ok(Origin::new(replica.parse()?, Recno(recno.parse().map_err(|_| NotAnId)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_back_what_it_prints() {
        let origin = Origin::new(ReplicaId(0x1234_5678_9abc_def0), Recno(42));
        assert_eq!(origin.to_string(), "123456789abcdef0-42");
        assert_eq!(origin.to_string().parse(), Ok(origin));
        for bad in ["", "-", "12-3", "123456789abcdef0", "123456789abcdef0-", "123456789abcdef0-+1"] {
            assert_eq!(bad.parse::<Origin>(), Err(NotAnId), "{bad:?}");
        }
    }
}
