//! What is changed behind the mount: looked at a few times a second, taken in, and told to the kernel, which may have cached
//! what was before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mezzo_replica::{Told, Watch};
use parking_lot::Mutex;

use crate::audience::Users;

/// How often it is looked for events. Each look at an empty queue is one system call; a wakeup for each event would cost
/// users of the mount as much as their own requests do.
const EVERY: Duration = Duration::from_millis(200);

/// How soon after a look that found some: whoever adds an event compares it with those that wait, so that a long queue costs
/// users more.
const SOON: Duration = Duration::from_millis(20);

/// What is known of changes behind the mount.
#[derive(Debug, Default)]
pub struct Behind {
    /// Why there is no watch, if so.
    without: Mutex<Option<String>>,
    records: AtomicU64,
    missed: AtomicU64,
}

impl Behind {
    pub(crate) fn new(without: Option<String>) -> Behind {
        Behind { without: Mutex::new(without), ..Behind::default() }
    }

    /// Why the host's file system is not watched, if so.
    pub fn without(&self) -> Option<String> {
        self.without.lock().clone()
    }

    /// Records that were made while the watch's events were looked at.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// How often the watch lost events.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// The thread that looks.
pub(crate) struct Look {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

struct Looker {
    users: Users,
    watch: Option<Watch>,
    behind: Arc<Behind>,
    missed: Box<dyn Fn() + Send>,
    stopped: Receiver<()>,
}

impl Look {
    /// Looks until it is stopped. `missed` is called when events were lost, or there will be no more.
    pub fn start(
        users: Users,
        watch: Option<Watch>,
        behind: Arc<Behind>,
        missed: Box<dyn Fn() + Send>,
    ) -> Look {
        // From now on it is gathered what the kernel has to be told.
        users.filter.replica.outdated();
        let (stop, stopped) = channel();
        let mut looker = Looker { users, watch, behind, missed, stopped };
        let thread = std::thread::Builder::new().name("behind".to_owned());
        let thread = thread.spawn(move || {
            let mut wait = EVERY;
            while let Err(RecvTimeoutError::Timeout) = looker.stopped.recv_timeout(wait) {
                wait = if looker.look() { SOON } else { EVERY };
                looker.tell(looker.users.filter.replica.outdated());
            }
            // What was done behind the mount until its end.
            looker.look();
        });
        Look { stop, thread: thread.expect("a thread can be started") }
    }

    /// Looks once more, and ends.
    pub fn stop(self) {
        drop(self.stop);
        // The thread may have ended by a panic, which it has told of.
        let _ = self.thread.join();
    }
}

impl Looker {
    /// Whether there was anything.
    fn look(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        let stopped = &self.stopped;
        let mut go_on = || matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
        match self.users.filter.replica.take_in_watched(watch, &mut go_on) {
            Ok(noticed) => {
                self.behind.records.fetch_add(noticed.records, Ordering::Relaxed);
                if noticed.missed {
                    self.behind.missed.fetch_add(1, Ordering::Relaxed);
                    (self.missed)();
                }
                noticed.all > 0
            }
            Err(error) => {
                mezzo_replica::say!("mezzo: the watch on the host's file system ends: {error}");
                self.watch = None;
                *self.behind.without.lock() = Some(format!("it failed: {error}"));
                (self.missed)();
                false
            }
        }
    }

    /// Tells the kernel what it must ask for again.
    fn tell(&self, told: Told) {
        if told.all {
            self.users.look_everywhere_again();
        }
        told.names.iter().for_each(|place| self.users.look_again(place));
        told.objects.iter().for_each(|object| self.users.ask_again(*object));
    }
}
