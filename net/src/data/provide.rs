//! Sending data that another asks for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mezzo_core::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use mezzo_replica::Replica;
use mezzo_replica::reading::Reading;
use parking_lot::{Condvar, Mutex};

use super::chunks::is_zeros;
use super::manifests::{Key, Manifests, Next};
use super::{
    AT_ONCE, Body, Chunks, DataMessage, Describe, Gone, PIECE_BYTES, Piece, QUESTIONS, RUNS, Runs, Version,
    Want, ZEROS_FROM,
};
use crate::session::{Sender, Urgency};

/// Of a piece, bytes by which it is told whether compressing it is worth while.
const SAMPLE: usize = 4 << 10;

/// Pieces for which that is not even tried, after one for which it was not worth while: as many as it was so in a row, up to this.
const UNTRIED: u32 = 16;

/// How often who waits for chunks to be found is told that they are being found.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one peer is sent.
pub struct Provider {
    replica: Arc<Replica>,
    manifests: Arc<Manifests>,
    sender: Sender,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: HashMap<u64, Asked>,
    /// By kind: questions that wait for their turn, and threads that answer others. Who is told chunks asks for bytes meanwhile, so
    /// that neither may wait for the other's end.
    waiting: [VecDeque<u64>; 2],
    at_once: [usize; 2],
    is_closed: bool,
}

/// A question that came.
struct Asked {
    kind: Kind,
    version: Version,
    with_digests: bool,
    /// Answers that may be sent, and those that were.
    allowed: u64,
    answered: u64,
    runs: VecDeque<(u64, u64)>,
    may_follow: bool,
    /// Where the last run ended.
    at: u64,
    is_stopped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
    Chunks,
}

impl Version {
    pub(super) fn new(object: ObjectId, version: DataVersion, size: u64) -> Version {
        Version {
            object_replica: object.0.replica.0,
            object_recno: object.0.recno.0,
            version_replica: version.0.replica.0,
            version_recno: version.0.recno.0,
            size,
        }
    }

    fn key(&self) -> Key {
        let origin = |replica, recno| Origin::new(ReplicaId(replica), Recno(recno));
        let object = ObjectId(origin(self.object_replica, self.object_recno));
        let version = DataVersion(origin(self.version_replica, self.version_recno));
        (object, version, self.size)
    }
}

