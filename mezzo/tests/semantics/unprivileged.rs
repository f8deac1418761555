//! A user without rights mounts a fileset of their own, by fusermount3.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{Host, User, apart, errno, eventually, succeeds};

/// Whom systems know to own nothing.
pub const NOBODY: User = User { uid: 65534, gid: 65534, groups: &[] };

/// A directory of nobody's, in which they have a fileset.
pub struct Home {
    area: TempDir,
    daemon: u32,
}

impl Home {
    pub fn new(place: &Path) -> Home {
        open_fuse_to_all();
        let area = TempDir::new_in(place).unwrap();
        fs::set_permissions(area.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(area.path(), Some(NOBODY.uid), Some(NOBODY.gid)).unwrap();
        Home { area, daemon: 0 }
    }

    pub fn tree(&self) -> PathBuf {
        self.area.path().join("tree")
    }

    /// The program, run by nobody.
    pub fn mezzo(&self) -> Command {
        let mut command = NOBODY.command(env!("CARGO_BIN_EXE_mezzo"));
        command
            .env("XDG_RUNTIME_DIR", self.area.path())
            .env("HOME", self.area.path())
            .current_dir(self.area.path());
        command
    }

    pub fn mount(&mut self) -> Output {
        let output = succeeds(self.mezzo().arg("mount").arg("tree"));
        self.daemon = self.status()["pid"].as_u64().unwrap() as u32;
        eventually("the comparison of tree and log is done", || {
            self.status()["scan"].as_str().is_some_and(|scan| scan.starts_with("done"))
        });
        output
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&succeeds(self.mezzo().args(["status", "--json", "tree"])).stdout).unwrap()
    }

    pub fn unmount(&mut self) {
        eventually("it is unmounted", || {
            let output = self.mezzo().args(["unmount", "tree"]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || said.contains("busy"), "{said}");
            output.status.success()
        });
        self.daemon = 0;
    }

