//! Files without bytes have them brought when somebody wants them: once, whoever waits, whole or not at all; and others give
//! theirs up.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Duration;

use common::{Bench, name, open, user};
use mezzo_core::{Attributes, DataVersion, ObjectId, Record, Time};
use mezzo_replica::demand::{
    CachePolicy, FetchError, Fetching, PinError, Refused, Upstream, Urgency, Waiter, Wanted,
};
use mezzo_replica::log::Reader;
use mezzo_replica::receive::{Beside, How, OnData, Outgoing};
use mezzo_replica::versions::{self, Source};
use mezzo_replica::{Bytes, Caller, Changes, Fileset, Replica, Use};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Another replica as the upstream, which does as it is told.
struct Fake {
    beside: RwLock<Beside>,
    gate: Mutex<Gate>,
    opened: Condvar,
    /// What was asked for, in order.
    asked: Mutex<Vec<(ObjectId, Urgency, bool)>>,
    begun: Sender<ObjectId>,
    is_safe: Mutex<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Bytes come at once.
    Open,
    /// They come when it is opened, or the fetch is stopped.
    Closed,
    /// The bytes of one come, and it is closed again.
    One,
    Offline,
    Unreachable,
    Superseded,
    /// So many bytes come, and then the connection is gone.
    Cut(u64),
    /// Other bytes come.
    Wrong,
}

impl Fake {
    fn set(&self, gate: Gate) {
        *self.gate.lock().unwrap() = gate;
        self.opened.notify_all();
    }

    fn asked(&self) -> Vec<(ObjectId, Urgency, bool)> {
        self.asked.lock().unwrap().clone()
    }

    fn copy(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        let (beside, at) = (self.beside.read().unwrap(), (wanted.object, wanted.version));
        versions::copy(&beside.tree, at, wanted.size, &beside.source, wanted.to)?
            .map_err(|why| FetchError::Superseded(why.to_owned()))
    }
}

impl Upstream for Fake {
    fn fetch(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        self.asked.lock().unwrap().push((wanted.object, wanted.urgency, wanted.is_partial));
        self.begun.send(wanted.object).unwrap();
        let mut gate = self.gate.lock().unwrap();
        while *gate == Gate::Closed {
            if wanted.stop.is_stopped() {
                return Err(FetchError::Stopped);
            }
            gate = self.opened.wait_timeout(gate, Duration::from_millis(5)).unwrap().0;
        }
        match *gate {
            Gate::One => {
                *gate = Gate::Closed;
                drop(gate);
                self.copy(wanted)
            }
            Gate::Open | Gate::Closed => self.copy(wanted),
            Gate::Offline => Err(FetchError::Offline),
            Gate::Unreachable => Err(FetchError::Unreachable("it does not answer".to_owned())),
            Gate::Superseded => Err(FetchError::Superseded("there are newer ones".to_owned())),
            Gate::Cut(bytes) => {
                self.copy(wanted)?;
                rustix::fs::ftruncate(wanted.to, bytes)?;
                Err(FetchError::Unreachable("the connection is gone".to_owned()))
            }
            Gate::Wrong => {
                rustix::io::pwrite(wanted.to, &vec![b'?'; wanted.size as usize], 0)?;
                Ok(())
            }
        }
    }

    fn is_safe_to_evict(&self, object: ObjectId, version: DataVersion) -> bool {
        let beside = self.beside.read().unwrap();
        let state = beside.tree.object(object).map(|object| object.state().data);
        *self.is_safe.lock().unwrap() && state.flatten().is_some_and(|data| data.version == version)
    }

    fn describe(&self) -> String {
        "a fake".to_owned()
    }
}

/// One who waits.
struct One {
    done: Sender<Result<(), i32>>,
    is_gone: Arc<AtomicU64>,
}

impl Waiter for One {
    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst) != 0
    }

    fn done(self: Box<Self>, outcome: Result<(), i32>) {
        // Who gave up hears nothing.
        let _ = self.done.send(outcome);
    }
}

/// A replica with everything, and one that has the names alone, and may fetch.
struct Two {
    has: Bench,
    lacks: Bench,
    replica: Arc<Replica>,
    fake: Arc<Fake>,
    begun: Receiver<ObjectId>,
    fetching: Option<Fetching>,
}

