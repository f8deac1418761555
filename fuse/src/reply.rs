//! Answers to the kernel. Each request has one [`Reply`], which is used up by answering.

use crate::abi::{self, opcode};
use crate::directory::Directory;
use crate::errno::Errno;
use crate::interrupt::{EndedBy, Interrupts, Slot, Ticket};
use crate::transport::{LateOutlet, Outlet};
use crate::values::{Attributes, Entry, HeldLock, Opened, Statfs, attr, entry_out, open_out, statx};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// The proof that a request has been answered, or that a [`Deferred`] will answer it. Only replies make it.
#[derive(Debug)]
#[must_use]
pub struct Answered(());

/// The one answer to a request. Dropped without an answer it answers EIO.
///
/// For an operation that has no answer (FORGET), whatever is answered goes nowhere.
pub struct Reply<'a> {
    ticket: Ticket,
    answered: bool,
    route: Route<'a>,
}

/// A reply that has left its worker: it may be answered from any thread, at any time.
///
/// While it is open, a signal to the caller may answer it with EINTR; see [`Reply::is_interrupted`].
pub type Deferred = Reply<'static>;

/// The way to the kernel.
enum Route<'a> {
    /// On the thread that took the request.
    Worker { outlet: &'a mut dyn Outlet, slot: &'a Slot, interrupts: &'a Arc<Interrupts> },
    /// From any thread.
    Late { outlet: Arc<dyn LateOutlet>, interrupts: Arc<Interrupts>, interrupted: Arc<AtomicBool> },
    /// From any thread, and no signal answers it any more.
    Claimed(Arc<dyn LateOutlet>),
    /// No answer is wanted.
    Nowhere,
}

