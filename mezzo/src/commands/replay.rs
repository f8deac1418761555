//! `mezzo replay`: the tree that a log describes, built on an empty directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use mezzo_core::Recno;
use mezzo_core::name::escape;
use mezzo_replica::host;
use mezzo_replica::log::Reader;
use mezzo_replica::replay::{Range, Replayed, replay};
use mezzo_replica::versions::Source;
use rustix::fs::{Mode, OFlags};

use crate::{Ending, Failure, find, progress};

/// Files without data that are told of; of the rest only how many.
const TOLD: usize = 20;

/// Arguments of `mezzo replay`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A fileset, its kml directory, or one segment of it
    log: PathBuf,
    /// The directory: empty, or with --from as the records before made it
    #[arg(long)]
    onto: PathBuf,
    /// The first record
    #[arg(long)]
    from: Option<u64>,
    /// The last record
    #[arg(long)]
    to: Option<u64>,
}

/// Runs it. Fails where files are left without their data, and says which and why.
pub fn run(arguments: Arguments) -> Ending {
    let (reader, source, _found) = open_log(&arguments.log)?;
    let target = open_target(&arguments.onto, arguments.from.is_none())?;
    let range = Range { from: arguments.from.map(Recno), to: arguments.to.map(Recno) };
    let bar = progress::counter("done");
    let replayed = replay(&reader, range, target, &source, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    report(&replayed, &arguments.onto)
}

pub type Log = (Reader, Source, Option<find::Found>);

/// The log, and where its data may be. What was found stays open as long as paths lead through it.
pub fn open_log(path: &Path) -> Result<Log, Failure> {
    if path.is_file() || path.file_name().is_some_and(|name| name == "kml") {
        let attic = path.ancestors().find(|p| p.file_name().is_some_and(|n| n == "kml"));
        let attic = attic.and_then(Path::parent).map(|own| own.join("attic"));
        return Ok((Reader::open(path)?, Source { root: None, attic }, None));
    }
    let mut found = find::fileset(path)?;
    if !found.inside.as_os_str().is_empty() {
        return Err(Failure::Failed(format!("{} is in a fileset, and not one itself", path.display())));
    }
    found.sync()?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let source = found.source()?;
    Ok((reader, source, Some(found)))
}

fn open_target(path: &Path, must_be_empty: bool) -> Result<OwnedFd, Failure> {
    let failed = |operation: &str, error: std::io::Error| {
        Failure::Failed(format!("could not {operation} {}: {error}", path.display()))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open", error.into()))?;
    let entries = host::entries(&target).map_err(|error| failed("read", error))?;
    if must_be_empty && !entries.is_empty() {
        return Err(Failure::Failed(format!(
            "{} is not empty, so nothing is replayed onto it",
            path.display()
        )));
    }
    Ok(target)
}

fn report(replayed: &Replayed, onto: &Path) -> Ending {
    println!(
        "{} records replayed onto {}: {} files with {} bytes brought",
        replayed.records,
        onto.display(),
        replayed.files,
        replayed.bytes
    );
    tell_without_data(replayed)
}

/// Names files that have their size only, and fails if there are any.
pub fn tell_without_data(replayed: &Replayed) -> Ending {
    if replayed.without_data.is_empty() {
        return Ok(());
    }
    eprintln!("mezzo: {} files have their size and not their data:", replayed.without_data.len());
    for (path, reason) in replayed.without_data.iter().take(TOLD) {
        eprintln!("  {}: {reason}", escape(path));
    }
    if replayed.without_data.len() > TOLD {
        eprintln!("  and {} more", replayed.without_data.len() - TOLD);
    }
    Err(Failure::Told)
}
