//! A replica that finds itself in another body than it was in: copied, restored, moved.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use mezzo_core::record::EpochCause;
use mezzo_core::{Change, Recno, Record};

use crate::common::{ALICE, Host, Mounted, PATIENCE, kinds, mezzo, succeeds};

/// Something of everything.
fn fill(tree: &Path) {
    fs::create_dir_all(tree.join("d/below")).unwrap();
    fs::write(tree.join("d/f"), "some bytes").unwrap();
    fs::write(tree.join("d/below/empty"), "").unwrap();
    fs::hard_link(tree.join("d/f"), tree.join("g")).unwrap();
    symlink("d/f", tree.join("l")).unwrap();
    rustix::fs::setxattr(tree.join("d"), "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    fs::write(tree.join("old"), "to be removed").unwrap();
    fs::remove_file(tree.join("old")).unwrap();
    fs::rename(tree.join("d/below"), tree.join("moved")).unwrap();
    std::os::unix::fs::chown(tree.join("g"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
}

fn copy_over(from: &Path, to: &Path) {
    succeeds(Command::new("cp").arg("-aT").arg(from).arg(to));
}

fn replica(m: &Mounted) -> String {
    m.status()["replica"].as_str().unwrap().to_owned()
}

fn earlier(m: &Mounted) -> Vec<String> {
    let status = m.status();
    let earlier = status["earlier_replicas"].as_array().unwrap().iter();
    earlier.map(|replica| replica["replica"].as_str().unwrap().to_owned()).collect()
}

/// The records after `last`, of which the first must tell that the replica has a new id.
fn after_new_id(m: &Mounted, last: Recno, expected: EpochCause) -> Vec<Record> {
    let mut records = m.records_since(last);
    let record = records.remove(0);
    let Change::Epoch { epoch, holder, cause, ended_at } = record.change else { panic!("{record:#?}") };
    assert_eq!((epoch, cause), (record.epoch, expected));
    assert_eq!((record.origin.replica, holder.to_string()), (holder, replica(m)));
    assert!(ended_at <= last);
    assert!(records.iter().all(|record| record.origin.replica == holder));
    records
}

#[test]
fn a_copy_goes_on_as_a_replica_of_its_own() {
    for host in [Host::Ext4, Host::Xfs] {
        let mut m = Mounted::on(host);
        fill(&m.path(""));
        m.unmount();
        let (last, before) = (m.last(), replica(&m));
        let mut copy = m.copy();
        let said = copy.mount();
        assert!(said.contains("this is a copy") && said.contains(&before), "{said}");
        assert_eq!(kinds(&after_new_id(&copy, last, EpochCause::Copied)), [""; 0], "nothing was changed");
        assert_eq!(
            (copy.records()[..m.records().len()].to_vec(), earlier(&copy)),
            (m.records(), vec![before])
        );
        // Each has its daemon, and its own numbers, from here on.
        m.mount();
        assert_ne!((copy.daemon(), replica(&copy)), (m.daemon(), replica(&m)));
        fs::write(m.path("here"), "1").unwrap();
        fs::write(copy.path("d/f"), "there").unwrap();
        assert_eq!(kinds(&m.records_since(last)), ["create", "close"]);
        let there = after_new_id(&copy, last, EpochCause::Copied);
        assert_eq!(kinds(&there), ["setattr", "close"]);
        assert_ne!(m.records().last().unwrap().origin, there[0].origin);
        // What it is from now on it stays.
        let id = replica(&copy);
        copy.unmount();
        let last = copy.last();
        assert_eq!(copy.mount(), "");
        assert_eq!((replica(&copy), kinds(&copy.records_since(last))), (id, vec![]));
    }
}

#[test]
fn what_a_copy_has_not_kept_is_recorded() {
    let mut m = Mounted::new();
    fill(&m.path(""));
    m.unmount();
    let last = m.last();
    let mut copy = m.copy();
    fs::remove_file(copy.tree().join("g")).unwrap();
    fs::write(copy.tree().join("d/f"), "other").unwrap();
    fs::write(copy.tree().join("new"), "new").unwrap();
    copy.mount();
    let mut told = kinds(&after_new_id(&copy, last, EpochCause::Copied));
    told.retain(|kind| *kind != "setattr");
    told.sort();
    assert_eq!(told, ["close", "create", "unlink"]);
}

#[test]
fn a_fileset_that_was_moved_is_what_it_was() {
    let mut m = Mounted::new();
    fill(&m.path(""));
    m.unmount();
    let (last, id) = (m.last(), replica(&m));
    let elsewhere = m.beside("elsewhere").join("tree");
    fs::rename(m.tree(), &elsewhere).unwrap();
    succeeds(mezzo().arg("mount").arg(&elsewhere));
    m.mounted_at(&elsewhere);
    assert_eq!((replica(&m), earlier(&m)), (id, vec![]));
    assert_eq!(kinds(&m.records_since(last)), [""; 0]);
    m.unmount();
    fs::rename(elsewhere, m.tree()).unwrap();
}

#[test]
fn a_fileset_on_another_machine_takes_a_new_id() {
    let mut m = Mounted::new();
    fill(&m.path(""));
    m.unmount();
    let last = m.last();
    let machine = m.beside("machine").join("id");
    fs::write(&machine, "0123456789abcdef0123456789abcdef\n").unwrap();
    rustix::mount::mount_bind(&machine, "/etc/machine-id").unwrap();
    let said = m.mount();
    assert!(said.contains("another machine"), "{said}");
    assert_eq!(kinds(&after_new_id(&m, last, EpochCause::Copied)), [""; 0]);
    m.unmount();
    rustix::mount::unmount("/etc/machine-id", rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
fn a_restored_fileset_takes_a_new_id() {
    // Over what is there, and after all was removed; and where the copy was made during the last use.
    for (removed, amid) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut m = Mounted::new();
        fill(&m.path(""));
        m.unmount();
        if amid {
            m.mount();
        }
        let backup = m.beside("backup");
        let (last, id) = (m.last(), replica(&m));
        copy_over(&m.host_for_all(), &backup);
        if !amid {
            m.mount();
        }
        fs::write(m.path("later"), "is lost").unwrap();
        m.unmount();
        if removed {
            fs::remove_dir_all(m.tree()).unwrap();
        }
        copy_over(&backup, &m.tree());
        m.replaced();
        let _ = fs::remove_file(m.tree().join("later"));
        let said = m.mount();
        let expected = if removed { "this is a copy" } else { "restored or copied over" };
        assert!(said.contains(expected), "{said}");
        let mut told = kinds(&after_new_id(&m, last, EpochCause::Copied));
        // The removal of a file that came later moved the directory's times.
        told.retain(|kind| *kind != "setattr");
        assert_eq!((told, earlier(&m)), (vec![], vec![id]));
        assert_eq!(fs::metadata(m.path("g")).unwrap().uid(), ALICE.uid);
    }
}

#[test]
fn a_log_that_is_shorter_than_it_was_goes_on_under_a_new_id() {
    let mut m = Mounted::new();
    fs::write(m.path("f"), "1").unwrap();
    m.unmount();
    let (aside, last) = (m.beside("aside"), m.last());
    copy_over(&m.tree().join(".mezzo/kml"), &aside);
    m.mount();
    fs::write(m.path("g"), "2").unwrap();
    fs::remove_file(m.path("f")).unwrap();
    m.unmount();
    copy_over(&aside, &m.tree().join(".mezzo/kml"));
    let said = m.mount();
    assert!(said.contains("shorter than it was"), "{said}");
    let mut told = kinds(&after_new_id(&m, last, EpochCause::Recovered));
    told.retain(|kind| *kind != "setattr");
    told.sort();
    told.dedup();
    assert_eq!(told, ["create", "unlink"]);
}

#[test]
fn a_cloned_disk_that_is_used_beside_its_original_takes_a_new_id() {
    let mut m = Mounted::new();
    let (disk, one, two) = (m.beside("disk"), m.beside("one"), m.beside("two"));
    let image = disk.join("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    succeeds(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    let mount = |image: &Path, at: &Path| {
        succeeds(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
    };
    mount(&image, &one);
    let tree = one.join("tree");
    fs::create_dir(&tree).unwrap();
    succeeds(mezzo().arg("init").arg(&tree));
    succeeds(Command::new("umount").arg(&one));
    fs::copy(&image, disk.join("clone")).unwrap();
    mount(&image, &one);
    mount(&disk.join("clone"), &two);
    let status = |at: &Path| -> serde_json::Value {
        let output = succeeds(mezzo().args(["status", "--json"]).arg(at.join("tree")));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    succeeds(mezzo().arg("mount").arg(&tree));
    let output = succeeds(mezzo().arg("mount").arg(two.join("tree")));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a copy of it is in use"), "{said}");
    assert_eq!(status(&one)["id"], status(&two)["id"]);
    for what in ["replica", "pid"] {
        assert_ne!(status(&one)[what], status(&two)[what], "{what}");
    }
    for at in [&one, &two] {
        fs::write(at.join("tree/f"), "1").unwrap();
        let start = std::time::Instant::now();
        while !mezzo().arg("unmount").arg(at.join("tree")).output().unwrap().status.success() {
            assert!(start.elapsed() < PATIENCE);
        }
        succeeds(mezzo().arg("verify").arg(at.join("tree")));
        succeeds(Command::new("umount").arg(at));
    }
    m.unmount();
    fs::remove_dir_all(disk).unwrap();
}

#[test]
fn an_index_that_is_lost_is_made_again() {
    let mut m = Mounted::new();
    fill(&m.path(""));
    m.unmount();
    let (last, id) = (m.last(), replica(&m));
    for lost in [&["index"][..], &["index", "inodes"], &["index", "inodes", "lml"]] {
        lost.iter().for_each(|name| fs::remove_file(m.tree().join(".mezzo").join(name)).unwrap());
        let said = m.mount();
        assert!(said.contains("the index was made anew"), "{said}");
        assert_eq!(kinds(&m.records_since(last)), [""; 0], "without {lost:?}");
        m.unmount();
    }
    assert_eq!((replica(&m), earlier(&m)), (id, vec![]));
}
