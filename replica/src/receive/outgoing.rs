//! Another log, as what is to be received: its records, and the data beside it.

use std::collections::HashSet;
use std::io;

use mezzo_core::tree::Tree;
use mezzo_core::{Change, DataVersion, Origin, Recno, Record};

use super::DataSource;
use super::Sought;
use crate::log::{LogError, Reader};
use crate::versions::{self, Source};

/// The records of a log that concern other replicas.
pub struct Outgoing {
    disabled: HashSet<Origin>,
}

impl Outgoing {
    /// Reads the whole log for what became of records later: one that was disabled is never sent. Also returns what the log
    /// describes at its end.
    pub fn of(log: &Reader) -> Result<(Outgoing, Tree), OutgoingError> {
        let mut disabled = HashSet::new();
        let mut tree = Tree::new();
        for record in log.from(Recno(1)) {
            let record = record?;
            if let Change::Disable { record, .. } = &record.change {
                disabled.insert(*record);
            }
            tree.apply(&record)?;
        }
        Ok((Outgoing { disabled }, tree))
    }

    /// Whether the record is sent.
    pub fn sends(&self, record: &Record) -> bool {
        crate::exchange::is_sent(record) && !self.disabled.contains(&record.origin)
    }
}

/// A log can't be read as one to be sent.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// It can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its records don't fit each other.
    #[error(transparent)]
    Mismatch(#[from] mezzo_core::tree::Mismatch),
}

/// The data beside a log: in its tree, and in its attic.
pub struct Beside {
    /// What the log describes at its end.
    pub tree: Tree,
    /// Where its data may be.
    pub source: Source,
}

impl DataSource for Beside {
    fn bring(&self, sought: &Sought<'_>) -> io::Result<bool> {
        let Sought { object, version, size, to, .. } = *sought;
        Ok(versions::copy(&self.tree, (object, version), size, &self.source, to)?.is_ok())
    }

    fn is_at_hand(&self, _: DataVersion) -> bool {
        true
    }
}
