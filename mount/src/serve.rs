//! A mount from its beginning to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mezzo_fuse::{MountOptions, Session, Wanted};
use mezzo_replica::demand::Fetching;
use mezzo_replica::fileset::OWN;
use mezzo_replica::host::Queue;
use mezzo_replica::{Replica, Watch};
use parking_lot::Mutex;

use crate::audience::Users;
use crate::behind::{Behind, Look};
use crate::filter::Filter;
use crate::handles::Handles;
use crate::ids::Ids;
use crate::nodes::Nodes;
use crate::who::WhoIs;

/// Threads that serve users. Two keep two processors busy, and more were slower where there are two.
const THREADS: usize = 2;

/// How often what can wait is seen to.
const TICK: Duration = Duration::from_secs(1);

/// How often the attic is looked at where the host is nearly full.
const SHORT_TICK: Duration = Duration::from_millis(100);

/// How much of each tick may go into hashing: a quarter of one processor.
const HASHING: Duration = Duration::from_millis(250);

/// What the mount does without, in words for people; empty where it has everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether data passes through the kernel.
    pub passthrough: bool,
    /// Whether requests come over io_uring.
    pub io_uring: bool,
    /// What is missing, and what that means.
    pub without: Vec<&'static str>,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over io_uring where the kernel's setting allows it.
    #[default]
    Auto,
    /// Over io_uring; the kernel's setting, which is for the whole machine, is switched on.
    IoUring,
    /// Over /dev/fuse.
    Device,
}

/// A fileset can't be mounted.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} {}: {cause}", mountpoint.display())]
pub struct MountError {
    operation: &'static str,
    mountpoint: PathBuf,
    cause: io::Error,
}

/// A mounted fileset.
pub struct Mount {
    session: Session,
    filter: Arc<Filter>,
    mountpoint: PathBuf,
    access: Access,
    watch: Option<Watch>,
    behind: Arc<Behind>,
}

/// How a fileset is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How requests come from the kernel.
    pub transport: Transport,
    /// Do without the watch on the host's file system.
    pub no_watch: bool,
}

impl Mount {
    /// Mounts the fileset at `mountpoint`, which may be its own directory. From now on the kernel holds requests until
    /// [`Mount::run`] serves them.
    ///
    /// From now on it is known what is changed behind the mount, too: the whole tree is to be compared after this.
    pub fn new(replica: Arc<Replica>, mountpoint: &Path, how: Options) -> Result<Mount, MountError> {
        let failed = |operation| {
            let mountpoint = mountpoint.to_owned();
            move |cause| MountError { operation, mountpoint, cause }
        };
        let options = MountOptions {
            source: format!("mezzo:{}", replica.fileset().config.replica),
            allow_other: rustix::process::geteuid().is_root(),
            default_permissions: true,
            allow_devices: true,
            allow_set_id: true,
            ..MountOptions::default()
        };
        let (watch, behind) = begin_watch(&replica, how.no_watch);
        if how.transport == Transport::IoUring {
            mezzo_fuse::enable_io_uring().map_err(failed("switch io_uring on for"))?;
        }
        let device = mezzo_fuse::mount(mountpoint, &options).map_err(failed("mount on"))?;
        let session = Session::start(device, wanted(how.transport)).map_err(failed("start serving"))?;
        let access = access(&session, &replica);
        let backings = access.passthrough.then(|| session.backings());
        let filter = Arc::new_cyclic(|me| Filter {
            me: me.clone(),
            ids: Ids::new(&replica.fileset().ids),
            replica,
            nodes: Nodes::new(),
            handles: Handles::default(),
            who: WhoIs::default(),
            backings,
            notifier: session.notifier(),
            telling: Mutex::default(),
            later: Default::default(),
        });
        let mountpoint = mountpoint.to_owned();
        Ok(Mount { session, filter, mountpoint, access, watch, behind })
    }

    /// What the mount does without.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Who has to know when the tree is changed by others than users.
    pub fn audience(&self) -> Users {
        Users { filter: self.filter.clone() }
    }

    /// What is known of changes behind the mount.
    pub fn behind(&self) -> &Arc<Behind> {
        &self.behind
    }

