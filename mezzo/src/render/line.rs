//! A record as one line.

use std::io::{self, Write};

use mezzo_core::name::escape;
use mezzo_core::{Change, Record, Who};

use super::detail::detail;
use super::told::Paths;
use super::{View, clock};

/// Number, time, kind, paths, program, user, details.
const COLUMNS: usize = 7;

/// The cells of one line.
pub type Row = [String; COLUMNS];

/// Rows that are held back, so that their columns can be aligned. More would delay what is shown first, and would be
/// aligned with what nobody sees at the same time.
const ROWS: usize = 100;

/// Characters that each column grows to: what is longer stands out of it. A few long cells would else push everything
/// behind them out of sight.
const WIDEST: [usize; COLUMNS] = [20, 30, 24, 50, 24, 20, 0];

/// What is told of `record` in one line.
pub fn row(view: &View, record: &Record) -> Row {
    [
        record.recno.to_string(),
        clock::short(record.time, &view.zone),
        kind(view, &record.change),
        paths(&record.change),
        program(&record.who),
        view.users.user(record.who.uid),
        detail(view, &record.change),
    ]
}

/// Who made `record`, and when: number, time, program, user, session.
pub fn author(view: &View, record: &Record) -> [String; 5] {
    let session = match escape(&record.who.session) {
        session if session.is_empty() => "-".to_owned(),
        session => session,
    };
    [
        record.recno.to_string(),
        clock::short(record.time, &view.zone),
        program(&record.who),
        view.users.user(record.who.uid),
        session,
    ]
}

/// The kind, and of an undo or an amendment which record's and what was done.
pub fn kind(view: &View, change: &Change) -> String {
    match change {
        Change::Amend { record, change: inner } | Change::UndoOf { record, change: inner } => {
            format!("{} of {}: {}", change.kind(), view.record(*record), kind(view, inner))
        }
        change => change.kind().to_owned(),
    }
}

/// `program[pid]`, as far as it is known.
pub fn program(who: &Who) -> String {
    match (escape(&who.program), who.pid) {
        (program, 0) if program.is_empty() => "-".to_owned(),
        (program, 0) => program,
        (program, pid) => format!("{program}[{pid}]"),
    }
}

/// The paths of a change, for people.
pub fn paths(change: &Change) -> String {
    match Paths::of(change) {
        Paths::None => "-".to_owned(),
        Paths::Root => ".".to_owned(),
        Paths::Nameless => "(no name left)".to_owned(),
        Paths::At(path) => escape(path),
        Paths::Moved(from, to) => format!("{} -> {}", escape(from), escape(to)),
    }
}

/// Rows on their way out.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    /// Of all columns so far: they never shrink, so that pages look alike.
    widths: [usize; COLUMNS],
}

/// Characters that columns have from the start where rows come one by one: the longest kind, and usual paths, programs
/// and names.
const ROOM: [usize; COLUMNS] = [0, 0, 11, 24, 14, 8, 0];

impl Table {
    /// A table whose columns are aligned, mostly, also when rows are written one by one.
    pub fn with_room() -> Table {
        Table { rows: Vec::new(), widths: ROOM }
    }

    /// Takes a row, and writes those it has when they are many.
    pub fn push(&mut self, row: Row, out: &mut impl Write) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() < ROWS { Ok(()) } else { self.write(out) }
    }

    /// Writes all rows it has.
    pub fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        for row in &self.rows {
            for ((width, cell), widest) in self.widths.iter_mut().zip(row).zip(WIDEST) {
                *width = cell.chars().count().min(widest).max(*width);
            }
        }
        let widths = self.widths;
        self.rows.drain(..).try_for_each(|row| writeln!(out, "{}", aligned(&row, &widths)))
    }
}

