//! A fileset that is offered on this machine, and mounted replicas of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Host, eventually, mezzo, succeeds};

/// A fileset that `mezzo serve` offers, not mounted itself, with clones beside it.
///
/// When it is dropped, everything is exchanged and ended; then tree and log of each must agree, and all trees be equal. Where the
/// test panicked, the isolated namespace ends what is left.
pub struct Served {
    area: TempDir,
    /// Where it is offered, each time.
    address: String,
    clones: Vec<PathBuf>,
}

impl Served {
    /// One that `fill` has filled before it became a fileset.
    pub fn new(fill: impl FnOnce(&Path)) -> Served {
        let area = TempDir::new_in(Host::Ext4.enter()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(area.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        // Nobody else gets the same one so soon.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let served = Served { area, address: free.to_string(), clones: Vec::new() };
        std::fs::create_dir(served.tree()).unwrap();
        fill(&served.tree());
        succeeds(mezzo().arg("init").arg(served.tree()));
        served
    }

    /// Begins to offer it.
    pub fn serve(&self) {
        let state = self.area.path().join("state");
        succeeds(mezzo().args(["serve", "--listen", &self.address, "--state"]).arg(state).arg(self.tree()));
    }

    /// The server's directory.
    pub fn tree(&self) -> PathBuf {
        self.area.path().join("server")
    }

    /// Where a clone of this name is.
    pub fn place(&self, name: &str) -> PathBuf {
        self.area.path().join(name)
    }

    /// A mounted clone whose ids are mapped like this.
    pub fn clone_mapped(&mut self, name: &str, mapping: &str) -> PathBuf {
        let invited = succeeds(mezzo().args(["invite", "--mapping", mapping]).arg(self.tree()));
        let place = self.place(name);
        let link = String::from_utf8(invited.stdout).unwrap();
        succeeds(mezzo().arg("clone").arg(link.trim()).arg(&place));
        self.clones.push(place.clone());
        place
    }

    /// Everything is exchanged between a clone and the server.
    #[track_caller]
    pub fn sync(&self, clone: &Path) {
        succeeds(mezzo().arg("sync").args(["--within", "60s"]).arg(clone));
    }

    /// What `mezzo status` tells.
    pub fn status(&self, clone: &Path) -> serde_json::Value {
        let output = succeeds(mezzo().arg("status").arg("--json").arg(clone));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Unmounts a clone, which is asked for as long as somebody still has it.
    pub fn unmount(&self, clone: &Path) {
        eventually("it is unmounted", || {
            mezzo().arg("unmount").arg(clone).output().unwrap().status.success()
        });
    }

    /// Ends the server.
    pub fn stop(&self) {
        succeeds(mezzo().args(["serve", "--stop"]).arg(self.tree()));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for place in self.clones.iter().chain([&self.tree()]) {
                // A mounted one shows nothing but elsewhere of it.
                self.unmount_by_force(place);
                let told = std::fs::read_to_string(place.join(".mezzo/daemon.log")).unwrap_or_default();
                eprintln!("the daemon of {} said: {told}", place.display());
            }
            let _ = mezzo().args(["serve", "--stop"]).arg(self.tree()).output();
            return;
        }
        for clone in &self.clones {
            self.sync(clone);
        }
        // What the first one sent last, the others have now.
        for clone in &self.clones {
            self.sync(clone);
            self.unmount(clone);
        }
        self.stop();
        for place in self.clones.iter().chain([&self.tree()]) {
            succeeds(mezzo().arg("verify").arg(place));
        }
        for clone in &self.clones {
            super::equal(clone, &self.tree());
        }
    }
}

impl Served {
    fn unmount_by_force(&self, place: &Path) {
        let _ = Command::new("umount").arg("-l").arg(place).output();
    }
}
