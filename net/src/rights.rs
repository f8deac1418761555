//! What a client's records may say of users: a log holds the server's ids, and a client has those that its mapping names.

use mezzo_core::{Change, IdMapping, Record};

/// Whom the record acts for, or gives something to, that the client's mapping does not name.
pub fn forbidden(mapping: &IdMapping, record: &Record) -> Option<String> {
    let (users, groups) = ids_of(record);
    let user = users.into_iter().find(|uid| !mapping.has_user(*uid)).map(|uid| format!("user {uid}"));
    user.or_else(|| groups.into_iter().find(|gid| !mapping.has_group(*gid)).map(|gid| format!("group {gid}")))
}

fn ids_of(record: &Record) -> (Vec<u32>, Vec<u32>) {
    let mut users = vec![record.who.uid];
    let mut groups = vec![record.who.gid];
    groups.extend(&record.who.groups);
    given(&record.change, record.who.uid == 0, &mut users, &mut groups);
    (users, groups)
}

/// Who owns what the change makes or gives away. That others than root make objects of no group but theirs, and that of a
/// set-group-id directory, is judged with what is here.
fn given(change: &Change, is_root: bool, users: &mut Vec<u32>, groups: &mut Vec<u32>) {
    match change {
        Change::Make { state, .. } => {
            users.push(state.attributes.uid);
            groups.extend(is_root.then_some(state.attributes.gid));
        }
        Change::Setattr { attributes, .. } => {
            let (before, after) = (attributes.before, attributes.after);
            users.extend((before.uid != after.uid).then_some(after.uid));
            groups.extend((before.gid != after.gid).then_some(after.gid));
        }
        Change::UndoOf { change, .. } => given(change, is_root, users, groups),
        _ => {}
    }
}
