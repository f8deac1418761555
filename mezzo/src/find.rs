//! Which fileset a path belongs to, mounted or not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mezzo_core::ReplicaId;
use mezzo_replica::fileset::{OWN, open_directory, own_path, socket_path};
use mezzo_replica::versions::Source;
use rustix::fs::{Mode, OFlags};

use crate::Failure;
use crate::control::{Client, Request};
use crate::mount_table::{self, Entry};

/// A fileset that was found.
#[derive(Debug)]
pub struct Found {
    /// Its directory, as users see it.
    pub path: PathBuf,
    /// What was asked about, from there: empty for the fileset itself.
    pub inside: PathBuf,
    /// Its directory on the host, below a mount that may cover it.
    pub root: OwnedFd,
    /// Its `.mezzo`.
    pub own: OwnedFd,
    /// The daemon that has it mounted over itself.
    pub daemon: Option<Client>,
}

/// A mount of a fileset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAt {
    /// Where.
    pub mountpoint: PathBuf,
    /// Which replica: there may be several of a fileset.
    pub replica: ReplicaId,
}

impl Found {
    /// Has the daemon, where there is one, record what was written and not closed yet.
    pub fn sync(&mut self) -> Result<(), Failure> {
        // A connection is good for one request.
        self.daemon.take().map(|mut daemon| daemon.ask(&Request::Sync)).transpose()?;
        Ok(())
    }

    /// The same, where that can be: a fileset that takes no more changes can be looked at all the same.
    pub fn sync_to_look(&mut self) {
        if let Err(Failure::Failed(error)) = self.sync() {
            eprintln!("mezzo: what was written and not closed yet is not seen: {error}");
        }
    }

    /// Where data of its files may be, as long as this is held.
    pub fn source(&self) -> io::Result<Source> {
        Ok(Source { root: Some(self.root.try_clone()?), attic: Some(self.own_path("attic")) })
    }

    /// A path to `name` in `.mezzo`, for this process, as long as this is held.
    pub fn own_path(&self, name: &str) -> PathBuf {
        own_path(self.own.as_fd(), name)
    }
}

/// The fileset that `path` is, or is in.
pub fn fileset(path: &Path) -> Result<Found, Failure> {
    let path = std::path::absolute(path)?;
    match mounted_over(&path)? {
        Some(mount) => open_mounted(&path, mount),
        None => open_plain(&path),
    }
}

/// The innermost mount of a fileset that covers `path`.
pub fn mounted_over(path: &Path) -> io::Result<Option<MountedAt>> {
    let path = resolved(path);
    let covering = mounts()?.into_iter().filter(|mount| path.starts_with(&mount.mountpoint));
    // Later mounts cover earlier ones at the same place.
    Ok(covering.max_by_key(|mount| mount.mountpoint.as_os_str().len()))
}

/// The daemon's socket for a mount.
pub fn connect(mount: &MountedAt) -> Result<Client, Failure> {
    let socket = socket_path(mount.replica);
    Client::connect(&socket).map_err(|error| {
        let mountpoint = mount.mountpoint.display();
        let died = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        let hint = if died { "; if it died, mezzo mount clears the mount and goes on" } else { "" };
        Failure::Failed(format!(
            "could not reach the daemon of {mountpoint} at {}: {error}{hint}",
            socket.display()
        ))
    })
}

/// Symbolic links on the way are followed as far as that is possible: the last part may be a dead mount.
pub fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn open_mounted(path: &Path, mount: MountedAt) -> Result<Found, Failure> {
    let mut client = connect(&mount)?;
    let (_, mut descriptors) = client.ask(&Request::Open)?;
    let (Some(own), Some(root)) = (descriptors.pop(), descriptors.pop()) else {
        return Err(Failure::Failed("the daemon sent no descriptors".to_owned()));
    };
    let inside = resolved(path).strip_prefix(&mount.mountpoint).unwrap_or(Path::new("")).to_owned();
    let daemon = Some(connect(&mount)?);
    Ok(Found { path: mount.mountpoint, inside, root, own, daemon })
}

fn open_plain(path: &Path) -> Result<Found, Failure> {
    let resolved = resolved(path);
    for directory in resolved.ancestors() {
        if directory.join(std::ffi::OsStr::from_bytes(OWN)).join("fileset.toml").exists() {
            let root = open_directory(directory)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let own = rustix::fs::openat(&root, OWN, flags, Mode::empty())?;
            let inside = resolved.strip_prefix(directory).unwrap_or(Path::new("")).to_owned();
            return Ok(Found { path: directory.to_owned(), inside, root, own, daemon: None });
        }
    }
    Err(Failure::Failed(format!(
        "{} is not a fileset, nor in one: there is no .mezzo that can be read (mezzo init makes one)",
        path.display()
    )))
}

/// All mounts of filesets, in the order they were made.
fn mounts() -> io::Result<Vec<MountedAt>> {
    Ok(mount_table::read()?.into_iter().filter_map(of_fileset).collect())
}

fn of_fileset(entry: Entry) -> Option<MountedAt> {
    let replica = std::str::from_utf8(entry.source.strip_prefix(b"mezzo:")?).ok()?.parse().ok()?;
    (entry.kind == "fuse.mezzo").then_some(MountedAt { mountpoint: entry.mountpoint, replica })
}

/// The daemon that has the fileset of `path` open, mounted or offered; `None` where nobody has.
pub fn daemon(path: &Path) -> Result<Option<Client>, Failure> {
    let path = std::path::absolute(path)?;
    if let Some(mount) = mounted_over(&path)? {
        return connect(&mount).map(Some);
    }
    let found = open_plain(&path)?;
    let config = mezzo_replica::fileset::Config::read(found.own.as_fd(), &found.path)?;
    Ok(Client::connect(&socket_path(config.replica)).ok())
}

/// The same, where there has to be one; `hint` says how there comes to be one.
pub fn daemon_of(path: &Path, hint: &str) -> Result<Client, Failure> {
    let none = || Failure::Failed(format!("no daemon has {} open: {hint}", path.display()));
    daemon(path)?.ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_in_the_table() {
        let id = "abababababababab";
        let line = format!("42 27 0:53 / /tmp/a\\040b-c rw,nosuid - fuse.mezzo mezzo:{id} rw,user_id=0");
        let found = |line: &str| mount_table::parse(line.as_bytes()).and_then(of_fileset);
        let mount = found(&line).unwrap();
        assert_eq!(mount.mountpoint, Path::new("/tmp/a b-c"));
        assert_eq!(mount.replica.to_string(), id);
        assert_eq!(found(&line.replace("fuse.mezzo", "fuse.other")), None);
    }
}
