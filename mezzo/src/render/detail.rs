//! A change in a few words, beside its kind and its paths.

use mezzo_core::name::escape;
use mezzo_core::record::{Displaced, EpochCause, Removed};
use mezzo_core::time::Step;
use mezzo_core::{Attributes, Change, Device, Digest, Kind, State};

use super::{View, clock};

/// Characters of what users name freely: a link's target, an extended attribute's value, a reason.
const LONGEST: usize = 60;

/// What is worth a look at first.
pub fn detail(view: &View, change: &Change) -> String {
    match change {
        Change::Make { state, .. } => made(state),
        Change::Link { attributes, .. } => count(attributes.after.links.into(), "name"),
        Change::Remove { removed, .. } => lost(removed),
        Change::Rename { displaced, .. } => displaced_by(displaced),
        Change::Setattr { attributes, .. } => differences(view, attributes).join(", "),
        Change::Xattr { name, value, .. } => xattr(name, value.after.as_deref()),
        Change::Close { attributes, stable, .. } => written(attributes, *stable),
        Change::Digest { version, size, digest, .. } => {
            format!("of record {}, {}, {}", view.record(version.0), bytes(*size), hex(&digest[..8]))
        }
        Change::Noop => String::new(),
        Change::Disable { record, reason } => {
            format!("record {}: {}", view.record(*record), shorten(&escape(reason.as_bytes())))
        }
        Change::Alias { object, stands_for } => format!("{object} is {stands_for}"),
        Change::Epoch { epoch, holder, cause, .. } => format!("{epoch} of {holder}, {}", why(*cause)),
        Change::Snapshot { of, at, records, .. } => {
            format!("record {at} of {of}, as the {records} records that follow")
        }
        Change::Amend { change, .. } | Change::UndoOf { change, .. } => detail(view, change),
    }
}

/// Bytes that may be text: as such in quotes, or hexadecimal.
pub fn value(bytes: &[u8]) -> String {
    // Labels of security modules end in a NUL.
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    match std::str::from_utf8(text) {
        Ok(text) if !text.chars().any(char::is_control) => format!("\"{}\"", escape(bytes)),
        _ => format!("0x{}", hex(bytes)),
    }
}

/// Two lower-case digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest in full.
pub fn digest(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "not known yet".to_owned(), |digest| hex(&digest))
}

/// Permission bits as people write them.
pub fn mode(mode: u16) -> String {
    format!("{mode:04o}")
}

/// `major:minor`.
pub fn device(device: Device) -> String {
    format!("{}:{}", device.major, device.minor)
}

/// `1 byte`, `2 bytes`.
pub fn bytes(size: u64) -> String {
    count(size, "byte")
}

/// Why an epoch began.
pub fn why(cause: EpochCause) -> &'static str {
    match cause {
        EpochCause::Recovered => "recovered",
        EpochCause::Taken => "taken",
        EpochCause::Stolen => "stolen",
        EpochCause::Copied => "copied",
    }
}

/// What an object is that was made.
pub fn made(state: &State) -> String {
    let Attributes { kind, mode, size, device: number, .. } = state.attributes;
    let mode = self::mode(mode);
    match kind {
        Kind::File => format!("{mode}, {}", bytes(size)),
        Kind::Directory => mode,
        Kind::Symlink => format!("to {}", shorten(&escape(&state.target))),
        Kind::Fifo | Kind::Socket => format!("{mode}, {}", kind.word()),
        Kind::CharDevice | Kind::BlockDevice => format!("{mode}, {} {}", kind.word(), device(number)),
    }
}

fn lost(removed: &Removed) -> String {
    match removed.links_left {
        0 if removed.state.attributes.kind == Kind::File => bytes(removed.state.attributes.size),
        0 => String::new(),
        left => format!("{} left", count(left.into(), "name")),
    }
}

fn displaced_by(displaced: &Displaced) -> String {
    let and = |text: String| if text.is_empty() { text } else { format!(", {text}") };
    match displaced {
        Displaced::Nothing => String::new(),
        Displaced::Replaced(removed) => {
            format!("replaced a {}{}", removed.state.attributes.kind.word(), and(lost(removed)))
        }
        Displaced::Exchanged { attributes, .. } => {
            format!("exchanged with a {}", attributes.after.kind.word())
        }
    }
}

fn written(attributes: &Step<Attributes>, stable: bool) -> String {
    let Step { before, after } = attributes;
    let still = if stable { "" } else { ", still open" };
    if before.size == after.size {
        format!("{}{still}", bytes(after.size))
    } else {
        format!("{} -> {}{still}", before.size, bytes(after.size))
    }
}

/// What differs, ctime apart, which every change changes.
fn differences(view: &View, attributes: &Step<Attributes>) -> Vec<String> {
    let fields = |of: &Attributes| {
        [
            ("mode", mode(of.mode)),
            ("owner", view.users.user(of.uid)),
            ("group", view.users.group(of.gid)),
            ("size", of.size.to_string()),
        ]
    };
    let pairs = std::iter::zip(fields(&attributes.before), fields(&attributes.after));
    let mut differences: Vec<String> = pairs
        .filter(|(before, after)| before != after)
        .map(|((name, before), (_, after))| format!("{name} {before} -> {after}"))
        .collect();
    let Step { before, after } = attributes;
    let times = [("atime", before.atime, after.atime), ("mtime", before.mtime, after.mtime)];
    let times = times.into_iter().filter(|(_, before, after)| before != after);
    differences.extend(times.map(|(name, _, after)| format!("{name} {}", clock::short(after, &view.zone))));
    differences
}

fn xattr(name: &[u8], after: Option<&[u8]>) -> String {
    match after {
        Some(after) => format!("{} = {}", escape(name), shorten(&value(after))),
        None => escape(name),
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A text of any length, cut where it is long.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text_where_they_can_be() {
        let check = |bytes: &[u8], expected| assert_eq!(value(bytes), expected);
        check(b"red", "\"red\"");
        check(b"", "\"\"");
        check(b"label:s0\0", "\"label:s0\\x00\"");
        check(b"a\nb", "0x610a62");
        check(b"\x02\xff", "0x02ff");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(shorten(&"ü".repeat(LONGEST)), "ü".repeat(LONGEST));
        assert_eq!(shorten(&"ü".repeat(LONGEST + 1)), "ü".repeat(LONGEST) + "…");
    }
}
