//! What is listed, verified, held, forgotten and copied.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::scene::{STEP, Scene, content, expect_sqlite, id, make_sqlite, names, sql};

/// A repository with a backup after each of so many steps of an application that is at rest.
fn stepped(scene: &Scene, count: usize) -> Vec<Value> {
    let path = scene.at("app.db");
    make_sqlite(&path, "WAL");
    let mut taken = Vec::new();
    for _ in 0..count {
        sql(&path, STEP);
        taken.push(scene.backup(&["app.db", "--repo", "repo"]));
    }
    taken
}

fn listed(scene: &Scene, repository: &str) -> Vec<String> {
    let object = scene.object(&["backups", repository, "--json"]);
    let rows = object["backups"].as_array().unwrap().iter();
    rows.map(|row| id(row).to_owned()).collect()
}

#[test]
fn backups_are_forgotten_by_rules_and_by_name_unless_they_are_held() {
    let scene = Scene::new();
    let taken = stepped(&scene, 4);
    let ids: Vec<&str> = taken.iter().map(id).collect();
    scene.ok(&["hold", "repo", ids[0]]);
    let text = scene.ok(&["backups", "repo"]);
    assert!(text.lines().nth(1).unwrap().contains(" held "), "{text}");
    assert!(
        text.lines()
            .last()
            .unwrap()
            .starts_with("4 backups of 1 source, "),
        "{text}"
    );

    let rule = ["forget", "repo", "--keep-last", "1"];
    let plan = scene.object(&[&rule[..], &["--dry-run", "--json", "--prune"]].concat());
    assert_eq!(plan["forgotten"], json!([ids[1], ids[2]]), "{plan}");
    assert_eq!(plan["kept"][0], json!({"id": ids[0], "reasons": ["held"]}));
    assert_eq!(listed(&scene, "repo"), ids);
    scene.fails(
        11,
        &["forget", "repo", ids[1], ids[0]],
        &["is held", "--release"],
    );
    assert_eq!(listed(&scene, "repo"), ids);
    let done = scene.object(&[&rule[..], &["--json"]].concat());
    assert_eq!(
        (&done["forgotten"], &done["prune"]),
        (&plan["forgotten"], &Value::Null)
    );
    assert_eq!(listed(&scene, "repo"), [ids[0], ids[3]]);

    scene.ok(&["hold", "repo", ids[0], "--release"]);
    let said = scene.ok(&["forget", "repo", ids[0], "--prune"]);
    assert!(said.contains(&format!("forgotten  {}", ids[0])), "{said}");
    assert_eq!(listed(&scene, "repo"), [ids[3]]);
    // What the last one needs of the packs of the others is there.
    let verified = scene.last(&["verify", "repo", "--read-data", "--json"]);
    assert_eq!(
        (&verified["ok"], &verified["verified"]),
        (&json!(true), &json!([ids[3]]))
    );
    scene.ok(&["restore", "repo", "back.db"]);
    assert_eq!(expect_sqlite(&scene.at("back.db")), 4);
    scene.ok(&["forget", "repo", "latest"]);
    let said = scene.ok(&["forget", "repo", "--prune"]);
    assert!(said.trim_end().ends_with("0 B after"), "{said}");
    assert_eq!(names(&scene.at("repo/packs")), [""; 0]);
    scene.fails(1, &["restore", "repo", "none.db"], &["latest"]);
}

/// A prune that fails does not hide from a program what was forgotten.
#[test]
fn what_was_forgotten_is_told_also_if_the_prune_fails() {
    let scene = Scene::new();
    let taken = stepped(&scene, 3);
    let ids: Vec<&str> = taken.iter().map(id).collect();
    fs::write(scene.at(&format!("repo/backups/{}", ids[0])), b"x").unwrap();
    let output = scene.run(&["forget", "repo", "--keep-last", "1", "--prune", "--json"]);
    assert_eq!(output.status.code(), Some(12), "{output:?}");
    let said = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let said: Vec<Value> = said.map(Result::unwrap).collect();
    assert_eq!(said[0]["forgotten"], json!([ids[1]]), "{said:?}");
    assert_eq!(said[0]["prune"], Value::Null);
    assert_eq!(said[1]["message_type"], "error");
    assert_eq!(said.len(), 2);
}

