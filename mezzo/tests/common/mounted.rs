//! A mounted fileset that is checked when it is dropped.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mezzo_core::{Change, Recno, Record};
use mezzo_replica::log::Reader;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use tempfile::TempDir;

use super::{Host, PATIENCE, ROOT, SmallHost, apart, eventually};

/// A fresh fileset, mounted over itself.
///
/// When it is dropped it is unmounted; then the tree must be what the log says, and a replay of the log must give an equal
/// tree. Where the test panicked, its daemon is killed instead.
pub struct Mounted {
    area: TempDir,
    /// What is mounted for it alone, and the directory beside it where there is room.
    host: Option<SmallHost>,
    /// The fileset's directory below the mount.
    root: File,
    mountpoint: PathBuf,
    daemon: Option<Pid>,
}

/// The built program.
pub fn mezzo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mezzo"))
}

impl Mounted {
    /// An empty one, on ext4.
    pub fn new() -> Mounted {
        Mounted::on(Host::Ext4)
    }

    /// An empty one, on `host`.
    pub fn on(host: Host) -> Mounted {
        Mounted::with(host, |_| {})
    }

    /// One that `fill` has filled before it became a fileset.
    pub fn with(host: Host, fill: impl FnOnce(&Path)) -> Mounted {
        let mut fileset = Mounted::unmounted(host, fill);
        fileset.mount();
        fileset
    }

    /// One that is to be mounted yet, on a small file system of its own.
    pub fn on_small(host: SmallHost) -> Mounted {
        let mut fileset = Mounted::unmounted_in(&host.path(), |_| {});
        fileset.host = Some(host);
        fileset
    }

    /// One that is to be mounted yet.
    pub fn unmounted(host: Host, fill: impl FnOnce(&Path)) -> Mounted {
        Mounted::unmounted_in(host.enter(), fill)
    }

    fn unmounted_in(directory: &Path, fill: impl FnOnce(&Path)) -> Mounted {
        let area = TempDir::new_in(directory).unwrap();
        // Others may pass: the tests are about what they may do below.
        open_to_all(area.path());
        let tree = area.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        fill(&tree);
        succeeds(mezzo().arg("init").arg(&tree));
        Mounted { root: File::open(&tree).unwrap(), mountpoint: tree, area, host: None, daemon: None }
    }

    /// A copy of it as it is on the host, to be mounted yet.
    pub fn copy(&self) -> Mounted {
        let area = TempDir::new_in(self.area.path().parent().unwrap()).unwrap();
        open_to_all(area.path());
        let tree = area.path().join("tree");
        succeeds(Command::new("cp").arg("-a").arg(self.host_for_all()).arg(&tree));
        Mounted { root: File::open(&tree).unwrap(), mountpoint: tree, area, host: None, daemon: None }
    }

    /// The small file system that it is on.
    pub fn small_host(&self) -> &SmallHost {
        self.host.as_ref().expect("a small host")
    }

    /// Mounts the small file system that it is on anew.
    pub fn host_again(&mut self) {
        self.root = File::open("/").unwrap();
        self.small_host().mount_again();
        self.replaced();
    }

    /// Tells that its directory is another one now, at the same path.
    pub fn replaced(&mut self) {
        self.root = File::open(self.tree()).unwrap();
    }

    /// Mounts it over itself, and waits until tree and log have been compared. Returns what the command had to say, apart from
    /// this process's own descriptor of the directory.
    pub fn mount(&mut self) -> String {
        self.mount_with(&[])
    }

    /// The same, with more arguments.
    pub fn mount_with(&mut self, arguments: &[&str]) -> String {
        let tree = self.tree();
        let output = succeeds(mezzo().arg("mount").args(arguments).arg(&tree));
        self.mounted_at(&tree);
        let own = format!("process {} ", std::process::id());
        let said = String::from_utf8(output.stderr).unwrap();
        said.split_inclusive('\n').filter(|line| !line.contains(&own)).collect()
    }

    /// Tells that it was mounted there.
    pub fn mounted_at(&mut self, mountpoint: &Path) {
        self.mountpoint = mountpoint.to_owned();
        let pid = self.status()["pid"].as_i64().expect("a daemon's number");
        self.daemon = Pid::from_raw(pid as i32);
        eventually("the comparison of tree and log is done", || {
            self.status()["scan"].as_str().is_some_and(|scan| scan.starts_with("done"))
        });
    }

