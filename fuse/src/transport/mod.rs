//! How requests come from the kernel and answers go back.

pub(crate) mod device;
mod ring_memory;
pub(crate) mod uring;

use crate::Filesystem;
use crate::errno::Errno;
use crate::interrupt::{Interrupts, Slot, Ticket};
use crate::parse::{Incoming, Message};
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A worker's way back to the kernel for the request it has in hand. An error travels negative; 0 is success.
pub(crate) trait Outlet: Send {
    /// Room in which an answer of `size` bytes may be built in place, if there is any. Not cleared.
    fn room(&mut self, size: usize) -> Option<&mut [u8]>;

    /// Answers with the first `length` bytes of the room.
    fn send_room(&mut self, unique: u64, length: usize);

    /// Answers with two parts, one after the other.
    fn send(&mut self, unique: u64, error: i32, parts: [&[u8]; 2]);

    /// A way for the same request's answer from any thread. The worker may go on to the next request.
    fn detach(&mut self) -> Arc<dyn LateOutlet>;
}

/// The way back for a request that is answered later.
pub(crate) trait LateOutlet: Send + Sync {
    /// Answers with two parts, one after the other.
    fn send(&self, unique: u64, error: i32, parts: [&[u8]; 2]);

    /// Whether the kernel may fail to tell of signals to a caller that waits on this transport.
    fn may_miss_interrupts(&self) -> bool {
        false
    }
}

/// What all workers of a session share.
#[derive(Default)]
pub(crate) struct Shared {
    pub interrupts: Arc<Interrupts>,
    /// SETXATTR_EXT was negotiated.
    pub setxattr_ext: bool,
    /// The kernel has sent DESTROY.
    pub destroyed: AtomicBool,
}

/// Brings one worker's requests to the file system.
pub(crate) struct Dispatcher<'s, F> {
    shared: &'s Shared,
    filesystem: &'s F,
    slot: Arc<Slot>,
}

impl<'s, F: Filesystem> Dispatcher<'s, F> {
    pub fn new(shared: &'s Shared, filesystem: &'s F) -> Dispatcher<'s, F> {
        Dispatcher { shared, filesystem, slot: shared.interrupts.new_slot() }
    }

    /// Whether SETXATTR_EXT was negotiated.
    pub fn setxattr_ext(&self) -> bool {
        self.shared.setxattr_ext
    }

    /// Handles one message, whose answer goes to `outlet`.
    pub fn dispatch(&self, message: Message<'_>, outlet: &mut dyn Outlet) {
        let ticket = Ticket::of(&message.header);
        match message.parse(self.shared.setxattr_ext) {
            Ok(Incoming::Request(request)) => self.handle(&request, ticket, outlet),
            Ok(Incoming::Interrupt { unique }) => self.shared.interrupts.interrupt(unique),
            Ok(Incoming::Ignored) => {}
            Ok(Incoming::Init) | Err(Malformed) => self.refuse(ticket, outlet),
        }
    }

    /// Answers a message that can't be understood.
    pub fn refuse(&self, ticket: Ticket, outlet: &mut dyn Outlet) {
        let reply = Reply::new(ticket, outlet, &self.slot, &self.shared.interrupts);
        let _ = reply.error(Errno::EIO);
    }

    fn handle(&self, request: &Request<'_>, ticket: Ticket, outlet: &mut dyn Outlet) {
        if request.operation == Operation::Destroy {
            self.shared.destroyed.store(true, Relaxed);
        }
        self.shared.interrupts.publish(&self.slot, ticket.unique);
        let reply = Reply::new(ticket, outlet, &self.slot, &self.shared.interrupts);
        // A handler that panics has dropped its reply, which has answered EIO. The panic hook has told of it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.filesystem.handle(request, reply)));
        self.slot.clear();
    }
}
