//! A file system as a value: cheap to copy, so that every step of a run can be kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use mezzo_fuse::{Errno, SetTime, Setattr};

/// Bytes of a block. What a power loss leaves of data is decided block by block.
pub const BLOCK: usize = 4096;

/// Bytes that a disk writes whole: where a torn block ends.
pub const SECTOR: usize = 512;

/// The inode of the root directory.
pub const ROOT: u64 = mezzo_fuse::ROOT;

/// One block of a file.
pub type Block = Arc<[u8; BLOCK]>;

/// Seconds and nanoseconds since the epoch.
pub type Stamp = (i64, u32);

type Outcome<T> = Result<T, Errno>;

/// A whole file system.
#[derive(Clone, Debug)]
pub struct State {
    inodes: BTreeMap<u64, Arc<Inode>>,
    /// Numbers that nothing has any more, to be given out again.
    free: Vec<u64>,
    next: u64,
    /// The generation of the last inode that was made.
    generation: u64,
}

/// A file, directory, link or special file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub number: u64,
    /// Tells apart inodes that had the same number one after the other.
    pub generation: u64,
    pub born: Stamp,
    /// File type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Major and minor number of a special file.
    pub device: (u32, u32),
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub links: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
}

/// What an inode is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Data),
    Directory { entries: BTreeMap<Vec<u8>, u64>, parent: u64 },
    Symlink(Vec<u8>),
    Special,
}

/// A file's bytes. Where there is no block, they are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub size: u64,
    pub blocks: BTreeMap<u64, Block>,
}

/// Who makes something, and when.
#[derive(Clone, Copy, Debug)]
pub struct Maker {
    pub uid: u32,
    pub gid: u32,
    pub now: Stamp,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// File type and permission bits.
    pub mode: u32,
    pub device: (u32, u32),
    pub target: Vec<u8>,
}

impl Data {
    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut left = bytes;
        while !left.is_empty() {
            let (index, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let (now, rest) = left.split_at(left.len().min(BLOCK - within));
            let block = self.blocks.entry(index).or_insert_with(|| zeros().clone());
            if block[within..within + now.len()] != *now {
                Arc::make_mut(block)[within..within + now.len()].copy_from_slice(now);
            }
            at += now.len() as u64;
            left = rest;
        }
        self.size = self.size.max(at);
    }

    /// The bytes at `offset`, as many as there are of `length`.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut found = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let (index, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let count = ((end - at) as usize).min(BLOCK - within);
            found.extend_from_slice(&self.block(index)[within..within + count]);
            at += count as u64;
        }
        found
    }

    /// A block, with zeros where there is none.
    pub fn block(&self, index: u64) -> &Block {
        self.blocks.get(&index).unwrap_or_else(|| zeros())
    }

    /// Cuts it to `size`, or grows it with zeros.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.clear(size, u64::MAX - size);
        }
        self.size = size;
    }

    /// Makes zeros of `length` bytes at `offset`.
    pub fn clear(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let indexes: Vec<u64> = self
            .blocks
            .range(offset / BLOCK as u64..end.div_ceil(BLOCK as u64))
            .map(|(index, _)| *index)
            .collect();
        for index in indexes {
            let start = index * BLOCK as u64;
            let from = offset.saturating_sub(start).min(BLOCK as u64) as usize;
            let to = (end - start).min(BLOCK as u64) as usize;
            if (from, to) == (0, BLOCK) {
                self.blocks.remove(&index);
            } else if let Some(block) = self.blocks.get_mut(&index) {
                Arc::make_mut(block)[from..to].fill(0);
            }
        }
    }

    /// Where the next block is at or after `offset`, or the next hole; `None` behind the end, or where there is no more data.
    pub fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut at = offset;
        while at < self.size {
            if self.blocks.contains_key(&(at / BLOCK as u64)) != hole {
                return Some(at);
            }
            at = (at / BLOCK as u64 + 1) * BLOCK as u64;
        }
        hole.then_some(self.size)
    }
}

fn zeros() -> &'static Block {
    static ZEROS: std::sync::OnceLock<Block> = std::sync::OnceLock::new();
    ZEROS.get_or_init(|| Arc::new([0; BLOCK]))
}

