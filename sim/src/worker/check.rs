//! Opens what a crash left, and looks whether it is what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;

use mezzo_core::time::Step;
use mezzo_core::tree::Tree;
use mezzo_core::{Attributes, Change, Kind, Record};
use mezzo_replica::log::Reader;
use mezzo_replica::receive::Why;
use mezzo_replica::replay::{Range, replay};
use mezzo_replica::verify::{Depth, verify};
use mezzo_replica::versions::Source;
use mezzo_replica::{Fileset, Replica};

use super::perform::{files, receive};
use super::{Facts, LOOKING, RECOVERY, Told, page, place, records};

/// What a crash amid operation `at` left is put in order, and has to be as `facts` say; after a `loss` of power, as far as it was
/// durable.
pub fn check(host: &Path, facts: &Facts, at: usize, loss: bool) -> Result<(), String> {
    page().set_operation(RECOVERY);
    let count = facts.records.len();
    let mut all = Vec::new();
    for number in 0..count {
        all.push(open(&place(host, number)).map_err(|error| format!("replica {number}: {error}"))?);
    }
    page().set_operation(LOOKING);
    for (number, replica) in all.iter().enumerate() {
        let judge = Judge { host, facts, at, loss, number, replica };
        judge.judge().map_err(|error| format!("replica {number}: {error}"))?;
    }
    come_together(host, &all, facts)?;
    drop(all);
    for number in 0..count {
        opens_as_it_was(&place(host, number)).map_err(|error| format!("replica {number}: {error}"))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<Replica, String> {
    let fileset = Fileset::open(path).map_err(|error| error.to_string())?;
    let (replica, start) = Replica::open(fileset).map_err(|error| format!("can't be opened: {error}"))?;
    if let Some(new) = start.new_id {
        return Err(format!("took a new id: {:?}", new.why));
    }
    replica.take_in(&mut |_| true).map_err(|error| error.to_string())?;
    Ok(replica)
}

struct Judge<'a> {
    host: &'a Path,
    facts: &'a Facts,
    at: usize,
    loss: bool,
    number: usize,
    replica: &'a Replica,
}

impl Judge<'_> {
    fn judge(&self) -> Result<(), String> {
        let path = place(self.host, self.number);
        let records = records(&path)?;
        once_each(&records, self.replica)?;
        let told: Vec<Told> = records.iter().map(Told::of).collect();
        self.kept(&told)?;
        if !self.loss {
            self.nothing_else(&told, &records)?;
        }
        self.whole(&told)?;
        is_as_told(&path, &records, self.replica.index().lost() > 0)?;
        self.promised(&path)
    }

    fn before(&self) -> usize {
        self.facts.last[self.at - 1][self.number] as usize
    }

    fn after(&self) -> usize {
        self.facts.last[self.at.min(self.facts.last.len() - 1)][self.number] as usize
    }

    fn reference(&self) -> &[Told] {
        &self.facts.records[self.number]
    }

    /// The last record that was durable when the crash came.
    fn durable(&self) -> usize {
        if !self.loss {
            return self.before();
        }
        let promises = self.facts.promises.iter();
        let mine = promises.filter(|promise| promise.replica == self.number && promise.operation < self.at);
        mine.map(|promise| promise.last as usize).max().unwrap_or(self.facts.last[0][self.number] as usize)
    }

    /// What was there before is there.
    fn kept(&self, told: &[Told]) -> Result<(), String> {
        let durable = self.durable();
        match (0..durable)
            .find(|at| told.get(*at).map(|told| told.digest) != Some(self.reference()[*at].digest))
        {
            None => Ok(()),
            Some(at) => Err(format!(
                "record {} is not what it was, of {durable} that were there: {:?}, it was {:?}",
                at + 1,
                told.get(at),
                self.reference()[at]
            )),
        }
    }

    /// Nothing is recorded but what was being done.
    fn nothing_else(&self, told: &[Told], records: &[Record]) -> Result<(), String> {
        let expected = &self.reference()[self.before()..self.after()];
        let mut next = 0;
        for (at, record) in records.iter().enumerate().skip(self.before()) {
            let found = &told[at];
            // An undo that gives a file other bytes moves the ctime of its directory, which no record of it tells.
            if self.is_own() && moves_ctime_of_directory(&record.change) {
                continue;
            }
            next += 1;
            let is_expected = match expected.get(next - 1) {
                // These are done to their ends as they were begun.
                next if self.is_own() => next.is_some_and(|next| next.kind == found.kind),
                // What was in flight is recorded as it is found: a rename over a file may be a removal and a rename.
                _ => found
                    .objects
                    .iter()
                    .any(|object| expected.iter().any(|told| told.objects.contains(object))),
            };
            if !is_expected && (self.is_own() || !is_new(&record.change) || expected.is_empty()) {
                return Err(format!(
                    "record {} was made of nothing: {record:?}; expected was {:?}",
                    record.recno,
                    expected.iter().map(|told| &told.kind).collect::<Vec<_>>()
                ));
            }
        }
        Ok(())
    }

    /// Whether the operation is one of mezzo's own, that has a journal: an undo, or receiving.
    fn is_own(&self) -> bool {
        self.facts.journaled.contains(&self.at)
    }

    /// An undo that was cut off is done, or was not begun.
    fn whole(&self, told: &[Told]) -> Result<(), String> {
        let (before, after) = (self.before(), self.after());
        if !self.facts.is_undo(self.at, self.number) {
            return Ok(());
        }
        // What the log has lost can't be taken back.
        if before > 0
            && told.get(before - 1).map(|told| told.digest) != Some(self.reference()[before - 1].digest)
        {
            return Ok(());
        }
        let expected = &self.reference()[before..after];
        let done = told[before..].iter().filter(|told| told.undoes).count();
        let has_lost_bytes = self.loss && expected.iter().skip(done).any(|told| told.brings);
        if done == 0 || done == expected.len() || has_lost_bytes {
            return Ok(());
        }
        Err(format!("of an undo of {} records, {done} are taken back", expected.len()))
    }

    /// What was durable, and has not been changed since, is there.
    fn promised(&self, path: &Path) -> Result<(), String> {
        let promises = self.facts.promises.iter().rev();
        let Some(promise) = promises
            .into_iter()
            .find(|promise| promise.replica == self.number && promise.operation < self.at)
        else {
            return Ok(());
        };
        let since = &self.reference()[promise.last as usize..self.after()];
        let touched: BTreeSet<&String> = since.iter().flat_map(|told| &told.objects).collect();
        let here: BTreeMap<String, u64> = files(path)?.into_iter().collect();
        for (object, hash) in promise.files.iter().filter(|(object, _)| !touched.contains(object)) {
            match here.get(object) {
                Some(now) if now == hash => {}
                Some(_) => {
                    return Err(format!("file {object} was durable, and has other bytes or another mode"));
                }
                None => return Err(format!("file {object} was durable, and is gone or has lost its bytes")),
            }
        }
        Ok(())
    }
}

