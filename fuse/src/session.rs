//! A mount from the greeting to the unmount.

use crate::abi::{self, InHeader, InitIn, InitInExt, InitOut, OutHeader, opcode};
use crate::backing::Backings;
use crate::mount::Device;
use crate::negotiate::{Granted, Offer, Wanted, negotiate};
use crate::notify::Notifier;
use crate::reply::{Answered, Reply};
use crate::request::{Header, Operation, Request};
use crate::transport::device::{self, Channel};
use crate::transport::uring::{self, Queue};
use crate::transport::{Dispatcher, Shared};
use parking_lot::RwLock;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use zerocopy::{FromBytes, IntoBytes};

/// Most pages of a request where the kernel has no setting for it.
const USUAL_MAX_PAGES: u32 = 256;

/// A file system: what answers the kernel's requests.
pub trait Filesystem: Send + Sync + 'static {
    /// Answers one request, now or later ([`Reply::later`]). Several threads call it at the same time.
    ///
    /// When it panics, the request is answered with EIO, and the mount goes on.
    fn handle(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered;

    /// Called on each thread that will call [`Filesystem::handle`], before it does; to change the thread's
    /// credentials, for instance. It must not panic: the thread would be missing, and with io_uring all
    /// callers on its processor would wait for ever.
    ///
    /// With io_uring the thread is bound to a processor then, and so are threads that it starts.
    fn thread_started(&self) {}
}

/// A connection to the kernel, greeted and ready to run.
pub struct Session {
    connection: Connection,
    /// For io_uring one per processor, else none.
    queues: Vec<Queue>,
}

/// What all threads of a session use.
struct Connection {
    channel: Arc<Channel>,
    granted: Granted,
    shared: Shared,
}

impl Session {
    /// Answers the kernel's greeting. Blocks until it comes, which it does with the mount.
    ///
    /// Fails with `Unsupported` when the kernel is older than ABI 7.31, and with the system's error when the
    /// device fails.
    pub fn start(device: Device, wanted: Wanted) -> io::Result<Session> {
        let channel = Arc::new(Channel::new(device.into_fd()));
        let (unique, offer) = greeting(&channel)?;
        let wanted = Wanted { passthrough: wanted.passthrough && may_administer(), ..wanted };
        let (queues, ring) = prepare_ring(&offer, &wanted);
        let (answer, granted) = negotiate(&offer, &wanted, ring);
        send_init(&channel, unique, &answer)?;
        let shared = Shared { setxattr_ext: granted.setxattr_ext, ..Shared::default() };
        Ok(Session { connection: Connection { channel, granted, shared }, queues })
    }

    /// What was agreed on with the kernel.
    pub fn granted(&self) -> &Granted {
        &self.connection.granted
    }

    /// A way to tell the kernel of changes.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.connection.channel.clone())
    }

    /// A way to register backing files.
    pub fn backings(&self) -> Backings {
        Backings::new(self.connection.channel.clone())
    }

    /// Serves requests on `threads` threads (at least one) until the file system is unmounted; then hands
    /// DESTROY to it, unless the kernel has. With io_uring there is one thread for each processor, bound to
    /// it, and one for what doesn't come over the ring.
    ///
    /// Fails when a thread can't be started or the device fails, with ECONNABORTED when the connection was
    /// aborted. What is still open then fails for its callers.
    pub fn run<F: Filesystem>(self, filesystem: Arc<F>, threads: usize) -> io::Result<()> {
        let connection = &self.connection;
        let posts = connection.posts(self.queues, threads);
        let filesystem = &*filesystem;
        // Threads wait here until all are there: with a queue unserved, the kernel would let every caller
        // wait.
        let gate = RwLock::new(false);
        let result = thread::scope(|scope| {
            let mut open = gate.write();
            let workers: io::Result<Vec<_>> = posts
                .into_iter()
                .map(|post| {
                    let gate = &gate;
                    let work = move || if *gate.read() { post.serve(connection, filesystem) } else { Ok(()) };
                    thread::Builder::new().name("fuse".into()).spawn_scoped(scope, work)
                })
                .collect();
            let watch = thread::Builder::new().name("fuse-watch".into());
            let watch = watch.spawn_scoped(scope, || connection.shared.interrupts.watch());
            *open = workers.is_ok() && watch.is_ok();
            drop(open);
            let served =
                workers.and_then(|workers| workers.into_iter().map(join).fold(Ok(()), io::Result::and));
            connection.shared.interrupts.end_watch();
            watch.and(served)
        });
        if !connection.shared.destroyed.load(Relaxed) {
            destroy(filesystem);
        }
        result
    }
}

