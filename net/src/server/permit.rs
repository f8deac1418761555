//! The permit of a fileset, where its server keeps it: one thread does what has to be done about it, in the order in which it was asked
//! for, and writes it down before anybody is told.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use mezzo_core::ReplicaId;
use mezzo_core::session::Event;
use mezzo_core::session::message::{Body, NoPermit};
use mezzo_core::session::permit::{Deed, Keeper, Move};
use mezzo_replica::Replica;
use mezzo_replica::gate::{Gate, PermitMode};

use super::Served;
use crate::session::Handle;

/// Something about the permit that has to be seen to.
pub(super) enum Errand {
    /// A replica has connected.
    Came(ReplicaId, Handle),
    /// A replica needs the permit; or it is to be taken from its holder for it.
    Asked(ReplicaId, bool),
    /// A replica gives back that of this epoch.
    GivenBack(ReplicaId, u64),
    /// A replica's connection has ended.
    Gone(ReplicaId),
}

/// Where errands go, and the gate for the users of the server itself.
pub(super) struct Office {
    pub gate: Arc<Gate>,
    errands: Sender<Errand>,
}

impl Office {
    /// The permit as it was written down.
    pub fn open(replica: &Arc<Replica>) -> Result<(Office, Receiver<Errand>), mezzo_replica::Error> {
        let gate = Gate::open(replica)?;
        let exclusive = replica.fileset().config.permit.mode == PermitMode::Exclusive;
        gate.connected(gate.permit(), exclusive);
        let (errands, received) = channel();
        Ok((Office { gate, errands }, received))
    }

    /// Has it seen to.
    pub fn send(&self, errand: Errand) {
        // Its thread ends after this.
        let _ = self.errands.send(errand);
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.gate.end();
    }
}

/// Sees to errands as long as the fileset is offered.
pub(super) fn serve(served: &Arc<Served>, errands: Receiver<Errand>) -> Result<(), mezzo_replica::Error> {
    let replica = &served.hub.replica;
    let own = replica.fileset().config.replica;
    let asking = Arc::downgrade(served);
    let office = move |step| {
        let Some(served) = asking.upgrade() else { return };
        served.permit.send(match step {
            Move::Ask => Errand::Asked(own, false),
            Move::Steal => Errand::Asked(own, true),
            Move::GiveBack(epoch) => Errand::GivenBack(own, epoch),
        });
    };
    // What is recorded here is the truth already.
    served.permit.gate.serve(replica, || (false, u64::MAX), office)?;
    replica.set_gate(Some(served.permit.gate.clone()));
    let (mut keeper, started) = (Keeper::new(served.permit.gate.permit()), Instant::now());
    let served = Arc::downgrade(served);
    let run = move || {
        while let Ok(errand) = errands.recv() {
            let Some(served) = served.upgrade() else { return };
            served.see_to(&mut keeper, errand, started.elapsed().as_secs());
        }
    };
    std::thread::Builder::new().name("keeper".into()).spawn(run)?;
    Ok(())
}

impl Served {
    fn see_to(&self, keeper: &mut Keeper, errand: Errand, now: u64) {
        let last = self.hub.replica.last();
        let before = keeper.clone();
        let deeds = match errand {
            Errand::Came(replica, handle) => {
                if let Some((_, epoch)) = keeper.recalls().filter(|(holder, _)| *holder == replica) {
                    handle.tell(Event::PermitRecalled(epoch));
                }
                Vec::new()
            }
            Errand::Asked(replica, false) => keeper.ask(replica, last, now),
            Errand::Asked(replica, true) => {
                let holder = ReplicaId(keeper.permit().holder);
                let is_own = holder == self.hub.replica.fileset().config.replica;
                match keeper.steal(replica, is_own || self.is_connected(holder), last, now) {
                    Ok(deeds) => deeds,
                    Err(not_stolen) => {
                        self.deny(replica, not_stolen.to_string());
                        keeper.ask(replica, last, now)
                    }
                }
            }
            Errand::GivenBack(replica, epoch) => keeper.release(replica, epoch, last, now),
            Errand::Gone(replica) => {
                keeper.forget(replica);
                Vec::new()
            }
        };
        for deed in deeds {
            match deed {
                Deed::Is(permit) => {
                    if let Err(error) = self.permit.gate.told(permit) {
                        mezzo_replica::say!("mezzo: could not note who holds the permit: {error}");
                        *keeper = before;
                        return;
                    }
                    for live in self.live.lock().values() {
                        live.handle.tell(Event::PermitIs(permit));
                    }
                }
                Deed::Recall(holder, epoch) if holder == self.hub.replica.fileset().config.replica => {
                    self.permit.gate.recalled(epoch);
                }
                Deed::Recall(holder, epoch) => {
                    if let Some(handle) = self.session_of(holder) {
                        handle.tell(Event::PermitRecalled(epoch));
                    }
                }
            }
        }
    }

    fn session_of(&self, replica: ReplicaId) -> Option<Handle> {
        let live = self.live.lock();
        let mut sessions = live.values();
        sessions.find(|live| live.standing.borrow().peer == Some(replica)).map(|live| live.handle.clone())
    }

    fn is_connected(&self, replica: ReplicaId) -> bool {
        self.session_of(replica).is_some()
    }

    fn deny(&self, replica: ReplicaId, message: String) {
        match self.session_of(replica) {
            Some(handle) => drop(handle.tell(Event::Say(Body::NoPermit(NoPermit { message })))),
            None => self.permit.gate.denied(message),
        }
    }
}
