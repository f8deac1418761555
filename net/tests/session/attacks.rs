//! What a client tries that was let in and wants more, one test for each; and what it is answered.

use std::time::Duration;

use mezzo_core::session::MESSAGE_BYTES;
use mezzo_core::session::message::{
    Ack, AskPermit, Body, Hello, Inline, Message, Permit, Ping, Position, Records, Refused, ReleasePermit,
    Snapshot, SnapshotAck, Welcome,
};
use mezzo_core::{Change, Device, FilesetId, IdMapping, Kind, ObjectId, Origin, Recno, Record, ReplicaId};
use mezzo_net::data::{Body as DataBody, DataMessage, Piece, Runs, Version, Want};
use mezzo_net::identity::Rights;
use mezzo_net::server::Policy;
use mezzo_replica::{Changes, NewNode};
use tokio::io::AsyncWriteExt;

use crate::common::{Guest, Heard, Host, ROOT, Speaker, name, records_after, user};

/// A client that has what the server has, and whose last records the server has not.
async fn with_work(host: &Host, work: impl FnOnce(&Guest)) -> (Guest, Vec<Record>) {
    let mut guest = host.writer().await;
    guest.take_all();
    let last = guest.bench.replica().last();
    work(&guest);
    let records = guest.sent_after(last);
    assert!(!records.is_empty());
    (guest, records)
}

/// Nothing of it is at the server, whose log has only what it had.
fn is_untouched(host: &Host, last: Recno, file: &str) {
    assert!(!host.bench.has(file), "{file} is there");
    assert_eq!(host.bench.replica().last(), last, "nothing is recorded");
}

