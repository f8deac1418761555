//! One connection, from its greeting to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mezzo_core::session::message::{self, Body, Goodbye, Hello, Message, Position, Records, Refused};
use mezzo_core::session::{Account, Act, Client, Event, Facts, Note, Outcome, Reason, Server, Stop};
use mezzo_core::{DataVersion, ObjectId, Recno, Record, ReplicaId};
use mezzo_replica::Replica;
use mezzo_replica::exchange::{Along, Known, Snapshot, records_of};
use mezzo_replica::log::Reader;
use mezzo_replica::receive::{DataSource, How, OnData, Sought};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::Hub;
use super::wire::{self, Frame, Sender};
use crate::data::{self, Answer, CHUNKED_FROM, Fetches, NotFetched, Provider};

/// Files that are brought one behind the other before others have their turn.
const AT_ONCE: usize = 16;

/// How long a goodbye may take to be sent.
const PARTING: Duration = Duration::from_secs(1);

/// Which side this is.
pub enum Role {
    /// The client. `takes_snapshot`: it has no records, and takes a snapshot instead of the records of long ago.
    Client {
        /// See there.
        takes_snapshot: bool,
        /// The epoch of the permit that it has, or had when it made what it did not send yet; 0 for none.
        permit: u64,
    },
    /// The server, for a client that was let in.
    Server(Account),
}

/// What is asked of each record that comes, and of its data.
pub trait Rules: Send + Sync {
    /// Whether the other side may send this record.
    fn allows(&self, record: &Record) -> Result<(), Refused>;

    /// Whether each record's own user has to be allowed what it did.
    fn judges(&self) -> bool;

    /// Whether the bytes of a version are brought at once; else the file is without them until somebody wants them.
    fn brings(&self, object: ObjectId, version: DataVersion, size: u64) -> bool;

    /// The answer to a client that wants its certificate renewed; waits for the disk.
    fn renew(&self, _request: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// Whether who greets may be who it says it is; waits for the disk.
    fn knows(&self, _hello: &Hello) -> Result<(), String> {
        Ok(())
    }

    /// Something happened that is not the session's own affair.
    fn note(&self, peer: ReplicaId, note: &Note);
}

/// How a session stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The other replica, once it is known.
    pub peer: Option<ReplicaId>,
    /// Up to where this side's log is durable over there.
    pub acknowledged: Recno,
    /// Everything that the server had at the beginning is here.
    pub is_caught_up: bool,
    /// A record of this side that the other can't do.
    pub refused: Option<Refused>,
    /// A record of the other that can't be done here.
    pub stuck: Option<Refused>,
    /// What it is waiting for, other than the connection.
    pub waiting: Option<String>,
    /// The last answer to a question for a sign of life: its number, and the last record that the other had then.
    pub answered: Option<(u64, Recno)>,
    /// Objects of a snapshot that are here, of how many.
    pub snapshot: Option<(u64, u64)>,
}

/// What a running session can be told.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::UnboundedSender<Event>,
}

impl Handle {
    /// A handle, and where what it is told comes out.
    pub fn new() -> (Handle, mpsc::UnboundedReceiver<Event>) {
        let (events, told) = mpsc::unbounded_channel();
        (Handle { events }, told)
    }

    /// Something happened; false where the session has ended.
    pub fn tell(&self, event: Event) -> bool {
        self.events.send(event).is_ok()
    }

