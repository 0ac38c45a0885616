//! How a command ends that cannot do what was asked, or is told to stop.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::namespace::LET_GO;
use crate::rig::{code, stillfs};
use crate::scene::{
    LoadedEngine, STEP, Scene, Slow, SqliteWriter, expect_sqlite, id, make_sqlite, names, sql,
};

#[test]
fn missing_repository_is_told_by_its_code() {
    let scene = Scene::new();
    fs::create_dir(scene.at("other")).unwrap();
    fs::write(scene.at("other/file"), "a").unwrap();
    for place in ["none", "other"] {
        for words in [
            &["backups", place][..],
            &["verify", place],
            &["restore", place, "back"],
            &["forget", place, "--keep-last", "1"],
            &["hold", place, "latest"],
            &["copy", place, "elsewhere"],
        ] {
            scene.fails(10, words, &[place]);
        }
        let error = scene.last(&["backups", place, "--json"]);
        assert_eq!(
            (&error["message_type"], &error["exit"]),
            (&json!("error"), &json!(10))
        );
        assert!(
            error["message"].as_str().unwrap().contains(place),
            "{error}"
        );
    }
    assert_eq!(names(&scene.at("")), ["other"]);
    make_sqlite(&scene.at("app.db"), "WAL");
    scene.fails(
        10,
        &["backup", "app.db", "--repo", "other"],
        &["neither a repository nor"],
    );
    scene.fails(2, &["backup", "app.db"], &["--repo"]);
    let mut command = scene.command(&["backup", "app.db"]);
    let output = command
        .env("STILLFS_REPO", scene.at("repo"))
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let incremental = ["backup", "app.db", "--repo", "new", "--type", "incremental"];
    scene.fails(1, &incremental, &["take a full one first"]);
}

/// BK3, BK11. Whoever interrupts a backup finds the repository as it was, the pin released, and what was
/// stored found by the next one. Meanwhile nobody else writes to it, and readers do not care.
#[test]
fn interrupted_backup_leaves_the_repository_and_the_engine_as_they_were() {
    let scene = Scene::new();
    let mut engine = LoadedEngine::start(&scene.at("live"), 3000);
    engine.rest();
    make_sqlite(&scene.at("app.db"), "WAL");
    let before = scene.backup(&["app.db", "--repo", "repo"]);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let slow = "backup live --repo repo --limit-rate 600K --compress none --jobs 1 --json";
        let slow: Vec<&str> = slow.split(' ').collect();
        let mut slow = Slow::start(scene.command(&slow));
        let progress = slow.line();
        assert_eq!(progress["message_type"], "progress", "{progress}");
        assert_eq!(progress["phase"], "in_progress", "{progress}");
        let pins = scene.object(&["status", "live", "--json"]);
        assert!(pins.to_string().contains("stillfs backup"), "{pins}");
        scene.fails(
            11,
            &["backup", "app.db", "--repo", "repo"],
            &["another process writes"],
        );
        scene.fails(
            11,
            &["forget", "repo", "--keep-last", "1"],
            &["another process writes"],
        );
        scene.ok(&["backups", "repo"]);
        slow.signal(signal);
        let (last, exit) = slow.end();
        assert_eq!(exit, Some(130), "{last}");
        assert_eq!(
            last,
            json!({"message_type": "error", "exit": 130, "message": "cancelled"})
        );
        let pins = scene.object(&["status", "live", "--json"]);
        assert!(!pins.to_string().contains("stillfs backup"), "{pins}");
        let object = scene.object(&["backups", "repo", "--json"]);
        assert_eq!(object["backups"].as_array().unwrap().len(), 1);
        assert_eq!(object["backups"][0]["id"], before["id"]);
    }
    let said = scene.ok(&["verify", "repo", "--read-data"]);
    assert!(said.contains("ok: 1 backup verified"), "{said}");
    scene.backup(&["live", "--repo", "repo"]);
    engine.stop();
}

