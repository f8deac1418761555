//! `mezzo clients`: who may use a fileset that is offered.

use std::path::PathBuf;

use clap::Args;
use mezzo_net::server::ClientStatus;

use crate::control::{Answer, Request};
use crate::render::json;
use crate::{Ending, Failure, find};

/// Arguments of `mezzo clients`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, which is offered by mezzo serve
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Let this client in no more: its number, as this command shows it
    #[arg(long, value_name = "CLIENT")]
    revoke: Option<String>,
    /// One JSON object a client
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let mut daemon = find::daemon_of(&arguments.directory, "mezzo serve offers it")?;
    if let Some(client) = arguments.revoke {
        return match daemon.ask(&Request::Revoke { client })?.0 {
            Answer::Done => Ok(()),
            answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
        };
    }
    let Answer::Clients { clients } = daemon.ask(&Request::Clients)?.0 else {
        return Err(Failure::Failed("the daemon gave another answer".to_owned()));
    };
    for client in &clients {
        if arguments.json {
            println!("{}", json::one_line(client)?);
        } else {
            println!("{}", line(client));
        }
    }
    Ok(())
}

fn line(client: &ClientStatus) -> String {
    let state = match (&client.address, client.revoked) {
        (_, true) => "revoked".to_owned(),
        (Some(address), _) => format!("connected from {address}"),
        (None, _) => "not connected".to_owned(),
    };
    let ClientStatus { id, name, rights, mapping, .. } = client;
    let replica = client.replica.as_deref().unwrap_or("-");
    format!("{id}  {name}  {rights}  {mapping}  replica {replica}  {state}")
}
