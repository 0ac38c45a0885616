//! The audit log of a repository.

use std::fs;
use std::process::Stdio;

use age::secrecy::ExposeSecret;
use stillfs::os::Host;
use stillfs::repository::crypt::Unlock;
use stillfs::repository::{Repository, read_audit};

use crate::rig::{Served, code};
use crate::scene::{ALICE, Scene};

/// Also of what fails.
#[test]
fn log_says_who_did_what_and_how_it_ended() {
    let scene = Scene::new();
    scene.ok(&["backup", "app", "--repo", "repo"]);
    scene.ok(&["hold", "repo", "latest"]);
    let held = scene.object(&["backups", "repo", "--json"]);
    let held = held["backups"][0]["id"].as_str().unwrap().to_owned();
    scene.fails(11, &["forget", "repo", &held], &["is held"]);
    scene.fails(1, &["backup", "none", "--repo", "repo"], &["none"]);
    scene.ok(&["verify", "repo", "--read-data"]);
    scene.ok(&["hold", "repo", "latest", "--release"]);
    // What changes nothing leaves no line.
    scene.ok(&["forget", "repo", "--keep-last", "1", "--dry-run"]);
    scene.ok(&["verify", "repo"]);
    scene.ok(&["restore", "repo", "back"]);
    scene.ok(&["copy", "repo", "second"]);
    let log = scene.log("repo");
    let told: Vec<String> = log
        .iter()
        .map(|line| format!("{} {}", line["command"].as_str().unwrap(), line["exit"]))
        .collect();
    let expected = [
        "backup 0",
        "hold 0",
        "forget 11",
        "backup 1",
        "verify 0",
        "release 0",
    ];
    assert_eq!(told, expected);
    assert_eq!(log[1]["backups"][0], held.as_str());
    assert!(log[2]["message"].as_str().unwrap().contains("is held"));
    assert_eq!(log[3]["path"], scene.at("none").to_str().unwrap());
    for line in &log {
        assert_eq!(line["uid"], nix::unistd::geteuid().as_raw(), "{line}");
        let (begun, ended) = (line["begun_ns"].as_u64(), line["finished_ns"].as_u64());
        assert!(begun.unwrap() > 0 && begun <= ended, "{line}");
        assert!(line["host"].is_string() && line["process_id"].as_u64().unwrap() > 0);
    }
    let second = scene.log("second");
    assert_eq!((second.len(), &second[0]["command"]), (1, &"copy".into()));
    assert_eq!(second[0]["backups"][0], held.as_str());
}

/// What makes a repository, and who can open it, is there too, and nothing of it in the clear.
#[test]
fn log_tells_who_made_it_and_who_was_let_in() {
    let scene = Scene::new();
    scene.encrypt("repo");
    let key = |words: &[&str]| scene.ok(&[&["key"][..], words, &["--key-file", "alice"]].concat());
    let bob = age::x25519::Identity::generate();
    let recipient = bob.to_public().to_string();
    key(&["add", "repo", "--to", &recipient]);
    key(&["rotate", "repo"]);
    key(&["list", "repo"]);
    let add = ["key", "add", "repo", "--to", &recipient];
    let twice = [&add[..], &["--key-file", "alice"]].concat();
    scene.fails(1, &twice, &["exists"]);
    // Whoever takes his own key away has done so, too.
    key(&["remove", "repo", ALICE[1]]);
    let mut unlock = Unlock::none();
    let secret = bob.to_string();
    unlock
        .add_key_file(secret.expose_secret().as_bytes())
        .unwrap();
    let repository = Repository::open_with(&Host::system(), &scene.at("repo"), &unlock).unwrap();
    let log = read_audit(repository.store().as_ref()).unwrap();
    let told = log.events.iter().map(|event| (&*event.command, event.exit));
    let expected = [
        ("init", 0),
        ("key add", 0),
        ("key rotate", 0),
        ("key add", 1),
        ("key remove", 0),
    ];
    assert!(told.eq(expected), "{:?}", log.events);
    scene.ok(&["init", "plain", "--plain"]);
    assert_eq!(scene.log("plain")[0]["command"], "init");
}

/// One line for all that a process has archived, and none if there was nothing.
#[test]
fn archive_is_in_the_log() {
    let scene = Scene::new();
    let served = Served::start(&scene.at("live"));
    served.connect().set(b"a", b"1");
    for _ in 0..2 {
        scene.ok(&["archive", "live", "--repo", "repo"]);
    }
    let log = scene.log("repo");
    assert_eq!((log.len(), &log[0]["command"]), (1, &"archive".into()));
    assert_eq!(log[0]["path"], scene.at("live").to_str().unwrap());
    assert_eq!(served.stop(), 0);
}

/// BK14, with processes instead of threads.
#[test]
fn processes_at_the_same_time_lose_no_line() {
    let scene = Scene::new();
    scene.ok(&["backup", "app", "--repo", "repo"]);
    let children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = scene.command(&["hold", "repo", "latest"]);
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(scene.log("repo").len(), 9);
}

/// A log that cannot be written to is told of, and the backup is as good as any.
#[test]
fn backup_succeeds_where_the_log_cannot_be_written() {
    let scene = Scene::new();
    scene.ok(&["backup", "app", "--repo", "repo"]);
    fs::remove_file(scene.at("repo/audit/newest")).unwrap();
    fs::create_dir(scene.at("repo/audit/newest")).unwrap();
    let output = scene.run(&["backup", "app", "--repo", "repo"]);
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code(&output), 0, "{problem}");
    assert!(
        problem.contains("this backup is not in the audit log"),
        "{problem}"
    );
}
