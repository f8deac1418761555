//! A file system that mirrors a directory, with names that misbehave:
//!
//! - opening `held…` is parked until [`Mirror::let_go`], `firm…` as well, but only death ends it;
//! - opening `stubborn…` keeps its worker until the caller is interrupted;
//! - looking up `later…` is answered from another thread;
//! - looking up `panic…` panics, looking up `forgotten…` drops the reply.

use mezzo_fuse::{
    Answered, Attributes, BackingId, Backings, Deferred, Entry, Errno, Filesystem, Header, HeldLock, Lock,
    LockKind, OpenFlags, Opened, Operation, ROOT, Reply, Request, SetTime, Setattr, Statfs,
};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the kernel may trust us.
const VALID: Duration = Duration::from_secs(600);

struct Node {
    /// Opened with O_PATH.
    fd: Arc<OwnedFd>,
    key: (u64, u64),
    lookups: u64,
    backing: Option<Arc<BackingId>>,
}

#[derive(Default)]
struct Nodes {
    by_id: HashMap<u64, Node>,
    by_key: HashMap<(u64, u64), u64>,
}

enum Handle {
    File(Arc<File>),
    /// Inode, kind and name of each entry.
    Directory(Arc<Vec<(u64, u32, Vec<u8>)>>),
}

pub struct Mirror {
    nodes: Mutex<Nodes>,
    handles: Mutex<HashMap<u64, Handle>>,
    next: AtomicU64,
    backings: Option<Backings>,
    locks: Mutex<Vec<Lock>>,
    /// SETLKW requests that wait.
    waiting: Mutex<Vec<(Lock, Deferred)>>,
    held: Mutex<Vec<Deferred>>,
    /// Names of the operations that came.
    log: Mutex<Vec<String>>,
    pub stubborn: AtomicUsize,
    pub threads_started: AtomicUsize,
    pub last_caller: Mutex<Header>,
    /// The supplementary group that came with the last creation.
    pub last_group: Mutex<Option<u32>>,
    /// Names of the operations that came with the wish to clear set-user-id and set-group-id.
    pub killing: Mutex<Vec<String>>,
}

type Outcome<T> = Result<T, Errno>;

impl Mirror {
    pub fn new(host: &Path, backings: Option<Backings>) -> Mirror {
        let fd = rustix::fs::open(host, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        let key = (stat.st_dev, stat.st_ino);
        let root = Node { fd: Arc::new(fd), key, lookups: u64::MAX / 2, backing: None };
        Mirror {
            nodes: Mutex::new(Nodes {
                by_id: HashMap::from([(ROOT, root)]),
                by_key: HashMap::from([(key, ROOT)]),
            }),
            handles: Mutex::default(),
            next: AtomicU64::new(2),
            backings,
            locks: Mutex::default(),
            waiting: Mutex::default(),
            held: Mutex::default(),
            log: Mutex::default(),
            stubborn: AtomicUsize::new(0),
            threads_started: AtomicUsize::new(0),
            last_caller: Mutex::default(),
            last_group: Mutex::default(),
            killing: Mutex::default(),
        }
    }

    /// How many opens are parked.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Answers all that is parked with EIO. Yields how many of them were interrupted.
    pub fn let_go(&self) -> usize {
        self.waiting.lock().unwrap().clear();
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        held.iter().filter(|deferred| deferred.is_interrupted()).count()
    }

    /// How often an operation has come.
    pub fn count(&self, operation: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|name| *name == operation).count()
    }

    /// The node id of a name in the mirrored directory, if the kernel knows it.
    pub fn node_of(&self, host: &Path) -> Option<u64> {
        let stat = rustix::fs::lstat(host).unwrap();
        self.nodes.lock().unwrap().by_key.get(&(stat.st_dev, stat.st_ino)).copied()
    }

    /// How many nodes the kernel knows, without the root.
    pub fn known_nodes(&self) -> usize {
        self.nodes.lock().unwrap().by_id.len() - 1
    }

    fn node(&self, id: u64) -> Outcome<Arc<OwnedFd>> {
        let nodes = self.nodes.lock().unwrap();
        nodes.by_id.get(&id).map(|node| node.fd.clone()).ok_or(Errno::ESTALE)
    }

    fn magic(&self, id: u64) -> Outcome<PathBuf> {
        Ok(magic(&*self.node(id)?))
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Outcome<Entry> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.learn(rustix::fs::openat(&*self.node(parent)?, name, flags, Mode::empty())?)
    }

