//! Who has to know when the tree changes by other ways than the kernel's requests: the kernel, which may have cached what was
//! before.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};

use mezzo_core::{ObjectId, Place};
use mezzo_replica::undo::Audience;
use mezzo_replica::{Error, host};
use rustix::fs::OFlags;

use crate::filter::Filter;
use crate::nodes::Node;

/// In place of where a node's data begins: its attributes alone are to be asked for again.
pub(crate) const ATTRIBUTES: i64 = -1;

/// What the kernel is to be told of.
enum Changed {
    Entry(Place),
    Object(ObjectId),
}

/// Tells the kernel in a thread of its own. A change that waits for the permit holds locks of the kernel that telling takes, and what it
/// waits for is that what is told of comes in.
#[derive(Default)]
pub(crate) struct Later(OnceLock<Option<Sender<Changed>>>);

impl Later {
    fn send(&self, filter: &Arc<Filter>, changed: Changed) -> Result<(), Changed> {
        let start = || {
            let (sender, told) = channel();
            let filter = Arc::downgrade(filter);
            let run = move || {
                while let Ok(changed) = told.recv() {
                    let Some(filter) = Weak::upgrade(&filter) else { return };
                    Users { filter }.tell(&changed);
                }
            };
            std::thread::Builder::new().name("audience".into()).spawn(run).ok().map(|_| sender)
        };
        match self.0.get_or_init(start) {
            Some(sender) => sender.send(changed).map_err(|unsent| unsent.0),
            None => Err(changed),
        }
    }
}

/// The users of a mount.
pub struct Users {
    pub(crate) filter: Arc<Filter>,
}

impl Users {
    /// The kernel is to ask again what stands at a place. What it never knew, it need not be told.
    pub(crate) fn look_again(&self, place: &Place) {
        if let Some(parent) = self.filter.nodes.number_of(place.parent) {
            told(self.filter.notifier.inval_entry(parent, place.name.as_bytes()));
        }
    }

    /// The kernel is to ask again what an object is like, and what is in it.
    pub(crate) fn ask_again(&self, object: ObjectId) {
        if let Some(node) = self.filter.nodes.number_of(object) {
            told(self.filter.notifier.inval_inode(node, 0, 0));
        }
    }

    /// The kernel is to look again for each of an object's names.
    fn look_again_for(&self, object: ObjectId) {
        let index = self.filter.replica.index();
        // A name that is renamed meanwhile takes with it what the kernel knows it to be.
        while let Ok(Some(entry)) = index.entry(object) {
            entry.places.iter().for_each(|place| self.look_again(place));
            if index.entry(object).ok().flatten().is_none_or(|now| Arc::ptr_eq(&now, &entry)) {
                break;
            }
        }
    }

    /// The kernel is to look again for every name.
    pub(crate) fn look_everywhere_again(&self) {
        told(self.filter.notifier.increment_epoch());
    }
}

impl Audience for Users {
    fn losing(&self, object: ObjectId) {
        self.filter.hold(object);
    }

    /// The kernel takes the data of a node from one inode of the host at a time, and those who have it open go on with it. So as long as
    /// there are such, the object gets another node.
    fn inode_changes(
        &self,
        object: ObjectId,
        former: &Arc<OwnedFd>,
        change: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Filter { nodes, handles, replica, .. } = &*self.filter;
        // Not open, so that it is in nobody's way who asks the host whether it is.
        let former = Arc::new(host::reopen(former.as_fd(), OFlags::PATH)?);
        // Counted as if the kernel knew it, so that the kernel is told of no other meanwhile. By the number of one that was removed, it
        // would take the object for removed for ever.
        let mut node = match replica.index().is_orphan(object) {
            true => nodes.replace(object, former.clone()),
            false => nodes.look_up(Node::Object(object)),
        };
        let changed = loop {
            if let Some(changed) = handles.while_closed(node, &mut *change) {
                break changed;
            }
            let other = nodes.replace(object, former.clone());
            self.filter.forget(node, 1);
            node = other;
        };
        self.filter.forget(node, 1);
        changed
    }

    fn entry_changed(&self, place: &Place) {
        self.changed(Changed::Entry(place.clone()));
    }

    fn object_changed(&self, object: ObjectId) {
        self.changed(Changed::Object(object));
    }
}

impl Users {
    fn changed(&self, changed: Changed) {
        let filter = &self.filter;
        let changed = match filter.replica.gate().is_some_and(|gate| gate.is_exclusive()) {
            true => filter.later.send(filter, changed),
            false => Err(changed),
        };
        if let Err(changed) = changed {
            self.tell(&changed);
        }
    }

    fn tell(&self, changed: &Changed) {
        match changed {
            Changed::Entry(place) => self.look_again(place),
            Changed::Object(object) => self.tell_of(*object),
        }
    }

    fn tell_of(&self, object: ObjectId) {
        self.filter.let_go_unless_gone(object);
        // Of two who changed it, the one that finds nothing left to tell returns when the other has told it.
        let _telling = self.filter.telling.lock();
        let former = self.filter.nodes.replaced(object);
        if !former.is_empty() {
            self.look_again_for(object);
        }
        former.into_iter().for_each(|node| told(self.filter.notifier.inval_inode(node, ATTRIBUTES, 0)));
        self.ask_again(object);
    }
}

pub(crate) fn told(notified: std::io::Result<()>) {
    if let Err(error) = notified {
        mezzo_replica::say!("mezzo: could not tell the kernel of a change: {error}");
    }
}
