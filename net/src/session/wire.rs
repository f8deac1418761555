//! Frames of a connection: records and what is said of them, and data beside them. What was said goes before data that waits.

use mezzo_core::session::MESSAGE_BYTES;
use mezzo_core::session::message::Message;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::mpsc;

use crate::data::DataMessage;
use crate::frame::{FrameError, FrameLimits, FrameReader, FrameWriter};
use crate::limits;

const SESSION: u8 = 0x10;
const DATA: u8 = 0x11;

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
}

impl Sender {
    pub fn session(&self, message: &Message) {
        let mut bytes = vec![SESSION];
        // It has room in memory, else encoding can't fail.
        let _ = message.encode(&mut bytes);
        let _ = self.now.send(bytes);
    }

    pub fn raw(&self, bytes: Vec<u8>) {
        let _ = self.now.send(bytes);
    }

    /// From a thread of its own, which waits where much waits already. False where the connection has ended.
    pub fn data(&self, message: &DataMessage, urgency: Urgency) -> bool {
        let mut bytes = vec![DATA];
        let _ = message.encode(&mut bytes);
        match urgency {
            Urgency::Now => self.now.send(bytes).is_ok(),
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
    let writing = tokio::spawn(async move {
        loop {
            let next = match (said.try_recv(), waiting.try_recv()) {
                (Ok(bytes), Err(_)) => Some((bytes, None)),
                (Ok(bytes), Ok(later)) => Some((bytes, Some(later))),
                (Err(_), Ok(bytes)) => Some((bytes, None)),
                (Err(_), Err(_)) => {
                    writer.flush().await?;
                    tokio::select! {
                        biased;
                        bytes = said.recv() => bytes.map(|bytes| (bytes, None)),
                        Some(bytes) = waiting.recv() => Some((bytes, None)),
                    }
                }
            };
            let Some((bytes, later)) = next else { break };
            writer.write(&[&bytes]).await?;
            if let Some(bytes) = later {
                writer.write(&[&bytes]).await?;
            }
        }
        writer.flush().await?;
        writer.shut_down().await
    });
    (reader, Sender { now, waits }, writing)
}
