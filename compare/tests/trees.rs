//! Trees that differ in one thing, and the differences that must be found.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use mezzo_compare::{Counts, Difference, Field, Finding, Note, Options, Trouble, compare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Two directories with the same things in them, and what was found in them.
struct Trees {
    directory: tempfile::TempDir,
}

struct Found {
    differences: Vec<Difference>,
    notes: Vec<Note>,
    counts: Counts,
}

impl Trees {
    fn empty() -> Trees {
        let trees = Trees { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(trees.a()).unwrap();
        fs::create_dir(trees.b()).unwrap();
        trees
    }

    /// Trees that `make` made, with settled times.
    fn of(make: impl Fn(&Path)) -> Trees {
        let trees = Trees::empty();
        make(&trees.a());
        make(&trees.b());
        trees.settle();
        trees
    }

    fn a(&self) -> std::path::PathBuf {
        self.directory.path().join("a")
    }

    fn b(&self) -> std::path::PathBuf {
        self.directory.path().join("b")
    }

    fn settle(&self) {
        settle(&self.a());
        settle(&self.b());
    }

    fn compare(&self) -> Found {
        let mut found = Found { differences: Vec::new(), notes: Vec::new(), counts: Counts::default() };
        let (differences, notes) = (&mut found.differences, &mut found.notes);
        let counts = compare(&self.a(), &self.b(), &Options::default(), &mut |finding| match finding {
            Finding::Difference(difference) => differences.push(difference),
            Finding::Note(note) => notes.push(note),
        });
        found.counts = counts.unwrap();
        found
    }

    fn trouble(&self) -> Trouble {
        compare(&self.a(), &self.b(), &Options::default(), &mut |_| {}).unwrap_err()
    }
}

/// Gives everything in a tree the same modification time, from the leaves up.
fn settle(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            settle(&entry.unwrap().path());
        }
    }
    set_mtime(path, 1_700_000_000, 123_456_789);
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn make_node(path: &Path, kind: FileType, major: u32, minor: u32) {
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, path, kind, mode, rustix::fs::makedev(major, minor)).unwrap();
}

fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) {
    std::os::unix::fs::lchown(path, uid, gid).unwrap();
}

