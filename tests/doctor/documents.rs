//! docs/doctor.md, the code and these tests know the same findings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The ids in rows like `` | `engine` | ... ``.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/doctor.md")).expect("docs/doctor.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

/// The names of the variants of `Id`, as they are printed.
fn known() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("src/cli/doctor/finding.rs")).unwrap();
    let body = text
        .split("enum Id {")
        .nth(1)
        .unwrap()
        .split('}')
        .next()
        .unwrap();
    let snake = |name: &str| {
        let mut out = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.push(letter.to_ascii_lowercase());
        }
        out
    };
    body.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(snake)
        .collect()
}

/// The ids in lines like `/// Finding: engine, pin` of the tests beside this one.
fn tested() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(Path::new(&root()).join("tests/doctor")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("/// Finding: "));
        ids.extend(lines.flat_map(|line| line.split(", ")).map(str::to_owned));
    }
    ids
}

/// Programs build on the ids: one that is not in the table, or in no test, is not stable.
#[test]
fn every_finding_is_documented_and_tested() {
    assert!(known().len() > 20);
    assert_eq!(documented(), known());
    assert_eq!(tested(), known());
}
