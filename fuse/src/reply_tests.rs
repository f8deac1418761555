//! The bytes of answers, and that each request gets exactly one.

use super::*;
use crate::abi::opcode::*;
use crate::request::LockKind;
use crate::values::OpenFlags;
use parking_lot::Mutex;
use zerocopy::FromBytes;

/// Answers as sent: unique, error and body.
type Sent = Arc<Mutex<Vec<(u64, i32, Vec<u8>)>>>;

struct Recorder {
    sent: Sent,
    room: Vec<u8>,
}

impl Outlet for Recorder {
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.room.get_mut(..size)
    }

    fn send_room(&mut self, unique: u64, length: usize) {
        self.sent.lock().push((unique, 0, self.room[..length].to_vec()));
    }

    fn send(&mut self, unique: u64, error: i32, parts: [&[u8]; 2]) {
        self.sent.lock().push((unique, error, parts.concat()));
    }

    fn detach(&mut self) -> Arc<dyn LateOutlet> {
        Arc::new(LateRecorder(self.sent.clone()))
    }
}

struct LateRecorder(Sent);

impl LateOutlet for LateRecorder {
    fn send(&self, unique: u64, error: i32, parts: [&[u8]; 2]) {
        self.0.lock().push((unique, error, parts.concat()));
    }
}

/// A worker with the request 8 in hand.
struct Bench {
    interrupts: Arc<Interrupts>,
    slot: Arc<Slot>,
    outlet: Recorder,
}

impl Bench {
    fn new() -> Bench {
        let interrupts = Arc::new(Interrupts::default());
        let slot = interrupts.new_slot();
        interrupts.publish(&slot, 8);
        Bench { interrupts, slot, outlet: Recorder { sent: Sent::default(), room: vec![0xee; 4096] } }
    }

    fn reply(&mut self, opcode: u32) -> Reply<'_> {
        Reply::new(Ticket { unique: 8, opcode, caller: 0 }, &mut self.outlet, &self.slot, &self.interrupts)
    }

    /// The only answer.
    #[track_caller]
    fn answer(&self) -> (i32, Vec<u8>) {
        let sent = self.outlet.sent.lock();
        assert_eq!(sent.len(), 1, "answers");
        assert_eq!(sent[0].0, 8);
        (sent[0].1, sent[0].2.clone())
    }
}