/// Whether it tells of a directory's other ctime, and of nothing else.
fn moves_ctime_of_directory(change: &Change) -> bool {
    let Change::Setattr { attributes: Step { before, after }, .. } = change else { return false };
    before.kind == Kind::Directory && Attributes { ctime: before.ctime, ..*after } == *before
}

/// Whether it makes an object, which nobody knew before.
fn is_new(change: &Change) -> bool {
    matches!(change, Change::Make { .. })
}

/// Each record counts once, whoever it is from, and what was made here has its number.
fn once_each(records: &[Record], replica: &Replica) -> Result<(), String> {
    let own = replica.fileset().config.replica;
    let mut origins = BTreeSet::new();
    for record in records {
        let origin = (record.origin.replica.0, record.origin.recno.0);
        if !origins.insert(origin) {
            return Err(format!("record {} is here a second time: {:?}", record.recno, record.change));
        }
        if record.origin.replica == own && record.origin.recno != record.recno {
            return Err(format!("record {} is an own one of another number", record.recno));
        }
    }
    Ok(())
}

fn folded(records: &[Record]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    for record in records {
        tree.apply(record)
            .map_err(|error| format!("record {} does not fit the log: {error}", record.recno))?;
    }
    Ok(tree)
}

/// Tree and log agree, and the log builds an equal tree elsewhere.
fn is_as_told(path: &Path, records: &[Record], is_lost: bool) -> Result<(), String> {
    let tree = folded(records)?;
    let root = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let (mut differences, mut lost) = (Vec::new(), false);
    let mut found = |difference: mezzo_replica::verify::Difference| match difference.lost {
        true => lost = true,
        false => differences.push(difference),
    };
    verify(&tree, root.as_fd(), Depth::Data, &mut found, &mut |_| {}).map_err(|error| error.to_string())?;
    if !differences.is_empty() {
        return Err(format!("tree and log differ: {differences:?}"));
    }
    // Bytes that are lost can't be brought.
    if lost || is_lost { Ok(()) } else { replays(path) }
}

