//! A client's connection to its server: made, made again when it is lost, and what people want to know of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_core::session::message::{AskPermit, Body, Permit, Ping, Refused, ReleasePermit};
use mezzo_core::session::permit::Move;
use mezzo_core::session::{Event, Note, Reason};
use mezzo_core::{Change, DataVersion, ObjectId, Recno, Record, ReplicaId};
use mezzo_replica::Replica;
use mezzo_replica::fileset::Ids;
use mezzo_replica::gate::Gate;
use mezzo_replica::undo::Audience;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::data::{Acknowledges, Fetches, FromServer};
use crate::frame::{FrameLimits, FrameReader, FrameWriter};
use crate::identity::{ClientIdentity, SystemClock};
use crate::limits;
use crate::session::{Ended, Handle, Hub, Role, Rules, Session, Standing, drive};

/// The directory in `.mezzo` that has what a client knows of its server.
pub const DIRECTORY: &str = "upstream";

/// How the connection stood when it was told last, in that directory.
const POSITION: &str = "position.toml";

/// The shortest and the longest time between two tries to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Bytes of a file up to which its data comes with the record; larger files that are new come when they are opened.
const EAGER_BYTES: u64 = 1 << 20;

/// Questions for what the server has are numbered from here on, beyond those for signs of life, which are seconds.
const QUESTIONS: u64 = 1 << 32;

/// A connection that was of use for so long is made again at once where it is lost.
const OF_USE: Duration = Duration::from_secs(5);

/// How the connection is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `connected`, `connecting`, `offline` (a user wants it so), `conflict` or `stopped`.
    pub state: String,
    /// The server's address.
    pub server: String,
    /// The server's replica, once it is known.
    pub replica: Option<String>,
    /// Why there is no connection, or why it stopped.
    pub reason: Option<String>,
    /// The last record of this replica that the server has.
    pub acknowledged: u64,
    /// The last record of the server's log that is here.
    pub received: u64,
    /// Records that the server has not.
    pub pending_records: u64,
    /// Bytes of them, with the data that they tell of.
    pub pending_bytes: u64,
    /// Nothing is on its way, and nothing waits to go.
    pub settled: bool,
    /// The record that can't be done by the server, or here.
    pub conflict: Option<Conflict>,
    /// What it waits for, other than the connection.
    pub waiting: Option<String>,
}

/// A record that one side has and the other can't do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// `here` or `server`: where it can't be done.
    pub at: String,
    /// Its number in the log that it comes from.
    pub recno: u64,
    /// `conflict`, `permission`, `damage`, `rights`, or `fenced`.
    pub answer: String,
    /// The class of a conflict.
    pub class: String,
    /// Where.
    pub path: String,
    /// In words.
    pub message: String,
}

/// What is known without a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Position {
    replica: Option<String>,
    acknowledged: u64,
}

/// A client's connection, which is kept up until this is dropped.
pub struct Upstream {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    replica: Arc<Replica>,
    directory: PathBuf,
    fetches: Arc<Fetches>,
    wanted: watch::Sender<Wanted>,
    again: Notify,
    link: Mutex<Link>,
    changed: Condvar,
    gate: Arc<Gate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Online,
    Offline,
    End,
}

#[derive(Default)]
struct Link {
    handle: Option<Handle>,
    standing: Standing,
    is_connected: bool,
    reason: Option<String>,
    is_stopped: bool,
    position: Position,
    server: String,
    /// Tries to connect that were begun.
    begun: u64,
    /// The last one of them that came to nothing.
    failed: u64,
    /// The last question that was asked for what the server has.
    asked: u64,
}

impl Upstream {
    /// Whether the replica is a client of a server.
    pub fn is_known(replica: &Replica) -> bool {
        replica.fileset().own_path(DIRECTORY).is_dir()
    }

