//! Which data is to be here, as commands say it and the daemon hears it: pins, evictions, and what would be missing.

use std::path::Path;

use mezzo_core::name::{escape, join};
use mezzo_core::{Name, ObjectId, Origin};
use mezzo_replica::demand::Refused;
use mezzo_replica::{Fileset, Replica};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::control::{Answer, Request};
use crate::find::{self, Found};

/// Bytes of paths in one answer: as numbers in JSON they take up to four times as much, and more is asked for.
const PATH_BYTES: usize = 16 << 10;

/// Files that are looked at for one answer, whether it tells of them or not: a tenth of a second.
const LOOKED_AT: usize = 20_000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "wish")]
pub enum Wish {
    /// Pin what is at a path, which is from the fileset's directory.
    Pin {
        /// The path.
        path: Vec<u8>,
    },
    /// Take the pin away.
    Unpin {
        /// The path.
        path: Vec<u8>,
    },
    /// Tell what is pinned.
    Pins {
        /// How many have been told of already.
        told: usize,
    },
    /// Give up the bytes of what is at a path and below.
    Evict {
        /// The path.
        path: Vec<u8>,
    },
    /// Tell which files at a path and below lack bytes.
    Missing {
        /// The path.
        path: Vec<u8>,
        /// The id of the file up to which it was told already.
        after: Option<String>,
    },
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Files that were evicted.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that had none already.
    pub absent: u64,
    /// Files that keep their bytes.
    pub kept: u64,
    /// Some of them, and why.
    pub refused: Vec<Refusal>,
    /// What is pinned.
    pub pins: Vec<Pin>,
    /// Files that lack bytes.
    pub missing: Vec<Missing>,
    /// There is more to tell: the id of the last file that was looked at.
    pub next: Option<String>,
}

/// A file that keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Where it is.
    pub path: Vec<u8>,
    /// Why.
    pub why: String,
}

/// Something that is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Where it is; empty for the fileset itself, and for what is gone.
    pub path: Vec<u8>,
    /// Its id.
    pub object: String,
    /// Whether it is in the tree no more.
    pub gone: bool,
}

/// A file that lacks bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Where it is.
    pub path: Vec<u8>,
    /// Its size.
    pub bytes: u64,
    /// Whether it is absent, and not without what went with the power.
    pub absent: bool,
    /// Whether it is to be brought without being asked for.
    pub pinned: bool,
}

impl Wish {
    /// Does it.
    pub fn carry_out(&self, replica: &Replica) -> Result<Report, Failure> {
        let mut report = Report::default();
        match self {
            Wish::Pin { path } => {
                replica.pin(find(replica, path)?).map_err(|error| could_not("pin", path, &error))?
            }
            Wish::Unpin { path } => {
                replica.unpin(find(replica, path)?).map_err(|error| could_not("unpin", path, &error))?;
            }
            Wish::Pins { told } => {
                let mut bytes = 0;
                for pinned in replica.pins()?.into_iter().skip(*told) {
                    let gone = pinned.path.is_none();
                    let path = pinned.path.unwrap_or_default();
                    bytes += path.len() + 64;
                    report.pins.push(Pin { path, object: pinned.object.to_string(), gone });
                    if bytes > PATH_BYTES {
                        report.next = report.pins.last().map(|pin| pin.object.clone());
                        break;
                    }
                }
            }
            Wish::Evict { path } => evict(replica, find(replica, path)?, &mut report)?,
            Wish::Missing { path, after } => {
                let after = after.as_deref().map(str::parse::<Origin>).transpose()?.map(ObjectId);
                missing(replica, find(replica, path)?, after, &mut report)?;
            }
        }
        Ok(report)
    }
}

/// Has it done by the daemon that serves the fileset, or here where there is none.
pub fn ask(found: &Found, wish: Wish) -> Result<Report, Failure> {
    let Some(mount) = find::mounted_over(&found.path)?.filter(|_| found.daemon.is_some()) else {
        let (replica, start) = Replica::open(Fileset::open(&found.path)?)?;
        start.notes().iter().for_each(|note| eprintln!("mezzo: {note}"));
        let report = wish.carry_out(&replica);
        replica.close();
        return report;
    };
    let mut daemon = find::connect(&mount)?.patiently()?;
    match daemon.ask(&Request::Demand(wish))?.0 {
        Answer::Demanded(report) => Ok(report),
        answer => Err(Failure::Failed(format!("the daemon gave another answer: {answer:?}"))),
    }
}

