//! The document names tests that exist, and all that do.

use std::collections::BTreeSet;
use std::path::Path;

/// What stands between backquotes in parentheses that begin with "tests:".
fn named(document: &str) -> BTreeSet<&str> {
    let lists = document.split("(tests:").skip(1).filter_map(|rest| rest.split(")*").next());
    lists.flat_map(|list| list.split('`').skip(1).step_by(2)).collect()
}

/// The tests in a source file, without those that are not run.
fn tests(source: &str) -> Vec<&str> {
    let items = source.split("#[test]\n").skip(1);
    let run = items.filter(|item| !item.starts_with("#[ignore"));
    run.filter_map(|item| item.strip_prefix("fn ")?.split('(').next()).collect()
}

#[test]
fn the_document_and_the_tests_are_about_the_same() {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(crate_directory.join("../docs/semantics.md")).unwrap();
    let directory = std::fs::read_dir(crate_directory.join("tests/semantics")).unwrap();
    let sources: Vec<_> = directory
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("document.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let there: BTreeSet<&str> = sources.iter().flat_map(|source| tests(source)).collect();
    let named = named(&document);
    assert!(there.len() > 100, "{there:?}");
    let absent: Vec<_> = named.difference(&there).collect();
    let untold: Vec<_> = there.difference(&named).collect();
    assert!(
        absent.is_empty() && untold.is_empty(),
        "named, and not there: {absent:?}; there, and not named: {untold:?}"
    );
}
