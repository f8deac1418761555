//! Which records are to be taken back.

use std::collections::{BTreeSet, HashSet};

use mezzo_core::record::Displaced;
use mezzo_core::{Change, ObjectId, Origin, Place, Recno, Record};

use crate::log::{LogError, Reader};

/// Records to take back, or undos to take back in their turn.
pub struct Selection<'s> {
    /// Records up to here stay as they are.
    pub after: Recno,
    /// At most so many.
    pub most: usize,
    /// Of the others, these. It is asked newest first.
    pub takes: &'s dyn Fn(&Record) -> bool,
    /// Undos, and not what others did.
    pub undos: bool,
    /// Take along later records that depend on those.
    pub along: bool,
}

impl Selection<'_> {
    /// Each record from the newest down to the oldest that can be selected, and whether it is to be taken back. Those that
    /// were taken back already are left out, with what took them back.
    pub(super) fn walk<'w>(
        &'w self,
        reader: &'w Reader,
        along: &'w BTreeSet<Recno>,
    ) -> impl Iterator<Item = Result<(Record, bool), LogError>> + 'w {
        // What the log begins with was done by nobody here.
        let after = self.after.max(crate::exchange::end_of(reader).unwrap_or(Recno::NONE));
        let mut walk = Walk { selection: self, reader, along, over: HashSet::new(), left: self.most };
        reader
            .backwards(Recno(u64::MAX))
            .take_while(move |record| record.as_ref().map_or(true, |record| record.recno > after))
            .map_while(move |record| match record {
                Ok(_) if walk.left == 0 => None,
                Ok(record) => Some(walk.meet(record)),
                Err(error) => Some(Err(error)),
            })
            .filter_map(Result::transpose)
    }
}

struct Walk<'w> {
    selection: &'w Selection<'w>,
    reader: &'w Reader,
    along: &'w BTreeSet<Recno>,
    /// What was taken back by records that stand.
    over: HashSet<Origin>,
    left: usize,
}

impl Walk<'_> {
    fn meet(&mut self, record: Record) -> Result<Option<(Record, bool)>, LogError> {
        if self.over.contains(&record.origin) {
            return Ok(None);
        }
        let Selection { after, undos, takes, .. } = *self.selection;
        let candidate = match &record.change {
            Change::UndoOf { record: undone, .. } if undos && !self.is_undo(*undone)? => true,
            // What was done before and undone after comes back with the rest of what came after.
            Change::UndoOf { record: undone, .. } if undone.recno <= after && !undos => true,
            Change::UndoOf { record: undone, .. } => {
                self.over.insert(*undone);
                return Ok(None);
            }
            _ => !undos,
        };
        let taken = self.along.contains(&record.recno) || candidate && takes(&record);
        if taken && counts(&record) {
            self.left -= 1;
        }
        Ok(Some((record, taken)))
    }

    fn is_undo(&self, origin: Origin) -> Result<bool, LogError> {
        let record = self.reader.get(origin.recno)?.filter(|record| record.origin == origin);
        Ok(record.is_some_and(|record| matches!(record.change, Change::UndoOf { .. })))
    }
}

/// Whether people would count it as something that was done.
pub(super) fn counts(record: &Record) -> bool {
    !matches!(
        record.change,
        Change::Digest { .. } | Change::Noop | Change::Epoch { .. } | Change::Snapshot { .. }
    )
}

/// The change itself, where it is one that takes another back.
pub(crate) fn innermost(change: &Change) -> &Change {
    match change {
        Change::UndoOf { change, .. } => innermost(change),
        change => change,
    }
}

/// The file whose data a change changed.
pub(super) fn data_of(change: &Change) -> Option<ObjectId> {
    match innermost(change) {
        Change::Close { object, .. } | Change::Setattr { object, data: Some(_), .. } => Some(*object),
        _ => None,
    }
}

/// The objects and places that a change is about. Where something moved, the place it came to is first: who looks at the places in
/// this order finds it there, and does not take it for gone.
pub(crate) fn subjects(change: &Change) -> (Vec<ObjectId>, Vec<&Place>) {
    match change {
        Change::Make { object, place, .. } | Change::Link { object, place, .. } => {
            (vec![*object], vec![place])
        }
        Change::Remove { removed, place, .. } => (vec![removed.object], vec![place]),
        Change::Rename { object, from, to, displaced, .. } => {
            let mut objects = vec![*object];
            match displaced {
                Displaced::Nothing => {}
                Displaced::Replaced(removed) => objects.push(removed.object),
                Displaced::Exchanged { object, .. } => objects.push(*object),
            }
            (objects, vec![to, from])
        }
        Change::Setattr { object, .. } | Change::Xattr { object, .. } | Change::Close { object, .. } => {
            (vec![*object], Vec::new())
        }
        Change::UndoOf { change, .. } => subjects(change),
        _ => (Vec::new(), Vec::new()),
    }
}
