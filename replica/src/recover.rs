//! What is done at the start after a use that did not end in order.
//!
//! After the program was killed, what it had in flight is looked at, and recorded where it was done: the tree is right.
//! After the machine lost power the tree may lack what the log has, and the log is done again on it; only what is newer than
//! the log is taken in. Which is which, each object's ctime says: it can't be set, and a host's clock goes forward.

mod redo;

pub(crate) use redo::Unmet;

use std::os::fd::AsFd;

use mezzo_core::{Kind, ObjectId, Recno};

use crate::Error;
use crate::host::host_now;
use crate::lml::{InFlight, Operation, Writer};
use crate::meet::Met;
use crate::perform::Caller;
use crate::receive::Logged;
use crate::replica::{Order, Replica};

/// How the last use ended, and what was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// In order.
    InOrder,
    /// The program was killed.
    Killed {
        /// Records that were made of what was in flight.
        records: u64,
    },
    /// The machine lost power. What the tree lacked of the log was done again; what is newer than the log is taken in at first
    /// touch and by [`Replica::take_in`].
    PowerLost,
}

impl Replica {
    /// Puts in order what was in flight when the replica was in use last. `logged` are records that the power cut off.
    pub(crate) fn recover(
        &self,
        in_flight: InFlight,
        unmet: &[Unmet],
        logged: Option<Logged>,
    ) -> Result<Recovered, Error> {
        match in_flight {
            InFlight::Nothing => Ok(Recovered::InOrder),
            InFlight::PowerLost { since } => {
                self.redo(since.unwrap_or_else(host_now), unmet)?;
                logged.map_or(Ok(()), Logged::end)?;
                self.opens.lml().recovered()?;
                Ok(Recovered::PowerLost)
            }
            InFlight::Killed { operation, writers } => {
                let first = self.last();
                self.part_attic_from_tree()?;
                match operation {
                    Some(operation) if operation.recno > first => self.recover_operation(&operation)?,
                    Some(Operation { object: Some(object), who, .. }) => {
                        let caller = Caller { who: who.into(), ..Caller::program() };
                        unless_gone(self.recover_xattrs(&caller, object))?;
                    }
                    _ => {}
                }
                writers.into_iter().try_for_each(|writer| unless_gone(self.recover_writer(writer)))?;
                self.opens.lml().recovered()?;
                let Recno(records) = Recno(self.last().0 - first.0);
                Ok(Recovered::Killed { records })
            }
        }
    }

    /// Looks at what an operation was about, and records in its author's name what was done of it.
    fn recover_operation(&self, operation: &Operation) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        let program = std::mem::replace(&mut order.behalf, Caller::program());
        order.behalf.who = operation.who.clone().into();
        let recovered = self.look_at(&mut order, operation);
        order.behalf = program;
        recovered
    }

    /// Records what the host changed of extended attributes along with a change that is recorded: that is a record of its own.
    fn recover_xattrs(&self, caller: &Caller, object: ObjectId) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        let (met, reach) = self.reach_in_order(&mut order, object)?;
        if self.is_nameless(&met.entry) || !met.is_same_inode() {
            return Ok(());
        }
        self.take_in_xattrs(&mut order, caller, &met, reach.as_fd())
    }

    fn look_at(&self, order: &mut Order, operation: &Operation) -> Result<(), Error> {
        for place in &operation.places {
            unless_gone(self.meet_in_order(order, place.parent, &place.name).map(drop))?;
        }
        match operation.object {
            Some(object) => unless_gone(self.observe_in_order(order, object).map(drop)),
            None => Ok(()),
        }
    }

    /// Records the data of a file that was open for writing, where it changed since the last record.
    fn recover_writer(&self, writer: Writer) -> Result<(), Error> {
        let mut order = self.begin_when_full()?;
        let met = self.observe_in_order(&mut order, writer.object)?;
        if writer.dirty && met.entry.attributes().kind == Kind::File {
            let reach = self.reach(&met.entry)?;
            let stat = crate::host::stat(reach.as_fd())?;
            let caller = order.behalf.clone();
            self.record_close(&mut order, &caller, &Met { stat, ..met }, true)?;
        }
        Ok(())
    }
}

/// What was removed meanwhile has nothing to be recovered.
fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Gone) => Ok(()),
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ESTALE | libc::ENOTDIR) => Ok(()),
        result => result,
    }
}
