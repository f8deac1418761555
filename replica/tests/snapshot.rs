//! A tree as it was at a record, as records that make it: taken by a replica that has none, in pieces, cut off and gone on with.

mod common;

use common::work::{self, Random, seed};
use common::{Bench, equal_trees};
use mezzo_core::session::message::Snapshot as Piece;
use mezzo_core::{Change, DataVersion, Recno};
use mezzo_replica::exchange::records_of;
use mezzo_replica::receive::{DataSource, How, OnData, Sought, Why};
use mezzo_replica::undo::Selection;
use mezzo_replica::{Fileset, Replica};

fn replica_of(bench: &Bench) -> Bench {
    let id = bench.replica().fileset().config.id;
    let other = Bench::unopened_in_memory();
    let replica = Replica::create(Fileset::create_as(&other.root(), id).unwrap()).unwrap();
    Bench { replica: Some(replica), ..other }
}

/// The data of a replica on this machine.
struct Live<'a>(&'a Replica);

impl DataSource for Live<'_> {
    fn bring(&self, sought: &Sought<'_>) -> std::io::Result<bool> {
        let Sought { object, version, size, to, .. } = *sought;
        let had = self.0.read_version(object, version, size).map_err(std::io::Error::other)?;
        let Ok(bytes) = had else { return Ok(false) };
        let file = std::fs::File::from(to.try_clone_to_owned()?);
        file.set_len(0)?;
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0)?;
        Ok(true)
    }

    fn is_at_hand(&self, _: DataVersion) -> bool {
        true
    }
}

/// All pieces of a snapshot, each of few records.
fn pieces(bench: &Bench) -> Vec<Piece> {
    let mut snapshot = bench.replica().snapshot(None).unwrap();
    let mut pieces = Vec::new();
    let mut after = 0;
    loop {
        let piece = snapshot.piece(after).unwrap();
        after = piece.upto;
        let is_last = piece.is_last;
        pieces.push(piece);
        if is_last {
            return pieces;
        }
    }
}

fn install(onto: &Bench, from: &Bench, frames: &[u8]) {
    let records = records_of(frames).unwrap();
    let source = Live(from.replica());
    let how = How { data: OnData::Bring(&source), judge: false };
    let taken = onto.replica().receive(&records, how, &()).unwrap();
    assert!(taken.stopped.is_none(), "{:?}", taken.stopped);
}

/// Takes the records of `from` that `onto` has not.
fn exchange(from: &Bench, onto: &Bench) {
    let peer = from.replica().fileset().config.replica;
    let after = onto.replica().index().received_from(peer);
    let records: Vec<_> = from.records().into_iter().filter(|record| record.recno > after).collect();
    let source = Live(from.replica());
    let how = How { data: OnData::Bring(&source), judge: false };
    let taken = onto.replica().receive(&records, how, &()).unwrap();
    assert!(taken.stopped.is_none(), "{:?}", taken.stopped);
}

fn worked(random: &mut Random, steps: u64) -> Bench {
    let bench = Bench::in_memory();
    (0..steps).for_each(|_| work::step(&bench, random.below(1 << 40)));
    bench
}

