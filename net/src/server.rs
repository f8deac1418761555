//! A server: filesets that are offered to clients.

mod permit;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mezzo_core::session::message::{Hello, Refused};
use mezzo_core::session::{Account, Note, Reason};
use mezzo_core::{Change, DataVersion, FilesetId, Kind, ObjectId, Record, ReplicaId};
use mezzo_replica::Replica;
use mezzo_replica::undo::Audience;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::permit::{Errand, Office};
use crate::data::Fetches;
use crate::identity::{self, ClientId, Peer, Rights, ServerIdentity};
use crate::session::{Ended, Handle, Hub, Role, Rules, Session, Standing, drive};

/// Connections at once, those that have not said yet who they are among them.
const CONNECTIONS: usize = 4096;

/// The file of a fileset's `.mezzo` that says which client each replica belongs to.
const REPLICAS: &str = "clients.toml";

/// Replicas that one client may come with: its own, those that it was before, and those of its clients.
const REPLICAS_OF_CLIENT: usize = 4096;

/// A set-user-id or set-group-id bit.
const SET_ID: u32 = 0o6000;

/// The extended attribute that gives a program rights, as a set-id bit does.
const CAPABILITY: &[u8] = b"security.capability";

/// A client as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its number.
    pub id: String,
    /// What its machine was called.
    pub name: String,
    /// `read` or `read-write`.
    pub rights: String,
    /// How its users are the server's.
    pub mapping: String,
    /// Seconds since 1970.
    pub enrolled: u64,
    /// Seconds since 1970, as far as it was noted.
    pub seen: Option<u64>,
    /// It was revoked.
    pub revoked: bool,
    /// It is connected now.
    pub connected: bool,
    /// From where.
    pub address: Option<String>,
    /// Its replica, if it ever said.
    pub replica: Option<String>,
    /// Up to where it has this log.
    pub acknowledged: u64,
    /// Up to where its log is here.
    pub received: u64,
}

/// A fileset that is offered.
pub struct Served {
    hub: Arc<Hub>,
    /// All replicas that the log here was one of.
    own: Vec<ReplicaId>,
    fileset: FilesetId,
    live: Mutex<HashMap<ClientId, Live>>,
    bindings: Mutex<Bindings>,
    policy: Policy,
    permit: Office,
}

/// What clients may not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Clients may make set-id programs.
    pub allow_set_id: bool,
    /// Clients may make device nodes.
    pub allow_devices: bool,
}

/// Which client each replica belongs to: who comes first with it has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bindings {
    replicas: BTreeMap<String, String>,
}

struct Live {
    handle: Handle,
    address: SocketAddr,
    standing: watch::Receiver<Standing>,
    /// Given back when the session has ended.
    ended: watch::Receiver<bool>,
}

