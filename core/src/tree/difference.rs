//! What is different between two trees of one fileset.

use std::collections::HashMap;

use super::{Object, Tree};
use crate::attributes::{Data, State};
use crate::id::ObjectId;
use crate::name::{Place, join};

/// One difference. Names and states are told apart: an object that was renamed and written makes two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<'t> {
    /// What sort it is of.
    pub sort: Sort,
    /// What stood there before; `None` for what was added or linked.
    pub before: Option<Side<'t>>,
    /// What stands there after; `None` for what was removed or unlinked.
    pub after: Option<Side<'t>>,
    /// In what the two states differ, for what was changed or replaced.
    pub fields: Vec<Field>,
}

/// An object under one of its names, in one of the trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side<'t> {
    /// Which.
    pub object: ObjectId,
    /// The path by that name; empty for the root.
    pub path: Vec<u8>,
    /// All that is known of it.
    pub state: &'t State,
}

/// What sorts of differences there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// An object is gone.
    Removed,
    /// An object that stays has lost a name.
    Unlinked,
    /// An object has another place.
    Renamed,
    /// A new object stands where one stood that is gone.
    Replaced,
    /// There is a new object.
    Added,
    /// An object has one more name.
    Linked,
    /// An object has another state.
    Changed,
}

/// Something in which states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// What it is.
    Kind,
    /// The bytes of a file.
    Data,
    /// How many there are.
    Size,
    /// Where a symbolic link leads.
    Target,
    /// Which device.
    Device,
    /// Permission bits.
    Mode,
    /// The user who owns it.
    Owner,
    /// The group.
    Group,
    /// Extended attributes.
    Xattrs,
    /// Last access.
    Atime,
    /// Last change of the data or the entries.
    Mtime,
}

impl Sort {
    /// The word for it that commands print.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Removed => "removed",
            Sort::Unlinked => "unlinked",
            Sort::Renamed => "renamed",
            Sort::Replaced => "replaced",
            Sort::Added => "added",
            Sort::Linked => "linked",
            Sort::Changed => "changed",
        }
    }
}

impl Field {
    /// The word for it that commands print.
    pub fn word(self) -> &'static str {
        match self {
            Field::Kind => "kind",
            Field::Data => "data",
            Field::Size => "size",
            Field::Target => "target",
            Field::Device => "device",
            Field::Mode => "mode",
            Field::Owner => "owner",
            Field::Group => "group",
            Field::Xattrs => "xattrs",
            Field::Atime => "atime",
            Field::Mtime => "mtime",
        }
    }
}

/// Whether times count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimesAre {
    /// They are left out.
    Left,
    /// Those that can be set do: not the ctime.
    Compared,
}

impl Difference<'_> {
    /// Where it is after, or was before.
    pub fn path(&self) -> &[u8] {
        self.after.as_ref().or(self.before.as_ref()).map_or(b"", |side| &side.path)
    }
}

/// All differences, sorted by path.
pub fn differences<'t>(before: &'t Tree, after: &'t Tree, times: TimesAre) -> Vec<Difference<'t>> {
    let mut found = Vec::new();
    for (id, old) in before.objects() {
        match after.objects.get(&id) {
            None => names(&mut found, (before, Some(old)), (after, None), id),
            Some(new) => {
                names(&mut found, (before, Some(old)), (after, Some(new)), id);
                found.extend(changed((before, old), (after, new), id, times));
            }
        }
    }
    for (id, new) in after.objects().filter(|(id, _)| !before.objects.contains_key(id)) {
        names(&mut found, (before, None), (after, Some(new)), id);
    }
    let mut found = with_replaced(found, times);
    found.sort_by(|a, b| (a.path(), a.sort).cmp(&(b.path(), b.sort)));
    found
}

