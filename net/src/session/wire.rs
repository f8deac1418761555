//! Frames of a connection: records and what is said of them, and data beside them. What was said goes before data that waits.

use bytes::{Buf, Bytes};
use mezzo_core::session::MESSAGE_BYTES;
use mezzo_core::session::message::Message;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::mpsc;

use crate::data::{DataMessage, Piece};
use crate::frame::{FrameError, FrameLimits, FrameReader, FrameWriter};
use crate::limits;

const SESSION: u8 = 0x10;
const DATA: u8 = 0x11;

/// A piece of a file: the head, with its length before it, and the bytes, which are not copied for it.
const PIECE: u8 = 0x12;

/// How messages of enrolment begin: one may come instead of a hello.
const ENROLMENT: u8 = 1;

/// Frames of data that may wait to be written. Whoever has more waits.
const DATA_WAITING: usize = 4;

/// What a frame holds.
#[derive(Debug)]
pub enum Frame {
    /// A message of the session.
    Session(Message),
    /// Of the data beside it.
    Data(DataMessage),
    /// A piece of it, and its bytes.
    Piece(Piece, Bytes),
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
    pub fn read(frame: &Bytes) -> Result<Frame, WireError> {
        let no_message = |cause: &dyn std::fmt::Display| WireError::NoMessage(cause.to_string());
        let Some(channel) = frame.first() else { return Err(no_message(&"it is empty")) };
        let mut body = frame.slice(1..);
        match *channel {
            SESSION => Ok(Frame::Session(Message::decode(body).map_err(|error| no_message(&error))?)),
            DATA => Ok(Frame::Data(DataMessage::decode(body).map_err(|error| no_message(&error))?)),
            PIECE => {
                let head = Piece::decode_length_delimited(&mut body).map_err(|error| no_message(&error))?;
                Ok(Frame::Piece(head, body.copy_to_bytes(body.remaining())))
            }
            ENROLMENT => Ok(Frame::Renewal),
            channel => Err(no_message(&format!("there is no channel {channel}"))),
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

/// A frame: its head, and what follows without being copied.
type Parts = (Vec<u8>, Bytes);

/// Where frames are put to be written.
#[derive(Clone, Debug)]
pub struct Sender {
    now: mpsc::UnboundedSender<Parts>,
    waits: mpsc::Sender<Parts>,
}

impl Sender {
    pub fn session(&self, message: &Message) {
        self.raw(encoded(SESSION, message));
    }

    pub fn raw(&self, bytes: Vec<u8>) {
        // Where the connection has ended, that is noticed where it is read.
        let _ = self.now.send((bytes, Bytes::new()));
    }

    /// From a thread of its own, which waits where much waits already. False where the connection has ended.
    pub fn data(&self, message: &DataMessage, urgency: Urgency) -> bool {
        let parts = (encoded(DATA, message), Bytes::new());
        match urgency {
            Urgency::Now => self.now.send(parts).is_ok(),
            Urgency::Waits => self.waits.blocking_send(parts).is_ok(),
        }
    }

    /// As data that waits.
    pub fn piece(&self, head: &Piece, bytes: Bytes) -> bool {
        let mut parts = (vec![PIECE], bytes);
        // It has room in memory, else encoding can't fail.
        let _ = head.encode_length_delimited(&mut parts.0);
        self.waits.blocking_send(parts).is_ok()
    }
}

fn encoded(channel: u8, message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![channel];
    // It has room in memory, else encoding can't fail.
    let _ = message.encode(&mut bytes);
    bytes
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
    let (now, mut said) = mpsc::unbounded_channel::<Parts>();
    let (waits, mut waiting) = mpsc::channel::<Parts>(DATA_WAITING);
    let writing = tokio::spawn(async move {
        loop {
            let (first, second) = match (said.try_recv(), waiting.try_recv()) {
                // Both get on, and what was said waits for one piece at most.
                (Ok(parts), later) => (Some(parts), later.ok()),
                (Err(_), Ok(parts)) => (Some(parts), None),
                (Err(_), Err(_)) => {
                    writer.flush().await?;
                    tokio::select! {
                        biased;
                        parts = said.recv() => (parts, None),
                        Some(parts) = waiting.recv() => (Some(parts), None),
                    }
                }
            };
            let Some((head, rest)) = first else { break };
            writer.write(&[&head, &rest]).await?;
            if let Some((head, rest)) = second {
                writer.write(&[&head, &rest]).await?;
            }
        }
        writer.flush().await?;
        writer.shut_down().await
    });
    (reader, Sender { now, waits }, writing)
}
