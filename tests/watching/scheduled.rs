//! `stillfs scheduled`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use stillfs::os::Host;
use stillfs::repository::Repository;

use crate::rig::code;
use crate::scene::Scene;

fn count(scene: &Scene, repository: &str) -> u64 {
    let listed = scene.object(&["backups", repository, "--json"]);
    listed["backup_count"].as_u64().unwrap()
}

/// From the backup to the verification, and the verification only when it is due.
#[test]
fn entry_is_backed_up_thinned_and_verified_when_it_is_due() {
    let scene = Scene::new();
    let rules = "options = [\"--exclude\", \"*.log\", \"--tag\", \"nightly\"]\n\
                 keep = { last = 2 }\nverify = { every = \"7d\" }\n";
    let textfile = scene.at("stillfs.prom");
    let head = format!("textfile = \"{}\"", textfile.display());
    scene.configure(&head, &[("app", rules)]);
    fs::write(scene.at("app/a.log"), "x").unwrap();
    let first = scene.ok(&["scheduled"]);
    assert!(first.contains("every byte was read back"), "{first}");
    for _ in 0..2 {
        let text = scene.ok(&["scheduled", "app"]);
        assert!(!text.contains("every byte was read back"), "{text}");
    }
    assert_eq!(count(&scene, "repo-app"), 2);
    let listed = scene.object(&["backups", "repo-app", "--json"]);
    let newest = &listed["backups"][1];
    assert_eq!(newest["tag"], "nightly");
    assert_eq!(newest["left_out"][0]["path"], "a.log");
    let commands: Vec<String> = scene
        .log("repo-app")
        .iter()
        .map(|line| {
            assert_eq!(
                (&line["entry"], &line["exit"]),
                (&"app".into(), &0.into()),
                "{line}"
            );
            line["command"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(commands, ["backup", "verify", "backup", "backup", "forget"]);
    let metrics = fs::read_to_string(&textfile).unwrap();
    assert!(
        metrics.contains("stillfs_backup_success_ratio{"),
        "{metrics}"
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&textfile).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

/// CR1: the key of an entry serves every step and whoever looks on, and the audit log is sealed like the rest.
#[test]
fn encrypted_repository_is_kept_and_watched_with_the_key_of_its_entry() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let key = scene.at("passphrase");
    fs::write(&key, "correct horse\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let key = key.to_str().unwrap();
    scene.ok(&["init", "repo-app", "--passphrase-file", key]);
    let options = format!("options = [\"--passphrase-file\", \"{key}\"]");
    let rules = format!("{options}\nkeep = {{ last = 1 }}\nverify = {{ every = \"7d\" }}\n");
    scene.configure("", &[("app", &rules)]);
    for _ in 0..2 {
        scene.ok(&["scheduled"]);
    }
    assert_eq!(scene.alerts(), Vec::<String>::new());
    let status = scene.object(&["status", "--json"]);
    assert_eq!(status["repositories"][0]["problem"], Value::Null);
    let words = [
        "status",
        "--repo",
        "repo-app",
        "--json",
        "--passphrase-file",
        key,
    ];
    assert_eq!(scene.object(&words)["sources"][0]["name"], "app");
    let sealed = fs::read_dir(scene.at("repo-app/audit")).unwrap();
    let sealed: Vec<Vec<u8>> = sealed
        .map(|one| fs::read(one.unwrap().path()).unwrap())
        .collect();
    assert!(!sealed.is_empty(), "something is recorded");
    for bytes in sealed {
        let told = bytes
            .windows(6)
            .any(|part| part == b"backup" || part == b"scene.");
        assert!(!told, "the log can be read without the key");
    }
    fs::write(key, "another\n").unwrap();
    scene.fails(14, &["scheduled"], &["app: backup"]);
    scene.fails(4, &["status", "--alerts"], &[]);
}

/// A clock that was ahead for one night must not end all verifications until its time has come.
#[test]
fn verification_of_the_future_counts_for_nothing() {
    let scene = Scene::new();
    let rules = "verify = { every = \"7d\" }\nalert = { verified-within = \"1s\" }\n";
    scene.configure("", &[("app", rules)]);
    scene.ok(&["scheduled"]);
    let repository = Repository::open(&Host::system(), &scene.at("repo-app")).unwrap();
    let id = repository.find("latest").unwrap();
    repository
        .set_mark(&id, &mut |mark| {
            mark.verified.as_mut().unwrap().at_ns = u64::MAX;
        })
        .unwrap();
    let mut log = scene.log("repo-app");
    for line in &mut log {
        line["finished_ns"] = u64::MAX.into();
    }
    scene.set_log("repo-app", &log);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(scene.alerts(), ["unverified app"]);
    let text = scene.ok(&["scheduled"]);
    assert!(text.contains("every byte was read back"), "{text}");
    assert_eq!(scene.alerts(), [""; 0]);
}

/// Who did what is not worth a backup that is not made, nor a status that is not shown.
#[test]
fn damaged_audit_log_of_an_encrypted_repository_stops_nothing() {
    let scene = Scene::new();
    let options = scene.encrypt("repo-app");
    let rules = format!("{options}verify = {{ every = \"7d\" }}\n");
    scene.configure("", &[("app", &rules)]);
    scene.ok(&["scheduled"]);
    for entry in fs::read_dir(scene.at("repo-app/audit")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    let repository = || scene.object(&["status", "--json"])["repositories"][0].clone();
    assert_eq!(repository()["problem"], Value::Null);
    assert_eq!(repository()["unreadable_lines"], 1);
    let table = scene.ok(&["status"]);
    assert!(
        table.contains("1 line of its audit log unreadable"),
        "{table}"
    );
    // The mark of the backup still says that it was verified.
    let text = scene.ok(&["scheduled"]);
    assert!(!text.contains("every byte was read back"), "{text}");
    assert_eq!(repository()["unreadable_lines"], 0);
    assert_eq!(repository()["last_errors"], Value::Array(Vec::new()));
    assert_eq!(
        scene.object(&["status", "--json"])["sources"][0]["run_count"],
        1
    );
}

/// Whoever gives a key for a repository has it, also where an entry names the same one without.
#[test]
fn entry_without_a_key_hides_none_of_the_command_line() {
    let scene = Scene::new();
    scene.encrypt("repo-app");
    scene.configure("", &[("app", "")]);
    let key = ["--key-file", "alice"];
    scene.ok(&[&["backup", "app", "--repo", "repo-app"][..], &key].concat());
    let status = ["status", "--repo", "repo-app", "--json"];
    let status = scene.object(&[&status[..], &["--config", "stillfs.toml"], &key].concat());
    assert_eq!(status["repositories"][0]["problem"], Value::Null);
    assert_eq!(status["sources"][0]["backup_count"], 1, "{status}");
}

/// The rules of one entry say nothing of what else is in its repository.
#[test]
fn other_sources_in_the_same_repository_stay() {
    let scene = Scene::new();
    scene.make("other");
    scene.configure("", &[("app", "keep = { last = 1 }")]);
    for _ in 0..2 {
        scene.ok(&["backup", "other", "--repo", "repo-app"]);
        scene.ok(&["scheduled"]);
    }
    assert_eq!(count(&scene, "repo-app"), 3);
}

/// What fails ends its entry and no other, and the exit code says it.
#[test]
fn failed_entry_does_not_stop_the_others() {
    let scene = Scene::new();
    scene.configure("", &[("gone", "keep = { last = 1 }"), ("app", "")]);
    let output = scene.run(&["scheduled"]);
    assert_eq!(code(&output), 1, "{output:?}");
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(problem.contains("gone: backup: "), "{problem}");
    assert_eq!(count(&scene, "repo-app"), 1);
    assert_eq!(code(&scene.run(&["scheduled", "app"])), 0);
}

/// Nothing is done by a configuration that is not understood.
#[test]
fn configuration_is_checked_before_anything_is_done() {
    let scene = Scene::new();
    scene.configure("", &[("app", "colour = 1")]);
    let parts = ["stillfs.toml:6:", "colour", "expected one of"];
    for words in [
        &["scheduled"][..],
        &["scheduled", "--check"],
        &["status"],
        &["metrics"],
    ] {
        scene.fails(2, words, &parts);
    }
    assert!(!scene.at("repo-app").exists());
    scene.configure("", &[("app", "")]);
    assert!(scene.ok(&["scheduled", "--check"]).starts_with("app  /"));
    assert!(!scene.at("repo-app").exists());
    scene.fails(
        2,
        &["scheduled", "ap"],
        &["no [[backup]] ap", "there are: app"],
    );
    scene.fails(
        2,
        &["scheduled", "--config", "none"],
        &["no configuration at none"],
    );
    // A folder of them, in the order of their names.
    fs::create_dir(scene.at("conf")).unwrap();
    scene.fails(2, &["scheduled", "--config", "conf"], &["no *.toml"]);
    fs::rename(scene.at("stillfs.toml"), scene.at("conf/b.toml")).unwrap();
    fs::write(scene.at("conf/a.toml"), "").unwrap();
    fs::write(scene.at("conf/c.toml.example"), "= nothing").unwrap();
    scene.ok(&["scheduled", "--config", "conf"]);
    assert_eq!(count(&scene, "repo-app"), 1);
}

/// Whoever copies what is shown gets no refusal.
#[test]
fn configurations_that_are_shown_are_right() {
    let scene = Scene::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/watching.md")).unwrap();
    let block = document
        .split("```")
        .find_map(|block| block.strip_prefix("toml\n"));
    let example = fs::read_to_string(root.join("examples/units/stillfs.toml.example")).unwrap();
    let help = scene.ok(&["scheduled", "--help"]);
    let of_help = help.split("A configuration:\n").nth(1).unwrap();
    let of_help = of_help.split("Examples:").next().unwrap();
    for text in [block.unwrap(), &example, of_help] {
        fs::write(scene.at("stillfs.toml"), text).unwrap();
        let told = scene.ok(&["scheduled", "--check"]);
        assert_eq!(told, "app  /var/lib/app to /backup/app\n");
    }
}