fn replica_of(bench: &Bench, policy: CachePolicy) -> Bench {
    let id = bench.replica().fileset().config.id;
    let other = Bench::unopened();
    let mut fileset = Fileset::create_as(&other.root(), id).unwrap();
    fileset.config.cache = policy;
    fileset.config.write(fileset.own()).unwrap();
    Bench { replica: Some(Replica::create(fileset).unwrap()), ..other }
}

fn beside(from: &Bench) -> Beside {
    let reader = Reader::open(&from.root().join(".mezzo/kml")).unwrap();
    let (_, tree) = Outgoing::of(&reader).unwrap();
    let source = Source { root: Some(open(&from.root())), attic: Some(from.root().join(".mezzo/attic")) };
    Beside { tree, source }
}

fn sent(from: &Bench) -> Vec<Record> {
    let reader = Reader::open(&from.root().join(".mezzo/kml")).unwrap();
    let (outgoing, _) = Outgoing::of(&reader).unwrap();
    from.records().into_iter().filter(|record| outgoing.sends(record)).collect()
}

fn write(bench: &Bench, path: &str, bytes: &[u8]) -> ObjectId {
    let (parent, file) = path.rsplit_once('/').unwrap_or(("", path));
    let replica = bench.replica();
    let (met, _) = replica.create_file(&user(0), bench.find(parent), &name(file), 0o644).unwrap();
    let object = met.entry.object;
    replica.opened(object, Use::Write, None).unwrap();
    std::fs::write(bench.root().join(path), bytes).unwrap();
    replica.released(&user(0), object, Use::Write).unwrap();
    object
}

impl Two {
    fn new() -> Two {
        Two::with(CachePolicy::default(), |_| {})
    }

    /// With `f` and `g`, a directory `d` with `d/h`, and what `fill` makes.
    fn with(policy: CachePolicy, fill: impl FnOnce(&Bench)) -> Two {
        let has = Bench::new();
        write(&has, "f", &[b'f'; 100_000]);
        write(&has, "g", b"bytes of g");
        has.replica()
            .make(&user(0), ObjectId::ROOT, &name("d"), mezzo_replica::NewNode::Directory(0o755))
            .unwrap();
        write(&has, "d/h", b"bytes of h");
        fill(&has);
        let mut lacks = replica_of(&has, policy);
        let how = How { data: OnData::Absent, judge: false };
        let taken = lacks.replica().receive(&sent(&has), how, &()).unwrap();
        assert!(taken.stopped.is_none());
        let (begin, begun) = channel();
        let fake = Arc::new(Fake {
            beside: RwLock::new(beside(&has)),
            gate: Mutex::new(Gate::Open),
            opened: Condvar::new(),
            asked: Mutex::default(),
            begun: begin,
            is_safe: Mutex::new(true),
        });
        let replica = Arc::new(lacks.replica.take().unwrap());
        replica.set_upstream(Some(fake.clone()));
        let fetching = Some(Fetching::start(replica.clone()).unwrap());
        Two { has, lacks, replica, fake, begun, fetching }
    }

    fn find(&self, path: &str) -> ObjectId {
        path.split('/').filter(|part| !part.is_empty()).fold(ObjectId::ROOT, |parent, part| {
            self.replica.index().child(parent, &name(part)).unwrap().unwrap_or_else(|| panic!("no {path}"))
        })
    }

    fn want(&self, object: ObjectId) -> (Receiver<Result<(), i32>>, Arc<AtomicU64>) {
        let (done, told) = channel();
        let is_gone = Arc::new(AtomicU64::new(0));
        self.replica.want(object, Box::new(One { done, is_gone: is_gone.clone() }));
        (told, is_gone)
    }

    /// All that users are shown, but for when it was read.
    fn shown(&self, object: ObjectId) -> Attributes {
        Attributes { atime: Time::default(), ..self.replica.observe(object).unwrap().shown() }
    }

    fn get(&self, object: ObjectId) -> Result<(), i32> {
        self.want(object).0.recv_timeout(PATIENCE).expect("an outcome")
    }

    fn absent(&self) -> u64 {
        self.replica.index().data().absent_files
    }

