//! A server with a replica, clients with theirs, and peers that say what no client of ours says.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::codec::encode;
use mezzo_core::session::MESSAGE_BYTES;
use mezzo_core::session::message::{Ack, Body, Goodbye, Hello, Message, Position, Records, Refused, Welcome};
use mezzo_core::{IdMapping, Name, ObjectId, Recno, Record, ReplicaId, Who};
use mezzo_net::data::{Body as DataBody, DataMessage, Gone, Piece};
use mezzo_net::frame::{FrameLimits, FrameReader};
use mezzo_net::identity::{Address, ClientIdentity, PendingClient, Rights, ServerIdentity, SystemClock};
use mezzo_net::limits;
use mezzo_net::server::{Policy, Served, Server};
use mezzo_net::upstream::{DIRECTORY, Upstream};
use mezzo_replica::host::Identity;
use mezzo_replica::{Bytes, Caller, Fileset, Replica, Sight, Use};
use prost::Message as _;
use rustix::fs::OFlags;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How long anything that is to come may take to come, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const ROOT: ObjectId = ObjectId::ROOT;

/// Channels of a connection.
pub const SESSION: u8 = 0x10;
pub const DATA: u8 = 0x11;
pub const PIECE: u8 = 0x12;

/// A replica in a directory that is gone with the test.
pub struct Bench {
    pub directory: tempfile::TempDir,
    replica: Option<Arc<Replica>>,
}

impl Bench {
    fn of(make: impl FnOnce(&Path) -> Fileset) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        let replica = Replica::create(make(&root)).unwrap();
        Bench { directory, replica: Some(Arc::new(replica)) }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub fn replica(&self) -> &Arc<Replica> {
        self.replica.as_ref().unwrap()
    }

    pub fn id(&self) -> ReplicaId {
        self.replica().fileset().config.replica
    }

    pub fn records(&self) -> Vec<Record> {
        let reader = self.replica().log_reader().unwrap();
        reader.from(Recno(1)).map(Result::unwrap).collect()
    }

    /// A file with bytes, made by `uid`.
    pub fn write(&self, uid: u32, file: &str, bytes: &[u8]) -> ObjectId {
        let (replica, caller) = (self.replica(), user(uid));
        let object = match replica.meet(ROOT, &name(file)).unwrap() {
            Some(met) => met.entry.object,
            None => replica.create_file(&caller, ROOT, &name(file), 0o644).unwrap().0.entry.object,
        };
        if replica.opening(object, Use::Write, None, Bytes::Needed).unwrap().0 == Sight::Seen {
            replica.before_change(object, 0..bytes.len() as u64);
        }
        let opened = std::fs::File::from(replica.open_data(object, OFlags::WRONLY).unwrap());
        opened.write_all_at(bytes, 0).unwrap();
        drop(opened);
        replica.flushed(&caller, object).unwrap();
        replica.released(&caller, object, Use::Write).unwrap();
        object
    }

    pub fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.root().join(file))
    }

    pub fn has(&self, file: &str) -> bool {
        self.root().join(file).exists()
    }
}

pub fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

/// A caller with the rights of `uid`.
pub fn user(uid: u32) -> Caller {
    let who = Who { uid, gid: uid, program: (*b"test").into(), ..Who::default() };
    Caller { identity: Identity { uid, gid: uid }, umask: 0o022, who: Arc::new(who) }
}

/// A server that offers one fileset.
pub struct Host {
    pub bench: Bench,
    pub identity: ServerIdentity,
    pub policy: Policy,
    server: Option<Server>,
    address: SocketAddr,
}

impl Host {
    pub async fn start() -> Host {
        Host::with(Policy::default()).await
    }

    pub async fn with(policy: Policy) -> Host {
        let bench = Bench::of(|root| Fileset::create(root).unwrap());
        bench.replica().take_in(&mut |_| true).unwrap();
        // Users who own nothing make files in it.
        let everybody = mezzo_replica::Changes { mode: Some(0o1777), ..Default::default() };
        bench.replica().set_attributes(&user(0), ROOT, &everybody).unwrap();
        let identity = ServerIdentity::open(&bench.directory.path().join("state"), Arc::new(SystemClock));
        let address = "127.0.0.1:0".parse().unwrap();
        let mut host = Host { bench, identity: identity.unwrap(), policy, server: None, address };
        host.offer().await;
        host
    }

