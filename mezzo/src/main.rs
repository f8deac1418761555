//! The command `mezzo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mezzo::run()
}
