//! All that a record says, for people.

mod about;
mod part;

use mezzo_core::Record;

use super::View;
use part::Part;

/// Columns that a field's name takes.
const NAME_COLUMNS: usize = 14;

/// A field's name and its value as text. Values differ where their texts do.
type Field = (String, String);

/// All of `record`, in lines. Of what a change led from one value to another, what differs is shown, or `all`.
pub fn sheet(view: &View, record: &Record, all: bool) -> String {
    let mut fields = about::record(view, record);
    fields.extend(about::change(&record.change));
    let mut text: String = fields.iter().map(|field| line("", field)).collect();
    for part in part::parts(view, &record.change) {
        let fields = shown(&part, all);
        if !fields.is_empty() {
            text.push_str(&format!("\n{}\n", part.title));
            text.extend(fields.iter().map(|field| line("  ", field)));
        }
    }
    text
}

fn line(indent: &str, (name, value): &Field) -> String {
    let width = NAME_COLUMNS - indent.len();
    format!("{indent}{name:width$} {value}\n")
}

/// The fields of one side where there is only one, else those that differ, or `all`.
fn shown(part: &Part, all: bool) -> Vec<Field> {
    match (&part.before, &part.after) {
        (Some(before), Some(after)) => {
            let pairs = before.iter().zip(after);
            pairs
                .filter(|(before, after)| all || before != after)
                .map(|(before, after)| step(before, after))
                .collect()
        }
        (only, None) | (None, only) => only.clone().unwrap_or_default(),
    }
}

fn step((name, before): &Field, (_, after): &Field) -> Field {
    let value = if before == after { after.clone() } else { format!("{before} -> {after}") };
    (name.clone(), value)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use mezzo_core::Change;

    use super::*;
    use crate::render::samples;

    fn check(change: Change, all: bool, expected: &[&str]) {
        let view = View::new(TimeZone::UTC, samples::HERE);
        let text = sheet(&view, &samples::record(9, change), all);
        let head = [
            "time           2001-09-09 01:46:49.005000000 +00:00",
            "who            vim[77], user 3999999999, group 3999999999, also in 3999999999, session 12",
            "made           here, as 0123456789abcdef-9",
            "in the log     epoch 1, after record 8",
        ];
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "record         9");
        assert_eq!(lines[2..6], head);
        assert_eq!([&lines[1..2], &lines[6..]].concat().join("\n"), expected.join("\n"));
    }

    fn sample(number: usize) -> Change {
        samples::all().remove(number - 1).change
    }

    #[test]
    fn all_of_what_was_made() {
        let expected = [
            "kind           create",
            "path           a.txt",
            "place          a.txt in 0000000000000000-0",
            "",
            "object 0123456789abcdef-1, as it was made",
            "  kind         file",
            "  mode         0644",
            "  owner        3999999999",
            "  group        3999999999",
            "  size         12 bytes",
            "  links        1",
            "  atime        2001-09-09 01:46:40.005000000 +00:00",
            "  mtime        2001-09-09 01:46:40.005000000 +00:00",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00",
            "  user.color   \"red\"",
            "  data version 0123456789abcdef-1",
            "  digest       0101010101010101010101010101010101010101010101010101010101010101",
            "",
            "directory . (0000000000000000-0)",
            "  mtime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:46:41.005000000 +00:00",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:46:41.005000000 +00:00",
        ];
        check(sample(1), false, &expected);
        check(sample(1), true, &expected);
    }

    #[test]
    fn what_differs_or_all() {
        let head = ["kind           close", "path           (no name left)"];
        let unstable = ["unstable       it was still open for writing", "", "object 0123456789abcdef-1"];
        let whole = [
            "  kind         file",
            "  mode         0644",
            "  owner        3999999999",
            "  group        3999999999",
            "  size         12 bytes -> 30 bytes",
            "  links        1",
            "  atime        2001-09-09 01:46:40.005000000 +00:00",
            "  mtime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:50:00.005000000 +00:00",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:50:00.005000000 +00:00",
            "  data version 0123456789abcdef-1 -> 0123456789abcdef-14",
            "  digest       0101010101010101010101010101010101010101010101010101010101010101 -> not known yet",
        ];
        let differing: Vec<&str> = whole.into_iter().filter(|line| line.contains("->")).collect();
        check(sample(15), true, &[&head[..], &unstable, &whole].concat());
        check(sample(15), false, &[&head[..], &unstable, &differing].concat());
    }

    #[test]
    fn an_extended_attribute_that_was_removed() {
        let expected = [
            "kind           removexattr",
            "path           e",
            "",
            "object 0123456789abcdef-1",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:46:41.005000000 +00:00",
            "  user.color   0x0200ff -> none",
        ];
        check(sample(17), false, &expected);
    }

    #[test]
    fn one_name_less() {
        let expected = [
            "kind           unlink",
            "path           b.txt",
            "place          b.txt in 0000000000000000-0",
            "",
            "object 0123456789abcdef-5",
            "  links        2 -> 1",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:47:30.005000000 +00:00",
            "",
            "directory . (0000000000000000-0)",
            "  mtime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:46:41.005000000 +00:00",
            "  ctime        2001-09-09 01:46:40.005000000 +00:00 -> 2001-09-09 01:46:41.005000000 +00:00",
        ];
        check(sample(6), false, &expected);
    }

    #[test]
    fn parts_and_fields_of_each_kind() {
        let titles = |number: usize| {
            let view = View::new(TimeZone::UTC, samples::HERE);
            let text = sheet(&view, &samples::record(9, sample(number)), false);
            let lines = text.lines().skip(6).filter(|line| !line.is_empty() && !line.starts_with("  "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let check = |number: usize, expected: &[&str]| assert_eq!(titles(number), expected);
        let renamed = [
            "from           c.txt",
            "from place     c.txt in 0000000000000000-0",
            "to             d.txt",
            "to place       d.txt in 0000000000000000-0",
            "object 0123456789abcdef-3",
            "directory . (0000000000000000-0)",
            "object 0123456789abcdef-5, as it was replaced",
        ];
        check(10, &renamed);
        check(
            11,
            &[
                "from           d.txt",
                "from place     d.txt in 0000000000000000-0",
                "to             e",
                "to place       e in 0000000000000000-0",
                "object 0123456789abcdef-3",
                "directory . (0000000000000000-0)",
                "object 0123456789abcdef-9, which took the place left behind",
            ],
        );
        check(
            18,
            &[
                "object         0123456789abcdef-1",
                "data version   0123456789abcdef-14",
                "size           30 bytes",
                "digest         abababababababababababababababababababababababababababababababab",
            ],
        );
        check(19, &[]);
        check(20, &["disables       0123456789abcdef-12", "reason         the name was taken"]);
        check(
            21,
            &[
                "amends         fedcba9876543210-7",
                "path           kept.txt",
                "place          kept.txt in 0000000000000000-0",
                "object 0123456789abcdef-7, as it was made",
                "directory . (0000000000000000-0)",
            ],
        );
        check(22, &["object         0123456789abcdef-1", "is one with    fedcba9876543210-1"]);
        check(23, &["new epoch      2, taken", "holder         fedcba9876543210", "last before    22"]);
    }
}
