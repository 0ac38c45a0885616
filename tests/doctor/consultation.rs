//! Asking `stillfs doctor`, following its advice, and a mount namespace to be ill in.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::namespace::LET_GO;
use crate::process::{Ended, end_of, is_root, stillfs};

/// What it found; fails unless the answer keeps its form.
pub fn doctor(path: Option<&Path>) -> Vec<Value> {
    let mut command = stillfs();
    command.arg("doctor").arg("--json").args(path);
    understood(&end_of(&mut command))
}

pub fn doctor_of(path: &Path) -> Vec<Value> {
    doctor(Some(path))
}

/// The findings in what `doctor --json` printed.
pub fn understood(ended: &Ended) -> Vec<Value> {
    let findings: Vec<Value> = serde_json::from_str(&ended.out).expect(&ended.err);
    for finding in &findings {
        let fields: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["id", "level", "message", "remedy", "subject"]);
        let level = finding["level"].as_str().unwrap();
        assert!(["ok", "warning", "problem"].contains(&level), "{finding}");
        assert!(finding["remedy"].is_string() || finding["remedy"].is_null());
        assert!(level != "problem" || finding["message"] != "", "{finding}");
    }
    let is_sound = findings.iter().all(|one| one["level"] != "problem");
    assert_eq!(ended.code(), i32::from(!is_sound), "{ended:?}");
    findings
}

/// The finding with this id whose subject contains `subject`.
pub fn find(findings: &[Value], id: &str, subject: &str) -> Option<Value> {
    let is_it =
        |one: &&Value| one["id"] == id && one["subject"].as_str().unwrap().contains(subject);
    findings.iter().find(is_it).cloned()
}

#[track_caller]
pub fn expect(findings: &[Value], id: &str, subject: &str, level: &str, text: &str) -> Value {
    let found = find(findings, id, subject);
    let found = found.unwrap_or_else(|| panic!("no {id} of {subject}: {findings:#?}"));
    assert_eq!(found["level"], level, "{found}");
    assert!(found["message"].as_str().unwrap().contains(text), "{found}");
    found
}

/// Nothing of this id is wrong with `subject` any more.
#[track_caller]
pub fn expect_well(findings: &[Value], id: &str, subject: &str) {
    let found = find(findings, id, subject);
    assert!(
        found.as_ref().is_none_or(|one| one["level"] == "ok"),
        "{found:?}"
    );
}

fn search_path() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_stillfs")).parent().unwrap();
    let usual = std::env::var("PATH").unwrap();
    format!("{}:{usual}", program.display())
}

/// Runs what a finding advises, as a user would paste it.
pub fn mend(finding: &Value) {
    let ended = follow(finding);
    assert!(ended.status.success(), "{finding}: {ended:?}");
}

/// The same, however it ends: who unmounts a view whose pin is lost may be told so.
pub fn follow(finding: &Value) -> Ended {
    let remedy = finding["remedy"].as_str().expect("a remedy");
    let mut shell = Command::new("bash");
    end_of(shell.args(["-c", remedy]).env("PATH", search_path()))
}

/// A mount namespace with `/run` of its own, as long as this lives.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// `None` where there is none to be had, with a line that says so.
    pub fn new() -> Option<Self> {
        Self::keeping(Path::new(""))
    }

    /// The same with a view that is mounted already.
    pub fn keeping(view: &Path) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]);
        let script = format!("{LET_GO}\nmount -t tmpfs none /run && echo up && exec cat");
        unshare.args(["sh", "-c", &script]).env("KEPT", view);
        let spawned = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut holder) = spawned else {
            println!("SKIPPED: unshare is not installed");
            return None;
        };
        let mut line = String::new();
        let mut out = std::io::BufReader::new(holder.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let namespace = Self { holder };
        if line != "up\n" {
            println!("SKIPPED: no mount namespace");
            return None;
        }
        Some(namespace)
    }

    /// Runs a script inside.
    pub fn run(&self, script: &str) -> Ended {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        end_of(
            enter
                .args(["bash", "-c", script])
                .env("PATH", search_path()),
        )
    }

    pub fn must(&self, script: &str) {
        let ended = self.run(script);
        assert!(ended.status.success(), "{script}: {ended:?}");
    }

    /// What `doctor` finds inside, started with these words before it.
    pub fn doctor(&self, before: &str) -> Vec<Value> {
        understood(&self.run(&format!("{before} stillfs doctor --json")))
    }

    pub fn mend(&self, finding: &Value) {
        self.must(finding["remedy"].as_str().expect("a remedy"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
