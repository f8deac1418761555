//! What a process has written into shared mappings of files, and the file system has not got yet. A kill leaves it in the page
//! cache, which brings it to the file system some time; a power loss may or may not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a mapping that are looked at: the note of an operation, and those of the first files that are open for writing. A
/// history has few.
const BYTES: usize = 8192;

/// For each file that is mapped shared, by its inode, its first bytes.
#[derive(Clone, Debug, Default)]
pub struct Mapped(pub Arc<Vec<(u64, Vec<u8>)>>);

/// What the process has mapped writable, of the LMLs. It must be waiting for an answer of the host, so that it changes nothing. The
/// kernel holds pages of a file that the process is writing to with a system call: that one, `written`, is left out.
pub fn mapped(process: i32, written: Option<u64>) -> Mapped {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let Ok(memory) = File::open(format!("/proc/{process}/mem")) else { return Mapped::default() };
    let lmls = maps.lines().filter(|line| line.ends_with("/lml"));
    let found = lmls.filter_map(|line| {
        // Addresses, access, offset, device, inode, path.
        let mut fields = line.split_whitespace();
        let (start, _) = fields.next()?.split_once('-')?;
        let (access, inode) = (fields.next()?, fields.nth(2)?);
        if !access.ends_with('s') {
            return None;
        }
        let inode = inode.parse().ok().filter(|inode| Some(*inode) != written)?;
        let mut bytes = vec![0; BYTES];
        memory.read_exact_at(&mut bytes, u64::from_str_radix(start, 16).ok()?).ok()?;
        Some((inode, bytes))
    });
    Mapped(Arc::new(found.collect()))
}

impl Mapped {
    /// Takes the bytes of `inode` from what was there `before`.
    pub fn keep(&mut self, inode: u64, before: &Mapped) {
        let kept = before.0.iter().find(|(kept, _)| *kept == inode);
        Arc::make_mut(&mut self.0).extend(kept.cloned());
    }

    /// What is mapped is the file: bytes that are written to it are in it.
    pub fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) {
        if offset >= BYTES as u64 || !self.0.iter().any(|(mapped, _)| *mapped == inode) {
            return;
        }
        for (_, mapped) in Arc::make_mut(&mut self.0).iter_mut().filter(|(mapped, _)| *mapped == inode) {
            let room = &mut mapped[offset as usize..];
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
        }
    }
}
