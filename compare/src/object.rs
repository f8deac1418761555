//! What is known of one object without its bytes, and in what two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Stat, lgetxattr, llistxattr, readlinkat, statat};
use rustix::io::Errno;

use crate::both::Both;
use crate::escape;
use crate::finding::Field;
use crate::trouble::{Side, Trouble};

/// Values and lists of extended attributes are at most this long: the kernel's own limit (XATTR_SIZE_MAX,
/// XATTR_LIST_MAX) is 64 KiB, and a file system that breaks it is to be told, not believed.
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// xfs shows an ACL a second time, in a form of its own, to root. The ACL itself is compared.
const OWN_FORMS_OF_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// Values longer than this are shown by their digest.
const MAX_SHOWN_BYTES: usize = 80;

/// What is known of an object without its bytes.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) stat: Stat,
    /// Empty where it is no symbolic link.
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What tells an object apart from all others of the machine, while the trees rest.
pub(crate) type Identity = (u64, u64);

impl Object {
    /// Looks at a name of a directory. `path` is the name's place in the tree, for errors.
    pub(crate) fn look(
        side: Side,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> Result<Object, Trouble> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
            .map_err(|cause| Trouble::io("look at", side, path, cause))?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => readlinkat(directory, name, Vec::new())
                .map_err(|cause| Trouble::io("read the link", side, path, cause))?
                .into_bytes(),
            _ => Vec::new(),
        };
        let xattrs = read_xattrs(directory, name)
            .map_err(|cause| Trouble::io("read the extended attributes of", side, path, cause))?;
        Ok(Object { stat, target, xattrs })
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn identity(&self) -> Identity {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether the object has further names, which may be outside of the tree. Directories never have.
    pub(crate) fn has_links(&self) -> bool {
        self.stat.st_nlink > 1 && self.kind() != FileType::Directory
    }

    pub(crate) fn size(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// The room it takes, in bytes; st_blocks counts in 512s on every file system.
    pub(crate) fn allocated(&self) -> u64 {
        self.stat.st_blocks as u64 * 512
    }
}

fn read_xattrs(directory: BorrowedFd<'_>, name: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    // The calls that take a directory and a name are newer than most kernels. Through /proc the path stays short
    // however deep the directory is, and the last component is not followed.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let mut list = Vec::with_capacity(MAX_XATTR_BYTES);
    match llistxattr(path.as_slice(), spare_capacity(&mut list)) {
        // A file system without them has none.
        Ok(_) | Err(Errno::NOTSUP) => {}
        Err(error) => return Err(error),
    }
    let mut xattrs = BTreeMap::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if OWN_FORMS_OF_ACLS.contains(&name) {
            continue;
        }
        let mut value = Vec::with_capacity(MAX_XATTR_BYTES);
        lgetxattr(path.as_slice(), name, spare_capacity(&mut value))?;
        value.shrink_to_fit();
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// A field in which two objects differ, with the two values for people.
pub(crate) type Unequal = (Field, String, String);

/// All in which they differ, but for their bytes and their other names. Where the kinds differ, the rest means
/// different things and is left out.
pub(crate) fn unequal_fields(objects: &Both<Object>) -> Vec<Unequal> {
    let Both { a, b } = objects;
    if a.kind() != b.kind() {
        return vec![(Field::Kind, kind_name(a.kind()).to_owned(), kind_name(b.kind()).to_owned())];
    }
    let mut unequal = Vec::new();
    let mut check = |field: Field, show: &dyn Fn(&Object) -> String| {
        // Each value is shown in full, so what is shown differs when the value does.
        let (a, b) = (show(a), show(b));
        if a != b {
            unequal.push((field, a, b));
        }
    };
    check(Field::Mode, &|object| format!("{:04o}", object.stat.st_mode & 0o7777));
    check(Field::Uid, &|object| object.stat.st_uid.to_string());
    check(Field::Gid, &|object| object.stat.st_gid.to_string());
    check(Field::Mtime, &|object| format!("{}.{:09}", object.stat.st_mtime, object.stat.st_mtime_nsec));
    match a.kind() {
        FileType::RegularFile => check(Field::Size, &|object| object.size().to_string()),
        FileType::Symlink => check(Field::Target, &|object| show_value(&object.target)),
        FileType::CharacterDevice | FileType::BlockDevice => {
            check(Field::Device, &|object| {
                let device = object.stat.st_rdev;
                format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
            });
        }
        _ => {}
    }
    unequal.extend(unequal_xattrs(&a.xattrs, &b.xattrs));
    unequal
}

fn unequal_xattrs(a: &BTreeMap<Vec<u8>, Vec<u8>>, b: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<Unequal> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let show = |value: Option<&Vec<u8>>| value.map_or("missing".to_owned(), |value| show_value(value));
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| (Field::Xattr(name.clone()), show(a.get(name)), show(b.get(name))))
        .collect()
}

/// How many extended attributes of two objects were compared.
pub(crate) fn compared_xattrs(objects: &Both<Object>) -> u64 {
    objects.a.xattrs.keys().filter(|name| objects.b.xattrs.contains_key(*name)).count() as u64
}

/// Differs when the value does: a long value is told by its length and digest.
fn show_value(value: &[u8]) -> String {
    if value.len() > MAX_SHOWN_BYTES {
        return format!("{} bytes, blake3 {}", value.len(), blake3::hash(value));
    }
    format!("\"{}\"", escape(value))
}

pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "of unknown kind",
    }
}
