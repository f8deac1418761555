//! `mezzo init`: a directory becomes a fileset.

use std::path::PathBuf;

use clap::Args;
use mezzo_replica::{Fileset, FilesetId, Replica};

use crate::{Ending, Failure, find, progress};

/// Arguments of `mezzo init`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The directory; made where it does not exist
    directory: PathBuf,
    /// Make it a new, empty replica of this fileset, which takes in the other's records by mezzo reintegrate
    #[arg(long, value_name = "FILESET")]
    replica_of: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let directory = &arguments.directory;
    if let Some(mount) = find::mounted_over(&std::path::absolute(directory)?)? {
        let mountpoint = mount.mountpoint.display();
        return Err(Failure::Failed(format!(
            "could not make {} a fileset: it is in the mounted fileset {mountpoint}",
            directory.display()
        )));
    }
    if let Some(other) = &arguments.replica_of {
        return make_replica(directory, other);
    }
    make_directory(directory)?;
    let replica = Replica::create(Fileset::create(directory)?)?;
    let bar = progress::counter("files taken in");
    let taken = replica.take_in(&mut |seen| {
        bar.set_position(seen);
        true
    })?;
    replica.write_behind(true)?;
    bar.finish_and_clear();
    println!(
        "{} is a fileset now: {} objects taken in, {} records",
        directory.display(),
        taken.seen,
        replica.last()
    );
    println!("mezzo mount {} records every change from then on", directory.display());
    Ok(())
}

/// The first record of the other says what the directory itself is like, so that nothing is taken in.
fn make_replica(directory: &std::path::Path, other: &std::path::Path) -> Ending {
    let (reader, _, _found) = super::replay::open_log(other)?;
    make_directory(directory)?;
    if std::fs::read_dir(directory)?.next().is_some() {
        return Err(Failure::Failed(format!(
            "could not make {} a replica: it is not empty",
            directory.display()
        )));
    }
    let fileset = Fileset::create_as(directory, FilesetId(reader.fileset()))?;
    let replica = Replica::create(fileset)?;
    println!(
        "{} is replica {} of {}",
        directory.display(),
        replica.fileset().config.replica,
        other.display()
    );
    println!("mezzo reintegrate {} --onto {} takes in its records", other.display(), directory.display());
    Ok(())
}

fn make_directory(directory: &std::path::Path) -> Ending {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => {
            made.map_err(|error| Failure::Failed(format!("could not make {}: {error}", directory.display())))
        }
    }
}
