//! Mounts that show a fileset's directory, and mounts in it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::processes::NameSpace;
use super::{Below, Showing, Submount, joined, told};
use crate::mount_table::Entry;

/// Where the mounts of a table have the directory, or parts of it, whether something covers it there or not.
pub fn shown_at(below: &Below, table: &[Entry]) -> Vec<PathBuf> {
    table.iter().filter_map(|entry| shows(below, entry)).collect()
}

fn shows(below: &Below, entry: &Entry) -> Option<PathBuf> {
    if entry.device != below.device {
        return None;
    }
    match below.inside.strip_prefix(&entry.root) {
        Ok(rest) => Some(joined(&entry.mountpoint, rest)),
        Err(_) => entry.root.starts_with(&below.inside).then(|| entry.mountpoint.clone()),
    }
}

/// Where somebody can get at the directory by a path, past the mount. `space` is whose table it is, if not this process's.
pub fn showings(below: &Below, table: &[Entry], space: Option<&NameSpace>) -> Vec<Showing> {
    let shown = table.iter().filter(|entry| space.is_some() || entry.id != below.mount);
    let paths = shown.filter_map(|entry| shows(below, entry));
    let open = paths.filter(|path| !is_covered(below, table, path));
    open.map(|path| Showing {
        path: told(&path),
        pid: space.map_or(0, |space| space.pid),
        program: space.map_or_else(String::new, |space| space.program.clone()),
    })
    .collect()
}

/// Whether the fileset's mount is there, or above.
fn is_covered(below: &Below, table: &[Entry], path: &Path) -> bool {
    table.iter().any(|entry| is_ours(below, entry) && path.starts_with(&entry.mountpoint))
}

fn is_ours(below: &Below, entry: &Entry) -> bool {
    entry.kind == "fuse.mezzo" && entry.source == format!("mezzo:{}", below.replica).into_bytes()
}

/// What is mounted below the directory: on it, and over the fileset's mount.
pub fn submounts(below: &Below, table: &[Entry]) -> Vec<Submount> {
    let over: HashSet<u64> = table.iter().filter(|e| is_ours(below, e)).map(|entry| entry.id).collect();
    let mut found = Vec::new();
    for entry in table {
        let Some(base) = base_of(table, entry, |id| id == below.mount || over.contains(&id)) else {
            continue;
        };
        let hidden = base == below.mount;
        if !hidden || entry.mountpoint.starts_with(&below.path) && entry.mountpoint != below.path {
            found.push(Submount { path: told(&entry.mountpoint), kind: entry.kind.clone(), hidden });
        }
    }
    found
}

/// The first of certain mounts that `entry` is on, however far up. The fileset's own mount is on none.
fn base_of(table: &[Entry], entry: &Entry, is_base: impl Fn(u64) -> bool) -> Option<u64> {
    let mut parent = entry.parent;
    if is_base(entry.id) {
        return None;
    }
    // A chain of parents is no longer than the table.
    for _ in table {
        if is_base(parent) {
            return Some(parent);
        }
        parent = table.iter().find(|entry| entry.id == parent)?.parent;
    }
    None
}

#[cfg(test)]
mod tests {
    use mezzo_core::ReplicaId;

    use super::*;
    use crate::mount_table::parse;

    fn below() -> Below {
        Below {
            path: "/disk/a/tree".into(),
            replica: ReplicaId(0xabab_abab_abab_abab),
            mount: 30,
            device: "8:1".to_owned(),
            volume: (8, 1),
            inside: "/top/a/tree".into(),
        }
    }

    fn table(lines: &[&str]) -> Vec<Entry> {
        lines.iter().map(|line| parse(line.as_bytes()).unwrap()).collect()
    }

    const DISK: &str = "30 1 8:1 /top /disk rw - ext4 /dev/sda1 rw";
    const MOUNT: &str = "40 30 0:50 / /disk/a/tree rw - fuse.mezzo mezzo:abababababababab rw";

    #[test]
    fn other_mounts_that_show_the_directory_are_found() {
        let table = table(&[
            DISK,
            "31 1 8:1 / /whole rw - ext4 /dev/sda1 rw",
            "32 1 8:1 /top/a/tree/part /part rw - ext4 /dev/sda1 rw",
            "33 1 8:1 /top/a/tree2 /other rw - ext4 /dev/sda1 rw",
            "34 1 8:2 / /disk2 rw - ext4 /dev/sda2 rw",
            MOUNT,
        ]);
        let paths: Vec<_> = showings(&below(), &table, None).into_iter().map(|found| found.path).collect();
        assert_eq!(paths, ["/whole/top/a/tree", "/part"]);
        assert_eq!(shown_at(&below(), &table).len(), 3, "where the mount covers it too");
    }

    #[test]
    fn what_is_mounted_in_it_is_found() {
        let table = table(&[
            DISK,
            "31 30 0:60 / /disk/a/tree/x rw - tmpfs none rw",
            "32 31 0:61 / /disk/a/tree/x/y rw - tmpfs none rw",
            "33 30 0:62 / /disk/a/tree2 rw - tmpfs none rw",
            MOUNT,
            "41 40 0:63 / /disk/a/tree/z rw - ramfs none rw",
        ]);
        let found = submounts(&below(), &table);
        let told: Vec<_> = found.iter().map(|found| (found.path.as_str(), found.hidden)).collect();
        assert_eq!(told, [("/disk/a/tree/x", true), ("/disk/a/tree/x/y", true), ("/disk/a/tree/z", false)]);
    }
}
