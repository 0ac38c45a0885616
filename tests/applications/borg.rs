//! borg, with a repository and a base directory of its own in a rig.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::end_of;
use crate::rig::Rig;

/// A repository.
#[derive(Debug)]
pub struct Borg {
    repository: PathBuf,
    base: PathBuf,
}

impl Borg {
    pub fn init(rig: &Rig) -> Self {
        let (repository, base) = (rig.path("borg"), rig.path("borg-base"));
        let borg = Self { repository, base };
        borg.run(&["init", "-e", "none"], Path::new("/"));
        borg
    }

    /// The list of what was done with each file: a letter, a space, its path.
    pub fn create(&self, name: &str, path: &Path) -> String {
        let archive = format!("::{name}");
        let words = ["create", "--list", &archive, path.to_str().unwrap()];
        self.run(&words, Path::new("/"))
    }

    /// Restores a backup of `path`; gives where it is.
    pub fn extract(&self, name: &str, path: &Path, to: &Path) -> PathBuf {
        self.run(&["extract", &format!("::{name}")], to);
        to.join(path.strip_prefix("/").unwrap())
    }

    fn run(&self, words: &[&str], at: &Path) -> String {
        let mut borg = Command::new("borg");
        borg.env("BORG_BASE_DIR", &self.base)
            .env("BORG_REPO", &self.repository)
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        let ended = end_of(borg.args(words).current_dir(at));
        // Plain files are live: borg warns of those that change while it reads them.
        let has_warned =
            ended.code() == 1 && ended.err.contains("file changed while we backed it up");
        assert!(ended.code() == 0 || has_warned, "{words:?}: {ended:?}");
        ended.err
    }
}
