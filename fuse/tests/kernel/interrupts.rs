//! Processes that wait for us can be killed.

use crate::mounted::{Mounted, wait_for};
use mezzo_fuse::Wanted;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

pub fn reader(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Signals a child of ours; yields how long it lived on.
#[track_caller]
pub fn time_to_die(mut child: Child, signal: Signal) -> Duration {
    let start = Instant::now();
    kill_process(Pid::from_child(&child), signal).unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "a process can't be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn check_parked(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    fs::write(mounted.host("held"), "").unwrap();
    for (count, signal) in [(1, Signal::KILL), (2, Signal::TERM), (3, Signal::INT)] {
        let child = reader(&mounted.path("held"));
        wait_for("the open", || mounted.filesystem.held() == count);
        assert!(time_to_die(child, signal) < Duration::from_secs(1));
    }
    assert_eq!(mounted.filesystem.let_go(), 3, "each knows that it was interrupted");
    mounted.end().unwrap();
}

#[test]
fn a_parked_request_s_caller_dies_at_once() {
    check_parked(Wanted::default());
}

pub fn check_in_hand(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    fs::write(mounted.host("stubborn"), "").unwrap();
    let child = reader(&mounted.path("stubborn"));
    wait_for("the open", || mounted.filesystem.stubborn.load(SeqCst) == 1);
    assert!(time_to_die(child, Signal::KILL) < Duration::from_secs(1));
}

#[test]
fn a_request_in_hand_learns_of_the_signal() {
    check_in_hand(Wanted::default());
}

/// Signals at all moments of a request's life: before it, as it is handed out, while it is parked.
pub fn check_any_moment(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 3);
    for number in 0..150u64 {
        let name = format!("held {number}");
        fs::write(mounted.host(&name), "").unwrap();
        let child = reader(&mounted.path(&name));
        std::thread::sleep(Duration::from_micros(number * 37 % 2500));
        time_to_die(child, Signal::KILL);
    }
    mounted.filesystem.let_go();
    mounted.end().unwrap();
}

#[test]
fn a_signal_at_any_moment_kills() {
    check_any_moment(Wanted::default());
}

/// A signal that the caller survives gives EINTR, and the answer that comes later is dropped.
#[test]
fn a_waiting_lock_is_given_up() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "").unwrap();
    let file = fs::File::open(mounted.path("a")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let child = Command::new("flock").arg(mounted.path("a")).arg("true").spawn().unwrap();
    wait_for("the waiting lock", || mounted.filesystem.count("Setlkw") == 2);
    assert!(time_to_die(child, Signal::TERM) < Duration::from_secs(1));
    rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).unwrap();
    assert!(Command::new("flock").arg("-n").arg(mounted.path("a")).arg("true").status().unwrap().success());
}

/// Opens a file while a harmless signal comes.
fn open_with_signal(mounted: &Mounted, name: &str) -> rustix::io::Result<OwnedFd> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = nothing as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing, and no other test uses this signal.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let path = mounted.path(name);
    let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let opener = std::thread::spawn(move || rustix::fs::open(path, flags, mode));
    wait_for("the open", || mounted.filesystem.held() == 1);
    // SAFETY: the thread lives, as it waits for the open.
    unsafe { libc::pthread_kill(opener.as_pthread_t(), libc::SIGUSR1) };
    std::thread::sleep(Duration::from_millis(300));
    let interrupted = mounted.filesystem.let_go();
    let result = opener.join().unwrap();
    assert_eq!(interrupted == 1, matches!(result, Err(rustix::io::Errno::INTR)));
    result
}

pub fn check_harmless_signals(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    for name in ["held", "firm"] {
        fs::write(mounted.host(name), "").unwrap();
    }
    assert_eq!(open_with_signal(&mounted, "held").unwrap_err(), rustix::io::Errno::INTR);
    assert_eq!(open_with_signal(&mounted, "firm").unwrap_err(), rustix::io::Errno::IO, "the tardy answer");
    let child = Command::new("bash")
        .args(["-c", "trap : USR1; exec 3< $0"])
        .arg(mounted.path("firm"))
        .spawn()
        .unwrap();
    wait_for("the open", || mounted.filesystem.held() == 1);
    for _ in 0..3 {
        kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    assert!(time_to_die(child, Signal::KILL) < Duration::from_secs(1));
    assert_eq!(mounted.filesystem.let_go(), 1);
    mounted.end().unwrap();
}

#[test]
fn harmless_signals_end_only_what_any_signal_ends() {
    check_harmless_signals(Wanted::default());
}
