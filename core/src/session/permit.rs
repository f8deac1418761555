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

    /// Who is asked to give it back, and of which epoch.
    pub fn recalls(&self) -> Option<(ReplicaId, u64)> {
        self.recalled_at.map(|_| (ReplicaId(self.permit.holder), self.permit.epoch))
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

/// Seconds after which a permit that nobody here uses is given back without being asked for: a machine that goes away meanwhile
/// holds up nobody.
pub const KEPT_UNUSED: u64 = 30;

/// The permit as a replica sees that needs it from time to time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    replica: u64,
    permit: Permit,
    /// The epoch of a permit that was taken away before everything was sent that was made under it.
    lost: Option<u64>,
    is_connected: bool,
    /// Somebody here waits for it.
    is_wanted: bool,
    /// It was asked for, on this connection.
    is_asked: bool,
    /// Another needs it.
    is_recalled: bool,
    /// Nobody was let in yet since it came: those who waited for it are, even if it is recalled at once.
    is_new: bool,
    /// Up to where the server's log is here.
    received: u64,
    /// Since when nobody here uses it.
    unused_since: Option<u64>,
}

/// How the permit is used at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// A change is being made, or a file is open for writing.
    pub is_in_use: bool,
    /// There is something that the server has not acknowledged.
    pub is_pending: bool,
}

/// What a replica has to do about the permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Ask for it.
    Ask,
    /// Have it taken from who can't be reached, or does not give it back.
    Steal,
    /// Give back that of this epoch.
    GiveBack(u64),
}

impl Holder {
    /// A replica that knows this of the permit, and is not connected. `lost`: see [`Holder::lost`].
    pub fn new(replica: ReplicaId, permit: Permit, lost: Option<u64>) -> Holder {
        Holder { replica: replica.0, permit, lost, ..Holder::default() }
    }

    /// The epoch of a permit that was taken away before everything was sent that was made under it: that is refused, and nothing is
    /// asked for until somebody says so.
    pub fn lost(&self) -> Option<u64> {
        self.lost
    }

    /// Under which epoch it sends what was made here; 0 for none.
    pub fn epoch(&self) -> u64 {
        self.lost.unwrap_or(if self.holds() { self.permit.epoch } else { 0 })
    }

    /// What was made under a permit that was taken away is to go under the next one.
    pub fn resume(&mut self) -> Option<Move> {
        self.lost = None;
        self.want()
    }

    /// The permit as it was told last.
    pub fn permit(&self) -> Permit {
        self.permit
    }

    /// Whether it is held, as far as is known here.
    pub fn holds(&self) -> bool {
        self.permit.holder == self.replica
    }

    /// Whether a change may begin: what was done under the permit before is here, and nobody else needs it.
    pub fn lets_in(&self) -> bool {
        self.holds() && self.received >= self.permit.at && (self.is_new || !self.is_recalled)
    }

    /// Whether nobody was let in since it came.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Those who waited are let in.
    pub fn let_in(&mut self) {
        self.is_new = false;
    }

    /// The server's log is here up to this record.
    pub fn received(&mut self, upto: u64) {
        self.received = self.received.max(upto);
    }

    /// Whether it can be had without waiting for somebody else.
    pub fn is_free(&self) -> bool {
        self.is_connected && (self.permit.holder == 0 || self.holds())
    }

    /// Whether somebody else needs it.
    pub fn is_recalled(&self) -> bool {
        self.is_recalled
    }

    /// Somebody here needs it.
    pub fn want(&mut self) -> Option<Move> {
        self.is_wanted = true;
        self.ask()
    }

    /// Nobody here waits for it any more.
    pub fn want_no_more(&mut self) {
        self.is_wanted = false;
    }

    /// There is a connection to who keeps it.
    pub fn connected(&mut self, permit: Permit) -> Option<Move> {
        (self.is_connected, self.is_asked, self.is_recalled) = (true, false, false);
        self.is(permit)
    }

    /// There is none any more. Who holds it goes on.
    pub fn disconnected(&mut self) {
        (self.is_connected, self.is_asked, self.is_recalled) = (false, false, false);
    }

    /// The permit is this now.
    pub fn is(&mut self, permit: Permit) -> Option<Move> {
        let held = self.holds().then_some(self.permit.epoch);
        self.permit = permit;
        if self.holds() {
            self.is_new = held != Some(permit.epoch);
            (self.is_wanted, self.is_asked, self.unused_since) = (false, false, None);
            return None;
        }
        if held.is_some() {
            // It was taken away.
            (self.lost, self.is_asked) = (held, false);
        }
        self.is_recalled = false;
        self.ask()
    }

    /// Another needs that of this epoch.
    pub fn recalled(&mut self, epoch: u64) {
        self.is_recalled |= self.holds() && epoch == self.permit.epoch;
    }

