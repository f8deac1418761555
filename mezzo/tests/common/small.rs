//! File systems that are full soon: small images on loop devices, each for one test.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::{Host, succeeds};

/// One of them, mounted until it is dropped.
pub struct SmallHost {
    area: TempDir,
}

impl SmallHost {
    /// Made by `mkfs` with these arguments, of so many MiB, and mounted with `options`.
    pub fn new(mkfs: &[&str], mebibytes: u64, options: &str) -> SmallHost {
        SmallHost::if_possible(mkfs, mebibytes, options).expect("it can be mounted")
    }

    /// The same; `None` where the kernel can't mount it so.
    pub fn if_possible(mkfs: &[&str], mebibytes: u64, options: &str) -> Option<SmallHost> {
        let host = SmallHost { area: TempDir::new_in(Host::Ext4.enter()).unwrap() };
        let image = host.area.path().join("image");
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        succeeds(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        std::fs::create_dir(host.path()).unwrap();
        let options = format!("loop,{options}");
        let mounted = Command::new("mount").arg("-o").arg(options).arg(&image).arg(host.path()).output();
        mounted.unwrap().status.success().then_some(host)
    }

    /// In memory, of so many MiB.
    pub fn in_memory(mebibytes: u64) -> SmallHost {
        let host = SmallHost { area: TempDir::new_in(Host::Ext4.enter()).unwrap() };
        std::fs::create_dir(host.path()).unwrap();
        let size = format!("size={mebibytes}m");
        succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(host.path()));
        host
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.area.path().join("host")
    }

    /// Ends all writing, as the host does where its disk fails: ext4 takes it for read-only from then on.
    pub fn abort(&self) {
        succeeds(Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()));
    }

    /// Mounts it anew, when nobody uses it any more.
    pub fn mount_again(&self) {
        let start = std::time::Instant::now();
        while let Err(error) = rustix::mount::unmount(self.path(), UnmountFlags::empty()) {
            assert!(start.elapsed() < super::PATIENCE, "could not unmount: {error}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let image = self.area.path().join("image");
        let _ = Command::new("fsck.ext4").args(["-p", "-f"]).arg(&image).output();
        succeeds(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()));
    }

    /// A directory where there is room.
    pub fn beside(&self) -> PathBuf {
        self.area.path().to_owned()
    }
}

impl Drop for SmallHost {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
    }
}
