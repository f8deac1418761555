//! The ids of users and groups on a client, where they are not those of the server.
//!
//! A log and a host's tree hold the server's ids on every replica; what is mapped is what users see and do in a mount.

use std::fmt;
use std::str::FromStr;

use crate::limits;

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

    /// The server's id for a client's.
    pub fn to_server(&self, client: u32) -> Option<u32> {
        look_up(&self.pairs, client)
    }

    /// The client's id for a server's.
    pub fn to_client(&self, server: u32) -> Option<u32> {
        look_up(&self.back, server)
    }
}

fn look_up(side: &[(u32, u32)], id: u32) -> Option<u32> {
    side.binary_search_by_key(&id, |pair| pair.0).ok().map(|at| side[at].1)
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
    use super::*;

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
        let table = Table::new(vec![(5, 1), (1, 5)]).unwrap();
        assert_eq!([table.to_server(5), table.to_client(5), table.to_server(2)], [Some(1), Some(1), None]);
    }
}
