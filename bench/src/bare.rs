//! Calls of one kind, many times, in one directory: what another replica's records come from, and the bare loop that taking them
//! in is told against.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Calls {
    /// Files with 1 KiB.
    Create,
    /// Another mode for each.
    Setattr,
    /// Another name for each.
    Rename,
    /// Each is removed.
    Unlink,
}

/// Does `count` calls in `directory`, `passes` times over, syncs its file system after each `batch` of them, unless that is 0, and returns seconds.
/// The kinds work on what those before them, in their order, have left.
pub fn run(calls: Calls, directory: &Path, (count, passes): (usize, usize), batch: usize) -> f64 {
    let directory_fd =
        rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let names = |prefix: &str| -> Vec<PathBuf> {
        (0..count).map(|at| directory.join(format!("{prefix}{at:06}"))).collect()
    };
    let (first, second) = (names("f"), names("g"));
    let begun = Instant::now();
    for at in 0..count * passes {
        one(calls, &first[at % count], &second[at % count], at / count);
        if batch > 0 && (at + 1) % batch == 0 {
            sync(&directory_fd);
        }
    }
    if batch > 0 {
        sync(&directory_fd);
    }
    begun.elapsed().as_secs_f64()
}

fn one(calls: Calls, first: &Path, second: &Path, pass: usize) {
    match calls {
        Calls::Create => {
            let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            let file = rustix::fs::open(first, create, Mode::from_raw_mode(0o644)).unwrap();
            assert_eq!(rustix::io::write(&file, &[7; 1024]), Ok(1024));
        }
        Calls::Setattr => {
            let mode = Mode::from_raw_mode([0o600, 0o640][pass % 2]);
            rustix::fs::chmodat(CWD, first, mode, AtFlags::empty()).unwrap();
        }
        Calls::Rename => rustix::fs::rename(first, second).unwrap(),
        Calls::Unlink => rustix::fs::unlink(second).unwrap(),
    }
}

fn sync(directory: &OwnedFd) {
    rustix::fs::syncfs(directory).unwrap();
}