    /// Whoever is asked here may want it back at once.
    pub fn give_back(&mut self) {
        self.is_recalled |= self.holds();
    }

    /// At second `now`, it is used like this.
    pub fn tick(&mut self, now: u64, usage: Usage) -> Option<Move> {
        let Usage { is_in_use, is_pending } = usage;
        if !is_pending {
            self.lost = None;
        }
        if !self.holds() {
            // Also what this program does by itself, such as telling the digest of a file, needs it.
            return if is_pending { self.want() } else { self.ask() };
        }
        if is_in_use || is_pending {
            self.unused_since = None;
            return None;
        }
        let since = *self.unused_since.get_or_insert(now);
        if !self.is_connected || !self.is_recalled && now.saturating_sub(since) < KEPT_UNUSED {
            return None;
        }
        let epoch = self.permit.epoch;
        self.permit.holder = 0;
        (self.is_recalled, self.is_asked, self.is_new, self.unused_since) = (false, false, false, None);
        Some(Move::GiveBack(epoch))
    }

    fn ask(&mut self) -> Option<Move> {
        let wants = self.is_wanted && self.lost.is_none();
        let asks = wants && self.is_connected && !self.is_asked && !self.holds();
        self.is_asked |= asks;
        asks.then_some(Move::Ask)
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

    const UNUSED: Usage = Usage { is_in_use: false, is_pending: false };

    #[test]
    fn a_holder_asks_once_and_gives_back_what_it_does_not_use() {
        let mut holder = Holder::new(A, Permit::default(), None);
        assert_eq!((holder.want(), holder.lets_in()), (None, false), "there is nobody to ask");
        assert_eq!(holder.connected(permit(3, B, 7, false)), Some(Move::Ask));
        assert_eq!(holder.want(), None);
        // Another has it before.
        assert_eq!(holder.is(permit(4, C, 8, false)), None);
        assert_eq!((holder.is(permit(5, A, 9, false)), holder.lets_in()), (None, false));
        // What the last one did is not here.
        holder.received(8);
        assert!(!holder.lets_in());
        holder.received(9);
        assert!(holder.lets_in());
        assert_eq!(holder.tick(10, Usage { is_in_use: true, is_pending: false }), None);
        assert_eq!(holder.tick(100, UNUSED), None);
        assert_eq!(holder.tick(100 + KEPT_UNUSED - 1, UNUSED), None);
        assert_eq!(holder.tick(100 + KEPT_UNUSED, UNUSED), Some(Move::GiveBack(5)));
        assert_eq!((holder.lets_in(), holder.tick(200, UNUSED)), (false, None));
    }

    #[test]
    fn what_is_recalled_goes_when_everything_was_sent_and_is_asked_for_again() {
        let mut holder = Holder::new(A, Permit::default(), None);
        holder.want();
        holder.connected(Permit::default());
        holder.is(permit(1, A, 0, false));
        holder.recalled(2);
        assert!(holder.lets_in(), "that is another epoch's");
        holder.recalled(1);
        assert!(holder.lets_in(), "somebody waits for it");
        holder.let_in();
        assert!(!holder.lets_in() && holder.holds());
        assert_eq!(holder.tick(1, Usage { is_in_use: false, is_pending: true }), None);
        assert_eq!(holder.want(), None);
        assert_eq!(holder.tick(1, UNUSED), Some(Move::GiveBack(1)));
        assert_eq!(holder.is(permit(2, B, 5, false)), Some(Move::Ask), "somebody here still waits");
    }

    #[test]
    fn who_is_not_connected_keeps_it_until_it_hears_that_it_was_stolen() {
        let mut holder = Holder::new(A, permit(3, A, 7, false), None);
        holder.received(7);
        assert!(holder.lets_in());
        assert_eq!(holder.tick(1000, UNUSED), None);
        assert_eq!(holder.tick(1000 + KEPT_UNUSED, UNUSED), None);
        assert_eq!(holder.connected(permit(4, B, 9, true)), None);
        assert!(!holder.lets_in());
        // What it made under the old epoch is refused, until somebody says that it is for the next one.
        let pending = Usage { is_in_use: false, is_pending: true };
        assert_eq!((holder.epoch(), holder.tick(1001, pending)), (3, None));
        assert_eq!((holder.want(), holder.resume()), (None, Some(Move::Ask)));
        assert_eq!((holder.is(permit(5, A, 9, false)), holder.epoch()), (None, 5));
    }

    #[test]
    fn who_lost_it_with_nothing_to_send_lost_nothing() {
        let mut holder = Holder::new(A, permit(3, A, 7, false), None);
        holder.connected(permit(4, B, 9, true));
        assert_eq!((holder.lost(), holder.tick(1, UNUSED), holder.lost()), (Some(3), None, None));
        assert_eq!(holder.want(), Some(Move::Ask));
    }
}
