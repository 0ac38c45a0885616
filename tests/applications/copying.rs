//! A copy of a mount by each tool that is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::borg::Borg;
use crate::process::{has_tool, succeed};
use crate::restic::Restic;
use crate::rig::Rig;

/// Copied with these, in this order.
const TOOLS: [&str; 4] = ["tar", "rsync", "restic", "borg"];

/// Copies what `mount` shows with every tool and restores each copy; `between` runs after each.
pub fn copies(rig: &Rig, mount: &Path, mut between: impl FnMut()) -> Vec<PathBuf> {
    let mut copies = Vec::new();
    for tool in TOOLS.into_iter().filter(|tool| has_tool(tool)) {
        let to = rig.dir(&format!("copy-{tool}"));
        let copy = match tool {
            "tar" => tar(rig, mount, to),
            "rsync" => rsync(mount, to),
            "restic" => {
                let restic = Restic::init(rig);
                restic.backup(mount);
                restic.restore(mount, &to)
            }
            _ => {
                let borg = Borg::init(rig);
                borg.create("one", mount);
                borg.extract("one", mount, &to)
            }
        };
        assert_no_helper_files(&copy);
        copies.push(copy);
        between();
    }
    copies
}

fn tar(rig: &Rig, mount: &Path, to: PathBuf) -> PathBuf {
    let archive = rig.path("copy.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive);
    succeed(tar.arg("-C").arg(mount).arg("."));
    let mut untar = Command::new("tar");
    untar.arg("-xpf").arg(&archive).arg("-C");
    succeed(untar.arg(&to));
    to
}

fn rsync(mount: &Path, to: PathBuf) -> PathBuf {
    let from = format!("{}/", mount.display());
    succeed(Command::new("rsync").arg("-a").arg(from).arg(&to));
    to
}

/// A log, index or journal restored beside a database would be taken for its own (A3).
fn assert_no_helper_files(copy: &Path) {
    let listed = succeed(Command::new("find").arg(copy).args(["-printf", "%P\n"]));
    let is_helper = |name: &&str| {
        ["-wal", "-shm", "-journal"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    assert_eq!(listed.lines().find(is_helper), None, "{listed}");
}

/// The bytes of one file must be the same in each copy.
#[track_caller]
pub fn assert_same_file(copies: &[PathBuf], name: &str) {
    let first = fs::read(copies[0].join(name)).unwrap();
    for copy in copies {
        let found = fs::read(copy.join(name)).unwrap();
        assert!(found == first, "{name}: {}", copy.display());
    }
}
