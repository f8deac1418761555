//! `mezzo blame`: which record brought each line of a file, or changed each entry of a directory last.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::tz::TimeZone;
use mezzo_core::name::escape;
use mezzo_core::tree::Tree;
use mezzo_core::{Kind, ObjectId, Recno, Record};
use mezzo_replica::log::Reader;
use mezzo_replica::past::{self, Version};
use mezzo_replica::versions::{self, Had, Source};

use super::history::stood;
use super::log::place;
use crate::lines::{self, COMPARED_BYTES};
use crate::render::{View, author, columns, json};
use crate::{Ending, Failure, progress};

/// Arguments of `mezzo blame`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line of a file is told with the record whose data had it first: its number, time, program, user and session. Where data \
of before is not kept any more, a line may be older than that: it is then marked with \"or before\". What a new file that took the place of an old one has from that counts as older, too. Of a directory, each entry \
is told with the record that changed it last, or something below it. DIR may be left out inside a fileset; a single path that \
leads into one is taken as PATH.")]
pub struct Arguments {
    /// The fileset
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What stands at this path, from DIR
    path: Option<PathBuf>,
    /// One JSON object a line or an entry: see docs/json.md
    #[arg(long)]
    json: bool,
    /// Times in UTC
    #[arg(long)]
    utc: bool,
}

/// Where a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Brought {
    /// The record that brought it.
    recno: Recno,
    /// Or one before: what the data was before that record is not known.
    or_before: bool,
}

/// A file's bytes, and by which record each of its lines was brought.
type Blamed = (Vec<u8>, Vec<Brought>);

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let zone = if arguments.utc { TimeZone::UTC } else { TimeZone::system() };
    let (mut found, path) = place::locate(arguments.directory.as_deref(), arguments.path.as_deref())?;
    found.sync_to_look();
    let reader = Reader::open(&found.own_path("kml"))?;
    let path = path.unwrap_or_default();
    let (object, last) = stood(&reader, &path)?;
    let view = View::new(zone, reader.replica());
    let refused = |why: &str| Failure::Failed(format!("could not blame {}: {why}", escape(&path)));
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match last.object(object).map(|object| object.state().attributes.kind) {
        Some(Kind::Directory) => tell_entries(&reader, &last, object, &view, arguments.json, &mut out)?,
        Some(Kind::File) | None => {
            let versions = past::versions(&reader, &last, object)?;
            if versions.is_empty() {
                return Err(refused("it is gone, and was not a file"));
            }
            let read = |version: &Version| read(&last, version, &found.source()?);
            let (bytes, from) =
                blame(&versions, read)?.map_err(|why| refused(&format!("its data can't be had: {why}")))?;
            tell_lines(&reader, &bytes, &from, &view, arguments.json, &mut out)?;
        }
        Some(kind) => {
            return Err(refused(&format!("it is a {}, and neither a file nor a directory", kind.word())));
        }
    }
    Ok(out.flush()?)
}

fn read(last: &Tree, version: &Version, source: &Source) -> Result<Had<Vec<u8>>, Failure> {
    if version.size > COMPARED_BYTES {
        return Ok(Err("it is too large to be compared line by line"));
    }
    versions::read(last, (version.object, version.version), version.size, source).map_err(|cause| {
        Failure::Failed(format!("could not read the data of record {}: {cause}", version.recno))
    })
}

/// The bytes of the last of `versions`, which `read` gets, and where each of its lines is from; or why these bytes can't be had.
/// States without bytes are passed over: most programs empty a file before they write it anew.
fn blame(
    versions: &[Version],
    read: impl Fn(&Version) -> Result<Had<Vec<u8>>, Failure>,
) -> Result<Had<Blamed>, Failure> {
    let bar = progress::counter("states of the file compared");
    let (mut bytes, mut from) = (Vec::new(), Vec::new());
    let mut missing = None;
    let newest = versions.last().map(|version| version.recno);
    for version in versions.iter().filter(|version| version.size > 0 || Some(version.recno) == newest) {
        bar.inc(1);
        match read(version)? {
            Err(why) => missing = Some(why),
            Ok(new) => {
                let by = Brought { recno: version.recno, or_before: missing.take().is_some() };
                from = lines::origins((&bytes, &from), &new, by);
                bytes = new;
            }
        }
    }
    bar.finish_and_clear();
    Ok(missing.map_or(Ok((bytes, from)), Err))
}

