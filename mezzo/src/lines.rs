//! Files as lines, and how the lines of one differ from those of another. A line ends with its `\n`, and nothing else does.

use std::io::{self, Write};

use similar::{Algorithm, DiffOp, capture_diff_slices, group_diff_ops};

/// Bytes of a file that is compared line by line, which is some million lines of text. Measured, a line takes 70 bytes beside its own:
/// usual text five times its size, and nothing but newlines 2.2 GiB.
pub const COMPARED_BYTES: u64 = 32 << 20;

/// Lines that are shown before and after what differs, as with `diff -u`.
const CONTEXT: usize = 3;

/// The lines of `bytes`, each with its `\n`, which the last may lack.
pub fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Whether it is for people to read: text has no NUL.
pub fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}

/// Where each line of `new` is from: as `old_from` says of the lines of `old` for one that was there, else `from`.
pub fn origins<T: Copy>((old, old_from): (&[u8], &[T]), new: &[u8], from: T) -> Vec<T> {
    let (old, new) = (lines(old), lines(new));
    let mut origins = vec![from; new.len()];
    for difference in compare(&old, &new) {
        if let DiffOp::Equal { old_index, new_index, len } = difference {
            origins[new_index..new_index + len].copy_from_slice(&old_from[old_index..old_index + len]);
        }
    }
    origins
}

/// Writes what leads from `old` to `new` as `diff -u` does; nothing where they are equal. The two names head it.
pub fn unified(old: &[u8], new: &[u8], names: (&str, &str), out: &mut impl Write) -> io::Result<()> {
    let (old, new) = (lines(old), lines(new));
    let hunks = group_diff_ops(compare(&old, &new), CONTEXT);
    let mut hunks = hunks.iter().filter(|hunk| !hunk.is_empty()).peekable();
    if hunks.peek().is_some() {
        writeln!(out, "--- {}\n+++ {}", names.0, names.1)?;
    }
    hunks.try_for_each(|hunk| write_hunk(hunk, &old, &new, out))
}

fn compare(old: &[&[u8]], new: &[&[u8]]) -> Vec<DiffOp> {
    capture_diff_slices(Algorithm::Myers, old, new)
}

fn write_hunk(hunk: &[DiffOp], old: &[&[u8]], new: &[&[u8]], out: &mut impl Write) -> io::Result<()> {
    let (first, last) = (hunk[0], hunk[hunk.len() - 1]);
    let (old_start, new_start) = (first.old_range().start, first.new_range().start);
    let (old_end, new_end) = (last.old_range().end, last.new_range().end);
    writeln!(out, "@@ -{} +{} @@", range(old_start, old_end), range(new_start, new_end))?;
    let mut write = |mark, lines: &[&[u8]]| lines.iter().try_for_each(|line| write_line(mark, line, out));
    for difference in hunk {
        let (old, new) = (&old[difference.old_range()], &new[difference.new_range()]);
        if let DiffOp::Equal { .. } = difference {
            write(b' ', new)?;
        } else {
            write(b'-', old)?;
            write(b'+', new)?;
        }
    }
    Ok(())
}

fn write_line(mark: u8, line: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[mark])?;
    out.write_all(line)?;
    if line.ends_with(b"\n") { Ok(()) } else { out.write_all(b"\n\\ No newline at end of file\n") }
}

/// Lines from `start` to before `end`, as a hunk's head counts them: from 1, and an empty range by the line before it.
fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        count => format!("{},{count}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(old: &[u8], new: &[u8]) -> String {
        let mut out = Vec::new();
        unified(old, new, ("a/f", "b/f"), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_unified_diff_says() {
        let check = |old: &str, new: &str, expected: &str| {
            assert_eq!(told(old.as_bytes(), new.as_bytes()), expected, "{old:?} {new:?}");
        };
        check("", "", "");
        check("a\n", "a\n", "");
        check("", "a\nb\n", "--- a/f\n+++ b/f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        check("a\n", "", "--- a/f\n+++ b/f\n@@ -1 +0,0 @@\n-a\n");
        check(
            "a\nb",
            "a\nb\n",
            "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n",
        );
        check(
            "1\n2\n3\n4\n5\n6\n7\n8\n9\n",
            "1\n2\n3\n4\nfive\n6\n7\n8\n9\n",
            "--- a/f\n+++ b/f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n",
        );
    }

    /// What a unified diff makes of `old`, as POSIX says.
    fn patched(old: &[u8], diff: &[u8]) -> Vec<u8> {
        let old = lines(old);
        let (mut at, mut new) = (0, Vec::new());
        let mut diff = lines(diff).into_iter().skip(2).peekable();
        while let Some(line) = diff.next() {
            let is_cut = diff.next_if(|next| next.starts_with(b"\\")).is_some();
            let text = if is_cut { &line[1..line.len() - 1] } else { &line[1..] };
            match line[0] {
                b'@' => {
                    let range = str::from_utf8(&line[4..]).unwrap().split(' ').next().unwrap();
                    let (start, count) = range.split_once(',').unwrap_or((range, "1"));
                    let start = start.parse::<usize>().unwrap() - usize::from(count != "0");
                    new.extend_from_slice(&old[at..start].concat());
                    at = start;
                }
                b'+' => new.extend_from_slice(text),
                mark => {
                    assert_eq!(text, old[at]);
                    new.extend_from_slice(if mark == b' ' { text } else { b"" });
                    at += 1;
                }
            }
        }
        new.extend_from_slice(&old[at..].concat());
        new
    }

    #[test]
    fn what_is_made_of_a_unified_diff_is_the_new_file() {
        let text = |step: usize| {
            let line = |number: usize| match number % step {
                0 => format!("{number} by {step}\r\n"),
                1 => "again\n".to_owned(),
                _ => format!("{number}\n"),
            };
            (0..500).map(line).collect::<String>()
        };
        let no_end = |text: String| text.trim_end().to_owned() + "\r";
        for (old, new) in [
            (text(7), text(9)),
            (no_end(text(7)), text(8)),
            (text(100), no_end(text(300))),
            (String::new(), text(3)),
            (text(3), "x".to_owned()),
        ] {
            let diff = told(old.as_bytes(), new.as_bytes());
            assert_eq!(patched(old.as_bytes(), diff.as_bytes()), new.as_bytes(), "{diff}");
        }
    }

    #[test]
    fn where_lines_are_from() {
        let check = |versions: &[&str], expected: &[usize]| {
            let mut from = Vec::new();
            let mut old = "";
            for (number, new) in versions.iter().enumerate() {
                from = origins((old.as_bytes(), &from), new.as_bytes(), number);
                old = new;
            }
            assert_eq!(from, expected, "{versions:?}");
        };
        check(&[""], &[]);
        check(&["a\nb\n"], &[0, 0]);
        check(&["a\nb\n", "a\nx\nb\n", "x\nb\nc"], &[1, 0, 2]);
        check(&["a", "a\n"], &[1]);
        check(&["a\n", "", "a\n"], &[2]);
        check(&["a\rb\n", "a\rc\n"], &[1]);
    }
}