impl Provider {
    pub fn new(replica: Arc<Replica>, manifests: Arc<Manifests>, sender: Sender) -> Arc<Provider> {
        Arc::new(Provider { replica, manifests, sender, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Bytes of a version are wanted.
    pub fn want(self: &Arc<Provider>, number: u64, want: Want) -> Result<(), String> {
        let Want { version, runs, answers, with_digests } = want;
        let mut asked = Asked { with_digests, ..Asked::new(Kind::Bytes, version, answers) };
        asked.add(runs)?;
        self.ask(number, asked)
    }

    /// The chunks of a version are wanted.
    pub fn describe(self: &Arc<Provider>, number: u64, describe: Describe) -> Result<(), String> {
        let Describe { version, answers } = describe;
        self.ask(number, Asked::new(Kind::Chunks, version, answers))
    }

    /// More bytes are wanted of a version.
    pub fn further(&self, number: u64, runs: Runs) -> Result<(), String> {
        // It may have ended because the version is gone, which who asks does not know yet.
        let mut state = self.state.lock();
        let added = state.asked.get_mut(&number).map_or(Ok(()), |asked| asked.add(runs));
        drop(state);
        self.changed.notify_all();
        added
    }

    /// So many answers may be sent.
    pub fn more(&self, number: u64, answers: u64) {
        if let Some(asked) = self.state.lock().asked.get_mut(&number) {
            asked.allowed = answers.max(asked.allowed);
        }
        self.changed.notify_all();
    }

    /// No more is wanted.
    pub fn stop(&self, number: u64) {
        if let Some(asked) = self.state.lock().asked.get_mut(&number) {
            asked.is_stopped = true;
        }
        // One that waits for its turn ends when that comes.
        self.changed.notify_all();
    }

    /// The connection has ended.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Has a question answered when it is its turn: by a thread of this peer's, as who asks may be slow to take what comes.
    fn ask(self: &Arc<Provider>, number: u64, asked: Asked) -> Result<(), String> {
        let kind = asked.kind;
        let mut state = self.state.lock();
        if state.asked.len() >= QUESTIONS || state.asked.contains_key(&number) {
            return Err(format!("question {number} for data came while {} wait", state.asked.len()));
        }
        state.asked.insert(number, asked);
        state.waiting[kind as usize].push_back(number);
        if state.at_once[kind as usize] < AT_ONCE {
            let this = self.clone();
            match std::thread::Builder::new().name("provide".into()).spawn(move || this.answer(kind)) {
                Ok(_) => state.at_once[kind as usize] += 1,
                Err(error) if state.at_once[kind as usize] == 0 => return Err(error.to_string()),
                // One of those that are there takes it up.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Answers questions of this kind until there are none.
    fn answer(&self, kind: Kind) {
        let mut state = self.state.lock();
        while let Some(number) = state.waiting[kind as usize].pop_front().filter(|_| !state.is_closed) {
            let Some(Asked { version, with_digests, .. }) = state.asked.get(&number) else { continue };
            let (version, with_digests) = (*version, *with_digests);
            drop(state);
            let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match kind {
                Kind::Bytes => self.send(number, version, with_digests),
                Kind::Chunks => self.tell(number, version),
            }));
            let panicked = || Err(Gone { message: "sending it panicked".into(), is_passing: true });
            if let Err(gone) = answered.unwrap_or_else(|_| panicked()) {
                self.say(number, Body::Gone(gone), Urgency::Now);
            }
            state = self.state.lock();
            state.asked.remove(&number);
        }
        state.at_once[kind as usize] -= 1;
    }

    /// Waits until `what` gives something; `None` where nobody wants it any more.
    fn when<T>(&self, number: u64, mut what: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed || state.asked.get(&number).is_none_or(|asked| asked.is_stopped) {
                return None;
            }
            if let Some(found) = what(&mut state) {
                return Some(found);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until one more answer may be sent; false where nobody wants it any more.
    fn may_answer(&self, number: u64) -> bool {
        self.when(number, |state| {
            let asked = state.asked.get_mut(&number)?;
            let may = asked.answered < asked.allowed;
            asked.answered += u64::from(may);
            may.then_some(())
        })
        .is_some()
    }

    /// The run that is to be sent next; `None` where no more is wanted.
    fn next_run(&self, number: u64) -> Option<(u64, u64)> {
        self.when(number, |state| {
            let asked = state.asked.get_mut(&number)?;
            let next = asked.runs.pop_front();
            (next.is_some() || !asked.may_follow).then_some(next)
        })
        .flatten()
    }

    fn send(&self, number: u64, version: Version, with_digests: bool) -> Result<(), Gone> {
        let (object, data, size) = version.key();
        let mut reading = had(self.replica.reading(object, data, Some(size)))?;
        let mut pieces = Pieces { number, with_digests, squeezer: Squeezer::default() };
        while let Some((from, length)) = self.next_run(number) {
            let (mut at, end) = (from, from + length);
            // Where the next bytes are, which are no long hole, and where they end.
            let mut data = at..at;
            while at < end {
                if at >= data.end {
                    data = next_data(&mut reading, at, end)?;
                }
                if !self.may_answer(number) {
                    return Ok(());
                }
                let (head, bytes) = match at < data.start {
                    true => pieces.zeros(at, data.start - at),
                    false => {
                        let length = (data.end - at).min(PIECE_BYTES as u64) as usize;
                        let mut bytes = vec![0; length];
                        had(reading.read_at(&mut bytes, at))?;
                        pieces.piece(at, bytes)
                    }
                };
                at += head.length;
                if !self.sender.piece(&head, bytes) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn tell(&self, number: u64, version: Version) -> Result<(), Gone> {
        let manifest = self.manifests.of(&self.replica, version.key());
        let (mut told, mut said) = (0, Instant::now());
        loop {
            let chunks = match manifest.next(told)? {
                Next::End => return Ok(()),
                Next::Chunks(chunks) => chunks,
                Next::Nothing if said.elapsed() >= PATIENCE => Vec::new(),
                Next::Nothing => {
                    if self.when(number, |_| Some(())).is_none() {
                        return Ok(());
                    }
                    continue;
                }
            };
            let is_sent = self.may_answer(number)
                && self.say(number, Body::Chunks(Chunks::of(&chunks)), Urgency::Waits);
            if !is_sent {
                return Ok(());
            }
            (told, said) = (told + chunks.len(), Instant::now());
        }
    }

    fn say(&self, number: u64, body: Body, urgency: Urgency) -> bool {
        self.sender.data(&DataMessage::new(number, body), urgency)
    }
}

/// What was had, or why it was not, for who asked.
fn had<T>(had: Result<mezzo_replica::versions::Had<T>, mezzo_replica::Error>) -> Result<T, Gone> {
    match had {
        Ok(Ok(had)) => Ok(had),
        Ok(Err(why)) => Err(Gone { message: why.to_owned(), is_passing: false }),
        Err(error) => Err(Gone { message: error.to_string(), is_passing: true }),
    }
}

/// The next bytes in `at..end` that are no long hole; empty and at the end where there are no more.
fn next_data(reading: &mut Reading<'_>, at: u64, end: u64) -> Result<std::ops::Range<u64>, Gone> {
    let next = had(reading.next_data(at))?.unwrap_or(end).min(end);
    let start = if next - at >= ZEROS_FROM || next == end { next } else { at };
    if next == end {
        return Ok(end..end);
    }
    Ok(start..had(reading.next_hole(next))?.min(end))
}

impl Asked {
    fn new(kind: Kind, version: Version, allowed: u64) -> Asked {
        Asked {
            kind,
            version,
            with_digests: false,
            allowed,
            answered: 0,
            runs: VecDeque::new(),
            may_follow: false,
            at: 0,
            is_stopped: false,
        }
    }

    fn add(&mut self, Runs { runs, may_follow }: Runs) -> Result<(), String> {
        let (pairs, rest) = runs.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() + self.runs.len() > RUNS || self.kind != Kind::Bytes {
            return Err(format!("{} runs of bytes were asked for at once", pairs.len()));
        }
        for [from, length] in pairs {
            let end = from.checked_add(*length).filter(|end| *end <= self.version.size && *from >= self.at);
            let Some(end) = end else {
                return Err(format!("{length} bytes at {from} were asked for of {}", self.version.size));
            };
            self.at = end;
            self.runs.push_back((*from, *length));
        }
        self.may_follow = may_follow;
        Ok(())
    }
}

struct Pieces {
    number: u64,
    with_digests: bool,
    squeezer: Squeezer,
}

impl Pieces {
    fn zeros(&self, offset: u64, length: u64) -> (Piece, Bytes) {
        let head = Piece { number: self.number, offset, length, is_compressed: false, digest: Bytes::new() };
        (head, Bytes::new())
    }

    fn piece(&mut self, offset: u64, bytes: Vec<u8>) -> (Piece, Bytes) {
        let length = bytes.len() as u64;
        if is_zeros(&bytes) {
            return self.zeros(offset, length);
        }
        let digest = match self.with_digests {
            true => Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes()),
            false => Bytes::new(),
        };
        let squeezed = self.squeezer.squeeze(&bytes);
        let is_compressed = squeezed.is_some();
        let head = Piece { number: self.number, offset, length, is_compressed, digest };
        (head, squeezed.unwrap_or(bytes).into())
    }
}

/// Compresses where that is worth while.
#[derive(Default)]
struct Squeezer {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// Pieces in a row for which it was not, and those for which it is not tried.
    in_vain: u32,
    untried: u32,
}

impl Squeezer {
    fn squeeze(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(1).ok();
        }
        let compressor = self.compressor.as_mut()?;
        let middle = bytes.len().saturating_sub(SAMPLE) / 2;
        let sample = &bytes[middle..bytes.len().min(middle + SAMPLE)];
        let is_worth_while =
            compressor.compress(sample).is_ok_and(|squeezed| squeezed.len() < sample.len() / 8 * 7);
        let squeezed = match is_worth_while {
            true => compressor.compress(bytes).ok().filter(|squeezed| squeezed.len() < bytes.len()),
            false => None,
        };
        self.in_vain = if squeezed.is_some() { 0 } else { (self.in_vain + 1).min(UNTRIED) };
        self.untried = self.in_vain.saturating_sub(1);
        squeezed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_compressed_where_that_is_worth_while() {
        let mut pieces = Pieces { number: 1, with_digests: true, squeezer: Squeezer::default() };
        let text = b"the same again and again, ".repeat(4000);
        let mut noise = vec![0; 50_000];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
        let mut check = |bytes: &[u8], is_compressed, most| {
            let (head, sent) = pieces.piece(7, bytes.to_vec());
            assert_eq!((head.offset, head.length), (7, bytes.len() as u64));
            assert_eq!(head.is_compressed, is_compressed);
            assert!(sent.len() <= most, "{} bytes of {}", sent.len(), bytes.len());
        };
        check(&text, true, text.len() / 10);
        check(&[0; 5000], false, 0);
        for _ in 0..100 {
            check(&noise, false, noise.len());
        }
        // It is tried again after a while.
        (0..UNTRIED).for_each(|_| drop(pieces.piece(0, text.clone())));
        assert!(pieces.piece(0, text.clone()).0.is_compressed);
    }
}
