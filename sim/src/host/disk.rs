//! What is on disk for sure, and what a power loss leaves of the rest.
//!
//! As journaling hosts have it (ext4 and xfs): changes of names and attributes become durable in their order, and whatever makes
//! one durable makes all before it durable. Bytes are on their own: those that were not made durable are there or not, block by
//! block, or torn at a sector; but a file grows only with the bytes that it grows by. Bytes are never newer than the times that go with
//! them: a host may write what replaces others before it commits the times, but then nothing tells of it, and nobody can know.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{BLOCK, Block, Data, Inode, SECTOR, State};
use crate::random::Random;

/// An inode for ever: its number and generation.
type Key = (u64, u64);

/// What is on disk for sure. Moments are counted in steps: moment 3 is when three steps are done.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Names and attributes are durable as they were at this moment, or a later one.
    committed: usize,
    files: Arc<BTreeMap<Key, File>>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// The bytes that were made durable.
    durable: Data,
    /// When.
    synced: usize,
    /// Since then, by the moment when it was done: bytes from here on are gone.
    cuts: Vec<(usize, u64)>,
    /// When its size became another.
    resized: usize,
}

fn key(inode: &Inode) -> Key {
    (inode.number, inode.generation)
}

impl Disk {
    /// Everything is durable at `moment`.
    pub fn all(state: &State, moment: usize) -> Disk {
        let mut files = BTreeMap::new();
        for inode in state.inodes() {
            if let Ok(data) = inode.data() {
                files.insert(key(inode), File { durable: data.clone(), synced: moment, ..File::default() });
            }
        }
        Disk { committed: moment, files: Arc::new(files) }
    }

    /// Names and attributes are durable.
    pub fn commit(&mut self, moment: usize) {
        self.committed = moment;
    }

    /// A file is durable; with `data_only` of its attributes only what its bytes need.
    pub fn sync(&mut self, inode: &Inode, data_only: bool, moment: usize) {
        let file = Arc::make_mut(&mut self.files).entry(key(inode)).or_default();
        if let Ok(data) = inode.data() {
            (file.durable, file.synced, file.cuts) = (data.clone(), moment, Vec::new());
        }
        self.committed = if data_only { self.committed.max(file.resized) } else { moment };
    }

    /// A file has another size from `moment` on, or is made then.
    pub fn resized(&mut self, inode: &Inode, moment: usize) {
        Arc::make_mut(&mut self.files).entry(key(inode)).or_default().resized = moment;
    }

    /// A file is cut to `size` at `moment`: what was behind that never comes back.
    pub fn cut(&mut self, inode: &Inode, size: u64, moment: usize) {
        let file = Arc::make_mut(&mut self.files).entry(key(inode)).or_default();
        file.cuts.push((moment, size));
        file.resized = moment;
    }

    /// What is left when power is lost at `moment`; `states` has the state of each moment.
    pub fn left<'s>(&self, states: &dyn Fn(usize) -> &'s State, moment: usize, random: &mut Random) -> State {
        // Now and then nothing came, or all did.
        let reached = match random.below(4) {
            0 => self.committed,
            1 => moment,
            _ => self.committed + random.below((moment - self.committed) as u64 + 1) as usize,
        };
        let (names, latest) = (states(reached), states(moment));
        let mut left = names.clone();
        let none = File::default();
        for inode in names.inodes() {
            let Ok(told) = inode.data() else { continue };
            let file = self.files.get(&key(inode)).unwrap_or(&none);
            let mut durable = file.durable.clone();
            file.cuts
                .iter()
                .filter(|(at, _)| *at <= reached)
                .for_each(|(_, size)| durable.resize(durable.size.min(*size)));
            // A mapping is written to without the times being moved.
            let latest = latest.inode(inode.number).ok().filter(|now| is_same_but_for_bytes(now, inode));
            let latest = latest.and_then(|now| now.data().ok()).unwrap_or(told);
            // Bytes may be durable of a later moment than names and attributes are.
            let told = if file.synced > reached { &durable } else { told };
            let data = mixed(&durable, told, latest, random);
            if let Ok(to) = left.inode_mut(inode.number).and_then(Inode::data_mut) {
                *to = data;
            }
        }
        left.without_nameless()
    }
}

fn is_same_but_for_bytes(one: &Inode, other: &Inode) -> bool {
    key(one) == key(other) && (one.mtime, one.ctime) == (other.mtime, other.ctime)
}

/// Bytes of a file of which some are `durable`, the attributes are those of `told`, and `latest` was written at last.
fn mixed(durable: &Data, told: &Data, latest: &Data, random: &mut Random) -> Data {
    if durable == told && told == latest {
        return told.clone();
    }
    let how = random.below(4);
    let mut data = Data { size: size(durable.size, told.size, how, random), blocks: BTreeMap::new() };
    let indexes = [durable, told, latest].into_iter().flat_map(|data| data.blocks.keys().copied());
    let indexes: std::collections::BTreeSet<u64> = indexes.collect();
    for index in indexes.into_iter().filter(|index| index * (BLOCK as u64) < data.size) {
        let (old, now, new) = (durable.block(index), told.block(index), latest.block(index));
        // What a file grew by has come with its size.
        let has_come = index * (BLOCK as u64) >= durable.size;
        let block = match how {
            0 if !has_come => old.clone(),
            0 | 1 => now.clone(),
            _ => match random.below(4) {
                0 => new.clone(),
                1 if !has_come => old.clone(),
                2 if !has_come => torn(old, new, random),
                _ => now.clone(),
            },
        };
        data.blocks.insert(index, block);
    }
    // Behind the end there is nothing.
    let size = data.size;
    data.clear(size, u64::MAX - size);
    data
}

/// The size of a file that told of another one: it grows with the bytes that come, in their order.
fn size(durable: u64, told: u64, how: u64, random: &mut Random) -> u64 {
    if told <= durable {
        return told;
    }
    match how {
        0 => durable,
        1 => told,
        _ => told
            .min((durable / BLOCK as u64 + random.below((told - durable) / BLOCK as u64 + 2)) * BLOCK as u64)
            .max(durable),
    }
}

fn torn(old: &Block, new: &Block, random: &mut Random) -> Block {
    let end = SECTOR * (1 + random.below((BLOCK / SECTOR) as u64 - 1) as usize);
    let mut block = (**new).to_owned();
    block[end..].copy_from_slice(&old[end..]);
    Arc::new(block)
}
