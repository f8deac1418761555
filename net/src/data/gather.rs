//! A version put together from what is here, and what is missing of it from the other side.
//!
//! The other side tells the version's chunks. Each is looked for at its place in what an earlier attempt left, then anywhere in
//! an older version of the file, which is cut into chunks likewise. What is found nowhere is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use blake3::Hasher;
use mezzo_replica::reading::Reading;
use mezzo_replica::receive::Sought;

use super::chunks::{Chunk, DIGEST_BYTES, Lengths, Told, cut};
use super::fetch::{Fetches, Moved, NotFetched, Question, Writer};
use super::{Answer, Body, Describe, RUNS, Runs, Version, WINDOW, Want};

/// Bytes that are missing before they are asked for: the link is kept busy while the next chunks are looked at.
const ASKED_AT_ONCE: u64 = 8 << 20;

/// Chunks of an older version that are remembered; what is behind them is sent again. 4 million take 200 MiB, for 256 GiB.
const REMEMBERED: usize = 4 << 20;

/// Messages in a row that say that chunks are being found: an hour of them.
const QUIET: u32 = 1200;

/// Zeros, to be hashed.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Gets `sought` so. The rest is as for [`Fetches::fetch`].
pub(super) fn gather(
    fetches: &Fetches,
    sought: &Sought<'_>,
    lengths: Lengths,
    older: Option<&mut Reading<'_>>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Moved, NotFetched> {
    let size = sought.size;
    let mut describing = fetches.ask(Body::Describe(Describe::of(sought)), is_wanted)?;
    let mut told = Told::new(size, lengths);
    let here = Here::prepare(sought, lengths, older, is_wanted)?;
    let mut gathering = Gathering {
        fetches,
        sought,
        is_wanted,
        here,
        writer: Writer::new(sought.to)?,
        copy: None,
        missing: Vec::new(),
        missing_bytes: 0,
        asking: None,
        found: 0,
    };
    let mut quiet = 0;
    while !told.is_whole() {
        let Answer::Chunks(chunks) = describing.next()? else {
            return Err(NotFetched::Wrong("they are no chunks".to_owned()));
        };
        quiet = if chunks.lengths.is_empty() { quiet + 1 } else { 0 };
        if quiet > QUIET {
            return Err(NotFetched::TooSlow);
        }
        for (at, chunk) in told.take(&chunks).map_err(NotFetched::Wrong)? {
            gathering.take(at, chunk)?;
        }
    }
    describing.is_answered = true;
    gathering.end()
}

/// What is here already.
struct Here<'a, 'b> {
    /// What an earlier attempt left, and how far it reaches.
    partial: File,
    reaches: u64,
    older: Option<&'a mut Reading<'b>>,
    /// Where each chunk of the older version is in it.
    places: HashMap<[u8; DIGEST_BYTES], (u64, u64)>,
    buffer: Vec<u8>,
}

impl<'a, 'b> Here<'a, 'b> {
    fn prepare(
        sought: &Sought<'_>,
        lengths: Lengths,
        older: Option<&'a mut Reading<'b>>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Here<'a, 'b>, NotFetched> {
        let partial: File = sought.to.try_clone_to_owned()?.into();
        let kept = if sought.is_partial { sought.size } else { 0 };
        if partial.metadata()?.len() > kept {
            partial.set_len(kept)?;
        }
        let reaches = partial.metadata()?.len();
        let mut here = Here { partial, reaches, older, places: HashMap::new(), buffer: Vec::new() };
        here.index(lengths, is_wanted)?;
        Ok(here)
    }

    fn index(&mut self, lengths: Lengths, is_wanted: &dyn Fn() -> bool) -> Result<(), NotFetched> {
        let Some(older) = &mut self.older else { return Ok(()) };
        let (mut at, places) = (0, &mut self.places);
        let indexed = cut(older, lengths, &mut |chunk| {
            if !chunk.is_zeros() {
                places.entry(chunk.digest).or_insert((at, chunk.length));
            }
            at += chunk.length;
            places.len() < REMEMBERED && is_wanted()
        });
        if !is_wanted() {
            return Err(NotFetched::Stopped);
        }
        // An older version that can't be read, or is gone by now, is none.
        if !matches!(indexed, Ok(Ok(_))) {
            (self.older, self.places) = (None, HashMap::new());
        }
        Ok(())
    }

    /// Whether the chunk is at its place already.
    fn has(&mut self, at: u64, chunk: &Chunk) -> Result<bool, NotFetched> {
        if at + chunk.length > self.reaches {
            return Ok(false);
        }
        self.buffer.resize(chunk.length as usize, 0);
        self.partial.read_exact_at(&mut self.buffer, at)?;
        Ok(blake3::hash(&self.buffer).as_bytes() == &chunk.digest)
    }
}

/// Bytes of the older version that have places in the new one.
#[derive(Clone, Copy)]
struct Copy {
    from: u64,
    to: u64,
    length: u64,
}

struct Gathering<'a, 'b, 'c> {
    fetches: &'a Fetches,
    sought: &'a Sought<'a>,
    is_wanted: &'a dyn Fn() -> bool,
    here: Here<'b, 'c>,
    writer: Writer,
    /// What is to be copied next: what goes on in both versions is copied in one go.
    copy: Option<Copy>,
    missing: Vec<(u64, Chunk)>,
    missing_bytes: u64,
    asking: Option<Question<'a>>,
    found: u64,
}

