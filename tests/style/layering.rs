//! Dependencies point downwards only, and siblings do not know each other.

use crate::scan::{Token, follows, text_at, text_before};
use crate::tree::{TextFile, module_path, rust_files};
use crate::{Finding, expect_none, subjects};

const RULE: &str = "layering";

/// A module directly below `src/`, and the others that it may name. Lower layers stand first.
struct Layer {
    module: &'static str,
    may_name: &'static [&'static str],
}

const fn layer(module: &'static str, may_name: &'static [&'static str]) -> Layer {
    Layer { module, may_name }
}

/// The whole direction of the house. A new module gets a row before it gets code.
///
/// `engine`, `shadow` and `pin` are siblings: `database` ties them together through traits that the
/// engine owns. `mount` sees a tree of a view and no engine; `server` sees a database and no pin.
#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    layer("amount", &[]),
    layer("codec", &[]),
    layer("lsn", &[]),
    layer("id", &["codec", "lsn"]),
    layer("page", &["codec", "lsn", "id"]),
    layer("fault", &[]),

    layer("os", &["codec", "lsn", "id", "page"]),

    layer("engine", &["codec", "lsn", "id", "page", "fault", "os"]),
    layer("shadow", &["amount", "codec", "lsn", "id", "page", "fault", "os"]),
    layer("pin", &["codec", "lsn", "id", "page", "os"]),

    layer("view", &["codec", "lsn", "id", "page", "fault", "os", "shadow", "pin"]),

    layer("database", &["amount", "codec", "lsn", "id", "page", "fault", "os", "engine", "shadow", "pin", "view"]),

    layer("source", &["amount", "codec", "lsn", "id", "page", "fault", "os", "engine", "shadow", "pin", "view", "database"]),
    layer("mount", &["codec", "lsn", "id", "page", "os", "view"]),
    layer("server", &["codec", "lsn", "id", "page", "os", "engine", "database"]),
    layer("repository", &["codec", "lsn", "id", "page", "fault", "os", "engine", "pin", "view", "database"]),

    layer("cli", &[
        "amount", "codec", "lsn", "id", "page", "os", "engine", "shadow", "pin", "view", "database",
        "source", "mount", "server", "repository",
    ]),
];

/// A name directly below the crate's root, as some file uses it.
#[derive(Debug, PartialEq, Eq)]
struct RootName {
    name: String,
    line: usize,
    is_macro: bool,
}

