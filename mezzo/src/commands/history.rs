//! `mezzo history`: all that ever happened to one object, newest first.

use std::path::PathBuf;

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;
use mezzo_core::name::escape;
use mezzo_core::tree::Tree;
use mezzo_core::{ObjectId, Recno, Record};
use mezzo_replica::log::Reader;
use mezzo_replica::past;
use mezzo_replica::versions::{self, Source};

use super::log::filter::Selection;
use super::log::place;
use super::log::printer::Printer;
use crate::render::{Kept, View};
use crate::{Ending, Failure, progress};

/// Arguments of `mezzo history`.
#[derive(Debug, Args)]
#[command(after_help = "\
What stands at PATH now is followed back under all its names to where it was made; where nothing stands there, what stood there \
last. What a directory has in it, and had, is not told: `mezzo log DIR PATH` does. DIR may be left out inside a fileset; a single \
path that leads into one is taken as PATH.

Of each state of a file's data it is told whether it can still be had: from the tree, from the attic, or not.")]
pub struct Arguments {
    /// The fileset
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What stands at this path, from DIR
    path: Option<PathBuf>,
    /// Show N records at most
    #[arg(short, value_name = "N")]
    number: Option<usize>,
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
    let reader = Reader::open(&found.own_path("kml"))?;
    let filter = arguments.selection.filter(None, &Zoned::now().with_time_zone(zone.clone()))?;
    let (object, last) = stood(&reader, &path.unwrap_or_default())?;
    let source = found.source()?;
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printer = Printer::new(View::new(zone, reader.replica()), arguments.json, out);
    let records = past::history(&reader, &last, object, Recno(u64::MAX));
    let passing = records.filter(|read| read.as_ref().map_or(true, |record| filter.passes(record)));
    let printed = passing.take(arguments.number.unwrap_or(usize::MAX)).try_for_each(|record| {
        let record = record?;
        let kept = kept(&record, &last, object, &source)?;
        Ok(printer.print_kept(&record, kept)?)
    });
    // Also what was read before an error.
    printer.flush()?;
    printed
}

/// The object that stands at `path`, or stood there last, and the tree after the last record.
pub fn stood(reader: &Reader, path: &[u8]) -> Result<(ObjectId, Tree), Failure> {
    let bar = progress::counter("records read");
    let stood = past::stood(reader, path, &mut |read| bar.set_position(read));
    bar.finish_and_clear();
    let (object, last) = stood?;
    let object = object.ok_or_else(|| {
        Failure::Failed(format!("nothing stands at {}, and nothing ever did", escape(path)))
    })?;
    Ok((object, last))
}

/// Where the data can be had that `record` brought to `object`; `None` where it brought none.
fn kept(record: &Record, last: &Tree, object: ObjectId, source: &Source) -> Result<Option<Kept>, Failure> {
    let Some(brought) = past::brings(record, object) else { return Ok(None) };
    if brought.size == 0 {
        return Ok(Some(Kept::Empty));
    }
    let kept = versions::kept(last, object, brought.version, source).map_err(|cause| {
        Failure::Failed(format!("could not look for the data of record {}: {cause}", record.recno))
    })?;
    Ok(Some(kept.map_or(Kept::Nowhere, Kept::In)))
}
