//! restic, with a repository of its own in a rig.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::succeed;
use crate::rig::Rig;

/// A repository.
#[derive(Debug)]
pub struct Restic {
    repository: PathBuf,
}

impl Restic {
    pub fn init(rig: &Rig) -> Self {
        let repository = rig.path("restic");
        let restic = Self { repository };
        restic.run(&["init"]);
        restic
    }

    /// What it says last of a backup: its summary.
    pub fn backup(&self, path: &Path) -> Value {
        let said = self.run(&["backup", path.to_str().unwrap()]);
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }

    /// Restores the latest backup, which was one of `path`; gives where it is.
    pub fn restore(&self, path: &Path, to: &Path) -> PathBuf {
        self.run(&["restore", "latest", "--target", to.to_str().unwrap()]);
        to.join(path.strip_prefix("/").unwrap())
    }

    fn run(&self, words: &[&str]) -> String {
        let mut restic = Command::new("restic");
        restic.arg("-r").arg(&self.repository);
        restic.args(["--no-cache", "--json"]).args(words);
        succeed(restic.env("RESTIC_PASSWORD", "x"))
    }
}
