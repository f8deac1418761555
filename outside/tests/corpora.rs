//! What is in `fuzz/corpus` goes through everything that takes bytes from outside: what a fuzzer once found, and samples of
//! what is right.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bytes of all corpora: they are kept in the repository.
const BYTES: u64 = 200 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names(directory: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect()
}

#[test]
fn each_has_a_target_and_a_corpus() {
    let all: BTreeSet<String> = mezzo_outside::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets"), ".rs"), all);
    assert_eq!(names(&fuzz().join("corpus"), ""), all);
}

#[test]
fn every_corpus_passes() {
    let mut bytes_in_all = 0;
    for (name, run) in mezzo_outside::ALL {
        let corpus = fuzz().join("corpus").join(name);
        let files = names(&corpus, "");
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(corpus.join(&file)).unwrap();
            bytes_in_all += bytes.len() as u64;
            let passed = std::panic::catch_unwind(|| run(&bytes));
            assert!(passed.is_ok(), "{name} fails with fuzz/corpus/{name}/{file}");
        }
    }
    assert!(bytes_in_all <= BYTES, "the corpora have {bytes_in_all} bytes");
}
