//! Everything that is known of an object apart from its names.

use crate::acl;
use crate::id::DataVersion;
use crate::time::{Step, Time};

/// What sort of object it is; an object never changes its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket's name.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

/// A device number, as `major(3)` and `minor(3)` tell it; both 0 for what is no device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The unit.
    pub minor: u32,
}

/// What `stat` tells of an object, apart from numbers that belong to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits: 0 to 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of a file, or of a link's target. 0 for everything else: a directory's size is its host's affair.
    pub size: u64,
    /// Names, for anything but a directory; 1 for a directory, whose count its host may keep as it likes.
    pub links: u32,
    /// Which device, for devices.
    pub device: Device,
    /// Last access, as far as the host keeps it. Reading makes no record, so this is what it was at the record.
    pub atime: Time,
    /// Last change of the data or the entries.
    pub mtime: Time,
    /// Last change of anything; carried, and never taken from a host's inode afterwards.
    pub ctime: Time,
}

/// BLAKE3 of a file's data.
pub type Digest = [u8; 32];

/// Which bytes a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// The name of this state of the bytes.
    pub version: DataVersion,
    /// Their digest, where it was known when the record was made.
    pub digest: Option<Digest>,
}

/// One extended attribute; an ACL is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Its whole name, such as `user.color`: 1 to 255 bytes without NUL.
    pub name: Box<[u8]>,
    /// Its value: at most 64 KiB.
    pub value: Box<[u8]>,
}

/// An object in full: enough to make it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What `stat` tells.
    pub attributes: Attributes,
    /// Where a symbolic link leads; empty for everything else.
    pub target: Box<[u8]>,
    /// All extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The data of a regular file; `None` for everything else.
    pub data: Option<Data>,
}

impl Step<Attributes> {
    /// What attributes become that are `now`: what the change left alone stays as it is, for somebody may have changed it
    /// elsewhere. Names are counted by who has them.
    pub fn onto(&self, now: &Attributes) -> Attributes {
        let Step { before, after } = self;
        fn step<T: PartialEq>(before: T, after: T, now: T) -> T {
            if before == after { now } else { after }
        }
        Attributes {
            kind: now.kind,
            mode: step(before.mode, after.mode, now.mode),
            uid: step(before.uid, after.uid, now.uid),
            gid: step(before.gid, after.gid, now.gid),
            size: step(before.size, after.size, now.size),
            links: now.links,
            device: now.device,
            atime: step(before.atime, after.atime, now.atime),
            mtime: Step::new(before.mtime, after.mtime).onto(now.mtime),
            ctime: Step::new(before.ctime, after.ctime).onto(now.ctime),
        }
    }
}

impl State {
    /// Takes attributes over. Where the permission bits change, the object's own ACL follows them.
    pub fn set_attributes(&mut self, after: Attributes) {
        let moved = (self.attributes.mode ^ after.mode) & 0o777 != 0;
        self.attributes = after;
        if moved && let Ok(at) = self.xattrs.binary_search_by(|xattr| (*xattr.name).cmp(acl::ACCESS)) {
            acl::follow_mode(&mut self.xattrs[at].value, after.mode);
        }
    }

    /// Sets or removes an extended attribute.
    pub fn set_xattr(&mut self, name: &[u8], value: Option<&[u8]>) {
        let found = self.xattrs.binary_search_by(|xattr| (*xattr.name).cmp(name));
        match (found, value) {
            (Ok(at), Some(value)) => self.xattrs[at].value = value.into(),
            (Ok(at), None) => drop(self.xattrs.remove(at)),
            (Err(at), Some(value)) => {
                self.xattrs.insert(at, Xattr { name: name.into(), value: value.into() });
            }
            (Err(_), None) => {}
        }
    }
}

impl Kind {
    /// The kind whose number is `number`.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice]
            .into_iter()
            .find(|k| *k as u8 == number)
    }

    /// The word for it that commands print.
    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "char-device",
            Kind::BlockDevice => "block-device",
        }
    }
}
