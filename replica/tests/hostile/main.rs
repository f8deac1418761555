//! Logs that nobody's mezzo wrote. Each is refused for what is wrong with it, by name; nothing outside of the directory that it
//! is replayed onto changes, and nothing inside by the record that is refused.

#[path = "../common/mod.rs"]
mod common;
mod log;
mod scene;

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use mezzo_core::codec::{HEAD_BYTES, SEGMENT_HEAD_BYTES, TAIL_BYTES, decode, encode};
use mezzo_core::record::{Displaced, EpochCause};
use mezzo_core::{Attributes, Change, Device, Kind, Origin, Recno, Record, Time};

use common::work::{Random, seed};
use log::*;
use scene::{Scene, seen};

const NOTHING: Displaced = Displaced::Nothing;

/// An ACL that says what mode 0644 says: its version, and owner, group and others, each with tag, permissions and no id.
const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

fn replaced(object: mezzo_core::ObjectId, kind: Kind) -> Displaced {
    Displaced::Replaced(Box::new(removed(object, kind, 0)))
}

fn exchanged(object: mezzo_core::ObjectId, kind: Kind) -> Displaced {
    let attributes = mezzo_core::time::Step::new(attributes(kind), attributes(kind));
    Displaced::Exchanged { object, attributes }
}

/// A log of which the last change is refused, and what for.
fn refused(what: &str, changes: impl IntoIterator<Item = Change>, told: &str) {
    Scene::new().check(what, &Log::with(changes), &|_| {}, Err(told));
}

/// A log that is done.
fn done(what: &str, change: Change) -> Scene {
    let scene = Scene::new();
    scene.check(what, &Log::with([change]), &|_| {}, Ok(1));
    scene
}

#[test]
fn names_that_are_none() {
    let check = |name: &[u8], told: &str| {
        let mut log = Log::new();
        let place = [&[0], name].concat();
        let times = vec![7, 0, 0, 0, 0, 0];
        log.push_fields(1, &[(0x81, vec![1]), (0x82, place), (0x84, vec![0, 0]), (0x8a, times)]);
        Scene::new().check(&name.escape_ascii().to_string(), &log, &|_| {}, Err(told));
    };
    check(b"", "could not read record 5, at byte 600");
    check(b"", "a name is empty");
    check(b".", "a name is . or ..");
    check(b"..", "a name is . or ..");
    check(b"../canary", "a name holds a slash or a NUL");
    check(b"/etc", "a name holds a slash or a NUL");
    check(b"s/f", "a name holds a slash or a NUL");
    check(b"a\0b", "a name holds a slash or a NUL");
    check(&[b'n'; 256], "a name has 256 bytes, more than 255");
    check(&[b'n'; 100_000], "a name has 100000 bytes, more than 255");
}

#[test]
fn paths_are_for_people_alone() {
    for path in [&b"/etc/passwd"[..], b"../canary/f", b"", b"\0", &[b'p'; 16 << 10]] {
        let mut change = make(5, D, b"new", state(Kind::File));
        if let Change::Make { path: told, .. } = &mut change {
            *told = path.into();
        }
        let scene = done("a path that leads elsewhere", change);
        assert!(scene.root().join("d/new").is_file());
    }
}

