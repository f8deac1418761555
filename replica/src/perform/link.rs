//! One more name for an object.

use std::os::fd::AsFd;

use mezzo_core::time::Step;
use mezzo_core::{Change, Name, ObjectId, Place};

use super::make::Made;
use super::{Caller, with_links};
use crate::Error;
use crate::host;
use crate::index::Local;
use crate::meet::Met;
use crate::replica::Replica;

impl Replica {
    /// Gives `object` the name `name` in `parent`; EEXIST where there is one. An object that had no name yet is recorded
    /// as made now.
    pub fn link(
        &self,
        caller: &Caller,
        object: ObjectId,
        parent: ObjectId,
        name: &Name,
    ) -> Result<Met, Error> {
        let mut order = self.begin()?;
        let (Met { entry: before, .. }, reach) = self.reach_in_order(&mut order, object)?;
        let parent = self.parent_entry(parent)?;
        let directory = self.directory(parent.object)?;
        self.intend(&order, caller, Some(object), &[(parent.object, name)])?;
        host::link(reach.as_fd(), directory.as_fd(), name)?;
        let stat = host::stat(reach.as_fd())?;
        if self.is_nameless(&before) {
            let made = Made {
                parent: &parent,
                directory: directory.as_fd(),
                name,
                reach: reach.as_fd(),
                stat: &stat,
                object: Some(object),
                has_xattrs: true,
            };
            self.record_made(&mut order, caller, made)?;
            return Ok(Met { entry: self.entry(object)?, stat });
        }
        let after = self.told_after(&before, &stat, before.attributes().links + 1);
        let change = Change::Link {
            object,
            place: Place::new(parent.object, name.clone()),
            path: self.path_of(parent.object, name)?,
            attributes: Step::new(*before.attributes(), after),
            parent: self.parent_step(&parent, directory.as_fd())?,
        };
        self.commit(&mut order, caller, change, Local::default())?;
        Ok(Met { entry: self.entry(object)?, stat })
    }

    /// What a record tells of an object after a change that has nothing to do with its data. Size and mtime of a file are
    /// left to the close that will tell of them: somebody may be writing to it just now.
    pub(crate) fn told_after(
        &self,
        before: &crate::index::Entry,
        stat: &host::Stat,
        links: u32,
    ) -> mezzo_core::Attributes {
        let mut after = with_links(stat, links);
        if after.kind == mezzo_core::Kind::File {
            after.size = before.attributes().size;
            after.mtime = before.attributes().mtime;
        }
        after
    }
}
