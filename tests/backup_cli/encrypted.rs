//! Encrypted repositories with the real program: made, written, read and copied with the right key, and
//! with no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::scene::{STEP, Scene, content, expect_sqlite, id, make_sqlite, names, sql};

/// A test key and its recipient.
pub(crate) const ALICE: [&str; 2] = [
    "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
    "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
];

pub(crate) fn put(scene: &Scene, name: &str, text: &str) {
    fs::write(scene.at(name), text).unwrap();
    fs::set_permissions(scene.at(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A repository for Alice, whose key file is `alice`, and an application.
fn scene() -> Scene {
    let scene = Scene::new();
    put(&scene, "alice", &format!("# a test key\n{}\n", ALICE[0]));
    make_sqlite(&scene.at("app.db"), "WAL");
    sql(&scene.at("app.db"), STEP);
    let said = scene.ok(&["init", "repo", "--to", ALICE[1]]);
    assert!(said.contains("encrypted for 1 holder"), "{said}");
    scene
}

const KEY: [&str; 2] = ["--key-file", "alice"];

/// CR1: from the first backup to the copy, and nothing of it in the clear.
#[test]
fn backups_go_in_and_come_back_with_the_key() {
    let scene = scene();
    let with = |words: &[&'static str]| [words, &KEY].concat();
    let first = scene.backup(&with(&[
        "app.db",
        "--repo",
        "repo",
        "--tag",
        "a-tag-to-find",
    ]));
    sql(&scene.at("app.db"), STEP);
    let second = scene.backup(&with(&["app.db", "--repo", "repo"]));
    assert_eq!(
        (&first["kind"], &second["kind"]),
        (&json!("full"), &json!("incremental"))
    );
    scene.ok(&with(&["hold", "repo", "latest"]));
    let verified = scene.last(&with(&["verify", "repo", "--read-data", "--json"]));
    assert_eq!(verified["verified"], json!([id(&first), id(&second)]));
    scene.ok(&with(&["restore", "repo", "back.db"]));
    assert_eq!(expect_sqlite(&scene.at("back.db")), 2);

    let everything = content(&scene.at("repo"));
    let shown: String = everything
        .iter()
        .map(|(name, what)| format!("{name:?}{what}"))
        .collect();
    for word in [
        "a-tag-to-find",
        "app.db",
        id(&first),
        &id(&first)[..13],
        "SQLite format",
        "CREATE TABLE",
    ] {
        assert!(!shown.contains(word), "{word} is in the repository");
    }

    // To a plain repository and back into an encrypted one, each side with its own key.
    let from = ["--from-key-file", "alice"];
    scene.ok(&[&["copy", "repo", "plain"][..], &from].concat());
    assert_eq!(names(&scene.at("plain/backups")), [id(&first), id(&second)]);
    scene.ok(&["init", "other", "--to", ALICE[1]]);
    scene.ok(&with(&["copy", "plain", "other"]));
    scene.ok(&with(&["restore", "other", "again.db", "--backup"]).splice_in(4, id(&first)));
    assert_eq!(expect_sqlite(&scene.at("again.db")), 1);

    scene.ok(&with(&["hold", "repo", "latest", "--release"]));
    scene.ok(&with(&["forget", "repo", "latest", "--prune"]));
    let listed = scene.object(&with(&["backups", "repo", "--json"]));
    assert_eq!(listed["backup_count"], 1);
    // The names of the files may come from the environment.
    let verify = ["verify", "repo", "--read-data"];
    let mut command = scene.command(&verify);
    let output = command.env("STILLFS_KEY_FILE", "alice").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

trait SpliceIn<'a> {
    fn splice_in(self, at: usize, word: &'a str) -> Self;
}

impl<'a> SpliceIn<'a> for Vec<&'a str> {
    fn splice_in(mut self, at: usize, word: &'a str) -> Self {
        self.insert(at, word);
        self
    }
}

/// G39: exit code 14, and what to do.
#[test]
fn wrong_key_and_no_key_have_their_own_exit_code() {
    let scene = scene();
    let commands: [&[&str]; 7] = [
        &["backup", "app.db", "--repo", "repo"],
        &["backups", "repo"],
        &["verify", "repo"],
        &["restore", "repo", "back.db"],
        &["forget", "repo", "--prune"],
        &["hold", "repo", "latest"],
        &["key", "list", "repo"],
    ];
    for words in commands {
        scene.fails(
            14,
            words,
            &["encrypted", "--key-file", "STILLFS_PASSPHRASE_FILE"],
        );
    }
    scene.fails(14, &["copy", "repo", "second"], &["encrypted"]);
    // A key that others may read is refused before it is used.
    fs::set_permissions(scene.at("alice"), fs::Permissions::from_mode(0o640)).unwrap();
    scene.fails(
        1,
        &["backups", "repo", "--key-file", "alice"],
        &["alice", "0640", "chmod 600"],
    );
    put(&scene, "words", "one\ntwo\n");
    scene.fails(
        1,
        &["backups", "repo", "--passphrase-file", "words"],
        &["more than one line"],
    );
    scene.fails(
        1,
        &["backups", "repo", "--key-file", "words"],
        &["line 1", "age-keygen"],
    );
    scene.fails(2, &["init", "third"], &["--to", "--plain"]);
    scene.fails(2, &["init", "third", "--to", "age1none"], &["age1"]);
    scene.fails(1, &["init", "repo", "--to", ALICE[1]], &["exists"]);
    // CR5: also of one that is told where it does not belong, maybe with more around it.
    for text in [ALICE[0], &format!(" {}x", ALICE[0].to_lowercase())] {
        for words in [
            &["init", "third", "--to", text][..],
            &["key", "add", "repo", "--to", text, "--key-file", "alice"],
            &["key", "remove", "repo", text, "--key-file", "alice"],
        ] {
            let output = scene.run(words);
            let told = format!("{output:?}").to_lowercase();
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(told.contains("age-keygen -y"), "{told}");
            let secret = ALICE[0].to_lowercase();
            assert!(!told.contains(&secret[..20]), "{told}");
        }
    }
    // Never a plain one where a key was given.
    put(&scene, "alice", ALICE[0]);
    let none = ["backup", "app.db", "--repo", "third", "--key-file", "alice"];
    scene.fails(10, &none, &["stillfs init"]);
    scene.ok(&["init", "third", "--plain"]);
    scene.fails(2, &none, &["not encrypted"]);
}

/// Who holds a key is added, listed and removed; a passphrase does as well.
#[test]
fn keys_are_added_removed_and_rotated() {
    let scene = scene();
    let key = |words: &[&'static str]| [&["key"][..], words, &KEY].concat();
    scene.backup(&[&["app.db", "--repo", "repo"][..], &KEY].concat());
    put(&scene, "words", "correct horse battery staple\n");
    put(&scene, "guess", "correct horse battery maple\n");
    let said = scene.ok(&key(&["add", "repo", "--new-passphrase-file", "words"]));
    let name = said.trim().rsplit(' ').next().unwrap().to_owned();
    scene.ok(&key(&["rotate", "repo"]));
    let listed = scene.object(&key(&["list", "repo", "--json"]));
    let holders = json!([
        {"name": ALICE[1], "is_passphrase": false},
        {"name": name, "is_passphrase": true},
    ]);
    assert_eq!(listed["holders"], holders);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    let said = scene.ok(&[
        "key",
        "remove",
        "repo",
        ALICE[1],
        "--passphrase-file",
        "words",
    ]);
    assert!(said.contains("key rotate"), "{said}");
    scene.fails(
        14,
        &["backups", "repo", "--key-file", "alice"],
        &["does not open"],
    );
    scene.fails(
        14,
        &["backups", "repo", "--passphrase-file", "guess"],
        &["does not open"],
    );
    let last = ["key", "remove", "repo", &name, "--passphrase-file", "words"];
    scene.fails(2, &last, &["add somebody first"]);
}
