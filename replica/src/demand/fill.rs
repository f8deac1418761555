//! Bringing the bytes of one file, and putting them into it.
//!
//! The object's inode stays the one that it is. Its marks say that it has no bytes until all are there and durable, so that
//! whenever the program or the machine ends, it is absent or whole. The order is held before and after the copy, and not
//! meanwhile; who empties the file meanwhile ends the copy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::id::DataVersion;
use mezzo_core::{Digest, Kind, ObjectId};
use rustix::fs::OFlags;

use super::queue::Filling;
use super::{FetchError, Stop, Urgency, Wanted};
use crate::Error;
use crate::host::now;
use crate::host::{self, xattr};
use crate::index::{Entry, Lacking};
use crate::meet::is_inode_of;
use crate::reintegrate::finish_but_data;
use crate::replica::Replica;
use crate::verify::digest_of;

/// Bytes that are copied between two looks at whether to go on: some milliseconds.
const COPIED_AT_ONCE: u64 = 4 << 20;

/// Times that a fetch begins again because the file got a newer version meanwhile.
const TRIES: usize = 8;

/// How long one waits who finds the file open for writing: by somebody who is about to empty it, for a moment.
const WRITER: Duration = Duration::from_millis(5);

/// Times that this is waited for.
const WRITER_TRIES: usize = 2000;

/// What came of putting bytes into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It has them.
    Done,
    /// It needs them no more: it has others, or is gone.
    Overtaken,
    /// Somebody has it open for writing.
    Written,
    /// Somebody empties it, or nobody waits any more.
    Stopped,
}

impl Replica {
    /// Brings the bytes of `object`, where it lacks any.
    pub(super) fn fetch(&self, object: ObjectId, urgency: Urgency, stop: &Stop) -> Result<(), FetchError> {
        for _ in 0..TRIES {
            let Some(entry) = self.index.entry(object)?.filter(|entry| entry.lost) else { return Ok(()) };
            match self.fetch_version(&entry, urgency, stop) {
                Err(FetchError::Superseded(why)) => {
                    let now = self.index.entry(object)?;
                    if now.is_some_and(|now| now.lost && now.version() == entry.version()) {
                        return Err(FetchError::Superseded(why));
                    }
                }
                Ok(Put::Done | Put::Overtaken) => {}
                Ok(Put::Written | Put::Stopped) => return Err(FetchError::Stopped),
                // It takes as much twice until it is in its place.
                Err(FetchError::NoRoom(_)) if self.evict_for(2 * entry.attributes().size)? => {}
                Err(error) => return Err(error),
            }
        }
        Err(FetchError::Superseded("newer ones are made again and again".to_owned()))
    }

    /// Removes what came of versions that nobody needs any more.
    pub(crate) fn tidy_partials(&self) -> Result<(), Error> {
        let is_needed = |object, version| {
            let entry = self.index.entry(object).ok().flatten();
            entry.is_some_and(|entry| entry.lost && entry.version() == Some(version))
        };
        let may_come = |version: DataVersion| !self.index.has_heard(version.0);
        Ok(self.demand.partials().keep_only(is_needed, may_come, now().seconds)?)
    }

    fn fetch_version(&self, entry: &Entry, urgency: Urgency, stop: &Stop) -> Result<Put, FetchError> {
        let (object, size) = (entry.object, entry.attributes().size);
        let Some(data) = entry.state.data else { return Ok(Put::Overtaken) };
        let upstream = self.demand.upstream().ok_or(FetchError::NoUpstream)?;
        let _claim = self.demand.claim(object);
        let partial = self.demand.partials().begin(object, data.version)?;
        let to = partial.file.as_fd();
        let is_partial = partial.is_partial;
        let wanted = Wanted {
            object,
            version: data.version,
            size,
            digest: data.digest,
            to,
            is_partial,
            urgency,
            stop,
        };
        let fetched = upstream.fetch(&wanted).and_then(|()| match is_whole(to, size, data.digest)? {
            true => Ok(()),
            false => Err(FetchError::Failed(damaged())),
        });
        let put = fetched.and_then(|()| self.put_waiting((object, data.version), size, to, stop));
        // What is left of a cut is gone on with. What is wrong, and what takes room that is wanted, is not kept.
        let is_kept = match &put {
            Ok(put) => *put == Put::Stopped,
            Err(FetchError::NoRoom(_) | FetchError::Superseded(_) | FetchError::Failed(_)) => false,
            Err(_) => true,
        };
        if !is_kept {
            self.demand.partials().end(object, data.version)?;
        }
        put
    }

    /// Puts the bytes into the file as soon as nobody has it open for writing.
    fn put_waiting(
        &self,
        at: (ObjectId, DataVersion),
        size: u64,
        from: BorrowedFd<'_>,
        stop: &Stop,
    ) -> Result<Put, FetchError> {
        for _ in 0..WRITER_TRIES {
            let put = self.put_bytes(at, size, from, stop)?;
            if put == Put::Done {
                self.settle_put(at)?;
                return Ok(put);
            }
            if put != Put::Written || stop.wait(WRITER) {
                return Ok(put);
            }
        }
        Ok(Put::Stopped)
    }

