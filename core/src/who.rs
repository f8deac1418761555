//! Who made a change: for people, never for authority.

/// The process behind a change, as far as it could be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The user whose rights were used.
    pub uid: u32,
    /// The group whose rights were used.
    pub gid: u32,
    /// Supplementary groups, where they were looked up: at most 65,536.
    pub groups: Vec<u32>,
    /// The process, or 0 where none is behind it.
    pub pid: u32,
    /// The program's name as the kernel keeps it (`comm`), at most 64 bytes; empty where not known.
    pub program: Box<[u8]>,
    /// Groups what one login or one `mezzo run` did: the Unix session's number, or a name; at most 64 bytes; empty
    /// where not known.
    pub session: Box<[u8]>,
}

impl Who {
    /// Whether the group is one of theirs.
    pub fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}
