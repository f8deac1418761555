//! Where a replica is: what tells it from a copy of itself, which must not use its numbers.
//!
//! A copied directory, a cloned disk and a restored backup all hold the id of the replica that they were copied from. Two
//! that record under one id would give the same numbers to different changes. So each replica knows its body, and one that
//! finds itself in another takes a new id before it records anything.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mezzo_core::record::EpochCause;
use mezzo_core::{Attributes, Change, Kind, ObjectId, ReplicaId, Time};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::demand::lacking;
use crate::fileset::Fileset;
use crate::host::{self, Stat, write_whole, xattr};
use crate::index::Entry;
use crate::log::Log;
use crate::meet::is_inode_of;
use crate::replica::Replica;

const FILE: &str = "body";

const HEADING: &str =
    "# Where this replica is. Written by mezzo, which takes a copy of the fileset for one by it.\n\n";

/// What a replica knows of where it is. What the host does not tell is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    /// The machine, by a hash of its id.
    machine: String,
    /// The UUID of the file system.
    volume: String,
    /// The file handle of `.mezzo`.
    directory: String,
    /// When `.mezzo` was made.
    born: String,
}

/// Why a replica takes a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Another {
    /// It is another directory than it was, on this file system or on another.
    Directory,
    /// Its files were put back from a copy, or what tells of its body is gone.
    Restored,
    /// It is on another machine.
    Machine,
    /// `fileset.toml` tells of another replica than the log.
    Config,
    /// A copy of it is in use on this machine at this moment.
    Twin,
    /// The log ends before records that it had.
    Shorter,
}

/// A replica has taken a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewId {
    /// Why.
    pub why: Another,
    /// The id that it had.
    pub before: ReplicaId,
    /// The id that it has.
    pub now: ReplicaId,
}

/// What is known of a replica that is being opened, before its log and index are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// What it says of its body; `None` where it says nothing.
    pub told: Option<Body>,
    /// Where it is.
    pub here: Body,
    /// Whether the seal of its files is whole; `None` where they have none.
    pub sealed: Option<bool>,
    /// Whether `fileset.toml` has the id that the log goes on with.
    pub is_config_s: bool,
    /// Whether a copy of it is in use.
    pub has_twin: bool,
}

impl Facts {
    /// Whether it is another than it was, and why. One that was never in use with a body tells of none, and is sealed by
    /// nothing: it is what it is.
    pub fn judge(&self) -> Option<Another> {
        let Facts { told, here, sealed, is_config_s, has_twin } = self;
        let moved = told.as_ref().and_then(|told| told.differs(here));
        match (moved, told, sealed) {
            (Some(Another::Directory), _, _) => Some(Another::Directory),
            (_, Some(_), Some(false)) | (_, None, Some(_)) => Some(Another::Restored),
            (moved, _, _) if moved.is_some() => moved,
            _ if !is_config_s => Some(Another::Config),
            _ if *has_twin => Some(Another::Twin),
            _ => None,
        }
    }
}

impl Another {
    /// Whether inodes are other ones than the index knows, so that objects have to be found by their paths.
    pub fn has_other_inodes(self) -> bool {
        matches!(self, Another::Directory | Another::Restored)
    }

    /// The same, for the log.
    pub fn cause(self) -> EpochCause {
        if self == Another::Shorter { EpochCause::Recovered } else { EpochCause::Copied }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Another::Directory => "this is a copy: its directory is not the one that the replica was in",
            Another::Restored => "its files were restored or copied over",
            Another::Machine => "it came from another machine",
            Another::Config => "fileset.toml tells of another replica than the log",
            Another::Twin => "a copy of it is in use on this machine",
            Another::Shorter => "its log is shorter than it was",
        }
    }
}

impl Body {
    /// Where the fileset with this `.mezzo` is.
    pub fn here(own: BorrowedFd<'_>) -> io::Result<Body> {
        let born = host::stat(own)?.born;
        Ok(Body {
            machine: machine(),
            volume: volume(own).map_or_else(|_| String::new(), |uuid| hex(&uuid)),
            directory: host::Handle::of(own).map_or_else(|_| String::new(), |handle| hex(handle.as_bytes())),
            born: format!("{}.{:09}", born.seconds, born.nanoseconds),
        })
    }

