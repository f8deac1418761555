//! A daemon's connections to other replicas: to its server, and from its clients.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mezzo_core::FilesetId;
use mezzo_net::identity::{ClientId, Link, Rights};
use mezzo_net::server::Server;
use mezzo_net::upstream::{LinkStatus, Upstream};
use mezzo_replica::Replica;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::control::{Answer, Invitation};

/// What a daemon is connected to. Without anything, it is alone.
#[derive(Default)]
pub struct Links {
    upstream: Mutex<Option<Arc<Upstream>>>,
    offer: OnceLock<Arc<Offer>>,
}

/// Filesets that this process offers to clients.
pub struct Offer {
    runtime: Runtime,
    server: Mutex<Option<Server>>,
    /// Where clients find it, as an invitation says where nothing else is told.
    addresses: Vec<String>,
    /// Asks the process to end.
    end: Box<dyn Fn() + Send + Sync>,
}

impl Links {
    /// The fileset has a server.
    pub fn set_upstream(&self, upstream: Upstream) {
        *self.upstream.lock() = Some(Arc::new(upstream));
    }

    /// The fileset is offered.
    pub fn set_offer(&self, offer: Arc<Offer>) {
        // It is offered once.
        let _ = self.offer.set(offer);
    }

    /// How the connection to the server is, where there is a server.
    pub fn status(&self) -> Option<LinkStatus> {
        let upstream = self.upstream.lock().clone();
        upstream.map(|upstream| upstream.status())
    }

    /// How many clients are connected, where it is offered to any.
    pub fn connected(&self, replica: &Replica) -> Option<u64> {
        let server = self.offer.get()?.server.lock();
        server.as_ref()?.served(fileset_of(replica)).map(|served| served.connected() as u64)
    }

    /// Ends the connection to the server.
    pub fn end(&self) {
        *self.upstream.lock() = None;
    }

    fn upstream(&self) -> Result<Arc<Upstream>, Failure> {
        let failed =
            || Failure::Failed("this fileset has no server: it was not made by mezzo clone".to_owned());
        self.upstream.lock().clone().ok_or_else(failed)
    }

    fn offer(&self) -> Result<&Arc<Offer>, Failure> {
        let failed = || Failure::Failed("this fileset is not offered: see mezzo serve".to_owned());
        self.offer.get().ok_or_else(failed)
    }

    /// Exchanges everything with the server.
    pub fn exchange(&self, seconds: u64) -> Result<Answer, Failure> {
        let until = Instant::now() + Duration::from_secs(seconds);
        let exchanged = self.upstream()?.exchange(&mut |_| Instant::now() < until);
        exchanged.map(Answer::Link).map_err(Failure::Failed)
    }

    /// Connects to the server, or stays without a connection.
    pub fn set_online(&self, online: bool) -> Result<Answer, Failure> {
        let upstream = self.upstream()?;
        upstream.set_online(online);
        Ok(Answer::Link(upstream.status()))
    }

    /// Makes an invitation.
    pub fn invite(&self, replica: &Replica, wanted: &Invitation) -> Result<Answer, Failure> {
        let offer = self.offer()?;
        let told = if wanted.addresses.is_empty() { &offer.addresses } else { &wanted.addresses };
        let addresses = told
            .iter()
            .map(|address| address.parse().map_err(|error| Failure::Failed(format!("{address}: {error}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let mapping = wanted.mapping.parse()?;
        let rights = if wanted.write { Rights::ReadWrite } else { Rights::Read };
        let server = offer.server.lock();
        let server = server.as_ref().ok_or_else(ended)?;
        let (valid, fileset) = (Duration::from_secs(wanted.seconds), fileset_of(replica));
        let link: Link = server.identity().mint(rights, valid, mapping, fileset, addresses)?;
        Ok(Answer::Invited { link: link.to_string() })
    }

    /// The clients of the fileset.
    pub fn clients(&self, replica: &Replica) -> Result<Answer, Failure> {
        let server = self.offer()?.server.lock();
        let server = server.as_ref().ok_or_else(ended)?;
        let served = server.served(fileset_of(replica)).ok_or_else(ended)?;
        Ok(Answer::Clients { clients: served.clients(server.identity()) })
    }

    /// A client may not come any more.
    pub fn revoke(&self, replica: &Replica, client: &str) -> Result<Answer, Failure> {
        let server = self.offer()?.server.lock();
        let server = server.as_ref().ok_or_else(ended)?;
        let unknown = || Failure::Failed(format!("there is no client {client} of this fileset"));
        let id: ClientId = client.parse().map_err(|_| unknown())?;
        if server.identity().client(id).is_none_or(|client| client.fileset != fileset_of(replica)) {
            return Err(unknown());
        }
        server.identity().revoke(id)?;
        Ok(Answer::Done)
    }

    /// Asks the process that offers the fileset to end.
    pub fn end_offer(&self) -> Result<Answer, Failure> {
        (self.offer()?.end)();
        Ok(Answer::Done)
    }
}

fn fileset_of(replica: &Replica) -> FilesetId {
    replica.fileset().config.id
}

fn ended() -> Failure {
    Failure::Failed("the server is about to end".to_owned())
}

impl Offer {
    /// `server` runs on `runtime`; `end` asks this process to end.
    pub fn new(
        runtime: Runtime,
        server: Server,
        addresses: Vec<String>,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Offer> {
        Arc::new(Offer { runtime, server: Mutex::new(Some(server)), addresses, end: Box::new(end) })
    }

    /// Ends all sessions.
    pub fn stop(&self) {
        let server = self.server.lock().take();
        if let Some(server) = server {
            self.runtime.block_on(server.stop());
        }
    }
}
