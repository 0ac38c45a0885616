//! A folder with sources, repositories and a configuration, and the program run in it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{code, expect_problem, stdout, stillfs};

/// A test key and its recipient.
pub(crate) const ALICE: [&str; 2] = [
    "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
    "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
];

pub(crate) struct Scene {
    root: TempDir,
}

impl Scene {
    /// With a directory `app` in it that holds a database and 100 KiB.
    pub(crate) fn new() -> Self {
        let scene = Self {
            root: tempfile::tempdir().unwrap(),
        };
        scene.make("app");
        scene
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    /// Makes the repository encrypted, for the key in the file `alice`; the options that open it.
    pub(crate) fn encrypt(&self, repository: &str) -> String {
        let key = self.at("alice");
        fs::write(&key, ALICE[0]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        self.ok(&["init", repository, "--to", ALICE[1]]);
        format!("options = [\"--key-file\", \"{}\"]\n", key.display())
    }

    pub(crate) fn make(&self, name: &str) {
        fs::create_dir(self.at(name)).unwrap();
        // What has no database is no source.
        let db = rusqlite::Connection::open(self.at(name).join("app.db")).unwrap();
        db.execute_batch("CREATE TABLE t (a)").unwrap();
        drop(db);
        let byte = |at: u64| ((at * at) >> 7).to_le_bytes()[0];
        let content: Vec<u8> = (0..100 << 10).map(byte).collect();
        fs::write(self.at(name).join("file"), content).unwrap();
    }

    /// Writes `stillfs.toml`: for each name its entry, from the folder of that name to `repo-NAME`, with
    /// the lines `more`.
    pub(crate) fn configure(&self, head: &str, entries: &[(&str, &str)]) {
        let mut text = format!("{head}\n");
        for (name, more) in entries {
            let (source, repo) = (self.at(name), self.at(&format!("repo-{name}")));
            let (source, repo) = (source.display(), repo.display());
            writeln!(
                text,
                "[[backup]]\nname = \"{name}\"\nsource = \"{source}\"\nrepo = \"{repo}\"\n{more}"
            )
            .unwrap();
        }
        fs::write(self.at("stillfs.toml"), text).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = stillfs();
        command.args(words).current_dir(self.root.path());
        command.env_remove("STILLFS_REPO");
        // Mounts of whoever runs the tests are not ours.
        command.env("XDG_RUNTIME_DIR", self.root.path());
        command.env("STILLFS_CONFIG", self.at("stillfs.toml"));
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        stdout(&self.run(words))
    }

    #[track_caller]
    pub(crate) fn fails(&self, exit: i32, words: &[&str], parts: &[&str]) {
        let output = self.run(words);
        assert!(exit != 0 && code(&output) == exit, "{words:?}: {output:?}");
        expect_problem(&output, exit, parts);
    }

    #[track_caller]
    pub(crate) fn object(&self, words: &[&str]) -> Value {
        serde_json::from_slice(&self.run(words).stdout).unwrap()
    }

    /// Kind and name of each alert, as `stillfs status --alerts` raises them, which exits as it should.
    #[track_caller]
    pub(crate) fn alerts(&self) -> Vec<String> {
        let output = self.run(&["status", "--alerts", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let alerts = status["alerts"].as_array().unwrap();
        let exit = if alerts.is_empty() { 0 } else { 4 };
        assert_eq!(code(&output), exit, "{status}");
        let told = alerts.iter().map(|alert| {
            let text = |name: &str| alert[name].as_str().unwrap_or("-").to_owned();
            assert!(
                !text("next").is_empty() && !text("what").is_empty(),
                "{alert}"
            );
            format!("{} {}", text("alert"), text("name"))
        });
        told.collect()
    }

    /// Puts these lines in the place of the audit log of a repository.
    pub(crate) fn set_log(&self, repository: &str, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.at(repository).join("audit/newest"), text).unwrap();
    }

    /// The lines of the audit log of a repository.
    pub(crate) fn log(&self, repository: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.at(repository).join("audit/newest"));
        let text = text.unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}
