//! What is appended is read, whatever happened in between, and damage is told and never passed.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use mezzo_core::codec::{Cause, FrameError, OutOfOrder, Refused, SegmentError};
use mezzo_core::id::{DataVersion, Origin};
use mezzo_core::record::Change;
use mezzo_core::{ObjectId, Recno, Record, ReplicaId, Time, Who};
use tempfile::TempDir;

use super::segment::name_of;
use super::*;

const FILESET: [u8; 16] = [0xf5; 16];
const REPLICA: ReplicaId = ReplicaId(7);

/// Record `recno` behind `recno - 1`, with a few hundred bytes at most.
fn record(recno: u64) -> Record {
    let origin = Origin::new(REPLICA, Recno(recno));
    let change = match recno % 3 {
        0 => Change::Noop,
        1 => Change::Disable { record: origin, reason: "r".repeat(recno as usize * 7 % 300).into() },
        _ => Change::Digest {
            object: ObjectId(origin),
            version: DataVersion(origin),
            size: recno,
            digest: [9; 32],
        },
    };
    Record {
        recno: Recno(recno),
        previous: Recno(recno - 1),
        epoch: 1,
        origin,
        time: Time::new(1_790_000_000 + recno as i64, 5),
        who: Who { uid: 1000, program: (*b"test").into(), ..Who::default() },
        change,
    }
}

fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
    numbers.into_iter().map(record).collect()
}

/// In memory where that can be, since tests sync a lot.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// A log with records 1 to `count`, in segments of about `segment_bytes`.
fn log_in(directory: &Path, count: u64, segment_bytes: u64) -> Log {
    let mut log = Log::create(directory, FILESET, REPLICA, 1).unwrap();
    log.segment_bytes = segment_bytes;
    (1..=count).for_each(|recno| log.append(&record(recno)).unwrap());
    log
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "kml")).collect();
    segments.sort();
    segments
}

fn read_all(directory: &Path) -> Vec<Record> {
    Reader::open(directory).unwrap().from(Recno(0)).map(Result::unwrap).collect()
}

/// A log with records 1 to 5, its segment's bytes, and where each record begins and the last ends.
fn small_log() -> (TempDir, Vec<u8>, Vec<usize>) {
    let directory = scratch();
    let log = Log::create(directory.path(), FILESET, REPLICA, 1).unwrap();
    let mut places = vec![log.bytes() as usize];
    for recno in 1..=5 {
        log.append(&record(recno)).unwrap();
        places.push(log.bytes() as usize);
    }
    drop(log);
    let bytes = fs::read(&segments(directory.path())[0]).unwrap();
    (directory, bytes, places)
}

#[test]
fn what_is_appended_is_there_after_opening() {
    let directory = scratch();
    let log = log_in(directory.path(), 3, SEGMENT_BYTES);
    assert_eq!((log.last(), log.next_recno(), log.epoch()), (Recno(3), Recno(4), 1));
    let bytes = log.bytes();
    drop(log);
    assert_eq!(fs::metadata(&segments(directory.path())[0]).unwrap().len(), bytes);

    let (log, opened) = Log::open(directory.path()).unwrap();
    assert_eq!(opened, Opened { last: Recno(3), epoch: 1, tail: Tail::Clean });
    assert_eq!((log.bytes(), log.fileset(), log.replica()), (bytes, FILESET, REPLICA));
    log.append(&record(4)).unwrap();
    log.append(&Record { epoch: 5, ..record(5) }).unwrap();
    assert_eq!(log.epoch(), 5);
    assert_eq!(read_all(directory.path())[..4], records(1..=4));
}

#[test]
fn a_new_log_is_empty_and_durable() {
    let directory = scratch();
    let log = Log::create(directory.path(), FILESET, REPLICA, 3).unwrap();
    assert_eq!((log.last(), log.epoch(), log.sync().unwrap()), (Recno(0), 3, Recno(0)));
    let reader = log.reader().unwrap();
    assert_eq!((reader.first().unwrap(), reader.last().unwrap()), (Recno(0), Recno(0)));
    assert_eq!(reader.backwards(Recno(u64::MAX)).count(), 0);
    drop(log);
    let (_, opened) = Log::open(directory.path()).unwrap();
    assert_eq!(opened, Opened { last: Recno(0), epoch: 3, tail: Tail::Clean });
}

