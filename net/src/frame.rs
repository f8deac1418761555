//! Frames: a length of 4 bytes, little endian, and that many bytes.
//!
//! Who sends slowly is cut off: a frame has a time from its first byte to its last. Who announces much and sends nothing takes
//! no memory: room is made as bytes come.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::limits;

const LENGTH_BYTES: usize = 4;

/// Bytes of frames whose memory is used again, and how many are kept for it: as many as pieces of a file may wait to be
/// written while the next ones come.
const LONG_BYTES: std::ops::Range<usize> = 64 << 10..512 << 10;
const SPENT: usize = 8;

/// Bytes that are put together before they are written: a record of TLS.
const TOGETHER_BYTES: usize = 16 << 10;

/// A frame could not be read or written; the connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("could not {operation} a frame: {cause}")]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// It is longer than it may be.
    #[error("a frame of {length} bytes is too long: {limit} are the limit")]
    TooLong {
        /// What it has, or announces.
        length: usize,
        /// What it may have.
        limit: usize,
    },
    /// It took too long.
    #[error("could not {operation} a frame within {} s: the peer is too slow", time.as_secs_f32())]
    TooSlow {
        /// `read` or `write`.
        operation: &'static str,
        /// The time that it had.
        time: Duration,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame, after {0} bytes of it")]
    Cut(usize),
    /// An earlier frame was written in part only.
    #[error("could not write a frame: the one before was given up half way")]
    Broken,
}

/// What a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes after the length.
    pub bytes: usize,
    /// From its first byte to its last.
    pub time: Duration,
}

impl Default for FrameLimits {
    fn default() -> FrameLimits {
        FrameLimits { bytes: limits::FRAME_BYTES, time: limits::FRAME_TIME }
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    limits: FrameLimits,
    read: BytesMut,
    // When the first byte of what is in `read` came.
    begun: Option<Instant>,
    // Long frames that were handed out: their memory is used again when nobody has them any more, as fresh memory is dear.
    spent: VecDeque<Bytes>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `from`.
    pub fn new(from: R, limits: FrameLimits) -> FrameReader<R> {
        FrameReader { from, limits, read: BytesMut::new(), begun: None, spent: VecDeque::new() }
    }

    /// The next frame, without its length; `None` where the connection ends between two frames. Waits for the first byte as
    /// long as it takes. May be dropped before it is done, and called again: no byte is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let wanted = match self.announced()? {
                Some(length) if self.read.len() >= LENGTH_BYTES + length => {
                    return Ok(Some(self.take(length)));
                }
                Some(length) => LENGTH_BYTES + length,
                None => LENGTH_BYTES,
            };
            let missing = wanted - self.read.len();
            self.read.reserve(missing.min(limits::FRAME_AHEAD_BYTES));
            let read = self.from.read_buf(&mut self.read);
            let read = match self.begun {
                None => read.await,
                Some(begun) => match timeout_at(begun + self.limits.time, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        return Err(FrameError::TooSlow { operation: "read", time: self.limits.time });
                    }
                },
            };
            match read.map_err(|cause| FrameError::Io { operation: "read", cause })? {
                0 if self.read.is_empty() => return Ok(None),
                0 => return Err(FrameError::Cut(self.read.len())),
                _ => self.begun.get_or_insert_with(Instant::now),
            };
        }
    }

    /// Changes what later frames may be: a peer that is not known yet is trusted with less.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// What the frames are read from.
    pub fn get_ref(&self) -> &R {
        &self.from
    }

    /// The length of the frame that has begun, where that is known.
    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(length) = self.read.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        // usize has 32 bits at least on what Linux with FUSE runs on.
        let length = u32::from_le_bytes(*length) as usize;
        check(length, self.limits.bytes).map(Some)
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.read.advance(LENGTH_BYTES);
        let frame = self.read.split_to(length).freeze();
        self.begun = (!self.read.is_empty()).then(Instant::now);
        if !LONG_BYTES.contains(&length) {
            // A connection over which nothing long comes any more keeps none.
            self.spent.clear();
            return frame;
        }
        let unused =
            self.spent.iter().position(Bytes::is_unique).and_then(|at| self.spent.swap_remove_back(at));
        let mut next = unused.and_then(|frame| frame.try_into_mut().ok()).unwrap_or_default();
        next.clear();
        next.extend_from_slice(&self.read);
        self.read = next;
        self.spent.truncate(SPENT - 1);
        self.spent.push_front(frame.clone());
        frame
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    to: W,
    limits: FrameLimits,
    // Set while a frame is on its way: if that is given up, the peer would take what follows for the rest of it.
    within: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames to `to`.
    pub fn new(to: W, limits: FrameLimits) -> FrameWriter<W> {
        FrameWriter { to, limits, within: false }
    }

    /// Writes one frame that holds `parts` one after the other; it may stay in buffers until [`FrameWriter::flush`]. If this is
    /// dropped before it is done, nothing can be written any more.
    pub async fn write(&mut self, parts: &[&[u8]]) -> Result<(), FrameError> {
        let length = check(parts.iter().map(|part| part.len()).sum(), self.limits.bytes)?;
        // Each write may become a record of TLS and a packet: what is short goes with what follows.
        let mut first = Vec::with_capacity(TOGETHER_BYTES.min(LENGTH_BYTES + length));
        first.extend_from_slice(&(length as u32).to_le_bytes());
        let rests: Vec<&[u8]> = parts
            .iter()
            .map(|part| {
                let fits = part.len().min(TOGETHER_BYTES.saturating_sub(first.len()));
                first.extend_from_slice(&part[..fits]);
                &part[fits..]
            })
            .collect();
        self.within_time(async |to| {
            to.write_all(&first).await?;
            for rest in rests.iter().filter(|rest| !rest.is_empty()) {
                to.write_all(rest).await?;
            }
            Ok(())
        })
        .await
    }

    /// Sends what is in buffers.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        self.within_time(async |to| to.flush().await).await
    }

    /// What the frames are written to.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    /// Says that no more comes, which for TLS tells the end from a cut.
    pub async fn shut_down(&mut self) -> Result<(), FrameError> {
        self.within_time(async |to| to.shutdown().await).await
    }

    async fn within_time(
        &mut self,
        step: impl AsyncFnOnce(&mut W) -> io::Result<()>,
    ) -> Result<(), FrameError> {
        if std::mem::replace(&mut self.within, true) {
            return Err(FrameError::Broken);
        }
        match timeout_at(Instant::now() + self.limits.time, step(&mut self.to)).await {
            Ok(done) => done.map_err(|cause| FrameError::Io { operation: "write", cause })?,
            Err(_) => return Err(FrameError::TooSlow { operation: "write", time: self.limits.time }),
        }
        self.within = false;
        Ok(())
    }
}

fn check(length: usize, limit: usize) -> Result<usize, FrameError> {
    if length > limit { Err(FrameError::TooLong { length, limit }) } else { Ok(length) }
}

// The length is written in 32 bits.
const _: () = assert!(limits::FRAME_BYTES < u32::MAX as usize);
