//! What is mounted in a fileset's directory.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::common::{Host, Mounted, errno, kinds, mezzo, succeeds};

fn mount_tmpfs(at: &Path) {
    mount("none", at, "tmpfs", MountFlags::empty(), None).unwrap();
}

fn take_off(at: &Path) {
    unmount(at, UnmountFlags::empty()).unwrap();
}

fn submounts(m: &Mounted) -> Vec<(String, String, bool)> {
    let status = m.status();
    let found = status["submounts"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    found.map(|one| (text(&one["path"]), text(&one["type"]), one["hidden"].as_bool().unwrap())).collect()
}

#[test]
fn the_mount_shows_what_is_below_another() {
    let mut m = Mounted::unmounted(Host::Ext4, |tree| {
        for directory in ["memory", "bound", "part"] {
            fs::create_dir(tree.join(directory)).unwrap();
            fs::write(tree.join(directory).join("own"), directory).unwrap();
        }
        mount_tmpfs(&tree.join("memory"));
        fs::write(tree.join("memory/f"), "lost with the machine").unwrap();
        mount_bind(tree.join("part"), tree.join("bound")).unwrap();
    });
    let tree = m.tree();
    succeeds(mezzo().arg("verify").arg(&tree));
    let said = m.mount();
    let (memory, bound) = (m.path("memory"), m.path("bound"));
    assert!(said.contains(&format!("{} (tmpfs) is no part of the fileset", memory.display())), "{said}");
    assert!(said.contains(&format!("{} (ext4) is no part", bound.display())), "{said}");
    let named = |path: &Path, kind: &str| (path.to_str().unwrap().to_owned(), kind.to_owned(), true);
    assert_eq!(submounts(&m), [named(&memory, "tmpfs"), named(&bound, "ext4")]);
    // What users do there is done to the directory below, and recorded.
    assert_eq!(fs::read_to_string(memory.join("own")).unwrap(), "memory");
    assert_eq!(fs::read_to_string(bound.join("own")).unwrap(), "bound");
    assert_eq!(errno(fs::metadata(memory.join("f"))), libc::ENOENT);
    assert_eq!(m.kinds_of(|| fs::write(memory.join("new"), "1").unwrap()), ["create", "close"]);
    // On the host something is mounted there.
    let refused = m.kinds_of(|| {
        assert_eq!(errno(fs::rename(&memory, m.path("other"))), libc::EBUSY);
        fs::remove_file(bound.join("own")).unwrap();
        assert_eq!(errno(fs::remove_dir(&bound)), libc::EBUSY);
    });
    assert_eq!(refused, ["unlink"]);
    m.unmount();
    assert_eq!(fs::read_to_string(tree.join("memory/f")).unwrap(), "lost with the machine");
    succeeds(mezzo().arg("verify").arg(&tree));
    take_off(&tree.join("bound"));
    take_off(&tree.join("memory"));
}

#[test]
fn what_is_mounted_on_the_host_later_is_not_seen() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "own").unwrap();
    let last = m.last();
    mount_tmpfs(&m.host("d"));
    fs::write(m.host("d/f"), "another's").unwrap();
    fs::create_dir(m.host("mark")).unwrap();
    crate::common::eventually("the watch has come that far", || m.last() != last);
    assert_eq!(kinds(&m.records_since(last)), ["mkdir"]);
    assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "own");
    assert_eq!(submounts(&m).len(), 1);
    assert!(submounts(&m)[0].2, "the mount hides it");
    m.unmount();
    let mut again = m.mount();
    again.retain(|c| c != '\n');
    assert!(again.contains("(tmpfs) is no part of the fileset"), "{again}");
    assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "own");
    m.unmount();
    take_off(&m.tree().join("d"));
}

#[test]
fn what_is_mounted_over_the_mount_is_named_and_not_recorded() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), "own").unwrap();
    let records = m.kinds_of(|| {
        mount_tmpfs(&m.path("d"));
        fs::write(m.path("d/g"), "not recorded").unwrap();
        assert_eq!(errno(fs::rename(m.path("d"), m.path("e"))), libc::EBUSY);
        assert_eq!(errno(fs::remove_dir(m.path("d"))), libc::EBUSY);
    });
    assert!(records.is_empty(), "{records:?}");
    let path = m.path("d").to_str().unwrap().to_owned();
    assert_eq!(submounts(&m), [(path.clone(), "tmpfs".to_owned(), false)]);
    let text = String::from_utf8(succeeds(mezzo().arg("status").arg(m.tree())).stdout).unwrap();
    assert!(
        text.contains(&format!("{path} (tmpfs) is no part of the fileset: what is done there is not")),
        "{text}"
    );
    take_off(&m.path("d"));
    assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "own");
    assert!(submounts(&m).is_empty());
    m.unmount();
}
