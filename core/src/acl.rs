//! POSIX ACLs as the value of `system.posix_acl_access`, in the layout of Linux's `posix_acl_xattr.h`: a version of 4 bytes,
//! then entries of 8 bytes: tag, permissions, and the id of a user or group.

use crate::who::Who;

/// The extended attribute that holds an object's own ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The extended attribute that holds what is inherited in a directory.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Makes an ACL agree with the permission bits of a new mode, as Linux does in the same step (`posix_acl_chmod`): the owner's
/// and the others' entries, and the mask or, where there is none, the group's.
///
/// What is no ACL stays as it is.
pub fn follow_mode(acl: &mut [u8], mode: u16) {
    let Some(entries) = acl.get_mut(HEADER..).filter(|entries| entries.len().is_multiple_of(ENTRY)) else {
        return;
    };
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let has_mask = entries.chunks_exact(ENTRY).any(|entry| tag(entry) == MASK);
    for entry in entries.chunks_exact_mut(ENTRY) {
        let shift = match tag(entry) {
            USER_OBJ => 6,
            MASK => 3,
            GROUP_OBJ if !has_mask => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2..4].copy_from_slice(&(mode >> shift & 0o7).to_le_bytes());
    }
}

/// Who asks, and what an object's own ACL says of them: `None` where the bytes are no ACL. Owner, then named users, then groups,
/// then others, as `posix_acl_permission` of Linux has it.
pub fn permissions_of(acl: &[u8], owner: (u32, u32), who: &Who) -> Option<Vec<u16>> {
    let entries = acl.get(HEADER..).filter(|entries| entries.len().is_multiple_of(ENTRY))?;
    let entries = || {
        entries.chunks_exact(ENTRY).map(|entry| {
            let [tag, permissions] = [0, 2].map(|at| u16::from_le_bytes([entry[at], entry[at + 1]]));
            (tag, permissions, u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
        })
    };
    let of = |wanted| entries().find(|(tag, ..)| *tag == wanted).map(|(_, permissions, _)| permissions);
    let mask = of(MASK).unwrap_or(0o7);
    if who.uid == owner.0 {
        return of(USER_OBJ).map(|permissions| vec![permissions]);
    }
    if let Some((_, permissions, _)) = entries().find(|(tag, _, id)| *tag == USER && *id == who.uid) {
        return Some(vec![permissions & mask]);
    }
    let groups: Vec<u16> = entries()
        .filter(|(tag, _, id)| match *tag {
            GROUP_OBJ => who.is_in(owner.1),
            GROUP => who.is_in(*id),
            _ => false,
        })
        .map(|(_, permissions, _)| permissions & mask)
        .collect();
    if groups.is_empty() { of(OTHER).map(|permissions| vec![permissions]) } else { Some(groups) }
}

/// The ACL with other ids of named users and groups, as `user` and `group` have them, in the order in which Linux keeps them; the
/// error of the first that has none. What is no ACL stays as it is.
pub fn map_ids<E>(
    acl: &[u8],
    user: impl Fn(u32) -> Result<u32, E>,
    group: impl Fn(u32) -> Result<u32, E>,
) -> Result<Vec<u8>, E> {
    let Some(entries) = entries(acl) else { return Ok(acl.to_vec()) };
    let mapped = entries.map(|entry| {
        let id = match entry.tag {
            USER => user(entry.id)?,
            GROUP => group(entry.id)?,
            _ => entry.id,
        };
        Ok(Entry { id, ..entry })
    });
    Ok(written(acl, mapped.collect::<Result<_, E>>()?))
}

/// The ACL without the named users and groups that are none of these. What is no ACL stays as it is.
pub fn only(acl: &[u8], user: impl Fn(u32) -> bool, group: impl Fn(u32) -> bool) -> Vec<u8> {
    let Some(entries) = entries(acl) else { return acl.to_vec() };
    written(acl, entries.filter(|entry| entry.is_among(&user, &group)).collect())
}

/// The ACL with those named users and groups of `other` that are none of these: who set it saw [`only`] the rest. One that names
/// nobody and has no mask stays as it is, as it would be none with them; so does what is no ACL.
pub fn with_others(
    acl: &[u8],
    other: &[u8],
    user: impl Fn(u32) -> bool,
    group: impl Fn(u32) -> bool,
) -> Vec<u8> {
    let has_mask = entries(acl).is_some_and(|mut entries| entries.any(|entry| entry.tag == MASK));
    let (Some(own), Some(others)) = (entries(acl).filter(|_| has_mask), entries(other)) else {
        return acl.to_vec();
    };
    let mut all: Vec<Entry> = own.chain(others.filter(|entry| !entry.is_among(&user, &group))).collect();
    // As Linux wants the kinds to follow each other; their tags are in that order.
    all.sort_by_key(|entry| entry.tag);
    written(acl, all)
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: [u8; 2],
    id: u32,
}

impl Entry {
    /// Whether it names one of these, or nobody.
    fn is_among(&self, user: &impl Fn(u32) -> bool, group: &impl Fn(u32) -> bool) -> bool {
        match self.tag {
            USER => user(self.id),
            GROUP => group(self.id),
            _ => true,
        }
    }
}

/// `None` where the bytes are no ACL.
fn entries(acl: &[u8]) -> Option<impl Iterator<Item = Entry> + '_> {
    let entries = acl.get(HEADER..).filter(|entries| entries.len().is_multiple_of(ENTRY))?;
    Some(entries.chunks_exact(ENTRY).map(|entry| Entry {
        tag: u16::from_le_bytes([entry[0], entry[1]]),
        permissions: [entry[2], entry[3]],
        id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
    }))
}

