//! Random records that keep every rule, for tests.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::attributes::{Attributes, Data, Device, Digest, Kind, State, Xattr};
use crate::id::{DataVersion, ObjectId, Origin, Recno, ReplicaId};
use crate::name::{Name, Place, join};
use crate::record::{Change, Displaced, EpochCause, Record, Removed};
use crate::time::{Step, Time, Times};
use crate::who::Who;

/// Any record.
pub fn record() -> BoxedStrategy<Record> {
    let numbers = (any::<u64>(), 1..1000u64, any::<u32>(), origin(1));
    (numbers, time(), who(), any_change())
        .prop_map(|((previous, gap, epoch, origin), time, who, change)| {
            let previous = previous.min(u64::MAX - gap);
            Record {
                recno: Recno(previous + gap),
                previous: Recno(previous),
                epoch,
                origin,
                time,
                who,
                change,
            }
        })
        .boxed()
}

fn any_change() -> BoxedStrategy<Change> {
    let nested = |origin, change| (origin, Box::new(change));
    prop_oneof![
        8 => change(),
        1 => (origin(0), change()).prop_map(move |(record, change)| {
            let (record, change) = nested(record, change);
            Change::Amend { record, change }
        }),
        1 => (origin(0), change()).prop_map(move |(record, change)| {
            let (record, change) = nested(record, change);
            Change::UndoOf { record, change }
        }),
    ]
    .boxed()
}

/// A change that holds no other.
pub fn change() -> BoxedStrategy<Change> {
    prop_oneof![tree_change(), object_change(), log_change()].boxed()
}

fn tree_change() -> BoxedStrategy<Change> {
    prop_oneof![
        (object(), placed(), state(), times()).prop_map(|(object, (place, path), state, parent)| {
            Change::Make { object, place, path, state, parent }
        }),
        (object(), placed(), step(), times()).prop_map(|(object, (place, path), attributes, parent)| {
            Change::Link { object, place, path, attributes, parent }
        }),
        (removed(), placed(), times()).prop_map(|(removed, (place, path), parent)| Change::Remove {
            removed,
            place,
            path,
            parent
        }),
        rename(),
    ]
    .boxed()
}

fn rename() -> BoxedStrategy<Change> {
    let parents = prop_oneof![times().prop_map(|times| (times, times)), (times(), times())];
    (object(), step(), placed(), placed(), parents, displaced())
        .prop_map(
            |(object, attributes, (from, from_path), (to, to_path), (from_parent, to_parent), displaced)| {
                Change::Rename {
                    object,
                    attributes,
                    from,
                    from_path,
                    from_parent,
                    to,
                    to_path,
                    to_parent,
                    displaced,
                }
            },
        )
        .boxed()
}

fn displaced() -> BoxedStrategy<Displaced> {
    prop_oneof![
        Just(Displaced::Nothing),
        removed().prop_map(|removed| Displaced::Replaced(Box::new(removed))),
        (object(), step()).prop_map(|(object, attributes)| Displaced::Exchanged { object, attributes }),
    ]
    .boxed()
}

fn object_change() -> BoxedStrategy<Change> {
    let value = || proptest::option::of(bytes(200));
    prop_oneof![
        (object(), path(), step(), proptest::option::of(data_step()))
            .prop_map(|(object, path, attributes, data)| Change::Setattr { object, path, attributes, data }),
        (object(), path(), xattr_name(), value(), value(), step()).prop_map(
            |(object, path, name, before, after, attributes)| {
                let value = Step { before, after };
                Change::Xattr { object, path, name, value, attributes }
            }
        ),
        (object(), path(), step(), data_step(), any::<bool>()).prop_map(
            |(object, path, attributes, data, stable)| Change::Close {
                object,
                path,
                attributes,
                data,
                stable
            }
        ),
    ]
    .boxed()
}

fn log_change() -> BoxedStrategy<Change> {
    let cause = prop_oneof![
        Just(EpochCause::Recovered),
        Just(EpochCause::Taken),
        Just(EpochCause::Stolen),
        Just(EpochCause::Copied)
    ];
    prop_oneof![
        (object(), origin(0), any::<u64>(), digest()).prop_map(|(object, version, size, digest)| {
            Change::Digest { object, version: DataVersion(version), size, digest }
        }),
        Just(Change::Noop),
        (origin(0), ".{0,40}").prop_map(|(record, reason)| Change::Disable { record, reason: reason.into() }),
        (object(), object()).prop_map(|(object, stands_for)| Change::Alias { object, stands_for }),
        (any::<u32>(), any::<u64>(), cause, any::<u64>()).prop_map(|(epoch, holder, cause, ended_at)| {
            Change::Epoch { epoch, holder: ReplicaId(holder), cause, ended_at: Recno(ended_at) }
        }),
        (any::<u64>(), any::<u64>(), any::<u64>(), vec(origin(0), 0..4)).prop_map(
            |(of, at, records, heads)| {
                Change::Snapshot { of: ReplicaId(of), at: Recno(at), records, heads: heads.into() }
            }
        ),
    ]
    .boxed()
}

fn removed() -> BoxedStrategy<Removed> {
    (object(), state(), prop_oneof![Just(0), any::<u32>()], prop_oneof![Just(Time::default()), time()])
        .prop_map(|(object, state, links_left, ctime_after)| Removed {
            object,
            state,
            links_left,
            ctime_after,
        })
        .boxed()
}