impl Inode {
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    pub fn data(&self) -> Outcome<&Data> {
        match &self.body {
            Body::File(data) => Ok(data),
            Body::Directory { .. } => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub fn data_mut(&mut self) -> Outcome<&mut Data> {
        match &mut self.body {
            Body::File(data) => Ok(data),
            _ => Err(Errno::EINVAL),
        }
    }

    fn entries(&self) -> Outcome<&BTreeMap<Vec<u8>, u64>> {
        match &self.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn entries_mut(&mut self) -> Outcome<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn changed(&mut self, now: Stamp) {
        (self.mtime, self.ctime) = (now, now);
    }
}

impl State {
    /// A root directory and nothing in it.
    pub fn new(now: Stamp) -> State {
        let root = Inode {
            number: ROOT,
            generation: 0,
            born: now,
            mode: libc::S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            device: (0, 0),
            atime: now,
            mtime: now,
            ctime: now,
            links: 2,
            xattrs: BTreeMap::new(),
            body: Body::Directory { entries: BTreeMap::new(), parent: ROOT },
        };
        let inodes = BTreeMap::from([(ROOT, Arc::new(root))]);
        State { inodes, free: Vec::new(), next: ROOT + 1, generation: 0 }
    }

    pub fn inode(&self, number: u64) -> Outcome<&Arc<Inode>> {
        self.inodes.get(&number).ok_or(Errno::ESTALE)
    }

    pub fn inode_mut(&mut self, number: u64) -> Outcome<&mut Inode> {
        self.inodes.get_mut(&number).map(Arc::make_mut).ok_or(Errno::ESTALE)
    }

    /// All inodes, by their numbers.
    pub fn inodes(&self) -> impl Iterator<Item = &Arc<Inode>> {
        self.inodes.values()
    }

    pub fn lookup(&self, parent: u64, name: &[u8]) -> Outcome<u64> {
        let directory = self.inode(parent)?;
        match (name, &directory.body) {
            // Whoever follows a handle asks for these; what has no name is gone.
            (b".", _) => (directory.links > 0).then_some(parent).ok_or(Errno::ESTALE),
            (b"..", Body::Directory { parent, .. }) => Ok(*parent),
            _ => directory.entries()?.get(name).copied().ok_or(Errno::ENOENT),
        }
    }

    /// The inode at a path.
    pub fn find(&self, path: &[&[u8]]) -> Outcome<u64> {
        path.iter().try_fold(ROOT, |parent, name| self.lookup(parent, name))
    }

    /// Name, number and mode of each entry, with `.` and `..`.
    pub fn list(&self, number: u64) -> Outcome<Vec<(Vec<u8>, u64, u32)>> {
        let entries = self.inode(number)?.entries()?;
        let dots = [(b".".to_vec(), number), (b"..".to_vec(), self.lookup(number, b"..")?)];
        let entries = entries.iter().map(|(name, number)| (name.clone(), *number));
        dots.into_iter()
            .chain(entries)
            .map(|(name, number)| Ok((name, number, self.inode(number)?.mode)))
            .collect()
    }

    fn number(&mut self) -> u64 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        self.next += 1;
        self.next - 1
    }

    fn make_inode(&mut self, parent: Option<u64>, new: New, maker: Maker) -> u64 {
        let (number, now) = (self.number(), maker.now);
        self.generation += 1;
        let body = match new.mode & libc::S_IFMT {
            libc::S_IFREG => Body::File(Data::default()),
            libc::S_IFDIR => Body::Directory { entries: BTreeMap::new(), parent: parent.unwrap_or(ROOT) },
            libc::S_IFLNK => Body::Symlink(new.target),
            _ => Body::Special,
        };
        let links = match body {
            _ if parent.is_none() => 0,
            Body::Directory { .. } => 2,
            _ => 1,
        };
        let inode = Inode {
            number,
            generation: self.generation,
            born: now,
            mode: new.mode,
            uid: maker.uid,
            gid: maker.gid,
            device: new.device,
            atime: now,
            mtime: now,
            ctime: now,
            links,
            xattrs: BTreeMap::new(),
            body,
        };
        self.inodes.insert(number, Arc::new(inode));
        number
    }

    /// Makes something at a name.
    pub fn make(&mut self, parent: u64, name: &[u8], new: New, maker: Maker) -> Outcome<u64> {
        let directory = self.inode(parent)?;
        if directory.entries()?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let (mut new, mut maker) = (new, maker);
        let is_directory = new.mode & libc::S_IFMT == libc::S_IFDIR;
        if directory.mode & libc::S_ISGID != 0 {
            maker.gid = directory.gid;
            new.mode |= if is_directory { libc::S_ISGID } else { 0 };
        }
        let number = self.make_inode(Some(parent), new, maker);
        let directory = self.inode_mut(parent)?;
        directory.entries_mut()?.insert(name.to_vec(), number);
        directory.links += u32::from(is_directory);
        directory.changed(maker.now);
        Ok(number)
    }

    /// Makes a file without a name.
    pub fn make_unnamed(&mut self, mode: u32, maker: Maker) -> u64 {
        let mode = libc::S_IFREG | mode & 0o7777;
        self.make_inode(None, New { mode, device: (0, 0), target: Vec::new() }, maker)
    }

    pub fn link(&mut self, number: u64, parent: u64, name: &[u8], now: Stamp) -> Outcome<()> {
        if self.inode(number)?.is_directory() {
            return Err(Errno::EPERM);
        }
        if self.inode(parent)?.entries()?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let inode = self.inode_mut(number)?;
        inode.links += 1;
        inode.ctime = now;
        let directory = self.inode_mut(parent)?;
        directory.entries_mut()?.insert(name.to_vec(), number);
        directory.changed(now);
        Ok(())
    }

    /// Removes a name: an empty directory's with `directory`, else any other's.
    pub fn remove(&mut self, parent: u64, name: &[u8], directory: bool, now: Stamp) -> Outcome<()> {
        let number = self.lookup(parent, name)?;
        let inode = self.inode(number)?;
        match (directory, &inode.body) {
            (true, Body::Directory { entries, .. }) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
            (true, Body::Directory { .. }) => {}
            (true, _) => return Err(Errno::ENOTDIR),
            (false, Body::Directory { .. }) => return Err(Errno::EISDIR),
            (false, _) => {}
        }
        self.inode_mut(parent)?.entries_mut()?.remove(name);
        self.lose_name(number, parent, now)?;
        self.inode_mut(parent)?.changed(now);
        Ok(())
    }

    /// A name of `number` in `parent` is gone.
    fn lose_name(&mut self, number: u64, parent: u64, now: Stamp) -> Outcome<()> {
        let inode = self.inode_mut(number)?;
        inode.ctime = now;
        if inode.is_directory() {
            inode.links = 0;
            self.inode_mut(parent)?.links -= 1;
        } else {
            inode.links -= 1;
        }
        Ok(())
    }

    /// Renames as `renameat2` does.
    pub fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32, now: Stamp) -> Outcome<()> {
        let number = self.lookup(from.0, from.1)?;
        let target = match self.lookup(to.0, to.1) {
            Err(Errno::ENOENT) => None,
            target => Some(target?),
        };
        let is_directory = self.inode(number)?.is_directory();
        match (target, flags) {
            (Some(_), libc::RENAME_NOREPLACE) => return Err(Errno::EEXIST),
            (None, libc::RENAME_EXCHANGE) => return Err(Errno::ENOENT),
            (Some(target), _) if target == number => return Ok(()),
            (Some(target), 0) => {
                let target = self.inode(target)?;
                match (is_directory, &target.body) {
                    (true, Body::Directory { entries, .. }) if !entries.is_empty() => {
                        return Err(Errno::ENOTEMPTY);
                    }
                    (true, Body::Directory { .. }) => {}
                    (true, _) => return Err(Errno::ENOTDIR),
                    (false, Body::Directory { .. }) => return Err(Errno::EISDIR),
                    (false, _) => {}
                }
            }
            (_, 0 | libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) => {}
            _ => return Err(Errno::EINVAL),
        }
        let moves = [(number, to.0)]
            .into_iter()
            .chain(target.filter(|_| flags == libc::RENAME_EXCHANGE).map(|t| (t, from.0)));
        if moves.clone().any(|(moved, into)| self.is_below(into, moved)) {
            return Err(Errno::EINVAL);
        }
        let moves: Vec<_> = moves.collect();
        self.inode_mut(from.0)?.entries_mut()?.remove(from.1);
        if let Some(target) = target {
            if flags == libc::RENAME_EXCHANGE {
                self.inode_mut(from.0)?.entries_mut()?.insert(from.1.to_vec(), target);
            } else {
                self.lose_name(target, to.0, now)?;
            }
        }
        self.inode_mut(to.0)?.entries_mut()?.insert(to.1.to_vec(), number);
        for (moved, into) in moves {
            let inode = self.inode_mut(moved)?;
            inode.ctime = now;
            if let Body::Directory { parent, .. } = &mut inode.body {
                let before = std::mem::replace(parent, into);
                self.inode_mut(before)?.links -= 1;
                self.inode_mut(into)?.links += 1;
            }
        }
        self.inode_mut(from.0)?.changed(now);
        self.inode_mut(to.0)?.changed(now);
        Ok(())
    }

    /// Whether `number` is the directory `above`, or below it.
    fn is_below(&self, number: u64, above: u64) -> bool {
        let mut at = number;
        loop {
            if at == above {
                return true;
            }
            match self.lookup(at, b"..") {
                Ok(parent) if parent != at => at = parent,
                _ => return false,
            }
        }
    }

    pub fn set_attributes(&mut self, number: u64, set: &Setattr, now: Stamp) -> Outcome<()> {
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At { seconds, nanoseconds } => (seconds, nanoseconds),
        };
        let inode = self.inode_mut(number)?;
        if let Some(size) = set.size {
            let data = inode.data_mut()?;
            if data.size != size {
                data.resize(size);
                inode.mtime = now;
            }
        }
        if let Some(mode) = set.mode {
            inode.mode = inode.mode & libc::S_IFMT | mode & 0o7777;
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.atime = set.atime.map_or(inode.atime, at);
        inode.mtime = set.mtime.map_or(inode.mtime, at);
        inode.ctime = now;
        Ok(())
    }

    pub fn write(&mut self, number: u64, offset: u64, bytes: &[u8], now: Stamp) -> Outcome<()> {
        let inode = self.inode_mut(number)?;
        inode.data_mut()?.write(offset, bytes);
        inode.changed(now);
        Ok(())
    }

    pub fn allocate(
        &mut self,
        number: u64,
        (offset, length): (u64, u64),
        mode: u32,
        now: Stamp,
    ) -> Outcome<()> {
        const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
        const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32 | KEEP;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let inode = self.inode_mut(number)?;
        let data = inode.data_mut()?;
        match mode {
            0 => data.size = data.size.max(end),
            // Room is not counted here.
            KEEP => {}
            PUNCH => data.clear(offset, length),
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if mode == KEEP {
            inode.ctime = now;
        } else {
            inode.changed(now);
        }
        Ok(())
    }

    pub fn set_xattr(
        &mut self,
        number: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        now: Stamp,
    ) -> Outcome<()> {
        let inode = self.inode_mut(number)?;
        match (inode.xattrs.contains_key(name), flags as i32) {
            (true, libc::XATTR_CREATE) => return Err(Errno::EEXIST),
            (false, libc::XATTR_REPLACE) => return Err(Errno::ENODATA),
            _ => {}
        }
        inode.xattrs.insert(name.to_vec(), value.to_vec());
        inode.ctime = now;
        Ok(())
    }

    pub fn remove_xattr(&mut self, number: u64, name: &[u8], now: Stamp) -> Outcome<()> {
        let inode = self.inode_mut(number)?;
        inode.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        inode.ctime = now;
        Ok(())
    }

    /// As it is found when it is mounted anew: what has no name is gone, and its number is given out again.
    pub fn without_nameless(mut self) -> State {
        let gone: Vec<u64> =
            self.inodes.values().filter(|inode| inode.links == 0).map(|inode| inode.number).collect();
        for number in gone {
            self.inodes.remove(&number);
        }
        self.free = (ROOT + 1..self.next).rev().filter(|number| !self.inodes.contains_key(number)).collect();
        self
    }

    /// Something that another state has not as this one, the times of some inodes apart.
    pub fn difference(&self, other: &State, timeless: &[u64]) -> Option<String> {
        let numbers: std::collections::BTreeSet<u64> =
            self.inodes.keys().chain(other.inodes.keys()).copied().collect();
        numbers.into_iter().find_map(|number| match (self.inode(number), other.inode(number)) {
            (Ok(one), Ok(other)) => one.difference(other, timeless.contains(&number)),
            (one, _) => Some(format!(
                "inode {number} is only in the {}",
                if one.is_ok() { "first" } else { "second" }
            )),
        })
    }
}

impl Inode {
    fn difference(&self, other: &Inode, is_timeless: bool) -> Option<String> {
        let mut one = self.clone();
        if is_timeless {
            (one.atime, one.mtime, one.ctime) = (other.atime, other.mtime, other.ctime);
        }
        if let (Body::File(one), Body::File(other)) = (&one.body, &other.body)
            && let Some(index) =
                (0..one.size.div_ceil(BLOCK as u64)).find(|at| one.block(*at) != other.block(*at))
        {
            return Some(format!("block {index} of inode {} differs", self.number));
        }
        let told = |inode: &Inode| {
            let size = inode.data().map_or(0, |data| data.size);
            let entries = inode.entries().cloned().unwrap_or_default();
            format!("{:?}", (Inode { body: Body::Special, ..inode.clone() }, size, entries))
        };
        let (one, other) = (told(&one), told(other));
        (one != other).then(|| format!("{one} and {other}"))
    }
}
