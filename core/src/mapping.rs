//! The ids of users and groups on a client, where they are not those of the server.
//!
//! A log and a host's tree hold the server's ids on every replica; what is mapped is what users see and do in a mount.

use std::fmt;
use std::str::FromStr;

use crate::acl;
use crate::attributes::{Attributes, State, Xattr};
use crate::limits;
use crate::who::Who;

/// How the ids of a client's users and groups relate to the server's. Its text, as `Display` writes and `FromStr` reads it:
/// `same`; `all:UID:GID`; or `table:` with pairs `uCLIENT=SERVER` for users and `gCLIENT=SERVER` for groups, sorted and
/// separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum IdMapping {
    /// Both sides have the same ids.
    #[default]
    Same,
    /// One to one, for the users and groups that are named.
    Table {
        /// The users.
        users: Table,
        /// The groups.
        groups: Table,
    },
    /// Whoever it is on the client is this user and group on the server.
    All {
        /// The server's user.
        uid: u32,
        /// The server's group.
        gid: u32,
    },
}

/// Pairs of ids, in which each id is at most once on each side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Table {
    /// (client, server), sorted by client.
    pairs: Vec<(u32, u32)>,
    /// (server, client), sorted by server.
    back: Vec<(u32, u32)>,
}

/// A text or a table is no mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAMapping {
    /// The text is none that `Display` writes.
    #[error(
        "not an id mapping: expected same, all:UID:GID, or table:uCLIENT=SERVER,gCLIENT=SERVER,… for users and groups"
    )]
    Text,
    /// An id stands twice on one side, so that the way back would not be known.
    #[error("the id mapping is not one to one: {0} stands twice on one side")]
    Twice(u32),
    /// More pairs than a table takes.
    #[error("the id mapping has more than {} users or groups", limits::MAPPED_IDS)]
    TooMany,
    /// The id that Linux keeps for "no user".
    #[error("{} is no id that anybody can have", u32::MAX)]
    NoId,
}

/// Which way ids are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Toward {
    /// A client's ids become the server's: what its users do.
    Server,
    /// The server's ids become a client's: what its users see.
    Client,
}

/// An id that the mapping has no other for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unmapped {
    /// A user's.
    #[error("user {0} is not in the id mapping")]
    User(u32),
    /// A group's.
    #[error("group {0} is not in the id mapping")]
    Group(u32),
}

/// What becomes of ids that a mapping has no other for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Others {
    /// The step fails: for what users do.
    Refused,
    /// They become these: for what users see, who must see something. Linux shows 65534 (`nobody`).
    Shown {
        /// As whose the others' objects are shown.
        uid: u32,
        /// As of which group.
        gid: u32,
    },
}

/// A mapping, one way.
///
/// With [`IdMapping::All`], toward the server everybody is the one user and group, and toward the client nothing changes; what
/// users of one machine see instead, [`IdMapping::shown`] says. A change of owner is to be refused there before it comes to this.
#[derive(Clone, Copy, Debug)]
pub struct Mapper<'a> {
    /// Between which ids.
    pub mapping: &'a IdMapping,
    /// Which way.
    pub toward: Toward,
    /// What becomes of the others.
    pub others: Others,
}