    /// What the replica says of itself; `None` where it says nothing that makes sense.
    pub fn read(fileset: &Fileset) -> io::Result<Option<Body>> {
        match std::fs::read_to_string(fileset.own_path(FILE)) {
            Ok(text) => Ok(Body::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the file's text.
    pub fn parse(text: &str) -> Option<Body> {
        toml::from_str(text).ok()
    }

    /// Writes it down; durable when it returns.
    pub fn write(&self, fileset: &Fileset) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        write_whole(fileset.own(), FILE, format!("{HEADING}{text}").as_bytes())?;
        // The rename has moved the ctime, by which the seal will tell this file from one that was put back.
        std::fs::File::open(fileset.own_path(FILE))?.sync_all()
    }

    fn differs(&self, here: &Body) -> Option<Another> {
        let other = |told: &str, here: &str| !told.is_empty() && !here.is_empty() && told != here;
        if other(&self.volume, &here.volume)
            || other(&self.directory, &here.directory)
            || other(&self.born, &here.born)
        {
            return Some(Another::Directory);
        }
        other(&self.machine, &here.machine).then_some(Another::Machine)
    }
}

/// The ctime of the file that tells of the body, which no copying keeps.
pub(crate) fn written(fileset: &Fileset) -> io::Result<Option<Time>> {
    match std::fs::File::open(fileset.own_path(FILE)) {
        Ok(file) => Ok(Some(host::stat(file.as_fd())?.attributes.ctime)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a new id for the replica, and says so in its log: a segment and an epoch of their own, durable when this returns.
pub(crate) fn take_new_id(fileset: &mut Fileset, log: &Log, why: Another) -> Result<NewId, Error> {
    let before = log.replica();
    let now = crate::fileset::new_replica()?;
    let (epoch, last) = (log.epoch() + 1, log.last());
    log.begin_epoch(now, epoch)?;
    let change = Change::Epoch { epoch, holder: now, cause: why.cause(), ended_at: last };
    log.append(&crate::replica::record(log, last, &crate::Caller::program(), change))?;
    log.sync()?;
    fileset.set_replica(now)?;
    Ok(NewId { why, before, now })
}

impl Replica {
    /// An object of a copy was found by its path. Where it is as the log says, its ctime alone, which no copying keeps, is no
    /// change that anybody made.
    pub(crate) fn settle_copied(
        &self,
        entry: &Entry,
        reach: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), Error> {
        if is_as_told(entry, reach, stat)? {
            self.index.met(entry.object, None, stat.attributes.ctime)?;
        }
        Ok(())
    }
}

impl Replica {
    /// Takes the host's ctimes as those that belong to the log, of objects that are as it tells: the index was made up from records
    /// that have the ctimes of another host.
    pub(crate) fn settle_caught_up(&self, objects: &HashSet<ObjectId>) -> Result<(), Error> {
        for object in objects {
            let Some(entry) = self.index.entry(*object)?.filter(|entry| !self.is_nameless(entry)) else {
                continue;
            };
            let Ok(reach) = self.reach(&entry) else { continue };
            let stat = host::stat(reach.as_fd())?;
            if is_inode_of(&entry, &stat) {
                self.settle_copied(&entry, reach.as_fd(), &stat)?;
            }
        }
        self.find_lost(objects)
    }

    /// Notes which of the objects are without their bytes, by their marks.
    pub(crate) fn find_lost(&self, objects: &HashSet<ObjectId>) -> Result<(), Error> {
        for object in objects {
            let Some(entry) = self.index.entry(*object)?.filter(|entry| !self.is_nameless(entry)) else {
                continue;
            };
            let Ok(reach) = self.reach(&entry) else { continue };
            let stat = host::stat(reach.as_fd())?;
            if is_inode_of(&entry, &stat) && xattr::is_lost_still(reach.as_fd(), &stat.attributes) {
                self.index.set_lacking(*object, lacking(reach.as_fd()))?;
            }
        }
        Ok(())
    }
}

fn is_as_told(entry: &Entry, reach: BorrowedFd<'_>, stat: &Stat) -> io::Result<bool> {
    let (told, here) = (entry.attributes(), &stat.attributes);
    let apart_from = Attributes { atime: here.atime, ctime: here.ctime, links: here.links, ..*told };
    Ok(apart_from == *here
        && entry.state.xattrs == xattr::all(reach)?
        && (here.kind != Kind::Symlink || entry.state.target == host::read_link(reach)?))
}

/// A hash of the machine's id, as machine-id(5) asks for; empty where it has none.
fn machine() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let is_id = id.trim().len() == 32 && id.trim().bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id {
        hex(&blake3::derive_key("mezzo: the body of a replica", id.trim().as_bytes())[..16])
    } else {
        String::new()
    }
}

/// The UUID of the file system that `directory` is on (`FS_IOC_GETFSUUID`, since Linux 6.9).
fn volume(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    #[repr(C)]
    struct Uuid {
        length: u8,
        bytes: [u8; 16],
    }
    const GET: libc::Ioctl = 0x8011_1500;
    let mut uuid = Uuid { length: 0, bytes: [0; 16] };
    // SAFETY: the kernel fills in a struct fsuuid2, which Uuid is laid out as; it outlives the call.
    host::checked(unsafe { libc::ioctl(directory.as_raw_fd(), GET, &raw mut uuid) })?;
    Ok(uuid.bytes[..usize::from(uuid.length).min(16)].to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Body {
        let text = str::to_owned;
        Body { machine: text("a"), volume: text("b"), directory: text("c"), born: text("1.2") }
    }

    #[test]
    fn which_replica_is_another() {
        let same = Facts {
            told: Some(body()),
            here: body(),
            sealed: Some(true),
            is_config_s: true,
            has_twin: false,
        };
        let check = |change: &dyn Fn(&mut Facts), expected| {
            let mut facts = same.clone();
            change(&mut facts);
            assert_eq!(facts.judge(), expected, "{facts:?}");
        };
        let text = str::to_owned;
        check(&|_| {}, None);
        check(&|f| f.here.volume = text("x"), Some(Another::Directory));
        check(&|f| f.here.directory = text("x"), Some(Another::Directory));
        check(&|f| f.here.born = text("x"), Some(Another::Directory));
        check(&|f| f.here.machine = text("x"), Some(Another::Machine));
        check(&|f| (f.here.machine, f.here.born) = (text("x"), text("x")), Some(Another::Directory));
        // What a host does not tell is not held against it.
        check(&|f| f.here.volume = text(""), None);
        check(&|f| f.told.as_mut().unwrap().machine = text(""), None);
        check(&|f| f.sealed = Some(false), Some(Another::Restored));
        check(&|f| (f.sealed, f.here.machine) = (Some(false), text("x")), Some(Another::Restored));
        check(&|f| f.sealed = None, None);
        // Never in use since there are bodies; and one that lost what told of it.
        check(&|f| (f.told, f.sealed) = (None, None), None);
        check(&|f| f.told = None, Some(Another::Restored));
        check(&|f| f.is_config_s = false, Some(Another::Config));
        check(&|f| f.has_twin = true, Some(Another::Twin));
    }
}
