//! The rules that every record keeps, whoever made it: checked before one is written, and after one was read.
//!
//! What a record needs to fit a tree is not looked at here: that is `tree`'s.

use crate::attributes::{Attributes, Kind, State, Xattr};
use crate::id::Recno;
use crate::limits;
use crate::record::{Change, Displaced, Record, Removed};
use crate::time::{Step, Time, Times};
use crate::who::Who;

/// A record that breaks a rule. It is neither written nor read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Something is larger than `limits` allows.
    #[error("{what} of {size} is beyond the limit of {limit}")]
    TooLarge {
        /// What, with its unit.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// It can't be so.
    #[error("{0}")]
    Broken(&'static str),
}

type Checked = Result<(), Refused>;

/// `(uid_t)-1`: nobody has it, and `chown(2)` takes it for "leave as it is".
const NOBODY_AT_ALL: u32 = u32::MAX;

pub(super) fn check(record: &Record) -> Checked {
    rule(record.recno > record.previous, "a record's number is not above the one before")?;
    rule(record.origin.replica.0 != 0 && record.origin.recno != Recno::NONE, "a record has no origin")?;
    time(record.time)?;
    who(&record.who)?;
    change(&record.change, true)
}

fn change(change: &Change, outermost: bool) -> Checked {
    match change {
        Change::Make { state, parent, .. } => {
            self::state(state)?;
            step_of_times(parent)
        }
        Change::Link { attributes, parent, .. } => {
            step(attributes)?;
            step_of_times(parent)
        }
        Change::Remove { removed, parent, .. } => {
            self::removed(removed)?;
            step_of_times(parent)
        }
        Change::Rename { attributes, from_parent, to_parent, displaced, .. } => {
            step(attributes)?;
            step_of_times(from_parent)?;
            step_of_times(to_parent)?;
            self::displaced(displaced)
        }
        Change::Setattr { attributes, .. } | Change::Close { attributes, .. } => step(attributes),
        Change::Xattr { name, value, attributes, .. } => {
            xattr_name(name)?;
            [&value.before, &value.after].into_iter().flatten().try_for_each(|value| xattr_value(value))?;
            step(attributes)
        }
        Change::Disable { reason, .. } => limit("a reason in bytes", reason.len(), limits::REASON_BYTES),
        Change::Amend { change, .. } | Change::UndoOf { change, .. } => {
            rule(outermost, "an amendment or an undo holds another")?;
            self::change(change, false)
        }
        Change::Snapshot { heads, .. } => limit("heads", heads.len(), limits::HEADS),
        Change::Digest { .. } | Change::Noop | Change::Alias { .. } | Change::Epoch { .. } => Ok(()),
    }
}

fn who(who: &Who) -> Checked {
    limit("groups", who.groups.len(), limits::GROUPS)?;
    limit("a program's name in bytes", who.program.len(), limits::WHO_BYTES)?;
    limit("a session's name in bytes", who.session.len(), limits::WHO_BYTES)
}

fn state(state: &State) -> Checked {
    attributes(&state.attributes)?;
    let kind = state.attributes.kind;
    rule(state.target.is_empty() || kind == Kind::Symlink, "what is no link has a target")?;
    rule(!state.target.contains(&0), "a target holds a NUL")?;
    rule(state.data.is_none() || kind == Kind::File, "what is no file has data")?;
    limit("a target in bytes", state.target.len(), limits::TARGET_BYTES)?;
    xattrs(&state.xattrs)
}

fn xattrs(xattrs: &[Xattr]) -> Checked {
    limit("extended attributes", xattrs.len(), limits::XATTRS)?;
    rule(
        xattrs.is_sorted_by(|a, b| a.name < b.name),
        "extended attributes are not sorted, or one is there twice",
    )?;
    for xattr in xattrs {
        xattr_name(&xattr.name)?;
        xattr_value(&xattr.value)?;
    }
    Ok(())
}

fn xattr_name(name: &[u8]) -> Checked {
    limit("an extended attribute's name in bytes", name.len(), limits::XATTR_NAME_BYTES)?;
    rule(!name.is_empty() && !name.contains(&0), "an extended attribute's name is empty or holds a NUL")
}

fn xattr_value(value: &[u8]) -> Checked {
    limit("an extended attribute's value in bytes", value.len(), limits::XATTR_VALUE_BYTES)
}

fn removed(removed: &Removed) -> Checked {
    state(&removed.state)?;
    time(removed.ctime_after)
}

fn displaced(displaced: &Displaced) -> Checked {
    match displaced {
        Displaced::Nothing => Ok(()),
        Displaced::Replaced(removed) => self::removed(removed),
        Displaced::Exchanged { attributes, .. } => step(attributes),
    }
}

fn step(step: &Step<Attributes>) -> Checked {
    rule(step.before.kind == step.after.kind, "an object changes its kind")?;
    attributes(&step.before)?;
    attributes(&step.after)
}

fn attributes(attributes: &Attributes) -> Checked {
    rule(attributes.mode <= 0o7777, "a mode is beyond 0o7777")?;
    rule(
        attributes.uid != NOBODY_AT_ALL && attributes.gid != NOBODY_AT_ALL,
        "an owner is 2^32 - 1, which is none",
    )?;
    [attributes.atime, attributes.mtime, attributes.ctime].into_iter().try_for_each(time)
}

fn step_of_times(step: &Step<Times>) -> Checked {
    [step.before.mtime, step.before.ctime, step.after.mtime, step.after.ctime].into_iter().try_for_each(time)
}

fn time(time: Time) -> Checked {
    rule(time.nanoseconds < 1_000_000_000, "nanoseconds are beyond 999,999,999")
}

pub(super) fn limit(what: &'static str, size: usize, limit: usize) -> Checked {
    if size <= limit { Ok(()) } else { Err(Refused::TooLarge { what, size, limit }) }
}

fn rule(kept: bool, broken: &'static str) -> Checked {
    if kept { Ok(()) } else { Err(Refused::Broken(broken)) }
}
