//! `mezzo pin` and `mezzo unpin`: what is to be here whether anybody opens it or not.

use std::path::PathBuf;

use clap::Args;
use mezzo_core::name::escape;

use crate::demand::{Pin, Wish, ask, paths};
use crate::render::json;
use crate::{Ending, Failure};

/// Arguments of `mezzo pin`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is pinned is brought in the background, with all that is below it and what is made below it later, and is not evicted. A pin \
stays with what it was set on, whatever that is renamed to.")]
pub struct Arguments {
    /// The fileset, or a path in it
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// What to pin, from DIR; all of DIR without it
    #[arg(value_name = "PATH", conflicts_with = "list")]
    paths: Vec<PathBuf>,
    /// Show what is pinned
    #[arg(long)]
    list: bool,
    /// With --list, one JSON object a line: see docs/json.md
    #[arg(long, requires = "list")]
    json: bool,
}

/// Arguments of `mezzo unpin`.
#[derive(Debug, Args)]
pub struct UnpinArguments {
    /// The fileset, or a path in it
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// What to take the pin away from, from DIR; DIR itself without it
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs `mezzo pin`.
pub fn run(arguments: Arguments) -> Ending {
    if arguments.list {
        return list(&arguments);
    }
    each(&arguments.directory, &arguments.paths, |path| Wish::Pin { path })
}

/// Runs `mezzo unpin`.
pub fn run_unpin(arguments: UnpinArguments) -> Ending {
    each(&arguments.directory, &arguments.paths, |path| Wish::Unpin { path })
}

fn each(directory: &std::path::Path, named: &[PathBuf], wish: impl Fn(Vec<u8>) -> Wish) -> Ending {
    let (found, paths) = paths(directory, named)?;
    paths.into_iter().try_for_each(|path| ask(&found, wish(path)).map(drop))
}

fn list(arguments: &Arguments) -> Ending {
    let (found, _) = paths(&arguments.directory, &[])?;
    let mut told = 0;
    loop {
        let report = ask(&found, Wish::Pins { told })?;
        told += report.pins.len();
        report.pins.iter().try_for_each(|pin| show(pin, arguments.json))?;
        if report.next.is_none() {
            return Ok(());
        }
    }
}

fn show(pin: &Pin, as_json: bool) -> Result<(), Failure> {
    if as_json {
        println!("{}", json::one_line(&json::report(pin)?)?);
    } else if pin.gone {
        println!("{} (removed)", pin.object);
    } else if pin.path.is_empty() {
        println!(".");
    } else {
        println!("{}", escape(&pin.path));
    }
    Ok(())
}