fn refusal(refused: &Refused) -> (&str, &str) {
    (&refused.answer, &refused.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_read_rights() {
    let host = Host::start().await;
    let mut reader = host.client(Rights::Read, IdMapping::Same).await;
    reader.take_all();
    let last = host.bench.replica().last();
    reader.bench.write(0, "file", b"bytes");
    let records = reader.sent_after(Recno::NONE);
    let own: Vec<_> =
        records.into_iter().filter(|record| record.origin.replica == reader.bench.id()).collect();
    let refused = reader.is_refused(&own).await;
    assert_eq!(refusal(&refused), ("rights", "this client may read, and not write"));
    is_untouched(&host, last, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_another_clients_replica() {
    let host = Host::start().await;
    let (mut victim, _) = with_work(&host, |victim| _ = victim.bench.write(0, "theirs", b"bytes")).await;
    victim.take_all();
    let (guest, mut records) = with_work(&host, |guest| _ = guest.bench.write(0, "file", b"bytes")).await;
    let last = host.bench.replica().last();
    let forged = Origin::new(victim.bench.id(), Recno(1_000_000));
    records[0].origin = forged;
    let refused = guest.is_refused(&records).await;
    assert_eq!(refused.answer, "permission");
    assert_eq!(refused.message, format!("replica {} is another client's", victim.bench.id()));
    is_untouched(&host, last, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_the_servers_own() {
    let host = Host::start().await;
    let (guest, mut records) = with_work(&host, |guest| _ = guest.bench.write(0, "file", b"bytes")).await;
    let last = host.bench.replica().last();
    for recno in [last.next(), Recno(1_000_000)] {
        records[0].origin = Origin::new(host.bench.id(), recno);
        let refused = guest.is_refused(&records).await;
        assert_eq!(refused.answer, "permission");
        assert_eq!(refused.message, format!("replica {} is the server's", host.bench.id()));
        is_untouched(&host, last, "file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_as_another_clients_replica() {
    let host = Host::start().await;
    let (mut victim, _) = with_work(&host, |victim| _ = victim.bench.write(0, "theirs", b"bytes")).await;
    victim.take_all();
    let guest = host.writer().await;
    let theirs = victim.bench.id();
    let ended = ("rights".to_owned(), format!("replica {theirs} is another client's"));

    let mut speaker = guest.speak().await;
    let hello = victim.hello();
    speaker.say(Body::Hello(hello.clone())).await;
    assert_eq!(speaker.is_ended().await, ended);

    // Under its own id, as if it had been theirs before.
    let mut speaker = guest.speak().await;
    let mut hello = guest.hello();
    hello.ids.insert(0, Position::new(theirs, Recno(1)));
    hello.last = 1_000_000;
    speaker.say(Body::Hello(hello)).await;
    assert_eq!(speaker.is_ended().await, ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_as_the_server() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let server = host.bench.id();
    for is_earlier in [false, true] {
        let mut speaker = guest.speak().await;
        let mut hello = guest.hello();
        match is_earlier {
            true => hello.ids.insert(0, Position::new(server, Recno(1))),
            false => hello.replica = server.0,
        }
        speaker.say(Body::Hello(hello)).await;
        let ended = speaker.is_ended().await;
        assert_eq!(ended, ("rights".to_owned(), format!("replica {server} is the server's")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_replicas_than_a_client_can_have() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let mut speaker = guest.speak().await;
    let mut hello = guest.hello();
    hello.ids.extend((1..=70_000).map(|id| Position::new(ReplicaId(id), Recno(1))));
    speaker.say(Body::Hello(hello)).await;
    assert_eq!(speaker.is_ended().await.0, "protocol");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_for_another_fileset() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let mut speaker = guest.speak().await;
    let hello = guest.hello();
    speaker.say(Body::Hello(Hello { fileset: FilesetId([9; 16]).0.to_vec(), ..hello })).await;
    assert_eq!(speaker.is_ended().await, ("fileset".to_owned(), "this is another fileset".to_owned()));
}

/// Records of one who may be `uid`, sent by one whose users are mapped.
async fn under(mapping: IdMapping, change: impl FnOnce(&mut Vec<Record>)) -> (Host, Recno, Body) {
    let host = Host::start().await;
    let mut guest = host.client(Rights::ReadWrite, mapping).await;
    guest.take_all();
    let last = guest.bench.replica().last();
    guest.bench.write(2000, "file", b"bytes");
    let mut records = guest.sent_after(last);
    change(&mut records);
    let before = host.bench.replica().last();
    let answer = guest.sends(&records).await;
    (host, before, answer)
}

fn permission(answer: Body) -> String {
    let Body::Refused(refused) = answer else { panic!("the answer was {answer:?}") };
    assert_eq!((refused.answer.as_str(), refused.class.as_str()), ("permission", "permission"));
    refused.message
}

fn as_user(record: &mut Record, uid: u32, gid: u32, groups: &[u32]) {
    (record.who.uid, record.who.gid, record.who.groups) = (uid, gid, groups.into());
}

fn owned_by(record: &mut Record, uid: u32, gid: u32) {
    let Change::Make { state, .. } = &mut record.change else { panic!("{record:?}") };
    (state.attributes.uid, state.attributes.gid) = (uid, gid);
}

const ALL: fn() -> IdMapping = || "all:2000:2000".parse().unwrap();
const TABLE: fn() -> IdMapping = || "table:u1000=2000,g1000=2000".parse().unwrap();

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_that_the_mapping_names_are_no_attack() {
    for mapping in [IdMapping::Same, ALL(), TABLE()] {
        let (host, _, answer) = under(mapping, |_| {}).await;
        assert!(matches!(answer, Body::Ack(_)), "{answer:?}");
        assert!(host.bench.has("file"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_in_the_name_of_a_user_that_the_mapping_does_not_name() {
    for mapping in [ALL(), TABLE()] {
        for (uid, gid, groups, who) in [
            (0, 2000, &[][..], "user 0"),
            (1000, 2000, &[], "user 1000"),
            (2000, 0, &[], "group 0"),
            (2000, 2000, &[2000, 6], "group 6"),
        ] {
            let (host, last, answer) =
                under(mapping.clone(), |records| as_user(&mut records[0], uid, gid, groups)).await;
            let message = permission(answer);
            assert_eq!(message, format!("the client may not act for, or give anything to, {who}"));
            is_untouched(&host, last, "file");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_given_to_a_user_that_the_mapping_does_not_name() {
    for mapping in [ALL(), TABLE()] {
        for (uid, gid, who) in [(0, 2000, "user 0"), (2000, 0, "group")] {
            let (host, last, answer) =
                under(mapping.clone(), |records| owned_by(&mut records[0], uid, gid)).await;
            let message = permission(answer);
            assert!(message.contains(who), "{message}");
            is_untouched(&host, last, "file");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_user_who_may_not() {
    // Where the ids are the same, a user is believed to be one, and may do what that one may at the server.
    let host = Host::start().await;
    host.bench.replica().make(&user(0), ROOT, &name("private"), NewNode::Directory(0o700)).unwrap();
    let (guest, mut records) = with_work(&host, |guest| {
        let private = guest.bench.replica().meet(ROOT, &name("private")).unwrap().unwrap().entry.object;
        guest.bench.replica().create_file(&user(0), private, &name("file"), 0o644).unwrap();
    })
    .await;
    let last = host.bench.replica().last();
    as_user(&mut records[0], 1000, 1000, &[]);
    let refused = guest.is_refused(&records).await;
    assert_eq!((refused.answer.as_str(), refused.class.as_str()), ("permission", "permission"));
    is_untouched(&host, last, "private/file");
}

fn chmod(guest: &Guest, file: &str, mode: u32) {
    let object = guest.bench.replica().meet(ROOT, &name(file)).unwrap().unwrap().entry.object;
    let changes = Changes { mode: Some(mode), ..Changes::default() };
    guest.bench.replica().set_attributes(&user(0), object, &changes).unwrap();
}

/// Sends the last record of `work` after those before it, and returns how it is refused.
async fn last_is_refused(
    host: &Host,
    change: impl FnOnce(&mut Record),
    work: impl FnOnce(&Guest),
) -> Refused {
    let (guest, mut records) = with_work(host, work).await;
    change(records.last_mut().unwrap());
    let refused = guest.is_refused(&records).await;
    assert_eq!(refused.recno, records.last().unwrap().recno.0);
    refused
}

const NO_SET_ID: &str = "clients may make no set-id programs here (peers.allow_set_id)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_id_program() {
    let host = Host::start().await;
    let mode = |file: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(host.bench.root().join(file)).unwrap().mode() & 0o7777
    };
    for bits in [0o4000, 0o2000] {
        let made = format!("made-{bits:o}");
        let refused = last_is_refused(
            &host,
            |_| {},
            |guest| {
                guest.bench.replica().create_file(&user(0), ROOT, &name(&made), 0o755 | bits).unwrap();
            },
        )
        .await;
        assert_eq!(refused.message, NO_SET_ID);
        assert!(!host.bench.has(&made));

        let changed = format!("changed-{bits:o}");
        let refused = last_is_refused(
            &host,
            |_| {},
            |guest| {
                guest.bench.replica().create_file(&user(0), ROOT, &name(&changed), 0o755).unwrap();
                chmod(guest, &changed, 0o755 | bits);
            },
        )
        .await;
        assert_eq!(refused.message, NO_SET_ID);
        assert_eq!(mode(&changed), 0o755, "it was made, as the record before said");

        // As if it were a directory, which may have them.
        let told = format!("told-{bits:o}");
        let refused = last_is_refused(
            &host,
            |record| {
                let Change::Setattr { attributes, .. } = &mut record.change else { panic!("{record:?}") };
                (attributes.before.kind, attributes.after.kind) = (Kind::Directory, Kind::Directory);
            },
            |guest| {
                guest.bench.replica().create_file(&user(0), ROOT, &name(&told), 0o755).unwrap();
                chmod(guest, &told, 0o755 | bits);
            },
        )
        .await;
        assert_eq!(refused.answer, "damage");
        assert_eq!(mode(&told), 0o755);

        // As if it had them before.
        let before = format!("before-{bits:o}");
        let (guest, mut records) = with_work(&host, |guest| {
            guest.bench.replica().create_file(&user(0), ROOT, &name(&before), 0o755).unwrap();
            chmod(guest, &before, 0o755 | bits);
        })
        .await;
        let Change::Setattr { attributes, .. } = &mut records.last_mut().unwrap().change else { panic!() };
        attributes.before.mode = attributes.after.mode;
        // It counts as no change of the mode then.
        let answer = guest.sends(&records).await;
        assert!(matches!(answer, Body::Ack(_)), "{answer:?}");
        assert_eq!(mode(&before), 0o755);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_file_capabilities() {
    let host = Host::start().await;
    // CAP_DAC_OVERRIDE, permitted and effective.
    let capability = [1, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let refused = last_is_refused(
        &host,
        |_| {},
        |guest| {
            let file = guest.bench.write(0, "program", b"#!/bin/sh");
            let attribute = (&b"security.capability"[..], &capability[..]);
            guest.bench.replica().set_xattr(&user(0), file, attribute, 0, false).unwrap();
        },
    )
    .await;
    assert_eq!(refused.message, NO_SET_ID);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device() {
    let host = Host::start().await;
    for (file, kind) in [("null", Kind::CharDevice), ("disk", Kind::BlockDevice)] {
        let refused = last_is_refused(
            &host,
            |_| {},
            |guest| {
                let node = NewNode::Node(kind, 0o666, Device { major: 1, minor: 3 });
                guest.bench.replica().make(&user(0), ROOT, &name(file), node).unwrap();
            },
        )
        .await;
        assert_eq!(refused.message, "clients may make no devices here (peers.allow_devices)");
        assert!(!host.bench.has(file));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_allows_is_no_attack() {
    let host = Host::with(Policy { allow_set_id: true, allow_devices: true }).await;
    let mut guest = host.writer().await;
    guest.connect();
    guest.sync();
    guest.bench.replica().create_file(&user(0), ROOT, &name("program"), 0o4755).unwrap();
    let node = NewNode::Node(Kind::CharDevice, 0o666, Device { major: 1, minor: 3 });
    guest.bench.replica().make(&user(0), ROOT, &name("null"), node).unwrap();
    guest.sync();
    assert!(host.bench.has("program") && host.bench.has("null"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_too_long() {
    let host = Host::start().await;
    let (mut speaker, _) = host.writer().await.greet().await;
    let length = (MESSAGE_BYTES + 2048) as u32;
    speaker.raw().write_all(&length.to_le_bytes()).await.unwrap();
    speaker.raw().flush().await.unwrap();
    let end = loop {
        match speaker.hear_anything().await {
            Heard::End(end) => break end,
            Heard::Session(Body::Goodbye(goodbye)) => break goodbye.message,
            Heard::Session(_) | Heard::Data(_) => {}
        }
    };
    println!("{end}");
    others_are_served(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_nothing() {
    let host = Host::start().await;
    let guest = host.writer().await;
    for frame in [&[][..], &[0xff, 1, 2], &[0x10, 0xff, 0xff, 0xff], &[0x11, 0xff]] {
        let (mut speaker, _) = guest.greet().await;
        speaker.raw().write_all(&(frame.len() as u32).to_le_bytes()).await.unwrap();
        speaker.raw().write_all(frame).await.unwrap();
        speaker.raw().flush().await.unwrap();
        assert_eq!(speaker.is_ended().await.0, "protocol");
    }
    others_are_served(&host).await;
}

/// Somebody else notices nothing.
async fn others_are_served(host: &Host) {
    let mut other = host.writer().await;
    other.connect();
    other.bench.write(0, "of-another", b"bytes");
    other.sync();
    assert!(host.bench.has("of-another"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_whose_answers_are_not_read() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let (mut speaker, _) = guest.greet().await;
    let mut frame = vec![0x10];
    prost::Message::encode(&Message::from(Body::Ping(Ping { number: 7, last: 0 })), &mut frame).unwrap();
    let mut frames = Vec::new();
    for _ in 0..10_000 {
        frames.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        frames.extend_from_slice(&frame);
    }
    // It stops reading when as much waits to be written as may, so that its memory is bounded.
    let mut sent = 0;
    let flood = async {
        while let Ok(count) = speaker.raw().write(&frames[sent % frames.len()..]).await {
            sent += count;
        }
    };
    let is_stopped = tokio::time::timeout(Duration::from_secs(5), flood).await;
    assert!(is_stopped.is_err(), "it was read on, or cut off, after {sent} bytes");
    assert!(sent < 64 << 20, "{sent} bytes of questions were taken");
    others_are_served(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_records_than_the_window() {
    let host = Host::start().await;
    let (mut guest, large) = (host.writer().await, vec![7; 1 << 20]);
    guest.take_all();
    let last = guest.bench.replica().last();
    guest.bench.write(0, "file", &large);
    let records = guest.sent_after(last);
    let (mut speaker, welcome) = guest.greet().await;
    // It takes the server a while to do these, as it waits for data that does not come.
    speaker.say(records_after(welcome.received, &records)).await;
    let upto = records.last().unwrap().recno.0;
    let data = vec![Inline { replica: 1, recno: 1, bytes: vec![0; 12 << 20] }];
    for at in 0..4 {
        let (after, upto, data) = (upto + at, upto + at + 1, data.clone());
        speaker.say(Body::Records(Records { after, upto, data, ..Records::default() })).await;
    }
    let ended = speaker.is_ended().await;
    assert_eq!(ended.0, "protocol");
    assert!(ended.1.ends_with("which are more than were asked for"), "{}", ended.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_sends_slowly() {
    let host = Host::start().await;
    let (mut speaker, _) = host.writer().await.greet().await;
    speaker.raw().write_all(&1000u32.to_le_bytes()).await.unwrap();
    let begun = std::time::Instant::now();
    let mut writer = speaker.take_writer();
    let dribble = tokio::spawn(async move {
        while writer.write_all(&[0x10]).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    is_given_up(&mut speaker).await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    dribble.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_never_greets() {
    let host = Host::start().await;
    let mut speaker = host.writer().await.speak().await;
    is_given_up(&mut speaker).await;
}

/// After some seconds without a message, which is not told to who does not listen anyway.
async fn is_given_up(speaker: &mut Speaker) {
    loop {
        match speaker.hear_anything().await {
            Heard::Session(Body::Ping(_) | Body::Records(_)) => {}
            Heard::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_do_not_follow() {
    let host = Host::start().await;
    let (guest, records) = with_work(&host, |guest| _ = guest.bench.write(0, "file", b"bytes")).await;
    let last = host.bench.replica().last();
    for after in [0, 1_000_000, u64::MAX - 1] {
        let (mut speaker, _) = guest.greet().await;
        speaker.say(records_after(after, &records)).await;
        let (reason, message) = speaker.is_ended().await;
        assert_eq!(reason, "protocol");
        assert!(message.contains("came behind record"), "{message}");
    }
    // Frames in another order than their numbers.
    let mut turned = records.clone();
    turned.reverse();
    let (mut speaker, welcome) = guest.greet().await;
    let Body::Records(mut message) = records_after(welcome.received, &turned) else { panic!() };
    message.upto = records.last().unwrap().recno.0;
    speaker.say(Body::Records(message)).await;
    let Body::Refused(refused) = speaker.answer().await else { panic!("not refused") };
    assert_eq!(refused.answer, "damage");
    is_untouched(&host, last, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_records_that_are_damaged() {
    let host = Host::start().await;
    let (guest, records) = with_work(&host, |guest| _ = guest.bench.write(0, "file", b"bytes")).await;
    let last = host.bench.replica().last();
    let (mut speaker, welcome) = guest.greet().await;
    let Body::Records(mut message) = records_after(welcome.received, &records) else { panic!() };
    let middle = message.frames.len() / 4;
    message.frames[middle] ^= 0x40;
    speaker.say(Body::Records(message)).await;
    let Body::Refused(refused) = speaker.answer().await else { panic!("not refused") };
    assert_eq!(refused.answer, "damage");
    is_untouched(&host, last, "file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_of_what_was_not_sent() {
    let host = Host::start().await;
    let guest = host.writer().await;
    for upto in [1_000_000, u64::MAX] {
        let (mut speaker, _) = guest.greet().await;
        speaker.say(Body::Ack(Ack { upto })).await;
        let (reason, message) = speaker.is_ended().await;
        assert_eq!(reason, "protocol");
        assert!(message.contains("was acknowledged"), "{message}");
    }
}

/// Sends records of a file whose data is asked for, and returns the question for it.
async fn asked_for_data(host: &Host) -> (Guest, Speaker, u64, Want) {
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    let (guest, records) = with_work(host, |guest| _ = guest.bench.write(0, "file", &bytes)).await;
    let (mut speaker, welcome) = guest.greet().await;
    speaker.say(records_after(welcome.received, &records)).await;
    loop {
        match speaker.hear_anything().await {
            Heard::Data(DataMessage { number, body: Some(DataBody::Want(want)) }) => {
                return (guest, speaker, number, want);
            }
            Heard::Session(Body::Records(records)) => {
                speaker.say(Body::Ack(Ack { upto: records.upto })).await
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A piece of bytes as they are, and its head.
fn piece(number: u64, offset: u64, bytes: &[u8], checksum: Option<u32>) -> (Piece, Vec<u8>) {
    (Piece { number, offset, length: bytes.len() as u64, is_compressed: false, checksum }, bytes.to_vec())
}

/// One of zeros that says of itself how long it is.
fn squeezed(number: u64, length: u64) -> (Piece, Vec<u8>) {
    let checksum = Some(crc32c::crc32c(&vec![0; length as usize]));
    let bytes = zstd::bulk::compress(&[0; 600_000], 1).unwrap();
    (Piece { number, offset: 0, length, is_compressed: true, checksum }, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_not_what_was_asked_for() {
    let bytes = [7; 1000];
    let checksum = Some(crc32c::crc32c(&bytes));
    type Lie<'l> = &'l dyn Fn(u64) -> (Piece, Vec<u8>);
    let lies: [(&str, Lie); 6] = [
        ("a wrong checksum", &|number| piece(number, 0, &bytes, Some(1))),
        ("no checksum, though it was asked for", &|number| piece(number, 0, &bytes, None)),
        ("another offset", &|number| piece(number, 5000, &bytes, checksum)),
        ("nothing", &|number| piece(number, 0, &[], Some(crc32c::crc32c(&[])))),
        ("more than it says, compressed", &|number| squeezed(number, 1000)),
        ("more than a piece has", &|number| squeezed(number, 600_000)),
    ];
    for (what, lie) in lies {
        let host = Host::start().await;
        let (_guest, mut speaker, number, _) = asked_for_data(&host).await;
        let (head, bytes) = lie(number);
        speaker.say_piece(&head, &bytes).await;
        loop {
            match speaker.hear_anything().await {
                Heard::Data(DataMessage { number: stopped, body: Some(DataBody::Stop(_)) }) => {
                    break assert_eq!(stopped, number, "{what}");
                }
                Heard::Session(Body::Ping(_) | Body::Records(_)) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
        assert!(host.bench.read("file").is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_version_that_nobody_asked_for() {
    let host = Host::start().await;
    host.bench.write(0, "file", b"the server's");
    let (mut speaker, _) = host.writer().await.greet().await;
    let bytes = b"an attacker's";
    for number in [1, 2, u64::MAX] {
        let (head, bytes) = piece(number, 0, bytes, Some(crc32c::crc32c(bytes)));
        speaker.say_piece(&head, &bytes).await;
    }
    // It is as if nothing had been said.
    speaker.say(Body::Ping(Ping { number: 7, last: 0 })).await;
    assert!(matches!(speaker.answer().await, Body::Pong(Ping { number: 7, .. })));
    assert_eq!(host.bench.read("file").unwrap(), b"the server's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_for_data_that_is_not_there() {
    let host = Host::start().await;
    let file = host.bench.write(0, "file", b"the server's");
    let ObjectId(origin) = file;
    let guest = host.writer().await;
    let (mut speaker, _) = guest.greet().await;
    for (number, version, size) in [(1, 1_000_000, 12), (2, 1_000_000, u64::MAX), (3, u64::MAX, 1 << 40)] {
        let version = Version {
            object_replica: origin.replica.0,
            object_recno: origin.recno.0,
            version_replica: origin.replica.0,
            version_recno: version,
            size,
        };
        let runs = Runs { runs: vec![0, size], may_follow: false };
        let want = Want { version, runs, answers: u64::MAX, with_checksums: true };
        speaker.say_data(&DataMessage { number, body: Some(DataBody::Want(want)) }).await;
        let answer = loop {
            match speaker.hear_anything().await {
                Heard::Data(answer) => break answer,
                Heard::Session(_) => {}
                Heard::End(end) => panic!("{end}"),
            }
        };
        assert_eq!(answer.number, number);
        assert!(matches!(answer.body, Some(DataBody::Gone(_))), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_revoked_while_it_is_connected() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let (mut speaker, _) = guest.greet().await;
    host.identity.revoke(guest.identity().client()).unwrap();
    assert_eq!(speaker.is_ended().await, ("rights".to_owned(), "the client was revoked".to_owned()));
    host.bench.write(0, "secret", b"bytes");
    let again = guest.identity().connect().await;
    if let Ok(stream) = again {
        // TLS tells a client only after its own handshake is done.
        let (from, _to) = tokio::io::split(stream);
        let mut frames = mezzo_net::frame::FrameReader::new(from, Default::default());
        assert!(!matches!(frames.next().await, Ok(Some(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connections_of_one_client() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let (mut first, _) = guest.greet().await;
    let (mut second, _) = guest.greet().await;
    let ended = ("wanted".to_owned(), "the client has another connection".to_owned());
    assert_eq!(first.is_ended().await, ended);
    second.say(Body::Ping(Ping { number: 1, last: 0 })).await;
    assert!(matches!(second.answer().await, Body::Pong(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_the_wrong_state() {
    let host = Host::start().await;
    let guest = host.writer().await;
    let records = Body::Records(Records { upto: 1, ..Records::default() });
    let snapshot = Body::Snapshot(Snapshot { is_last: true, ..Snapshot::default() });
    let release = Body::ReleasePermit(ReleasePermit { epoch: 1 });
    for body in [
        records,
        Body::Ack(Ack { upto: 0 }),
        Body::Refused(Refused::default()),
        Body::AskPermit(AskPermit { steal: true }),
        release,
        Body::Welcome(Welcome::default()),
        snapshot.clone(),
    ] {
        let mut speaker = guest.speak().await;
        speaker.say(body.clone()).await;
        let (reason, message) = speaker.is_ended().await;
        assert_eq!(reason, "protocol", "{body:?}");
        assert!(message.ends_with("came before any hello"), "{message}");
    }
    for body in [
        Body::Hello(guest.hello()),
        Body::Welcome(Welcome::default()),
        Body::Permit(Permit { epoch: 9, holder: guest.bench.id().0, ..Permit::default() }),
        snapshot,
        Body::SnapshotAck(SnapshotAck { upto: 1 }),
    ] {
        let (mut speaker, _) = guest.greet().await;
        speaker.say(body.clone()).await;
        let (reason, message) = speaker.is_ended().await;
        assert_eq!(reason, "protocol", "{body:?}");
        assert!(message.ends_with("came in a session that is open"), "{message}");
    }
}