#[test]
fn there_is_one_log_or_none() {
    let directory = scratch();
    assert!(matches!(Log::open(directory.path()), Err(LogError::None(_))));
    assert!(matches!(Reader::open(directory.path()), Err(LogError::None(_))));
    drop(log_in(directory.path(), 0, SEGMENT_BYTES));
    assert!(matches!(Log::create(directory.path(), FILESET, REPLICA, 1), Err(LogError::Exists(_))));
    assert!(matches!(Log::open(&directory.path().join("no")), Err(LogError::Io { operation: "open", .. })));
}

#[test]
fn records_that_do_not_follow_are_not_taken() {
    let directory = scratch();
    let log = log_in(directory.path(), 2, SEGMENT_BYTES);
    let bytes = log.bytes();
    let (recno, last) = (Recno(3), Recno(2));
    let check = |record: Record, expected: OutOfOrder| {
        let error = log.append(&record).unwrap_err();
        assert!(matches!(error, LogError::OutOfOrder(cause) if cause == expected), "{error}");
    };
    check(record(2), OutOfOrder::Number { last, found: last });
    check(record(4), OutOfOrder::Previous { recno: Recno(4), told: recno, last });
    check(Record { epoch: 0, ..record(3) }, OutOfOrder::Epoch { recno, last: 1, found: 0 });
    let mut large = record(3);
    large.who.groups = vec![0; 70_000];
    let refused = log.append(&large).unwrap_err();
    assert!(matches!(refused, LogError::Refused { cause: Refused::TooLarge { .. }, .. }), "{refused}");
    assert_eq!(log.bytes(), bytes);
    log.append(&Record { recno: Recno(10), ..record(3) }).unwrap();
    assert_eq!(log.next_recno(), Recno(11));
}

#[test]
fn a_torn_last_record_is_cut_off_and_kept() {
    let (directory, bytes, places) = small_log();
    let (path, last) = (segments(directory.path())[0].clone(), places[4]);
    for end in last + 1..bytes.len() {
        check_torn(directory.path(), &path, &bytes[..end], last, 4);
    }
}

#[test]
fn a_last_record_with_a_flipped_bit_is_cut_off_and_kept() {
    let (directory, bytes, places) = small_log();
    let (path, last) = (segments(directory.path())[0].clone(), places[4]);
    for bit in last * 8..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        check_torn(directory.path(), &path, &bad, last, 4);
    }
}

#[test]
fn zeros_at_the_end_are_cut_off_and_kept() {
    let (directory, bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    for zeros in [1, 8, 63, 64, 4096, 5_000_000] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + zeros, 0);
        check_torn(directory.path(), &path, &longer, bytes.len(), 5);
    }
    let mut half = bytes;
    half[places[4] + 10..].fill(0);
    check_torn(directory.path(), &path, &half, places[4], 4);
}

/// Opens the segment `bad`, of which `count` records up to byte `good` should be left, and goes on.
fn check_torn(directory: &Path, path: &Path, bad: &[u8], good: usize, count: u64) {
    fs::write(path, bad).unwrap();
    assert_eq!(read_all(directory), records(1..=count), "a reader stops there");
    let (log, opened) = Log::open(directory).unwrap();
    let Tail::Torn { offset, bytes, kept, .. } = opened.tail else { panic!("not torn: {opened:?}") };
    assert_eq!((offset, bytes, opened.last), (good as u64, (bad.len() - good) as u64, Recno(count)));
    assert_eq!(fs::read(&kept).unwrap(), bad[good..]);
    assert_eq!(fs::read(path).unwrap(), bad[..good]);
    log.append(&record(count + 1)).unwrap();
    assert_eq!(read_all(directory), records(1..=count + 1));
    drop(log);
    assert_eq!(Log::open(directory).unwrap().1.tail, Tail::Clean);
    fs::remove_file(kept).unwrap();
}

