//! `mezzo online` and `mezzo offline`: whether a fileset is to be connected to its server.

use std::path::PathBuf;

use clap::Args;

use crate::control::{Answer, Request};
use crate::{Ending, Failure, find};

/// Arguments of `mezzo online` and `mezzo offline`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, which is mounted
    #[arg(default_value = ".")]
    directory: PathBuf,
}

/// Runs it. It does not wait for the connection.
pub fn run(arguments: Arguments, online: bool) -> Ending {
    let mut daemon = find::daemon_of(&arguments.directory, "mezzo mount connects it")?;
    match daemon.ask(&Request::Online { online })?.0 {
        Answer::Link(_) => Ok(()),
        answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
    }
}