    /// The entry of an open node, with one lookup counted.
    fn learn(&self, fd: OwnedFd) -> Outcome<Entry> {
        let stat = rustix::fs::fstat(&fd)?;
        let key = (stat.st_dev, stat.st_ino);
        let mut nodes = self.nodes.lock().unwrap();
        let id = *nodes.by_key.entry(key).or_insert_with(|| self.next.fetch_add(1, SeqCst));
        let node = nodes.by_id.entry(id).or_insert_with(|| Node {
            fd: Arc::new(fd),
            key,
            lookups: 0,
            backing: None,
        });
        node.lookups += 1;
        let attributes = attributes(&stat);
        Ok(Entry { node: id, generation: 0, entry_valid: VALID, attributes_valid: VALID, attributes })
    }

    fn forget(&self, id: u64, lookups: u64) {
        let mut nodes = self.nodes.lock().unwrap();
        let Some(node) = nodes.by_id.get_mut(&id) else { return };
        node.lookups -= lookups;
        if node.lookups == 0 {
            let node = nodes.by_id.remove(&id).unwrap();
            nodes.by_key.remove(&node.key);
        }
    }

    fn keep(&self, handle: Handle) -> u64 {
        let id = self.next.fetch_add(1, SeqCst);
        self.handles.lock().unwrap().insert(id, handle);
        id
    }

