//! The walk through both trees at once, one directory after the other.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};

use crate::both::Both;
use crate::content::{Buffers, first_mismatch};
use crate::escape;
use crate::finding::{Counts, Difference, Field, Finding, Note};
use crate::links::{Links, Verdict};
use crate::object::{Object, compared_xattrs, kind_name, unequal_fields};
use crate::trouble::{Side, Trouble};

/// Less than this in allocated room is never worth a note: preallocation and block sizes differ by as much.
const NOTED_BYTES: u64 = 1 << 20;

/// What is left out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names in the root of either tree that are not looked at.
    pub ignored: Vec<Vec<u8>>,
}

impl Default for Options {
    /// Leaves out what mezzo keeps beside a tree.
    fn default() -> Options {
        Options { ignored: vec![b".mezzo".to_vec()] }
    }
}

/// Compares the trees below two directories, the directories themselves included, and tells each finding to
/// `report` as it is found. A name that one tree lacks is one difference, whatever is below it.
///
/// Open descriptors grow with the depth of the trees, by two a level.
pub fn compare(
    a: &Path,
    b: &Path,
    options: &Options,
    report: &mut dyn FnMut(Finding),
) -> Result<Counts, Trouble> {
    let roots = Both::try_each(|side| {
        let path = if side == Side::A { a } else { b };
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
            |cause| Trouble::io("open the directory", side, path.as_os_str().as_encoded_bytes(), cause),
        )
    })?;
    let mut comparison =
        Comparison { report, counts: Counts::default(), links: Links::default(), buffers: Buffers::new() };
    comparison.walk(roots, &options.ignored)?;
    Ok(comparison.counts)
}

struct Comparison<'a> {
    report: &'a mut dyn FnMut(Finding),
    counts: Counts,
    links: Links,
    buffers: Buffers,
}

/// A directory that both trees have, on the way through it.
struct Visit {
    directories: Both<OwnedFd>,
    path: Vec<u8>,
    entries: std::vec::IntoIter<(CString, Presence)>,
}

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    InBoth,
    OnlyIn(Side),
}

