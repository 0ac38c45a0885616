//! What stands in no file: other machines' paths, registry hosts, marks of unfinished work.

use crate::scan::text_at;
use crate::tree::{TextFile, is_below, text_files};
use crate::{Finding, expect_none, subjects};

/// Starts of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/work/", "/root/", "/home/", "/Users/", "/tmp/wt/"];
/// Hosts that cargo, pip, npm and go fetch from: a mirror or a lock file slipped in.
const HOSTS: &[&str] = &[
    "crates.io-index",
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "proxy.golang.org",
];
/// Words that a person leaves to come back to.
const MARKERS: &[&str] = &["FIXME", "XXX"];
/// Macros that stand for code that is not there, or that was left over from a search.
const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

fn check(file: &TextFile) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut push = |line, rule, subject: &str, text: String| {
        let (path, subject) = (file.path.clone(), subject.to_owned());
        found.push(Finding {
            path,
            line,
            rule,
            subject,
            text,
        });
    };
    let is_source = is_below(&file.path, "src");
    for (line, text) in file.lines() {
        for start in MACHINE_PATHS.iter().filter(|start| has_path(text, start)) {
            push(
                line,
                "machine path",
                start,
                format!("{start} is a path of one machine"),
            );
        }
        for host in HOSTS.iter().filter(|host| text.contains(**host)) {
            push(line, "host", host, format!("{host} is a registry's host"));
        }
        for marker in MARKERS.iter().filter(|marker| has_word(text, marker)) {
            push(
                line,
                "marker",
                marker,
                format!("{marker} marks unfinished work"),
            );
        }
        if let Some(other) = text.chars().find(|c| is_source && !c.is_ascii()) {
            let text = format!("{other:?} is not ASCII; write it as an escape");
            push(line, "ascii", &other.to_string(), text);
        }
    }
    if file.path.ends_with(".rs") {
        let tokens = file.tokens();
        for (at, token) in tokens.iter().enumerate() {
            let (name, next) = (token.text.as_str(), text_at(&tokens, at + 1));
            if MACROS.contains(&name) && next == "!" && text_at(&tokens, at + 2) != "=" {
                push(token.line, "marker", name, format!("{name}! is left over"));
            }
        }
    }
    found
}

/// Whether an absolute path that begins with `start` stands in `text`, and not only a longer path's
/// middle (`a/work/b`, `$dir/work/b`).
fn has_path(text: &str, start: &str) -> bool {
    text.match_indices(start).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}/)*".contains(c))
    })
}

/// Whether `word` stands in `text` by itself: `mktemp name.XXXXXX` has no `XXX`.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

pub(crate) fn check_tree() -> Vec<Finding> {
    text_files().iter().flat_map(check).collect()
}

#[test]
fn no_file_holds_what_belongs_elsewhere() {
    expect_none(check_tree());
}

#[test]
fn what_belongs_elsewhere_is_found() {
    for (path, text, expected) in [
        ("docs/a.md", "see /work/shared/x", "/work/"),
        ("scripts/a", "cd \"/home/alice\"", "/home/"),
        ("README.md", "`/root/.cargo`", "/root/"),
        (
            "deny.toml",
            "\"https://github.com/rust-lang/crates.io-index\"",
            "crates.io-index",
        ),
        (
            "scripts/a",
            "pip install -i https://pypi.org/simple x",
            "pypi.org",
        ),
        ("src/page.rs", "// FIXME: later", "FIXME"),
        ("docs/a.md", "XXX what?", "XXX"),
        ("src/page.rs", "fn a() { todo!() }", "todo"),
        (
            "tests/a.rs",
            "fn a() { unimplemented!(\"b\") }",
            "unimplemented",
        ),
        ("tests/a.rs", "fn a() { dbg!(b); }", "dbg"),
        ("src/page.rs", "// na\u{ef}ve", "\u{ef}"),
    ] {
        let found = check(&TextFile::sample(path, text));
        assert_eq!(subjects(&found), [expected], "{path}: {text}");
    }
}

#[test]
fn what_only_looks_alike_passes() {
    for (path, text) in [
        (
            "scripts/a",
            "mktemp -d /tmp/stillfs.XXXXXX; ls \"$dir/work/a\" ${dir}/root/b target/home/c",
        ),
        (
            "README.md",
            "on [crates.io](https://crates.io/crates/fuser); caf\u{e9}",
        ),
        (
            "src/page.rs",
            "//! No todo!() is left.\nfn a(todo: u8) -> bool { todo != 1 }",
        ),
    ] {
        assert_eq!(check(&TextFile::sample(path, text)), [], "{path}: {text}");
    }
}