#[test]
fn lengths_and_counts_without_end() {
    let check = |what: &str, kind: u8, body: &[u8], told: &str| {
        let mut log = Log::new();
        log.push_body(kind, body);
        Scene::new().check(what, &log, &|_| {}, Err(told));
    };
    let huge = varint(u64::MAX);
    let field = |tag: u8, value: &[u8]| [vec![tag], counted(value)].concat();
    check("a field", 9, &[&[0x01][..], &huge].concat(), "could not read record 5");
    check(
        "a field of half the world",
        9,
        &[&[0x01][..], &varint(1 << 40)].concat(),
        "the value ends too early",
    );
    check(
        "a number without end",
        9,
        &[&[0x01][..], &[0xff; 11]].concat(),
        "a number is not in its shortest form",
    );
    check("a program's name", 9, &field(0x01, &[&[0, 0, 0][..], &huge].concat()), "the value ends too early");
    check(
        "groups",
        9,
        &field(0x01, &[&[0, 0, 0, 0, 0][..], &[1; 70_000]].concat()),
        "more than 65536 groups",
    );
    let start = [field(0x81, &[1]), field(0x82, b"\0n"), field(0x84, &[0, 0])].concat();
    let xattr = [&counted(b"user.a")[..], &huge].concat();
    check("a value", 1, &[&start[..], &field(0x87, &xattr)].concat(), "the value ends too early");
    let many: Vec<u8> =
        (0..40_000u32).flat_map(|n| [counted(format!("u.{n:05}").as_bytes()), vec![0]].concat()).collect();
    let times = field(0x8a, &[7, 0, 0, 0, 0, 0]);
    check(
        "extended attributes",
        1,
        &[&start[..], &field(0x87, &many), &times].concat(),
        "more than 16384 extended attributes",
    );
    let value = [counted(b"user.a"), counted(&[0; 65_537])].concat();
    check(
        "a value of its own",
        1,
        &[&start[..], &field(0x87, &value), &times].concat(),
        "value in bytes of 65537",
    );
    let target =
        [field(0x81, &[1]), field(0x82, b"\0n"), field(0x84, &[1, 0, 3]), field(0x86, &[b't'; 4096]), times];
    check("a target", 1, &target.concat(), "a target in bytes of 4096");
    check("a path", 5, &field(0x02, &[b'p'; (16 << 10) + 1]), "a path in bytes of 16385");
    check("a kind", 200, &[], "kind");
}

#[test]
fn lengths_of_frames() {
    let check = |what: &str, length: u32, told: Result<u64, &str>| {
        let mut log = Log::new();
        let before = (log.bytes.len(), log.last);
        (0..2).for_each(|_| log.push_body(9, &[]));
        log.before = before;
        mend(&mut log.bytes[before.0..][..HEAD_BYTES + TAIL_BYTES], length);
        Scene::new().check(what, &log, &|_| {}, told);
    };
    check("as it is", 72, Ok(2));
    check("none", 0, Err("a good record follows"));
    check("too short", 64, Err("a good record follows"));
    check("odd", 73, Err("a good record follows"));
    check("beyond the limit", 16 << 20 | 8, Err("a good record follows"));
    check("the largest", u32::MAX, Err("a good record follows"));
    // As far as its head says, it reaches to the end or beyond: it may be being written, and nothing is looked for within it.
    check("to the end", 144, Ok(0));
    check("beyond the end", 1 << 20, Ok(0));
}

#[test]
fn objects_that_can_not_be_meant() {
    let file = Kind::File;
    let directory = Kind::Directory;
    let root = |name: &[u8]| place(ROOT, name);
    refused("the root is made", [make_as(ROOT, "n")], "the root can be neither made, moved nor removed");
    refused("the root is linked", [link(ROOT, directory, root(b"n"))], "the root");
    refused("the root is removed", [remove(ROOT, directory, root(b"d"))], "the root");
    refused("the root is moved", [rename(ROOT, directory, root(b"d"), root(b"n"), NOTHING)], "the root");
    refused(
        "the root is exchanged",
        [rename(D, directory, root(b"d"), root(b"f"), exchanged(ROOT, directory))],
        "the root",
    );
    refused("the root is another", [Change::Alias { object: ROOT, stands_for: D }], "the root");
    refused("the root is a file", [close(ROOT, file, |_| {})], "should be a file, and is a directory");
    refused("an id twice", [make_as(F, "n")], "there is an object 0000000000000007-2 already");
    refused("a name twice", [make(5, ROOT, b"f", state(file))], "f in 0000000000000000-0 should be free");
    refused(
        "in what is not there",
        [make(5, id(99), b"n", state(file))],
        "there is no object 0000000000000007-99",
    );
    refused("in a file", [make(5, F, b"n", state(file))], "should be a directory, and is a file");
    refused("in itself", [make(5, id(5), b"n", state(directory))], "there is no object 0000000000000007-5");
    refused("in a symlink", [make(5, S, b"n", state(file))], "should be a directory, and is a symlink");
    refused(
        "through a symlink",
        [remove(F, file, place(S, b"f"))],
        "should be a directory, and is a symlink",
    );
    refused("into a symlink", [rename(F, file, root(b"f"), place(S, b"x"), NOTHING)], "and is a symlink");
    refused(
        "a directory's second name",
        [link(D, directory, root(b"n"))],
        "can have neither a second name nor data",
    );
    refused("a directory's data", [close(D, directory, |_| {})], "should be a file, and is a directory");
    refused(
        "below itself",
        [rename(D, directory, root(b"d"), place(E, b"d"), NOTHING)],
        "would come to stand below itself",
    );
    refused(
        "in itself",
        [rename(D, directory, root(b"d"), place(D, b"d"), NOTHING)],
        "would come to stand below itself",
    );
    refused(
        "with what is in it",
        [rename(D, directory, root(b"d"), place(D, b"e"), exchanged(E, directory))],
        "below itself",
    );
    refused(
        "over what is in it",
        [rename(E, directory, place(D, b"e"), root(b"d"), replaced(D, directory))],
        "should be empty",
    );
    refused(
        "over itself",
        [rename(F, file, root(b"f"), root(b"f"), replaced(F, file))],
        "can't take its own place",
    );
    refused(
        "a file over a directory",
        [rename(F, file, root(b"f"), place(D, b"e"), replaced(E, directory))],
        "should be a file, and is a directory",
    );
    refused(
        "a directory over a file",
        [rename(E, directory, place(D, b"e"), root(b"f"), replaced(F, file))],
        "should be a directory, and is a file",
    );
    refused("a full directory", [remove(D, directory, root(b"d"))], "should be empty, and has 1 entries");
    refused(
        "a directory as a file",
        [remove(E, file, place(D, b"e"))],
        "should be a file, and is a directory",
    );
    refused("elsewhere", [remove(F, file, root(b"d"))], "should be object 0000000000000007-2");
    refused("what is gone", [remove(F, file, root(b"f")), setattr(F, file, |_| {})], "record 6 (setattr");
    refused("undo of a make", [undo(make_as(F, "n"))], "there is an object");
}