    /// Connects, and stays connected, in a thread of its own.
    pub fn start(
        replica: Arc<Replica>,
        audience: Arc<dyn Audience + Send + Sync>,
    ) -> Result<Upstream, Box<dyn std::error::Error + Send + Sync>> {
        let directory = replica.fileset().own_path(DIRECTORY);
        let identity = ClientIdentity::open(&directory, Arc::new(SystemClock))?;
        let position = read_position(&directory);
        note_mapping(&replica, &identity)?;
        let server = identity.addresses().first().map(ToString::to_string).unwrap_or_default();
        let gate = Gate::open(&replica)?;
        let shared = Arc::new(Shared {
            replica: replica.clone(),
            gate: gate.clone(),
            directory,
            fetches: Fetches::new(),
            wanted: watch::Sender::new(Wanted::Online),
            again: Notify::new(),
            link: Mutex::new(Link { position, server, ..Link::default() }),
            changed: Condvar::new(),
        });
        let (pending, office) = (Arc::downgrade(&shared), Arc::downgrade(&shared));
        gate.serve(
            &replica,
            move || pending.upgrade().map_or((true, 0), |shared| shared.what_is_exchanged()),
            move |step| office.upgrade().iter().for_each(|shared| shared.ask_keeper(step)),
        )?;
        replica.set_gate(Some(gate));
        let from_server = FromServer::new(shared.fetches.clone(), Arc::downgrade(&shared));
        replica.set_upstream(Some(Arc::new(from_server)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeping = shared.clone();
        let thread = std::thread::Builder::new().name("upstream".into()).spawn(move || {
            runtime.block_on(keep_up(keeping, audience, identity));
            // What is being done to the replica was waited for.
            runtime.shutdown_background();
        })?;
        Ok(Upstream { shared, thread: Some(thread) })
    }

    /// What can be asked of the server.
    pub fn fetches(&self) -> Arc<Fetches> {
        self.shared.fetches.clone()
    }

    /// Connects, or stays without a connection, from now on.
    pub fn set_online(&self, is_online: bool) {
        let wanted = if is_online { Wanted::Online } else { Wanted::Offline };
        self.shared.wanted.send_replace(wanted);
        self.shared.again.notify_one();
    }

    /// How it is.
    pub fn status(&self) -> LinkStatus {
        self.shared.status()
    }

    /// Waits until everything that is here now is at the server, and what it had is here. `progress` is called now and then, and
    /// says whether to wait on.
    pub fn exchange(&self, progress: &mut dyn FnMut(&LinkStatus) -> bool) -> Result<LinkStatus, String> {
        let replica = &self.shared.replica;
        replica.sync_all().map_err(|error| error.to_string())?;
        let last = replica.last();
        let begun = self.shared.link.lock().begun;
        self.shared.again.notify_one();
        // In which connection the server was asked what it has, and the question.
        let mut question = None;
        loop {
            let status = self.status();
            let mut link = self.shared.link.lock();
            let is_here = link.standing.is_caught_up && link.is_connected;
            if is_here && question.is_none_or(|(connection, _)| connection != link.begun) {
                question = link.ask().map(|number| (link.begun, number));
            }
            let is_answered = |number| {
                let answered = link.standing.answered.filter(|(answered, _)| *answered >= number);
                answered.is_some_and(|(_, last)| status.received >= last.0)
            };
            let has_all = is_here && question.is_some_and(|(_, number)| is_answered(number));
            if has_all && (link.standing.acknowledged >= last || status.pending_records == 0) {
                return Ok(status);
            }
            if let Some(conflict) = &status.conflict {
                return Err(format!("record {}: {}", conflict.recno, conflict.message));
            }
            let gave_up =
                !link.is_connected && (link.failed > begun || *self.shared.wanted.borrow() != Wanted::Online);
            if gave_up {
                return Err(link.reason.clone().unwrap_or_else(|| "there is no connection".to_owned()));
            }
            self.shared.changed.wait_for(&mut link, Duration::from_millis(100));
            drop(link);
            if !progress(&status) {
                return Err("it was given up".to_owned());
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.replica.set_upstream(None);
        self.shared.gate.end();
        self.shared.wanted.send_replace(Wanted::End);
        self.shared.again.notify_one();
        if let Some(thread) = self.thread.take() {
            // It may have ended by a panic, which it has told of.
            let _ = thread.join();
        }
        self.shared.write_position();
    }
}

impl Link {
    /// Asks the server what it has; `None` where the connection has ended.
    fn ask(&mut self) -> Option<u64> {
        self.asked = self.asked.max(QUESTIONS) + 1;
        let ping = Ping { number: self.asked, last: 0 };
        let is_said = self.handle.as_ref()?.tell(Event::Say(Body::Ping(ping)));
        is_said.then_some(self.asked)
    }
}

impl Shared {
    fn status(&self) -> LinkStatus {
        let (standing, is_connected, reason, is_stopped, position, server) = {
            let link = self.link.lock();
            (
                link.standing.clone(),
                link.is_connected,
                link.reason.clone(),
                link.is_stopped,
                link.position.clone(),
                link.server.clone(),
            )
        };
        let conflict = standing.stuck.as_ref().map(|refused| told("here", refused));
        let conflict = conflict.or_else(|| standing.refused.as_ref().map(|refused| told("server", refused)));
        let state = match *self.wanted.borrow() {
            Wanted::Offline | Wanted::End => "offline",
            Wanted::Online if is_stopped => "stopped",
            Wanted::Online if conflict.is_some() => "conflict",
            Wanted::Online if is_connected => "connected",
            Wanted::Online => "connecting",
        };
        let peer = position.replica.as_ref().and_then(|replica| replica.parse().ok());
        let received = peer.map_or(Recno::NONE, |peer: ReplicaId| self.replica.index().received_from(peer));
        let (records, bytes) = self.pending(Recno(position.acknowledged)).unwrap_or_default();
        LinkStatus {
            state: state.to_owned(),
            server,
            replica: position.replica,
            reason,
            acknowledged: position.acknowledged,
            received: received.0,
            pending_records: records,
            pending_bytes: bytes,
            settled: is_connected && standing.is_caught_up && records == 0 && conflict.is_none(),
            conflict,
            waiting: standing.waiting,
        }
    }

    /// Whether there is something that the server has not acknowledged (where nobody knows, there is), and up to where its log is here.
    fn what_is_exchanged(&self) -> (bool, u64) {
        let Position { replica, acknowledged } = self.link.lock().position.clone();
        let acknowledged = Recno(acknowledged);
        let is_pending = acknowledged < self.replica.last()
            && self.pending(acknowledged).map_or(true, |(records, _)| records > 0);
        let server = replica.and_then(|replica| replica.parse().ok());
        let received =
            server.map_or(Recno::NONE, |server: ReplicaId| self.replica.index().received_from(server));
        (is_pending, received.0)
    }

    /// The gate wants something of who keeps the permit.
    fn ask_keeper(&self, step: Move) {
        let Some(handle) = self.link.lock().handle.clone() else { return };
        match step {
            Move::Ask => handle.tell(Event::Say(Body::AskPermit(AskPermit { steal: false }))),
            Move::Steal => handle.tell(Event::Say(Body::AskPermit(AskPermit { steal: true }))),
            Move::GiveBack(epoch) => {
                handle.tell(Event::PermitIs(Permit::default()))
                    && handle.tell(Event::Say(Body::ReleasePermit(ReleasePermit { epoch })))
            }
        };
    }

    /// Something was said about the permit.
    fn note_permit(&self, note: &Note) {
        match note {
            Note::Permit { permit, exclusive } => {
                let (is_connected, is_fenced, handle) = {
                    let link = self.link.lock();
                    let refused = link.standing.refused.as_ref();
                    let is_fenced = refused.is_some_and(|refused| refused.answer == "fenced");
                    (link.is_connected, is_fenced, link.handle.clone())
                };
                if !is_connected {
                    return self.gate.connected(*permit, *exclusive);
                }
                let is_back = is_fenced && permit.holder == self.replica.fileset().config.replica.0;
                if is_back {
                    // Before anybody hears that it is here.
                    self.link.lock().standing.refused = None;
                }
                if let Err(error) = self.gate.told(*permit) {
                    mezzo_replica::say!("mezzo: could not note who holds the permit: {error}");
                }
                if let Some(handle) = handle.filter(|_| is_back) {
                    // What was refused goes under the new epoch, once what happened meanwhile is here.
                    handle.end(Reason::Wanted, "the permit is here again");
                    self.again.notify_one();
                }
            }
            Note::PermitRecalled(epoch) => self.gate.recalled(*epoch),
            Note::PermitDenied(denied) => self.gate.denied(denied.message.clone()),
            _ => {}
        }
    }

    /// Records behind `acknowledged` that were made here, and their bytes with the data that is still to be sent.
    fn pending(&self, acknowledged: Recno) -> Result<(u64, u64), mezzo_replica::Error> {
        let reader = self.replica.log_reader()?;
        let own: Vec<ReplicaId> = reader.replicas()?.into_iter().map(|(replica, _)| replica).collect();
        let (mut records, mut bytes) = (0, 0);
        let mut files = std::collections::HashMap::new();
        for record in reader.from(acknowledged.next()) {
            let record = record?;
            let is_local = matches!(record.change, Change::Epoch { .. } | Change::Noop);
            if !own.contains(&record.origin.replica) || is_local {
                continue;
            }
            records += 1;
            bytes += mezzo_core::codec::FRAME_BYTES as u64;
            match &record.change {
                Change::Close { object, attributes, .. } => files.insert(*object, attributes.after.size),
                Change::Make { object, state, .. } => files.insert(*object, state.attributes.size),
                _ => None,
            };
        }
        Ok((records, bytes + files.values().sum::<u64>()))
    }

    fn note(&self, peer: ReplicaId, note: &Note) {
        self.note_permit(note);
        let mut link = self.link.lock();
        match note {
            Note::Open { replica, acknowledged } => {
                link.position = Position { replica: Some(replica.to_string()), acknowledged: acknowledged.0 };
                (link.is_connected, link.reason, link.is_stopped) = (true, None, false);
            }
            Note::Acknowledged(upto) => link.position.acknowledged = upto.0,
            Note::Refused(refused) => {
                mezzo_replica::say!(
                    "mezzo: the server refused record {}: {}",
                    refused.recno,
                    refused.message
                );
            }
            Note::Stuck(stop) => mezzo_replica::say!(
                "mezzo: record {} of replica {peer} can't be done here: {}",
                stop.refused.recno,
                stop.refused.message
            ),
            _ => {}
        }
        drop(link);
        self.changed.notify_all();
    }

    /// Written down so that it is known without a connection; what is older is made up for by the next greeting.
    fn write_position(&self) {
        let position = self.link.lock().position.clone();
        let Ok(text) = toml::to_string(&position) else { return };
        let (path, next) = (self.directory.join(POSITION), self.directory.join("position.next"));
        let written = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &path));
        if let Err(error) = written {
            mezzo_replica::say!("mezzo: could not note the position in {}: {error}", path.display());
        }
    }
}

/// What the server said last of the mapping counts when the fileset is opened next.
fn note_mapping(replica: &Replica, identity: &ClientIdentity) -> io::Result<()> {
    let fileset = replica.fileset();
    if fileset.ids.mapping == *identity.mapping() {
        return Ok(());
    }
    mezzo_replica::say!("mezzo: the server maps ids in another way: that counts from the next mount on");
    Ids { mapping: identity.mapping().clone(), ..fileset.ids.clone() }.write(fileset.own())
}

fn read_position(directory: &Path) -> Position {
    let text = std::fs::read_to_string(directory.join(POSITION)).unwrap_or_default();
    toml::from_str(&text).unwrap_or_default()
}

fn told(at: &str, refused: &Refused) -> Conflict {
    Conflict {
        at: at.to_owned(),
        recno: refused.recno,
        answer: refused.answer.clone(),
        class: refused.class.clone(),
        path: mezzo_core::name::escape(&refused.path).to_string(),
        message: refused.message.clone(),
    }
}

async fn keep_up(
    shared: Arc<Shared>,
    audience: Arc<dyn Audience + Send + Sync>,
    mut identity: ClientIdentity,
) {
    let hub = match Hub::start(shared.replica.clone(), audience) {
        Ok(hub) => hub,
        Err(error) => {
            let mut link = shared.link.lock();
            (link.is_stopped, link.reason) = (true, Some(error.to_string()));
            return;
        }
    };
    let mut wanted = shared.wanted.subscribe();
    let mut pause = BACK_OFF.0;
    loop {
        let now = *wanted.borrow_and_update();
        match now {
            Wanted::End => return,
            Wanted::Offline => {
                // Woken by whoever wants it otherwise.
                let _ = wanted.changed().await;
                pause = BACK_OFF.0;
                continue;
            }
            Wanted::Online => {}
        }
        let begun = Instant::now();
        shared.link.lock().begun += 1;
        let ended = connect(&shared, &hub, &mut identity).await;
        shared.write_position();
        let ended = match ended {
            Ok(ended) => ended,
            Err(message) => Ended { reason: Reason::Dead, message },
        };
        let is_lasting = {
            let mut link = shared.link.lock();
            link.is_stopped = ended.reason.is_lasting();
            if !link.is_connected || link.is_stopped {
                link.failed = link.begun;
            } else if link.standing.is_caught_up && begun.elapsed() > OF_USE {
                pause = BACK_OFF.0;
            }
            link.is_connected = false;
            link.reason = Some(ended.message);
            // What could not be done is tried again, as something may have changed.
            link.is_stopped || link.standing.stuck.is_some() || link.standing.refused.is_some()
        };
        shared.changed.notify_all();
        let waits = if is_lasting { BACK_OFF.1 } else { pause };
        pause = (pause * 2).min(BACK_OFF.1);
        tokio::select! {
            () = tokio::time::sleep(waits) => {}
            () = shared.again.notified() => pause = BACK_OFF.0,
            _ = wanted.changed() => pause = BACK_OFF.0,
        }
    }
}

async fn not_online(wanted: &mut watch::Receiver<Wanted>) {
    // It ends with the last sender, which the one who waits holds.
    let _ = wanted.wait_for(|wanted| *wanted != Wanted::Online).await;
}

async fn connect(
    shared: &Arc<Shared>,
    hub: &Arc<Hub>,
    identity: &mut ClientIdentity,
) -> Result<Ended, String> {
    if identity.wants_renewal() {
        match renew(identity).await {
            Ok(()) => note_mapping(&shared.replica, identity).map_err(|error| error.to_string())?,
            Err(error) => {
                mezzo_replica::say!("mezzo: could not renew the certificate for the server: {error}");
            }
        }
    }
    let mut wanted = shared.wanted.subscribe();
    let stream = tokio::select! {
        stream = identity.connect() => stream.map_err(|error| error.to_string())?,
        () = not_online(&mut wanted) => return Err("the user wants to be offline".to_owned()),
    };
    let (handle, events) = Handle::new();
    let standing = watch::Sender::new(Standing::default());
    let mut stands = standing.subscribe();
    {
        let mut link = shared.link.lock();
        link.handle = Some(handle.clone());
        link.standing = Standing::default();
    }
    let rules = Arc::new(ClientRules { shared: shared.clone() });
    let session = Session {
        hub: hub.clone(),
        role: Role::Client { takes_snapshot: true, permit: shared.gate.epoch() },
        fetches: shared.fetches.clone(),
        rules,
        events,
        standing,
    };
    let mut driving = std::pin::pin!(drive(stream, session));
    let mut is_ending = false;
    let mut durable = hub.durable();
    let ended = loop {
        tokio::select! {
            ended = &mut driving => break ended,
            Ok(()) = durable.changed() => {
                durable.borrow_and_update();
                shared.gate.came();
            }
            Ok(()) = stands.changed() => {
                let standing = stands.borrow_and_update().clone();
                shared.link.lock().standing = standing;
                shared.changed.notify_all();
            }
            () = not_online(&mut wanted), if !is_ending => {
                is_ending = true;
                handle.end(Reason::Wanted, "the user wants to be offline");
            }
        }
    };
    shared.link.lock().handle = None;
    shared.gate.disconnected();
    Ok(ended)
}

async fn renew(identity: &mut ClientIdentity) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = identity.connect().await?;
    let (from, to) = tokio::io::split(stream);
    let bounds = FrameLimits { bytes: limits::ANSWER_BYTES, time: limits::ENROLMENT_TIME };
    let mut writer = FrameWriter::new(to, bounds);
    writer.write(&[&identity.renewal_request()?]).await?;
    writer.flush().await?;
    let answer = tokio::time::timeout(bounds.time, FrameReader::new(from, bounds).next()).await??;
    Ok(identity.renew(&answer.unwrap_or_default())?)
}

impl Acknowledges for Shared {
    /// What came from elsewhere came from the server.
    fn has(&self, version: DataVersion) -> bool {
        let DataVersion(origin) = version;
        let own = self.replica.log_reader().and_then(|reader| Ok(reader.replicas()?));
        let is_own = own.map_or(true, |own| own.iter().any(|(replica, _)| *replica == origin.replica));
        !is_own || origin.recno.0 <= self.link.lock().position.acknowledged
    }

    fn address(&self) -> String {
        self.link.lock().server.clone()
    }
}

struct ClientRules {
    shared: Arc<Shared>,
}

impl Rules for ClientRules {
    /// The server decides what is in the fileset.
    fn allows(&self, _: &Record) -> Result<(), Refused> {
        Ok(())
    }

    fn judges(&self) -> bool {
        false
    }

    fn brings(&self, object: ObjectId, _: DataVersion, size: u64) -> bool {
        if size <= EAGER_BYTES {
            return true;
        }
        if self.shared.replica.fileset().config.cache.full {
            return true;
        }
        // Who has a file has its next version, too.
        let entry = self.shared.replica.index().entry(object);
        entry.is_ok_and(|entry| entry.is_some_and(|entry| !entry.lost && entry.attributes().size > 0))
    }

    fn note(&self, peer: ReplicaId, note: &Note) {
        self.shared.note(peer, note);
    }
}
