//! Getting data from another.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use mezzo_core::{DataVersion, ObjectId};
use parking_lot::Mutex;

use super::{Body, DataMessage, Gone, More, PIECE_BYTES, Piece, Stop, WINDOW_BYTES, Want};
use crate::session::{Sender, Urgency};

/// How long the next piece may take to come.
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

type Answer = Result<Piece, Gone>;

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

    /// Writes bytes of a version to `to`, from byte `from` on, in their places. `is_wanted` is asked now and then. Returns how
    /// many bytes came over the wire.
    pub fn fetch(
        &self,
        (object, version, size): (ObjectId, DataVersion, u64),
        from: u64,
        to: BorrowedFd<'_>,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<u64, NotFetched> {
        let file: File = to.try_clone_to_owned()?.into();
        let (answers, coming) = sync_channel((WINDOW_BYTES as usize).div_ceil(PIECE_BYTES) + 2);
        let (sender, number) = {
            let mut state = self.state.lock();
            let Some(sender) = state.sender.clone() else { return Err(NotFetched::Offline) };
            state.last += 1;
            let number = state.last;
            state.waiting.insert(number, answers);
            (sender, number)
        };
        let question = Question { fetches: self, sender: &sender, number };
        question.say(Body::Want(Want {
            object_replica: object.0.replica.0,
            object_recno: object.0.recno.0,
            version_replica: version.0.replica.0,
            version_recno: version.0.recno.0,
            size,
            from,
            upto: from + WINDOW_BYTES,
        }));
        let result = question.take(&coming, (from, size), &file, is_wanted);
        if let Err(NotFetched::Stopped | NotFetched::Wrong(_) | NotFetched::Write(_)) = &result {
            question.say(Body::Stop(Stop {}));
        }
        result
    }
}

struct Question<'a> {
    fetches: &'a Fetches,
    sender: &'a Sender,
    number: u64,
}

impl Question<'_> {
    fn say(&self, body: Body) {
        self.sender.data(&DataMessage::new(self.number, body), Urgency::Now);
    }

    fn take(
        &self,
        coming: &Receiver<Answer>,
        (from, size): (u64, u64),
        file: &File,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<u64, NotFetched> {
        let (mut at, mut allowed, mut wire) = (from, from + WINDOW_BYTES, 0);
        let mut plain = Vec::new();
        while at < size {
            let piece = match self.next(coming, is_wanted)? {
                Ok(piece) => piece,
                Err(Gone { message, is_passing: false }) => return Err(NotFetched::Gone(message)),
                Err(Gone { message, .. }) => return Err(NotFetched::Passing(message)),
            };
            if piece.offset != at
                || piece.length == 0
                || piece.length > PIECE_BYTES as u64
                || at + piece.length > size
            {
                return Err(NotFetched::Wrong(format!("{} bytes at {}", piece.length, piece.offset)));
            }
            wire += piece.bytes.len() as u64;
            write(&piece, &mut plain, file)?;
            at += piece.length;
            if allowed < at + WINDOW_BYTES / 2 && allowed < size {
                allowed = at + WINDOW_BYTES;
                self.say(Body::More(More { upto: allowed }));
            }
        }
        Ok(wire)
    }

    fn next(&self, coming: &Receiver<Answer>, is_wanted: &dyn Fn() -> bool) -> Result<Answer, NotFetched> {
        let mut waited = Duration::ZERO;
        loop {
            match coming.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(NotFetched::Offline),
                Err(RecvTimeoutError::Timeout) => waited += LOOK,
            }
            if !is_wanted() {
                return Err(NotFetched::Stopped);
            }
            if waited >= PATIENCE {
                return Err(NotFetched::TooSlow);
            }
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.fetches.state.lock().waiting.remove(&self.number);
    }
}

/// Checks a piece and writes it. Zeros are left out where the file has none yet.
fn write(piece: &Piece, plain: &mut Vec<u8>, file: &File) -> Result<(), NotFetched> {
    let wrong = |why: &str| NotFetched::Wrong(format!("{why}, at byte {}", piece.offset));
    let length = piece.length as usize;
    plain.clear();
    if piece.bytes.is_empty() {
        plain.resize(length, 0);
    } else if piece.is_compressed {
        plain.resize(length, 0);
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let came = decompressor.decompress_to_buffer(&piece.bytes, &mut plain[..]);
        if came.ok() != Some(length) {
            return Err(wrong("what is compressed is not what it says"));
        }
    } else {
        plain.extend_from_slice(&piece.bytes);
    }
    if plain.len() != length || blake3::hash(plain).as_bytes()[..] != piece.digest[..] {
        return Err(wrong("its digest does not fit"));
    }
    let end = piece.offset + piece.length;
    let has = rustix::fs::fstat(file.as_fd()).map_err(io::Error::from)?.st_size as u64;
    if piece.bytes.is_empty() && has <= piece.offset {
        return Ok(file.set_len(end)?);
    }
    Ok(file.write_all_at(plain, piece.offset)?)
}
