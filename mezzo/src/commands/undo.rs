//! `mezzo undo`: what was done is taken back.

use std::path::PathBuf;

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;
use mezzo_core::Recno;
use mezzo_core::name::escape;
use mezzo_replica::log::Reader;
use mezzo_replica::{Fileset, Replica};

use super::log::filter::Selection;
use super::log::place;
use super::log::printer::Printer;
use crate::control::{Answer, Request};
use crate::find::Found;
use crate::render::{View, json};
use crate::undoing::{self, Report, Wish};
use crate::{Ending, Failure};

/// Arguments of `mezzo undo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without any selection, the last record is taken back; again, the one before it. An undo is made of records itself: `mezzo \
redo` takes it back. Nothing is done where anything stands in the way: then it is told what.")]
pub struct Arguments {
    /// The fileset
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Only what happened to this path, and below it; from DIR
    path: Option<PathBuf>,
    /// The last N records
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Everything after record RECNO
    #[arg(long, value_name = "RECNO")]
    to: Option<u64>,
    /// This record; may be given several times
    #[arg(long = "record", value_name = "RECNO")]
    records: Vec<u64>,
    #[command(flatten)]
    selection: Selection,
    /// Take along later records that depend on those
    #[arg(long)]
    along: bool,
    #[command(flatten)]
    manner: Manner,
}

/// How it is done and told.
#[derive(Debug, Args)]
pub struct Manner {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object: see docs/json.md
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let (mut found, path) = place::locate(arguments.directory.as_deref(), arguments.path.as_deref())?;
    found.sync()?;
    let filter = arguments.selection.filter(path, &Zoned::now())?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let mut after = arguments.to.unwrap_or(0);
    if let Some(oldest) = arguments.records.iter().min() {
        after = after.max(oldest.saturating_sub(1));
    }
    let here = reader.replica();
    // What passes no more ends it, so that a long log is not read to its beginning.
    for record in reader.backwards(Recno(u64::MAX)).take_while(|_| filter.has_beginning()) {
        let record = record?;
        if record.recno.0 <= after || filter.is_over(&record, here) {
            after = after.max(record.recno.0);
            break;
        }
    }
    let selects = arguments.to.is_some() || !arguments.records.is_empty() || !filter.is_all();
    let wish = Wish {
        after,
        most: arguments.last.or((!selects).then_some(1)),
        records: arguments.records,
        filter,
        redo: false,
        along: arguments.along,
        dry_run: arguments.manner.dry_run,
    };
    carry_out(found, &reader, wish, &arguments.manner, "taken back")
}

/// Has it done by the daemon, or does it where nothing is mounted, and tells what came of it.
pub fn carry_out(found: Found, reader: &Reader, wish: Wish, manner: &Manner, word: &str) -> Ending {
    let dry_run = Wish { dry_run: true, ..wish.clone() };
    let report = ask(found, if manner.dry_run { dry_run } else { wish })?;
    if manner.json {
        println!("{}", json::one_line(&json::report(&report)?)?);
    } else {
        tell(&report, reader, manner, word)?;
    }
    if report.hindrances > 0 { Err(Failure::Conflict) } else { Ok(()) }
}

fn ask(found: Found, wish: Wish) -> Result<Report, Failure> {
    // The connection that came with it may have been used.
    let mounted = crate::find::mounted_over(&found.path)?;
    if let Some(mount) = mounted {
        drop(found);
        let mut daemon = crate::find::connect(&mount)?.patiently()?;
        return match daemon.ask(&Request::Undo(wish))?.0 {
            Answer::Undone(report) => Ok(report),
            answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
        };
    }
    let (replica, start) = Replica::open(Fileset::open(&found.path)?)?;
    start.notes().iter().for_each(|note| eprintln!("mezzo: {note}"));
    replica.take_in(&mut |_| true)?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let report = wish.carry_out(&replica, &undoing::caller(uid, gid, std::process::id()), &())?;
    replica.close();
    Ok(report)
}

fn tell(report: &Report, reader: &Reader, manner: &Manner, word: &str) -> Ending {
    if report.hindrances > 0 {
        eprintln!("mezzo: nothing was {word}: {} things stand in the way", report.hindrances);
        for told in &report.told {
            let by = told.by.map_or_else(String::new, |by| format!(" (record {by})"));
            eprintln!("  record {} ({} {}): {}{by}", told.record, told.kind, escape(&told.path), told.why);
        }
        if report.told.iter().any(|told| told.by.is_some()) {
            eprintln!("  (--along takes back later records that are about the same, too)");
        }
        return Ok(());
    }
    if manner.dry_run {
        let out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut printer = Printer::new(View::new(TimeZone::system(), reader.replica()), false, out);
        for (newest, oldest) in &report.runs {
            for recno in (*oldest..=*newest).rev() {
                if let Some(record) = reader.get(Recno(recno))? {
                    printer.print(&record)?;
                }
            }
        }
        printer.flush()?;
    }
    let along = match report.along.len() {
        0 => String::new(),
        along => format!(", {along} of them taken along"),
    };
    match (report.records, manner.dry_run) {
        (0, _) => println!("there is nothing to be {word}"),
        (records, true) => println!("{records} records would be {word}{along}"),
        (records, false) => println!("{records} records {word}{along}"),
    }
    Ok(())
}
