//! The kernel's requests, each led to the operation that it asks for.

mod attributes;
mod data;
mod demand;
mod directory;
mod gate;
mod make;
mod names;
mod own;
mod special;
mod xattrs;

use std::sync::{Arc, Weak};
use std::time::Duration;

use mezzo_core::permission::Need;
use mezzo_core::{Name, ObjectId};
use mezzo_fuse::{Answered, Backings, Entry, Errno, Filesystem, Header, Notifier, Operation, Reply, Request};
use mezzo_replica::host;
use mezzo_replica::{Caller, Met, Replica};
use parking_lot::Mutex;

use crate::audience;
use crate::handles::Handles;
use crate::ids::Ids;
use crate::nodes::{Node, Nodes};
use crate::who::WhoIs;

/// How long the kernel may keep names and attributes: as long as it likes, since whatever changes them here comes through
/// the kernel, or tells it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A fileset as a file system.
pub struct Filter {
    /// For what goes on after a request has left its thread.
    pub(crate) me: Weak<Filter>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) ids: Ids,
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    pub(crate) who: WhoIs,
    /// `None` where data doesn't pass through the kernel.
    pub(crate) backings: Option<Backings>,
    pub(crate) notifier: Notifier,
    /// Held while the kernel is told that an object has another node.
    pub(crate) telling: Mutex<()>,
    pub(crate) later: audience::Later,
}

pub(crate) type Outcome<T> = Result<T, Errno>;

impl Filter {
    /// The caller of a request, whose new objects get their mode less `umask`; EOVERFLOW for who is nobody in the log.
    fn caller(&self, header: &Header, umask: u32) -> Outcome<Caller> {
        let (identity, who) = self.ids.caller(self.who.get(header.pid, header.uid, header.gid))?;
        Ok(Caller { identity, umask, who })
    }

    /// The caller of a request that tells what was done already; who is nobody in the log was let in by somebody else.
    fn reporter(&self, header: &Header) -> Caller {
        self.caller(header, 0).unwrap_or_else(|_| Caller::program())
    }

