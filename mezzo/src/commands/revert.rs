//! `mezzo revert`: some records are taken back, and what came after them stays.

use std::path::PathBuf;

use clap::Args;
use mezzo_core::Recno;
use mezzo_replica::log::Reader;

use super::undo::{Manner, carry_out};
use crate::undoing::Wish;
use crate::{Ending, Failure, find};

/// Arguments of `mezzo revert`.
#[derive(Debug, Args)]
#[command(
    after_help = "As mezzo undo --record. Nothing is done where anything stands in the way: then it is told what."
)]
pub struct Arguments {
    /// The fileset, unless it is the one that this is called in; then the numbers of records
    #[arg(value_name = "[DIR] RECNO", required = true)]
    arguments: Vec<PathBuf>,
    /// Take along later records that depend on those
    #[arg(long)]
    along: bool,
    #[command(flatten)]
    manner: Manner,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let (directory, numbers) = match arguments.arguments.split_first() {
        Some((first, rest)) if number(first).is_none() => (first.as_path(), rest),
        _ => (std::path::Path::new("."), &arguments.arguments[..]),
    };
    let records = numbers
        .iter()
        .map(|text| number(text).ok_or_else(|| not_a_record(text)))
        .collect::<Result<Vec<u64>, Failure>>()?;
    let Some(oldest) = records.iter().min().copied() else {
        return Err(Failure::Usage(
            "which records are to be taken back? Their numbers are missing".to_owned(),
        ));
    };
    let mut found = find::fileset(directory)?;
    found.sync()?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let last = reader.last()?;
    if let Some(beyond) = records.iter().find(|recno| Recno(**recno) > last) {
        return Err(Failure::Failed(format!("could not take back record {beyond}: the last is {last}")));
    }
    let wish = Wish { after: oldest.saturating_sub(1), records, along: arguments.along, ..Wish::default() };
    carry_out(found, &reader, wish, &arguments.manner, "taken back")
}

fn number(text: &std::path::Path) -> Option<u64> {
    text.to_str()?.parse().ok().filter(|number| *number > 0)
}

fn not_a_record(text: &std::path::Path) -> Failure {
    Failure::Usage(format!("{} is not the number of a record", text.display()))
}
