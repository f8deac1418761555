//! Every operation from handmade bytes, and the parser's totality.

use super::*;
use crate::abi::opcode::*;
use crate::request::{device_numbers, encode_device};
use proptest::prelude::*;

/// Bytes of a message in native order, field after field.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32s(mut self, values: &[u32]) -> Bytes {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn u64s(mut self, values: &[u64]) -> Bytes {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend(bytes);
        self
    }
}

fn bytes() -> Bytes {
    Bytes::default()
}

/// A whole message: unique 7, node 5, uid 1000, gid 100, pid 42.
fn message(opcode: u32, body: &Bytes, extension_words: u16) -> Vec<u8> {
    let length = (40 + body.0.len()) as u32;
    let head = bytes().u32s(&[length, opcode]).u64s(&[7, 5]).u32s(&[1000, 100, 42]);
    head.raw(&extension_words.to_ne_bytes()).raw(&[0, 0]).raw(&body.0).0
}

#[track_caller]
fn check(opcode: u32, body: Bytes, expected: Operation<'_>) {
    let message = message(opcode, &body, 0);
    let request = Request::parse(&message, true).expect("well-formed");
    assert_eq!(request.header, Header { unique: 7, node: 5, uid: 1000, gid: 100, pid: 42 });
    assert_eq!(request.operation, expected);
    assert_eq!(request.supplementary_group, None);
    for cut in 0..message.len() {
        assert_eq!(Request::parse(&message[..cut], true), Err(Malformed), "cut to {cut} bytes");
    }
}

#[track_caller]
fn check_malformed(opcode: u32, body: Bytes) {
    assert_eq!(Request::parse(&message(opcode, &body, 0), true), Err(Malformed));
}

#[test]
fn names() {
    check(LOOKUP, bytes().raw(b"a b\0"), Operation::Lookup { name: b"a b" });
    check(UNLINK, bytes().raw(b"x\0"), Operation::Unlink { name: b"x" });
    check(RMDIR, bytes().raw(b"d\0"), Operation::Rmdir { name: b"d" });
    check(REMOVEXATTR, bytes().raw(b"user.a\0"), Operation::Removexattr { name: b"user.a" });
    check(SYMLINK, bytes().raw(b"name\0to/it\0"), Operation::Symlink { name: b"name", target: b"to/it" });
    check(
        MKNOD,
        bytes().u32s(&[0o20644, 0x0103, 0o22, 0]).raw(b"tty\0"),
        Operation::Mknod { name: b"tty", mode: 0o20644, device: 0x0103, umask: 0o22 },
    );
    check(
        MKDIR,
        bytes().u32s(&[0o755, 0o22]).raw(b"d\0"),
        Operation::Mkdir { name: b"d", mode: 0o755, umask: 0o22 },
    );
    check(
        RENAME,
        bytes().u64s(&[9]).raw(b"a\0b\0"),
        Operation::Rename { name: b"a", new_parent: 9, new_name: b"b", flags: 0 },
    );
    check(
        RENAME2,
        bytes().u64s(&[9]).u32s(&[2, 0]).raw(b"a\0b\0"),
        Operation::Rename { name: b"a", new_parent: 9, new_name: b"b", flags: 2 },
    );
    check(LINK, bytes().u64s(&[11]).raw(b"l\0"), Operation::Link { node: 11, name: b"l" });
}

#[test]
fn names_that_don_t_fit() {
    check_malformed(LOOKUP, bytes());
    check_malformed(LOOKUP, bytes().raw(b"\0"));
    check_malformed(LOOKUP, bytes().raw(b"no end"));
    check_malformed(LOOKUP, bytes().raw(b"one\0two\0"));
    check_malformed(SYMLINK, bytes().raw(b"name\0"));
    check_malformed(SYMLINK, bytes().raw(b"name\0\0"));
    check_malformed(RENAME, bytes().u64s(&[9]).raw(b"a\0b\0c\0"));
}

#[test]
fn forgets() {
    check(FORGET, bytes().u64s(&[3]), Operation::Forget { lookups: 3 });
    let batch = message(BATCH_FORGET, &bytes().u32s(&[2, 0]).u64s(&[10, 1, 11, 4]), 0);
    let Operation::BatchForget(forgets) = Request::parse(&batch, true).unwrap().operation else { panic!() };
    assert_eq!(forgets.len(), 2);
    assert_eq!(forgets.collect::<Vec<_>>(), [(10, 1), (11, 4)]);
    check_malformed(BATCH_FORGET, bytes().u32s(&[3, 0]).u64s(&[10, 1, 11, 4]));
    check_malformed(BATCH_FORGET, bytes().u32s(&[u32::MAX, 0]));
}