impl Gathering<'_, '_, '_> {
    fn take(&mut self, at: u64, chunk: Chunk) -> Result<(), NotFetched> {
        if chunk.is_zeros() {
            return self.writer.clear(at, chunk.length);
        }
        if self.here.has(at, &chunk)? {
            self.found += chunk.length;
            return Ok(());
        }
        let place = self.here.places.get(&chunk.digest).filter(|(_, length)| *length == chunk.length);
        if let Some((from, length)) = place.copied() {
            match &mut self.copy {
                Some(copy) if copy.from + copy.length == from && copy.to + copy.length == at => {
                    copy.length += length;
                }
                _ => {
                    self.copy()?;
                    self.copy = Some(Copy { from, to: at, length });
                }
            }
            return Ok(());
        }
        self.miss(at, chunk)
    }

    fn miss(&mut self, at: u64, chunk: Chunk) -> Result<(), NotFetched> {
        self.missing.push((at, chunk));
        self.missing_bytes += chunk.length;
        if self.missing_bytes >= ASKED_AT_ONCE || self.missing.len() >= RUNS {
            self.bring(true)?;
        }
        Ok(())
    }

    /// Copies what is to be copied.
    fn copy(&mut self) -> Result<(), NotFetched> {
        let Some(Copy { from, to, length }) = self.copy.take() else { return Ok(()) };
        let Some(older) = &mut self.here.older else { return Ok(()) };
        match older.copy_to(self.sought.to, (from, to), length) {
            Ok(Ok(())) => self.found += length,
            Ok(Err(why)) => return Err(NotFetched::Passing(format!("the older version here: {why}"))),
            Err(mezzo_replica::Error::Host(error)) => return Err(NotFetched::Write(error)),
            Err(error) => return Err(NotFetched::Write(std::io::Error::other(error))),
        }
        if (self.is_wanted)() { Ok(()) } else { Err(NotFetched::Stopped) }
    }

    fn end(mut self) -> Result<Moved, NotFetched> {
        self.copy()?;
        self.bring(false)?;
        self.writer.end(self.sought.size)?;
        Ok(Moved { came: self.writer.came, found: self.found })
    }

    /// Brings what is missing.
    fn bring(&mut self, may_follow: bool) -> Result<(), NotFetched> {
        let missing = std::mem::take(&mut self.missing);
        self.missing_bytes = 0;
        let runs = runs_of(&missing);
        if !runs.is_empty() || self.asking.is_some() {
            self.ask(Runs { runs: runs.iter().flat_map(|run| [run.0, run.1]).collect(), may_follow })?;
        }
        let Some(asking) = &mut self.asking else { return Ok(()) };
        let mut check =
            Check { chunks: missing.into_iter(), left: 0, digest: [0; DIGEST_BYTES], hasher: Hasher::new() };
        for (from, length) in runs {
            let (mut at, end) = (from, from + length);
            while at < end {
                let (piece, bytes) = asking.piece(at, end)?;
                let plain = self.writer.unpack(&piece, bytes)?;
                // Nothing is written that is not what was told of, but for the beginning of a chunk that turns out not to be.
                check.take(plain.as_deref(), at, piece.length)?;
                self.writer.write(at, piece.length, plain)?;
                at += piece.length;
            }
        }
        asking.is_answered = !may_follow;
        Ok(())
    }

    fn ask(&mut self, runs: Runs) -> Result<(), NotFetched> {
        if let Some(asking) = &self.asking {
            asking.say(Body::Further(runs));
            return Ok(());
        }
        let Sought { object, version, size, .. } = *self.sought;
        let version = Version::new(object, version, size);
        let want = Want { version, runs, answers: WINDOW, with_digests: false };
        self.asking = Some(self.fetches.ask(Body::Want(want), self.is_wanted)?);
        Ok(())
    }
}

/// Chunks that stand one behind the other make one run.
fn runs_of(chunks: &[(u64, Chunk)]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (at, chunk) in chunks {
        match runs.last_mut() {
            Some((from, length)) if *from + *length == *at => *length += chunk.length,
            _ => runs.push((*at, chunk.length)),
        }
    }
    runs
}

/// Compares bytes that come with the chunks that were told of.
struct Check<I> {
    chunks: I,
    /// Bytes that are still to come of the chunk that has begun, and its digest.
    left: u64,
    digest: [u8; DIGEST_BYTES],
    hasher: Hasher,
}

impl<I: Iterator<Item = (u64, Chunk)>> Check<I> {
    /// `length` bytes came, at `at`; zeros where there are none.
    fn take(&mut self, bytes: Option<&[u8]>, at: u64, length: u64) -> Result<(), NotFetched> {
        let mut taken = 0;
        while taken < length {
            if self.left == 0 {
                let chunk = self.chunks.next().map(|(_, chunk)| chunk);
                let Some(chunk) = chunk else { return Err(NotFetched::Wrong("it has no end".to_owned())) };
                (self.left, self.digest) = (chunk.length, chunk.digest);
                self.hasher.reset();
            }
            let step = self.left.min(length - taken);
            match bytes {
                Some(bytes) => {
                    self.hasher.update(&bytes[taken as usize..(taken + step) as usize]);
                }
                None => {
                    let mut zeros = step;
                    while zeros > 0 {
                        let some = zeros.min(ZEROS.len() as u64);
                        self.hasher.update(&ZEROS[..some as usize]);
                        zeros -= some;
                    }
                }
            }
            (taken, self.left) = (taken + step, self.left - step);
            if self.left == 0 && self.hasher.finalize().as_bytes() != &self.digest {
                return Err(NotFetched::Wrong(format!("a chunk that ends at {} is another", at + taken)));
            }
        }
        Ok(())
    }
}
