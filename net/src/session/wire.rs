//! Frames of a connection: records and what is said of them, and data beside them. What was said goes before data that waits.

use mezzo_core::session::MESSAGE_BYTES;
use mezzo_core::session::message::Message;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::{Notify, mpsc};

use crate::data::DataMessage;
use crate::frame::{FrameError, FrameLimits, FrameReader, FrameWriter};
use crate::limits;

const SESSION: u8 = 0x10;
const DATA: u8 = 0x11;

/// How messages of enrolment begin: one may come instead of a hello.
const ENROLMENT: u8 = 1;

/// Frames of data that may wait to be written. Whoever has more waits.
const DATA_WAITING: usize = 4;

/// Bytes that may wait to be written before nothing more is read: who asks and does not listen is not asked on.
const BACKLOG: usize = 4 * mezzo_core::session::WINDOW_BYTES;

/// What a frame holds.
#[derive(Debug)]
pub enum Frame {
    /// A message of the session.
    Session(Message),
    /// Of the data beside it.
    Data(DataMessage),
    /// A client's certificate is to be renewed.
    Renewal,
}

/// What a peer sent is none of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The frame did not come whole.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It holds nothing that is known.
    #[error("a frame came that is no message: {0}")]
    NoMessage(String),
}

impl Frame {
    pub fn read(bytes: &[u8]) -> Result<Frame, WireError> {
        let no_message = |cause: &dyn std::fmt::Display| WireError::NoMessage(cause.to_string());
        match bytes.split_first() {
            Some((&SESSION, body)) => {
                Ok(Frame::Session(Message::decode(body).map_err(|error| no_message(&error))?))
            }
            Some((&DATA, body)) => {
                Ok(Frame::Data(DataMessage::decode(body).map_err(|error| no_message(&error))?))
            }
            Some((&ENROLMENT, _)) => Ok(Frame::Renewal),
            Some((channel, _)) => Err(no_message(&format!("there is no channel {channel}"))),
            None => Err(no_message(&"it is empty")),
        }
    }
}

/// Whether something may wait for other things to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It is written next; what there is of it is bounded by the session's window.
    Now,
    /// It waits.
    Waits,
}

/// Where frames are put to be written.
#[derive(Clone, Debug)]
pub struct Sender {
    now: mpsc::UnboundedSender<Vec<u8>>,
    waits: mpsc::Sender<Vec<u8>>,
    backlog: Arc<Backlog>,
}

/// What was said and is not written yet.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    written: Notify,
}

/// What a frame takes of memory at least.
fn weight(bytes: &[u8]) -> usize {
    bytes.len() + 64
}

impl Sender {
    pub fn session(&self, message: &Message) {
        let mut bytes = vec![SESSION];
        // It has room in memory, else encoding can't fail.
        let _ = message.encode(&mut bytes);
        self.raw(bytes);
    }

    pub fn raw(&self, bytes: Vec<u8>) -> bool {
        self.backlog.bytes.fetch_add(weight(&bytes), Ordering::Relaxed);
        self.now.send(bytes).is_ok()
    }

    /// Waits until not too much waits to be written.
    pub async fn room(&self) {
        while self.backlog.bytes.load(Ordering::Relaxed) > BACKLOG {
            self.backlog.written.notified().await;
        }
    }

    /// From a thread of its own, which waits where much waits already. False where the connection has ended.
    pub fn data(&self, message: &DataMessage, urgency: Urgency) -> bool {
        let mut bytes = vec![DATA];
        let _ = message.encode(&mut bytes);
        match urgency {
            Urgency::Now => self.raw(bytes),
            Urgency::Waits => self.waits.blocking_send(bytes).is_ok(),
        }
    }
}

/// The two halves of a connection. Writing is done by a task of its own, which ends when nobody can send any more, or with the
/// connection.
pub fn open<S>(
    stream: S,
) -> (FrameReader<ReadHalf<S>>, Sender, tokio::task::JoinHandle<Result<(), FrameError>>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let frames = FrameLimits { bytes: MESSAGE_BYTES + 1024, time: limits::FRAME_TIME };
    let reader = FrameReader::new(read, frames);
    let mut writer = FrameWriter::new(write, frames);
    let (now, mut said) = mpsc::unbounded_channel::<Vec<u8>>();
    let (waits, mut waiting) = mpsc::channel::<Vec<u8>>(DATA_WAITING);
    let backlog = Arc::new(Backlog::default());
    let behind = backlog.clone();
    let writing = tokio::spawn(async move {
        let taken = |bytes: &[u8]| {
            behind.bytes.fetch_sub(weight(bytes), Ordering::Relaxed);
            behind.written.notify_one();
        };
        loop {
            let next = match (said.try_recv(), waiting.try_recv()) {
                (Err(_), Err(_)) => {
                    writer.flush().await?;
                    tokio::select! {
                        biased;
                        bytes = said.recv() => match bytes {
                            Some(bytes) => (Some(bytes), None),
                            None => break,
                        },
                        Some(bytes) = waiting.recv() => (None, Some(bytes)),
                    }
                }
                (now, later) => (now.ok(), later.ok()),
            };
            if let (Some(bytes), _) = &next {
                writer.write(&[bytes]).await?;
                taken(bytes);
            }
            if let (_, Some(bytes)) = &next {
                writer.write(&[bytes]).await?;
            }
        }
        writer.flush().await?;
        writer.shut_down().await
    });
    (reader, Sender { now, waits, backlog }, writing)
}