#[test]
fn attributes() {
    check(GETATTR, bytes().u32s(&[0, 0]).u64s(&[6]), Operation::Getattr { handle: None });
    check(GETATTR, bytes().u32s(&[1, 0]).u64s(&[6]), Operation::Getattr { handle: Some(6) });
    check(
        STATX,
        bytes().u32s(&[1, 0]).u64s(&[6]).u32s(&[0x100, 0xfff]),
        Operation::Statx { handle: Some(6), flags: 0x100, mask: 0xfff },
    );
    check(STATFS, bytes(), Operation::Statfs);
    check(READLINK, bytes(), Operation::Readlink);
    check(ACCESS, bytes().u32s(&[4, 0]), Operation::Access { mask: 4 });
    check_malformed(STATFS, bytes().u64s(&[0]));
}

fn setattr(valid: u32) -> Bytes {
    let times = [1, 2, 3].map(|second: i64| (-second) as u64);
    let head = bytes().u32s(&[valid, 0]).u64s(&[6, 4096, 77]).u64s(&times);
    head.u32s(&[10, 20, 30, 0o100644, 0, 1000, 100, 0])
}

#[test]
fn changes_of_attributes() {
    check(SETATTR, setattr(0), Operation::Setattr(Setattr::default()));
    let everything = Setattr {
        mode: Some(0o100644),
        uid: Some(1000),
        gid: Some(100),
        size: Some(4096),
        atime: Some(SetTime::At { seconds: -1, nanoseconds: 10 }),
        mtime: Some(SetTime::At { seconds: -2, nanoseconds: 20 }),
        ctime: Some((-3, 30)),
        handle: Some(6),
        lock_owner: Some(77),
        kill_suidgid: true,
    };
    check(SETATTR, setattr(0b1110_0111_1111), Operation::Setattr(everything));
    let now = Setattr { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..Setattr::default() };
    check(SETATTR, setattr(0b1_1011_0000), Operation::Setattr(now));
}

#[test]
fn opens() {
    check(OPEN, bytes().u32s(&[2, 0]), Operation::Open { flags: 2, kill_suidgid: false });
    check(OPEN, bytes().u32s(&[0o1000, 1]), Operation::Open { flags: 0o1000, kill_suidgid: true });
    check(OPENDIR, bytes().u32s(&[0o200000, 0]), Operation::Opendir { flags: 0o200000 });
    check(
        CREATE,
        bytes().u32s(&[0o102, 0o100600, 0o77, 1]).raw(b"new\0"),
        Operation::Create { name: b"new", mode: 0o100600, umask: 0o77, flags: 0o102, kill_suidgid: true },
    );
    let tmpfile = Operation::Tmpfile { mode: 0o100600, umask: 0o77, flags: 2 };
    let body = || bytes().u32s(&[2, 0o100600, 0o77, 0]);
    assert_eq!(Request::parse(&message(TMPFILE, &body(), 0), true).unwrap().operation, tmpfile);
    assert_eq!(Request::parse(&message(TMPFILE, &body().raw(b"/\0"), 0), true).unwrap().operation, tmpfile);
    check_malformed(TMPFILE, body().raw(b"/"));
}

#[test]
fn data() {
    let read = || bytes().u64s(&[6, 8192]).u32s(&[4096, 2]).u64s(&[77]).u32s(&[0, 0]);
    check(
        READ,
        read(),
        Operation::Read { handle: 6, offset: 8192, size: 4096, flags: 0, lock_owner: Some(77) },
    );
    let write = |size| bytes().u64s(&[6, 8192]).u32s(&[size, 0b101]).u64s(&[77]).u32s(&[1, 0]);
    check(
        WRITE,
        write(5).raw(b"12345"),
        Operation::Write {
            handle: 6,
            offset: 8192,
            data: b"12345",
            flags: 1,
            cached: true,
            kill_suidgid: true,
            lock_owner: None,
        },
    );
    check_malformed(WRITE, write(6).raw(b"12345"));
    check_malformed(WRITE, write(4).raw(b"12345"));
    check_malformed(WRITE, write(u32::MAX).raw(b"12345"));
    check_malformed(READ, read().raw(b"x"));
}

