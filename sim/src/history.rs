//! What is done to the replicas: a list of operations on a few names. One that does not fit what is there does nothing, so that
//! any part of a history is a history.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// One operation on one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which replica, from 0.
    pub on: usize,
    pub deed: Deed,
}

/// What is done. Paths are names with `/` between them, from the fileset's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Create(String),
    Mkdir(String),
    Symlink(String),
    Fifo(String),
    Link(String, String),
    Remove(String),
    Rename(String, String),
    Exchange(String, String),
    /// So many of this byte are written from the beginning of a file.
    Write(String, u8, u64),
    Truncate(String, u64),
    Chmod(String, u32),
    Chown(String, u32),
    /// The time of modification, in seconds since the epoch.
    Touch(String, u64),
    SetXattr(String, u64),
    RemoveXattr(String),
    /// Records of the replica with this number, in batches of so many.
    Receive(usize, u64),
    /// The last records, so many.
    Undo(u64),
    /// The last undos.
    Redo(u64),
    /// Everything is made durable.
    Sync,
    /// It is closed and opened again.
    Reopen,
}

use Deed::*;

impl Deed {
    /// The word under which its steps are counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Create(_) | Mkdir(_) | Symlink(_) | Fifo(_) => "make",
            Link(..) => "link",
            Remove(_) => "remove",
            Rename(..) | Exchange(..) => "rename",
            Write(..) => "close",
            Truncate(..) | Chmod(..) | Chown(..) | Touch(..) => "setattr",
            SetXattr(..) | RemoveXattr(_) => "xattr",
            Receive(..) => "receive",
            Undo(_) => "undo",
            Redo(_) => "redo",
            Sync => "sync",
            Reopen => "reopen",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.on)?;
        match &self.deed {
            Create(path) => write!(f, "create {path}"),
            Mkdir(path) => write!(f, "mkdir {path}"),
            Symlink(path) => write!(f, "symlink {path}"),
            Fifo(path) => write!(f, "fifo {path}"),
            Link(from, to) => write!(f, "link {from} {to}"),
            Remove(path) => write!(f, "remove {path}"),
            Rename(from, to) => write!(f, "rename {from} {to}"),
            Exchange(from, to) => write!(f, "exchange {from} {to}"),
            Write(path, byte, length) => write!(f, "write {path} {byte} {length}"),
            Truncate(path, size) => write!(f, "truncate {path} {size}"),
            Chmod(path, mode) => write!(f, "chmod {path} {mode:o}"),
            Chown(path, owner) => write!(f, "chown {path} {owner}"),
            Touch(path, seconds) => write!(f, "touch {path} {seconds}"),
            SetXattr(path, value) => write!(f, "setxattr {path} {value}"),
            RemoveXattr(path) => write!(f, "removexattr {path}"),
            Receive(from, batch) => write!(f, "receive {from} {batch}"),
            Undo(count) => write!(f, "undo {count}"),
            Redo(count) => write!(f, "redo {count}"),
            Sync => write!(f, "sync"),
            Reopen => write!(f, "reopen"),
        }
    }
}

/// Text that tells of no operation.
#[derive(Debug)]
pub struct NoOperation(String);

impl fmt::Display for NoOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no operation", self.0)
    }
}

impl std::error::Error for NoOperation {}

impl FromStr for Operation {
    type Err = NoOperation;