    /// Ends the session in order.
    pub fn end(&self, reason: Reason, message: &str) {
        let goodbye = Goodbye { reason: reason.word().to_owned(), message: message.to_owned() };
        self.tell(Event::Say(Body::Goodbye(goodbye)));
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// What one session is made of.
pub struct Session {
    /// The replica.
    pub hub: Arc<Hub>,
    /// Which side this is.
    pub role: Role,
    /// What is asked of the other is told to be connected, and not, here.
    pub fetches: Arc<Fetches>,
    /// What is asked of records.
    pub rules: Arc<dyn Rules>,
    /// What it is told from outside.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Where it is told how it stands.
    pub standing: watch::Sender<Standing>,
}

enum Machine {
    Client(Box<Client>),
    Server(Box<Server>),
}

impl Machine {
    fn on(&mut self, event: Event) -> Vec<Act> {
        match self {
            Machine::Client(client) => client.on(event),
            Machine::Server(server) => server.on(event),
        }
    }
}

struct Driver {
    hub: Arc<Hub>,
    machine: Machine,
    rules: Arc<dyn Rules>,
    fetches: Arc<Fetches>,
    provider: Arc<Provider>,
    sender: Sender,
    known: Arc<Mutex<Known>>,
    reader: Arc<Reader>,
    /// What is sent to a client that has nothing.
    snapshot: Arc<Mutex<Option<Snapshot>>>,
    peer: ReplicaId,
    standing: watch::Sender<Standing>,
    /// What was begun in other threads, and says when it is done.
    done: mpsc::UnboundedSender<Event>,
    running: tokio::task::JoinSet<()>,
    ended: Option<Ended>,
}

/// Runs a session over `stream`, until either side ends it or the connection does.
pub async fn drive<S>(stream: S, session: Session) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Session { hub, role, fetches, rules, mut events, standing } = session;
    let failed = |message: String| Ended { reason: Reason::Failed, message };
    let replica = hub.replica.clone();
    let begun = tokio::task::spawn_blocking(move || {
        Ok::<_, mezzo_replica::Error>((replica.facts()?, replica.log_reader()?, replica.partial_snapshot()?))
    });
    let (facts, reader, partial) = match begun.await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return failed(error.to_string()),
        Err(error) => return failed(error.to_string()),
    };
    let mut durable = hub.durable();
    let (mut frames, sender, mut writing) = wire::open(stream);
    let provider = Provider::new(hub.replica.clone(), hub.manifests.clone(), sender.clone());
    let (done, mut dones) = mpsc::unbounded_channel();
    let (machine, first) = begin(role, facts, partial);
    let mut driver = Driver {
        hub,
        machine,
        rules,
        fetches: fetches.clone(),
        provider: provider.clone(),
        sender: sender.clone(),
        known: Arc::default(),
        reader: Arc::new(reader),
        snapshot: Arc::default(),
        peer: ReplicaId(0),
        standing,
        done,
        running: tokio::task::JoinSet::new(),
        ended: None,
    };
    driver.fetches.connect(Some(sender.clone()));
    driver.carry_out(first);
    let mut is_written = false;
    let clock = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        if let Some(ended) = driver.ended.take() {
            break ended;
        }
        tokio::select! {
            // No byte is lost where this is given up for one of the others.
            frame = async { sender.room().await; frames.next().await } => match frame {
                Ok(Some(bytes)) => driver.hear(&bytes),
                Ok(None) => break Ended { reason: Reason::Dead, message: "the connection was ended by the other side".into() },
                Err(error) => break Ended { reason: Reason::Dead, message: error.to_string() },
            },
            written = &mut writing => {
                let message = match written {
                    Ok(Ok(())) => "the connection can't be written to any more".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                is_written = true;
                break Ended { reason: Reason::Dead, message };
            }
            Some(event) = dones.recv() => driver.tell(event),
            Some(event) = events.recv() => driver.tell(event),
            Ok(()) = durable.changed() => {
                let upto = *durable.borrow_and_update();
                driver.tell(Event::Durable(upto));
            }
            _ = ticks.tick() => driver.tell(Event::Tick(clock.elapsed().as_secs())),
        }
    };
    fetches.connect(None);
    provider.close();
    // What is being done to the replica is done to its end: the next session begins with what it left.
    while driver.running.join_next().await.is_some() {}
    drop((driver, provider, sender));
    if !is_written {
        // Who is gone is not told goodbye.
        let _ = tokio::time::timeout(PARTING, writing).await;
    }
    ended
}

fn begin(role: Role, facts: Facts, partial: Option<(Position, u64)>) -> (Machine, Vec<Act>) {
    match role {
        Role::Client { takes_snapshot, permit } => {
            let takes = takes_snapshot && (facts.last == Recno::NONE || partial.is_some());
            let (mut client, acts) = Client::new(facts, takes, partial);
            client.set_permit(permit);
            (Machine::Client(Box::new(client)), acts)
        }
        Role::Server(account) => (Machine::Server(Box::new(Server::new(facts, account))), Vec::new()),
    }
}

impl Driver {
    fn tell(&mut self, event: Event) {
        let acts = self.machine.on(event);
        self.carry_out(acts);
    }

