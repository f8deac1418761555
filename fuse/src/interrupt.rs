//! Which requests are open, so that a caller's signal finds its own.
//!
//! A request is in one of three places: a worker has it in hand (its [`Slot`] says so), it is parked for a
//! later answer, or the kernel has handed it out and its worker hasn't published it yet. For the last, an
//! INTERRUPT is remembered for a while: with several threads, or a ring whose completions queue up, it can
//! overtake its request.
//!
//! INTERRUPT is a hint to look at the caller ([`crate::signals`]), not the verdict. Where looking now is not
//! enough, the request is watched: [`Interrupts::watch`] looks again and again.

use crate::abi::InHeader;
use crate::errno::Errno;
use crate::signals::{self, Pending};
use crate::transport::LateOutlet;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How many overtaking interrupts are remembered. Each stands for a process with a pending signal.
const EARLY_LIMIT: usize = 256;

/// How long an overtaking interrupt is remembered. Most of those without a request belong to one that was
/// being answered at the same moment; they must not slow every request for ever.
const EARLY_LIFE: Duration = Duration::from_secs(30);

/// How often callers of watched requests are looked at: often enough for one who types control-C, and at 25
/// µs for each look cheap enough for hundreds of them.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// A request's name and caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub unique: u64,
    pub opcode: u32,
    /// The caller's thread, 0 if unknown.
    pub caller: u32,
}

impl Ticket {
    pub fn of(header: &InHeader) -> Ticket {
        Ticket { unique: header.unique, opcode: header.opcode, caller: header.pid }
    }
}

/// Which of a caller's signals ends a parked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedBy {
    AnySignal,
    Death,
}

impl EndedBy {
    fn is_met(self, pending: Pending) -> bool {
        match pending {
            Pending::Fatal => true,
            Pending::Some => self == EndedBy::AnySignal,
            Pending::Nothing | Pending::Unknown => false,
        }
    }
}

/// What one worker has in hand.
#[derive(Default)]
pub(crate) struct Slot {
    /// The request's unique, 0 for none.
    current: AtomicU64,
    /// The unique that was interrupted last. Uniques don't come again, so a stale value means nothing.
    interrupted: AtomicU64,
}

impl Slot {
    pub fn is_interrupted(&self, unique: u64) -> bool {
        self.interrupted.load(SeqCst) == unique
    }

    /// The worker has nothing in hand any more.
    pub fn clear(&self) {
        self.current.store(0, SeqCst);
    }

    fn interrupt_if_current(&self, unique: u64) -> bool {
        let found = self.current.load(SeqCst) == unique;
        if found {
            self.interrupted.store(unique, SeqCst);
        }
        found
    }
}

/// A request that will be answered later.
struct Parked {
    caller: u32,
    ended_by: EndedBy,
    /// Its caller is to be looked at again.
    watched: bool,
    outlet: Arc<dyn LateOutlet>,
    interrupted: Arc<AtomicBool>,
}

impl Parked {
    fn end(self, unique: u64) {
        self.interrupted.store(true, SeqCst);
        self.outlet.send(unique, Errno::EINTR.wire(), [&[], &[]]);
    }
}

/// All open requests of a session.
#[derive(Default)]
pub(crate) struct Interrupts {
    slots: RwLock<Vec<Arc<Slot>>>,
    parked: Mutex<HashMap<u64, Parked>>,
    /// A request has come to be watched, or the watch is over.
    watch_changed: Condvar,
    /// The watch sleeps until it is woken.
    watch_idle: AtomicBool,
    watch_over: AtomicBool,
    early: Mutex<VecDeque<(u64, Instant)>>,
    /// Length of `early`, read without its lock by every request.
    early_count: AtomicUsize,
}

