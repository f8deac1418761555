//! What is done on one side is on the others.

use mezzo_core::Recno;
use mezzo_replica::undo::Selection;

use crate::common::{Guest, Host, ROOT, name, user};

/// Everything that both clients have is everywhere.
fn settle(a: &Guest, b: &Guest) {
    a.sync();
    b.sync();
    a.sync();
}

fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_data_go_both_ways() {
    let host = Host::start().await;
    host.bench.write(0, "before", b"it was there");
    let (mut a, mut b) = (host.writer().await, host.writer().await);
    a.connect();
    b.connect();
    a.sync();
    assert_eq!(a.bench.read("before").unwrap(), b"it was there");
    let large = bytes(700_000);
    a.bench.write(0, "small", b"of a");
    a.bench.write(1000, "large", &large);
    b.bench.write(0, "other", b"of b");
    settle(&a, &b);
    host.bench.write(0, "before", b"and is changed now");
    settle(&a, &b);
    for bench in [&host.bench, &a.bench, &b.bench] {
        assert_eq!(bench.read("small").unwrap(), b"of a");
        assert_eq!(bench.read("large").unwrap(), large);
        assert_eq!(bench.read("other").unwrap(), b"of b");
        assert_eq!(bench.read("before").unwrap(), b"and is changed now");
        let mut origins: Vec<_> = bench.records().iter().map(|record| record.origin).collect();
        let count = origins.len();
        origins.sort();
        origins.dedup();
        assert_eq!(origins.len(), count, "each record is there once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_without_a_connection_comes_later() {
    let mut host = Host::start().await;
    let mut a = host.writer().await;
    a.connect();
    a.sync();
    host.stop().await;
    a.bench.write(0, "later", b"bytes");
    host.bench.write(0, "here", b"too");
    assert!(a.try_sync().is_err(), "there is nobody");
    assert_eq!(a.upstream().status().pending_records, 2, "made, and closed");
    host.offer().await;
    a.sync();
    assert_eq!(host.bench.read("later").unwrap(), b"bytes");
    assert_eq!(a.bench.read("here").unwrap(), b"too");
    a.upstream().set_online(false);
    a.bench.write(0, "offline", b"bytes");
    assert!(a.try_sync().is_err(), "its user wants none");
    a.upstream().set_online(true);
    a.sync();
    assert!(host.bench.has("offline"));
    let status = a.upstream().status();
    assert_eq!((status.state.as_str(), status.pending_records, status.settled), ("connected", 0, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_and_taken_back_is_the_same_file_everywhere() {
    let host = Host::start().await;
    let (mut a, mut b) = (host.writer().await, host.writer().await);
    a.connect();
    b.connect();
    let file = a.bench.write(0, "file", b"bytes that come back");
    settle(&a, &b);
    let last = a.bench.replica().last();
    a.bench.replica().remove(&user(0), ROOT, &name("file"), false).unwrap();
    settle(&a, &b);
    assert!(!host.bench.has("file") && !b.bench.has("file"));
    let selection = Selection { after: last, most: 1, takes: &|_| true, undos: false, along: false };
    let plan = a.bench.replica().undo(&user(0), &selection, &()).unwrap();
    assert_eq!(plan.records.len(), 1);
    settle(&a, &b);
    for bench in [&host.bench, &a.bench, &b.bench] {
        let met = bench.replica().meet(ROOT, &name("file")).unwrap().unwrap();
        assert_eq!(met.entry.object, file);
        assert_eq!(bench.read("file").unwrap(), b"bytes that come back");
    }
    assert_eq!(host.received_from(&a), a.bench.replica().last());
    assert_ne!(host.received_from(&a), Recno::NONE);
}
