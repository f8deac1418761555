//! New objects.

use mezzo_core::permission::Need;
use mezzo_core::{Device, Kind, ObjectId};
use mezzo_fuse::{Answered, Entry, Errno, Header, Operation, Reply};
use mezzo_replica::{Bytes, Caller, Met, NewNode};
use rustix::fs::OFlags;

use super::data::Open;
use super::{Filter, Outcome, told};

impl Filter {
    /// Directories, symbolic links and special files.
    pub(super) fn make(&self, header: &Header, operation: &Operation<'_>) -> Outcome<Entry> {
        let (name, umask, node) = match operation {
            Operation::Mkdir { name, mode, umask } => (name, *umask, NewNode::Directory(mode & 0o7777)),
            Operation::Symlink { name, target } => (name, 0, NewNode::Symlink(target)),
            Operation::Mknod { name, mode, device, umask } => {
                let (major, minor) = mezzo_fuse::device_numbers(*device);
                let node = NewNode::Node(kind(*mode)?, mode & 0o7777, Device { major, minor });
                (name, *umask, node)
            }
            _ => return Err(Errno::ENOSYS),
        };
        let parent = self.object(header.node)?;
        let name = self.name(parent, name)?;
        let caller = self.maker(header, umask, parent)?;
        if let NewNode::Node(Kind::CharDevice | Kind::BlockDevice, ..) = node {
            self.judge_anew(header, &caller, &[Need::Root(parent)])?;
        }
        let met = self.making_room(|| self.replica.make(&caller, parent, &name, node))?;
        Ok(self.entry_of(&met))
    }

    /// The caller of a request that makes something in `parent`.
    fn maker(&self, header: &Header, umask: u32, parent: ObjectId) -> Outcome<Caller> {
        let caller = self.caller(header, umask)?;
        self.judge_anew(header, &caller, &[Need::Entry(parent)])?;
        // What root makes is of any group; what others make, of that of a set-group-id directory.
        if caller.who.uid == 0 && header.uid == 0 && !self.ids.is_same() {
            let entry = self.replica.entry(parent).map_err(told)?;
            let attributes = entry.attributes();
            if attributes.mode & 0o2000 != 0 && !self.ids.has_group(attributes.gid) {
                return Err(Errno(libc::EOVERFLOW));
            }
        }
        Ok(caller)
    }

    /// Makes a file and opens it. Where somebody was faster, theirs is opened, unless it had to be a new one.
    pub(super) fn create(
        &self,
        header: &Header,
        name: &[u8],
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> Outcome<(Entry, Open)> {
        let parent = self.object(header.node)?;
        let name = self.name(parent, name)?;
        let caller = self.maker(header, umask, parent)?;
        match self
            .replica
            .making_room_by_evicting(|| self.replica.create_file(&caller, parent, &name, mode & 0o7777))
        {
            Ok((met, file)) => self.with_entry(&met, |at| self.open_new(header, at, (mode, flags), file)),
            Err(error) if error.errno() == libc::EEXIST && flags & OFlags::EXCL.bits() == 0 => {
                let met = self.replica.meet(parent, &name).map_err(told)?.ok_or(Errno::ENOENT)?;
                self.with_entry(&met, |at| self.open_object(header, at, (flags, false), Bytes::Needed))
            }
            Err(error) => Err(told(error)),
        }
    }

    /// As [`Filter::create`], where somebody was faster, and when the bytes of theirs are here.
    pub(super) fn create_later(
        &self,
        header: &Header,
        name: &[u8],
        (mode, umask, flags): (u32, u32, u32),
        reply: Reply<'_>,
    ) -> Answered {
        let found = self.object(header.node).and_then(|parent| {
            let name = self.name(parent, name)?;
            self.replica.index().child(parent, &name).map_err(|error| told(error.into()))
        });
        let Ok(Some(object)) = found else { return reply.error(Errno::ENODATA) };
        let (header, name): (Header, Box<[u8]>) = (*header, name.into());
        let create = move |filter: &Filter| filter.create(&header, &name, mode, umask, flags);
        self.when_filled(object, reply, create, |reply, (entry, opened)| {
            reply.created(&entry, &opened.told())
        })
    }

    /// Makes a file that has no name.
    pub(super) fn create_unnamed(
        &self,
        header: &Header,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> Outcome<(Entry, Open)> {
        let parent = self.object(header.node)?;
        let caller = self.maker(header, umask, parent)?;
        let (met, file) = self.replica.create_unnamed(&caller, parent, mode & 0o7777).map_err(told)?;
        self.with_entry(&met, |at| self.open_new(header, at, (mode, flags), file))
    }

    /// Opens what was met, by the number that the kernel is told of with it.
    fn with_entry(
        &self,
        met: &Met,
        open: impl FnOnce((u64, ObjectId)) -> Outcome<Open>,
    ) -> Outcome<(Entry, Open)> {
        let entry = self.entry_of(met);
        match open((entry.node, met.entry.object)) {
            Ok(opened) => Ok((entry, opened)),
            Err(errno) => {
                self.forget(entry.node, 1);
                Err(errno)
            }
        }
    }
}

fn kind(mode: u32) -> Outcome<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(Kind::File),
        libc::S_IFIFO => Ok(Kind::Fifo),
        libc::S_IFSOCK => Ok(Kind::Socket),
        libc::S_IFCHR => Ok(Kind::CharDevice),
        libc::S_IFBLK => Ok(Kind::BlockDevice),
        _ => Err(Errno::EINVAL),
    }
}
