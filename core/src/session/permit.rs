//! Who may write, where one at a time may: the permit, as the server keeps it.
//!
//! Each holder has an epoch of its own. What is sent under an earlier one is refused, so that a holder who could not be reached
//! when the permit was taken from it is fenced.

use crate::id::{Recno, ReplicaId};

use super::message::Permit;

/// Seconds that a holder has to give the permit back, before it can be stolen.
pub const GIVEN_BACK_WITHIN: u64 = 30;

/// The permit of one fileset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeper {
    permit: Permit,
    /// Who waits for it, in the order in which they asked.
    waiting: Vec<ReplicaId>,
    /// Since when it is recalled.
    recalled_at: Option<u64>,
}

/// What is to be done about the permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Write it down durably, then tell everybody.
    Is(Permit),
    /// Ask its holder to give it back.
    Recall(ReplicaId, u64),
}

/// Why the permit can't be stolen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStolen {
    /// Its holder is connected, and has time left to give it back.
    #[error("its holder, replica {0}, is connected and has {1} s left to give it back")]
    Connected(ReplicaId, u64),
}

impl Keeper {
    /// The permit as it was written down.
    pub fn new(permit: Permit) -> Keeper {
        Keeper { permit, ..Keeper::default() }
    }

    /// The permit as it stands.
    pub fn permit(&self) -> Permit {
        self.permit
    }

    /// A replica needs it, at second `now` and record `last` of the server's log.
    pub fn ask(&mut self, replica: ReplicaId, last: Recno, now: u64) -> Vec<Deed> {
        if self.permit.holder == replica.0 {
            return vec![Deed::Is(self.permit)];
        }
        if self.permit.holder == 0 {
            return vec![self.give(replica, last, false)];
        }
        if !self.waiting.contains(&replica) {
            self.waiting.push(replica);
        }
        if self.recalled_at.is_some() {
            return Vec::new();
        }
        self.recalled_at = Some(now);
        vec![Deed::Recall(ReplicaId(self.permit.holder), self.permit.epoch)]
    }

    /// The holder gives it back. Of another epoch, it is somebody's who holds it no more.
    pub fn release(&mut self, replica: ReplicaId, epoch: u64, last: Recno, now: u64) -> Vec<Deed> {
        if (self.permit.holder, self.permit.epoch) != (replica.0, epoch) {
            return Vec::new();
        }
        self.recalled_at = None;
        if self.waiting.is_empty() {
            self.permit = Permit { holder: 0, ..self.permit };
            return vec![Deed::Is(self.permit)];
        }
        let next = self.waiting.remove(0);
        let mut deeds = vec![self.give(next, last, false)];
        if !self.waiting.is_empty() {
            self.recalled_at = Some(now);
            deeds.push(Deed::Recall(next, self.permit.epoch));
        }
        deeds
    }

    /// It is taken from a holder that is not connected, or does not give it back.
    pub fn steal(
        &mut self,
        replica: ReplicaId,
        is_connected: bool,
        last: Recno,
        now: u64,
    ) -> Result<Vec<Deed>, NotStolen> {
        let holder = ReplicaId(self.permit.holder);
        if holder == replica || holder.0 == 0 {
            return Ok(self.ask(replica, last, now));
        }
        let waited = self.recalled_at.map_or(0, |at| now.saturating_sub(at));
        if is_connected && waited < GIVEN_BACK_WITHIN {
            return Err(NotStolen::Connected(holder, GIVEN_BACK_WITHIN - waited));
        }
        self.recalled_at = None;
        self.waiting.retain(|waiting| *waiting != replica);
        Ok(vec![self.give(replica, last, true)])
    }

    /// A replica that waits went away.
    pub fn forget(&mut self, replica: ReplicaId) {
        self.waiting.retain(|waiting| *waiting != replica);
        if self.waiting.is_empty() {
            self.recalled_at = None;
        }
    }

    fn give(&mut self, replica: ReplicaId, last: Recno, stolen: bool) -> Deed {
        self.permit = Permit { epoch: self.permit.epoch + 1, holder: replica.0, at: last.0, stolen };
        Deed::Is(self.permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);
    const C: ReplicaId = ReplicaId(3);

    fn permit(epoch: u64, holder: ReplicaId, at: u64, stolen: bool) -> Permit {
        Permit { epoch, holder: holder.0, at, stolen }
    }

    #[test]
    fn it_goes_from_one_to_the_next_in_the_order_in_which_they_asked() {
        let mut keeper = Keeper::default();
        assert_eq!(keeper.ask(A, Recno(5), 0), [Deed::Is(permit(1, A, 5, false))]);
        assert_eq!(keeper.ask(A, Recno(6), 0), [Deed::Is(permit(1, A, 5, false))]);
        assert_eq!(keeper.ask(B, Recno(7), 1), [Deed::Recall(A, 1)]);
        assert_eq!(keeper.ask(C, Recno(7), 2), []);
        // What is given back under an epoch that is over counts no more.
        assert_eq!(keeper.release(B, 1, Recno(8), 3), []);
        let next = [Deed::Is(permit(2, B, 8, false)), Deed::Recall(B, 2)];
        assert_eq!(keeper.release(A, 1, Recno(8), 3), next);
        assert_eq!(keeper.release(A, 1, Recno(8), 3), []);
        assert_eq!(keeper.release(B, 2, Recno(9), 4), [Deed::Is(permit(3, C, 9, false))]);
        assert_eq!(keeper.release(C, 3, Recno(9), 5), [Deed::Is(permit(3, ReplicaId(0), 9, false))]);
    }

    #[test]
    fn it_is_stolen_only_from_who_can_not_be_reached() {
        let mut keeper = Keeper::default();
        keeper.ask(A, Recno(1), 0);
        assert_eq!(keeper.steal(B, true, Recno(2), 1), Err(NotStolen::Connected(A, GIVEN_BACK_WITHIN)));
        keeper.ask(B, Recno(2), 10);
        assert!(keeper.steal(B, true, Recno(2), 10 + GIVEN_BACK_WITHIN - 1).is_err());
        let stolen = [Deed::Is(permit(2, B, 2, true))];
        assert_eq!(keeper.steal(B, true, Recno(2), 10 + GIVEN_BACK_WITHIN).unwrap(), stolen);
        assert_eq!(keeper.steal(A, false, Recno(3), 50).unwrap(), [Deed::Is(permit(3, A, 3, true))]);
        assert_eq!(keeper.release(B, 2, Recno(3), 50), []);
    }
}