    fn hear(&mut self, bytes: &Bytes) {
        match Frame::read(bytes) {
            Ok(Frame::Session(message)) => {
                if let Some(Body::Hello(hello)) = &message.body
                    && let Err(why) = self.rules.knows(hello)
                {
                    return self.break_off(Reason::Rights, why);
                }
                self.learn(&message);
                if let Some(Body::Hello(hello)) = &message.body
                    && self.prepare_snapshot(hello)
                {
                    return;
                }
                if let Some(Body::Ping(_)) = message.body {
                    // It is answered with what is durable now, of which this session may not have been told yet.
                    self.tell(Event::Durable(self.hub.durable_now()));
                }
                self.tell(Event::Message(message));
            }
            Ok(Frame::Data(message)) => {
                if let Err(why) = data::hear(&self.provider, &self.fetches, message) {
                    self.break_off(Reason::Protocol, why);
                }
            }
            Ok(Frame::Piece(piece, bytes)) => {
                if let Err(why) = self.fetches.hear(piece.number, Answer::Piece(piece, bytes)) {
                    self.break_off(Reason::Protocol, why);
                }
            }
            Ok(Frame::Renewal) => {
                let (rules, sender, request) = (self.rules.clone(), self.sender.clone(), bytes.to_vec());
                self.running.spawn_blocking(move || {
                    rules.renew(&request).map(|answer| sender.raw(answer)).unwrap_or(())
                });
            }
            Err(error) => self.break_off(Reason::Protocol, error.to_string()),
        }
    }

    fn break_off(&mut self, reason: Reason, message: String) {
        let goodbye = Goodbye { reason: reason.word().to_owned(), message };
        self.tell(Event::Say(Body::Goodbye(goodbye)));
    }

    /// What the other has, as it says itself.
    fn learn(&mut self, message: &Message) {
        let heads: Vec<_> = match &message.body {
            Some(Body::Hello(hello)) => {
                self.peer = ReplicaId(hello.replica);
                hello.ids.iter().map(|id| (ReplicaId(id.replica), Recno(id.recno))).collect()
            }
            Some(Body::Welcome(welcome)) => {
                self.peer = ReplicaId(welcome.replica);
                welcome.heads.iter().map(|head| (ReplicaId(head.replica), Recno(head.recno))).collect()
            }
            _ => return,
        };
        *self.known.lock() = Known::new(heads);
    }

