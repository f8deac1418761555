//! Does the operations of a history.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use mezzo_core::tree::Tree;
use mezzo_core::{Device, Kind, Name, ObjectId, Recno, Record, Time, Who};
use mezzo_replica::host::{Identity, SetTime};
use mezzo_replica::log::Reader;
use mezzo_replica::receive::{Beside, How, OnData, Outgoing, Taken};
use mezzo_replica::undo::Selection;
use mezzo_replica::versions::Source;
use mezzo_replica::{Bytes, Caller, Changes, Error, Fileset, FilesetId, NewNode, Replica, Sight, Use};
use rustix::fs::{OFlags, RenameFlags};

use super::{Facts, MAKING, Promise, Told, page, place, records};
use crate::history::{Deed, Operation};

const ROOT: ObjectId = ObjectId::ROOT;

/// The fileset that all replicas are of.
const FILESET: FilesetId = FilesetId(*b"mezzo simulation");

/// Makes replicas, does `history`, and tells what came of it.
pub fn perform(host: &Path, replicas: usize, history: &[Operation]) -> Result<Facts, String> {
    page().set_operation(MAKING);
    let mut all: Vec<Option<Replica>> = Vec::new();
    for number in 0..replicas {
        let path = place(host, number);
        std::fs::create_dir(&path).map_err(|error| error.to_string())?;
        let replica = Fileset::create_as(&path, FILESET).map_err(|error| error.to_string())?;
        let replica = Replica::create(replica).map_err(|error| error.to_string())?;
        match all.first() {
            None => drop(replica.take_in(&mut |_| true).map_err(|error| error.to_string())?),
            // The first one's root is everybody's.
            Some(Some(first)) => {
                Replica::sync_log(first).map_err(|error| error.to_string())?;
                receive(&place(host, 0), &replica, usize::MAX)?;
            }
            Some(None) => {}
        }
        all.push(Some(replica));
    }
    for replica in all.iter().flatten() {
        replica.sync_all().map_err(|error| error.to_string())?;
    }
    let mut facts = Facts { last: vec![lasts(&all)], ..Facts::default() };
    for (at, operation) in history.iter().enumerate() {
        page().set_operation(at as u64 + 1);
        perform_one(host, &mut all, operation, &mut facts)
            .map_err(|error| format!("operation {}, {operation}: {error}", at + 1))?;
        if let Some(why) = all.iter().flatten().find_map(Replica::broken) {
            return Err(format!("operation {}, {operation}: broken: {why}", at + 1));
        }
        facts.last.push(lasts(&all));
        if matches!(operation.deed, Deed::Undo(_) | Deed::Redo(_) | Deed::Receive(..)) {
            facts.journaled.push(at + 1);
        }
        if operation.deed == Deed::Sync {
            facts.promises.push(promise(
                host,
                operation.on,
                at + 1,
                all[operation.on].as_ref().expect("it is open"),
            )?);
        }
    }
    page().set_operation(history.len() as u64 + 1);
    for number in 0..replicas {
        let records = records(&place(host, number))?;
        facts.records.push(records.iter().map(Told::of).collect());
    }
    Ok(facts)
}

fn lasts(all: &[Option<Replica>]) -> Vec<u64> {
    all.iter().map(|replica| replica.as_ref().map_or(0, |replica| replica.last().0)).collect()
}

/// The replicas' one user.
fn caller() -> Caller {
    let who = Who { program: (*b"sim").into(), ..Who::default() };
    Caller { identity: Identity::default(), umask: 0o022, who: Arc::new(who) }
}

