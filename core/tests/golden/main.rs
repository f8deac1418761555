//! Logs of versions 2.0 to 2.2, which must be read for ever: `testdata/log`.
//!
//! A kind or a case that is new gets a file of its own. Files that are there are never written again: run with
//! `MEZZO_WRITE_GOLDEN=1` to write what is missing.

mod json;
mod records;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mezzo_core::codec::{Frame, Scanner, SegmentHead, encode};
use mezzo_core::{Recno, Record, Time};
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/log")
}

fn read(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// Writes a file that is not there yet, if that is asked for.
fn write_new(name: &str, bytes: &[u8]) {
    let path = directory().join(name);
    if std::env::var_os("MEZZO_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(path, bytes).unwrap();
    }
}

/// What versions 2.1 and 2.2 added.
const ADDED: [(&str, u8); 2] = [("copied", 1), ("snapshot", 2)];

/// The log `name` as it was written by the version that it is of.
fn segment_of(name: &str, records: &[Record]) -> Vec<u8> {
    let mut bytes = segment(records);
    let added = ADDED.iter().find(|(added, _)| *added == name);
    bytes[10] = added.map_or(0, |(_, minor)| *minor);
    let checksum = crc32c::crc32c(&bytes[..76]);
    bytes[76..80].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn segment(records: &[Record]) -> Vec<u8> {
    let head = SegmentHead::new(
        records::FILESET,
        records::REPLICA,
        3,
        Recno::NONE,
        Time::new(1_789_999_999, 250_000_000),
    );
    let mut bytes = head.encode().to_vec();
    records.iter().for_each(|record| encode(record, &mut bytes).unwrap());
    bytes
}

/// Logs that end otherwise than cleanly: torn in the last record, with zeros behind it, and damaged in the first.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let (name, records) = records::all().swap_remove(0);
    let good = segment_of(name, &records);
    let torn = good[..good.len() - 20].to_vec();
    let zeros = [&good[..], &[0; 4096]].concat();
    let mut damaged = good;
    damaged[80 + 70] ^= 0x10;
    vec![("torn", torn), ("zeros", zeros), ("damaged", damaged)]
}

/// The names of all golden logs, without `.kml`.
fn names() -> Vec<&'static str> {
    let good = records::all().into_iter().map(|(name, _)| name);
    good.chain(broken().into_iter().map(|(name, _)| name)).collect()
}

#[test]
fn golden_logs_hold_what_they_held() {
    for (name, expected) in records::all() {
        let file = format!("{name}.kml");
        write_new(&file, &segment_of(name, &expected));
        let bytes = read(&file);
        let (_, mut scanner) = Scanner::segment(&bytes).unwrap();
        let frames = std::iter::from_fn(|| scanner.next_frame().unwrap());
        let found: Vec<Record> = frames.map(|frame: Frame<'_>| frame.record().unwrap()).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_same_records_are_written_as_the_same_bytes() {
    let good = records::all().into_iter().map(|(name, records)| (name, segment_of(name, &records)));
    for (name, expected) in good.chain(broken()) {
        let file = format!("{name}.kml");
        write_new(&file, &expected);
        assert!(read(&file) == expected, "{name} would be written otherwise today");
    }
}

#[test]
fn every_kind_of_change_has_a_golden_log() {
    let mut kinds: Vec<u8> = Vec::new();
    for (name, _) in records::all() {
        let bytes = read(&format!("{name}.kml"));
        let (_, mut scanner) = Scanner::segment(&bytes).unwrap();
        kinds.extend(std::iter::from_fn(|| scanner.next_frame().unwrap()).map(|frame| frame.head.kind));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (1..=15).collect::<Vec<u8>>());
    let files = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name());
    let logs = files.filter(|name| name.to_string_lossy().ends_with(".kml")).count();
    assert_eq!(logs, names().len(), "a golden log is not tested, or missing");
}

/// What `expected.json` and the reader in Python should tell.
fn told() -> BTreeMap<String, Value> {
    names()
        .into_iter()
        .map(|name| (format!("{name}.kml"), json::segment(&read(&format!("{name}.kml")))))
        .collect()
}

#[test]
fn golden_logs_are_told_as_expected() {
    let told = serde_json::to_value(told()).unwrap();
    let text = serde_json::to_string_pretty(&told).unwrap() + "\n";
    write_new("expected.json", text.as_bytes());
    let expected: Value = serde_json::from_slice(&read("expected.json")).unwrap();
    assert_eq!(told, expected);
}

/// `read.py` uses what `docs/format.md` says, and nothing of this crate.
#[test]
fn another_reader_tells_the_same() {
    let mut command = Command::new("python3");
    command.arg("-B").arg(directory().join("read.py"));
    command.args(names().iter().map(|name| directory().join(format!("{name}.kml"))));
    let Ok(output) = command.output() else {
        eprintln!("there is no python3 here: skipped");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (name, expected) in told() {
        assert_eq!(found[&name], expected, "{name}");
    }
}
