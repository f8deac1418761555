//! The server's side, for one client.

use std::collections::VecDeque;

use crate::id::{Recno, ReplicaId};

use super::client::word;
use super::flow::{Receiving, Sending, Stop};
use super::message::{Body, Hello, Message, OLDEST_VERSION, Permit, Records, Refused, VERSION, Welcome};
use super::{Act, Event, Facts, Note, POSITIONS, Pulse, Reason, end, positions};

/// What the server knows of a client before it says anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// It may send records.
    pub may_write: bool,
    /// A writer needs the permit.
    pub exclusive: bool,
    /// The permit as it stands.
    pub permit: Permit,
}

/// The machine of a server for one client.
#[derive(Debug)]
pub struct Server {
    facts: Facts,
    account: Account,
    phase: Phase,
    pulse: Pulse,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was said.
    Waiting,
    Open(Box<Open>),
    Closed,
}

#[derive(Debug)]
struct Open {
    sending: Sending,
    receiving: Receiving,
    replica: ReplicaId,
    /// A snapshot is on its way out.
    snapshot: Option<Departing>,
}

/// A snapshot on its way out. Numbers are of its records.
#[derive(Debug)]
struct Departing {
    read: u64,
    /// What is on its way: up to where, and its bytes.
    on_its_way: VecDeque<(u64, usize)>,
    is_reading: bool,
    is_whole: bool,
}

impl Server {
    /// A server to which a client has just been connected.
    pub fn new(facts: Facts, account: Account) -> Server {
        Server { facts, account, phase: Phase::Waiting, pulse: Pulse::default() }
    }

    /// Something happened.
    pub fn on(&mut self, event: Event) -> Vec<Act> {
        let mut acts = Vec::new();
        if matches!(self.phase, Phase::Closed) {
            return acts;
        }
        if let Err(why) = self.take(event, &mut acts) {
            end(&mut acts, Reason::Protocol, why);
        }
        if acts.iter().any(|act| matches!(act, Act::Close(..))) {
            self.phase = Phase::Closed;
        }
        acts
    }

    fn take(&mut self, event: Event, acts: &mut Vec<Act>) -> Result<(), String> {
        match event {
            Event::Message(message) => {
                self.pulse.hear();
                return self.hear(message, acts);
            }
            Event::Tick(now) => {
                acts.extend(self.pulse.tick(now));
                if let Phase::Open(open) = &mut self.phase {
                    open.receiving.tick(now, acts);
                }
            }
            Event::Durable(upto) => {
                self.facts.last = self.facts.last.max(upto);
                if let Phase::Open(open) = &mut self.phase {
                    open.sending.durable(upto);
                    open.sending.go_on(acts);
                }
            }
            Event::Read(batch) => {
                if let Phase::Open(open) = &mut self.phase {
                    open.sending.was_read(batch, acts)?;
                }
            }
            Event::Applied(outcome) => {
                if let Phase::Open(open) = &mut self.phase {
                    open.receiving.was_done(outcome, self.pulse.now, acts)?;
                }
            }
            Event::SnapshotRead(piece) => {
                let Phase::Open(open) = &mut self.phase else { return Ok(()) };
                let Some(departing) = &mut open.snapshot else {
                    return Err("a piece of a snapshot was read that nobody asked for".to_owned());
                };
                departing.read = piece.upto;
                departing.on_its_way.push_back((piece.upto, piece.frames.len()));
                departing.is_reading = false;
                departing.is_whole = piece.is_last;
                acts.push(Act::Send(Body::Snapshot(piece).into()));
                open.go_on(acts);
            }
            Event::PermitIs(permit) => {
                self.account.permit = permit;
                if matches!(self.phase, Phase::Open(_)) {
                    acts.push(Act::Send(Body::Permit(permit).into()));
                }
            }
            Event::PermitRecalled(epoch) => {
                acts.push(Act::Send(Body::RecallPermit(super::message::RecallPermit { epoch }).into()));
            }
            Event::Say(Body::Goodbye(goodbye)) => {
                end(acts, Reason::of_word(&goodbye.reason), goodbye.message)
            }
            Event::Say(body) => acts.push(Act::Send(body.into())),
            Event::SnapshotIs(at) => self.facts.snapshot = at,
            Event::Installed(_) => return Err("a client's event came to a server".to_owned()),
        }
        Ok(())
    }