/// An ACL in the kernel's form: the owner rw, a user r, the group r, the mask r, others r.
fn acl_of_user(uid: u32) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(0x01, 6, NO_ID), (0x02, 4, uid), (0x04, 4, NO_ID), (0x10, 4, NO_ID), (0x20, 4, NO_ID)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// A file capability in the kernel's form, revision 2.
fn capability(bits: u32) -> Vec<u8> {
    [0x0200_0000, bits, 0, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// One of everything, so that each field of each kind has something to differ in.
fn make_everything(root: &Path) {
    fs::create_dir_all(root.join("dir/deep/er")).unwrap();
    fs::write(root.join("file"), "some bytes").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("dir/deep/er/file"), vec![7; 1_000_000]).unwrap();
    symlink("where/to", root.join("link")).unwrap();
    symlink("/nowhere", root.join("dir/dangling")).unwrap();
    make_node(&root.join("fifo"), FileType::Fifo, 0, 0);
    drop(UnixListener::bind(root.join("socket")).unwrap());
    fs::write(root.join(OsStr::from_bytes(b"not \xff utf-8")), "1").unwrap();
    for name in ["linked", "also linked", "linked too"] {
        fs::write(root.join(name), "one of two pairs").unwrap();
    }
    for (old, new) in [("linked", "dir/linked"), ("also linked", "dir/also linked")] {
        fs::hard_link(root.join(old), root.join(new)).unwrap();
    }
    set_xattr(&root.join("file"), "user.color", b"blue");
    set_xattr(&root.join("dir"), "user.color", b"red");
    set_mode(&root.join("file"), 0o644);
    set_mode(&root.join("dir"), 0o755);
    if is_root() {
        make_node(&root.join("char"), FileType::CharacterDevice, 1, 3);
        make_node(&root.join("block"), FileType::BlockDevice, 7, 250);
        set_xattr(&root.join("file"), "trusted.secret", b"1");
        // A file of its own: writing takes a capability away.
        fs::write(root.join("capable"), "").unwrap();
        set_xattr(&root.join("capable"), "security.capability", &capability(1));
        set_xattr(&root.join("link"), "trusted.of.link", b"1");
    }
    set_xattr(&root.join("file"), "system.posix_acl_access", &acl_of_user(1000));
    set_xattr(&root.join("dir"), "system.posix_acl_default", &acl_of_user(1000));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who may run a row: owners, devices and trusted attributes are set by root alone.
#[derive(PartialEq, Eq)]
enum By {
    Anybody,
    Root,
}

/// When a row changes B: what comes before the times are settled differs in nothing else; what is about times
/// comes after.
#[derive(PartialEq, Eq)]
enum When {
    Before,
    After,
}

/// One change to B; the name at which it must be found; the field.
type Row = (By, When, fn(&Path), &'static [u8], Field);

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use By::{Anybody, Root};
    use When::{After, Before};
    let xattr = |name: &str| Field::Xattr(name.as_bytes().to_vec());
    vec![
        (Anybody, Before, |b| fs::remove_file(b.join("file")).unwrap(), b"file", Field::Presence),
        (Anybody, Before, |b| fs::remove_file(b.join("dir/deep/er/file")).unwrap(), b"dir/deep/er/file", Field::Presence),
        (Anybody, Before, |b| fs::remove_dir_all(b.join("dir/deep")).unwrap(), b"dir/deep", Field::Presence),
        (Anybody, Before, |b| fs::write(b.join("more"), "").unwrap(), b"more", Field::Presence),
        (Anybody, Before, |b| fs::create_dir_all(b.join("dir/deep/zz/more")).unwrap(), b"dir/deep/zz", Field::Presence),
        (Anybody, Before, |b| fs::remove_file(b.join(OsStr::from_bytes(b"not \xff utf-8"))).unwrap(), b"not \xff utf-8", Field::Presence),

        (Anybody, Before, |b| replace(&b.join("empty"), |path| fs::create_dir(path).unwrap()), b"empty", Field::Kind),
        (Anybody, Before, |b| replace(&b.join("link"), |path| fs::write(path, "where/to").unwrap()), b"link", Field::Kind),
        (Anybody, Before, |b| replace(&b.join("fifo"), |path| drop(UnixListener::bind(path).unwrap())), b"fifo", Field::Kind),
        (Root, Before, |b| replace(&b.join("char"), |path| make_node(path, FileType::BlockDevice, 1, 3)), b"char", Field::Kind),

        (Anybody, Before, |b| set_mode(&b.join("empty"), 0o600), b"empty", Field::Mode),
        (Anybody, Before, |b| set_mode(&b.join("empty"), 0o4644), b"empty", Field::Mode),
        (Anybody, Before, |b| set_mode(&b.join("dir/deep"), 0o1755), b"dir/deep", Field::Mode),
        (Anybody, Before, |b| set_mode(&b.join("fifo"), 0o622), b"fifo", Field::Mode),
        (Anybody, Before, |b| set_mode(&b.join("socket"), 0o700), b"socket", Field::Mode),
        (Anybody, Before, |b| set_mode(b, 0o711), b".", Field::Mode),
        (Root, Before, |b| set_mode(&b.join("block"), 0o640), b"block", Field::Mode),

        (Root, Before, |b| chown(&b.join("empty"), Some(1), None), b"empty", Field::Uid),
        (Root, Before, |b| chown(&b.join("link"), Some(1), None), b"link", Field::Uid),
        (Root, Before, |b| chown(&b.join("dir"), Some(1), None), b"dir", Field::Uid),
        (Root, Before, |b| chown(&b.join("socket"), None, Some(1)), b"socket", Field::Gid),
        (Root, Before, |b| chown(&b.join("char"), None, Some(1)), b"char", Field::Gid),
        (Root, Before, |b| chown(b, None, Some(1)), b".", Field::Gid),

        (Anybody, Before, |b| append(&b.join("file"), b"x"), b"file", Field::Size),
        (Anybody, Before, |b| append(&b.join("empty"), b"x"), b"empty", Field::Size),

        (Anybody, After, |b| set_mtime(&b.join("file"), 1_700_000_000, 123_456_788), b"file", Field::Mtime),
        (Anybody, After, |b| set_mtime(&b.join("file"), 1_700_000_001, 123_456_789), b"file", Field::Mtime),
        (Anybody, After, |b| set_mtime(&b.join("empty"), -1, 123_456_789), b"empty", Field::Mtime),
        (Anybody, After, |b| set_mtime(&b.join("dir/deep"), 1_700_000_000, 0), b"dir/deep", Field::Mtime),
        (Anybody, After, |b| set_mtime(&b.join("link"), 1_700_000_000, 0), b"link", Field::Mtime),
        (Anybody, After, |b| set_mtime(&b.join("fifo"), 1_700_000_000, 0), b"fifo", Field::Mtime),
        (Anybody, After, |b| set_mtime(b, 1_700_000_000, 0), b".", Field::Mtime),
        (Root, After, |b| set_mtime(&b.join("block"), 1_700_000_000, 0), b"block", Field::Mtime),

        (Anybody, Before, |b| replace(&b.join("dir/dangling"), |path| symlink("/Nowhere", path).unwrap()), b"dir/dangling", Field::Target),
        (Anybody, Before, |b| replace(&b.join("dir/dangling"), |path| symlink("/nowhere/", path).unwrap()), b"dir/dangling", Field::Target),
        (Anybody, Before, |b| replace(&b.join("dir/dangling"), |path| symlink(OsStr::from_bytes(b"/nowher\xff"), path).unwrap()), b"dir/dangling", Field::Target),

        (Root, Before, |b| replace(&b.join("char"), |path| make_node(path, FileType::CharacterDevice, 1, 5)), b"char", Field::Device),
        (Root, Before, |b| replace(&b.join("block"), |path| make_node(path, FileType::BlockDevice, 7, 506)), b"block", Field::Device),

        (Anybody, Before, |b| overwrite(&b.join("file"), 0, b"S"), b"file", Field::Content),
        (Anybody, Before, |b| overwrite(&b.join("file"), 9, b"S"), b"file", Field::Content),
        (Anybody, Before, |b| overwrite(&b.join("dir/deep/er/file"), 700_000, b"\x08"), b"dir/deep/er/file", Field::Content),
        (Anybody, Before, |b| overwrite(&b.join("dir/deep/er/file"), 999_999, b"\x00"), b"dir/deep/er/file", Field::Content),
        (Anybody, Before, |b| overwrite(&b.join(OsStr::from_bytes(b"not \xff utf-8")), 0, b"2"), b"not \xff utf-8", Field::Content),

        (Anybody, Before, |b| set_xattr(&b.join("file"), "user.color", b"green"), b"file", xattr("user.color")),
        (Anybody, Before, |b| set_xattr(&b.join("file"), "user.color", b""), b"file", xattr("user.color")),
        (Anybody, Before, |b| set_xattr(&b.join("file"), "user.more", b""), b"file", xattr("user.more")),
        (Anybody, Before, |b| set_xattr(&b.join("dir"), "user.color", &[b'x'; 2000]), b"dir", xattr("user.color")),
        (Anybody, Before, |b| rustix::fs::lremovexattr(b.join("file"), "user.color").unwrap(), b"file", xattr("user.color")),
        (Anybody, Before, |b| set_xattr(b, "user.of.root", b"1"), b".", xattr("user.of.root")),
        (Root, Before, |b| set_xattr(&b.join("file"), "trusted.secret", b"2"), b"file", xattr("trusted.secret")),
        (Root, Before, |b| set_xattr(&b.join("link"), "trusted.of.link", b"2"), b"link", xattr("trusted.of.link")),
        (Root, Before, |b| set_xattr(&b.join("fifo"), "trusted.of.fifo", b"2"), b"fifo", xattr("trusted.of.fifo")),
        (Root, Before, |b| set_xattr(&b.join("capable"), "security.capability", &capability(2)), b"capable", xattr("security.capability")),
        (Anybody, Before, |b| set_xattr(&b.join("file"), "system.posix_acl_access", &acl_of_user(1001)), b"file", xattr("system.posix_acl_access")),
        (Anybody, Before, |b| set_xattr(&b.join("dir"), "system.posix_acl_default", &acl_of_user(1001)), b"dir", xattr("system.posix_acl_default")),
        (Anybody, Before, |b| set_xattr(&b.join("dir/deep"), "system.posix_acl_default", &acl_of_user(1000)), b"dir/deep", xattr("system.posix_acl_default")),

        // Unlinked; linked with another than before; linked where it was not.
        (Anybody, Before, |b| replace(&b.join("linked"), |path| fs::write(path, "one of two pairs").unwrap()), b"linked", Field::HardLinks),
        (Anybody, Before, |b| link_over(&b.join("linked"), &b.join("linked too")), b"linked too", Field::HardLinks),
    ]
}

fn replace(path: &Path, make: impl Fn(&Path)) {
    let mode = fs::symlink_metadata(path).unwrap().mode();
    fs::remove_file(path).unwrap();
    make(path);
    // Not the mode is to differ, unless it cannot be set.
    if mode & libc::S_IFMT != libc::S_IFLNK {
        set_mode(path, mode & 0o7777);
    }
}

fn link_over(old: &Path, new: &Path) {
    fs::remove_file(new).unwrap();
    fs::hard_link(old, new).unwrap();
}

fn append(path: &Path, bytes: &[u8]) {
    File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn each_field_is_seen() {
    let mut seen = BTreeSet::new();
    for (index, (by, when, change, path, field)) in rows().into_iter().enumerate() {
        if by == By::Root && !is_root() {
            eprintln!("row {index}, {field}, needs root and was left out");
            continue;
        }
        let trees = Trees::of(make_everything);
        change(&trees.b());
        if when == When::Before {
            trees.settle();
        }
        let found = trees.compare().differences;
        let told: Vec<_> = found.iter().map(|found| (found.path.as_slice(), &found.field)).collect();
        assert_eq!(told, [(path, &field)], "row {index}: {found:?}");
        assert_ne!(found[0].a, found[0].b, "row {index}");
        seen.insert(found[0].field.to_string());
    }
    // A row for each field there is.
    let seen: Vec<_> = seen.iter().map(|name| name.split(' ').next().unwrap()).collect();
    let mut fields = vec![
        "content", "device", "gid", "hard", "kind", "mode", "mtime", "presence", "size", "target", "uid",
        "xattr",
    ];
    if !is_root() {
        fields.retain(|field| !["device", "gid", "uid"].contains(field));
    }
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), fields.into_iter().collect());
}

#[test]
fn equal_trees_are_equal() {
    let found = Trees::of(make_everything).compare();
    assert_eq!(found.differences, []);
    assert_eq!(found.notes, []);
    let Counts { objects, bytes, linked_names, xattrs } = found.counts;
    assert_eq!(objects, if is_root() { 19 } else { 16 });
    // The two pairs count once each.
    assert_eq!(bytes, 10 + 1_000_000 + 1 + 3 * 16);
    assert_eq!(linked_names, 4);
    assert_eq!(xattrs, if is_root() { 7 } else { 4 });
}

#[test]
fn what_is_not_compared() {
    let trees = Trees::of(make_everything);
    let b = trees.b();
    // A directory that has grown, a file that was read and whose ctime is new, a link from outside of the tree.
    for index in 0..2000 {
        fs::write(b.join(format!("dir/a name to make the directory large {index}")), "").unwrap();
    }
    for index in 0..2000 {
        fs::remove_file(b.join(format!("dir/a name to make the directory large {index}"))).unwrap();
    }
    fs::hard_link(b.join("file"), trees.directory.path().join("outside")).unwrap();
    fs::create_dir(b.join(".mezzo")).unwrap();
    fs::write(b.join(".mezzo/anything"), "").unwrap();
    trees.settle();
    assert!(
        fs::metadata(b.join("dir")).unwrap().size() > fs::metadata(trees.a().join("dir")).unwrap().size()
    );
    assert_eq!(trees.compare().differences, []);
}

#[test]
fn mezzo_is_left_out_at_the_root_only() {
    let trees = Trees::of(make_everything);
    fs::create_dir(trees.b().join("dir/.mezzo")).unwrap();
    trees.settle();
    let found = trees.compare().differences;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, b"dir/.mezzo");
}

