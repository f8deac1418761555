//! Locks among the processes of one machine, which the kernel keeps.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::common::{Mounted, Process, ROOT, apart, errno, eventually};

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A POSIX lock on bytes of a file, as fcntl(2) takes it.
fn lock(file: &File, command: i32, kind: i32, start: i64, length: i64) -> i32 {
    // SAFETY: all zeros are a lock; the descriptor is open, and the call reads and writes the lock alone.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as i16;
        lock.l_whence = libc::SEEK_SET as i16;
        lock.l_start = start;
        lock.l_len = length;
        match libc::fcntl(file.as_raw_fd(), command, &mut lock) {
            0 => 0,
            _ => std::io::Error::last_os_error().raw_os_error().unwrap(),
        }
    }
}

/// Who holds a lock that conflicts with an exclusive one on the whole file; 0 for nobody.
fn holder(file: &File) -> i32 {
    // SAFETY: as in `lock`.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as i16;
        assert_eq!(libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock), 0);
        if lock.l_type == libc::F_UNLCK as i16 { 0 } else { lock.l_pid }
    }
}

#[test]
fn flock_is_between_processes() {
    let m = Mounted::new();
    let path = m.path("f");
    let holder = Process::start(ROOT, |talk| {
        let file = open(&path);
        flock(&file, FlockOperation::LockShared).unwrap();
        talk.go_on();
        talk.wait();
    });
    holder.talk().wait();
    apart(ROOT, || {
        let file = open(&path);
        flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
        assert_eq!(errno(flock(&file, FlockOperation::NonBlockingLockExclusive)), libc::EAGAIN);
    });
    let waiter = Process::start(ROOT, |talk| {
        let file = open(&path);
        talk.go_on();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        talk.go_on();
    });
    waiter.talk().wait();
    holder.talk().go_on();
    holder.finish();
    waiter.talk().wait();
    waiter.finish();
}

#[test]
fn posix_locks_are_on_ranges_and_between_processes() {
    let m = Mounted::new();
    let path = m.path("f");
    let locker = Process::start(ROOT, |talk| {
        let file = open(&path);
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 100, 100), 0);
        talk.go_on();
        talk.wait();
    });
    locker.talk().wait();
    let pid = locker.pid() as i32;
    apart(ROOT, || {
        let file = open(&path);
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 100), 0);
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_RDLCK, 200, 0), 0);
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_RDLCK, 199, 1), libc::EAGAIN);
        assert_eq!(holder(&file), pid);
    });
    locker.talk().go_on();
    locker.finish();
    assert_eq!(holder(&open(&path)), 0, "its end lets go");
}

#[test]
fn a_process_that_waits_for_a_lock_gets_it() {
    let m = Mounted::new();
    let path = m.path("f");
    let first = open(&path);
    assert_eq!(lock(&first, libc::F_SETLK, libc::F_WRLCK, 0, 0), 0);
    let waiter = Process::start(ROOT, |talk| {
        let file = open(&path);
        talk.go_on();
        assert_eq!(lock(&file, libc::F_SETLKW, libc::F_WRLCK, 0, 0), 0);
    });
    waiter.talk().wait();
    assert_eq!(lock(&first, libc::F_SETLK, libc::F_UNLCK, 0, 0), 0);
    waiter.finish();
}

extern "C" fn on_signal(_: i32) {}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let m = Mounted::new();
    let path = m.path("f");
    let first = open(&path);
    assert_eq!(lock(&first, libc::F_SETLK, libc::F_WRLCK, 0, 0), 0);
    let waiter = Process::start(ROOT, |talk| {
        // SAFETY: all zeros are an action without flags, so that the call is not begun again; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        }
        let file = open(&path);
        talk.go_on();
        assert_eq!(lock(&file, libc::F_SETLKW, libc::F_WRLCK, 0, 0), libc::EINTR);
        talk.go_on();
    });
    waiter.talk().wait();
    // A signal that comes before the wait would be lost: so until it has come through.
    eventually("it is interrupted", || {
        waiter.signal(Signal::USR1);
        waiter.has_gone_on()
    });
    waiter.finish();
}

#[test]
fn a_killed_waiter_is_gone() {
    let m = Mounted::new();
    let path = m.path("f");
    let first = open(&path);
    flock(&first, FlockOperation::LockExclusive).unwrap();
    let waiter = Process::start(ROOT, |talk| {
        let file = open(&path);
        talk.go_on();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        unreachable!("it was never let go");
    });
    waiter.talk().wait();
    waiter.signal(Signal::KILL);
    assert_eq!(waiter.end().0, crate::common::Ended::Killed(Signal::KILL.as_raw()));
    flock(&first, FlockOperation::Unlock).unwrap();
    flock(open(&path), FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn locks_belong_to_the_object_whatever_its_name() {
    let m = Mounted::new();
    let first = open(&m.path("f"));
    std::fs::hard_link(m.path("f"), m.path("g")).unwrap();
    flock(&first, FlockOperation::LockExclusive).unwrap();
    assert_eq!(errno(flock(open(&m.path("g")), FlockOperation::NonBlockingLockShared)), libc::EAGAIN);
    std::fs::rename(m.path("f"), m.path("h")).unwrap();
    assert_eq!(errno(flock(open(&m.path("h")), FlockOperation::NonBlockingLockShared)), libc::EAGAIN);
    // A lock of the open file, of which there are two here.
    const F_OFD_SETLK: i32 = 37;
    let (a, b) = (open(&m.path("g")), open(&m.path("g")));
    assert_eq!(lock(&a, F_OFD_SETLK, libc::F_WRLCK, 0, 1), 0);
    assert_eq!(lock(&b, F_OFD_SETLK, libc::F_WRLCK, 0, 1), libc::EAGAIN);
}

#[test]
fn locking_makes_no_record() {
    let m = Mounted::new();
    drop(open(&m.path("f")));
    let kinds = m.kinds_of(|| {
        let file = open(&m.path("f"));
        flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock(&file, libc::F_SETLK, libc::F_WRLCK, 0, 0), 0);
    });
    assert_eq!(kinds, [""; 0]);
}
