//! Files that get other data while users have them open: they become another inode of the host.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, SeekFrom, XattrFlags};

use crate::common::{Host, Mounted, ROOT, apart, errno, eventually, mezzo, succeeds};
use crate::mapping::Mapping;
use crate::unprivileged::{Home, NOBODY, has_fusermount};

/// A mounted tree, and how its user runs the program.
struct Tree<'a> {
    path: &'a Path,
    run: &'a (dyn Fn() -> Command + Sync),
}

impl Tree<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn undo_of(&self, arguments: &[&str]) -> Command {
        let mut command = (self.run)();
        command.arg("undo").arg(self.path).args(arguments);
        command
    }

    fn undo(&self) {
        succeeds(&mut self.undo_of(&[]));
    }

    /// The number of the last record of data.
    fn last(&self) -> String {
        let output =
            succeeds((self.run)().args(["log", "--json", "--kind", "close", "-n", "1"]).arg(self.path));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["recno"].to_string()
    }

    fn redo(&self) {
        succeeds((self.run)().arg("redo").arg(self.path));
    }

    /// Writes to a file that is shorter: one undo takes that back.
    fn write(&self, name: &str, bytes: &[u8]) {
        File::options().write(true).open(self.path(name)).unwrap().write_all_at(bytes, 0).unwrap();
        // The kernel tells of a release in its own time. Until then the file counts as open for writing.
        eventually("nobody writes", || self.undo_of(&["--dry-run"]).output().unwrap().status.success());
    }
}

/// Runs `check` where data passes through the kernel, over each transport that there is, and where it does not.
fn on_every_mount(check: impl Fn(&Tree<'_>)) {
    let has_rings = fs::read("/sys/module/fuse/parameters/enable_uring").is_ok_and(|on| on[0] == b'Y');
    for transport in ["device", "io-uring"].iter().take(if has_rings { 2 } else { 1 }) {
        let mut m = Mounted::unmounted(Host::Ext4, |_| {});
        m.mount_with(&["--transport", transport]);
        apart(ROOT, || check(&Tree { path: &m.path(""), run: &mezzo }));
    }
    if has_fusermount() {
        let mut home = Home::new(Host::Ext4.enter());
        NOBODY.does(|| fs::create_dir(home.tree()).unwrap());
        succeeds(home.mezzo().args(["init", "tree"]));
        home.mount();
        let (tree, runtime) = (home.tree(), home.tree().parent().unwrap().to_owned());
        apart(NOBODY, || {
            let run = || {
                let mut command = mezzo();
                command.env("XDG_RUNTIME_DIR", &runtime);
                command
            };
            check(&Tree { path: &tree, run: &run });
        });
        home.unmount();
        home.check();
    }
}

/// Tells others that it is over, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All that a descriptor reads.
fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize + 100];
    let mut filled = 0;
    loop {
        match file.read_at(&mut bytes[filled..], filled as u64).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    bytes
}

