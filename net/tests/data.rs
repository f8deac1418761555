//! Data between two replicas: what moves, by the bytes that went over the connection, and what comes of it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mezzo_core::session::message::{Permit, Refused};
use mezzo_core::session::{Account, Note, Reason};
use mezzo_core::{DataVersion, Name, ObjectId, Record, ReplicaId};
use mezzo_net::data::{Acknowledges, Fetches, FromServer, Moved, NotFetched};
use mezzo_net::session::{Ended, Handle, Hub, Role, Rules, Session, Standing, drive};
use mezzo_replica::demand::{Fetching, Waiter};
use mezzo_replica::receive::Sought;
use mezzo_replica::{Caller, Fileset, Replica};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

const MIB: u64 = 1 << 20;

/// What a question and the chunks of a 64 MiB file may take, and the greetings of a session.
const TALK: u64 = 256 << 10;

/// A replica in a directory that is gone with the test.
struct Side {
    directory: tempfile::TempDir,
    replica: Arc<Replica>,
}

impl Side {
    fn new() -> Side {
        Side::create(|root| Fileset::create(root).unwrap())
    }

    /// An empty replica of the same fileset.
    fn of(other: &Side) -> Side {
        let id = other.replica.fileset().config.id;
        Side::create(|root| Fileset::create_as(root, id).unwrap())
    }

    fn create(fileset: impl FnOnce(&Path) -> Fileset) -> Side {
        let directory = tempfile::tempdir().unwrap();
        let replica = Arc::new(Replica::create(fileset(directory.path())).unwrap());
        Side { directory, replica }
    }

    /// Changes a file, and has it recorded.
    fn write(&self, name: &str, write: impl FnOnce(&File)) {
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        write(&options.open(self.directory.path().join(name)).unwrap());
        self.replica.take_in(&mut |_| true).unwrap();
    }

    fn file(&self, name: &str) -> File {
        File::open(self.directory.path().join(name)).unwrap()
    }

    fn find(&self, name: &str) -> (ObjectId, DataVersion, u64) {
        let name = Name::new(name.as_bytes()).unwrap();
        let met = self.replica.meet(ObjectId::ROOT, &name).unwrap().expect("a file");
        (met.entry.object, met.entry.version().unwrap(), met.entry.attributes().size)
    }
}

/// A stream whose bytes are counted, and which is cut after so many.
struct Counted<S> {
    stream: S,
    read: Arc<AtomicU64>,
    limit: u64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        if self.read.load(Ordering::Relaxed) >= self.limit {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, to);
        self.read.fetch_add((to.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Everything is allowed; data comes with records, or not.
struct Open {
    brings: bool,
}

impl Rules for Open {
    fn allows(&self, _: &Record) -> Result<(), Refused> {
        Ok(())
    }

    fn judges(&self) -> bool {
        false
    }

    fn brings(&self, _: ObjectId, _: DataVersion, _: u64) -> bool {
        self.brings
    }

    fn note(&self, _: ReplicaId, _: &Note) {}
}

/// A session between two replicas, in a thread of its own.
struct Link {
    fetches: Arc<Fetches>,
    handle: Handle,
    client: watch::Receiver<Standing>,
    /// Bytes that came to the server, and to the client.
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    running: JoinHandle<(Ended, Ended)>,
}

/// How a link is.
#[derive(Clone, Copy)]
struct Limits {
    /// Bytes after which it is cut, to the server and to the client.
    up: u64,
    down: u64,
    /// Whether the client has the data of records brought.
    brings: bool,
}

const WHOLE: Limits = Limits { up: u64::MAX, down: u64::MAX, brings: false };

impl Link {
    fn new(server: &Side, client: &Side, limits: Limits) -> Link {
        let (fetches, (handle, told)) = (Fetches::new(), Handle::new());
        let (server_stands, client_stands) = <(watch::Sender<Standing>, watch::Sender<Standing>)>::default();
        let (up, down) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let streams = tokio::io::duplex(256 << 10);
        let streams = (
            Counted { stream: streams.0, read: up.clone(), limit: limits.up },
            Counted { stream: streams.1, read: down.clone(), limit: limits.down },
        );
        let client_stood = client_stands.subscribe();
        let replicas = (server.replica.clone(), client.replica.clone());
        let asked = fetches.clone();
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let account = Account { may_write: true, exclusive: false, permit: Permit::default() };
                let server = Session {
                    hub: Hub::start(replicas.0, Arc::new(())).unwrap(),
                    role: Role::Server(account),
                    fetches: Fetches::new(),
                    rules: Arc::new(Open { brings: true }),
                    events: Handle::new().1,
                    standing: server_stands,
                };
                let client = Session {
                    hub: Hub::start(replicas.1, Arc::new(())).unwrap(),
                    role: Role::Client { takes_snapshot: false, permit: 0 },
                    fetches: asked,
                    rules: Arc::new(Open { brings: limits.brings }),
                    events: told,
                    standing: client_stands,
                };
                tokio::join!(drive(streams.0, server), drive(streams.1, client))
            })
        });
        Link { fetches, handle, client: client_stood, up, down, running }
    }

    /// One over which the client has all records of the server.
    fn caught_up(server: &Side, client: &Side, limits: Limits) -> Link {
        let link = Link::new(server, client, limits);
        wait(link.client.clone(), |standing| standing.is_caught_up);
        link
    }

    /// Ends it in order, and returns how it ended at the client's.
    fn end(self) -> Ended {
        self.handle.end(Reason::Wanted, "the test ends it");
        self.running.join().unwrap().1
    }

    /// Bytes that came to the client since it was asked last.
    fn came(&self) -> u64 {
        self.down.swap(0, Ordering::Relaxed)
    }
}

