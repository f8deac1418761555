//! `mezzo reintegrate`: another replica's records, taken into this one.

use std::path::PathBuf;

use clap::Args;
use mezzo_replica::{Fileset, Replica};

use crate::control::{Answer, Request};
use crate::reintegrating::{Data, Report, Wish, tell};
use crate::render::json;
use crate::{Ending, Failure, find};

/// Arguments of `mezzo reintegrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Records that were received before are not done again, and those that were made here are known by their origin. At a record that \
can't be done it ends, with everything as it was before that record; exit status: 3 a conflict, 4 its user may not do it here, 5 \
there is no room or the host fails, 6 the record is damaged.")]
pub struct Arguments {
    /// A replica of the same fileset, its kml directory, or one segment of it
    log: PathBuf,
    /// The fileset that takes them in, mounted or not
    #[arg(long, value_name = "DIR")]
    onto: PathBuf,
    /// The first record; without it, the one after the last that was received of this log
    #[arg(long, value_name = "RECNO")]
    from: Option<u64>,
    /// The last record
    #[arg(long, value_name = "RECNO")]
    to: Option<u64>,
    /// What becomes of data
    #[arg(long, value_enum, default_value_t)]
    data: Data,
    /// Refuse what a record's own user may not do here
    #[arg(long)]
    judge: bool,
    /// Tell where size, mtime or ctime that a record saw are not those that are here
    #[arg(long)]
    warn: bool,
    /// Show what would come of it, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object: see docs/json.md
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let log = std::path::absolute(&arguments.log)?;
    let wish = Wish {
        log: log.clone(),
        from: arguments.from,
        to: arguments.to,
        data: arguments.data,
        judge: arguments.judge,
        warn: arguments.warn,
        dry_run: arguments.dry_run,
    };
    let report = ask(&std::path::absolute(&arguments.onto)?, wish)?;
    if arguments.json {
        println!("{}", json::one_line(&json::report(&report)?)?);
    } else {
        tell(&report, &arguments.log, arguments.dry_run);
    }
    match &report.stopped {
        Some(stopped) => Err(Failure::Ended(stopped.exit_status())),
        None => Ok(()),
    }
}

fn ask(onto: &std::path::Path, wish: Wish) -> Result<Report, Failure> {
    if let Some(mount) = find::mounted_over(onto)? {
        let mut daemon = find::connect(&mount)?.patiently()?;
        return match daemon.ask(&Request::Reintegrate(wish))?.0 {
            Answer::Reintegrated(report) => Ok(report),
            answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
        };
    }
    let (replica, start) = Replica::open(Fileset::open(onto)?)?;
    start.notes().iter().for_each(|note| eprintln!("mezzo: {note}"));
    let report = wish.carry_out(&replica, &());
    replica.close();
    report
}
