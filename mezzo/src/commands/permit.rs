//! `mezzo permit`: who may write, where one at a time may.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mezzo_replica::gate::PermitStatus;
use serde::{Deserialize, Serialize};

use crate::control::{Answer, Request};
use crate::render::{clock, json};
use crate::{Ending, Failure, find};

/// Arguments of `mezzo permit`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset, which is mounted or offered
    directory: PathBuf,
    /// What to do; without it, it is told who holds the permit
    #[arg(value_enum)]
    deed: Option<Deed>,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = clock::seconds)]
    within: u64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What to do with the permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Have it here. What was made here under one that was stolen is sent under the new one
    Get,
    /// Give it back, once everything is sent
    Release,
    /// Take it from a holder that can't be reached, or did not give it back within 30 seconds
    Steal,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let hint = "mezzo mount or mezzo serve opens it";
    let daemon = find::daemon_of(&arguments.directory, hint)?;
    let asked = Request::Permit { deed: arguments.deed, seconds: arguments.within };
    match daemon.patiently()?.ask(&asked)?.0 {
        Answer::Permit(status) if arguments.json => {
            println!("{}", json::one_line(&status)?);
            Ok(())
        }
        Answer::Permit(status) => {
            println!("{}", told(&status));
            Ok(())
        }
        answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
    }
}

/// For people.
fn told(status: &PermitStatus) -> String {
    let PermitStatus { epoch, at, .. } = status;
    if status.mode != "exclusive" {
        return "all may write: there is no permit".to_owned();
    }
    let how = if status.stolen { "stolen" } else { "taken" };
    let mut told = match &status.holder {
        Some(_) if status.here => format!("held here, epoch {epoch}, {how} at the server's record {at}"),
        Some(holder) => {
            format!("held by replica {holder}, epoch {epoch}, {how} at the server's record {at}")
        }
        None => format!("held by nobody; the last epoch was {epoch}"),
    };
    if status.recalled {
        told.push_str("; another needs it");
    }
    if status.waiting > 0 {
        told.push_str(&format!("; {} changes wait for it here", status.waiting));
    }
    if let Some(lost) = status.lost {
        told.push_str(&format!(
            "; that of epoch {lost} was taken away before everything was sent: mezzo permit get sends it under a new one"
        ));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_who_holds_it_and_what_is_amiss() {
        let free = PermitStatus { mode: "exclusive".into(), epoch: 4, at: 7, ..PermitStatus::default() };
        let held = PermitStatus { holder: Some("00000000000000ab".into()), stolen: true, ..free.clone() };
        let here = PermitStatus { here: true, recalled: true, stolen: false, ..held.clone() };
        let lost = PermitStatus { lost: Some(3), waiting: 2, ..held.clone() };
        for (status, expected) in [
            (
                &PermitStatus { mode: "optimistic".into(), ..free.clone() },
                "all may write: there is no permit",
            ),
            (&free, "held by nobody; the last epoch was 4"),
            (&held, "held by replica 00000000000000ab, epoch 4, stolen at the server's record 7"),
            (&here, "held here, epoch 4, taken at the server's record 7; another needs it"),
            (
                &lost,
                "held by replica 00000000000000ab, epoch 4, stolen at the server's record 7; 2 changes wait for it here; that of \
                 epoch 3 was taken away before everything was sent: mezzo permit get sends it under a new one",
            ),
        ] {
            assert_eq!(told(status), expected);
        }
    }
}
