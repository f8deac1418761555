//! `mezzo mount`: a fileset is served, and every change recorded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use mezzo_mount::{Access, Behind, Mount, Options};
use mezzo_net::upstream::Upstream;
use mezzo_replica::fileset::{FilesetError, socket_path};
use mezzo_replica::undo::Audience;
use mezzo_replica::{Fileset, Replica};
use parking_lot::Mutex;

use rustix::io::Errno;

use crate::behind::Below;
use crate::comparison::{Comparison, Progress};
use crate::control::{Client, Server, Status};
use crate::daemon::{self, Background};
use crate::fetch_from::FetchFrom;
use crate::links::Links;
use crate::{Ending, Failure, find};

/// Arguments of `mezzo mount`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The fileset
    directory: PathBuf,
    /// Where it is mounted, if not over itself
    mountpoint: Option<PathBuf>,
    /// How requests come from the kernel: over io_uring where its setting allows it (auto), over io_uring in any case, which
    /// switches the setting on for the whole machine (io-uring), or over /dev/fuse (device)
    #[arg(long, default_value = "auto", value_enum)]
    transport: Transport,
    /// Do without the watch on the host's file system: what is changed behind the mount is found by comparing, at the start and
    /// every ten minutes
    #[arg(long)]
    no_watch: bool,
    /// Bring bytes that are not here from another replica of the fileset on this machine, when somebody opens the file
    #[arg(long, value_name = "FILESET")]
    fetch_from: Option<PathBuf>,
    #[command(flatten)]
    background: Background,
}

/// The words for [`mezzo_mount::Transport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    Auto,
    IoUring,
    Device,
}

impl From<Transport> for mezzo_mount::Transport {
    fn from(word: Transport) -> mezzo_mount::Transport {
        match word {
            Transport::Auto => mezzo_mount::Transport::Auto,
            Transport::IoUring => mezzo_mount::Transport::IoUring,
            Transport::Device => mezzo_mount::Transport::Device,
        }
    }
}

/// How many are told at the mount of those who can go past it.
const NOTES: usize = 20;

/// Runs it. Without `--foreground` it returns when the mount can be used.
pub fn run(arguments: Arguments) -> Ending {
    if arguments.background.foreground {
        return serve(&arguments);
    }
    let mut words: Vec<OsString> = Vec::new();
    if let Some(word) = arguments.transport.to_possible_value() {
        words.extend(["--transport".into(), word.get_name().into()]);
    }
    words.extend(arguments.no_watch.then(|| "--no-watch".into()));
    if let Some(other) = &arguments.fetch_from {
        words.extend(["--fetch-from".into(), std::path::absolute(other)?.into()]);
    }
    words.extend(["--".into(), std::path::absolute(&arguments.directory)?.into()]);
    if let Some(mountpoint) = &arguments.mountpoint {
        words.push(std::path::absolute(mountpoint)?.into());
    }
    daemon::start("mount", &words)
}

fn serve(arguments: &Arguments) -> Ending {
    daemon::outlive_limits();
    let waiting = arguments.background.waiting();
    let started = match start(arguments) {
        Ok(started) => started,
        Err(failure) => return Err(waiting.failed(failure)),
    };
    let Started { mount, server, scan, replica, links, notes } = started;
    waiting.ready(&notes, &replica)?;
    let behind = mount.behind().clone();
    let comparison = Comparison::start(replica.clone(), scan, move || behind.without().is_some());
    let again = comparison.asking();
    // It can't be asked any more once it has ended, with the mount.
    let served = mount.run(move || {
        let _ = again.send(());
    });
    comparison.stop().map_err(|_| Failure::Failed("the comparison of tree and log panicked".to_owned()))?;
    drop(server);
    links.end();
    // Threads that answer commands hold it too, and end with the process.
    replica.close();
    Ok(served?)
}

/// A mount that is ready to be served.
struct Started {
    mount: Mount,
    server: Server,
    scan: Progress,
    replica: Arc<Replica>,
    links: Arc<Links>,
    /// What people should know.
    notes: String,
}

fn start(arguments: &Arguments) -> Result<Started, Failure> {
    let directory = &arguments.directory;
    let mountpoint = arguments.mountpoint.as_ref().unwrap_or(directory).clone();
    clear_dead_mount(directory)?;
    clear_dead_mount(&mountpoint)?;
    refuse_twice(directory)?;
    let mountpoint = place_of_mount(&mountpoint)?;
    let mut fileset = Fileset::open(directory)?;
    let socket = socket_path(fileset.config.replica);
    // A daemon of this very directory, which may be about to end, has the lock: without it, whoever serves there is another's.
    let lock = fileset.lock().map_err(|error| in_use(error.into(), directory))?;
    fileset.has_twin = Client::connect(&socket).is_ok();
    drop(lock);
    let (replica, start) = Replica::open(fileset).map_err(|error| in_use(error, directory))?;
    let replica = Arc::new(replica);
    if replica.is_partial() {
        let shown = directory.display();
        return Err(Failure::Failed(format!(
            "could not mount {shown}: its clone was cut off (mezzo sync {shown} finishes it)"
        )));
    }
    if let Some(other) = &arguments.fetch_from {
        replica.set_upstream(Some(Arc::new(FetchFrom::new(other, replica.fileset().config.id)?)));
    }
    let below = Below::of(directory, replica.fileset().config.replica);
    let how = Options { transport: arguments.transport.into(), no_watch: arguments.no_watch };
    let mount = Mount::new(replica.clone(), &mountpoint, how)?;
    let scan = Arc::new(Mutex::new("not begun".to_owned()));
    let mut notes = start.notes();
    let below =
        below.map_err(|error| notes.push(format!("who can go past the mount is not known: {error}"))).ok();
    let audience: Arc<dyn Audience + Send + Sync> = Arc::new(mount.audience());
    let links = Arc::new(Links::default());
    if Upstream::is_known(&replica) {
        let upstream = Upstream::start(replica.clone(), audience.clone());
        let failed = |error| Failure::Failed(format!("could not begin as a client of the server: {error}"));
        links.set_upstream(upstream.map_err(failed)?);
    }
    let status = status(&replica, &mount, scan.clone(), below.clone());
    // The id may be a new one.
    let socket = socket_path(replica.fileset().config.replica);
    let server = Server::start(&socket, replica.clone(), audience, links.clone(), status)?;
    // After the mount, so that nobody comes in between; it is not served yet, and not asked.
    notes.extend(below.iter().flat_map(|below| at_most(below.find().notes())));
    notes.extend(without(mount.access(), mount.behind()).iter().map(|without| format!("without {without}")));
    let notes = notes.iter().map(|note| format!("mezzo: {note}\n")).collect();
    Ok(Started { mount, server, scan, replica, links, notes })
}