impl Mapper<'_> {
    /// A user's id on the other side.
    pub fn user(&self, uid: u32) -> Result<u32, Unmapped> {
        let found = match self.mapping {
            IdMapping::Same => Some(uid),
            IdMapping::Table { users, .. } => users.look_up(self.toward, uid),
            IdMapping::All { uid: all, .. } => Some(if self.toward == Toward::Server { *all } else { uid }),
        };
        match (found, self.others) {
            (Some(found), _) => Ok(found),
            (None, Others::Shown { uid, .. }) => Ok(uid),
            (None, Others::Refused) => Err(Unmapped::User(uid)),
        }
    }

    /// A group's id on the other side.
    pub fn group(&self, gid: u32) -> Result<u32, Unmapped> {
        let found = match self.mapping {
            IdMapping::Same => Some(gid),
            IdMapping::Table { groups, .. } => groups.look_up(self.toward, gid),
            IdMapping::All { gid: all, .. } => Some(if self.toward == Toward::Server { *all } else { gid }),
        };
        match (found, self.others) {
            (Some(found), _) => Ok(found),
            (None, Others::Shown { gid, .. }) => Ok(gid),
            (None, Others::Refused) => Err(Unmapped::Group(gid)),
        }
    }

    /// Who made a change, on the other side. Supplementary groups that have no id there are left out, whatever becomes of
    /// others: no object there is theirs.
    pub fn who(&self, who: &Who) -> Result<Who, Unmapped> {
        let strict = Mapper { others: Others::Refused, ..*self };
        let mut groups: Vec<u32> = Vec::with_capacity(who.groups.len());
        if !matches!((self.mapping, self.toward), (IdMapping::All { .. }, Toward::Server)) {
            groups.extend(who.groups.iter().filter_map(|group| strict.group(*group).ok()));
        }
        Ok(Who { uid: self.user(who.uid)?, gid: self.group(who.gid)?, groups, ..who.clone() })
    }

    /// Attributes on the other side: owner and group.
    pub fn attributes(&self, attributes: &Attributes) -> Result<Attributes, Unmapped> {
        let (uid, gid) = (self.user(attributes.uid)?, self.group(attributes.gid)?);
        Ok(Attributes { uid, gid, ..*attributes })
    }

    /// The value of an extended attribute on the other side: the ids in ACLs; all else as it is.
    ///
    /// Unmapped ids in an ACL are refused whatever becomes of others: two that became one would be no ACL, and
    /// rights for `nobody`. With [`IdMapping::All`] toward the server, ACLs that name anybody are refused by their first.
    pub fn xattr(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>, Unmapped> {
        if ![acl::ACCESS, acl::DEFAULT].contains(&name) {
            return Ok(value.to_vec());
        }
        let strict = Mapper { others: Others::Refused, ..*self };
        match (self.mapping, self.toward) {
            (IdMapping::All { .. }, Toward::Server) => {
                acl::map_ids(value, |user| Err(Unmapped::User(user)), |group| Err(Unmapped::Group(group)))
            }
            _ => acl::map_ids(value, |user| strict.user(user), |group| strict.group(group)),
        }
    }

    /// A whole object on the other side.
    pub fn state(&self, state: &State) -> Result<State, Unmapped> {
        let xattr = |Xattr { name, value }: &Xattr| {
            Ok(Xattr { name: name.clone(), value: self.xattr(name, value)?.into() })
        };
        let xattrs = state.xattrs.iter().map(xattr).collect::<Result<_, Unmapped>>()?;
        Ok(State { attributes: self.attributes(&state.attributes)?, xattrs, ..state.clone() })
    }
}

impl IdMapping {
    /// Whether owners can be changed through it: not where all are one.
    pub fn has_owners(&self) -> bool {
        !matches!(self, IdMapping::All { .. })
    }

    /// Whether a user of the server may act for somebody on the client.
    pub fn has_user(&self, id: u32) -> bool {
        match self {
            IdMapping::Same => true,
            IdMapping::All { uid, .. } => id == *uid,
            IdMapping::Table { users, .. } => users.look_up(Toward::Client, id).is_some(),
        }
    }

    /// Whether a group of the server is one that the client's users can be in.
    pub fn has_group(&self, id: u32) -> bool {
        match self {
            IdMapping::Same => true,
            IdMapping::All { gid, .. } => id == *gid,
            IdMapping::Table { groups, .. } => groups.look_up(Toward::Client, id).is_some(),
        }
    }

    /// As whose users of one machine see the objects. Where all are one, the objects of that one are shown as those of `local`,
    /// a user and a group of the machine, or they could do nothing with what they made; those of others are nobody's.
    pub fn shown(&self, local: (u32, u32)) -> IdMapping {
        let &IdMapping::All { uid, gid } = self else { return self.clone() };
        let pair = |local, server| Table { pairs: vec![(local, server)], back: vec![(server, local)] };
        IdMapping::Table { users: pair(local.0, uid), groups: pair(local.1, gid) }
    }

    /// Who did something for a client's machine that none of its users did, such as taking in what was changed behind the mount:
    /// `who`, where the mapping names them. Else the `owner` of what was changed, or the first that the mapping names.
    pub fn agent(&self, who: &Who, owner: (u32, u32)) -> Who {
        if self.has_user(who.uid) && self.has_group(who.gid) {
            return who.clone();
        }
        let first = |table: &Table| table.back.first().map(|pair| pair.0);
        let (uid, gid) = match self {
            IdMapping::Same => (who.uid, who.gid),
            IdMapping::All { uid, gid } => (*uid, *gid),
            IdMapping::Table { users, groups } => (
                Some(owner.0).filter(|id| self.has_user(*id)).or_else(|| first(users)).unwrap_or(who.uid),
                Some(owner.1).filter(|id| self.has_group(*id)).or_else(|| first(groups)).unwrap_or(who.gid),
            ),
        };
        Who { uid, gid, groups: Vec::new(), ..who.clone() }
    }
}

