//! The client's side.

use crate::id::{Recno, ReplicaId};

use super::flow::{Receiving, Sending};
use super::message::{
    Body, Hello, Message, OLDEST_VERSION, Position, Snapshot, SnapshotAck, VERSION, Welcome,
};
use super::{Act, Event, Facts, Note, POSITIONS, Pulse, Reason, end, positions};

/// The machine of a client.
#[derive(Debug)]
pub struct Client {
    facts: Facts,
    /// Of a snapshot that was cut off: of which replica and record, and how many of its records are here.
    snapshot: Option<(Position, u64)>,
    takes_snapshot: bool,
    /// The epoch of the permit that it had before; 0 for none.
    permit: u64,
    phase: Phase,
    pulse: Pulse,
}

#[derive(Debug)]
enum Phase {
    /// Hello was said.
    Greeting,
    /// The snapshot comes.
    Snapshot(Box<Open>, Arriving),
    Open(Box<Open>),
    Closed,
}

#[derive(Debug)]
struct Open {
    sending: Sending,
    receiving: Receiving,
    /// The server's last record at the beginning: the own ones are sent when it is here.
    catches_up: Option<Recno>,
    may_write: bool,
    /// Records are sent under a permit alone.
    exclusive: bool,
}

/// A snapshot on its way in.
#[derive(Debug)]
struct Arriving {
    at: Recno,
    came: u64,
    done: u64,
    is_whole: bool,
    waiting: std::collections::VecDeque<Snapshot>,
    is_doing: bool,
}

impl Client {
    /// A client that has just been connected, and what it says first. `takes_snapshot`: it has no records but those of `snapshot`,
    /// which was cut off: what it is of, and how many of its records are here.
    pub fn new(facts: Facts, takes_snapshot: bool, snapshot: Option<(Position, u64)>) -> (Client, Vec<Act>) {
        let hello = Hello {
            oldest_version: OLDEST_VERSION,
            version: VERSION,
            fileset: facts.fileset.to_vec(),
            replica: facts.replica().0,
            last: facts.last.0,
            received: positions(&facts.received[..facts.received.len().min(POSITIONS)]),
            takes_snapshot,
            snapshot: snapshot.map(|(of, _)| of),
            snapshot_records: snapshot.map_or(0, |(_, records)| records),
            ids: positions(&facts.ids),
            host: facts.host.clone(),
        };
        let client = Client {
            facts,
            snapshot,
            takes_snapshot,
            permit: 0,
            phase: Phase::Greeting,
            pulse: Pulse::default(),
        };
        (client, vec![Act::Send(Body::Hello(hello).into())])
    }

    /// It has the permit of this epoch, or had it when it made what it did not send yet.
    pub fn set_permit(&mut self, epoch: u64) {
        self.permit = epoch;
    }

