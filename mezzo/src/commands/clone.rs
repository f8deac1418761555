//! `mezzo clone`: a replica of a fileset that is offered.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use mezzo_core::IdMapping;
use mezzo_net::identity::{ClientIdentity, Link, PendingClient, SystemClock};
use mezzo_net::upstream::DIRECTORY;
use mezzo_replica::fileset::{FilesetError, Ids, owner_of};
use mezzo_replica::{Fileset, Replica};

use super::sync;
use crate::{Ending, Failure, daemon, find};

/// How long everything may take to come.
const PATIENCE: u64 = 7 * 24 * 60 * 60;

/// Arguments of `mezzo clone`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The link that mezzo invite printed
    link: Link,
    /// Where: a directory that is empty, or does not exist. One in which this was cut off goes on
    directory: PathBuf,
    /// Do not mount it
    #[arg(long)]
    no_mount: bool,
}

/// Runs it. Returns when all names are there.
pub fn run(arguments: Arguments) -> Ending {
    let Arguments { link, directory, no_mount } = arguments;
    let failed = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!("could not clone to {}: {why}", directory.display()))
    };
    if let Some(mount) = find::mounted_over(&std::path::absolute(&directory)?)? {
        return Err(failed(&format!("it is in the mounted fileset {}", mount.mountpoint.display())));
    }
    let upstream = prepare(&link, &directory).map_err(|error| failed(&describe(error)))?;
    if ClientIdentity::open(&upstream, Arc::new(SystemClock)).is_err() {
        let pending =
            PendingClient::open(&upstream, Arc::new(SystemClock)).map_err(|error| failed(&error))?;
        daemon::outlive_peers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        runtime.block_on(pending.enrol(&link, &host)).map_err(|error| failed(&error))?;
    }
    note_mapping(&upstream, &directory).map_err(|error| failed(&describe(error)))?;
    let status = sync::alone(&directory, PATIENCE).map_err(|why| failed(&why))?;
    println!(
        "{} is a replica of {}, up to its record {}",
        directory.display(),
        status.server,
        status.received
    );
    if no_mount {
        println!("mezzo mount {} keeps it so", directory.display());
        return Ok(());
    }
    let words: Vec<OsString> = vec!["--".into(), std::path::absolute(&directory)?.into()];
    daemon::start("mount", &words)
}

/// Makes an empty replica, unless there is one already, and returns where what it knows of its server is to be.
fn prepare(link: &Link, directory: &Path) -> Result<PathBuf, Failure> {
    let fileset = match Fileset::open(directory) {
        Ok(fileset) if fileset.config.id != link.fileset => {
            return Err(Failure::Failed("another fileset is there".to_owned()));
        }
        Ok(fileset) if !fileset.own_path(DIRECTORY).is_dir() => {
            return Err(Failure::Failed("it is a replica that has no server".to_owned()));
        }
        Ok(fileset) => fileset,
        Err(FilesetError::None(_) | FilesetError::Io { .. }) => make(link, directory)?,
        Err(error) => return Err(error.into()),
    };
    drop(fileset);
    Ok(std::path::absolute(directory)?.join(".mezzo").join(DIRECTORY))
}

fn make(link: &Link, directory: &Path) -> Result<Fileset, Failure> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    if std::fs::read_dir(directory)?.next().is_some() {
        return Err(Failure::Failed("it is not empty".to_owned()));
    }
    let fileset = Fileset::create_as(directory, link.fileset)?;
    // The directory will be as the server has it.
    Ids { mapping: IdMapping::Same, local: owner_of(directory)? }.write(fileset.own())?;
    Replica::create(fileset)?.close();
    Ok(Fileset::open(directory)?)
}

/// How ids are mapped is known from the first record on.
fn note_mapping(upstream: &Path, directory: &Path) -> Ending {
    let identity = ClientIdentity::open(upstream, Arc::new(SystemClock))?;
    let fileset = Fileset::open(directory)?;
    Ok(Ids { mapping: identity.mapping().clone(), ..fileset.ids.clone() }.write(fileset.own())?)
}

fn describe(failure: Failure) -> String {
    match failure {
        Failure::Failed(message) => message,
        failure => format!("{failure:?}"),
    }
}
