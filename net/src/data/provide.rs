//! Sending data that another asks for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use mezzo_core::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use mezzo_replica::Replica;
use parking_lot::{Condvar, Mutex};

use super::{AT_ONCE, Body, DataMessage, Gone, PIECE_BYTES, Piece, Want};
use crate::session::{Sender, Urgency};

/// Questions of one peer that may wait at once.
const QUESTIONS: usize = 4096;

/// Of a piece, bytes by which it is told whether compressing it is worth while.
const SAMPLE: usize = 16 << 10;

/// What one peer is sent.
pub struct Provider {
    replica: Arc<Replica>,
    sender: Sender,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the number of the question: up to where may be sent; `None` where it was given up.
    running: HashMap<u64, Option<u64>>,
    at_once: usize,
    is_closed: bool,
}

impl Provider {
    pub fn new(replica: Arc<Replica>, sender: Sender) -> Arc<Provider> {
        Arc::new(Provider { replica, sender, state: Mutex::default(), changed: Condvar::new() })
    }

    /// A version is wanted. It is sent by a thread of its own.
    pub fn want(self: &Arc<Provider>, number: u64, want: Want) -> Result<(), String> {
        let mut state = self.state.lock();
        if state.running.len() >= QUESTIONS || state.running.contains_key(&number) {
            return Err(format!("question {number} for data came while {} wait", state.running.len()));
        }
        state.running.insert(number, Some(want.upto));
        drop(state);
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            if this.begin(number) {
                if let Err(gone) = this.send(number, want) {
                    this.say(number, Body::Gone(gone), Urgency::Now);
                }
                this.state.lock().at_once -= 1;
            }
            this.state.lock().running.remove(&number);
            this.changed.notify_all();
        });
        Ok(())
    }

    /// More may be sent.
    pub fn more(&self, number: u64, upto: u64) {
        if let Some(Some(allowed)) = self.state.lock().running.get_mut(&number) {
            *allowed = upto.max(*allowed);
        }
        self.changed.notify_all();
    }

    /// No more is wanted.
    pub fn stop(&self, number: u64) {
        if let Some(allowed) = self.state.lock().running.get_mut(&number) {
            *allowed = None;
        }
        self.changed.notify_all();
    }

    /// The connection has ended.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits until it is this question's turn; false where nobody wants it any more.
    fn begin(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_closed || matches!(state.running.get(&number), Some(None)) {
                return false;
            }
            if state.at_once < AT_ONCE {
                state.at_once += 1;
                return true;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until `upto` may be sent; false where nobody wants it any more.
    fn may_send(&self, number: u64, upto: u64) -> bool {
        let mut state = self.state.lock();
        loop {
            match state.running.get(&number) {
                Some(Some(_)) if state.is_closed => return false,
                Some(Some(allowed)) if *allowed >= upto => return true,
                Some(Some(_)) => self.changed.wait(&mut state),
                _ => return false,
            }
        }
    }

    fn send(&self, number: u64, want: Want) -> Result<(), Gone> {
        let gone = |message: String, is_passing: bool| Gone { message, is_passing };
        let origin = |replica, recno| Origin::new(ReplicaId(replica), Recno(recno));
        let object = ObjectId(origin(want.object_replica, want.object_recno));
        let version = DataVersion(origin(want.version_replica, want.version_recno));
        let had = self.replica.open_version(object, version, want.size);
        let file: File = match had {
            Ok(Ok(file)) => file.into(),
            Ok(Err(why)) => return Err(gone(why.to_owned(), false)),
            Err(error) => return Err(gone(error.to_string(), true)),
        };
        let mut buffer = vec![0; PIECE_BYTES];
        let mut at = want.from.min(want.size);
        while at < want.size {
            let length = (want.size - at).min(PIECE_BYTES as u64) as usize;
            // A piece is only begun when there is room for all of it.
            if !self.may_send(number, at + length as u64) {
                return Ok(());
            }
            file.read_exact_at(&mut buffer[..length], at).map_err(|error| gone(error.to_string(), true))?;
            let piece = piece(at, &buffer[..length]);
            if !self.say(number, Body::Piece(piece), Urgency::Waits) {
                return Ok(());
            }
            at += length as u64;
        }
        Ok(())
    }

    fn say(&self, number: u64, body: Body, urgency: Urgency) -> bool {
        self.sender.data(&DataMessage::new(number, body), urgency)
    }
}

fn piece(offset: u64, bytes: &[u8]) -> Piece {
    let digest = blake3::hash(bytes).as_bytes().to_vec();
    let length = bytes.len() as u64;
    if bytes.iter().all(|byte| *byte == 0) {
        return Piece { offset, length, bytes: Vec::new(), is_compressed: false, digest };
    }
    let compress = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).ok();
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let is_worth_while = compress(sample).is_some_and(|compressed| compressed.len() < sample.len() / 8 * 7);
    match compress(bytes).filter(|compressed| compressed.len() < bytes.len()) {
        Some(compressed) if is_worth_while => {
            Piece { offset, length, bytes: compressed, is_compressed: true, digest }
        }
        _ => Piece { offset, length, bytes: bytes.to_vec(), is_compressed: false, digest },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_compressed_where_that_is_worth_while() {
        let text = b"the same again and again, ".repeat(4000);
        let noise: Vec<u8> =
            (0..100_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let squeezed = piece(7, &text);
        assert!(squeezed.is_compressed && squeezed.bytes.len() < text.len() / 10);
        assert_eq!(squeezed.length, text.len() as u64);
        assert_eq!(piece(0, &[0; 5000]).bytes, Vec::<u8>::new());
        let random = blake3::Hasher::new().update(&noise).finalize_xof();
        let mut bytes = vec![0; 50_000];
        let mut random = random;
        random.fill(&mut bytes);
        assert!(!piece(0, &bytes).is_compressed);
    }
}
