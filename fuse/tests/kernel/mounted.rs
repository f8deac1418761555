//! A mount that goes away with its guard.

use crate::mirror::Mirror;
use mezzo_fuse::{Granted, MountOptions, Notifier, Session, Wanted, mount, unmount};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A mirror of `host()` at `path()`.
pub struct Mounted {
    pub filesystem: Arc<Mirror>,
    pub granted: Granted,
    pub notifier: Notifier,
    directory: TempDir,
    runner: Option<JoinHandle<io::Result<()>>>,
}

impl Mounted {
    /// With two threads and all that the tests need of the kernel.
    pub fn new() -> Mounted {
        Mounted::with(Wanted { posix_locks: true, flock_locks: true, ..Wanted::default() }, 2)
    }

    pub fn with(wanted: Wanted, threads: usize) -> Mounted {
        enter_own_namespace();
        let directory = tempfile::tempdir().unwrap();
        let (host, path) = (directory.path().join("host"), directory.path().join("mount"));
        std::fs::create_dir(&host).unwrap();
        std::fs::create_dir(&path).unwrap();
        let options = MountOptions { allow_other: true, allow_devices: true, ..MountOptions::default() };
        let device = mount(&path, &options).unwrap();
        let session = Session::start(device, wanted).unwrap();
        let backings = session.granted().passthrough.then(|| session.backings());
        let filesystem = Arc::new(Mirror::new(&host, backings));
        let (granted, notifier) = (session.granted().clone(), session.notifier());
        let served = filesystem.clone();
        let runner = std::thread::spawn(move || session.run(served, threads));
        Mounted { filesystem, granted, notifier, directory, runner: Some(runner) }
    }

    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("mount").join(name)
    }

    /// The same path in the mirrored directory.
    pub fn host(&self, name: &str) -> PathBuf {
        self.directory.path().join("host").join(name)
    }

    /// Ends the connection, whoever uses it.
    pub fn abort(&self) {
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        rustix::mount::unmount(self.path(""), flags).unwrap();
    }

    pub fn has_ended(&self) -> bool {
        self.runner.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Unmounts, and yields what the session ended with.
    pub fn end(mut self) -> io::Result<()> {
        unmount(&self.path(""), false).unwrap();
        let runner = self.runner.take().unwrap();
        wait_for("the session's end", || runner.is_finished());
        runner.join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(runner) = self.runner.take() else { return };
        self.filesystem.let_go();
        // Forced: what is still open fails rather than keeps the connection.
        let _ = rustix::mount::unmount(self.path(""), UnmountFlags::FORCE | UnmountFlags::DETACH);
        let start = Instant::now();
        while !runner.is_finished() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !runner.is_finished() && !std::thread::panicking() {
            panic!("the session didn't end");
        }
    }
}

/// Gives this test, its threads and children mounts of their own. Else whoever on the machine makes a mount
/// namespace at this moment gets a copy of the test's mount, and keeps it from ending. For the same reason
/// other people's mounts are let go here.
pub fn enter_own_namespace() {
    // SAFETY: unshare takes no memory; only this thread, and those it makes, see another namespace from here
    // on.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "these tests need root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    for line in std::fs::read_to_string("/proc/thread-self/mounts").unwrap().lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(place), Some(kind)) = (fields.next(), fields.next())
            && kind.starts_with("fuse.")
        {
            let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// Waits until `done`, or panics.
#[track_caller]
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Names in a directory, sorted.
pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
