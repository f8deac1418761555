//! Handlers that go wrong, many callers at once, and the end.

use crate::mirror::Mirror;
use crate::mounted::{Mounted, enter_own_namespace, wait_for};
use mezzo_fuse::{MountOptions, Session, Wanted, mount, unmount};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

#[track_caller]
fn check_error(mounted: &Mounted, name: &str, errno: i32) {
    let error = fs::metadata(mounted.path(name)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(errno), "{name}");
}

pub fn check_panics(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 1);
    fs::write(mounted.host("fine"), "fine").unwrap();
    for round in 0..3 {
        check_error(&mounted, &format!("panic {round}"), libc::EIO);
        check_error(&mounted, &format!("forgotten {round}"), libc::EIO);
        assert_eq!(fs::read_to_string(mounted.path("fine")).unwrap(), "fine");
    }
    mounted.end().unwrap();
}

#[test]
fn a_panic_fails_one_request() {
    check_panics(Wanted::default());
}

pub fn check_later_answers(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 1);
    fs::write(mounted.host("later"), "").unwrap();
    fs::metadata(mounted.path("later")).unwrap();
    check_error(&mounted, "later, and not there", libc::ENOENT);
    mounted.end().unwrap();
}

#[test]
fn answers_may_come_from_elsewhere() {
    check_later_answers(Wanted::default());
}

pub fn check_many_callers(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 3);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let mounted = &mounted;
            scope.spawn(move || {
                for number in 0..60 {
                    let name =
                        format!("{} {caller} {number}", if number % 3 == 0 { "later" } else { "file" });
                    let data = vec![caller as u8; 1000 * number];
                    fs::write(mounted.path(&name), &data).unwrap();
                    assert!(fs::read(mounted.path(&name)).unwrap() == data);
                    fs::rename(mounted.path(&name), mounted.path(&format!("{name}, renamed"))).unwrap();
                    fs::remove_file(mounted.path(&format!("{name}, renamed"))).unwrap();
                }
            });
        }
    });
    assert!(crate::mounted::names(&mounted.path("")).is_empty());
    mounted.end().unwrap();
}

#[test]
fn many_callers_at_once() {
    check_many_callers(Wanted::default());
}

#[test]
fn the_end_is_told_once_and_threads_are_announced() {
    let mounted = Mounted::with(Wanted::default(), 3);
    wait_for("the threads", || mounted.filesystem.threads_started.load(SeqCst) == 3);
    let filesystem = mounted.filesystem.clone();
    assert_eq!(filesystem.count("Destroy"), 0);
    mounted.end().unwrap();
    assert_eq!(filesystem.count("Destroy"), 1);
}

#[test]
fn an_unmount_waits_for_its_users_unless_it_is_lazy() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "still here").unwrap();
    let file = fs::File::open(mounted.path("a")).unwrap();
    let busy = unmount(&mounted.path(""), false).unwrap_err();
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    unmount(&mounted.path(""), true).unwrap();
    assert!(crate::mounted::names(&mounted.path("")).is_empty(), "the bare directory");
    let mut start = [0; 5];
    std::os::unix::fs::FileExt::read_at(&file, &mut start, 0).unwrap();
    assert_eq!(&start, b"still");
    let nothing = unmount(&mounted.path(""), false).unwrap_err();
    assert!(nothing.to_string().contains("could not unmount"), "{nothing}");
}

#[test]
fn a_mount_on_nothing_fails_and_says_so() {
    let error = mount("/no such place".as_ref(), &MountOptions::default()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("could not mount /no such place"), "{error}");
}

#[test]
fn mount_options_reach_the_kernel() {
    enter_own_namespace();
    let directory = tempfile::tempdir().unwrap();
    let options = MountOptions {
        source: "somewhere".into(),
        subtype: "test".into(),
        read_only: true,
        no_execute: true,
        ..MountOptions::default()
    };
    let device = mount(directory.path(), &options).unwrap();
    assert!(device.is_privileged());
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    unmount(directory.path(), false).unwrap();
    let place = directory.path().to_str().unwrap();
    let line = mounts.lines().find(|line| line.contains(place)).unwrap();
    assert!(line.starts_with("somewhere ") && line.contains(" fuse.test ro,nosuid,nodev,noexec,"), "{line}");
    assert!(line.contains("default_permissions") && !line.contains("allow_other"), "{line}");
}

/// The root has the type of what it is mounted on.
#[test]
fn a_file_can_be_mounted_on() {
    enter_own_namespace();
    let directory = tempfile::tempdir().unwrap();
    let (host, path) = (directory.path().join("host"), directory.path().join("mount"));
    fs::write(&host, "from below").unwrap();
    fs::write(&path, "hidden").unwrap();
    let session = Session::start(mount(&path, &MountOptions::default()).unwrap(), Wanted::default()).unwrap();
    let filesystem = Arc::new(Mirror::new(&host, None));
    let runner = std::thread::spawn(move || session.run(filesystem, 1));
    let text = fs::read_to_string(&path);
    unmount(&path, true).unwrap();
    assert_eq!(text.unwrap(), "from below");
    runner.join().unwrap().unwrap();
}
