//! How records are shown: a line each, a sheet of all that one says, or JSON.

pub mod clock;
mod columns;
mod detail;
mod difference;
pub mod json;
mod kept;
mod line;
#[cfg(test)]
pub mod samples;
mod sheet;
pub mod told;
pub mod users;

use jiff::tz::TimeZone;
use mezzo_core::{Origin, ReplicaId};

pub use columns::columns;
pub use difference::difference;
pub use kept::Kept;
pub use line::{Table, author, row};
pub use sheet::sheet;
use users::Users;

/// Whom records are shown to.
#[derive(Debug)]
pub struct View {
    /// Where times are told.
    pub zone: TimeZone,
    /// The replica whose log it is: its records are known by their numbers.
    pub here: ReplicaId,
    users: Users,
}

impl View {
    /// Times in `zone`, and records that were made on `here` by their numbers.
    pub fn new(zone: TimeZone, here: ReplicaId) -> View {
        View { zone, here, users: Users::default() }
    }

    /// The record that was made at `origin`: its number in this log, where that is the same.
    fn record(&self, origin: Origin) -> String {
        if origin.replica == self.here { origin.recno.to_string() } else { origin.to_string() }
    }
}
