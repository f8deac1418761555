//! Fifos, sockets, devices; marks on inodes; what is told of the file system; and notifications.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::fs::inotify;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::common::{ALICE, BOB, Host, Mounted, Process, ROOT, errno, eventually, succeeds};

fn node(path: &Path, kind: FileType, mode: u32, device: u64) -> i32 {
    errno(mknodat(CWD, path, kind, Mode::from_bits_retain(mode), device))
}

#[test]
fn two_processes_talk_through_a_fifo() {
    let m = Mounted::new();
    let path = m.path("fifo");
    let kinds = m.kinds_of(|| assert_eq!(node(&path, FileType::Fifo, 0o644, 0), 0));
    assert_eq!(kinds, ["mknod"]);
    let last = m.last();
    let writer = Process::start(ROOT, |_| {
        let mut fifo = File::options().write(true).open(&path).unwrap();
        for line in 0..1000 {
            writeln!(fifo, "line {line}").unwrap();
        }
    });
    let lines: Vec<_> = BufReader::new(File::open(&path).unwrap()).lines().map(Result::unwrap).collect();
    writer.finish();
    assert_eq!((lines.len(), lines[999].as_str()), (1000, "line 999"));
    assert_eq!(m.last(), last, "what goes through is nobody's data");
}

#[test]
fn a_socket_is_bound_and_found() {
    let m = Mounted::new();
    let path = m.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Process::start(ROOT, |_| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"hello").unwrap();
    });
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    client.finish();
    assert_eq!(text, "hello");
    assert_eq!(errno(UnixListener::bind(&path)), libc::EADDRINUSE);
    assert!(fs::metadata(&path).unwrap().mode() & libc::S_IFMT == libc::S_IFSOCK);
    fs::rename(&path, m.path("moved")).unwrap();
    let datagram = UnixDatagram::bind(m.path("datagram")).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"x", m.path("datagram")).unwrap();
    assert_eq!(datagram.recv(&mut [0; 4]).unwrap(), 1);
    assert!(UnixStream::connect(m.path("moved")).map(drop).is_ok(), "it still leads to the listener");
    drop(listener);
    // A fork elsewhere may have a copy of the listener for a moment.
    eventually("nobody listens", || errno(UnixStream::connect(m.path("moved"))) == libc::ECONNREFUSED);
    // A socket that cannot be opened.
    assert_eq!(errno(File::open(m.path("moved"))), libc::ENXIO);
}

#[test]
fn a_socket_s_permissions_are_obeyed() {
    let m = Mounted::new();
    let path = m.path("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    assert_eq!(ALICE.does(|| errno(UnixStream::connect(&path))), libc::EACCES);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(ALICE.does(|| errno(UnixStream::connect(&path))), 0);
}

#[test]
fn devices_are_made_by_root_and_work() {
    let m = Mounted::new();
    let null = m.path("null");
    assert_eq!(node(&null, FileType::CharacterDevice, 0o666, makedev(1, 3)), 0);
    assert_eq!(node(&m.path("zero"), FileType::CharacterDevice, 0o600, makedev(1, 5)), 0);
    assert_eq!(node(&m.path("disk"), FileType::BlockDevice, 0o600, makedev(7, 300)), 0);
    let found = fs::metadata(m.path("disk")).unwrap();
    assert_eq!((found.rdev(), found.mode()), (makedev(7, 300), libc::S_IFBLK | 0o600));
    fs::set_permissions(&null, fs::Permissions::from_mode(0o666)).unwrap();
    let last = m.last();
    fs::write(&null, "into nothing").unwrap();
    assert_eq!(fs::read(&null).unwrap(), b"");
    let mut zeros = [1; 8];
    File::open(m.path("zero")).unwrap().read_exact(&mut zeros).unwrap();
    assert_eq!(zeros, [0; 8]);
    ALICE.does(|| {
        assert_eq!(errno(File::open(m.path("zero"))), libc::EACCES);
        assert_eq!(errno(File::open(&null)), 0);
    });
    assert_eq!(m.last(), last);
    m.alike(|dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        BOB.does(|| node(&dir.join("device"), FileType::CharacterDevice, 0o666, makedev(1, 3)))
    });
}

/// Runs `chattr` and `lsattr`; returns whether a host that knows the mark has it.
fn marked(path: &Path, mark: &str) -> bool {
    succeeds(Command::new("chattr").arg(mark).arg(path));
    let output = succeeds(Command::new("lsattr").arg("-d").arg(path));
    let flags = String::from_utf8(output.stdout).unwrap();
    flags.split(' ').next().unwrap().contains(&mark[1..])
}

