//! `mezzo serve`: filesets are offered to other machines.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use mezzo_net::identity::{ServerIdentity, SystemClock};
use mezzo_net::server::{Policy, Served, Server};
use mezzo_replica::fileset::{FilesetError, socket_path};
use mezzo_replica::{Fileset, Replica};

use crate::control::{self, Request, Status};
use crate::daemon::{self, Background};
use crate::links::{Links, Offer};
use crate::{Ending, Failure, find};

/// Where a server's authority and registry are, unless it is told otherwise.
const STATE: &str = "/var/lib/mezzo/server";

/// How often what can wait is seen to.
const TICK: Duration = Duration::from_secs(1);

/// Threads that answer clients; what takes its time is done by others.
const THREADS: usize = 2;

/// Arguments of `mezzo serve`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The filesets
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7440")]
    listen: SocketAddr,
    /// Where invitations say that it is, if not where it listens; more than once for more than one way
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
    /// Where its certificate authority is and who was invited; made where it does not exist
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Clients may make set-id programs
    #[arg(long)]
    allow_set_id: bool,
    /// Clients may make device nodes
    #[arg(long)]
    allow_devices: bool,
    /// End the server that offers these filesets
    #[arg(long, conflicts_with_all = ["listen", "address", "state", "foreground"])]
    stop: bool,
    #[command(flatten)]
    background: Background,
}

/// Runs it. Without `--foreground` it returns when clients can come.
pub fn run(arguments: Arguments) -> Ending {
    if arguments.stop {
        return arguments.directories.iter().try_for_each(|directory| stop(directory));
    }
    if arguments.background.foreground {
        return serve(&arguments);
    }
    let mut words: Vec<OsString> = vec!["--listen".into(), arguments.listen.to_string().into()];
    for address in &arguments.address {
        words.extend(["--address".into(), address.into()]);
    }
    words.extend(["--state".into(), std::path::absolute(&arguments.state)?.into()]);
    words.extend(arguments.allow_set_id.then(|| "--allow-set-id".into()));
    words.extend(arguments.allow_devices.then(|| "--allow-devices".into()));
    words.push("--".into());
    for directory in &arguments.directories {
        words.push(std::path::absolute(directory)?.into());
    }
    daemon::start("serve", &words)
}

fn stop(directory: &Path) -> Ending {
    let mut daemon = find::daemon_of(directory, "nobody offers it")?;
    let control::Answer::Status(status) = daemon.ask(&Request::Status)?.0 else { return Ok(()) };
    find::daemon_of(directory, "nobody offers it")?.ask(&Request::End)?;
    super::unmount::wait_for_end(status.pid)
}

fn serve(arguments: &Arguments) -> Ending {
    daemon::outlive_limits();
    let waiting = arguments.background.waiting();
    let started = match start(arguments) {
        Ok(started) => started,
        Err(failure) => return Err(waiting.failed(failure)),
    };
    let Started { replicas, offer, sockets, notes, end } = started;
    waiting.ready(&notes, &replicas[0])?;
    let scans = replicas.iter().cloned().map(scan).collect::<Vec<_>>();
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(TICK) {
        for replica in &replicas {
            let done = replica.write_behind(false).and_then(|()| replica.bound_attic());
            if let Err(error) = done {
                mezzo_replica::say!("mezzo: {error}");
            }
        }
    }
    offer.stop();
    drop(sockets);
    for replica in &replicas {
        // A scan that is under way ends with it.
        replica.close();
    }
    drop(scans);
    Ok(())
}

/// Takes in what was done to the tree by others, in the background.
fn scan(replica: Arc<Replica>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        if let Err(error) = replica.take_in(&mut |_| true) {
            mezzo_replica::say!("mezzo: could not compare the tree with the log: {error}");
        }
    })
}

struct Started {
    replicas: Vec<Arc<Replica>>,
    offer: Arc<Offer>,
    sockets: Vec<control::Server>,
    notes: String,
    end: std::sync::mpsc::Receiver<()>,
}

fn start(arguments: &Arguments) -> Result<Started, Failure> {
    let (ending, end) = channel();
    end_on_signals(ending.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let mut notes = String::new();
    let mut replicas = Vec::new();
    for directory in &arguments.directories {
        let fileset = Fileset::open(directory)?;
        let (replica, start) = Replica::open(fileset).map_err(|error| in_use(error, directory))?;
        start.notes().iter().for_each(|note| notes.push_str(&format!("mezzo: {note}\n")));
        replicas.push(Arc::new(replica));
    }
    if let Some(parent) = arguments.state.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let identity = ServerIdentity::open(&arguments.state, Arc::new(SystemClock))?;
    let policy = Policy { allow_set_id: arguments.allow_set_id, allow_devices: arguments.allow_devices };
    let server = runtime.block_on(async {
        let served = replicas.iter().map(|replica| Served::new(replica.clone(), Arc::new(()), policy));
        let served = served.collect::<Result<Vec<_>, _>>()?;
        Server::start(arguments.listen, identity, served)
            .await
            .map_err(|error| Failure::Failed(format!("could not listen at {}: {error}", arguments.listen)))
    })?;
    let at = server.address();
    notes.push_str(&format!("mezzo: offered at {at}; mezzo invite prints a link\n"));
    let addresses = match arguments.address.is_empty() {
        false => arguments.address.clone(),
        true if at.ip().is_unspecified() => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            vec![format!("{host}:{}", at.port())]
        }
        true => vec![at.to_string()],
    };
    let offer = Offer::new(runtime, server, addresses, move || {
        // It is about to end already where nobody listens.
        let _ = ending.send(());
    });
    let mut sockets = Vec::new();
    for replica in &replicas {
        let links = Arc::new(Links::default());
        links.set_offer(offer.clone());
        let socket = socket_path(replica.fileset().config.replica);
        let status = status(replica.clone());
        sockets.push(control::Server::start(&socket, replica.clone(), Arc::new(()), links, status)?);
    }
    Ok(Started { replicas, offer, sockets, notes, end })
}

/// Ends in order when it is told to.
fn end_on_signals(ending: std::sync::mpsc::Sender<()>) -> Ending {
    let set = signals();
    // SAFETY: the set is initialized, and no other thread runs yet, so that all will have it blocked.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let set = signals();
        let mut signal = 0;
        // SAFETY: both outlive the call.
        if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
            // It is about to end already where nobody listens.
            let _ = ending.send(());
        }
    })?;
    Ok(())
}

fn signals() -> libc::sigset_t {
    // SAFETY: a set is plain memory, which these calls fill in.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        set
    }
}

fn in_use(error: mezzo_replica::Error, directory: &Path) -> Failure {
    match error {
        mezzo_replica::Error::Fileset(FilesetError::InUse { holder, .. }) => Failure::Failed(format!(
            "could not offer {}: process {holder} has the fileset open; unmount it first",
            directory.display()
        )),
        error => Failure::Failed(format!("could not offer {}: {error}", directory.display())),
    }
}

fn status(replica: Arc<Replica>) -> impl Fn() -> Status + Send + Sync + 'static {
    move || Status {
        pid: std::process::id(),
        last_recno: replica.last().0,
        log_bytes: replica.log_bytes(),
        objects: replica.index().objects(),
        attic_bytes: replica.attic_size().0,
        attic_files: replica.attic_size().1,
        attic_by_ranges: replica.kept_by_ranges(),
        lost_files: replica.index().lost(),
        broken: replica.broken().map(str::to_owned),
        trouble: replica.trouble(),
        scan: "offered, not mounted".to_owned(),
        ..Status::default()
    }
}