/// The bytes of these entries, below the head of `acl`.
fn written(acl: &[u8], mut entries: Vec<Entry>) -> Vec<u8> {
    // Named entries of one kind stand together, sorted by id (`posix_acl_valid` asks for the first, setfacl for the second).
    for named in entries
        .chunk_by_mut(|one, next| one.tag == next.tag)
        .filter(|run| [USER, GROUP].contains(&run[0].tag))
    {
        named.sort_by_key(|entry| entry.id);
    }
    let mut bytes = acl[..HEADER].to_vec();
    for Entry { tag, permissions, id } in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions);
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(u32::MAX.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn an_acl_follows_the_mode() {
        let follows = |before: &[(u16, u16)], after: &[(u16, u16)]| {
            let mut bytes = acl(before);
            follow_mode(&mut bytes, 0o6420);
            assert_eq!(bytes, acl(after));
        };
        follows(
            &[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 4)],
            &[(USER_OBJ, 4), (USER, 7), (GROUP_OBJ, 5), (MASK, 2), (OTHER, 0)],
        );
        follows(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 4)], &[(USER_OBJ, 4), (GROUP_OBJ, 2), (OTHER, 0)]);
        for mut strange in [Vec::new(), vec![2], acl(&[(USER_OBJ, 7)])[..9].to_vec()] {
            let before = strange.clone();
            follow_mode(&mut strange, 0);
            assert_eq!(strange, before);
        }
    }

    /// An ACL that names these.
    fn named(users: &[u32], groups: &[u32]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        let mut add = |tag: u16, id: u32| {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(6u16.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        };
        add(USER_OBJ, u32::MAX);
        users.iter().for_each(|id| add(USER, *id));
        add(GROUP_OBJ, u32::MAX);
        groups.iter().for_each(|id| add(GROUP, *id));
        add(MASK, u32::MAX);
        add(OTHER, u32::MAX);
        bytes
    }

    #[test]
    fn who_is_not_seen_stays_when_the_rest_is_set() {
        let (user, group) = (|id| id < 10, |id| id < 20);
        let all = named(&[5, 12, 13], &[7, 21]);
        let seen = only(&all, user, group);
        assert_eq!(seen, named(&[5], &[7]));
        assert_eq!(with_others(&seen, &all, user, group), all);
        let changed = named(&[6], &[]);
        assert_eq!(with_others(&changed, &all, user, group), named(&[6, 12, 13], &[21]));
        let bare = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)]);
        assert_eq!(with_others(&bare, &all, user, group), bare);
        assert_eq!(with_others(&changed, b"none", user, group), changed);
        assert_eq!(only(b"none", user, group), b"none");
    }
}
