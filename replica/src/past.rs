//! What a log tells of the past: trees as they were, and all that happened to one object.

use std::collections::{HashMap, HashSet};

use mezzo_core::id::DataVersion;
use mezzo_core::record::Displaced;
use mezzo_core::tree::{Mismatch, Tree};
use mezzo_core::{Change, Name, ObjectId, Place, Recno, Record};

use crate::log::{LogError, Reader};
use crate::undo::{innermost, subjects};

/// Records before the one that made a file among which the one is looked for that made room for it.
const SAVED_WITHIN: usize = 100;

/// Records after which progress is told.
const TOLD_EVERY: u64 = 1000;

/// The past can't be told.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record does not fit those before it.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The log begins later than its first record, so that the objects are not known.
    #[error("the log begins with record {0}, and what was before is not known: objects can't be told apart")]
    Beginning(Recno),
}

/// A state of a file's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The file.
    pub object: ObjectId,
    /// The record that brought it.
    pub recno: Recno,
    /// Its name.
    pub version: DataVersion,
    /// Its bytes.
    pub size: u64,
}

/// The trees after each of the records `at`, and the one after the last record. `progress` is called now and then with how many
/// records were read.
pub fn trees<const N: usize>(
    log: &Reader,
    at: [Recno; N],
    progress: &mut dyn FnMut(u64),
) -> Result<([Tree; N], Tree), PastError> {
    let mut trees = at.map(|_| None);
    let visit = |tree: &Tree, record: &Record| {
        let over = at.iter().zip(&mut trees).filter(|(at, tree)| record.recno > **at && tree.is_none());
        over.for_each(|(_, then)| *then = Some(tree.clone()));
    };
    let last = walk(log, visit, progress)?;
    Ok((trees.map(|tree| tree.unwrap_or_else(|| last.clone())), last))
}

/// The object that stands at `path`, or, where nothing does, the one that stood there last; `None` where nothing ever did. With
/// the tree after the last record. `progress` is called now and then with how many records were read.
pub fn stood(
    log: &Reader,
    path: &[u8],
    progress: &mut dyn FnMut(u64),
) -> Result<(Option<ObjectId>, Tree), PastError> {
    let mut stood = None;
    let tree = walk(log, |tree, _| stood = tree.find(path).or(stood), progress)?;
    let object = tree.find(path).or(stood).map(|object| tree.id(object));
    Ok((object, tree))
}

/// The tree after the last record. `visit` is shown each record, with the tree before it.
fn walk(
    log: &Reader,
    mut visit: impl FnMut(&Tree, &Record),
    progress: &mut dyn FnMut(u64),
) -> Result<Tree, PastError> {
    begins_at_first(log)?;
    let mut tree = Tree::new();
    for (read, record) in (1..).zip(log.from(Recno(1))) {
        let record = record?;
        visit(&tree, &record);
        tree.apply(&record)?;
        if u64::is_multiple_of(read, TOLD_EVERY) {
            progress(read);
        }
    }
    Ok(tree)
}

/// Fails where the log has lost its beginning.
pub(crate) fn begins_at_first(log: &Reader) -> Result<(), PastError> {
    let first = log.first()?;
    if first > Recno(1) { Err(PastError::Beginning(first)) } else { Ok(()) }
}

/// All records about object `id`, newest first, from record `from` down to the one that made it. `last` is the tree after the last
/// record.
pub fn history<'r>(
    log: &'r Reader,
    last: &'r Tree,
    id: ObjectId,
    from: Recno,
) -> impl Iterator<Item = Result<Record, LogError>> + 'r {
    // An object that goes by several ids was made once for each.
    let mut unmade = HashSet::from([id]);
    let records = log.backwards(from).map_while(move |record| {
        let record = match record {
            Ok(_) if unmade.is_empty() => return None,
            Ok(record) => record,
            error => return Some(error.map(Some)),
        };
        if !is_about(&record.change, last, id) {
            return Some(Ok(None));
        }
        if let Change::Alias { object, .. } = record.change {
            unmade.insert(object);
        }
        unmade.remove(&ObjectId(record.origin));
        Some(Ok(Some(record)))
    });
    records.filter_map(Result::transpose)
}

fn is_about(change: &Change, last: &Tree, id: ObjectId) -> bool {
    let is_it = |object: &ObjectId| last.id(*object) == id;
    match change {
        Change::Digest { object, .. } | Change::Alias { object, .. } => is_it(object),
        Change::Amend { change, .. } => is_about(change, last, id),
        change => subjects(change).0.iter().any(is_it),
    }
}

/// The data that file `object` has by `record`, where that is its doing.
pub fn brings(record: &Record, object: ObjectId) -> Option<Version> {
    let (data, size) = match innermost(&record.change) {
        Change::Make { state, .. } => (state.data?, state.attributes.size),
        Change::Setattr { attributes, data: Some(data), .. } | Change::Close { attributes, data, .. } => {
            (data.after, attributes.after.size)
        }
        _ => return None,
    };
    Some(Version { object, recno: record.recno, version: data.version, size })
}

