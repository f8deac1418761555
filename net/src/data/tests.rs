//! Others that send what was not asked for.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use mezzo_core::{DataVersion, ObjectId};
use mezzo_replica::receive::Sought;
use prost::Message as _;

use super::chunks::{Chunk, Lengths, Told};
use super::*;
use crate::session::{Frame, Sender, Urgency, open};

const SIZE: u64 = 2 << 20;

/// What who has the data does when it is asked something.
type Script = fn(u64, &Body, &Sender);

/// Asks `script` for a version, of which something is here where it asks for chunks.
fn ask(script: Script, is_partial: bool) -> Result<Moved, NotFetched> {
    let fetches = Fetches::new();
    let (asks, answers) = tokio::io::duplex(64 << 10);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let heard = fetches.clone();
    let connection = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut asks, asker, _) = open(asks);
            let (mut answers, answerer, _) = open(answers);
            heard.connect(Some(asker));
            ready.send(()).unwrap();
            // Answers wait for room, which must not be on this thread.
            let (questions, asked) = std::sync::mpsc::channel::<DataMessage>();
            std::thread::spawn(move || {
                for message in asked {
                    script(message.number, &message.body.unwrap(), &answerer);
                }
            });
            loop {
                tokio::select! {
                    frame = asks.next() => {
                        let Ok(Some(frame)) = frame else { break };
                        let taken = match Frame::read(&frame).unwrap() {
                            Frame::Piece(piece, bytes) => heard.hear(piece.number, Answer::Piece(piece, bytes)),
                            Frame::Data(DataMessage { number, body: Some(Body::Chunks(chunks)) }) => {
                                heard.hear(number, Answer::Chunks(chunks))
                            }
                            _ => Ok(()),
                        };
                        if taken.is_err() {
                            break;
                        }
                    }
                    frame = answers.next() => {
                        let Ok(Some(frame)) = frame else { break };
                        let Frame::Data(message) = Frame::read(&frame).unwrap() else { continue };
                        if matches!(message.body, Some(Body::Stop(_))) {
                            break;
                        }
                        questions.send(message).unwrap();
                    }
                }
            }
            heard.connect(None);
        });
    });
    is_ready.recv().unwrap();
    let to = tempfile::tempfile().unwrap();
    to.write_all_at(b"something", 0).unwrap();
    let (object, version) = (ObjectId::ROOT, DataVersion(ObjectId::ROOT.0));
    let sought = Sought { object, version, size: SIZE, to: to.as_fd(), is_partial, older: None };
    let fetched = fetches.fetch(&sought, None, &|| true);
    fetches.connect(None);
    connection.join().unwrap();
    fetched
}

fn send_piece(to: &Sender, number: u64, (offset, length): (u64, u64), bytes: &[u8]) {
    let digest = Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
    let piece = Piece { number, offset, length, is_compressed: false, digest };
    to.piece(&piece, Bytes::copy_from_slice(bytes));
}

fn send_chunks(to: &Sender, number: u64, lengths: Vec<u64>, digest: [u8; 32]) {
    let chunks: Vec<Chunk> = lengths.into_iter().map(|length| Chunk { length, digest }).collect();
    to.data(&DataMessage::new(number, Body::Chunks(Chunks::of(&chunks))), Urgency::Waits);
}

/// Tells true chunks of bytes that are all ones.
fn describe_ones(number: u64, to: &Sender) {
    let digest = *blake3::hash(&[1; 128 << 10]).as_bytes();
    send_chunks(to, number, vec![128 << 10; 16], digest);
}

