//! Each invariant of docs/design.md is stated where it is kept, and some test names it.
//!
//! An invariant is defined by a list item or a table row that begins with its id: one or two capital
//! letters and a number, as in `* **E1** A commit is ...` or `| E1 | A commit ...`. The claims of
//! docs/security.md are defined in the same way, and some test names each; no module keeps them alone.

use std::collections::BTreeSet;

use crate::scan::{test_lines, test_modules};
use crate::tree::{TextFile, is_below, rust_files, text_files};
use crate::words::has_word;
use crate::{Finding, expect_none, subjects};

const RULE: &str = "invariant";
const DESIGN: &str = "docs/design.md";
const SECURITY: &str = "docs/security.md";

/// The ids that `design` defines, each with the line of its first definition.
fn defined(design: &TextFile) -> Vec<(usize, String)> {
    let mut seen = BTreeSet::new();
    design
        .lines()
        .filter_map(|(line, text)| Some((line, id_at_start(text)?)))
        .filter(|(_, id)| seen.insert(id.clone()))
        .collect()
}

/// The id that a list item or a table row begins with.
fn id_at_start(line: &str) -> Option<String> {
    let line = line.trim_start();
    let item = line
        .strip_prefix(['*', '-', '|'])
        .filter(|rest| rest.starts_with(' '))?;
    let item = item.trim_start();
    let bold = item.strip_prefix("**");
    let item = bold.unwrap_or(item);
    let letters = item.bytes().take_while(u8::is_ascii_uppercase).count();
    let digits = item[letters..]
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count();
    let (id, rest) = item.split_at(letters + digits);
    let ends = match bold {
        Some(_) => rest.starts_with("**") || rest.starts_with([' ', ':', '.']),
        None => rest.is_empty() || rest.starts_with([' ', ':', '|']),
    };
    ((1..=2).contains(&letters) && (1..=3).contains(&digits) && ends).then(|| id.to_owned())
}

/// The head of a source file: its `//!` lines.
fn head(file: &TextFile) -> String {
    let lines = file.text.lines().map(str::trim_start);
    lines
        .filter(|line| line.starts_with("//!"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything in `file` that is test code or a comment in it.
fn test_text(file: &TextFile, is_test_file: bool) -> String {
    if is_test_file {
        return file.text.clone();
    }
    let ranges = test_lines(&file.tokens());
    let is_test = |line: &usize| ranges.iter().any(|range| range.contains(line));
    let lines = file.lines().filter(|(line, _)| is_test(line));
    lines.map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

/// Whether `file` is a whole file of tests: below `tests/`, or below what a `#[cfg(test)] mod` line names.
fn is_test_file(file: &TextFile, files: &[TextFile]) -> bool {
    let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
    let ends = stem.match_indices('/').map(|(at, _)| at);
    let mut modules = ends.chain([stem.len()]).map(|end| &stem[..end]);
    is_below(&file.path, "tests") || modules.any(|module| is_declared_test(module, files))
}

/// Whether the file above `module`, a path without `.rs`, declares it as `#[cfg(test)] mod`.
fn is_declared_test(module: &str, files: &[TextFile]) -> bool {
    let (parent, name) = module.rsplit_once('/').unwrap_or(("", module));
    let parents = [
        format!("{parent}/mod.rs"),
        format!("{parent}.rs"),
        format!("{parent}/lib.rs"),
    ];
    let mut above = files.iter().filter(|file| parents.contains(&file.path));
    above.any(|file| test_modules(&file.tokens()).iter().any(|test| test == name))
}

/// Ids of `design` that no head of `sources` states, where one must, or that no test names.
fn check(design: &TextFile, sources: &[TextFile]) -> Vec<Finding> {
    let heads: String = sources
        .iter()
        .filter(|file| is_below(&file.path, "src"))
        .map(|file| head(file) + "\n")
        .collect();
    let tests: String = sources
        .iter()
        .map(|file| test_text(file, is_test_file(file, sources)) + "\n")
        .collect();
    let mut found = Vec::new();
    for (line, id) in defined(design) {
        for (place, text) in [("head of a module", &heads), ("test", &tests)] {
            let is_needed = design.path == DESIGN || place == "test";
            if is_needed && !has_word(text, &id) {
                found.push(Finding {
                    path: design.path.clone(),
                    line,
                    rule: RULE,
                    subject: id.clone(),
                    text: format!("{id} stands in no {place}"),
                });
            }
        }
    }
    found
}

/// The rule's own samples name ids, so the rules' files count as no tests.
#[test]
fn every_invariant_is_stated_and_tested() {
    let mut sources = rust_files(&["src", "tests"]);
    sources.retain(|file| !is_below(&file.path, "tests/style"));
    for path in [DESIGN, SECURITY] {
        let document = text_files().into_iter().find(|file| file.path == path);
        let document = document.expect("the document is there");
        let count = defined(&document).len();
        println!("{path} defines {count} invariants or claims");
        assert!(count > 0, "{path} defines nothing");
        expect_none(check(&document, &sources));
    }
}

/// A claim needs a test and no head.
#[test]
fn a_claim_without_a_test_is_found() {
    let document = TextFile::sample(SECURITY, "* **G1** a\n* **G2** b\n");
    let sources = [TextFile::sample("tests/a.rs", "/// G2.\nfn f() {}")];
    assert_eq!(subjects(&check(&document, &sources)), ["G1"]);
}

#[test]
fn ids_are_read_from_lists_and_tables() {
    let text = "* **E1** a\n  - E2 b\n| S1 | c |\n| **S2** | d |\n* **P10**: e\n* **E1** again\n\
                E9 prose\n* S3-compatible\n* A b\n* ABC1 x\n* **Bold** y\n*E8* z\n| |\n* \u{e9}1\n";
    let found = defined(&TextFile::sample(DESIGN, text));
    let ids: Vec<_> = found.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["E1", "E2", "S1", "S2", "P10"]);
}

#[test]
fn an_invariant_without_head_or_test_is_found() {
    let text = "* **E1** a\n* **E12** b\n* **S1** c\n* **N1** d\n* **S2** e\n";
    let design = TextFile::sample(DESIGN, text);
    let sources = [
        TextFile::sample(
            "src/engine/mod.rs",
            "//! * E1 x, and N1.\n//! S1 y\nfn e12() {}",
        ),
        TextFile::sample(
            "src/pin/mod.rs",
            "//! E12 z, S2\n#[cfg(test)]\nmod model;\n// S1, no test",
        ),
        TextFile::sample("src/pin/model.rs", "/// N1 under load.\nfn f() {}"),
        TextFile::sample(
            "src/page.rs",
            "// E12\n#[cfg(test)]\nmod tests {\n  /// E1 holds.\n}",
        ),
        TextFile::sample("tests/crash.rs", "/// Of E12.\nfn f() {}"),
        TextFile::sample("src/pin/model/deep.rs", "/// Of S2.\nfn f() {}"),
    ];
    let found = check(&design, &sources);
    assert_eq!(subjects(&found), ["S1"]);
    assert!(found[0].text.contains("no test"), "{}", found[0]);
    let found = check(&design, &sources[3..5]);
    let expected = ["E1", "E12", "S1", "S1", "N1", "N1", "S2", "S2"];
    assert_eq!(subjects(&found), expected);
}