#[test]
fn the_place_of_mezzo_s_own_files() {
    let (file, directory) = (Kind::File, Kind::Directory);
    let own = place(ROOT, b".mezzo");
    let told = ".mezzo in the root is mezzo's own";
    refused("made", [make(5, ROOT, b".mezzo", state(directory))], told);
    refused("linked", [link(F, file, own.clone())], told);
    refused("moved", [rename(D, directory, place(ROOT, b"d"), own.clone(), NOTHING)], told);
    refused("made by an undo", [undo(make(5, ROOT, b".mezzo", state(directory)))], told);
    refused("removed", [remove(D, directory, own)], ".mezzo in 0000000000000000-0 should be object");
    done("elsewhere it is a name as any", make(5, D, b".mezzo", state(directory)));
}

fn make_as(object: mezzo_core::ObjectId, name: &str) -> Change {
    let made = make(5, ROOT, name.as_bytes(), state(Kind::Directory));
    let Change::Make { place, path, state, parent, .. } = made else { unreachable!() };
    Change::Make { object, place, path, state, parent }
}

#[test]
fn an_undo_holds_no_other() {
    let record = vec![2, 1];
    let nested = |outer: u8, inner: u8| {
        let mut log = Log::new();
        let undo = [vec![0x92], counted(&record), vec![0x93], counted(&[9])].concat();
        log.push_fields(outer, &[(0x92, record.clone()), (0x93, [vec![inner], undo].concat())]);
        log
    };
    for (outer, inner) in [(14, 14), (14, 11), (11, 14), (11, 11)] {
        let told = format!("kind {inner}");
        Scene::new().check("nested", &nested(outer, inner), &|_| {}, Err(&told));
    }
}

