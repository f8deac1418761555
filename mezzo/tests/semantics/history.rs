//! What was: the history of one object, who brought each line, and what differs between two records.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;

use mezzo_core::Recno;
use serde_json::Value;

use crate::common::{ALICE, Host, Mounted, eventually, mezzo, succeeds};

/// What a command prints.
#[track_caller]
fn said(m: &Mounted, command: &str, arguments: &[&str]) -> String {
    let output = succeeds(mezzo().current_dir(m.path("")).arg(command).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects that a command prints, one a line.
#[track_caller]
fn told(m: &Mounted, command: &str, arguments: &[&str]) -> Vec<Value> {
    let said = said(m, command, &[arguments, &["--json"]].concat());
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A field of each, as text.
fn field(told: &[Value], name: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    told.iter().map(|one| text(&one[name])).collect()
}

/// How a command is refused: its exit status, and what it says.
fn refused(m: &Mounted, arguments: &[&str]) -> (i32, String) {
    let output = mezzo().current_dir(m.path("")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The number of the last record, digests apart, which come when there is time for them.
fn last(m: &Mounted) -> u64 {
    m.records().last().unwrap().recno.0
}

/// Adds to a file, and returns the number of the record of it.
fn append(m: &Mounted, path: &str, text: &str) -> u64 {
    let mut file = File::options().append(true).create(true).open(m.path(path)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    drop(file);
    last(m)
}

/// Which record brought each line, and what the line says.
#[track_caller]
fn blamed(m: &Mounted, path: &str) -> Vec<(u64, String)> {
    let lines = told(m, "blame", &[path]);
    let numbers: Vec<u64> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
    let recnos = lines.iter().map(|line| line["recno"].as_u64().unwrap());
    recnos.zip(field(&lines, "text")).collect()
}

fn pairs(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(recno, text)| (*recno, (*text).to_owned())).collect()
}

/// Differences as `sort from to fields`.
#[track_caller]
fn differences(m: &Mounted, arguments: &[&str]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |one: &Value| {
        let fields = one["fields"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(",");
        let line =
            format!("{} {} {} {fields}", text(&one["difference"]), text(&one["from"]), text(&one["to"]));
        line.trim_end().to_owned()
    };
    told(m, "diff", arguments).iter().map(line).collect()
}

#[test]
fn an_object_is_followed_through_all_its_names() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("f"), "1").unwrap();
    fs::rename(m.path("f"), m.path("d/g")).unwrap();
    // Something else where it was.
    fs::write(m.path("f"), "another").unwrap();
    fs::hard_link(m.path("d/g"), m.path("h")).unwrap();
    fs::rename(m.path("d"), m.path("e")).unwrap();
    fs::set_permissions(m.path("h"), Permissions::from_mode(0o600)).unwrap();
    let kinds = |told: &[Value]| -> Vec<String> {
        field(told, "kind").into_iter().filter(|kind| kind != "digest").collect()
    };
    let all = ["setattr", "link", "rename", "close", "create"];
    assert_eq!(kinds(&told(&m, "history", &["h"])), all);
    assert_eq!(kinds(&told(&m, "history", &["e/g"])), all);
    assert_eq!(kinds(&told(&m, "history", &["f"])), ["close", "create"]);
    assert_eq!(kinds(&told(&m, "history", &["e"])), ["rename", "mkdir"]);
    assert_eq!(kinds(&told(&m, "history", &["h", "--kind", "link", "--kind", "create"])), ["link", "create"]);
    assert_eq!(kinds(&told(&m, "history", &["h", "-n", "2"]))[..1], ["setattr"]);
    assert_eq!(told(&m, "history", &["h", "-n", "2"]).len(), 2);
    assert!(said(&m, "history", &["h"]).contains("f -> d/g"));
    // Of what is gone, what stood there last.
    fs::remove_file(m.path("h")).unwrap();
    fs::remove_file(m.path("e/g")).unwrap();
    let gone = ["unlink", "unlink", "setattr", "link", "rename", "close", "create"];
    assert_eq!(kinds(&told(&m, "history", &["h"])), gone);
    let mounted = said(&m, "history", &["e/g"]);
    m.unmount();
    assert_eq!(said(&m, "history", &["e/g"]), mounted);
    let (status, why) = refused(&m, &["history", "never"]);
    assert_eq!((status, &*why), (1, "mezzo: nothing stands at never, and nothing ever did\n"));
}

#[test]
fn of_each_state_it_is_told_whether_it_can_be_had() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "first").unwrap();
    fs::write(m.path("f"), "second").unwrap();
    m.unmount();
    // Nobody could keep it.
    fs::write(m.path("f"), "behind").unwrap();
    m.mount();
    fs::write(m.path("f"), "the last").unwrap();
    let kept = |m: &Mounted| -> Vec<String> {
        let changes = told(m, "history", &["f", "--kind", "create", "--kind", "close", "--kind", "setattr"]);
        field(&changes, "kept")
    };
    // Before each close but the one behind the mount, the file was emptied.
    assert_eq!(kept(&m), ["tree", "empty", "attic", "nowhere", "empty", "attic", "empty"]);
    let text = said(&m, "history", &["f", "--kind", "close"]);
    for told in
        ["8 bytes, in the tree", "6 bytes, in the attic", "6 bytes, not kept", "5 bytes, in the attic"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    fs::remove_file(m.path("f")).unwrap();
    assert_eq!(kept(&m)[0], "attic");
    assert_eq!(field(&told(&m, "history", &["f", "-n", "1"]), "kept"), ["null"]);
}

#[test]
fn each_line_is_told_with_the_record_that_brought_it() {
    let mut m = Mounted::new();
    let first = append(&m, "f", "one\ntwo\n");
    File::options().write(true).open(m.path("f")).unwrap().write_all(b"ONE\n").unwrap();
    let second = last(&m);
    let third = append(&m, "f", "three \\ \u{e9}\n");
    let all = pairs(&[(second, "ONE"), (first, "two"), (third, "three \\ \u{e9}")]);
    assert_eq!(blamed(&m, "f"), all);
    let lines = told(&m, "blame", &["f"]);
    assert_eq!((&lines[0]["kind"], &lines[0]["who"]["uid"]), (&"close".into(), &0.into()));
    let text = said(&m, "blame", &["f"]);
    let line = text.lines().nth(1).unwrap();
    assert!(line.trim_start().starts_with(&first.to_string()) && line.ends_with("  2) two"), "{text}");
    // Written anew, as a whole.
    fs::write(m.path("f"), "ONE\nnew\ntwo\nthree \\ \u{e9}\n").unwrap();
    let new = (last(&m), "new".to_owned());
    assert_eq!(blamed(&m, "f"), [all[0].clone(), new, all[1].clone(), all[2].clone()]);
    succeeds(mezzo().arg("undo").arg(m.path("")).args(["--last", "2"]));
    assert_eq!(blamed(&m, "f"), all);
    // By another name, when it is gone, and without a mount.
    fs::rename(m.path("f"), m.path("g")).unwrap();
    fs::remove_file(m.path("g")).unwrap();
    assert_eq!(blamed(&m, "g"), all);
    m.unmount();
    assert_eq!(blamed(&m, "g"), all);
}

#[test]
fn lines_of_a_file_that_is_saved_as_a_new_one_are_as_old_as_they_were() {
    let m = Mounted::new();
    let first = append(&m, "f", "one\ntwo\nthree\n");
    // A new file is renamed over the old one.
    let save = |text: &str| {
        let recno = append(&m, "f.new", text);
        fs::rename(m.path("f.new"), m.path("f")).unwrap();
        recno
    };
    let second = save("1\ntwo\nthree\n");
    let third = save("1\n2\nthree\n");
    assert_eq!(blamed(&m, "f"), pairs(&[(second, "1"), (third, "2"), (first, "three")]));
    // The old one is renamed away, and a new one is made in its place.
    fs::rename(m.path("f"), m.path("f~")).unwrap();
    let fourth = append(&m, "f", "1\n2\nthree\nfour\n");
    fs::remove_file(m.path("f~")).unwrap();
    let all = pairs(&[(second, "1"), (third, "2"), (first, "three"), (fourth, "four")]);
    assert_eq!(blamed(&m, "f"), all);
    succeeds(Command::new("sed").arg("-i").arg("s/four/4/").arg(m.path("f")));
    assert_eq!(blamed(&m, "f")[..3], all[..3]);
    // A file that was there all along is no new state of the one that it replaces.
    let other = append(&m, "other", "three\n");
    append(&m, "f", "five\n");
    fs::rename(m.path("other"), m.path("f")).unwrap();
    assert_eq!(blamed(&m, "f"), pairs(&[(other, "three")]));
}

#[test]
fn lines_that_may_be_older_are_marked() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "one\n").unwrap();
    fs::write(m.path("f"), "one\ntwo\n").unwrap();
    m.unmount();
    fs::write(m.path("f"), "one\ntwo\nthree\n").unwrap();
    m.mount();
    assert_eq!(field(&told(&m, "blame", &["f"]), "or_before"), ["false", "true", "true"]);
    let text = said(&m, "blame", &["f"]);
    assert_eq!(text.matches("or before").count(), 2, "{text}");
    // What the tree has last is nowhere but there.
    fs::remove_file(m.path("f")).unwrap();
    fs::remove_dir_all(m.host(".mezzo/attic")).unwrap();
    fs::create_dir(m.host(".mezzo/attic")).unwrap();
    let (status, why) = refused(&m, &["blame", "f"]);
    assert!(status == 1 && why.starts_with("mezzo: could not blame f: its data can't be had: "), "{why}");
}

#[test]
fn files_of_any_bytes_are_blamed() {
    let m = Mounted::new();
    fs::write(m.path("f"), b"\0\xff\r\0\nsecond").unwrap();
    let lines = told(&m, "blame", &["f"]);
    assert_eq!(lines[0]["text_bytes"], "00ff0d00");
    assert_eq!(lines[1]["text"], "second");
    let output = succeeds(mezzo().arg("blame").arg(m.path("f")));
    assert!(output.stdout.windows(7).any(|bytes| bytes == b"1) \0\xff\r\0"), "as they are");
    fs::write(m.path("empty"), "").unwrap();
    assert_eq!(said(&m, "blame", &["empty"]), "");
    symlink("f", m.path("l")).unwrap();
    let (status, why) = refused(&m, &["blame", "l"]);
    assert_eq!(
        (status, &*why),
        (1, "mezzo: could not blame l: it is a symlink, and neither a file nor a directory\n")
    );
}

#[test]
fn a_large_file_is_blamed_by_what_is_kept_of_it() {
    let m = Mounted::on(Host::Ext4);
    let line = [vec![b'x'; (1 << 20) - 1], vec![b'\n']].concat();
    fs::write(m.path("f"), line.repeat(6)).unwrap();
    let is_closed = || eventually("nobody writes", || m.status()["open_for_writing"] == 0);
    is_closed();
    let first = last(&m);
    let file = File::options().write(true).open(m.path("f")).unwrap();
    file.write_all_at(b"changed", 2 << 20).unwrap();
    drop(file);
    is_closed();
    assert_eq!(m.status()["attic_by_ranges"], 1);
    let recnos: Vec<u64> =
        told(&m, "blame", &["f"]).iter().map(|line| line["recno"].as_u64().unwrap()).collect();
    let expected = |number| recnos[number] == recnos[0];
    assert_eq!([0, 1, 2, 3, 4, 5].map(expected), [true, true, false, true, true, true]);
    assert!(recnos[0] == first && recnos[2] > first);
}

#[test]
fn of_a_directory_each_entry_is_told_with_who_changed_it_last() {
    let m = Mounted::new();
    for command in
        ["mkdir d d/sub e", "touch d/a d/b d/sub/x d/sub/y", "chmod 600 d/a", "rm d/sub/y", "mv e d/e"]
    {
        succeeds(Command::new("sh").arg("-c").arg(command).current_dir(m.path("")));
    }
    let entries = told(&m, "blame", &["d"]);
    let who: Vec<Value> = entries.iter().map(|entry| entry["who"].clone()).collect();
    assert_eq!(field(&entries, "name"), ["a", "b", "e", "sub"]);
    assert_eq!(field(&who, "program"), ["chmod", "touch", "mv", "rm"]);
    assert_eq!(field(&entries, "kind"), ["setattr", "close", "rename", "unlink"]);
    let top = told(&m, "blame", &["."]);
    assert_eq!((field(&top, "name"), field(&top, "kind")), (vec!["d".to_owned()], vec!["rename".to_owned()]));
    assert!(said(&m, "blame", &["d"]).lines().nth(3).unwrap().ends_with("  sub"));
}

#[test]
fn what_is_different_between_two_records_is_told() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    for name in ["d/f", "gone", "moved", "linked", "saved"] {
        fs::write(m.path(name), name).unwrap();
    }
    let a = m.last();
    fs::write(m.path("d/f"), "longer than it was").unwrap();
    fs::set_permissions(m.path("d/f"), Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(m.path("d/f"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
    fs::remove_file(m.path("gone")).unwrap();
    fs::rename(m.path("moved"), m.path("there")).unwrap();
    fs::hard_link(m.path("linked"), m.path("link")).unwrap();
    fs::write(m.path("new"), "anew!").unwrap();
    fs::rename(m.path("new"), m.path("saved")).unwrap();
    fs::rename(m.path("d"), m.path("e")).unwrap();
    let b = m.last();
    fs::write(m.path("later"), "").unwrap();
    let expected = [
        "renamed d e",
        "changed d/f e/f data,size,mode,owner,group",
        "removed gone -",
        "linked - link",
        "replaced saved saved data",
        "renamed moved there",
    ];
    let range = format!("{a}..{b}");
    assert_eq!(differences(&m, &[&range]), expected);
    assert_eq!(differences(&m, &[&format!("{a}..")])[3], "added - later");
    assert_eq!(differences(&m, &[&format!("{a}..{a}")]), [""; 0]);
    let back = [
        "renamed e d",
        "changed e/f d/f data,size,mode,owner,group",
        "added - gone",
        "unlinked link -",
        "renamed there moved",
        "replaced saved saved data",
    ];
    assert_eq!(differences(&m, &[&format!("{b}..{a}")]), back);
    // Limited to what stood or stands there.
    assert_eq!(differences(&m, &[&range, "d"]), expected[..2]);
    assert_eq!(differences(&m, &[".", &range, "e/f"]), expected[1..2]);
    assert_eq!(differences(&m, &["e", &range]), expected[..2]);
    let text = said(&m, "diff", &[&range]);
    assert!(text.contains("d/f -> e/f"), "{text}");
    assert!(
        text.contains("data, size 3 -> 18, mode 0644 -> 0600, owner root -> 3001, group root -> 3001"),
        "{text}"
    );
    m.unmount();
    assert_eq!(said(&m, "diff", &[&range]), text);
    let (status, why) = refused(&m, &["diff", &range, "never"]);
    assert!(status == 1 && why.contains("nothing stood at never after record"), "{why}");
}

#[test]
fn times_and_extended_attributes_are_told_too() {
    let m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    let a = m.last();
    succeeds(Command::new("touch").args(["-m", "-d", "2001-01-01"]).arg(m.path("f")));
    // It could have written to the file, which is recorded as a close with the same bytes.
    assert_eq!(differences(&m, &[&format!("{a}..")]), [""; 0]);
    assert_eq!(differences(&m, &[&format!("{a}.."), "--times"]), ["changed f f mtime"]);
    succeeds(Command::new("setfattr").args(["-n", "user.color", "-v", "red"]).arg(m.path("f")));
    let told = told(&m, "diff", &[&format!("{a}..")]);
    assert_eq!(
        told[0]["xattrs"],
        serde_json::json!([{ "name": "user.color", "before": null, "after": "red" }])
    );
    assert!(said(&m, "diff", &[&format!("{a}..")]).ends_with("xattrs user.color\n"));
}

#[test]
fn what_files_had_in_them_is_compared_where_it_can_be_had() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "one\ntwo\nthree\n").unwrap();
    fs::write(m.path("binary"), "\0").unwrap();
    fs::write(m.path("lost"), "before").unwrap();
    fs::write(m.path("gone"), "gone\n").unwrap();
    let a = m.last();
    fs::write(m.path("f"), "one\n2\nthree\n").unwrap();
    fs::write(m.path("binary"), "\0\0").unwrap();
    fs::write(m.path("new"), "new").unwrap();
    fs::remove_file(m.path("gone")).unwrap();
    m.unmount();
    fs::write(m.path("lost"), "behind the mount").unwrap();
    m.mount();
    let diff = said(&m, "diff", &[&format!("{a}.."), "-p"]);
    let expected = "\
changed  binary  data, size 1 -> 2
  (no diff: it is not text)
changed  f       data, size 14 -> 12
--- a/f
+++ b/f
@@ -1,3 +1,3 @@
 one
-two
+2
 three
removed  gone    0644, 5 bytes
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-gone
changed  lost    data, size 6 -> 16
  (no diff: what was there before can't be had: it was replaced since, and what it was before is not kept)
added    new     0644, 3 bytes
--- /dev/null
+++ b/new
@@ -0,0 +1 @@
+new
\\ No newline at end of file
";
    assert_eq!(diff, expected);
    let told = told(&m, "diff", &[&format!("{a}.."), "--content", "f"]);
    assert!(told[0]["diff"].as_str().unwrap().ends_with("-two\n+2\n three\n"));
    assert!(told[0]["no_diff"].is_null());
}

#[test]
fn a_time_stands_for_the_last_record_by_then() {
    let m = Mounted::new();
    fs::write(m.path("f"), "first").unwrap();
    let first = m.last();
    let time = field(&told(&m, "log", &["-n", "1"]), "time")[0].clone();
    fs::write(m.path("f"), "second").unwrap();
    let onto = m.beside("restored").join("f");
    let restore = |at: &str| {
        let mut command = mezzo();
        command.arg("restore").arg(m.path("f")).args(["--at", at, "--onto"]).arg(&onto);
        command
    };
    succeeds(&mut restore(&time));
    assert_eq!(fs::read(&onto).unwrap(), b"first");
    fs::remove_file(&onto).unwrap();
    succeeds(&mut restore(&first.to_string()));
    assert_eq!(fs::read(&onto).unwrap(), b"first");
    fs::remove_file(&onto).unwrap();
    succeeds(&mut restore("0s"));
    assert_eq!(fs::read(&onto).unwrap(), b"second");
    fs::remove_file(&onto).unwrap();
    let output = restore("100 years").output().unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("nothing stood there after record 0"), "{why}");
    assert_eq!(said(&m, "diff", &[&format!("{time}..")]), said(&m, "diff", &[&format!("{first}..")]));
}

#[test]
fn arguments_that_say_nothing_are_refused() {
    let m = Mounted::new();
    let last = Recno(m.last().0 + 1000);
    let usage: [&[&str]; 9] = [
        &["diff"],
        &["diff", "5"],
        &["diff", "..5"],
        &["diff", "1..yesterday"],
        &["diff", ".", "1..2", "a", "b"],
        &["history", "--kind", "nonsense"],
        &["history", "a", "b", "c"],
        &["blame", "a", "b", "c"],
        &["restore", ".", "--at", "yesterday", "--onto", "x"],
    ];
    for arguments in usage {
        let (status, why) = refused(&m, arguments);
        assert!(status == 2 && !why.is_empty(), "{arguments:?}: {status} {why}");
    }
    let (status, why) = refused(&m, &["diff", &format!("1..{last}")]);
    assert!(status == 1 && why.contains(&format!("there is no record {last}: the log has records")), "{why}");
}
