//! A mount by one who may not: through fusermount3.

use crate::mirror::Mirror;
use mezzo_fuse::{MountOptions, Session, Wanted, mount, unmount};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The user and group that may not.
const NOBODY: u32 = 65_534;

/// Tells the child, which is this program again, its directory.
const DIRECTORY: &str = "MEZZO_FUSE_TEST_AS_NOBODY";

/// Runs the child in a mount namespace of its own, which takes its mounts along when it ends. There /dev/fuse
/// is open to everyone, as usual systems have it.
const AS_NOBODY: &str = r#"
    set -e
    mknod -m 666 "$MEZZO_FUSE_TEST_AS_NOBODY/fuse" c 10 229
    mount --bind "$MEZZO_FUSE_TEST_AS_NOBODY/fuse" /dev/fuse
    exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

fn helper_is_there() -> bool {
    ["/bin/fusermount3", "/usr/bin/fusermount3"].iter().any(|path| Path::new(path).exists())
}

#[test]
fn nobody_mounts_too() {
    crate::mounted::enter_own_namespace();
    if !helper_is_there() {
        eprintln!("skipped: fusermount3 is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "mount", "host"] {
        let path = directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", AS_NOBODY, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "unprivileged::as_nobody", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// The child's part; does nothing of its own.
#[test]
fn as_nobody() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let (host, path) = (directory.join("host"), directory.join("mount"));
    refused(&directory);
    let device = mount(&path, &MountOptions { source: "a,b".into(), ..MountOptions::default() }).unwrap();
    assert!(!device.is_privileged());
    let session = Session::start(device, Wanted { passthrough: true, ..Wanted::default() }).unwrap();
    assert!(!session.granted().passthrough, "that needs privilege");
    let filesystem = Arc::new(Mirror::new(&host, None));
    let runner = std::thread::spawn(move || session.run(filesystem, 2));
    fs::write(path.join("a"), "by nobody").unwrap();
    assert_eq!(fs::read_to_string(host.join("a")).unwrap(), "by nobody");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.lines().any(|line| line.starts_with("a,b ") && line.contains(" fuse.mezzo ")), "{mounts}");
    unmount(&path, false).unwrap();
    runner.join().unwrap().unwrap();
}

/// What the helper refuses, it says why.
fn refused(directory: &Path) {
    let error = mount(&directory.join("nowhere"), &MountOptions::default()).unwrap_err();
    assert!(error.to_string().contains("fusermount3"), "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");
}
