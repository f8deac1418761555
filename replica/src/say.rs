//! What a daemon has to say.

/// Tells people something, as `eprintln!` does, which panics where that can't be written: a daemon's words go to a file on
/// the host that is full just when there is something to tell.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
