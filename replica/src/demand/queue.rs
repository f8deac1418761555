//! Who waits for which file, and what is brought next: what was asked for last comes first, and what somebody waits for before
//! what is only to be here one day.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mezzo_core::ObjectId;
use mezzo_core::id::DataVersion;
use parking_lot::{Condvar, Mutex};

use super::partial::Partials;
use super::{Activity, FetchError, Stop, Upstream, Urgency};
use crate::Error;
use crate::host;
use crate::replica::Replica;

/// Fetches at once. One takes a thread that mostly waits; more than these fill no link any better, and of a source that does not
/// answer as many have to be waited for before the next is tried.
const AT_ONCE: usize = 16;

/// Of them, those that nobody waits for.
const IN_BACKGROUND: usize = 2;

/// How often it is looked whether those who wait are still there: somebody who gave up is gone already, and a fetch for nobody
/// ends that much later.
const LOOKED_FOR: Duration = Duration::from_millis(50);

/// How often it is looked for what is to be brought in the background.
const BACKGROUND: Duration = Duration::from_secs(1);

/// Files that are looked at for that at once: a few milliseconds.
const LOOKED_AT: usize = 1000;

/// How long nothing is brought in the background after the upstream could not be reached, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How long a file is left alone whose bytes could not be had.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Such files that are remembered.
const REMEMBERED: usize = 10_000;

/// How long the end waits for fetches that were told to stop.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Somebody who waits for a file's bytes.
pub trait Waiter: Send {
    /// Whether it waits no more: then nobody tells it anything.
    fn is_gone(&self) -> bool;

    /// They are here; or they could not be had, and the error number says why. Called on the thread that brought them.
    fn done(self: Box<Self>, outcome: Result<(), i32>);
}

/// What is wanted, and where it comes from. Held by the replica.
pub(crate) struct Demand {
    partials: Partials,
    state: Mutex<State>,
    /// There is more to do, or less.
    changed: Condvar,
    claims: Mutex<HashSet<ObjectId>>,
    unclaimed: Condvar,
    /// Files into which bytes are being put, and whether that is to end.
    filling: Mutex<HashMap<ObjectId, bool>>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    upstream: Option<Arc<dyn Upstream>>,
    fetches: HashMap<ObjectId, Fetch>,
    /// Those that somebody waits for, in the order in which they were asked for.
    opens: Vec<ObjectId>,
    background: VecDeque<ObjectId>,
    /// Where the next look for what is to be brought begins.
    cursor: Option<ObjectId>,
    paused: Option<(Instant, Duration)>,
    failed: HashMap<ObjectId, (Instant, Option<DataVersion>)>,
    running: usize,
    running_in_background: usize,
    /// Somebody is there to bring what is wanted.
    is_served: bool,
    /// What was told of the upstream last.
    told: Option<String>,
}

/// A file that is to be brought.
struct Fetch {
    waiters: Vec<Box<dyn Waiter>>,
    in_background: bool,
    /// While it is under way.
    stop: Option<Arc<Stop>>,
}

/// The right to bring one file's bytes.
pub(crate) struct Claim<'a>(&'a Demand, ObjectId);

/// Bytes are being put into a file. Begun and ended in the order.
pub(crate) struct Filling<'a>(&'a Demand, ObjectId);

impl Demand {
    /// Nothing is wanted yet.
    pub fn open(own: BorrowedFd<'_>) -> io::Result<Demand> {
        Ok(Demand {
            partials: Partials::open(own)?,
            state: Mutex::default(),
            changed: Condvar::new(),
            claims: Mutex::default(),
            unclaimed: Condvar::new(),
            filling: Mutex::default(),
            filled: Condvar::new(),
        })
    }

    pub(crate) fn partials(&self) -> &Partials {
        &self.partials
    }

    pub(super) fn upstream(&self) -> Option<Arc<dyn Upstream>> {
        self.state.lock().upstream.clone()
    }

    pub(super) fn set_upstream(&self, upstream: Option<Arc<dyn Upstream>>) {
        let mut state = self.state.lock();
        state.upstream = upstream;
        (state.paused, state.told) = (None, None);
        state.failed.clear();
        self.changed.notify_all();
    }