fn wait(mut of: watch::Receiver<Standing>, until: impl FnMut(&Standing) -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waited = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), of.wait_for(until)).await.map(|found| found.is_ok())
    });
    assert!(waited.unwrap(), "the session ended");
}

/// Noise that is the same for the same seed.
fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn write_noise(file: &File, seed: u64, from: u64, length: u64) {
    for at in (0..length).step_by(MIB as usize) {
        file.write_all_at(&noise(seed ^ (at << 8), MIB.min(length - at)), from + at).unwrap();
    }
}

fn assert_equal(found: &File, expected: &File) {
    let size = expected.metadata().unwrap().len();
    assert_eq!(found.metadata().unwrap().len(), size);
    let (mut a, mut b) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for at in (0..size).step_by(MIB as usize) {
        let length = MIB.min(size - at) as usize;
        found.read_exact_at(&mut a[..length], at).unwrap();
        expected.read_exact_at(&mut b[..length], at).unwrap();
        assert!(a[..length] == b[..length], "the bytes at {at} differ");
    }
}

/// What has the file's version is brought over the link, with another version at hand.
fn fetch(
    link: &Link,
    (object, version, size): (ObjectId, DataVersion, u64),
    to: &File,
    is_partial: bool,
    older: Option<&File>,
) -> Result<Moved, NotFetched> {
    let sought = Sought { object, version, size, to: to.as_fd(), is_partial, older: None };
    let mut older = older.map(|file| mezzo_replica::reading::Reading::of(file.try_clone().unwrap()));
    link.fetches.fetch(&sought, older.as_mut(), &|| true)
}

/// An older version of `size` bytes of noise is here; `change` makes the version of it that is fetched, of whose bytes at most
/// `most` come, and `talk` bytes beside them.
fn check(size: u64, change: impl FnOnce(&File, &File), most: u64) {
    let server = Side::new();
    let older = tempfile::tempfile().unwrap();
    write_noise(&older, 1, 0, size);
    server.write("f", |file| change(&older, file));
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    link.came();
    let to = tempfile::tempfile().unwrap();
    let began = Instant::now();
    let moved = fetch(&link, server.find("f"), &to, false, Some(&older)).unwrap();
    println!(
        "{moved:?} in {:?}, {} bytes over the connection",
        began.elapsed(),
        link.down.load(Ordering::Relaxed)
    );
    assert_equal(&to, &server.file("f"));
    assert!(moved.came <= most, "{moved:?} of {size} bytes, and {most} had to come");
    let came = link.came();
    let talk = TALK + size / (64 << 10) * 40;
    assert!(came <= most + talk, "{came} bytes went over the connection for {most}");
    link.end();
}

fn copy(from: &File, to: &File, (at, to_at): (u64, u64), length: u64) {
    let mut buffer = vec![0; length as usize];
    from.read_exact_at(&mut buffer, at).unwrap();
    to.write_all_at(&buffer, to_at).unwrap();
}

