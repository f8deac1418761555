//! `mezzo redo`: what was taken back is done again.

use std::path::PathBuf;

use clap::Args;
use mezzo_replica::log::Reader;

use super::undo::{Manner, carry_out};
use crate::undoing::Wish;
use crate::{Ending, find};

/// Arguments of `mezzo redo`.
#[derive(Debug, Args)]
#[command(
    after_help = "What the last `mezzo undo` took back is done again; then what the one before took back."
)]
pub struct Arguments {
    /// The fileset
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    #[command(flatten)]
    manner: Manner,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let mut found = find::fileset(&arguments.directory)?;
    found.sync()?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let wish = Wish { redo: true, ..Wish::default() };
    carry_out(found, &reader, wish, &arguments.manner, "done again")
}