    /// Makes sure that the server will let the caller do it, where the kernel has judged by other rights.
    fn judge_anew(&self, header: &Header, caller: &Caller, needs: &[Need<'_>]) -> Outcome<()> {
        if !self.ids.is_judged_anew(header.uid) {
            return Ok(());
        }
        needs.iter().try_for_each(|need| self.replica.expect_right(&caller.who, *need).map_err(told))
    }

    fn node(&self, number: u64) -> Outcome<Node> {
        self.nodes.get(number).ok_or(Errno::ESTALE)
    }

    /// The object behind a node that is to be changed; what is in `.mezzo` can't be.
    fn object(&self, number: u64) -> Outcome<ObjectId> {
        match self.node(number)? {
            Node::Object(object) => Ok(object),
            Node::Own | Node::Elsewhere(_) => Err(Errno::EPERM),
        }
    }

    /// A name that is to be made, moved or removed in a node.
    fn name(&self, parent: ObjectId, name: &[u8]) -> Outcome<Name> {
        if own::is_own(parent, name) {
            return Err(Errno::EPERM);
        }
        parse_name(name)
    }

    /// Tells the kernel of an object, which it will forget one day.
    fn entry_of(&self, met: &Met) -> Entry {
        Entry {
            node: self.nodes.look_up(Node::Object(met.entry.object)),
            generation: 0,
            entry_valid: KEPT,
            attributes_valid: self.validity(met.entry.object),
            attributes: self.shown(met),
        }
    }

    /// How long the attributes of an object may be kept: what is written
    /// through a mapping changes unseen, while the kernel knows of all other writes.
    fn validity(&self, object: ObjectId) -> Duration {
        if self.replica.is_mapped(object) { Duration::ZERO } else { KEPT }
    }

    /// Does what may need room on the host, which the attic gives up for it, and then what others have.
    fn making_room<T>(&self, act: impl Fn() -> Result<T, mezzo_replica::Error>) -> Outcome<T> {
        self.replica.making_room_by_evicting(act).map_err(told)
    }

    /// The object was changed. Where that was by a number that it had before it became another inode, the kernel is to ask again
    /// what it is like by the one that it has.
    fn was_changed_by(&self, node: u64, object: ObjectId) {
        if self.nodes.former(node).is_some()
            && let Some(current) = self.nodes.number_of(object)
        {
            audience::told(self.notifier.inval_inode(current, audience::ATTRIBUTES, 0));
        }
    }

    pub(crate) fn forget(&self, node: u64, lookups: u64) {
        if let Some(object) = self.nodes.forget(node, lookups) {
            self.let_go(object);
        }
    }

    fn operate(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        match self.replica.gate().filter(|_| gate::is_change(&request.operation)) {
            None => self.carry_out(request, reply),
            Some(gate) => self.pass(&gate, request, reply),
        }
    }

    fn carry_out(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let header = &request.header;
        match &request.operation {
            Operation::Lookup { name } => match self.look_up(header, name) {
                Ok(entry) => reply.entry(&entry),
                Err(errno) => reply.error(errno),
            },
            Operation::Forget { lookups } => {
                self.forget(header.node, *lookups);
                reply.none()
            }
            Operation::BatchForget(forgets) => {
                (*forgets).for_each(|(node, lookups)| self.forget(node, lookups));
                reply.none()
            }
            Operation::Getattr { .. } => match self.attributes(header) {
                Ok((attributes, valid)) => reply.attributes(&attributes, valid),
                Err(errno) => reply.error(errno),
            },
            Operation::Statx { .. } => self.statx(header, reply),
            Operation::Setattr(wanted) => match self.set_attributes(header, wanted) {
                Ok((attributes, valid)) => reply.attributes(&attributes, valid),
                Err(Errno::ENODATA) => self.set_attributes_later(header, wanted, reply),
                Err(errno) => reply.error(errno),
            },
            Operation::Readlink => match self.read_link(header) {
                Ok(target) => reply.data(&target),
                Err(errno) => reply.error(errno),
            },
            Operation::Mknod { .. } | Operation::Mkdir { .. } | Operation::Symlink { .. } => {
                match self.make(header, &request.operation) {
                    Ok(entry) => reply.entry(&entry),
                    Err(errno) => reply.error(errno),
                }
            }
            Operation::Link { node, name } => match self.link(header, *node, name) {
                Ok(entry) => reply.entry(&entry),
                Err(errno) => reply.error(errno),
            },
            Operation::Unlink { name } => done(reply, self.remove(header, name, false)),
            Operation::Rmdir { name } => done(reply, self.remove(header, name, true)),
            Operation::Rename { name, new_parent, new_name, flags } => {
                done(reply, self.rename(header, name, *new_parent, new_name, *flags))
            }
            Operation::Open { flags, kill_suidgid } => match self.open(header, *flags, *kill_suidgid) {
                Ok(opened) => reply.opened(&opened.told()),
                Err(Errno::ENODATA) => self.open_later(header, (*flags, *kill_suidgid), reply),
                Err(errno) => reply.error(errno),
            },
            Operation::Create { name, mode, umask, flags, .. } => {
                match self.create(header, name, *mode, *umask, *flags) {
                    Ok((entry, opened)) => reply.created(&entry, &opened.told()),
                    Err(Errno::ENODATA) => self.create_later(header, name, (*mode, *umask, *flags), reply),
                    Err(errno) => reply.error(errno),
                }
            }
            Operation::Tmpfile { mode, umask, flags, .. } => {
                match self.create_unnamed(header, *mode, *umask, *flags) {
                    Ok((entry, opened)) => reply.created(&entry, &opened.told()),
                    Err(errno) => reply.error(errno),
                }
            }
            Operation::Read { handle, offset, size, .. } => self.read(*handle, *offset, *size, reply),
            Operation::Write { handle, offset, data, kill_suidgid, .. } => {
                match self.write(header, *handle, *offset, data, *kill_suidgid) {
                    Ok(written) => reply.written(written),
                    Err(errno) => reply.error(errno),
                }
            }
            Operation::Flush { handle, .. } => done(reply, self.flush(header, *handle)),
            Operation::Release { handle, .. } => done(reply, self.release(header, *handle)),
            Operation::Fsync { handle, data_only } => done(reply, self.fsync(header, *handle, *data_only)),
            Operation::Fsyncdir { .. } => done(reply, self.fsync_directory(header)),
            Operation::Fallocate { handle, offset, length, mode } => {
                done(reply, self.allocate(header, *handle, *offset, *length, *mode))
            }
            Operation::Lseek { handle, offset, whence } => match self.seek(*handle, *offset, *whence) {
                Ok(offset) => reply.offset(offset),
                Err(errno) => reply.error(errno),
            },
            Operation::CopyFileRange { .. } => match self.copy_range(header, &request.operation) {
                Ok(copied) => reply.copied(copied),
                Err(errno) => reply.error(errno),
            },
            Operation::Readdir { offset, size, .. } => self.read_directory(header, *offset, *size, reply),
            Operation::Readdirplus { offset, size, .. } => {
                self.read_directory_plus(header, *offset, *size, reply)
            }
            Operation::Statfs => match self.statfs() {
                Ok(statfs) => reply.statfs(&statfs),
                Err(errno) => reply.error(errno),
            },
            Operation::Getxattr { name, size } => sized(reply, *size, self.get_xattr(header, name)),
            Operation::Listxattr { size } => sized(reply, *size, self.list_xattrs(header)),
            Operation::Setxattr { name, value, flags, kill_sgid } => {
                done(reply, self.set_xattr(header, name, value, *flags, *kill_sgid))
            }
            Operation::Removexattr { name } => done(reply, self.remove_xattr(header, name)),
            Operation::Ioctl { command, input, output_size, .. } => {
                self.ioctl(header, *command, input, *output_size, reply)
            }
            Operation::Destroy => reply.empty(),
            // Everything else the kernel does by itself when told that there is no such thing: opendir without a handle,
            // access by mode bits and ACLs, locks among the users of this machine.
            _ => reply.error(Errno::ENOSYS),
        }
    }
}

impl Filesystem for Filter {
    fn handle(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        self.operate(request, reply)
    }

    fn thread_started(&self) {
        if let Err(error) = host::serve_users() {
            mezzo_replica::say!(
                "mezzo: could not prepare a thread: {error}; new files may get the daemon's umask"
            );
        }
    }
}

fn done(reply: Reply<'_>, outcome: Outcome<()>) -> Answered {
    match outcome {
        Ok(()) => reply.empty(),
        Err(errno) => reply.error(errno),
    }
}

/// What `getxattr` and `listxattr` are answered: the size where that was asked for, else the bytes.
fn sized(reply: Reply<'_>, size: u32, outcome: Outcome<Vec<u8>>) -> Answered {
    match outcome {
        Err(errno) => reply.error(errno),
        Ok(bytes) if size == 0 => reply.xattr_size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}

pub(crate) fn parse_name(name: &[u8]) -> Outcome<Name> {
    use mezzo_core::name::BadName;
    Name::new(name).map_err(|bad| match bad {
        BadName::Long(_) => Errno::ENAMETOOLONG,
        _ => Errno::EINVAL,
    })
}

/// The error number for a user.
pub(crate) fn told(error: mezzo_replica::Error) -> Errno {
    Errno(error.errno())
}