fn tell_lines(
    reader: &Reader,
    bytes: &[u8],
    from: &[Brought],
    view: &View,
    json: bool,
    out: &mut impl Write,
) -> Ending {
    let mut records: BTreeMap<Brought, Record> = BTreeMap::new();
    for from in from {
        if !records.contains_key(from) {
            records.insert(*from, super::show::get(reader, from.recno)?);
        }
    }
    let mark = |from: &Brought| if from.or_before { "or before" } else { "" };
    let told: Vec<_> = records.iter().map(|(from, record)| (mark(from), record)).collect();
    let heads: BTreeMap<&Brought, String> = records.keys().zip(heads(view, &told)).collect();
    let width = from.len().to_string().len();
    for ((number, line), from) in (1..).zip(lines::lines(bytes)).zip(from) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if json {
            writeln!(out, "{}", json::one_line(&json::line(number, line, &records[from], from.or_before))?)?;
        } else {
            write!(out, "{}  {number:width$}) ", heads[from])?;
            out.write_all(line)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn tell_entries(
    reader: &Reader,
    last: &Tree,
    directory: ObjectId,
    view: &View,
    json: bool,
    out: &mut impl Write,
) -> Ending {
    let entries = past::last_changes(reader, last, directory)?;
    let told: Vec<_> = entries.iter().map(|(.., record)| ("", record)).collect();
    for (head, (name, object, record)) in heads(view, &told).iter().zip(&entries) {
        if json {
            writeln!(out, "{}", json::one_line(&json::entry(name, *object, record))?)?;
        } else {
            writeln!(out, "{head}  {name}")?;
        }
    }
    Ok(())
}

/// What is told of each record, and a mark behind its number, all of the same width.
fn heads(view: &View, told: &[(&str, &Record)]) -> Vec<String> {
    let rows = told.iter().map(|(mark, record)| (author(view, record), (*mark).to_owned()));
    let mut rows: Vec<[String; 6]> = rows
        .map(|([recno, time, program, user, session], mark)| [recno, mark, time, program, user, session])
        .collect();
    let width = rows.iter().map(|[recno, ..]| recno.len()).max().unwrap_or(0);
    rows.iter_mut().for_each(|[recno, ..]| *recno = format!("{recno:>width$}"));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use mezzo_core::{DataVersion, Origin};

    use super::*;
    use crate::render::samples;

    /// Versions by their bytes; `None` for one that is not kept.
    fn check(kept: &[Option<&str>], expected: Result<&[(u64, bool)], &str>) {
        let versions: Vec<_> = (1..=kept.len() as u64)
            .map(|recno| Version {
                object: ObjectId::ROOT,
                recno: Recno(recno),
                version: DataVersion(Origin::new(samples::HERE, Recno(recno))),
                size: kept[recno as usize - 1].map_or(1, |text| text.len() as u64),
            })
            .collect();
        let read = |version: &Version| {
            Ok(kept[version.recno.0 as usize - 1].map(|text| text.as_bytes().to_vec()).ok_or("not kept"))
        };
        let blamed = blame(&versions, read).unwrap();
        let blamed = blamed
            .map(|(_, from)| from.iter().map(|from| (from.recno.0, from.or_before)).collect::<Vec<_>>());
        assert_eq!(blamed, expected.map(<[_]>::to_vec), "{kept:?}");
    }

    #[test]
    fn who_brought_each_line() {
        check(&[Some("a\nb\n"), Some("a\nx\nb\n")], Ok(&[(1, false), (2, false), (1, false)]));
        // What is not kept may have had the line already.
        check(&[None, Some("a\n"), Some("a\nb\n")], Ok(&[(2, true), (3, false)]));
        check(&[Some("a\n"), None, Some("a\nb\n"), Some("c\n")], Ok(&[(4, false)]));
        check(&[Some("a\n"), None, None, Some("a\nb\n")], Ok(&[(1, false), (4, true)]));
        check(&[Some("a\n"), None], Err("not kept"));
        check(&[Some("")], Ok(&[]));
        // Written anew.
        check(&[Some("a\n"), Some(""), Some("a\nb\n")], Ok(&[(1, false), (3, false)]));
        check(&[Some(""), None, Some(""), Some("a\n")], Ok(&[(4, true)]));
        check(&[Some("a\n"), Some("")], Ok(&[]));
    }
}
