//! A database of stillfs, served and written to.

use std::fs;

use crate::scene::{LoadedEngine, Scene, content, expect_whole, id, lines, names, number};

const LARGE: usize = 1500;

/// Under load every backup is one commit; of the second nearly nothing is read; at rest it is, to the digest
/// of the content, what the engine has. BK7, BK10, and the whole way through the commands.
#[test]
fn database_under_load_is_backed_up_verified_and_restored_elsewhere() {
    let scene = Scene::new();
    let mut engine = LoadedEngine::start(&scene.at("live"), LARGE);
    let full = scene.backup(&["live", "--repo", "repo"]);
    assert_eq!(
        (&full["kind"], &full["parent"]),
        (&"full".into(), &serde_json::Value::Null)
    );
    let next = scene.backup(&["live", "--repo", "repo", "--type", "incremental"]);
    assert_eq!(next["parent"], full["id"]);
    assert_eq!(next["source"]["path"], scene.at("live").to_str().unwrap());
    let written = engine.rest();
    let last = scene.backup(&["live", "--repo", "repo", "--tag", "rest"]);
    assert_eq!(
        (&last["kind"], &last["tag"]),
        (&"incremental".into(), &"rest".into())
    );
    assert!(
        number(&last, "units_read") * 4 < number(&last, "units"),
        "{last}"
    );
    let digest = scene.digest("live");
    let same = scene.backup(&["live", "--repo", "repo"]);
    assert_eq!(number(&same, "units_new"), 0, "{same}");

    let verified = scene.last(&["verify", "repo", "--read-data", "--restore-test", "--json"]);
    assert_eq!(verified["findings"], serde_json::json!([]), "{verified}");
    assert_eq!(verified["verified"].as_array().unwrap().len(), 4);
    let listed = scene.ok(&["backups", "repo"]);
    assert_eq!(listed.matches("restore-tested").count(), 4, "{listed}");

    engine.stop();
    for (facts, name) in [(&full, "first"), (&next, "second"), (&last, "third")] {
        let said = scene.ok(&["restore", "repo", name, "--backup", id(facts)]);
        assert!(
            said.ends_with("every byte was read back and is what was backed up\n"),
            "{said}"
        );
        scene.ok(&["check", name]);
    }
    assert_eq!(scene.digest("third"), digest);
    let first = expect_whole(&scene.at("first"), LARGE);
    let second = expect_whole(&scene.at("second"), LARGE);
    assert!(
        first <= second && second <= written,
        "{first} {second} {written}"
    );
    assert_eq!(expect_whole(&scene.at("third"), LARGE), written);
}

/// BK8, BK9: a running engine keeps a restore out, whatever is said; over a stopped one it comes in one
/// step, and what the old log had is not replayed over it.
#[test]
fn restore_in_place_waits_for_the_engine_to_stop() {
    let scene = Scene::new();
    let mut engine = LoadedEngine::start(&scene.at("live"), 100);
    engine.rest();
    let facts = scene.backup(&["live", "--repo", "repo"]);
    let digest = scene.digest("live");
    let restore = ["restore", "repo", "live", "--force"];
    scene.fails(11, &restore, &["live is in use by process", "engine"]);
    scene.fails(11, &[&restore[..], &["--dry-run"]].concat(), &["in use"]);
    engine.served.connect().set(b"later", b"1");
    assert_ne!(scene.digest("live"), digest);
    // Its log stays behind.
    engine.served.crash();
    assert_ne!(scene.digest("live"), digest);
    scene.fails(1, &["restore", "repo", "live"], &["--force replaces it"]);

    let before = content(&scene.at("live"));
    let plan = scene.last(&[&restore[..], &["--dry-run", "--json"]].concat());
    assert_eq!(
        (&plan["message_type"], &plan["replaces"]),
        (&"plan".into(), &true.into())
    );
    assert_eq!(plan["backup"], facts["id"]);
    let said = scene.ok(&[&restore[..], &["--dry-run"]].concat());
    assert!(said.contains("would replace"), "{said}");
    // The lock file names who has had it locked.
    let but_lock = |all: Vec<(std::path::PathBuf, String)>| {
        let kept = all.into_iter().filter(|(path, _)| !path.ends_with("LOCK"));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(but_lock(content(&scene.at("live"))), but_lock(before));

    let summary = scene.last(&[&restore[..], &["--json"]].concat());
    assert_eq!(summary["backup"]["id"], facts["id"], "{summary}");
    let history = &summary["histories"]["data.pages"];
    assert!(
        history.is_string() && *history != facts["databases"][0]["history"],
        "{summary}"
    );
    assert_eq!(names(&scene.at("live")), ["data.pages"]);
    assert_eq!(scene.digest("live"), digest);
    assert_eq!(names(&scene.at("")), ["live", "repo"]);
}

/// The page file is exactly what a mount of the same commit shows, but for the new history.
#[test]
fn database_without_an_engine_is_backed_up_and_its_pin_goes() {
    let scene = Scene::new();
    let mut engine = LoadedEngine::start(&scene.at("live"), 50);
    engine.rest();
    engine.stop();
    let digest = scene.digest("live");
    let output = scene.run(&[
        "backup",
        "live",
        "--repo",
        "repo",
        "--json",
        "--compress",
        "zstd:3",
    ]);
    assert_eq!(lines(&output).len(), 1, "{output:?}");
    let pins = fs::read_dir(scene.at("live/shadow")).unwrap();
    let pins = pins.filter(|pin| pin.as_ref().unwrap().path().extension() == Some("pin".as_ref()));
    assert_eq!(pins.count(), 0, "BK11: the pin is given up");
    scene.ok(&["restore", "repo", "back", "--no-verify"]);
    assert_eq!(scene.digest("back"), digest);
}