impl Comparison<'_> {
    fn walk(&mut self, roots: Both<OwnedFd>, ignored: &[Vec<u8>]) -> Result<(), Trouble> {
        let objects = Both::try_each(|side| Object::look(side, roots.of(side).as_fd(), c".", b"."))?;
        if objects.a.identity() == objects.b.identity() {
            return Err(Trouble::SameDirectory);
        }
        self.compare_fields(b".", &objects);
        let mut visits = vec![Visit::begin(roots, Vec::new(), ignored)?];
        while let Some(visit) = visits.last_mut() {
            let Some((name, presence)) = visit.entries.next() else {
                visits.pop();
                continue;
            };
            let path = join(&visit.path, name.to_bytes());
            match presence {
                Presence::OnlyIn(side) => self.report_missing(side, &visit.directories, &name, path)?,
                Presence::InBoth => {
                    if let Some(directories) = self.compare_name(&visit.directories, &name, &path)? {
                        visits.push(Visit::begin(directories, path, &[])?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares what is at a name of both directories; returns it if it is a directory in both.
    fn compare_name(
        &mut self,
        directories: &Both<OwnedFd>,
        name: &CStr,
        path: &[u8],
    ) -> Result<Option<Both<OwnedFd>>, Trouble> {
        let objects = Both::try_each(|side| Object::look(side, directories.of(side).as_fd(), name, path))?;
        self.counts.objects += 1;
        self.counts.linked_names += u64::from(objects.a.has_links());
        self.compare_fields(path, &objects);
        if objects.a.kind() != objects.b.kind() {
            return Ok(None);
        }
        if objects.a.kind() == FileType::Directory {
            return self.open_both(directories, name, path, &objects, OFlags::DIRECTORY).map(Some);
        }
        let verdict = self.links.see(path, &objects);
        if objects.a.kind() == FileType::RegularFile && verdict != Verdict::Again {
            self.compare_content(directories, name, path, &objects)?;
        }
        if let Verdict::Unequal { only_in_a, only_in_b } = verdict {
            let show = |other: Option<Vec<u8>>| match other {
                Some(other) => format!("a link to {}", escape(&other)),
                None => "no such link".to_owned(),
            };
            self.differ(path, Field::HardLinks, show(only_in_a), show(only_in_b));
        }
        Ok(None)
    }

    fn compare_fields(&mut self, path: &[u8], objects: &Both<Object>) {
        self.counts.xattrs += compared_xattrs(objects);
        for (field, a, b) in unequal_fields(objects) {
            self.differ(path, field, a, b);
        }
    }

    fn compare_content(
        &mut self,
        directories: &Both<OwnedFd>,
        name: &CStr,
        path: &[u8],
        objects: &Both<Object>,
    ) -> Result<(), Trouble> {
        // Files of different sizes have been told apart; an empty one needs no opening.
        let size = objects.a.size();
        if size != objects.b.size() || size == 0 {
            return Ok(());
        }
        let files = self.open_both(directories, name, path, objects, OFlags::NONBLOCK)?;
        self.counts.bytes += size;
        if let Some(mismatch) = first_mismatch(&files, size, path, &mut self.buffers)? {
            let show = |byte: u8| format!("byte {} is 0x{byte:02x}", mismatch.offset);
            self.differ(path, Field::Content, show(mismatch.bytes.a), show(mismatch.bytes.b));
        } else if allocated_unlike(objects.a.allocated(), objects.b.allocated()) {
            (self.report)(Finding::Note(Note {
                path: path.to_vec(),
                allocated_a: objects.a.allocated(),
                allocated_b: objects.b.allocated(),
            }));
        }
        Ok(())
    }

    /// Opens what was looked at, and nothing else that may have taken its name since.
    fn open_both(
        &self,
        directories: &Both<OwnedFd>,
        name: &CStr,
        path: &[u8],
        objects: &Both<Object>,
        flags: OFlags,
    ) -> Result<Both<OwnedFd>, Trouble> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        Both::try_each(|side| {
            let opened = openat(directories.of(side), name, flags, Mode::empty())
                .map_err(|cause| Trouble::io("open", side, path, cause))?;
            let stat = fstat(&opened).map_err(|cause| Trouble::io("look at", side, path, cause))?;
            if (stat.st_dev, stat.st_ino) != objects.of(side).identity() {
                return Err(Trouble::changed(side, path));
            }
            Ok(opened)
        })
    }

    fn report_missing(
        &mut self,
        present: Side,
        directories: &Both<OwnedFd>,
        name: &CStr,
        path: Vec<u8>,
    ) -> Result<(), Trouble> {
        let object = Object::look(present, directories.of(present).as_fd(), name, &path)?;
        let (kind, missing) = (kind_name(object.kind()).to_owned(), "missing".to_owned());
        match present {
            Side::A => self.differ(&path, Field::Presence, kind, missing),
            Side::B => self.differ(&path, Field::Presence, missing, kind),
        }
        Ok(())
    }

    fn differ(&mut self, path: &[u8], field: Field, a: String, b: String) {
        (self.report)(Finding::Difference(Difference { path: path.to_vec(), field, a, b }));
    }
}

impl Visit {
    fn begin(directories: Both<OwnedFd>, path: Vec<u8>, ignored: &[Vec<u8>]) -> Result<Visit, Trouble> {
        let names = Both::try_each(|side| {
            read_names(directories.of(side), ignored)
                .map_err(|cause| Trouble::io("list", side, if path.is_empty() { b"." } else { &path }, cause))
        })?;
        Ok(Visit { directories, path, entries: merge(names).into_iter() })
    }
}

/// All names of a directory but these, sorted. A name that is listed twice stays twice: it is a fault to be seen.
fn read_names(directory: &OwnedFd, ignored: &[Vec<u8>]) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." && !ignored.iter().any(|ignored| ignored == name.to_bytes()) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn merge(names: Both<Vec<CString>>) -> Vec<(CString, Presence)> {
    let mut merged = Vec::with_capacity(names.a.len().max(names.b.len()));
    let (mut a, mut b) = (names.a.into_iter().peekable(), names.b.into_iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return merged,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        let presence = match order {
            Ordering::Less => Presence::OnlyIn(Side::A),
            Ordering::Greater => Presence::OnlyIn(Side::B),
            Ordering::Equal => Presence::InBoth,
        };
        let of_a = if order == Ordering::Greater { None } else { a.next() };
        let of_b = if order == Ordering::Less { None } else { b.next() };
        merged.extend(of_a.or(of_b).map(|name| (name, presence)));
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Whether one takes so much more room that holes must have been lost or made.
fn allocated_unlike(a: u64, b: u64) -> bool {
    let difference = a.abs_diff(b);
    difference >= NOTED_BYTES && difference > a.max(b) / 4
}

#[cfg(test)]
mod tests {
    use super::{Both, CString, Presence, Side, allocated_unlike, merge};

    fn check_merge(a: &[&str], b: &[&str], expected: &[(&str, Presence)]) {
        let names =
            |names: &[&str]| names.iter().map(|name| CString::new(*name).unwrap()).collect::<Vec<_>>();
        let merged = merge(Both { a: names(a), b: names(b) });
        let merged: Vec<_> =
            merged.iter().map(|(name, presence)| (name.to_str().unwrap(), *presence)).collect();
        assert_eq!(merged, expected);
    }

    #[test]
    fn merging_two_lists() {
        use Presence::{InBoth, OnlyIn};
        check_merge(&[], &[], &[]);
        check_merge(&["a"], &["a"], &[("a", InBoth)]);
        check_merge(&["a"], &["b"], &[("a", OnlyIn(Side::A)), ("b", OnlyIn(Side::B))]);
        check_merge(
            &["b", "c"],
            &["a", "c"],
            &[("a", OnlyIn(Side::B)), ("b", OnlyIn(Side::A)), ("c", InBoth)],
        );
        check_merge(&["a", "a"], &["a"], &[("a", InBoth), ("a", OnlyIn(Side::A))]);
    }

    #[test]
    fn what_is_a_lot_of_room() {
        assert!(!allocated_unlike(0, 4096));
        assert!(!allocated_unlike(100 << 20, 99 << 20));
        assert!(allocated_unlike(100 << 20, 1 << 20));
        assert!(allocated_unlike(0, 1 << 20));
    }
}