#[test]
fn what_was_kept_is_never_overwritten() {
    let (directory, bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    for (cut, name) in [(1, "torn-5-"), (2, "torn-5-"), (3, "torn-5-")] {
        fs::write(&path, &bytes[..places[4] + cut]).unwrap();
        let Tail::Torn { kept, .. } = Log::open(directory.path()).unwrap().1.tail else { panic!("not torn") };
        assert!(kept.file_name().unwrap().to_str().unwrap().starts_with(name), "{}", kept.display());
        assert_eq!(fs::read(kept).unwrap().len(), cut);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn damage_before_the_end_is_told_and_never_passed() {
    let (directory, bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    for byte in places[0]..places[4] {
        let mut bad = bytes.clone();
        bad[byte] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        let at = places.partition_point(|place| *place <= byte) - 1;
        let check = |error: LogError| {
            let expected = (places[at] as u64, Some(places[at + 1] as u64));
            assert!(
                matches!(&error, LogError::Damaged { path: told, offset, next_valid, cause: Damage::Record(Cause::Frame(_)) }
                    if (*offset, *next_valid) == expected && *told == path),
                "{error:?} for byte {byte}"
            );
        };
        check(Log::open(directory.path()).unwrap_err());
        let reader = Reader::open(directory.path()).unwrap();
        let mut forwards = reader.from(Recno(0));
        for recno in 1..=at as u64 {
            assert_eq!(forwards.next().unwrap().unwrap(), record(recno));
        }
        check(forwards.next().unwrap().unwrap_err());
        assert!(forwards.next().is_none());
        check(reader.from(Recno(5)).next().unwrap().unwrap_err());
        check(reader.last().unwrap_err());
        let mut backwards = reader.backwards(Recno(u64::MAX));
        check(backwards.next().unwrap().unwrap_err());
        assert!(backwards.next().is_none());
    }
    assert_eq!(segments(directory.path()).len(), 1);
}

#[test]
fn more_than_a_crash_leaves_is_not_cut_off() {
    let (directory, bytes, _) = small_log();
    let path = &segments(directory.path())[0];
    let longer = 3 * SEGMENT_BYTES;
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(longer).unwrap();
    let error = Log::open(directory.path()).unwrap_err();
    let expected = Damage::Long(longer - bytes.len() as u64);
    assert!(matches!(error, LogError::Damaged { cause, .. } if cause == expected), "{error}");
    assert_eq!(fs::metadata(path).unwrap().len(), longer);
}

#[test]
fn a_segment_whose_head_is_damaged_is_told() {
    let (directory, bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    let check = |bad: &[u8], expected: Damage| {
        fs::write(&path, bad).unwrap();
        for error in [Log::open(directory.path()).map(drop), Reader::open(directory.path()).map(drop)] {
            let error = error.unwrap_err();
            assert!(
                matches!(error, LogError::Damaged { offset: 0, cause, .. } if cause == expected),
                "{error}"
            );
        }
    };
    let mut bad = bytes.clone();
    bad[30] ^= 1;
    check(&bad, SegmentError::Checksum.into());
    check(&[], SegmentError::Magic.into());
    fs::rename(&path, directory.path().join(name_of(Recno(2)))).unwrap();
    fs::write(directory.path().join(name_of(Recno(2))), &bytes[..places[2]]).unwrap();
    let error = Reader::open(directory.path()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { cause: Damage::Name { found: Recno(1) }, .. }), "{error}");
}

#[test]
fn segments_follow_each_other() {
    let directory = scratch();
    let log = log_in(directory.path(), 200, 2000);
    let files = segments(directory.path());
    assert!(files.len() > 10, "{} segments", files.len());
    let largest = files.iter().map(|path| fs::metadata(path).unwrap().len()).max().unwrap();
    assert!(largest <= 2000, "{largest}");
    assert_eq!(log.bytes(), files.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>());
    assert_eq!(read_all(directory.path()), records(1..=200));

    let reader = Reader::open(directory.path()).unwrap();
    for from in [1, 2, 57, 58, 59, 199, 200, 201, 1000] {
        let found: Vec<_> = reader.from(Recno(from)).map(Result::unwrap).collect();
        assert_eq!(found, records(from..=200), "from {from}");
        let found: Vec<_> = reader.backwards(Recno(from)).map(Result::unwrap).collect();
        assert_eq!(found, records((1..=from.min(200)).rev()), "back from {from}");
    }
    for recno in 0..=201 {
        assert_eq!(reader.get(Recno(recno)).unwrap(), (1..=200).contains(&recno).then(|| record(recno)));
    }
    assert_eq!((reader.first().unwrap(), reader.last().unwrap()), (Recno(1), Recno(200)));

    drop(log);
    let (log, opened) = Log::open(directory.path()).unwrap();
    assert_eq!(opened, Opened { last: Recno(200), epoch: 1, tail: Tail::Clean });
    log.append(&record(201)).unwrap();
    assert_eq!(read_all(directory.path()), records(1..=201));
}

#[test]
fn long_logs_are_read_from_anywhere() {
    let directory = scratch();
    let log = log_in(directory.path(), 20_000, 1 << 20);
    let reader = log.reader().unwrap();
    for recno in [20_000, 1, 10_000, 9_999, 10_001, 19_000, 2] {
        assert_eq!(reader.get(Recno(recno)).unwrap(), Some(record(recno)));
        assert_eq!(reader.backwards(Recno(recno)).next().unwrap().unwrap(), record(recno));
    }
    for recno in 1..=2000 {
        assert_eq!(reader.get(Recno(recno)).unwrap(), Some(record(recno)));
    }
    let forwards = reader.from(Recno(1)).map(|found| found.unwrap().recno.0);
    assert!(forwards.eq(1..=20_000));
    let backwards = reader.backwards(Recno(u64::MAX)).map(|found| found.unwrap().recno.0);
    assert!(backwards.eq((1..=20_000).rev()));
}

#[test]
fn a_large_record_gets_a_segment_of_its_own() {
    let directory = scratch();
    let log = log_in(directory.path(), 2, 2000);
    let mut large = record(3);
    large.who.groups = vec![u32::MAX; 60_000];
    log.append(&large).unwrap();
    log.append(&record(4)).unwrap();
    let expected = [record(1), record(2), large, record(4)];
    assert_eq!(read_all(directory.path()), expected);
    let backwards = Reader::open(directory.path()).unwrap();
    let backwards: Vec<_> = backwards.backwards(Recno(u64::MAX)).map(Result::unwrap).collect();
    assert_eq!(backwards, expected.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(segments(directory.path()).len(), 3);
}

#[test]
fn a_missing_or_foreign_segment_is_told() {
    let directory = scratch();
    drop(log_in(directory.path(), 60, 2000));
    let files = segments(directory.path());
    let aside = directory.path().join("aside");
    fs::rename(&files[1], &aside).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let error = reader.from(Recno(0)).find_map(Result::err).unwrap();
    assert!(matches!(error, LogError::Damaged { cause: Damage::Gap { .. }, offset: 0, .. }), "{error}");
    let error = reader.backwards(Recno(60)).find_map(Result::err).unwrap();
    assert!(matches!(error, LogError::Damaged { cause: Damage::Gap { .. }, .. }), "{error}");

    let other = scratch();
    let mut log = Log::create(other.path(), [1; 16], REPLICA, 1).unwrap();
    log.segment_bytes = 2000;
    (1..=60).for_each(|recno| log.append(&record(recno)).unwrap());
    fs::copy(&segments(other.path())[1], &files[1]).unwrap();
    let error = reader.from(Recno(0)).find_map(Result::err).unwrap();
    assert!(matches!(error, LogError::Damaged { cause: Damage::Foreign, .. }), "{error}");
}

#[test]
fn a_log_goes_on_as_another_replica_s_in_a_new_epoch() {
    let other = ReplicaId(REPLICA.0 + 1);
    for count in [0, 5] {
        let directory = scratch();
        let log = log_in(directory.path(), count, SEGMENT_BYTES);
        assert!(matches!(log.begin_epoch(other, 1), Err(LogError::OutOfOrder(OutOfOrder::Epoch { .. }))));
        log.begin_epoch(other, 2).unwrap();
        assert_eq!((log.replica(), log.epoch(), log.last()), (other, 2, Recno(count)));
        let next = Record { epoch: 2, origin: Origin::new(other, Recno(count + 1)), ..record(count + 1) };
        log.append(&next).unwrap();
        let bytes = log.bytes();
        drop(log);
        let reader = Reader::open(directory.path()).unwrap();
        let mut expected = vec![(REPLICA, Recno(1)), (other, Recno(count + 1))];
        expected.drain(..usize::from(count == 0));
        assert_eq!((reader.replica(), reader.replicas().unwrap()), (other, expected));
        let mut told = records(1..=count);
        told.push(next);
        assert_eq!(read_all(directory.path()), told);
        let backwards: Vec<_> = reader.backwards(Recno(u64::MAX)).map(Result::unwrap).collect();
        assert_eq!(backwards, told.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(Log::open(directory.path()).unwrap().0.bytes(), bytes);
    }
}

#[test]
fn a_log_may_have_lost_its_oldest_segments() {
    let directory = scratch();
    drop(log_in(directory.path(), 60, 2000));
    let files = segments(directory.path());
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let first = files[2].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.first().unwrap(), Recno(first));
    assert_eq!(read_all(directory.path()), records(first..=60));
    assert_eq!(reader.backwards(Recno(60)).last().unwrap().unwrap(), record(first));
    assert_eq!(reader.get(Recno(1)).unwrap(), None);
    assert_eq!(reader.backwards(Recno(1)).count(), 0);
    assert_eq!(Log::open(directory.path()).unwrap().1.last, Recno(60));
}

#[test]
fn a_torn_segment_before_the_last_is_damage() {
    let directory = scratch();
    drop(log_in(directory.path(), 60, 2000));
    let files = segments(directory.path());
    let length = fs::metadata(&files[0]).unwrap().len();
    fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(length - 1).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let is_damage = |error: LogError| {
        let first = &files[0];
        assert!(matches!(&error, LogError::Damaged { path, .. } if path == first), "{error}");
    };
    is_damage(reader.from(Recno(0)).find_map(Result::err).unwrap());
    is_damage(reader.backwards(Recno(60)).find_map(Result::err).unwrap());
}

#[test]
fn readers_take_a_segment_a_directory_or_a_fileset() {
    let fileset = scratch();
    let directory = fileset.path().join(".mezzo/kml");
    fs::create_dir_all(&directory).unwrap();
    drop(log_in(&directory, 60, 2000));
    assert_eq!(read_all(fileset.path()), records(1..=60));
    assert_eq!(read_all(&directory), records(1..=60));

    let files = segments(&directory);
    let stray = fileset.path().join("renamed");
    fs::copy(&files[1], &stray).unwrap();
    let found = read_all(&stray);
    assert!(found.len() > 1 && found[0].previous != Recno(0));
    let reader = Reader::open(&stray).unwrap();
    assert_eq!((reader.fileset(), reader.replica()), (FILESET, REPLICA));
    assert_eq!(reader.first().unwrap(), found[0].recno);
    assert_eq!(reader.last().unwrap(), found[found.len() - 1].recno);
    assert_eq!(reader.backwards(Recno(u64::MAX)).count(), found.len());
}

#[test]
fn readers_follow_a_growing_log() {
    let directory = scratch();
    let log = log_in(directory.path(), 0, 3000);
    let reader = log.reader().unwrap();
    let mut follow = reader.from(Recno(1));
    for recno in 1..=100 {
        assert!(follow.next().is_none());
        log.append(&record(recno)).unwrap();
        assert_eq!(follow.next().unwrap().unwrap(), record(recno));
        assert_eq!(reader.last().unwrap(), Recno(recno));
    }
}

#[test]
fn a_reader_waits_for_a_record_that_is_being_written() {
    let (directory, bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    fs::write(&path, &bytes[..places[3]]).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let mut follow = reader.from(Recno(3));
    assert_eq!(follow.next().unwrap().unwrap(), record(3));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for end in places[3]..places[4] {
        file.write_all_at(&bytes[end..=end], end as u64).unwrap();
        let found = follow.next();
        assert_eq!(found.is_some(), end + 1 == places[4]);
    }
    // Half a record that its writer took back, with another in its place.
    file.write_all_at(&bytes[places[4]..places[4] + 50], places[4] as u64).unwrap();
    assert!(follow.next().is_none());
    let other = Record { change: Change::Noop, ..record(5) };
    let mut frame = Vec::new();
    mezzo_core::codec::encode(&other, &mut frame).unwrap();
    file.write_all_at(&frame, places[4] as u64).unwrap();
    assert_eq!(follow.next().unwrap().unwrap(), other);
}

#[test]
fn readers_and_syncs_run_beside_a_writer() {
    const COUNT: u64 = 20_000;
    let directory = scratch();
    let log = log_in(directory.path(), 0, 100_000);
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=COUNT).for_each(|recno| log.append(&record(recno)).unwrap()));
        scope.spawn(|| {
            while log.sync().unwrap() < Recno(COUNT) {
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let reader = log.reader().unwrap();
            let mut follow = reader.from(Recno(1));
            for recno in 1..=COUNT {
                let found = std::iter::repeat_with(|| follow.next()).flatten().next().unwrap();
                assert_eq!(found.unwrap(), record(recno));
            }
        });
        scope.spawn(|| {
            let reader = Reader::open(directory.path()).unwrap();
            while reader.last().unwrap() < Recno(COUNT) {
                let newest: Vec<_> =
                    reader.backwards(Recno(u64::MAX)).take(500).map(Result::unwrap).collect();
                assert!(newest.windows(2).all(|pair| pair[0].previous == pair[1].recno));
                assert!(newest.iter().all(|found| *found == record(found.recno.0)));
            }
        });
    });
    assert_eq!(log.sync().unwrap(), Recno(COUNT));
}

#[test]
fn a_later_minor_version_can_be_read_and_not_written() {
    let (directory, bytes, _) = small_log();
    let path = segments(directory.path())[0].clone();
    let mut later = bytes[..76].to_vec();
    later[10] = 3;
    let checksum = crc32c_of(&later);
    later.extend(checksum.to_le_bytes());
    later.extend(&bytes[80..]);
    fs::write(&path, later).unwrap();
    assert_eq!(read_all(directory.path()), records(1..=5));
    assert!(matches!(Log::open(directory.path()), Err(LogError::Newer { minor: 3, .. })));
}

/// CRC-32C bit by bit, as a second opinion.
fn crc32c_of(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[test]
fn segments_that_never_got_their_name_go() {
    let directory = scratch();
    drop(log_in(directory.path(), 2, SEGMENT_BYTES));
    let unfinished = directory.path().join(format!("{}.new", name_of(Recno(3))));
    fs::write(&unfinished, b"KML2").unwrap();
    fs::write(directory.path().join("notes.new"), b"not ours").unwrap();
    assert_eq!(Log::open(directory.path()).unwrap().1.last, Recno(2));
    assert!(!unfinished.exists() && directory.path().join("notes.new").exists());
}

#[test]
fn room_is_allocated_ahead_and_given_back() {
    let directory = scratch();
    let log = log_in(directory.path(), 1, SEGMENT_BYTES);
    let path = &segments(directory.path())[0];
    let blocks = || fs::metadata(path).unwrap().blocks() * 512;
    assert!(blocks() >= room::RESERVE_BYTES, "{} bytes are allocated", blocks());
    log.ensure_room(20 << 20).unwrap();
    assert!(blocks() >= 20 << 20, "{} bytes are allocated", blocks());
    assert_eq!(fs::metadata(path).unwrap().len(), log.bytes());
    drop(log);
    assert!(blocks() < 1 << 20, "{} bytes are still allocated", blocks());
}

#[test]
fn room_for_the_next_records_may_begin_a_segment() {
    let directory = scratch();
    let log = log_in(directory.path(), 5, 3000);
    assert_eq!(segments(directory.path()).len(), 1);
    log.ensure_room(2500).unwrap();
    assert_eq!(segments(directory.path()).len(), 2);
    log.ensure_room(2500).unwrap();
    assert_eq!(segments(directory.path()).len(), 2, "one that is still empty is not left behind");
    assert_eq!(log.reader().unwrap().last().unwrap(), Recno(5));
    log.append(&record(6)).unwrap();
    assert_eq!(read_all(directory.path()), records(1..=6));
}

/// A file system of a few MiB, unmounted in the end.
struct SmallHost(TempDir);

impl SmallHost {
    /// `None` where this process may not mount.
    fn new(bytes: u64) -> Option<SmallHost> {
        let directory = TempDir::new().unwrap();
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, size.as_c_str()).ok()?;
        Some(SmallHost(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room but `left` bytes.
    fn fill(&self, left: u64) -> fs::File {
        let file = fs::File::create(self.path().join("filler")).unwrap();
        let free = rustix::fs::statvfs(self.path()).unwrap();
        let bytes = free.f_bavail * free.f_frsize - left;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        file
    }
}

impl Drop for SmallHost {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_host_is_told_before_the_operation() {
    let Some(host) = SmallHost::new(16 << 20) else { return };
    let log = log_in(host.path(), 10, SEGMENT_BYTES);
    let filler = host.fill(0);
    assert!(log.ensure_room(8 << 20).unwrap_err().is_no_room());
    // What was ensured before is still there, so that records of operations that were done can be written.
    log.ensure_room(room::RESERVE_BYTES).unwrap();
    let mut recno = 10;
    let bytes = log.bytes();
    while log.bytes() + 1000 < bytes + room::RESERVE_BYTES {
        recno += 1;
        log.append(&record(recno)).unwrap();
    }
    filler.set_len(0).unwrap();
    log.ensure_room(8 << 20).unwrap();
    assert_eq!(read_all(host.path()), records(1..=recno));
}

#[test]
fn a_full_host_leaves_the_log_as_it_was() {
    let Some(host) = SmallHost::new(1 << 20) else { return };
    let log = log_in(host.path(), 10, SEGMENT_BYTES);
    log.forget_room();
    let mut large = record(11);
    large.who.groups = vec![u32::MAX; 60_000];
    let mut last = 10;
    let filler = host.fill(100_000);
    let error = log.append(&large).unwrap_err();
    assert!(error.is_no_room(), "{error}");
    assert_eq!(fs::metadata(&segments(host.path())[0]).unwrap().len(), log.bytes());
    while let Ok(()) = log.append(&record(last + 1)) {
        last += 1;
    }
    assert!(last > 10, "small records fit where a large one does not");
    let bytes = log.bytes();
    assert!(log.append(&record(last + 1)).unwrap_err().is_no_room());
    assert_eq!((log.last(), log.bytes()), (Recno(last), bytes));
    assert_eq!(fs::metadata(&segments(host.path())[0]).unwrap().len(), bytes);
    filler.set_len(0).unwrap();
    log.append(&record(last + 1)).unwrap();
    assert_eq!(read_all(host.path()), records(1..=last + 1));
    assert_eq!(Log::open(host.path()).unwrap().1.tail, Tail::Clean);
}

#[test]
fn a_segment_that_can_not_be_begun_leaves_the_log_as_it_was() {
    let Some(host) = SmallHost::new(1 << 20) else { return };
    let mut log = log_in(host.path(), 10, SEGMENT_BYTES);
    log.forget_room();
    log.segment_bytes = log.bytes();
    let filler = host.fill(0);
    assert!(log.append(&record(11)).unwrap_err().is_no_room());
    assert!(log.ensure_room(100).unwrap_err().is_no_room());
    assert_eq!(log.reader().unwrap().last().unwrap(), Recno(10));
    drop(filler);
    fs::remove_file(host.path().join("filler")).unwrap();
    log.append(&record(11)).unwrap();
    assert_eq!(read_all(host.path()), records(1..=11));
    assert_eq!(segments(host.path()).len(), 2);
}

#[test]
fn errors_say_what_where_and_why() {
    let (directory, mut bytes, places) = small_log();
    let path = segments(directory.path())[0].clone();
    bytes[places[1] + 70] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let told = Log::open(directory.path()).unwrap_err().to_string();
    let expected = format!(
        "the log {} is damaged at byte {}: {}; a good record follows at byte {}",
        path.display(),
        places[1],
        FrameError::Checksum,
        places[2]
    );
    assert_eq!(told, expected);
}