fn could_not(what: &str, path: &[u8], error: &dyn std::fmt::Display) -> Failure {
    let path = if path.is_empty() { "the fileset".to_owned() } else { escape(path) };
    Failure::Failed(format!("could not {what} {path}: {error}"))
}

/// The object at a path.
fn find(replica: &Replica, path: &[u8]) -> Result<ObjectId, Failure> {
    let mut object = ObjectId::ROOT;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let gone = || could_not("find", path, &"there is nothing recorded");
        let name = Name::new(part).map_err(|error| could_not("find", path, &error))?;
        object = replica.index().child(object, &name)?.ok_or_else(gone)?;
    }
    Ok(object)
}

/// All files at and below an object, each once.
fn files_below(replica: &Replica, top: ObjectId) -> Result<Vec<ObjectId>, Failure> {
    let (mut files, mut directories) = (Vec::new(), vec![top]);
    while let Some(at) = directories.pop() {
        match replica.index().entry(at)? {
            Some(entry) if entry.is_directory() => {
                directories.extend(replica.index().children(at)?.into_values());
            }
            Some(entry) if entry.version().is_some() => files.push(at),
            _ => {}
        }
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

fn evict(replica: &Replica, top: ObjectId, report: &mut Report) -> Result<(), Failure> {
    let is_directory = replica.entry(top)?.is_directory();
    let files = if is_directory { files_below(replica, top)? } else { vec![top] };
    let evicted = replica.evict(&files)?;
    (report.files, report.bytes, report.absent) = (evicted.files, evicted.bytes, evicted.absent);
    report.kept = evicted.refused.len() as u64;
    let mut bytes = 0;
    for (object, why) in evicted.refused {
        let path = replica.index().path(object)?;
        bytes += path.len() + 64;
        if bytes > PATH_BYTES {
            break;
        }
        report.refused.push(Refusal { path, why: words(&why) });
    }
    Ok(())
}

fn words(why: &Refused) -> String {
    why.to_string()
}

fn missing(
    replica: &Replica,
    top: ObjectId,
    mut after: Option<ObjectId>,
    report: &mut Report,
) -> Result<(), Failure> {
    let index = replica.index();
    let (mut bytes, mut looked_at) = (0, 0);
    loop {
        let found = index.lacking(after, 256)?;
        let Some((last, _)) = found.last() else { return Ok(()) };
        looked_at += found.len();
        let last = *last;
        for (object, absent) in found {
            let Some(entry) = index.entry(object)? else { continue };
            if let Some(path) = path_below(replica, top, object)? {
                let pinned = replica.is_pinned(&entry)?;
                bytes += path.len() + 64;
                report.missing.push(Missing { path, bytes: entry.attributes().size, absent, pinned });
            }
            if bytes > PATH_BYTES {
                report.next = Some(object.to_string());
                return Ok(());
            }
        }
        if looked_at >= LOOKED_AT {
            report.next = Some(last.to_string());
            return Ok(());
        }
        after = Some(last);
    }
}

/// The object's path by which it is, or is below of, `top`; `None` where it isn't by any of its names.
fn path_below(replica: &Replica, top: ObjectId, object: ObjectId) -> Result<Option<Vec<u8>>, Failure> {
    let index = replica.index();
    if object == top {
        return Ok(Some(index.path(object)?));
    }
    let Some(entry) = index.entry(object)? else { return Ok(None) };
    for place in &entry.places {
        let mut at = place.parent;
        // A chain of parents is as long as the tree is deep; more steps than objects would be a circle.
        for _ in 0..=index.objects() {
            if at == top {
                return Ok(Some(join(&index.path(place.parent)?, place.name.as_bytes())));
            }
            match index.entry(at)?.and_then(|entry| Some(entry.places.first()?.parent)) {
                Some(above) => at = above,
                None => break,
            }
        }
    }
    Ok(None)
}

/// The paths that a command names, each from the fileset's directory; all of them in one fileset.
pub fn paths(directory: &Path, paths: &[std::path::PathBuf]) -> Result<(Found, Vec<Vec<u8>>), Failure> {
    let (found, inside) = crate::commands::log::place::locate(Some(directory), None)?;
    let mut all = Vec::new();
    for path in paths {
        let (other, inside) = crate::commands::log::place::locate(Some(directory), Some(path))?;
        if other.path != found.path {
            return Err(Failure::Failed(format!("{} is not in {}", path.display(), found.path.display())));
        }
        all.push(inside.unwrap_or_default());
    }
    if paths.is_empty() {
        all.push(inside.unwrap_or_default());
    }
    Ok((found, all))
}