/// The names that object `id` has lost and got.
fn names<'t>(
    found: &mut Vec<Difference<'t>>,
    (before, old): (&'t Tree, Option<&'t Object>),
    (after, new): (&'t Tree, Option<&'t Object>),
    id: ObjectId,
) {
    let (had, has) = (old.map_or(&[][..], Object::places), new.map_or(&[][..], Object::places));
    let mut lost = had.iter().filter(|place| !has.contains(place)).filter_map(|at| side(before, old, id, at));
    let mut got = has.iter().filter(|place| !had.contains(place)).filter_map(|at| side(after, new, id, at));
    let (mut gone, mut fresh) = (new.is_none(), old.is_none());
    loop {
        let (before, after) = (lost.next(), got.next());
        let sort = match (&before, &after) {
            (None, None) => return,
            (Some(_), Some(_)) => Sort::Renamed,
            // An object is gone, or new, once.
            (Some(_), None) if std::mem::take(&mut gone) => Sort::Removed,
            (Some(_), None) => Sort::Unlinked,
            (None, Some(_)) if std::mem::take(&mut fresh) => Sort::Added,
            (None, Some(_)) => Sort::Linked,
        };
        found.push(Difference { sort, before, after, fields: Vec::new() });
    }
}

fn side<'t>(tree: &'t Tree, object: Option<&'t Object>, id: ObjectId, place: &Place) -> Option<Side<'t>> {
    let path = join(&tree.path(place.parent)?, place.name.as_bytes());
    Some(Side { object: id, path, state: object?.state() })
}

fn changed<'t>(
    (before, old): (&'t Tree, &'t Object),
    (after, new): (&'t Tree, &'t Object),
    id: ObjectId,
    times: TimesAre,
) -> Option<Difference<'t>> {
    if id == ObjectId::ROOT && !before.root_told().attributes {
        return None;
    }
    let fields = fields(old.state(), new.state(), times);
    if fields.is_empty() {
        return None;
    }
    let side = |tree: &Tree, object: &'t Object| {
        Some(Side { object: id, path: tree.path(id)?, state: object.state() })
    };
    let (before, after) = (side(before, old)?, side(after, new)?);
    Some(Difference { sort: Sort::Changed, before: Some(before), after: Some(after), fields })
}

/// What is gone and what is new at the same path, together.
fn with_replaced(found: Vec<Difference<'_>>, times: TimesAre) -> Vec<Difference<'_>> {
    let (removed, mut rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.sort == Sort::Removed);
    let mut removed: HashMap<Vec<u8>, Difference<'_>> =
        removed.into_iter().map(|one| (one.path().to_vec(), one)).collect();
    for added in rest.iter_mut().filter(|one| one.sort == Sort::Added) {
        let Some(old) = removed.remove(added.path()).and_then(|removed| removed.before) else { continue };
        if let Some(new) = &added.after {
            added.fields = fields(old.state, new.state, times);
        }
        (added.sort, added.before) = (Sort::Replaced, Some(old));
    }
    rest.extend(removed.into_values());
    rest
}

fn fields(before: &State, after: &State, times: TimesAre) -> Vec<Field> {
    let (old, new) = (&before.attributes, &after.attributes);
    let with_times = times == TimesAre::Compared;
    let differ = [
        (Field::Kind, old.kind != new.kind),
        (Field::Data, other_data(before.data, after.data)),
        (Field::Size, old.size != new.size),
        (Field::Target, before.target != after.target),
        (Field::Device, old.device != new.device),
        (Field::Mode, old.mode != new.mode),
        (Field::Owner, old.uid != new.uid),
        (Field::Group, old.gid != new.gid),
        (Field::Xattrs, before.xattrs != after.xattrs),
        (Field::Atime, with_times && old.atime != new.atime),
        (Field::Mtime, with_times && old.mtime != new.mtime),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// Two versions may have the same bytes, which their digests tell.
fn other_data(before: Option<Data>, after: Option<Data>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            let same_bytes = before.digest.is_some() && before.digest == after.digest;
            before.version != after.version && !same_bytes
        }
        _ => before.is_some() != after.is_some(),
    }
}
