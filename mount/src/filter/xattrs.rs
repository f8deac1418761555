//! Extended attributes.

use std::os::fd::AsFd;

use mezzo_fuse::{Errno, Header};
use mezzo_replica::host::xattr;

use super::{Filter, Outcome, told};
use crate::nodes::Node;

impl Filter {
    pub(super) fn get_xattr(&self, header: &Header, name: &[u8]) -> Outcome<Vec<u8>> {
        let Node::Object(object) = self.node(header.node)? else { return Err(Errno::ENODATA) };
        let entry = self.replica.entry(object).map_err(told)?;
        let reach = self.replica.reach(&entry).map_err(told)?;
        Ok(xattr::get(reach.as_fd(), name)?.into_vec())
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
        let caller = self.caller(header, 0);
        self.making_room(|| self.replica.set_xattr(&caller, object, (name, value), flags, kill_set_gid))?;
        self.was_changed_by(header.node, object);
        Ok(())
    }

    pub(super) fn remove_xattr(&self, header: &Header, name: &[u8]) -> Outcome<()> {
        let object = self.object(header.node)?;
        self.replica.remove_xattr(&self.caller(header, 0), object, name).map_err(told)?;
        self.was_changed_by(header.node, object);
        Ok(())
    }
}
