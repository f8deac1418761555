//! Something as it was at an earlier record, made somewhere else.

use std::os::fd::OwnedFd;

use mezzo_core::time::{Step, Times};
use mezzo_core::tree::Tree;
use mezzo_core::{Change, Name, ObjectId, Origin, Place, Recno, Record, ReplicaId, Who};

use crate::host::now;
use crate::log::Reader;
use crate::past::trees;
use crate::reintegrate::Bare;
use crate::replay::{ReplayError, Replayed, bring, wanted};
use crate::versions::Source;

/// Makes what stood at `path` after record `at` of `log`, with all that was below it, as `name` in the directory `onto`, and
/// brings its data from `source`. `progress` is called now and then with how many files are done.
pub fn restore(
    log: &Reader,
    (path, at): (&[u8], Recno),
    (onto, name): (OwnedFd, &Name),
    source: &Source,
    progress: &mut dyn FnMut(u64),
) -> Result<Replayed, ReplayError> {
    let ([then], last) = trees(log, [at], &mut |_| {})?;
    let top = then.find(path).ok_or(ReplayError::Nothing(at))?;
    let mut bare = Bare::new(onto, Tree::new());
    let mut restored = Replayed::default();
    for change in changes(&then, top, name) {
        let record = record(Recno(restored.records + 1), change);
        bare.apply(&record)?;
        restored.records += 1;
    }
    bring(&bare, &last, wanted(bare.tree()), source, &mut restored, progress)?;
    Ok(restored)
}

/// Changes that make `top`, and what is below it, in an empty directory.
fn changes(tree: &Tree, top: ObjectId, name: &Name) -> Vec<Change> {
    let present = Times { mtime: now(), ctime: now() };
    let mut changes = Vec::new();
    let mut made = std::collections::HashSet::new();
    let mut left = vec![(Place::new(ObjectId::ROOT, name.clone()), top, present)];
    while let Some((place, id, times)) = left.pop() {
        let Some(object) = tree.object(id) else { continue };
        // The root has an id that nothing can be made with, and that nothing else has here.
        let new = if id == ObjectId::ROOT { ROOT_AGAIN } else { id };
        let parent = Step::new(times, times);
        let path = place.name.as_bytes().into();
        let mut state = object.state().clone();
        if !made.insert(new) {
            let attributes = Step::new(state.attributes, state.attributes);
            changes.push(Change::Link { object: new, place, path, attributes, parent });
            continue;
        }
        if !object.is_directory() {
            state.attributes.links = 1;
        }
        let times = Times { mtime: state.attributes.mtime, ctime: state.attributes.ctime };
        changes.push(Change::Make { object: new, place, path, state, parent });
        left.extend(tree.children(id).map(|(name, child)| (Place::new(new, name.clone()), child, times)));
    }
    changes
}

/// The id under which a fileset's own directory is restored: no record of a replica has it as its origin.
const ROOT_AGAIN: ObjectId = ObjectId(Origin { replica: ReplicaId(u64::MAX), recno: Recno(u64::MAX) });

fn record(recno: Recno, change: Change) -> Record {
    Record {
        recno,
        previous: Recno(recno.0 - 1),
        epoch: 1,
        origin: Origin::new(ReplicaId(u64::MAX), recno),
        time: now(),
        who: Who::default(),
        change,
    }
}
