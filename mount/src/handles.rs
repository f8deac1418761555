//! What users have open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mezzo_core::ObjectId;
use mezzo_fuse::BackingId;
use mezzo_replica::{Sight, Use};
use parking_lot::Mutex;

/// One open.
#[derive(Debug)]
pub struct Handle {
    /// What was opened; `None` for what is no object of the fileset.
    pub object: Option<ObjectId>,
    /// The kernel's number of it.
    pub node: u64,
    /// What it can do to data.
    pub usage: Use,
    /// Where data passes through the kernel: the host's file, registered there.
    pub backing: Option<Arc<BackingId>>,
    /// Where it doesn't: the host's file, opened as the user did.
    pub file: Option<File>,
}

/// How the data of a node goes, the same for all who have it open: the kernel takes no other.
#[derive(Debug, Default)]
pub struct Session {
    /// Whether writes are seen; `None` where nobody has it open.
    pub sight: Option<Sight>,
    backing: Weak<BackingId>,
}

impl Session {
    /// The registered file that all opens share: the kernel takes one at a time. Made where there is none.
    pub fn backing<E>(
        &mut self,
        register: impl FnOnce() -> Result<BackingId, E>,
    ) -> Result<Arc<BackingId>, E> {
        if let Some(backing) = self.backing.upgrade() {
            return Ok(backing);
        }
        let backing = Arc::new(register()?);
        self.backing = Arc::downgrade(&backing);
        Ok(backing)
    }
}

/// A session, and how many have the node open or are about to.
#[derive(Debug, Default)]
struct Shared {
    session: Arc<Mutex<Session>>,
    users: usize,
}

/// All opens, by the number that the kernel has for each.
#[derive(Debug, Default)]
pub struct Handles {
    open: Mutex<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
    sessions: Mutex<HashMap<u64, Shared>>,
}

impl Handles {
    /// Takes in an open.
    pub fn add(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(handle));
        number
    }

    /// The open with this number.
    pub fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().get(&number).cloned()
    }

    /// Lets go of an open. Its session goes on until [`Handles::leave`].
    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().remove(&number)
    }

    /// The numbers of all opens.
    pub fn numbers(&self) -> Vec<u64> {
        self.open.lock().keys().copied().collect()
    }

    /// The session of a node that is about to be opened, until [`Handles::leave`].
    pub fn enter(&self, node: u64) -> Arc<Mutex<Session>> {
        let mut sessions = self.sessions.lock();
        let shared = sessions.entry(node).or_default();
        shared.users += 1;
        shared.session.clone()
    }

    /// An open of the node is done with, or could not be made.
    pub fn leave(&self, node: u64) {
        let mut sessions = self.sessions.lock();
        if let Some(shared) = sessions.get_mut(&node) {
            shared.users -= 1;
            if shared.users == 0 {
                sessions.remove(&node);
            }
        }
    }

    /// Runs `act` while nobody has the node open: who is about to open it waits. `None` where somebody has it open, or is opening it:
    /// they may be waiting for the caller.
    pub fn while_closed<T>(&self, node: u64, act: impl FnOnce() -> T) -> Option<T> {
        let session = Arc::new(Mutex::new(Session::default()));
        let locked = session.lock();
        match self.sessions.lock().entry(node) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(Shared { session: session.clone(), users: 1 }),
        };
        let done = act();
        drop(locked);
        self.leave(node);
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_about_to_open_a_node_waits_and_is_not_waited_for() {
        let handles = Handles::default();
        let session = handles.enter(1);
        assert_eq!(handles.while_closed(1, || ()), None, "somebody is opening it");
        assert_eq!(handles.while_closed(2, || ()), Some(()));
        drop(session);
        handles.leave(1);
        let opened = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let seen = handles.while_closed(1, || {
                let (entered, enters) = std::sync::mpsc::channel();
                let (handles, opened) = (&handles, &opened);
                scope.spawn(move || {
                    let session = handles.enter(1);
                    entered.send(()).unwrap();
                    let _open = session.lock();
                    opened.store(1, Ordering::Relaxed);
                });
                enters.recv().unwrap();
                opened.load(Ordering::Relaxed)
            });
            assert_eq!(seen, Some(0));
        });
        assert_eq!(opened.into_inner(), 1);
    }
}