    pub fn check(&self) {
        succeeds(self.mezzo().args(["verify", "tree"]));
        NOBODY.does(|| fs::create_dir(self.area.path().join("replayed")).unwrap());
        succeeds(self.mezzo().args(["replay", "tree", "--onto", "replayed"]));
        let mut differences = Vec::new();
        let mut note = |finding| {
            if let mezzo_compare::Finding::Difference(difference) = finding {
                differences.push(difference.to_string());
            }
        };
        let replayed = self.area.path().join("replayed");
        mezzo_compare::compare(&self.tree(), &replayed, &mezzo_compare::Options::default(), &mut note)
            .unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(daemon) = rustix::process::Pid::from_raw(self.daemon as i32) {
            let _ = rustix::process::kill_process(daemon, rustix::process::Signal::KILL);
            let _ = rustix::mount::unmount(self.tree(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// As usual systems have it. Seen by this test alone, as all that it mounts.
fn open_fuse_to_all() {
    let fuse = Path::new("/dev/fuse");
    if fs::metadata(fuse).unwrap().mode() & 0o666 == 0o666 {
        return;
    }
    let node = Host::Ext4.enter().join(format!("fuse-{}", rustix::thread::gettid().as_raw_nonzero()));
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_bits_retain(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, rustix::fs::makedev(10, 229)).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    rustix::mount::mount_bind(&node, fuse).unwrap();
}

pub fn has_fusermount() -> bool {
    let found = Command::new("fusermount3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no fusermount3");
    }
    found
}

/// Init, mount, work, unmount, and all checks, as nobody in a directory of theirs.
fn check_work(place: &Path) {
    let mut home = Home::new(place);
    NOBODY.does(|| {
        fs::create_dir(home.tree()).unwrap();
        fs::write(home.tree().join("before"), "1").unwrap();
    });
    succeeds(home.mezzo().args(["init", "tree"]));
    home.mount();
    let tree = home.tree();
    apart(NOBODY, || {
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/f"), "written").unwrap();
        let file = File::options().read(true).write(true).open(tree.join("a/b/f")).unwrap();
        file.write_all_at(b"W", 0).unwrap();
        let mut bytes = [0; 7];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"Written");
        file.sync_all().unwrap();
        drop(file);
        fs::hard_link(tree.join("a/b/f"), tree.join("g")).unwrap();
        fs::rename(tree.join("a/b"), tree.join("b")).unwrap();
        symlink("b/f", tree.join("l")).unwrap();
        fs::set_permissions(tree.join("g"), fs::Permissions::from_mode(0o600)).unwrap();
        std::io::Write::write_all(&mut File::options().append(true).open(tree.join("l")).unwrap(), b" more")
            .unwrap();
        assert_eq!(fs::read_to_string(tree.join("g")).unwrap(), "Written more");
        assert_eq!(fs::metadata(tree.join("g")).unwrap().uid(), NOBODY.uid);
        fs::remove_file(tree.join("before")).unwrap();
        let open = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(tree.join("unlinked"))
            .unwrap();
        fs::remove_file(tree.join("unlinked")).unwrap();
        open.write_all_at(b"still", 0).unwrap();
        assert_eq!(open.metadata().unwrap().nlink(), 0);
        assert_eq!(errno(chown(tree.join("g"), Some(0), None)), libc::EPERM);
        let large: Vec<u8> = (0..1_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
        fs::write(tree.join("large"), &large).unwrap();
        assert!(fs::read(tree.join("large")).unwrap() == large);
    });
    home.unmount();
    home.check();
    home.mount();
    assert_eq!(NOBODY.does(|| fs::read_to_string(tree.join("b/f")).unwrap()), "Written more");
    home.unmount();
}

#[test]
fn a_user_mounts_a_fileset_of_their_own() {
    if has_fusermount() {
        check_work(Host::Ext4.enter());
    }
}

#[test]
fn a_user_mounts_a_fileset_of_their_own_in_memory() {
    if has_fusermount() {
        let place = Host::Ext4.enter().join("memory");
        // Seen by this test alone, as all that it mounts.
        fs::create_dir_all(&place).unwrap();
        let options = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("none", &place, "tmpfs", options, Some(c"size=64m")).unwrap();
        check_work(&place);
    }
}

#[test]
fn what_a_mount_does_without_is_told() {
    if !has_fusermount() {
        return;
    }
    let mut home = Home::new(Host::Ext4.enter());
    succeeds(home.mezzo().args(["init", "tree"]));
    let said = String::from_utf8(home.mount().stderr).unwrap();
    assert!(said.contains("without passthrough") && said.contains("without root"), "{said}");
    let status = home.status();
    assert_eq!((&status["mounted"], &status["passthrough"]), (&true.into(), &false.into()));
    assert_eq!(status["without"].as_array().unwrap().len(), 3);
    // FUSE keeps everybody else out, root too.
    assert_eq!(errno(fs::metadata(home.tree())), libc::EACCES);
    assert_eq!(crate::common::ALICE.does(|| errno(fs::read_dir(home.tree()))), libc::EACCES);
    home.unmount();
}

#[test]
fn a_user_s_busy_mount_is_not_unmounted() {
    if !has_fusermount() {
        return;
    }
    let mut home = Home::new(Host::Ext4.enter());
    succeeds(home.mezzo().args(["init", "tree"]));
    home.mount();
    let tree = home.tree();
    let user = crate::common::Process::start(NOBODY, |talk| {
        let file = File::create(tree.join("f")).unwrap();
        talk.go_on();
        talk.wait();
        file.write_all_at(b"1", 0).unwrap();
    });
    user.talk().wait();
    let output = home.mezzo().args(["unmount", "tree"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("busy") && said.contains("--lazy"), "{said}");
    user.talk().go_on();
    user.finish();
    home.unmount();
    home.check();
}
