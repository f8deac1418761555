//! The host, mounted for as long as it is needed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use mezzo_fuse::{MountOptions, Session, Wanted, mount, unmount};
use rustix::mount::UnmountFlags;

use super::served::Served;

/// One answers while another looks into the memory of who waits for that answer, which may have to be read from here.
const THREADS: usize = 2;

/// A mount; it goes with this.
pub struct Mounted {
    path: PathBuf,
    runner: Option<JoinHandle<io::Result<()>>>,
}

impl Mounted {
    pub fn new(path: &Path, served: Arc<Served>) -> io::Result<Mounted> {
        std::fs::create_dir_all(path)?;
        let options = MountOptions {
            source: "mezzo-sim".into(),
            allow_other: true,
            allow_devices: true,
            allow_set_id: true,
            ..MountOptions::default()
        };
        let wanted = Wanted {
            export_support: true,
            readdirplus: false,
            readdirplus_auto: false,
            cache_symlinks: false,
            parallel_directory_operations: false,
            ..Wanted::default()
        };
        let session = Session::start(mount(path, &options)?, wanted)?;
        if !session.granted().export_support {
            return Err(io::Error::other("the kernel's FUSE has no file handles"));
        }
        let runner = std::thread::spawn(move || session.run(served, THREADS));
        Ok(Mounted { path: path.to_owned(), runner: Some(runner) })
    }

    /// Unmounts. What the page cache had has arrived then.
    pub fn end(mut self) -> io::Result<()> {
        unmount(&self.path, false)?;
        self.runner.take().map_or(Ok(()), |runner| {
            runner.join().unwrap_or_else(|_| Err(io::Error::other("what serves the host panicked")))
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.runner.is_some() {
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
    }
}