/// Every name of the crate's root in the code of `file`: `crate::x`, `crate::{x, y}`, `stillfs::x`,
/// and `super::x` where the `super`s lead up to the root.
fn root_names(file: &TextFile) -> Vec<RootName> {
    let tokens = file.tokens();
    let mut found = Vec::new();
    // The module that the code at hand is in, and for each open brace whether it opened a module.
    let mut depth = module_path(&file.path).len();
    let mut braces = Vec::new();
    for at in 0..tokens.len() {
        match text_at(&tokens, at) {
            "{" => {
                let is_module = at > 1 && text_at(&tokens, at - 2) == "mod";
                depth += usize::from(is_module);
                braces.push(is_module);
            }
            "}" => depth -= usize::from(braces.pop() == Some(true)),
            "crate" if text_at(&tokens, at + 1) == "::" => names_at(&tokens, at + 2, &mut found),
            "stillfs" if is_path_head(&tokens, at) => names_at(&tokens, at + 2, &mut found),
            "super" if is_path_head(&tokens, at) => {
                let supers = (0..)
                    .take_while(|n| follows(&tokens, at + 2 * n, &["super", "::"]))
                    .count();
                if supers >= depth {
                    names_at(&tokens, at + 2 * supers, &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

fn is_path_head(tokens: &[Token], at: usize) -> bool {
    let is_after_self = at > 1 && follows(tokens, at - 2, &["self", "::"]);
    text_at(tokens, at + 1) == "::" && (text_before(tokens, at) != "::" || is_after_self)
}

/// The name at `at`, or the first names of each path in the group at `at`.
fn names_at(tokens: &[Token], at: usize, found: &mut Vec<RootName>) {
    let mut push = |at: usize| {
        if let Some(token) = tokens.get(at) {
            let (name, line) = (token.text.clone(), token.line);
            let is_macro = text_at(tokens, at + 1) == "!";
            found.push(RootName {
                name,
                line,
                is_macro,
            });
        }
    };
    if text_at(tokens, at) != "{" {
        return push(at);
    }
    let mut depth = 0_usize;
    for at in at..tokens.len() {
        let is_start = depth == 1 && ["{", ","].contains(&text_before(tokens, at));
        match text_at(tokens, at) {
            "{" => depth += 1,
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            _ if is_start => push(at),
            _ => {}
        }
    }
}

/// Names in `file` that its layer may not use.
fn check(file: &TextFile) -> Vec<Finding> {
    let path = module_path(&file.path);
    // lib.rs shows the public face and main.rs starts the command: they name what they like.
    let Some(module) = path.first() else {
        return Vec::new();
    };
    let finding = |line, subject: &str, text| Finding {
        path: file.path.clone(),
        line,
        rule: RULE,
        subject: subject.to_owned(),
        text,
    };
    let Some(own) = LAYERS.iter().find(|layer| layer.module == *module) else {
        let text = format!("module {module} has no row in the table of tests/style/layering.rs");
        return vec![finding(0, module, text)];
    };
    let is_known = |name: &str| LAYERS.iter().any(|layer| layer.module == name);
    let is_forbidden = |used: &RootName| match is_known(&used.name) {
        true => used.name != *module && !own.may_name.contains(&used.name.as_str()),
        // The command may use the crate's public face; everyone else names a thing by its module.
        false => !used.is_macro && *module != "cli",
    };
    root_names(file)
        .into_iter()
        .filter(is_forbidden)
        .map(|RootName { name, line, .. }| {
            let may = own.may_name.join(", ");
            let text = format!("{module} may not name crate::{name}; it may name: {may}");
            finding(line, &name, text)
        })
        .collect()
}

pub(crate) fn check_tree() -> Vec<Finding> {
    rust_files(&["src"]).iter().flat_map(check).collect()
}

#[test]
fn dependencies_point_downwards() {
    expect_none(check_tree());
}

/// The table itself cannot allow a circle: each row names only rows above it.
#[test]
fn the_table_points_downwards() {
    for (index, layer) in LAYERS.iter().enumerate() {
        for name in layer.may_name {
            let is_above = LAYERS[..index].iter().any(|lower| lower.module == *name);
            assert!(is_above, "{} may not name {name}", layer.module);
        }
    }
}

/// The rows that the design rests on, so that nobody widens them in passing.
#[test]
fn the_table_keeps_what_the_design_promises() {
    for (module, never) in [
        (
            "engine",
            &["shadow", "pin", "view", "database", "mount"][..],
        ),
        ("shadow", &["engine", "pin", "view"]),
        ("pin", &["engine", "shadow", "view"]),
        ("view", &["engine", "database"]),
        ("source", &["mount", "server", "repository"]),
        (
            "mount",
            &["engine", "database", "source", "server", "repository"],
        ),
        ("server", &["source", "mount", "repository"]),
        ("repository", &["source", "mount", "server"]),
    ] {
        let layer = LAYERS.iter().find(|layer| layer.module == module);
        let layer = layer.expect("the table has this row");
        let named = never.iter().find(|name| layer.may_name.contains(name));
        assert_eq!(named, None, "{module} names what it must not know");
    }
}

/// Every way to write a path upwards is seen, in test modules too.
#[test]
fn a_path_upwards_is_found_however_it_is_written() {
    for (path, text, expected) in [
        ("src/engine/wal.rs", "use crate::shadow::Slot;", "shadow"),
        (
            "src/engine/wal.rs",
            "use crate::{lsn::Lsn, pin::{self, Lease}};",
            "pin",
        ),
        ("src/engine/mod.rs", "use super::mount;", "mount"),
        (
            "src/engine/wal/record.rs",
            "use super::super::super::view::tree;",
            "view",
        ),
        (
            "src/engine/mod.rs",
            "mod tests { use super::super::database; }",
            "database",
        ),
        (
            "src/shadow/mod.rs",
            "fn f() { crate::engine::go() }",
            "engine",
        ),
        (
            "src/pin/mod.rs",
            "#[cfg(test)]\nmod tests { use crate::engine; }",
            "engine",
        ),
        (
            "src/view/mod.rs",
            "use crate::engine::error::FileRole;",
            "engine",
        ),
        (
            "src/mount/fs.rs",
            "use crate::database::Database;",
            "database",
        ),
        ("src/source/mod.rs", "use stillfs::server;", "server"),
        ("src/page.rs", "use super::*;", "*"),
        ("src/os/mod.rs", "use crate::PageNo;", "PageNo"),
        ("src/utils.rs", "", "utils"),
    ] {
        let found = check(&TextFile::sample(path, text));
        assert_eq!(subjects(&found), [expected], "{path}: {text}");
    }
}

/// What points downwards or stays inside passes, and prose is no path.
#[test]
fn a_path_downwards_passes() {
    for (path, text) in [
        (
            "src/engine/wal.rs",
            "use crate::{lsn::Lsn, os, page::{PageNo, PageSize}, engine};",
        ),
        (
            "src/engine/wal.rs",
            "//! See crate::shadow.\nconst A: &str = \"crate::shadow\";",
        ),
        ("src/engine/mod.rs", "mod tests { use super::*; }"),
        (
            "src/engine/wal/record.rs",
            "use super::super::mvcc; pub(super) use super::frame;",
        ),
        (
            "src/view/mod.rs",
            "use crate::shadow::reader; use crate::pin::Grant;",
        ),
        (
            "src/cli/mod.rs",
            "use stillfs::{Database, mount}; use crate::cli::exit;",
        ),
        (
            "src/os/mod.rs",
            "use std::os; fn f() { a::super_b(); crate::faulty!(1) }",
        ),
        ("src/lib.rs", "pub use crate::engine::Engine;"),
        ("src/main.rs", "use stillfs::mount;"),
    ] {
        let found = check(&TextFile::sample(path, text));
        assert_eq!(found, [], "{path}: {text}");
    }
}
