//! Files: attributes, data, names, locks.

use crate::mounted::Mounted;
use mezzo_fuse::Wanted;
use rustix::fs::{
    FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom, StatxFlags, XattrFlags,
};
use rustix::io::Errno;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

#[test]
fn data_and_attributes_go_both_ways() {
    let mounted = Mounted::new();
    fs::write(mounted.host("a"), "from below").unwrap();
    assert_eq!(fs::read_to_string(mounted.path("a")).unwrap(), "from below");
    fs::write(mounted.path("b"), "from above").unwrap();
    assert_eq!(fs::read_to_string(mounted.host("b")).unwrap(), "from above");
    let (above, below) = (fs::metadata(mounted.path("a")).unwrap(), fs::metadata(mounted.host("a")).unwrap());
    assert_eq!((above.ino(), above.size(), above.mode()), (below.ino(), below.size(), below.mode()));
    assert_eq!((above.mtime(), above.mtime_nsec()), (below.mtime(), below.mtime_nsec()));
    let caller = *mounted.filesystem.last_caller.lock().unwrap();
    assert_eq!(caller.pid, rustix::thread::gettid().as_raw_nonzero().get() as u32);
    mounted.end().unwrap();
}

pub fn check_large_data(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    assert_eq!(mounted.granted.max_write, 1 << 20);
    let data: Vec<u8> = (0..5_000_000u32).map(|number| ((number * 7) >> 3) as u8).collect();
    fs::write(mounted.path("big"), &data).unwrap();
    assert!(fs::read(mounted.host("big")).unwrap() == data);
    assert!(mounted.filesystem.count("Write") <= 6, "{} writes", mounted.filesystem.count("Write"));
    fs::write(mounted.host("direct"), &data).unwrap();
    assert!(fs::read(mounted.path("direct")).unwrap() == data);
}

#[test]
fn large_data_in_large_pieces() {
    check_large_data(Wanted::default());
}

#[test]
fn attributes_can_be_set() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "0123456789").unwrap();
    fs::set_permissions(mounted.path("a"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(mounted.path("a"), Some(12), Some(34)).unwrap();
    let file = fs::File::options().write(true).open(mounted.path("a")).unwrap();
    file.set_len(4).unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
    for path in [mounted.path("a"), mounted.host("a")] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.mode(), found.uid(), found.gid(), found.size()), (0o100640, 12, 34, 4));
        assert_eq!(found.modified().unwrap(), then);
    }
}

#[test]
fn time_of_birth_is_told() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "").unwrap();
    let statx = |path| {
        let flags = StatxFlags::BTIME | StatxFlags::BASIC_STATS;
        rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), flags).unwrap()
    };
    let (above, below) = (statx(mounted.path("a")), statx(mounted.host("a")));
    assert_ne!(above.stx_mask & StatxFlags::BTIME.bits(), 0);
    assert_eq!(above.stx_btime.tv_nsec, below.stx_btime.tv_nsec);
    assert_eq!(mounted.filesystem.count("Statx"), 1);
}

#[test]
fn names_of_all_kinds() {
    let mounted = Mounted::new();
    std::os::unix::fs::symlink("../else where", mounted.path("link")).unwrap();
    assert_eq!(fs::read_link(mounted.path("link")).unwrap().to_str(), Some("../else where"));
    fs::write(mounted.path("a"), "data").unwrap();
    fs::hard_link(mounted.path("a"), mounted.path("b")).unwrap();
    assert_eq!(fs::metadata(mounted.path("b")).unwrap().nlink(), 2);
    let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, mounted.path("fifo"), kind, mode, 0).unwrap();
    assert!(fs::symlink_metadata(mounted.path("fifo")).unwrap().file_type().is_fifo());
    let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(259, 70_000));
    rustix::fs::mknodat(rustix::fs::CWD, mounted.path("device"), kind, mode, device).unwrap();
    assert_eq!(fs::metadata(mounted.path("device")).unwrap().rdev(), device);
    assert_eq!(fs::metadata(mounted.host("device")).unwrap().rdev(), device);
    fs::remove_file(mounted.path("a")).unwrap();
    assert_eq!(fs::metadata(mounted.path("b")).unwrap().nlink(), 1);
    assert!(!mounted.host("a").exists());
    assert_eq!(fs::metadata(mounted.path("a")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn renames_with_flags() {
    let mounted = Mounted::new();
    let rename = |from: &str, to: &str, flags| {
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, mounted.path(from), cwd, mounted.path(to), flags)
    };
    let content = |name: &str| fs::read_to_string(mounted.path(name)).unwrap();
    fs::write(mounted.path("a"), "a").unwrap();
    fs::write(mounted.path("b"), "b").unwrap();
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((content("a"), content("b")), ("b".into(), "a".into()));
    fs::create_dir(mounted.path("d")).unwrap();
    rename("a", "d/c", RenameFlags::empty()).unwrap();
    assert_eq!(content("d/c"), "b");
    rename("b", "d/c", RenameFlags::empty()).unwrap();
    assert_eq!(content("d/c"), "a");
}

#[test]
fn files_without_a_name() {
    let mounted = Mounted::new();
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let mut file =
        fs::File::from(rustix::fs::open(mounted.path(""), flags, Mode::from_raw_mode(0o600)).unwrap());
    file.write_all(b"nameless").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "nameless");
    assert_eq!((file.metadata().unwrap().nlink(), mounted.filesystem.count("Tmpfile")), (0, 1));
    assert!(crate::mounted::names(&mounted.host("")).is_empty());
}

