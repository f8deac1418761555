//! Directories, listed while they change.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{Host, Mounted, ROOT, apart, errno};

/// A directory stream of the C library's.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Stream {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the path ends with a NUL.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null());
        Stream(stream)
    }

    /// The next entry's name and type.
    fn next(&mut self) -> Option<(String, u8)> {
        // SAFETY: the stream is open, and the entry is copied before the next call.
        unsafe {
            let entry = libc::readdir(self.0).as_ref()?;
            Some((CStr::from_ptr(entry.d_name.as_ptr()).to_str().unwrap().to_owned(), entry.d_type))
        }
    }

    fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).map(|(name, _)| name).collect()
    }

    fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, to: i64) {
        // SAFETY: the stream is open, and the place is one that it told.
        unsafe { libc::seekdir(self.0, to) }
    }

    fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and not used any more.
        unsafe { libc::closedir(self.0) };
    }
}

#[test]
fn a_large_directory_is_listed_whole_while_files_are_removed() {
    const NAMES: usize = 50_000;
    let m = Mounted::with(Host::Ext4, |tree| {
        fs::create_dir(tree.join("d")).unwrap();
        (0..NAMES).for_each(|i| drop(fs::File::create(tree.join(format!("d/{i:05}"))).unwrap()));
    });
    let mut seen = HashSet::new();
    let mut removed = HashSet::new();
    let mut stream = Stream::open(&m.path("d"));
    while let Some((name, _)) = stream.next() {
        let Ok(number) = name.parse::<usize>() else { continue };
        assert!(seen.insert(number), "{number} is told twice");
        // Of those still to come, and of those already told.
        if seen.len().is_multiple_of(50) {
            let doomed = (number * 7919) % NAMES;
            if removed.insert(doomed) {
                fs::remove_file(m.path(&format!("d/{doomed:05}"))).unwrap();
            }
        }
    }
    let missing = (0..NAMES).filter(|i| !seen.contains(i) && !removed.contains(i)).count();
    assert_eq!(missing, 0, "what stays is told");
    assert!(removed.len() > 500);
    assert_eq!(fs::read_dir(m.path("d")).unwrap().count(), NAMES - removed.len());
}

#[test]
fn all_that_is_listed_can_be_removed_on_the_way() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    (0..3000).for_each(|i| drop(fs::File::create(m.path(&format!("d/{i}"))).unwrap()));
    let mut stream = Stream::open(&m.path("d"));
    while let Some((name, _)) = stream.next() {
        if !name.starts_with('.') {
            fs::remove_file(m.path("d").join(name)).unwrap();
        }
    }
    fs::remove_dir(m.path("d")).unwrap();
}

#[test]
fn a_stream_is_rewound_and_sees_what_is_new() {
    let m = Mounted::new();
    fs::write(m.path("a"), "1").unwrap();
    let mut stream = Stream::open(&m.path(""));
    assert_eq!(stream.rest().len(), 3);
    fs::write(m.path("b"), "1").unwrap();
    fs::remove_file(m.path("a")).unwrap();
    stream.rewind();
    let mut names = stream.rest();
    names.sort();
    assert_eq!(names, [".", "..", "b"]);
}

#[test]
fn a_stream_goes_back_to_where_it_was() {
    let m = Mounted::new();
    (0..500).for_each(|i| drop(fs::File::create(m.path(&format!("{i}"))).unwrap()));
    let mut stream = Stream::open(&m.path(""));
    let mut places = Vec::new();
    loop {
        let place = stream.tell();
        let Some((name, _)) = stream.next() else { break };
        places.push((place, name));
    }
    assert_eq!(places.len(), 502);
    for (place, name) in places.iter().step_by(37).rev() {
        stream.seek(*place);
        assert_eq!(&stream.next().unwrap().0, name);
    }
    // A place is good in another stream, and after a removal.
    let (place, name) = &places[400];
    fs::remove_file(m.path("").join(&places[300].1)).or_else(|_| fs::remove_file(m.path("17"))).unwrap();
    let mut other = Stream::open(&m.path(""));
    other.seek(*place);
    assert_eq!(&other.next().unwrap().0, name);
}

#[test]
fn entries_tell_their_kinds_and_inodes() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("file"), "1").unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        symlink("x", dir.join("link")).unwrap();
        mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        mknodat(CWD, dir.join("null"), FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3))
            .unwrap();
        drop(UnixListener::bind(dir.join("socket")).unwrap());
        let mut stream = Stream::open(dir);
        let mut entries: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
        entries.sort();
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            use std::os::unix::fs::DirEntryExt;
            assert_eq!(entry.ino(), fs::symlink_metadata(entry.path()).unwrap().ino());
        }
        entries
    });
}

#[test]
fn a_directory_s_link_count_and_size_are_the_host_s() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        let mut counts = Vec::new();
        for name in ["a", "b", "c"] {
            fs::create_dir(dir.join("d").join(name)).unwrap();
            fs::write(dir.join("d").join(format!("{name}.txt")), "1").unwrap();
            counts.push(fs::metadata(dir.join("d")).unwrap().nlink());
        }
        fs::remove_dir(dir.join("d/a")).unwrap();
        fs::rename(dir.join("d/b"), dir.join("b")).unwrap();
        let found = fs::metadata(dir.join("d")).unwrap();
        counts.push(found.nlink());
        (counts, found.len())
    });
}

#[test]
fn a_directory_goes_when_it_is_empty() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::create_dir_all(dir.join("a/b")).unwrap();
        let full = errno(fs::remove_dir(dir.join("a")));
        let empty = errno(fs::remove_dir(dir.join("a/b")));
        fs::write(dir.join("f"), "1").unwrap();
        (full, empty, errno(fs::remove_dir(dir.join("f"))), errno(fs::remove_dir(dir.join("absent"))))
    });
}

#[test]
fn a_directory_cannot_be_read_or_written_as_a_file() {
    let m = Mounted::new();
    m.alike(|dir| {
        let file = fs::File::open(dir).unwrap();
        let mut byte = [0];
        let read = errno(std::io::Read::read(&mut &file, &mut byte));
        let list = errno(file.sync_all());
        (read, list, errno(file.set_len(0)))
    });
}

#[test]
fn listing_makes_no_record() {
    let m = Mounted::new();
    (0..100).for_each(|i| drop(fs::File::create(m.path(&format!("{i}"))).unwrap()));
    let last = m.last();
    apart(ROOT, || {
        for entry in fs::read_dir(m.path("")).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    });
    assert_eq!(m.last(), last);
}
