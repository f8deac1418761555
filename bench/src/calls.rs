//! Calls about names and attributes.

use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::Measured;

/// Every kind of call, `count` times, in a fresh directory below `directory`, which is removed afterwards.
pub fn round(directory: &Path, count: usize) -> Vec<Measured> {
    let within = directory.join("calls");
    std::fs::create_dir(&within).unwrap();
    let names =
        |prefix: &str| -> Vec<_> { (0..count).map(|i| within.join(format!("{prefix}{i:06}"))).collect() };
    let (first, second) = (names("f"), names("g"));
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let mode = Mode::from_raw_mode(0o644);
    let page = [1; 4096];
    let measured = vec![
        each("create+close", &first, |path| drop(rustix::fs::open(path, create, mode).unwrap())),
        each("stat, cached", &first, |path| assert!(rustix::fs::stat(path).is_ok())),
        each("open+close", &first, |path| drop(rustix::fs::open(path, OFlags::RDONLY, mode).unwrap())),
        each("stat of a missing name", &second, |path| {
            assert_eq!(rustix::fs::stat(path).unwrap_err(), Errno::NOENT);
        }),
        each("chmod", &first, |path| {
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o600), AtFlags::empty()).unwrap();
        }),
        list("list and stat, each", &within),
        pairs("rename", &first, &second, |from, to| rustix::fs::rename(from, to).unwrap()),
        each("unlink", &second, |path| rustix::fs::unlink(path).unwrap()),
        each("mkdir", &first[..count / 2], |path| {
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).unwrap()
        }),
        each("rmdir", &first[..count / 2], |path| rustix::fs::rmdir(path).unwrap()),
        each("create+write+close+unlink", &first[..count / 2], |path| {
            let file = rustix::fs::open(path, create, mode).unwrap();
            assert_eq!(rustix::io::write(&file, &page), Ok(page.len()));
            drop(file);
            rustix::fs::unlink(path).unwrap();
        }),
    ];
    std::fs::remove_dir(&within).unwrap();
    measured
}

fn each<P>(name: &'static str, paths: &[P], call: impl Fn(&P)) -> Measured {
    let begun = Instant::now();
    paths.iter().for_each(call);
    (name, begun.elapsed().as_secs_f64() / paths.len() as f64)
}

fn pairs<P>(name: &'static str, from: &[P], to: &[P], call: impl Fn(&P, &P)) -> Measured {
    let begun = Instant::now();
    from.iter().zip(to).for_each(|(from, to)| call(from, to));
    (name, begun.elapsed().as_secs_f64() / from.len() as f64)
}

fn list(name: &'static str, directory: &Path) -> Measured {
    let begun = Instant::now();
    let mut listed = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        entry.unwrap().metadata().unwrap();
        listed += 1;
    }
    (name, begun.elapsed().as_secs_f64() / f64::from(listed))
}
