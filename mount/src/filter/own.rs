//! `.mezzo` as users see it: `elsewhere`, to be read by those whose work it is. Log and attic would show what the
//! permissions of directories protect.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::{Attributes as Told, Device, Kind, Name, ObjectId, Time};
use mezzo_fuse::{Attributes, Directory, Entry, Errno, OpenFlags};
use mezzo_replica::Use;
use mezzo_replica::fileset::OWN;
use mezzo_replica::host::{self, Stat};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::data::Open;
use super::{Filter, Outcome};
use crate::handles::Handle;
use crate::nodes::Node;

const ELSEWHERE: &str = "elsewhere";

/// What `.mezzo` shows itself as: a directory that anybody may look into and nobody may write to.
const SHOWN_MODE: u16 = 0o555;

/// Whether this is mezzo's own directory.
pub(super) fn is_own(parent: ObjectId, name: &[u8]) -> bool {
    parent == ObjectId::ROOT && name == OWN
}

impl Filter {
    /// Tells the kernel of `.mezzo`, or of something in it. It is asked each time, since others write there.
    pub(super) fn own_entry(&self, node: Node) -> Outcome<Entry> {
        let attributes = self.own_attributes(&node)?;
        Ok(Entry {
            node: self.nodes.look_up(node),
            generation: 0,
            entry_valid: Duration::ZERO,
            attributes_valid: Duration::ZERO,
            attributes,
        })
    }

    pub(super) fn look_up_own(&self, parent: &Node, name: &[u8]) -> Outcome<Entry> {
        let name = Name::new(name).map_err(|_| Errno::ENOENT)?;
        let path = match parent {
            Node::Own if name.as_bytes() == ELSEWHERE.as_bytes() => PathBuf::from(ELSEWHERE),
            Node::Elsewhere(path) => path.join(std::ffi::OsStr::from_bytes(name.as_bytes())),
            _ => return Err(Errno::ENOENT),
        };
        self.own_entry(Node::Elsewhere(Arc::new(path)))
    }

    pub(super) fn own_attributes(&self, node: &Node) -> Outcome<Attributes> {
        let path = match node {
            Node::Elsewhere(path) => path.as_path(),
            _ => Path::new("."),
        };
        let stat = host::stat(self.own_path(path)?.as_fd())?;
        Ok(self.of_host(&stat, &shown(node, &stat)))
    }

    pub(super) fn own_link(&self, node: &Node) -> Outcome<Vec<u8>> {
        let Node::Elsewhere(path) = node else { return Err(Errno::EINVAL) };
        Ok(host::read_link(self.own_path(path)?.as_fd())?.into_vec())
    }

    pub(super) fn open_own(&self, node: &Node, flags: u32) -> Outcome<Open> {
        let Node::Elsewhere(path) = node else { return Err(Errno::EISDIR) };
        let flags = OFlags::from_bits_retain(flags);
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            return Err(Errno::EPERM);
        }
        let file = File::from(host::reopen(self.own_path(path)?.as_fd(), OFlags::RDONLY)?);
        let handle = Handle { object: None, node: 0, usage: Use::Read, backing: None, file: Some(file) };
        Ok(Open { number: self.handles.add(handle), flags: OpenFlags::NOFLUSH, backing: None })
    }

    /// Lists names alone, in the form that the kernel asked for: with `plus`, each has room for attributes.
    pub(super) fn read_own(
        &self,
        node: &Node,
        offset: u64,
        directory: &mut Directory<'_>,
        plus: bool,
    ) -> Outcome<()> {
        let entries = match node {
            Node::Elsewhere(path) => host::entries(self.own_path(path)?)?,
            _ => vec![(
                Name::new(ELSEWHERE.as_bytes()).map_err(|_| Errno::EIO)?,
                1,
                rustix::fs::FileType::Directory,
            )],
        };
        for (at, (name, inode, kind)) in entries.into_iter().enumerate().skip(offset as usize) {
            let (next, kind) = (at as u64 + 1, kind.as_raw_mode() >> 12);
            let added = match plus {
                true => directory.add_plus(&Entry::default(), inode, next, kind, name.as_bytes()),
                false => directory.add(inode, next, kind, name.as_bytes()),
            };
            if !added {
                break;
            }
        }
        Ok(())
    }

    fn own_path(&self, path: &Path) -> Outcome<OwnedFd> {
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = self.replica.fileset().own();
        Ok(rustix::fs::openat2(own, path, flags, Mode::empty(), below)?)
    }
}

fn shown(node: &Node, stat: &Stat) -> Told {
    match node {
        Node::Elsewhere(path) if path.components().count() > 1 => stat.attributes,
        _ => Told {
            kind: Kind::Directory,
            mode: SHOWN_MODE,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            device: Device::default(),
            atime: Time::default(),
            mtime: stat.attributes.mtime,
            ctime: stat.attributes.ctime,
        },
    }
}
