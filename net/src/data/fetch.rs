//! Getting data from another.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use mezzo_replica::host;
use mezzo_replica::reading::Reading;
use mezzo_replica::receive::Sought;
use parking_lot::Mutex;

use super::chunks::Lengths;
use super::{
    Answer, Body, CHUNKED_FROM, DataMessage, Describe, Gone, More, PIECE_BYTES, Piece, Runs, Stop, Version,
    WINDOW, Want, gather,
};
use crate::session::{Sender, Urgency};

/// How long the next answer may take to come.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How often it is looked whether the data is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Why data did not come.
#[derive(Debug, thiserror::Error)]
pub enum NotFetched {
    /// There is no connection, or it ended.
    #[error("there is no connection to who has it")]
    Offline,
    /// The other does not have it.
    #[error("the other side has it not: {0}")]
    Gone(String),
    /// The other can't give it just now.
    #[error("the other side can't give it: {0}")]
    Passing(String),
    /// Nothing came for too long.
    #[error("nothing came for {} seconds", PATIENCE.as_secs())]
    TooSlow,
    /// What came is not what was asked for.
    #[error("what came is not what was asked for: {0}")]
    Wrong(String),
    /// Nobody wants it any more.
    #[error("it is not wanted any more")]
    Stopped,
    /// It could not be written here.
    #[error("could not write it: {0}")]
    Write(#[from] io::Error),
}

/// What it took to get a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of pieces that came, as they came: compressed, and without zeros.
    pub came: u64,
    /// Bytes that were here already.
    pub found: u64,
}

/// What is asked of one peer.
pub struct Fetches {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where questions go; `None` without a connection.
    sender: Option<Sender>,
    last: u64,
    waiting: HashMap<u64, SyncSender<Answer>>,
}

impl Fetches {
    /// Without a connection.
    pub fn new() -> Arc<Fetches> {
        Arc::new(Fetches { state: Mutex::default() })
    }

    /// There is a connection now, or no more.
    pub(crate) fn connect(&self, sender: Option<Sender>) {
        let mut state = self.state.lock();
        state.sender = sender;
        // Who waits is told by the end of its channel.
        state.waiting.clear();
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.state.lock().sender.is_some()
    }

    /// An answer came.
    pub(crate) fn hear(&self, number: u64, answer: Answer) -> Result<(), String> {
        let state = self.state.lock();
        // What is not wanted any more was on its way.
        let Some(waiting) = state.waiting.get(&number) else { return Ok(()) };
        waiting.try_send(answer).map_err(|_| "more data came than was asked for".to_owned())
    }

    /// Gets a version. `older`, where there is one, is another version of the same file, from which what is the same is taken.
    /// In a file that is partial none of what an earlier attempt left is believed unseen. `is_wanted` is asked now and then. Where it ends early, what came stays in the file, to go on with.
    pub fn fetch(
        &self,
        sought: &Sought<'_>,
        older: Option<&mut Reading<'_>>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Moved, NotFetched> {
        let lengths = Lengths::of(sought.size).filter(|_| sought.size >= CHUNKED_FROM);
        match lengths.filter(|_| sought.is_partial || older.is_some()) {
            Some(lengths) => gather::gather(self, sought, lengths, older, is_wanted),
            None => self.fetch_plain(sought, is_wanted),
        }
    }

    /// From the first byte to the last.
    fn fetch_plain(&self, sought: &Sought<'_>, is_wanted: &dyn Fn() -> bool) -> Result<Moved, NotFetched> {
        let Sought { object, version, size, to, .. } = *sought;
        if host::stat(to)?.attributes.size > 0 {
            host::set_size(to, 0)?;
        }
        let mut writer = Writer::new(to)?;
        let want = Want {
            version: Version::new(object, version, size),
            runs: Runs { runs: vec![0, size], may_follow: false },
            answers: WINDOW,
            with_digests: true,
        };
        let mut question = self.ask(Body::Want(want), is_wanted)?;
        let mut at = 0;
        while at < size {
            let (piece, bytes) = question.piece(at, size)?;
            let plain = writer.unpack(&piece, bytes)?;
            if let Some(plain) = &plain
                && blake3::hash(plain).as_bytes()[..] != piece.digest[..]
            {
                return Err(NotFetched::Wrong(format!(
                    "the digest of {} bytes at {at} does not fit",
                    piece.length
                )));
            }
            writer.write(at, piece.length, plain)?;
            at += piece.length;
        }
        writer.end(size)?;
        question.is_answered = true;
        Ok(Moved { came: writer.came, found: 0 })
    }

    /// Asks something; the answers come by the question.
    pub(super) fn ask<'a>(
        &'a self,
        body: Body,
        is_wanted: &'a dyn Fn() -> bool,
    ) -> Result<Question<'a>, NotFetched> {
        // Room for an end beside them.
        let (answers, coming) = sync_channel(WINDOW as usize + 1);
        let mut state = self.state.lock();
        let Some(sender) = state.sender.clone() else { return Err(NotFetched::Offline) };
        state.last += 1;
        let number = state.last;
        state.waiting.insert(number, answers);
        drop(state);
        let question = Question {
            fetches: self,
            sender,
            number,
            coming,
            is_wanted,
            heard: 0,
            allowed: WINDOW,
            is_answered: false,
        };
        question.say(body);
        Ok(question)
    }
}

