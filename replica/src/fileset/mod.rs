//! A fileset on disk: its directory, what is in `.mezzo`, and who may use it.

mod config;
mod ids;
mod lock;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mezzo_core::{FilesetId, ObjectId, ReplicaId};
use rustix::fs::{Mode, OFlags};

use crate::host::{self, proc_path};

pub use crate::host::write_whole;
pub use config::{Config, ConfigError, Digests};
pub use ids::{Ids, owner_of};
pub use lock::Lock;

/// The name of mezzo's own directory in a fileset's root.
pub const OWN: &[u8] = b".mezzo";

/// A fileset can't be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum FilesetError {
    /// There is none.
    #[error("{} is not a fileset: it has no .mezzo (mezzo init makes one)", .0.display())]
    None(PathBuf),
    /// There is one already.
    #[error("{} is a fileset already", .0.display())]
    Exists(PathBuf),
    /// Another process has it.
    #[error("{} is in use: process {holder} has it open", path.display())]
    InUse {
        /// The fileset's directory.
        path: PathBuf,
        /// The process that holds it, as far as it can be told; else 0.
        holder: u32,
    },
    /// `fileset.toml` can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A system call failed.
    #[error("could not {operation} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

/// A fileset's directory and its `.mezzo`, both held open, so that a mount over the directory hides neither.
#[derive(Debug)]
pub struct Fileset {
    path: PathBuf,
    root: OwnedFd,
    own: OwnedFd,
    /// What `fileset.toml` says.
    pub config: Config,
    /// How the users of this machine are those that the log tells of.
    pub ids: Ids,
    /// Whether somebody on this machine serves a replica of the same id, which can only be a copy of this one.
    pub has_twin: bool,
}

impl Fileset {
    /// Makes `path` a fileset: adds `.mezzo` with its `fileset.toml`, and nothing more.
    pub fn create(path: &Path) -> Result<Fileset, FilesetError> {
        let failed = |cause| FilesetError::Io { operation: "find an id for", path: path.to_owned(), cause };
        Fileset::create_as(path, new_fileset().map_err(failed)?)
    }

    /// As [`Fileset::create`], as one more replica of the fileset `id`.
    pub fn create_as(path: &Path, id: FilesetId) -> Result<Fileset, FilesetError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |cause: io::Error| FilesetError::Io { operation, path, cause }
        };
        let name = path.file_name().map_or_else(|| "root".to_owned(), |n| n.to_string_lossy().into_owned());
        let root = open_directory(path).map_err(failed("open"))?;
        match rustix::fs::mkdirat(&root, OWN, Mode::from_bits_retain(0o700)) {
            Err(rustix::io::Errno::EXIST) => return Err(FilesetError::Exists(path.to_owned())),
            made => made.map_err(io::Error::from).map_err(failed("make .mezzo in"))?,
        }
        let own = open_own(&root).map_err(failed("open .mezzo in"))?;
        let replica = new_replica().map_err(failed("find a replica id for"))?;
        let config = Config::new(id, name, replica);
        config.write(own.as_fd()).map_err(failed("write .mezzo/fileset.toml in"))?;
        for name in ["kml", "elsewhere"] {
            rustix::fs::mkdirat(&own, name, Mode::from_bits_retain(0o700))
                .map_err(io::Error::from)
                .map_err(failed("make directories in .mezzo of"))?;
        }
        Ok(Fileset { path: path.to_owned(), root, own, config, ids: Ids::default(), has_twin: false })
    }

    /// Opens the fileset at `path`, which is its root.
    pub fn open(path: &Path) -> Result<Fileset, FilesetError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |cause: io::Error| FilesetError::Io { operation, path, cause }
        };
        let root = open_directory(path).map_err(failed("open"))?;
        let own = match open_own(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FilesetError::None(path.to_owned()));
            }
            own => own.map_err(failed("open .mezzo in"))?,
        };
        let config = Config::read(own.as_fd(), path)?;
        let ids = Ids::read(own.as_fd()).map_err(failed("read .mezzo/ids in"))?;
        Ok(Fileset { path: path.to_owned(), root, own, config, ids, has_twin: false })
    }

    /// The fileset's directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// `.mezzo`.
    pub fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// A path that leads to `name` in `.mezzo` also below a mount, for this process, as long as this is open.
    pub fn own_path(&self, name: &str) -> PathBuf {
        own_path(self.own.as_fd(), name)
    }

    /// Gives the replica another id; durable when it returns.
    pub(crate) fn set_replica(&mut self, replica: ReplicaId) -> io::Result<()> {
        self.config.set_replica(self.own.as_fd(), replica)
    }

    /// Takes the right to change the fileset, which one process can have.
    pub fn lock(&self) -> Result<Lock, FilesetError> {
        Lock::take(self.own.as_fd(), &self.path)
    }
}

/// A path that leads to `name` below the directory `own`, for this process, as long as it is open.
pub fn own_path(own: BorrowedFd<'_>, name: &str) -> PathBuf {
    Path::new(&*proc_path(own).to_string_lossy()).join(name)
}

/// Where a replica's daemon listens: below /run/mezzo for root, in the user's runtime directory for others. One machine can
/// have several replicas of a fileset.
pub fn socket_path(replica: ReplicaId) -> PathBuf {
    let directory = match rustix::process::geteuid() {
        uid if uid.is_root() => PathBuf::from("/run/mezzo"),
        uid => std::env::var_os("XDG_RUNTIME_DIR")
            .map_or_else(|| std::env::temp_dir().join(format!("mezzo-{}", uid.as_raw())), PathBuf::from)
            .join("mezzo"),
    };
    directory.join(format!("{replica}.sock"))
}

/// Opens a fileset's directory as the fileset has it: what is mounted below is on other file systems, or elsewhere in this
/// one, and no part of it. Who may not leave mounts out sees them all the same.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(host::without_mounts(directory.as_fd()).unwrap_or(directory))
}

fn open_own(root: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(root, OWN, flags, Mode::empty())?)
}

/// A fileset's id at random.
fn new_fileset() -> io::Result<FilesetId> {
    let mut bytes = [0; 16];
    host::random(&mut bytes)?;
    Ok(FilesetId(bytes))
}

/// A replica id at random.
pub(crate) fn new_replica() -> io::Result<ReplicaId> {
    let mut bytes = [0; 8];
    // 0 is the root's: see ObjectId::ROOT.
    while u64::from_le_bytes(bytes) == ObjectId::ROOT.0.replica.0 {
        host::random(&mut bytes)?;
    }
    Ok(ReplicaId(u64::from_le_bytes(bytes)))
}
