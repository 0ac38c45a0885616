//! Things that have one place: foreign crates, `unsafe`, and what writes to the terminal.

use crate::scan::{Token, test_lines, test_modules, text_at, text_before};
use crate::tree::{TextFile, is_below, rust_files};
use crate::{Finding, expect_none, subjects};

const RULE: &str = "place";

/// What has a place.
#[derive(Clone, Copy, Debug)]
enum Thing {
    /// Any path into this crate, in test modules too.
    Crate(&'static str),
    /// This keyword.
    Keyword(&'static str),
    /// This macro; tests may use it, since a skipped test says so.
    Macro(&'static str),
}

/// Each thing, and the files or folders that alone may use it.
#[rustfmt::skip]
const PLACES: &[(Thing, &[&str])] = &[
    (Thing::Crate("fuser"), &["src/mount"]),
    (Thing::Crate("clap"), &["src/cli", "src/main.rs"]),
    (Thing::Crate("anyhow"), &["src/cli", "src/main.rs"]),
    (Thing::Crate("tracing_subscriber"), &["src/cli", "src/main.rs"]),
    (Thing::Crate("redis_protocol"), &["src/server"]),
    (Thing::Crate("rusqlite"), &["src/cli/sqlite.rs", "src/cli/sqlite"]),
    (Thing::Crate("blake3"), &["src/repository"]),
    (Thing::Crate("zstd"), &["src/repository"]),
    (Thing::Crate("lz4_flex"), &["src/repository"]),
    (Thing::Crate("indicatif"), &["src/cli"]),
    (Thing::Crate("nix"), &["src/os"]),
    (Thing::Crate("libc"), &["src/os"]),
    (Thing::Crate("memmap2"), &["src/os"]),
    (Thing::Crate("getrandom"), &["src/os"]),
    (Thing::Keyword("unsafe"), &["src/os"]),
    (Thing::Macro("print"), &["src/cli/output.rs", "src/main.rs"]),
    (Thing::Macro("println"), &["src/cli/output.rs", "src/main.rs"]),
    (Thing::Macro("eprint"), &["src/cli/output.rs", "src/main.rs"]),
    (Thing::Macro("eprintln"), &["src/cli/output.rs", "src/main.rs"]),
];

/// Whether the token at `at` is a use of `thing`.
fn is_use(tokens: &[Token], at: usize, thing: Thing) -> bool {
    let (word, next) = (text_at(tokens, at), text_at(tokens, at + 1));
    match thing {
        Thing::Keyword(name) => word == name,
        Thing::Macro(name) => word == name && next == "!",
        Thing::Crate(name) => {
            let before = text_before(tokens, at);
            let is_head = next == "::" && (before != "::" || at < 2 || is_global(tokens, at));
            word == name && (is_head || ["use", "crate"].contains(&before))
        }
    }
}

/// Whether the `::` before `at` starts a path (`::libc::getpid`) rather than going on with one.
fn is_global(tokens: &[Token], at: usize) -> bool {
    let before = text_before(tokens, at - 1);
    let is_word = before
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    !is_word || ["use", "return", "in", "mut", "as"].contains(&before)
}

fn check(file: &TextFile, is_test_file: bool) -> Vec<Finding> {
    let tokens = file.tokens();
    let test_lines = test_lines(&tokens);
    let is_test = |line| is_test_file || test_lines.iter().any(|lines| lines.contains(&line));
    let mut found = Vec::new();
    for (thing, places) in PLACES {
        let (Thing::Crate(name) | Thing::Keyword(name) | Thing::Macro(name)) = *thing;
        if places.iter().any(|place| is_below(&file.path, place)) {
            continue;
        }
        for at in (0..tokens.len()).filter(|at| is_use(&tokens, *at, *thing)) {
            let line = tokens[at].line;
            if matches!(thing, Thing::Macro(_)) && is_test(line) {
                continue;
            }
            found.push(Finding {
                path: file.path.clone(),
                line,
                rule: RULE,
                subject: name.to_owned(),
                text: format!("{name} is used here; its place is {}", places.join(", ")),
            });
        }
    }
    found
}

/// The files that `#[cfg(test)] mod name;` lines of `files` name, without `.rs` or `/mod.rs`.
fn test_places(files: &[TextFile]) -> Vec<String> {
    let mut places = Vec::new();
    for file in files {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        let folder = ["/mod", "/lib", "/main"]
            .iter()
            .find_map(|end| stem.strip_suffix(end))
            .unwrap_or(stem);
        let modules = test_modules(&file.tokens());
        places.extend(modules.iter().map(|module| format!("{folder}/{module}")));
    }
    places
}

fn check_files(files: &[TextFile]) -> Vec<Finding> {
    let test_places = test_places(files);
    let is_test_file = |file: &TextFile| {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        test_places.iter().any(|place| is_below(stem, place))
    };
    files
        .iter()
        .flat_map(|file| check(file, is_test_file(file)))
        .collect()
}

pub(crate) fn check_tree() -> Vec<Finding> {
    check_files(&rust_files(&["src"]))
}

#[test]
fn everything_stands_in_its_place() {
    expect_none(check_tree());
}

#[test]
fn a_thing_out_of_place_is_found() {
    for (path, text, expected) in [
        ("src/view/tree.rs", "use fuser::FileAttr;", "fuser"),
        ("src/cli/mount.rs", "fn f(a: &fuser::Request) {}", "fuser"),
        (
            "src/engine/mod.rs",
            "#[cfg(test)]\nmod tests { use nix::sys; }",
            "nix",
        ),
        ("src/engine/mod.rs", "fn f() { ::libc::getpid(); }", "libc"),
        ("src/mount/fs.rs", "use clap;", "clap"),
        ("src/server/mod.rs", "extern crate anyhow;", "anyhow"),
        (
            "src/server/mod.rs",
            "use {std::io, anyhow::Result};",
            "anyhow",
        ),
        ("src/mount/fs.rs", "fn f() { unsafe { g() } }", "unsafe"),
        ("src/cli/mount.rs", "fn f() { println!(\"x\") }", "println"),
        (
            "src/engine/wal.rs",
            "fn f() { eprintln! { \"x\" } }",
            "eprintln",
        ),
    ] {
        let found = check(&TextFile::sample(path, text), false);
        assert_eq!(subjects(&found), [expected], "{path}: {text}");
    }
}

#[test]
fn a_thing_in_its_place_passes() {
    for (path, text) in [
        (
            "src/mount/fs.rs",
            "use fuser::FileAttr; use crate::os::nix::x;",
        ),
        (
            "src/main.rs",
            "fn main() -> anyhow::Result<()> { println!(\"x\"); Ok(()) }",
        ),
        ("src/os/lock.rs", "fn f() { unsafe { libc::getpid() } }"),
        (
            "src/view/tree.rs",
            "#![allow(unsafe_code)] // unsafe\nfn f(nix: u8) { g(nix) }",
        ),
        (
            "src/view/tree.rs",
            "#[cfg(test)]\nmod tests {\n fn f() { eprintln!(\"SKIPPED\") }\n}",
        ),
    ] {
        let found = check(&TextFile::sample(path, text), false);
        assert_eq!(found, [], "{path}: {text}");
    }
}

/// A test module in a file of its own is test code like one in braces.
#[test]
fn a_test_module_in_its_own_file_may_print() {
    let files = [
        TextFile::sample("src/pin/mod.rs", "#[cfg(test)]\nmod model;"),
        TextFile::sample("src/pin/model.rs", "fn f() { println!(\"x\") }"),
        TextFile::sample("src/pin/lease.rs", "fn f() { println!(\"x\") }"),
    ];
    let found = check_files(&files);
    let paths: Vec<_> = found.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["src/pin/lease.rs"]);
}
