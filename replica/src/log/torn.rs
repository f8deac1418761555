//! Cutting off what a crash left of the last record. No byte is lost: what is cut off is kept beside the segments.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mezzo_core::Recno;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::LogError;
use super::segment::{Directory, Segment};

/// How many torn tails may be kept of one place; a log that is torn there again and again has another problem.
const KEPT: u32 = 1000;

/// Keeps what `segment` has from byte `offset` on, then cuts it off. Both are durable when it returns. `next` is the
/// number that the record there would have had.
pub(super) fn cut(
    directory: &Directory,
    segment: &Segment,
    next: Recno,
    offset: u64,
) -> Result<PathBuf, LogError> {
    let kept = keep(directory, segment, next, offset)?;
    let cut = segment.file.set_len(offset).and_then(|()| segment.file.sync_all());
    cut.map_err(LogError::io("cut", &segment.path))?;
    Ok(kept)
}

fn keep(directory: &Directory, segment: &Segment, next: Recno, offset: u64) -> Result<PathBuf, LogError> {
    let (mut kept, path) = new_file(directory, next, offset)?;
    copy(&segment.file, offset, &mut kept).map_err(LogError::io("keep what was torn in", &path))?;
    directory.sync()?;
    Ok(path)
}

fn copy(from: &File, offset: u64, to: &mut File) -> std::io::Result<()> {
    let mut from = from;
    from.seek(SeekFrom::Start(offset))?;
    let mut block = vec![0; super::BLOCK_BYTES];
    loop {
        match from.read(&mut block)? {
            0 => return to.sync_all(),
            read => to.write_all(&block[..read])?,
        }
    }
}

/// A new file for it: a crash while cutting, or the next one, never overwrites what was kept.
fn new_file(directory: &Directory, next: Recno, offset: u64) -> Result<(File, PathBuf), LogError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let names = std::iter::once(format!("torn-{next}-{offset}"))
        .chain((2..=KEPT).map(|count| format!("torn-{next}-{offset}.{count}")));
    for name in names {
        let path = directory.path.join(&name);
        match rustix::fs::openat(directory.fd(), &name, flags, Mode::from_bits_retain(0o600)) {
            Err(Errno::EXIST) => {}
            opened => return opened.map(|fd| (File::from(fd), path.clone())).map_err(create_failed(&path)),
        }
    }
    Err(create_failed(&directory.path)(Errno::EXIST))
}

fn create_failed(path: &Path) -> impl FnOnce(Errno) -> LogError {
    LogError::io("create a file for what was torn,", path)
}