/// The same descriptor's file by its path in /proc.
fn through_proc(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[test]
fn who_has_a_file_open_goes_on_with_what_it_was() {
    on_every_mount(|tree| {
        let (first, second) = (vec![b'1'; 5000], vec![b'2'; 9000]);
        let names = ["f", "g"].map(|name| tree.path(name));
        fs::write(&names[0], &first).unwrap();
        fs::hard_link(&names[0], &names[1]).unwrap();
        tree.write("f", &second);
        let before = fs::metadata(&names[0]).unwrap();
        let old = File::open(&names[0]).unwrap();
        let mapping = Mapping::readable(&old, second.len());
        let mapped_alone = Mapping::readable(File::open(&names[1]).unwrap(), second.len());
        let keeps = |when: &str| {
            assert!(read(&old) == second, "{when}");
            assert!(mapping.load(0, 9000) == second && mapped_alone.load(0, 9000) == second, "{when}");
            let told = old.metadata().unwrap();
            assert_eq!(
                (told.len(), told.blocks(), told.ino()),
                (9000, before.blocks(), before.ino()),
                "{when}"
            );
            assert_eq!(told.modified().unwrap(), before.modified().unwrap(), "{when}");
        };
        let shows = |bytes: &[u8]| {
            for name in &names {
                let now = fs::metadata(name).unwrap();
                assert_eq!((now.len(), now.nlink(), now.ino()), (bytes.len() as u64, 2, before.ino()));
                assert!(fs::read(name).unwrap() == bytes);
                assert_eq!(File::open(name).unwrap().metadata().unwrap().len(), bytes.len() as u64);
            }
        };
        tree.undo();
        shows(&first);
        keeps("after the undo");
        let between = File::open(&names[1]).unwrap();
        tree.redo();
        shows(&second);
        keeps("after the redo");
        assert!(read(&between) == first);
        for (name, byte) in names.iter().zip(*b"34") {
            File::options().write(true).open(name).unwrap().write_all_at(&[byte], 0).unwrap();
            keeps("after a write");
            assert!(read(&between) == first);
            assert!(names.iter().all(|name| fs::read(name).unwrap()[..2] == [byte, b'2']));
        }
    });
}

#[test]
fn an_old_descriptor_changes_the_file_as_it_is_now() {
    on_every_mount(|tree| {
        fs::write(tree.path("f"), "1").unwrap();
        tree.write("f", b"second");
        let old = File::open(tree.path("f")).unwrap();
        let modified = old.metadata().unwrap().modified().unwrap();
        tree.undo();
        let by_name = || fs::metadata(tree.path("f")).unwrap();
        let mode = |of: fs::Metadata| of.mode() & 0o7777;
        assert_eq!(by_name().len(), 1);
        old.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!((mode(by_name()), mode(old.metadata().unwrap())), (0o640, 0o640));
        fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!((mode(by_name()), mode(old.metadata().unwrap())), (0o604, 0o604));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        old.set_times(FileTimes::new().set_modified(time)).unwrap();
        assert_eq!(by_name().modified().unwrap(), time);
        assert_eq!(old.metadata().unwrap().modified().unwrap(), modified);
        let groups = rustix::process::getgroups().unwrap();
        let group = groups.first().map_or(rustix::process::getgid().as_raw(), |group| group.as_raw());
        std::os::unix::fs::fchown(&old, None, Some(group)).unwrap();
        assert_eq!((by_name().gid(), old.metadata().unwrap().gid()), (group, group));
        rustix::fs::fsetxattr(&old, "user.a", b"1", XattrFlags::empty()).unwrap();
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(tree.path("f"), "user.a", &mut value), Ok(1));
        rustix::fs::linkat(CWD, through_proc(&old), CWD, tree.path("g"), AtFlags::SYMLINK_FOLLOW).unwrap();
        assert_eq!(fs::read(tree.path("g")).unwrap(), b"1");
        assert_eq!((by_name().nlink(), old.metadata().unwrap().nlink()), (2, 2));
        fs::remove_file(tree.path("f")).unwrap();
        fs::remove_file(tree.path("g")).unwrap();
        let told = old.metadata().unwrap();
        assert_eq!((told.len(), told.nlink()), (6, 0));
        assert_eq!(read(&old), b"second");
    });
}

#[test]
fn an_old_descriptor_s_path_in_proc_leads_to_what_it_was() {
    on_every_mount(|tree| {
        fs::write(tree.path("f"), "1").unwrap();
        tree.write("f", b"second");
        let old = File::open(tree.path("f")).unwrap();
        tree.undo();
        let path = through_proc(&old);
        let again = File::open(&path).unwrap();
        assert_eq!((read(&again), read(&old)), (b"second".to_vec(), b"second".to_vec()));
        assert_eq!(fs::metadata(&path).unwrap().len(), 6);
        assert_eq!(errno(File::options().write(true).open(&path)), libc::ESTALE);
        assert_eq!(errno(File::options().append(true).open(&path)), libc::ESTALE);
        assert_eq!(errno(File::options().write(true).truncate(true).open(&path)), libc::ESTALE);
        let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path ends in NUL.
        assert_eq!(unsafe { libc::truncate(path.as_ptr(), 0) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ESTALE));
        fs::write(tree.path("g"), "1").unwrap();
        tree.write("g", b"second");
        let named = rustix::fs::open(tree.path("g"), OFlags::PATH, Mode::empty()).unwrap();
        tree.undo();
        assert_eq!(fs::read(through_proc(&named)).unwrap(), b"1");
        drop(old);
        assert_eq!((read(&again), fs::read(tree.path("f")).unwrap()), (b"second".to_vec(), b"1".to_vec()));
    });
}

