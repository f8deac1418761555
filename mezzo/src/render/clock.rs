//! Points in time as text.

use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use mezzo_core::Time;

/// The first second of the year 0, before which texts for times are not all agreed on.
const YEAR_0: i64 = -62_167_219_200;

/// RFC 3339 in UTC with all nine digits. A file's time may lie outside the years 0 to 9999, which that can tell; it is
/// then `@` and the seconds since 1970.
pub fn exact(time: Time) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
    match timestamp(time) {
        Some(timestamp) => PRINTER.timestamp_to_string(&timestamp),
        None => plain(time),
    }
}

/// To the millisecond, in `zone`.
pub fn short(time: Time, zone: &TimeZone) -> String {
    text(time, zone, "%Y-%m-%d %H:%M:%S.%3f")
}

/// To the nanosecond, in `zone`, and how far that is from UTC.
pub fn full(time: Time, zone: &TimeZone) -> String {
    text(time, zone, "%Y-%m-%d %H:%M:%S.%9f %:z")
}

fn text(time: Time, zone: &TimeZone, format: &str) -> String {
    let zoned: Option<Zoned> = timestamp(time).map(|timestamp| timestamp.to_zoned(zone.clone()));
    let text = zoned.and_then(|zoned| jiff::fmt::strtime::format(format, &zoned).ok());
    text.unwrap_or_else(|| plain(time))
}

fn timestamp(time: Time) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(time.nanoseconds).ok()?;
    Timestamp::new(time.seconds, nanoseconds).ok().filter(|timestamp| timestamp.as_second() >= YEAR_0)
}

fn plain(time: Time) -> String {
    format!("@{}.{:09}", time.seconds, time.nanoseconds)
}

/// Seconds of a length of time as people write it: `90s`, `30m`, `12h`, `7d`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 60 * 60,
        Some(b'd') => 24 * 60 * 60,
        _ => return Err("give a number with s, m, h or d behind it".to_owned()),
    };
    let number: u64 =
        text[..text.len() - 1].parse().map_err(|_| "it is not a number and s, m, h or d".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "it is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_their_texts() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let check = |seconds, nanoseconds, expected: [&str; 3]| {
            let time = Time::new(seconds, nanoseconds);
            assert_eq!([exact(time), short(time, &zone), full(time, &zone)], expected);
        };
        check(
            1_000_000_000,
            7_000_000,
            [
                "2001-09-09T01:46:40.007000000Z",
                "2001-09-09 03:46:40.007",
                "2001-09-09 03:46:40.007000000 +02:00",
            ],
        );
        check(
            -1,
            999_999_999,
            [
                "1969-12-31T23:59:59.999999999Z",
                "1970-01-01 01:59:59.999",
                "1970-01-01 01:59:59.999999999 +02:00",
            ],
        );
        check(i64::MAX, 5, ["@9223372036854775807.000000005"; 3]);
        let (utc, local) = ("0000-01-01T00:00:00.000000000Z", "0000-01-01 02:00:00.000");
        check(YEAR_0, 0, [utc, local, "0000-01-01 02:00:00.000000000 +02:00"]);
        check(YEAR_0 - 1, 0, ["@-62167219201.000000000"; 3]);
        check(-70_000_000_000, 0, ["@-70000000000.000000000"; 3]);
    }
}