    /// Whether everything is exchanged that both sides had when they were asked last.
    pub fn is_settled(&self) -> bool {
        match &self.phase {
            Phase::Open(open) => open.catches_up.is_none() && open.sending.is_done(),
            _ => false,
        }
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
                if let Phase::Open(open) | Phase::Snapshot(open, _) = &mut self.phase {
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
                let Phase::Open(open) = &mut self.phase else { return Ok(()) };
                open.receiving.was_done(outcome, self.pulse.now, acts)?;
                open.settle(acts);
            }
            Event::Installed(done) => self.installed(done?, acts)?,
            Event::Say(Body::Goodbye(goodbye)) => {
                end(acts, Reason::of_word(&goodbye.reason), goodbye.message)
            }
            Event::Say(body) => acts.push(Act::Send(body.into())),
            Event::PermitIs(permit) => {
                self.permit = permit.epoch;
                if let Phase::Open(open) | Phase::Snapshot(open, _) = &mut self.phase {
                    open.sending.permit = permit.epoch;
                }
                if let Phase::Open(open) = &mut self.phase {
                    open.settle(acts);
                }
            }
            Event::SnapshotIs(_) | Event::SnapshotRead(_) | Event::PermitRecalled(_) => {
                return Err("a server's event came to a client".to_owned());
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: Message, acts: &mut Vec<Act>) -> Result<(), String> {
        let Some(body) = message.body else { return Ok(()) };
        match (body, &mut self.phase) {
            (Body::Welcome(welcome), Phase::Greeting) => self.welcome(welcome, acts)?,
            (Body::Goodbye(goodbye), _) => {
                acts.push(Act::Close(Reason::of_word(&goodbye.reason), goodbye.message));
            }
            (Body::Ping(ping), _) => acts.push(Act::Send(Body::Pong(self.facts.answer(ping)).into())),
            (Body::Pong(pong), _) => acts.push(Act::Note(Note::Answered(pong))),
            (Body::Records(records), Phase::Open(open)) => open.receiving.came(records, acts)?,
            (Body::Ack(ack), Phase::Open(open)) => open.sending.was_acknowledged(ack, acts)?,
            (Body::Refused(refused), Phase::Open(open)) => {
                open.sending.was_refused(refused, acts);
                // What follows is for who resolves it.
                open.receiving.is_stuck = true;
            }
            (Body::Permit(permit), Phase::Open(open) | Phase::Snapshot(open, _)) => {
                if permit.holder == self.facts.replica().0 {
                    open.sending.permit = permit.epoch;
                }
                let exclusive = open.exclusive;
                acts.push(Act::Note(Note::Permit { permit, exclusive }));
                if let Phase::Open(open) = &mut self.phase {
                    open.settle(acts);
                }
            }
            (Body::NoPermit(refusal), _) => acts.push(Act::Note(Note::PermitDenied(refusal))),
            (Body::RecallPermit(recall), _) => acts.push(Act::Note(Note::PermitRecalled(recall.epoch))),
            (Body::Snapshot(piece), Phase::Snapshot(_, arriving)) => arriving.came(piece, acts)?,
            (body, phase) => return Err(format!("{} came {}", word(&body), phase.word())),
        }
        Ok(())
    }

    fn welcome(&mut self, welcome: Welcome, acts: &mut Vec<Act>) -> Result<(), String> {
        if !(OLDEST_VERSION..=VERSION).contains(&welcome.version) {
            end(acts, Reason::Version, format!("version {} is not spoken here", welcome.version));
            return Ok(());
        }
        if welcome.heads.len() > POSITIONS {
            return Err(format!("{} heads came", welcome.heads.len()));
        }
        let replica = ReplicaId(welcome.replica);
        if replica == ReplicaId(0) || self.facts.ids.iter().any(|(own, _)| *own == replica) {
            return Err(format!("the server says that it is replica {replica}"));
        }
        let received = Recno(welcome.received);
        if received > self.facts.last {
            let message = format!(
                "the server has record {received} of this replica, whose last one is {}: this one was put back to an \
                 earlier state",
                self.facts.last
            );
            end(acts, Reason::Parted, message);
            return Ok(());
        }
        let mut sending = Sending::new(received, self.facts.last);
        let permit = welcome.permit.unwrap_or_default();
        sending.permit = self.permit;
        if permit.holder == self.facts.replica().0 && self.permit == 0 {
            sending.permit = permit.epoch;
        }
        acts.push(Act::Note(Note::Permit { permit, exclusive: welcome.exclusive }));
        let from = Recno(welcome.from);
        if self.snapshot.is_some() && !welcome.snapshot {
            let message = "a snapshot was cut off, and the server has none: clone anew";
            end(acts, Reason::Parted, message);
            return Ok(());
        }
        let mut open = Box::new(Open {
            sending,
            receiving: Receiving::new(from),
            catches_up: Some(Recno(welcome.last)),
            may_write: welcome.may_write,
            exclusive: welcome.exclusive,
        });
        acts.push(Act::Note(Note::Open { replica, acknowledged: received }));
        if welcome.snapshot {
            if !self.takes_snapshot {
                return Err("a snapshot was offered that nobody asked for".to_owned());
            }
            let here = match self.snapshot {
                None => 0,
                Some((of, here)) if of == Position::new(replica, from) => here,
                Some((of, _)) => {
                    let message = format!(
                        "the snapshot of record {} that was cut off is not kept there any more: clone anew",
                        of.recno
                    );
                    end(acts, Reason::Parted, message);
                    return Ok(());
                }
            };
            let arriving = Arriving {
                at: from,
                came: here,
                done: here,
                is_whole: false,
                waiting: Default::default(),
                is_doing: false,
            };
            self.phase = Phase::Snapshot(open, arriving);
            return Ok(());
        }
        open.settle(acts);
        self.phase = Phase::Open(open);
        Ok(())
    }

    fn installed(&mut self, upto: u64, acts: &mut Vec<Act>) -> Result<(), String> {
        let Phase::Snapshot(_, arriving) = &mut self.phase else {
            return Err("a piece of a snapshot was installed that nobody asked for".to_owned());
        };
        arriving.done = upto;
        arriving.is_doing = false;
        arriving.waiting.pop_front();
        acts.push(Act::Send(Body::SnapshotAck(SnapshotAck { upto }).into()));
        arriving.go_on(acts);
        if arriving.is_whole && arriving.waiting.is_empty() {
            let Phase::Snapshot(mut open, _) = std::mem::replace(&mut self.phase, Phase::Closed) else {
                return Ok(());
            };
            open.settle(acts);
            self.phase = Phase::Open(open);
        }
        Ok(())
    }
}

impl Open {
    /// The own records go when all that the server had at the beginning is here.
    fn settle(&mut self, acts: &mut Vec<Act>) {
        if self.catches_up.is_some_and(|last| self.receiving.done() >= last) {
            self.catches_up = None;
            acts.push(Act::Note(Note::CaughtUp));
        }
        let has_no_permit = self.exclusive && self.sending.permit == 0;
        self.sending.is_held =
            self.catches_up.is_some() || self.receiving.is_stuck || !self.may_write || has_no_permit;
        self.sending.go_on(acts);
    }
}

impl Arriving {
    fn came(&mut self, piece: Snapshot, acts: &mut Vec<Act>) -> Result<(), String> {
        if Recno(piece.at) != self.at || piece.after != self.came || self.is_whole || piece.upto < piece.after
        {
            return Err(format!("record {} of a snapshot of record {} came", piece.after, piece.at));
        }
        if piece.frames.len() > super::MESSAGE_BYTES || piece.frames.is_empty() && !piece.is_last {
            return Err(format!("a piece of a snapshot with {} bytes came", piece.frames.len()));
        }
        self.came = piece.upto;
        self.is_whole = piece.is_last;
        self.waiting.push_back(piece);
        if self.waiting.iter().map(|piece| piece.frames.len()).sum::<usize>() > 2 * super::WINDOW_BYTES {
            return Err("more of a snapshot came than was asked for".to_owned());
        }
        self.go_on(acts);
        Ok(())
    }

