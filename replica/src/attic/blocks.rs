//! Which blocks of a file are kept already.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes of a block: what file systems and page cache write at once.
pub(super) const BLOCK: u64 = 4096;

/// Blocks whose bits are held together: 16 MiB of a file. A file that is written everywhere costs a 32,768th of its size in
/// memory, and one that is written in few places next to nothing.
const GROUP: u64 = 4096;

/// A set of blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    count: u64,
    groups: HashMap<u64, Box<[u64; GROUP as usize / 64]>>,
}

impl Blocks {
    fn has(&self, block: u64) -> bool {
        let (group, bit) = (block / GROUP, block % GROUP);
        self.groups.get(&group).is_some_and(|bits| bits[bit as usize / 64] & 1 << (bit % 64) != 0)
    }

    /// Takes in all blocks that hold a byte of `bytes`.
    pub fn add(&mut self, bytes: Range<u64>) {
        for block in blocks_of(bytes) {
            let (group, bit) = (block / GROUP, block % GROUP);
            let bits = self.groups.entry(group).or_insert_with(|| Box::new([0; GROUP as usize / 64]));
            self.count += u64::from(bits[bit as usize / 64] & 1 << (bit % 64) == 0);
            bits[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether all blocks of a file of this size are in it, as no others are.
    pub fn are_all_of(&self, size: u64) -> bool {
        self.count == size.div_ceil(BLOCK)
    }

    /// The bytes of the first run of blocks that holds a byte of `bytes` and is not in the set: whole blocks, up to `longest`
    /// bytes of them. `None` where all are in it.
    pub fn missing(&self, bytes: Range<u64>, longest: u64) -> Option<Range<u64>> {
        let mut blocks = blocks_of(bytes);
        let first = blocks.find(|block| !self.has(*block))?;
        let most = (longest / BLOCK).max(1);
        let more = blocks.take_while(|block| block - first < most && !self.has(*block)).count() as u64;
        Some(first * BLOCK..(first + 1 + more) * BLOCK)
    }
}

fn blocks_of(bytes: Range<u64>) -> Range<u64> {
    if bytes.is_empty() { 0..0 } else { bytes.start / BLOCK..bytes.end.div_ceil(BLOCK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing() {
        let mut blocks = Blocks::default();
        blocks.add(2 * BLOCK..3 * BLOCK);
        blocks.add(GROUP * BLOCK - 1..GROUP * BLOCK + 1);
        let check = |bytes, longest, expected| {
            assert_eq!(blocks.missing(bytes, longest), expected);
        };
        check(0..0, u64::MAX, None);
        check(0..1, u64::MAX, Some(0..BLOCK));
        check(BLOCK - 1..BLOCK + 1, u64::MAX, Some(0..2 * BLOCK));
        check(0..10 * BLOCK, u64::MAX, Some(0..2 * BLOCK));
        check(0..10 * BLOCK, BLOCK, Some(0..BLOCK));
        check(2 * BLOCK..3 * BLOCK, u64::MAX, None);
        check(2 * BLOCK..10 * BLOCK, 3 * BLOCK, Some(3 * BLOCK..6 * BLOCK));
        check(
            (GROUP - 1) * BLOCK..(GROUP + 2) * BLOCK,
            u64::MAX,
            Some((GROUP + 1) * BLOCK..(GROUP + 2) * BLOCK),
        );
    }
    #[test]
    fn when_nothing_is_missing() {
        let mut blocks = Blocks::default();
        assert!(blocks.are_all_of(0) && !blocks.are_all_of(1));
        for _ in 0..2 {
            blocks.add(0..BLOCK + 1);
            assert!(
                blocks.are_all_of(2 * BLOCK)
                    && blocks.are_all_of(BLOCK + 1)
                    && !blocks.are_all_of(2 * BLOCK + 1)
            );
        }
    }
}
