//! What is written reads back, and nothing else passes.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::attributes::{Kind, Xattr};
use crate::id::{Recno, ReplicaId};
use crate::limits;
use crate::record::{Change, Record};

use super::field::{put_field, tag};
use super::frame::{put_frame, u32_at};
use super::{DecodeError, FRAME_BYTES, Fault, FrameError, HEAD_BYTES, Head, Refused, TAIL_BYTES};
use super::{decode, encode, random, record_before, sample};

fn frame(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    encode(record, &mut out).unwrap();
    out
}

/// Makes both checksums right again.
fn mend(frame: &mut [u8]) {
    let checksum = crc32c::crc32c(&frame[..HEAD_BYTES - 4]);
    frame[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    let end = frame.len() - 4;
    let checksum = crc32c::crc32c(&frame[..end]);
    frame[end..].copy_from_slice(&checksum.to_le_bytes());
}

proptest! {
    #[test]
    fn any_record_reads_back(record in random::record(), before in 0..20usize) {
        let mut out = vec![0xee; before];
        encode(&record, &mut out).unwrap();
        let bytes = &out[before..];
        prop_assert_eq!(bytes.len() % 8, 0);
        prop_assert_eq!(decode(bytes), Ok(record.clone()));
        prop_assert_eq!(Head::read(bytes).unwrap().recno, record.recno);
        let found = record_before(&out, out.len() as u64).unwrap();
        prop_assert_eq!(found.offset, before as u64);
        prop_assert_eq!(found.record(), Ok(record));
    }

    #[test]
    fn no_flipped_bits_pass(record in random::record(), flips in prop::collection::vec(any::<Index>(), 1..8)) {
        let good = frame(&record);
        let mut bad = good.clone();
        flips.iter().map(|flip| flip.index(good.len() * 8)).for_each(|bit| bad[bit / 8] ^= 1 << (bit % 8));
        prop_assume!(bad != good);
        prop_assert!(matches!(decode(&bad), Err(DecodeError::Frame(_))));
    }

    #[test]
    fn no_part_passes(record in random::record(), end in any::<Index>()) {
        let good = frame(&record);
        let part = &good[..end.index(good.len())];
        prop_assert!(matches!(decode(part), Err(DecodeError::Frame(_))));
    }

    /// Bytes that somebody made on purpose, with checksums that are right.
    #[test]
    fn whatever_decodes_keeps_the_rules(
        record in random::record(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = frame(&record);
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[8 + at.index(length - 16)] = *byte);
        mend(&mut bytes);
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(decode(&frame(&read)), Ok(read));
        }
    }

    #[test]
    fn any_body_is_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..200), kind in 0..16u8) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, &sample::create(7), kind, |out| out.extend(&body));
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(decode(&frame(&read)), Ok(read));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(record_before(&bytes, 0).is_err());
    }
}

#[test]
fn everyday_records_are_short() {
    let check = |record: Record, bytes| assert_eq!(frame(&record).len(), bytes, "{}", record.change.kind());
    check(sample::create(80_000), 168);
    check(sample::close(80_000), 200);
    check(sample::unlink(80_000), 208);
    check(sample::rename_over(80_000), 272);
}

#[test]
fn what_is_wrong_with_a_frame() {
    let good = frame(&sample::create(7));
    let length = good.len();
    let check = |change: &dyn Fn(&mut Vec<u8>), error: FrameError| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_eq!(decode(&bytes), Err(error.into()));
    };
    check(&|bytes| bytes.truncate(63), FrameError::Short(63));
    check(&|bytes| bytes.truncate(64), FrameError::Incomplete { length, found: 64 });
    check(&|bytes| bytes.push(0), FrameError::Trailing(1));
    check(&|bytes| bytes[0] = 0, FrameError::Magic);
    check(&|bytes| bytes[8] = 3, FrameError::Version(3));
    check(&|bytes| bytes[20] ^= 1, FrameError::HeadChecksum);
    check(&|bytes| bytes[100] ^= 1, FrameError::Checksum);
    check(&|bytes| put(bytes, 4, &[1, 0, 0, 1]), FrameError::Length(0x0100_0001));
    check(&|bytes| put(bytes, 4, &[0xff; 4]), FrameError::Length(u32::MAX));
    check(&|bytes| put(bytes, 4, &[64, 0, 0, 0]), FrameError::Length(64));
    check(&|bytes| put(bytes, 11, &[8]), FrameError::Padding);
    check(&|bytes| put(bytes, length - 8, &[0]), FrameError::TwoLengths { head: length as u32, tail: 0 });
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
    mend(bytes);
}

#[test]
fn padding_has_to_be_zero() {
    let mut bytes = frame(&sample::create(7));
    let padding = usize::from(bytes[11]);
    assert!(padding > 0, "the sample needs padding for this test");
    let at = bytes.len() - TAIL_BYTES - 1;
    put(&mut bytes, at, &[1]);
    assert_eq!(decode(&bytes), Err(FrameError::Padding.into()));
}

