//! Frames over a pipe, with peers that are slow, cut off, or announce too much.

use std::time::Duration;

use mezzo_net::frame::{FrameError, FrameLimits, FrameReader, FrameWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

const LIMITS: FrameLimits = FrameLimits { bytes: 1000, time: Duration::from_secs(30) };

fn pair(buffer: usize) -> (FrameWriter<DuplexStream>, FrameReader<DuplexStream>) {
    let (to, from) = duplex(buffer);
    (FrameWriter::new(to, LIMITS), FrameReader::new(from, LIMITS))
}

#[tokio::test]
async fn frames_come_as_they_were_sent() {
    for buffer in [1, 7, 1 << 16] {
        let (mut writer, mut reader) = pair(buffer);
        let sender = tokio::spawn(async move {
            for parts in [&[&b""[..]][..], &[b"one"], &[b"two ", b"", b"parts"], &[&[7; 1000]]] {
                writer.write(parts).await.unwrap();
            }
            writer.shut_down().await.unwrap();
        });
        for frame in [&b""[..], b"one", b"two parts", &[7; 1000]] {
            assert_eq!(reader.next().await.unwrap().unwrap(), frame);
        }
        assert_eq!(reader.next().await.unwrap(), None);
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn the_layout_is_a_length_and_the_bytes() {
    let (to, mut from) = duplex(100);
    let mut writer = FrameWriter::new(to, LIMITS);
    writer.write(&[b"abc"]).await.unwrap();
    drop(writer);
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"\x03\0\0\0abc");
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_refused_by_both_sides() {
    let (mut writer, _reader) = pair(100);
    let refused = writer.write(&[&[0; 600], &[0; 401]]).await;
    assert!(matches!(refused, Err(FrameError::TooLong { length: 1001, limit: 1000 })), "{refused:?}");
    writer.write(&[b"short"]).await.unwrap();

    let (mut to, from) = duplex(100);
    to.write_all(&1001u32.to_le_bytes()).await.unwrap();
    let refused = FrameReader::new(from, LIMITS).next().await;
    assert!(matches!(refused, Err(FrameError::TooLong { length: 1001, limit: 1000 })), "{refused:?}");
}

#[tokio::test]
async fn long_frames_stay_as_they_came_as_long_as_somebody_has_them() {
    let limits = FrameLimits { bytes: 1 << 20, ..LIMITS };
    let (to, from) = duplex(1 << 16);
    let (mut writer, mut reader) = (FrameWriter::new(to, limits), FrameReader::new(from, limits));
    let length_of = |number: u8| 60_000 + 5000 * usize::from(number % 7);
    let sender = tokio::spawn(async move {
        for number in 0..100 {
            writer.write(&[&[number; 3], &vec![number; length_of(number) - 3]]).await.unwrap();
        }
    });
    let mut held = std::collections::VecDeque::new();
    for number in 0..100u8 {
        held.push_back((number, reader.next().await.unwrap().unwrap()));
        // Of some that were handed out nobody has any left.
        if held.len() > usize::from(number % 12) {
            let (number, frame) = held.pop_front().unwrap();
            assert!(frame.len() == length_of(number) && frame.iter().all(|byte| *byte == number));
        }
    }
    assert!(held.iter().all(|(number, frame)| frame[..] == vec![*number; length_of(*number)]));
    sender.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_within_a_frame_was_cut() {
    let frame = [&9u32.to_le_bytes()[..], b"123456789"].concat();
    for length in 1..frame.len() {
        let (mut to, from) = duplex(100);
        to.write_all(&frame[..length]).await.unwrap();
        drop(to);
        let cut = FrameReader::new(from, LIMITS).next().await;
        assert!(matches!(cut, Err(FrameError::Cut(bytes)) if bytes == length), "{cut:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_sender_is_cut_off_and_an_idle_one_is_not() {
    let (mut to, from) = duplex(100);
    let mut reader = FrameReader::new(from, LIMITS);
    let sender = tokio::spawn(async move {
        // Nothing for an hour is no harm, nor is a frame that takes most of its time.
        sleep(Duration::from_secs(3600)).await;
        to.write_all(&2u32.to_le_bytes()).await.unwrap();
        sleep(Duration::from_secs(29)).await;
        to.write_all(b"ok").await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        // A byte now and then is not enough.
        for byte in [100, 0, 0, 0, 1, 2, 3] {
            to.write_u8(byte).await.unwrap();
            sleep(Duration::from_secs(8)).await;
        }
    });
    assert_eq!(reader.next().await.unwrap().unwrap(), &b"ok"[..]);
    let begun = Instant::now();
    let refused = reader.next().await;
    assert!(matches!(refused, Err(FrameError::TooSlow { operation: "read", .. })), "{refused:?}");
    assert_eq!(begun.elapsed().as_secs(), 3600 + 30);
    sender.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_cut_off() {
    let (mut writer, _reader) = pair(100);
    let begun = Instant::now();
    let refused = writer.write(&[&[0; 1000]]).await;
    assert!(matches!(refused, Err(FrameError::TooSlow { operation: "write", .. })), "{refused:?}");
    assert_eq!(begun.elapsed(), LIMITS.time);
    assert!(matches!(writer.write(&[b"more"]).await, Err(FrameError::Broken)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_given_up_loses_nothing() {
    let (mut writer, mut reader) = pair(3);
    let sender = tokio::spawn(async move {
        for number in 0..100u8 {
            writer.write(&[&[number; 10]]).await.unwrap();
            sleep(Duration::from_millis(7)).await;
        }
    });
    let mut frames = Vec::new();
    let mut given_up = 0;
    while frames.len() < 100 {
        tokio::select! {
            biased;
            frame = reader.next() => frames.push(frame.unwrap().unwrap()),
            () = tokio::task::yield_now() => given_up += 1,
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(given_up > 100, "{given_up}");
    assert!(frames.iter().zip(0..).all(|(frame, number)| **frame == [number; 10]));
    sender.await.unwrap();
}

#[tokio::test]
async fn a_length_alone_takes_no_memory() {
    let limits = FrameLimits { bytes: u32::MAX as usize, ..LIMITS };
    let (mut to, from) = duplex(100);
    to.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    to.write_all(b"a little").await.unwrap();
    drop(to);
    // Room for 4 GiB at once would be refused under this limit.
    let cut = FrameReader::new(from, limits).next().await;
    assert!(matches!(cut, Err(FrameError::Cut(12))), "{cut:?}");
}