#[test]
fn one_more_on_each_side() {
    let trees = Trees::of(make_everything);
    fs::write(trees.a().join("dir/in a"), "").unwrap();
    fs::create_dir(trees.b().join("dir/in b")).unwrap();
    trees.settle();
    let lines: Vec<_> = trees.compare().differences.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["dir/in a\tpresence\tfile\tmissing", "dir/in b\tpresence\tmissing\tdirectory"]);
}

/// Files f0, f1 … with the same bytes, where those of one letter are one file.
fn make_partition(root: &Path, letters: &str) {
    let mut first = std::collections::HashMap::new();
    for (index, letter) in letters.chars().enumerate() {
        let path = root.join(format!("f{index}"));
        match first.get(&letter) {
            None => {
                fs::write(&path, "the same").unwrap();
                first.insert(letter, path);
            }
            Some(old) => fs::hard_link(old, path).unwrap(),
        }
    }
}

#[test]
fn every_pair_of_partitions() {
    // All ways to part five names into files: 52, told by the letters that first names get.
    let mut partitions = vec![String::new()];
    for _ in 0..5 {
        partitions = partitions
            .iter()
            .flat_map(|letters| {
                let next = letters.bytes().max().map_or(b'a', |last| last + 1);
                (b'a'..=next).map(move |letter| format!("{letters}{}", letter as char))
            })
            .collect();
    }
    assert_eq!(partitions.len(), 52);
    let trees: Vec<_> = partitions
        .iter()
        .map(|letters| {
            let tree = tempfile::tempdir().unwrap();
            make_partition(tree.path(), letters);
            settle(tree.path());
            tree
        })
        .collect();
    let again = tempfile::tempdir().unwrap();
    for (index, a) in trees.iter().enumerate() {
        for (other, b) in trees.iter().enumerate().filter(|(other, _)| *other != index) {
            let mut differences = 0;
            compare(a.path(), b.path(), &Options::default(), &mut |finding| match finding {
                Finding::Difference(Difference { field: Field::HardLinks, .. }) => differences += 1,
                finding => panic!("{finding:?}"),
            })
            .unwrap();
            assert!(differences > 0, "{} and {}", partitions[index], partitions[other]);
        }
        // A tree of the same partition made anew.
        let same = again.path().join(index.to_string());
        fs::create_dir(&same).unwrap();
        set_mode(&same, fs::metadata(a.path()).unwrap().mode() & 0o7777);
        make_partition(&same, &partitions[index]);
        settle(&same);
        compare(a.path(), &same, &Options::default(), &mut |finding| panic!("{finding:?}")).unwrap();
    }
}