#[test]
fn a_length_costs_no_memory_that_it_only_claims() {
    let mut bytes = frame(&sample::create(7));
    put(&mut bytes, 4, &(limits::RECORD_BYTES as u32).to_le_bytes());
    let found = bytes.len();
    assert_eq!(decode(&bytes), Err(FrameError::Incomplete { length: limits::RECORD_BYTES, found }.into()));
}

#[test]
fn what_is_wrong_with_fields() {
    let check = |kind: u8, fields: &[(u8, &[u8])], error: DecodeError| {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, &sample::create(7), kind, |out| {
            fields.iter().for_each(|(tag, value)| put_field(out, *tag, |out| out.extend(*value)));
        });
        assert_eq!(decode(&bytes), Err(error), "{fields:?}");
    };
    let field = |tag, fault| DecodeError::Field { tag, fault };
    check(0, &[], DecodeError::Kind(0));
    check(16, &[], DecodeError::Kind(16));
    check(9, &[(tag::OBJECT, &[1])], DecodeError::Unknown(tag::OBJECT));
    check(12, &[], DecodeError::Missing(tag::OBJECT));
    check(12, &[(tag::OBJECT, &[1])], DecodeError::Missing(tag::STANDS_FOR));
    check(12, &[(tag::OBJECT, &[])], field(tag::OBJECT, Fault::Short));
    check(12, &[(tag::OBJECT, &[1, 1])], field(tag::OBJECT, Fault::Trailing(1)));
    check(12, &[(tag::OBJECT, &[4])], field(tag::OBJECT, undefined("form of an id", 4)));
    check(10, &[(tag::REASON, &[0xff]), (tag::RECORD, &[1])], field(tag::REASON, Fault::Text));
    check(3, &[(tag::PATH, b"p"), (tag::DIRECTORY, b"d")], field(tag::DIRECTORY, Fault::TwoPaths));
    check(3, &[(tag::PLACE, &[0, b'/'])], field(tag::PLACE, crate::name::BadName::Forbidden.into()));
    check(3, &[(tag::PLACE, &[0])], field(tag::PLACE, crate::name::BadName::Empty.into()));
    check(
        5,
        &[(tag::OBJECT, &[1]), (0x85, &[0, 0x10])],
        field(0x85, undefined("bits of attributes", 0x1000)),
    );
    check(11, &[(tag::RECORD, &[1]), (tag::CHANGE, &[])], field(tag::CHANGE, Fault::Short));
    check(11, &[(tag::RECORD, &[1]), (tag::CHANGE, &[14])], DecodeError::Kind(14));
    check(14, &[(tag::RECORD, &[1]), (tag::CHANGE, &[11])], DecodeError::Kind(11));
    check(
        13,
        &[(tag::EPOCH, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 5])],
        field(tag::EPOCH, undefined("cause of an epoch", 5)),
    );
}

fn undefined(what: &'static str, found: u64) -> Fault {
    Fault::Undefined { what, found }
}

#[test]
fn flags_of_a_later_version_are_refused_and_fields_skipped() {
    let mut bytes = frame(&sample::create(7));
    put(&mut bytes, 10, &[1]);
    assert_eq!(decode(&bytes), Err(DecodeError::Flags(1)));

    let mut bytes = Vec::new();
    let noop = sample::record(7, Change::Noop);
    put_frame(&mut bytes, &noop, 9, |out| put_field(out, 0x7f, |out| out.extend([1; 300])));
    let read = decode(&bytes).unwrap();
    assert_eq!(read, Record { who: Default::default(), ..noop });
}

/// Every rule, broken once in a record to be written and once in bytes that were written all the same.
#[test]
fn records_that_break_a_rule_are_neither_written_nor_read() {
    let check = |told: &str, break_it: &dyn Fn(&mut Record)| {
        for mut record in [sample::create(7), sample::close(7), sample::unlink(7), sample::rename_over(7)] {
            let good = record.clone();
            break_it(&mut record);
            if record == good {
                continue;
            }
            let mut out = vec![1, 2, 3];
            let refused = encode(&record, &mut out).expect_err(told);
            assert!(refused.to_string().contains(told), "{refused} for {told}");
            assert_eq!(out, [1, 2, 3]);
        }
    };
    check("number is not above", &|record| record.previous = record.recno);
    check("no origin", &|record| record.origin.replica = ReplicaId(0));
    check("no origin", &|record| record.origin.recno = Recno(0));
    check("nanoseconds", &|record| record.time.nanoseconds = 1_000_000_000);
    check("groups of 65537", &|record| record.who.groups = vec![0; limits::GROUPS + 1]);
    check("program's name", &|record| record.who.program = vec![b'p'; 65].into());
    check("session's name", &|record| record.who.session = vec![b's'; 65].into());
    check("has a target", &|record| with_state(record, |state| state.target = (*b"t").into()));
    check("has data", &|record| with_state(record, |state| state.attributes.kind = Kind::Fifo));
    check("mode", &|record| with_state(record, |state| state.attributes.mode = 0o10000));
    check("owner", &|record| with_state(record, |state| state.attributes.uid = u32::MAX));
    check("owner", &|record| with_state(record, |state| state.attributes.gid = u32::MAX));
    check("nanoseconds", &|record| with_state(record, |state| state.attributes.atime.nanoseconds = u32::MAX));
    check("not sorted", &|record| {
        with_state(record, |state| state.xattrs = vec![xattr(b"b", 1), xattr(b"a", 1)])
    });
    check("not sorted", &|record| {
        with_state(record, |state| state.xattrs = vec![xattr(b"a", 1), xattr(b"a", 1)])
    });
    check("empty or holds a NUL", &|record| with_state(record, |state| state.xattrs = vec![xattr(b"", 1)]));
    check("empty or holds a NUL", &|record| with_state(record, |state| state.xattrs = vec![xattr(b"\0", 1)]));
    check("name in bytes of 256", &|record| {
        with_state(record, |state| state.xattrs = vec![xattr(&[b'n'; 256], 1)])
    });
    check("value in bytes of 65537", &|record| {
        with_state(record, |state| state.xattrs = vec![xattr(b"a", 65_537)])
    });
    check("changes its kind", &|record| match &mut record.change {
        Change::Close { attributes, .. } => attributes.after.kind = Kind::Fifo,
        Change::Rename { attributes, .. } => attributes.after.kind = Kind::Fifo,
        _ => {}
    });
    check("holds another", &|record| {
        let inner = Change::UndoOf { record: record.origin, change: Box::new(Change::Noop) };
        record.change = Change::Amend { record: record.origin, change: Box::new(inner) };
    });
    check("reason in bytes of 4097", &|record| {
        record.change = Change::Disable { record: record.origin, reason: "r".repeat(4097).into() };
    });
    check("record in bytes", &|record| {
        with_state(record, |state| {
            state.xattrs = (1000..1300).map(|n| xattr(n.to_string().as_bytes(), 65_536)).collect()
        });
    });
}

