//! One object that cannot be had is neither lost nor damaged: nothing older is restored in its place, nothing
//! is stored again for it, nothing is recorded, and nobody waits for the next one too (BK10, LA3).

use std::path::PathBuf;

use crate::bucket::{Bucket, REPO};
use crate::proxy::Act;
use crate::rig::{Served, expect_problem};
use crate::scene::content;

const BACKUP: &[&str] = &["backup", "app.db", "--repo", REPO];
const ARCHIVE: &[&str] = &["archive", "live", "--repo", REPO];
const COPY: &[&str] = &["copy", REPO, "copied"];
const PRUNE: &[&str] = &["forget", REPO, "--keep-last", "9", "--prune"];

/// What is stored, but the locks and who did what.
fn stored(bucket: &Bucket) -> Vec<(PathBuf, String)> {
    let folders = ["backups", "packs", "marks", "damaged", "log"];
    let there = folders.map(|name| bucket.folder().join(name));
    let there = there.iter().filter(|folder| folder.exists());
    let mut all: Vec<_> = there.flat_map(|folder| content(folder)).collect();
    // Times of folders say nothing.
    all.retain(|(_, what)| !what.ends_with(" directory"));
    all
}

/// No object whose path has `part` in it can be read; each of `commands` says so, once, and changes nothing.
/// `%` in the part is the newest backup.
fn refuse(part: &str, commands: &[&[&str]]) {
    let Some(bucket) = Bucket::new() else { return };
    bucket.make_app(1);
    let served = Served::start(&bucket.scene.at("live"));
    bucket.scene.ok(ARCHIVE);
    bucket.scene.backup(&["live", "--repo", REPO]);
    served.connect().set(b"k", b"v");
    bucket.scene.ok(ARCHIVE);
    served.connect().set(b"k", b"w");
    let first = bucket.backup();
    bucket.step();
    let second = bucket.backup();
    bucket.step();
    let before = stored(&bucket);
    let part = part.replace('%', &second);
    bucket.proxy.plan(move |request| {
        let is_it = request.path().contains(&part) && !request.is_write();
        if is_it { Act::Refuse } else { Act::Pass }
    });
    for words in commands {
        let output = bucket.scene.run(words);
        expect_problem(&output, 15, &["cannot be reached"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let count = said.matches("cannot be reached").count();
        assert_eq!(count, 1, "{words:?}: {said}");
    }
    bucket.proxy.pass();
    assert_eq!(stored(&bucket), before);
    assert!(!bucket.scene.at("none").exists());
    bucket.verify();
    bucket.expect_rows(&first, 1);
    bucket.expect_rows(&second, 2);
    assert_eq!(served.stop(), 0);
}

#[test]
fn list_that_cannot_be_had_is_not_passed_over() {
    let latest: &[&str] = &["restore", REPO, "none", "--latest"];
    refuse(
        "/backups/%",
        &[BACKUP, &["backups", REPO], latest, COPY, PRUNE],
    );
}

#[test]
fn pack_that_cannot_be_had_is_not_damaged() {
    let verify: &[&str] = &["verify", REPO, "--read-data"];
    refuse("/packs/", &[BACKUP, verify, COPY, PRUNE]);
}

#[test]
fn piece_of_the_log_that_cannot_be_had_is_no_gap() {
    let moment: &[&str] = &["restore", REPO, "none", "--to-timestamp", "1"];
    refuse("/log/", &[ARCHIVE, moment]);
}
