//! The greeting, with a socket in place of the kernel.

use mezzo_fuse::{Answered, Device, Errno, Filesystem, Operation, Reply, Request, Session, Wanted};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

/// A connection, and the kernel's end of it.
fn connection() -> (Device, File) {
    let kind = SocketType::SEQPACKET;
    let (ours, kernel) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    (Device::from_fd(ours), File::from(kernel))
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A message with unique `unique`, about node 1.
fn message(opcode: u32, unique: u32, body: &[u8]) -> Vec<u8> {
    let header = words(&[40 + body.len() as u32, opcode, unique, 0, 1, 0, 0, 0, 0, 0]);
    [header, body.to_vec()].concat()
}

fn init(major: u32, minor: u32) -> Vec<u8> {
    message(26, 2, &words(&[major, minor, 131_072, 0x7fff_ffff]))
}

/// The next answer: error, and body as words.
fn answer(kernel: &mut File) -> (i32, Vec<u32>) {
    let mut buffer = [0; 4096];
    let length = kernel.read(&mut buffer).unwrap();
    let words: Vec<_> =
        buffer[..length].chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words[0] as usize, length, "an answer's length");
    (words[1] as i32, words[4..].to_vec())
}

#[test]
fn old_and_new_minor_versions() {
    for (kernel_minor, agreed) in [(31, 31), (45, 45), (60, 45)] {
        let (device, mut kernel) = connection();
        kernel.write_all(&init(7, kernel_minor)).unwrap();
        let session = Session::start(device, Wanted::default()).unwrap();
        assert_eq!(session.granted().minor, agreed);
        let (error, body) = answer(&mut kernel);
        assert_eq!((error, body.len() * 4, body[0], body[1]), (0, 64, 7, agreed));
    }
}

#[test]
fn a_newer_major_version_is_talked_down() {
    let (device, mut kernel) = connection();
    kernel.write_all(&init(8, 3)).unwrap();
    kernel.write_all(&init(7, 45)).unwrap();
    let session = Session::start(device, Wanted::default()).unwrap();
    assert_eq!(answer(&mut kernel).1[..2], [7, 45]);
    assert_eq!(answer(&mut kernel).1[..2], [7, 45]);
    drop(session);
}

#[test]
fn kernels_that_are_too_old_are_refused() {
    for (major, minor) in [(7, 30), (6, 99)] {
        let (device, mut kernel) = connection();
        kernel.write_all(&init(major, minor)).unwrap();
        let error = Session::start(device, Wanted::default()).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        let text = format!("the kernel speaks FUSE {major}.{minor}; 7.31 or newer is needed");
        assert_eq!(error.to_string(), text);
        assert_eq!(answer(&mut kernel).0, -libc::EPROTO);
    }
}

#[test]
fn anything_else_first_is_an_error() {
    let statfs = message(17, 2, &[]);
    for bytes in [&statfs[..], &statfs[..20], &init(7, 45)[..44]] {
        let (device, mut kernel) = connection();
        kernel.write_all(bytes).unwrap();
        let error = Session::start(device, Wanted::default()).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
    let (device, kernel) = connection();
    drop(kernel);
    let error = Session::start(device, Wanted::default()).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
}

/// Answers all with ENOSYS, and remembers what came.
#[derive(Default)]
struct Nothing(Mutex<Vec<String>>);

impl Filesystem for Nothing {
    fn handle(&self, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        self.0.lock().unwrap().push(format!("{:?}", request.operation));
        match request.operation {
            Operation::Destroy => reply.empty(),
            _ => reply.error(Errno::ENOSYS),
        }
    }
}

#[test]
fn broken_messages_are_answered_with_eio_and_survived() {
    let (device, mut kernel) = connection();
    kernel.write_all(&init(7, 45)).unwrap();
    let session = Session::start(device, Wanted::default()).unwrap();
    answer(&mut kernel);
    let filesystem = Arc::new(Nothing::default());
    let served = filesystem.clone();
    let runner = std::thread::spawn(move || session.run(served, 1));
    let mut wrong_length = message(17, 4, &[]);
    wrong_length[0] = 99;
    for broken in [wrong_length, message(1, 6, b"no end"), message(16, 8, &[0; 10]), init(7, 45)] {
        kernel.write_all(&broken).unwrap();
        assert_eq!(answer(&mut kernel), (-libc::EIO, vec![]));
    }
    for silent in [vec![1, 2, 3], message(36, 9, &[0; 3]), message(2, 0, &[]), message(41, 0, b"data")] {
        kernel.write_all(&silent).unwrap();
    }
    kernel.write_all(&message(777, 10, b"unknown")).unwrap();
    assert_eq!(answer(&mut kernel), (-libc::ENOSYS, vec![]));
    drop(kernel);
    runner.join().unwrap().unwrap();
    assert_eq!(*filesystem.0.lock().unwrap(), ["Other { opcode: 777 }", "Destroy"]);
}

#[test]
fn the_kernel_s_own_destroy_is_not_repeated() {
    let (device, mut kernel) = connection();
    kernel.write_all(&init(7, 45)).unwrap();
    let session = Session::start(device, Wanted::default()).unwrap();
    answer(&mut kernel);
    let filesystem = Arc::new(Nothing::default());
    let served = filesystem.clone();
    let runner = std::thread::spawn(move || session.run(served, 2));
    kernel.write_all(&message(38, 4, &[])).unwrap();
    assert_eq!(answer(&mut kernel), (0, vec![]));
    drop(kernel);
    runner.join().unwrap().unwrap();
    assert_eq!(*filesystem.0.lock().unwrap(), ["Destroy"]);
}