/// Numbers, and what they say of the numbers before.
#[test]
fn numbers_that_do_not_follow() {
    let check = |what: &str, change: &dyn Fn(&mut Record), expected: Result<u64, &str>| {
        let mut log = Log::new();
        let mut record = log.next(Change::Noop);
        change(&mut record);
        log.push_record(&record);
        Scene::new().check(what, &log, &|_| {}, expected);
    };
    check("the next", &|_| {}, Ok(1));
    check("a jump", &|record| record.recno = Recno(900), Ok(1));
    check("the last there is", &|record| record.recno = Recno(u64::MAX), Ok(1));
    check("again", &|r| (r.recno, r.previous) = (Recno(4), Recno(3)), Err("record 4 follows record 4"));
    check("backwards", &|r| (r.recno, r.previous) = (Recno(2), Recno(1)), Err("record 2 follows record 4"));
    check(
        "a gap",
        &|r| (r.recno, r.previous) = (Recno(6), Recno(5)),
        Err("was written behind record 5, and follows 4"),
    );
    check("behind nothing", &|r| r.previous = Recno(0), Err("was written behind record 0, and follows 4"));
    check("an epoch that is over", &|r| r.epoch = 2, Err("is of epoch 2, and follows one of epoch 3"));
    check("a later epoch", &|r| r.epoch = u32::MAX, Ok(1));
    check("another's", &|r| r.origin = Origin::new(mezzo_core::ReplicaId(8), Recno(u64::MAX)), Ok(1));
    let epoch =
        Change::Epoch { epoch: 0, holder: REPLICA, cause: EpochCause::Stolen, ended_at: Recno(u64::MAX) };
    done("an epoch told backwards", epoch);
}

#[test]
fn heads_of_segments() {
    let check = |at: usize, bytes: &[u8], told: &str| {
        let mut log = Log::with([Change::Noop]);
        log.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32c::crc32c(&log.bytes[..76]);
        log.bytes[76..80].copy_from_slice(&checksum.to_le_bytes());
        let scene = Scene::new();
        let error = scene.replay(&log.bytes, 1, u64::MAX).unwrap_err();
        assert!(error.contains(told), "{error}");
        assert!(seen(&scene.root(), false).len() == 1);
    };
    check(0, b"KML1", "this is not a segment of a log");
    check(8, &[3], "version 3.2");
    check(12, &[0xff, 0xff, 0xff, 0xff], "can't have 4294967295 bytes");
    check(12, &[0, 0x10], "can't have 4096 bytes");
    check(12, &[88], "does not match its checksum");
    check(40, &[4], "is of epoch 3, and follows one of epoch 4");
    check(44, &[1], "flags 0x1");
    check(48, &[0], "first 0, previous 0");
    check(56, &[9], "first 1, previous 9");
}

#[test]
fn what_was_planted_where_records_have_something_else() {
    type Plant<'p> = &'p dyn Fn(&Scene);
    let check = |what: &str, plant: Plant<'_>, change: Change, told: &str| {
        Scene::new().check(what, &Log::with([change]), plant, Err(told));
    };
    let (file, directory) = (Kind::File, Kind::Directory);
    let put = |path: &'static str, make: &'static dyn Fn(&Scene, &std::path::Path)| {
        move |scene: &Scene| {
            let path = scene.root().join(path);
            std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)).unwrap();
            make(scene, &path);
        }
    };
    let to_canary = &|scene: &Scene, path: &std::path::Path| symlink(scene.canary(), path).unwrap();
    let to_file = &|scene: &Scene, path: &std::path::Path| symlink(scene.canary().join("f"), path).unwrap();
    let a_file = &|_: &Scene, path: &std::path::Path| std::fs::write(path, "planted").unwrap();
    let a_directory = &|_: &Scene, path: &std::path::Path| std::fs::create_dir(path).unwrap();
    let a_fifo = &|_: &Scene, path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_bits_retain(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let new = || make(5, D, b"new", state(file));
    check("a link for a directory", &put("d", to_canary), new(), "could not do record 5 (create a path)");
    check("a link above", &put("d", to_canary), make(5, E, b"new", state(file)), "could not do record 5");
    check("a file for a directory", &put("d", a_file), new(), "Not a directory");
    check(
        "nothing",
        &|scene| std::fs::remove_dir_all(scene.root().join("d")).unwrap(),
        new(),
        "No such file",
    );
    check(
        "a link to remove in",
        &put("d", to_canary),
        remove(E, directory, place(D, b"e")),
        "could not do record 5 (rmdir",
    );
    check(
        "a link to move to",
        &put("d", to_canary),
        rename(F, file, place(ROOT, b"f"), place(D, b"f"), NOTHING),
        "could not do record 5 (rename",
    );
    let told = "the records have a file there, and the directory a symlink";
    check("mode", &put("f", to_file), setattr(F, file, |after| after.mode = 0o4777), told);
    check("owner", &put("f", to_file), setattr(F, file, |after| after.uid = 1000), told);
    check("size", &put("f", to_file), close(F, file, |after| after.size = 0), told);
    check("times", &put("f", to_file), setattr(F, file, |after| after.mtime = Time::new(1, 1)), told);
    check("xattr", &put("f", to_file), xattr(F, file, b"user.a", Some(b"1")), told);
    check("xattr of root's", &put("f", to_file), xattr(F, file, b"trusted.a", Some(b"1")), told);
    check("link", &put("f", to_file), link(F, file, place(ROOT, b"n")), told);
    check("remove", &put("f", to_file), remove(F, file, place(ROOT, b"f")), told);
    check("move", &put("f", to_file), rename(F, file, place(ROOT, b"f"), place(ROOT, b"n"), NOTHING), told);
    check("a fifo", &put("f", a_fifo), close(F, file, |after| after.size = 3), "and the directory a fifo");
    check(
        "a directory",
        &put("f", a_directory),
        remove(F, file, place(ROOT, b"f")),
        "and the directory a directory",
    );
    let over = rename(E, directory, place(D, b"e"), place(ROOT, b"f"), exchanged(F, file));
    check("exchange", &put("f", to_file), over, told);
    let occupied =
        |name: &'static str| move |scene: &Scene| symlink(scene.canary(), scene.root().join(name)).unwrap();
    check("in the way of a directory", &occupied("n"), make(5, ROOT, b"n", state(directory)), "File exists");
    check("in the way of a file", &occupied("n"), make(5, ROOT, b"n", state(file)), "File exists");
    check("in the way of a fifo", &occupied("n"), make(5, ROOT, b"n", state(Kind::Fifo)), "File exists");
    check("in the way of a link", &occupied("n"), link(F, file, place(ROOT, b"n")), "File exists");
    check(
        "in the way of a move",
        &occupied("n"),
        rename(F, file, place(ROOT, b"f"), place(ROOT, b"n"), NOTHING),
        "File exists",
    );
}