    fn is_absent(&self, path: &str) -> bool {
        self.replica.is_absent(self.find(path)).unwrap()
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.lacks.root().join(path)).unwrap()
    }

    fn partials(&self) -> usize {
        std::fs::read_dir(self.lacks.root().join(".mezzo/incoming")).unwrap().count()
    }

    /// Ends all use of the replica. A thread that brought something may have it for a moment yet.
    fn close(&mut self) {
        self.fetching = None;
        let placeholder = Bench::in_memory().replica.take().unwrap();
        let replica = std::mem::replace(&mut self.replica, Arc::new(placeholder));
        eventually("nobody else has it", || Arc::strong_count(&replica) == 1);
    }

    /// Ends all use of the replica, and opens it again, as after a kill where it was not closed.
    fn reopen(&mut self) {
        self.close();
        let (replica, _) = Replica::open(Fileset::open(&self.lacks.root()).unwrap()).unwrap();
        self.replica = Arc::new(replica);
        self.replica.set_upstream(Some(self.fake.clone()));
        self.fetching = Some(Fetching::start(self.replica.clone()).unwrap());
    }

    /// Nothing is left of what was done, and every file that has bytes has the right ones.
    fn check(mut self) {
        self.fetching = None;
        for (path, bytes) in
            [("f", vec![b'f'; 100_000]), ("g", b"bytes of g".into()), ("d/h", b"bytes of h".into())]
        {
            let Ok(Some(_)) =
                self.replica.index().child(ObjectId::ROOT, &name(path.split('/').next().unwrap()))
            else {
                continue;
            };
            let told = self.find(path);
            let entry = self.replica.entry(told).unwrap();
            let expected = Attributes { atime: Time::default(), ..*entry.attributes() };
            assert_eq!(self.shown(told), expected, "{path} looks as the log has it");
            if !entry.lost {
                assert_eq!(self.bytes(path), bytes, "{path}");
            }
        }
        drop(self.has);
    }
}

#[test]
fn who_wants_a_file_gets_it_whole() {
    let two = Two::new();
    let f = two.find("f");
    let before = two.shown(f);
    let last = two.replica.last();
    assert_eq!(two.absent(), 3);
    let opened = two.replica.opening(f, Use::Read, None, Bytes::Needed);
    assert_eq!(opened.unwrap_err().errno(), libc::ENODATA);
    assert_eq!(two.get(f), Ok(()));
    assert_eq!(two.bytes("f"), [b'f'; 100_000]);
    assert_eq!(two.shown(f), before, "size, times and all");
    assert_eq!((two.absent(), two.replica.last(), two.partials()), (2, last, 0), "and no record tells of it");
    two.replica.opening(f, Use::Read, None, Bytes::Needed).unwrap();
    two.replica.released(&user(0), f, Use::Read).unwrap();
    // A second time nothing is fetched.
    assert_eq!((two.get(f), two.fake.asked().len()), (Ok(()), 1));
    assert_eq!(two.replica.index().data().here(), 100_000);
    two.check();
}

#[test]
fn two_who_want_the_same_wait_for_one_fetch() {
    let two = Two::new();
    two.fake.set(Gate::Closed);
    let f = two.find("f");
    let (one, _) = two.want(f);
    two.begun.recv_timeout(PATIENCE).unwrap();
    let (other, _) = two.want(f);
    assert_eq!(two.replica.fetching().running, 1);
    // Others are not held up, nor is who changes anything.
    two.replica
        .make(&user(0), ObjectId::ROOT, &name("new"), mezzo_replica::NewNode::Directory(0o755))
        .unwrap();
    let changes = Changes { mode: Some(0o600), ..Changes::default() };
    two.replica.set_attributes(&user(0), f, &changes).unwrap();
    two.fake.set(Gate::Open);
    assert_eq!(one.recv_timeout(PATIENCE).unwrap(), Ok(()));
    assert_eq!(other.recv_timeout(PATIENCE).unwrap(), Ok(()));
    assert_eq!(two.fake.asked().len(), 1);
    assert_eq!(two.replica.observe(f).unwrap().shown().mode, 0o600, "what was changed meanwhile stays");
    two.check();
}

#[test]
fn what_nobody_waits_for_any_more_is_stopped_and_gone_on_with_later() {
    let two = Two::new();
    two.fake.set(Gate::Closed);
    let f = two.find("f");
    let (one, one_gone) = two.want(f);
    two.begun.recv_timeout(PATIENCE).unwrap();
    let (other, other_gone) = two.want(f);
    one_gone.store(1, Ordering::SeqCst);
    // One of the two stays: the fetch goes on.
    let (third, third_gone) = two.want(two.find("g"));
    two.begun.recv_timeout(PATIENCE).unwrap();
    third_gone.store(1, Ordering::SeqCst);
    while two.replica.fetching().running > 1 {
        std::thread::yield_now();
    }
    assert!(two.is_absent("g") && third.try_recv().is_err());
    other_gone.store(1, Ordering::SeqCst);
    while two.replica.fetching().running > 0 {
        std::thread::yield_now();
    }
    assert!(one.try_recv().is_err() && other.try_recv().is_err());
    two.fake.set(Gate::Open);
    assert_eq!(two.get(f), Ok(()));
    two.check();
}

