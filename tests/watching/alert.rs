//! Each alert, raised by what really is wrong, and gone when it is mended.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::rig::code;
use crate::scene::Scene;

/// Longer than what is allowed in these configurations.
fn wait() {
    std::thread::sleep(Duration::from_millis(2100));
}

#[test]
fn backup_that_is_missing_or_too_old_is_overdue() {
    let scene = Scene::new();
    scene.configure("", &[("app", "alert = { max-age = \"1s\" }")]);
    // The repository was never made.
    assert_eq!(scene.alerts(), ["unreadable -"]);
    scene.make("other");
    scene.ok(&["backup", "other", "--repo", "repo-app"]);
    assert_eq!(scene.alerts(), ["overdue app"]);
    scene.ok(&["scheduled"]);
    wait();
    let text = String::from_utf8(scene.run(&["status", "--alerts"]).stdout).unwrap();
    assert!(
        text.contains("overdue: app: the newest backup is "),
        "{text}"
    );
    assert!(text.contains("  next: stillfs scheduled app"), "{text}");
    scene.configure("", &[("app", "alert = { max-age = \"1h\" }")]);
    assert_eq!(scene.alerts(), [""; 0]);
    assert_eq!(scene.ok(&["status", "--alerts"]), "no alerts\n");
}

#[test]
fn empty_and_shrinking_backups_are_told() {
    let scene = Scene::new();
    // Named, so that it is one also when nothing is left of it.
    scene.configure("", &[("app", "options = [\"--sqlite\", \"app.db\"]")]);
    scene.ok(&["scheduled"]);
    let file = scene.at("app/file");
    fs::write(&file, vec![1; 60 << 10]).unwrap();
    scene.ok(&["scheduled"]);
    assert_eq!(scene.alerts(), [""; 0]);
    fs::write(&file, vec![1; 40 << 10]).unwrap();
    scene.ok(&["scheduled"]);
    assert_eq!(scene.alerts(), ["shrinking app"]);
    fs::remove_file(&file).unwrap();
    fs::write(scene.at("app/app.db"), "").unwrap();
    scene.ok(&["scheduled"]);
    assert_eq!(scene.alerts(), ["empty app"]);
    fs::write(&file, vec![1; 80 << 10]).unwrap();
    scene.ok(&["scheduled"]);
    assert_eq!(scene.alerts(), [""; 0]);
}

#[test]
fn backup_that_nobody_verified_is_told() {
    let scene = Scene::new();
    scene.configure("", &[("app", "alert = { verified-within = \"1s\" }")]);
    scene.ok(&["scheduled"]);
    wait();
    assert_eq!(scene.alerts(), ["unverified app"]);
    scene.ok(&["verify", "repo-app", "--read-data"]);
    assert_eq!(scene.alerts(), [""; 0]);
    wait();
    assert_eq!(scene.alerts(), ["unverified app"]);
}

#[test]
fn source_whose_last_backup_failed_is_failing() {
    let scene = Scene::new();
    scene.configure("", &[("app", "")]);
    scene.ok(&["scheduled"]);
    fs::rename(scene.at("app"), scene.at("away")).unwrap();
    assert_eq!(code(&scene.run(&["scheduled"])), 1);
    assert_eq!(scene.alerts(), ["failing app"]);
    let status = scene.object(&["status", "--json"]);
    let source = &status["sources"][0];
    assert_eq!(source["state"], "failing");
    assert_eq!(
        (&source["run_count"], &source["success_ratio"]),
        (&2.into(), &0.5.into())
    );
    let error = &status["repositories"][0]["last_errors"][0];
    assert_eq!(
        (&error["command"], &error["exit"]),
        (&"backup".into(), &1.into())
    );
    assert!(
        error["message"].as_str().unwrap().contains("app"),
        "{error}"
    );
    fs::rename(scene.at("away"), scene.at("app")).unwrap();
    scene.ok(&["scheduled"]);
    assert_eq!(scene.alerts(), [""; 0]);
}

fn only_file(folder: PathBuf) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    files.next().unwrap().unwrap().path()
}