/// The versions that led to the data that file `id` has, or had at its end, oldest first. What was taken back led nowhere, and is
/// left out. Many programs save by putting a new file in the place of the old one, so that those of the old one come before. `last`
/// is the tree after the last record.
pub fn versions(log: &Reader, last: &Tree, id: ObjectId) -> Result<Vec<Version>, LogError> {
    let mut brought = Vec::new();
    let (mut next, mut by) = (Some((id, Recno(u64::MAX))), Recno(u64::MAX));
    while let Some((object, from)) = next.take() {
        let mut versions = Vec::new();
        let mut made = None;
        for record in history(log, last, object, from) {
            let record = record?;
            versions.extend(brings(&record, object));
            next = replaced(&record, object).map(|old| (old, record.recno)).or(next);
            made = Some(record);
        }
        // What was written after its successor was made is not what that began with.
        let led = versions.first().is_some_and(|newest| newest.recno < by);
        let Some(made) = made.filter(|_| led) else { break };
        brought.append(&mut versions);
        by = made.recno;
        next = match next {
            Some(replaced) => Some(replaced),
            None => made_room(log, &made)?,
        };
    }
    brought.reverse();
    Ok(without_detours(brought))
}

/// The file that `object` replaced by the rename that `record` tells of.
fn replaced(record: &Record, object: ObjectId) -> Option<ObjectId> {
    match &record.change {
        Change::Rename { object: by, displaced: Displaced::Replaced(old), .. } if *by == object => {
            old.state.data.map(|_| old.object)
        }
        _ => None,
    }
}

/// The object that the maker of a file had renamed shortly before to make room for it, and the record of that.
fn made_room(log: &Reader, made: &Record) -> Result<Option<(ObjectId, Recno)>, LogError> {
    let Change::Make { place, .. } = &made.change else { return Ok(None) };
    for record in log.backwards(made.previous).take(SAVED_WITHIN) {
        let record = record?;
        match &record.change {
            Change::Rename {
                object, from, displaced: Displaced::Nothing | Displaced::Replaced(_), ..
            } if from == place && record.who.pid == made.who.pid => {
                return Ok(Some((*object, record.recno)));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Each entry of `directory`, sorted by name, and the newest record about it or about what is below it. `last` is the tree after
/// the last record.
pub fn last_changes(
    log: &Reader,
    last: &Tree,
    directory: ObjectId,
) -> Result<Vec<(Name, ObjectId, Record)>, LogError> {
    let mut left: HashMap<&Name, ObjectId> = last.children(directory).collect();
    let mut found = Vec::new();
    let mut records = log.backwards(Recno(u64::MAX));
    while !left.is_empty()
        && let Some(record) = records.next().transpose()?
    {
        for name in entries_of(&record.change, last, directory) {
            if let Some((name, object)) = left.remove_entry(name) {
                found.push((name.clone(), object, record.clone()));
            }
        }
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    Ok(found)
}

/// The entries of `directory` that a change is about, or that lead to what it is about.
fn entries_of<'t>(change: &Change, last: &'t Tree, directory: ObjectId) -> Vec<&'t Name> {
    let (objects, places) = subjects(change);
    let of_object = |object| last.object(object).map_or(&[][..], |object| object.places());
    let ways = objects.into_iter().flat_map(of_object);
    // What is gone was in a directory that may be there.
    let ways = ways.chain(places.into_iter().flat_map(|place| of_object(place.parent)));
    ways.filter_map(|place| entry_above(place, last, directory)).collect()
}

/// The entry of `directory` that `place` is, or is below.
fn entry_above<'t>(mut place: &'t Place, last: &'t Tree, directory: ObjectId) -> Option<&'t Name> {
    while last.id(place.parent) != directory {
        place = last.object(place.parent)?.places().first()?;
    }
    Some(&place.name)
}

/// What was between a version and its return is left out, and each version is told by the record that brought it first.
fn without_detours(brought: Vec<Version>) -> Vec<Version> {
    let mut first: HashMap<DataVersion, Version> = HashMap::new();
    let mut places: HashMap<DataVersion, usize> = HashMap::new();
    let mut led: Vec<Version> = Vec::new();
    for version in brought {
        let version = *first.entry(version.version).or_insert(version);
        match places.get(&version.version) {
            Some(at) if led.get(*at) == Some(&version) => led.truncate(at + 1),
            _ => {
                places.insert(version.version, led.len());
                led.push(version);
            }
        }
    }
    led
}

#[cfg(test)]
mod tests {
    use mezzo_core::{Origin, ReplicaId};

    use super::*;

    #[test]
    fn what_was_taken_back_led_nowhere() {
        let check = |brought: &[u64], expected: &[(u64, u64)]| {
            let versions = (1..).zip(brought).map(|(recno, version)| Version {
                object: ObjectId::ROOT,
                recno: Recno(recno),
                version: DataVersion(Origin::new(ReplicaId(1), Recno(*version))),
                size: 1,
            });
            let led = without_detours(versions.collect());
            let led: Vec<(u64, u64)> = led.iter().map(|led| (led.recno.0, led.version.0.recno.0)).collect();
            assert_eq!(led, expected, "{brought:?}");
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[(1, 1), (2, 2), (3, 3)]);
        // Taken back, and then something else.
        check(&[1, 2, 1, 4], &[(1, 1), (4, 4)]);
        // Taken back and done again: the record that brought it first stands.
        check(&[1, 2, 1, 2], &[(1, 1), (2, 2)]);
        check(&[1, 2, 3, 2, 1, 2, 7], &[(1, 1), (2, 2), (7, 7)]);
        check(&[1, 2, 3, 1, 3, 6, 3], &[(1, 1), (3, 3)]);
    }
}
