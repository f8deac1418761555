//! File systems to run on: fresh images on loop devices, mounted where only tests see them.
//!
//! Each test has a mount namespace of its own. Nothing of it is left behind, however the test ends, and nobody else on the
//! machine gets a copy of its mounts, which would keep them from ending.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// A sort of host file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The usual one.
    Ext4,
    /// One with other limits, other rules for extended attributes, and room for them in the inode.
    Xfs,
}

/// Where it is mounted: an empty directory that stays, so that nobody has to remove what is mounted elsewhere.
const PLACE: &str = "/run/mezzo-tests";

thread_local! {
    /// Which one the thread sees.
    static ENTERED: Cell<Option<Host>> = const { Cell::new(None) };
}

impl Host {
    /// Brings the calling thread, and all that it starts from now on, to where this file system is, and returns the path.
    /// The thread's working directory and its file-creation mask are its own from now on.
    pub fn enter(self) -> &'static Path {
        if ENTERED.get() != Some(self) {
            join(self.namespace());
            ENTERED.set(Some(self));
        }
        Path::new(PLACE)
    }

    /// A namespace in which it is mounted, made once in the life of this process.
    fn namespace(self) -> &'static File {
        static EXT4: OnceLock<File> = OnceLock::new();
        static XFS: OnceLock<File> = OnceLock::new();
        let namespace = if self == Host::Ext4 { &EXT4 } else { &XFS };
        namespace.get_or_init(|| std::thread::spawn(move || self.make_namespace()).join().unwrap())
    }

    fn make_namespace(self) -> File {
        unshare(UnshareFlags::NEWNS);
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .unwrap();
        std::fs::create_dir_all(PLACE).unwrap();
        let image = self.make_image();
        run(Command::new("mount").args(["-t", self.name(), "-o", self.options()]).arg(&image).arg(PLACE));
        // The loop device has it, and goes away with the last mount.
        std::fs::remove_file(&image).unwrap();
        rustix::mount::mount_remount(PLACE, MountFlags::RELATIME, "").unwrap();
        File::open("/proc/thread-self/ns/mnt").unwrap()
    }

    /// Of 4 GiB, with room for half a million objects; what is not written takes no room.
    fn make_image(self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let image = directory.join(format!("mezzo-tests-{}.{}", std::process::id(), self.name()));
        File::create(&image).unwrap().set_len(4 << 30).unwrap();
        let ext4 = ["-q", "-F", "-i", "8192", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"];
        let xfs = ["-q", "-f", "-K"];
        let arguments = if self == Host::Ext4 { &ext4[..] } else { &xfs[..] };
        run(Command::new(format!("mkfs.{}", self.name())).args(arguments).arg(&image));
        image
    }

    fn name(self) -> &'static str {
        if self == Host::Ext4 { "ext4" } else { "xfs" }
    }

    fn options(self) -> &'static str {
        if self == Host::Ext4 { "loop,discard,noinit_itable" } else { "loop,discard" }
    }
}

/// A copy of `namespace` for this thread alone.
fn join(namespace: &File) {
    assert!(
        rustix::process::geteuid().is_root(),
        "tests on mounts need root, to make mounts that nobody else sees"
    );
    unshare(UnshareFlags::FS);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
    unshare(UnshareFlags::NEWNS);
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o022));
    debug_assert!(namespace.as_raw_fd() >= 0);
}

fn unshare(what: UnshareFlags) {
    // SAFETY: other mounts, another working directory and another mask concern no memory, and this thread alone.
    unsafe { rustix::thread::unshare_unsafe(what) }.unwrap();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
