//! Files and functions that one person can hold in the head.

use crate::scan;
use crate::tree::{TextFile, rust_files};
use crate::{Finding, expect_none, subjects};

const RULE: &str = "size";

/// A file over this is two files that have not met yet.
const FILE_LINES_MAX: usize = 700;
/// A file over this is reported.
const FILE_LINES_WARN: usize = 500;
/// A function over this fails.
const FUNCTION_LINES_MAX: usize = 100;
/// A function over this is reported.
const FUNCTION_LINES_WARN: usize = 60;

/// The folders whose code is measured.
const FOLDERS: &[&str] = &["src", "tests", "benches", "examples", "fuzz"];

/// Files and functions of `file` that are longer than the given lines.
fn longer_than(file: &TextFile, file_lines: usize, function_lines: usize) -> Vec<Finding> {
    let finding = |line, subject: &str, count: usize, most: usize| Finding {
        path: file.path.clone(),
        line,
        rule: RULE,
        subject: subject.to_owned(),
        text: format!("{subject} has {count} lines, over {most}"),
    };
    let line_count = file.text.lines().count();
    let whole = (line_count > file_lines).then(|| finding(0, "the file", line_count, file_lines));
    let functions = scan::functions(&file.tokens()).into_iter();
    let long = functions
        .filter(|function| function.line_count > function_lines)
        .map(|f| finding(f.line, &f.name, f.line_count, function_lines));
    whole.into_iter().chain(long).collect()
}

fn check(file: &TextFile) -> Vec<Finding> {
    longer_than(file, FILE_LINES_MAX, FUNCTION_LINES_MAX)
}

pub(crate) fn check_tree() -> Vec<Finding> {
    rust_files(FOLDERS).iter().flat_map(check).collect()
}

/// What is large but still allowed is printed: `cargo test --test style -- --show-output`.
#[test]
fn files_and_functions_stay_small() {
    for file in rust_files(FOLDERS) {
        for finding in longer_than(&file, FILE_LINES_WARN, FUNCTION_LINES_WARN) {
            println!("large: {finding}");
        }
    }
    expect_none(check_tree());
}

#[test]
fn a_long_file_and_a_long_function_are_found() {
    let long = |count| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(count));
    let found = |count| check(&TextFile::sample("src/page.rs", &long(count)));
    assert_eq!(found(98), []);
    assert_eq!(subjects(&found(99)), ["a"]);
    assert_eq!(subjects(&found(699)), ["the file", "a"]);
    let lines = TextFile::sample("src/page.rs", &"\n".repeat(700));
    assert_eq!(check(&lines), []);
}