/// The root itself is a path that leads through a symbolic link; only what is below counts.
#[test]
fn links_that_the_log_made_are_not_followed() {
    let scene = Scene::new();
    let log = Log::with([
        make(5, ROOT, b"l", state(Kind::Symlink)),
        setattr(S, Kind::Symlink, |after| (after.uid, after.mtime) = (1000, Time::new(5, 5))),
        link(S, Kind::Symlink, place(D, b"s")),
        rename(S, Kind::Symlink, place(ROOT, b"s"), place(ROOT, b"l"), replaced(id(5), Kind::Symlink)),
        xattr(S, Kind::Symlink, b"trusted.a", Some(b"1")),
        remove(S, Kind::Symlink, place(ROOT, b"l")),
    ]);
    // Two names are left of which the record knows one: it loses that one.
    scene.check("links", &log, &|_| {}, Ok(1));
    assert_eq!(std::fs::symlink_metadata(scene.root().join("d/s")).unwrap().uid(), 1000);
}

#[test]
fn attributes_that_no_host_has() {
    let file = Kind::File;
    let make_with = |set: &dyn Fn(&mut Attributes)| make(5, D, b"new", with(file, set));
    for size in [1 << 63, u64::MAX, u64::MAX - 1, i64::MAX as u64] {
        refused("a size", [make_with(&|a| a.size = size)], "(create a path): File too large");
        refused("a size", [close(F, file, |a| a.size = size)], "(close a path): File too large");
        let set = |a: &mut Attributes| (a.size, a.uid, a.mode) = (size, 1000, 0o777);
        refused("a size with an owner", [close(F, file, set)], "File too large");
        refused("an undo's size", [undo(close(F, file, |a| a.size = size))], "File too large");
    }
    let refused_bytes = |what: &str, tag: u8, value: Vec<u8>, told: &str| {
        let mut log = Log::new();
        let times = (0x8a, vec![7, 0, 0, 0, 0, 0]);
        log.push_fields(1, &[(0x81, vec![1]), (0x82, b"\0n".to_vec()), (tag, value), times]);
        Scene::new().check(what, &log, &|_| {}, Err(told));
    };
    refused_bytes("a mode", 0x84, [vec![2, 0], varint(0o10000)].concat(), "a mode is beyond 0o7777");
    refused_bytes(
        "a mode of 64 bits",
        0x84,
        [vec![2, 0], varint(u64::MAX)].concat(),
        "could not read record 5",
    );
    refused_bytes("an owner", 0x84, [vec![4, 0], varint(u32::MAX.into())].concat(), "an owner is 2^32 - 1");
    refused_bytes("a group", 0x84, [vec![8, 0], varint(u32::MAX.into())].concat(), "an owner is 2^32 - 1");
    refused_bytes(
        "an owner of 33 bits",
        0x84,
        [vec![4, 0], varint(1 << 32)].concat(),
        "could not read record 5",
    );
    refused_bytes(
        "nanoseconds",
        0x84,
        vec![0, 1, 0, 0, 0xca, 0x9a, 0x3b],
        "nanoseconds are beyond 999,999,999",
    );
    // What utimensat(2) takes for "now" and "leave it".
    refused_bytes("now", 0x84, vec![0, 1, 0, 0xff, 0xff, 0xff, 0x3f], "nanoseconds are beyond 999,999,999");
    refused_bytes("omit", 0x84, vec![0, 1, 0, 0xfe, 0xff, 0xff, 0x3f], "nanoseconds are beyond 999,999,999");
    refused_bytes("a kind", 0x84, vec![1, 0, 8], "could not read record 5");
}

