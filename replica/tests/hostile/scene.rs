//! A directory to replay onto, with something beside it that no log may reach.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use mezzo_core::Recno;
use mezzo_replica::host::xattr;
use mezzo_replica::log::Reader;
use mezzo_replica::replay::{Range, Replayed, replay};
use mezzo_replica::versions::Source;
use rustix::fs::{Mode, OFlags};

use crate::common::open;
use crate::log::Log;

pub struct Scene {
    directory: tempfile::TempDir,
}

/// Everything of a tree that anybody could see, by path.
pub type Seen = BTreeMap<PathBuf, Vec<String>>;

impl Scene {
    pub fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let scene = Scene { directory };
        std::fs::create_dir(scene.root()).unwrap();
        let canary = scene.canary();
        std::fs::create_dir_all(canary.join("d")).unwrap();
        std::fs::write(canary.join("f"), "nobody's business").unwrap();
        std::fs::write(canary.join("d/f"), "").unwrap();
        symlink("f", canary.join("l")).unwrap();
        scene
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn canary(&self) -> PathBuf {
        self.directory.path().join("canary")
    }

    /// Replays the log from record `from` to record `to`; what an error says.
    pub fn replay(&self, log: &[u8], from: u64, to: u64) -> Result<Replayed, String> {
        let path = self.directory.path().join("log.kml");
        std::fs::write(&path, log).unwrap();
        let range = Range { from: Some(Recno(from)), to: Some(Recno(to)) };
        let reader = Reader::open(&path).map_err(|error| error.to_string())?;
        replay(&reader, range, open(&self.root()), &Source::default(), &mut |_| {})
            .map_err(|error| error.to_string())
    }

    /// Replays all of `log` but its last record, and then that one. Nothing outside of the root may change, and where the record is
    /// refused, nothing inside.
    pub fn check(&self, what: &str, log: &Log, plant: &dyn Fn(&Scene), expected: Result<u64, &str>) {
        let (bytes, last) = log.before;
        self.replay(&log.bytes[..bytes], 1, last).unwrap();
        plant(self);
        let canary = seen(&self.canary(), true);
        let root = seen(&self.root(), false);
        let found = self.replay(&log.bytes, last + 1, u64::MAX);
        assert_eq!(seen(&self.canary(), true), canary, "{what}: something outside changed");
        match (found, expected) {
            (Ok(replayed), Ok(records)) => assert_eq!(replayed.records, records, "{what}"),
            (Err(error), Err(told)) => {
                assert!(error.contains(told), "{what}: told {error:?} and not {told:?}");
                assert_eq!(seen(&self.root(), false), root, "{what}: {error}");
            }
            (found, expected) => panic!("{what}: came to {found:?} and not to {expected:?}"),
        }
    }
}

/// The tree at `path`; with `ctimes` it shows that anything was touched at all.
pub fn seen(path: &Path, ctimes: bool) -> Seen {
    let mut found = Seen::new();
    see(path, Path::new("."), ctimes, &mut found);
    found
}

fn see(top: &Path, inner: &Path, ctimes: bool, found: &mut Seen) {
    let path = top.join(inner);
    let stat = std::fs::symlink_metadata(&path).unwrap();
    let mut told = vec![format!(
        "{:o} {}:{} {} names, device {}, {}.{:09}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.nlink(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec()
    )];
    if ctimes {
        told.push(format!("{}.{:09}", stat.ctime(), stat.ctime_nsec()));
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
    for name in xattr::names(fd.as_fd()).unwrap() {
        told.push(format!("{} {:?}", name.escape_ascii(), xattr::get(fd.as_fd(), &name).unwrap()));
    }
    if stat.is_symlink() {
        told.push(std::fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string());
    } else if stat.is_file() {
        let bytes = if stat.len() <= 1 << 20 { std::fs::read(&path).unwrap() } else { Vec::new() };
        told.push(format!("{} bytes {}", stat.len(), bytes.escape_ascii()));
    } else if stat.is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            see(top, &inner.join(entry.unwrap().file_name()), ctimes, found);
        }
    }
    found.insert(inner.to_owned(), told);
}