/// What may come where bytes were changed in one place: they, and what is around them in chunks.
const AROUND: u64 = 3 * (256 << 10);

#[test]
fn of_an_unchanged_file_its_chunks_are_told_and_nothing_moves() {
    check(64 * MIB, |older, file| copy(older, file, (0, 0), 64 * MIB), 0);
}

#[test]
fn one_changed_mib_of_many_moves_little_more() {
    let change = |older: &File, file: &File| {
        (0..256).for_each(|at| copy(older, file, (at * MIB, at * MIB), MIB));
        write_noise(file, 2, 100 * MIB + 12_345, MIB);
    };
    check(256 * MIB, change, MIB + AROUND);
}

/// Prints what a GiB takes, too.
#[test]
#[ignore = "it takes 3 GiB of disk"]
fn one_changed_mib_of_a_gib_moves_little_more() {
    let change = |older: &File, file: &File| {
        (0..1024).for_each(|at| copy(older, file, (at * MIB, at * MIB), MIB));
        write_noise(file, 2, 500 * MIB + 12_345, MIB);
    };
    check(1024 * MIB, change, MIB + AROUND);
}

#[test]
fn what_is_put_in_at_the_front_moves_and_nothing_behind_it() {
    let change = |older: &File, file: &File| {
        write_noise(file, 2, 0, 1001);
        copy(older, file, (0, 1001), 64 * MIB);
    };
    check(64 * MIB, change, 1001 + AROUND);
}

#[test]
fn of_a_file_that_was_cut_or_goes_on_the_end_moves() {
    check(64 * MIB, |older, file| copy(older, file, (0, 0), 32 * MIB + 77), AROUND);
    let change = |older: &File, file: &File| {
        copy(older, file, (0, 0), 16 * MIB);
        write_noise(file, 2, 16 * MIB, MIB + 5);
    };
    check(16 * MIB, change, MIB + 5 + AROUND);
}

#[test]
fn holes_are_told_and_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    const SIZE: u64 = 512 * MIB;
    let server = Side::new();
    server.write("f", |file| {
        file.set_len(SIZE).unwrap();
        // Small ones too, which are not worth to be told.
        for at in [0, 100_000, 130_000, 3 * MIB, 200 * MIB + 5000, SIZE - 200_000] {
            write_noise(file, at, at, 20_000);
        }
    });
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let fetched = |is_partial, to: &File, older: Option<&File>| {
        link.came();
        fetch(&link, server.find("f"), to, is_partial, older).unwrap();
        assert_equal(to, &server.file("f"));
        assert!(to.metadata().unwrap().blocks() * 512 < 4 * MIB, "it has holes");
        assert!(link.came() < 2 * MIB);
    };
    let to = tempfile::tempfile().unwrap();
    fetched(false, &to, None);
    fetched(true, &to, None);
    // What is in the way of a hole goes.
    write_noise(&to, 7, 50 * MIB, 2 * MIB);
    fetched(true, &to, None);
    let other = tempfile::tempfile().unwrap();
    fetched(false, &other, Some(&to));
    link.end();
}

#[test]
fn after_a_cut_the_rest_moves() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    let client = Side::of(&server);
    let to = tempfile::tempfile().unwrap();
    let cut = Link::caught_up(&server, &client, Limits { down: 32 * MIB, ..WHOLE });
    let error = fetch(&cut, server.find("f"), &to, false, None).unwrap_err();
    assert!(matches!(error, NotFetched::Offline), "{error}");
    assert_eq!(cut.running.join().unwrap().1.reason, Reason::Dead);

    // And once more while what is missing is brought.
    let cut = Link::caught_up(&server, &client, Limits { down: 16 * MIB, ..WHOLE });
    fetch(&cut, server.find("f"), &to, true, None).unwrap_err();
    let link = Link::caught_up(&server, &client, WHOLE);
    let moved = fetch(&link, server.find("f"), &to, true, None).unwrap();
    assert!((15 * MIB..=18 * MIB).contains(&moved.came), "{moved:?}");
    assert!(link.came() <= moved.came + TALK);
    assert_equal(&to, &server.file("f"));
    link.end();
}

