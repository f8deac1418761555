//! A point in a log as people give it: a record, or a time.

use std::collections::HashSet;
use std::str::FromStr;

use jiff::Zoned;
use mezzo_core::{Recno, Time};
use mezzo_replica::log::Reader;

use super::moment::{Moment, NotAMoment};
use crate::Failure;
use crate::commands::show;

/// After which record.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    /// After this one; 0 is before the first.
    Record(Recno),
    /// After the last one that was made by then.
    Time(Moment),
}

/// Neither of the two.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected the number of a record, or {}", .0.wanted())]
pub struct NotAPoint(NotAMoment);

impl FromStr for Point {
    type Err = NotAPoint;

    fn from_str(text: &str) -> Result<Point, NotAPoint> {
        match text.parse() {
            Ok(recno) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Point::Record(Recno(recno))),
            _ => text.parse().map(Point::Time).map_err(NotAPoint),
        }
    }
}

impl Point {
    /// Which record of the log it is after, at `now`. Fails where the log does not reach as far as the record that was named.
    pub fn recno(self, reader: &Reader, now: &Zoned) -> Result<Recno, Failure> {
        match self {
            Point::Record(recno) if recno > reader.last()? => Err(show::none(reader, recno)?),
            Point::Record(recno) => Ok(recno),
            Point::Time(moment) => last_by(reader, moment.time(now)?),
        }
    }
}

/// The last record that was made in this log at or before `time`; 0 where none was. What came from other replicas has times of
/// their clocks, at which it was not here yet.
fn last_by(reader: &Reader, time: Time) -> Result<Recno, Failure> {
    let replicas: HashSet<_> = reader.replicas()?.into_iter().map(|(replica, _)| replica).collect();
    for record in reader.backwards(Recno(u64::MAX)) {
        let record = record?;
        if replicas.contains(&record.origin.replica) && record.time <= time {
            return Ok(record.recno);
        }
    }
    Ok(Recno::NONE)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use mezzo_core::Change;
    use mezzo_replica::log::Log;

    use super::*;
    use crate::render::samples;

    #[test]
    fn records_and_times() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path(), [1; 16], samples::HERE, 1).unwrap();
        for recno in 1..=9 {
            let mut record = samples::record(recno, Change::Noop);
            if recno == 7 {
                record.origin.replica = samples::THERE;
                record.time = samples::at(2);
            }
            log.append(&record).unwrap();
        }
        let reader = log.reader().unwrap();
        let now = jiff::Timestamp::new(samples::at(20).seconds, 0).unwrap().to_zoned(TimeZone::UTC);
        let check = |text: &str, expected: Result<u64, &str>| {
            let point: Point = text.parse().unwrap();
            match (point.recno(&reader, &now), expected) {
                (Ok(recno), Ok(expected)) => assert_eq!(recno.0, expected, "{text}"),
                (Err(Failure::Failed(told)), Err(expected)) => assert_eq!(told, expected),
                (other, _) => panic!("{text}: {other:?}"),
            }
        };
        check("0", Ok(0));
        check("9", Ok(9));
        check("10", Err("there is no record 10: the log has records 1 to 9"));
        check("1s", Ok(9));
        check("11s", Ok(8));
        check("12s", Ok(6));
        check("15s", Ok(4));
        check("2001-09-09T01:46:45.005Z", Ok(5));
        check("2001-09-09", Ok(0));
    }

    #[test]
    fn what_is_neither() {
        for text in ["", "-1", "+1", "yesterday", "1..2", "99999999999999999999"] {
            let told = text.parse::<Point>().unwrap_err().to_string();
            assert!(told.starts_with("expected the number of a record, or a time such as 2026"), "{told}");
        }
    }
}
