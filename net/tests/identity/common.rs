//! A server on a loopback socket, clients, and a clock that is set by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mezzo_core::{FilesetId, IdMapping};
use mezzo_net::frame::{FrameLimits, FrameReader, FrameWriter};
use mezzo_net::identity::{
    Address, ClientIdentity, Clock, IdentityError, Link, Peer, PendingClient, Rights, ServerIdentity, explain,
};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub const FILESET: FilesetId = FilesetId([0x11; 16]);
pub const DAY: u64 = 24 * 60 * 60;
pub const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// It is the year 2030.
    pub fn new() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicU64::new(60 * 365 * DAY)))
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

/// A server that enrols whom it does not know, and tells clients that ask for a fileset whether they may use it.
pub struct Server {
    pub identity: ServerIdentity,
    pub address: Address,
    pub clock: Arc<TestClock>,
    /// What became of each connection, in words.
    pub events: mpsc::UnboundedReceiver<String>,
    pub room: TempDir,
}

impl Server {
    pub async fn start() -> Server {
        let (room, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
        let identity = ServerIdentity::open(&room.path().join("server"), clock.clone()).unwrap();
        let (address, events) = listen(identity.clone()).await;
        Server { identity, address, clock, events, room }
    }

    pub fn state(&self) -> PathBuf {
        self.room.path().join("server")
    }

    pub fn invite(&self) -> Link {
        invite(&self.identity, &self.address)
    }

    /// The directory of a client that is called `name`.
    pub fn home(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    pub async fn enrol(&self, link: &Link, name: &str) -> Result<ClientIdentity, IdentityError> {
        PendingClient::open(&self.home(name), self.clock.clone())?.enrol(link, name).await
    }

    /// Skips to an event that tells of `what`.
    pub async fn event(&mut self, what: &str) -> String {
        loop {
            let event = self.events.recv().await.expect("the server runs");
            if event.contains(what) {
                return event;
            }
        }
    }
}

pub fn invite(server: &ServerIdentity, address: &Address) -> Link {
    server.mint(Rights::ReadWrite, HOUR, IdMapping::Same, FILESET, vec![address.clone()]).unwrap()
}

pub async fn listen(identity: ServerIdentity) -> (Address, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let (tell, events) = mpsc::unbounded_channel();
    let config = identity.tls_config().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (identity, config, tell) = (identity.clone(), config.clone(), tell.clone());
            tokio::spawn(async move {
                let event = match identity.accept(&config, stream).await {
                    Err(error) => format!("no handshake: {}", explain(&error)),
                    Ok((stream, Peer::Unknown)) => {
                        match identity.serve_enrolment(Peer::Unknown, stream).await {
                            Ok(Ok(client)) => format!("enrolled {client}"),
                            Ok(Err(refused)) => format!("refused: {refused}"),
                            Err(error) => format!("no enrolment: {error}"),
                        }
                    }
                    Ok((stream, peer)) => {
                        let _ = tell.send(format!("connected {peer:?}"));
                        converse(&identity, peer, stream).await
                    }
                };
                // A test that has ended listens no more.
                let _ = tell.send(event);
            });
        }
    });
    (address, events)
}

/// A frame of 16 bytes asks for a fileset; any other is a request to renew.
async fn converse(identity: &ServerIdentity, peer: Peer, stream: impl AsyncRead + AsyncWrite) -> String {
    let (from, to) = tokio::io::split(stream);
    let mut reader = FrameReader::new(Box::pin(from), FrameLimits::default());
    let mut writer = FrameWriter::new(Box::pin(to), FrameLimits::default());
    let frame = match reader.next().await {
        Ok(Some(frame)) => frame,
        ended => return format!("{peer:?} said nothing: {ended:?}"),
    };
    let answer = match <[u8; 16]>::try_from(&*frame) {
        Ok(asked) => match identity.admit(peer, FilesetId(asked)) {
            Ok(client) => format!("welcome {}", client.name).into_bytes(),
            Err(refusal) => refusal.to_string().into_bytes(),
        },
        Err(_) => identity.answer(peer, &frame).bytes,
    };
    writer.write(&[&answer]).await.unwrap();
    writer.shut_down().await.unwrap();
    format!("{peer:?} was answered")
}

/// Sends one frame, and returns what comes back, or why nothing does.
pub async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, frame: &[u8]) -> Result<Vec<u8>, String> {
    let (from, to) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(to, FrameLimits::default());
    writer.write(&[frame]).await.map_err(|error| error.to_string())?;
    writer.flush().await.map_err(|error| error.to_string())?;
    let mut reader = FrameReader::new(from, FrameLimits::default());
    let answer = reader.next().await.map_err(|error| error.to_string())?;
    answer.map(|frame| frame.to_vec()).ok_or("the connection ended".to_owned())
}

/// Asks for a fileset as an enrolled client.
pub async fn hello(client: &ClientIdentity, fileset: FilesetId) -> Result<String, String> {
    let stream = client.connect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(ask(stream, &fileset.0).await?).unwrap())
}

/// What the server says to a peer before that has said anything: how it refuses a certificate.
pub async fn refusal(mut stream: impl AsyncRead + Unpin) -> String {
    match stream.read_u8().await {
        Ok(byte) => panic!("the server said {byte}"),
        Err(error) => explain(&error),
    }
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
