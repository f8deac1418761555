//! A directory that holds an identity: private, used by one process at a time, its files written whole or not at all.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::IdentityError;
use crate::limits;

const LOCK: &str = "lock";

/// What a file has behind its name until it is whole.
const NEW: &str = ".new";

/// A state directory, locked until this is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    open: OwnedFd,
    _lock: File,
}

impl Directory {
    /// Opens `path`, and makes it where there is nothing; its parent must be there. `files` are those that are written here.
    pub fn open(path: &Path, files: &[&str]) -> Result<Directory, IdentityError> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) => sync_parent(path)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(io_error("make the directory", path, errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| io_error("open", path, e))?;
        private(&open, path)?;
        let lock = lock(&open, path)?;
        let directory = Directory { path: path.to_owned(), open, _lock: lock };
        directory.remove_unfinished(files)?;
        Ok(directory)
    }

    /// The directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, for errors.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of all files but the lock, sorted.
    pub fn names(&self) -> Result<Vec<String>, IdentityError> {
        let failed = |errno| io_error("list", &self.path, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.open).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if ![".", "..", LOCK].contains(&&*name) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// What the file `name` holds; `None` where there is none. It must be private and no larger than files here are.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.path_of(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = match rustix::fs::openat(&self.open, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            open => open.map_err(|errno| io_error("open", &path, errno))?,
        };
        private(&open, &path)?;
        let mut bytes = Vec::new();
        let mut limited = File::from(open).take(limits::STATE_FILE_BYTES as u64 + 1);
        limited.read_to_end(&mut bytes).map_err(|cause| IdentityError::Io {
            operation: "read",
            path: path.clone(),
            cause,
        })?;
        if bytes.len() > limits::STATE_FILE_BYTES {
            let why = format!("it has more than {} bytes", limits::STATE_FILE_BYTES);
            return Err(IdentityError::Damaged { path, why });
        }
        Ok(Some(bytes))
    }

    /// As [`Directory::read`], for text.
    pub fn read_text(&self, name: &str) -> Result<Option<String>, IdentityError> {
        let text = self.read(name)?.map(String::from_utf8).transpose();
        text.map_err(|_| IdentityError::Damaged { path: self.path_of(name), why: "it is no text".to_owned() })
    }

    /// Puts `bytes` in the place of the file `name`: whole and durable when it returns, else as it was.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let path = self.path_of(name);
        if bytes.len() > limits::STATE_FILE_BYTES {
            return Err(IdentityError::Full { what: "bytes of one file", limit: limits::STATE_FILE_BYTES });
        }
        let new = format!("{name}{NEW}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&self.open, &*new, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| io_error("make", &self.path_of(&new), errno))?;
        let mut file = File::from(open);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|cause| IdentityError::Io {
            operation: "write",
            path: self.path_of(&new),
            cause,
        })?;
        rustix::fs::renameat(&self.open, &*new, &self.open, name)
            .map_err(|errno| io_error("put in its place", &path, errno))?;
        rustix::fs::fsync(&self.open).map_err(|errno| io_error("sync", &self.path, errno))
    }

    /// Removes what a process that was killed had not finished.
    fn remove_unfinished(&self, files: &[&str]) -> Result<(), IdentityError> {
        for name in files.iter().map(|name| format!("{name}{NEW}")) {
            match rustix::fs::unlinkat(&self.open, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(io_error("remove", &self.path_of(&name), errno)),
            }
        }
        Ok(())
    }
}

/// Takes the right to use the directory, which one process can have.
fn lock(directory: &OwnedFd, path: &Path) -> Result<File, IdentityError> {
    let name = path.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| io_error("open", &name, errno))?;
    let mut file = File::from(open);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // The number is for people; without it they are told all the same.
            let _ = (&file).take(32).read_to_string(&mut text);
            let holder = text.trim().parse().unwrap_or(0);
            return Err(IdentityError::InUse { path: path.to_owned(), holder });
        }
        taken => taken.map_err(|errno| io_error("lock", &name, errno))?,
    }
    let noted = file.set_len(0).and_then(|()| file.rewind());
    noted.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|cause| IdentityError::Io {
        operation: "write",
        path: name,
        cause,
    })?;
    Ok(file)
}

/// Refuses what belongs to another user, or what others may read or write.
fn private(open: &OwnedFd, path: &Path) -> Result<(), IdentityError> {
    let stat = rustix::fs::fstat(open).map_err(|errno| io_error("look at", path, errno))?;
    let mine = stat.st_uid == rustix::process::geteuid().as_raw();
    if mine && stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    Err(IdentityError::NotPrivate { path: path.to_owned(), mode: stat.st_mode & 0o777, owner: stat.st_uid })
}

/// Makes the name of a new directory durable.
fn sync_parent(path: &Path) -> Result<(), IdentityError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(parent, flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|errno| io_error("sync", parent, errno))
}

fn io_error(operation: &'static str, path: &Path, errno: Errno) -> IdentityError {
    IdentityError::Io { operation, path: path.to_owned(), cause: io::Error::from(errno) }
}
