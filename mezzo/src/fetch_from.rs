//! Another replica of the fileset on this machine, as the place that bytes come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use mezzo_core::tree::Tree;
use mezzo_core::{DataVersion, ObjectId, Recno};
use mezzo_replica::FilesetId;
use mezzo_replica::demand::{FetchError, Stop, Upstream, Wanted};
use mezzo_replica::log::Reader;
use mezzo_replica::versions::{self, Kept, Source};
use parking_lot::RwLock;

use crate::Failure;
use crate::find::{self, Found};

/// How long the other replica's daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Threads that may wait for a daemon that does not answer.
const WAITING: usize = 4;

/// The other replica.
pub struct FetchFrom {
    path: PathBuf,
    fileset: FilesetId,
    known: RwLock<Option<Known>>,
    waiting: Arc<AtomicUsize>,
}

/// What is known of it.
struct Known {
    /// What its log described when it was looked at.
    tree: Tree,
    last: Recno,
    /// Where its data was then.
    source: Source,
}

impl FetchFrom {
    /// The replica at `path`, for one of `fileset`. It need not be there yet, but what is there must be one.
    pub fn new(path: &Path, fileset: FilesetId) -> Result<FetchFrom, Failure> {
        let path = std::path::absolute(path)?;
        let from =
            FetchFrom { path, fileset, known: RwLock::default(), waiting: Arc::new(AtomicUsize::new(0)) };
        match from.look(&Stop::default()) {
            Ok(()) | Err(FetchError::Offline | FetchError::Unreachable(_)) => Ok(from),
            Err(error) => {
                let path = from.path.display();
                Err(Failure::Failed(format!("could not fetch from {path}: {error}")))
            }
        }
    }

    /// Finds it, and takes in what its log has more than is known.
    fn look(&self, stop: &Stop) -> Result<(), FetchError> {
        let found = self.contact(stop)?;
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
        *known = Some(Known { tree, last, source });
        Ok(())
    }

    /// Finds it, and has its daemon record what was written there. Nothing that is done to this end can be ended from here, so
    /// that it is done on another thread.
    fn contact(&self, stop: &Stop) -> Result<Found, FetchError> {
        let unanswered = || FetchError::Unreachable(format!("{} does not answer", self.path.display()));
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(unanswered());
        }
        let (answer, answered) = channel();
        let (path, waiting, contacted) = (self.path.clone(), self.waiting.clone(), answer.clone());
        let contact = move || {
            let found = find(&path);
            waiting.fetch_sub(1, Ordering::Relaxed);
            // Nobody may wait any more.
            let _ = contacted.send(Some(found));
        };
        if let Err(error) = std::thread::Builder::new().name("contact".into()).spawn(contact) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(error.into());
        }
        stop.when_stopped(move || drop(answer.send(None)));
        match answered.recv_timeout(PATIENCE) {
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

/// The replica at a path, with everything recorded there.
fn find(path: &Path) -> Result<Found, FetchError> {
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
    found.sync().map_err(words)?;
    Ok(found)
}

impl Upstream for FetchFrom {
    fn fetch(&self, wanted: &Wanted<'_>) -> Result<(), FetchError> {
        self.look(wanted.stop)?;
        if wanted.stop.is_stopped() {
            return Err(FetchError::Stopped);
        }
        self.copy(wanted)?.map_err(|why| FetchError::Superseded(why.to_owned()))
    }

    fn is_safe_to_evict(&self, object: ObjectId, version: DataVersion) -> bool {
        let has_it = || {
            let known = self.known.read();
            let kept = |known: &Known| versions::kept(&known.tree, object, version, &known.source);
            known.as_ref().is_some_and(|known| matches!(kept(known), Ok(Ok(Kept::Tree))))
        };
        has_it() || self.look(&Stop::default()).is_ok() && has_it()
    }

    fn describe(&self) -> String {
        format!("the replica in {}", self.path.display())
    }
}