impl<'a> Reply<'a> {
    /// The reply of a worker's current request.
    pub(crate) fn new(
        ticket: Ticket,
        outlet: &'a mut dyn Outlet,
        slot: &'a Slot,
        interrupts: &'a Arc<Interrupts>,
    ) -> Reply<'a> {
        let route = match abi::wants_answer(ticket.opcode) {
            true => Route::Worker { outlet, slot, interrupts },
            false => Route::Nowhere,
        };
        Reply { ticket, answered: false, route }
    }

    /// A reply that nobody waits for.
    pub(crate) fn nowhere(opcode: u32) -> Reply<'static> {
        let ticket = Ticket { unique: 0, opcode, caller: 0 };
        Reply { ticket, answered: false, route: Route::Nowhere }
    }

    /// Fails the request. Numbers outside 1 to 511 become EIO.
    pub fn error(self, errno: Errno) -> Answered {
        self.finish(errno.wire(), [&[], &[]])
    }

    /// It is done, and there is nothing to say.
    pub fn empty(self) -> Answered {
        self.finish(0, [&[], &[]])
    }

    /// No answer: for FORGET and BATCH_FORGET only. Anything else gets EIO, as its caller would wait for
    /// ever.
    pub fn none(self) -> Answered {
        self.error(Errno::EIO)
    }

    /// A name's node: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK. Adds one to the node's lookup count, unless it is
    /// node 0.
    pub fn entry(self, entry: &Entry) -> Answered {
        self.structure(&entry_out(entry))
    }

    /// A new open file: CREATE and TMPFILE. Adds one to the node's lookup count.
    pub fn created(self, entry: &Entry, opened: &Opened<'_>) -> Answered {
        self.finish(0, [entry_out(entry).as_bytes(), open_out(opened).as_bytes()])
    }

    /// Attributes, to be trusted for `valid`: GETATTR and SETATTR.
    pub fn attributes(self, attributes: &Attributes, valid: Duration) -> Answered {
        self.structure(&abi::AttrOut {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            dummy: 0,
            attr: attr(attributes),
        })
    }

    /// Attributes and time of birth, to be trusted for `valid`: STATX.
    pub fn statx(self, attributes: &Attributes, born: Option<(i64, u32)>, valid: Duration) -> Answered {
        self.structure(&abi::StatxOut {
            attr_valid: valid.as_secs(),
            attr_valid_nsec: valid.subsec_nanos(),
            flags: 0,
            spare: [0; 2],
            stat: statx(attributes, born),
        })
    }

    /// An open file or directory: OPEN and OPENDIR.
    pub fn opened(self, opened: &Opened<'_>) -> Answered {
        self.structure(&open_out(opened))
    }

    /// Plain bytes: READLINK, READ, GETXATTR, LISTXATTR; for IOCTL the output, with result 0. More than was
    /// asked for makes the kernel fail the request with EIO.
    pub fn data(self, bytes: &[u8]) -> Answered {
        match self.ticket.opcode {
            opcode::IOCTL => self.ioctl(0, bytes),
            _ => self.finish(0, [bytes, &[]]),
        }
    }

    /// Up to `size` bytes that `fill` writes straight into the answer and counts: READ. The bytes it gets are
    /// not cleared. A count above `size` is answered with EIO.
    pub fn read_into(self, size: u32, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Answered {
        self.build(size, |room| match fill(room) {
            Ok(length) if length > size as usize => Err(Errno::EIO),
            result => result,
        })
    }

    /// The number of bytes written: WRITE.
    pub fn written(self, size: u32) -> Answered {
        self.structure(&abi::WriteOut { size, padding: 0 })
    }

    /// The length of an attribute or of the list: GETXATTR and LISTXATTR that asked with size 0.
    pub fn xattr_size(self, size: u32) -> Answered {
        self.structure(&abi::GetxattrOut { size, padding: 0 })
    }

    /// The whole answer to GETXATTR or LISTXATTR that asked for `asked` bytes: the length when that is 0,
    /// ERANGE when it is too little, else `value`.
    pub fn xattr(self, asked: u32, value: &[u8]) -> Answered {
        match asked as usize {
            0 => self.xattr_size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            room if room < value.len() => self.error(Errno::ERANGE),
            _ => self.data(value),
        }
    }

    /// Sizes: STATFS.
    pub fn statfs(self, sizes: &Statfs) -> Answered {
        self.structure(&abi::Kstatfs {
            blocks: sizes.blocks,
            bfree: sizes.blocks_free,
            bavail: sizes.blocks_available,
            files: sizes.files,
            ffree: sizes.files_free,
            bsize: sizes.block_size,
            namelen: sizes.name_length,
            frsize: sizes.fragment_size,
            padding: 0,
            spare: [0; 6],
        })
    }

    /// The lock in the way, or none: GETLK.
    pub fn lock(self, held: &HeldLock) -> Answered {
        let HeldLock { start, end, kind, pid } = *held;
        self.structure(&abi::FileLock { start, end, kind: kind.raw() as u32, pid })
    }

    /// A position in bytes: LSEEK.
    pub fn offset(self, offset: u64) -> Answered {
        self.structure(&abi::LseekOut { offset })
    }

    /// The number of bytes copied: COPY_FILE_RANGE. What the 32-bit request can't tell is cut to what it can,
    /// which the caller takes for a short copy.
    pub fn copied(self, length: u64) -> Answered {
        match self.ticket.opcode {
            opcode::COPY_FILE_RANGE_64 => self.structure(&abi::CopyFileRangeOut { bytes_copied: length }),
            _ => self.written(u32::try_from(length).unwrap_or(u32::MAX)),
        }
    }

    /// What ioctl(2) returns and where its argument points to: IOCTL.
    pub fn ioctl(self, result: i32, output: &[u8]) -> Answered {
        let header = abi::IoctlOut { result, flags: 0, in_iovs: 0, out_iovs: 0 };
        self.finish(0, [header.as_bytes(), output])
    }

    /// Which of poll(2)'s events are there: POLL.
    pub fn poll(self, events: u32) -> Answered {
        self.structure(&abi::PollOut { revents: events, padding: 0 })
    }

    /// A block of the device: BMAP.
    pub fn block(self, block: u64) -> Answered {
        self.structure(&abi::BmapOut { block })
    }

    /// Entries of a directory, at most `size` bytes of them: READDIR and READDIRPLUS. No entry means the end.
    ///
    /// An error after entries were added is not told: those entries are answered, as the lookup counts they
    /// took must reach the kernel. The next request will meet the error again.
    pub fn directory(
        self,
        size: u32,
        fill: impl FnOnce(&mut Directory<'_>) -> Result<(), Errno>,
    ) -> Answered {
        self.build(size, |room| {
            let mut directory = Directory::new(room);
            match fill(&mut directory) {
                Err(errno) if directory.is_empty() => Err(errno),
                _ => Ok(directory.used()),
            }
        })
    }

    /// Frees the worker: the [`Deferred`] is answered later, from any thread, and the token is what the
    /// handler returns.
    ///
    /// Any signal to the caller answers it with EINTR. That is right where system calls are known to be
    /// interruptible, as when waiting for a lock; else programs are surprised by it, and
    /// [`Reply::later_killable`] is right.
    ///
    /// The operation's names and data go with the handler; what is needed of them must be copied.
    pub fn later(self) -> (Deferred, Answered) {
        self.park(EndedBy::AnySignal)
    }

    /// As [`Reply::later`], but only what kills the caller answers it with EINTR, as with other file systems.
    /// It may take a tenth of a second when the caller got a harmless signal before.
    pub fn later_killable(self) -> (Deferred, Answered) {
        self.park(EndedBy::Death)
    }

    fn park(mut self, ended_by: EndedBy) -> (Deferred, Answered) {
        let route = mem::replace(&mut self.route, Route::Nowhere);
        self.answered = true;
        let route = match route {
            Route::Worker { outlet, slot, interrupts } => {
                let outlet = outlet.detach();
                let interrupted = interrupts.park(slot, self.ticket, ended_by, outlet.clone());
                Route::Late { outlet, interrupts: interrupts.clone(), interrupted }
            }
            Route::Late { outlet, interrupts, interrupted } => {
                Route::Late { outlet, interrupts, interrupted }
            }
            Route::Claimed(outlet) => Route::Claimed(outlet),
            Route::Nowhere => Route::Nowhere,
        };
        (Reply { ticket: self.ticket, answered: false, route }, Answered(()))
    }

    /// Whether a signal to the caller has answered this [`Deferred`] with EINTR, so that a later answer is
    /// dropped. For a reply still on its worker: whether the kernel has told of a signal, so that it should
    /// be answered soon.
    pub fn is_interrupted(&self) -> bool {
        match &self.route {
            Route::Worker { slot, .. } => slot.is_interrupted(self.ticket.unique),
            Route::Late { interrupted, .. } => interrupted.load(SeqCst),
            Route::Claimed(_) | Route::Nowhere => false,
        }
    }

    /// From now on no signal answers it: for what must not be done when nobody hears of it. `None` where one has.
    pub fn claim(mut self) -> Option<Reply<'a>> {
        match mem::replace(&mut self.route, Route::Nowhere) {
            Route::Late { outlet, interrupts, .. } => {
                self.answered = true;
                let claimed = interrupts.unpark(self.ticket.unique);
                claimed.then(|| Reply { ticket: self.ticket, answered: false, route: Route::Claimed(outlet) })
            }
            route => {
                self.route = route;
                Some(self)
            }
        }
    }

    fn structure(self, structure: &(impl IntoBytes + Immutable)) -> Answered {
        self.finish(0, [structure.as_bytes(), &[]])
    }

    /// Sends what `fill` writes into `size` bytes of the answer.
    fn build(mut self, size: u32, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Answered {
        let size = size as usize;
        let Route::Worker { outlet, .. } = &mut self.route else { return self.build_apart(size, fill) };
        let Some(room) = outlet.room(size) else { return self.build_apart(size, fill) };
        match fill(room) {
            Ok(length) => outlet.send_room(self.ticket.unique, length),
            Err(errno) => return self.error(errno),
        }
        self.answered = true;
        Answered(())
    }

    /// The same in memory of its own.
    fn build_apart(self, size: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Answered {
        let mut room = vec![0; size];
        match fill(&mut room) {
            Ok(length) => self.finish(0, [&room[..length], &[]]),
            Err(errno) => self.error(errno),
        }
    }

    fn finish(mut self, error: i32, parts: [&[u8]; 2]) -> Answered {
        self.send(error, parts);
        Answered(())
    }

    fn send(&mut self, error: i32, parts: [&[u8]; 2]) {
        self.answered = true;
        match &mut self.route {
            Route::Worker { outlet, .. } => outlet.send(self.ticket.unique, error, parts),
            Route::Late { outlet, interrupts, .. } => {
                if interrupts.unpark(self.ticket.unique) {
                    outlet.send(self.ticket.unique, error, parts);
                }
            }
            Route::Claimed(outlet) => outlet.send(self.ticket.unique, error, parts),
            Route::Nowhere => {}
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.send(Errno::EIO.wire(), [&[], &[]]);
        }
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
