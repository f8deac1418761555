//! What a mount costs: the same calls in two directories by turns, in one run, and their ratio.
//!
//! Machines are shared and noisy, so that a duration alone tells little. Each round does everything in one directory and then
//! in the other, every second round the other way round; what is told is the median over the rounds, and the range of the
//! ratios.

mod bare;
mod calls;
mod data;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Times the same calls in two directories by turns, and tells their ratio")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Print JSON, one line for each kind of call.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Calls about names and attributes; times native, as a mount has more to do.
    Calls(Run),
    /// Reads and writes of one large file; in parts of native speed.
    Data(Run),
    /// Calls of one kind in one directory; prints how many seconds they took.
    Bare {
        calls: bare::Calls,
        directory: PathBuf,
        #[arg(long, default_value_t = 20_000)]
        count: usize,
        /// How often all of it is done; more than once only attributes can be set.
        #[arg(long, default_value_t = 1)]
        passes: usize,
        /// Calls between two moments at which the file system is synced; 0 for none.
        #[arg(long, default_value_t = 0)]
        batch: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// A directory of the bare host file system.
    native: PathBuf,
    /// A directory of the mount, on the same host file system.
    mount: PathBuf,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Calls of each kind in a round, or MiB of the file.
    #[arg(long, default_value_t = 2000)]
    count: usize,
}

/// One kind of call, as one round measured it: its name, and seconds for each call.
type Measured = (&'static str, f64);

fn main() {
    let arguments = Arguments::parse();
    let (run, round): (_, fn(&std::path::Path, usize) -> Vec<Measured>) = match &arguments.what {
        What::Calls(run) => (run, calls::round),
        What::Data(run) => (run, data::round),
        What::Bare { calls, directory, count, passes, batch } => {
            return println!("{}", bare::run(*calls, directory, (*count, *passes), *batch));
        }
    };
    let of_calls = matches!(arguments.what, What::Calls(_));
    let (mut native, mut mount) = (Vec::new(), Vec::new());
    for number in 0..run.rounds {
        let mut turns = [(&run.native, &mut native), (&run.mount, &mut mount)];
        if number % 2 == 1 {
            turns.reverse();
        }
        for (directory, measured) in turns {
            measured.push(round(directory, run.count));
        }
    }
    for (kind, (name, _)) in native[0].iter().enumerate() {
        let of = |rounds: &[Vec<Measured>]| rounds.iter().map(|round| round[kind].1).collect::<Vec<_>>();
        let (native, mount) = (of(&native), of(&mount));
        let ratios = native.iter().zip(&mount).map(|(native, mount)| match of_calls {
            true => mount / native,
            false => native / mount,
        });
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let (native, mount) = (median(native) * 1e6, median(mount) * 1e6);
        let ratio = if of_calls { mount / native } else { native / mount };
        let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
        if arguments.json {
            println!(
                "{}",
                serde_json::json!({ "kind": name, "native_us": native, "mount_us": mount, "ratio": ratio, "low": low, "high": high })
            );
        } else {
            println!("{name:24} {native:9.2} us {mount:9.2} us   {ratio:5.2}  ({low:.2} to {high:.2})");
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