    /// Serves users until the file system is unmounted; then everything is on disk. `missed` is called when the watch has
    /// lost something, so that the whole tree is to be compared.
    pub fn run(self, missed: impl Fn() + Send + 'static) -> Result<(), MountError> {
        let chores = Chores::start(self.filter.replica.clone());
        let fetching = Fetching::start(self.filter.replica.clone());
        let users = Users { filter: self.filter.clone() };
        let look = Look::start(users, self.watch, self.behind, Box::new(missed));
        let mountpoint = self.mountpoint;
        let filter = self.filter.clone();
        let served = match &fetching {
            Ok(_) => self.session.run(self.filter, THREADS),
            Err(error) => {
                Err(io::Error::new(error.kind(), "a thread that brings bytes could not be started"))
            }
        };
        // Before all opens are let go of: it makes some.
        drop(fetching);
        filter.release_all();
        look.stop();
        chores.stop();
        served.map_err(|cause| MountError { operation: "serve", mountpoint, cause })
    }
}

fn begin_watch(replica: &Replica, no_watch: bool) -> (Option<Watch>, Arc<Behind>) {
    let watch = match no_watch {
        true => Err("it was not wanted".to_owned()),
        false => replica.watch(Queue::Unbounded).map_err(|error| error.to_string()),
    };
    let behind = Arc::new(Behind::new(watch.as_ref().err().cloned()));
    (watch.ok(), behind)
}

/// Unmounts what is mounted at `mountpoint`; with `lazy` as soon as nobody uses it any more.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    mezzo_fuse::unmount(mountpoint, lazy)
}

fn wanted(transport: Transport) -> Wanted {
    Wanted {
        io_uring: transport != Transport::Device,
        passthrough: true,
        max_stack_depth: 1,
        handle_killpriv_v2: true,
        posix_acl: true,
        readdirplus: true,
        readdirplus_auto: true,
        no_opendir: true,
        // Whether a file may be truncated, a program that runs from it decides, and of that only the kernel knows.
        atomic_o_trunc: false,
        // Locks are among users of this machine, and the kernel keeps them by itself, at no cost.
        posix_locks: false,
        flock_locks: false,
        writeback_cache: false,
        ..Wanted::default()
    }
}

fn access(session: &Session, replica: &Replica) -> Access {
    let granted = session.granted();
    let mut access = Access {
        passthrough: granted.passthrough && can_register(session, replica),
        io_uring: granted.io_uring.is_ok(),
        without: Vec::new(),
    };
    if !access.passthrough {
        access.without.push("passthrough: every read and write goes through the daemon, which is slower");
    }
    if !rustix::process::geteuid().is_root() {
        access.without.push("root: only the user who mounted it can use it, and all is made as that user");
    }
    access
}

/// Whether the kernel takes files of this host file system for passthrough; some that are stacked themselves it does not.
fn can_register(session: &Session, replica: &Replica) -> bool {
    use std::os::fd::AsFd;
    let config = replica.fileset().own_path("fileset.toml");
    debug_assert!(OWN.starts_with(b"."));
    std::fs::File::open(config).and_then(|file| session.backings().open(file.as_fd())).is_ok()
}

/// What is done from time to time while users are served.
struct Chores {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

fn do_chores(replica: &Replica) -> Result<(), mezzo_replica::Error> {
    replica.settle_mappings()?;
    replica.record_open_files()?;
    replica.write_behind(false)?;
    replica.tend_ranges()?;
    replica.bound_attic()?;
    replica.bound_cache()?;
    replica.make_digests(HASHING)
}

impl Chores {
    fn start(replica: Arc<Replica>) -> Chores {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            let mut told = None;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(SHORT_TICK) {
                // A writer whose data is not seen here can fill a host faster than a second.
                let is_time = last.elapsed() >= TICK;
                if !is_time && !replica.is_host_nearly_full() && !replica.is_cache_beyond_limit() {
                    continue;
                }
                let done = if is_time {
                    last = Instant::now();
                    do_chores(&replica)
                } else {
                    replica.bound_attic().and_then(|()| replica.bound_cache())
                };
                // What goes wrong goes wrong again each time, and is told once.
                let error = done.err().map(|error| error.to_string());
                if let Some(error) = error.as_ref().filter(|error| told.as_ref() != Some(*error)) {
                    mezzo_replica::say!("mezzo: {error}");
                }
                told = error;
            }
            // Whatever was mapped is not mapped any more, and may have been written to since the last look.
            if let Err(error) = replica.settle_mappings() {
                mezzo_replica::say!("mezzo: {error}");
            }
        });
        Chores { stop, thread }
    }

    fn stop(self) {
        // The thread may have ended by a panic, which it has told of.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
