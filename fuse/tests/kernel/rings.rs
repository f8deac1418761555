//! The same over io_uring.

use crate::mounted::{Mounted, wait_for};
use crate::{backing, directories, files, interrupts, robustness};
use mezzo_fuse::{Wanted, enable_io_uring};
use rustix::process::Signal;
use std::fs;
use std::sync::{Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

const SETTING: &str = "/sys/module/fuse/parameters/enable_uring";

/// Held for reading by tests that need the setting, for writing by the one that needs it off.
static SETTING_LOCK: RwLock<()> = RwLock::new(());

/// How many tests need the setting, and what it was before the first of them.
static USERS: Mutex<(usize, String)> = Mutex::new((0, String::new()));

/// While it lives, the kernel allows io_uring; after the last, it is as before.
struct Allowed(#[allow(dead_code)] RwLockReadGuard<'static, ()>);

impl Allowed {
    fn new() -> Allowed {
        let guard = SETTING_LOCK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut users = USERS.lock().unwrap();
        if users.0 == 0 {
            users.1 = fs::read_to_string(SETTING).unwrap();
            enable_io_uring().unwrap();
        }
        users.0 += 1;
        Allowed(guard)
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap();
        users.0 -= 1;
        if users.0 == 0 {
            fs::write(SETTING, &users.1).unwrap();
        }
    }
}

fn ring() -> Wanted {
    Wanted { io_uring: true, ..Wanted::default() }
}

fn check(test: impl FnOnce(Wanted)) {
    check_with(ring(), test);
}

fn check_with(wanted: Wanted, test: impl FnOnce(Wanted)) {
    let _allowed = Allowed::new();
    let mounted = Mounted::with(wanted.clone(), 1);
    assert_eq!(mounted.granted.io_uring, Ok(()));
    mounted.end().unwrap();
    test(wanted);
}

#[test]
fn data() {
    check(files::check_large_data);
}

#[test]
fn extended_attributes() {
    check(files::check_extended_attributes);
}

#[test]
fn listings() {
    check_with(Wanted { readdirplus_auto: false, ..ring() }, |wanted| {
        directories::check_listing(wanted, "Readdirplus");
    });
}

#[test]
fn passthrough() {
    check_with(Wanted { io_uring: true, ..backing::passthrough() }, backing::check_data);
}

#[test]
fn panics() {
    check(robustness::check_panics);
}

#[test]
fn later_answers() {
    check(robustness::check_later_answers);
}

#[test]
fn many_callers() {
    check(robustness::check_many_callers);
}

#[test]
fn many_callers_and_one_entry() {
    check_with(Wanted { ring_depth: 1, ..ring() }, robustness::check_many_callers);
}

#[test]
fn a_parked_request_s_caller_dies() {
    check(interrupts::check_parked);
}

#[test]
fn a_request_in_hand_learns_of_the_signal() {
    check(interrupts::check_in_hand);
}

#[test]
fn a_signal_at_any_moment_kills() {
    check_with(Wanted { ring_depth: 200, ..ring() }, interrupts::check_any_moment);
}

#[test]
fn harmless_signals() {
    check(interrupts::check_harmless_signals);
}

/// With all entries parked others wait; a parked request that is interrupted makes room.
#[test]
fn parked_requests_use_up_the_entries() {
    let _allowed = Allowed::new();
    let mounted = Mounted::with(Wanted { ring_depth: 2, ..ring() }, 1);
    fs::write(mounted.host("held"), "").unwrap();
    let children: Vec<_> = (0..8).map(|_| interrupts::reader(&mounted.path("held"))).collect();
    wait_for("the first opens", || mounted.filesystem.held() >= 2);
    std::thread::sleep(Duration::from_millis(50));
    assert!(mounted.filesystem.held() <= 2 * std::thread::available_parallelism().unwrap().get());
    for child in children {
        interrupts::time_to_die(child, Signal::KILL);
    }
    mounted.filesystem.let_go();
    assert!(mounted.path("held").exists());
    mounted.end().unwrap();
}

/// Requests that are parked when the connection ends are nobody's any more; answering them is harmless.
#[test]
fn the_end_with_parked_requests() {
    let _allowed = Allowed::new();
    let mounted = Mounted::with(ring(), 1);
    fs::write(mounted.host("held"), "").unwrap();
    let mut child = interrupts::reader(&mounted.path("held"));
    wait_for("the open", || mounted.filesystem.held() == 1);
    mounted.abort();
    assert!(!child.wait().unwrap().success());
    wait_for("the session's end", || mounted.has_ended());
    assert_eq!(mounted.filesystem.let_go(), 0);
}

#[test]
fn where_it_isn_t_allowed_the_device_is_used() {
    let _off = SETTING_LOCK.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = fs::read_to_string(SETTING).unwrap();
    fs::write(SETTING, "N").unwrap();
    let mounted = Mounted::with(ring(), 2);
    fs::write(SETTING, before).unwrap();
    let reason = mounted.granted.io_uring.clone().unwrap_err();
    assert!(reason.contains("enable_uring"), "{reason}");
    fs::write(mounted.path("a"), "by the device").unwrap();
    mounted.end().unwrap();
}
