//! Requests that change something, where one replica at a time may: those that find the gate closed leave their thread, and are
//! gone on with when it opens; whoever gets a signal meanwhile waits no more.

use std::sync::Arc;

use mezzo_fuse::{Answered, Deferred, Errno, Operation, Reply, Request};
use mezzo_replica::gate::{self, Entrance, Gate, Pass};
use rustix::fs::OFlags;

use super::Filter;

/// Whether users change something with it. What is done with an open file is not asked about: its open was, and as long as anybody has
/// it open for writing, the permit is not given back.
pub(super) fn is_change(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Open { flags, .. } => {
            let flags = OFlags::from_bits_retain(*flags);
            flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
        }
        operation => with_bytes(operation, b"", b"").is_some(),
    }
}

/// A request that waits, with bytes of its own.
struct Kept {
    request: Request<'static>,
    first: Box<[u8]>,
    second: Box<[u8]>,
}

/// What the request asks for, with other bytes; `None` for what is no change.
fn with_bytes<'a>(operation: &Operation<'_>, first: &'a [u8], second: &'a [u8]) -> Option<Operation<'a>> {
    use Operation::*;
    Some(match *operation {
        Setattr(wanted) => Setattr(wanted),
        Symlink { .. } => Symlink { name: first, target: second },
        Mknod { mode, device, umask, .. } => Mknod { name: first, mode, device, umask },
        Mkdir { mode, umask, .. } => Mkdir { name: first, mode, umask },
        Unlink { .. } => Unlink { name: first },
        Rmdir { .. } => Rmdir { name: first },
        Rename { new_parent, flags, .. } => Rename { name: first, new_parent, new_name: second, flags },
        Link { node, .. } => Link { node, name: first },
        Open { flags, kill_suidgid } => Open { flags, kill_suidgid },
        Create { mode, umask, flags, kill_suidgid, .. } => {
            Create { name: first, mode, umask, flags, kill_suidgid }
        }
        Tmpfile { mode, umask, flags } => Tmpfile { mode, umask, flags },
        Setxattr { flags, kill_sgid, .. } => Setxattr { name: first, value: second, flags, kill_sgid },
        Removexattr { .. } => Removexattr { name: first },
        _ => return None,
    })
}

fn bytes_of<'a>(operation: &Operation<'a>) -> (&'a [u8], &'a [u8]) {
    use Operation::*;
    match operation {
        Symlink { name, target } => (name, target),
        Rename { name, new_name, .. } => (name, new_name),
        Setxattr { name, value, .. } => (name, value),
        Mknod { name, .. }
        | Mkdir { name, .. }
        | Unlink { name }
        | Rmdir { name }
        | Link { name, .. }
        | Create { name, .. }
        | Removexattr { name } => (name, b""),
        _ => (b"", b""),
    }
}

impl Kept {
    fn new(request: &Request<'_>) -> Option<Kept> {
        let operation = with_bytes(&request.operation, b"", b"")?;
        let (first, second) = bytes_of(&request.operation);
        let (header, supplementary_group) = (request.header, request.supplementary_group);
        let request = Request { header, operation, supplementary_group };
        Some(Kept { request, first: first.into(), second: second.into() })
    }
}

impl Filter {
    /// Carries the request out when the gate is open.
    pub(super) fn pass(&self, gate: &Arc<Gate>, request: &Request<'_>, reply: Reply<'_>) -> Answered {
        let _pass = match gate.enter() {
            Entrance::Open(pass) => pass,
            Entrance::Refused(errno) => return reply.error(Errno(errno)),
            Entrance::Closed => {
                let (Some(kept), Some(filter)) = (Kept::new(request), self.me.upgrade()) else {
                    return reply.error(Errno::EROFS);
                };
                let (reply, answered) = reply.later();
                gate.wait(Box::new(Waiting { filter, kept, reply }));
                return answered;
            }
        };
        self.carry_out(request, reply)
    }
}

struct Waiting {
    filter: Arc<Filter>,
    kept: Kept,
    reply: Deferred,
}

impl gate::Waiting for Waiting {
    fn is_gone(&self) -> bool {
        self.reply.is_interrupted()
    }

    fn go_on(self: Box<Self>, outcome: Result<Pass, i32>) {
        let Waiting { filter, kept, reply } = *self;
        let _pass = match outcome {
            Ok(pass) => pass,
            Err(errno) => return drop(reply.error(Errno(errno))),
        };
        // What is done now, the kernel hears of.
        let Some(reply) = reply.claim() else { return };
        if let Some(operation) = with_bytes(&kept.request.operation, &kept.first, &kept.second) {
            drop(filter.carry_out(&Request { operation, ..kept.request }, reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use mezzo_fuse::Header;

    use super::*;

    #[test]
    fn what_is_kept_is_what_was_asked_for() {
        use Operation::*;
        let flags = OFlags::WRONLY.bits();
        for operation in [
            Setattr(Default::default()),
            Symlink { name: b"a", target: b"b" },
            Mknod { name: b"a", mode: 1, device: 2, umask: 3 },
            Mkdir { name: b"a", mode: 1, umask: 3 },
            Unlink { name: b"a" },
            Rmdir { name: b"a" },
            Rename { name: b"a", new_parent: 4, new_name: b"b", flags: 1 },
            Link { node: 3, name: b"a" },
            Open { flags, kill_suidgid: true },
            Create { name: b"a", mode: 1, umask: 2, flags, kill_suidgid: false },
            Tmpfile { mode: 1, umask: 2, flags },
            Setxattr { name: b"a", value: b"v", flags: 1, kill_sgid: true },
            Removexattr { name: b"a" },
        ] {
            assert!(is_change(&operation), "{operation:?}");
            let request = Request { header: Header::default(), operation, supplementary_group: Some(5) };
            let kept = Kept::new(&request).unwrap();
            let again = with_bytes(&kept.request.operation, &kept.first, &kept.second);
            assert_eq!(again.as_ref(), Some(&request.operation));
        }
        for operation in [Open { flags: 0, kill_suidgid: false }, Readlink, Statfs, Lookup { name: b"a" }] {
            assert!(!is_change(&operation), "{operation:?}");
        }
    }
}