    fn hear(&mut self, message: Message, acts: &mut Vec<Act>) -> Result<(), String> {
        let Some(body) = message.body else { return Ok(()) };
        match (body, &mut self.phase) {
            (Body::Hello(hello), Phase::Waiting) => self.hello(&hello, acts)?,
            (Body::Goodbye(goodbye), _) => {
                acts.push(Act::Close(Reason::of_word(&goodbye.reason), goodbye.message));
            }
            (Body::Ping(ping), _) => acts.push(Act::Send(Body::Pong(self.facts.answer(ping)).into())),
            (Body::Pong(_), _) => {}
            (Body::Records(records), Phase::Open(open)) => match self.account.refuses(&records, open.replica)
            {
                Some(refused) if !open.receiving.is_stuck => {
                    open.receiving.is_stuck = true;
                    open.receiving.came(records, acts)?;
                    acts.push(Act::Send(Body::Refused(refused.clone()).into()));
                    acts.push(Act::Note(Note::Stuck(Stop { refused })));
                }
                _ => open.receiving.came(records, acts)?,
            },
            (Body::Ack(ack), Phase::Open(open)) => open.sending.was_acknowledged(ack, acts)?,
            (Body::Refused(refused), Phase::Open(open)) => open.sending.was_refused(refused, acts),
            (Body::AskPermit(ask), Phase::Open(_)) => acts.push(Act::Note(Note::PermitAsked(ask))),
            (Body::ReleasePermit(release), Phase::Open(_)) => {
                acts.push(Act::Note(Note::PermitReleased(release)))
            }
            (Body::SnapshotAck(ack), Phase::Open(open)) if open.snapshot.is_some() => {
                if let Some(departing) = &mut open.snapshot {
                    if ack.upto > departing.read {
                        return Err(format!("record {} of a snapshot was acknowledged", ack.upto));
                    }
                    while departing.on_its_way.front().is_some_and(|(upto, _)| *upto <= ack.upto) {
                        departing.on_its_way.pop_front();
                    }
                }
                open.go_on(acts);
            }
            (body, Phase::Waiting) => return Err(format!("{} came before any hello", word(&body))),
            (body, _) => return Err(format!("{} came in a session that is open", word(&body))),
        }
        Ok(())
    }

