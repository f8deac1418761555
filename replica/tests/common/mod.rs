//! A fileset in a temporary directory, and what must hold of it at the end of each test.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod work;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mezzo_core::tree::Tree;
use mezzo_core::{Change, Name, ObjectId, Recno, Record, Who};
use mezzo_replica::host::Identity;
use mezzo_replica::log::Reader;
use mezzo_replica::replay::{Range, Replayed, replay};
use mezzo_replica::verify::{Depth, verify};
use mezzo_replica::versions::Source;
use mezzo_replica::{AtticPolicy, Caller, Fileset, Replica};

/// A fileset that is gone with the test.
pub struct Bench {
    pub directory: tempfile::TempDir,
    pub replica: Option<Replica>,
}

impl Bench {
    /// An empty one.
    pub fn new() -> Bench {
        let bench = Bench::unopened();
        let replica = Replica::create(Fileset::create(&bench.root()).unwrap()).unwrap();
        replica.take_in(&mut |_| true).unwrap();
        Bench { replica: Some(replica), ..bench }
    }

    /// An empty one in memory.
    pub fn in_memory() -> Bench {
        let bench = Bench::unopened_in_memory();
        let replica = Replica::create(Fileset::create(&bench.root()).unwrap()).unwrap();
        replica.take_in(&mut |_| true).unwrap();
        Bench { replica: Some(replica), ..bench }
    }

    /// An empty one whose attic has this policy.
    pub fn with(policy: AtticPolicy) -> Bench {
        let bench = Bench::unopened();
        let mut fileset = Fileset::create(&bench.root()).unwrap();
        fileset.config.attic = policy;
        fileset.config.write(fileset.own()).unwrap();
        let replica = Replica::create(fileset).unwrap();
        replica.take_in(&mut |_| true).unwrap();
        Bench { replica: Some(replica), ..bench }
    }

    /// A directory that is to become one.
    pub fn unopened() -> Bench {
        Bench::unopened_in(tempfile::tempdir().unwrap())
    }

    /// The same, in memory, where many are needed and nothing has to be durable.
    pub fn unopened_in_memory() -> Bench {
        Bench::unopened_in(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn unopened_in(directory: tempfile::TempDir) -> Bench {
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        Bench { directory, replica: None }
    }

    /// Its directory.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub fn replica(&self) -> &Replica {
        self.replica.as_ref().unwrap()
    }

    /// Closes it and opens it again.
    pub fn reopen(&mut self) {
        self.replica = None;
        self.replica = Some(Replica::open(Fileset::open(&self.root()).unwrap()).unwrap().0);
    }

    /// The object at a path.
    pub fn find(&self, path: &str) -> ObjectId {
        path.split('/').filter(|part| !part.is_empty()).fold(ObjectId::ROOT, |parent, part| {
            self.replica()
                .meet(parent, &name(part))
                .unwrap()
                .unwrap_or_else(|| panic!("no {path}"))
                .entry
                .object
        })
    }

    pub fn records(&self) -> Vec<Record> {
        let reader = Reader::open(&self.root().join(".mezzo/kml")).unwrap();
        reader.from(Recno(1)).map(Result::unwrap).collect()
    }

    /// The words for what was recorded since record `recno`.
    pub fn kinds_since(&self, recno: Recno) -> Vec<&'static str> {
        self.records()
            .iter()
            .filter(|record| record.recno > recno)
            .map(|record| record.change.kind())
            .collect()
    }

    pub fn last_change(&self) -> Change {
        self.records().pop().unwrap().change
    }

    /// Tree and log agree, and the log builds an equal tree elsewhere.
    pub fn check(&self) {
        let mut tree = Tree::new();
        self.records().iter().for_each(|record| tree.apply(record).unwrap());
        let mut differences = Vec::new();
        let root = open(&self.root());
        verify(&tree, root.as_fd(), Depth::Data, &mut |d| differences.push(d), &mut |_| {}).unwrap();
        assert!(differences.is_empty(), "tree and log differ: {differences:#?}");
        let (onto, replayed) = self.replay(Range::default());
        assert_eq!(replayed.without_data, [], "replay lacks data");
        equal_trees(&self.root(), onto.path());
    }

    pub fn replay(&self, range: Range) -> (tempfile::TempDir, Replayed) {
        let onto = tempfile::tempdir().unwrap();
        let reader = Reader::open(&self.root().join(".mezzo/kml")).unwrap();
        let source = Source { root: Some(open(&self.root())), attic: Some(self.root().join(".mezzo/attic")) };
        let replayed = replay(&reader, range, open(onto.path()), &source, &mut |_| {}).unwrap();
        (onto, replayed)
    }
}

pub fn equal_trees(a: &Path, b: &Path) {
    let mut differences = Vec::new();
    let mut note = |finding| {
        if let mezzo_compare::Finding::Difference(difference) = finding {
            differences.push(difference);
        }
    };
    mezzo_compare::compare(a, b, &mezzo_compare::Options::default(), &mut note).unwrap();
    assert!(differences.is_empty(), "{a:?} and {b:?} differ: {differences:#?}");
}

pub fn open(path: &Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

pub fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

/// A caller with the rights of `uid`.
pub fn user(uid: u32) -> Caller {
    let who = Who { uid, gid: uid, program: (*b"test").into(), ..Who::default() };
    Caller { identity: Identity { uid, gid: uid }, umask: 0o022, who: Arc::new(who) }
}