#[test]
fn a_version_that_is_overtaken_while_it_comes_is_never_seen() {
    for kept in [true, false] {
        let mut two = Two::new();
        two.fake.set(Gate::Closed);
        let g = two.find("g");
        let (told, _) = two.want(g);
        two.begun.recv_timeout(PATIENCE).unwrap();
        let before = two.has.records().len();
        let replica = two.has.replica();
        replica.opening(g, Use::Write, None, Bytes::Needed).unwrap();
        std::fs::write(two.has.root().join("g"), "other bytes of g, and more").unwrap();
        replica.released(&user(0), g, Use::Write).unwrap();
        if !kept {
            std::fs::remove_dir_all(two.has.root().join(".mezzo/attic")).unwrap();
            std::fs::create_dir(two.has.root().join(".mezzo/attic")).unwrap();
        }
        *two.fake.beside.write().unwrap() = beside(&two.has);
        let how = How { data: OnData::Absent, judge: false };
        let taken = two.replica.receive(&two.has.records()[before..], how, &()).unwrap();
        assert!(taken.stopped.is_none() && taken.applied > 0);
        two.fake.set(Gate::Open);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()));
        assert_eq!(two.bytes("g"), b"other bytes of g, and more");
        assert_eq!((two.fake.asked().len(), two.partials(), two.is_absent("g")), (2, 0, false));
        two.reopen();
        assert_eq!(two.bytes("g"), b"other bytes of g, and more");
    }
}

#[test]
fn errors_are_told_apart() {
    let two = Two::new();
    let f = two.find("f");
    for (gate, errno) in [
        (Gate::Offline, libc::EHOSTUNREACH),
        (Gate::Unreachable, libc::ETIMEDOUT),
        (Gate::Superseded, libc::ENODATA),
    ] {
        two.fake.set(gate);
        assert_eq!(two.get(f), Err(errno), "{gate:?}");
        assert!(two.is_absent("f"));
    }
    two.replica.set_upstream(None);
    assert_eq!(two.get(f), Err(libc::ENODATA), "there is nobody to ask");
    two.check();
}

#[test]
fn what_is_not_what_the_log_tells_of_is_not_taken() {
    let mut digested = None;
    let two = Two::with(CachePolicy::default(), |has| {
        let object = write(has, "with-digest", b"right");
        digested = Some(object);
        // Left alone for long enough to be hashed.
        while has.replica().entry(object).unwrap().state.data.unwrap().digest.is_none() {
            has.replica().make_digests(Duration::ZERO).unwrap();
            std::thread::yield_now();
        }
    });
    let object = digested.unwrap();
    two.fake.set(Gate::Wrong);
    assert_eq!(two.get(object), Err(libc::EIO));
    assert_eq!((two.is_absent("with-digest"), two.partials()), (true, 0));
    two.fake.set(Gate::Open);
    assert_eq!(two.get(object), Ok(()));
    assert_eq!(two.bytes("with-digest"), b"right");
    two.check();
}

#[test]
fn what_a_cut_left_is_gone_on_with_also_after_a_restart() {
    let mut two = Two::new();
    let f = two.find("f");
    two.fake.set(Gate::Cut(60_000));
    assert_eq!(two.get(f), Err(libc::ETIMEDOUT));
    assert_eq!(two.partials(), 1);
    two.reopen();
    assert_eq!((two.is_absent("f"), two.partials()), (true, 1));
    two.fake.set(Gate::Open);
    assert_eq!(two.get(f), Ok(()));
    let asked: Vec<bool> = two.fake.asked().iter().map(|(_, _, is_partial)| *is_partial).collect();
    assert_eq!((asked, two.partials()), (vec![false, true], 0));
    // What is needed no more is not kept.
    two.fake.set(Gate::Cut(3));
    let g = two.find("g");
    assert_eq!(two.get(g), Err(libc::ETIMEDOUT));
    two.replica.remove(&user(0), ObjectId::ROOT, &name("g"), false).unwrap();
    two.reopen();
    assert_eq!(two.partials(), 0);
    two.check();
}