#[test]
fn an_old_descriptor_s_data_is_searched_and_copied() {
    on_every_mount(|tree| {
        fs::write(tree.path("f"), "1").unwrap();
        let written = File::options().write(true).open(tree.path("f")).unwrap();
        written.write_all_at(b"data", 1 << 20).unwrap();
        drop(written);
        tree.write("f", b"2");
        let old = File::open(tree.path("f")).unwrap();
        tree.undo();
        tree.undo();
        assert_eq!(fs::metadata(tree.path("f")).unwrap().len(), 1);
        assert_eq!(rustix::fs::seek(&old, SeekFrom::Data(4096)), Ok(1 << 20));
        assert_eq!(rustix::fs::seek(&old, SeekFrom::End(0)), Ok((1 << 20) + 4));
        let copy = File::create(tree.path("copy")).unwrap();
        let (mut from, mut to) = (1 << 20, 0);
        let copied = rustix::fs::copy_file_range(&old, Some(&mut from), &copy, Some(&mut to), 100);
        assert_eq!(copied, Ok(4));
        drop(copy);
        assert_eq!(fs::read(tree.path("copy")).unwrap(), b"data");
    });
}

#[test]
fn a_running_program_goes_on_as_it_was() {
    let m = Mounted::new();
    let program = m.path("program");
    fs::copy("/bin/cat", &program).unwrap();
    let before = m.last();
    succeeds(Command::new("cp").arg("/bin/sleep").arg(&program));
    let mut running = Command::new(&program).arg("1000").spawn().unwrap();
    let image = format!("/proc/{}/exe", running.id());
    succeeds(mezzo().arg("undo").arg(m.path("")).args(["--to", &before.to_string()]));
    assert!(fs::read(&program).unwrap() == fs::read("/bin/cat").unwrap());
    assert!(fs::read(&image).unwrap() == fs::read("/bin/sleep").unwrap());
    succeeds(Command::new(&image).arg("0"));
    assert_eq!(succeeds(Command::new(&program).arg("/proc/self/comm")).stdout, b"program\n");
    succeeds(mezzo().arg("redo").arg(m.path("")));
    // What runs is not what is written to, though both are the same bytes.
    fs::write(&program, "#!/bin/true").unwrap();
    assert!(fs::read(&image).unwrap() == fs::read("/bin/sleep").unwrap());
    assert!(running.try_wait().unwrap().is_none(), "it still runs");
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn a_removed_file_that_is_back_is_not_the_one_that_others_have_open() {
    on_every_mount(|tree| {
        fs::write(tree.path("f"), "").unwrap();
        let old = File::open(tree.path("f")).unwrap();
        fs::remove_file(tree.path("f")).unwrap();
        tree.undo();
        fs::write(tree.path("f"), "new").unwrap();
        assert_eq!((fs::read(tree.path("f")).unwrap(), read(&old)), (b"new".to_vec(), Vec::new()));
        assert_eq!((fs::metadata(tree.path("f")).unwrap().len(), old.metadata().unwrap().len()), (3, 0));
    });
}

#[test]
fn a_removed_directory_that_is_back_is_not_the_one_that_others_stand_in() {
    on_every_mount(|tree| {
        fs::create_dir(tree.path("d")).unwrap();
        let old = File::open(tree.path("d")).unwrap();
        fs::remove_dir(tree.path("d")).unwrap();
        tree.undo();
        fs::write(tree.path("d/f"), "new").unwrap();
        assert_eq!(fs::read_dir(tree.path("d")).unwrap().count(), 1);
        let made = rustix::fs::openat(&old, "g", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        assert_eq!(errno(made), libc::ENOENT);
    });
}

#[test]
fn a_file_keeps_its_inode_number_and_no_other_has_it() {
    let mut m = Mounted::new();
    let names: Vec<String> = (0..40).map(|number| format!("f{number}")).collect();
    for name in &names {
        fs::write(m.path(name), format!("{name} at first")).unwrap();
    }
    let before = m.last();
    for name in &names {
        fs::write(m.path(name), format!("{name} afterwards")).unwrap();
    }
    let numbers = |m: &Mounted| -> Vec<u64> {
        let listed = fs::read_dir(m.path("")).unwrap().map(Result::unwrap);
        for entry in listed {
            assert_eq!(entry.ino(), fs::metadata(entry.path()).unwrap().ino());
        }
        names.iter().map(|name| fs::metadata(m.path(name)).unwrap().ino()).collect()
    };
    let told = numbers(&m);
    let open = File::open(m.path("f0")).unwrap();
    succeeds(mezzo().arg("undo").arg(m.path("")).args(["--to", &before.to_string()]));
    assert_eq!(numbers(&m), told);
    drop(open);
    m.unmount();
    // What was kept of them is gone, and the host has its inodes for others.
    fs::remove_dir_all(m.tree().join(".mezzo/attic")).unwrap();
    m.mount();
    assert_eq!(numbers(&m), told);
    (0..100).for_each(|number| fs::write(m.path(&format!("new{number}")), "1").unwrap());
    let all = fs::read_dir(m.path("")).unwrap().map(|entry| entry.unwrap().ino());
    assert_eq!(all.collect::<BTreeSet<u64>>().len(), 140);
    m.kill_daemon();
    eventually("nobody answers", || errno(rustix::fs::statvfs(m.path(""))) == libc::ENOTCONN);
    m.mount();
    assert_eq!(numbers(&m), told);
}

#[test]
fn users_at_work_meet_one_version_or_the_other_while_it_is_changed() {
    const TIMES: usize = 40;
    on_every_mount(|tree| {
        let versions = [vec![b'1'; 3000], vec![b'2'; 300_000]];
        fs::create_dir(tree.path("d")).unwrap();
        let (name, moving) = (tree.path("d/f"), [tree.path("moving"), tree.path("d/moving")]);
        fs::write(&name, &versions[0]).unwrap();
        fs::hard_link(&name, &moving[0]).unwrap();
        tree.write("d/f", &versions[1]);
        let written = tree.last();
        let over = AtomicBool::new(false);
        let worker = |work: &dyn Fn()| {
            let _over = Over(&over);
            while !over.load(Ordering::Relaxed) {
                work();
            }
        };
        let is_whole = |bytes: &[u8]| versions.iter().any(|version| version == bytes);
        let read_and_read_again = || {
            let old = File::open(&name).unwrap();
            let before = read(&old);
            assert!(is_whole(&before), "{} bytes, the first {:?}", before.len(), before.first());
            assert_eq!(old.metadata().unwrap().len(), before.len() as u64);
            std::thread::yield_now();
            assert!(read(&old) == before, "it changed under who has it open");
            assert!(is_whole(&read(&File::open(through_proc(&old)).unwrap())));
        };
        let look_and_list = || {
            let size = fs::metadata(&name).unwrap().len();
            assert!(versions.iter().any(|version| version.len() as u64 == size), "{size}");
            fs::write(tree.path("d/other"), "1").unwrap();
            fs::read_dir(tree.path("d")).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
            fs::remove_file(tree.path("d/other")).unwrap();
        };
        let rename = || {
            fs::rename(&moving[0], &moving[1]).unwrap();
            fs::rename(&moving[1], &moving[0]).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| worker(&read_and_read_again));
            scope.spawn(|| worker(&read_and_read_again));
            scope.spawn(|| worker(&look_and_list));
            scope.spawn(|| worker(&rename));
            let _over = Over(&over);
            for round in 0..TIMES {
                // Renames are newer than what is taken back.
                match round % 2 {
                    0 => drop(succeeds(&mut tree.undo_of(&["--record", &written]))),
                    _ => tree.redo(),
                }
                let version = &versions[round % 2];
                assert!(fs::read(&name).unwrap() == *version, "round {round}");
                assert_eq!(fs::metadata(&name).unwrap().len(), version.len() as u64, "round {round}");
                let moved = std::iter::repeat_with(|| moving.iter().find_map(|name| fs::read(name).ok()));
                assert!(moved.flatten().next().unwrap() == *version, "round {round}");
            }
        });
    });
}
