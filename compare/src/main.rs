//! `mezzo-compare A B`: are two directory trees equal?

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use mezzo_compare::{Finding, Options, compare};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "\
usage: mezzo-compare [OPTIONS] A B

Compares two directory trees: names, kinds, modes, owners, sizes, modification times, link targets, device
numbers, contents, extended attributes and ACLs, hard links. Each difference is a line of four fields between
tabs: the name, what differs, A's value, B's value. The last line says how much was compared.

  --at-least N     fail if fewer than N names were compared (1 if not given)
  --ignore NAME    leave out NAME in the root of either tree, as .mezzo always is; may be given again
  --limit N        show at most N differences, and N notes (100 if not given)

Exit status: 0 equal, 1 different, 2 the trees could not be compared or were too small.";

/// The trees are not equal.
const DIFFERENT: u8 = 1;
/// Nothing can be said about the trees.
const TROUBLE: u8 = 2;

#[derive(Debug)]
struct Arguments {
    a: PathBuf,
    b: PathBuf,
    options: Options,
    at_least: u64,
    limit: u64,
}

enum Request {
    Help,
    Compare(Arguments),
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os().skip(1)) {
        Ok(Request::Compare(arguments)) => arguments,
        Ok(Request::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("mezzo-compare: {message}\n\n{USAGE}");
            return ExitCode::from(TROUBLE);
        }
    };
    raise_descriptor_limit();
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mezzo-compare: {error}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut trees = Vec::new();
    let mut options = Options::default();
    let (mut at_least, mut limit) = (1, 100);
    let mut arguments = arguments;
    let mut only_trees = false;
    while let Some(argument) = arguments.next() {
        if only_trees || !argument.as_encoded_bytes().starts_with(b"-") {
            trees.push(PathBuf::from(argument));
            continue;
        }
        let mut value = || arguments.next().ok_or(format!("{} needs a value", argument.display()));
        match argument.to_str() {
            Some("--") => only_trees = true,
            Some("-h" | "--help") => return Ok(Request::Help),
            Some("--at-least") => at_least = number(&value()?)?,
            Some("--limit") => limit = number(&value()?)?,
            Some("--ignore") => options.ignored.push(value()?.into_vec()),
            _ => return Err(format!("there is no option {}", argument.display())),
        }
    }
    let [a, b] = <[PathBuf; 2]>::try_from(trees).map_err(|_| "two directories are needed".to_owned())?;
    Ok(Request::Compare(Arguments { a, b, options, at_least, limit }))
}

fn number(text: &OsString) -> Result<u64, String> {
    text.to_str().and_then(|text| text.parse().ok()).ok_or(format!("{} is no number", text.display()))
}

/// Each level of the trees takes two descriptors, and the usual soft limit is low for programs that use select.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it cannot be raised, a tree that is too deep says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn run(arguments: &Arguments) -> Result<u8, Box<dyn std::error::Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut differences, mut notes) = (0, 0);
    let mut written = Ok(());
    let compared = compare(&arguments.a, &arguments.b, &arguments.options, &mut |finding| {
        let (count, line) = match finding {
            Finding::Difference(difference) => (&mut differences, difference.to_string()),
            Finding::Note(note) => (&mut notes, note.to_string()),
        };
        *count += 1;
        if *count <= arguments.limit && written.is_ok() {
            written = writeln!(out, "{line}");
        }
    });
    // What was found before the trouble is worth seeing.
    written.and(out.flush())?;
    let counts = compared?;
    for (count, what) in [(differences, "differences"), (notes, "notes")] {
        if count > arguments.limit {
            writeln!(out, "… and {} more {what}", count - arguments.limit)?;
        }
    }
    if differences > 0 {
        let s = if differences == 1 { "" } else { "s" };
        writeln!(out, "different: {differences} difference{s}; compared {counts}")?;
        out.flush()?;
        return Ok(DIFFERENT);
    }
    if counts.objects < arguments.at_least {
        let at_least = arguments.at_least;
        return Err(
            format!("nothing differs, but only {counts} were compared, not at least {at_least}").into()
        );
    }
    writeln!(out, "equal: {counts}")?;
    out.flush()?;
    Ok(0)
}
