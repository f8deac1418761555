//! What a file consists of: chunks that are cut where its content says, so that what is put in or taken out somewhere changes
//! the chunks there, and no others.
//!
//! FastCDC in the form of 2020 cuts them. Zeros are told apart before, so that holes cost nothing.

use bytes::{BufMut, BytesMut};
use fastcdc::v2020::FastCDC;
use mezzo_replica::Error;
use mezzo_replica::reading::Reading;
use mezzo_replica::versions::Had;

use super::{CHUNKS, Chunks, ZEROS_FROM};

/// Bytes of a BLAKE3 digest.
pub(super) const DIGEST_BYTES: usize = 32;

/// What stands for the digest of zeros.
const OF_ZEROS: [u8; DIGEST_BYTES] = [0; DIGEST_BYTES];

/// Bytes of a file up to which its chunks have 64 KiB on the average; those of larger files have more, so that no file has more
/// than four million, or one million as a rule.
const SMALLEST_UPTO: u64 = 64 << 30;

/// How often that can be doubled: up to 4 TiB. Larger files have no chunks.
const DOUBLINGS: u32 = 6;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub length: u64,
    pub digest: [u8; DIGEST_BYTES],
}

impl Chunk {
    pub fn zeros(length: u64) -> Chunk {
        Chunk { length, digest: OF_ZEROS }
    }

    pub fn is_zeros(&self) -> bool {
        self.digest == OF_ZEROS
    }
}

/// How long chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub least: usize,
    pub average: usize,
    pub most: usize,
}

impl Lengths {
    /// Those of a file of `size` bytes; `None` where it is too large.
    pub fn of(size: u64) -> Option<Lengths> {
        let doublings = (0..=DOUBLINGS).find(|doublings| size >> doublings <= SMALLEST_UPTO)?;
        Some(Lengths { least: 16 << 10, average: 64 << 10, most: 256 << 10 }.times(1 << doublings))
    }

    fn times(self, factor: usize) -> Lengths {
        Lengths { least: self.least * factor, average: self.average * factor, most: self.most * factor }
    }
}

/// Cuts all of `reading` into chunks and hands over each, until `each` says to stop. Returns false where it did.
pub(super) fn cut(
    reading: &mut Reading<'_>,
    lengths: Lengths,
    each: &mut dyn FnMut(Chunk) -> bool,
) -> Result<Had<bool>, Error> {
    let size = reading.size();
    let mut zeros = 0;
    let mut emit = |chunk: Chunk| {
        if chunk.is_zeros() {
            zeros += chunk.length;
            return true;
        }
        let before = std::mem::take(&mut zeros);
        (before == 0 || each(Chunk::zeros(before))) && each(chunk)
    };
    // Two of the longest, so that what is left over is moved once for each.
    let mut buffer = vec![0; lengths.most * 4];
    let mut at = 0;
    while at < size {
        let (start, end) = match next_span(reading, at)? {
            Ok(span) => span,
            Err(why) => return Ok(Err(why)),
        };
        if start > at && !emit(Chunk::zeros(start - at)) {
            return Ok(Ok(false));
        }
        match cut_span(reading, (start, end), lengths, &mut buffer, &mut emit)? {
            Ok(true) => at = end,
            stopped => return Ok(stopped),
        }
    }
    Ok(Ok(zeros == 0 || each(Chunk::zeros(zeros))))
}

/// The next bytes at or after `at` that are not of one long hole.
fn next_span(reading: &mut Reading<'_>, at: u64) -> Result<Had<(u64, u64)>, Error> {
    let size = reading.size();
    macro_rules! had {
        ($had:expr) => {
            match $had? {
                Ok(had) => had,
                Err(why) => return Ok(Err(why)),
            }
        };
    }
    let next = had!(reading.next_data(at)).unwrap_or(size);
    let start = if next - at >= ZEROS_FROM || next == size { next } else { at };
    let mut end = next;
    while end < size {
        end = had!(reading.next_hole(end));
        let next = had!(reading.next_data(end)).unwrap_or(size);
        if next - end >= ZEROS_FROM || next == size {
            break;
        }
        end = next;
    }
    Ok(Ok((start, end)))
}