/// Has what is absent of `name` brought over the link, as who opens it does.
fn open_absent(link: &Link, client: &Side, name: &str) -> Result<(), i32> {
    struct Known;
    impl Acknowledges for Known {
        fn has(&self, _: DataVersion) -> bool {
            true
        }

        fn address(&self) -> String {
            "the server".to_owned()
        }
    }
    struct Waits(std::sync::mpsc::Sender<Result<(), i32>>);
    impl Waiter for Waits {
        fn is_gone(&self) -> bool {
            false
        }

        fn done(self: Box<Self>, outcome: Result<(), i32>) {
            self.0.send(outcome).unwrap();
        }
    }
    let upstream = FromServer::new(link.fetches.clone(), Arc::downgrade(&Arc::new(Known)));
    client.replica.set_upstream(Some(Arc::new(upstream)));
    let (done, outcome) = std::sync::mpsc::channel();
    client.replica.want(client.find(name).0, Box::new(Waits(done)));
    outcome.recv_timeout(Duration::from_secs(120)).unwrap()
}

#[test]
fn who_opens_an_absent_file_again_after_a_cut_gets_the_rest() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    let client = Side::of(&server);
    let fetching = Fetching::start(client.replica.clone()).unwrap();
    let cut = Link::caught_up(&server, &client, Limits { down: 40 * MIB, ..WHOLE });
    assert!(client.replica.is_absent(client.find("f").0).unwrap());
    open_absent(&cut, &client, "f").unwrap_err();
    assert!(client.replica.is_absent(client.find("f").0).unwrap());

    let link = Link::caught_up(&server, &client, WHOLE);
    open_absent(&link, &client, "f").unwrap();
    let came = link.came();
    assert!(came < 26 * MIB, "{came} bytes came after 40 MiB of 64");
    assert!(!client.replica.is_absent(client.find("f").0).unwrap());
    assert_equal(&client.file("f"), &server.file("f"));
    drop(fetching);
    link.end();
}

#[test]
fn what_a_power_loss_left_is_not_believed() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 16 * MIB));
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let to = tempfile::tempfile().unwrap();
    write_noise(&to, 1, 0, 8 * MIB);
    write_noise(&to, 9, 2 * MIB + 1, MIB);
    to.set_len(40 * MIB).unwrap();
    let moved = fetch(&link, server.find("f"), &to, true, None).unwrap();
    assert!((8 * MIB..=9 * MIB + 2 * AROUND).contains(&moved.came), "{moved:?}");
    assert_equal(&to, &server.file("f"));
    link.end();
}

#[test]
fn the_server_goes_on_with_what_a_client_sent_before_a_cut() {
    let server = Side::new();
    let client = Side::of(&server);
    client.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    let cut = Link::new(&server, &client, Limits { up: 40 * MIB, ..WHOLE });
    cut.running.join().unwrap();
    assert!(
        server
            .replica
            .meet(ObjectId::ROOT, &Name::new(b"f").unwrap())
            .unwrap()
            .is_none_or(|met| { met.entry.attributes().size == 0 || met.entry.lost })
    );

    let last = client.replica.last();
    let link = Link::new(&server, &client, WHOLE);
    wait(link.client.clone(), |standing| standing.acknowledged >= last);
    let came = link.up.load(Ordering::Relaxed);
    assert!(came < 26 * MIB, "{came} bytes came after 40 MiB of 64");
    assert_equal(&server.file("f"), &client.file("f"));
    assert!(server.find("f").1 == client.find("f").1);

    // The next version of it is put together from the one that is there.
    client.write("f", |file| write_noise(file, 2, 20 * MIB, MIB));
    let last = client.replica.last();
    wait(link.client.clone(), |standing| standing.acknowledged >= last);
    let came = link.up.load(Ordering::Relaxed) - came;
    assert!(came < MIB + AROUND + TALK, "{came} bytes came for one MiB");
    assert_equal(&server.file("f"), &client.file("f"));
    link.end();
}

/// Does something once, when a fetch is in its middle.
fn midway(link: &Link, act: impl Fn()) -> impl Fn() -> bool {
    let (down, is_done) = (link.down.clone(), std::cell::Cell::new(false));
    move || {
        if down.load(Ordering::Relaxed) > 8 * MIB && !is_done.replace(true) {
            act();
        }
        true
    }
}