/// A server that listens until it is dropped.
pub struct Server {
    identity: ServerIdentity,
    served: Arc<HashMap<FilesetId, Arc<Served>>>,
    address: SocketAddr,
    listening: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Offers a replica's fileset. Called within a runtime.
    pub fn new(
        replica: Arc<Replica>,
        audience: Arc<dyn Audience + Send + Sync>,
        policy: Policy,
    ) -> Result<Arc<Served>, mezzo_replica::Error> {
        let fileset = replica.fileset().config.id;
        let bindings_path = replica.fileset().own_path(REPLICAS);
        let bindings = match std::fs::read_to_string(&bindings_path) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                io::Error::other(format!("could not read {}: {error}", bindings_path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Bindings::default(),
            Err(error) => return Err(error.into()),
        };
        let own = replica.log_reader()?.replicas()?.into_iter().map(|(replica, _)| replica).collect();
        let (permit, errands) = Office::open(&replica)?;
        let served = Arc::new(Served {
            own,
            hub: Hub::start(replica, audience)?,
            fileset,
            live: Mutex::default(),
            bindings: Mutex::new(bindings),
            policy,
            permit,
        });
        permit::serve(&served, errands)?;
        Ok(served)
    }

    /// The fileset.
    pub fn fileset(&self) -> FilesetId {
        self.fileset
    }

    /// The replica is this client's from now on, durably, where it is nobody's.
    fn bind(&self, replica: ReplicaId, client: ClientId) -> Result<(), io::Error> {
        let (replica, client) = (replica.to_string(), client.to_string());
        let mut bindings = self.bindings.lock();
        if bindings.replicas.contains_key(&replica) {
            return Ok(());
        }
        if bindings.replicas.values().filter(|bound| **bound == client).count() >= REPLICAS_OF_CLIENT {
            return Err(io::Error::other("the client came with too many of them"));
        }
        let mut next = bindings.clone();
        next.replicas.insert(replica, client);
        let text = toml::to_string(&next).map_err(io::Error::other)?;
        mezzo_replica::fileset::write_whole(self.hub.replica.fileset().own(), REPLICAS, text.as_bytes())?;
        *bindings = next;
        Ok(())
    }

    /// Whether the replica may be this client's, or whose it is.
    fn may_be(&self, replica: ReplicaId, client: ClientId) -> Result<(), String> {
        if self.own.contains(&replica) {
            return Err(format!("replica {replica} is the server's"));
        }
        match self.bindings.lock().replicas.get(&replica.to_string()) {
            Some(bound) if *bound != client.to_string() => {
                Err(format!("replica {replica} is another client's"))
            }
            _ => Ok(()),
        }
    }

    /// The same; and one that nobody came with is this client's from now on.
    fn owns(&self, replica: ReplicaId, client: ClientId) -> Result<(), String> {
        self.may_be(replica, client)?;
        let noted = self.bind(replica, client);
        noted.map_err(|error| format!("could not note whose replica {replica} is: {error}"))
    }

    fn replica_of(&self, client: ClientId) -> Option<ReplicaId> {
        let client = client.to_string();
        let bindings = self.bindings.lock();
        let found = bindings.replicas.iter().filter(|(_, bound)| **bound == client);
        found
            .filter_map(|(replica, _)| replica.parse().ok())
            .max_by_key(|replica: &ReplicaId| self.hub.replica.index().received_from(*replica))
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        self.live.lock().len()
    }

    /// The clients of this fileset.
    pub fn clients(&self, identity: &ServerIdentity) -> Vec<ClientStatus> {
        let live = self.live.lock();
        let own = identity.clients().into_iter().filter(|client| client.fileset == self.fileset);
        own.map(|client| {
            let connected = live.get(&client.id);
            let replica = self.replica_of(client.id);
            ClientStatus {
                id: client.id.to_string(),
                name: client.name,
                rights: client.rights.to_string(),
                mapping: client.mapping.to_string(),
                enrolled: client.enrolled,
                seen: client.seen,
                revoked: client.revoked.is_some(),
                connected: connected.is_some(),
                address: connected.map(|live| live.address.to_string()),
                replica: replica.map(|replica| replica.to_string()),
                acknowledged: connected.map_or(0, |live| live.standing.borrow().acknowledged.0),
                received: replica.map_or(0, |replica| self.hub.replica.index().received_from(replica).0),
            }
        })
        .collect()
    }
}

impl Server {
    /// Offers filesets at `address`. Called within a runtime.
    pub async fn start(
        address: SocketAddr,
        identity: ServerIdentity,
        served: Vec<Arc<Served>>,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let served: Arc<HashMap<_, _>> =
            Arc::new(served.into_iter().map(|served| (served.fileset, served)).collect());
        let config = identity.tls_config().map_err(io::Error::other)?;
        let (accepting, offered) = (identity.clone(), served.clone());
        let listening = tokio::spawn(async move {
            let connections = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                let Ok(permit) = connections.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, from)) => {
                        let meeting =
                            meet(accepting.clone(), config.clone(), offered.clone(), (stream, from), permit);
                        tokio::spawn(meeting);
                    }
                    Err(error) => {
                        // Such as too many descriptors: others may give some back.
                        mezzo_replica::say!("mezzo: could not accept a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(Server { identity, served, address, listening })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may come, and who came.
    pub fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    /// A fileset that it offers.
    pub fn served(&self, fileset: FilesetId) -> Option<&Arc<Served>> {
        self.served.get(&fileset)
    }

    /// Lets nobody in any more, and ends all sessions.
    pub async fn stop(self) {
        self.listening.abort();
        let mut ends = Vec::new();
        for served in self.served.values() {
            for live in served.live.lock().values() {
                live.handle.end(Reason::Wanted, "the server ends");
                ends.push(live.ended.clone());
            }
        }
        for mut ended in ends {
            // One that is gone has ended.
            let _ = ended.wait_for(|ended| *ended).await;
        }
        if let Err(error) = self.identity.save_seen() {
            mezzo_replica::say!("mezzo: could not note when clients were seen: {error}");
        }
    }
}

/// Somebody has connected.
async fn meet(
    identity: ServerIdentity,
    config: Arc<rustls::ServerConfig>,
    served: Arc<HashMap<FilesetId, Arc<Served>>>,
    (stream, from): (TcpStream, SocketAddr),
    _permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        mezzo_replica::say!("mezzo: {from}: {error}");
        return;
    }
    let (stream, peer) = match identity.accept(&config, stream).await {
        Ok(accepted) => accepted,
        Err(error) => {
            mezzo_replica::say!("mezzo: {from} was not let in: {}", identity::explain(&error));
            return;
        }
    };
    let Peer::Client(id) = peer else {
        match identity.serve_enrolment(peer, stream).await {
            Ok(Ok(client)) => mezzo_replica::say!("mezzo: {from} is client {client} now"),
            Ok(Err(refused)) => mezzo_replica::say!("mezzo: {from} was not enrolled: {refused}"),
            Err(error) => mezzo_replica::say!("mezzo: {from} was not enrolled: {error}"),
        }
        return;
    };
    let Some(client) = identity.client(id) else { return };
    let offered = served.get(&client.fileset).cloned();
    let admitted = identity.admit(peer, client.fileset);
    let (Some(offered), Ok(client)) = (offered, admitted) else {
        mezzo_replica::say!("mezzo: client {id} at {from} was not let in: its fileset is not offered here");
        return;
    };
    identity.see(id);
    replace(&offered, id).await;
    let (handle, events) = Handle::new();
    let standing = watch::Sender::new(Standing::default());
    let (ending, ended) = watch::channel(false);
    let gone = standing.subscribe();
    let live = Live { handle: handle.clone(), address: from, standing: standing.subscribe(), ended };
    offered.live.lock().insert(id, live);
    let rules = Arc::new(ServerRules {
        served: offered.clone(),
        identity: identity.clone(),
        client: client.clone(),
        handle: handle.clone(),
        is_bound: AtomicBool::new(false),
    });
    let account = Account {
        may_write: client.rights == Rights::ReadWrite,
        exclusive: offered.permit.gate.is_exclusive(),
        permit: offered.permit.gate.permit(),
    };
    let session = Session {
        hub: offered.hub.clone(),
        role: Role::Server(account),
        fetches: Fetches::new(),
        rules,
        events,
        standing,
    };
    let mut driving = std::pin::pin!(drive(stream, session));
    let mut revoked = std::pin::pin!(identity.until_revoked(id));
    let mut is_revoked = false;
    let Ended { reason, message } = loop {
        tokio::select! {
            ended = &mut driving => break ended,
            () = &mut revoked, if !is_revoked => {
                is_revoked = true;
                handle.end(Reason::Rights, "the client was revoked");
            }
        }
    };
    {
        let mut live = offered.live.lock();
        // Another connection of the same client may have taken its place.
        if live.get(&id).is_some_and(|live| live.address == from) {
            live.remove(&id);
        }
    }
    if let Some(replica) = gone.borrow().peer {
        offered.permit.send(Errand::Gone(replica));
    }
    identity.see(id);
    ending.send_replace(true);
    if reason != Reason::Wanted {
        mezzo_replica::say!("mezzo: the session of client {id} ({}) at {from} ended: {message}", client.name);
    }
}

/// A client that comes again has lost its connection, which this side may not know yet.
async fn replace(served: &Served, client: ClientId) {
    let Some(mut ended) = served.live.lock().get(&client).map(|live| {
        live.handle.end(Reason::Wanted, "the client has another connection");
        live.ended.clone()
    }) else {
        return;
    };
    // One that is gone has ended.
    let _ = ended.wait_for(|ended| *ended).await;
}

struct ServerRules {
    served: Arc<Served>,
    identity: ServerIdentity,
    client: identity::Client,
    handle: Handle,
    /// The replica is this client's.
    is_bound: AtomicBool,
}

impl ServerRules {
    /// Whether the client has a say about the permit.
    fn may_hold(&self) -> bool {
        self.is_bound.load(Ordering::Relaxed) && self.client.rights == Rights::ReadWrite
    }
}

impl Rules for ServerRules {
    fn allows(&self, record: &Record) -> Result<(), Refused> {
        let refused = |message: String| Refused {
            recno: record.recno.0,
            answer: "permission".to_owned(),
            class: "permission".to_owned(),
            path: record.change.path().unwrap_or_default().to_vec(),
            message,
        };
        self.served.owns(record.origin.replica, self.client.id).map_err(&refused)?;
        if let Some(id) = crate::rights::forbidden(&self.client.mapping, record) {
            return Err(refused(format!("the client may not act for, or give anything to, {id}")));
        }
        let Policy { allow_set_id, allow_devices } = self.served.policy;
        match made_by(&record.change) {
            _ if gives_rights(&record.change) && !allow_set_id => {
                Err(refused("clients may make no set-id programs here (peers.allow_set_id)".to_owned()))
            }
            Some((Kind::BlockDevice | Kind::CharDevice, _)) if !allow_devices => {
                Err(refused("clients may make no devices here (peers.allow_devices)".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn judges(&self) -> bool {
        true
    }

    fn brings(&self, _: ObjectId, _: DataVersion, _: u64) -> bool {
        true
    }

    fn renew(&self, request: &[u8]) -> Option<Vec<u8>> {
        Some(self.identity.answer(Peer::Client(self.client.id), request).bytes)
    }

    fn knows(&self, hello: &Hello) -> Result<(), String> {
        let replica = ReplicaId(hello.replica);
        self.served.owns(replica, self.client.id)?;
        let earlier = hello.ids.iter().map(|id| ReplicaId(id.replica)).filter(|id| *id != replica);
        earlier.into_iter().try_for_each(|id| self.served.may_be(id, self.client.id))
    }

    fn note(&self, peer: ReplicaId, note: &Note) {
        match note {
            Note::PermitAsked(ask) if self.may_hold() => {
                self.served.permit.send(Errand::Asked(peer, ask.steal))
            }
            Note::PermitReleased(release) if self.may_hold() => {
                self.served.permit.send(Errand::GivenBack(peer, release.epoch))
            }
            Note::Open { .. } => {
                // That it is this client's replica was found out by its hello.
                self.is_bound.store(true, Ordering::Relaxed);
                self.served.permit.send(Errand::Came(peer, self.handle.clone()))
            }
            Note::Stuck(stop) => mezzo_replica::say!(
                "mezzo: record {} of client {} ({}) was refused: {}",
                stop.refused.recno,
                self.client.id,
                self.client.name,
                stop.refused.message
            ),
            Note::Refused(refused) => mezzo_replica::say!(
                "mezzo: client {} ({}) can't do record {}: {}",
                self.client.id,
                self.client.name,
                refused.recno,
                refused.message
            ),
            _ => {}
        }
    }
}

/// What a change makes of an object's kind and mode, where it makes any of them.
fn made_by(change: &Change) -> Option<(Kind, u32)> {
    match change {
        Change::Make { state, .. } => Some((state.attributes.kind, u32::from(state.attributes.mode))),
        Change::Setattr { attributes, .. } if attributes.before.mode != attributes.after.mode => {
            Some((attributes.after.kind, u32::from(attributes.after.mode)))
        }
        Change::UndoOf { change, .. } => made_by(change),
        _ => None,
    }
}

/// Whether a change gives a program rights that whoever starts it has not.
fn gives_rights(change: &Change) -> bool {
    match change {
        Change::Xattr { name, value, .. } => **name == *CAPABILITY && value.after.is_some(),
        Change::Make { state, .. } if state.xattrs.iter().any(|xattr| *xattr.name == *CAPABILITY) => true,
        Change::UndoOf { change, .. } => gives_rights(change),
        change => made_by(change).is_some_and(|(kind, mode)| kind == Kind::File && mode & SET_ID != 0),
    }
}
