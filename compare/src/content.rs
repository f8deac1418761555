//! The bytes of two files.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};

use crate::both::Both;
use crate::trouble::{Side, Trouble};

/// Files up to this size are read in full. A larger one is read only where at least one of the two has data, so
/// that a file of a terabyte with a few bytes in it is compared at once; for small ones nothing needs to be
/// believed about holes.
const READ_HOLES_UP_TO_BYTES: u64 = 64 << 20;

/// One read; larger ones are not faster.
const BUFFER_BYTES: usize = 256 << 10;

/// The first byte in which two files differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) offset: u64,
    pub(crate) bytes: Both<u8>,
}

/// Room for reading, used for one pair of files after the other.
#[derive(Debug)]
pub(crate) struct Buffers(Both<Vec<u8>>);

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers(Both { a: vec![0; BUFFER_BYTES], b: vec![0; BUFFER_BYTES] })
    }
}

/// Compares two files that are `size` bytes long.
pub(crate) fn first_mismatch(
    files: &Both<OwnedFd>,
    size: u64,
    path: &[u8],
    buffers: &mut Buffers,
) -> Result<Option<Mismatch>, Trouble> {
    let mut offset = 0;
    while offset < size {
        let (start, end) = if size <= READ_HOLES_UP_TO_BYTES {
            (offset, size)
        } else {
            match next_data(files, offset, path)? {
                Some((start, end)) => (start, end.min(size)),
                None => return Ok(None),
            }
        };
        if let Some(mismatch) = compare_range(files, start, end, path, buffers)? {
            return Ok(Some(mismatch));
        }
        offset = end;
    }
    Ok(None)
}

/// The next range from `offset` on that is data in at least one of the files, where one of them says so.
fn next_data(files: &Both<OwnedFd>, offset: u64, path: &[u8]) -> Result<Option<(u64, u64)>, Trouble> {
    let data = Both::try_each(|side| seek_in(side, files, SeekFrom::Data(offset), path))?;
    let Some(start) = data.a.into_iter().chain(data.b).min() else { return Ok(None) };
    let hole = Both::try_each(|side| seek_in(side, files, SeekFrom::Hole(start), path))?;
    let end = hole.a.into_iter().chain(hole.b).max();
    // A file that has data at `start` ends that data somewhere: at its own end, if not before.
    match end.filter(|end| *end > start && start >= offset) {
        Some(end) => Ok(Some((start, end))),
        None => Err(Trouble::changed(Side::A, path)),
    }
}

fn seek_in(side: Side, files: &Both<OwnedFd>, place: SeekFrom, path: &[u8]) -> Result<Option<u64>, Trouble> {
    match seek(files.of(side), place) {
        Ok(offset) => Ok(Some(offset)),
        // There is none from here to the end.
        Err(Errno::NXIO) => Ok(None),
        Err(cause) => Err(Trouble::io("find the data of", side, path, cause)),
    }
}

fn compare_range(
    files: &Both<OwnedFd>,
    start: u64,
    end: u64,
    path: &[u8],
    buffers: &mut Buffers,
) -> Result<Option<Mismatch>, Trouble> {
    let Buffers(Both { a, b }) = buffers;
    let mut offset = start;
    while offset < end {
        let length = (end - offset).min(BUFFER_BYTES as u64) as usize;
        let (a, b) = (&mut a[..length], &mut b[..length]);
        read_fully(Side::A, files, offset, a, path)?;
        read_fully(Side::B, files, offset, b, path)?;
        // Comparing slices is much faster than looking for the place, which is needed rarely.
        if a != b {
            let at = a.iter().zip(b.iter()).position(|(a, b)| a != b).expect("the slices differ");
            return Ok(Some(Mismatch { offset: offset + at as u64, bytes: Both { a: a[at], b: b[at] } }));
        }
        offset += length as u64;
    }
    Ok(None)
}

fn read_fully(
    side: Side,
    files: &Both<OwnedFd>,
    offset: u64,
    mut buffer: &mut [u8],
    path: &[u8],
) -> Result<(), Trouble> {
    let mut offset = offset;
    while !buffer.is_empty() {
        match pread(files.of(side), &mut *buffer, offset) {
            // It is shorter than its size said.
            Ok(0) => return Err(Trouble::changed(side, path)),
            Ok(length) => {
                offset += length as u64;
                buffer = &mut buffer[length..];
            }
            Err(Errno::INTR) => {}
            Err(cause) => return Err(Trouble::io("read", side, path, cause)),
        }
    }
    Ok(())
}
