//! The kernel's messages, taken apart once and for all.
//!
//! The parser is total. No bytes make it panic; a length that doesn't fit, a name without an end or a value
//! outside its range makes the message [`Malformed`].

use crate::abi::{self, InHeader, opcode};
use crate::request::{Forgets, Header, Lock, LockKind, Malformed, Operation, Request, SetTime, Setattr};
use zerocopy::FromBytes;

impl<'a> Request<'a> {
    /// Parses one whole message as read from the device. `setxattr_ext` tells whether the connection has
    /// SETXATTR_EXT. Fails on a malformed message and on those that a session handles itself.
    pub fn parse(bytes: &'a [u8], setxattr_ext: bool) -> Result<Request<'a>, Malformed> {
        match Message::split(bytes, setxattr_ext)?.parse(setxattr_ext)? {
            Incoming::Request(request) => Ok(request),
            Incoming::Interrupt { .. } | Incoming::Ignored | Incoming::Init => Err(Malformed),
        }
    }
}

/// A message in its three parts, as either transport delivers it.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub header: InHeader,
    /// At least as long as [`abi::argument_size`] says.
    pub argument: &'a [u8],
    pub payload: &'a [u8],
}

/// A message, by who handles it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// The file system.
    Request(Request<'a>),
    /// The session: the caller of the request `unique` has got a signal.
    Interrupt { unique: u64 },
    /// The session: a second greeting, which has no place.
    Init,
    /// Nobody: the answer to a notification that was never sent.
    Ignored,
}

impl<'a> Message<'a> {
    /// Splits a message as read from the device.
    pub fn split(bytes: &'a [u8], setxattr_ext: bool) -> Result<Message<'a>, Malformed> {
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| Malformed)?;
        if header.len as usize != bytes.len() {
            return Err(Malformed);
        }
        let (argument, payload) =
            rest.split_at_checked(abi::argument_size(header.opcode, setxattr_ext)).ok_or(Malformed)?;
        Ok(Message { header, argument, payload })
    }

