//! Which records are shown.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use clap::builder::PossibleValuesParser;
use jiff::Zoned;
use mezzo_core::{Record, ReplicaId, Time};
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::Failure;
use crate::render::told::{KINDS, Paths, innermost};
use crate::render::users;

/// What a person says of the records to be shown.
#[derive(Debug, Default, Args)]
pub struct Selection {
    /// Only what this user did: a name or a number
    #[arg(long, value_parser = users::uid)]
    user: Option<u32>,
    /// Only what this program did: its whole name, of at most 15 bytes, as the kernel keeps it
    #[arg(long)]
    program: Option<OsString>,
    /// Only what was done in this session
    #[arg(long)]
    session: Option<OsString>,
    /// Only what was done since then
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only this kind of record, and undos and amendments that did this; may be given several times
    #[arg(long = "kind", value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kinds: Vec<String>,
}

/// Records pass that meet all of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    path: Option<Vec<u8>>,
    user: Option<u32>,
    program: Option<OsString>,
    session: Option<OsString>,
    /// Seconds and nanoseconds.
    since: Option<(i64, u32)>,
    kinds: Vec<String>,
}

impl Selection {
    /// What it means for records, with a `path` to which they happened, at the time of `now`.
    pub fn filter(self, path: Option<Vec<u8>>, now: &Zoned) -> Result<Filter, Failure> {
        let Selection { user, program, session, since, kinds } = self;
        let since = since.map(|moment| moment.time(now)).transpose()?;
        let since = since.map(|Time { seconds, nanoseconds }| (seconds, nanoseconds));
        Ok(Filter { path, user, program, session, since, kinds })
    }
}

impl Filter {
    /// Whether it leaves anything out.
    pub fn is_all(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether records pass only since some time, so that [`Filter::is_over`] may be true.
    pub fn has_beginning(&self) -> bool {
        self.since.is_some()
    }

    /// Whether `record` is shown.
    pub fn passes(&self, record: &Record) -> bool {
        let Record { who, change, time, .. } = record;
        self.path.as_ref().is_none_or(|path| Paths::of(change).touch(path))
            && self.user.is_none_or(|user| who.uid == user)
            && self.program.as_ref().is_none_or(|program| program.as_bytes() == &*who.program)
            && self.session.as_ref().is_none_or(|session| session.as_bytes() == &*who.session)
            && self.since.is_none_or(|since| (time.seconds, time.nanoseconds) >= since)
            && self.has_kind(record)
    }

    /// Whether no record before `record` passes, in the log of replica `here`. What came from other replicas has times of
    /// their clocks, and may be far older than what stands before it; what was made here has the time when it was
    /// written.
    pub fn is_over(&self, record: &Record, here: ReplicaId) -> bool {
        let time = (record.time.seconds, record.time.nanoseconds);
        record.origin.replica == here && self.since.is_some_and(|since| time < since)
    }

    fn has_kind(&self, record: &Record) -> bool {
        let kinds = [record.change.kind(), innermost(&record.change).kind()];
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kinds.contains(&kind.as_str()))
    }
}

#[cfg(test)]
impl Selection {
    /// All since then.
    pub fn since(moment: &str) -> Selection {
        Selection { since: Some(moment.parse().unwrap()), ..Selection::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::render::samples::{self, UID};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: Selection,
    }

    fn filter(arguments: &[&str], path: Option<&str>) -> Result<Filter, clap::Error> {
        let line = Line::try_parse_from(std::iter::once(&"log").chain(arguments))?;
        let now = samples::at(60);
        let now = jiff::Timestamp::new(now.seconds, now.nanoseconds as i32).unwrap().to_zoned(TimeZone::UTC);
        Ok(line.selection.filter(path.map(|path| path.as_bytes().to_vec()), &now).unwrap())
    }

    #[test]
    fn what_passes() {
        let check = |arguments: &[&str], path, expected: &[u64]| {
            let filter = filter(arguments, path).unwrap();
            let passed = samples::all().into_iter().filter(|record| filter.passes(record));
            let passed: Vec<u64> = passed.map(|record| record.recno.0).collect();
            assert_eq!(passed, expected, "{arguments:?} {path:?}");
        };
        let all: Vec<u64> = (1..=25).collect();
        check(&[], None, &all);
        check(&["--user", &UID.to_string()], None, &all);
        check(&["--user", "root"], None, &[]);
        check(&["--program", "vim"], None, &all);
        check(&["--program", "vi"], None, &[]);
        check(&["--session", "12"], None, &all);
        check(&["--session", "1"], None, &[]);
        check(&["--kind", "mkdir"], None, &[2]);
        check(&["--kind", "mkdir", "--kind", "rmdir"], None, &[2, 8]);
        check(&["--kind", "rename"], None, &[9, 10, 11, 24]);
        check(&["--kind", "undo"], None, &[24]);
        check(&["--since", "39s"], None, &[21, 22, 23, 24, 25]);
        check(&["--since", "2001-09-09T01:47:04.005Z"], None, &[24, 25]);
        check(&[], Some("src"), &[2, 3, 8]);
        check(&[], Some("src/l"), &[3]);
        check(&[], Some("c.txt"), &[9, 10, 24]);
        check(&["--kind", "undo"], Some("c.txt"), &[24]);
    }

    #[test]
    fn what_is_refused() {
        let check = |arguments: &[&str], told: &str| {
            let message = filter(arguments, None).unwrap_err().to_string();
            assert!(message.contains(told), "{message}");
        };
        check(&["--kind", "write"], "possible values: create, mkdir, symlink");
        check(&["--user", "no such user"], "no user has this name");
        check(&["--since", "yesterday"], "expected a time such as");
    }

    #[test]
    fn only_records_made_here_tell_that_it_is_over() {
        let filter = filter(&["--since", "40s"], None).unwrap();
        let check = |recno: u64, replica, expected| {
            let mut record = samples::record(recno, mezzo_core::Change::Noop);
            record.origin.replica = replica;
            assert_eq!(filter.is_over(&record, samples::HERE), expected, "{recno}");
        };
        check(19, samples::HERE, true);
        check(20, samples::HERE, false);
        check(19, samples::THERE, false);
    }
}
