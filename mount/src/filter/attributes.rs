//! Attributes: shown and set.

use std::os::fd::AsFd;
use std::time::Duration;

use mezzo_core::permission::Need;
use mezzo_core::{Kind, ObjectId, Time};
use mezzo_fuse::{Answered, Attributes, Errno, Header, Reply, Setattr};
use mezzo_replica::host::{self, SetTime, Stat};
use mezzo_replica::{Caller, Changes, Met};

use super::{Filter, Outcome, told};
use crate::nodes::Node;

impl Filter {
    pub(super) fn attributes(&self, header: &Header) -> Outcome<(Attributes, Duration)> {
        match self.node(header.node)? {
            Node::Object(object) => {
                // Asked before looking, so that a writer who comes meanwhile makes the answer short-lived.
                let valid = self.validity(object);
                let met = self.replica.observe(object).map_err(told)?;
                self.shown_by(header.node, &met, valid)
            }
            node => Ok((self.own_attributes(&node)?, Duration::ZERO)),
        }
    }

    pub(super) fn statx(&self, header: &Header, reply: Reply<'_>) -> Answered {
        let born =
            match self.node(header.node) {
                Ok(Node::Object(object)) => self.replica.entry(object).ok().and_then(|entry| {
                    entry.host.as_ref().map(|host| (host.born.seconds, host.born.nanoseconds))
                }),
                _ => None,
            };
        match self.attributes(header) {
            Ok((attributes, valid)) => reply.statx(&attributes, born.filter(|born| *born != (0, 0)), valid),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn set_attributes(
        &self,
        header: &Header,
        wanted: &Setattr,
    ) -> Outcome<(Attributes, Duration)> {
        let object = self.object(header.node)?;
        if wanted.size.is_some() && self.nodes.former(header.node).is_some() {
            // The kernel looks for the name again.
            return Err(Errno::ESTALE);
        }
        let time = |wanted: Option<mezzo_fuse::SetTime>| match wanted {
            None => SetTime::Omit,
            Some(mezzo_fuse::SetTime::Now) => SetTime::Now,
            Some(mezzo_fuse::SetTime::At { seconds, nanoseconds }) => {
                SetTime::To(Time::new(seconds, nanoseconds))
            }
        };
        let (uid, gid) = self.given_to(object, wanted)?;
        let changes = Changes {
            mode: wanted.mode,
            uid,
            gid,
            size: wanted.size,
            atime: time(wanted.atime),
            mtime: time(wanted.mtime),
            kill_set_id: wanted.kill_suidgid,
        };
        let caller = self.caller(header, 0)?;
        self.judge_setting(header, &caller, object, &changes)?;
        let met = self.making_room(|| self.replica.set_attributes(&caller, object, &changes))?;
        self.was_changed_by(header.node, object);
        self.shown_by(header.node, &met, self.validity(object))
    }

    /// The user and the group that an object is to be given to, as the log has them. Where all are one user, it can be given to
    /// nobody: EPERM, but for what it is shown as already.
    fn given_to(&self, object: ObjectId, wanted: &Setattr) -> Outcome<(Option<u32>, Option<u32>)> {
        if self.ids.has_owners() {
            let uid = wanted.uid.map(|uid| self.ids.user(uid)).transpose()?;
            return Ok((uid, wanted.gid.map(|gid| self.ids.group(gid)).transpose()?));
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            let entry = self.replica.entry(object).map_err(told)?;
            let (uid, gid) = self.ids.owner(entry.attributes().uid, entry.attributes().gid);
            if wanted.uid.is_some_and(|wanted| wanted != uid)
                || wanted.gid.is_some_and(|wanted| wanted != gid)
            {
                return Err(Errno::EPERM);
            }
        }
        Ok((None, None))
    }

    /// As [`Filter::judge_anew`], for what is set.
    fn judge_setting(
        &self,
        header: &Header,
        caller: &Caller,
        object: ObjectId,
        changes: &Changes,
    ) -> Outcome<()> {
        let is_given = changes.uid.is_some() || changes.gid.is_some();
        let is_written = changes.size.is_some()
            || !matches!((changes.atime, changes.mtime), (SetTime::Omit, SetTime::Omit));
        let needs = [
            (changes.uid.is_some(), Need::Root(object)),
            (is_given || changes.mode.is_some(), Need::Own(object)),
            (is_written, Need::Write(object)),
        ];
        let needs = needs.into_iter().filter(|(is_needed, _)| *is_needed);
        needs.map(|(_, need)| need).try_for_each(|need| self.judge_anew(header, caller, &[need]))
    }

    /// As [`Filter::set_attributes`], when the bytes are here that a new size needs.
    pub(super) fn set_attributes_later(
        &self,
        header: &Header,
        wanted: &Setattr,
        reply: Reply<'_>,
    ) -> Answered {
        let Some(object) = self.lacks_bytes(header.node) else { return reply.error(Errno::ENODATA) };
        let (header, wanted) = (*header, *wanted);
        let set = move |filter: &Filter| filter.set_attributes(&header, &wanted);
        self.when_filled(object, reply, set, |reply, (attributes, valid)| {
            reply.attributes(&attributes, valid)
        })
    }

    /// An object as users see it.
    pub(super) fn shown(&self, met: &Met) -> Attributes {
        self.of_host(&met.stat, &met.shown())
    }

    /// An object as users see it by this number, and for how long that is good. By one that it had before it became another inode,
    /// size, blocks and time of last modification are those of the data that it had.
    fn shown_by(&self, node: u64, met: &Met, valid: Duration) -> Outcome<(Attributes, Duration)> {
        let now = self.shown(met);
        // Asked after looking: it is noted before the object becomes another inode.
        let Some(former) = self.nodes.former(node) else { return Ok((now, valid)) };
        let stat = host::stat(former.as_fd())?;
        let had = self.of_host(&stat, &stat.attributes);
        let shown = Attributes { size: had.size, blocks: had.blocks, mtime: had.mtime, ..now };
        // What is changed by the number that it has now, the kernel does not know to be changed by this one.
        Ok((shown, Duration::ZERO))
    }

    /// A host's object, with attributes that may come from the log.
    pub(super) fn of_host(&self, stat: &Stat, attributes: &mezzo_core::Attributes) -> Attributes {
        let is_directory = attributes.kind == Kind::Directory;
        let (uid, gid) = self.ids.owner(attributes.uid, attributes.gid);
        let pair = |time: Time| (time.seconds, time.nanoseconds);
        Attributes {
            inode: self.replica.index().number(stat.inode),
            size: stat.host_size,
            blocks: stat.blocks,
            atime: pair(attributes.atime),
            mtime: pair(attributes.mtime),
            ctime: pair(attributes.ctime),
            mode: host::type_bits(attributes.kind) | u32::from(attributes.mode),
            links: if is_directory { stat.host_links } else { attributes.links },
            uid,
            gid,
            device: (attributes.device.major, attributes.device.minor),
            block_size: stat.block_size,
        }
    }

    pub(super) fn read_link(&self, header: &Header) -> Outcome<Vec<u8>> {
        match self.node(header.node)? {
            Node::Object(object) => {
                let entry = self.replica.entry(object).map_err(told)?;
                if entry.attributes().kind != Kind::Symlink {
                    return Err(Errno::EINVAL);
                }
                Ok(entry.state.target.to_vec())
            }
            node => self.own_link(&node),
        }
    }
}