#[test]
fn what_was_asked_for_last_comes_first() {
    let mut files = Vec::new();
    let two = Two::with(CachePolicy::default(), |has| {
        files = (0..40).map(|number| write(has, &format!("n{number}"), b"n")).collect();
    });
    two.fake.set(Gate::Closed);
    let waiting: Vec<_> = files.iter().map(|file| two.want(*file)).collect();
    let at_once = 16;
    let first: Vec<ObjectId> = (0..at_once).map(|_| two.begun.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(two.begun.try_recv().is_err());
    // As one ends, the next is taken up.
    for file in files.iter().rev().filter(|file| !first.contains(file)) {
        two.fake.set(Gate::One);
        assert_eq!(two.begun.recv_timeout(PATIENCE).unwrap(), *file);
    }
    two.fake.set(Gate::Open);
    for (told, _) in waiting {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
    two.check();
}

#[test]
fn a_file_that_is_emptied_needs_no_bytes() {
    let two = Two::new();
    two.fake.set(Gate::Closed);
    let f = two.find("f");
    let (told, _) = two.want(f);
    two.begun.recv_timeout(PATIENCE).unwrap();
    let to = |size| Changes { size: Some(size), ..Changes::default() };
    assert_eq!(two.replica.set_attributes(&user(0), f, &to(7)).unwrap_err().errno(), libc::ENODATA);
    assert_eq!(two.replica.set_attributes(&user(0), f, &to(0)).unwrap().shown().size, 0);
    two.fake.set(Gate::Open);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()), "it has all its bytes, none");
    assert_eq!((two.bytes("f").len(), two.is_absent("f")), (0, false));
    let g = two.find("g");
    assert_eq!(two.get(g), Ok(()));
    two.replica.set_attributes(&user(0), g, &to(5)).unwrap();
    assert_eq!(two.bytes("g"), b"bytes");
}

fn refused(two: &Two, object: ObjectId) -> Refused {
    let evicted = two.replica.evict(&[object]).unwrap();
    assert_eq!((evicted.files, evicted.refused.len()), (0, 1));
    evicted.refused.into_iter().next().unwrap().1
}

#[test]
fn what_others_have_is_evicted_and_comes_again() {
    let mut two = Two::new();
    let (f, g) = (two.find("f"), two.find("g"));
    assert_eq!((two.get(f), two.get(g)), (Ok(()), Ok(())));
    let before = two.shown(f);
    let last = two.replica.last();
    let evicted = two.replica.evict(&[f, two.find("d"), two.find("d/h")]).unwrap();
    assert_eq!((evicted.files, evicted.bytes, evicted.absent), (1, 100_000, 1));
    assert_eq!(evicted.refused, [(two.find("d"), Refused::NotAFile)]);
    let stat = std::fs::metadata(two.lacks.root().join("f")).unwrap();
    use std::os::unix::fs::MetadataExt;
    // The marks may have a block.
    assert!(stat.blocks() <= 8 && stat.len() == 100_000, "{} blocks", stat.blocks());
    assert_eq!((two.shown(f), two.replica.last()), (before, last));
    assert_eq!(two.replica.opening(f, Use::Read, None, Bytes::Needed).unwrap_err().errno(), libc::ENODATA);
    two.reopen();
    assert!(two.is_absent("f") && !two.is_absent("g"));
    assert_eq!((two.shown(f), two.replica.last()), (before, last));
    assert_eq!(two.get(f), Ok(()));
    two.check();
}

