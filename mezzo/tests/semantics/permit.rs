//! Where one replica at a time may write.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use crate::common::{Served, errno, eventually, mezzo, succeeds};

fn set(tree: &Path, from: &str, to: &str) {
    let path = tree.join(".mezzo/fileset.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

/// One that is offered with a permit, and two clones of it.
fn exclusive() -> (Served, std::path::PathBuf, std::path::PathBuf) {
    let mut served = Served::new(|_| {});
    set(&served.tree(), "mode = \"optimistic\"", "mode = \"exclusive\"");
    served.serve();
    let (a, b) = (served.clone_mapped("a", "same"), served.clone_mapped("b", "same"));
    (served, a, b)
}

fn permit(tree: &Path, words: &[&str]) -> Value {
    let told = succeeds(mezzo().arg("permit").arg(tree).args(words).arg("--json"));
    serde_json::from_slice(&told.stdout).unwrap()
}

fn holds(tree: &Path) -> bool {
    permit(tree, &[])["here"] == true
}

#[test]
fn one_at_a_time_writes_and_hands_the_permit_on() {
    let (served, a, b) = exclusive();
    fs::write(a.join("f"), "a").unwrap();
    assert_eq!((holds(&a), holds(&b)), (true, false));
    // It is recalled from there, once everything was sent.
    fs::write(b.join("f"), "b").unwrap();
    assert_eq!((holds(&a), holds(&b)), (false, true));
    fs::rename(a.join("f"), a.join("g")).unwrap();
    served.sync(&a);
    served.sync(&b);
    assert_eq!(fs::read(served.tree().join("g")).unwrap(), b"b");
    let told = permit(&served.tree(), &[]);
    assert_eq!((&told["mode"], &told["epoch"]), (&Value::from("exclusive"), &Value::from(3)));
    permit(&a, &["release"]);
    eventually("the server has it back", || permit(&served.tree(), &[])["holder"] == Value::Null);
}

#[test]
fn a_change_waits_for_the_permit_and_an_open_file_keeps_it() {
    let (served, a, b) = exclusive();
    let file = File::create(a.join("open")).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fs::create_dir(b.join("made")).unwrap());
        eventually("the change waits", || permit(&b, &[])["waiting"] == 1);
        eventually("the permit is recalled", || permit(&a, &[])["recalled"] == true);
        assert!(!waiting.is_finished() && !b.join("made").exists());
        drop(file);
        waiting.join().unwrap();
    });
    assert!(holds(&b));
    served.sync(&b);
}

#[test]
fn who_waits_for_the_permit_can_be_ended_by_a_signal() {
    let (_served, a, b) = exclusive();
    let file = File::create(a.join("open")).unwrap();
    let mut waiting = std::process::Command::new("mkdir").arg(b.join("made")).spawn().unwrap();
    eventually("the change waits", || permit(&b, &[])["waiting"] == 1);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    eventually("nothing waits", || permit(&b, &[])["waiting"] == 0);
    drop(file);
    assert!(!b.join("made").exists());
}

#[test]
fn without_the_permit_a_change_is_refused_where_the_policy_says_so() {
    let (served, a, b) = exclusive();
    served.unmount(&b);
    set(&b, "when_refused = \"wait\"", "when_refused = \"erofs\"");
    succeeds(mezzo().arg("mount").arg(&b));
    eventually("it is connected", || served.status(&b)["link"]["state"] == "connected");
    // Nobody has it: it is asked for.
    fs::write(b.join("first"), "b").unwrap();
    let file = File::create(a.join("open")).unwrap();
    assert_eq!(errno(fs::write(b.join("f"), "b")), libc::EROFS);
    assert_eq!(fs::read(b.join("first")).unwrap(), b"b");
    drop(file);
    // It was asked for by the change that was refused.
    eventually("the permit is here", || errno(fs::write(b.join("f"), "b")) == 0);
}

#[test]
fn a_holder_whose_permit_was_stolen_is_fenced_until_it_has_another() {
    let (served, a, b) = exclusive();
    fs::write(a.join("f"), "a").unwrap();
    served.sync(&a);
    succeeds(mezzo().arg("offline").arg(&a));
    eventually("it is offline", || served.status(&a)["link"]["state"] == "offline");
    // Who holds it goes on.
    fs::write(a.join("by_a"), "offline").unwrap();
    let stolen = permit(&b, &["steal"]);
    assert_eq!(
        (&stolen["here"], &stolen["stolen"], &stolen["epoch"]),
        (&true.into(), &true.into(), &2.into())
    );
    fs::write(b.join("by_b"), "b").unwrap();
    served.sync(&b);
    succeeds(mezzo().arg("online").arg(&a));
    eventually("it is fenced", || served.status(&a)["link"]["conflict"]["answer"] == "fenced");
    assert_eq!(permit(&a, &[])["lost"], 1);
    assert_eq!(errno(fs::write(a.join("more"), "a")), libc::EROFS);
    assert!(!served.tree().join("by_a").exists());
    // Somebody says that what was made is to go under the next permit.
    permit(&a, &["get"]);
    served.sync(&a);
    assert_eq!(fs::read(served.tree().join("by_a")).unwrap(), b"offline");
    fs::write(a.join("more"), "a").unwrap();
}

#[test]
fn who_holds_the_permit_is_known_after_a_restart() {
    let (served, a, b) = exclusive();
    fs::write(a.join("f"), "a").unwrap();
    served.sync(&a);
    served.unmount(&a);
    served.stop();
    served.serve();
    succeeds(mezzo().arg("mount").arg(&a));
    let told = permit(&served.tree(), &[]);
    assert_eq!(told["epoch"], 1);
    eventually("both agree", || permit(&a, &[])["here"] == true || told["holder"] == Value::Null);
    fs::write(b.join("f"), "b").unwrap();
    assert_eq!(permit(&b, &[])["epoch"], 2);
}
