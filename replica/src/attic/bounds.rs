//! How much the attic may hold, and what goes when it holds more.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::Time;
use mezzo_core::id::DataVersion;
use serde::{Deserialize, Serialize};

use super::Form;
use crate::Error;
use crate::host::{self, Stat, now};
use crate::index::{Entry, Kept};
use crate::replica::Replica;

/// Files that are given up at once.
const BATCH: usize = 64;

/// Seconds after which Linux has written dirty data to disk by itself: it is due after 30 (dirty_expire_centisecs), looked
/// for every 5, and may take as long again.
const SETTLED_SECONDS: i64 = 70;

/// Times that an operation is tried again after room was made.
const TRIES: usize = 12;

/// How long the kernel is given to forget what was removed; mostly it has at once.
const FORGOTTEN_WITHIN: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(10),
    Duration::from_millis(25),
];

/// Bytes that are given up before an operation is tried again.
const GIVEN_UP: u64 = 16 << 20;

/// How many times `copy_limit` is copied while somebody waits, where nothing else keeps a file: it is about to be emptied,
/// or its data passes through the kernel already, to those who read it. With the usual limit 256 MiB, half a second.
const AT_ONCE: u64 = 64;

/// What `fileset.toml` says of the attic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AtticPolicy {
    /// Whether anything is kept at all.
    pub on: bool,
    /// Bytes that it may hold.
    pub max_bytes: u64,
    /// Days that anything is kept.
    pub max_days: u32,
    /// Bytes of a file that is copied before it is written to, on hosts that can't clone. Of larger ones the ranges are
    /// kept that are overwritten.
    pub copy_limit: u64,
    /// Parts of the host file system, in hundredths, that are left free.
    pub leave_free_percent: u8,
    /// Names of files that are not kept, with `*` for any bytes.
    pub exclude: Vec<String>,
}

impl Default for AtticPolicy {
    fn default() -> AtticPolicy {
        AtticPolicy {
            on: true,
            max_bytes: 16 << 30,
            max_days: 30,
            copy_limit: 4 << 20,
            leave_free_percent: 5,
            exclude: Vec::new(),
        }
    }
}

impl AtticPolicy {
    /// Bytes that are copied at once, at most.
    pub(super) fn at_once(&self) -> u64 {
        self.copy_limit.saturating_mul(AT_ONCE)
    }

    /// Whether files with this name are not kept.
    pub fn excludes(&self, name: &[u8]) -> bool {
        self.exclude.iter().any(|pattern| matches(pattern.as_bytes(), name))
    }
}

/// Whether `name` is `pattern`, whose `*` stand for any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.iter().position(|b| *b == b'*') {
        None => pattern == name,
        Some(star) => {
            let Some(rest) = name.strip_prefix(&pattern[..star]) else { return false };
            (0..=rest.len()).any(|skipped| matches(&pattern[star + 1..], &rest[skipped..]))
        }
    }
}

/// Bytes that a fast disk takes between two looks at a host that is nearly full. Data is not seen as it is written, so that the
/// attic must have given room up before.
const WRITTEN_BETWEEN: u64 = 256 << 20;

/// On small hosts no more than so many times the part that is left free: a quarter, by default.
const SMALL_HOST: u64 = 5;

impl Replica {
    /// Gives up what is beyond the attic's bounds; called from time to time.
    pub fn bound_attic(&self) -> Result<(), Error> {
        loop {
            let oldest = self.index.oldest_kept(BATCH)?;
            let due = oldest.iter().take_while(|(kept, _)| self.is_beyond_bounds(kept)).count();
            // One at a time beyond age: each one given up brings the rest nearer to the bounds.
            let Some(kept) = oldest.first().filter(|_| due > 0) else { return Ok(()) };
            self.give_up(kept.0.version)?;
        }
    }

    fn is_beyond_bounds(&self, kept: &Kept) -> bool {
        let policy = &self.attic.policy;
        let age = Duration::from_secs(now().seconds.saturating_sub(kept.since.seconds).max(0) as u64);
        age > Duration::from_secs(u64::from(policy.max_days) * 24 * 60 * 60)
            || self.index.attic_size().0 > policy.max_bytes
            || self.is_host_full()
    }

    pub(crate) fn is_host_full(&self) -> bool {
        self.has_free_less_than(self.attic.policy.leave_free_percent.into())
    }

    /// Less than so much of the host, or than what somebody may write before it is looked at again.
    fn has_free_less_than(&self, percent: u64) -> bool {
        rustix::fs::fstatvfs(self.fileset().root()).is_ok_and(|found| {
            let part = found.f_blocks * percent / 100;
            let written = (WRITTEN_BETWEEN / found.f_frsize.max(1)).min(SMALL_HOST * part);
            found.f_bavail < part.max(written)
        })
    }

