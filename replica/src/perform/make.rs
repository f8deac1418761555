//! New objects: files, directories, links and special files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mezzo_core::{Change, Data, DataVersion, Device, Kind, Name, ObjectId, Place, State};
use rustix::fs::{Mode, OFlags};

use super::{Caller, with_links};
use crate::Error;
use crate::host::{self, Stat, xattr};
use crate::index::{Entry, Local};
use crate::meet::Met;
use crate::replica::{Order, Replica};

/// The extended attribute that says what new objects in a directory inherit.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What is to be made, other than a file that is opened at once.
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    /// A directory with these permission bits, less the mask.
    Directory(u32),
    /// A symbolic link that leads there.
    Symlink(&'a [u8]),
    /// A fifo, socket or device, or a regular file.
    Node(Kind, u32, Device),
}

impl NewNode<'_> {
    /// The permission bits that it is asked to have.
    fn mode(&self) -> u32 {
        match self {
            NewNode::Directory(mode) | NewNode::Node(_, mode, _) => *mode,
            NewNode::Symlink(_) => 0,
        }
    }
}

/// What is to be recorded of an object that was just made or met.
pub(crate) struct Made<'a> {
    pub parent: &'a Entry,
    pub directory: BorrowedFd<'a>,
    pub name: &'a Name,
    pub reach: BorrowedFd<'a>,
    pub stat: &'a Stat,
    /// The id it has had before it had a name.
    pub object: Option<ObjectId>,
    /// Whether it may have extended attributes.
    pub has_xattrs: bool,
}

impl Replica {
    /// Makes an object at `name` in `parent`; EEXIST where there is one.
    pub fn make(
        &self,
        caller: &Caller,
        parent: ObjectId,
        name: &Name,
        node: NewNode<'_>,
    ) -> Result<Met, Error> {
        let mut order = self.begin()?;
        let entry = self.parent_entry(parent)?;
        let directory = self.directory(parent)?;
        self.intend(&order, caller, None, &[(parent, name)])?;
        as_caller(caller, node.mode(), || make_on_host(directory.as_fd(), name, node))?;
        let reach = host::open_entry(directory.as_fd(), name)?;
        self.record_new(&mut order, caller, &entry, (directory.as_fd(), name), reach.as_fd())
    }

    /// Makes a regular file and opens it for reading; EEXIST where there is something at `name` already.
    pub fn create_file(
        &self,
        caller: &Caller,
        parent: ObjectId,
        name: &Name,
        mode: u32,
    ) -> Result<(Met, OwnedFd), Error> {
        let mut order = self.begin()?;
        let entry = self.parent_entry(parent)?;
        let directory = self.directory(parent)?;
        self.intend(&order, caller, None, &[(parent, name)])?;
        // Reading is always possible with a new file, even where its mode allows nobody anything.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = as_caller(caller, mode, || {
            Ok(rustix::fs::openat(&*directory, name.as_bytes(), flags, Mode::from_bits_retain(mode))?)
        })?;
        let met = self.record_new(&mut order, caller, &entry, (directory.as_fd(), name), file.as_fd())?;
        Ok((met, file))
    }

    /// Makes a regular file without a name in `parent`, which a link may name later. Nothing of it is recorded until
    /// then, but for a number that becomes its id.
    pub fn create_unnamed(
        &self,
        caller: &Caller,
        parent: ObjectId,
        mode: u32,
    ) -> Result<(Met, OwnedFd), Error> {
        let mut order = self.begin()?;
        self.parent_entry(parent)?;
        let directory = self.directory(parent)?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = as_caller(caller, mode, || {
            Ok(rustix::fs::openat(&*directory, c".", flags, Mode::from_bits_retain(mode))?)
        })?;
        // As long as this is kept, it is not to look like somebody who writes. Without root, what the owner may not read stays as it is.
        let file = host::reopen(file.as_fd(), OFlags::RDONLY).unwrap_or(file);
        let stat = host::stat(file.as_fd())?;
        let object = ObjectId(self.next_origin(&order));
        self.commit(&mut order, caller, Change::Noop, Local::default())?;
        let data = Some(Data { version: DataVersion(object.0), digest: None });
        let state =
            State { attributes: with_links(&stat, 0), target: Box::default(), xattrs: Vec::new(), data };
        let mut entry = Entry::new(object, state);
        entry.host = Some(self.host_id(file.as_fd(), &stat)?);
        self.index.keep_orphan(entry.clone());
        Ok((Met { entry: Arc::new(entry), stat }, file))
    }

    fn record_new(
        &self,
        order: &mut Order,
        caller: &Caller,
        parent: &Entry,
        (directory, name): (BorrowedFd<'_>, &Name),
        reach: BorrowedFd<'_>,
    ) -> Result<Met, Error> {
        let stat = host::stat(reach)?;
        let has_xattrs = parent.state.xattrs.iter().any(|xattr| *xattr.name == *DEFAULT_ACL);
        let made = Made { parent, directory, name, reach, stat: &stat, object: None, has_xattrs };
        let object = self.record_made(order, caller, made)?;
        Ok(Met { entry: self.entry(object)?, stat })
    }

    /// Records that an object was made, and what all of it is.
    pub(crate) fn record_made(
        &self,
        order: &mut Order,
        caller: &Caller,
        made: Made<'_>,
    ) -> Result<ObjectId, Error> {
        let origin = self.next_origin(order);
        let object = made.object.unwrap_or(ObjectId(origin));
        let attributes = with_links(made.stat, 1);
        let state = State {
            target: if attributes.kind == Kind::Symlink {
                host::read_link(made.reach)?
            } else {
                Box::default()
            },
            xattrs: if made.has_xattrs { xattr::all(made.reach)? } else { Vec::new() },
            data: (attributes.kind == Kind::File)
                .then(|| Data { version: DataVersion(origin), digest: digest_if_empty(attributes.size) }),
            attributes,
        };
        let change = Change::Make {
            object,
            place: Place::new(made.parent.object, made.name.clone()),
            path: self.path_of(made.parent.object, made.name)?,
            state,
            parent: self.parent_step(made.parent, made.directory)?,
        };
        let host = self.host_id(made.reach, made.stat)?;
        // Before the record, so that no object is without it.
        self.inodes.note(object, &host);
        self.commit(order, caller, change, Local { host: Some(host), keep: false })?;
        Ok(object)
    }
}

/// No bytes have a digest that needs no reading.
pub(crate) fn digest_if_empty(size: u64) -> Option<mezzo_core::Digest> {
    (size == 0).then(|| blake3::hash(b"").into())
}

/// Runs `act` so that what it makes is the caller's.
fn as_caller<T>(caller: &Caller, mode: u32, act: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    // Whether the caller may give a set-group-id bit has been judged.
    host::with_set_id_rights(mode & 0o2000 != 0, || {
        let _switched = caller.identity.assume()?;
        host::set_umask(caller.umask);
        act()
    })
}

fn make_on_host(directory: BorrowedFd<'_>, name: &Name, node: NewNode<'_>) -> std::io::Result<()> {
    match node {
        NewNode::Directory(mode) => {
            rustix::fs::mkdirat(directory, name.as_bytes(), Mode::from_bits_retain(mode))?;
        }
        NewNode::Symlink(target) => rustix::fs::symlinkat(target, directory, name.as_bytes())?,
        NewNode::Node(kind, mode, device) => host::make_node(directory, name, kind, mode, device)?,
    }
    Ok(())
}