    pub(super) fn activity(&self) -> Activity {
        let state = self.state.lock();
        let awaited = state.fetches.values().filter(|fetch| !fetch.waiters.is_empty()).count();
        Activity { running: state.running as u64, awaited: awaited as u64 }
    }

    /// There may be more to bring in the background.
    pub(super) fn look_again(&self) {
        let mut state = self.state.lock();
        state.cursor = None;
        self.changed.notify_all();
    }

    /// Waits until nobody else brings the file.
    pub fn claim(&self, object: ObjectId) -> Claim<'_> {
        let mut claims = self.claims.lock();
        while !claims.insert(object) {
            self.unclaimed.wait(&mut claims);
        }
        Claim(self, object)
    }

    /// The right to bring the file; `None` where somebody else does.
    pub fn try_claim(&self, object: ObjectId) -> Option<Claim<'_>> {
        self.claims.lock().insert(object).then(|| Claim(self, object))
    }

    /// Called in the order, by who has claimed the file.
    pub fn begin_filling(&self, object: ObjectId) -> Filling<'_> {
        self.filling.lock().insert(object, false);
        Filling(self, object)
    }

    /// Whether bytes are being put into the file. In the order, that stays so until it is left.
    pub fn is_filling(&self, object: ObjectId) -> bool {
        self.filling.lock().contains_key(&object)
    }

    /// Ends it that bytes are put into the file, and returns when nobody does any more. Not to be called in the order.
    pub fn end_filling(&self, object: ObjectId) {
        let mut filling = self.filling.lock();
        while let Some(is_ended) = filling.get_mut(&object) {
            *is_ended = true;
            self.filled.wait(&mut filling);
        }
    }

    /// The file that is to be brought next.
    fn next(state: &mut State) -> Option<(ObjectId, Arc<Stop>, Urgency)> {
        while let Some(object) = state.opens.pop() {
            if let Some(fetch) = state.fetches.get_mut(&object).filter(|fetch| fetch.stop.is_none()) {
                let stop = Arc::new(Stop::default());
                fetch.stop = Some(stop.clone());
                return Some((object, stop, Urgency::Open));
            }
        }
        while state.running_in_background < IN_BACKGROUND {
            let object = state.background.pop_front()?;
            if let Some(fetch) = state.fetches.get_mut(&object).filter(|fetch| fetch.stop.is_none()) {
                let stop = Arc::new(Stop::default());
                fetch.stop = Some(stop.clone());
                state.running_in_background += 1;
                return Some((object, stop, Urgency::Background));
            }
        }
        None
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.claims.lock().remove(&self.1);
        self.0.unclaimed.notify_all();
    }
}

impl Filling<'_> {
    /// Whether somebody wants it to end.
    pub fn is_ended(&self) -> bool {
        self.0.filling.lock().get(&self.1).copied().unwrap_or(true)
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.0.filling.lock().remove(&self.1);
        self.0.filled.notify_all();
    }
}

impl State {
    fn want(&mut self, object: ObjectId, waiter: Option<Box<dyn Waiter>>) {
        let in_background = waiter.is_none();
        let fetch = self.fetches.entry(object).or_insert_with(|| Fetch {
            waiters: Vec::new(),
            in_background: false,
            stop: None,
        });
        fetch.in_background |= in_background;
        fetch.waiters.extend(waiter);
        match (&fetch.stop, in_background) {
            (Some(_), _) => {}
            (None, true) => self.background.push_back(object),
            (None, false) => self.opens.push(object),
        }
    }

    /// Drops those who are gone, and stops what is brought for nobody.
    fn forget_gone(&mut self) -> Vec<Arc<Stop>> {
        let mut stopped = Vec::new();
        self.fetches.retain(|_, fetch| {
            fetch.waiters.retain(|waiter| !waiter.is_gone());
            if !fetch.waiters.is_empty() || fetch.in_background {
                return true;
            }
            stopped.extend(fetch.stop.clone());
            fetch.stop.is_some()
        });
        if self.fetches.is_empty() {
            self.opens.clear();
        }
        stopped
    }

    fn has_waiters(&self) -> bool {
        self.fetches.values().any(|fetch| !fetch.waiters.is_empty())
    }