    /// Does `act`, and where the host has no room for it, gives up some of the attic and does it again.
    pub fn making_room<T>(&self, act: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        let mut tried = act();
        let mut waits = FORGOTTEN_WITHIN.iter();
        for _ in 0..TRIES {
            let full = matches!(&tried, Err(error) if matches!(error.errno(), libc::ENOSPC | libc::EDQUOT));
            if !full {
                break;
            }
            if !self.give_up_some()? {
                // What was just removed has its inode, and its bytes, until the kernel has forgotten it.
                let Some(wait) = waits.next().filter(|_| self.index.has_orphans()) else { break };
                std::thread::sleep(*wait);
            }
            tried = act();
        }
        // A host whose disk has failed says so to every change.
        tried.inspect_err(|error| match error {
            Error::Host(cause) if matches!(cause.raw_os_error(), Some(libc::EROFS | libc::EIO)) => {
                self.note_trouble(error);
            }
            _ => {}
        })
    }

    /// Gives up the oldest of the attic; false where there is nothing in it.
    fn give_up_some(&self) -> Result<bool, Error> {
        let mut given_up = 0;
        loop {
            let oldest = self.index.oldest_kept(BATCH)?;
            oldest.iter().try_for_each(|(kept, _)| self.give_up(kept.version))?;
            given_up += oldest.iter().map(|(_, bytes)| (*bytes).max(4096)).sum::<u64>();
            if oldest.is_empty() || given_up >= GIVEN_UP {
                return Ok(given_up > 0);
            }
        }
    }

    /// Whether room has to be given up soon, by the attic or by evicting: it is looked at more often then.
    pub fn is_host_nearly_full(&self) -> bool {
        (self.index.attic_size().1 > 0 || self.fileset().config.cache.limit.is_some())
            && self.has_free_less_than(2 * u64::from(self.attic.policy.leave_free_percent))
    }

    /// Gives up a version, and those that are told against it.
    pub(super) fn give_up(&self, version: DataVersion) -> Result<(), Error> {
        let mut doomed = vec![version];
        while let Some(version) = doomed.pop() {
            self.unkeep(version)?;
            doomed.extend(self.attic.layers.against(version));
        }
        Ok(())
    }

    /// Takes a version out of the attic that the tree has.
    pub(crate) fn unkeep(&self, version: DataVersion) -> Result<(), Error> {
        self.attic.remove(version)?;
        Ok(self.index.given_up(version)?)
    }

    /// The tree loses this version: where the attic has not got it, what is told against it is given up.
    pub(super) fn lose(&self, version: DataVersion) {
        if !self.attic.layers.is_told_against(version) || self.attic.has(version) {
            return;
        }
        if let Err(error) = self.give_up(version) {
            crate::say!("mezzo: {error}");
        }
    }

    /// Bytes and files of the attic.
    pub fn attic_size(&self) -> (u64, u64) {
        self.index.attic_size()
    }

    /// The object that stands in the tree, where its inode has a name in the attic too: what is about to be replaced is linked there
    /// before.
    pub(crate) fn also_in_tree(&self, stat: &Stat) -> Result<Option<Arc<Entry>>, Error> {
        Ok(if stat.host_links > 1 { self.known_by_inode(stat)? } else { None })
    }

    /// Takes those names away after a kill: whoever writes to such a file would change what is kept. That a link came and went is
    /// no change of it.
    pub(crate) fn part_attic_from_tree(&self) -> Result<(), Error> {
        for (version, stat) in self.attic.files()? {
            let Some(entry) = self.also_in_tree(&stat)? else { continue };
            let Some(reach) = self.attic.file(version)? else { continue };
            self.unkeep(version)?;
            self.settle_copied(&entry, reach.as_fd(), &host::stat(reach.as_fd())?)?;
        }
        Ok(())
    }

    /// Takes in what is in the attic and not in the index, after a use that did not end in order. After a power loss, what
    /// was written shortly before may lack bytes, and is given up.
    pub(crate) fn take_in_attic(&self, power_lost_at: Option<Time>) -> Result<(), Error> {
        for (version, form, stat) in self.attic.all()? {
            let written = stat.attributes.mtime.seconds;
            let unsure =
                power_lost_at.is_some_and(|lost| written > lost.seconds.saturating_sub(SETTLED_SECONDS));
            let nothing = form == Form::Removed && !self.attic.has(version);
            if form == Form::Whole && unsure || nothing {
                self.give_up(version)?;
            } else if !self.index.is_kept(version)? {
                self.index.kept(Kept { since: now(), version }, self.attic.bytes_of(version));
            } else if form == Form::Ranges {
                self.index.resize_kept(version, self.attic.bytes_of(version))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, name: &str, expected| {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} on {name}");
        };
        check("a", "a", true);
        check("a", "ab", false);
        check("*.o", "x.o", true);
        check("*.o", ".o", true);
        check("*.o", "x.oo", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("*", "", true);
    }
}