#[test]
fn an_immutable_file_does_not_change() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        assert!(marked(&path, "+i"));
        let refused = [
            errno(fs::write(&path, "2")),
            errno(File::options().append(true).open(&path)),
            errno(fs::remove_file(&path)),
            errno(fs::rename(&path, dir.join("g"))),
            errno(fs::hard_link(&path, dir.join("g"))),
            errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))),
            errno(File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH)),
            errno(rustix::fs::setxattr(&path, "user.a", b"1", rustix::fs::XattrFlags::empty())),
        ];
        assert!(!marked(&path, "-i"));
        (refused, errno(fs::write(&path, "3")))
    });
}

#[test]
fn an_append_only_file_only_grows() {
    let m = Mounted::new();
    m.alike(|dir| {
        let path = dir.join("f");
        fs::write(&path, "1").unwrap();
        assert!(marked(&path, "+a"));
        let done = [
            errno(File::options().write(true).open(&path)),
            errno(File::options().write(true).truncate(true).open(&path)),
            errno(File::options().append(true).open(&path).and_then(|mut file| file.write_all(b"2"))),
            errno(File::options().append(true).open(&path).and_then(|file| file.set_len(0))),
            errno(fs::remove_file(&path)),
        ];
        marked(&path, "-a");
        (done, fs::read_to_string(&path).unwrap())
    });
}

#[test]
fn marks_are_root_s_and_are_not_recorded() {
    let m = Mounted::new();
    let path = m.path("f");
    fs::write(&path, "1").unwrap();
    std::os::unix::fs::chown(&path, Some(ALICE.uid), Some(ALICE.gid)).unwrap();
    assert!(!ALICE.command("chattr").arg("+i").arg(&path).output().unwrap().status.success());
    let before = m.records().len();
    assert!(marked(&path, "+i"));
    assert!(!marked(&path, "-i"));
    let after = m.records();
    let told: Vec<_> = after[before..].iter().map(|record| record.change.kind()).collect();
    assert!(told.iter().all(|kind| *kind == "setattr"), "at most that the ctime moved: {told:?}");
    assert!(marked(&path, "+d"));
}

#[test]
fn the_file_system_s_numbers_are_the_host_s() {
    for host in [Host::Ext4, Host::Xfs] {
        let m = Mounted::on(host);
        let (here, there) =
            (rustix::fs::statvfs(m.path("")).unwrap(), rustix::fs::statvfs(m.host("")).unwrap());
        assert_eq!(
            (here.f_blocks, here.f_bsize, here.f_frsize, here.f_namemax),
            (there.f_blocks, there.f_bsize, there.f_frsize, there.f_namemax)
        );
        // Other tests take and give while this looks.
        assert!(here.f_bavail.abs_diff(there.f_bavail) < there.f_blocks / 4);
        assert!(here.f_ffree > 0 && here.f_bavail > 0);
        let output = succeeds(Command::new("df").arg("--output=source,fstype,target").arg(m.path("")));
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains("fuse.mezzo") && told.contains(m.path("").to_str().unwrap()), "{told}");
    }
}

#[test]
fn inotify_tells_of_what_is_done_through_the_mount() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let all = inotify::WatchFlags::ALL_EVENTS ^ inotify::WatchFlags::ACCESS ^ inotify::WatchFlags::OPEN;
    inotify::add_watch(&watch, m.path("d"), all).unwrap();
    Process::start(ROOT, |_| {
        fs::write(m.path("d/f"), "1").unwrap();
        fs::rename(m.path("d/f"), m.path("d/g")).unwrap();
        fs::set_permissions(m.path("d/g"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(m.path("d/g")).unwrap();
    })
    .finish();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let mut events = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| name.to_str().unwrap().to_owned());
        events.push((name.unwrap_or_default(), event.events()));
    }
    use inotify::ReadFlags as Event;
    for (name, event) in [
        ("f", Event::CREATE),
        ("f", Event::MODIFY),
        ("f", Event::CLOSE_WRITE),
        ("f", Event::MOVED_FROM),
        ("g", Event::MOVED_TO),
        ("g", Event::ATTRIB),
        ("g", Event::DELETE),
    ] {
        assert!(
            events.iter().any(|told| told.0 == name && told.1.contains(event)),
            "{name} {event:?}: {events:?}"
        );
    }
}

#[test]
fn leases_are_as_on_the_host() {
    let m = Mounted::new();
    m.alike(|dir| {
        fs::write(dir.join("f"), "1").unwrap();
        let file = File::open(dir.join("f")).unwrap();
        // SAFETY: the descriptor is open, and the call takes a number.
        let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        // SAFETY: the same.
        let told = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
        // SAFETY: the same.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        (taken, told)
    });
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let process = Process::start(ROOT, |talk| {
        let file = File::options().read(true).write(true).open(m.path("f")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        file.write_all_at(b"2", 0).unwrap();
        let _unnamed = File::create(m.path("g")).unwrap();
        fs::remove_file(m.path("g")).unwrap();
        talk.go_on();
        talk.wait();
    });
    process.talk().wait();
    drop(process);
    let file = File::open(m.path("f")).unwrap();
    eventually("its lock is gone", || {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "2");
}
