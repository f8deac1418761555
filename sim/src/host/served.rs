//! The host's answers to the kernel. Whatever changes anything or makes it durable is a step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

use mezzo_fuse::{
    Answered, Attributes, Entry, Errno, Filesystem, Header, OpenFlags, Opened, Operation, Reply, Request,
    Statfs, device_numbers,
};
use parking_lot::Mutex;

use super::disk::Disk;
use super::state::{BLOCK, Inode, Maker, New, State};
use crate::mapped::{Mapped, mapped};
use crate::page::Page;

/// The ioctl(2) that tells of a syncfs(2), which the kernel keeps to itself.
pub const SYNC: u32 = 0x4d00;

/// The kernel may trust names: nobody but it changes them.
const NAMES_VALID: Duration = Duration::from_secs(600);
/// Attributes it has to ask for.
const ATTRIBUTES_VALID: Duration = Duration::ZERO;

type Outcome<T> = Result<T, Errno>;

/// The host as the kernel sees it.
pub struct Served {
    page: Arc<Page>,
    /// The process that uses it; 0 before there is one.
    pub user: AtomicI32,
    /// Steps of which operations are kept.
    recorded: std::ops::Range<u64>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    disk: Disk,
    points: Vec<Point>,
    mapped: Mapped,
    /// The step before which the user is killed.
    kill_before: Option<usize>,
    killed: bool,
    handles: HashMap<u64, Vec<(Vec<u8>, u64, u32)>>,
    next_handle: u64,
}

/// The moment before a step.
#[derive(Clone, Debug)]
pub struct Point {
    /// The system call that makes the step; empty at the end.
    pub step: &'static str,
    /// The operation that it belongs to.
    pub operation: u64,
    pub state: State,
    pub disk: Disk,
    /// What processes have written into mappings and nowhere else.
    pub mapped: Mapped,
    /// Where clock and random numbers are.
    pub clock: (u64, u64),
}

/// All moments of a run, the last when it was over.
#[derive(Clone, Debug)]
pub struct Recording(pub Vec<Point>);

impl Served {
    /// Serves `state`, all of which is durable. Steps of the operations `recorded` are kept.
    pub fn new(
        page: Arc<Page>,
        state: State,
        recorded: std::ops::Range<u64>,
        kill_before: Option<usize>,
    ) -> Served {
        let inner = Inner {
            disk: Disk::all(&state, 0),
            state,
            points: Vec::new(),
            mapped: Mapped::default(),
            kill_before,
            killed: false,
            handles: HashMap::new(),
            next_handle: 1,
        };
        Served { page, user: AtomicI32::new(0), recorded, inner: Mutex::new(inner) }
    }

    /// What was kept; the last point is the host as it is. Called when nobody uses it any more.
    pub fn take(&self) -> Recording {
        let mut inner = self.inner.lock();
        let operation = self.page.operation();
        let mut points = std::mem::take(&mut inner.points);
        let end = Point {
            step: "",
            operation: points.last().map_or(operation, |point| point.operation),
            state: inner.state.clone(),
            disk: inner.disk.clone(),
            mapped: Mapped::default(),
            clock: self.page.get(),
        };
        points.push(end);
        Recording(points)
    }

    /// Makes a step: nothing of it is done yet when `act` is called.
    fn step<T>(
        &self,
        step: &'static str,
        source: Source,
        act: impl FnOnce(&mut Inner, Step) -> Outcome<T>,
    ) -> Outcome<T> {
        let operation = self.page.operation();
        // What comes from the page cache comes also while the process ends, or changes its mappings: then it can't be looked at.
        let user = self.user.load(SeqCst);
        let written = if let Source::Write(number) = source { Some(number) } else { None };
        let is_recorded = self.recorded.contains(&operation);
        let mapped = (is_recorded && source != Source::Cache && user != 0).then(|| mapped(user, written));
        let mut inner = self.inner.lock();
        if let Some(mut mapped) = mapped {
            written.into_iter().for_each(|number| mapped.keep(number, &inner.mapped));
            inner.mapped = mapped;
        }
        // What the page cache brings comes when the kernel wants, and is no step.
        if is_recorded && source != Source::Cache {
            if inner.points.is_empty() {
                inner.disk = Disk::all(&inner.state, 0);
            }
            if inner.kill_before == Some(inner.points.len()) && !inner.killed {
                inner.killed = true;
                kill(user);
            }
            let point = Point {
                step,
                operation,
                state: inner.state.clone(),
                disk: inner.disk.clone(),
                mapped: inner.mapped.clone(),
                clock: self.page.get(),
            };
            if !inner.killed {
                inner.points.push(point);
            }
        }
        if inner.killed && source != Source::Cache {
            return Err(Errno::EIO);
        }
        let moment = inner.points.len();
        act(&mut inner, Step { now: self.page.now(), moment })
    }

