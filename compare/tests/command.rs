//! The command: its exit status, what it prints, its options.

use std::fs;
use std::path::Path;
use std::process::Command;

struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], directory: &Path) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_mezzo-compare"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    Ended {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Directories `a` and `b` with so many files, of the same times.
fn trees(files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH;
    for tree in ["a", "b"] {
        let tree = directory.path().join(tree);
        fs::create_dir(&tree).unwrap();
        for index in 0..files {
            fs::write(tree.join(format!("file{index}")), "12345").unwrap();
            fs::File::open(tree.join(format!("file{index}"))).unwrap().set_modified(time).unwrap();
        }
        fs::File::open(&tree).unwrap().set_modified(time).unwrap();
    }
    directory
}

fn rewrite(path: &Path, text: &str) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, text).unwrap();
    fs::File::open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn equal() {
    let directory = trees(3);
    let ended = run(&["a", "b"], directory.path());
    assert_eq!(ended.status, 0);
    assert_eq!(ended.stdout, "equal: 3 objects, 15 bytes, 0 hard-linked names, 0 extended attributes\n");
    assert_eq!(ended.stderr, "");
}

#[test]
fn different() {
    let directory = trees(3);
    rewrite(&directory.path().join("b/file1"), "12x45");
    let ended = run(&["a", "b"], directory.path());
    assert_eq!(ended.status, 1);
    assert_eq!(
        ended.stdout,
        "file1\tcontent\tbyte 2 is 0x33\tbyte 2 is 0x78\n\
         different: 1 difference; compared 3 objects, 15 bytes, 0 hard-linked names, 0 extended attributes\n"
    );
}

#[test]
fn no_more_lines_than_asked_for() {
    let directory = trees(10);
    for index in 0..10 {
        rewrite(&directory.path().join(format!("b/file{index}")), "1234");
    }
    let ended = run(&["--limit", "4", "a", "b"], directory.path());
    assert_eq!(ended.status, 1);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(lines[4], "… and 6 more differences");
    assert!(lines[5].starts_with("different: 10 differences; compared 10 objects"));
}

#[test]
fn too_few_are_not_equal() {
    let none = trees(0);
    let three = trees(3);
    // Directory, --at-least, status.
    let rows = [
        (&none, Some("1"), 2),
        (&none, None, 2),
        (&none, Some("0"), 0),
        (&three, Some("3"), 0),
        (&three, Some("4"), 2),
    ];
    for (directory, at_least, status) in rows {
        let mut arguments = vec!["a", "b"];
        arguments.extend(at_least.iter().flat_map(|number| ["--at-least", number]));
        let ended = run(&arguments, directory.path());
        assert_eq!(ended.status, status, "{at_least:?}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stdout.contains("equal"), status == 0);
    }
}

#[test]
fn names_can_be_left_out_at_the_root() {
    let directory = trees(3);
    fs::create_dir(directory.path().join("b/lost+found")).unwrap();
    fs::write(directory.path().join("b/.mezzo"), "").unwrap();
    fs::File::open(directory.path().join("b"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(run(&["a", "b"], directory.path()).status, 1);
    assert_eq!(run(&["--ignore", "lost+found", "a", "b"], directory.path()).status, 0);
}

#[test]
fn usage_and_trouble() {
    let directory = trees(1);
    let rows: &[(&[&str], &str)] = &[
        (&[], "two directories are needed"),
        (&["a"], "two directories are needed"),
        (&["a", "b", "c"], "two directories are needed"),
        (&["--wrong", "a", "b"], "there is no option --wrong"),
        (&["a", "b", "--limit"], "--limit needs a value"),
        (&["a", "b", "--limit", "-1"], "-1 is no number"),
        (&["a", "missing"], "could not open the directory missing in B: No such file or directory"),
        (&["a/file0", "b"], "could not open the directory a/file0 in A: Not a directory"),
        (&["a", "--", "--wrong"], "could not open the directory --wrong in B: No such file or directory"),
        (&["a", "a"], "A and B are the same directory"),
    ];
    for (arguments, message) in rows {
        let ended = run(arguments, directory.path());
        assert_eq!(ended.status, 2, "{arguments:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(ended.stderr.contains(message), "{arguments:?}: {}", ended.stderr);
    }
}
