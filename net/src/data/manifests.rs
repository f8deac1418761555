//! The chunks of versions that others ask for: found once for all who ask, and remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::{DataVersion, ObjectId};
use mezzo_replica::Replica;
use parking_lot::{Condvar, Mutex};

use super::chunks::{Chunk, Lengths, cut};
use super::{CHUNKS, Gone};

/// Chunks that are remembered of versions whose chunks nobody is being told: 40 MiB, those of 64 GiB of files.
const REMEMBERED: usize = 1 << 20;

/// Versions that are remembered, however few chunks they have.
const VERSIONS: usize = 4096;

/// Versions whose chunks are found at once: hashing takes a processor each.
const AT_ONCE: usize = 2;

/// How often those who wait look whether they are still to.
const LOOK: Duration = Duration::from_millis(50);

/// A version, and its bytes.
pub(super) type Key = (ObjectId, DataVersion, u64);

/// The chunks of a replica's versions. All its sessions share them.
#[derive(Default)]
pub struct Manifests {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, (Instant, Arc<Manifest>)>,
    /// Those that wait for their chunks to be found.
    waiting: VecDeque<(Arc<Replica>, Key, Arc<Manifest>)>,
    at_work: usize,
}

/// The chunks of one version.
#[derive(Default)]
pub(super) struct Manifest {
    found: Mutex<Found>,
    grown: Condvar,
}

#[derive(Default)]
struct Found {
    chunks: Vec<Chunk>,
    end: Option<Result<(), Gone>>,
}

/// What is next of a manifest.
pub(super) enum Next {
    Chunks(Vec<Chunk>),
    End,
    /// Nothing yet.
    Nothing,
}

impl Manifests {
    /// The chunks of a version, which are being found from now on, if they were not before.
    pub(super) fn of(self: &Arc<Manifests>, replica: &Arc<Replica>, key: Key) -> Arc<Manifest> {
        let mut state = self.state.lock();
        if let Some((used, manifest)) = state.known.get_mut(&key) {
            *used = Instant::now();
            return manifest.clone();
        }
        state.bound();
        let manifest = Arc::new(Manifest::default());
        state.known.insert(key, (Instant::now(), manifest.clone()));
        state.waiting.push_back((replica.clone(), key, manifest.clone()));
        if state.at_work < AT_ONCE {
            let this = self.clone();
            let begun = std::thread::Builder::new().name("chunks".into()).spawn(move || this.work());
            match begun {
                Ok(_) => state.at_work += 1,
                // Another one that is at work takes it up.
                Err(_) if state.at_work > 0 => {}
                Err(error) => {
                    state.waiting.pop_back();
                    state.known.remove(&key);
                    manifest.end(Err(Gone { message: error.to_string(), is_passing: true }));
                }
            }
        }
        manifest
    }

    /// Finds chunks as long as any are wanted.
    fn work(&self) {
        loop {
            let mut state = self.state.lock();
            let Some((replica, key, manifest)) = state.waiting.pop_front() else {
                state.at_work -= 1;
                return;
            };
            drop(state);
            let found =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| manifest.find(&replica, key)));
            let panicked = || Err(Gone { message: "finding its chunks panicked".into(), is_passing: true });
            let end = found.unwrap_or_else(|_| panicked());
            if end.is_err() {
                // Whoever asks next may fare better.
                self.state.lock().known.remove(&key);
            }
            manifest.end(end);
        }
    }
}

impl State {
    /// Forgets what was not used longest, beyond the bounds.
    fn bound(&mut self) {
        let mut idle: Vec<(Instant, Key, usize)> = Vec::new();
        let (mut chunks, mut versions) = (0, self.known.len());
        for (key, (used, manifest)) in &self.known {
            if Arc::strong_count(manifest) == 1 {
                let count = manifest.found.lock().chunks.len();
                chunks += count;
                idle.push((*used, *key, count));
            }
        }
        idle.sort_by_key(|(used, ..)| *used);
        for (_, key, count) in idle {
            if chunks <= REMEMBERED && versions < VERSIONS {
                return;
            }
            self.known.remove(&key);
            (chunks, versions) = (chunks - count, versions - 1);
        }
    }
}

impl Manifest {
    /// Chunks from number `from` on, as many as one message has.
    pub fn next(&self, from: usize) -> Result<Next, Gone> {
        let mut found = self.found.lock();
        if found.chunks.len() < from + CHUNKS && found.end.is_none() {
            self.grown.wait_for(&mut found, LOOK);
        }
        if let Some(Err(gone)) = &found.end {
            return Err(gone.clone());
        }
        let upto = found.chunks.len().min(from + CHUNKS);
        Ok(match found.end {
            None if upto < from + CHUNKS => Next::Nothing,
            _ if from < upto => Next::Chunks(found.chunks[from..upto].to_vec()),
            _ => Next::End,
        })
    }

    fn find(self: &Arc<Manifest>, replica: &Replica, (object, version, size): Key) -> Result<(), Gone> {
        let gone = |message: String, is_passing| Err(Gone { message, is_passing });
        let Some(lengths) = Lengths::of(size) else {
            return gone("it is too large for chunks".into(), false);
        };
        let mut reading = match replica.reading(object, version, Some(size)) {
            Ok(Ok(reading)) => reading,
            Ok(Err(why)) => return gone(why.to_owned(), false),
            Err(error) => return gone(error.to_string(), true),
        };
        let mut batch = Vec::with_capacity(CHUNKS);
        let cut = cut(&mut reading, lengths, &mut |chunk| {
            batch.push(chunk);
            batch.len() < CHUNKS || self.add(&mut batch)
        });
        match cut {
            Ok(Ok(true)) => {
                self.add(&mut batch);
                Ok(())
            }
            Ok(Ok(false)) => gone("nobody waits for it any more".to_owned(), true),
            Ok(Err(why)) => gone(why.to_owned(), false),
            Err(error) => gone(error.to_string(), true),
        }
    }

    /// False where nobody waits for more any more.
    fn add(self: &Arc<Manifest>, batch: &mut Vec<Chunk>) -> bool {
        self.found.lock().chunks.append(batch);
        self.grown.notify_all();
        // The one that is remembered, and this.
        Arc::strong_count(self) > 2
    }

    fn end(&self, end: Result<(), Gone>) {
        self.found.lock().end = Some(end);
        self.grown.notify_all();
    }
}