fn with_state(record: &mut Record, change: impl Fn(&mut crate::State)) {
    match &mut record.change {
        Change::Make { state, .. } => change(state),
        Change::Remove { removed, .. } => change(&mut removed.state),
        _ => {}
    }
}

fn xattr(name: &[u8], length: usize) -> Xattr {
    Xattr { name: name.into(), value: vec![7; length].into() }
}

#[test]
fn bytes_that_break_a_rule_are_not_read() {
    let check = |told: &str, at: usize, new: &[u8]| {
        let mut bytes = frame(&sample::create(7));
        put(&mut bytes, at, new);
        let error = decode(&bytes).expect_err(told);
        assert!(matches!(error, DecodeError::Refused(Refused::Broken(_))), "{error}");
        assert!(error.to_string().contains(told), "{error} for {told}");
    };
    check("number is not above", 16, &[0]);
    check("number is not above", 24, &[7]);
    check("no origin", 32, &[0; 8]);
    check("no origin", 40, &[0; 8]);
    check("nanoseconds", 56, &[0xff; 4]);
}

#[test]
fn a_long_path_loses_its_front() {
    let long: Vec<u8> = (0..limits::PATH_BYTES + 100).map(|i| b'a' + (i % 26) as u8).collect();
    let mut record = sample::close(7);
    if let Change::Close { path, .. } = &mut record.change {
        *path = long.clone().into();
    }
    let Change::Close { path, .. } = decode(&frame(&record)).unwrap().change else { panic!("not a close") };
    assert_eq!(*path, long[100..]);

    let mut record = sample::create(7);
    if let Change::Make { path, .. } = &mut record.change {
        *path = [&long[..], b"/parser.rs"].concat().into();
    }
    let Change::Make { path, .. } = decode(&frame(&record)).unwrap().change else { panic!("not a make") };
    assert_eq!(*path, [&long[110..], b"/parser.rs"].concat());
}

#[test]
fn a_path_that_is_too_long_is_not_read() {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, &sample::close(7), 7, |out| {
        put_field(out, tag::PATH, |out| out.extend([b'p'; limits::PATH_BYTES + 1]));
    });
    let error = decode(&bytes).unwrap_err();
    assert!(matches!(error, DecodeError::Refused(Refused::TooLarge { .. })), "{error}");
}

#[test]
fn the_largest_records_fit() {
    let mut record = sample::create(7);
    record.who.groups = vec![u32::MAX; limits::GROUPS];
    with_state(&mut record, |state| {
        state.xattrs = (100..300).map(|n| xattr(n.to_string().as_bytes(), 65_536)).collect()
    });
    assert_eq!(decode(&frame(&record)), Ok(record));
}

#[test]
fn lists_without_end_are_refused() {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, &sample::create(7), 9, |out| {
        put_field(out, tag::WHO, |out| out.extend([0; 5 + limits::GROUPS + 1]));
    });
    let fault = Fault::Many { what: "groups", limit: limits::GROUPS };
    assert_eq!(decode(&bytes), Err(DecodeError::Field { tag: tag::WHO, fault }));
}

#[test]
fn the_smallest_record_is_a_head_and_a_tail() {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, &sample::create(7), 9, |_| {});
    assert_eq!(bytes.len(), FRAME_BYTES);
    assert_eq!(u32_at(&bytes, 4), FRAME_BYTES as u32);
    assert_eq!(decode(&bytes).unwrap().change, Change::Noop);
}