pub fn check_extended_attributes(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    let path = mounted.path("a");
    fs::write(&path, "").unwrap();
    rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE).unwrap();
    assert_eq!(rustix::fs::setxattr(&path, "user.colour", b"red", XattrFlags::CREATE), Err(Errno::EXIST));
    let big = vec![7; 3000];
    rustix::fs::setxattr(&path, "user.big", &big, XattrFlags::empty()).unwrap();
    let mut buffer = vec![0; 4000];
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut buffer[..]).unwrap(), 4);
    assert_eq!(&buffer[..4], b"blue");
    assert_eq!(rustix::fs::getxattr(&path, "user.big", &mut buffer[..]).unwrap(), 3000);
    assert_eq!(buffer[..3000], big);
    assert_eq!(rustix::fs::getxattr(&path, "user.big", &mut [0u8; 10][..]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut buffer[..]), Err(Errno::NODATA));
    let length = rustix::fs::listxattr(&path, &mut buffer[..]).unwrap();
    let mut list: Vec<_> =
        buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    list.sort();
    assert_eq!(list, [&b"user.big"[..], b"user.colour"]);
    rustix::fs::removexattr(&path, "user.big").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.big"), Err(Errno::NODATA));
}

#[test]
fn extended_attributes() {
    check_extended_attributes(Wanted::default());
}

#[test]
fn holes_and_space() {
    let mounted = Mounted::new();
    let file = fs::File::options().read(true).write(true).create_new(true).open(mounted.path("a")).unwrap();
    file.write_at(b"start", 0).unwrap();
    file.write_at(b"end", 1 << 20).unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap(), 4096);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(4096)).unwrap(), 1 << 20);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 2 << 20);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, 4096).unwrap();
    let mut start = [1; 5];
    file.read_at(&mut start, 0).unwrap();
    assert_eq!(start, [0; 5]);
    rustix::fs::fsync(&file).unwrap();
    assert_eq!(mounted.filesystem.count("Fsync"), 1);
}

#[test]
fn copies_within_the_mount() {
    let mounted = Mounted::new();
    let data: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    fs::write(mounted.path("from"), &data).unwrap();
    let from = fs::File::open(mounted.path("from")).unwrap();
    let to = fs::File::create(mounted.path("to")).unwrap();
    let (mut offset, mut to_offset) = (0, 0);
    while offset < data.len() as u64 {
        let left = data.len() - offset as usize;
        let copied =
            rustix::fs::copy_file_range(&from, Some(&mut offset), &to, Some(&mut to_offset), left).unwrap();
        assert_ne!(copied, 0);
    }
    assert!(fs::read(mounted.path("to")).unwrap() == data);
    assert_ne!(mounted.filesystem.count("CopyFileRange"), 0);
}

#[test]
fn ioctls() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "").unwrap();
    let file = fs::File::open(mounted.path("a")).unwrap();
    let command = rustix::ioctl::opcode::read_write::<[u8; 8]>(b'm', 42);
    let mut argument = *b"12345678";
    // SAFETY: the command's encoding tells FUSE to read and write 8 bytes, which the pointer is valid for.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), u64::from(command), argument.as_mut_ptr())
    };
    assert_eq!((result, &argument), (42, b"87654321"));
}

#[test]
fn sizes_of_the_file_system() {
    let mounted = Mounted::new();
    let (above, below) =
        (rustix::fs::statfs(mounted.path("")).unwrap(), rustix::fs::statfs(mounted.host("")).unwrap());
    assert_eq!((above.f_blocks, above.f_namelen), (below.f_blocks, 255));
}

fn set_lock(file: &fs::File, kind: i32) -> std::io::Result<()> {
    // SAFETY: an all-zero flock is a valid one.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_len = 10;
    // SAFETY: F_OFD_SETLK reads one flock from the pointer.
    let result =
        unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), libc::F_OFD_SETLK, &raw const lock) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn locks_are_ours() {
    let mounted = Mounted::new();
    fs::write(mounted.path("a"), "").unwrap();
    let open = || fs::File::options().read(true).write(true).open(mounted.path("a")).unwrap();
    let (first, second) = (open(), open());
    rustix::fs::flock(&first, FlockOperation::LockExclusive).unwrap();
    let busy = rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(busy, Err(Errno::AGAIN));
    let waiter = std::thread::spawn(move || {
        rustix::fs::flock(&second, FlockOperation::LockExclusive).unwrap();
        second
    });
    crate::mounted::wait_for("the waiting lock", || mounted.filesystem.count("Setlkw") == 2);
    rustix::fs::flock(&first, FlockOperation::Unlock).unwrap();
    let second = waiter.join().unwrap();
    assert_eq!(mounted.filesystem.count("Setlk"), 1, "the one that wouldn't wait");
    set_lock(&first, libc::F_WRLCK).unwrap();
    assert!(set_lock(&second, libc::F_RDLCK).is_err());
    set_lock(&first, libc::F_UNLCK).unwrap();
    set_lock(&second, libc::F_RDLCK).unwrap();
}