/// BK7: what was read of a pin that ended is no backup.
#[test]
fn pin_at_its_maximum_age_makes_no_backup() {
    let scene = Scene::new();
    make_sqlite(&scene.at("app.db"), "WAL");
    let _writer = SqliteWriter::start(&scene.at("app.db"));
    let words = "backup app.db --repo repo --max-age 1s --limit-rate 200K --jobs 1 --json";
    let words: Vec<&str> = words.split(' ').collect();
    let error = scene.last(&words);
    assert_eq!(
        (&error["message_type"], &error["exit"]),
        (&json!("error"), &json!(13)),
        "{error}"
    );
    let object = scene.object(&["backups", "repo", "--json"]);
    assert_eq!(object["backups"], json!([]));
}

/// Runs a script as root of a mount namespace of its own, with the program as `$1`.
fn inside(scene: &Scene, script: &str) -> Option<std::process::Output> {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        &format!("{LET_GO}\nset -u\n{script}"),
        "sh",
    ]);
    command.arg(env!("CARGO_BIN_EXE_stillfs"));
    let output = command
        .current_dir(scene.at(""))
        .env("STILLFS_LOG", "error")
        .output();
    match output {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            Some(output)
        }
        _ => {
            println!("SKIPPED: no mount namespace can be made");
            None
        }
    }
}

/// The backup that does not fit fails; those before it are as they were, and so is the repository.
#[test]
fn full_disk_fails_a_backup_and_loses_none() {
    let scene = Scene::new();
    let path = scene.at("app.db");
    make_sqlite(&path, "WAL");
    sql(&path, STEP);
    fs::create_dir(scene.at("small")).unwrap();
    let script = "mount -t tmpfs -o size=4m none small\n\
        \"$1\" backup app.db --repo small/repo --compress none > /dev/null\n\
        python3 -c 'import os; open(\"app/large\", \"wb\").write(os.urandom(8 << 20))'\n\
        status=0; \"$1\" backup app --repo small/repo --compress none || status=$?\n\
        echo \"exit $status\"\n\
        \"$1\" verify small/repo --read-data\n\
        \"$1\" backup app.db --repo small/repo > /dev/null\n\
        \"$1\" restore small/repo back.db > /dev/null\n\
        ls small/repo/tmp";
    fs::create_dir(scene.at("app")).unwrap();
    make_sqlite(&scene.at("app/a.db"), "WAL");
    let Some(output) = inside(&scene, script) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{problem}");
    assert!(
        said.starts_with("exit 1\n") && problem.contains("no space left"),
        "{said}{problem}"
    );
    assert!(
        said.ends_with("ok: 1 backup verified: every byte was read back\n"),
        "{said}"
    );
    assert_eq!(expect_sqlite(&scene.at("back.db")), 1);
}

/// Everything as a user without any right.
#[test]
fn ordinary_user_backs_up_and_restores() {
    const USER: u32 = 47_114;
    let scene = Scene::new();
    make_sqlite(&scene.at("app.db"), "WAL");
    if !nix::unistd::geteuid().is_root() {
        scene.backup(&["app.db", "--repo", "repo"]);
        return;
    }
    let program = scene.at("program");
    fs::copy(stillfs().get_program(), &program).unwrap();
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    give(&scene.at(""));
    for name in names(&scene.at("")) {
        give(&scene.at(&name));
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(words)
            .current_dir(scene.at(""))
            .uid(USER)
            .gid(USER);
        let output = command.env("HOME", scene.at("")).output().unwrap();
        assert_eq!(code(&output), 0, "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["backup", "app.db", "--repo", "repo"]);
    run(&["verify", "repo", "--read-data"]);
    run(&["restore", "repo", "back.db"]);
    run(&["restore", "repo", "app.db", "--force"]);
    assert_eq!(expect_sqlite(&scene.at("back.db")), 0);
}

/// Killed in the middle, the next one is not kept out, and finds the repository whole.
#[test]
fn killed_backup_is_no_obstacle() {
    let scene = Scene::new();
    make_sqlite(&scene.at("app.db"), "WAL");
    let slow = "backup app.db --repo repo --limit-rate 300K --compress none --jobs 1 --json";
    let slow: Vec<&str> = slow.split(' ').collect();
    let mut killed = Slow::start(scene.command(&slow));
    killed.line();
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.end().1, None);
    let facts = scene.backup(&["app.db", "--repo", "repo"]);
    assert_eq!(names(&scene.at("repo/tmp")), [""; 0]);
    scene.ok(&["verify", "repo", id(&facts), "--read-data"]);
}
