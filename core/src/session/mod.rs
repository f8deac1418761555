//! The session between two replicas: who says what, and when. Pure: a machine is told what happened and says what is to be
//! done; whoever has the socket, the log and the clock does it.
//!
//! Each side sends the other the records of its log that the other has not, in the order of the log, and the other tells up to
//! where it has them durably. Positions are numbers of the sender's log. What is on its way is bounded by a window in bytes. A
//! record that can't be done is refused: its sender sends nothing more, and says why.
//!
//! A client first takes what the server has, then sends its own. From then on records go both ways as they are made.

mod client;
mod flow;
pub mod message;
pub mod permit;
mod server;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use flow::{Batch, Outcome, Stop};
pub use server::{Account, Server};

use crate::id::{Recno, ReplicaId};
use message::{Body, Goodbye, Message, Position};

/// Bytes of a message at most. A record has up to 16 MiB, and is alone in its message then.
pub const MESSAGE_BYTES: usize = crate::limits::RECORD_BYTES + (1 << 20);

/// Bytes of records and data that one message is filled up to.
pub const BATCH_BYTES: usize = 1 << 20;

/// Records that one message is filled up to.
pub const BATCH_RECORDS: usize = 2048;

/// Bytes of one version of a file that goes along with the records.
pub const INLINE_BYTES: u64 = 64 << 10;

/// Bytes that may be on their way without being acknowledged. A message may begin below it and end beyond.
pub const WINDOW_BYTES: usize = 8 << 20;

/// Replicas that one hello may tell of.
pub const POSITIONS: usize = 65_536;

/// Seconds without a word after which the other is asked for a sign of life.
pub const ASK_AFTER: u64 = 5;

/// Seconds without a word after which the other is taken for dead.
pub const DEAD_AFTER: u64 = 15;

/// Seconds after which it is tried again to do records for which there was no room.
pub const AGAIN_AFTER: u64 = 2;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message came.
    Message(Message),
    /// The own log is durable up to this record.
    Durable(Recno),
    /// The answer to [`Act::Read`].
    Read(Batch),
    /// The answer to [`Act::Apply`].
    Applied(Outcome),
    /// The answer to [`Act::Install`]: how many records of the snapshot are durable here.
    Installed(Result<u64, String>),
    /// To a server, before the hello that asks for one: the record that a snapshot can be had of.
    SnapshotIs(Recno),
    /// The answer to [`Act::ReadSnapshot`].
    SnapshotRead(message::Snapshot),
    /// The permit came to be held by another, or nobody: the server's machines are told by who keeps it.
    PermitIs(message::Permit),
    /// The permit has to be given back.
    PermitRecalled(u64),
    /// The user, or a writer, wants this said.
    Say(Body),
    /// Seconds of a clock that only goes forward.
    Tick(u64),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Send it.
    Send(Message),
    /// Read records of the own log that concern the other, up to the bounds of a batch, and say so with [`Event::Read`].
    Read {
        /// The record that they follow.
        after: Recno,
        /// The last one that is durable.
        upto: Recno,
    },
    /// Do the records of the other, make them durable, and say so with [`Event::Applied`]. There is one at a time.
    Apply(message::Records),
    /// Put a piece of a snapshot in its place, and say so with [`Event::Installed`].
    Install(message::Snapshot),
    /// Read the piece of the snapshot that follows this record of it, and say so with [`Event::SnapshotRead`].
    ReadSnapshot(u64),
    /// Note, and tell people, that something changed of how the session stands.
    Note(Note),
    /// Nothing more is sent, and the connection ends.
    Close(Reason, String),
}