impl Connection {
    fn posts(&self, queues: Vec<Queue>, threads: usize) -> Vec<Post> {
        let readers = if queues.is_empty() { threads.max(1) } else { 1 };
        let devices = (0..readers).map(|number| Post::Device(self.worker_channel(number)));
        queues.into_iter().map(|queue| Post::Queue(Box::new(queue))).chain(devices).collect()
    }

    /// A queue of its own for each reader but the first, so that they don't share a lock in the kernel. Where
    /// that can't be had, they share the queue.
    fn worker_channel(&self, number: usize) -> Arc<Channel> {
        match number {
            0 => self.channel.clone(),
            _ => self.channel.try_clone().map_or_else(|_| self.channel.clone(), Arc::new),
        }
    }
}

/// What one thread serves.
enum Post {
    Device(Arc<Channel>),
    Queue(Box<Queue>),
}

impl Post {
    fn serve<F: Filesystem>(self, connection: &Connection, filesystem: &F) -> io::Result<()> {
        filesystem.thread_started();
        let dispatcher = Dispatcher::new(&connection.shared, filesystem);
        match self {
            Post::Device(channel) => {
                let beside = connection.granted.io_uring.is_ok();
                device::serve(&channel, &dispatcher, connection.granted.max_write as usize, beside)
            }
            Post::Queue(queue) => queue.serve(&connection.channel, &dispatcher),
        }
    }
}

fn join(worker: thread::ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread that serves FUSE requests panicked")))
}

/// Tells the file system of its end.
fn destroy<F: Filesystem>(filesystem: &F) {
    let request =
        Request { header: Header::default(), operation: Operation::Destroy, supplementary_group: None };
    let _ = filesystem.handle(&request, Reply::nowhere(opcode::DESTROY));
}

/// The queues for io_uring if it is wanted and offered, and else or where they can't be made, why.
fn prepare_ring(offer: &Offer, wanted: &Wanted) -> (Vec<Queue>, Result<(), String>) {
    let (_, draft) = negotiate(offer, wanted, Ok(()));
    let prepared = draft.io_uring.and_then(|()| {
        let queues = uring::prepare(wanted.ring_depth, draft.max_write as usize);
        queues.map_err(|error| format!("its queues could not be made: {error}"))
    });
    match prepared {
        Ok(queues) => (queues, Ok(())),
        Err(reason) => (Vec::new(), Err(reason)),
    }
}

/// Takes INIT, and if its major version is newer answers with ours until it fits.
fn greeting(channel: &Channel) -> io::Result<(u64, Offer)> {
    let mut buffer = vec![0; abi::MIN_READ_BUFFER];
    loop {
        let length = channel.receive(&mut buffer)?.ok_or(io::ErrorKind::NotConnected)?;
        let (header, greeting, extension) = parse_init(&buffer[..length])?;
        if greeting.major > abi::MAJOR {
            let answer = InitOut { major: abi::MAJOR, minor: abi::MINOR, ..InitOut::default() };
            send_init(channel, header.unique, &answer)?;
            continue;
        }
        if greeting.major < abi::MAJOR || greeting.minor < abi::OLDEST_MINOR {
            return refuse(channel, header.unique, greeting);
        }
        return Ok((header.unique, Offer::new(greeting, extension, max_pages(), page_size())));
    }
}

fn parse_init(bytes: &[u8]) -> io::Result<(InHeader, InitIn, Option<InitInExt>)> {
    let strange =
        || io::Error::new(io::ErrorKind::InvalidData, "the FUSE device's first message is no greeting");
    let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| strange())?;
    let (greeting, rest) = InitIn::read_from_prefix(rest).map_err(|_| strange())?;
    if header.opcode != opcode::INIT {
        return Err(strange());
    }
    Ok((header, greeting, InitInExt::read_from_prefix(rest).ok().map(|(extension, _)| extension)))
}

fn refuse<T>(channel: &Channel, unique: u64, greeting: InitIn) -> io::Result<T> {
    channel.write(OutHeader { len: 0, error: -libc::EPROTO, unique }, [&[], &[]])?;
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the kernel speaks FUSE {}.{}; {}.{} or newer is needed",
            greeting.major,
            greeting.minor,
            abi::MAJOR,
            abi::OLDEST_MINOR
        ),
    ))
}

fn send_init(channel: &Channel, unique: u64, answer: &InitOut) -> io::Result<()> {
    Ok(channel.write(OutHeader { len: 0, error: 0, unique }, [answer.as_bytes(), &[]])?)
}

/// The kernel's limit of pages per request, which root can set.
fn max_pages() -> u32 {
    let setting = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_MAX_PAGES)
}

fn page_size() -> u32 {
    // SAFETY: sysconf only returns a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(size).unwrap_or(4096)
}

/// Whether this thread may register backing files.
pub(crate) fn may_administer() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}
