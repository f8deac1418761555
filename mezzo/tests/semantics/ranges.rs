//! Parts of files: room kept and given up, holes, and copies that the kernel makes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use mezzo_core::Change;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek, sendfile};

use crate::common::{Host, Mounted, errno};

const KB: u64 = 1 << 10;

/// 64 KiB, every four of them different.
fn patterned(path: &std::path::Path) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    (0..16u64).for_each(|i| file.write_all_at(&[b'a' + i as u8; 4096], i * 4096).unwrap());
    file
}

/// A file's bytes, told by the first of each 4 KiB.
fn seen(file: &File) -> (u64, String) {
    let length = file.metadata().unwrap().len();
    let byte = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        if byte[0] == 0 { '_' } else { byte[0].into() }
    };
    (length, (0..length.div_ceil(4096)).map(|i| byte(i * 4096)).collect())
}

/// Each way to change a range, done in the mount and on the host.
fn check_ranges(host: Host) {
    let m = Mounted::on(host);
    m.alike(|dir| {
        let mut results = Vec::new();
        for (flags, offset, length) in [
            (FallocateFlags::empty(), 60 * KB, 20 * KB),
            (FallocateFlags::KEEP_SIZE, 60 * KB, 20 * KB),
            (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8 * KB, 8 * KB),
            (FallocateFlags::PUNCH_HOLE, 0, 4 * KB),
            (FallocateFlags::ZERO_RANGE, 16 * KB, 4 * KB),
            (FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 60 * KB, 8 * KB),
            (FallocateFlags::empty(), 0, 0),
        ] {
            let file = patterned(&dir.join("f"));
            let done = errno(fallocate(&file, flags, offset, length));
            results.push((flags, done, seen(&file), file.metadata().unwrap().blocks()));
        }
        results
    });
    // The kernel's FUSE refuses these two by itself.
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        let file = patterned(&m.path("f"));
        assert_eq!(errno(fallocate(&file, flags, 16 * KB, 16 * KB)), libc::EOPNOTSUPP);
        assert_eq!(seen(&file), (64 * KB, "abcdefghijklmnop".to_owned()));
    }
}

#[test]
fn ranges_are_allocated_punched_and_zeroed_as_on_ext4() {
    check_ranges(Host::Ext4);
}

#[test]
fn ranges_are_allocated_punched_and_zeroed_as_on_xfs() {
    check_ranges(Host::Xfs);
}

#[test]
fn each_change_of_a_range_is_recorded() {
    let m = Mounted::new();
    drop(patterned(&m.path("f")));
    for flags in [FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
        let kinds = m.kinds_of(|| {
            let file = File::options().write(true).open(m.path("f")).unwrap();
            fallocate(&file, flags, 8 * KB, 4 * KB).unwrap();
        });
        assert_eq!(kinds, ["close"], "{flags:?}");
    }
}

#[test]
fn room_that_was_kept_beyond_the_end_changes_no_bytes() {
    let m = Mounted::new();
    let records = m.records_of(|| {
        let file = File::create(m.path("f")).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
        assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().blocks()), (0, 2048));
    });
    for record in &records[1..] {
        let Change::Close { attributes, .. } = &record.change else { panic!("{record:?}") };
        assert_eq!(attributes.after.size, 0);
    }
}

#[test]
fn holes_and_data_are_found() {
    let m = Mounted::new();
    m.alike(|dir| {
        let file = File::create_new(dir.join("f")).unwrap();
        file.write_all_at(&[1; 4096], 64 * KB).unwrap();
        file.write_all_at(&[2; 4096], 256 * KB).unwrap();
        file.set_len(1 << 20).unwrap();
        // As others see it, not only the writer.
        let reader = File::open(dir.join("f")).unwrap();
        let mut found = Vec::new();
        for from in [0, 64 * KB, 70 * KB, 256 * KB, 300 * KB, 1 << 20, 2 << 20] {
            found.push((seek(&reader, SeekFrom::Data(from)), seek(&reader, SeekFrom::Hole(from))));
        }
        found.push((seek(&reader, SeekFrom::End(-5)), seek(&reader, SeekFrom::Current(2))));
        (found, reader.metadata().unwrap().blocks())
    });
}