    fn entry(&self, number: u64) -> Outcome<Entry> {
        let inner = self.inner.lock();
        let inode = inner.state.inode(number)?;
        Ok(Entry {
            node: number,
            generation: inode.generation,
            entry_valid: NAMES_VALID,
            attributes_valid: ATTRIBUTES_VALID,
            attributes: attributes(inode),
        })
    }

    fn make(&self, step: &'static str, header: &Header, name: &[u8], new: New) -> Outcome<Entry> {
        let number = self.step(step, Source::Call, |inner, Step { now, moment }| {
            let maker = Maker { uid: header.uid, gid: header.gid, now };
            let number = inner.state.make(header.node, name, new, maker)?;
            inner.disk.resized(inner.state.inode(number)?, moment);
            Ok(number)
        })?;
        self.entry(number)
    }

    fn set_attributes(&self, number: u64, set: &mezzo_fuse::Setattr) -> Outcome<Attributes> {
        let step = match set {
            _ if set.size.is_some() => "truncate",
            _ if set.mode.is_some() => "chmod",
            _ if set.uid.is_some() || set.gid.is_some() => "chown",
            _ => "utimensat",
        };
        self.step(step, Source::Call, |inner, Step { now, moment }| {
            if let Some(size) = set.size {
                let inode = inner.state.inode(number)?.clone();
                if size < inode.data()?.size {
                    inner.disk.cut(&inode, size, moment);
                } else {
                    inner.disk.resized(&inode, moment);
                }
            }
            inner.state.set_attributes(number, set, now)
        })?;
        Ok(attributes(self.inner.lock().state.inode(number)?))
    }

    fn write(&self, number: u64, offset: u64, bytes: &[u8], from_cache: bool) -> Outcome<u32> {
        let source = if from_cache { Source::Cache } else { Source::Write(number) };
        self.step("write", source, |inner, Step { now, moment }| {
            let before = inner.state.inode(number)?.data()?.size;
            // What a mapping writes tells of no end: the file's is what it was.
            let room = before.saturating_sub(offset).min(bytes.len() as u64) as usize;
            let told = if from_cache { &bytes[..room] } else { bytes };
            inner.state.write(number, offset, told, now)?;
            inner.mapped.write(number, offset, told);
            let inode = inner.state.inode(number)?;
            if inode.data()?.size != before {
                inner.disk.resized(inode, moment);
            }
            Ok(bytes.len() as u32)
        })
    }

    fn sync(&self, number: u64, data_only: bool) -> Outcome<()> {
        let step = if data_only { "fdatasync" } else { "fsync" };
        self.step(step, Source::Call, |inner, Step { moment, .. }| {
            let inode = inner.state.inode(number)?.clone();
            // The step is done when the next one begins.
            inner.disk.sync(&inode, data_only, moment);
            Ok(())
        })
    }

    fn open_directory(&self, number: u64) -> Outcome<u64> {
        let mut inner = self.inner.lock();
        let entries = inner.state.list(number)?;
        let handle = inner.next_handle;
        inner.next_handle += 1;
        inner.handles.insert(handle, entries);
        Ok(handle)
    }