#[test]
fn ends_of_open_files() {
    check(
        FLUSH,
        bytes().u64s(&[6]).u32s(&[0, 0]).u64s(&[77]),
        Operation::Flush { handle: 6, lock_owner: 77 },
    );
    check(
        RELEASE,
        bytes().u64s(&[6]).u32s(&[2, 0]).u64s(&[77]),
        Operation::Release { handle: 6, flags: 2, flush: false, unlock_flock: None },
    );
    check(
        RELEASE,
        bytes().u64s(&[6]).u32s(&[2, 3]).u64s(&[77]),
        Operation::Release { handle: 6, flags: 2, flush: true, unlock_flock: Some(77) },
    );
    check(
        RELEASEDIR,
        bytes().u64s(&[6]).u32s(&[2, 0]).u64s(&[0]),
        Operation::Releasedir { handle: 6, flags: 2 },
    );
    check(FSYNC, bytes().u64s(&[6]).u32s(&[1, 0]), Operation::Fsync { handle: 6, data_only: true });
    check(FSYNCDIR, bytes().u64s(&[6]).u32s(&[0, 0]), Operation::Fsyncdir { handle: 6, data_only: false });
    check(SYNCFS, bytes().u64s(&[0]), Operation::Syncfs);
    check(DESTROY, bytes(), Operation::Destroy);
}

#[test]
fn directories() {
    let read = || bytes().u64s(&[6, 12]).u32s(&[4096, 0]).u64s(&[0]).u32s(&[0, 0]);
    check(READDIR, read(), Operation::Readdir { handle: 6, offset: 12, size: 4096 });
    check(READDIRPLUS, read(), Operation::Readdirplus { handle: 6, offset: 12, size: 4096 });
}

#[test]
fn extended_attributes() {
    check(
        SETXATTR,
        bytes().u32s(&[3, 2, 1, 0]).raw(b"user.a\0v\0w"),
        Operation::Setxattr { name: b"user.a", value: b"v\0w", flags: 2, kill_sgid: true },
    );
    check_malformed(SETXATTR, bytes().u32s(&[4, 2, 1, 0]).raw(b"user.a\0v\0w"));
    check(
        GETXATTR,
        bytes().u32s(&[64, 0]).raw(b"user.a\0"),
        Operation::Getxattr { name: b"user.a", size: 64 },
    );
    check(LISTXATTR, bytes().u32s(&[0, 0]), Operation::Listxattr { size: 0 });
}

#[test]
fn setxattr_without_its_extension_is_shorter() {
    let message = message(SETXATTR, &bytes().u32s(&[1, 2]).raw(b"user.a\0v"), 0);
    assert_eq!(
        Request::parse(&message, false).unwrap().operation,
        Operation::Setxattr { name: b"user.a", value: b"v", flags: 2, kill_sgid: false }
    );
}

#[test]
fn locks() {
    let body = |kind, flags| bytes().u64s(&[6, 77, 10, 20]).u32s(&[kind, 42, flags, 0]);
    let lock = |kind, flock| Lock { handle: 6, owner: 77, start: 10, end: 20, kind, pid: 42, flock };
    check(GETLK, body(0, 0), Operation::Getlk(lock(LockKind::Read, false)));
    check(SETLK, body(1, 1), Operation::Setlk(lock(LockKind::Write, true)));
    check(SETLKW, body(2, 0), Operation::Setlkw(lock(LockKind::Unlock, false)));
    check_malformed(SETLK, body(3, 0));
    check_malformed(SETLK, body(u32::MAX, 0));
}

#[test]
fn ranges() {
    check(
        FALLOCATE,
        bytes().u64s(&[6, 100, 200]).u32s(&[3, 0]),
        Operation::Fallocate { handle: 6, offset: 100, length: 200, mode: 3 },
    );
    check(
        LSEEK,
        bytes().u64s(&[6, 100]).u32s(&[3, 0]),
        Operation::Lseek { handle: 6, offset: 100, whence: 3 },
    );
    for opcode in [COPY_FILE_RANGE, COPY_FILE_RANGE_64] {
        check(
            opcode,
            bytes().u64s(&[6, 1, 9, 8, 2, 1 << 40, 0]),
            Operation::CopyFileRange {
                handle: 6,
                offset: 1,
                to_node: 9,
                to_handle: 8,
                to_offset: 2,
                length: 1 << 40,
                flags: 0,
            },
        );
    }
}

