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
    let mut on = 0;
    while history.len() < length {
        // Names come from few, so that operations meet; what is made first is more than what is changed.
        let is_young = history.len() < length / 3;
        history.push(Operation { on, deed: deed(is_young, random) });
        if random.below(6) == 0 && replicas > 1 {
            on = (on + 1 + random.below(replicas as u64 - 1) as usize) % replicas;
            history.extend(catching_up(replicas, on, random));
        }
    }
    history
}

fn catching_up(replicas: usize, on: usize, random: &mut Random) -> Vec<Operation> {
    let others = (0..replicas).filter(|other| *other != on);
    others.map(|from| Operation { on, deed: Receive(from, 1 + random.below(30)) }).collect()
}

fn deed(is_young: bool, random: &mut Random) -> Deed {
    let (one, other) = (path(random), path(random));
    let choice = if is_young { random.below(10) } else { random.below(32) };
    match choice {
        0..=2 => Create(one),
        3 | 4 => Mkdir(NAMES[random.below(4) as usize].to_owned()),
        5 => Symlink(one),
        6..=9 => {
            let length = random.one_of(&[1, 7, 100, 4096, 5000, 20_000]);
            Write(one, b'a' + random.below(26) as u8, length)
        }
        10 => Fifo(one),
        11 | 12 => Link(one, other),
        13 | 14 => Remove(one),
        15..=17 => Rename(one, other),
        18 => Exchange(one, other),
        19 | 20 => Truncate(one, random.one_of(&[0, 3, 4096, 6000])),
        21 => Chmod(one, random.one_of(&[0o600, 0o644, 0o755, 0o4755])),
        22 => Chown(one, random.one_of(&[0, 1000, 1001])),
        23 => Touch(one, 1_000_000_000 + random.below(1000)),
        24 => SetXattr(one, random.below(10)),
        25 => RemoveXattr(one),
        26..=28 => Undo(1 + random.below(6)),
        29 => Redo(1 + random.below(3)),
        30 => Sync,
        _ => Reopen,
    }
}

fn path(random: &mut Random) -> String {
    let name = random.one_of(&NAMES);
    match random.below(5) {
        0..=2 => name.to_owned(),
        _ => format!("{}/{name}", random.one_of(&NAMES[..2])),
    }
}
