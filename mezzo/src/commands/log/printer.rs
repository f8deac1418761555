//! Records on their way to a terminal, a file, or a program.

use std::io::{self, Write};

use mezzo_core::Record;

use crate::render::{Kept, Table, View, json, row};

/// Prints records as lines of text or of JSON.
#[derive(Debug)]
pub struct Printer<W> {
    view: View,
    json: bool,
    table: Table,
    out: W,
}

impl<W: Write> Printer<W> {
    /// Prints to `out`.
    pub fn new(view: View, json: bool, out: W) -> Printer<W> {
        Printer { view, json, table: Table::default(), out }
    }

    /// The same, for records that come one by one.
    pub fn one_by_one(view: View, json: bool, out: W) -> Printer<W> {
        Printer { view, json, table: Table::with_room(), out }
    }

    /// Prints `record`, at the latest at the next flush.
    pub fn print(&mut self, record: &Record) -> io::Result<()> {
        if self.json {
            self.print_json(&json::record(record))
        } else {
            self.table.push(row(&self.view, record), &mut self.out)
        }
    }

    /// The same, with where the data can be had that the record brought.
    pub fn print_kept(&mut self, record: &Record, kept: Option<Kept>) -> io::Result<()> {
        if self.json {
            return self.print_json(&json::kept(record, kept));
        }
        let mut row = row(&self.view, record);
        if let (Some(detail), Some(kept)) = (row.last_mut(), kept.and_then(Kept::text)) {
            detail.push_str(&format!(", {kept}"));
        }
        self.table.push(row, &mut self.out)
    }

    fn print_json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{}", json::one_line(value)?)
    }

    /// Writes what is held back.
    pub fn flush(&mut self) -> io::Result<()> {
        self.table.write(&mut self.out)?;
        self.out.flush()
    }
}
