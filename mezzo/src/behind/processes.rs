//! Processes that have something of a fileset's directory itself, found in /proc.
//!
//! A path alone does not tell: those of the mount look the same. So what a path makes likely is asked for its file system, in
//! a way that asks nothing of the mount.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::{Below, Has, Process, told};
use crate::mount_table::{self, Entry};

/// Mounts that some processes see, and this one does not.
#[derive(Debug)]
pub struct NameSpace {
    /// One of the processes.
    pub pid: u32,
    /// Its program.
    pub program: String,
    /// Their mounts.
    pub mounts: Vec<Entry>,
}

/// The mounts of all processes that see others than this one does.
pub fn name_spaces() -> Vec<NameSpace> {
    let space_of = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let mut known = HashSet::from([space_of(Path::new("/proc/self"))]);
    let mut found = Vec::new();
    for (pid, process) in all() {
        let space = space_of(&process);
        if space.is_some() && known.insert(space) {
            let mounts = mount_table::read_from(&process.join("mountinfo")).unwrap_or_default();
            found.push(NameSpace { pid, program: program(&process), mounts });
        }
    }
    found
}

/// All processes but this program's own, which change nothing past the mount.
fn all() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (pid != std::process::id()).then(|| (pid, entry.path()))
    })
}

fn program(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    mezzo_core::name::escape(name.trim_ascii_end())
}

/// Processes that have something below one of the paths `shown`, on the host's file system. Each is told once for each way in
/// which it has something.
pub fn find(below: &Below, shown: &[PathBuf]) -> Vec<Process> {
    let mut found = Vec::new();
    for (pid, process) in all() {
        let mut had: Vec<(Has, PathBuf)> = Vec::new();
        let mut note = |has: Has, path: PathBuf| {
            if !had.iter().any(|(other, _)| *other == has) {
                had.push((has, path));
            }
        };
        for (name, has) in [("cwd", Has::WorkingDirectory), ("root", Has::RootDirectory)] {
            if let Some((path, _)) = leads_there(below, shown, &process.join(name)) {
                note(has, path);
            }
        }
        for (path, has) in open(below, shown, &process) {
            note(has, path);
        }
        if let Some(path) = mapped(below, shown, &process) {
            note(Has::Mapping, path);
        }
        // Read for those alone that are to be told.
        let program = if had.is_empty() { String::new() } else { program(&process) };
        if program != "mezzo" {
            found.extend(had.into_iter().map(|(has, path)| Process {
                pid,
                program: program.clone(),
                has,
                path: told(&path),
            }));
        }
    }
    found
}

fn is_below(shown: &[PathBuf], path: &[u8]) -> bool {
    shown.iter().any(|shown| {
        let rest = path.strip_prefix(shown.as_os_str().as_bytes());
        // The root directory alone ends in a slash.
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || shown == Path::new("/"))
    })
}

/// Where a link of /proc leads, if that is in the directory itself.
fn leads_there(below: &Below, shown: &[PathBuf], link: &Path) -> Option<(PathBuf, FileType)> {
    let path = fs::read_link(link).ok().filter(|path| is_below(shown, path.as_os_str().as_bytes()))?;
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(CWD, link, flags, StatxFlags::TYPE | StatxFlags::NLINK).ok()?;
    let is_there = (found.stx_dev_major, found.stx_dev_minor) == below.volume && found.stx_nlink > 0;
    is_there.then(|| (path, FileType::from_raw_mode(found.stx_mode.into())))
}

fn open(below: &Below, shown: &[PathBuf], process: &Path) -> Vec<(PathBuf, Has)> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let (path, kind) = leads_there(below, shown, &entry.path())?;
        let flags = open_flags(&process.join("fdinfo").join(entry.file_name()))?;
        let has = match kind {
            FileType::Directory => Has::Directory,
            _ if flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY => Has::Writing,
            _ => Has::Reading,
        };
        Some((path, has))
    });
    found.collect()
}

/// `flags:` and octal digits, in a line of `fdinfo`.
fn open_flags(info: &Path) -> Option<i32> {
    let text = fs::read_to_string(info).ok()?;
    let digits = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(digits.trim(), 8).ok()
}

/// A file that the process has mapped, shared and to write to.
fn mapped(below: &Below, shown: &[PathBuf], process: &Path) -> Option<PathBuf> {
    let device = format!("{:02x}:{:02x}", below.volume.0, below.volume.1);
    let table = fs::read(process.join("maps")).ok()?;
    table.split(|byte| *byte == b'\n').find_map(|line| {
        // `addresses permissions offset device inode path`, with blanks before the path.
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let permissions = fields.nth(1)?;
        if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
            return None;
        }
        let is_there = fields.nth(1)? == device.as_bytes();
        let path = fields.nth(1)?.trim_ascii_start();
        (is_there && is_below(shown, path)).then(|| PathBuf::from(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_another_by_whole_names() {
        let shown = [PathBuf::from("/a/tree"), PathBuf::from("/b")];
        for (path, expected) in
            [("/a/tree", true), ("/a/tree/x", true), ("/a/tree2", false), ("/b/x", true), ("/", false)]
        {
            assert_eq!(is_below(&shown, path.as_bytes()), expected, "{path}");
        }
        assert!(is_below(&[PathBuf::from("/")], b"/x"));
    }
}
