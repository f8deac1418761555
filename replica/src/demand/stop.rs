//! Telling a fetch that nobody waits for it any more.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Says when a fetch is to stop, once and for all.
#[derive(Default)]
pub struct Stop {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    is_stopped: bool,
    calls: Vec<Box<dyn FnOnce() + Send>>,
}

impl Stop {
    /// Whether it is to stop.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().is_stopped
    }

    /// Waits for that, at most so long; tells whether it is to stop.
    pub fn wait(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut state = self.state.lock();
        while !state.is_stopped && !self.stopped.wait_until(&mut state, until).timed_out() {}
        state.is_stopped
    }

    /// Has `call` called when it is to stop: at once where it is already, on the thread that says so.
    pub fn when_stopped(&self, call: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        if !state.is_stopped {
            state.calls.push(Box::new(call));
            return;
        }
        drop(state);
        call();
    }

    /// Says so.
    pub fn stop(&self) {
        let calls = {
            let mut state = self.state.lock();
            state.is_stopped = true;
            std::mem::take(&mut state.calls)
        };
        self.stopped.notify_all();
        calls.into_iter().for_each(|call| call());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn who_waits_and_who_asked_to_be_called_hear_of_it_once() {
        let stop = Arc::new(Stop::default());
        let called = Arc::new(AtomicU32::new(0));
        let call = |called: &Arc<AtomicU32>| {
            let called = called.clone();
            move || {
                called.fetch_add(1, Ordering::Relaxed);
            }
        };
        stop.when_stopped(call(&called));
        assert!(!stop.is_stopped() && !stop.wait(Duration::ZERO));
        let waiting = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait(Duration::from_secs(60))
        });
        stop.stop();
        stop.stop();
        assert!(waiting.join().unwrap() && stop.is_stopped());
        stop.when_stopped(call(&called));
        assert_eq!(called.load(Ordering::Relaxed), 2);
    }
}
