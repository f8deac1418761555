//! `mezzo verify`: does the tree equal the log?

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use mezzo_core::Recno;
use mezzo_core::name::escape;
use mezzo_core::tree::Tree;
use mezzo_replica::log::Reader;
use mezzo_replica::verify::{Depth, Difference, verify};

use crate::{Ending, Failure, find, progress};

/// Arguments of `mezzo verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Leave the bytes of files alone
    #[arg(long)]
    quick: bool,
    /// Differences that are told; of the rest only how many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// One JSON object for each difference
    #[arg(long)]
    json: bool,
}

/// Runs it. On a mounted fileset, what changes meanwhile counts as a difference.
pub fn run(arguments: Arguments) -> Ending {
    let mut found = find::fileset(&arguments.directory)?;
    found.sync()?;
    let (tree, last) = read_log(&Reader::open(&found.own_path("kml"))?)?;
    let depth = if arguments.quick { Depth::Attributes } else { Depth::Data };
    let bar = progress::counter("names compared");
    let mut differences = 0;
    let mut told = |difference: Difference| {
        differences += 1;
        if differences <= arguments.limit {
            bar.suspend(|| tell(&difference, arguments.json));
        }
    };
    let verified = verify(&tree, found.root.as_fd(), depth, &mut told, &mut |seen| bar.set_position(seen))?;
    bar.finish_and_clear();
    if differences > 0 {
        eprintln!("mezzo: {differences} differences between the tree and its log at record {last}");
        return Err(Failure::Told);
    }
    if !arguments.json {
        println!(
            "tree and log agree at record {last}: {} names, {} files by their bytes",
            verified.names, verified.digests
        );
    }
    Ok(())
}

fn read_log(reader: &Reader) -> Result<(Tree, Recno), Failure> {
    let bar = progress::counter("records read");
    let mut tree = Tree::new();
    let mut last = Recno::NONE;
    for record in reader.from(Recno(1)) {
        let record = record?;
        tree.apply(&record)?;
        last = record.recno;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((tree, last))
}

fn tell(difference: &Difference, json: bool) {
    let Difference { path, field, log, tree, lost } = difference;
    if json {
        let path = escape(path);
        println!(
            "{}",
            serde_json::json!({ "path": path, "field": field, "log": log, "tree": tree, "lost": lost })
        );
    } else {
        let note = if *lost { " (lost with the power)" } else { "" };
        println!("{}: {field}: the log has {log}, the tree has {tree}{note}", escape(path));
    }
}