#[test]
fn a_version_that_is_overwritten_while_it_is_fetched_is_never_mixed() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    let client = Side::of(&server);
    for is_partial in [false, true] {
        let link = Link::caught_up(&server, &client, WHOLE);
        let (object, version, size) = server.find("f");
        let to = tempfile::tempfile().unwrap();
        let sought = Sought { object, version, size, to: to.as_fd(), is_partial, older: None };
        let overwrite =
            || server.write("f", |file| write_noise(file, 5 + u64::from(is_partial), 0, 64 * MIB));
        let fetched = link.fetches.fetch(&sought, None, &midway(&link, overwrite));
        assert!(matches!(fetched, Err(NotFetched::Gone(_))), "{fetched:?}");
        link.end();
    }
}

#[test]
fn a_version_that_is_removed_while_it_is_fetched_comes_from_the_attic() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    let expected = server.file("f");
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let (object, version, size) = server.find("f");
    let to = tempfile::tempfile().unwrap();
    let sought = Sought { object, version, size, to: to.as_fd(), is_partial: false, older: None };
    let remove = || {
        let name = Name::new(b"f").unwrap();
        server.replica.remove(&Caller::program(), ObjectId::ROOT, &name, false).unwrap();
    };
    link.fetches.fetch(&sought, None, &midway(&link, remove)).unwrap();
    assert!(!server.directory.path().join("f").exists());
    assert_equal(&to, &expected);
    link.end();
}

#[test]
fn who_stops_is_sent_no_more_and_others_get_on() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 64 * MIB));
    server.write("small", |file| write_noise(file, 2, 0, 100_000));
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let (object, version, size) = server.find("f");
    for is_partial in [false, true] {
        link.came();
        let to = tempfile::tempfile().unwrap();
        let sought = Sought { object, version, size, to: to.as_fd(), is_partial, older: None };
        let began = Instant::now();
        let stopped = link.fetches.fetch(&sought, None, &|| link.down.load(Ordering::Relaxed) < 4 * MIB);
        assert!(matches!(stopped, Err(NotFetched::Stopped)), "{stopped:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        let small = tempfile::tempfile().unwrap();
        fetch(&link, server.find("small"), &small, false, None).unwrap();
        assert_equal(&small, &server.file("small"));
        // What was on its way of the other, and no more.
        assert!(link.came() < 16 * MIB);
    }
    link.end();
}

#[test]
fn several_get_one_version_at_once() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 16 * MIB));
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let older = tempfile::tempfile().unwrap();
    write_noise(&older, 1, 0, 10 * MIB);
    std::thread::scope(|scope| {
        for i in 0..20 {
            let (link, server, older) = (&link, &server, &older);
            scope.spawn(move || {
                let to = tempfile::tempfile().unwrap();
                fetch(link, server.find("f"), &to, false, (i % 4 > 0).then_some(older)).unwrap();
                assert_equal(&to, &server.file("f"));
            });
        }
    });
    link.end();
}

#[test]
fn a_version_that_never_was_is_told_to_be_gone() {
    let server = Side::new();
    server.write("f", |file| write_noise(file, 1, 0, 2 * MIB));
    let client = Side::of(&server);
    let link = Link::caught_up(&server, &client, WHOLE);
    let (object, version, size) = server.find("f");
    for (object, size, is_partial) in [
        (ObjectId::ROOT, size, false),
        (object, size + 1, false),
        (object, size + 1, true),
        (ObjectId::ROOT, size, true),
    ] {
        let to = tempfile::tempfile().unwrap();
        let gone = fetch(&link, (object, version, size), &to, is_partial, None);
        assert!(matches!(gone, Err(NotFetched::Gone(_))), "{gone:?}");
    }
    link.end();
}

/// A stream of TLS between two threads, as sessions have it.
mod over_tls {
    use std::net::SocketAddr;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    const SIZE: u64 = 64 * MIB;

    struct Certified {
        acceptor: TlsAcceptor,
        connector: TlsConnector,
    }