    fn may_bring_in_background(&self) -> bool {
        self.upstream.is_some()
            && self.background.is_empty()
            && self.running_in_background < IN_BACKGROUND
            && self.paused.is_none_or(|(until, _)| Instant::now() >= until)
    }

    /// Takes note of how the upstream did: what people are to be told, if it is new.
    fn note(
        &mut self,
        object: ObjectId,
        version: Option<DataVersion>,
        error: Option<&FetchError>,
    ) -> Option<String> {
        let Some(error) = error else {
            self.paused = None;
            self.failed.remove(&object);
            return self.told.take().map(|_| "bytes of absent files come again".to_owned());
        };
        if matches!(error, FetchError::Stopped) {
            return None;
        }
        if error.is_of_upstream() {
            let pause = self.paused.map_or(PAUSE.0, |(_, pause)| (pause * 2).min(PAUSE.1));
            self.paused = Some((Instant::now() + pause, pause));
        } else {
            if self.failed.len() >= REMEMBERED {
                self.failed.clear();
            }
            self.failed.insert(object, (Instant::now(), version));
        }
        let told = error.to_string();
        let is_new = self.told.as_ref() != Some(&told);
        is_new.then(|| {
            self.told = Some(told.clone());
            format!("bytes of absent files do not come: {told}")
        })
    }
}

/// Brings what is wanted until it is ended.
pub struct Fetching {
    replica: Arc<Replica>,
    thread: Option<JoinHandle<()>>,
}

impl Fetching {
    /// Begins. Once for a replica at a time.
    pub fn start(replica: Arc<Replica>) -> io::Result<Fetching> {
        replica.demand.state.lock().is_served = true;
        let served = replica.clone();
        let thread = std::thread::Builder::new().name("demand".into()).spawn(move || serve(&served))?;
        Ok(Fetching { replica, thread: Some(thread) })
    }
}

impl Drop for Fetching {
    /// Whoever waits is told that nothing comes. Fetches are told to stop, and left alone if they don't.
    fn drop(&mut self) {
        let demand = &self.replica.demand;
        let mut state = demand.state.lock();
        state.is_served = false;
        let mut waiters = Vec::new();
        let mut stopped = Vec::new();
        for fetch in state.fetches.values_mut() {
            fetch.in_background = false;
            waiters.append(&mut fetch.waiters);
            stopped.extend(fetch.stop.clone());
        }
        demand.changed.notify_all();
        drop(state);
        stopped.iter().for_each(|stop| stop.stop());
        waiters.into_iter().for_each(|waiter| waiter.done(Err(libc::EIO)));
        // It may have ended by a panic, which it has told of.
        let _ = self.thread.take().map(JoinHandle::join);
        let until = Instant::now() + ENDS_WITHIN;
        let mut state = demand.state.lock();
        while state.running > 0 && !demand.changed.wait_until(&mut state, until).timed_out() {}
    }
}

/// Has a thread for each fetch, as many as may be at once, and looks after those who wait.
fn serve(replica: &Arc<Replica>) {
    let demand = &replica.demand;
    let mut looked = None::<Instant>;
    let mut state = demand.state.lock();
    while state.is_served {
        let stopped = state.forget_gone();
        if !stopped.is_empty() {
            drop(state);
            stopped.iter().for_each(|stop| stop.stop());
            state = demand.state.lock();
            continue;
        }
        let is_time = looked.is_none_or(|at| at.elapsed() >= BACKGROUND);
        if is_time && state.may_bring_in_background() {
            looked = Some(Instant::now());
            let cursor = state.cursor;
            drop(state);
            let found = replica.wanted_in_background(cursor);
            state = demand.state.lock();
            match found {
                Ok((objects, cursor)) => {
                    state.cursor = cursor;
                    objects.into_iter().for_each(|object| state.want(object, None));
                }
                Err(error) => crate::say!("mezzo: could not look for what is to be brought: {error}"),
            }
        }
        while state.running < AT_ONCE {
            let Some((object, stop, urgency)) = Demand::next(&mut state) else { break };
            state.running += 1;
            let replica = replica.clone();
            let bring = move || bring(&replica, object, &stop, urgency);
            if let Err(error) = std::thread::Builder::new().name("fetch".into()).spawn(bring) {
                crate::say!("mezzo: could not start a thread that brings bytes: {error}");
                state.running -= 1;
                state.running_in_background -= usize::from(urgency == Urgency::Background);
                let waiters = state.fetches.remove(&object).map(|fetch| fetch.waiters).unwrap_or_default();
                waiters.into_iter().for_each(|waiter| waiter.done(Err(libc::EAGAIN)));
            }
        }
        if !state.is_served {
            break;
        }
        if state.has_waiters() {
            demand.changed.wait_for(&mut state, LOOKED_FOR);
        } else if state.upstream.is_some() && replica.brings_in_background() {
            demand.changed.wait_for(&mut state, BACKGROUND);
        } else {
            demand.changed.wait(&mut state);
        }
    }
}

