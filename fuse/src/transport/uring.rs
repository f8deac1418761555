//! Messages over io_uring: each processor has a queue of entries, served by a thread of its own on that
//! processor.
//!
//! An entry is a place for one request. It wanders: the kernel has it until a request comes; we have it until
//! the answer is committed, which hands it back to wait for the next. A request that is answered later keeps
//! its entry; its answer reaches the queue's thread by a [`Mailbox`], as only that thread may use the ring.
//!
//! FORGET and INTERRUPT don't come this way, so that a reader of the device must run beside.

use super::device::Channel;
use super::ring_memory::RingMemory;
use super::{Dispatcher, LateOutlet, Outlet};
use crate::Filesystem;
use crate::abi::{self, InHeader, OutHeader};
use crate::errno::Errno;
use crate::parse::Message;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, opcode, types};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use rustix::thread::CpuSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// The kernel's setting that allows io_uring for FUSE.
const SETTING: &str = "/sys/module/fuse/parameters/enable_uring";

/// The tag of the mailbox's completions; others have their entry's index.
const MAILBOX: u64 = u64::MAX;

/// Most entries of a queue: the ring has room for one submission of each, and io_uring has at most 32768 of
/// them.
const LARGEST_DEPTH: usize = 1024;

/// Allows io_uring for FUSE on this machine, for mounts made from now on. Needs root.
///
/// Fails with `NotFound` where the kernel hasn't got it, and with the system's error where the setting can't
/// be written.
pub fn enable_io_uring() -> io::Result<()> {
    if fs::read(SETTING)?.starts_with(b"Y") {
        return Ok(());
    }
    fs::write(SETTING, "Y")
}

/// Who has an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The kernel, until it completes.
    Kernel,
    /// We, with the request `unique` in it.
    Us { unique: u64 },
    /// Nobody any more.
    Gone,
}

/// The queue of one processor, not yet known to FUSE.
pub(crate) struct Queue {
    number: u16,
    ring: IoUring<Entry128>,
    memory: RingMemory,
    /// For each entry who has it, and the name under which it is committed.
    entries: Vec<(Holder, u64)>,
    mailbox: Arc<Mailbox>,
}

/// Queues for all processors of the machine, `depth` entries with `payload_size` bytes each. All that can be
/// forbidden or lacking is tried here, before the kernel is promised to be served this way.
pub(crate) fn prepare(depth: usize, payload_size: usize) -> io::Result<Vec<Queue>> {
    let depth = depth.clamp(1, LARGEST_DEPTH);
    let payload_size = payload_size.max(abi::MIN_READ_BUFFER);
    (0..processors()?).map(|number| Queue::new(number, depth, payload_size)).collect()
}

/// How many processors the kernel may ever have, as "0-3" or "0,2-5".
fn processors() -> io::Result<u16> {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count_processors(list.trim()).ok_or(io::ErrorKind::InvalidData.into())
}