/// Such times are there in full, or the record is not.
#[test]
fn times_at_the_ends_of_what_can_be_told() {
    for seconds in [i64::MIN, i64::MIN + 1, -1 << 35, -1 << 31, (1 << 31) - 1, 1 << 31, 1 << 35, i64::MAX] {
        let time = Time::new(seconds, 999_999_999);
        let both = |a: &mut Attributes| (a.atime, a.mtime) = (time, time);
        let mut touching = make(5, D, b"new", state(Kind::File));
        if let Change::Make { parent, .. } = &mut touching {
            *parent = touched(time);
        }
        for (path, change) in [
            ("d/new", make(5, D, b"new", with(Kind::File, both))),
            ("d/new", make(5, D, b"new", with(Kind::Symlink, both))),
            ("f", setattr(F, Kind::File, both)),
            ("d", setattr(D, Kind::Directory, both)),
            ("f", close(F, Kind::File, both)),
            ("d", touching),
        ] {
            let scene = Scene::new();
            let log = Log::with([change]);
            scene.replay(&log.bytes[..log.before.0], 1, log.before.1).unwrap();
            let before = seen(&scene.root(), false);
            match scene.replay(&log.bytes, 5, u64::MAX) {
                Ok(_) => {
                    let found = std::fs::symlink_metadata(scene.root().join(path)).unwrap();
                    assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, 999_999_999), "{path}");
                }
                Err(error) => {
                    let told = format!("the host has no time {seconds}.999999999");
                    assert!(error.contains(&told), "{error}");
                    assert_eq!(seen(&scene.root(), false), before, "{path} at {seconds}");
                }
            }
        }
    }
}

#[test]
fn extended_attributes_that_are_none() {
    let (file, link) = (Kind::File, Kind::Symlink);
    let check = |what: &str, kind: Kind, name: &[u8], value: &[u8], told: &str| {
        refused(what, [make(5, D, b"new", with_xattr(kind, name, value))], told);
        let object = if kind == file { F } else { S };
        refused(what, [xattr(object, kind, name, Some(value))], told);
    };
    check("no namespace", file, b"color", b"", "not supported");
    check("an unknown one", file, b"system.mezzo", b"", "not supported");
    check("a namespace alone", file, b"user.", b"", "Invalid argument");
    check("an ACL that is none", file, b"system.posix_acl_access", b"no ACL", "os error");
    check("a default ACL of a file", file, b"system.posix_acl_default", ACL, "Permission denied");
    check("more than the host takes", file, b"user.large", &[7; 65_536], "No space left");
    check("a user's, of a link", link, b"user.a", b"", "Operation not permitted");
    check("an ACL of a link", link, b"system.posix_acl_access", ACL, "not supported");
    for own in [&b"trusted.mezzo.lost"[..], b"trusted.mezzo.", b"trusted.mezzo.anything"] {
        check("mezzo's own", file, own, b"1", "records carry no extended attribute trusted.mezzo.");
    }
    check(
        "the host's own",
        file,
        b"security.selinux",
        b"1",
        "records carry no extended attribute security.selinux",
    );
    let undone = undo(xattr(F, file, b"trusted.mezzo.lost", Some(b"1")));
    refused("in an undo", [undone], "records carry no extended attribute trusted.mezzo.lost");
    let raw = |name: &[u8], told: &str| {
        let mut log = Log::new();
        let xattrs = [counted(name), vec![0]].concat();
        let times = (0x8a, vec![7, 0, 0, 0, 0, 0]);
        let start = [(0x81, vec![1]), (0x82, b"\0n".to_vec()), (0x84, vec![0, 0]), (0x87, xattrs), times];
        log.push_fields(1, &start);
        Scene::new().check("a name", &log, &|_| {}, Err(told));
    };
    raw(b"", "name is empty or holds a NUL");
    raw(b"user.a\0", "name is empty or holds a NUL");
    raw(&[b'u'; 256], "name in bytes of 256");
}