    fn from_str(text: &str) -> Result<Operation, NoOperation> {
        parse(text).ok_or_else(|| NoOperation(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Operation> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (on, word) = (words.first()?.parse().ok()?, *words.get(1)?);
    let text = |at: usize| words.get(at).map(|word| (*word).to_owned());
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let deed = match word {
        "create" => Create(text(2)?),
        "mkdir" => Mkdir(text(2)?),
        "symlink" => Symlink(text(2)?),
        "fifo" => Fifo(text(2)?),
        "link" => Link(text(2)?, text(3)?),
        "remove" => Remove(text(2)?),
        "rename" => Rename(text(2)?, text(3)?),
        "exchange" => Exchange(text(2)?, text(3)?),
        "write" => Write(text(2)?, number(3)? as u8, number(4)?),
        "truncate" => Truncate(text(2)?, number(3)?),
        "chmod" => Chmod(text(2)?, u32::from_str_radix(words.get(3)?, 8).ok()?),
        "chown" => Chown(text(2)?, number(3)? as u32),
        "touch" => Touch(text(2)?, number(3)?),
        "setxattr" => SetXattr(text(2)?, number(3)?),
        "removexattr" => RemoveXattr(text(2)?),
        "receive" => Receive(number(2)? as usize, number(3)?),
        "undo" => Undo(number(2)?),
        "redo" => Redo(number(2)?),
        "sync" => Sync,
        "reopen" => Reopen,
        _ => return None,
    };
    Some(Operation { on, deed })
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A history of `length` operations, and then some, on so many replicas. They work in turns: who begins a turn takes in what the
/// others have first.
pub fn random(replicas: usize, length: usize, random: &mut Random) -> Vec<Operation> {
    let mut history = Vec::new();
    let mut there = There::default();
    let mut on = 0;
    while history.len() < length {
        history.push(Operation { on, deed: there.deed(random) });
        if random.below(8) == 0 && replicas > 1 {
            on = (on + 1 + random.below(replicas as u64 - 1) as usize) % replicas;
            let others = (0..replicas).filter(|other| *other != on);
            history.extend(others.map(|from| Operation { on, deed: Receive(from, 1 + random.below(30)) }));
        }
    }
    history
}

/// About what there is, so that most operations find what they are about: an undo makes it less true.
#[derive(Default)]
struct There {
    /// Each path, and whether it is a directory.
    paths: Vec<(String, bool)>,
}

impl There {
    fn deed(&mut self, random: &mut Random) -> Deed {
        let files = self.of(false);
        let (some, new) =
            (self.of(true).into_iter().chain(files.clone()).collect::<Vec<_>>(), self.new_path(random));
        // What is made first is more than what is changed.
        if files.is_empty() || random.below(8) < 3_u64.saturating_sub(some.len() as u64 / 2).max(1) {
            return self.make(new, random);
        }
        let one_of =
            |paths: &[String], random: &mut Random| paths[random.below(paths.len() as u64) as usize].clone();
        let (file, one, other) = (one_of(&files, random), one_of(&some, random), one_of(&some, random));
        match random.below(28) {
            0..=5 => {
                Write(file, b'a' + random.below(26) as u8, random.one_of(&[1, 7, 100, 4096, 5000, 20_000]))
            }
            6 => self.put(new, false, |new| Link(file, new)),
            7 | 8 => {
                self.forget(&one);
                Remove(one)
            }
            9 | 10 => {
                self.forget(&one);
                let is_directory = !files.contains(&one);
                self.put(new, is_directory, |new| Rename(one, new))
            }
            11 => {
                self.forget(&one);
                Rename(one, other)
            }
            12 => Exchange(one, other),
            13 | 14 => Truncate(file, random.one_of(&[0, 3, 4096, 6000])),
            15 => Chmod(one, random.one_of(&[0o600, 0o644, 0o755, 0o4755])),
            16 => Chown(one, random.one_of(&[0, 1000, 1001])),
            17 => Touch(one, 1_000_000_000 + random.below(1000)),
            18 => SetXattr(file, random.below(10)),
            19 => RemoveXattr(file),
            20..=23 => Undo(1 + random.below(6)),
            24 => Redo(1 + random.below(3)),
            25 | 26 => Sync,
            _ => Reopen,
        }
    }

    fn make(&mut self, new: String, random: &mut Random) -> Deed {
        match random.below(8) {
            0..=3 => self.put(new, false, Create),
            4 | 5 => self.put(new, true, Mkdir),
            6 => Symlink(new),
            _ => Fifo(new),
        }
    }

    fn of(&self, directories: bool) -> Vec<String> {
        self.paths
            .iter()
            .filter(|(_, is_directory)| *is_directory == directories)
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// A path of few, in a directory that there is, so that operations meet.
    fn new_path(&self, random: &mut Random) -> String {
        let name = random.one_of(&NAMES);
        let directories = self.of(true);
        match random.below(2 + directories.len() as u64) {
            at if at < 2 => name.to_owned(),
            at => format!("{}/{name}", directories[at as usize - 2]),
        }
    }

    fn put(&mut self, path: String, is_directory: bool, deed: impl FnOnce(String) -> Deed) -> Deed {
        if !self.paths.iter().any(|(there, _)| *there == path) {
            self.paths.push((path.clone(), is_directory));
        }
        deed(path)
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.paths.retain(|(there, _)| there != path && !there.starts_with(&below));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_read_as_they_are_told() {
        for seed in 0..50 {
            let history = random(3, 100, &mut Random::new(seed));
            for operation in history {
                assert_eq!(operation.to_string().parse::<Operation>().unwrap(), operation);
            }
        }
        assert!("0 nonsense".parse::<Operation>().is_err());
        assert!("create a".parse::<Operation>().is_err());
    }
}