    /// What `mezzo status` tells.
    pub fn status(&self) -> serde_json::Value {
        let output = succeeds(mezzo().arg("status").arg("--json").arg(&self.mountpoint));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A path in the mount; the mount itself for an empty one.
    pub fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.mountpoint.clone() } else { self.mountpoint.join(path) }
    }

    /// The fileset's directory.
    pub fn tree(&self) -> PathBuf {
        self.area.path().join("tree")
    }

    /// The same path below the mount, as the host has it. For this process alone.
    pub fn host(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd())).join(path)
    }

    /// The fileset's directory below the mount, for any process.
    pub fn host_for_all(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd())).join(".")
    }

    /// A new directory beside the fileset, on the same host file system.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.area.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// The daemon that serves it.
    pub fn daemon(&self) -> Pid {
        self.daemon.expect("a daemon")
    }

    /// Does `act` in the mount and in a directory of the bare host file system, and tells what came of it: it must be the
    /// same.
    #[track_caller]
    pub fn alike<T: PartialEq + std::fmt::Debug>(&self, act: impl Fn(&Path) -> T) {
        let bare = self.beside("bare");
        let expected = act(&bare);
        assert_eq!(act(&self.mountpoint), expected, "in the mount, and on the bare host");
        std::fs::remove_dir_all(bare).unwrap();
    }

    /// All records.
    pub fn records(&self) -> Vec<Record> {
        self.records_since(Recno::NONE)
    }

    /// The number of the last record.
    pub fn last(&self) -> Recno {
        self.log().last().unwrap()
    }

    /// Records after `recno`. A digest is left out: it comes when there is time for it.
    pub fn records_since(&self, recno: Recno) -> Vec<Record> {
        let log = self.log();
        let records = log.from(recno.next()).map(Result::unwrap);
        records.filter(|record| !matches!(record.change, Change::Digest { .. })).collect()
    }

    /// What is recorded of `act`, which root does in a process of its own.
    #[track_caller]
    pub fn records_of(&self, act: impl FnOnce()) -> Vec<Record> {
        let last = self.last();
        apart(ROOT, act);
        self.records_since(last)
    }

    /// The words for what is recorded of `act`, which root does in a process of its own.
    #[track_caller]
    pub fn kinds_of(&self, act: impl FnOnce()) -> Vec<&'static str> {
        kinds(&self.records_of(act))
    }

    fn log(&self) -> Reader {
        Reader::open(&self.host(".mezzo/kml")).unwrap()
    }

    /// Unmounts it. Other tests' processes may have copies of this one's descriptors for a moment, so that it is asked for
    /// more than once.
    pub fn unmount(&mut self) {
        self.unmount_while(|| {});
    }

    /// Unmounts it, and calls `meanwhile` until the command returns.
    pub fn unmount_while(&mut self, mut meanwhile: impl FnMut()) {
        let start = Instant::now();
        loop {
            let mut command = mezzo();
            let mut unmount =
                command.arg("unmount").arg(&self.mountpoint).stderr(Stdio::piped()).spawn().unwrap();
            while unmount.try_wait().unwrap().is_none() {
                meanwhile();
                std::thread::sleep(Duration::from_millis(2));
            }
            let output = unmount.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                break;
            }
            assert!(said.contains("busy") && start.elapsed() < PATIENCE, "mezzo unmount: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemon = None;
        self.mountpoint = self.tree();
    }

    /// Waits for the end of the daemon, which something else has seen to.
    pub fn daemon_ends(&mut self) {
        let daemon = self.daemon.take().expect("a daemon");
        // Also one whose end its parent has not taken yet is gone.
        if let Ok(daemon) = rustix::process::pidfd_open(daemon, PidfdFlags::empty()) {
            let mut end = [PollFd::new(&daemon, PollFlags::IN)];
            let patience = Timespec::try_from(PATIENCE).unwrap();
            assert_eq!(
                rustix::event::poll(&mut end, Some(&patience)),
                Ok(1),
                "waited too long: the daemon is gone"
            );
        }
        self.mountpoint = self.tree();
    }

    /// Kills the daemon, as a crash would.
    pub fn kill_daemon(&mut self) {
        rustix::process::kill_process(self.daemon(), Signal::KILL).unwrap();
        self.daemon_ends();
    }

    /// Tree and log agree, and a replay gives an equal tree.
    pub fn check(&self) {
        succeeds(mezzo().arg("verify").arg(self.tree()));
        let onto = match &self.host {
            Some(host) => host.beside().join("replayed"),
            None => self.area.path().join("replayed"),
        };
        std::fs::create_dir(&onto).unwrap();
        succeeds(mezzo().arg("replay").arg(self.tree()).arg("--onto").arg(&onto));
        let mut differences = Vec::new();
        let mut note = |finding| {
            if let mezzo_compare::Finding::Difference(difference) = finding {
                differences.push(difference.to_string());
            }
        };
        mezzo_compare::compare(&self.tree(), &onto, &mezzo_compare::Options::default(), &mut note).unwrap();
        assert!(
            differences.is_empty(),
            "the tree, and what its log gives, differ:\n{}",
            differences.join("\n")
        );
        remove_all(&onto);
    }

    fn abandon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let _ = rustix::process::kill_process(daemon, Signal::KILL);
        }
        let _ = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH);
        self.tell_daemon_log();
    }

    /// For people who look at a failure.
    fn tell_daemon_log(&self) {
        if let Ok(told) = std::fs::read_to_string(self.host(".mezzo/daemon.log")) {
            eprintln!("the daemon said: {told}");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.abandon();
        }
        if self.daemon.is_some() {
            self.unmount();
        }
        self.tell_daemon_log();
        self.check();
        remove_all(&self.tree());
    }
}

/// The words for what records did.
pub fn kinds(records: &[Record]) -> Vec<&'static str> {
    records.iter().map(|record| record.change.kind()).collect()
}

/// Runs a command, which must succeed.
#[track_caller]
pub fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, said.0, said.1);
    output
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Also what is deeper than a path can be, and what is marked as not to be removed.
fn remove_all(path: &Path) {
    succeeds(Command::new("rm").arg("-rf").arg("--").arg(path));
}
