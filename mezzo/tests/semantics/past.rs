//! Who can go past the mount, as `mezzo mount` and `mezzo status` name them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::common::{Host, Mounted, Process, ROOT, Talk, eventually, mezzo, succeeds};

/// What `mezzo status` names a process with.
fn named(m: &Mounted, process: &Process) -> Vec<String> {
    let status = m.status();
    let all = status["behind_processes"].as_array().unwrap().iter();
    let of_process = all.filter(|one| one["pid"] == process.pid());
    of_process.map(|one| one["has"].as_str().unwrap().to_owned()).collect()
}

/// A process that has done `act` and goes on when it is told to.
fn one_that(act: impl FnOnce(&Talk<'_>)) -> Process {
    let process = Process::start(ROOT, act);
    process.talk().wait();
    process
}

#[test]
fn processes_that_go_past_the_mount_are_named() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| {
        fs::create_dir(tree.join("d")).unwrap();
        fs::write(tree.join("f"), "1").unwrap();
    });
    let tree = m.tree();
    let hold = |talk: &Talk<'_>| {
        talk.go_on();
        talk.wait();
    };
    let stands = one_that(|talk| {
        std::env::set_current_dir(tree.join("d")).unwrap();
        hold(talk);
        // As a shell does that leaves and comes back.
        std::env::set_current_dir("/").unwrap();
        std::env::set_current_dir(tree.join("d")).unwrap();
        hold(talk);
    });
    let writes = one_that(|talk| {
        let file = File::options().append(true).open(tree.join("f")).unwrap();
        hold(talk);
        file.write_at(b"2", 1).unwrap();
    });
    let reads = one_that(|talk| {
        let _files = (File::open(tree.join("f")).unwrap(), File::open(&tree).unwrap());
        hold(talk);
    });
    let maps = one_that(|talk| {
        let file = File::options().read(true).write(true).open(tree.join("f")).unwrap();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of a file, which nobody reads or writes.
        unsafe { mmap(std::ptr::null_mut(), 1, access, MapFlags::SHARED, &file, 0).unwrap() };
        drop(file);
        hold(talk);
    });
    let said = m.mount();
    let through = one_that(|talk| {
        std::env::set_current_dir(tree.join("d")).unwrap();
        let _file = File::options().write(true).open(tree.join("f")).unwrap();
        hold(talk);
    });
    let line = format!("process {} (", stands.pid());
    let line = said.lines().find(|told| told.contains(&line)).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("stands in") && line.contains("tree/d") && line.contains("cd \"$PWD\""), "{line}");
    assert_eq!(named(&m, &stands), ["working-directory"]);
    assert_eq!(named(&m, &writes), ["writing"]);
    assert_eq!(named(&m, &reads), ["reading", "directory"]);
    assert_eq!(named(&m, &maps), ["mapping"]);
    assert!(named(&m, &through).is_empty(), "it uses the mount");
    let text = String::from_utf8(succeeds(mezzo().arg("status").arg(&tree)).stdout).unwrap();
    assert!(text.contains(&format!("process {} (", writes.pid())), "{text}");
    stands.talk().go_on();
    stands.talk().wait();
    assert!(named(&m, &stands).is_empty(), "it came back through the mount");
    for process in [stands, writes, reads, maps, through] {
        process.talk().go_on();
        process.finish();
    }
    let last_is_recorded = || m.records().iter().any(|record| record.change.kind() == "close");
    eventually("what was written past the mount is recorded", last_is_recorded);
}

#[test]
fn other_mounts_of_the_directory_are_named_and_watched() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| fs::create_dir(tree.join("d")).unwrap());
    let other = m.beside("other");
    mount_bind(m.tree().join("d"), &other).unwrap();
    let apart = one_that(|talk| {
        // SAFETY: other mounts concern no memory.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        talk.go_on();
        talk.wait();
        fs::write(m.tree().join("d/g"), "from another name space").unwrap();
    });
    let said = m.mount();
    assert!(said.contains(&format!("the directory itself is at {}:", other.display())), "{said}");
    let mounts = m.status()["behind_mounts"].as_array().unwrap().clone();
    let told = |path: &std::path::Path, pid: u32| {
        mounts.iter().any(|one| one["path"] == path.to_str().unwrap() && one["pid"] == pid)
    };
    assert!(told(&other, 0) && told(&m.tree(), apart.pid()), "{mounts:#?}");
    let last = m.last();
    fs::write(other.join("f"), "past the mount").unwrap();
    apart.talk().go_on();
    apart.finish();
    let recorded = |path: &[u8]| m.records_since(last).iter().any(|r| r.change.path() == Some(path));
    eventually("both are recorded", || recorded(b"d/f") && recorded(b"d/g"));
    eventually("users see it", || fs::read(m.path("d/f")).is_ok_and(|bytes| bytes == b"past the mount"));
    unmount(&other, UnmountFlags::empty()).unwrap();
    assert!(m.status()["behind_mounts"].as_array().unwrap().is_empty());
}