    /// Offers it, where it was offered before.
    pub async fn offer(&mut self) {
        let served = Served::new(self.bench.replica().clone(), Arc::new(()), self.policy).unwrap();
        let server = Server::start(self.address, self.identity.clone(), vec![served]).await.unwrap();
        self.address = server.address();
        self.server = Some(server);
    }

    pub async fn stop(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    /// A client that has enrolled and has not connected yet.
    pub async fn client(&self, rights: Rights, mapping: IdMapping) -> Guest {
        let fileset = self.bench.replica().fileset().config.id;
        let address = Address::new("127.0.0.1", self.address.port()).unwrap();
        let link = self.identity.mint(rights, PATIENCE, mapping, fileset, vec![address]).unwrap();
        let bench = Bench::of(|root| Fileset::create_as(root, fileset).unwrap());
        let directory = bench.replica().fileset().own_path(DIRECTORY);
        let pending = PendingClient::open(&directory, Arc::new(SystemClock)).unwrap();
        let identity = pending.enrol(&link, "guest").await.unwrap();
        Guest { bench, identity: Some(identity), upstream: None }
    }

    /// One that may write, and has the same users.
    pub async fn writer(&self) -> Guest {
        self.client(Rights::ReadWrite, IdMapping::Same).await
    }

    pub fn received_from(&self, guest: &Guest) -> Recno {
        self.bench.replica().index().received_from(guest.bench.id())
    }
}

/// A client.
pub struct Guest {
    pub bench: Bench,
    /// While it is not connected by ours.
    identity: Option<ClientIdentity>,
    upstream: Option<Upstream>,
}

impl Guest {
    /// Connects, as clients of ours do.
    pub fn connect(&mut self) {
        self.identity = None;
        let upstream = Upstream::start(self.bench.replica().clone(), Arc::new(())).unwrap();
        self.upstream = Some(upstream);
    }

    pub fn upstream(&self) -> &Upstream {
        self.upstream.as_ref().unwrap()
    }

    /// Everything is exchanged.
    pub fn sync(&self) {
        self.try_sync().unwrap();
    }

    pub fn try_sync(&self) -> Result<(), String> {
        let until = std::time::Instant::now() + PATIENCE;
        self.upstream().exchange(&mut |_| std::time::Instant::now() < until).map(drop)
    }

    /// Ends its connection.
    pub fn disconnect(&mut self) {
        self.upstream = None;
        let directory = self.bench.replica().fileset().own_path(DIRECTORY);
        self.identity = Some(ClientIdentity::open(&directory, Arc::new(SystemClock)).unwrap());
    }

    pub fn identity(&self) -> &ClientIdentity {
        self.identity.as_ref().unwrap()
    }

    /// Takes what the server has, and goes: what it says from now on is said by hand.
    pub fn take_all(&mut self) {
        self.connect();
        self.sync();
        self.disconnect();
    }

    /// Its records behind `after` that clients send.
    pub fn sent_after(&self, after: Recno) -> Vec<Record> {
        let own = |record: &Record| record.recno > after && record.change.kind() != "epoch";
        self.bench.records().into_iter().filter(own).collect()
    }

    pub fn hello(&self) -> Hello {
        let facts = self.bench.replica().facts().unwrap();
        let positions = |pairs: &[(ReplicaId, Recno)]| {
            pairs.iter().map(|(replica, recno)| Position::new(*replica, *recno)).collect()
        };
        Hello {
            oldest_version: 1,
            version: 1,
            fileset: facts.fileset.to_vec(),
            replica: facts.replica().0,
            last: facts.last.0,
            received: positions(&facts.received),
            ids: positions(&facts.ids),
            host: "guest".to_owned(),
            ..Hello::default()
        }
    }

    /// A connection on which anything can be said.
    pub async fn speak(&self) -> Speaker {
        let stream = self.identity().connect().await.unwrap();
        let (from, to) = tokio::io::split(stream);
        let bounds = FrameLimits { bytes: MESSAGE_BYTES + 1024, time: limits::FRAME_TIME };
        Speaker { frames: FrameReader::new(from, bounds), to: Some(to) }
    }

    /// The same, greeted and welcomed.
    pub async fn greet(&self) -> (Speaker, Welcome) {
        let mut speaker = self.speak().await;
        speaker.say(Body::Hello(self.hello())).await;
        let Body::Welcome(welcome) = speaker.hear().await else { panic!("no welcome") };
        (speaker, welcome)
    }

