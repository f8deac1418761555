//! What of a host is no file and no directory: its clocks, its random numbers, its numbers of processes, and that a whole file
//! system is made durable. A
//! simulated host, which is a file system only, gives these in its own way.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use mezzo_core::Time;
use rustix::time::ClockId;

/// What a simulated host gives in place of the kernel. One process has one host.
#[derive(Clone, Copy, Debug)]
pub struct StandIn {
    /// The time: later than every time that the host gave before.
    pub now: fn() -> Time,
    /// The number of this process.
    pub process: u32,
    /// Fills in random bytes.
    pub random: fn(&mut [u8]),
    /// Called once the kernel has brought to the host what it had of the file system that the descriptor is on: makes all of it
    /// durable.
    pub sync: fn(BorrowedFd<'_>) -> io::Result<()>,
}

static STAND_IN: OnceLock<StandIn> = OnceLock::new();

impl StandIn {
    /// Takes the kernel's place in this process from now on. Called before anything else is done here; does nothing where there
    /// is one already.
    pub fn install(self) {
        let _ = STAND_IN.set(self);
    }
}

/// The host's clock.
pub(crate) fn now() -> Time {
    STAND_IN.get().map_or_else(|| read_clock(ClockId::Realtime), |host| (host.now)())
}

/// A time that nothing which is changed on the host from now on is older than: its times are as coarse as this.
pub(crate) fn host_now() -> Time {
    STAND_IN.get().map_or_else(|| read_clock(ClockId::RealtimeCoarse), |host| (host.now)())
}

fn read_clock(clock: ClockId) -> Time {
    let now = rustix::time::clock_gettime(clock);
    Time::new(now.tv_sec, now.tv_nsec as u32)
}

/// The number of this process.
pub(crate) fn process() -> u32 {
    STAND_IN.get().map_or_else(std::process::id, |host| host.process)
}

/// Fills in random bytes.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    match STAND_IN.get() {
        Some(host) => (host.random)(bytes),
        None => std::fs::File::open("/dev/urandom")?.read_exact(bytes)?,
    }
    Ok(())
}

/// Makes everything durable that the file system has which `fd` is on.
pub(crate) fn sync_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::syncfs(fd)?;
    STAND_IN.get().map_or(Ok(()), |host| (host.sync)(fd))
}
