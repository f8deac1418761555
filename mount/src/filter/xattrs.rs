//! Extended attributes.

use std::os::fd::AsFd;

use mezzo_core::ObjectId;
use mezzo_core::permission::Need;
use mezzo_fuse::{Errno, Header};
use mezzo_replica::host::xattr;

use super::{Filter, Outcome, told};
use crate::nodes::Node;

impl Filter {
    pub(super) fn get_xattr(&self, header: &Header, name: &[u8]) -> Outcome<Vec<u8>> {
        let Node::Object(object) = self.node(header.node)? else { return Err(Errno::ENODATA) };
        let entry = self.replica.entry(object).map_err(told)?;
        let reach = self.replica.reach(&entry).map_err(told)?;
        self.ids.xattr_shown(name, xattr::get(reach.as_fd(), name)?)
    }

    pub(super) fn list_xattrs(&self, header: &Header) -> Outcome<Vec<u8>> {
        let Node::Object(object) = self.node(header.node)? else { return Ok(Vec::new()) };
        let entry = self.replica.entry(object).map_err(told)?;
        let reach = self.replica.reach(&entry).map_err(told)?;
        let mut list = Vec::new();
        for name in xattr::names(reach.as_fd())? {
            // What only the system's administrator may see is shown to root alone, as on the host.
            if name.starts_with(xattr::OWN) || header.uid != 0 && name.starts_with(b"trusted.") {
                continue;
            }
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    pub(super) fn set_xattr(
        &self,
        header: &Header,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_set_gid: bool,
    ) -> Outcome<()> {
        let object = self.object(header.node)?;
        let caller = self.caller(header, 0)?;
        self.judge_anew(header, &caller, &[need(name, object)])?;
        let value = self.ids.xattr_set(name, value, || self.xattr_on_host(object, name))?;
        self.making_room(|| self.replica.set_xattr(&caller, object, (name, &value), flags, kill_set_gid))?;
        self.was_changed_by(header.node, object);
        Ok(())
    }

    pub(super) fn remove_xattr(&self, header: &Header, name: &[u8]) -> Outcome<()> {
        let object = self.object(header.node)?;
        let caller = self.caller(header, 0)?;
        self.judge_anew(header, &caller, &[need(name, object)])?;
        self.replica.remove_xattr(&caller, object, name).map_err(told)?;
        self.was_changed_by(header.node, object);
        Ok(())
    }

    fn xattr_on_host(&self, object: ObjectId, name: &[u8]) -> Outcome<Option<Box<[u8]>>> {
        let entry = self.replica.entry(object).map_err(told)?;
        let reach = self.replica.reach(&entry).map_err(told)?;
        match xattr::get(reach.as_fd(), name) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What it takes to change an extended attribute.
fn need(name: &[u8], object: ObjectId) -> Need<'static> {
    if name.starts_with(b"user.") {
        Need::Write(object)
    } else if name.starts_with(b"system.posix_acl_") {
        Need::Own(object)
    } else {
        Need::Root(object)
    }
}
