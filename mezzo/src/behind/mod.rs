//! Who can change a fileset's directory past its mount, and what in it is no part of the fileset: for people, who can
//! do something about it.

mod mounts;
mod processes;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mezzo_core::ReplicaId;
use mezzo_core::name::escape;
use mezzo_replica::host;
use serde::{Deserialize, Serialize};

use crate::mount_table;

/// Of each sort of thing, how many are told. Who has more has other worries, and an answer has to fit a line.
const TOLD: usize = 64;

/// Bytes of a path that are told.
const PATH_BYTES: usize = 200;

/// A fileset's directory, as it is found below the mount.
#[derive(Clone, Debug)]
pub struct Below {
    /// Its path.
    path: PathBuf,
    replica: ReplicaId,
    /// The mount that the directory is on.
    mount: u64,
    /// The file system, as the table of mounts names it.
    device: String,
    /// The same, as `stat` does.
    volume: (u32, u32),
    /// The directory's path in that file system.
    inside: PathBuf,
}

/// A process that has something of the directory itself, and not of the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program.
    pub program: String,
    /// What it has.
    pub has: Has,
    /// The path of that.
    pub path: String,
}

/// What a process has of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Has {
    /// It stands there.
    WorkingDirectory,
    /// Its paths begin there.
    RootDirectory,
    /// It has a directory open.
    Directory,
    /// It has a file open to write to it.
    Writing,
    /// It has a file mapped to write to it.
    Mapping,
    /// It has a file open to read it.
    Reading,
}

/// Another mount that shows the directory, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Showing {
    /// Where it shows.
    pub path: String,
    /// A process that sees it, where it is not seen by all; else 0.
    pub pid: u32,
    /// The program of that process.
    pub program: String,
}

/// Something that is mounted in the directory: no part of the fileset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submount {
    /// Where.
    pub path: String,
    /// The kind of file system.
    #[serde(rename = "type")]
    pub kind: String,
    /// The mount of the fileset hides it, and shows the directory that it is mounted on.
    pub hidden: bool,
}

/// All of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Processes.
    pub processes: Vec<Process>,
    /// Other mounts.
    pub showings: Vec<Showing>,
    /// What is mounted in it.
    pub submounts: Vec<Submount>,
}

impl Below {
    /// Finds out where the fileset's directory is, before anything is mounted over it.
    pub fn of(directory: &Path, replica: ReplicaId) -> io::Result<Below> {
        let path = directory.canonicalize()?;
        let stat = host::stat(File::open(&path)?.as_fd())?;
        let table = mount_table::read()?;
        let at = table.iter().find(|entry| entry.id == stat.mount);
        let place = at.and_then(|entry| Some((entry, path.strip_prefix(&entry.mountpoint).ok()?)));
        let (entry, rest) =
            place.ok_or_else(|| io::Error::other("its mount is not in the table of mounts"))?;
        Ok(Below {
            mount: entry.id,
            device: entry.device.clone(),
            volume: stat.volume,
            inside: joined(&entry.root, rest),
            replica,
            path,
        })
    }

    /// Looks at all processes and all mounts. What can't be looked at is left out.
    ///
    /// Asks nothing of the mounted fileset, so that it may be called before that is served.
    pub fn find(&self) -> Found {
        let Ok(own) = mount_table::read() else { return Found::default() };
        let spaces = processes::name_spaces();
        let mut shown = mounts::shown_at(self, &own);
        let mut showings = mounts::showings(self, &own, None);
        for space in &spaces {
            shown.extend(mounts::shown_at(self, &space.mounts));
            showings.extend(mounts::showings(self, &space.mounts, Some(space)));
        }
        shown.push(self.path.clone());
        shown.sort();
        shown.dedup();
        let mut found = Found {
            processes: processes::find(self, &shown),
            showings,
            submounts: mounts::submounts(self, &own),
        };
        found.processes.truncate(TOLD);
        found.showings.truncate(TOLD);
        found.submounts.truncate(TOLD);
        found
    }
}

/// `join` gives a path that ends in a slash where there is nothing to join.
fn joined(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) }
}

/// A path as it is told.
fn told(path: &Path) -> String {
    let mut text = escape(path.as_os_str().as_bytes());
    if text.len() > PATH_BYTES {
        let end = (0..=PATH_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Found {
    /// A line for each, with what can be done about it.
    pub fn notes(&self) -> Vec<String> {
        let processes = self.processes.iter().map(Process::note);
        let showings = self.showings.iter().map(Showing::note);
        processes.chain(showings).chain(self.submounts.iter().map(Submount::note)).collect()
    }
}

impl Process {
    /// What it has, and what to do about it.
    pub fn note(&self) -> String {
        let Process { pid, program, path, .. } = self;
        let (has, advice) = match self.has {
            Has::WorkingDirectory => (
                "stands in",
                "what it does there goes past the mount, until it leaves and comes back (cd \"$PWD\")",
            ),
            Has::RootDirectory => {
                ("has as its root directory", "what it does goes past the mount, until it is started again")
            }
            Has::Directory => {
                ("has open the directory", "what it does there goes past the mount, until it opens it again")
            }
            Has::Writing => ("writes to", "that goes past the mount, until it opens the file again"),
            Has::Mapping => {
                ("writes by a mapping to", "that goes past the mount, until it opens the file again")
            }
            Has::Reading => ("reads", "it misses what replaces the file, until it opens it again"),
        };
        format!("process {pid} ({program}) {has} {path} itself: {advice}")
    }
}

impl Showing {
    /// Where it is, and what to do about it.
    pub fn note(&self) -> String {
        let Showing { path, pid, program } = self;
        let seen_by = if *pid == 0 { String::new() } else { format!(" for process {pid} ({program})") };
        format!(
            "the directory itself is at {path}{seen_by}: what is done there goes past the mount, so unmount it there"
        )
    }
}

impl Submount {
    /// What it is, and what users see.
    pub fn note(&self) -> String {
        let Submount { path, kind, hidden } = self;
        match hidden {
            true => {
                format!("{path} ({kind}) is no part of the fileset: the mount shows the directory below it")
            }
            false => format!("{path} ({kind}) is no part of the fileset: what is done there is not recorded"),
        }
    }
}
