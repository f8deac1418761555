//! The comparison of the whole tree with the log, in the background of a mount: what was changed while nobody looked is taken
//! in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mezzo_replica::Replica;
use parking_lot::Mutex;

/// How often the tree is compared where nothing tells of changes behind the mount. It takes some seconds of one processor for
/// a million objects.
const UNWATCHED: Duration = Duration::from_secs(600);

/// How the comparison is going, for people.
pub type Progress = Arc<Mutex<String>>;

/// The thread that compares.
pub struct Comparison {
    again: Sender<()>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Comparison {
    /// Compares now, and whenever it is asked to; from time to time too, while `unwatched` says so.
    pub fn start(
        replica: Arc<Replica>,
        told: Progress,
        unwatched: impl Fn() -> bool + Send + 'static,
    ) -> Comparison {
        let stop = Arc::new(AtomicBool::new(false));
        let (again, asked) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            loop {
                compare(&replica, &told, &stopped);
                if !wait(&asked, &unwatched) {
                    return;
                }
            }
        });
        Comparison { again, stop, thread }
    }

    /// A way to ask for one more.
    pub fn asking(&self) -> Sender<()> {
        self.again.clone()
    }

    /// Ends it where it is. Others who may ask must have let go.
    pub fn stop(self) -> std::thread::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.again);
        self.thread.join()
    }
}

/// Waits for the next one to be due; false at the end.
fn wait(asked: &Receiver<()>, unwatched: &impl Fn() -> bool) -> bool {
    loop {
        match asked.recv_timeout(UNWATCHED) {
            Ok(()) => {
                // One comparison answers all who asked before it.
                while asked.try_recv().is_ok() {}
                return true;
            }
            Err(RecvTimeoutError::Timeout) if unwatched() => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn compare(replica: &Replica, told: &Progress, stop: &AtomicBool) {
    let scanned = replica.take_in(&mut |seen| {
        *told.lock() = format!("{seen} objects seen");
        !stop.load(Ordering::Relaxed)
    });
    *told.lock() = match scanned {
        Ok(taken) => format!("done: {} objects seen, {} records made", taken.seen, taken.records),
        Err(error) => format!("failed: {error}"),
    };
}