#[test]
fn a_linked_file_is_compared_at_its_first_name() {
    let trees = Trees::of(make_everything);
    overwrite(&trees.b().join("linked"), 3, b"X");
    trees.settle();
    let found = trees.compare().differences;
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["dir/linked\tcontent\tbyte 3 is 0x20\tbyte 3 is 0x58"]
    );
}

const SPARSE_BYTES: u64 = 1 << 40;

fn make_sparse(root: &Path) {
    let file = File::create(root.join("sparse")).unwrap();
    file.set_len(SPARSE_BYTES).unwrap();
    for offset in [0, 1 << 30, (1 << 39) + 5, SPARSE_BYTES - 1] {
        file.write_at(b"data", offset).unwrap();
    }
    file.set_len(SPARSE_BYTES).unwrap();
}

#[test]
fn a_terabyte_of_holes_is_compared_at_once() {
    assert_eq!(Trees::of(make_sparse).compare().differences, []);
}

#[test]
fn a_byte_deep_in_a_sparse_file() {
    // In data that both have; in a hole of A; in a hole of A, and zero, which is equal; the last byte.
    let rows: [(u64, &[u8], Option<&str>); 5] = [
        ((1 << 30) + 1, b"A", Some("byte 1073741825 is 0x41")),
        ((1 << 38) + 12_345, b"\x01", Some("byte 274877919289 is 0x01")),
        ((1 << 38) + 12_345, b"\x00", None),
        (SPARSE_BYTES - 1, b"e", Some("byte 1099511627775 is 0x65")),
        (4, b"!", Some("byte 4 is 0x21")),
    ];
    for (offset, bytes, expected) in rows {
        let trees = Trees::of(make_sparse);
        overwrite(&trees.b().join("sparse"), offset, bytes);
        trees.settle();
        let found = trees.compare().differences;
        assert_eq!(found.first().map(|found| found.b.as_str()), expected);
        assert_eq!(found.len(), expected.iter().len());
    }
}