fn count_processors(list: &str) -> Option<u16> {
    list.split(',').try_fold(0u16, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

impl Queue {
    fn new(number: u16, depth: usize, payload_size: usize) -> io::Result<Queue> {
        // Disabled until the queue's own thread enables it and thereby becomes the only one that may submit.
        let ring = IoUring::<Entry128>::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(depth as u32 + 1)?;
        Ok(Queue {
            number,
            ring,
            memory: RingMemory::new(depth, payload_size)?,
            entries: vec![(Holder::Kernel, 0); depth],
            mailbox: Arc::new(Mailbox::new()?),
        })
    }

    /// Serves the processor's requests until the file system is unmounted, or the kernel refuses to be served
    /// this way and turns to the device.
    ///
    /// Fails with the system's error when the ring does.
    pub fn serve<F: Filesystem>(
        mut self,
        channel: &Channel,
        dispatcher: &Dispatcher<'_, F>,
    ) -> io::Result<()> {
        self.stay_on_processor();
        self.ring.submitter().register_enable_rings()?;
        let places: Vec<_> = (0..self.entries.len()).map(|index| self.memory.places(index)).collect();
        for (index, places) in places.iter().enumerate() {
            self.register(channel, index, places);
        }
        self.watch_mailbox();
        let mut completions = Vec::with_capacity(self.entries.len() + 1);
        let mut scratch = Vec::new();
        while self.entries.iter().any(|(holder, _)| *holder != Holder::Gone) {
            self.wait()?;
            completions.extend(self.ring.completion().map(|done| (done.user_data(), done.result())));
            for (tag, result) in completions.drain(..) {
                match tag {
                    MAILBOX => self.read_mailbox(channel),
                    index if result < 0 => self.lose(index as usize, result),
                    index => self.take(index as usize, channel, dispatcher, &mut scratch),
                }
            }
        }
        Ok(())
    }

    /// Requests come from callers on this processor; to answer elsewhere would cost a wake-up across
    /// processors. A processor that is offline can't be stayed on, and has no callers.
    fn stay_on_processor(&self) {
        let mut processors = CpuSet::new();
        if usize::from(self.number) < CpuSet::MAX_CPU {
            processors.set(self.number.into());
            let _ = rustix::thread::sched_setaffinity(None, &processors);
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                result => return result.map(drop),
            }
        }
    }

    fn register(&mut self, channel: &Channel, index: usize, places: &[libc::iovec; 2]) {
        let command =
            command(channel, abi::URING_CMD_REGISTER, self.number, 0).addr(Some(places.as_ptr() as u64));
        let submission = with_length(command.build(), 2).user_data(index as u64);
        self.submit(&submission);
    }

    fn commit(&mut self, channel: &Channel, index: usize) {
        let (_, commit_id) = self.entries[index];
        self.entries[index].0 = Holder::Kernel;
        let command = command(channel, abi::URING_CMD_COMMIT_AND_FETCH, self.number, commit_id);
        self.submit(&command.build().user_data(index as u64));
    }

    fn watch_mailbox(&mut self) {
        let fd = types::Fd(self.mailbox.wake.as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(MAILBOX);
        self.submit(&poll.into());
    }

    /// Queues a submission, which goes out with the next wait.
    fn submit(&mut self, submission: &Entry128) {
        // SAFETY: what the submission points to, if anything, is the mailbox's descriptor and this queue's
        // memory and places, which live until the ring is closed; the entry it hands over has been marked as
        // the kernel's.
        let pushed = unsafe { self.ring.submission().push(submission) };
        pushed.expect("the ring has room for each entry and the mailbox");
    }

    /// The kernel gave an entry up. ENOTCONN is the unmount, which entries that are ours then don't hear of;
    /// anything else is a refusal, after which the kernel turns to the device.
    fn lose(&mut self, index: usize, result: i32) {
        match -result {
            libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV => {
                self.entries.iter_mut().for_each(|(holder, _)| *holder = Holder::Gone);
            }
            _ => self.entries[index].0 = Holder::Gone,
        }
    }

    /// A request has come in an entry.
    fn take<F: Filesystem>(
        &mut self,
        index: usize,
        channel: &Channel,
        dispatcher: &Dispatcher<'_, F>,
        scratch: &mut Vec<u8>,
    ) {
        let (holder, commit_id) = &mut self.entries[index];
        if *holder != Holder::Kernel {
            return;
        }
        // SAFETY: the kernel has just completed the entry's command, and with it handed the entry to us.
        let (header, payload) = unsafe { self.memory.entry(index) };
        let Ok((request, _)) = InHeader::read_from_prefix(&header.in_out) else { return };
        *commit_id = header.entry.commit_id;
        *holder = Holder::Us { unique: request.unique };
        let length = payload.len().min(header.entry.payload_sz as usize);
        let (sent, room): (&[u8], &mut [u8]) = match length {
            0 => (&[], payload),
            _ => (&payload[..length], &mut []),
        };
        let mut outlet = RingOutlet { room, scratch, answer: Answer::None, index, mailbox: &self.mailbox };
        dispatcher
            .dispatch(Message { header: request, argument: &header.argument, payload: sent }, &mut outlet);
        match outlet.answer {
            Answer::Later => {}
            Answer::InRoom(length) => self.answer(channel, index, 0, length),
            Answer::InScratch(error) => self.answer_with(channel, index, error, scratch),
            Answer::None => self.answer(channel, index, Errno::EIO.wire(), 0),
        }
    }

    /// Answers with a body from elsewhere. One that has no room fails the request.
    fn answer_with(&mut self, channel: &Channel, index: usize, error: i32, body: &[u8]) {
        // SAFETY: the callers have found the entry to be ours.
        let (_, payload) = unsafe { self.memory.entry(index) };
        match payload.get_mut(..body.len()) {
            Some(room) => {
                room.copy_from_slice(body);
                self.answer(channel, index, error, body.len());
            }
            None => self.answer(channel, index, Errno::EIO.wire(), 0),
        }
    }

    /// Answers with the first `length` bytes of the payload.
    fn answer(&mut self, channel: &Channel, index: usize, error: i32, length: usize) {
        let Holder::Us { unique } = self.entries[index].0 else { return };
        // SAFETY: the entry is ours, as its holder says.
        let (header, _) = unsafe { self.memory.entry(index) };
        let out = OutHeader { len: (size_of::<OutHeader>() + length) as u32, error, unique };
        header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        header.entry.payload_sz = length as u32;
        self.commit(channel, index);
    }

    /// Commits the answers that came from elsewhere.
    fn read_mailbox(&mut self, channel: &Channel) {
        for letter in self.mailbox.empty() {
            if self.entries[letter.index].0 == (Holder::Us { unique: letter.unique }) {
                self.answer_with(channel, letter.index, letter.error, &letter.body);
            }
        }
        self.watch_mailbox();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

fn command(channel: &Channel, command: u32, queue: u16, commit_id: u64) -> opcode::UringCmd80 {
    let request = abi::UringCmdReq { flags: 0, commit_id, qid: queue, padding: [0; 6] };
    let mut bytes = [0; 80];
    bytes[..size_of::<abi::UringCmdReq>()].copy_from_slice(request.as_bytes());
    opcode::UringCmd80::new(types::Fd(channel.fd().as_raw_fd()), command).cmd(bytes)
}

/// Sets a submission's length field, for which the crate has no name in this kind of command.
fn with_length(mut submission: Entry128, length: u32) -> Entry128 {
    /// Where `struct io_uring_sqe` has `len`.
    const OFFSET: usize = 24;
    // SAFETY: the type is `repr(C)` and has the layout of the kernel's 128-byte submission, so that these
    // four bytes are its length field.
    unsafe { (&raw mut submission).cast::<u8>().add(OFFSET).cast::<u32>().write(length) };
    submission
}

/// How a request in hand was answered.
enum Answer {
    None,
    /// With so many bytes of the payload.
    InRoom(usize),
    /// With the scratch buffer, or an error.
    InScratch(i32),
    Later,
}

/// The answer of the request in hand. It is committed when the handler has returned: until then the payload
/// may still hold the request's names and data.
struct RingOutlet<'q> {
    /// The payload, if nothing of the request is in it.
    room: &'q mut [u8],
    scratch: &'q mut Vec<u8>,
    answer: Answer,
    index: usize,
    mailbox: &'q Arc<Mailbox>,
}

impl Outlet for RingOutlet<'_> {
    fn room(&mut self, size: usize) -> Option<&mut [u8]> {
        self.room.get_mut(..size)
    }

    fn send_room(&mut self, _: u64, length: usize) {
        self.answer = Answer::InRoom(length);
    }

    fn send(&mut self, _: u64, error: i32, parts: [&[u8]; 2]) {
        self.scratch.clear();
        parts.iter().for_each(|part| self.scratch.extend_from_slice(part));
        self.answer = Answer::InScratch(error);
    }

    fn detach(&mut self) -> Arc<dyn LateOutlet> {
        self.answer = Answer::Later;
        Arc::new(Sender { mailbox: self.mailbox.clone(), index: self.index })
    }
}

/// An answer on its way to the queue's thread.
struct Letter {
    index: usize,
    unique: u64,
    error: i32,
    body: Vec<u8>,
}

/// Answers from other threads. There is at most one for each entry.
struct Mailbox {
    /// `None` when the queue has ended.
    letters: Mutex<Option<Vec<Letter>>>,
    /// An eventfd that the ring polls.
    wake: OwnedFd,
}

impl Mailbox {
    fn new() -> io::Result<Mailbox> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox { letters: Mutex::new(Some(Vec::new())), wake })
    }

    fn put(&self, letter: Letter) {
        if let Some(letters) = &mut *self.letters.lock() {
            letters.push(letter);
            // It can only fail when the count overflows, with the ring awake already.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    fn empty(&self) -> Vec<Letter> {
        // The count goes to 0 before the letters are taken, so that one that comes now wakes again.
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        self.letters.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn close(&self) {
        *self.letters.lock() = None;
    }
}

/// The way of one request's later answer.
struct Sender {
    mailbox: Arc<Mailbox>,
    index: usize,
}

impl LateOutlet for Sender {
    fn send(&self, unique: u64, error: i32, parts: [&[u8]; 2]) {
        self.mailbox.put(Letter { index: self.index, unique, error, body: parts.concat() });
    }

    fn may_miss_interrupts(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        let rows = [
            ("0", Some(1)),
            ("0-1", Some(2)),
            ("0,2-5", Some(5)),
            ("0-65534", Some(65_535)),
            ("", None),
            ("5-2", None),
            ("0-65535", None),
            ("x", None),
        ];
        for (list, count) in rows {
            assert_eq!(count_processors(list), count, "{list:?}");
        }
    }

    #[test]
    fn the_length_lies_where_the_kernel_reads_it() {
        let submission = with_length(opcode::UringCmd80::new(types::Fd(1), 7).build(), 2);
        assert_eq!(size_of::<Entry128>(), 128);
        assert!(format!("{submission:?}").contains("user_data: 0"), "the tag is untouched");
        // SAFETY: 128 initialised bytes.
        let bytes: [u8; 128] = unsafe { std::mem::transmute(submission) };
        assert_eq!(bytes[24..28], 2u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes(), "the command's number");
    }

    #[test]
    fn a_closed_mailbox_takes_no_letters() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let sender = Sender { mailbox: mailbox.clone(), index: 3 };
        sender.send(8, 0, [b"a", b"b"]);
        let letters = mailbox.empty();
        assert_eq!(
            (letters.len(), letters[0].index, letters[0].unique, &letters[0].body[..]),
            (1, 3, 8, &b"ab"[..])
        );
        mailbox.close();
        sender.send(10, 0, [&[], &[]]);
        assert!(mailbox.empty().is_empty());
    }
}