/// Where it is to be mounted, which has to be a directory.
fn place_of_mount(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::Failed(format!("could not mount on {}: {cause}", path.display()))
    };
    let place = path.canonicalize().map_err(|error| failed(&error))?;
    if place.is_dir() { Ok(place) } else { Err(failed(&"it is not a directory")) }
}

/// Lines that people still read.
fn at_most(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(NOTES);
    notes.truncate(NOTES);
    if more > 0 {
        notes.push(format!("and {more} more like these (mezzo status --json tells them)"));
    }
    notes
}

/// A mount whose daemon died answers nothing, and hides the directory.
fn clear_dead_mount(path: &Path) -> Ending {
    // What the kernel has cached, it tells of a dead mount too; it caches nothing of this.
    match rustix::fs::statvfs(path) {
        Err(Errno::NOTCONN | Errno::CONNABORTED) => {
            eprintln!("mezzo: {} is mounted by a daemon that died; it is cleared", path.display());
            Ok(mezzo_mount::unmount(path, true)?)
        }
        _ => Ok(()),
    }
}

fn refuse_twice(directory: &Path) -> Ending {
    let path = std::path::absolute(directory)?;
    match find::mounted_over(&path)? {
        Some(mount) => Err(Failure::Failed(format!(
            "could not mount {}: {} is a mounted fileset",
            directory.display(),
            mount.mountpoint.display()
        ))),
        None => Ok(()),
    }
}

fn in_use(error: mezzo_replica::Error, directory: &Path) -> Failure {
    match error {
        mezzo_replica::Error::Fileset(FilesetError::InUse { holder, .. }) => Failure::Failed(format!(
            "could not mount {}: process {holder} has the fileset open (mezzo status tells more)",
            directory.display()
        )),
        error => Failure::Failed(format!("could not mount {}: {error}", directory.display())),
    }
}

/// What the mount does without, in words for people.
fn without(access: &Access, behind: &Behind) -> Vec<String> {
    let mut without: Vec<String> = access.without.iter().map(|without| (*without).to_owned()).collect();
    if let Some(reason) = behind.without() {
        without.push(format!(
            "a watch on the host's file system: what is changed behind the mount is found by comparing, every ten minutes \
             ({reason})"
        ));
    }
    without
}

fn status(
    replica: &Arc<Replica>,
    mount: &Mount,
    scan: Progress,
    below: Option<Below>,
) -> impl Fn() -> Status + Send + Sync + 'static {
    let replica = replica.clone();
    let access = mount.access().clone();
    let behind = mount.behind().clone();
    move || {
        let found = below.as_ref().map(Below::find).unwrap_or_default();
        let (data, fetching) = (replica.index().data(), replica.fetching());
        Status {
            pid: std::process::id(),
            last_recno: replica.last().0,
            log_bytes: replica.log_bytes(),
            objects: replica.index().objects(),
            passthrough: access.passthrough,
            io_uring: access.io_uring,
            attic_bytes: replica.attic_size().0,
            attic_files: replica.attic_size().1,
            attic_by_ranges: replica.kept_by_ranges(),
            open_for_writing: replica.open_for_writing() as u64,
            lost_files: data.lost_files,
            lost_bytes: data.lost_bytes,
            absent_files: data.absent_files,
            absent_bytes: data.absent_bytes,
            pins: replica.count_pins() as u64,
            cache_bytes: data.here(),
            cache_limit: replica.fileset().config.cache.limit,
            cache_full: replica.fileset().config.cache.full,
            upstream: replica.upstream().map(|upstream| upstream.describe()),
            fetching: fetching.running,
            awaited: fetching.awaited,
            digests_waiting: replica.digests_waiting() as u64,
            watch: behind.without().is_none(),
            watch_records: behind.records(),
            watch_missed: behind.missed(),
            behind_processes: found.processes,
            behind_mounts: found.showings,
            submounts: found.submounts,
            without: without(&access, &behind),
            broken: replica.broken().map(str::to_owned),
            trouble: replica.trouble(),
            scan: scan.lock().clone(),
            link: None,
            clients: None,
        }
    }
}