impl Describe {
    pub(super) fn of(sought: &Sought<'_>) -> Describe {
        Describe { version: Version::new(sought.object, sought.version, sought.size), answers: WINDOW }
    }
}

/// One question, and what comes of it. The other is told to stop when it is dropped before it was answered.
pub(super) struct Question<'a> {
    fetches: &'a Fetches,
    sender: Sender,
    number: u64,
    coming: Receiver<Answer>,
    is_wanted: &'a dyn Fn() -> bool,
    heard: u64,
    allowed: u64,
    /// All answers came.
    pub is_answered: bool,
}

impl Question<'_> {
    pub fn say(&self, body: Body) {
        self.sender.data(&DataMessage::new(self.number, body), Urgency::Now);
    }

    /// The next answer.
    pub fn next(&mut self) -> Result<Answer, NotFetched> {
        let mut waited = Duration::ZERO;
        let answer = loop {
            if !(self.is_wanted)() {
                return Err(NotFetched::Stopped);
            }
            match self.coming.recv_timeout(LOOK) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Disconnected) => return Err(NotFetched::Offline),
                Err(RecvTimeoutError::Timeout) => waited += LOOK,
            }
            if waited >= PATIENCE {
                return Err(NotFetched::TooSlow);
            }
        };
        if let Answer::Gone(Gone { message, is_passing }) = answer {
            self.is_answered = true;
            return Err(if is_passing { NotFetched::Passing(message) } else { NotFetched::Gone(message) });
        }
        self.heard += 1;
        if self.allowed < self.heard + WINDOW / 2 {
            self.allowed = self.heard + WINDOW;
            self.say(Body::More(More { answers: self.allowed }));
        }
        Ok(answer)
    }

    /// The next piece, which begins at `at` and ends at `end` at the latest.
    pub fn piece(&mut self, at: u64, end: u64) -> Result<(Piece, Bytes), NotFetched> {
        let Answer::Piece(piece, bytes) = self.next()? else {
            return Err(NotFetched::Wrong("it is no piece".to_owned()));
        };
        let Piece { offset, length, .. } = piece;
        let is_of_zeros = bytes.is_empty();
        let most = if is_of_zeros { u64::MAX } else { PIECE_BYTES as u64 };
        if offset != at || length == 0 || length > most || length > end - at {
            return Err(NotFetched::Wrong(format!("{length} bytes at {offset} instead of {at}..{end}")));
        }
        Ok((piece, bytes))
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.fetches.state.lock().waiting.remove(&self.number);
        if !self.is_answered {
            self.say(Body::Stop(Stop {}));
        }
    }
}

/// Writes pieces to their places.
pub(super) struct Writer {
    file: File,
    /// How far the file reaches: what is behind has no bytes that would have to become zeros.
    reaches: u64,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
    /// Bytes that came.
    pub came: u64,
}

impl Writer {
    pub fn new(to: BorrowedFd<'_>) -> Result<Writer, NotFetched> {
        let file: File = to.try_clone_to_owned()?.into();
        let reaches = file.metadata()?.len();
        Ok(Writer { file, reaches, decompressor: None, came: 0 })
    }

    /// A piece's bytes as they were before they were compressed; `None` where all are zeros.
    pub fn unpack(&mut self, piece: &Piece, bytes: Bytes) -> Result<Option<Bytes>, NotFetched> {
        self.came += bytes.len() as u64;
        let length = piece.length as usize;
        let bytes = match piece.is_compressed && !bytes.is_empty() {
            true => {
                let decompressor = match &mut self.decompressor {
                    Some(decompressor) => decompressor,
                    none => none.insert(zstd::bulk::Decompressor::new()?),
                };
                // It has no more than is told, whatever it says itself.
                decompressor.decompress(&bytes, length).map_or(Bytes::new(), Bytes::from)
            }
            false if bytes.is_empty() => return Ok(None),
            false => bytes,
        };
        if bytes.len() != length {
            return Err(NotFetched::Wrong(format!("{} bytes at {} for {length}", bytes.len(), piece.offset)));
        }
        Ok(Some(bytes))
    }

    pub fn write(&mut self, at: u64, length: u64, bytes: Option<Bytes>) -> Result<(), NotFetched> {
        match bytes {
            Some(bytes) => self.file.write_all_at(&bytes, at)?,
            None => self.clear(at, length)?,
        }
        Ok(())
    }

    /// Makes bytes zeros, holes where the host has them.
    pub fn clear(&self, at: u64, length: u64) -> Result<(), NotFetched> {
        let end = (at + length).min(self.reaches);
        if at < end && host::next_data(self.file.as_fd(), at)?.is_some_and(|data| data < end) {
            host::clear(self.file.as_fd(), at, end - at)?;
        }
        Ok(())
    }

    /// Gives the file its size: its end may be of zeros, which were not written.
    pub fn end(&self, size: u64) -> Result<(), NotFetched> {
        if self.file.metadata()?.len() != size {
            self.file.set_len(size)?;
        }
        Ok(())
    }
}
