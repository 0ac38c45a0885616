//! The units and the cron line that scripts/install-units installs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::rig::code;
use crate::scene::Scene;

fn install(scene: &Scene, words: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-units");
    let mut command = Command::new(script);
    command.arg("--prefix").arg(scene.at("root"));
    command
        .args(["--binary", env!("CARGO_BIN_EXE_stillfs")])
        .args(words);
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    output
}

/// Every file below the folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn units_are_installed_replaced_and_taken_away() {
    let scene = Scene::new();
    let root = scene.at("root");
    let said = install(&scene, &["--dry-run"]);
    assert!(
        String::from_utf8_lossy(&said.stdout).contains("write "),
        "{said:?}"
    );
    assert!(!root.exists(), "a dry run writes nothing");
    for _ in 0..2 {
        install(&scene, &[]);
        let names: Vec<_> = files(&root)
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        let expected = [
            "stillfs.toml.example",
            "stillfs-metrics.service",
            "stillfs-scheduled.service",
            "stillfs-scheduled.timer",
        ];
        assert_eq!(names, expected);
    }
    fs::write(root.join("etc/stillfs/stillfs.toml"), "mine").unwrap();
    install(&scene, &["--cron"]);
    let left: Vec<_> = files(&root)
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(
        left,
        ["stillfs", "stillfs.toml", "stillfs.toml.example"],
        "not both"
    );
    install(&scene, &["--uninstall"]);
    assert_eq!(
        files(&root),
        [root.join("etc/stillfs/stillfs.toml")],
        "what is the user's stays"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-units");
    let odd = Command::new(script)
        .args(["--dry-run", "--binary", "a b"])
        .output()
        .unwrap();
    assert_eq!(code(&odd), 2);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIPPED: systemd-analyze is missing, so the units cannot be checked");
        return;
    }
    let scene = Scene::new();
    install(&scene, &[]);
    let folder = scene.at("root/etc/systemd/system");
    let units = files(&folder);
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).args(&units);
        let output = command.output().unwrap();
        (
            code(&output),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(verify(), (0, String::new()));
    // It would find something.
    let service = folder.join("stillfs-scheduled.service");
    let text = fs::read_to_string(&service).unwrap();
    fs::write(
        &service,
        text.replace("ProtectClock=yes", "ProtectClok=yes"),
    )
    .unwrap();
    assert!(verify().1.contains("ProtectClok"));
}

/// The words after a key of a unit, or of the line of the crontab behind its user.
fn command_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let line = line.or_else(|| {
        text.lines()
            .find_map(|line| line.split_once("  root  "))
            .map(|(_, line)| line)
    });
    line.unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// With the environment that systemd and cron give: nearly none.
#[test]
fn what_the_units_run_makes_a_backup() {
    let scene = Scene::new();
    scene.configure("", &[("app", "verify = { every = \"1d\" }")]);
    install(&scene, &[]);
    let unit = command_of(&scene.at("root/etc/systemd/system/stillfs-scheduled.service"));
    install(&scene, &["--cron"]);
    let mut line = command_of(&scene.at("root/etc/cron.d/stillfs"));
    // Problems are mailed, and nothing else.
    assert_eq!(line.pop().unwrap(), ">/dev/null");
    assert!(line.ends_with(&["scheduled".to_owned()]), "{line:?}");
    for (count, words) in [unit, line].iter().enumerate() {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/");
        // Where these tests may not write is the configuration.
        command.env("STILLFS_CONFIG", scene.at("stillfs.toml"));
        let output = command.output().unwrap();
        assert_eq!(code(&output), 0, "{output:?}");
        let listed = scene.object(&["backups", "repo-app", "--json"]);
        assert_eq!(listed["backup_count"], count + 1);
    }
    assert_eq!(scene.alerts(), [""; 0]);
}
