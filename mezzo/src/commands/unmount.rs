//! `mezzo unmount`: a fileset is served no more.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::control::{Answer, Request};
use crate::{Ending, Failure, find};

/// How long the daemon may take to put everything on disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `mezzo unmount`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where it is mounted
    directory: PathBuf,
    /// Let go as soon as nobody uses it any more, where it is in use now
    #[arg(long)]
    lazy: bool,
}

/// Runs it. Returns when everything is on disk.
pub fn run(arguments: Arguments) -> Ending {
    let path = std::path::absolute(&arguments.directory)?;
    let shown = arguments.directory.display();
    let Some(mount) = find::mounted_over(&path)? else {
        return Err(Failure::Failed(format!("{shown} is not a mounted fileset, nor in one")));
    };
    if find::resolved(&path) != mount.mountpoint {
        let mountpoint = mount.mountpoint.display();
        return Err(Failure::Failed(format!(
            "{shown} is not a mounted fileset, but in one: that is at {mountpoint}"
        )));
    }
    let daemon = find::connect(&mount).ok().and_then(|mut client| match client.ask(&Request::Status) {
        Ok((Answer::Status(status), _)) => Some(status.pid),
        _ => None,
    });
    mezzo_mount::unmount(&mount.mountpoint, arguments.lazy).map_err(|error| {
        // fusermount3 tells it in words.
        let busy = error.kind() == std::io::ErrorKind::ResourceBusy || error.to_string().contains("busy");
        let hint = if busy {
            ": somebody has files open there, or stands there (--lazy lets go when they are done)"
        } else {
            ""
        };
        Failure::Failed(format!("{error}{hint}"))
    })?;
    match daemon {
        Some(pid) if !arguments.lazy => wait_for_end(pid),
        _ => Ok(()),
    }
}

pub(super) fn wait_for_end(pid: u32) -> Ending {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    let daemon = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(daemon) => daemon,
        // It has ended.
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let until = Instant::now() + PATIENCE;
    let mut ended = [rustix::event::PollFd::new(&daemon, rustix::event::PollFlags::IN)];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut ended, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => {
                return Err(Failure::Failed(format!(
                    "it is unmounted, but its daemon {pid} has not ended after {PATIENCE:?}",
                    pid = pid.as_raw_nonzero()
                )));
            }
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
