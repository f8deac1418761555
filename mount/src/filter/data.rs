//! Files that are open. Where data passes through the kernel, nothing of it is seen here.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use mezzo_core::ObjectId;
use mezzo_core::permission::Need;
use mezzo_fuse::{Answered, BackingId, Errno, Header, OpenFlags, Opened, Operation, Reply};
use mezzo_replica::host::{self, Identity, Stat};
use mezzo_replica::{Bytes, Caller, Changes, Sight, Use};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};

use super::{Filter, Outcome, told};
use crate::emptying::is_emptied;
use crate::handles::{Handle, Session};
use crate::nodes::Node;

/// Flags of an open that the kernel has dealt with, or that would act on the host's file twice.
const NOT_FOR_HOST: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::APPEND)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::DIRECT);

/// Bytes that a copy within the mount takes at once where what it overwrites is kept first.
const COPIED_AT_ONCE: usize = 4 << 20;

/// An open that the kernel is about to be told of.
pub(super) struct Open {
    pub number: u64,
    pub flags: OpenFlags,
    pub backing: Option<Arc<BackingId>>,
}

impl Open {
    pub fn told(&self) -> Opened<'_> {
        Opened { handle: self.number, flags: self.flags, backing: self.backing.as_deref() }
    }
}

impl Filter {
    pub(super) fn open(&self, header: &Header, flags: u32, kill_set_id: bool) -> Outcome<Open> {
        match self.node(header.node)? {
            Node::Object(object) => {
                self.open_object(header, (header.node, object), (flags, kill_set_id), Bytes::Needed)
            }
            node => self.open_own(&node, flags),
        }
    }

    /// As [`Filter::open`], when the bytes are here; without, where the caller opens the file to empty it.
    pub(super) fn open_later(&self, header: &Header, how: (u32, bool), reply: Reply<'_>) -> Answered {
        let Some(object) = self.lacks_bytes(header.node) else { return reply.error(Errno::ENODATA) };
        let header = *header;
        if is_emptied(header.pid, OFlags::from_bits_retain(how.0)) {
            return match self.open_object(&header, (header.node, object), how, Bytes::NotNeeded) {
                Ok(opened) => reply.opened(&opened.told()),
                Err(errno) => reply.error(errno),
            };
        }
        let open = move |filter: &Filter| filter.open(&header, how.0, how.1);
        self.when_filled(object, reply, open, |reply, opened| reply.opened(&opened.told()))
    }

    /// Opens an object that was there before, by this number of the kernel's.
    pub(super) fn open_object(
        &self,
        header: &Header,
        at: (u64, ObjectId),
        (flags, kill_set_id): (u32, bool),
        bytes: Bytes,
    ) -> Outcome<Open> {
        let flags = OFlags::from_bits_retain(flags);
        // It may become another inode while it is being opened, which is once: by its next one it has another number.
        loop {
            let former = self.nodes.former(at.0);
            let opened = self.in_session(at, |session| match &former {
                Some(former) => self.open_former(session, at, flags, former.as_fd()),
                None => self.open_current(session, header, at, (flags, kill_set_id), bytes),
            })?;
            if former.is_some() || self.nodes.former(at.0).is_none() {
                return Ok(opened);
            }
            self.release_as(&Caller::program(), opened.number)?;
        }
    }

    /// Opens the inode that an object was before. That is for those who reach it by a descriptor, and is not written any more; who
    /// was on the way by a name, the kernel has look for it again.
    fn open_former(
        &self,
        session: &mut Session,
        at: (u64, ObjectId),
        flags: OFlags,
        former: BorrowedFd<'_>,
    ) -> Outcome<Open> {
        if usage(flags) != Use::Read || flags.contains(OFlags::TRUNC) {
            return Err(Errno::ESTALE);
        }
        // Whatever the object lacks by now, this inode has its bytes.
        self.open_in(session, at, (flags, false), Bytes::NotNeeded, |flags| host::reopen(former, flags))
    }