/// They are made as they are told: who replays a log as root trusts it with that.
#[test]
fn set_id_bits_and_devices_are_made_inside_alone() {
    let scene =
        done("set-id", make(5, D, b"new", with(Kind::File, |a| (a.mode, a.uid, a.gid) = (0o6755, 1, 1))));
    let made = std::fs::symlink_metadata(scene.root().join("d/new")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o6755, 1, 1));
    let device = Device { major: 1, minor: 3 };
    let scene = done("a device", make(5, D, b"new", with(Kind::CharDevice, |a| a.device = device)));
    let made = std::fs::symlink_metadata(scene.root().join("d/new")).unwrap();
    assert!(made.file_type().is_char_device() && made.rdev() == 0x103);
    for device in [
        Device { major: u32::MAX, minor: 0 },
        Device { major: 0, minor: u32::MAX },
        Device { major: 4096, minor: 0 },
    ] {
        let change = make(5, D, b"new", with(Kind::BlockDevice, |a| a.device = device));
        refused("a device that there can't be", [change], "Invalid argument");
    }
}

#[test]
fn what_the_host_has_against_it_leaves_nothing() {
    let target = |target: &[u8]| mezzo_core::State { target: target.into(), ..state(Kind::Symlink) };
    refused("a link that leads nowhere", [make(5, D, b"new", target(b""))], "No such file");
    let long = make(5, D, b"new", target(&[b't'; 4095]));
    Scene::new().check("the longest target", &Log::with([long]), &|_| {}, Ok(1));
    // The record says that a name is left which the directory has not: names say which is the last.
    let mut gone = remove(F, Kind::File, place(ROOT, b"f"));
    if let Change::Remove { removed, .. } = &mut gone {
        removed.links_left = 1;
    }
    let again = link(F, Kind::File, place(ROOT, b"n"));
    done("names that are left elsewhere", gone.clone());
    refused("no name to link from", [gone, again], "there is no object");
}

