//! What a client's records may say of users: a log holds the server's ids, and a client has those that its mapping names.

use mezzo_core::mapping::Toward;
use mezzo_core::{Change, IdMapping, Record};

/// Whom the record acts for, or gives something to, that the client's mapping does not name.
pub fn forbidden(mapping: &IdMapping, record: &Record) -> Option<String> {
    let (users, groups) = ids_of(record);
    let user = users.into_iter().find(|uid| !has_user(mapping, *uid)).map(|uid| format!("user {uid}"));
    user.or_else(|| {
        groups.into_iter().find(|gid| !has_group(mapping, *gid)).map(|gid| format!("group {gid}"))
    })
}

fn has_user(mapping: &IdMapping, id: u32) -> bool {
    match mapping {
        IdMapping::Same => true,
        IdMapping::All { uid, .. } => id == *uid,
        IdMapping::Table { users, .. } => users.look_up(Toward::Client, id).is_some(),
    }
}

fn has_group(mapping: &IdMapping, id: u32) -> bool {
    match mapping {
        IdMapping::Same => true,
        IdMapping::All { gid, .. } => id == *gid,
        IdMapping::Table { groups, .. } => groups.look_up(Toward::Client, id).is_some(),
    }
}

fn ids_of(record: &Record) -> (Vec<u32>, Vec<u32>) {
    let mut users = vec![record.who.uid];
    let mut groups = vec![record.who.gid];
    groups.extend(&record.who.groups);
    given(&record.change, &mut users, &mut groups);
    (users, groups)
}

/// Who owns what the change makes or gives away.
fn given(change: &Change, users: &mut Vec<u32>, groups: &mut Vec<u32>) {
    match change {
        Change::Make { state, .. } => {
            users.push(state.attributes.uid);
            groups.push(state.attributes.gid);
        }
        Change::Setattr { attributes, .. } => {
            let (before, after) = (attributes.before, attributes.after);
            users.extend((before.uid != after.uid).then_some(after.uid));
            groups.extend((before.gid != after.gid).then_some(after.gid));
        }
        Change::UndoOf { change, .. } => given(change, users, groups),
        _ => {}
    }
}