    fn certified() -> Certified {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Certified { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn name() -> ServerName<'static> {
        ServerName::try_from("localhost").unwrap()
    }

    /// How fast bytes come from one memory to another.
    fn bare(certified: &Certified, bytes: &[u8]) -> [f64; 2] {
        let (told, address) = std::sync::mpsc::channel::<SocketAddr>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime().block_on(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    told.send(listener.local_addr().unwrap()).unwrap();
                    let (stream, _) = listener.accept().await.unwrap();
                    let mut stream = certified.acceptor.accept(stream).await.unwrap();
                    stream.read_u8().await.unwrap();
                    for some in bytes.chunks(256 << 10) {
                        stream.write_all(some).await.unwrap();
                    }
                    stream.shutdown().await.unwrap();
                });
            });
            runtime().block_on(async {
                let stream = TcpStream::connect(address.recv().unwrap()).await.unwrap();
                let mut stream = certified.connector.connect(name(), stream).await.unwrap();
                let began = now();
                stream.write_all(&[1]).await.unwrap();
                stream.flush().await.unwrap();
                let (mut buffer, mut came) = (vec![0; 256 << 10], 0);
                while came < bytes.len() {
                    came += stream.read(&mut buffer).await.unwrap();
                }
                rates(began)
            })
        })
    }

    /// Has `work` done with a session over TLS.
    fn session<T>(
        certified: &Certified,
        (server, client): (&Side, &Side),
        work: impl FnOnce(&Fetches) -> T,
    ) -> T {
        let (told, address) = std::sync::mpsc::channel::<SocketAddr>();
        let fetches = Fetches::new();
        let ((handle, events), stands) = (Handle::new(), watch::Sender::new(Standing::default()));
        let stood = stands.subscribe();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                runtime().block_on(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    told.send(listener.local_addr().unwrap()).unwrap();
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let stream = certified.acceptor.accept(stream).await.unwrap();
                    let account = Account { may_write: true, exclusive: false, permit: Permit::default() };
                    let session = Session {
                        hub: Hub::start(server.replica.clone(), Arc::new(())).unwrap(),
                        role: Role::Server(account),
                        fetches: Fetches::new(),
                        rules: Arc::new(Open { brings: true }),
                        events: Handle::new().1,
                        standing: watch::Sender::default(),
                    };
                    drive(stream, session).await
                });
            });
            let asked = fetches.clone();
            let address = address.recv().unwrap();
            scope.spawn(move || {
                runtime().block_on(async {
                    let stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let stream = certified.connector.connect(name(), stream).await.unwrap();
                    let session = Session {
                        hub: Hub::start(client.replica.clone(), Arc::new(())).unwrap(),
                        role: Role::Client { takes_snapshot: false, permit: 0 },
                        fetches: asked,
                        rules: Arc::new(Open { brings: false }),
                        events,
                        standing: stands,
                    };
                    drive(stream, session).await
                });
            });
            wait(stood, |standing| standing.is_caught_up);
            let done = work(&fetches);
            handle.end(Reason::Wanted, "the test ends it");
            done
        })
    }

    /// Seconds by the clock, and of processors.
    fn now() -> (Instant, f64) {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        (Instant::now(), used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
    }

    /// How fast 64 MiB came, by the clock and by a second of processors.
    fn rates((began, used): (Instant, f64)) -> [f64; 2] {
        let (_, now) = now();
        [began.elapsed().as_secs_f64(), now - used].map(|seconds| (SIZE / MIB) as f64 / seconds)
    }

    /// Prints how fast 64 MiB come, and how fast they come over nothing but TLS.
    #[test]
    #[ignore = "it measures"]
    fn throughput() {
        let certified = certified();
        let server = Side::new();
        let random = noise(1, SIZE);
        let text: Vec<u8> =
            (0..SIZE).map(|at| b"etaoin shrdlu\n"[(random[at as usize / 3] % 14) as usize]).collect();
        server.write("random", |file| file.write_all_at(&random, 0).unwrap());
        server.write("text", |file| file.write_all_at(&text, 0).unwrap());
        let client = Side::of(&server);
        for _ in 0..5 {
            let bare = bare(&certified, &random);
            println!("TLS alone: {:.0} MiB/s, {:.0} for a second of processors", bare[0], bare[1]);
            session(&certified, (&server, &client), |fetches| {
                for name in ["random", "text", "random", "text"] {
                    let (object, version, size) = server.find(name);
                    let to = tempfile::tempfile_in(client.directory.path()).unwrap();
                    let sought =
                        Sought { object, version, size, to: to.as_fd(), is_partial: false, older: None };
                    let began = now();
                    let moved = fetches.fetch(&sought, None, &|| true).unwrap();
                    let took = rates(began);
                    println!(
                        "a file, {name}: {:.0} MiB/s, {:.2} of it; {:.0} for a second of processors, {:.2} of it; \
                         {} MiB came",
                        took[0],
                        took[0] / bare[0],
                        took[1],
                        took[1] / bare[1],
                        moved.came / MIB
                    );
                }
            });
        }
    }
}