/// The second repository alone is enough, with the first and the source gone; damage does not get into it.
#[test]
fn copy_elsewhere_is_enough_when_everything_else_is_gone() {
    let scene = Scene::new();
    let taken = stepped(&scene, 3);
    scene.ok(&["copy", "repo", "usb/app", id(&taken[1])]);
    assert_eq!(listed(&scene, "usb/app"), [id(&taken[1])]);
    let summary = scene.last(&["copy", "repo", "usb/app", "--json"]);
    assert_eq!(
        summary["copied"],
        json!([id(&taken[0]), id(&taken[2])]),
        "{summary}"
    );
    assert_eq!(summary["present"], json!([id(&taken[1])]));
    let again = scene.ok(&["copy", "repo", "usb/app"]);
    assert!(
        again.contains("0 backups copied, 3 there already"),
        "{again}"
    );
    scene.fails(2, &["copy", "repo", "repo/sub"], &["lies in the other"]);
    fs::remove_dir_all(scene.at("repo")).unwrap();
    fs::remove_file(scene.at("app.db")).unwrap();
    let said = scene.ok(&["verify", "usb/app", "--read-data"]);
    assert!(
        said.ends_with("ok: 3 backups verified: every byte was read back\n"),
        "{said}"
    );
    for (count, facts) in (1..).zip(&taken) {
        let target = format!("{count}.db");
        scene.ok(&["restore", "usb/app", &target, "--backup", id(facts)]);
        assert_eq!(expect_sqlite(&scene.at(&target)), count);
    }
}

/// BK10: what was only looked at is not called verified; damage is named with what it spoils, and a restore
/// that needs it refuses.
#[test]
fn damage_is_named_and_nothing_is_called_verified_that_was_not_read() {
    let scene = Scene::new();
    let taken = stepped(&scene, 2);
    for words in [
        &["verify", "repo"][..],
        &["verify", "repo", "--sample", "50%"],
    ] {
        let said = scene.ok(words);
        let last = said.lines().last().unwrap();
        assert!(
            last.starts_with("ok as far as") && last.contains("--read-data reads"),
            "{said}"
        );
    }
    assert!(!scene.ok(&["backups", "repo"]).contains("verified"));
    scene.ok(&["verify", "repo", id(&taken[0]), "--read-data"]);
    assert!(scene.ok(&["backups", "repo"]).contains("verified"));

    let packs = names(&scene.at("repo/packs"));
    let largest = packs.iter().map(|name| scene.at("repo/packs").join(name));
    let largest = largest
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[4000] ^= 1;
    fs::set_permissions(&largest, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&largest, &bytes).unwrap();
    scene.ok(&["verify", "repo"]);
    let found = scene.last(&["verify", "repo", "--read-data", "--json"]);
    assert_eq!(
        (&found["exit"], &found["ok"]),
        (&json!(12), &json!(false)),
        "{found}"
    );
    let finding = &found["findings"][0];
    let name = largest.file_name().unwrap().to_str().unwrap();
    assert!(
        finding["object"].as_str().unwrap().contains(name),
        "{finding}"
    );
    assert_eq!(
        finding["backups"],
        json!([id(&taken[0]), id(&taken[1])]),
        "{finding}"
    );
    assert_eq!(finding["paths"], json!(["app.db"]), "{finding}");
    scene.fails(12, &["restore", "repo", "back.db"], &[name]);
    assert!(!scene.at("back.db").exists());
    scene.fails(12, &["verify", "repo", "--read-data"], &[]);
    scene.fails(12, &["copy", "repo", "usb"], &[]);
}