#[test]
fn files_are_copied_in_the_kernel() {
    let m = Mounted::new();
    drop(patterned(&m.path("from")));
    let kinds = m.kinds_of(|| {
        let (from, to) = (File::open(m.path("from")).unwrap(), File::create(m.path("to")).unwrap());
        let (mut at, mut to_at) = (4 * KB, 0);
        assert_eq!(copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), 20_000).unwrap(), 20_000);
        assert_eq!((at, to_at), (4 * KB + 20_000, 20_000));
        assert_eq!(to.metadata().unwrap().len(), 20_000);
        assert_eq!(copy_file_range(&from, Some(&mut (64 * KB)), &to, Some(&mut 0), 10).unwrap(), 0);
        let read_only = copy_file_range(&to, None, &from, None, 10);
        assert_eq!(errno(read_only), libc::EBADF);
    });
    assert_eq!(kinds, ["create", "close"]);
    assert_eq!(fs::read(m.path("to")).unwrap(), fs::read(m.path("from")).unwrap()[4096..24_096]);
}

#[test]
fn sendfile_reads_and_writes() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        let from = patterned(&m.path("from"));
        let to = File::create(m.path("to")).unwrap();
        assert_eq!(sendfile(&to, &from, Some(&mut 0), 30_000).unwrap(), 30_000);
    });
    assert_eq!(kinds, ["create", "create", "close", "close"]);
    assert_eq!(fs::read(m.path("to")).unwrap(), fs::read(m.path("from")).unwrap()[..30_000]);
}

#[test]
fn splice_reads_and_writes() {
    let m = Mounted::new();
    let kinds = m.kinds_of(|| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"through a pipe").unwrap();
        let file = File::create(m.path("f")).unwrap();
        assert_eq!(splice(&reader.into(), &file.into(), 14), 14);
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(splice(&File::open(m.path("f")).unwrap().into(), &writer.into(), 14), 14);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through a pipe");
    });
    assert_eq!(kinds, ["create", "close"]);
}

fn splice(from: &OwnedFd, to: &OwnedFd, bytes: usize) -> isize {
    let null = std::ptr::null_mut();
    // SAFETY: both are open, and no offsets are given.
    unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, bytes, 0) }
}

#[test]
fn sparse_files_stay_sparse() {
    let m = Mounted::new();
    let file = File::create(m.path("f")).unwrap();
    file.write_all_at(b"end", 50 << 20).unwrap();
    drop(file);
    assert!(fs::metadata(m.path("f")).unwrap().blocks() < 100);
    crate::common::succeeds(
        std::process::Command::new("cp").args(["--sparse=always"]).args([m.path("f"), m.path("g")]),
    );
    assert!(fs::metadata(m.path("g")).unwrap().blocks() < 100);
}

#[test]
fn reflinks_and_extents_are_the_host_s_alone() {
    let m = Mounted::on(Host::Xfs);
    let from = patterned(&m.path("from"));
    let to = File::create(m.path("to")).unwrap();
    assert_eq!(errno(rustix::fs::ioctl_ficlone(&to, &from)), libc::EOPNOTSUPP);
    // From linux/fs.h: the map of a file's extents, asked for with room for none.
    const FS_IOC_FIEMAP: u64 = 0xc020_660b;
    let mut map = [0u64; 4];
    // SAFETY: the request has a head of 32 bytes and no more.
    let done = unsafe { libc::ioctl(from.as_raw_fd(), FS_IOC_FIEMAP, map.as_mut_ptr()) };
    let told = std::io::Error::last_os_error().raw_os_error();
    assert!(done == -1 && matches!(told, Some(libc::EOPNOTSUPP | libc::ENOTTY)), "{told:?}");
    // cp copies in another way then.
    crate::common::succeeds(std::process::Command::new("cp").args([m.path("from"), m.path("to")]));
    assert_eq!(fs::read(m.path("to")).unwrap(), fs::read(m.path("from")).unwrap());
}