    /// Takes the message apart.
    pub fn parse(self, setxattr_ext: bool) -> Result<Incoming<'a>, Malformed> {
        match self.header.opcode {
            opcode::INTERRUPT => {
                let interrupt: abi::InterruptIn = self.argument()?;
                return Ok(Incoming::Interrupt { unique: interrupt.unique });
            }
            opcode::INIT => return Ok(Incoming::Init),
            opcode::NOTIFY_REPLY => return Ok(Incoming::Ignored),
            _ => {}
        }
        let (message, supplementary_group) = self.without_extensions()?;
        Ok(Incoming::Request(Request {
            header: self.caller(),
            operation: message.operation(setxattr_ext)?,
            supplementary_group,
        }))
    }

    fn caller(&self) -> Header {
        let InHeader { unique, nodeid, uid, gid, pid, .. } = self.header;
        Header { unique, node: nodeid, uid, gid, pid }
    }

    fn argument<T: FromBytes>(&self) -> Result<T, Malformed> {
        T::read_from_prefix(self.argument).map(|(value, _)| value).map_err(|_| Malformed)
    }

    /// Cuts the extensions off the payload's end; yields the group that they may carry.
    fn without_extensions(self) -> Result<(Message<'a>, Option<u32>), Malformed> {
        let length = usize::from(self.header.total_extlen) * 8;
        if length == 0 {
            return Ok((self, None));
        }
        let cut = self.payload.len().checked_sub(length).ok_or(Malformed)?;
        let (payload, extensions) = self.payload.split_at(cut);
        Ok((Message { payload, ..self }, supplementary_group(extensions)?))
    }

    fn operation(&self, setxattr_ext: bool) -> Result<Operation<'a>, Malformed> {
        Ok(match self.header.opcode {
            opcode::LOOKUP => Operation::Lookup { name: self.name()? },
            opcode::FORGET => self.forget()?,
            opcode::BATCH_FORGET => self.batch_forget()?,
            opcode::GETATTR => self.getattr()?,
            opcode::STATX => self.statx()?,
            opcode::SETATTR => Operation::Setattr(self.setattr()?),
            opcode::READLINK => self.bare(Operation::Readlink)?,
            opcode::SYMLINK => self.symlink()?,
            opcode::MKNOD => self.mknod()?,
            opcode::MKDIR => self.mkdir()?,
            opcode::UNLINK => Operation::Unlink { name: self.name()? },
            opcode::RMDIR => Operation::Rmdir { name: self.name()? },
            opcode::RENAME => self.rename()?,
            opcode::RENAME2 => self.rename2()?,
            opcode::LINK => self.link()?,
            opcode::OPEN => self.open()?,
            opcode::CREATE => self.create()?,
            opcode::TMPFILE => self.tmpfile()?,
            opcode::READ => self.read()?,
            opcode::WRITE => self.write()?,
            opcode::FLUSH => self.flush()?,
            opcode::RELEASE => self.release()?,
            opcode::FSYNC => self.fsync()?,
            opcode::OPENDIR => self.opendir()?,
            opcode::READDIR | opcode::READDIRPLUS => self.readdir()?,
            opcode::RELEASEDIR => self.releasedir()?,
            opcode::FSYNCDIR => self.fsyncdir()?,
            opcode::STATFS => self.bare(Operation::Statfs)?,
            opcode::SETXATTR => self.setxattr(setxattr_ext)?,
            opcode::GETXATTR => self.getxattr()?,
            opcode::LISTXATTR => self.listxattr()?,
            opcode::REMOVEXATTR => Operation::Removexattr { name: self.name()? },
            opcode::ACCESS => self.access()?,
            opcode::GETLK => Operation::Getlk(self.lock()?),
            opcode::SETLK => Operation::Setlk(self.lock()?),
            opcode::SETLKW => Operation::Setlkw(self.lock()?),
            opcode::FALLOCATE => self.fallocate()?,
            opcode::LSEEK => self.lseek()?,
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => self.copy_file_range()?,
            opcode::IOCTL => self.ioctl()?,
            opcode::POLL => self.poll()?,
            opcode::BMAP => self.bmap()?,
            opcode::SYNCFS => self.bare(Operation::Syncfs)?,
            opcode::DESTROY => self.bare(Operation::Destroy)?,
            opcode => Operation::Other { opcode },
        })
    }

    /// An operation that has no payload.
    fn bare(&self, operation: Operation<'a>) -> Result<Operation<'a>, Malformed> {
        self.no_payload().map(|()| operation)
    }

    fn no_payload(&self) -> Result<(), Malformed> {
        if self.payload.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// The payload as one name.
    fn name(&self) -> Result<&'a [u8], Malformed> {
        let (name, rest) = first_name(self.payload)?;
        if rest.is_empty() { Ok(name) } else { Err(Malformed) }
    }

    /// The payload as two names.
    fn two_names(&self) -> Result<(&'a [u8], &'a [u8]), Malformed> {
        let (first, rest) = first_name(self.payload)?;
        let (second, rest) = first_name(rest)?;
        if rest.is_empty() { Ok((first, second)) } else { Err(Malformed) }
    }

    fn forget(&self) -> Result<Operation<'a>, Malformed> {
        let forget: abi::ForgetIn = self.argument()?;
        self.bare(Operation::Forget { lookups: forget.nlookup })
    }

    fn batch_forget(&self) -> Result<Operation<'a>, Malformed> {
        let batch: abi::BatchForgetIn = self.argument()?;
        let length = u64::from(batch.count) * size_of::<abi::ForgetOne>() as u64;
        if self.payload.len() as u64 != length {
            return Err(Malformed);
        }
        Ok(Operation::BatchForget(Forgets::new(self.payload)))
    }

    fn getattr(&self) -> Result<Operation<'a>, Malformed> {
        let getattr: abi::GetattrIn = self.argument()?;
        self.bare(Operation::Getattr { handle: given(getattr.getattr_flags, abi::GETATTR_FH, getattr.fh) })
    }

    fn statx(&self) -> Result<Operation<'a>, Malformed> {
        let statx: abi::StatxIn = self.argument()?;
        let handle = given(statx.getattr_flags, abi::GETATTR_FH, statx.fh);
        self.bare(Operation::Statx { handle, flags: statx.sx_flags, mask: statx.sx_mask })
    }

    fn setattr(&self) -> Result<Setattr, Malformed> {
        let set: abi::SetattrIn = self.argument()?;
        self.no_payload()?;
        Ok(Setattr {
            mode: given(set.valid, abi::fattr::MODE, set.mode),
            uid: given(set.valid, abi::fattr::UID, set.uid),
            gid: given(set.valid, abi::fattr::GID, set.gid),
            size: given(set.valid, abi::fattr::SIZE, set.size),
            atime: set_time(&set, abi::fattr::ATIME, abi::fattr::ATIME_NOW, (set.atime, set.atimensec)),
            mtime: set_time(&set, abi::fattr::MTIME, abi::fattr::MTIME_NOW, (set.mtime, set.mtimensec)),
            ctime: given(set.valid, abi::fattr::CTIME, (set.ctime as i64, set.ctimensec)),
            handle: given(set.valid, abi::fattr::FH, set.fh),
            lock_owner: given(set.valid, abi::fattr::LOCKOWNER, set.lock_owner),
            kill_suidgid: set.valid & abi::fattr::KILL_SUIDGID != 0,
        })
    }

    fn symlink(&self) -> Result<Operation<'a>, Malformed> {
        let (name, target) = self.two_names()?;
        Ok(Operation::Symlink { name, target })
    }

    fn mknod(&self) -> Result<Operation<'a>, Malformed> {
        let abi::MknodIn { mode, rdev, umask, .. } = self.argument()?;
        Ok(Operation::Mknod { name: self.name()?, mode, device: rdev, umask })
    }

    fn mkdir(&self) -> Result<Operation<'a>, Malformed> {
        let abi::MkdirIn { mode, umask } = self.argument()?;
        Ok(Operation::Mkdir { name: self.name()?, mode, umask })
    }

    fn rename(&self) -> Result<Operation<'a>, Malformed> {
        let abi::RenameIn { newdir } = self.argument()?;
        let (name, new_name) = self.two_names()?;
        Ok(Operation::Rename { name, new_parent: newdir, new_name, flags: 0 })
    }

    fn rename2(&self) -> Result<Operation<'a>, Malformed> {
        let abi::Rename2In { newdir, flags, .. } = self.argument()?;
        let (name, new_name) = self.two_names()?;
        Ok(Operation::Rename { name, new_parent: newdir, new_name, flags })
    }

    fn link(&self) -> Result<Operation<'a>, Malformed> {
        let abi::LinkIn { oldnodeid } = self.argument()?;
        Ok(Operation::Link { node: oldnodeid, name: self.name()? })
    }

    fn open(&self) -> Result<Operation<'a>, Malformed> {
        let abi::OpenIn { flags, open_flags } = self.argument()?;
        self.bare(Operation::Open { flags, kill_suidgid: open_flags & abi::OPEN_KILL_SUIDGID != 0 })
    }

    fn opendir(&self) -> Result<Operation<'a>, Malformed> {
        let abi::OpenIn { flags, .. } = self.argument()?;
        self.bare(Operation::Opendir { flags })
    }

    fn create(&self) -> Result<Operation<'a>, Malformed> {
        let abi::CreateIn { flags, mode, umask, open_flags } = self.argument()?;
        let kill_suidgid = open_flags & abi::OPEN_KILL_SUIDGID != 0;
        Ok(Operation::Create { name: self.name()?, mode, umask, flags, kill_suidgid })
    }

    /// The name that the kernel sends with it is a placeholder.
    fn tmpfile(&self) -> Result<Operation<'a>, Malformed> {
        let abi::CreateIn { flags, mode, umask, .. } = self.argument()?;
        if !self.payload.is_empty() {
            self.name()?;
        }
        Ok(Operation::Tmpfile { mode, umask, flags })
    }

    fn read(&self) -> Result<Operation<'a>, Malformed> {
        let abi::ReadIn { fh, offset, size, read_flags, lock_owner, flags, .. } = self.argument()?;
        let lock_owner = given(read_flags, abi::READ_LOCKOWNER, lock_owner);
        self.bare(Operation::Read { handle: fh, offset, size, flags, lock_owner })
    }

    fn write(&self) -> Result<Operation<'a>, Malformed> {
        let abi::WriteIn { fh, offset, size, write_flags, lock_owner, flags, .. } = self.argument()?;
        if self.payload.len() != size as usize {
            return Err(Malformed);
        }
        Ok(Operation::Write {
            handle: fh,
            offset,
            data: self.payload,
            flags,
            cached: write_flags & abi::WRITE_CACHE != 0,
            kill_suidgid: write_flags & abi::WRITE_KILL_SUIDGID != 0,
            lock_owner: given(write_flags, abi::WRITE_LOCKOWNER, lock_owner),
        })
    }

    fn flush(&self) -> Result<Operation<'a>, Malformed> {
        let abi::FlushIn { fh, lock_owner, .. } = self.argument()?;
        self.bare(Operation::Flush { handle: fh, lock_owner })
    }

    fn release(&self) -> Result<Operation<'a>, Malformed> {
        let abi::ReleaseIn { fh, flags, release_flags, lock_owner } = self.argument()?;
        let unlock_flock = given(release_flags, abi::RELEASE_FLOCK_UNLOCK, lock_owner);
        let flush = release_flags & abi::RELEASE_FLUSH != 0;
        self.bare(Operation::Release { handle: fh, flags, flush, unlock_flock })
    }

    fn releasedir(&self) -> Result<Operation<'a>, Malformed> {
        let abi::ReleaseIn { fh, flags, .. } = self.argument()?;
        self.bare(Operation::Releasedir { handle: fh, flags })
    }

    fn fsync(&self) -> Result<Operation<'a>, Malformed> {
        let abi::FsyncIn { fh, fsync_flags, .. } = self.argument()?;
        self.bare(Operation::Fsync { handle: fh, data_only: fsync_flags & abi::FSYNC_FDATASYNC != 0 })
    }

    fn fsyncdir(&self) -> Result<Operation<'a>, Malformed> {
        let abi::FsyncIn { fh, fsync_flags, .. } = self.argument()?;
        self.bare(Operation::Fsyncdir { handle: fh, data_only: fsync_flags & abi::FSYNC_FDATASYNC != 0 })
    }

    fn readdir(&self) -> Result<Operation<'a>, Malformed> {
        let abi::ReadIn { fh: handle, offset, size, .. } = self.argument()?;
        self.bare(match self.header.opcode {
            opcode::READDIRPLUS => Operation::Readdirplus { handle, offset, size },
            _ => Operation::Readdir { handle, offset, size },
        })
    }

    fn setxattr(&self, extended: bool) -> Result<Operation<'a>, Malformed> {
        let set: abi::SetxattrIn = if extended {
            self.argument()?
        } else {
            let abi::SetxattrShortIn { size, flags } = self.argument()?;
            abi::SetxattrIn { size, flags, ..Default::default() }
        };
        let (name, value) = first_name(self.payload)?;
        if value.len() != set.size as usize {
            return Err(Malformed);
        }
        let kill_sgid = set.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0;
        Ok(Operation::Setxattr { name, value, flags: set.flags, kill_sgid })
    }

    fn getxattr(&self) -> Result<Operation<'a>, Malformed> {
        let abi::GetxattrIn { size, .. } = self.argument()?;
        Ok(Operation::Getxattr { name: self.name()?, size })
    }

    fn listxattr(&self) -> Result<Operation<'a>, Malformed> {
        let abi::GetxattrIn { size, .. } = self.argument()?;
        self.bare(Operation::Listxattr { size })
    }

    fn access(&self) -> Result<Operation<'a>, Malformed> {
        let abi::AccessIn { mask, .. } = self.argument()?;
        self.bare(Operation::Access { mask })
    }

    fn lock(&self) -> Result<Lock, Malformed> {
        let abi::LkIn { fh, owner, lk, lk_flags, .. } = self.argument()?;
        self.no_payload()?;
        let kind = i32::try_from(lk.kind).ok().and_then(LockKind::from_raw).ok_or(Malformed)?;
        let flock = lk_flags & abi::LK_FLOCK != 0;
        Ok(Lock { handle: fh, owner, start: lk.start, end: lk.end, kind, pid: lk.pid, flock })
    }

    fn fallocate(&self) -> Result<Operation<'a>, Malformed> {
        let abi::FallocateIn { fh, offset, length, mode, .. } = self.argument()?;
        self.bare(Operation::Fallocate { handle: fh, offset, length, mode })
    }

    fn lseek(&self) -> Result<Operation<'a>, Malformed> {
        let abi::LseekIn { fh, offset, whence, .. } = self.argument()?;
        self.bare(Operation::Lseek { handle: fh, offset, whence })
    }

    fn copy_file_range(&self) -> Result<Operation<'a>, Malformed> {
        let copy: abi::CopyFileRangeIn = self.argument()?;
        self.bare(Operation::CopyFileRange {
            handle: copy.fh_in,
            offset: copy.off_in,
            to_node: copy.nodeid_out,
            to_handle: copy.fh_out,
            to_offset: copy.off_out,
            length: copy.len,
            flags: copy.flags,
        })
    }

    fn ioctl(&self) -> Result<Operation<'a>, Malformed> {
        let abi::IoctlIn { fh, flags, cmd, arg, in_size, out_size } = self.argument()?;
        if self.payload.len() != in_size as usize {
            return Err(Malformed);
        }
        Ok(Operation::Ioctl {
            handle: fh,
            flags,
            command: cmd,
            argument: arg,
            input: self.payload,
            output_size: out_size,
        })
    }

    fn poll(&self) -> Result<Operation<'a>, Malformed> {
        let abi::PollIn { fh, kh, flags, events } = self.argument()?;
        self.bare(Operation::Poll { handle: fh, wakeup: kh, notify: flags & 1 != 0, events })
    }

    fn bmap(&self) -> Result<Operation<'a>, Malformed> {
        let abi::BmapIn { block, blocksize, .. } = self.argument()?;
        self.bare(Operation::Bmap { block, block_size: blocksize })
    }
}

