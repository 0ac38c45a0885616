//! docs/backup.md and the program say the same names, and what it shows works as it stands.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{Scene, Slow, id, lines, make_sqlite};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backup.md");
    fs::read_to_string(path).expect("docs/backup.md")
}

/// The names of the row that begins with `head`, without those in brackets.
fn documented(head: &str) -> BTreeSet<String> {
    let text = document();
    let row = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| {head} | ")));
    let row = row.unwrap_or_else(|| panic!("a row for {head}"));
    let mut depth = 0;
    let mut outside = String::new();
    for letter in row.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            letter if depth == 0 => outside.push(letter),
            _ => {}
        }
    }
    outside
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    let object = object
        .as_object()
        .unwrap_or_else(|| panic!("no object: {object}"));
    object.keys().cloned().collect()
}

#[track_caller]
fn expect(head: &str, object: &Value) {
    assert_eq!(keys(object), documented(head), "{head}: {object}");
}

/// Programs build on the names.
#[test]
fn names_that_programs_get_are_those_of_the_document() {
    let scene = Scene::new();
    make_sqlite(&scene.at("app.db"), "WAL");
    let slow = "backup app.db --repo slow --limit-rate 200K --jobs 1 --json";
    let slow: Vec<&str> = slow.split(' ').collect();
    let mut slow = Slow::start(scene.command(&slow));
    expect("`progress`", &slow.line());
    slow.signal(Signal::SIGINT);
    expect("`error`", &slow.end().0);

    let backup = scene.last(&["backup", "app.db", "--repo", "repo", "--json"]);
    expect("`summary` of `backup`", &backup);
    let facts = &backup["backup"];
    expect("facts", facts);
    expect("`statistics`", &facts["statistics"]);
    expect("`databases`", &facts["databases"][0]);
    expect(
        "`summary` of `verify`",
        &scene.last(&["verify", "repo", "--json"]),
    );
    expect(
        "`plan`",
        &scene.last(&["restore", "repo", "back.db", "--dry-run", "--json"]),
    );
    expect(
        "`summary` of `restore`",
        &scene.last(&["restore", "repo", "back.db", "--json"]),
    );
    expect(
        "`summary` of `copy`",
        &scene.last(&["copy", "repo", "second", "--json"]),
    );
    let object = scene.object(&["backups", "repo", "--json"]);
    expect("`backups`", &object);
    let with_marks = [
        keys(facts),
        ["is_held", "verified"].map(str::to_owned).into(),
    ];
    assert_eq!(keys(&object["backups"][0]), with_marks.concat_sets());
    expect(
        "`forget`",
        &scene.object(&["forget", "repo", "--keep-last", "1", "--json"]),
    );
    let all = scene.run(&["forget", "repo", id(facts), "--prune", "--json"]);
    assert_eq!(lines_of_object(&all), 1);
}

/// One object, however many lines it has.
fn lines_of_object(output: &std::process::Output) -> usize {
    let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    values.map(Result::unwrap).count()
}

trait ConcatSets {
    fn concat_sets(self) -> BTreeSet<String>;
}

impl ConcatSets for [BTreeSet<String>; 2] {
    fn concat_sets(self) -> BTreeSet<String> {
        self.into_iter().flatten().collect()
    }
}

/// Every command that is new has a help with examples, and the document names every option of it.
#[test]
fn every_option_is_in_the_document() {
    let scene = Scene::new();
    let document = document();
    for command in [
        "init", "backup", "backups", "verify", "restore", "forget", "hold", "copy", "archive",
        "key",
    ] {
        let help = scene.ok(&[command, "--help"]);
        assert!(help.contains("Examples:\n"), "{command}");
        let options = help
            .lines()
            .filter(|line| line.trim_start().starts_with('-'));
        let words = options.flat_map(|line| line.split([' ', ',', '<', '\n']));
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            let is_everywhere = ["--help", "--log-level", "--version"].contains(&option);
            assert!(
                is_everywhere || document.contains(option),
                "{command} {option}"
            );
        }
    }
    let help = scene.ok(&["serve", "--help"]);
    for option in [
        "--backup-root",
        "--backup-key-file",
        "--backup-passphrase-file",
    ] {
        assert!(
            help.contains(option) && document.contains(option),
            "{option}"
        );
    }
    assert_eq!(lines(&scene.run(&["backups", "none", "--json"])).len(), 1);
}
