//! The ids of users and groups at the edge of the mount: inside are those of the log, outside those of this machine.

use std::sync::Arc;

use mezzo_core::mapping::{Mapper, Others, Toward, Unmapped};
use mezzo_core::{IdMapping, Who, acl};
use mezzo_fuse::Errno;
use mezzo_replica::fileset;
use mezzo_replica::host::Identity;

/// As whose objects are shown that are nobody's here: what Linux shows for an id that it can't map (`overflowuid`).
const NOBODY: u32 = 65534;

/// What users have other ids for than the log; nothing is done where they are the same.
#[derive(Debug)]
pub struct Ids {
    is_same: bool,
    /// Who does something is this on the server.
    mapping: IdMapping,
    /// What users see.
    shown: IdMapping,
    local: (u32, u32),
}

/// Who an id would be is not known: as Linux says it where a mount maps ids.
fn unmapped(_: Unmapped) -> Errno {
    Errno(libc::EOVERFLOW)
}

impl Ids {
    /// As the fileset has them.
    pub fn new(ids: &fileset::Ids) -> Ids {
        let fileset::Ids { mapping, local } = ids.clone();
        let shown = mapping.shown(local);
        Ids { is_same: mapping == IdMapping::Same, mapping, shown, local }
    }

    fn doing(&self) -> Mapper<'_> {
        Mapper { mapping: &self.mapping, toward: Toward::Server, others: Others::Refused }
    }

    fn giving(&self) -> Mapper<'_> {
        Mapper { mapping: &self.shown, toward: Toward::Server, others: Others::Refused }
    }

    fn showing(&self) -> Mapper<'_> {
        let others = Others::Shown { uid: NOBODY, gid: NOBODY };
        Mapper { mapping: &self.shown, toward: Toward::Client, others }
    }

    /// Whether users have the ids that the log has.
    pub fn is_same(&self) -> bool {
        self.is_same
    }

    /// Owner and group as users see them.
    pub fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        if self.is_same {
            return (uid, gid);
        }
        let showing = self.showing();
        (showing.user(uid).unwrap_or(NOBODY), showing.group(gid).unwrap_or(NOBODY))
    }

    /// Who somebody is in the log; EOVERFLOW for who is nobody there.
    pub fn caller(&self, who: Arc<Who>) -> Result<(Identity, Arc<Who>), Errno> {
        let who = if self.is_same { who } else { Arc::new(self.doing().who(&who).map_err(unmapped)?) };
        Ok((Identity { uid: who.uid, gid: who.gid }, who))
    }

    /// Whether the kernel has judged by other rights than the server will: it lets root of this machine do everything, and knows
    /// several users where the server has one.
    pub fn is_judged_anew(&self, uid: u32) -> bool {
        !self.is_same && (uid == 0 || !self.mapping.has_owners() && uid != self.local.0)
    }

    /// Whether owners can be changed: not where all are one.
    pub fn has_owners(&self) -> bool {
        self.mapping.has_owners()
    }

    /// Whether a group of the log is one here.
    pub fn has_group(&self, gid: u32) -> bool {
        self.mapping.has_group(gid)
    }

    /// The user that an object is given to.
    pub fn user(&self, uid: u32) -> Result<u32, Errno> {
        self.giving().user(uid).map_err(unmapped)
    }

    /// The group that an object is given to.
    pub fn group(&self, gid: u32) -> Result<u32, Errno> {
        self.giving().group(gid).map_err(unmapped)
    }

    /// The value of an extended attribute as users see it. Of an ACL, that is without those whom it names and who are nobody here.
    pub fn xattr_shown(&self, name: &[u8], value: Box<[u8]>) -> Result<Vec<u8>, Errno> {
        if self.is_same || !is_acl(name) {
            return Ok(value.into_vec());
        }
        let value = acl::only(&value, |id| self.shown.has_user(id), |id| self.shown.has_group(id));
        self.showing().xattr(name, &value).map_err(unmapped)
    }

    /// The value of an extended attribute that a user sets, for the log. `current` is what the object has: of an ACL, whom the user
    /// did not see stays.
    pub fn xattr_set(
        &self,
        name: &[u8],
        value: &[u8],
        current: impl FnOnce() -> Result<Option<Box<[u8]>>, Errno>,
    ) -> Result<Vec<u8>, Errno> {
        if self.is_same || !is_acl(name) {
            return Ok(value.to_vec());
        }
        let set = self.giving().xattr(name, value).map_err(unmapped)?;
        let current = current()?.unwrap_or_default();
        Ok(acl::with_others(&set, &current, |id| self.shown.has_user(id), |id| self.shown.has_group(id)))
    }
}

fn is_acl(name: &[u8]) -> bool {
    [acl::ACCESS, acl::DEFAULT].contains(&name)
}