    fn carry_out(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(message) => self.sender.session(&message),
                Act::Read { after, upto } => self.read(after, upto),
                Act::Apply(records) => self.apply(records),
                Act::Install(piece) => self.install(piece),
                Act::ReadSnapshot(from) => self.read_snapshot(from),
                Act::Note(note) => self.note(note),
                Act::Close(reason, message) => self.ended = Some(Ended { reason, message }),
            }
        }
    }

    /// Does something that takes its time in another thread, and tells of it.
    fn begin(&mut self, work: impl FnOnce() -> Event + Send + 'static) {
        let done = self.done.clone();
        self.running.spawn_blocking(move || {
            // Where the session has ended, nobody has to know.
            let _ = done.send(work());
        });
    }

    fn read(&mut self, after: Recno, upto: Recno) {
        let (hub, reader, known) = (self.hub.clone(), self.reader.clone(), self.known.clone());
        self.begin(move || {
            let read = hub.replica.outgoing(&reader, (after, upto), &mut known.lock());
            match read {
                Ok(batch) => Event::Read(batch),
                Err(error) => failure(format!("could not read the log: {error}")),
            }
        });
    }

    fn apply(&mut self, records: Records) {
        let (hub, rules, known, peer) = (self.hub.clone(), self.rules.clone(), self.known.clone(), self.peer);
        let fetches = self.fetches.clone();
        self.begin(move || {
            let rest = Remote { replica: &hub.replica, fetches: &fetches, rules: &*rules };
            let along = Along::new(&records, &rest);
            let is_allowed = |record: &Record| {
                // It need not go back to where it came from.
                known.lock().add(record.origin);
                rules.allows(record)
            };
            let how = (OnData::Bring(&along), rules.judges());
            let outcome = hub.replica.incoming(peer, &records, how, &is_allowed, &*hub.audience);
            match hub.replica.sync_log() {
                Ok(upto) => hub.is_durable(upto),
                Err(error) => return Event::Applied(Outcome::Failed(error.to_string())),
            }
            Event::Applied(outcome)
        });
    }

    fn install(&mut self, piece: message::Snapshot) {
        let hub = self.hub.clone();
        self.standing.send_modify(|standing| standing.snapshot = Some((piece.after, piece.records)));
        self.begin(move || {
            let installed = records_of(&piece.frames).and_then(|records| {
                let how = How { data: OnData::Absent, judge: false };
                let taken =
                    hub.replica.receive(&records, how, &*hub.audience).map_err(|error| error.to_string())?;
                match taken.stopped {
                    Some(stop) => Err(format!("record {} of the snapshot: {}", stop.record.recno, stop.why)),
                    None => Ok(piece.upto),
                }
            });
            Event::Installed(installed)
        });
    }

    /// A client without records: it may be better off with a snapshot, which is made before it is greeted.
    fn prepare_snapshot(&mut self, hello: &Hello) -> bool {
        let is_server = matches!(self.machine, Machine::Server(_));
        let is_asked = hello.takes_snapshot && hello.last == hello.snapshot_records;
        let replica = &self.hub.replica;
        let wanted = hello.snapshot.filter(|of| of.replica == replica.fileset().config.replica.0);
        if !is_server || !is_asked || wanted.is_none() && !replica.offers_snapshot() {
            return false;
        }
        let (hub, slot) = (self.hub.clone(), self.snapshot.clone());
        let (done, hello) = (self.done.clone(), hello.clone());
        self.running.spawn_blocking(move || {
            let made = hub.replica.snapshot(wanted.map(|of| Recno(of.recno)));
            let event = match made {
                Ok(snapshot) => {
                    let at = snapshot.at;
                    *slot.lock() = Some(snapshot);
                    Event::SnapshotIs(at)
                }
                Err(error) => failure(format!("could not make a snapshot: {error}")),
            };
            // Where the session has ended, nobody has to know.
            let _ = done.send(event);
            let _ = done.send(Event::Message(Body::Hello(hello).into()));
        });
        true
    }

    fn read_snapshot(&mut self, after: u64) {
        let slot = self.snapshot.clone();
        self.begin(move || {
            let mut snapshot = slot.lock();
            let piece = snapshot.as_mut().map(|snapshot| snapshot.piece(after));
            match piece {
                Some(Ok(piece)) => Event::SnapshotRead(piece),
                Some(Err(error)) => failure(format!("could not read the snapshot: {error}")),
                None => failure("there is no snapshot".to_owned()),
            }
        });
    }

    /// Brings what is missing here, as after a kill or a power loss, from a client that may have it.
    fn bring_missing(&mut self) {
        let (hub, rules, fetches) = (self.hub.clone(), self.rules.clone(), self.fetches.clone());
        self.running.spawn_blocking(move || {
            let rest = Remote { replica: &hub.replica, fetches: &fetches, rules: &*rules };
            let mut after = None;
            loop {
                let missing = hub.replica.without_bytes(after, AT_ONCE);
                // Others have their turn after some of them.
                let filled = missing.and_then(|missing| {
                    hub.replica.fill(&missing, &rest)?;
                    Ok(missing.last().copied())
                });
                match filled {
                    Ok(Some(last)) if fetches.is_connected() => after = Some(last),
                    Ok(_) => return,
                    Err(error) => {
                        return mezzo_replica::say!("mezzo: could not bring what is missing here: {error}");
                    }
                }
            }
        });
    }

    fn note(&mut self, note: Note) {
        if let (Note::Open { .. }, Machine::Server(_)) = (&note, &self.machine) {
            self.bring_missing();
        }
        self.rules.note(self.peer, &note);
        self.standing.send_modify(|standing| match note {
            Note::Open { replica, acknowledged } => {
                *standing = Standing { peer: Some(replica), acknowledged, ..Standing::default() };
            }
            Note::Acknowledged(upto) => standing.acknowledged = upto,
            Note::Refused(refused) => standing.refused = Some(refused),
            Note::Stuck(Stop { refused }) => standing.stuck = Some(refused),
            Note::Waiting(why) => standing.waiting = Some(why),
            Note::Answered(pong) => standing.answered = Some((pong.number, Recno(pong.last))),
            Note::CaughtUp => (standing.is_caught_up, standing.waiting) = (true, None),
            _ => {}
        });
    }
}

/// This side can't go on: said to the other, and the end.
fn failure(message: String) -> Event {
    Event::Say(Body::Goodbye(Goodbye { reason: Reason::Failed.word().to_owned(), message }))
}

/// Data that the other side has.
struct Remote<'a> {
    replica: &'a Replica,
    fetches: &'a Fetches,
    rules: &'a dyn Rules,
}

impl DataSource for Remote<'_> {
    fn bring(&self, sought: &Sought<'_>) -> io::Result<bool> {
        let Sought { object, version, size, older, .. } = *sought;
        if !self.rules.brings(object, version, size) {
            return Ok(false);
        }
        // One that can't be had is none.
        let older = older.filter(|_| size >= CHUNKED_FROM);
        let mut older = older.and_then(|older| self.replica.reading(object, older, None).ok()?.ok());
        match self.fetches.fetch(sought, older.as_mut(), &|| true) {
            Ok(_) => Ok(true),
            // A later version, whose record follows, has taken its place.
            Err(NotFetched::Gone(_)) => Ok(false),
            Err(NotFetched::Write(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn is_at_hand(&self, _: DataVersion) -> bool {
        false
    }
}