#[test]
fn lost_holes_are_noted() {
    for size in [32 << 20, 128 << 20] {
        let trees = Trees::of(|root| {
            File::create(root.join("file")).unwrap().set_len(size).unwrap();
        });
        let mut file = File::options().write(true).open(trees.b().join("file")).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        for _ in 0..size >> 20 {
            file.write_all(&[0; 1 << 20]).unwrap();
        }
        // Without it, the room is allocated later.
        file.sync_all().unwrap();
        trees.settle();
        let found = trees.compare();
        assert_eq!(found.differences, []);
        assert_eq!(found.notes.len(), 1);
        assert_eq!(found.notes[0].allocated_a, 0);
        assert!(found.notes[0].allocated_b >= size);
    }
}

#[test]
fn links_are_not_followed() {
    let trees = Trees::empty();
    for (tree, bytes) in [(trees.a(), "one"), (trees.b(), "two")] {
        let outside = trees.directory.path().join(bytes);
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), bytes).unwrap();
        symlink("../outside", tree.join("link")).unwrap();
        // A loop that would never end.
        symlink(".", tree.join("loop")).unwrap();
    }
    fs::rename(trees.directory.path().join("one"), trees.directory.path().join("outside")).unwrap();
    trees.settle();
    let found = trees.compare();
    assert_eq!(found.differences, []);
    assert_eq!(found.counts.objects, 2);
}

