//! A replica, and how far its log is durable: what all its sessions share.

use std::sync::Arc;

use mezzo_core::Recno;
use mezzo_replica::Replica;
use mezzo_replica::undo::Audience;
use tokio::sync::{Notify, watch};

use crate::data::Manifests;

/// A replica that has sessions.
pub struct Hub {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Who uses the tree while records arrive.
    pub audience: Arc<dyn Audience + Send + Sync>,
    /// What its data consists of, for those who ask.
    pub manifests: Arc<Manifests>,
    durable: watch::Sender<Recno>,
    grown: Arc<Notify>,
}

impl Hub {
    /// Has the log made durable as it grows, as long as the hub is there. Called within a runtime.
    pub fn start(
        replica: Arc<Replica>,
        audience: Arc<dyn Audience + Send + Sync>,
    ) -> Result<Arc<Hub>, mezzo_replica::Error> {
        let last = replica.sync_log()?;
        let grown = Arc::new(Notify::new());
        let wakes = grown.clone();
        replica.on_commit(Some(Box::new(move || wakes.notify_one())));
        let (durable, manifests) = (watch::Sender::new(last), Arc::default());
        let hub = Arc::new(Hub { replica, audience, manifests, durable, grown: grown.clone() });
        let weak = Arc::downgrade(&hub);
        tokio::spawn(async move {
            loop {
                grown.notified().await;
                let Some(hub) = weak.upgrade() else { return };
                // All that grew while the last sync was on its way is covered by one.
                let replica = hub.replica.clone();
                // Where the log can't be written, the replica tells so, and nothing more is sent.
                if let Ok(Ok(upto)) = tokio::task::spawn_blocking(move || replica.sync_log()).await {
                    hub.is_durable(upto);
                }
            }
        });
        // What was made meanwhile.
        hub.grown.notify_one();
        Ok(hub)
    }

    /// How far the log is durable, from now on.
    pub fn durable(&self) -> watch::Receiver<Recno> {
        self.durable.subscribe()
    }

    /// Up to where it is durable now.
    pub fn durable_now(&self) -> Recno {
        *self.durable.borrow()
    }

    /// The log is durable up to this record.
    pub fn is_durable(&self, upto: Recno) {
        self.durable.send_if_modified(|durable| {
            let is_more = upto > *durable;
            *durable = upto.max(*durable);
            is_more
        });
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.replica.on_commit(None);
    }
}