    fn list(&self, reply: Reply<'_>, handle: u64, offset: u64, size: u32) -> Answered {
        let Some(entries) = self.inner.lock().handles.get(&handle).cloned() else {
            return reply.error(Errno::EBADF);
        };
        reply.directory(size, |directory| {
            for (index, (name, number, mode)) in entries.iter().enumerate().skip(offset as usize) {
                let kind = (mode & libc::S_IFMT) >> 12;
                if !directory.add(*number, index as u64 + 1, kind, name) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn change(&self, header: &Header, operation: &Operation<'_>) -> Outcome<()> {
        let number = header.node;
        match *operation {
            Operation::Unlink { name } => self.step("unlink", Source::Call, |inner, step| {
                inner.state.remove(number, name, false, step.now)
            }),
            Operation::Rmdir { name } => self
                .step("rmdir", Source::Call, |inner, step| inner.state.remove(number, name, true, step.now)),
            Operation::Rename { name, new_parent, new_name, flags } => {
                self.step("rename", Source::Call, |inner, step| {
                    inner.state.rename((number, name), (new_parent, new_name), flags, step.now)
                })
            }
            Operation::Setxattr { name, value, flags, .. } => {
                self.step("setxattr", Source::Call, |inner, step| {
                    inner.state.set_xattr(number, name, value, flags, step.now)
                })
            }
            Operation::Removexattr { name } => self.step("removexattr", Source::Call, |inner, step| {
                inner.state.remove_xattr(number, name, step.now)
            }),
            Operation::Fallocate { offset, length, mode, .. } => {
                self.step("fallocate", Source::Call, |inner, step| {
                    let inode = inner.state.inode(number)?.clone();
                    inner.disk.resized(&inode, step.moment);
                    inner.state.allocate(number, (offset, length), mode, step.now)
                })
            }
            Operation::Fsync { data_only, .. } => self.sync(number, data_only),
            Operation::Fsyncdir { .. } => self.step("fsync", Source::Call, |inner, step| {
                inner.disk.commit(step.moment);
                Ok(())
            }),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn handle_more(&self, header: &Header, operation: Operation<'_>, reply: Reply<'_>) -> Answered {
        let number = header.node;
        match operation {
            Operation::Symlink { name, target } => {
                let new = New { mode: libc::S_IFLNK | 0o777, device: (0, 0), target: target.to_vec() };
                answer(reply, self.make("symlink", header, name, new), |reply, entry| reply.entry(&entry))
            }
            Operation::Mkdir { name, mode, umask } => {
                let mode = libc::S_IFDIR | mode & 0o7777 & !umask;
                let new = New { mode, device: (0, 0), target: Vec::new() };
                answer(reply, self.make("mkdir", header, name, new), |reply, entry| reply.entry(&entry))
            }
            Operation::Mknod { name, mode, device, umask } => {
                let new = New { mode: mode & !umask, device: device_numbers(device), target: Vec::new() };
                answer(reply, self.make("mknod", header, name, new), |reply, entry| reply.entry(&entry))
            }
            Operation::Link { node, name } => {
                let linked = self
                    .step("link", Source::Call, |inner, step| inner.state.link(node, number, name, step.now));
                answer(reply, linked.and_then(|()| self.entry(node)), |reply, entry| reply.entry(&entry))
            }
            Operation::Create { name, mode, umask, .. } => {
                let mode = libc::S_IFREG | mode & 0o7777 & !umask;
                let new = New { mode, device: (0, 0), target: Vec::new() };
                answer(reply, self.make("create", header, name, new), |reply, entry| {
                    reply.created(&entry, &opened(0))
                })
            }
            Operation::Tmpfile { mode, umask, .. } => {
                let made = self.step("tmpfile", Source::Call, |inner, Step { now, moment }| {
                    let maker = Maker { uid: header.uid, gid: header.gid, now };
                    let number = inner.state.make_unnamed(mode & !umask, maker);
                    inner.disk.resized(inner.state.inode(number)?, moment);
                    Ok(number)
                });
                let made = made.and_then(|number| self.entry(number));
                answer(reply, made, |reply, entry| reply.created(&entry, &opened(0)))
            }
            Operation::Write { offset, data, cached, .. } => {
                answer(reply, self.write(number, offset, data, cached), |reply, length| reply.written(length))
            }
            Operation::Ioctl { command: SYNC, .. } => {
                let synced = self.step("syncfs", Source::Call, |inner, step| {
                    inner.disk = Disk::all(&inner.state, step.moment);
                    Ok(())
                });
                answer(reply, synced, |reply, ()| reply.ioctl(0, &[]))
            }
            Operation::Ioctl { .. } => reply.error(Errno::ENOTTY),
            Operation::Release { .. } | Operation::Flush { .. } | Operation::Destroy | Operation::Syncfs => {
                reply.empty()
            }
            Operation::Releasedir { handle, .. } => {
                self.inner.lock().handles.remove(&handle);
                reply.empty()
            }
            operation => answer(reply, self.change(header, &operation), |reply, ()| reply.empty()),
        }
    }
}

/// What asks for a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A system call, which waits.
    Call,
    /// One that writes to this file.
    Write(u64),
    /// The page cache.
    Cache,
}

/// A step that is being made.
#[derive(Clone, Copy)]
struct Step {
    now: (i64, u32),
    /// When it is done.
    moment: usize,
}

fn kill(process: i32) {
    // SAFETY: it takes numbers; the process is our child, and not waited for yet.
    unsafe { libc::kill(process, libc::SIGKILL) };
}

fn opened(handle: u64) -> Opened<'static> {
    Opened { handle, flags: OpenFlags::NOFLUSH, backing: None }
}

fn answer<T>(reply: Reply<'_>, outcome: Outcome<T>, say: impl FnOnce(Reply<'_>, T) -> Answered) -> Answered {
    match outcome {
        Ok(value) => say(reply, value),
        Err(errno) => reply.error(errno),
    }
}

fn attributes(inode: &Inode) -> Attributes {
    use super::state::Body;
    let (size, blocks) = match &inode.body {
        Body::File(data) => (data.size, data.blocks.len() as u64 * (BLOCK as u64 / 512)),
        Body::Symlink(target) => (target.len() as u64, 0),
        Body::Directory { .. } => (BLOCK as u64, 8),
        Body::Special => (0, 0),
    };
    Attributes {
        inode: inode.number,
        size,
        blocks,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        mode: inode.mode,
        links: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        device: inode.device,
        block_size: BLOCK as u32,
    }
}

impl Filesystem for Served {
    fn handle(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let number = request.header.node;
        let inode = || self.inner.lock().state.inode(number).cloned();
        match request.operation.clone() {
            Operation::Lookup { name } => {
                let found = self.inner.lock().state.lookup(number, name);
                answer(reply, found.and_then(|found| self.entry(found)), |reply, entry| reply.entry(&entry))
            }
            Operation::Forget { .. } | Operation::BatchForget(_) => reply.none(),
            Operation::Getattr { .. } => {
                answer(reply, inode(), |reply, inode| reply.attributes(&attributes(&inode), ATTRIBUTES_VALID))
            }
            Operation::Statx { .. } => answer(reply, inode(), |reply, inode| {
                reply.statx(&attributes(&inode), Some(inode.born), ATTRIBUTES_VALID)
            }),
            Operation::Setattr(set) => {
                answer(reply, self.set_attributes(number, &set), |reply, attributes| {
                    reply.attributes(&attributes, ATTRIBUTES_VALID)
                })
            }
            Operation::Readlink => answer(reply, inode(), |reply, inode| match &inode.body {
                super::state::Body::Symlink(target) => reply.data(target),
                _ => reply.error(Errno::EINVAL),
            }),
            Operation::Open { .. } => reply.opened(&opened(0)),
            Operation::Read { offset, size, .. } => {
                let read = inode().and_then(|inode| Ok(inode.data()?.read(offset, size as usize)));
                answer(reply, read, |reply, bytes| reply.data(&bytes))
            }
            Operation::Opendir { .. } => {
                answer(reply, self.open_directory(number), |reply, handle| reply.opened(&opened(handle)))
            }
            Operation::Readdir { handle, offset, size } => self.list(reply, handle, offset, size),
            Operation::Lseek { offset, whence, .. } => {
                let found = inode().and_then(|inode| {
                    inode.data()?.seek(offset, whence as i32 == libc::SEEK_HOLE).ok_or(Errno::ENXIO)
                });
                answer(reply, found, |reply, offset| reply.offset(offset))
            }
            Operation::Getxattr { name, size } => {
                let value = inode().and_then(|inode| inode.xattrs.get(name).cloned().ok_or(Errno::ENODATA));
                answer(reply, value, |reply, value| reply.xattr(size, &value))
            }
            Operation::Listxattr { size } => answer(reply, inode(), |reply, inode| {
                let names: Vec<u8> =
                    inode.xattrs.keys().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
                reply.xattr(size, &names)
            }),
            Operation::Statfs => reply.statfs(&Statfs {
                blocks: 1 << 24,
                blocks_free: 1 << 23,
                blocks_available: 1 << 23,
                files: 1 << 24,
                files_free: 1 << 23,
                block_size: BLOCK as u32,
                name_length: 255,
                fragment_size: BLOCK as u32,
            }),
            operation => self.handle_more(&request.header, operation, reply),
        }
    }
}
