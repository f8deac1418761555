//! A point in time as people give it.

use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, Zoned};
use mezzo_core::Time;

/// A point in time, where that may depend on the clock and on where one is.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// The same everywhere.
    At(Timestamp),
    /// What calendar and clock show.
    Shown(DateTime),
    /// So long ago.
    Ago(Span),
}

/// Neither of the three.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected {}", self.wanted())]
pub struct NotAMoment;

impl NotAMoment {
    /// What would be one.
    pub fn wanted(self) -> &'static str {
        "a time such as 2026-08-01T12:00:00Z, 2026-08-01, \"2026-08-01 12:00\", 10m, 2h or 3d"
    }
}

impl FromStr for Moment {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Moment, NotAMoment> {
        let at = || text.parse().ok().map(Moment::At);
        let shown = || text.parse().ok().map(Moment::Shown);
        // With the word "ago", as without it.
        let ago = || text.parse().ok().map(|span: Span| Moment::Ago(span.abs()));
        at().or_else(shown).or_else(ago).ok_or(NotAMoment)
    }
}

impl Moment {
    /// Which it is at `now`, and where `now` is.
    pub fn time(self, now: &Zoned) -> Result<Time, jiff::Error> {
        let timestamp = match self {
            Moment::At(timestamp) => timestamp,
            Moment::Shown(shown) => shown.to_zoned(now.time_zone().clone())?.timestamp(),
            Moment::Ago(span) => now.checked_sub(span)?.timestamp(),
        };
        let nanoseconds = timestamp.as_nanosecond();
        const SECOND: i128 = 1_000_000_000;
        Ok(Time::new(nanoseconds.div_euclid(SECOND) as i64, nanoseconds.rem_euclid(SECOND) as u32))
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::{self, TimeZone};

    use super::*;

    #[test]
    fn how_times_are_given() {
        let now = jiff::civil::date(2026, 8, 1).at(12, 0, 0, 0);
        let now = now.to_zoned(TimeZone::fixed(tz::offset(2))).unwrap();
        let check = |text: &str, expected: &str| {
            let expected: Timestamp = expected.parse().unwrap();
            let time = text.parse::<Moment>().unwrap().time(&now).unwrap();
            assert_eq!(time, Time::new(expected.as_second(), expected.subsec_nanosecond() as u32), "{text}");
        };
        check("2026-07-31T09:30:01.5Z", "2026-07-31T09:30:01.5Z");
        check("2026-07-31T09:30:01+05:30", "2026-07-31T04:00:01Z");
        check("2026-07-31", "2026-07-30T22:00:00Z");
        check("2026-07-31 09:30", "2026-07-31T07:30:00Z");
        check("2026-07-31 09:30:01", "2026-07-31T07:30:01Z");
        check("2026-07-31T09:30:01", "2026-07-31T07:30:01Z");
        check("10m", "2026-08-01T09:50:00Z");
        check("2h", "2026-08-01T08:00:00Z");
        check("1h 30m", "2026-08-01T08:30:00Z");
        check("3d", "2026-07-29T10:00:00Z");
        check("2 weeks ago", "2026-07-18T10:00:00Z");
    }

    #[test]
    fn what_is_no_time() {
        for text in ["", "10", "m", "yesterday", "2026-13-01", "2026-08-01 25:00"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
