//! `mezzo sync`: everything exchanged with the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use mezzo_net::upstream::{LinkStatus, Upstream};
use mezzo_replica::{Fileset, Replica};

use crate::control::{Answer, Request};
use crate::render::{clock, json};
use crate::{Ending, Failure, daemon, find, progress};

/// Arguments of `mezzo sync`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, mounted or not
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = clock::seconds)]
    within: u64,
    /// One JSON object: how the connection is afterwards
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let failed =
        |why: String| Failure::Failed(format!("could not exchange everything with the server: {why}"));
    let status = match find::daemon(&arguments.directory)? {
        Some(daemon) => match daemon.patiently()?.ask(&Request::Exchange { seconds: arguments.within }) {
            Ok((Answer::Link(status), _)) => status,
            Ok((answer, _)) => return Err(failed(format!("the daemon gave another answer: {answer:?}"))),
            Err(error) => return Err(failed(error.to_string())),
        },
        None => alone(&arguments.directory, arguments.within).map_err(failed)?,
    };
    if arguments.json {
        println!("{}", json::one_line(&status)?);
    } else {
        println!(
            "everything is exchanged with {}: the server has record {}, and record {} of the server is here",
            status.server, status.acknowledged, status.received
        );
    }
    Ok(())
}

/// Nobody has the fileset open: it is opened for this.
pub fn alone(directory: &Path, seconds: u64) -> Result<LinkStatus, String> {
    daemon::outlive_peers();
    let fileset = Fileset::open(directory).map_err(|error| error.to_string())?;
    let (replica, start) = Replica::open(fileset).map_err(|error| error.to_string())?;
    start.notes().iter().for_each(|note| eprintln!("mezzo: {note}"));
    let replica = Arc::new(replica);
    if !Upstream::is_known(&replica) {
        return Err("it has no server: it was not made by mezzo clone".to_owned());
    }
    let upstream = Upstream::start(replica.clone(), Arc::new(())).map_err(|error| error.to_string())?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let bar = progress::counter("records of the server are here");
    let exchanged = upstream.exchange(&mut |status| {
        bar.set_position(status.received);
        Instant::now() < until
    });
    bar.finish_and_clear();
    drop(upstream);
    replica.close();
    exchanged
}