fn cut_span(
    reading: &mut Reading<'_>,
    (start, end): (u64, u64),
    lengths: Lengths,
    buffer: &mut [u8],
    emit: &mut dyn FnMut(Chunk) -> bool,
) -> Result<Had<bool>, Error> {
    let Lengths { least, average, most } = lengths;
    // What was read and is not cut yet is the first `held` bytes of the buffer.
    let (mut read, mut held) = (start, 0);
    while read < end || held > 0 {
        let more = (end - read).min((buffer.len() - held) as u64) as usize;
        if let Err(why) = reading.read_at(&mut buffer[held..held + more], read)? {
            return Ok(Err(why));
        }
        (read, held) = (read + more as u64, held + more);
        let chunker = FastCDC::new(&buffer[..held], least, average, most);
        let mut at = 0;
        // Where a chunk ends must not depend on how much was read by chance.
        while at < held && (held - at >= most || read == end) {
            let (_, cut) = chunker.cut(at, held - at);
            let bytes = &buffer[at..cut];
            let is_zeros = bytes.len() as u64 >= ZEROS_FROM && is_zeros(bytes);
            let digest = if is_zeros { OF_ZEROS } else { *blake3::hash(bytes).as_bytes() };
            if !emit(Chunk { length: bytes.len() as u64, digest }) {
                return Ok(Ok(false));
            }
            at = cut;
        }
        buffer.copy_within(at..held, 0);
        held -= at;
    }
    Ok(Ok(true))
}

pub(super) fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    rest.iter().all(|byte| *byte == 0) && words.iter().all(|word| word == &[0; 64])
}

impl Chunks {
    pub(super) fn of(chunks: &[Chunk]) -> Chunks {
        let mut digests = BytesMut::with_capacity(chunks.len() * DIGEST_BYTES);
        chunks.iter().for_each(|chunk| digests.put_slice(&chunk.digest));
        Chunks { lengths: chunks.iter().map(|chunk| chunk.length).collect(), digests: digests.freeze() }
    }
}

/// What was told of a version's chunks so far, checked.
pub(super) struct Told {
    size: u64,
    lengths: Lengths,
    /// Where the next chunk begins.
    at: u64,
    /// The last chunk, which the next one must fit.
    last: Option<Chunk>,
}

impl Told {
    pub fn new(size: u64, lengths: Lengths) -> Told {
        Told { size, lengths, at: 0, last: None }
    }

    pub fn is_whole(&self) -> bool {
        self.at == self.size
    }

    /// The chunks of a message, each with where it begins; or what is wrong with them.
    pub fn take(&mut self, chunks: &Chunks) -> Result<Vec<(u64, Chunk)>, String> {
        let (digests, rest) = chunks.digests.as_chunks::<DIGEST_BYTES>();
        if chunks.lengths.len() > CHUNKS || digests.len() != chunks.lengths.len() || !rest.is_empty() {
            let (lengths, bytes) = (chunks.lengths.len(), chunks.digests.len());
            return Err(format!("{lengths} chunks with {bytes} bytes of digests"));
        }
        let mut taken = Vec::with_capacity(digests.len());
        for (length, digest) in chunks.lengths.iter().zip(digests) {
            let chunk = Chunk { length: *length, digest: *digest };
            if !self.fits(chunk) {
                return Err(format!("a chunk of {length} bytes at {} of {}", self.at, self.size));
            }
            taken.push((self.at, chunk));
            self.at += length;
            self.last = Some(chunk);
        }
        Ok(taken)
    }

    /// Chunks are as long as they are to be, but before zeros and at the end. So there are not more than the size allows.
    fn fits(&self, chunk: Chunk) -> bool {
        let Lengths { least, most, .. } = self.lengths;
        let is_end = self.at.checked_add(chunk.length) == Some(self.size);
        let was_zeros = self.last.is_some_and(|last| last.is_zeros());
        let was_short = self.last.is_some_and(|last| !last.is_zeros() && last.length < least as u64);
        let is_long_enough = match chunk.is_zeros() {
            true => !was_zeros && (chunk.length >= ZEROS_FROM || is_end),
            false => !was_short && chunk.length <= most as u64,
        };
        chunk.length > 0 && chunk.length <= self.size - self.at && is_long_enough
    }
}
