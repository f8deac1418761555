//! Whether a tree is what its log says.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mezzo_core::name::{escape, join};
use mezzo_core::tree::{Object, Tree};
use mezzo_core::{Kind, Name, ObjectId};
use rustix::fs::OFlags;

use crate::fileset::OWN;
use crate::host::{self, Stat, xattr};

/// One way in which the tree is not what the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: Vec<u8>,
    /// What differs: an attribute's name, `entry` or `data`.
    pub field: &'static str,
    /// What the log says.
    pub log: String,
    /// What the tree has.
    pub tree: String,
    /// Whether the file is marked: its bytes were lost with the power, and the log tells of them.
    pub lost: bool,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects, by each of their names.
    pub names: u64,
    /// Files whose bytes were compared with the log's digest.
    pub digests: u64,
}

/// What of a file's data is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its size and times.
    Attributes,
    /// Its bytes too, where the log has their digest.
    Data,
}

/// Compares everything below `root` with `tree`, and calls `found` for each difference. `progress` is called now and then
/// with the number of names seen.
pub fn verify(
    tree: &Tree,
    root: BorrowedFd<'_>,
    depth: Depth,
    found: &mut dyn FnMut(Difference),
    progress: &mut dyn FnMut(u64),
) -> io::Result<Verified> {
    let root = host::reopen(root, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut verifier = Verifier {
        tree,
        depth,
        found,
        progress,
        inodes: HashMap::new(),
        lost: false,
        verified: Verified::default(),
    };
    if tree.root_told().attributes {
        verifier.object(b"", tree.root(), root.as_fd(), &host::stat(root.as_fd())?)?;
    }
    let mut directories = vec![(ObjectId::ROOT, Vec::new())];
    while let Some((directory, path)) = directories.pop() {
        let reach = crate::reintegrate::open_beneath(&root, &path, OFlags::DIRECTORY)?;
        directories.extend(verifier.directory(directory, &path, &reach)?);
    }
    Ok(verifier.verified)
}

struct Verifier<'a> {
    tree: &'a Tree,
    depth: Depth,
    found: &'a mut dyn FnMut(Difference),
    progress: &'a mut dyn FnMut(u64),
    /// Which object each inode with several names is.
    inodes: HashMap<u64, ObjectId>,
    /// Whether the object that is looked at is marked as lost.
    lost: bool,
    verified: Verified,
}

impl Verifier<'_> {
    /// Compares the entries of a directory; returns the directories among them, to be compared next.
    fn directory(
        &mut self,
        directory: ObjectId,
        path: &[u8],
        reach: &OwnedFd,
    ) -> io::Result<Vec<(ObjectId, Vec<u8>)>> {
        let mut below = Vec::new();
        let mut there: HashSet<Name> = host::entries(reach)?.into_iter().map(|(name, _, _)| name).collect();
        if directory == ObjectId::ROOT {
            there.retain(|name| name.as_bytes() != OWN);
        }
        let tree = self.tree;
        for (name, id) in tree.children(directory) {
            let path = join(path, name.as_bytes());
            if !there.remove(name) {
                self.tell(&path, "entry", "there", "missing");
                continue;
            }
            let Some(object) = tree.object(id) else { continue };
            let entry = host::open_entry(reach.as_fd(), name)?;
            let stat = host::stat(entry.as_fd())?;
            self.object(&path, object, entry.as_fd(), &stat)?;
            self.names_of(&path, id, object, &stat);
            if object.is_directory() && stat.attributes.kind == Kind::Directory {
                below.push((id, path));
            }
        }
        for name in there {
            self.tell(&join(path, name.as_bytes()), "entry", "missing", "there");
        }
        Ok(below)
    }

    fn object(&mut self, path: &[u8], object: &Object, entry: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
        self.lost = xattr::is_lost(entry);
        self.verified.names += 1;
        if self.verified.names.is_multiple_of(1000) {
            (self.progress)(self.verified.names);
        }
        let (told, here) = (&object.state().attributes, &stat.attributes);
        self.compare(path, "kind", told.kind.word(), here.kind.word());
        if told.kind != here.kind {
            return Ok(());
        }
        self.compare(path, "mode", format!("{:04o}", told.mode), format!("{:04o}", here.mode));
        self.compare(path, "uid", told.uid, here.uid);
        self.compare(path, "gid", told.gid, here.gid);
        self.compare(path, "size", told.size, here.size);
        let time = |time: mezzo_core::Time| format!("{}.{:09}", time.seconds, time.nanoseconds);
        self.compare(path, "mtime", time(told.mtime), time(here.mtime));
        let device = |device: mezzo_core::Device| format!("{}:{}", device.major, device.minor);
        self.compare(path, "device", device(told.device), device(here.device));
        if told.kind == Kind::Symlink {
            self.compare(path, "target", escape(&object.state().target), escape(&host::read_link(entry)?));
        }
        self.xattrs(path, object, entry)?;
        if self.depth == Depth::Data && told.kind == Kind::File && told.size == here.size {
            self.data(path, object, entry)?;
        }
        Ok(())
    }

    fn xattrs(&mut self, path: &[u8], object: &Object, entry: BorrowedFd<'_>) -> io::Result<()> {
        let show = |xattrs: &[mezzo_core::Xattr]| {
            let each = xattrs.iter().map(|xattr| format!("{}={}", escape(&xattr.name), escape(&xattr.value)));
            each.collect::<Vec<_>>().join(", ")
        };
        let here = xattr::all(entry)?;
        if object.state().xattrs != here {
            self.tell(path, "xattrs", &show(&object.state().xattrs), &show(&here));
        }
        Ok(())
    }

    fn data(&mut self, path: &[u8], object: &Object, entry: BorrowedFd<'_>) -> io::Result<()> {
        let Some(digest) = object.state().data.and_then(|data| data.digest) else { return Ok(()) };
        let here = digest_of(&host::reopen(entry, OFlags::RDONLY)?)?;
        self.verified.digests += 1;
        let hex = |digest: &[u8; 32]| blake3::Hash::from_bytes(*digest).to_hex().to_string();
        self.compare(path, "data", hex(&digest), hex(&here));
        Ok(())
    }

    /// Names of one object lead to one inode, and those of others to others.
    fn names_of(&mut self, path: &[u8], id: ObjectId, object: &Object, stat: &Stat) {
        if object.is_directory() || object.places().len() < 2 && stat.host_links < 2 {
            return;
        }
        let other = *self.inodes.entry(stat.inode).or_insert(id);
        self.compare(path, "object", id.to_string(), other.to_string());
    }

    fn compare<T: PartialEq + ToString>(&mut self, path: &[u8], field: &'static str, log: T, tree: T) {
        if log != tree {
            self.tell(path, field, &log.to_string(), &tree.to_string());
        }
    }

    fn tell(&mut self, path: &[u8], field: &'static str, log: &str, tree: &str) {
        let lost = self.lost && matches!(field, "size" | "mtime" | "data");
        (self.found)(Difference {
            path: path.to_vec(),
            field,
            log: log.to_owned(),
            tree: tree.to_owned(),
            lost,
        });
    }
}

/// BLAKE3 of all that `file` holds.
pub fn digest_of(file: &OwnedFd) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::from(file.try_clone()?))?;
    Ok(hasher.finalize().into())
}
