//! Processes that run a part of a test: those that must have files, mappings and locks to themselves, and those that are
//! killed.
//!
//! They are made by fork alone, so that a test reads from top to bottom. Whatever descriptors the test's own process had open
//! are closed in them: other tests run there, and their files must close when they say.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open};
use rustix::time::Timespec;

use super::{PATIENCE, User};

/// A process that is running a part of a test. It is killed when this is dropped.
pub struct Process {
    pid: Pid,
    handle: OwnedFd,
    channel: UnixStream,
    report: std::io::PipeReader,
    waited: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// The other end of a conversation between a test and its process, a byte at a time.
pub struct Talk<'a>(&'a UnixStream);

impl Talk<'_> {
    /// Tells the other side to go on.
    #[track_caller]
    pub fn go_on(&self) {
        (&*self.0).write_all(&[1]).expect("the other side listens");
    }

    /// Whether the other side has said to go on, and nobody has waited for that yet.
    pub fn is_told(&self) -> bool {
        let mut said = [PollFd::new(self.0, PollFlags::IN)];
        poll(&mut said, Some(&Timespec::default())).unwrap() == 1
    }

    /// Waits until the other side says to go on.
    #[track_caller]
    pub fn wait(&self) {
        (&*self.0).read_exact(&mut [0]).expect("the other side says to go on");
    }
}

/// Runs `act` as `user` in a process of its own, and waits for it; panics where it does.
#[track_caller]
pub fn apart(user: User, act: impl FnOnce()) {
    Process::start(user, |_| act()).finish();
}

/// In a process that was forked for a test, where it reports its panic.
static REPORT: AtomicI32 = AtomicI32::new(-1);

impl Process {
    /// Runs `act` as `user` in a new process.
    pub fn start(user: User, act: impl FnOnce(&Talk<'_>)) -> Process {
        report_panics();
        let (channel, theirs) = UnixStream::pair().unwrap();
        channel.set_read_timeout(Some(PATIENCE)).unwrap();
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        let (report, panic) = std::io::pipe().unwrap();
        // SAFETY: the child is a copy of this thread alone; glibc keeps its allocator usable there, and everything else
        // that `act` does is system calls.
        match unsafe { libc::fork() } {
            0 => run(user, &theirs, &panic, act),
            pid => {
                let pid = Pid::from_raw(pid).expect("a process");
                let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
                Process { pid, handle, channel, report, waited: false }
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// To talk with it.
    pub fn talk(&self) -> Talk<'_> {
        Talk(&self.channel)
    }

    /// Whether it has said to go on, and nobody has waited for that yet.
    pub fn has_gone_on(&self) -> bool {
        self.talk().is_told()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).unwrap();
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub fn finish(self) {
        let (ended, said) = self.end();
        assert!(ended == Ended::Exited(0), "{ended:?}: {said}");
    }

    /// Waits for its end, whatever that is; returns what it panicked with, too.
    #[track_caller]
    pub fn end(mut self) -> (Ended, String) {
        let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        let found = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&timeout))).unwrap();
        assert!(found == 1, "the process did not end");
        let status = self.reap();
        let mut said = String::new();
        self.report.read_to_string(&mut said).unwrap();
        let ended = match status.exit_status() {
            Some(status) => Ended::Exited(status),
            None => Ended::Killed(status.terminating_signal().unwrap_or(0)),
        };
        (ended, said)
    }

    fn reap(&mut self) -> rustix::process::WaitStatus {
        self.waited = true;
        let waited =
            rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()));
        waited.unwrap().expect("it is this process's child").1
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.waited {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            self.reap();
        }
    }
}

fn run(user: User, channel: &UnixStream, report: &std::io::PipeWriter, act: impl FnOnce(&Talk<'_>)) -> ! {
    close_others(&[channel.as_raw_fd(), report.as_raw_fd()]);
    REPORT.store(report.as_raw_fd(), Ordering::Relaxed);
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
        // Where all else fails, nothing is left behind.
        // SAFETY: it takes a number.
        unsafe { libc::alarm(2 * PATIENCE.as_secs() as u32) };
        user.assume();
        // A process that took another identity is not told of in /proc to itself, unless it says so.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
        act(&Talk(channel));
    }));
    // SAFETY: nothing of the test's process is to be run at the end of this one.
    unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) }
}

/// Closes all descriptors but the first three and those in `kept`.
fn close_others(kept: &[i32]) {
    let (low, high) = (kept[0].min(kept[1]), kept[0].max(kept[1]));
    for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
        if first <= last {
            // SAFETY: this process goes on with what it opens itself.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// What a forked process panics with goes to its test.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match REPORT.load(Ordering::Relaxed) {
            -1 => usual(panic),
            report => {
                let said = panic.to_string();
                // SAFETY: the descriptor is open in this process, and the bytes are there.
                unsafe { libc::write(report, said.as_ptr().cast(), said.len()) };
            }
        }));
    });
}