#[test]
fn damage_is_told_until_it_is_gone() {
    let scene = Scene::new();
    scene.configure("", &[("app", "verify = { every = \"7d\" }")]);
    scene.ok(&["scheduled"]);
    let pack = only_file(scene.at("repo-app/packs"));
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    // Nobody has looked.
    assert_eq!(scene.alerts(), [""; 0]);
    assert_eq!(code(&scene.run(&["verify", "repo-app", "--read-data"])), 12);
    assert_eq!(scene.alerts(), ["damaged -"]);
    let status = scene.object(&["status", "--json"]);
    assert!(status["sources"][0]["verified_ns"].is_null(), "{status}");
    let table = scene.ok(&["status"]);
    assert!(
        table.lines().any(|line| line.starts_with("damaged  app ")),
        "{table}"
    );
    // As the alert says.
    let spoilt = scene.object(&["backups", "repo-app", "--json"]);
    let spoilt = spoilt["backups"][0]["id"].as_str().unwrap().to_owned();
    scene.ok(&["scheduled"]);
    scene.ok(&["forget", "repo-app", &spoilt, "--prune"]);
    scene.ok(&["verify", "repo-app", "--read-data"]);
    assert_eq!(scene.alerts(), [""; 0]);
    // A manifest that cannot be read is damage without a look at content.
    let manifest = only_file(scene.at("repo-app/backups"));
    fs::write(manifest, "nothing").unwrap();
    assert_eq!(scene.alerts(), ["damaged -", "overdue app"]);
}

/// Without a configuration everything that is in a repository counts.
#[test]
fn sources_of_a_repository_are_shown_without_a_configuration() {
    let scene = Scene::new();
    scene.make("other");
    scene.ok(&["backup", "app", "--repo", "repo"]);
    scene.ok(&["backup", "other", "--repo", "repo"]);
    let mut command = scene.command(&["status", "--repo", "repo", "--json"]);
    let output = command.env_remove("STILLFS_CONFIG").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(code(&output), 0);
    let names: Vec<_> = status["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert_eq!(names, ["app", "other"]);
    let repository = &status["repositories"][0];
    for name in ["pack_bytes", "free_bytes", "backup_count"] {
        assert!(repository[name].as_u64().unwrap() > 0, "{repository}");
    }
    let mut command = scene.command(&["status", "--repo", "none", "--alerts"]);
    let output = command.env_remove("STILLFS_CONFIG").output().unwrap();
    assert_eq!(code(&output), 4);
    // A mistake, and no alert.
    scene.fails(2, &["status", "--alerts"], &["no configuration"]);
}

/// What others put into a repository, as NFS does, is no reason not to look at it.
#[test]
fn stray_file_in_a_repository_raises_nothing() {
    let scene = Scene::new();
    scene.configure("", &[("app", "")]);
    scene.ok(&["scheduled"]);
    let pack_count =
        || scene.object(&["status", "--json"])["repositories"][0]["pack_count"].clone();
    let before = pack_count();
    for folder in ["packs", "damaged"] {
        fs::create_dir_all(scene.at("repo-app").join(folder)).unwrap();
        for name in [".nfs0000000000000001", "a file", "0123"] {
            fs::write(scene.at("repo-app").join(folder).join(name), "x").unwrap();
        }
    }
    assert_eq!(scene.alerts(), [""; 0]);
    assert_eq!(pack_count(), before);
}

/// What one machine or entry could not do is not made good by what another one could.
#[test]
fn last_run_is_that_of_each_who_runs_it() {
    let scene = Scene::new();
    scene.configure("", &[("app", "")]);
    for _ in 0..2 {
        scene.ok(&["scheduled"]);
    }
    let mut log = scene.log("repo-app");
    let here = log[0]["host"].as_str().unwrap().to_owned();
    let mut then = |command: &str, entry: &str, host: &str, exit: u8| {
        let mut line = log[0].clone();
        line["id"] = format!("{:016x}", log.len()).into();
        line["command"] = command.into();
        (line["entry"], line["path"]) = (entry.into(), format!("/{entry}").into());
        (line["host"], line["exit"]) = (host.into(), exit.into());
        log.push(line);
        scene.set_log("repo-app", &log);
        scene.alerts()
    };
    assert_eq!(then("forget", "other", "elsewhere", 1), ["failing -"]);
    assert_eq!(then("forget", "app", &here, 0), ["failing -"]);
    assert_eq!(then("forget", "other", "elsewhere", 0), [""; 0]);
    // Nobody could mend what is of an entry that is no more.
    assert_eq!(then("forget", "gone", &here, 1), [""; 0]);
    assert_eq!(then("verify", "other", "elsewhere", 12), ["damaged -"]);
    // One backup says nothing of the others.
    scene.ok(&["verify", "repo-app", "latest", "--read-data"]);
    assert_eq!(scene.alerts(), ["damaged -"]);
    scene.ok(&["verify", "repo-app", "--read-data"]);
    assert_eq!(scene.alerts(), [""; 0]);
}
