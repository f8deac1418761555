//! The kernel's table of mounts.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount, as a process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// Major and minor number of the file system, as text.
    pub device: String,
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where, from the root directory of whose table it is.
    pub mountpoint: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// What is mounted.
    pub source: Vec<u8>,
}

/// The mounts that this process sees, in the order they were made.
pub fn read() -> io::Result<Vec<Entry>> {
    read_from(Path::new("/proc/self/mountinfo"))
}

/// The mounts in the table at `path`, `mountinfo` of some process.
pub fn read_from(path: &Path) -> io::Result<Vec<Entry>> {
    let table = std::fs::read(path)?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// `id parent major:minor root mountpoint options ... - type source options`, from proc(5).
pub fn parse(line: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |at: usize| std::str::from_utf8(fields.get(at)?).ok();
    let path = |at: usize| Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.get(at)?))));
    Some(Entry {
        id: text(0)?.parse().ok()?,
        parent: text(1)?.parse().ok()?,
        device: text(2)?.to_owned(),
        root: path(3)?,
        mountpoint: path(4)?,
        kind: text(dash + 1)?.to_owned(),
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(field[at]);
                at += 1;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line =
            b"42 27 0:53 /a\\040b /tmp/a\\040b-c rw,nosuid shared:1 - fuse.mezzo mezzo:12 rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.parent, entry.device.as_str()), (42, 27, "0:53"));
        assert_eq!(
            (entry.root.as_path(), entry.mountpoint.as_path()),
            (Path::new("/a b"), Path::new("/tmp/a b-c"))
        );
        assert_eq!((entry.kind.as_str(), entry.source.as_slice()), ("fuse.mezzo", &b"mezzo:12"[..]));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"42 27 0:53 / /tmp rw - "), None);
    }
}
