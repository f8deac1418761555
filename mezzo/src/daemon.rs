//! This program again, in the background: started, and waited for until it is ready.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use clap::Args;
use mezzo_replica::Replica;

use crate::{Ending, Failure};

/// What a daemon tells when it serves; anything else is why it doesn't.
const READY: &str = "ready\n";

/// Arguments of commands that go on in the background.
#[derive(Debug, Args)]
pub struct Background {
    /// Stay, and serve until it is ended
    #[arg(long)]
    pub foreground: bool,
    /// Say so on this descriptor when ready, and serve
    #[arg(long, hide = true, requires = "foreground")]
    ready_fd: Option<i32>,
}

/// Who waits for the daemon to be ready.
#[derive(Debug)]
pub struct Waiting(Option<std::fs::File>);

impl Background {
    /// Who waits for this process, if anybody.
    pub fn waiting(&self) -> Waiting {
        Waiting(self.ready_fd.map(|fd| {
            // SAFETY: `start` passed this descriptor on for this use alone.
            std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) })
        }))
    }
}

impl Waiting {
    /// It could not begin; who waits is told why, and says so.
    pub fn failed(self, failure: Failure) -> Failure {
        match (failure, self.0) {
            (Failure::Failed(message), Some(mut ready)) => match ready.write_all(message.as_bytes()) {
                Ok(()) => Failure::Told,
                Err(_) => Failure::Failed(message),
            },
            (failure, _) => failure,
        }
    }

    /// It serves. What it has to say from now on goes to the log of the first of `replicas`.
    pub fn ready(self, notes: &str, replica: &Replica) -> Ending {
        match self.0 {
            Some(mut ready) => {
                let path = replica.fileset().own_path("daemon.log");
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
                rustix::stdio::dup2_stderr(&file)?;
                Ok(ready.write_all(format!("{notes}{READY}").as_bytes())?)
            }
            None => {
                eprint!("{notes}");
                Ok(())
            }
        }
    }
}

/// Starts this program again as `command` with `arguments`, in a session of its own, and waits until it is ready.
pub fn start(command: &str, arguments: &[OsString]) -> Ending {
    let (mut ready, told) = std::io::pipe()?;
    let mut daemon = Command::new(std::env::current_exe()?);
    daemon
        .arg(command)
        .arg("--foreground")
        .arg("--ready-fd")
        .arg(told.as_raw_fd().to_string())
        .args(arguments);
    daemon.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: these calls are allowed between fork and exec.
    unsafe {
        daemon.pre_exec(move || {
            libc::setsid();
            // What the caller has open is not the daemon's: a file of the tree would never be closed.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            libc::fcntl(told.as_raw_fd(), libc::F_SETFD, 0);
            Ok(())
        });
    }
    let process = daemon.spawn()?;
    // The daemon has the other end; this process's own would keep the pipe open.
    drop(daemon);
    let mut answer = String::new();
    ready.read_to_string(&mut answer)?;
    match answer.strip_suffix(READY) {
        Some(notes) => {
            eprint!("{notes}");
            Ok(())
        }
        None if answer.is_empty() => {
            Err(Failure::Failed(format!("the daemon, process {}, ended before it was ready", process.id())))
        }
        None => Err(Failure::Failed(answer.trim_end().to_owned())),
    }
}

/// The limits of whoever starts it are not the daemon's: a log may be larger than any file of theirs. Where the limit can't be
/// raised, a write beyond it is to fail and not to kill; and so is one to a peer that has gone.
pub fn outlive_limits() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None });
    // SAFETY: no handler is set, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    outlive_peers();
}

/// A write to a connection whose other end has gone fails, and does not end this program.
pub fn outlive_peers() {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
