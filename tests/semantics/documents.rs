//! docs/semantics.md and the tests know the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

const FOLDERS: [&str; 3] = ["tests/semantics", "tests/mount_tree", "tests/live"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The ids of rows like `` | `read.any` | ... ``, in order.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/semantics.md")).expect("docs/semantics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let ids = rows.map(|row| row.split('`').next().unwrap().to_owned());
    ids.collect()
}

/// The ids in lines like `/// Row: read.any, read.end`, each with the test that has it: the next
/// function, which has to be one.
fn tested() -> BTreeMap<String, Vec<String>> {
    let mut ids = BTreeMap::<String, Vec<String>>::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                let Some(row) = line.strip_prefix("/// Row: ") else {
                    continue;
                };
                let mut after = lines.clone().take_while(|line| !line.starts_with("fn "));
                assert!(
                    after.any(|line| line == "#[test]"),
                    "{folder}: {row} is of no test"
                );
                let name = lines.clone().find(|line| line.starts_with("fn ")).unwrap();
                for id in row.split(", ") {
                    let name = format!("{folder}: {name}");
                    ids.entry(id.to_owned()).or_default().push(name);
                }
            }
        }
    }
    ids
}

/// A promise without a test is none, and a test without a row is not found by who needs it.
#[test]
fn every_row_is_a_test_and_every_test_a_row() {
    let (documented, tested) = (documented(), tested());
    let rows: BTreeSet<&String> = documented.iter().collect();
    assert_eq!(rows.len(), documented.len(), "a row stands twice");
    assert!(rows.len() > 40, "{}", rows.len());
    let tests: BTreeSet<&String> = tested.keys().collect();
    let untested: Vec<_> = rows.difference(&tests).collect();
    let unwritten: Vec<_> = tests.difference(&rows).collect();
    assert!(
        untested.is_empty() && unwritten.is_empty(),
        "no test: {untested:?}; no row: {unwritten:?}"
    );
}
