//! `mezzo diff`: what is different between two records.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;
use mezzo_core::name::escape;
use mezzo_core::tree::{Difference, Field, Side, Sort, TimesAre, Tree, differences};
use mezzo_core::{Kind, Recno};
use mezzo_replica::log::Reader;
use mezzo_replica::past;
use mezzo_replica::versions::{self, Had, Source};

use super::log::place;
use super::log::point::{NotAPoint, Point};
use crate::lines::{self, COMPARED_BYTES};
use crate::render::told::Paths;
use crate::render::{View, columns, difference, json};
use crate::{Ending, Failure, progress};

/// Arguments of `mezzo diff`.
#[derive(Debug, Args)]
#[command(
    override_usage = "mezzo diff [OPTIONS] [DIR] A..B [PATH]",
    after_help = "\
A and B are numbers of records, 0 for before the first, or times: then the last record made by then is meant. A.. goes to now. A \
TIME is 2026-08-01T12:00:00+02:00, or 2026-08-01, 2026-08-01 12:00 or 2026-08-01 12:00:00 here, or so long ago: 10m, 2h, 3d. With \
PATH, only what stood or stands there is told, and below it. DIR may be left out inside a fileset.

Objects are told apart by their identity: \"renamed\" is the same one at another place, and \"replaced\" another one at the same. \
ctimes are never told, as every change changes them."
)]
pub struct Arguments {
    /// The fileset, if not the one here; the two points; and a path, from DIR
    #[arg(value_name = "DIR A..B PATH", num_args = 1..=3, required = true)]
    words: Vec<OsString>,
    /// What files had and have in them, too, as a unified diff
    #[arg(long, short = 'p')]
    content: bool,
    /// Times of last access and modification, too
    #[arg(long)]
    times: bool,
    /// One JSON object a line: see docs/json.md
    #[arg(long)]
    json: bool,
    /// Times in UTC
    #[arg(long)]
    utc: bool,
}

/// From one point in the log to another; to the end where that is not given.
#[derive(Clone, Copy, Debug)]
struct Range {
    from: Point,
    to: Option<Point>,
}

/// Not two points.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum NotARange {
    #[error("expected A..B or A.. with records or times, such as 12..20, 12.. or 2h..1h")]
    NoDots,
    #[error(transparent)]
    NotAPoint(#[from] NotAPoint),
}

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Range, NotARange> {
        let (from, to) = text.split_once("..").ok_or(NotARange::NoDots)?;
        let to = if to.is_empty() { None } else { Some(to.parse()?) };
        Ok(Range { from: from.parse()?, to })
    }
}

impl Range {
    /// The records that it is from and to.
    fn recnos(self, reader: &Reader, now: &Zoned) -> Result<[Recno; 2], Failure> {
        let to = match self.to {
            Some(to) => to.recno(reader, now)?,
            None => reader.last()?,
        };
        Ok([self.from.recno(reader, now)?, to])
    }
}

/// What the arguments say.
#[derive(Debug)]
struct Wanted<'a> {
    directory: Option<&'a Path>,
    range: Range,
    path: Option<&'a Path>,
}

