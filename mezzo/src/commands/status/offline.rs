//! What would be missing without a connection.

use std::path::Path;

use mezzo_core::name::escape;

use crate::Ending;
use crate::commands::log::place;
use crate::demand::{Missing, Wish, ask};
use crate::render::json;

/// Shows the files at and below `path` that lack bytes.
pub fn run(path: &Path, as_json: bool) -> Ending {
    let (found, inside) = place::locate(Some(path), None)?;
    let path = inside.unwrap_or_default();
    let (mut files, mut bytes, mut all, mut after) = (0u64, 0u64, Vec::new(), None);
    loop {
        let report = ask(&found, Wish::Missing { path: path.clone(), after })?;
        for missing in report.missing {
            (files, bytes) = (files + 1, bytes + missing.bytes);
            if as_json { all.push(missing) } else { show(&missing) }
        }
        after = report.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        let shown = serde_json::json!({
            "ready": files == 0, "missing_files": files, "missing_bytes": bytes, "missing": json::report(&all)?,
        });
        println!("{}", json::one_line(&shown)?);
    } else if files == 0 {
        println!("all files have their bytes here");
    } else {
        println!("{files} files with {bytes} bytes would be missing");
    }
    Ok(())
}

fn show(missing: &Missing) {
    let why = match (missing.absent, missing.pinned) {
        (false, _) => " (lost with the power)",
        (true, true) => " (pinned)",
        (true, false) => "",
    };
    println!("{:>14}  {}{why}", missing.bytes, escape(&missing.path));
}
