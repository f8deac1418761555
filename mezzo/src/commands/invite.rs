//! `mezzo invite`: a link by which somebody may clone a fileset.

use std::path::PathBuf;

use clap::Args;

use crate::control::{Answer, Invitation, Request};
use crate::render::{clock, json};
use crate::{Ending, Failure, find};

/// Arguments of `mezzo invite`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, which is offered by mezzo serve
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Whoever comes with it may read, and not write
    #[arg(long)]
    read_only: bool,
    /// For how long it is good: 30m, 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = clock::seconds)]
    valid: u64,
    /// How their users are the server's: same; all:UID:GID, everything is done as that one; or a table of client=server pairs as
    /// table:u1000=2000,g100=100
    #[arg(long, value_name = "MAPPING", default_value = "same")]
    mapping: String,
    /// Where they find the server, if not where mezzo serve was told; more than once for more than one way
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let mut daemon = find::daemon_of(&arguments.directory, "mezzo serve offers it")?;
    let wanted = Invitation {
        write: !arguments.read_only,
        seconds: arguments.valid,
        mapping: arguments.mapping,
        addresses: arguments.address,
    };
    match daemon.ask(&Request::Invite(wanted))?.0 {
        Answer::Invited { link } if arguments.json => {
            println!("{}", json::one_line(&serde_json::json!({ "link": link }))?);
            Ok(())
        }
        Answer::Invited { link } => {
            println!("{link}");
            Ok(())
        }
        answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
    }
}
