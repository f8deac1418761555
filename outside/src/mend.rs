//! Checksums and lengths made right, which nobody finds by chance: what they guard is reached only so. Layouts are those of
//! `docs/format.md`.

use mezzo_core::codec::{HEAD_BYTES, SEGMENT_HEAD_BYTES};

/// Bytes of the head of a version kept by ranges, and of each of its entries.
const RANGES_HEAD: usize = 96;
const RANGES_ENTRY: usize = 32;

/// The bytes as one frame.
pub(super) fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len();
    mend_frame(&mut bytes, length);
    bytes
}

/// The bytes as a segment, in which each frame is as long as its head says.
pub(super) fn segment(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(head) = bytes.get_mut(..SEGMENT_HEAD_BYTES) else { return bytes };
    head[..10].copy_from_slice(b"KML2\r\n\x1a\n\x02\0");
    head[12..16].copy_from_slice(&(SEGMENT_HEAD_BYTES as u32).to_le_bytes());
    seal(head);
    let mut rest = &mut bytes[SEGMENT_HEAD_BYTES..];
    while rest.len() > HEAD_BYTES {
        let length = (u32_at(rest, 4) as usize).clamp(HEAD_BYTES + 8, rest.len().max(HEAD_BYTES + 8));
        mend_frame(rest, length);
        rest = rest.get_mut(length..).unwrap_or_default();
    }
    bytes
}

fn mend_frame(bytes: &mut [u8], length: usize) {
    let Some(frame) = bytes.get_mut(..length).filter(|frame| frame.len() >= HEAD_BYTES + 8) else { return };
    frame[..4].copy_from_slice(b"KMLr");
    frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    frame[8] = 2;
    frame[length - 8..length - 4].copy_from_slice(&(length as u32).to_le_bytes());
    seal(&mut frame[..HEAD_BYTES]);
    seal(frame);
}

/// The bytes as an LML with an operation.
pub(super) fn lml(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() > 72 {
        bytes[..8].copy_from_slice(b"MZLML\x01\0\0");
        let length = (u32_at(&bytes, 64) as usize).min(bytes.len() - 72).min(4024);
        bytes[64..68].copy_from_slice(&(length as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[72..72 + length]);
        bytes[68..72].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// The bytes as inodes.
pub(super) fn inodes(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while let Some(length) = rest.first().map(|length| usize::from(*length) + 5) {
        let Some(entry) = rest.get_mut(..length) else { break };
        seal(entry);
        rest = &mut rest[length..];
    }
    bytes
}

/// The bytes as a version that is kept by ranges.
pub(super) fn ranges(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(head) = bytes.get_mut(..RANGES_HEAD) else { return bytes };
    head[..8].copy_from_slice(b"MZRNG\x01\0\0");
    seal(head);
    let mut rest = &mut bytes[RANGES_HEAD..];
    while rest.len() >= RANGES_ENTRY {
        let has_bytes = rest[16] == 1;
        let length = if has_bytes { u32_at(rest, 8) as usize } else { 0 };
        if let Some(data) = rest.get(RANGES_ENTRY..RANGES_ENTRY + length).filter(|_| has_bytes) {
            let checksum = crc32c::crc32c(data);
            rest[24..28].copy_from_slice(&checksum.to_le_bytes());
        }
        seal(&mut rest[..RANGES_ENTRY]);
        rest = rest.get_mut(RANGES_ENTRY + length..).unwrap_or_default();
    }
    bytes
}

/// The bytes as a message of the kernel.
pub(super) fn fuse(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len() as u32;
    if let Some(told) = bytes.first_chunk_mut() {
        *told = length.to_ne_bytes();
    }
    bytes
}

/// Puts the checksum of all bytes before into the last four.
fn seal(bytes: &mut [u8]) {
    if let Some((before, checksum)) = bytes.split_last_chunk_mut() {
        *checksum = crc32c::crc32c(before).to_le_bytes();
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