#[test]
fn what_must_stay_is_not_evicted() {
    let two = Two::new();
    let (f, h) = (two.find("f"), two.find("d/h"));
    assert_eq!((two.get(f), two.get(h)), (Ok(()), Ok(())));
    two.replica.opening(f, Use::Read, None, Bytes::Needed).unwrap();
    assert_eq!(refused(&two, f), Refused::Open);
    two.replica.released(&user(0), f, Use::Read).unwrap();
    // Behind the daemon's back, as a mapping that outlived its open.
    let held = std::fs::File::open(two.lacks.root().join("f")).unwrap();
    assert_eq!(refused(&two, f), Refused::Open);
    assert!(!two.is_absent("f"));
    drop(held);
    two.replica.opening(f, Use::Write, None, Bytes::Needed).unwrap();
    assert_eq!(refused(&two, f), Refused::Written);
    two.replica.released(&user(0), f, Use::Write).unwrap();
    two.replica.pin(two.find("d")).unwrap();
    assert_eq!(refused(&two, h), Refused::Pinned("d".to_owned()));
    two.replica.unpin(two.find("d")).unwrap();
    *two.fake.is_safe.lock().unwrap() = false;
    assert_eq!(refused(&two, h), Refused::NotAcknowledged("a fake".to_owned()));
    *two.fake.is_safe.lock().unwrap() = true;
    let (made, _) = two.replica.create_file(&user(0), ObjectId::ROOT, &name("mine"), 0o644).unwrap();
    let mine = made.entry.object;
    two.replica.opened(mine, Use::Write, None).unwrap();
    std::fs::write(two.lacks.root().join("mine"), "mine").unwrap();
    two.replica.released(&user(0), mine, Use::Write).unwrap();
    assert_eq!(refused(&two, mine), Refused::NotAcknowledged("a fake".to_owned()));
    two.replica.set_upstream(None);
    assert_eq!(refused(&two, h), Refused::NoUpstream);
    two.check();
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn pins_stay_and_bring_what_is_below() {
    let mut two = Two::new();
    let d = two.find("d");
    assert!(matches!(two.replica.unpin(d), Err(PinError::NotPinned)));
    two.replica.pin(d).unwrap();
    eventually("what is pinned is brought", || !two.is_absent("d/h"));
    assert_eq!(two.absent(), 2, "and nothing else");
    assert_eq!(two.fake.asked()[0].1, Urgency::Background);
    let error = two.replica.unpin(two.find("d/h")).unwrap_err().to_string();
    assert_eq!(error, "it is pinned with d, above it");
    // What comes below it later, and what it is called, is no matter.
    let (root, caller) = (ObjectId::ROOT, Caller::program());
    let flags = rustix::fs::RenameFlags::empty();
    two.replica.rename(&caller, (root, &name("d")), (root, &name("e")), flags).unwrap();
    two.replica.rename(&caller, (root, &name("g")), (d, &name("g")), flags).unwrap();
    eventually("what comes below is brought", || !two.is_absent("e/g"));
    two.reopen();
    let pins = two.replica.pins().unwrap();
    assert_eq!((pins.len(), pins[0].path.as_deref()), (1, Some(&b"e"[..])));
    two.replica.unpin(d).unwrap();
    two.reopen();
    assert_eq!(two.replica.pins().unwrap(), []);
}

#[test]
fn a_full_replica_brings_everything() {
    let two = Two::with(CachePolicy { full: true, limit: None }, |_| {});
    eventually("all is brought", || two.absent() == 0);
    two.check();
}

#[test]
fn what_was_not_used_longest_goes_when_there_is_too_much() {
    let limit = 100_015;
    let two = Two::with(CachePolicy { full: false, limit: Some(limit) }, |_| {});
    let (f, g, h) = (two.find("f"), two.find("g"), two.find("d/h"));
    assert_eq!((two.get(f), two.get(g)), (Ok(()), Ok(())));
    two.replica.opening(f, Use::Read, None, Bytes::Needed).unwrap();
    two.replica.released(&user(0), f, Use::Read).unwrap();
    two.replica.bound_cache().unwrap();
    assert_eq!(two.absent(), 1, "it fits");
    assert_eq!(two.get(h), Ok(()));
    two.replica.pin(h).unwrap();
    assert!(two.replica.is_cache_beyond_limit());
    two.replica.bound_cache().unwrap();
    // What nobody opened goes first; what is pinned stays, and what was opened goes as there is too much still.
    assert!(two.is_absent("g") && !two.is_absent("d/h"));
    assert!(two.replica.index().data().here() <= limit);
    two.check();
}

#[test]
fn the_index_is_made_again_with_what_is_absent() {
    let mut two = Two::new();
    assert_eq!(two.get(two.find("g")), Ok(()));
    let totals = two.replica.index().data();
    two.close();
    std::fs::remove_file(two.lacks.root().join(".mezzo/index")).unwrap();
    two.replica = Arc::new(Replica::open(Fileset::open(&two.lacks.root()).unwrap()).unwrap().0);
    assert_eq!(two.replica.index().data(), totals);
    let found = two.replica.index().lacking(None, 10).unwrap();
    assert_eq!(found, [(two.find("f"), true), (two.find("d/h"), true)]);
    assert_eq!(two.replica.index().lacking(Some(two.find("f")), 10).unwrap(), found[1..]);
}
