//! How the index knows what the attic holds.

use mezzo_core::{DataVersion, ObjectId, Time};

use super::store::{object_key, origin_of, time_key, time_of};

/// One file of the attic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kept {
    /// When it was put there: the oldest goes first.
    pub since: Time,
    /// Which data it holds; it is the file's name too.
    pub version: DataVersion,
}

impl Kept {
    /// 12 bytes of time, 16 of version.
    pub(super) fn key(&self) -> [u8; 28] {
        let mut key = [0; 28];
        key[..12].copy_from_slice(&time_key(self.since));
        key[12..].copy_from_slice(&object_key(ObjectId(self.version.0)));
        key
    }

    pub(super) fn from_key(key: &[u8]) -> Option<Kept> {
        let (time, version) = key.split_at_checked(12)?;
        Some(Kept { since: time_of(time)?, version: DataVersion(origin_of(version)?) })
    }
}
