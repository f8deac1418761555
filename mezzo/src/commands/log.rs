//! `mezzo log`: what happened, newest first.

pub mod filter;
mod follow;
mod moment;
pub mod place;
pub mod point;
pub mod printer;

use std::path::PathBuf;

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;
use mezzo_core::{Recno, Record};
use mezzo_replica::log::{LogError, Reader};

use crate::Ending;
use crate::render::View;
use filter::{Filter, Selection};
use follow::{Growth, follow};
use printer::Printer;

/// Records that `--follow` begins with.
const BEFORE_FOLLOWING: usize = 10;

/// Arguments of `mezzo log`.
#[derive(Debug, Args)]
#[command(after_help = "\
A PATH goes by the paths that records have: those it had, under which something else may stand now, and what is below \
it. What stands there now may have had other paths before, or have others beside it. DIR may be left out inside a \
fileset; a single path that leads into one is taken as PATH.

A TIME is 2026-08-01T12:00:00+02:00, or 2026-08-01, 2026-08-01 12:00 or 2026-08-01 12:00:00 here, or so long ago: 10m, \
2h, 3d.")]
pub struct Arguments {
    /// The fileset
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Only what happened to this path, and below it; from DIR
    path: Option<PathBuf>,
    /// Show N records at most
    #[arg(short, value_name = "N")]
    number: Option<usize>,
    /// Oldest first, from the newest 10 or -n, and then what happens from now on
    #[arg(long, short)]
    follow: bool,
    /// One JSON object a line: see docs/json.md
    #[arg(long)]
    json: bool,
    /// Times in UTC
    #[arg(long)]
    utc: bool,
    #[command(flatten)]
    selection: Selection,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let zone = if arguments.utc { TimeZone::UTC } else { TimeZone::system() };
    let (found, path) = place::locate(arguments.directory.as_deref(), arguments.path.as_deref())?;
    let kml = found.own_path("kml");
    // Watched before it is read, so that nothing is missed in between.
    let mut growth = arguments.follow.then(|| Growth::watch(&kml)).transpose()?;
    let reader = Reader::open(&kml)?;
    // The daemon need not keep a connection for as long as this goes on.
    drop(found);
    let filter = arguments.selection.filter(path, &Zoned::now().with_time_zone(zone.clone()))?;
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let view = View::new(zone, reader.replica());
    let Some(growth) = &mut growth else {
        let number = arguments.number.unwrap_or(usize::MAX);
        return list(&reader, &filter, number, &mut Printer::new(view, arguments.json, out));
    };
    let before = arguments.number.unwrap_or(BEFORE_FOLLOWING);
    let mut printer = Printer::one_by_one(view, arguments.json, out);
    match follow(&reader, &filter, before, &mut printer, || growth.wait())? {}
}

/// Prints the newest `number` records that pass.
fn list(
    reader: &Reader,
    filter: &Filter,
    number: usize,
    printer: &mut Printer<impl std::io::Write>,
) -> Ending {
    let mut records = newest(reader, Recno(u64::MAX), filter).take(number);
    let printed = records.try_for_each(|record| Ok(printer.print(&record?)?));
    // Also what was read before an error.
    printer.flush()?;
    printed
}

/// The records that pass, newest first, from `recno` down. It ends where nothing older can pass.
fn newest(reader: &Reader, recno: Recno, filter: &Filter) -> impl Iterator<Item = Result<Record, LogError>> {
    let here = reader.replica();
    reader
        .backwards(recno)
        .take_while(move |read| read.as_ref().map_or(true, |record| !filter.is_over(record, here)))
        .filter(|read| read.as_ref().map_or(true, |record| filter.passes(record)))
}

#[cfg(test)]
mod tests {
    use mezzo_core::Change;
    use mezzo_replica::log::Log;

    use super::*;
    use crate::render::samples;

    /// A log of what happens at seconds 1, 2, 3 and so on, but for what came from another replica: that is older.
    fn log(received: &[u64]) -> (tempfile::TempDir, Reader) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path(), [1; 16], samples::HERE, 1).unwrap();
        for recno in 1..=9 {
            let mut record = samples::record(recno, Change::Noop);
            if received.contains(&recno) {
                record.origin.replica = samples::THERE;
                record.time = samples::at(0);
            }
            log.append(&record).unwrap();
        }
        (directory, log.reader().unwrap())
    }

    #[test]
    fn the_newest_that_pass() {
        let check = |received: &[u64], since: &str, number, expected: &str| {
            let (_directory, reader) = log(received);
            let filter = Selection::since(since).filter(None, &Zoned::now()).unwrap();
            let mut out = Vec::new();
            let mut printer = Printer::new(View::new(TimeZone::UTC, samples::HERE), false, &mut out);
            list(&reader, &filter, number, &mut printer).unwrap();
            let numbers = String::from_utf8(out).unwrap();
            let numbers: Vec<&str> = numbers.lines().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(numbers.concat(), expected);
        };
        let (begin, sixth) = ("2001-09-09T01:46:40Z", "2001-09-09T01:46:46Z");
        check(&[], begin, usize::MAX, "987654321");
        check(&[], begin, 3, "987");
        check(&[], begin, 0, "");
        check(&[], sixth, usize::MAX, "9876");
        check(&[], sixth, 2, "98");
        check(&[7, 8], sixth, usize::MAX, "96");
    }
}