/// `value`, if `flags` has `flag`.
fn given<T>(flags: u32, flag: u32, value: T) -> Option<T> {
    (flags & flag != 0).then_some(value)
}

fn set_time(
    set: &abi::SetattrIn,
    flag: u32,
    now_flag: u32,
    (seconds, nanoseconds): (u64, u32),
) -> Option<SetTime> {
    let time = match set.valid & now_flag {
        0 => SetTime::At { seconds: seconds as i64, nanoseconds },
        _ => SetTime::Now,
    };
    given(set.valid, flag | now_flag, time)
}

/// The bytes before the first NUL and those after it. A name is not empty.
fn first_name(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    match bytes.iter().position(|&byte| byte == 0) {
        None | Some(0) => Err(Malformed),
        Some(end) => Ok((&bytes[..end], &bytes[end + 1..])),
    }
}

/// Walks the extensions for the first group.
fn supplementary_group(mut extensions: &[u8]) -> Result<Option<u32>, Malformed> {
    let mut group = None;
    while !extensions.is_empty() {
        let (header, _) = abi::ExtHeader::read_from_prefix(extensions).map_err(|_| Malformed)?;
        let size = header.size as usize;
        if size < size_of::<abi::ExtHeader>() {
            return Err(Malformed);
        }
        let (extension, rest) = extensions.split_at_checked(abi::aligned(size)).ok_or(Malformed)?;
        if header.kind == abi::EXT_GROUPS {
            group = first_group(&extension[size_of::<abi::ExtHeader>()..])?;
        }
        extensions = rest;
    }
    Ok(group)
}

/// The first of a list of groups, which begins with its length.
fn first_group(list: &[u8]) -> Result<Option<u32>, Malformed> {
    let (count, groups) = u32::read_from_prefix(list).map_err(|_| Malformed)?;
    if count == 0 {
        return Ok(None);
    }
    u32::read_from_prefix(groups).map(|(group, _)| Some(group)).map_err(|_| Malformed)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