    /// Sends these records as if they were this client's next, and returns what is answered first.
    pub async fn sends(&self, records: &[Record]) -> Body {
        let (mut speaker, welcome) = self.greet().await;
        speaker.say(records_after(welcome.received, records)).await;
        speaker.answer().await
    }

    /// The same, where they are to be refused.
    pub async fn is_refused(&self, records: &[Record]) -> Refused {
        match self.sends(records).await {
            Body::Refused(refused) => refused,
            other => panic!("the answer was {other:?}"),
        }
    }
}

/// Records that follow `after`, whatever their numbers.
pub fn records_after(after: u64, records: &[Record]) -> Body {
    let mut frames = Vec::new();
    records.iter().for_each(|record| encode(record, &mut frames).unwrap());
    let upto = records.last().map_or(after + 1, |record| record.recno.0);
    Body::Records(Records { after, upto, frames, ..Records::default() })
}

/// The end of a connection that has no manners.
pub struct Speaker {
    frames: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    to: Option<WriteHalf<TlsStream<TcpStream>>>,
}

/// What a frame held.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Session(Body),
    Data(DataMessage),
    End(String),
}

impl Speaker {
    /// What can be written to, for somebody else.
    pub fn take_writer(&mut self) -> WriteHalf<TlsStream<TcpStream>> {
        self.to.take().unwrap()
    }

    pub fn raw(&mut self) -> &mut WriteHalf<TlsStream<TcpStream>> {
        self.to.as_mut().unwrap()
    }

    async fn frame(&mut self, channel: u8, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt;
        let to = self.raw();
        // Where the other has ended the connection, it said why before.
        let length = (bytes.len() + 1) as u32;
        let _ = to.write_all(&length.to_le_bytes()).await;
        let _ = to.write_all(&[channel]).await;
        let _ = to.write_all(bytes).await;
        let _ = to.flush().await;
    }

    pub async fn say(&mut self, body: Body) {
        self.frame(SESSION, &Message::from(body).encode_to_vec()).await;
    }

    pub async fn say_data(&mut self, message: &DataMessage) {
        self.frame(DATA, &message.encode_to_vec()).await;
    }

    pub async fn say_piece(&mut self, head: &Piece, bytes: &[u8]) {
        let head = head.encode_length_delimited_to_vec();
        self.frame(PIECE, &[&head, bytes].concat()).await;
    }

    pub async fn hear_anything(&mut self) -> Heard {
        let next = tokio::time::timeout(PATIENCE, self.frames.next()).await.expect("nothing was answered");
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => return Heard::End("the connection ended".to_owned()),
            Err(error) => return Heard::End(error.to_string()),
        };
        match frame[0] {
            SESSION => Heard::Session(Message::decode(&frame[1..]).unwrap().body.unwrap()),
            DATA => Heard::Data(DataMessage::decode(&frame[1..]).unwrap()),
            channel => panic!("a frame of channel {channel}"),
        }
    }

    /// The next message of the session. Data that is asked for is not to be had.
    pub async fn hear(&mut self) -> Body {
        loop {
            match self.hear_anything().await {
                Heard::Session(body) => return body,
                Heard::Data(DataMessage { number, .. }) => {
                    let body = Some(DataBody::Gone(Gone { message: "none".to_owned(), is_passing: false }));
                    self.say_data(&DataMessage { number, body }).await;
                }
                Heard::End(why) => panic!("{why}"),
            }
        }
    }

    /// The next message that is no record of the server: those are acknowledged.
    pub async fn answer(&mut self) -> Body {
        loop {
            match self.hear().await {
                Body::Records(records) => self.say(Body::Ack(Ack { upto: records.upto })).await,
                Body::Ping(ping) => self.say(Body::Pong(ping)).await,
                body => return body,
            }
        }
    }

    /// How the server ends the session.
    pub async fn goodbye(&mut self) -> Goodbye {
        loop {
            match self.answer().await {
                Body::Goodbye(goodbye) => return goodbye,
                Body::Ack(_) | Body::Pong(_) | Body::Welcome(_) => {}
                body => panic!("no goodbye, but {body:?}"),
            }
        }
    }

    /// The same, in its two words.
    pub async fn is_ended(&mut self) -> (String, String) {
        let Goodbye { reason, message } = self.goodbye().await;
        (reason, message)
    }
}
