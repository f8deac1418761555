//! mezzo's commands.

mod behind;
mod commands;
mod comparison;
mod control;
mod daemon;
mod demand;
mod fetch_from;
mod find;
mod lines;
mod links;
mod mount_table;
#[doc(hidden)]
pub mod outside;
mod progress;
mod reintegrating;
mod render;
mod undoing;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// A replicated file system whose every change is a record in a log.
#[derive(Debug, Parser)]
#[command(name = "mezzo", version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What a command ends with, other than success. Most usage errors are clap's, which exits with 2.
#[derive(Debug)]
pub enum Failure {
    /// Its arguments say nothing that could be done.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// It was done, and found what the caller has to know: told already.
    Told,
    /// Something stands in the way, and nothing was done: told already.
    Conflict,
    /// It ended with an answer that has an exit status of its own: told already.
    Ended(u8),
}

/// How a command ends.
pub type Ending = Result<(), Failure>;

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.to_string())
    }
}

/// Runs the command that the process was started as.
pub fn run() -> ExitCode {
    // A reader that goes away ends a command that prints, as with other commands.
    // SAFETY: no other thread runs yet, and the default action takes no pointers.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match commands::run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Conflict) => ExitCode::from(3),
        Err(Failure::Ended(status)) => ExitCode::from(status),
        Err(Failure::Usage(message)) => {
            eprintln!("mezzo: {message}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            eprintln!("mezzo: {message}");
            ExitCode::FAILURE
        }
    }
}
