//! `mezzo evict`: bytes that others have are given up.

use std::path::PathBuf;

use clap::Args;
use mezzo_core::name::escape;

use crate::demand::{Report, Wish, ask, paths};
use crate::render::json;
use crate::{Ending, Failure};

/// Arguments of `mezzo evict`.
#[derive(Debug, Args)]
#[command(after_help = "\
A file keeps its size and times, and is brought again when somebody opens it. Files that are open, written and not recorded, pinned, \
or not known to be had elsewhere keep their bytes; which and why is told, and the exit status is 1.")]
pub struct Arguments {
    /// The fileset, or a path in it
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Files, and directories with all that is below, from DIR; all of DIR without it
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// One JSON object: see docs/json.md
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let (found, paths) = paths(&arguments.directory, &arguments.paths)?;
    let mut all = Report::default();
    for path in paths {
        let report = ask(&found, Wish::Evict { path })?;
        all.files += report.files;
        all.bytes += report.bytes;
        all.absent += report.absent;
        all.kept += report.kept;
        all.refused.extend(report.refused);
    }
    if arguments.json {
        let refused = json::report(&all.refused)?;
        let shown = serde_json::json!({
            "files": all.files, "bytes": all.bytes, "absent": all.absent, "kept": all.kept, "refused": refused,
        });
        println!("{}", json::one_line(&shown)?);
    } else {
        tell(&all);
    }
    if all.kept > 0 { Err(Failure::Told) } else { Ok(()) }
}

fn tell(report: &Report) {
    println!("{} files with {} bytes evicted", report.files, report.bytes);
    for refusal in &report.refused {
        eprintln!("mezzo: could not evict {}: {}", escape(&refusal.path), refusal.why);
    }
    let more = report.kept - report.refused.len() as u64;
    if more > 0 {
        eprintln!("mezzo: and {more} more files keep their bytes");
    }
}
