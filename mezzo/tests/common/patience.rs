//! Waiting for what happens in its own time.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done`, or panics.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