/// Whole records before the cut are done, and nothing else; a head that is cut is none.
#[test]
fn a_log_cut_anywhere() {
    let log =
        Log::with([setattr(F, Kind::File, |a| a.mode = 0o600), remove(F, Kind::File, place(ROOT, b"f"))]);
    let scene = Scene::new();
    let canary = seen(&scene.canary(), true);
    let mut ends = Vec::new();
    let mut at = SEGMENT_HEAD_BYTES;
    while at < log.bytes.len() {
        at += u32::from_le_bytes(log.bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        ends.push(at);
    }
    for cut in 0..log.bytes.len() {
        std::fs::remove_dir_all(scene.root()).unwrap();
        std::fs::create_dir(scene.root()).unwrap();
        let found = scene.replay(&log.bytes[..cut], 1, u64::MAX);
        if cut < SEGMENT_HEAD_BYTES {
            let error = found.unwrap_err();
            assert!(error.contains("segment"), "cut at {cut}: {error}");
        } else {
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            assert_eq!(found.unwrap().records, whole, "cut at {cut}");
        }
    }
    assert_eq!(seen(&scene.canary(), true), canary);
}

/// Puts something at a path.
type Trap = dyn Fn(&Scene, &std::path::Path);

/// What is in the attic beside a log may be somebody's trap.
#[test]
fn data_is_brought_from_regular_files_alone() {
    use mezzo_replica::log::Reader;
    use mezzo_replica::replay::{Range, replay};
    use mezzo_replica::versions::Source;
    let secret = |scene: &Scene, path: &std::path::Path| symlink(scene.canary().join("f"), path).unwrap();
    let fifo = |_: &Scene, path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_bits_retain(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let traps: [(&str, &Trap); 4] = [("", &secret), (".ranges", &secret), ("", &fifo), (".ranges", &fifo)];
    for (form, trap) in traps {
        let scene = Scene::new();
        let attic = scene.root().join("../attic");
        std::fs::create_dir(&attic).unwrap();
        trap(&scene, &attic.join(format!("0000000000000007-9{form}")));
        let log = scene.root().join("../log.kml");
        std::fs::write(&log, Log::with([close(F, Kind::File, |a| a.size = 17)]).bytes).unwrap();
        let source = Source { root: None, attic: Some(attic) };
        let root = common::open(&scene.root());
        let error =
            replay(&Reader::open(&log).unwrap(), Range::default(), root, &source, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("could not bring the data of f"), "{error}");
        assert_eq!(std::fs::read(scene.root().join("f")).unwrap(), [0; 17]);
    }
}

/// Bytes and values of a log that is right, changed at random, in records that are then right by their checksums.
#[test]
fn random_changes_of_a_log_stay_inside() {
    let mut random = Random::new(seed());
    let good = Log::with(everyday());
    for _ in 0..500 {
        let scene = Scene::new();
        let canary = seen(&scene.canary(), true);
        let hostile = changed(&good, &mut random);
        // It is refused or done; where, is nobody's affair.
        let _ = scene.replay(&hostile, 1, u64::MAX);
        assert_eq!(seen(&scene.canary(), true), canary, "something outside changed");
    }
}

fn everyday() -> Vec<Change> {
    let file = Kind::File;
    vec![
        make(5, D, b"g", with_xattr(file, b"user.a", b"1")),
        link(F, file, place(E, b"f2")),
        close(id(5), file, |a| a.size = 4096),
        xattr(F, file, b"user.b", Some(b"2")),
        setattr(D, Kind::Directory, |a| a.mode = 0o700),
        rename(id(5), file, place(D, b"g"), place(ROOT, b"g"), NOTHING),
        rename(E, Kind::Directory, place(D, b"e"), place(ROOT, b"g"), exchanged(id(5), file)),
        make(12, E, b"s", state(Kind::Symlink)),
        undo(setattr(F, file, |a| a.mtime = Time::new(9, 9))),
        remove(S, Kind::Symlink, place(ROOT, b"s")),
        make(15, E, b"p", state(Kind::Fifo)),
    ]
}

/// A log of which one to four bytes within frames are others, mostly with checksums that are right again; or whose records stand in
/// another order, under numbers that follow.
fn changed(good: &Log, random: &mut Random) -> Vec<u8> {
    let (head, mut frames) = split(&good.bytes);
    for _ in 0..=random.below(3) {
        let at = random.below(frames.len() as u64) as usize;
        let frame = &mut frames[at];
        let byte = HEAD_BYTES + random.below((frame.len() - HEAD_BYTES - TAIL_BYTES) as u64) as usize;
        frame[byte] = match random.below(4) {
            0 => random.below(256) as u8,
            1 => frame[byte] ^ 1 << random.below(8),
            2 => b'.',
            _ => b'/',
        };
        let length = frame.len() as u32;
        mend(frame, length);
    }
    if random.below(3) == 0 {
        let (a, b) = (random.below(frames.len() as u64) as usize, random.below(frames.len() as u64) as usize);
        frames.swap(a, b);
    }
    let mut bytes = head;
    let mut last = Recno::NONE;
    for frame in frames {
        // What decodes gets a number that follows, so that what is behind it is read too.
        match decode(&frame) {
            Ok(record) => {
                encode(&Record { previous: last, recno: last.next(), ..record }, &mut bytes).unwrap();
                last = last.next();
            }
            Err(_) if random.below(4) == 0 => bytes.extend(frame),
            Err(_) => {}
        }
    }
    if random.below(8) == 0 {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

/// A segment's head, and its frames.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (head, mut rest) = bytes.split_at(SEGMENT_HEAD_BYTES);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        frames.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    (head.to_vec(), frames)
}