#[test]
fn odds_and_ends() {
    let ioctl = |size| bytes().u64s(&[6]).u32s(&[16, 0x1234]).u64s(&[99]).u32s(&[size, 8]);
    check(
        IOCTL,
        ioctl(2).raw(b"in"),
        Operation::Ioctl {
            handle: 6,
            flags: 16,
            command: 0x1234,
            argument: 99,
            input: b"in",
            output_size: 8,
        },
    );
    check_malformed(IOCTL, ioctl(3).raw(b"in"));
    check(
        POLL,
        bytes().u64s(&[6, 55]).u32s(&[1, 4]),
        Operation::Poll { handle: 6, wakeup: 55, notify: true, events: 4 },
    );
    check(BMAP, bytes().u64s(&[12]).u32s(&[512, 0]), Operation::Bmap { block: 12, block_size: 512 });
    check(1234, bytes(), Operation::Other { opcode: 1234 });
    assert_eq!(
        Request::parse(&message(1234, &bytes().raw(b"whatever"), 0), true).unwrap().operation,
        Operation::Other { opcode: 1234 }
    );
}

#[test]
fn the_session_s_own_messages() {
    let interrupt = message(INTERRUPT, &bytes().u64s(&[8]), 0);
    let parsed = Message::split(&interrupt, true).unwrap().parse(true);
    assert_eq!(parsed, Ok(Incoming::Interrupt { unique: 8 }));
    assert_eq!(Request::parse(&interrupt, true), Err(Malformed));
    let reply = message(NOTIFY_REPLY, &bytes().raw(b"data"), 0);
    assert_eq!(Message::split(&reply, true).unwrap().parse(true), Ok(Incoming::Ignored));
}

#[test]
fn a_creation_may_tell_a_group() {
    let create = |extension: Bytes| {
        let words = (extension.0.len() / 8) as u16;
        let body = bytes().u32s(&[0o102, 0o100600, 0, 0]).raw(b"new\0").raw(&extension.0);
        let message = message(CREATE, &body, words);
        Request::parse(&message, true).map(|request| {
            assert!(matches!(request.operation, Operation::Create { name: b"new", .. }));
            request.supplementary_group
        })
    };
    assert_eq!(create(bytes().u32s(&[16, 32, 1, 500])), Ok(Some(500)));
    assert_eq!(create(bytes().u32s(&[12, 32, 0, 0])), Ok(None));
    assert_eq!(create(bytes().u32s(&[8, 1])), Ok(None), "an unknown extension is skipped");
    assert_eq!(create(bytes().u32s(&[8, 1, 16, 32, 1, 500])), Ok(Some(500)));
    assert_eq!(create(bytes().u32s(&[4, 32])), Err(Malformed), "shorter than its header");
    assert_eq!(create(bytes().u32s(&[24, 32, 1, 500])), Err(Malformed), "longer than what is there");
    assert_eq!(create(bytes().u32s(&[8, 32])), Err(Malformed), "a list without a length");
    let body = bytes().u32s(&[0, 0, 0, 0]).raw(b"n\0");
    assert_eq!(Request::parse(&message(CREATE, &body, 9), true), Err(Malformed));
}

#[test]
fn device_numbers_survive() {
    for (major, minor) in [(0, 0), (8, 1), (1, 3), (259, 70_000), (0xfff, 0xf_ffff)] {
        assert_eq!(device_numbers(encode_device(major, minor)), (major, minor));
    }
    assert_eq!(encode_device(8, 1), 0x801);
}

/// A message of any operation with plausible lengths.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![
        Just(vec![]),
        Just(b"name\0".to_vec()),
        Just(b"name\0other\0".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..64),
    ];
    let argument = proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 88);
    (0u32..60, argument, tail, prop_oneof![4 => Just(0u16), 1 => 0u16..6]).prop_map(
        |(opcode, argument, tail, extension_words)| {
            let size = abi::argument_size(opcode, true);
            message(opcode, &bytes().raw(&argument[..size]).raw(&tail), extension_words)
        },
    )
}

/// Forgets are lazy: walk them as well.
fn exercise(bytes: &[u8]) {
    for setxattr_ext in [false, true] {
        if let Ok(Operation::BatchForget(forgets)) =
            Request::parse(bytes, setxattr_ext).map(|request| request.operation)
        {
            assert_eq!(forgets.len(), forgets.count());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
    }

    #[test]
    fn no_body_panics(
        opcode in 0u32..60,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        words in 0u16..8,
    ) {
        exercise(&message(opcode, &bytes().raw(&body), words));
    }

    #[test]
    fn no_mutation_panics(
        message in any_message(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut message = message;
        for (place, value) in changes {
            let place = place.index(message.len());
            message[place] = value;
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len()));
        }
        exercise(&message);
    }
}
