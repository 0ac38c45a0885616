//! A file is named for the thing that it holds.

use crate::tree::{TextFile, text_files};
use crate::{Finding, expect_none, subjects};

const RULE: &str = "name";

/// Words that say nothing of what is inside, alone or as a part (`wal_utils`).
const BANNED: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "base", "core", "manager", "handler",
    "v2", "v3", "new",
];

/// The folders whose files a developer names.
const FOLDERS: &[&str] = &[
    "src", "tests", "benches", "examples", "fuzz", "docs", "scripts",
];

fn check(file: &TextFile) -> Vec<Finding> {
    let mut parts = file.path.split('/');
    if !parts.next().is_some_and(|top| FOLDERS.contains(&top)) {
        return Vec::new();
    }
    parts
        .map(|part| part.split('.').next().unwrap_or(part))
        .filter(|stem| stem.split(['_', '-']).any(|word| BANNED.contains(&word)))
        .map(|stem| Finding {
            path: file.path.clone(),
            line: 0,
            rule: RULE,
            subject: stem.to_owned(),
            text: format!("{stem} is no name: say what is inside"),
        })
        .collect()
}

pub(crate) fn check_tree() -> Vec<Finding> {
    text_files().iter().flat_map(check).collect()
}

#[test]
fn files_are_named_for_what_they_hold() {
    expect_none(check_tree());
}

#[test]
fn a_name_that_says_nothing_is_found() {
    for (path, expected) in [
        ("src/utils.rs", "utils"),
        ("src/engine/common/mod.rs", "common"),
        ("src/engine/wal_v2.rs", "wal_v2"),
        ("src/pin/manager.rs", "manager"),
        ("tests/common/mod.rs", "common"),
        ("scripts/misc", "misc"),
    ] {
        assert_eq!(subjects(&check(&TextFile::sample(path, ""))), [expected]);
    }
    for path in ["src/database/mod.rs", "src/engine/renew.rs", "new/src/x.rs"] {
        assert_eq!(check(&TextFile::sample(path, "")), []);
    }
}