#[test]
fn what_was_not_asked_for_is_found_out() {
    let check = |name: &str, is_partial, expected: &str, script: Script| {
        let error = ask(script, is_partial).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    };
    let wrong = "not what was asked for";
    check("bytes that are not what their digest says", false, "does not fit", |number, body, to| {
        if matches!(body, Body::Want(_)) {
            let digest = Bytes::from_static(&[7; 32]);
            let piece = Piece { number, offset: 0, length: 9, is_compressed: false, digest };
            to.piece(&piece, Bytes::from_static(b"nine byte"));
        }
    });
    check("no digest", false, "does not fit", |number, body, to| {
        if matches!(body, Body::Want(_)) {
            let piece = Piece { number, length: 1, ..Piece::default() };
            to.piece(&piece, Bytes::from_static(b"1"));
        }
    });
    check("another place", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            send_piece(to, number, (5, 1), b"1");
        }
    });
    check("nothing", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            send_piece(to, number, (0, 0), b"");
        }
    });
    check("more than the file has", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            send_piece(to, number, (0, SIZE + 1), b"");
        }
    });
    check("more than a piece has", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            send_piece(to, number, (0, 300 << 10), &[1; 300 << 10]);
        }
    });
    check("fewer than it says", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            send_piece(to, number, (0, 2), b"1");
        }
    });
    check("more than it says when it is unpacked", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            let bytes = zstd::bulk::compress(&[1; 8 << 20], 1).unwrap();
            let digest = Bytes::copy_from_slice(blake3::hash(&[1; 10]).as_bytes());
            to.piece(&Piece { number, offset: 0, length: 10, is_compressed: true, digest }, bytes.into());
        }
    });
    check("chunks instead of bytes", false, wrong, |number, body, to| {
        if matches!(body, Body::Want(_)) {
            describe_ones(number, to);
        }
    });
    check("more pieces than may come", false, "no connection", |number, body, to| {
        if matches!(body, Body::Want(_)) {
            for at in 0..200 {
                send_piece(to, number, (at, 1), b"1");
            }
            // What is not taken is not waited for.
            for _ in 0..10_000 {
                send_piece(to, number, (SIZE, 1), b"1");
            }
        }
    });

    check("a chunk that is another", true, "is another", |number, body, to| match body {
        Body::Describe(_) => describe_ones(number, to),
        Body::Want(_) => send_piece(to, number, (0, 256 << 10), &[2; 256 << 10]),
        _ => {}
    });
    check("a chunk of which a part is another", true, "is another", |number, body, to| match body {
        Body::Describe(_) => describe_ones(number, to),
        Body::Want(_) => {
            send_piece(to, number, (0, 200 << 10), &[1; 200 << 10]);
            send_piece(to, number, (200 << 10, 56 << 10), &[0; 56 << 10]);
        }
        _ => {}
    });
    check("zeros that are none", true, "is another", |number, body, to| match body {
        Body::Describe(_) => describe_ones(number, to),
        Body::Want(_) => send_piece(to, number, (0, SIZE), b""),
        _ => {}
    });
    check("chunks of no length", true, wrong, |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            send_chunks(to, number, vec![0; 4], [1; 32]);
        }
    });
    check("chunks of one byte, for ever", true, wrong, |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            send_chunks(to, number, vec![1; 1024], [1; 32]);
        }
    });
    check("zeros after zeros", true, wrong, |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            send_chunks(to, number, vec![64 << 10; 1024], [0; 32]);
        }
    });
    check("more chunks than the file has", true, wrong, |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            send_chunks(to, number, vec![256 << 10; 9], [1; 32]);
        }
    });
    check("a chunk beyond any file", true, wrong, |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            send_chunks(to, number, vec![u64::MAX], [0; 32]);
        }
    });
    check("chunks without their digests", true, "bytes of digests", |number, body, to| {
        if matches!(body, Body::Describe(_)) {
            let chunks = Chunks { lengths: vec![128 << 10; 16], digests: Bytes::from_static(&[1; 33]) };
            to.data(&DataMessage::new(number, Body::Chunks(chunks)), Urgency::Waits);
        }
    });
    check("nothing, for ever", true, "nothing came", |number, body, to| {
        if let Body::Describe(Describe { answers, .. }) | Body::More(More { answers }) = &body.clone() {
            let more = if *answers == WINDOW { WINDOW } else { WINDOW / 2 };
            (0..more).for_each(|_| send_chunks(to, number, vec![], [1; 32]));
        }
    });
    assert!(matches!(
        ask(
            |number, body, to| match body {
                Body::Describe(_) => describe_ones(number, to),
                Body::Want(_) => {
                    (0..8).for_each(|at| send_piece(to, number, (at << 18, 1 << 18), &[1; 1 << 18]));
                }
                _ => {}
            },
            true
        ),
        Ok(Moved { came: SIZE, found: 0 })
    ));
}

#[test]
fn chunks_of_any_size_are_told_as_they_are_cut() {
    let mut noise = vec![0; 3 << 20];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
    // Bytes of noise, each followed by so many zeros.
    let check = |parts: &[(usize, u64)], has_zeros: bool| {
        let file = tempfile::tempfile().unwrap();
        let (mut at, mut from) = (0, 0);
        for (bytes, zeros) in parts {
            file.write_all_at(&noise[from..from + bytes], at).unwrap();
            (from, at) = (from + bytes, at + *bytes as u64 + zeros);
        }
        file.set_len(at).unwrap();
        let lengths = Lengths::of(at).unwrap();
        let mut chunks = Vec::new();
        let mut reading = mezzo_replica::reading::Reading::of(file.try_clone().unwrap());
        let is_cut = super::chunks::cut(&mut reading, lengths, &mut |chunk| {
            chunks.push(chunk);
            true
        });
        assert!(is_cut.unwrap().unwrap());
        let mut told = Told::new(at, lengths);
        for some in chunks.chunks(CHUNKS) {
            let message = Chunks::of(some);
            let message = Chunks::decode(&*message.encode_to_vec()).unwrap();
            for (at, chunk) in told.take(&message).unwrap_or_else(|why| panic!("{parts:?}: {why}")) {
                let mut bytes = vec![0; chunk.length as usize];
                file.read_exact_at(&mut bytes, at).unwrap();
                match chunk.is_zeros() {
                    true => assert!(bytes.iter().all(|byte| *byte == 0)),
                    false => assert_eq!(blake3::hash(&bytes).as_bytes(), &chunk.digest),
                }
            }
        }
        assert!(told.is_whole(), "{parts:?}");
        assert_eq!(chunks.iter().any(Chunk::is_zeros), has_zeros, "{parts:?}");
    };
    check(&[(1, 0)], false);
    check(&[(100, 1)], false);
    check(&[(3 << 20, 0)], false);
    check(&[(0, 5 << 20)], true);
    check(&[(100, 100 << 10), (100, 30 << 10), (1 << 20, 64 << 10), (1 << 20, 1)], true);
    check(&[(0, 70_001), (70_001, 70_001), (1, 70_001), (70_001, 0)], true);
}
