//! What a comparison finds, and how much it compared.

use std::fmt;

use crate::escape;

/// In what two objects of one name differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The name is in one tree only.
    Presence,
    /// File, directory, symbolic link, and so on.
    Kind,
    /// The permission bits, with set-id and sticky bits.
    Mode,
    /// The owner.
    Uid,
    /// The group.
    Gid,
    /// The length of a file.
    Size,
    /// The time of the last modification.
    Mtime,
    /// Where a symbolic link leads.
    Target,
    /// The number of a device node.
    Device,
    /// The bytes of a file.
    Content,
    /// The extended attribute of this name.
    Xattr(Vec<u8>),
    /// Which other names are links to the same object.
    HardLinks,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Presence => "presence",
            Field::Kind => "kind",
            Field::Mode => "mode",
            Field::Uid => "uid",
            Field::Gid => "gid",
            Field::Size => "size",
            Field::Mtime => "mtime",
            Field::Target => "target",
            Field::Device => "device",
            Field::Content => "content",
            Field::Xattr(name) => return write!(f, "xattr {}", escape(name)),
            Field::HardLinks => "hard links",
        })
    }
}

/// One way in which the trees differ. Shown, it is one line of four fields between tabs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The name, relative to the root of the trees; `.` is the root.
    pub path: Vec<u8>,
    /// In what they differ.
    pub field: Field,
    /// What A has, for people.
    pub a: String,
    /// What B has, for people.
    pub b: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}\t{}", escape(&self.path), self.field, self.a, self.b)
    }
}

/// A file that takes much more room in one tree than in the other, with the same bytes: holes were lost or made.
/// It is no difference, as a host file system may do so by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The name, relative to the root of the trees.
    pub path: Vec<u8>,
    /// What is allocated for it in A, in bytes.
    pub allocated_a: u64,
    /// What is allocated for it in B, in bytes.
    pub allocated_b: u64,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Note { path, allocated_a, allocated_b } = self;
        write!(f, "note: {}\tallocated\t{allocated_a}\t{allocated_b}", escape(path))
    }
}

/// What a comparison finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The trees are not equal.
    Difference(Difference),
    /// Worth knowing, and no difference.
    Note(Note),
}

/// How much was compared: what both trees have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names below the root.
    pub objects: u64,
    /// Lengths of the files whose bytes were compared; a file of several names counts once.
    pub bytes: u64,
    /// Names of files that have further names.
    pub linked_names: u64,
    /// Extended attributes.
    pub xattrs: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} objects, {}, {} hard-linked names, {} extended attributes",
            grouped(self.objects),
            human_bytes(self.bytes),
            grouped(self.linked_names),
            grouped(self.xattrs)
        )
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::{Counts, grouped, human_bytes};

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(61_204), "61,204");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(human_bytes(1023), "1023 bytes");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn a_summary() {
        let counts = Counts { objects: 61_204, bytes: 1_288_490_189, linked_names: 312, xattrs: 14 };
        assert_eq!(
            counts.to_string(),
            "61,204 objects, 1.2 GiB, 312 hard-linked names, 14 extended attributes"
        );
    }
}
