//! Passthrough: the kernel reads and writes the mirrored files itself.

use crate::mounted::Mounted;
use mezzo_fuse::Wanted;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs;
use std::os::unix::fs::FileExt;

pub fn passthrough() -> Wanted {
    Wanted { passthrough: true, handle_killpriv_v2: true, ..Wanted::default() }
}

pub fn check_data(wanted: Wanted) {
    let mounted = Mounted::with(wanted, 2);
    assert!(mounted.granted.passthrough && !mounted.granted.writeback_cache);
    assert_eq!(mounted.granted.max_stack_depth, 1);
    let data: Vec<u8> = (0..3_000_000u32).map(|number| (number / 3) as u8).collect();
    fs::write(mounted.path("a"), &data).unwrap();
    assert!(fs::read(mounted.host("a")).unwrap() == data);
    assert!(fs::read(mounted.path("a")).unwrap() == data);
    let file = fs::File::options().read(true).write(true).open(mounted.path("a")).unwrap();
    file.write_at(b"changed", 1_000_000).unwrap();
    let mut found = [0; 7];
    fs::File::open(mounted.host("a")).unwrap().read_at(&mut found, 1_000_000).unwrap();
    assert_eq!(&found, b"changed");
    assert_eq!((mounted.filesystem.count("Read"), mounted.filesystem.count("Write")), (0, 0));
    drop(file);
    mounted.end().unwrap();
}

#[test]
fn data_go_past_us() {
    check_data(passthrough());
}

#[test]
fn a_shared_mapping_goes_past_us() {
    let mounted = Mounted::with(passthrough(), 2);
    fs::write(mounted.path("a"), vec![1; 8192]).unwrap();
    let file = fs::File::options().read(true).write(true).open(mounted.path("a")).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; it is unmapped below and not used after.
    let memory =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 8192, access, MapFlags::SHARED, &file, 0).unwrap() };
    // SAFETY: the mapping is 8192 bytes long, readable and writable, and only this test uses it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>(), 8192) };
    assert!(bytes.iter().all(|byte| *byte == 1));
    bytes[5000] = 9;
    // SAFETY: `bytes` is not used any more.
    unsafe { rustix::mm::munmap(memory, 8192).unwrap() };
    assert_eq!(fs::read(mounted.host("a")).unwrap()[5000], 9);
    assert_eq!((mounted.filesystem.count("Read"), mounted.filesystem.count("Write")), (0, 0));
}

#[test]
fn without_the_grant_there_is_no_backing_file() {
    let mounted = Mounted::new();
    assert!(!mounted.granted.passthrough);
    assert_eq!(mounted.granted.max_stack_depth, 0);
}