    fn file(&self, handle: u64) -> Outcome<Arc<File>> {
        match self.handles.lock().unwrap().get(&handle) {
            Some(Handle::File(file)) => Ok(file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    fn attributes(&self, id: u64) -> Outcome<Attributes> {
        Ok(attributes(&rustix::fs::fstat(&*self.node(id)?)?))
    }

    fn setattr(&self, id: u64, set: &Setattr) -> Outcome<Attributes> {
        let (node, path) = (self.node(id)?, self.magic(id)?);
        if set.uid.is_some() || set.gid.is_some() {
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            rustix::fs::chownat(&*node, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = set.mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
        }
        if let Some(size) = set.size {
            match set.handle {
                Some(handle) => self.file(handle)?.set_len(size)?,
                None => File::options().write(true).open(&path)?.set_len(size)?,
            }
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
        }
        self.attributes(id)
    }

    /// Gives what was made to who asked for it.
    fn give(&self, parent: u64, name: &[u8], caller: &Header) -> Outcome<Entry> {
        let (uid, gid) = (Some(Uid::from_raw(caller.uid)), Some(Gid::from_raw(caller.gid)));
        rustix::fs::chownat(&*self.node(parent)?, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        self.lookup(parent, name)
    }

    fn open(&self, id: u64, flags: u32) -> Outcome<(u64, Option<Arc<BackingId>>)> {
        let flags = (OFlags::from_bits_retain(flags) - OFlags::NOFOLLOW - OFlags::TRUNC) | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(self.magic(id)?, flags, Mode::empty())?);
        let backing = self.backing(id)?;
        Ok((self.keep(Handle::File(Arc::new(file))), backing))
    }

    fn backing(&self, id: u64) -> Outcome<Option<Arc<BackingId>>> {
        let Some(backings) = &self.backings else { return Ok(None) };
        let path = self.magic(id)?;
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.by_id.get_mut(&id).ok_or(Errno::ESTALE)?;
        if node.backing.is_none() {
            let file = File::options().read(true).write(true).open(path)?;
            node.backing = Some(Arc::new(backings.open(file.as_fd())?));
        }
        Ok(node.backing.clone())
    }

    fn create(&self, caller: &Header, name: &[u8], mode: u32, flags: u32) -> Outcome<(Entry, u64)> {
        let flags = OFlags::from_bits_retain(flags) - OFlags::NOFOLLOW;
        let flags = flags | OFlags::CREATE | OFlags::CLOEXEC;
        let parent = self.node(caller.node)?;
        let fd = rustix::fs::openat(&*parent, name, flags, Mode::from_raw_mode(mode))?;
        let entry = self.give(caller.node, name, caller)?;
        Ok((entry, self.keep(Handle::File(Arc::new(File::from(fd))))))
    }

    fn tmpfile(&self, parent: u64, mode: u32, flags: u32) -> Outcome<(Entry, u64)> {
        let flags = OFlags::from_bits_retain(flags) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.magic(parent)?, flags, Mode::from_raw_mode(mode))?;
        let entry =
            self.learn(rustix::fs::open(magic(&fd), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        Ok((entry, self.keep(Handle::File(Arc::new(File::from(fd))))))
    }

    fn opendir(&self, id: u64) -> Outcome<u64> {
        let mut entries = Vec::new();
        for name in [".", ".."] {
            let stat = rustix::fs::statat(&*self.node(id)?, name, AtFlags::empty())?;
            entries.push((stat.st_ino, u32::from(libc::DT_DIR), name.into()));
        }
        for entry in std::fs::read_dir(self.magic(id)?)? {
            let entry = entry?;
            let name = entry.file_name().into_encoded_bytes();
            entries.push((entry.ino(), kind(entry.file_type()?), name));
        }
        Ok(self.keep(Handle::Directory(Arc::new(entries))))
    }

    fn readdir(
        &self,
        reply: Reply<'_>,
        (id, handle): (u64, u64),
        offset: u64,
        size: u32,
        plus: bool,
    ) -> Answered {
        let entries = match self.handles.lock().unwrap().get(&handle) {
            Some(Handle::Directory(entries)) => entries.clone(),
            _ => return reply.error(Errno::EBADF),
        };
        reply.directory(size, |directory| {
            for (index, (inode, kind, name)) in entries.iter().enumerate().skip(offset as usize) {
                if !directory.fits(name.len(), plus) {
                    break;
                }
                let next = index as u64 + 1;
                let added = match plus {
                    false => directory.add(*inode, next, *kind, name),
                    true => directory.add_plus(&self.plus_entry(id, name)?, *inode, next, *kind, name),
                };
                assert!(added, "what fits is added");
            }
            Ok(())
        })
    }

    fn plus_entry(&self, parent: u64, name: &[u8]) -> Outcome<Entry> {
        match name {
            b"." | b".." => Ok(Entry::default()),
            name => self.lookup(parent, name),
        }
    }

    fn conflict(&self, wanted: &Lock) -> Option<Lock> {
        let locks = self.locks.lock().unwrap();
        let meets = |held: &&Lock| {
            held.owner != wanted.owner
                && held.flock == wanted.flock
                && (held.kind == LockKind::Write || wanted.kind == LockKind::Write)
                && held.start <= wanted.end
                && wanted.start <= held.end
        };
        locks.iter().find(meets).copied().filter(|_| wanted.kind != LockKind::Unlock)
    }

    fn set_lock(&self, lock: &Lock) -> Outcome<()> {
        if self.conflict(lock).is_some() {
            return Err(Errno::EAGAIN);
        }
        let mut locks = self.locks.lock().unwrap();
        locks.retain(|held| held.owner != lock.owner || held.flock != lock.flock);
        if lock.kind != LockKind::Unlock {
            locks.push(*lock);
        }
        drop(locks);
        self.serve_waiting();
        Ok(())
    }

    fn serve_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        for (lock, deferred) in waiting {
            self.wait_for_lock(lock, deferred);
        }
    }

    fn wait_for_lock(&self, lock: Lock, deferred: Deferred) {
        if deferred.is_interrupted() {
            return;
        }
        match self.conflict(&lock) {
            Some(_) => self.waiting.lock().unwrap().push((lock, deferred)),
            None => drop(answer_empty(deferred, self.set_lock(&lock))),
        }
    }

    fn getlk(&self, lock: &Lock) -> HeldLock {
        match self.conflict(lock) {
            Some(held) => HeldLock { start: held.start, end: held.end, kind: held.kind, pid: held.pid },
            None => HeldLock { start: 0, end: 0, kind: LockKind::Unlock, pid: 0 },
        }
    }

    fn answer_lookup(&self, parent: u64, name: &[u8], reply: Reply<'_>) -> Answered {
        if name.starts_with(b"panic") {
            panic!("a handler's panic, as the test wants");
        }
        if name.starts_with(b"forgotten") {
            let (unanswered, answered) = reply.later();
            drop(unanswered);
            return answered;
        }
        let entry = self.lookup(parent, name);
        if name.starts_with(b"later") {
            let (deferred, answered) = reply.later();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                drop(answer_entry(deferred, entry));
            });
            return answered;
        }
        match entry {
            Err(Errno::ENOENT) => reply.entry(&Entry { entry_valid: VALID, ..Entry::default() }),
            entry => answer_entry(reply, entry),
        }
    }

    fn answer_open(&self, id: u64, flags: u32, reply: Reply<'_>) -> Answered {
        let target = std::fs::read_link(self.magic(id).unwrap()).unwrap();
        let name = target.file_name().unwrap().as_encoded_bytes().to_vec();
        if name.starts_with(b"held") {
            let (deferred, answered) = reply.later();
            self.held.lock().unwrap().push(deferred);
            return answered;
        }
        if name.starts_with(b"firm") {
            let (deferred, answered) = reply.later_killable();
            self.held.lock().unwrap().push(deferred);
            return answered;
        }
        if name.starts_with(b"stubborn") {
            self.stubborn.fetch_add(1, SeqCst);
            while !reply.is_interrupted() {
                std::thread::sleep(Duration::from_millis(1));
            }
            return reply.error(Errno::EINTR);
        }
        match self.open(id, flags) {
            Ok((handle, backing)) => {
                let flags =
                    if name.starts_with(b"direct") { OpenFlags::DIRECT_IO } else { OpenFlags::KEEP_CACHE };
                reply.opened(&Opened { handle, flags, backing: backing.as_deref() })
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn answer_created(&self, made: Outcome<(Entry, u64)>, reply: Reply<'_>) -> Answered {
        let made = made.and_then(|(entry, handle)| Ok((entry, handle, self.backing(entry.node)?)));
        match made {
            Ok((entry, handle, backing)) => {
                reply.created(&entry, &Opened { handle, backing: backing.as_deref(), ..Opened::default() })
            }
            Err(errno) => reply.error(errno),
        }
    }
}

/// The operation's name, without what it carries.
fn name_of(operation: &Operation<'_>) -> String {
    if let Operation::Write { .. } = operation {
        return "Write".into();
    }
    let text = format!("{operation:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}

fn answer_entry(reply: Reply<'_>, entry: Outcome<Entry>) -> Answered {
    match entry {
        Ok(entry) => reply.entry(&entry),
        Err(errno) => reply.error(errno),
    }
}

fn answer_empty(reply: Reply<'_>, outcome: Outcome<()>) -> Answered {
    match outcome {
        Ok(()) => reply.empty(),
        Err(errno) => reply.error(errno),
    }
}

fn answer<T>(reply: Reply<'_>, outcome: Outcome<T>, say: impl FnOnce(Reply<'_>, T) -> Answered) -> Answered {
    match outcome {
        Ok(value) => say(reply, value),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Mirror {
    fn thread_started(&self) {
        self.threads_started.fetch_add(1, SeqCst);
    }

    fn handle(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let id = request.header.node;
        self.note(request);
        match request.operation.clone() {
            Operation::Lookup { name } => self.answer_lookup(id, name, reply),
            Operation::Forget { lookups } => {
                self.forget(id, lookups);
                reply.none()
            }
            Operation::BatchForget(forgets) => {
                forgets.for_each(|(node, lookups)| self.forget(node, lookups));
                reply.none()
            }
            Operation::Getattr { .. } => {
                answer(reply, self.attributes(id), |reply, attributes| reply.attributes(&attributes, VALID))
            }
            Operation::Statx { .. } => answer(reply, self.statx(id), |reply, (attributes, born)| {
                reply.statx(&attributes, Some(born), VALID)
            }),
            Operation::Setattr(set) => answer(reply, self.setattr(id, &set), |reply, attributes| {
                reply.attributes(&attributes, VALID)
            }),
            Operation::Open { flags, .. } => self.answer_open(id, flags, reply),
            Operation::Create { name, mode, umask, flags, .. } => {
                self.answer_created(self.create(&request.header, name, mode & !umask, flags), reply)
            }
            Operation::Tmpfile { mode, umask, flags } => {
                self.answer_created(self.tmpfile(id, mode & !umask, flags), reply)
            }
            Operation::Read { handle, offset, size, .. } => match self.file(handle) {
                Ok(file) => reply.read_into(size, |room| Ok(file.read_at(room, offset)?)),
                Err(errno) => reply.error(errno),
            },
            Operation::Opendir { .. } => answer(reply, self.opendir(id), |reply, handle| {
                reply.opened(&Opened { handle, flags: OpenFlags::NONE, backing: None })
            }),
            Operation::Readdir { handle, offset, size } => {
                self.readdir(reply, (id, handle), offset, size, false)
            }
            Operation::Readdirplus { handle, offset, size } => {
                self.readdir(reply, (id, handle), offset, size, true)
            }
            operation => self.handle_more(&request.header, operation, reply),
        }
    }
}

impl Mirror {
    fn note(&self, request: &Request<'_>) {
        let name = name_of(&request.operation);
        match request.operation {
            Operation::Forget { .. } | Operation::BatchForget(_) => {}
            _ => *self.last_caller.lock().unwrap() = request.header,
        }
        match request.operation {
            Operation::Mkdir { .. } | Operation::Symlink { .. } | Operation::Create { .. } => {
                *self.last_group.lock().unwrap() = request.supplementary_group;
            }
            Operation::Write { kill_suidgid: true, .. }
            | Operation::Open { kill_suidgid: true, .. }
            | Operation::Setattr(Setattr { kill_suidgid: true, .. }) => {
                self.killing.lock().unwrap().push(name.clone());
            }
            _ => {}
        }
        self.log.lock().unwrap().push(name);
    }

    fn handle_more(&self, caller: &Header, operation: Operation<'_>, reply: Reply<'_>) -> Answered {
        let id = caller.node;
        match operation {
            Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Link { .. } => answer_entry(reply, self.make(caller, &operation)),
            Operation::Unlink { .. } | Operation::Rmdir { .. } | Operation::Rename { .. } => {
                answer_empty(reply, self.change_names(id, &operation))
            }
            Operation::Readlink => answer(reply, self.readlink(id), |reply, target| reply.data(&target)),
            Operation::Write { handle, offset, data, .. } => {
                let written = self.file(handle).and_then(|file| Ok(file.write_at(data, offset)?));
                answer(reply, written, |reply, length| reply.written(length as u32))
            }
            Operation::Release { handle, .. } | Operation::Releasedir { handle, .. } => {
                self.handles.lock().unwrap().remove(&handle);
                reply.empty()
            }
            Operation::Flush { lock_owner, .. } => {
                self.locks.lock().unwrap().retain(|held| held.flock || held.owner != lock_owner);
                self.serve_waiting();
                reply.empty()
            }
            Operation::Fsync { handle, .. } => {
                answer_empty(reply, self.file(handle).and_then(|file| Ok(file.sync_all()?)))
            }
            Operation::Fsyncdir { .. } | Operation::Syncfs | Operation::Destroy => reply.empty(),
            Operation::Statfs => answer(reply, self.statfs(id), |reply, sizes| reply.statfs(&sizes)),
            Operation::Setxattr { .. } | Operation::Removexattr { .. } => {
                answer_empty(reply, self.change_xattr(id, &operation))
            }
            Operation::Getxattr { name, size } => {
                answer(reply, self.getxattr(id, name), |reply, value| reply.xattr(size, &value))
            }
            Operation::Listxattr { size } => {
                answer(reply, self.listxattr(id), |reply, list| reply.xattr(size, &list))
            }
            operation => self.handle_rest(operation, reply),
        }
    }

    fn handle_rest(&self, operation: Operation<'_>, reply: Reply<'_>) -> Answered {
        match operation {
            Operation::Getlk(lock) => reply.lock(&self.getlk(&lock)),
            Operation::Setlk(lock) => answer_empty(reply, self.set_lock(&lock)),
            Operation::Setlkw(lock) => {
                let (deferred, answered) = reply.later();
                self.wait_for_lock(lock, deferred);
                answered
            }
            Operation::Fallocate { handle, offset, length, mode } => {
                let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
                let outcome = self
                    .file(handle)
                    .and_then(|file| Ok(rustix::fs::fallocate(&*file, mode, offset, length)?));
                answer_empty(reply, outcome)
            }
            Operation::Lseek { handle, offset, whence } => {
                let position = match whence as i32 {
                    libc::SEEK_DATA => rustix::fs::SeekFrom::Data(offset),
                    _ => rustix::fs::SeekFrom::Hole(offset),
                };
                let found = self.file(handle).and_then(|file| Ok(rustix::fs::seek(&*file, position)?));
                answer(reply, found, |reply, offset| reply.offset(offset))
            }
            Operation::CopyFileRange { handle, mut offset, to_handle, mut to_offset, length, .. } => {
                let copied = self.file(handle).and_then(|from| {
                    let to = self.file(to_handle)?;
                    let length = length as usize;
                    Ok(rustix::fs::copy_file_range(
                        &*from,
                        Some(&mut offset),
                        &*to,
                        Some(&mut to_offset),
                        length,
                    )?)
                });
                answer(reply, copied, |reply, length| reply.copied(length as u64))
            }
            Operation::Ioctl { command, input, .. } => {
                let output: Vec<u8> = input.iter().rev().copied().collect();
                reply.ioctl((command & 0xff) as i32, &output)
            }
            _ => reply.error(Errno::ENOSYS),
        }
    }

    fn make(&self, caller: &Header, operation: &Operation<'_>) -> Outcome<Entry> {
        let parent = self.node(caller.node)?;
        match *operation {
            Operation::Symlink { name, target } => {
                rustix::fs::symlinkat(target, &*parent, name)?;
                self.give(caller.node, name, caller)
            }
            Operation::Mkdir { name, mode, umask } => {
                rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(mode & !umask))?;
                self.give(caller.node, name, caller)
            }
            Operation::Mknod { name, mode, device, umask } => {
                let (major, minor) = mezzo_fuse::device_numbers(device);
                let kind = rustix::fs::FileType::from_raw_mode(mode);
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(&*parent, name, kind, Mode::from_raw_mode(mode & !umask), device)?;
                self.give(caller.node, name, caller)
            }
            Operation::Link { node, name } => {
                let (cwd, path) = (rustix::fs::CWD, self.magic(node)?);
                rustix::fs::linkat(cwd, path, &*parent, name, AtFlags::SYMLINK_FOLLOW)?;
                self.lookup(caller.node, name)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn change_names(&self, id: u64, operation: &Operation<'_>) -> Outcome<()> {
        let parent = self.node(id)?;
        match *operation {
            Operation::Unlink { name } => rustix::fs::unlinkat(&*parent, name, AtFlags::empty())?,
            Operation::Rmdir { name } => rustix::fs::unlinkat(&*parent, name, AtFlags::REMOVEDIR)?,
            Operation::Rename { name, new_parent, new_name, flags } => {
                let flags = RenameFlags::from_bits_retain(flags);
                rustix::fs::renameat_with(&*parent, name, &*self.node(new_parent)?, new_name, flags)?;
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn readlink(&self, id: u64) -> Outcome<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&*self.node(id)?, "", Vec::new())?.into_bytes())
    }

    fn statx(&self, id: u64) -> Outcome<(Attributes, (i64, u32))> {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let statx = rustix::fs::statx(&*self.node(id)?, "", AtFlags::EMPTY_PATH, flags)?;
        Ok((self.attributes(id)?, (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec)))
    }

    fn statfs(&self, id: u64) -> Outcome<Statfs> {
        let sizes = rustix::fs::fstatvfs(&*self.node(id)?)?;
        Ok(Statfs {
            blocks: sizes.f_blocks,
            blocks_free: sizes.f_bfree,
            blocks_available: sizes.f_bavail,
            files: sizes.f_files,
            files_free: sizes.f_ffree,
            block_size: sizes.f_bsize as u32,
            name_length: 255,
            fragment_size: sizes.f_frsize as u32,
        })
    }

    fn change_xattr(&self, id: u64, operation: &Operation<'_>) -> Outcome<()> {
        let path = self.magic(id)?;
        match *operation {
            Operation::Setxattr { name, value, flags, .. } => {
                rustix::fs::setxattr(path, name, value, XattrFlags::from_bits_retain(flags))?;
            }
            Operation::Removexattr { name } => rustix::fs::removexattr(path, name)?,
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn getxattr(&self, id: u64, name: &[u8]) -> Outcome<Vec<u8>> {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::getxattr(self.magic(id)?, name, &mut value[..])?;
        value.truncate(length);
        Ok(value)
    }

    fn listxattr(&self, id: u64) -> Outcome<Vec<u8>> {
        let mut list = vec![0u8; 65_536];
        let length = rustix::fs::listxattr(self.magic(id)?, &mut list[..])?;
        list.truncate(length);
        Ok(list)
    }
}

/// The path by which the system reaches an open node.
fn magic(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Some(SetTime::At { seconds, nanoseconds }) => {
            Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
        }
    }
}

fn kind(file_type: std::fs::FileType) -> u32 {
    let kind = match file_type {
        kind if kind.is_dir() => libc::DT_DIR,
        kind if kind.is_symlink() => libc::DT_LNK,
        kind if kind.is_fifo() => libc::DT_FIFO,
        _ => libc::DT_REG,
    };
    kind.into()
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        inode: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: (stat.st_atime, stat.st_atime_nsec as u32),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        mode: stat.st_mode,
        links: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        block_size: 4096,
    }
}