    /// Puts the bytes of a version into its file, which keeps its marks: they are taken away by [`Replica::settle_put`], once the
    /// bytes are durable.
    pub(crate) fn put_bytes(
        &self,
        (object, version): (ObjectId, DataVersion),
        size: u64,
        from: BorrowedFd<'_>,
        stop: &Stop,
    ) -> Result<Put, Error> {
        let (filling, to) = match self.begin_put(object, version, size)? {
            Ok(begun) => begun,
            Err(put) => return Ok(put),
        };
        let is_ended = || filling.is_ended() || stop.is_stopped();
        let copied = host::with_set_id_rights(true, || copy(from, to.as_fd(), size, is_ended));
        let synced = copied.and_then(|is_whole| {
            if is_whole {
                rustix::fs::fdatasync(&to)?;
            }
            Ok(is_whole)
        });
        // Whatever came of it, it looks as before.
        let order = self.begin_when_full()?;
        let entry = self.index.entry(object)?;
        let is_same = |entry: &Arc<Entry>| is_inode_of_fd(entry, to.as_fd());
        if let Some(entry) = entry.filter(|entry| entry.version() == Some(version) && is_same(entry)) {
            // A write takes capabilities away.
            host::with_set_id_rights(true, || finish_but_data(to.as_fd(), &entry.state, true))?;
            self.index.met(object, None, host::stat(to.as_fd())?.attributes.ctime)?;
        }
        drop(filling);
        drop(order);
        Ok(if synced? { Put::Done } else { Put::Stopped })
    }

    /// Makes the file ready for its bytes, and notes that they are being put into it.
    fn begin_put(
        &self,
        object: ObjectId,
        version: DataVersion,
        size: u64,
    ) -> Result<Result<(Filling<'_>, OwnedFd), Put>, Error> {
        let mut order = self.begin()?;
        let Some(entry) = self.index.entry(object)?.filter(|entry| entry.lost) else {
            return Ok(Err(Put::Overtaken));
        };
        if self.opens.writers(object) > 0 {
            return Ok(Err(Put::Written));
        }
        if entry.version() != Some(version) || entry.attributes().kind != Kind::File {
            return Ok(Err(Put::Overtaken));
        }
        let (met, reach) = self.reach_in_order(&mut order, object)?;
        if !met.entry.lost || met.entry.version() != Some(version) {
            return Ok(Err(Put::Overtaken));
        }
        let to = host::reopen(reach.as_fd(), OFlags::RDWR)?;
        // From here on nobody takes for a change what is done to it.
        let filling = self.demand.begin_filling(object);
        xattr::mark_filling(reach.as_fd())?;
        // What a power loss or an earlier attempt left is longer, or has bytes where these have none.
        if host::stat(to.as_fd())?.attributes.size != size {
            host::set_size(to.as_fd(), size)?;
        }
        host::with_set_id_rights(true, || host::clear(to.as_fd(), 0, size))?;
        self.index.met(object, None, host::stat(to.as_fd())?.attributes.ctime)?;
        Ok(Ok((filling, to)))
    }

    /// The file has its bytes, durably: whoever asks may have them.
    pub(crate) fn settle_put(&self, (object, version): (ObjectId, DataVersion)) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        if self.index.entry(object)?.is_none() {
            return Ok(());
        }
        let (met, reach) = self.reach_in_order(&mut order, object)?;
        if met.entry.lost && met.entry.version() == Some(version) {
            xattr::mark_lost(reach.as_fd(), None)?;
            self.index.met(object, None, host::stat(reach.as_fd())?.attributes.ctime)?;
            self.index.set_lacking(object, Lacking::Nothing)?;
            self.outdated.add_object(object);
        }
        Ok(())
    }
}

fn damaged() -> Error {
    Error::Host(io::Error::new(io::ErrorKind::InvalidData, "what came is not what the log tells of"))
}

fn is_inode_of_fd(entry: &Entry, fd: BorrowedFd<'_>) -> bool {
    host::stat(fd).is_ok_and(|stat| is_inode_of(entry, &stat))
}

/// Copies `size` bytes; false where `is_ended` says to stop.
fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    is_ended: impl Fn() -> bool,
) -> io::Result<bool> {
    if host::reflink(from, to).is_ok() {
        return Ok(true);
    }
    let mut at = 0;
    while at < size {
        if is_ended() {
            return Ok(false);
        }
        let length = COPIED_AT_ONCE.min(size - at);
        host::copy_range(from, to, at, length)?;
        at += length;
    }
    Ok(true)
}

/// Whether what was brought is what was told of.
pub(crate) fn is_whole(file: BorrowedFd<'_>, size: u64, digest: Option<Digest>) -> io::Result<bool> {
    if host::stat(file)?.attributes.size != size {
        return Ok(false);
    }
    match digest {
        Some(digest) => Ok(digest_of(&host::reopen(file, OFlags::RDONLY)?)? == digest),
        None => Ok(true),
    }
}
