//! Every parser of this crate whose bytes come from elsewhere, and how records that were received are shown. For those who throw
//! bytes at them. Each asserts what has to hold of whatever it takes.

use jiff::tz::TimeZone;
use mezzo_core::{Record, ReplicaId};

use crate::control::{Answer, Request};
use crate::mount_table;
use crate::render::{Table, View, json, row, sheet};

/// A command's request, as the daemon reads it.
pub fn request(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let written = serde_json::to_vec(&request).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Request>(&written).ok(), Some(request));
    }
}

/// The daemon's answer, as a command reads it.
pub fn answer(bytes: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<Answer>(bytes) {
        let written = serde_json::to_vec(&answer).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Answer>(&written).ok(), Some(answer));
    }
}

/// A line of the kernel's table of mounts: paths in it are of users' choice.
pub fn mount_line(bytes: &[u8]) {
    let _ = mount_table::parse(bytes);
}

/// A record as `mezzo log` and `mezzo show` tell it: nothing in it reaches the terminal as anything but text.
pub fn shown(record: &Record) {
    let view = View::new(TimeZone::UTC, ReplicaId(1));
    let (mut table, mut lines) = (Table::default(), Vec::new());
    let written = table.push(row(&view, record), &mut lines).and_then(|()| table.write(&mut lines));
    written.expect("memory takes it");
    let line = String::from_utf8(lines).expect("a line is text");
    let text = [
        line,
        sheet(&view, record, true),
        json::one_line(&json::record(record)).expect("a record can be written"),
    ]
    .concat();
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}