#[test]
fn backup_whose_list_is_damaged_is_told_apart_from_the_others() {
    let scene = Scene::new();
    let taken = stepped(&scene, 2);
    let list: PathBuf = scene.at("repo/backups").join(id(&taken[0]));
    let mut bytes = fs::read(&list).unwrap();
    bytes[30] ^= 1;
    fs::set_permissions(&list, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&list, &bytes).unwrap();
    let output = scene.run(&["backups", "repo", "--json"]);
    assert_eq!(output.status.code(), Some(12), "{output:?}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["damaged"][0]["id"], taken[0]["id"], "{object}");
    assert_eq!(object["backups"][0]["id"], taken[1]["id"], "{object}");
    scene.fails(12, &["backups", "repo"], &[id(&taken[0])]);
    scene.ok(&["restore", "repo", "back.db"]);
    assert_eq!(expect_sqlite(&scene.at("back.db")), 2);
    let copied = scene.last(&["copy", "repo", "usb", "--json"]);
    assert_eq!(
        (&copied["exit"], &copied["copied"]),
        (&json!(12), &json!([id(&taken[1])]))
    );
    assert_eq!(copied["failed"][0]["id"], taken[0]["id"], "{copied}");
}

/// The bytes are those that were backed up, which is all that reading them back can tell: what SQLite says
/// of them is found by restoring them.
#[test]
fn restore_test_finds_what_was_damaged_before_it_was_backed_up() {
    let scene = Scene::new();
    let path = scene.at("app.db");
    make_sqlite(&path, "DELETE");
    let mut bytes = fs::read(&path).unwrap();
    for page in (2..bytes.len() / 4096).step_by(3) {
        bytes[page * 4096..][..16].fill(0xff);
    }
    fs::write(&path, &bytes).unwrap();
    let facts = scene.backup(&["app.db", "--repo", "repo"]);
    scene.ok(&["verify", "repo", "--read-data"]);
    fs::create_dir(scene.at("scratch")).unwrap();
    let tested = [
        "verify",
        "repo",
        "--restore-test",
        "--scratch",
        "scratch",
        "--json",
    ];
    let found = scene.last(&tested);
    assert_eq!(
        (&found["exit"], &found["verified"]),
        (&json!(12), &json!([])),
        "{found}"
    );
    assert_eq!(
        found["findings"][0]["backups"],
        json!([id(&facts)]),
        "{found}"
    );
    assert_eq!(names(&scene.at("scratch")), [""; 0]);
    scene.fails(
        2,
        &["verify", "repo", "--restore-test", "--scratch", "repo/tmp"],
        &["lies in"],
    );
}

/// Nobody is to restore the wrong one of two because he did not say which.
#[test]
fn repository_of_several_sources_asks_which_is_meant() {
    let scene = Scene::new();
    make_sqlite(&scene.at("a.db"), "WAL");
    make_sqlite(&scene.at("b.db"), "WAL");
    let first = scene.backup(&["a.db", "--repo", "repo"]);
    sql(&scene.at("b.db"), STEP);
    let second = scene.backup(&["b.db", "--repo", "repo"]);
    // What both have is stored once.
    assert!(
        crate::scene::number(&second, "bytes_new") * 4 < crate::scene::number(&second, "bytes")
    );
    let list = [id(&first), id(&second), "a.db", "b.db", "--latest"];
    scene.fails(2, &["restore", "repo", "back.db"], &list);
    scene.ok(&["restore", "repo", "back.db", "--latest"]);
    assert_eq!(expect_sqlite(&scene.at("back.db")), 1);
    scene.ok(&["restore", "repo", "a-back.db", "--backup", id(&first)]);
    assert_eq!(expect_sqlite(&scene.at("a-back.db")), 0);
    scene.fails(
        2,
        &["restore", "repo", "c.db", "--backup", "2"],
        &["not one backup but 2"],
    );
    scene.fails(
        1,
        &["restore", "repo", "c.db", "--backup", "1999"],
        &["no backup 1999"],
    );
}

/// G34: a repository is for the user who makes it, whatever the umask; readers leave nothing in it.
#[test]
fn repository_is_for_its_user_only_and_reading_changes_nothing() {
    let scene = Scene::new();
    stepped(&scene, 1);
    let modes = |dir: &str| {
        let mode = fs::metadata(scene.at(dir)).unwrap().permissions().mode();
        mode & 0o077
    };
    let all = content(&scene.at("repo"));
    for (path, _) in &all {
        assert_eq!(modes(&format!("repo/{}", path.display())), 0, "{path:?}");
    }
    assert_eq!(modes("repo"), 0);
    scene.ok(&["backups", "repo"]);
    scene.ok(&["verify", "repo"]);
    scene.ok(&["restore", "repo", "back.db"]);
    assert_eq!(content(&scene.at("repo")), all);
}
