//! A version that is kept by ranges, put together for undo.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mezzo_core::ObjectId;
use mezzo_core::id::DataVersion;
use rustix::fs::OFlags;

use super::ranges::{ChainEnd, chain, restore};
use super::{Form, UNFINISHED};
use crate::Error;
use crate::host;
use crate::replica::Replica;

impl Replica {
    /// Whether the attic has the object's version, or what leads to it.
    pub(crate) fn can_be_had(&self, object: ObjectId, version: DataVersion) -> Result<bool, Error> {
        if self.attic.has_form(version, Form::Whole) {
            return Ok(true);
        }
        let chain = chain(&self.fileset().own_path("attic"), version)?;
        Ok(match chain.end {
            ChainEnd::Kept(_) | ChainEnd::Nothing | ChainEnd::File { .. } => true,
            ChainEnd::Version(newest) => {
                let entry = self.index.entry(object)?;
                !chain.ranges.is_empty()
                    && entry.is_some_and(|entry| entry.version() == Some(newest) && !entry.lost)
            }
        })
    }

    /// Makes a file of all the data of a version that is kept by ranges. The caller holds the order.
    pub(crate) fn make_whole(&self, object: ObjectId, version: DataVersion) -> Result<(), Error> {
        if self.attic.has_form(version, Form::Whole) || !self.attic.has_form(version, Form::Ranges) {
            return Ok(());
        }
        let missing = || Error::Undo(format!("version {version} of {object} is not kept as a whole"));
        let chain = chain(&self.fileset().own_path("attic"), version)?;
        let size = self.attic.size_by_ranges(version)?.ok_or_else(missing)?;
        let base: Option<OwnedFd> = match &chain.end {
            ChainEnd::Nothing => None,
            ChainEnd::Kept(path) => Some(host::open_regular(path)?.into()),
            ChainEnd::File { .. } => Some(self.open_data(object, OFlags::RDONLY)?),
            ChainEnd::Version(newest) if self.entry(object)?.version() == Some(*newest) => {
                Some(self.open_data(object, OFlags::RDONLY)?)
            }
            ChainEnd::Version(_) => return Err(missing()),
        };
        let attic = self.attic.directory.as_fd();
        let to = self.attic.begin_unfinished()?;
        if let Some(base) = &base {
            host::copy_range(base.as_fd(), to.as_fd(), 0, size)?;
        }
        for path in chain.ranges.iter().rev() {
            if !restore(path, to.as_fd(), size)? {
                return Err(missing());
            }
        }
        host::set_size(to.as_fd(), size)?;
        rustix::fs::renameat(attic, UNFINISHED, attic, Form::Whole.name(version))?;
        self.attic.layers.forget(version);
        for form in [Form::Ranges, Form::Removed] {
            match host::unlink(attic, &form.as_name(version), false) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(self.index.resize_kept(version, size)?)
    }
}
