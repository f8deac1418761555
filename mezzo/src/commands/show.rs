//! `mezzo show`: all that one record says.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::tz::TimeZone;
use mezzo_core::{Recno, Record};
use mezzo_replica::log::{LogError, Reader};

use crate::render::{View, json, sheet};
use crate::{Ending, Failure, find};

/// Arguments of `mezzo show`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct Arguments {
    /// The fileset, or something in it
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// The record's number
    #[arg(value_name = "RECNO")]
    recno: u64,
    /// What stayed the same, too
    #[arg(long)]
    all: bool,
    /// One JSON object, with all of it: see docs/json.md
    #[arg(long)]
    json: bool,
    /// Times in UTC
    #[arg(long)]
    utc: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let found = find::fileset(&arguments.directory)?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let record = get(&reader, Recno(arguments.recno))?;
    let text = if arguments.json {
        format!("{}\n", json::one_line(&json::record(&record))?)
    } else {
        let zone = if arguments.utc { TimeZone::UTC } else { TimeZone::system() };
        sheet(&View::new(zone, reader.replica()), &record, arguments.all)
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Record `recno`, which must be there.
pub fn get(reader: &Reader, recno: Recno) -> Result<Record, Failure> {
    match reader.get(recno)? {
        Some(record) => Ok(record),
        None => Err(none(reader, recno)?),
    }
}

/// What is told of a record that the log does not have.
pub fn none(reader: &Reader, recno: Recno) -> Result<Failure, LogError> {
    let (first, last) = (reader.first()?, reader.last()?);
    Ok(Failure::Failed(if first == Recno::NONE {
        format!("there is no record {recno}: the log has none")
    } else {
        format!("there is no record {recno}: the log has records {first} to {last}")
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mezzo_core::Change;
    use mezzo_replica::log::Log;

    use super::*;
    use crate::render::samples;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_single_argument_is_the_number() {
        let check = |arguments: &[&str], expected: Option<(&str, u64)>| {
            let line = Line::try_parse_from(std::iter::once(&"show").chain(arguments));
            let parsed = line.ok().map(|line| (line.arguments.directory, line.arguments.recno));
            assert_eq!(parsed, expected.map(|(directory, recno)| (directory.into(), recno)), "{arguments:?}");
        };
        check(&["7"], Some((".", 7)));
        check(&["dir", "7"], Some(("dir", 7)));
        check(&["--json", "7"], Some((".", 7)));
        check(&[], None);
        check(&["dir"], None);
        check(&["dir", "7", "8"], None);
    }

    #[test]
    fn a_record_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path(), [1; 16], samples::HERE, 1).unwrap();
        let reader = log.reader().unwrap();
        let check = |recno, expected: &str| match get(&reader, Recno(recno)) {
            Err(Failure::Failed(message)) => assert_eq!(message, expected),
            other => panic!("{other:?}"),
        };
        check(1, "there is no record 1: the log has none");
        (1..=3).for_each(|recno| log.append(&samples::record(recno, Change::Noop)).unwrap());
        check(0, "there is no record 0: the log has records 1 to 3");
        check(4, "there is no record 4: the log has records 1 to 3");
        assert_eq!(get(&reader, Recno(3)).unwrap(), samples::record(3, Change::Noop));
    }
}