impl Interrupts {
    /// A slot for one more worker.
    pub fn new_slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        self.slots.write().push(slot.clone());
        slot
    }

    /// The worker of `slot` takes a request in hand.
    pub fn publish(&self, slot: &Slot, unique: u64) {
        // Published before `early` is looked at, as `interrupt` writes `early` before it looks at the slots:
        // one of the two sees the other.
        slot.current.store(unique, SeqCst);
        if self.early_count.load(SeqCst) != 0 && self.take_early(unique) {
            slot.interrupted.store(unique, SeqCst);
        }
    }

    /// Parks the request that `slot` has in hand. The flag tells from then on whether it was interrupted, in
    /// which case it has been answered with EINTR.
    pub fn park(
        &self,
        slot: &Slot,
        ticket: Ticket,
        ended_by: EndedBy,
        outlet: Arc<dyn LateOutlet>,
    ) -> Arc<AtomicBool> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let watched = outlet.may_miss_interrupts();
        let parked =
            Parked { caller: ticket.caller, ended_by, watched, outlet, interrupted: interrupted.clone() };
        {
            let mut all = self.parked.lock();
            all.insert(ticket.unique, parked);
            if watched {
                self.wake_watch();
            }
        }
        // Parked before the slot is looked at, as `deliver` marks the slot before it looks here.
        if slot.is_interrupted(ticket.unique) {
            self.interrupt_parked(ticket.unique);
        }
        interrupted
    }

    /// Takes a parked request back, for its one answer. False when it has been answered already.
    pub fn unpark(&self, unique: u64) -> bool {
        self.parked.lock().remove(&unique).is_some()
    }

    /// The kernel tells that the caller of a request got a signal.
    pub fn interrupt(&self, unique: u64) {
        if !self.deliver(unique) {
            self.remember(unique);
            // Its worker may have published it, and even parked it, in between.
            self.deliver(unique);
        }
    }

    /// Looks at the callers of watched requests until [`Interrupts::end_watch`].
    pub fn watch(&self) {
        while self.wait_for_watched() {
            let watched: Vec<_> = {
                let parked = self.parked.lock();
                parked.iter().filter(|(_, parked)| parked.watched).map(|(u, p)| (*u, p.caller)).collect()
            };
            for (unique, caller) in watched {
                self.end_if_met(unique, signals::pending(caller));
            }
        }
    }

    /// Makes [`Interrupts::watch`] return.
    pub fn end_watch(&self) {
        // Under the lock, so that the watch can't miss it between looking and waiting.
        let _parked = self.parked.lock();
        self.watch_over.store(true, SeqCst);
        self.watch_changed.notify_all();
    }

    /// Waits until something is to be watched, and then for the interval. False when the watch is over.
    fn wait_for_watched(&self) -> bool {
        let mut parked = self.parked.lock();
        let over = || self.watch_over.load(SeqCst);
        while !over() && !parked.values().any(|parked| parked.watched) {
            self.watch_idle.store(true, SeqCst);
            self.watch_changed.wait(&mut parked);
        }
        let until = Instant::now() + WATCH_INTERVAL;
        while !over() && !self.watch_changed.wait_until(&mut parked, until).timed_out() {}
        !over()
    }

    /// Called with `parked` locked. A watch that is at work finds by itself what has come to be watched.
    fn wake_watch(&self) {
        if self.watch_idle.swap(false, SeqCst) {
            self.watch_changed.notify_all();
        }
    }

    fn deliver(&self, unique: u64) -> bool {
        let in_hand = self.slots.read().iter().any(|slot| slot.interrupt_if_current(unique));
        self.interrupt_parked(unique) || in_hand
    }

    /// Ends a parked request if its caller's signals do; else watches it from now on, as the kernel won't
    /// tell of the next one. A caller that can't be looked at is believed to have the signal. False when it
    /// isn't parked.
    fn interrupt_parked(&self, unique: u64) -> bool {
        let Some(caller) = self.watch_one(unique) else { return false };
        match signals::pending(caller) {
            Pending::Unknown => self.end_if_met(unique, Pending::Fatal),
            pending => self.end_if_met(unique, pending),
        }
        true
    }

    /// The caller of a parked request, which is watched from now on.
    fn watch_one(&self, unique: u64) -> Option<u32> {
        let mut parked = self.parked.lock();
        let parked = parked.get_mut(&unique)?;
        parked.watched = true;
        self.wake_watch();
        Some(parked.caller)
    }

    /// Ends a request, if it is still parked and that is how it ends.
    fn end_if_met(&self, unique: u64, pending: Pending) {
        let mut parked = self.parked.lock();
        if parked.get(&unique).is_some_and(|parked| parked.ended_by.is_met(pending)) {
            let ended = parked.remove(&unique);
            drop(parked);
            ended.into_iter().for_each(|parked| parked.end(unique));
        }
    }

    fn remember(&self, unique: u64) {
        let mut early = self.early.lock();
        if early.len() == EARLY_LIMIT {
            early.pop_front();
        }
        early.push_back((unique, Instant::now()));
        self.early_count.store(early.len(), SeqCst);
    }

    /// Whether `unique` was interrupted early; forgets it, and all that are too old.
    fn take_early(&self, unique: u64) -> bool {
        let mut early = self.early.lock();
        let now = Instant::now();
        let found = early.iter().any(|(other, _)| *other == unique);
        early.retain(|(other, since)| *other != unique && now.duration_since(*since) < EARLY_LIFE);
        self.early_count.store(early.len(), SeqCst);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        sent: Mutex<Vec<(u64, i32)>>,
        may_miss: bool,
    }

    impl LateOutlet for Recorder {
        fn send(&self, unique: u64, error: i32, _: [&[u8]; 2]) {
            self.sent.lock().push((unique, error));
        }

        fn may_miss_interrupts(&self) -> bool {
            self.may_miss
        }
    }

    /// One worker, and whatever it parks. Caller 0 can't be looked at, and is believed; this process has no
    /// signals.
    #[derive(Default)]
    struct Bench {
        interrupts: Interrupts,
        slot: Arc<Slot>,
        recorder: Arc<Recorder>,
    }

    impl Bench {
        fn new() -> Bench {
            let bench = Bench::default();
            Bench { slot: bench.interrupts.new_slot(), ..bench }
        }

        fn publish(&self, unique: u64) {
            self.interrupts.publish(&self.slot, unique);
        }

        fn park(&self, unique: u64, caller: u32) -> Arc<AtomicBool> {
            let ticket = Ticket { unique, opcode: 14, caller };
            self.interrupts.park(&self.slot, ticket, EndedBy::AnySignal, self.recorder.clone())
        }

        #[track_caller]
        fn check_sent(&self, expected: &[(u64, i32)]) {
            assert_eq!(*self.recorder.sent.lock(), expected);
        }
    }

    #[test]
    fn a_parked_request_is_answered_with_eintr_once() {
        let bench = Bench::new();
        bench.publish(8);
        let flag = bench.park(8, 0);
        bench.slot.clear();
        assert!(!flag.load(SeqCst));
        bench.interrupts.interrupt(8);
        bench.interrupts.interrupt(8);
        assert!(flag.load(SeqCst) && !bench.interrupts.unpark(8));
        bench.check_sent(&[(8, -libc::EINTR)]);
    }

    #[test]
    fn a_request_in_hand_finds_itself_interrupted_when_parked() {
        let bench = Bench::new();
        bench.publish(8);
        bench.interrupts.interrupt(8);
        assert!(bench.slot.is_interrupted(8));
        assert!(bench.park(8, 0).load(SeqCst));
        bench.check_sent(&[(8, -libc::EINTR)]);
        bench.publish(10);
        assert!(!bench.slot.is_interrupted(10));
    }

    #[test]
    fn an_interrupt_that_overtakes_its_request_is_remembered() {
        let bench = Bench::new();
        bench.interrupts.interrupt(8);
        bench.publish(6);
        assert!(!bench.slot.is_interrupted(6));
        bench.publish(8);
        assert!(bench.slot.is_interrupted(8));
        assert_eq!(bench.interrupts.early_count.load(SeqCst), 0);
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let bench = Bench::new();
        for unique in 0..10_000 {
            bench.interrupts.interrupt(unique * 2 + 2);
        }
        assert_eq!(bench.interrupts.early.lock().len(), EARLY_LIMIT);
    }

    #[test]
    fn an_answered_request_can_t_be_interrupted() {
        let bench = Bench::new();
        bench.publish(8);
        let flag = bench.park(8, 0);
        bench.slot.clear();
        assert!(bench.interrupts.unpark(8));
        bench.interrupts.interrupt(8);
        assert!(!flag.load(SeqCst));
        bench.check_sent(&[]);
    }

    #[test]
    fn an_interrupt_without_a_signal_is_only_watched() {
        let bench = Bench::new();
        bench.publish(8);
        let flag = bench.park(8, std::process::id());
        bench.interrupts.interrupt(8);
        assert!(!flag.load(SeqCst) && bench.interrupts.parked.lock()[&8].watched);
        bench.check_sent(&[]);
        assert!(bench.interrupts.unpark(8));
    }

    #[test]
    fn signals_end_what_they_are_to_end() {
        let rows = [
            (EndedBy::AnySignal, Pending::Nothing, false),
            (EndedBy::AnySignal, Pending::Some, true),
            (EndedBy::AnySignal, Pending::Fatal, true),
            (EndedBy::AnySignal, Pending::Unknown, false),
            (EndedBy::Death, Pending::Nothing, false),
            (EndedBy::Death, Pending::Some, false),
            (EndedBy::Death, Pending::Fatal, true),
            (EndedBy::Death, Pending::Unknown, false),
        ];
        for (ended_by, pending, met) in rows {
            assert_eq!(ended_by.is_met(pending), met, "{ended_by:?} {pending:?}");
        }
    }

    #[test]
    fn a_transport_that_misses_interrupts_is_watched() {
        let bench =
            Bench { recorder: Arc::new(Recorder { may_miss: true, ..Recorder::default() }), ..Bench::new() };
        bench.publish(8);
        bench.park(8, std::process::id());
        assert!(bench.interrupts.parked.lock()[&8].watched);
    }

    #[test]
    fn the_watch_ends_when_told() {
        let bench = Bench::new();
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| bench.interrupts.watch());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!watch.is_finished());
            bench.interrupts.end_watch();
        });
    }
}
