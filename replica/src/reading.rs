//! A version of a file's data, read where it is while others may write to the file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use mezzo_core::{Attributes, DataVersion, ObjectId, Time};

use crate::Error;
use crate::host;
use crate::replica::Replica;
use crate::versions::Had;

/// Times that it is looked for anew where it was changed while it was read.
const TRIES: usize = 8;

/// What file systems share between files begins and ends at a multiple of this.
const BLOCK: u64 = 4096;

const BUSY: &str = "it is written again and again";

/// One version of a file's data: what is read of it is never of another.
///
/// It is read in the file that has it, without a copy, and each time it is looked afterwards whether that is as it was before.
/// Where it is not, the attic has the version, or it is gone.
pub struct Reading<'a> {
    of: Option<(&'a Replica, ObjectId, DataVersion)>,
    size: u64,
    file: File,
    /// What the file looked like; `None` where nobody can change it.
    before: Option<Look>,
}

/// How a file stands that others may change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    size: u64,
    mtime: Time,
    ctime: Time,
    /// The attic has the version, which it does before somebody can write to the file.
    is_kept: bool,
}

impl Replica {
    /// A version of a file's data, where this replica has it. Its `size` is that of the file that has it where it is not told;
    /// then it must be in one.
    pub fn reading(
        &self,
        object: ObjectId,
        version: DataVersion,
        size: Option<u64>,
    ) -> Result<Had<Reading<'_>>, Error> {
        let of = Some((self, object, version));
        Ok(find((self, object, version), size)?.map(|(size, file, before)| Reading {
            of,
            size,
            file,
            before,
        }))
    }
}

impl<'a> Reading<'a> {
    /// All of a file that nobody changes.
    pub fn of(file: File) -> Reading<'a> {
        let size = file.metadata().map_or(0, |data| data.len());
        Reading { of: None, size, file, before: None }
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` with the bytes at `at`, all of which it must have.
    pub fn read_at(&mut self, buffer: &mut [u8], at: u64) -> Result<Had<()>, Error> {
        self.unchanged(|file| file.read_exact_at(buffer, at))
    }

    /// Where the next bytes are that are no hole, at or after `at`; `None` where only a hole is left.
    pub fn next_data(&mut self, at: u64) -> Result<Had<Option<u64>>, Error> {
        self.unchanged(|file| host::next_data(file.as_fd(), at))
    }

    /// Where the bytes that `at` is in end.
    pub fn next_hole(&mut self, at: u64) -> Result<Had<u64>, Error> {
        let size = self.size;
        self.unchanged(|file| host::next_hole(file.as_fd(), at, size))
    }

    /// Copies `length` bytes at `at` to byte `to_at` of `to`, sharing them where the host can and they stand at the same place of
    /// their blocks.
    pub fn copy_to(
        &mut self,
        to: BorrowedFd<'_>,
        (at, to_at): (u64, u64),
        length: u64,
    ) -> Result<Had<()>, Error> {
        let end = at + length;
        let (first, last) = (at.next_multiple_of(BLOCK), end - end % BLOCK);
        let parts = match at % BLOCK == to_at % BLOCK && first < last {
            true => [at..first, first..last, last..end],
            false => [at..end, end..end, end..end],
        };
        self.unchanged(|file| {
            parts.iter().filter(|part| !part.is_empty()).try_for_each(|part| {
                let to_place = to_at + (part.start - at);
                host::copy_bytes_to(file.as_fd(), to, (part.start, to_place), part.end - part.start)
            })
        })
    }

    /// Does `read` with a file that has the version before and after.
    fn unchanged<T>(&mut self, mut read: impl FnMut(&File) -> io::Result<T>) -> Result<Had<T>, Error> {
        for _ in 0..TRIES {
            let came = read(&self.file);
            if self.before.is_none() || self.before == Some(self.look()?) {
                return Ok(Ok(came?));
            }
            let Some(of) = self.of else { break };
            match find(of, Some(self.size))? {
                Ok((_, file, before)) => (self.file, self.before) = (file, before),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Err(BUSY))
    }

    fn look(&self) -> Result<Look, Error> {
        self.of.map_or_else(
            || Look::at(&self.file, false),
            |(replica, _, version)| Look::at(&self.file, replica.has_in_attic(version)),
        )
    }
}

impl Look {
    fn at(file: &File, is_kept: bool) -> Result<Look, Error> {
        let Attributes { size, mtime, ctime, .. } = host::stat(file.as_fd())?.attributes;
        Ok(Look { size, mtime, ctime, is_kept })
    }
}

/// Where a version is: its size, a file that has it, and how that looks where others may change it.
fn find(
    (replica, object, version): (&Replica, ObjectId, DataVersion),
    size: Option<u64>,
) -> Result<Had<(u64, File, Option<Look>)>, Error> {
    let mut seen = None;
    for _ in 0..TRIES {
        let file: File = match (replica.open_data_of(object, version)?, size) {
            (Ok(Some(file)), _) => file.into(),
            (Ok(None), Some(size)) => {
                let copy = replica.open_version(object, version, size)?;
                return Ok(copy.map(|copy| (size, copy.into(), None)));
            }
            (Ok(None), None) => return Ok(Err("it is kept in parts")),
            (Err(why), _) => return Ok(Err(why)),
        };
        let look = Look::at(&file, replica.has_in_attic(version))?;
        // That the file has the version was told by how it looked before it was looked at here.
        if seen.replace(look) != Some(look) {
            continue;
        }
        return Ok(match size.is_none_or(|size| size == look.size) {
            true => Ok((look.size, file, Some(look))),
            false => Err("what is kept of it is damaged"),
        });
    }
    Ok(Err(BUSY))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_are_copied_to_other_places_of_other_files() {
        let mut from = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        from.write_all(&bytes).unwrap();
        for (at, to_at, length) in [(0, 0, 50_000), (1, 1, 49_000), (5000, 904, 20_000), (7, 12_288, 30_000)]
        {
            let to = tempfile::tempfile().unwrap();
            let mut reading = Reading::of(from.try_clone().unwrap());
            reading.copy_to(to.as_fd(), (at, to_at), length).unwrap().unwrap();
            let mut found = vec![0; length as usize];
            to.read_exact_at(&mut found, to_at).unwrap();
            assert!(found == bytes[at as usize..(at + length) as usize], "{at} to {to_at}");
        }
    }
}
