//! What users do: each operation is done on the host and recorded, in one order.
//!
//! Whether the caller may do it has been judged before, by the kernel, from the attributes and ACLs it was shown.

mod attributes;
mod data;
mod link;
mod make;
mod remove;
mod rename;
mod xattrs;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use mezzo_core::name::join;
use mezzo_core::time::{Step, Times};
use mezzo_core::{Attributes, Name, ObjectId, Who};

use crate::host::{self, Identity, Stat};
use crate::index::Entry;
use crate::replica::Replica;
use crate::{Error, error};

pub use attributes::Changes;
pub(crate) use attributes::{keep_lost_mark, set_on_host};
pub(crate) use make::Made;
pub use make::NewNode;

/// Who asks for an operation.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose objects are made.
    pub identity: Identity,
    /// The file-creation mask for what is made.
    pub umask: u32,
    /// What records tell of them.
    pub who: Arc<Who>,
}

impl Caller {
    /// This program on its own account, such as when it takes in what was done behind its back.
    pub fn program() -> Caller {
        let who = Who { pid: crate::host::process(), program: (*b"mezzo").into(), ..Who::default() };
        Caller { identity: Identity::default(), umask: 0, who: Arc::new(who) }
    }
}

pub(crate) fn times(attributes: &Attributes) -> Times {
    Times { mtime: attributes.mtime, ctime: attributes.ctime }
}

/// The host's attributes of an object, with the link count as the log has it.
pub(crate) fn with_links(stat: &Stat, links: u32) -> Attributes {
    Attributes { links, ..stat.attributes }
}

impl Replica {
    /// The directory's times before, as the log has them, and after, as the host has them now.
    pub(crate) fn parent_step(
        &self,
        parent: &Entry,
        directory: BorrowedFd<'_>,
    ) -> Result<Step<Times>, Error> {
        let after = host::stat(directory)?;
        Ok(Step::new(times(parent.attributes()), times(&after.attributes)))
    }

    /// The path of `name` in `parent`, for people.
    pub(crate) fn path_of(&self, parent: ObjectId, name: &Name) -> Result<Box<[u8]>, Error> {
        Ok(join(&self.index.path(parent)?, name.as_bytes()).into())
    }

    /// The directory `parent`, which something is to happen in.
    pub(crate) fn parent_entry(&self, parent: ObjectId) -> Result<Arc<Entry>, Error> {
        let entry = self.entry(parent)?;
        if self.is_nameless(&entry) {
            // A removed directory that somebody still has open takes no more names, as on any host.
            return Err(error::refused(libc::ENOENT));
        }
        Ok(entry)
    }
}