/// What people and the rest of the program should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The other side is known, and it begins.
    Open {
        /// The other replica.
        replica: ReplicaId,
        /// Up to where this side's log is there.
        acknowledged: Recno,
    },
    /// This side's log is durable over there up to this record.
    Acknowledged(Recno),
    /// The other refused a record of this side.
    Refused(message::Refused),
    /// A record of the other can't be done here.
    Stuck(Stop),
    /// There is no room, or data can't be had: it is tried again.
    Waiting(String),
    /// Everything that the server had at the beginning is here.
    CaughtUp,
    /// The answer to a question for a sign of life.
    Answered(message::Ping),
    /// The permit as it stands at the server, and whether a writer needs it.
    Permit {
        /// The permit.
        permit: message::Permit,
        /// A writer needs it.
        exclusive: bool,
    },
    /// The permit could not be stolen.
    PermitDenied(message::NoPermit),
    /// The permit has to be given back.
    PermitRecalled(u64),
    /// A message for who keeps the permit.
    PermitAsked(message::AskPermit),
    /// A message for who keeps the permit.
    PermitReleased(message::ReleasePermit),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody wanted it to.
    Wanted,
    /// The other said nothing for too long.
    Dead,
    /// What the other said is none of the protocol.
    Protocol,
    /// There is no version of the protocol that both speak.
    Version,
    /// It is another fileset.
    Fileset,
    /// The histories of the two logs part: one has lost what the other has of it.
    Parted,
    /// The client has no right to be here, or not any more.
    Rights,
    /// The same replica is connected already, in another place.
    Twin,
    /// This side can't go on.
    Failed,
}

impl Reason {
    /// The word for it in [`Goodbye`].
    pub fn word(self) -> &'static str {
        match self {
            Reason::Wanted => "wanted",
            Reason::Dead => "dead",
            Reason::Protocol => "protocol",
            Reason::Version => "version",
            Reason::Fileset => "fileset",
            Reason::Parted => "parted",
            Reason::Rights => "rights",
            Reason::Twin => "twin",
            Reason::Failed => "failed",
        }
    }

    /// What the word means; one that is not known is a failure.
    pub fn of_word(word: &str) -> Reason {
        use Reason::*;
        let all = [Wanted, Dead, Protocol, Version, Fileset, Parted, Rights, Twin];
        all.into_iter().find(|reason| reason.word() == word).unwrap_or(Failed)
    }

    /// Whether the same will happen again, so that only people can help.
    pub fn is_lasting(self) -> bool {
        matches!(self, Reason::Version | Reason::Fileset | Reason::Parted | Reason::Rights)
    }
}

/// What one side is and has, at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The fileset.
    pub fileset: [u8; 16],
    /// All replicas that the log was one of, in their order, each with its last record; the last one is this replica.
    pub ids: Vec<(ReplicaId, Recno)>,
    /// The last durable record.
    pub last: Recno,
    /// Up to where the logs of others were received.
    pub received: Vec<(ReplicaId, Recno)>,
    /// Of each replica, its newest record that is here.
    pub heads: Vec<(ReplicaId, Recno)>,
    /// Of a server: the record that a snapshot can be had of.
    pub snapshot: Recno,
    /// The name of the machine, for people.
    pub host: String,
}

impl Facts {
    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        self.ids.last().map_or(ReplicaId(0), |(replica, _)| *replica)
    }

    fn answer(&self, ping: message::Ping) -> message::Ping {
        message::Ping { last: self.last.0, ..ping }
    }

    fn received_from(&self, replica: ReplicaId) -> Option<Recno> {
        self.received.iter().find(|(from, _)| *from == replica).map(|(_, recno)| *recno)
    }
}

/// How alive the other is.
#[derive(Debug, Default)]
struct Pulse {
    now: u64,
    heard: u64,
    asked: u64,
    begun: bool,
}

impl Pulse {
    fn hear(&mut self) {
        self.heard = self.now;
    }

    /// The machine's answer to a tick.
    fn tick(&mut self, now: u64) -> Option<Act> {
        if !std::mem::replace(&mut self.begun, true) {
            (self.heard, self.asked) = (now, now);
        }
        self.now = now;
        if now.saturating_sub(self.heard) >= DEAD_AFTER {
            let message = format!("nothing was heard for {DEAD_AFTER} seconds");
            return Some(Act::Close(Reason::Dead, message));
        }
        if now.saturating_sub(self.heard.max(self.asked)) >= ASK_AFTER {
            self.asked = now;
            return Some(Act::Send(Body::Ping(message::Ping { number: now, last: 0 }).into()));
        }
        None
    }
}

/// What ends a session, said to the other and done here.
fn end(acts: &mut Vec<Act>, reason: Reason, message: impl Into<String>) {
    let message = message.into();
    acts.push(Act::Send(
        Body::Goodbye(Goodbye { reason: reason.word().to_owned(), message: message.clone() }).into(),
    ));
    acts.push(Act::Close(reason, message));
}

fn positions(pairs: &[(ReplicaId, Recno)]) -> Vec<Position> {
    pairs.iter().map(|(replica, recno)| Position::new(*replica, *recno)).collect()
}
