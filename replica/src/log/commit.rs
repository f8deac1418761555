//! Group commit: whoever needs records durable waits for one sync that covers them all.

use mezzo_core::Recno;
use parking_lot::{Condvar, Mutex};

/// How far the log is durable, and whether somebody is about to make it more so.
#[derive(Debug)]
pub(super) struct Commit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    durable: Recno,
    syncing: bool,
}

impl Commit {
    pub fn new(durable: Recno) -> Commit {
        Commit { state: Mutex::new(State { durable, syncing: false }), changed: Condvar::new() }
    }

    /// Returns when everything up to `target` is durable, and tells up to where it is. `sync` makes durable what was
    /// appended so far and tells up to where that is; of all who wait, one calls it. When it fails, its caller gets
    /// the error and the others try for themselves.
    pub fn reach<E>(&self, target: Recno, sync: impl FnOnce() -> Result<Recno, E>) -> Result<Recno, E> {
        let mut state = self.state.lock();
        while state.durable < target && state.syncing {
            self.changed.wait(&mut state);
        }
        if state.durable >= target {
            return Ok(state.durable);
        }
        state.syncing = true;
        drop(state);
        let result = sync();
        self.finish(result)
    }

    /// Notes that everything up to `durable` is.
    pub fn advance(&self, durable: Recno) {
        let mut state = self.state.lock();
        state.durable = state.durable.max(durable);
        self.changed.notify_all();
    }

    fn finish<E>(&self, result: Result<Recno, E>) -> Result<Recno, E> {
        let mut state = self.state.lock();
        state.syncing = false;
        if let Ok(durable) = &result {
            state.durable = state.durable.max(*durable);
        }
        self.changed.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[test]
    fn callers_share_syncs() {
        let (commit, appended, syncs) = (Commit::new(Recno(0)), AtomicU64::new(0), AtomicU64::new(0));
        let sync = || {
            let covered = appended.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            syncs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>(Recno(covered))
        };
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let target = Recno(appended.fetch_add(1, Ordering::SeqCst) + 1);
                        assert!(commit.reach(target, sync).unwrap() >= target);
                    }
                });
            }
        });
        let syncs = syncs.load(Ordering::SeqCst);
        assert!(syncs < 80, "{syncs} syncs for 160 callers");
    }

    #[test]
    fn a_failure_is_told_once_and_others_try_for_themselves() {
        let commit = Commit::new(Recno(3));
        assert_eq!(commit.reach(Recno(2), || Err("not called")), Ok(Recno(3)));
        assert_eq!(commit.reach(Recno(4), || Err("broken")), Err("broken"));
        assert_eq!(commit.reach(Recno(4), || Ok::<_, &str>(Recno(5))), Ok(Recno(5)));
        commit.advance(Recno(4));
        assert_eq!(commit.reach(Recno(5), || Err("not called")), Ok(Recno(5)));
    }
}
