//! Names: found, linked, removed, renamed.

use mezzo_core::permission::Need;
use mezzo_core::{Name, ObjectId, Place};
use mezzo_fuse::{Entry, Errno, Header};
use mezzo_replica::{Caller, Use};
use rustix::fs::RenameFlags;

use super::{Filter, KEPT, Outcome, own, parse_name, told};
use crate::nodes::Node;

impl Filter {
    /// What stands at `name`. Where nothing does, the kernel may remember that.
    pub(super) fn look_up(&self, header: &Header, name: &[u8]) -> Outcome<Entry> {
        let parent = match self.node(header.node)? {
            Node::Object(object) if own::is_own(object, name) => return self.own_entry(Node::Own),
            Node::Object(object) => object,
            node => return self.look_up_own(&node, name),
        };
        match self.replica.meet(parent, &parse_name(name)?).map_err(told)? {
            Some(met) => Ok(self.entry_of(&met)),
            None => Ok(Entry { node: 0, entry_valid: KEPT, ..Entry::default() }),
        }
    }

    pub(super) fn link(&self, header: &Header, node: u64, name: &[u8]) -> Outcome<Entry> {
        let (parent, object) = (self.object(header.node)?, self.object(node)?);
        let name = self.name(parent, name)?;
        let caller = self.caller(header, 0)?;
        self.judge_anew(header, &caller, &[Need::Entry(parent)])?;
        let met = self.making_room(|| self.replica.link(&caller, object, parent, &name))?;
        Ok(self.entry_of(&met))
    }

    pub(super) fn remove(&self, header: &Header, name: &[u8], directory: bool) -> Outcome<()> {
        let parent = self.object(header.node)?;
        let name = self.name(parent, name)?;
        let caller = self.caller(header, 0)?;
        self.judge_taking(header, &caller, parent, &name)?;
        let remove = || self.making_room(|| self.replica.remove(&caller, parent, &name, directory));
        self.holding(parent, &name, remove)
    }

    /// As [`Filter::judge_anew`], for the object at a name, if there is one, which is taken from there.
    fn judge_taking(&self, header: &Header, caller: &Caller, parent: ObjectId, name: &Name) -> Outcome<()> {
        if !self.ids.is_judged_anew(header.uid) {
            return Ok(());
        }
        let Ok(Some(object)) = self.replica.index().child(parent, name) else { return Ok(()) };
        self.judge_anew(header, caller, &[Need::Take(object, &Place::new(parent, name.clone()))])
    }

    /// Runs `act`, which may take from what stands at `name` its last name. What the kernel knows it may still use: somebody
    /// stands in the directory, names the file by a descriptor, or found it and is about to open it. So it is kept as if it
    /// were open, until the kernel forgets it.
    fn holding<T>(&self, parent: ObjectId, name: &Name, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let found = self.replica.index().child(parent, name).ok().flatten();
        let held = found.filter(|object| self.hold(*object));
        let done = act();
        if let Some(object) = held {
            self.let_go_unless_gone(object);
        }
        done
    }

    /// Keeps the object for the kernel, if that knows it; false where it does not, or where it is kept already.
    pub(crate) fn hold(&self, object: ObjectId) -> bool {
        if !self.nodes.hold(object) {
            return false;
        }
        if let Err(error) = self.replica.opened(object, Use::Read, None) {
            mezzo_replica::say!("mezzo: {error}");
        }
        true
    }

    /// It need not be kept after all, unless it has lost its last name.
    pub(crate) fn let_go_unless_gone(&self, object: ObjectId) {
        if !self.replica.index().is_orphan(object) && self.nodes.let_go(object) {
            self.let_go(object);
        }
    }

    /// The object is kept for the kernel no more.
    pub(super) fn let_go(&self, object: ObjectId) {
        if let Err(error) = self.replica.released(&Caller::program(), object, Use::Read) {
            mezzo_replica::say!("mezzo: {error}");
        }
    }

    pub(super) fn rename(
        &self,
        header: &Header,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
    ) -> Outcome<()> {
        let (from, to): (ObjectId, ObjectId) = (self.object(header.node)?, self.object(new_parent)?);
        let (name, new_name) = (self.name(from, name)?, self.name(to, new_name)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let caller = self.caller(header, 0)?;
        self.judge_anew(header, &caller, &[Need::Entry(to)])?;
        self.judge_taking(header, &caller, from, &name)?;
        self.judge_taking(header, &caller, to, &new_name)?;
        let rename =
            || self.making_room(|| self.replica.rename(&caller, (from, &name), (to, &new_name), flags));
        self.holding(to, &new_name, rename)
    }
}
