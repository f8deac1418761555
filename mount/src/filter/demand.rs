//! Requests that need the bytes of a file that has none here. They leave their thread, and are gone on with when the bytes have
//! come; whoever is killed meanwhile waits no more.

use std::sync::Arc;

use mezzo_core::ObjectId;
use mezzo_fuse::{Answered, Deferred, Errno, Reply};
use mezzo_replica::demand::Waiter;

use super::{Filter, Outcome};
use crate::nodes::Node;

/// Times that bytes are waited for that went again before they were used: somebody received a newer version without any, or
/// evicted them.
const TRIES: usize = 16;

/// A request that waits.
struct Waiting<A, T> {
    filter: Arc<Filter>,
    object: ObjectId,
    reply: Deferred,
    act: A,
    answer: fn(Reply<'static>, T) -> Answered,
    tries: usize,
}

impl Filter {
    /// Whether the node stands for a file whose bytes are not here.
    pub(super) fn lacks_bytes(&self, node: u64) -> Option<ObjectId> {
        match self.nodes.get(node)? {
            Node::Object(object) => self.replica.is_absent(object).unwrap_or(false).then_some(object),
            _ => None,
        }
    }

    /// Answers with what `act` has done, when the object's bytes are here.
    pub(super) fn when_filled<T: 'static>(
        &self,
        object: ObjectId,
        reply: Reply<'_>,
        act: impl Fn(&Filter) -> Outcome<T> + Send + 'static,
        answer: fn(Reply<'static>, T) -> Answered,
    ) -> Answered {
        let filter = match self.me.upgrade() {
            Some(filter) if self.replica.upstream().is_some() => filter,
            _ => return reply.error(Errno::ENODATA),
        };
        let (reply, answered) = reply.later_killable();
        Waiting { filter, object, reply, act, answer, tries: TRIES }.wait();
        answered
    }
}

impl<A, T> Waiting<A, T>
where
    A: Fn(&Filter) -> Outcome<T> + Send + 'static,
    T: 'static,
{
    fn wait(self) {
        let replica = self.filter.replica.clone();
        replica.want(self.object, Box::new(self));
    }

    fn go_on(mut self) {
        if self.tries > 0 && self.filter.replica.is_absent(self.object).unwrap_or(false) {
            self.tries -= 1;
            return self.wait();
        }
        // What is done now, the kernel hears of.
        if let Some(reply) = self.reply.claim() {
            let _ = match (self.act)(&self.filter) {
                Ok(done) => (self.answer)(reply, done),
                Err(errno) => reply.error(errno),
            };
        }
    }
}

impl<A, T> Waiter for Waiting<A, T>
where
    A: Fn(&Filter) -> Outcome<T> + Send + 'static,
    T: 'static,
{
    fn is_gone(&self) -> bool {
        self.reply.is_interrupted()
    }

    fn done(self: Box<Self>, outcome: Result<(), i32>) {
        match outcome {
            Ok(()) => self.go_on(),
            Err(errno) => drop(self.reply.error(Errno(errno))),
        }
    }
}