fn state() -> BoxedStrategy<State> {
    let xattrs = proptest::collection::btree_map(xattr_name(), bytes(300), 0..4);
    (attributes(), vec(1..=255u8, 1..40), xattrs, proptest::option::of(data()))
        .prop_map(|(attributes, target, xattrs, data)| State {
            attributes,
            target: if attributes.kind == Kind::Symlink { target.into() } else { Box::default() },
            xattrs: xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect(),
            data: data.filter(|_| attributes.kind == Kind::File),
        })
        .boxed()
}

fn step() -> BoxedStrategy<Step<Attributes>> {
    (attributes(), attributes(), any::<[bool; 8]>())
        .prop_map(|(before, other, changes)| {
            let pick = |i: usize| if changes[i] { &other } else { &before };
            let after = Attributes {
                kind: before.kind,
                mode: pick(0).mode,
                uid: pick(1).uid,
                gid: pick(2).gid,
                size: pick(3).size,
                links: pick(4).links,
                device: pick(4).device,
                atime: pick(5).atime,
                mtime: pick(6).mtime,
                ctime: pick(7).ctime,
            };
            Step::new(before, after)
        })
        .boxed()
}

fn attributes() -> BoxedStrategy<Attributes> {
    let device = (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device { major, minor });
    let device = prop_oneof![Just(Device::default()), device];
    (
        1..=7u8,
        0..=0o7777u16,
        [0..u32::MAX, 0..u32::MAX],
        any::<u64>(),
        0..5u32,
        device,
        [time(), time(), time()],
        0..4u8,
    )
        .prop_map(|(kind, mode, [uid, gid], size, links, device, [atime, mtime, ctime], same)| Attributes {
            kind: Kind::from_number(kind).unwrap(),
            mode,
            uid,
            gid,
            size,
            links,
            device,
            atime,
            mtime: if same & 1 == 0 { mtime } else { atime },
            ctime: if same & 2 == 0 { ctime } else { mtime },
        })
        .boxed()
}

fn data() -> BoxedStrategy<Data> {
    (origin(0), proptest::option::of(digest()))
        .prop_map(|(version, digest)| Data { version: DataVersion(version), digest })
        .boxed()
}

fn data_step() -> BoxedStrategy<Step<Data>> {
    (data(), data()).prop_map(|(before, after)| Step::new(before, after)).boxed()
}

fn digest() -> BoxedStrategy<Digest> {
    any::<[u8; 32]>().boxed()
}

fn times() -> BoxedStrategy<Step<Times>> {
    let times = || {
        let different = (time(), time()).prop_map(|(mtime, ctime)| Times { mtime, ctime });
        prop_oneof![time().prop_map(|time| Times { mtime: time, ctime: time }), different]
    };
    prop_oneof![
        times().prop_map(|times| Step::new(times, times)),
        (times(), times()).prop_map(|(a, b)| Step::new(a, b))
    ]
    .boxed()
}

fn time() -> BoxedStrategy<Time> {
    let seconds = prop_oneof![1_790_000_000..1_790_000_100i64, any::<i64>()];
    (seconds, 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Time::new(seconds, nanoseconds)).boxed()
}

fn who() -> BoxedStrategy<Who> {
    (any::<[u32; 3]>(), vec(any::<u32>(), 0..5), bytes(64), bytes(64))
        .prop_map(|([uid, gid, pid], groups, program, session)| Who {
            uid,
            gid,
            groups,
            pid,
            program,
            session,
        })
        .boxed()
}

fn object() -> BoxedStrategy<ObjectId> {
    origin(0).prop_map(ObjectId).boxed()
}

/// Few replicas and numbers, so that every form of an id comes up.
fn origin(least: u64) -> BoxedStrategy<Origin> {
    let replica = prop_oneof![least..3u64, Just(u64::MAX)];
    let recno = prop_oneof![least..3u64, least..=u64::MAX];
    (replica, recno).prop_map(|(replica, recno)| Origin::new(ReplicaId(replica), Recno(recno))).boxed()
}

/// A place and a path, which ends in the place's name as a rule.
fn placed() -> BoxedStrategy<(Place, Box<[u8]>)> {
    (object(), name(), path(), 0..4u8)
        .prop_map(|(parent, name, path, odd)| {
            let path = if odd == 0 { path } else { join(&path, name.as_bytes()).into() };
            (Place::new(parent, name), path)
        })
        .boxed()
}

fn name() -> BoxedStrategy<Name> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte });
    vec(byte, 1..=255).prop_map(|bytes| Name::new(&bytes).unwrap_or_else(|_| Name::first())).boxed()
}

fn path() -> BoxedStrategy<Box<[u8]>> {
    prop_oneof![Just(Box::default()), bytes(80)].boxed()
}

fn xattr_name() -> BoxedStrategy<Box<[u8]>> {
    vec(1..=255u8, 1..60).prop_map(Into::into).boxed()
}

fn bytes(longest: usize) -> BoxedStrategy<Box<[u8]>> {
    vec(any::<u8>(), 0..=longest).prop_map(Into::into).boxed()
}
