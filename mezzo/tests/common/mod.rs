//! What tests on real mounts need: a file system of their own, a fileset mounted on it by the built program, users to act
//! as, and processes.

mod host;
mod mounted;
mod patience;
mod process;
mod served;
mod small;
mod user;

use std::path::Path;

pub use host::Host;
pub use mounted::{Mounted, kinds, mezzo, succeeds};
pub use patience::{PATIENCE, eventually};
pub use process::{Ended, Process, Talk, apart};
pub use served::Served;
pub use small::SmallHost;
pub use user::{ALICE, BOB, CAROL, ROOT, TEAM, User};

/// The error number of a system call that failed, and 0 where it did not.
pub fn errno<T, E: Into<std::io::Error>>(result: Result<T, E>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.into().raw_os_error().expect("the system's error"),
    }
}

/// Makes sure that two trees are equal by everything that records carry.
pub fn equal(a: &Path, b: &Path) {
    let mut differences = Vec::new();
    let mut note = |finding| {
        if let mezzo_compare::Finding::Difference(difference) = finding {
            differences.push(difference.to_string());
        }
    };
    mezzo_compare::compare(a, b, &mezzo_compare::Options::default(), &mut note).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