#[track_caller]
fn answer_to(opcode: u32, answer: impl FnOnce(Reply<'_>) -> Answered) -> (i32, Vec<u8>) {
    let mut bench = Bench::new();
    let _ = answer(bench.reply(opcode));
    bench.answer()
}

#[track_caller]
fn structure<T: FromBytes>(opcode: u32, answer: impl FnOnce(Reply<'_>) -> Answered) -> T {
    let (error, body) = answer_to(opcode, answer);
    assert_eq!(error, 0);
    T::read_from_bytes(&body).unwrap_or_else(|_| panic!("the structure's size"))
}

fn attributes() -> Attributes {
    Attributes {
        inode: 99,
        size: 1000,
        blocks: 8,
        atime: (-1, 1),
        mtime: (2, 3),
        ctime: (4, 5),
        mode: 0o100644,
        links: 2,
        uid: 6,
        gid: 7,
        device: (8, 1),
        block_size: 4096,
    }
}

fn entry(node: u64) -> Entry {
    Entry {
        node,
        generation: 3,
        entry_valid: Duration::new(5, 6),
        attributes_valid: Duration::new(7, 8),
        attributes: attributes(),
    }
}

#[test]
fn small_answers() {
    assert_eq!(answer_to(UNLINK, |reply| reply.empty()), (0, vec![]));
    assert_eq!(answer_to(UNLINK, |reply| reply.error(Errno::ENOENT)), (-2, vec![]));
    assert_eq!(answer_to(READLINK, |reply| reply.data(b"target")), (0, b"target".to_vec()));
    assert_eq!(structure::<abi::WriteOut>(WRITE, |reply| reply.written(9)).size, 9);
    assert_eq!(structure::<abi::GetxattrOut>(GETXATTR, |reply| reply.xattr_size(9)).size, 9);
    assert_eq!(structure::<abi::LseekOut>(LSEEK, |reply| reply.offset(1 << 40)).offset, 1 << 40);
    assert_eq!(structure::<abi::PollOut>(POLL, |reply| reply.poll(5)).revents, 5);
    assert_eq!(structure::<abi::BmapOut>(BMAP, |reply| reply.block(5)).block, 5);
    let held = HeldLock { start: 1, end: 2, kind: LockKind::Unlock, pid: 3 };
    let lock = structure::<abi::FileLock>(GETLK, |reply| reply.lock(&held));
    assert_eq!(lock, abi::FileLock { start: 1, end: 2, kind: 2, pid: 3 });
}

#[test]
fn attributes_go_where_the_kernel_wants_them() {
    let answer: abi::AttrOut =
        structure(GETATTR, |reply| reply.attributes(&attributes(), Duration::from_millis(1500)));
    assert_eq!((answer.attr_valid, answer.attr_valid_nsec), (1, 500_000_000));
    let attr = answer.attr;
    assert_eq!((attr.ino, attr.size, attr.blocks, attr.atime as i64, attr.atimensec), (99, 1000, 8, -1, 1));
    assert_eq!((attr.mtime, attr.mtimensec, attr.ctime, attr.ctimensec), (2, 3, 4, 5));
    assert_eq!((attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev), (0o100644, 2, 6, 7, 0x801));
    let answer: abi::StatxOut =
        structure(STATX, |reply| reply.statx(&attributes(), Some((10, 11)), Duration::ZERO));
    assert_eq!(answer.stat.mask, 0xfff);
    assert_eq!((answer.stat.btime.tv_sec, answer.stat.btime.tv_nsec, answer.stat.rdev_minor), (10, 11, 1));
    let answer: abi::StatxOut = structure(STATX, |reply| reply.statx(&attributes(), None, Duration::ZERO));
    assert_eq!(answer.stat.mask, 0x7ff);
}

#[test]
fn entries_and_opens() {
    let answer: abi::EntryOut = structure(LOOKUP, |reply| reply.entry(&entry(12)));
    assert_eq!((answer.nodeid, answer.generation, answer.attr.ino), (12, 3, 99));
    assert_eq!((answer.entry_valid, answer.entry_valid_nsec), (5, 6));
    assert_eq!((answer.attr_valid, answer.attr_valid_nsec), (7, 8));
    let opened = Opened { handle: 4, flags: OpenFlags::KEEP_CACHE | OpenFlags::NOFLUSH, ..Opened::default() };
    let answer: abi::OpenOut = structure(OPEN, |reply| reply.opened(&opened));
    assert_eq!((answer.fh, answer.open_flags, answer.backing_id), (4, 0b10_0010, 0));
    let (_, body) = answer_to(CREATE, |reply| reply.created(&entry(12), &opened));
    assert_eq!(body.len(), 128 + 16);
    assert_eq!(abi::OpenOut::read_from_bytes(&body[128..]).unwrap(), answer);
}

#[test]
fn answers_that_depend_on_the_question() {
    let copied = structure::<abi::WriteOut>(COPY_FILE_RANGE, |reply| reply.copied(1 << 40));
    assert_eq!(copied.size, u32::MAX);
    let copied = structure::<abi::CopyFileRangeOut>(COPY_FILE_RANGE_64, |reply| reply.copied(1 << 40));
    assert_eq!(copied.bytes_copied, 1 << 40);
    let (_, body) = answer_to(IOCTL, |reply| reply.data(b"out"));
    assert_eq!((body.len(), &body[16..]), (19, &b"out"[..]));
    for (asked, expected) in
        [(0, (0, vec![3, 0, 0, 0, 0, 0, 0, 0])), (2, (-34, vec![])), (3, (0, vec![1, 2, 3]))]
    {
        assert_eq!(answer_to(GETXATTR, |reply| reply.xattr(asked, &[1, 2, 3])), expected);
    }
}

#[test]
fn data_are_read_into_the_answer() {
    let fill = |room: &mut [u8]| {
        room[..3].copy_from_slice(b"abc");
        Ok(3)
    };
    assert_eq!(answer_to(READ, |reply| reply.read_into(10, fill)), (0, b"abc".to_vec()));
    assert_eq!(
        answer_to(READ, |reply| reply.read_into(10_000, fill)),
        (0, b"abc".to_vec()),
        "beyond the room"
    );
    assert_eq!(answer_to(READ, |reply| reply.read_into(2, |_| Ok(3))), (-5, vec![]));
    assert_eq!(answer_to(READ, |reply| reply.read_into(2, |_| Err(Errno::ESTALE))), (-libc::ESTALE, vec![]));
}

#[test]
fn directory_entries_are_aligned_and_stop_when_full() {
    let (error, body) = answer_to(READDIR, |reply| {
        reply.directory(64, |directory| {
            assert!(directory.is_empty() && directory.fits(40, false) && !directory.fits(41, false));
            assert!(directory.add(5, 1, 4, b"abc"));
            assert!(directory.add(6, 2, 8, b"a"));
            assert!(!directory.fits(1, false) && !directory.add(7, 3, 8, b"b"));
            Ok(())
        })
    });
    assert_eq!((error, body.len()), (0, 64));
    let first = abi::Dirent::read_from_prefix(&body).unwrap().0;
    assert_eq!(first, abi::Dirent { ino: 5, off: 1, namelen: 3, kind: 4 });
    assert_eq!(&body[24..32], b"abc\0\0\0\0\0", "padded with zeros, whatever the room held");
    let second = abi::Dirent::read_from_prefix(&body[32..]).unwrap().0;
    assert_eq!(second, abi::Dirent { ino: 6, off: 2, namelen: 1, kind: 8 });
}

#[test]
fn plus_entries_carry_attributes() {
    let (_, body) = answer_to(READDIRPLUS, |reply| {
        reply.directory(4096, |directory| {
            assert!(directory.fits(4096 - 152, true) && !directory.fits(4096 - 151, true));
            assert!(directory.add_plus(&entry(12), 99, 1, 8, b"name"));
            Ok(())
        })
    });
    assert_eq!(body.len(), 128 + 24 + 8);
    assert_eq!(abi::EntryOut::read_from_prefix(&body).unwrap().0.nodeid, 12);
    assert_eq!(abi::Dirent::read_from_prefix(&body[128..]).unwrap().0.ino, 99);
}

#[test]
fn an_error_amid_a_listing_waits_for_the_next_request() {
    let late = |directory: &mut Directory<'_>| {
        directory.add(5, 1, 4, b"a");
        Err(Errno::EIO)
    };
    assert_eq!(answer_to(READDIR, |reply| reply.directory(64, late)).1.len(), 32);
    assert_eq!(answer_to(READDIR, |reply| reply.directory(64, |_| Err(Errno::EACCES))), (-13, vec![]));
}

#[test]
fn an_unanswered_request_gets_eio() {
    let mut bench = Bench::new();
    drop(bench.reply(OPEN));
    assert_eq!(bench.answer(), (-5, vec![]));
    let mut bench = Bench::new();
    let (deferred, _) = bench.reply(OPEN).later();
    assert!(bench.outlet.sent.lock().is_empty());
    drop(deferred);
    assert_eq!(bench.answer(), (-5, vec![]));
}

#[test]
fn a_forget_gets_nothing() {
    for opcode in [FORGET, BATCH_FORGET] {
        let mut bench = Bench::new();
        let _ = bench.reply(opcode).none();
        let _ = bench.reply(opcode).empty();
        drop(bench.reply(opcode));
        let (deferred, _) = bench.reply(opcode).later();
        let _ = deferred.none();
        assert!(bench.outlet.sent.lock().is_empty());
    }
    assert_eq!(answer_to(OPEN, |reply| reply.none()), (-5, vec![]), "others would wait for ever");
}

#[test]
fn a_deferred_answers_from_another_thread() {
    let mut bench = Bench::new();
    let (deferred, _) = bench.reply(READ).later();
    std::thread::spawn(move || {
        let (deferred, _) = deferred.later();
        let _ = deferred.read_into(4, |room| {
            room.fill(7);
            Ok(4)
        });
    })
    .join()
    .unwrap();
    assert_eq!(bench.answer(), (0, vec![7; 4]));
}

#[test]
fn an_interrupted_deferred_was_answered_with_eintr() {
    let mut bench = Bench::new();
    let (deferred, _) = bench.reply(OPEN).later();
    assert!(!deferred.is_interrupted());
    bench.interrupts.interrupt(8);
    assert!(deferred.is_interrupted());
    let _ = deferred.empty();
    assert_eq!(bench.answer(), (-4, vec![]));
}

#[test]
fn a_claimed_deferred_is_answered_by_no_signal() {
    let mut bench = Bench::new();
    let (deferred, _) = bench.reply(OPEN).later_killable();
    let claimed = deferred.claim().expect("no signal was there");
    bench.interrupts.interrupt(8);
    assert!(!claimed.is_interrupted());
    let _ = claimed.empty();
    assert_eq!(bench.answer(), (0, vec![]));
    let mut bench = Bench::new();
    let (deferred, _) = bench.reply(OPEN).later();
    bench.interrupts.interrupt(8);
    assert!(deferred.claim().is_none());
    assert_eq!(bench.answer(), (-4, vec![]), "once");
    let mut bench = Bench::new();
    drop(bench.reply(OPEN).later().0.claim());
    assert_eq!(bench.answer(), (-5, vec![]));
}

#[test]
fn a_request_in_hand_sees_its_interrupt() {
    let mut bench = Bench::new();
    bench.interrupts.interrupt(8);
    let reply = bench.reply(OPEN);
    assert!(reply.is_interrupted());
    let (deferred, _) = reply.later();
    assert!(deferred.is_interrupted());
    drop(deferred);
    assert_eq!(bench.answer(), (-4, vec![]));
}
