//! What was recorded on one replica is taken into another.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{BOB, Host, Mounted, equal, errno, mezzo, succeeds};

fn replica_of(m: &Mounted, name: &str) -> PathBuf {
    let other = m.beside(name);
    fs::remove_dir(&other).unwrap();
    succeeds(mezzo().arg("init").arg(&other).arg("--replica-of").arg(m.path("")));
    other
}

fn reintegrate(from: &Path, onto: &Path, arguments: &[&str]) -> Output {
    mezzo().arg("reintegrate").arg(from).arg("--onto").arg(onto).args(arguments).output().unwrap()
}

fn reintegrated(from: &Path, onto: &Path) {
    let output = reintegrate(from, onto, &[]);
    assert!(output.status.success(), "{output:?}");
}

/// A second replica that is mounted for the length of a test.
struct Second(PathBuf);

impl Second {
    fn of(m: &Mounted) -> Second {
        let other = replica_of(m, "second");
        reintegrated(&m.path(""), &other);
        succeeds(mezzo().arg("mount").arg(&other));
        Second(other)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = mezzo().arg("unmount").arg(&self.0).output();
    }
}

#[test]
fn another_replica_takes_records_in() {
    for host in [Host::Ext4, Host::Xfs] {
        let m = Mounted::with(host, |tree| fs::write(tree.join("before"), "was there").unwrap());
        fs::create_dir(m.path("d")).unwrap();
        fs::write(m.path("d/f"), "bytes").unwrap();
        fs::hard_link(m.path("d/f"), m.path("l")).unwrap();
        fs::set_permissions(m.path("d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
        rustix::fs::setxattr(m.path("d/f"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
        fs::set_permissions(m.path(""), fs::Permissions::from_mode(0o777)).unwrap();
        BOB.does(|| drop(File::create(m.path("bobs")).unwrap()));
        let other = replica_of(&m, "other");
        reintegrated(&m.path(""), &other);
        equal(&m.path(""), &other);
        succeeds(mezzo().arg("verify").arg(&other));
        // What comes later follows, and nothing comes twice.
        fs::rename(m.path("d"), m.path("e")).unwrap();
        fs::remove_file(m.path("before")).unwrap();
        let told = json(&reintegrate(&m.path(""), &other, &["--json"]));
        assert_eq!((told["known"].as_u64(), told["stopped"].is_null()), (Some(0), true), "{told}");
        equal(&m.path(""), &other);
        let told = json(&reintegrate(&m.path(""), &other, &["--json", "--from", "1"]));
        assert_eq!(told["applied"], 0, "{told}");
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn two_mounts_exchange_what_was_done_on_each() {
    let m = Mounted::new();
    fs::write(m.path("f"), "one").unwrap();
    let other = Second::of(&m);
    fs::write(m.path("here"), "h").unwrap();
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(other.path("there"), "t").unwrap();
    fs::write(other.path("f"), "written there").unwrap();
    reintegrated(&m.path(""), &other.0);
    reintegrated(&other.0, &m.path(""));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "written there");
    assert_eq!(fs::metadata(other.path("f")).unwrap().mode() & 0o777, 0o600);
    equal(&m.path(""), &other.0);
    // ctimes are carried.
    for path in ["f", "here", "there"] {
        let of = |path: PathBuf| fs::metadata(path).map(|found| (found.ctime(), found.ctime_nsec())).unwrap();
        assert_eq!(of(m.path(path)), of(other.path(path)), "{path}");
    }
}

#[test]
fn a_conflict_is_told_exactly_and_changes_nothing() {
    let m = Mounted::new();
    fs::write(m.path("f"), "base").unwrap();
    let other = Second::of(&m);
    fs::write(m.path("f"), "mine").unwrap();
    fs::write(other.path("f"), "theirs!").unwrap();
    for arguments in [&["--json", "--dry-run"][..], &["--json"]] {
        let last = m.last();
        let output = reintegrate(&other.0, &m.path(""), arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let stopped = &json(&output)["stopped"];
        assert_eq!(stopped["answer"], "conflict");
        assert_eq!(stopped["class"], "update/update");
        assert_eq!(stopped["path"], "f");
        assert_eq!(stopped["differences"][0]["field"], "data");
        assert_eq!((fs::read_to_string(m.path("f")).unwrap(), m.last()), ("mine".to_owned(), last));
    }
    let output = reintegrate(&other.0, &m.path(""), &[]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("update/update: data should be"));
}

#[test]
fn a_record_whose_user_may_not_is_refused_where_that_is_asked() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::set_permissions(m.path("d"), fs::Permissions::from_mode(0o777)).unwrap();
    let other = Second::of(&m);
    fs::set_permissions(m.path("d"), fs::Permissions::from_mode(0o755)).unwrap();
    BOB.does(|| fs::write(other.path("d/bobs"), "b").unwrap());
    let output = reintegrate(&other.0, &m.path(""), &["--judge", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let stopped = &json(&output)["stopped"];
    assert_eq!(
        (stopped["answer"].as_str(), stopped["class"].as_str()),
        (Some("refused"), Some("permission"))
    );
    assert!(!m.path("d/bobs").exists());
    reintegrated(&other.0, &m.path(""));
    assert_eq!(fs::read_to_string(m.path("d/bobs")).unwrap(), "b");
}

#[test]
fn only_root_has_another_log_read() {
    let m = Mounted::new();
    let other = Second::of(&m);
    let refused = BOB.does(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
        let output = command.arg("reintegrate").arg(m.path("")).arg("--onto").arg(&other.0).output().unwrap();
        output.status.code()
    });
    assert_eq!(refused, Some(1));
}

#[test]
fn a_file_without_its_bytes_shows_none() {
    let m = Mounted::new();
    fs::write(m.path("f"), "bytes").unwrap();
    fs::write(m.path("empty"), "").unwrap();
    let other = replica_of(&m, "other");
    let output = reintegrate(&m.path(""), &other, &["--data", "absent"]);
    assert!(output.status.success(), "{output:?}");
    succeeds(mezzo().arg("mount").arg(&other));
    let other = Second(other);
    assert_eq!(fs::metadata(other.path("f")).unwrap().len(), 5);
    assert_eq!(errno(fs::read(other.path("f"))), libc::ENODATA);
    assert_eq!(errno(File::options().append(true).open(other.path("f"))), libc::ENODATA);
    assert_eq!(fs::read(other.path("empty")).unwrap(), b"");
    assert_eq!(fs::rename(other.path("f"), other.path("g")).map_err(|error| error.to_string()), Ok(()));
    assert_eq!(errno(fs::read(other.path("g"))), libc::ENODATA);
    // Who writes it anew needs them not.
    fs::write(other.path("new"), "anew").unwrap();
    fs::rename(other.path("new"), other.path("g")).unwrap();
    assert_eq!(fs::read_to_string(other.path("g")).unwrap(), "anew");
}

#[test]
fn what_is_being_written_counts_as_changed() {
    let m = Mounted::new();
    fs::write(m.path("f"), "base").unwrap();
    let other = Second::of(&m);
    fs::write(other.path("f"), "theirs").unwrap();
    let writer = File::options().write(true).open(m.path("f")).unwrap();
    writer.write_at(b"B", 0).unwrap();
    let output = reintegrate(&other.0, &m.path(""), &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    drop(writer);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "Base");
    // Nor is it removed under the writer.
    let third = replica_of(&m, "third");
    reintegrated(&m.path(""), &third);
    succeeds(mezzo().arg("mount").arg(&third));
    let third = Second(third);
    fs::remove_file(third.path("f")).unwrap();
    let writer = File::options().write(true).open(m.path("f")).unwrap();
    writer.write_at(b"b", 0).unwrap();
    assert_eq!(reintegrate(&third.0, &m.path(""), &[]).status.code(), Some(3));
    drop(writer);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "base");
}

/// What the daemon of `m` answers to a request.
fn ask(m: &Mounted, request: &Value) -> Value {
    let config = fs::read_to_string(m.host(".mezzo/fileset.toml")).unwrap();
    let replica = config.lines().find_map(|line| line.strip_prefix("replica = ")).unwrap().trim_matches('"');
    let socket = PathBuf::from(format!("/run/mezzo/{replica}.sock"));
    let mut stream = UnixStream::connect(&socket).unwrap_or_else(|error| panic!("{socket:?}: {error}"));
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn a_program_hands_over_one_record_at_a_time() {
    let m = Mounted::new();
    let other = Second::of(&m);
    fs::create_dir(other.path("d")).unwrap();
    fs::write(other.path("d/f"), "bytes").unwrap();
    let before = m.records().len();
    succeeds(mezzo().arg("unmount").arg(&other.0));
    let reader = mezzo_replica::log::Reader::open(&other.path(".mezzo/kml")).unwrap();
    let theirs: Vec<_> = reader.from(mezzo_core::Recno(before as u64 + 1)).map(Result::unwrap).collect();
    for (number, record) in theirs.iter().enumerate() {
        let mut bytes = Vec::new();
        mezzo_core::codec::encode(record, &mut bytes).unwrap();
        let frames: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = serde_json::json!({ "request": "take", "frames": frames });
        let answer = ask(&m, &request);
        assert_eq!(
            (&answer["answer"], &answer["applied"]),
            (&"reintegrated".into(), &1.into()),
            "{number}: {answer}"
        );
        assert_eq!(ask(&m, &request)["known"], 1, "a second time");
    }
    assert_eq!(fs::metadata(m.path("d/f")).unwrap().len(), 5);
    assert_eq!(errno(fs::read(m.path("d/f"))), libc::ENODATA);
    fs::remove_file(m.path("d/f")).unwrap();
    for damaged in ["zz", "00", "0"] {
        let answer = ask(&m, &serde_json::json!({ "request": "take", "frames": damaged }));
        assert_eq!(answer["answer"], "failed", "{answer}");
    }
}