    fn go_on(&mut self, acts: &mut Vec<Act>) {
        if !self.is_doing
            && let Some(piece) = self.waiting.front()
        {
            self.is_doing = true;
            acts.push(Act::Install(piece.clone()));
        }
    }
}

impl Phase {
    fn word(&self) -> &'static str {
        match self {
            Phase::Greeting => "before any welcome",
            Phase::Snapshot(..) => "during a snapshot",
            Phase::Open(_) => "in a session that is open",
            Phase::Closed => "after the end",
        }
    }
}

/// What came, for people.
pub(super) fn word(body: &Body) -> &'static str {
    match body {
        Body::Hello(_) => "a hello",
        Body::Welcome(_) => "a welcome",
        Body::Records(_) => "records",
        Body::Ack(_) => "an acknowledgement",
        Body::Refused(_) => "a refusal",
        Body::Ping(_) => "a question for a sign of life",
        Body::Pong(_) => "a sign of life",
        Body::Goodbye(_) => "a goodbye",
        Body::AskPermit(_) => "a question for the permit",
        Body::Permit(_) => "the permit",
        Body::RecallPermit(_) => "a recall of the permit",
        Body::ReleasePermit(_) => "a release of the permit",
        Body::NoPermit(_) => "a refusal of the permit",
        Body::Snapshot(_) => "a piece of a snapshot",
        Body::SnapshotAck(_) => "an acknowledgement of a snapshot",
    }
}