fn aligned(row: &Row, widths: &[usize; COLUMNS]) -> String {
    let [number, rest @ ..] = row;
    let mut line = format!("{number:>width$}", width = widths[0]);
    for (cell, width) in rest.iter().zip(&widths[1..]) {
        line.push_str(&format!("  {cell:width$}"));
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::render::samples;

    fn view() -> View {
        View::new(TimeZone::UTC, samples::HERE)
    }

    #[test]
    fn what_is_told_of_each_kind() {
        let rows = [
            ["create", "a.txt", "0644, 12 bytes"],
            ["mkdir", "src", "0644"],
            ["symlink", "src/l", "to ../else\\xff"],
            ["mknod", "null", "0644, char-device 1:3"],
            ["link", "b.txt", "2 names"],
            ["unlink", "b.txt", "1 name left"],
            ["unlink", "bad\\xff\\x0a", "12 bytes"],
            ["rmdir", "src", ""],
            ["rename", "a.txt -> c.txt", ""],
            ["rename", "c.txt -> d.txt", "replaced a file, 12 bytes"],
            ["rename", "d.txt -> e", "exchanged with a directory"],
            ["setattr", "e", "mode 0644 -> 4755, size 12 -> 0, mtime 2001-09-09 01:48:20.005"],
            ["setattr", ".", ""],
            ["close", "e", "12 -> 30 bytes"],
            ["close", "(no name left)", "12 -> 30 bytes, still open"],
            ["setxattr", "e", "user.color = \"red\""],
            ["removexattr", "e", "user.color"],
            ["digest", "-", "of record 14, 30 bytes, abababababababab"],
            ["noop", "-", ""],
            ["disable", "-", "record 12: the name was taken"],
            ["amend of fedcba9876543210-7: create", "kept.txt", "0644, 12 bytes"],
            ["alias", "-", "0123456789abcdef-1 is fedcba9876543210-1"],
            ["epoch", "-", "2 of fedcba9876543210, taken"],
            ["undo of 9: rename", "c.txt -> a.txt", ""],
            ["snapshot", "-", "record 22 of fedcba9876543210, as the 5 records that follow"],
        ];
        let told: Vec<_> = samples::all()
            .iter()
            .map(|record| {
                let [_, _, kind, paths, _, _, detail] = row(&view(), record);
                [kind, paths, detail]
            })
            .collect();
        assert_eq!(told, rows);
    }

    #[test]
    fn a_line() {
        let (mut table, mut out) = (Table::default(), Vec::new());
        for number in [8, 9, 10] {
            table.push(row(&view(), &samples::all()[number - 1]), &mut out).unwrap();
        }
        assert!(out.is_empty());
        table.write(&mut out).unwrap();
        let expected = [
            " 8  2001-09-09 01:46:48.005  rmdir   src             vim[77]  3999999999",
            " 9  2001-09-09 01:46:49.005  rename  a.txt -> c.txt  vim[77]  3999999999",
            "10  2001-09-09 01:46:50.005  rename  c.txt -> d.txt  vim[77]  3999999999  replaced a file, 12 bytes",
        ];
        assert_eq!(String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn who_is_told_as_far_as_known() {
        let check = |program: &[u8], pid, expected| {
            assert_eq!(self::program(&Who { pid, program: program.into(), ..Who::default() }), expected);
        };
        check(b"vim", 7, "vim[7]");
        check(b"vim", 0, "vim");
        check(b"", 7, "[7]");
        check(b"", 0, "-");
        check(b"a\nb", 0, "a\\x0ab");
    }

    #[test]
    fn columns_never_shrink_and_long_cells_stand_out() {
        let row = |path: &str| {
            [1, 2, 3, 4, 5, 6, 7].map(|at| if at == 4 { path.to_owned() } else { at.to_string() })
        };
        let long = "x".repeat(WIDEST[3] + 1);
        let (mut table, mut out) = (Table::default(), Vec::new());
        for path in ["long/path", "p", &long] {
            table.push(row(path), &mut out).unwrap();
            table.write(&mut out).unwrap();
        }
        let lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines[..2], ["1  2  3  long/path  5  6  7", "1  2  3  p          5  6  7"]);
        assert_eq!(lines[2], format!("1  2  3  {long}  5  6  7"));
    }
}
