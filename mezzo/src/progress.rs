//! Progress of long work, on a terminal; quiet elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line that counts what was done, such as `taken in: 61,204`.
pub fn counter(what: &'static str) -> ProgressBar {
    // Drawn to stderr, and only where that is a terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {msg}: {human_pos} in {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(what);
    bar
}