#[test]
fn a_snapshot_makes_the_tree_wherever_it_is_cut_off() {
    let mut random = Random::new(seed());
    for _ in 0..20 {
        let server = worked(&mut random, 150);
        let pieces = pieces(&server);
        let records: Vec<_> = pieces.iter().flat_map(|piece| records_of(&piece.frames).unwrap()).collect();
        assert_eq!(records.len() as u64, pieces[0].records);
        let mut client = replica_of(&server);
        let mut at = 0;
        while at < records.len() {
            let count = 1 + random.below(10) as usize;
            let batch = &records[at..(at + count).min(records.len())];
            let source = Live(server.replica());
            let how = How { data: OnData::Bring(&source), judge: false };
            let taken = client.replica().receive(batch, how, &()).unwrap();
            assert!(taken.stopped.is_none(), "{:?}", taken.stopped);
            at += count;
            let is_whole = at >= records.len();
            assert_eq!(client.replica().is_partial(), !is_whole);
            match random.below(4) {
                // What was taken already is known.
                0 if !is_whole => at = at.saturating_sub(3),
                1 => client.reopen(),
                2 => {
                    client.replica = None;
                    std::fs::remove_file(client.root().join(".mezzo/index")).unwrap();
                    client.reopen();
                }
                _ => {}
            }
        }
        client.check();
        equal_trees(&server.root(), &client.root());
        // It goes on as if all records had been sent.
        for _ in 0..3 {
            (0..20).for_each(|_| work::step(&server, random.below(1 << 40)));
            exchange(&server, &client);
            equal_trees(&server.root(), &client.root());
            let before = client.replica().last();
            exchange(&server, &client);
            assert_eq!(client.replica().last(), before, "something counted twice");
        }
        client.check();
        // And what the client makes is all that it sends.
        (0..10).for_each(|_| work::step(&client, random.below(1 << 40)));
        let own = client.replica().fileset().config.replica;
        let reader = client.replica().log_reader().unwrap();
        let facts = server.replica().facts().unwrap();
        let mut known = mezzo_replica::exchange::Known::new(facts.heads);
        let upto = client.replica().last();
        let batch = client.replica().outgoing(&reader, (Recno(0), upto), &mut known).unwrap();
        let sent = records_of(&batch.frames).unwrap();
        assert!(sent.iter().all(|record| record.origin.replica == own), "{sent:#?}");
        exchange(&client, &server);
        equal_trees(&server.root(), &client.root());
    }
}

#[test]
fn a_snapshot_is_of_one_moment_and_kept_while_others_go_on() {
    let mut random = Random::new(seed());
    let server = worked(&mut random, 100);
    let before = work::snapshot(&server);
    let mut snapshot = server.replica().snapshot(None).unwrap();
    let at = snapshot.at;
    (0..50).for_each(|_| work::step(&server, random.below(1 << 40)));
    let mut again = server.replica().snapshot(Some(at)).unwrap();
    assert_eq!(again.at, at);
    let piece = snapshot.piece(0).unwrap();
    assert_eq!(again.piece(0).unwrap(), piece);
    assert_eq!(again.piece(2).unwrap().after, 2);
    let client = replica_of(&server);
    let records = records_of(&piece.frames).unwrap();
    let how = How { data: OnData::Count, judge: false };
    client.replica().receive(&records, how, &()).unwrap();
    // Names are those of that moment, whatever is there now.
    let names = |path: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".mezzo")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&client.root()), names(before.tree.path()));
}

#[test]
fn a_replica_that_has_records_takes_no_snapshot() {
    let mut random = Random::new(seed());
    let server = worked(&mut random, 30);
    let pieces = pieces(&server);
    let client = replica_of(&server);
    exchange(&server, &client);
    let last = client.replica().last();
    let records = records_of(&pieces[0].frames).unwrap();
    let other = Bench::in_memory();
    let how = How { data: OnData::Absent, judge: false };
    let taken = other.replica().receive(&records, how, &()).unwrap();
    assert!(matches!(taken.stopped.map(|stop| stop.why), Some(Why::Damaged(_)) | None));
    client.replica().receive(&records, how, &()).unwrap();
    assert_eq!(client.replica().last(), last, "what is there was taken again");
}

#[test]
fn what_a_log_begins_with_is_not_taken_back() {
    let mut random = Random::new(seed());
    let server = worked(&mut random, 60);
    let client = replica_of(&server);
    pieces(&server).iter().for_each(|piece| install(&client, &server, &piece.frames));
    let all = Selection { after: Recno(0), most: usize::MAX, takes: &|_| true, undos: false, along: false };
    let caller = mezzo_replica::Caller::program();
    let undone = client.replica().undo(&caller, &all, &());
    assert!(undone.is_err() || client.records().iter().all(|r| !matches!(r.change, Change::UndoOf { .. })));
    equal_trees(&server.root(), &client.root());
}