#[test]
fn a_deep_tree() {
    // Deeper than a path may be long.
    const LEVELS: u64 = 1500;
    let make = |root: &Path| {
        let mut directory = rustix::fs::open(root, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..LEVELS {
            let name = CString::new("level").unwrap();
            rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755)).unwrap();
            let time = Timespec { tv_sec: 1, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            let inner =
                rustix::fs::openat(&directory, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
            rustix::fs::utimensat(&directory, ".", &times, AtFlags::empty()).unwrap();
            rustix::fs::utimensat(&inner, ".", &times, AtFlags::empty()).unwrap();
            directory = inner;
        }
    };
    let trees = Trees::empty();
    make(&trees.a());
    make(&trees.b());
    let found = trees.compare();
    assert_eq!(found.differences, []);
    assert_eq!(found.counts.objects, LEVELS);
}

#[test]
fn a_tree_and_itself_are_no_comparison() {
    let trees = Trees::of(make_everything);
    fs::remove_dir_all(trees.b()).unwrap();
    symlink("a", trees.b()).unwrap();
    assert!(matches!(trees.trouble(), Trouble::SameDirectory));
}

#[test]
fn what_cannot_be_read_is_trouble() {
    const NOBODY: u32 = 65534;
    for (name, operation) in
        [("linked too", "open"), ("dir/deep", "open"), ("file", "read the extended attributes of")]
    {
        let trees = Trees::of(make_everything);
        for tree in [trees.a(), trees.b()] {
            set_mode(&tree.join(name), 0);
        }
        set_mode(trees.directory.path(), 0o755);
        // Root may read everything, so it is somebody else who compares; of this thread alone, as the kernel has it.
        // SAFETY: the calls take no pointers.
        unsafe { libc::setfsuid(if is_root() { NOBODY } else { rustix::process::geteuid().as_raw() }) };
        let trouble = trees.trouble().to_string();
        // SAFETY: as above.
        unsafe { libc::setfsuid(rustix::process::geteuid().as_raw()) };
        assert_eq!(trouble, format!("could not {operation} {name} in A: Permission denied (os error 13)"));
        set_mode(&trees.a().join(name), 0o700);
        set_mode(&trees.b().join(name), 0o700);
    }
}