/// Brings one file, and tells those who wait.
fn bring(replica: &Arc<Replica>, object: ObjectId, stop: &Stop, urgency: Urgency) {
    // Opens go on here, as on the threads that serve users.
    if let Err(error) = host::serve_users() {
        crate::say!("mezzo: could not prepare a thread: {error}");
    }
    let version = replica.index.entry(object).ok().flatten().and_then(|entry| entry.version());
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| replica.fetch(object, urgency, stop)));
    let fetched =
        caught.unwrap_or_else(|_| Err(FetchError::Failed(Error::Host(io::Error::other("a fetch panicked")))));
    let demand = &replica.demand;
    let mut state = demand.state.lock();
    state.running -= 1;
    state.running_in_background -= usize::from(urgency == Urgency::Background);
    let words = state.note(object, version, fetched.as_ref().err());
    let is_served = state.is_served;
    let mut waiters = Vec::new();
    if let Some(mut fetch) = state.fetches.remove(&object) {
        // Somebody has come to wait for what was being stopped.
        let again = matches!(fetched, Err(FetchError::Stopped)) && !fetch.waiters.is_empty() && is_served;
        if again {
            fetch.stop = None;
            state.fetches.insert(object, fetch);
            state.opens.push(object);
        } else {
            waiters = fetch.waiters;
        }
    }
    demand.changed.notify_all();
    drop(state);
    words.into_iter().for_each(|words| crate::say!("mezzo: {words}"));
    let outcome = fetched.map_err(|error| error.errno());
    waiters.into_iter().for_each(|waiter| waiter.done(outcome));
}

impl Replica {
    /// Has the bytes of `object` brought, and tells `waiter`: at once where there is nobody to bring them.
    pub fn want(&self, object: ObjectId, waiter: Box<dyn Waiter>) {
        let mut state = self.demand.state.lock();
        if !state.is_served || state.upstream.is_none() {
            drop(state);
            return waiter.done(Err(FetchError::NoUpstream.errno()));
        }
        state.want(object, Some(waiter));
        self.demand.changed.notify_all();
    }

    /// Whether anything is to be brought that nobody waits for.
    fn brings_in_background(&self) -> bool {
        let data = self.index.data();
        data.lost_files > 0
            || data.absent_files > 0 && (self.fileset().config.cache.full || !self.pins.is_empty())
    }

    /// Files that are to be brought and that nobody waits for, some of them from `cursor` on, and where the next look begins.
    fn wanted_in_background(
        &self,
        cursor: Option<ObjectId>,
    ) -> Result<(Vec<ObjectId>, Option<ObjectId>), Error> {
        let found = self.index.lacking(cursor, LOOKED_AT)?;
        let next = found.last().map(|(object, _)| *object).filter(|_| found.len() == LOOKED_AT);
        let mut wanted = Vec::new();
        for (object, absent) in found {
            let Some(entry) = self.index.entry(object)? else { continue };
            let failed = self.demand.state.lock().failed.get(&object).copied();
            let is_left_alone =
                failed.is_some_and(|(at, version)| at.elapsed() < LEFT_ALONE && version == entry.version());
            if !is_left_alone && self.is_wanted_in_background(&entry, absent)? {
                wanted.push(object);
            }
        }
        Ok((wanted, next))
    }
}
