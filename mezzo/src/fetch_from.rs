//! Another replica of the fileset on this machine, as the place that bytes come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mezzo_core::tree::Tree;
use mezzo_core::{DataVersion, ObjectId, Recno};
use mezzo_replica::FilesetId;
use mezzo_replica::demand::{FetchError, Stop, Upstream, Wanted};
use mezzo_replica::log::Reader;
use mezzo_replica::versions::{self, Kept, Source};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::Failure;
use crate::find::{self, Found};

/// How long the other replica's daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Threads that wait for the daemon's answer at a time.
const CONTACTS: usize = 4;

/// How often who waits for one of them looks whether to go on waiting.
const LOOKED_FOR: Duration = Duration::from_millis(20);

/// The other replica.
pub struct FetchFrom {
    path: PathBuf,
    fileset: FilesetId,
    known: RwLock<Option<Known>>,
    /// Contacts that are being made.
    contacts: Arc<Contacts>,
}

#[derive(Default)]
struct Contacts {
    made: Mutex<usize>,
    ended: Condvar,
}

/// What is known of it.
struct Known {
    /// What its log described when it was looked at.
    tree: Tree,
    last: Recno,
    /// Where its data was then.
    source: Source,
    /// What paths in that lead through.
    _found: Found,
}

impl FetchFrom {
    /// The replica at `path`, for one of `fileset`. It need not be there yet, but what is there must be one.
    pub fn new(path: &Path, fileset: FilesetId) -> Result<FetchFrom, Failure> {
        let path = std::path::absolute(path)?;
        let from = FetchFrom { path, fileset, known: RwLock::default(), contacts: Arc::default() };
        match from.look(&Stop::default(), false) {
            Ok(()) | Err(FetchError::Offline | FetchError::Unreachable(_)) => Ok(from),
            Err(error) => {
                let path = from.path.display();
                Err(Failure::Failed(format!("could not fetch from {path}: {error}")))
            }
        }
    }

    /// Finds it, and takes in what its log has more than is known. With `sync`, its daemon records what was written there before.
    fn look(&self, stop: &Stop, sync: bool) -> Result<(), FetchError> {
        let found = self.contact(stop, sync)?;
        let failed = |error: &dyn std::fmt::Display| FetchError::Unreachable(error.to_string());
        let reader = Reader::open(&found.own_path("kml")).map_err(|error| failed(&error))?;
        if reader.fileset() != self.fileset.0 {
            let other = FilesetId(reader.fileset());
            return Err(FetchError::Superseded(format!("it is a replica of fileset {other}")));
        }
        let source = found.source()?;
        let mut known = self.known.write();
        let (mut tree, mut last) = match known.take() {
            Some(known) if known.last <= reader.last().map_err(|error| failed(&error))? => {
                (known.tree, known.last)
            }
            _ => (Tree::new(), Recno::NONE),
        };
        for record in reader.from(last.next()) {
            let record = record.map_err(|error| failed(&error))?;
            tree.apply(&record).map_err(|error| failed(&error))?;
            last = record.recno;
        }
        *known = Some(Known { tree, last, source, _found: found });
        Ok(())
    }

    /// Finds it. Nothing that is done to this end can be ended from here, so that it is done on another thread.
    fn contact(&self, stop: &Stop, sync: bool) -> Result<Found, FetchError> {
        let until = Instant::now() + PATIENCE;
        let unanswered = || FetchError::Unreachable(format!("{} does not answer", self.path.display()));
        {
            let mut made = self.contacts.made.lock();
            while *made >= CONTACTS {
                self.contacts.ended.wait_for(&mut made, LOOKED_FOR);
                if stop.is_stopped() {
                    return Err(FetchError::Stopped);
                }
                if Instant::now() >= until {
                    return Err(unanswered());
                }
            }
            *made += 1;
        }
        let (answer, answered) = channel();
        let (path, contacts, contacted) = (self.path.clone(), self.contacts.clone(), answer.clone());
        let contact = move || {
            let found = find(&path, sync);
            contacts.end();
            // Nobody may wait any more.
            let _ = contacted.send(Some(found));
        };
        if let Err(error) = std::thread::Builder::new().name("contact".into()).spawn(contact) {
            self.contacts.end();
            return Err(error.into());
        }
        stop.when_stopped(move || drop(answer.send(None)));
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Some(found)) => found,
            Ok(None) => Err(FetchError::Stopped),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(unanswered()),
        }
    }

    /// Copies a version, where what is known leads to it.
    fn copy(&self, wanted: &Wanted<'_>) -> Result<versions::Had<()>, FetchError> {
        match &*self.known.read() {
            Some(Known { tree, source, .. }) => {
                let at = (wanted.object, wanted.version);
                Ok(versions::copy(tree, at, wanted.size, source, wanted.to)?)
            }
            None => Ok(Err("nothing is known of it")),
        }
    }
}

impl Contacts {
    fn end(&self) {
        *self.made.lock() -= 1;
        self.ended.notify_all();
    }
}

/// The replica at a path; with `sync`, with everything recorded there.
fn find(path: &Path, sync: bool) -> Result<Found, FetchError> {
    if !path.exists() {
        return Err(FetchError::Offline);
    }
    let words = |failure| match failure {
        Failure::Failed(message) => FetchError::Unreachable(message),
        failure => FetchError::Unreachable(format!("{failure:?}")),
    };
    let mut found = match find::fileset(path) {
        Err(_) if find::mounted_over(path)?.is_none() => return Err(FetchError::Offline),
        found => found.map_err(words)?,
    };
    if !found.inside.as_os_str().is_empty() {
        return Err(FetchError::Offline);
    }
    if sync {
        found.sync().map_err(words)?;
    }
    found.daemon = None;
    Ok(found)
}

impl Upstream for FetchFrom {
    fn fetch(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        self.look(wanted.stop, false)?;
        if self.copy(wanted)?.is_ok() {
            return Ok(());
        }
        self.look(wanted.stop, true)?;
        self.copy(wanted)?.map_err(|why| FetchError::Superseded(why.to_owned()))
    }

    fn is_safe_to_evict(&self, object: ObjectId, version: DataVersion) -> bool {
        let has_it = || {
            let known = self.known.read();
            let kept = |known: &Known| versions::kept(&known.tree, object, version, &known.source);
            known.as_ref().is_some_and(|known| matches!(kept(known), Ok(Ok(Kept::Tree))))
        };
        has_it() || self.look(&Stop::default(), true).is_ok() && has_it()
    }

    fn describe(&self) -> String {
        format!("the replica in {}", self.path.display())
    }
}