    fn hello(&mut self, hello: &Hello, acts: &mut Vec<Act>) -> Result<(), String> {
        let version = hello.version.min(VERSION);
        if version < OLDEST_VERSION || version < hello.oldest_version {
            let spoken = format!("{OLDEST_VERSION} to {VERSION}");
            let message = format!(
                "versions {spoken} of the protocol are spoken here, and {} to {} there",
                hello.oldest_version, hello.version
            );
            end(acts, Reason::Version, message);
            return Ok(());
        }
        if hello.fileset != self.facts.fileset {
            end(acts, Reason::Fileset, "this is another fileset");
            return Ok(());
        }
        let replica = ReplicaId(hello.replica);
        if hello.received.len() > POSITIONS || hello.ids.len() > POSITIONS || replica == ReplicaId(0) {
            return Err("a hello came that tells of too much, or of nobody".to_owned());
        }
        if self.facts.ids.iter().any(|(own, _)| *own == replica) {
            end(acts, Reason::Twin, format!("replica {replica} is this one"));
            return Ok(());
        }
        let from = match self.position_of(hello) {
            Ok(from) => from,
            Err(message) => {
                end(acts, Reason::Parted, message);
                return Ok(());
            }
        };
        let is_empty = hello.last == hello.snapshot_records;
        let takes_snapshot = hello.takes_snapshot && is_empty && self.facts.snapshot > Recno::NONE;
        // A client that was found to be a copy goes on in the same log under another id.
        let received = hello.ids.iter().filter_map(|id| self.facts.received_from(ReplicaId(id.replica)));
        let received = received.max().unwrap_or_default();
        if received > Recno(hello.last) {
            let message = format!(
                "record {received} of replica {replica} is here, whose last one is {}: it was put back to an earlier state",
                hello.last
            );
            end(acts, Reason::Parted, message);
            return Ok(());
        }
        let from = if takes_snapshot { self.facts.snapshot } else { from };
        acts.push(Act::Send(
            Body::Welcome(Welcome {
                version,
                replica: self.facts.replica().0,
                last: self.facts.last.0,
                received: received.0,
                heads: positions(&self.facts.heads[..self.facts.heads.len().min(POSITIONS)]),
                from: from.0,
                may_write: self.account.may_write,
                snapshot: takes_snapshot,
                exclusive: self.account.exclusive,
                permit: Some(self.account.permit),
            })
            .into(),
        ));
        acts.push(Act::Note(Note::Open { replica, acknowledged: from }));
        let mut sending = Sending::new(from, self.facts.last);
        sending.is_held = takes_snapshot;
        let here = hello.snapshot.filter(|of| (of.replica, of.recno) == (self.facts.replica().0, from.0));
        let here = here.map_or(0, |_| hello.snapshot_records);
        let snapshot = takes_snapshot.then_some(Departing {
            read: here,
            on_its_way: VecDeque::new(),
            is_reading: false,
            is_whole: false,
        });
        let mut open = Box::new(Open { sending, receiving: Receiving::new(received), replica, snapshot });
        open.go_on(acts);
        self.phase = Phase::Open(open);
        Ok(())
    }

    /// The record after which the client has nothing of this log, or how the histories part.
    fn position_of(&self, hello: &Hello) -> Result<Recno, String> {
        // The log may have been one of several replicas; each one's numbers go on behind the last's.
        let mut position = Recno::NONE;
        for (own, last) in &self.facts.ids {
            let told = hello.received.iter().find(|told| told.replica == own.0).map(|told| Recno(told.recno));
            let Some(told) = told else { continue };
            if told > *last {
                return Err(format!(
                    "replica {:016x} has records of {own} up to {told}, of which there are none here behind {last}: this \
                     server was put back to an earlier state",
                    hello.replica
                ));
            }
            position = position.max(told);
        }
        Ok(position)
    }
}

impl Open {
    fn go_on(&mut self, acts: &mut Vec<Act>) {
        if let Some(departing) = &mut self.snapshot {
            let on_its_way: usize = departing.on_its_way.iter().map(|(_, bytes)| bytes).sum();
            if departing.is_whole {
                if departing.on_its_way.is_empty() {
                    self.snapshot = None;
                    self.sending.is_held = false;
                }
            } else if !departing.is_reading && on_its_way < super::WINDOW_BYTES {
                departing.is_reading = true;
                acts.push(Act::ReadSnapshot(departing.read));
            }
        }
        self.sending.go_on(acts);
    }
}

impl Account {
    /// Whether what a client sends is none of its business, and why.
    fn refuses(&self, records: &Records, replica: ReplicaId) -> Option<Refused> {
        let refused = |answer: &str, message: String| Refused {
            recno: records.after + 1,
            answer: answer.to_owned(),
            message,
            ..Refused::default()
        };
        if records.frames.is_empty() {
            return None;
        }
        if !self.may_write {
            return Some(refused("rights", "this client may read, and not write".to_owned()));
        }
        let Permit { holder, epoch, .. } = self.permit;
        if self.exclusive && (holder, epoch) != (replica.0, records.permit) {
            let message = format!(
                "the permit of epoch {} does not count: that of epoch {epoch} is held by {}",
                records.permit,
                if holder == 0 { "nobody".to_owned() } else { format!("replica {holder:016x}") }
            );
            return Some(refused("fenced", message));
        }
        None
    }
}
