//! How much data is to be here: all, or what fits within a limit.

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use mezzo_core::{Kind, ObjectId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;
use crate::host::now;
use crate::index::Entry;
use crate::replica::Replica;

/// Files that are evicted in one go, the least recently used first.
const BATCH: usize = 4096;

/// Objects that are looked at before others may change the index again.
const LOOKED_AT: usize = 4096;

/// Parts of the limit, in hundredths, that are left free where it was passed, so that not each new file begins anew.
const MARGIN: u64 = 5;

/// Bytes that are evicted before what had no room is tried again.
const EVICTED: u64 = 16 << 20;

/// How long nothing is looked for after nothing was found that could go.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// An open is noted where the last one was noted longer ago, in milliseconds.
const COARSE_MS: u64 = 1000;

/// What `fileset.toml` says of data that others have too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CachePolicy {
    /// Bytes of files that may be here; beyond it, what others have and was not used longest is evicted. Without it, all may.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text",
        deserialize_with = "as_bytes"
    )]
    pub limit: Option<u64>,
    /// Whether all files are brought, as far as the limit allows.
    pub full: bool,
}

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size as people write it: bytes, or so many KiB, MiB, GiB or TiB.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) =
        UNITS.iter().find_map(|(word, unit)| Some((text.strip_suffix(word)?, *unit))).unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

fn as_text<S: Serializer>(limit: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    let bytes = limit.unwrap_or_default();
    let (word, unit) =
        UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit) && bytes >= *unit).unwrap_or(&UNITS[4]);
    to.serialize_str(&format!("{}{word}", bytes / unit))
}

fn as_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Limit {
        Bytes(u64),
        Text(String),
    }
    let limit = match Limit::deserialize(from)? {
        Limit::Bytes(bytes) => Some(bytes),
        Limit::Text(text) => parse(&text),
    };
    let wrong = || serde::de::Error::custom("a limit is a number of bytes, or one with KiB, MiB, GiB or TiB");
    limit.map(Some).ok_or_else(wrong)
}

impl Replica {
    /// Notes that somebody opens the object, where that may decide what is evicted.
    pub(crate) fn note_used(&self, object: ObjectId) {
        if self.fileset().config.cache.limit.is_none() {
            return;
        }
        let now = now();
        let now_ms = now.seconds.max(0) as u64 * 1000 + u64::from(now.nanoseconds / 1_000_000);
        if self.index.used(object).is_ok_and(|last| last + COARSE_MS <= now_ms) {
            self.index.note_used(object, now_ms);
        }
    }

    /// Whether a file that lacks bytes is to have them though nobody waits.
    pub(super) fn is_wanted_in_background(&self, entry: &Entry, absent: bool) -> Result<bool, Error> {
        if !absent || self.pinned_with(entry)?.is_some() {
            return Ok(true);
        }
        let cache = &self.fileset().config.cache;
        let fits = |limit| self.index.data().here() + entry.attributes().size <= limit;
        Ok(cache.full && cache.limit.is_none_or(fits))
    }

    /// Evicts what was not used longest, where more is here than may be, or the host is full and the attic has nothing to give
    /// up; called from time to time. Only with a limit.
    pub fn bound_cache(&self) -> Result<(), Error> {
        let Some(limit) = self.fileset().config.cache.limit else { return Ok(()) };
        let here = self.index.data().here();
        let beyond = here.saturating_sub(limit);
        let is_full = self.is_host_full() && self.attic_size().1 == 0;
        let due = match (beyond, is_full) {
            (0, false) => return Ok(()),
            (0, true) => here * MARGIN / 100,
            _ => beyond + limit * MARGIN / 100,
        };
        if self.nothing_to_evict.lock().is_some_and(|at: Instant| at.elapsed() < LEFT_ALONE) {
            return Ok(());
        }
        let evicted = self.evict_least_used(due.max(1))?;
        *self.nothing_to_evict.lock() = (evicted < due).then(Instant::now);
        Ok(())
    }

    /// Whether the cache has to give room up soon: it is looked at more often then.
    pub fn is_cache_beyond_limit(&self) -> bool {
        self.fileset().config.cache.limit.is_some_and(|limit| self.index.data().here() > limit)
    }

    /// Does `act`, and where neither the host nor the attic has room for it, evicts what was not used longest, and does it again. Not
    /// to be called in the order.
    pub fn making_room_by_evicting<T>(&self, act: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        let tried = self.making_room(&act);
        let is_full = matches!(&tried, Err(error) if matches!(error.errno(), libc::ENOSPC | libc::EDQUOT));
        if is_full && self.evict_for(0)? { self.making_room(act) } else { tried }
    }

    /// Evicts what was not used longest, where `bytes` have no room; false where nothing may go.
    pub(super) fn evict_for(&self, bytes: u64) -> Result<bool, Error> {
        let is_bounded = self.fileset().config.cache.limit.is_some();
        Ok(is_bounded && self.evict_least_used(bytes.max(EVICTED))? > 0)
    }

    /// Evicts files until `bytes` are gone, the least recently used first, and returns how many are.
    fn evict_least_used(&self, bytes: u64) -> Result<u64, Error> {
        let mut gone = 0;
        let mut oldest = self.least_used()?.into_iter().peekable();
        while gone < bytes && oldest.peek().is_some() {
            let mut planned = gone;
            let mut batch = Vec::new();
            while planned < bytes
                && let Some((_, object, size)) = oldest.next()
            {
                batch.push(object);
                planned += size;
            }
            gone += self.evict(&batch)?.bytes;
        }
        Ok(gone)
    }

    /// Files that have bytes, and were not used longest: when, which, and how many.
    fn least_used(&self) -> Result<Vec<(u64, ObjectId, u64)>, Error> {
        let mut oldest = BinaryHeap::new();
        let mut after = None;
        loop {
            let entries = self.index.objects_after(after, LOOKED_AT)?;
            for entry in &entries {
                let size = entry.attributes().size;
                if entry.attributes().kind != Kind::File || size == 0 || entry.lost {
                    continue;
                }
                let used = self.index.used(entry.object)?;
                oldest.push((used, entry.object, size));
                if oldest.len() > BATCH {
                    oldest.pop();
                }
            }
            match entries.last() {
                Some(last) if entries.len() == LOOKED_AT => after = Some(last.object),
                _ => return Ok(oldest.into_sorted_vec()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        let check = |text: &str, expected| assert_eq!(parse(text), expected, "{text:?}");
        check("10GiB", Some(10 << 30));
        check("3 MiB", Some(3 << 20));
        check("1TiB", Some(1 << 40));
        check("12", Some(12));
        check("12B", Some(12));
        check("", None);
        check("GiB", None);
        check("1.5GiB", None);
        check("-1", None);
        check("99999999999999TiB", None);
    }

    #[test]
    fn a_policy_reads_back_what_it_writes() {
        for limit in [None, Some(0), Some(1), Some(1 << 20), Some(10 << 30), Some((1 << 30) + 1)] {
            let policy = CachePolicy { limit, full: limit.is_some() };
            let text = toml::to_string(&policy).unwrap();
            assert_eq!(toml::from_str::<CachePolicy>(&text).unwrap(), policy, "{text}");
        }
        assert_eq!(toml::from_str::<CachePolicy>("limit = 5").unwrap().limit, Some(5));
        assert!(toml::from_str::<CachePolicy>("limit = \"much\"").is_err());
    }
}