impl Table {
    /// A table of (client, server) pairs, in any order.
    pub fn new(mut pairs: Vec<(u32, u32)>) -> Result<Table, NotAMapping> {
        if pairs.len() > limits::MAPPED_IDS {
            return Err(NotAMapping::TooMany);
        }
        if pairs.iter().any(|&(client, server)| client == u32::MAX || server == u32::MAX) {
            return Err(NotAMapping::NoId);
        }
        let mut back: Vec<_> = pairs.iter().map(|&(client, server)| (server, client)).collect();
        for side in [&mut pairs, &mut back] {
            side.sort_unstable();
            if let Some(twice) = side.windows(2).find(|two| two[0].0 == two[1].0) {
                return Err(NotAMapping::Twice(twice[0].0));
            }
        }
        Ok(Table { pairs, back })
    }

    /// The (client, server) pairs, sorted by client.
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// The id on the other side.
    pub fn look_up(&self, toward: Toward, id: u32) -> Option<u32> {
        let side = match toward {
            Toward::Server => &self.pairs,
            Toward::Client => &self.back,
        };
        side.binary_search_by_key(&id, |pair| pair.0).ok().map(|at| side[at].1)
    }
}

impl fmt::Display for IdMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdMapping::Same => f.write_str("same"),
            IdMapping::All { uid, gid } => write!(f, "all:{uid}:{gid}"),
            IdMapping::Table { users, groups } => {
                let users = users.pairs.iter().map(|pair| ('u', pair));
                let pairs = users.chain(groups.pairs.iter().map(|pair| ('g', pair)));
                f.write_str("table:")?;
                for (at, (letter, (client, server))) in pairs.enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{letter}{client}={server}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for IdMapping {
    type Err = NotAMapping;

    fn from_str(text: &str) -> Result<IdMapping, NotAMapping> {
        if text == "same" {
            return Ok(IdMapping::Same);
        }
        if let Some((uid, gid)) = text.strip_prefix("all:").and_then(|ids| ids.split_once(':')) {
            let [uid, gid] = [id(uid)?, id(gid)?];
            if uid == u32::MAX || gid == u32::MAX {
                return Err(NotAMapping::NoId);
            }
            return Ok(IdMapping::All { uid, gid });
        }
        let pairs = text.strip_prefix("table:").ok_or(NotAMapping::Text)?;
        let [mut users, mut groups] = [Vec::new(), Vec::new()];
        for pair in pairs.split(',').filter(|_| !pairs.is_empty()) {
            let (side, ids) = match pair.split_at_checked(1) {
                Some(("u", ids)) => (&mut users, ids),
                Some(("g", ids)) => (&mut groups, ids),
                _ => return Err(NotAMapping::Text),
            };
            let (client, server) = ids.split_once('=').ok_or(NotAMapping::Text)?;
            if side.len() == limits::MAPPED_IDS {
                return Err(NotAMapping::TooMany);
            }
            side.push((id(client)?, id(server)?));
        }
        Ok(IdMapping::Table { users: Table::new(users)?, groups: Table::new(groups)? })
    }
}

/// Decimal digits and nothing else: `parse` would take a sign.
fn id(text: &str) -> Result<u32, NotAMapping> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(NotAMapping::Text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::attributes::{Device, Kind};
    use crate::time::Time;

    #[test]
    fn a_mapping_reads_back_what_it_prints() {
        for text in ["same", "all:1000:100", "table:", "table:u1=2,u3=4,g5=6", "table:g0=0"] {
            assert_eq!(text.parse::<IdMapping>().unwrap().to_string(), text);
        }
        let sorted = "table:g5=6,u3=4,u1=2".parse::<IdMapping>().unwrap();
        assert_eq!(sorted.to_string(), "table:u1=2,u3=4,g5=6");
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        let many = format!("table:{}u0=0", "g1=1,".repeat(limits::MAPPED_IDS + 1));
        for (text, why) in [
            ("", NotAMapping::Text),
            ("Same", NotAMapping::Text),
            ("all:1", NotAMapping::Text),
            ("all:+1:2", NotAMapping::Text),
            ("all:1:4294967296", NotAMapping::Text),
            ("all:1:4294967295", NotAMapping::NoId),
            ("table:u1=2,", NotAMapping::Text),
            ("table:x1=2", NotAMapping::Text),
            ("table:ü1=2", NotAMapping::Text),
            ("table:u1", NotAMapping::Text),
            ("table:u1=2,u1=3", NotAMapping::Twice(1)),
            ("table:g1=2,g3=2", NotAMapping::Twice(2)),
            ("table:u4294967295=1", NotAMapping::NoId),
            (&many, NotAMapping::TooMany),
        ] {
            assert_eq!(text.parse::<IdMapping>(), Err(why), "{text:.60}");
        }
    }

    #[test]
    fn a_table_leads_both_ways() {
        let table = Table::new(vec![(5, 1), (1, 5), (7, 8)]).unwrap();
        let found = |toward| [1, 5, 7, 8].map(|id| table.look_up(toward, id));
        assert_eq!(found(Toward::Server), [Some(5), Some(1), Some(8), None]);
        assert_eq!(found(Toward::Client), [Some(5), Some(1), None, Some(7)]);
    }

    const NOBODY: Others = Others::Shown { uid: 65534, gid: 65533 };

    /// An ACL with named users and groups between the entries that every one has.
    fn acl(users: &[u32], groups: &[u32]) -> Vec<u8> {
        let named = |tag: u16, ids: &[u32]| ids.iter().map(move |id| (tag, *id)).collect::<Vec<_>>();
        let entries = [
            vec![(1, u32::MAX)],
            named(2, users),
            vec![(4, u32::MAX)],
            named(8, groups),
            vec![(16, u32::MAX)],
        ];
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, id) in entries.concat() {
            bytes.extend([&u16::to_le_bytes(tag)[..], &[6, 0], &id.to_le_bytes()].concat());
        }
        bytes
    }

    #[test]
    fn each_mapping_has_its_answer_for_each_way() {
        let table: IdMapping = "table:u1000=2000,g100=200".parse().unwrap();
        let all = IdMapping::All { uid: 7, gid: 8 };
        use Toward::{Client, Server};
        for (mapping, toward, others, user, group) in [
            (&IdMapping::Same, Server, Others::Refused, (5, Ok(5)), (6, Ok(6))),
            (&IdMapping::Same, Client, Others::Refused, (5, Ok(5)), (6, Ok(6))),
            (&table, Server, Others::Refused, (1000, Ok(2000)), (100, Ok(200))),
            (&table, Client, Others::Refused, (2000, Ok(1000)), (200, Ok(100))),
            (&table, Server, Others::Refused, (0, Err(Unmapped::User(0))), (0, Err(Unmapped::Group(0)))),
            (&table, Client, Others::Refused, (0, Err(Unmapped::User(0))), (0, Err(Unmapped::Group(0)))),
            (&table, Server, NOBODY, (0, Ok(65534)), (0, Ok(65533))),
            (&table, Client, NOBODY, (0, Ok(65534)), (0, Ok(65533))),
            (&all, Server, Others::Refused, (5, Ok(7)), (6, Ok(8))),
            (&all, Client, Others::Refused, (5, Ok(5)), (6, Ok(6))),
        ] {
            let mapper = Mapper { mapping, toward, others };
            assert_eq!((mapper.user(user.0), mapper.group(group.0)), (user.1, group.1), "{mapper:?}");
        }
        assert_eq!([&table, &all].map(IdMapping::has_owners), [true, false]);
    }

    #[test]
    fn where_all_are_one_that_one_is_shown_as_somebody_here() {
        let all = IdMapping::All { uid: 7, gid: 8 };
        assert_eq!(all.shown((1000, 100)).to_string(), "table:u1000=7,g100=8");
        let table: IdMapping = "table:u1=2,g3=4".parse().unwrap();
        assert_eq!(table.shown((1000, 100)), table);
        assert_eq!(IdMapping::Same.shown((1000, 100)), IdMapping::Same);
    }

    #[test]
    fn what_no_user_did_is_done_as_somebody_that_the_mapping_names() {
        let program = Who { pid: 5, program: (*b"mezzo").into(), ..Who::default() };
        let owner = (2000, 200);
        for (mapping, uid, gid) in [
            ("same", 0, 0),
            ("all:7:8", 7, 8),
            ("table:u0=0,g0=0,u1=2000,g1=200", 0, 0),
            ("table:u1=2000,g1=200,u2=5,g2=6", 2000, 200),
            ("table:u2=5,g2=6,g3=4", 5, 4),
        ] {
            let agent = mapping.parse::<IdMapping>().unwrap().agent(&program, owner);
            assert_eq!((agent.uid, agent.gid, agent.pid), (uid, gid, 5), "{mapping}");
        }
    }

    #[test]
    fn groups_without_an_id_there_give_no_rights() {
        let table: IdMapping = "table:u1000=2000,g100=200,g101=201".parse().unwrap();
        let who = Who { uid: 1000, gid: 100, groups: vec![100, 27, 101], ..Who::default() };
        let toward = |mapping, others| {
            Mapper { mapping, toward: Toward::Server, others }.who(&who).map(|who| who.groups)
        };
        assert_eq!(toward(&table, Others::Refused), Ok(vec![200, 201]));
        assert_eq!(toward(&table, NOBODY), Ok(vec![200, 201]));
        assert_eq!(toward(&IdMapping::All { uid: 1, gid: 1 }, Others::Refused), Ok(vec![]));
    }

    #[test]
    fn acls_keep_their_order_and_name_nobody_who_is_not_there() {
        let table: IdMapping = "table:u1=30,u2=20,u3=10,g1=5,g2=4".parse().unwrap();
        let toward = |mapping, others, name: &[u8], value: &[u8]| {
            Mapper { mapping, toward: Toward::Server, others }.xattr(name, value)
        };
        let before = acl(&[1, 2, 3], &[1, 2]);
        let after = acl(&[10, 20, 30], &[4, 5]);
        for name in [acl::ACCESS, acl::DEFAULT] {
            assert_eq!(toward(&table, NOBODY, name, &before), Ok(after.clone()));
            assert_eq!(toward(&table, NOBODY, name, &acl(&[1, 9], &[])), Err(Unmapped::User(9)));
            assert_eq!(toward(&table, NOBODY, name, &acl(&[], &[9])), Err(Unmapped::Group(9)));
        }
        assert_eq!(toward(&table, NOBODY, b"user.note", &before), Ok(before.clone()));
        assert_eq!(toward(&table, NOBODY, acl::ACCESS, &before[..9]), Ok(before[..9].to_vec()));
        let all = IdMapping::All { uid: 7, gid: 8 };
        assert_eq!(toward(&all, NOBODY, acl::ACCESS, &before), Err(Unmapped::User(1)));
        assert_eq!(toward(&all, NOBODY, acl::ACCESS, &acl(&[], &[])), Ok(acl(&[], &[])));
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_identity_for_mapped_ids(
            users in pairs(),
            groups in pairs(),
            owner: prop::sample::Index,
            named in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let [users, groups] = [users, groups].map(|pairs| Table::new(pairs).unwrap());
            let pick = |table: &Table, at: &prop::sample::Index| table.pairs()[at.index(table.pairs().len())].0;
            let some = |table: &Table| {
                let ids: BTreeSet<u32> = named.iter().map(|at| pick(table, at)).collect();
                ids.into_iter().collect::<Vec<_>>()
            };
            let [uid, gid] = [pick(&users, &owner), pick(&groups, &owner)];
            let who = Who { uid, gid, groups: some(&groups), ..Who::default() };
            let value = acl(&some(&users), &some(&groups));
            let state = State {
                attributes: Attributes { uid, gid, ..attributes() },
                target: Box::default(),
                xattrs: [acl::ACCESS, acl::DEFAULT, b"user.note"]
                    .map(|name| Xattr { name: name.into(), value: value.clone().into() })
                    .into(),
                data: None,
            };
            for mapping in [IdMapping::Table { users, groups }, IdMapping::Same] {
                let there = Mapper { mapping: &mapping, toward: Toward::Server, others: Others::Refused };
                let back = Mapper { toward: Toward::Client, ..there };
                prop_assert_eq!(back.who(&there.who(&who).unwrap()).unwrap(), who.clone());
                prop_assert_eq!(back.state(&there.state(&state).unwrap()).unwrap(), state.clone());
            }
        }

        #[test]
        fn any_value_of_an_acl_is_mapped_or_refused(value in prop::collection::vec(0..20u8, 0..60)) {
            let mapping: IdMapping = "table:u1=2,g3=4".parse().unwrap();
            for toward in [Toward::Server, Toward::Client] {
                let mapped = Mapper { mapping: &mapping, toward, others: NOBODY }.xattr(acl::ACCESS, &value);
                prop_assert!(mapped.is_err() || mapped.is_ok_and(|mapped| mapped.len() == value.len()));
            }
        }
    }

    /// One to twenty pairs that are one to one.
    fn pairs() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let ids = || prop::collection::btree_set(0..u32::MAX, 1..20).prop_map(Vec::from_iter).prop_shuffle();
        (ids(), ids()).prop_map(|(clients, servers)| clients.into_iter().zip(servers).collect())
    }

    fn attributes() -> Attributes {
        let time = Time::default();
        Attributes {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            device: Device::default(),
            atime: time,
            mtime: time,
            ctime: time,
        }
    }
}