    fn open_current(
        &self,
        session: &mut Session,
        header: &Header,
        at: (u64, ObjectId),
        (flags, kill_set_id): (OFlags, bool),
        bytes: Bytes,
    ) -> Outcome<Open> {
        let object = at.1;
        let (reach, stat) = self.replica.open_to_read(object).map_err(told)?;
        may_open(&stat, flags)?;
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            // Also what will be written to it is the caller's doing.
            let caller = self.caller(header, 0)?;
            self.judge_anew(header, &caller, &[Need::Write(object)])?;
        }
        if flags.contains(OFlags::TRUNC) {
            let changes = Changes { size: Some(0), kill_set_id, ..Changes::default() };
            self.replica.set_attributes(&self.caller(header, 0)?, object, &changes).map_err(told)?;
        }
        let set_id = stat.attributes.mode & 0o6000 != 0;
        let mut reach = Some(reach);
        let host = move |flags: OFlags| match reach.take() {
            Some(reach) if flags == READING => Ok(reach),
            Some(reach) => host::reopen(reach.as_fd(), flags),
            None => Err(std::io::Error::from_raw_os_error(libc::EBADF)),
        };
        self.open_in(session, at, (flags, header.uid == 0 && set_id), bytes, host)
    }

    /// Opens a file that was just made, and that `file` has open for reading.
    pub(super) fn open_new(
        &self,
        header: &Header,
        at: (u64, ObjectId),
        (mode, flags): (u32, u32),
        file: OwnedFd,
    ) -> Outcome<Open> {
        let flags = OFlags::from_bits_retain(flags);
        let mut file = Some(file);
        let host = move |flags: OFlags| match file.take() {
            Some(file) if flags == READING => Ok(file),
            Some(file) => host::reopen(file.as_fd(), flags),
            None => Err(std::io::Error::from_raw_os_error(libc::EBADF)),
        };
        let keep_set_id = header.uid == 0 && mode & 0o6000 != 0;
        let opened = self
            .in_session(at, |session| self.open_in(session, at, (flags, keep_set_id), Bytes::Needed, host))?;
        if self.nodes.former(at.0).is_some() {
            self.release_as(&Caller::program(), opened.number)?;
            return Err(Errno::ESTALE);
        }
        Ok(opened)
    }

    /// Opens a node in its session, which goes on until the open is released.
    fn in_session(
        &self,
        (node, _): (u64, ObjectId),
        open: impl FnOnce(&mut Session) -> Outcome<Open>,
    ) -> Outcome<Open> {
        let session = self.handles.enter(node);
        let opened = open(&mut session.lock());
        if opened.is_err() {
            self.handles.leave(node);
        }
        opened
    }

    /// Opens the object as its data goes for those who have it open; where nobody has, as it is best kept.
    fn open_in(
        &self,
        session: &mut Session,
        (node, object): (u64, ObjectId),
        (flags, keep_set_id): (OFlags, bool),
        bytes: Bytes,
        host: impl FnMut(OFlags) -> std::io::Result<OwnedFd>,
    ) -> Outcome<Open> {
        let fixed = if self.backings.is_some() { session.sight } else { Some(Sight::Seen) };
        let (sight, usage) = self.replica.opening(object, usage(flags), fixed, bytes).map_err(told)?;
        let mut handle = Handle { object: Some(object), node, usage, backing: None, file: None };
        match self.open_on_host(session, &mut handle, (sight, flags, keep_set_id), host) {
            Ok(reach) => self.replica.keep_reach(object, reach),
            Err(errno) => {
                self.replica.released(&Caller::program(), object, usage).map_err(told)?;
                return Err(errno);
            }
        }
        // What the kernel's cache has came through it. Before, data may have gone past it.
        let cached = self.backings.is_some() && session.sight == Some(Sight::Seen);
        let cache = if cached { OpenFlags::KEEP_CACHE } else { OpenFlags::NONE };
        let flush = if usage == Use::Read { OpenFlags::NOFLUSH } else { OpenFlags::NONE };
        session.sight = Some(sight);
        let backing = handle.backing.clone();
        let number = self.handles.add(handle);
        Ok(Open { number, flags: cache | flush, backing })
    }

    /// Opens the host's file, or registers it with the kernel. Returns a descriptor that leads to it, where one is over.
    fn open_on_host(
        &self,
        session: &mut Session,
        handle: &mut Handle,
        (sight, flags, keep_set_id): (Sight, OFlags, bool),
        mut host: impl FnMut(OFlags) -> std::io::Result<OwnedFd>,
    ) -> Outcome<Option<OwnedFd>> {
        let mut reach = None;
        match &self.backings {
            Some(backings) if sight == Sight::Unseen => {
                let register = || -> std::io::Result<BackingId> {
                    let file = host(READING)?;
                    // The kernel writes with the rights that this thread has now: the owner's, whose room it takes, and without
                    // the group, as its members may keep a set-group-id bit.
                    let owner = host::stat(file.as_fd())?.attributes.uid;
                    let _switched = Identity { uid: owner, gid: 0 }.assume()?;
                    let id = host::with_set_id_rights(keep_set_id, || backings.open(file.as_fd()))?;
                    reach = Some(file);
                    Ok(id)
                };
                handle.backing = Some(session.backing(register)?);
            }
            _ => {
                let file = host(READING)?;
                let opened = host::reopen(file.as_fd(), flags.difference(NOT_FOR_HOST))?;
                handle.file = Some(File::from(opened));
                reach = self.backings.is_some().then_some(file);
            }
        }
        Ok(reach)
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32, reply: Reply<'_>) -> Answered {
        let Some(handle) = self.handles.get(handle) else { return reply.error(Errno::EBADF) };
        reply.read_into(size, |buffer| match &handle.file {
            Some(file) => Ok(read_full(file, buffer, offset)?),
            // Only with passthrough, where the kernel asks for no reads.
            None => Err(Errno::EIO),
        })
    }

    pub(super) fn write(
        &self,
        header: &Header,
        handle: u64,
        offset: u64,
        data: &[u8],
        kill_set_id: bool,
    ) -> Outcome<u32> {
        let handle = self.handles.get(handle).ok_or(Errno::EBADF)?;
        let file = handle.file.as_ref().ok_or(Errno::EIO)?;
        let keep = header.uid == 0 && !kill_set_id;
        self.before_change(&handle, offset, data.len() as u64);
        self.making_room(|| Ok(host::with_set_id_rights(keep, || file.write_all_at(data, offset))?))?;
        Ok(data.len() as u32)
    }

    /// Keeps what is about to be overwritten, where that is how the file is kept.
    fn before_change(&self, handle: &Handle, offset: u64, length: u64) {
        if let (Some(object), Some(_)) = (handle.object, &handle.file) {
            self.replica.before_change(object, offset..offset.saturating_add(length));
        }
    }

    pub(super) fn flush(&self, header: &Header, handle: u64) -> Outcome<()> {
        match self.handles.get(handle).as_deref() {
            Some(Handle { object: Some(object), usage, .. }) if *usage != Use::Read => {
                self.replica.flushed(&self.reporter(header), *object).map_err(told)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn release(&self, header: &Header, handle: u64) -> Outcome<()> {
        self.release_as(&self.reporter(header), handle)
    }

    /// Lets go of all opens: at its end, the kernel does not tell of those that it was about to tell of.
    pub(crate) fn release_all(&self) {
        let caller = Caller::program();
        for handle in self.handles.numbers() {
            if let Err(errno) = self.release_as(&caller, handle) {
                mezzo_replica::say!("mezzo: a file that was open at the end may not be recorded: {errno}");
            }
        }
    }

    fn release_as(&self, caller: &Caller, handle: u64) -> Outcome<()> {
        let Some(handle) = self.handles.remove(handle) else { return Ok(()) };
        let (object, node, usage) = (handle.object, handle.node, handle.usage);
        drop(handle);
        let Some(object) = object else { return Ok(()) };
        let released = self.replica.released(caller, object, usage).map_err(told);
        self.handles.leave(node);
        released
    }

    pub(super) fn fsync(&self, header: &Header, handle: u64, data_only: bool) -> Outcome<()> {
        match self.handles.get(handle).and_then(|handle| handle.object) {
            Some(object) => self.replica.sync_data(&self.reporter(header), object, data_only).map_err(told),
            None => Ok(()),
        }
    }

    pub(super) fn allocate(
        &self,
        header: &Header,
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Outcome<()> {
        let file = self.host_file(handle, OFlags::RDWR)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let moves = FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE;
        if let Some(handle) = self.handles.get(handle)
            && mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE | moves)
        {
            self.before_change(&handle, offset, if mode.intersects(moves) { u64::MAX } else { length });
        }
        host::with_set_id_rights(header.uid == 0, || Ok(rustix::fs::fallocate(&file, mode, offset, length)?))
    }

    pub(super) fn seek(&self, handle: u64, offset: u64, whence: u32) -> Outcome<u64> {
        let file = self.host_file(handle, OFlags::RDONLY)?;
        let from = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::EINVAL),
        };
        Ok(rustix::fs::seek(&file, from)?)
    }

    pub(super) fn copy_range(&self, header: &Header, operation: &Operation<'_>) -> Outcome<u64> {
        let Operation::CopyFileRange { handle, offset, to_handle, to_offset, length, .. } = operation else {
            return Err(Errno::ENOSYS);
        };
        let from = self.host_file(*handle, OFlags::RDONLY)?;
        let to = self.host_file(*to_handle, OFlags::RDWR)?;
        let (mut offset, mut to_offset) = (*offset, *to_offset);
        let mut length = usize::try_from(*length).unwrap_or(usize::MAX);
        if let Some(handle) = self.handles.get(*to_handle).filter(|handle| handle.file.is_some()) {
            // The caller asks for the rest.
            length = length.min(COPIED_AT_ONCE);
            self.before_change(&handle, to_offset, length as u64);
        }
        host::with_set_id_rights(header.uid == 0, || {
            Ok(rustix::fs::copy_file_range(&from, Some(&mut offset), &to, Some(&mut to_offset), length)?
                as u64)
        })
    }

    /// The host's file behind an open, opened once more for what the kernel has no way to do by itself.
    fn host_file(&self, handle: u64, access: OFlags) -> Outcome<Arc<File>> {
        let handle = self.handles.get(handle).ok_or(Errno::EBADF)?;
        match (&handle.file, handle.object) {
            (Some(file), _) => Ok(Arc::new(file.try_clone()?)),
            (None, Some(object)) => {
                let current = self.replica.open_data(object, access).map_err(told)?;
                // Asked after opening: it is noted before the object becomes another inode.
                let file = match self.nodes.former(handle.node) {
                    Some(former) => host::reopen(former.as_fd(), access)?,
                    None => current,
                };
                Ok(Arc::new(File::from(file)))
            }
            (None, None) => Err(Errno::EBADF),
        }
    }
}

/// How a file is opened that is registered with the kernel: the kernel opens it again as each user did, and a
/// descriptor that can't write leaves the host's knowledge of who can.
const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// What the host would refuse if the user opened the file there: the kernel doesn't know these marks of a host's file.
fn may_open(stat: &Stat, flags: OFlags) -> Outcome<()> {
    let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
    let appends = flags.contains(OFlags::APPEND) && !flags.contains(OFlags::TRUNC);
    if writes && (stat.immutable || stat.append_only && !appends) { Err(Errno::EPERM) } else { Ok(()) }
}

fn usage(flags: OFlags) -> Use {
    match flags & OFlags::ACCMODE {
        OFlags::RDONLY => Use::Read,
        // A mapping needs reading too.
        OFlags::WRONLY => Use::Write,
        _ => Use::Map,
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