impl<'a> Wanted<'a> {
    /// The first word that has two dots in it and is no path is the range; what is before it is DIR, and what is behind PATH.
    fn of(words: &'a [OsString]) -> Result<Wanted<'a>, Failure> {
        let range = |word: &OsStr| word.to_str().ok_or(NotARange::NoDots)?.parse::<Range>();
        let wanted = match words {
            [first] => (None, range(first), None),
            [first, second] => match range(first) {
                Ok(found) => (None, Ok(found), Some(second)),
                Err(_) => (Some(first), range(second), None),
            },
            [directory, second, path] => (Some(directory), range(second), Some(path)),
            _ => (None, Err(NotARange::NoDots), None),
        };
        let (directory, range, path) = wanted;
        let told =
            words.get(usize::from(directory.is_some())).map_or("".into(), |word| word.to_string_lossy());
        let range = range.map_err(|error| Failure::Usage(format!("invalid range '{told}': {error}")))?;
        Ok(Wanted { directory: directory.map(Path::new), range, path: path.map(Path::new) })
    }
}

/// Runs it.
pub fn run(arguments: Arguments) -> Ending {
    let wanted = Wanted::of(&arguments.words)?;
    let (mut found, path) = match (wanted.directory, wanted.path) {
        // A path alone leads to the fileset by itself.
        (None, Some(path)) => place::locate(Some(path), None)?,
        (directory, path) => place::locate(directory, path)?,
    };
    found.sync_to_look();
    let reader = Reader::open(&found.own_path("kml"))?;
    let zone = if arguments.utc { TimeZone::UTC } else { TimeZone::system() };
    let points = wanted.range.recnos(&reader, &Zoned::now().with_time_zone(zone.clone()))?;
    let bar = progress::counter("records read");
    let trees = past::trees(&reader, points, &mut |read| bar.set_position(read));
    bar.finish_and_clear();
    let ([before, after], last) = trees?;
    if let Some(path) = &path
        && before.find(path).or(after.find(path)).is_none()
    {
        let (path, [from, to]) = (escape(path), points);
        return Err(Failure::Failed(format!("nothing stood at {path} after record {from}, nor after {to}")));
    }
    let times = if arguments.times { TimesAre::Compared } else { TimesAre::Left };
    let mut told = differences(&before, &after, times);
    told.retain(|difference| path.as_deref().is_none_or(|path| touches(difference, path)));
    let content = Content { last: &last, source: found.source()? };
    let told = content.without_equal(told)?;
    let content = arguments.content.then_some(content);
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let view = View::new(zone, reader.replica());
    if arguments.json {
        tell_json(&told, content.as_ref(), out)
    } else {
        tell(&view, &told, content.as_ref(), out)
    }
}

/// Whether it is about `path`, or something below it, on either side.
fn touches(difference: &Difference<'_>, path: &[u8]) -> bool {
    let sides = [&difference.before, &difference.after];
    sides.into_iter().flatten().any(|side| Paths::At(&side.path).touch(path))
}

fn tell(
    view: &View,
    differences: &[Difference<'_>],
    content: Option<&Content<'_>>,
    mut out: impl Write,
) -> Ending {
    let rows: Vec<_> = differences.iter().map(|one| difference(view, one)).collect();
    for (line, difference) in columns(&rows).iter().zip(differences) {
        writeln!(out, "{}", line.trim_end())?;
        match content.map(|content| content.of(difference)).transpose()?.flatten() {
            Some(Ok(diff)) => out.write_all(&diff)?,
            Some(Err(why)) => writeln!(out, "  (no diff: {why})")?,
            None => {}
        }
    }
    Ok(out.flush()?)
}

fn tell_json(differences: &[Difference<'_>], content: Option<&Content<'_>>, mut out: impl Write) -> Ending {
    for difference in differences {
        let diff = content.map(|content| content.of(difference)).transpose()?;
        writeln!(
            out,
            "{}",
            json::one_line(&json::difference(difference, diff.as_ref().map(Option::as_ref)))?
        )?;
    }
    Ok(out.flush()?)
}

/// Where the bytes of files are compared.
struct Content<'a> {
    last: &'a Tree,
    source: Source,
}

impl Content<'_> {
    /// Leaves out where data differs by its version alone: the digests of both may not have been known yet.
    fn without_equal<'t>(&self, differences: Vec<Difference<'t>>) -> Result<Vec<Difference<'t>>, Failure> {
        let mut left = Vec::new();
        for mut difference in differences {
            let fields = &difference.fields;
            let may_be_equal = fields.contains(&Field::Data) && !fields.contains(&Field::Size);
            if may_be_equal && self.is_equal(&difference)? {
                difference.fields.retain(|field| *field != Field::Data);
            }
            if difference.sort != Sort::Changed || !difference.fields.is_empty() {
                left.push(difference);
            }
        }
        Ok(left)
    }

    fn is_equal(&self, difference: &Difference<'_>) -> Result<bool, Failure> {
        let digest = |side: &Option<Side<'_>>| side.as_ref()?.state.data?.digest;
        if digest(&difference.before).and(digest(&difference.after)).is_some() {
            return Ok(false);
        }
        let (old, new) = (self.read(difference.before.as_ref())?, self.read(difference.after.as_ref())?);
        Ok(old.is_ok() && old == new)
    }

    /// The difference between the bytes as a unified diff, or why there is none; `None` where no file's bytes differ.
    fn of(&self, difference: &Difference<'_>) -> Result<Option<Result<Vec<u8>, String>>, Failure> {
        let differ = match difference.sort {
            Sort::Added | Sort::Removed => true,
            Sort::Changed | Sort::Replaced => difference.fields.contains(&Field::Data),
            Sort::Renamed | Sort::Linked | Sort::Unlinked => false,
        };
        let is_file = |side: &&Side<'_>| side.state.attributes.kind == Kind::File;
        let [before, after] =
            [&difference.before, &difference.after].map(|side| side.as_ref().filter(is_file));
        if !differ || before.or(after).is_none() {
            return Ok(None);
        }
        let (old, new) = match (self.read(before)?, self.read(after)?) {
            (Err(why), _) => return Ok(Some(Err(format!("what was there before can't be had: {why}")))),
            (_, Err(why)) => return Ok(Some(Err(format!("what was there after can't be had: {why}")))),
            (Ok(old), Ok(new)) => (old, new),
        };
        if !lines::is_text(&old) || !lines::is_text(&new) {
            return Ok(Some(Err("it is not text".to_owned())));
        }
        let name = |mark, side: Option<&Side<'_>>| {
            side.map_or("/dev/null".to_owned(), |side| format!("{mark}/{}", escape(&side.path)))
        };
        let mut diff = Vec::new();
        lines::unified(&old, &new, (&name("a", before), &name("b", after)), &mut diff)?;
        Ok(Some(Ok(diff)))
    }

    /// The bytes of a file; none where there is none.
    fn read(&self, side: Option<&Side<'_>>) -> Result<Had<Vec<u8>>, Failure> {
        let Some((side, data)) = side.and_then(|side| Some((side, side.state.data?))) else {
            return Ok(Ok(Vec::new()));
        };
        let size = side.state.attributes.size;
        if size > COMPARED_BYTES {
            return Ok(Err("it is too large to be compared line by line"));
        }
        versions::read(self.last, (side.object, data.version), size, &self.source).map_err(|cause| {
            Failure::Failed(format!("could not read what {} was: {cause}", escape(&side.path)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_words_mean() {
        let check = |words: &[&str], expected: Result<(Option<&str>, &str, Option<&str>), &str>| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            match (Wanted::of(&words), expected) {
                (Ok(Wanted { directory, range, path }), Ok(expected)) => {
                    let point = |point: Point| match point {
                        Point::Record(recno) => recno.to_string(),
                        Point::Time(_) => "time".to_owned(),
                    };
                    let range =
                        format!("{}..{}", point(range.from), range.to.map_or_else(String::new, point));
                    assert_eq!(
                        (directory, &*range, path),
                        (expected.0.map(Path::new), expected.1, expected.2.map(Path::new))
                    );
                }
                (Err(Failure::Usage(told)), Err(expected)) => assert!(told.contains(expected), "{told}"),
                (other, _) => panic!("{words:?}: {other:?}"),
            }
        };
        check(&["5..8"], Ok((None, "5..8", None)));
        check(&["5.."], Ok((None, "5..", None)));
        check(&["5..8", "src"], Ok((None, "5..8", Some("src"))));
        check(&["dir", "5..8"], Ok((Some("dir"), "5..8", None)));
        check(&["..", "5..8"], Ok((Some(".."), "5..8", None)));
        check(&["dir", "8..5", "src"], Ok((Some("dir"), "8..5", Some("src"))));
        check(&["2h..2026-08-01 12:00:00.5"], Ok((None, "time..time", None)));
        check(&["0..10m"], Ok((None, "0..time", None)));
        check(&["5"], Err("invalid range '5': expected A..B or A.."));
        check(&["dir"], Err("invalid range 'dir'"));
        check(&["dir", "5"], Err("invalid range '5'"));
        check(&["..8"], Err("invalid range '..8': expected the number of a record, or a time"));
        check(&["5..yesterday"], Err("expected the number of a record, or a time"));
        check(&["dir", "src", "5..8"], Err("invalid range 'src'"));
    }
}
