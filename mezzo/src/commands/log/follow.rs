//! A log while it grows.

use std::convert::Infallible;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use mezzo_core::Record;
use mezzo_replica::log::Reader;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::filter::Filter;
use super::newest;
use super::printer::Printer;
use crate::{Ending, Failure};

/// How often a log is looked at that can't be watched.
const UNWATCHED: Duration = Duration::from_millis(100);

/// How often it is looked at all the same where it is watched: a host that is shared with other machines does not tell of
/// what they write.
const WATCHED: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Prints the newest `before` records that pass, oldest first, and then what comes. `wait` returns when there may be
/// more; an error of it, of the log or of the output ends this, and nothing else does.
pub fn follow(
    reader: &Reader,
    filter: &Filter,
    before: usize,
    printer: &mut Printer<impl Write>,
    mut wait: impl FnMut() -> io::Result<()>,
) -> Result<Infallible, Failure> {
    let last = reader.last()?;
    let past: Vec<Record> = newest(reader, last, filter).take(before).collect::<Result<_, _>>()?;
    past.iter().rev().try_for_each(|record| printer.print(record))?;
    let mut coming = reader.from(last.next());
    loop {
        // It ends where nothing more is there yet, and goes on later.
        let printed = coming.by_ref().try_for_each(|record| print_passing(&record?, filter, printer));
        printer.flush()?;
        printed?;
        wait()?;
    }
}

fn print_passing(record: &Record, filter: &Filter, printer: &mut Printer<impl Write>) -> Ending {
    if filter.passes(record) {
        printer.print(record)?;
    }
    Ok(())
}

/// Tells when a log may have grown.
#[derive(Debug)]
pub struct Growth {
    /// `None` where the host or a limit does not allow it.
    watch: Option<OwnedFd>,
}

impl Growth {
    /// Watches the log in directory `kml` from now on.
    pub fn watch(kml: &Path) -> io::Result<Growth> {
        match watch(kml) {
            Ok(watch) => Ok(Growth { watch: Some(watch) }),
            // Each user may have so many watches, and a kernel may be built without.
            Err(Errno::MFILE | Errno::NOSPC | Errno::NOSYS) => Ok(Growth { watch: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the log has grown since the last time, and sometimes without a reason.
    pub fn wait(&mut self) -> io::Result<()> {
        let Some(watch) = &self.watch else {
            std::thread::sleep(UNWATCHED);
            return Ok(());
        };
        match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&WATCHED)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => forget_events(watch),
            Err(error) => Err(error.into()),
        }
    }
}

fn watch(kml: &Path) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // New segments get their names by renaming.
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, kml, flags)?;
    Ok(watch)
}

/// That there were some is all one has to know. Equal ones in a row are one event to the kernel, so they are few.
fn forget_events(watch: &OwnedFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        match rustix::io::read(watch, &mut buffer) {
            Err(Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use mezzo_core::{Change, Recno};
    use mezzo_replica::log::Log;

    use super::*;
    use crate::render::{View, samples};

    fn log(records: u64) -> (tempfile::TempDir, Log) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path(), [1; 16], samples::HERE, 1).unwrap();
        append(&log, 1..=records);
        (directory, log)
    }

    fn append(log: &Log, recnos: std::ops::RangeInclusive<u64>) {
        recnos.for_each(|recno| log.append(&samples::record(recno, Change::Noop)).unwrap());
    }

    fn numbers(json_lines: &[u8]) -> Vec<u64> {
        let lines = std::str::from_utf8(json_lines).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|record| record["recno"].as_u64().unwrap()).collect()
    }

    /// Follows a log that has `records` at first, and to which `steps` are added one after the other.
    fn check(records: u64, before: usize, steps: &[u64], expected: &[u64]) {
        let (directory, log) = log(records);
        let reader = Reader::open(directory.path()).unwrap();
        let mut growth = Growth::watch(directory.path()).unwrap();
        let mut out = Vec::new();
        let mut printer = Printer::new(View::new(TimeZone::UTC, samples::HERE), true, &mut out);
        let mut steps = steps.iter();
        let ended = follow(&reader, &Filter::default(), before, &mut printer, || {
            let more = steps.next().ok_or(io::ErrorKind::Interrupted)?;
            let next = log.next_recno().0;
            append(&log, next..=next + more - 1);
            growth.wait()
        });
        assert!(matches!(ended, Err(Failure::Failed(_))));
        assert_eq!(numbers(&out), expected);
    }

    #[test]
    fn what_comes_is_printed_behind_what_there_is() {
        check(5, 3, &[], &[3, 4, 5]);
        check(5, 10, &[1, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(5, 0, &[1], &[6]);
        check(0, 10, &[1, 1], &[1, 2]);
    }

    #[test]
    fn a_torn_record_is_waited_for() {
        let (directory, log) = log(2);
        let whole = std::fs::read(segment(directory.path())).unwrap();
        append(&log, 3..=3);
        let grown = std::fs::read(segment(directory.path())).unwrap();
        let torn = whole.len() + (grown.len() - whole.len()) / 2;
        std::fs::write(segment(directory.path()), &grown[..torn]).unwrap();
        let reader = Reader::open(directory.path()).unwrap();
        let mut out = Vec::new();
        let mut printer = Printer::new(View::new(TimeZone::UTC, samples::HERE), true, &mut out);
        let mut waits = 0;
        let ended = follow(&reader, &Filter::default(), 10, &mut printer, || {
            waits += 1;
            match waits {
                1 => Ok(()),
                2 => std::fs::write(segment(directory.path()), &grown),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        });
        assert!(matches!(ended, Err(Failure::Failed(_))));
        assert_eq!(numbers(&out), [1, 2, 3]);
    }

    #[test]
    fn growth_is_told_of_at_once() {
        let (directory, log) = log(1);
        let mut growth = Growth::watch(directory.path()).unwrap();
        let begun = std::time::Instant::now();
        append(&log, 2..=2);
        growth.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_millis(900));
        assert_eq!(log.last(), Recno(2));
    }

    fn segment(directory: &Path) -> std::path::PathBuf {
        std::fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
    }
}
