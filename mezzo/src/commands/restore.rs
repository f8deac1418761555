//! `mezzo restore`: something as it was, made beside what is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Zoned;
use mezzo_core::Name;
use mezzo_replica::log::Reader;
use mezzo_replica::restore::restore;
use rustix::fs::{Mode, OFlags};

use super::log::place;
use super::log::point::Point;
use super::replay::tell_without_data;
use crate::{Ending, Failure, progress};

/// Arguments of `mezzo restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
What stood at PATH is made at DEST, where nothing stands: a file or a directory with all that was below it, with its bytes, \
attributes, times and links. The tree stays as it is, unless DEST is in it.

A TIME is as `mezzo log --since` takes it: 2026-08-01 12:00, or so long ago: 10m, 2h, 3d.")]
pub struct Arguments {
    /// The fileset, or the path in one
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The path, from DIR
    path: Option<PathBuf>,
    /// As it was after this record, or after the last one made by this time
    #[arg(long, value_name = "RECNO|TIME")]
    at: Point,
    /// Where it is made
    #[arg(long, value_name = "DEST")]
    onto: PathBuf,
}

/// Runs it. Fails where files are left without their data, and says which and why.
pub fn run(arguments: Arguments) -> Ending {
    let (mut found, path) = place::locate(Some(&arguments.directory), arguments.path.as_deref())?;
    found.sync()?;
    let reader = Reader::open(&found.own_path("kml"))?;
    let source = found.source()?;
    let (directory, name) = destination(&arguments.onto)?;
    let path = path.unwrap_or_default();
    let at = arguments.at.recno(&reader, &Zoned::now())?;
    let bar = progress::counter("files done");
    let restored =
        restore(&reader, (&path, at), (directory, &name), &source, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let restored = restored.map_err(|error| {
        Failure::Failed(format!("could not restore {}: {error}", mezzo_core::name::escape(&path)))
    })?;
    println!(
        "{} objects restored to {}: {} files with {} bytes brought",
        restored.records,
        arguments.onto.display(),
        restored.files,
        restored.bytes
    );
    tell_without_data(&restored)
}

/// The directory that it is made in, and its name there.
fn destination(onto: &Path) -> Result<(std::os::fd::OwnedFd, Name), Failure> {
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::Failed(format!("could not restore to {}: {cause}", onto.display()))
    };
    if onto.symlink_metadata().is_ok() {
        return Err(failed(&"something stands there"));
    }
    let onto = std::path::absolute(onto)?;
    let (Some(parent), Some(name)) = (onto.parent(), onto.file_name()) else {
        return Err(failed(&"it has no name"));
    };
    let name = Name::new(name.as_bytes()).map_err(|error| failed(&error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| failed(&error))?;
    Ok((directory, name))
}