fn perform_one(
    host: &Path,
    all: &mut [Option<Replica>],
    operation: &Operation,
    facts: &mut Facts,
) -> Result<(), String> {
    let path = place(host, operation.on);
    let open = |all: &[Option<Replica>], number: usize| all.get(number).is_some_and(Option::is_some);
    match operation.deed {
        Deed::Reopen => {
            all[operation.on] = None;
            let fileset = Fileset::open(&path).map_err(|error| error.to_string())?;
            let (replica, _) = Replica::open(fileset).map_err(|error| error.to_string())?;
            replica.take_in(&mut |_| true).map_err(|error| error.to_string())?;
            all[operation.on] = Some(replica);
        }
        Deed::Receive(from, batch) if open(all, from) && from != operation.on => {
            let giver = all[from].as_ref().expect("it is open");
            // What leaves a replica is durable there.
            giver.sync_all().map_err(|error| error.to_string())?;
            let onto = all[operation.on].as_ref().expect("it is open");
            let taken = receive(&place(host, from), onto, batch as usize)?;
            facts.conflicts |= taken.stopped.is_some();
        }
        Deed::Receive(..) => {}
        _ => {
            let replica = all[operation.on].as_ref().expect("it is open");
            match act(replica, &operation.deed) {
                // What does not fit changes nothing.
                Err(Error::Host(_) | Error::Gone) | Ok(()) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
    Ok(())
}

/// Takes in what the replica at `from` has, in batches; stops where a record can't be taken.
pub fn receive(from: &Path, onto: &Replica, batch: usize) -> Result<Taken, String> {
    let reader = Reader::open(&from.join(".mezzo/kml")).map_err(|error| error.to_string())?;
    let (outgoing, tree) = Outgoing::of(&reader).map_err(|error| error.to_string())?;
    let wanted = |record: &Record| outgoing.sends(record) && !onto.index().has_heard(record.origin);
    let records: Vec<Record> = records(from)?.into_iter().filter(wanted).collect();
    let root = std::fs::File::open(from).map_err(|error| error.to_string())?;
    let source = Source { root: Some(root.into()), attic: Some(from.join(".mezzo/attic")) };
    let beside = Beside { tree, source };
    let mut taken = Taken::default();
    for records in records.chunks(batch.max(1)) {
        let how = How { data: OnData::Bring(&beside), judge: false };
        taken = onto.receive(records, how, &()).map_err(|error| error.to_string())?;
        if taken.stopped.is_some() {
            break;
        }
    }
    if onto.index().lost() > 0 {
        fill(onto, &beside)?;
    }
    Ok(taken)
}

/// Brings what bytes are missing.
fn fill(onto: &Replica, beside: &Beside) -> Result<(), String> {
    let mut tree = Tree::new();
    for record in records(onto.fileset().path())? {
        tree.apply(&record).map_err(|error| error.to_string())?;
    }
    let files: Vec<ObjectId> = tree.objects().map(|(object, _)| object).collect();
    onto.fill(&files, beside).map(drop).map_err(|error| error.to_string())
}

fn promise(host: &Path, number: usize, operation: usize, replica: &Replica) -> Result<Promise, String> {
    let path = place(host, number);
    let last = replica.last().0;
    Ok(Promise { replica: number, operation, last, files: files(&path)? })
}

/// Every file that the log tells of, with a hash of its mode and bytes. Those without all their bytes are left out.
pub fn files(path: &Path) -> Result<Vec<(String, u64)>, String> {
    use std::os::unix::fs::MetadataExt;
    let mut tree = Tree::new();
    for record in records(path)? {
        tree.apply(&record).map_err(|error| error.to_string())?;
    }
    let mut files = Vec::new();
    for (object, _) in tree.objects() {
        let Some(at) = tree.path(object) else { continue };
        let at = path.join(std::str::from_utf8(&at).map_err(|error| error.to_string())?);
        let Ok(metadata) = std::fs::symlink_metadata(&at) else { continue };
        let is_lost = || {
            let mut value = [0u8; 64];
            rustix::fs::lgetxattr(&at, c"trusted.mezzo.lost", &mut value[..]).is_ok()
        };
        if metadata.is_file() && !is_lost() {
            let bytes = std::fs::read(&at).map_err(|error| error.to_string())?;
            let hash = super::digest(&[&metadata.mode().to_le_bytes()[..], &bytes].concat());
            files.push((object.to_string(), hash));
        }
    }
    files.sort();
    Ok(files)
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("histories have good names")
}

/// The directory that a path is in, and its last name.
fn parent(replica: &Replica, path: &str) -> Result<(ObjectId, Name), Error> {
    match path.rsplit_once('/') {
        None => Ok((ROOT, name(path))),
        Some((above, last)) => Ok((find(replica, above)?, name(last))),
    }
}

fn find(replica: &Replica, path: &str) -> Result<ObjectId, Error> {
    let (directory, last) = parent(replica, path)?;
    Ok(replica.meet(directory, &last)?.ok_or(Error::Gone)?.entry.object)
}

/// A regular file.
fn find_file(replica: &Replica, path: &str) -> Result<ObjectId, Error> {
    let object = find(replica, path)?;
    if replica.entry(object)?.version().is_some() { Ok(object) } else { Err(Error::Gone) }
}

fn act(replica: &Replica, deed: &Deed) -> Result<(), Error> {
    let caller = caller();
    let make = |path: &str, node: NewNode<'_>| {
        let (directory, last) = parent(replica, path)?;
        replica.make(&caller, directory, &last, node).map(drop)
    };
    let change = |object, changes: Changes| replica.set_attributes(&caller, object, &changes).map(drop);
    match deed {
        Deed::Create(path) => {
            let (directory, last) = parent(replica, path)?;
            replica.create_file(&caller, directory, &last, 0o644).map(drop)
        }
        Deed::Mkdir(path) => make(path, NewNode::Directory(0o755)),
        Deed::Symlink(path) => make(path, NewNode::Symlink(b"target")),
        Deed::Fifo(path) => make(path, NewNode::Node(Kind::Fifo, 0o644, Device::default())),
        Deed::Link(from, to) => {
            let object = find(replica, from)?;
            let (directory, last) = parent(replica, to)?;
            replica.link(&caller, object, directory, &last).map(drop)
        }
        Deed::Remove(path) => {
            let (directory, last) = parent(replica, path)?;
            let is_directory = replica.entry(find(replica, path)?)?.is_directory();
            replica.remove(&caller, directory, &last, is_directory)
        }
        Deed::Rename(from, to) => rename(replica, &caller, (from, to), RenameFlags::empty()),
        Deed::Exchange(from, to) => rename(replica, &caller, (from, to), RenameFlags::EXCHANGE),
        Deed::Write(path, byte, length) => {
            write(replica, &caller, find_file(replica, path)?, &vec![*byte; *length as usize])
        }
        Deed::Truncate(path, size) => {
            change(find_file(replica, path)?, Changes { size: Some(*size), ..Changes::default() })
        }
        Deed::Chmod(path, mode) => {
            let object = find(replica, path)?;
            if !replica.entry(object)?.state.target.is_empty() {
                return Ok(());
            }
            change(object, Changes { mode: Some(*mode), ..Changes::default() })
        }
        Deed::Chown(path, owner) => {
            let changes = Changes { uid: Some(*owner), gid: Some(*owner), ..Changes::default() };
            change(find(replica, path)?, changes)
        }
        Deed::Touch(path, seconds) => {
            let mtime = SetTime::To(Time::new(*seconds as i64, 5));
            change(find(replica, path)?, Changes { mtime, ..Changes::default() })
        }
        Deed::SetXattr(path, value) => {
            let value = value.to_string();
            replica.set_xattr(&caller, find_file(replica, path)?, (b"user.k", value.as_bytes()), 0, false)
        }
        Deed::RemoveXattr(path) => replica.remove_xattr(&caller, find_file(replica, path)?, b"user.k"),
        Deed::Undo(most) => undo(replica, &caller, *most, false),
        Deed::Redo(most) => undo(replica, &caller, *most, true),
        Deed::Sync => replica.sync_all().map(drop),
        Deed::Receive(..) | Deed::Reopen => Ok(()),
    }
}

fn rename(
    replica: &Replica,
    caller: &Caller,
    (from, to): (&str, &str),
    flags: RenameFlags,
) -> Result<(), Error> {
    let (from, to) = (parent(replica, from)?, parent(replica, to)?);
    replica.rename(caller, (from.0, &from.1), (to.0, &to.1), flags).map(drop)
}

/// As a program does that opens the file, writes in two parts, and closes it.
fn write(replica: &Replica, caller: &Caller, object: ObjectId, bytes: &[u8]) -> Result<(), Error> {
    if replica.opening(object, Use::Write, None, Bytes::Needed)?.0 == Sight::Seen {
        replica.before_change(object, 0..bytes.len() as u64);
    }
    let file = std::fs::File::from(replica.open_data(object, OFlags::WRONLY)?);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all_at(first, 0)?;
    file.write_all_at(second, first.len() as u64)?;
    drop(file);
    replica.flushed(caller, object)?;
    replica.released(caller, object, Use::Write)
}

fn undo(replica: &Replica, caller: &Caller, most: u64, undos: bool) -> Result<(), Error> {
    let takes = |_: &Record| true;
    let selection = Selection { after: Recno(0), most: most as usize, takes: &takes, undos, along: false };
    replica.undo(caller, &selection, &()).map(drop)
}
