//! The permit between a server and its clients, over loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mezzo_core::{IdMapping, Name, ObjectId};
use mezzo_net::identity::{PendingClient, Rights, ServerIdentity, SystemClock};
use mezzo_net::server::{Policy, Served, Server};
use mezzo_net::upstream::{DIRECTORY, Upstream};
use mezzo_replica::gate::{Entrance, Gate, PermitMode};
use mezzo_replica::{Caller, Fileset, Replica};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);

/// An exclusive fileset that is offered.
struct Offer {
    area: TempDir,
    runtime: Runtime,
    replica: Arc<Replica>,
    server: Option<Server>,
}

/// A replica of it, connected.
struct Client {
    replica: Arc<Replica>,
    upstream: Option<Upstream>,
}

impl Offer {
    fn new() -> Offer {
        let area = tempfile::tempdir().unwrap();
        std::fs::create_dir(area.path().join("server")).unwrap();
        let fileset = Fileset::create(&area.path().join("server")).unwrap();
        let replica = Arc::new(Replica::create(exclusive(fileset)).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let mut offer = Offer { area, runtime, replica, server: None };
        offer.start();
        offer
    }

    fn start(&mut self) {
        let identity = ServerIdentity::open(&self.area.path().join("state"), Arc::new(SystemClock)).unwrap();
        let started = self.runtime.block_on(async {
            let served = Served::new(self.replica.clone(), Arc::new(()), Policy::default()).unwrap();
            Server::start("127.0.0.1:0".parse().unwrap(), identity, vec![served]).await
        });
        self.server = Some(started.unwrap());
    }

    fn stop(&mut self) {
        self.runtime.block_on(self.server.take().unwrap().stop());
    }

    fn gate(&self) -> Arc<Gate> {
        self.replica.gate().unwrap()
    }

    fn client(&self, name: &str, rights: Rights) -> Client {
        let (server, fileset) = (self.server.as_ref().unwrap(), self.replica.fileset().config.id);
        let address = server.address().to_string().parse().unwrap();
        let hour = Duration::from_secs(3600);
        let link = server.identity().mint(rights, hour, IdMapping::Same, fileset, vec![address]).unwrap();
        let root = self.area.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let replica = Replica::create(Fileset::create_as(&root, fileset).unwrap()).unwrap();
        let home = replica.fileset().own_path(DIRECTORY);
        let pending = PendingClient::open(&home, Arc::new(SystemClock)).unwrap();
        self.runtime.block_on(pending.enrol(&link, name)).unwrap();
        let replica = Arc::new(replica);
        let upstream = Upstream::start(replica.clone(), Arc::new(())).unwrap();
        upstream.exchange(&mut |_| true).unwrap();
        Client { replica, upstream: Some(upstream) }
    }
}

fn exclusive(mut fileset: Fileset) -> Fileset {
    fileset.config.permit.mode = PermitMode::Exclusive;
    fileset
}

fn make(replica: &Replica, name: &str) {
    let name = Name::new(name.as_bytes()).unwrap();
    replica.create_file(&Caller::program(), ObjectId::ROOT, &name, 0o644).unwrap();
}

fn has(root: &Path, name: &str) -> bool {
    root.join(name).exists()
}

impl Client {
    fn gate(&self) -> Arc<Gate> {
        self.replica.gate().unwrap()
    }

    fn make(&self, name: &str) {
        let _pass = self.gate().take(PATIENCE, false).unwrap();
        make(&self.replica, name);
    }

    fn has(&self, name: &str) -> bool {
        has(self.replica.fileset().path(), name)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.upstream = None;
        self.replica.close();
    }
}

#[test]
fn what_was_done_under_the_permit_is_there_before_it() {
    let offer = Offer::new();
    let clients = [offer.client("a", Rights::ReadWrite), offer.client("b", Rights::ReadWrite)];
    for round in 0..10 {
        let [one, other] = [0, 1].map(|at| &clients[(round + at) % 2]);
        one.make(&format!("{round}"));
        let pass = other.gate().take(PATIENCE, false).unwrap();
        assert!(other.has(&format!("{round}")), "round {round}");
        assert!(!one.gate().status().here);
        drop(pass);
    }
    // The server's own users have to ask, too.
    let pass = offer.gate().take(PATIENCE, false).unwrap();
    make(&offer.replica, "by the server");
    drop(pass);
    clients[0].make("last");
    assert!(clients[0].has("by the server"));
}

#[test]
fn who_may_not_write_gets_no_permit() {
    let offer = Offer::new();
    let reader = offer.client("reader", Rights::Read);
    let why = reader.gate().take(Duration::from_millis(300), false).unwrap_err();
    assert!(why.contains("no answer"), "{why}");
    assert!(reader.gate().take(Duration::from_millis(300), true).is_err());
    assert_eq!(offer.gate().status().epoch, 0);
}

#[test]
fn it_is_not_stolen_from_who_is_connected_and_has_time_left() {
    let offer = Offer::new();
    let (a, b) = (offer.client("a", Rights::ReadWrite), offer.client("b", Rights::ReadWrite));
    let pass = a.gate().take(PATIENCE, false).unwrap();
    let why = b.gate().take(PATIENCE, true).unwrap_err();
    assert!(why.contains("is connected and has 30 s left"), "{why}");
    assert!(a.gate().status().here && !b.gate().status().here);
    // It was asked to give it back, all the same.
    drop(pass);
    drop(b.gate().take(PATIENCE, false).unwrap());
    assert!(!b.gate().status().stolen);
}

#[test]
fn who_holds_it_is_known_to_a_server_that_begins_anew() {
    let mut offer = Offer::new();
    let mut a = offer.client("a", Rights::ReadWrite);
    a.make("f");
    let before = offer.gate().status();
    assert_eq!(before.holder, Some(a.replica.fileset().config.replica.to_string()));
    // Gone without giving it back.
    a.upstream = None;
    offer.stop();
    offer.start();
    let after = offer.gate().status();
    assert_eq!((after.epoch, &after.holder), (before.epoch, &before.holder));
    assert!(matches!(offer.gate().enter(), Entrance::Closed));
    let pass = offer.gate().take(PATIENCE, true).unwrap();
    assert_eq!((offer.gate().status().epoch, offer.gate().status().stolen), (before.epoch + 1, true));
    drop(pass);
}