fn replays(path: &Path) -> Result<(), String> {
    let onto = tempfile::tempdir_in("/dev/shm").map_err(|error| error.to_string())?;
    let reader = Reader::open(&path.join(".mezzo/kml")).map_err(|error| error.to_string())?;
    let root = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let source = Source { root: Some(root.into()), attic: Some(path.join(".mezzo/attic")) };
    let target = std::fs::File::open(onto.path()).map_err(|error| error.to_string())?;
    replay(&reader, Range::default(), target.into(), &source, &mut |_| {})
        .map_err(|error| format!("can't be replayed: {error}"))?;
    equal(path, onto.path())
}

fn equal(one: &Path, other: &Path) -> Result<(), String> {
    let mut differences = Vec::new();
    let mut note = |finding| {
        if let mezzo_compare::Finding::Difference(difference) = finding
            && !is_mark(&difference.field)
        {
            differences.push(difference);
        }
    };
    mezzo_compare::compare(one, other, &mezzo_compare::Options::default(), &mut note)
        .map_err(|error| error.to_string())?;
    if differences.is_empty() { Ok(()) } else { Err(format!("trees differ: {differences:?}")) }
}

/// A mark of mezzo's own is of one replica, and stays on a file that was written to since, for which it means nothing.
fn is_mark(field: &mezzo_compare::Field) -> bool {
    matches!(field, mezzo_compare::Field::Xattr(name) if name.starts_with(b"trusted.mezzo."))
}

/// All take each other's records, and are equal then, where nothing is in conflict.
fn come_together(host: &Path, all: &[Replica], facts: &Facts) -> Result<(), String> {
    if facts.conflicts {
        return Ok(());
    }
    let mut lost = 0;
    for _ in 0..2 {
        for (from, giver) in all.iter().enumerate() {
            giver.sync_log().map_err(|error| error.to_string())?;
            for (onto, taker) in all.iter().enumerate().filter(|(onto, _)| *onto != from) {
                let taken = receive(&place(host, from), taker, usize::MAX)?;
                // What they did apart from each other may not go together.
                if let Some(Why::Conflict(_)) = taken.stopped.as_ref().map(|stop| &stop.why) {
                    return Ok(());
                }
                if let Some(stop) = taken.stopped {
                    return Err(format!(
                        "replica {onto} can't take record {} of replica {from}: {}",
                        stop.record.recno, stop.why
                    ));
                }
            }
        }
        lost = all.iter().map(|replica| replica.index().lost()).sum();
    }
    if lost > 0 {
        return Ok(());
    }
    for other in 1..all.len() {
        equal(&place(host, 0), &place(host, other))
            .map_err(|error| format!("replicas 0 and {other}, which have all of each other: {error}"))?;
    }
    Ok(())
}

/// Opened once more, there is nothing to be recorded.
fn opens_as_it_was(path: &Path) -> Result<(), String> {
    let before = records(path)?.len();
    drop(open(path)?);
    let after = records(path)?;
    if after.len() == before {
        return Ok(());
    }
    Err(format!(
        "opened once more, it recorded {:?}",
        after[before..].iter().map(|record| &record.change).collect::<Vec<&Change>>()
    ))
}

impl Facts {
    /// Whether operation `at` takes records of replica `number` back, which is told by them alone.
    fn is_undo(&self, at: usize, number: usize) -> bool {
        let (before, after) =
            (self.last[at - 1][number] as usize, self.last[at.min(self.last.len() - 1)][number] as usize);
        let made = &self.records[number][before..after];
        !made.is_empty() && self.journaled.contains(&at) && made.iter().all(|told| told.undoes)
    }
}
