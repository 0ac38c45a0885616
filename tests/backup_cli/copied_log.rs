//! Archived logs in a second repository: moments are restored from it as from the first.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::rig::Served;
use crate::scene::{Scene, id, names};

/// A test key and its recipient.
const KEY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// A served database whose log is archived in `repo`, with the number and the digest of each commit.
struct Archived {
    scene: Scene,
    served: Option<Served>,
    commits: Vec<(Value, String)>,
}

impl Archived {
    fn new() -> Self {
        let scene = Scene::new();
        fs::write(scene.at("key"), KEY).unwrap();
        fs::set_permissions(scene.at("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let served = Some(Served::start(&scene.at("live")));
        let archived = Self {
            scene,
            served,
            commits: Vec::new(),
        };
        archived.archive("repo");
        archived
    }

    /// Gives the number of the last commit that is new in it. There may be a gap before.
    fn archive(&self, repository: &str) -> Value {
        let words = ["archive", "live", "--repo", repository, "--json"];
        let summary = self.scene.last(&words);
        assert!(
            [0, 3].map(Value::from).contains(&summary["exit"]),
            "{summary}"
        );
        summary["timestamp"].clone()
    }

    /// One commit, which is archived in a piece of its own.
    fn commit(&mut self) {
        let number = self.commits.len();
        let mut client = self.served.as_ref().unwrap().connect();
        client.set(format!("k{number}").as_bytes(), &[b'v'; 300]);
        let digest = self.scene.digest("live");
        self.commits.push((self.archive("repo"), digest));
    }

    fn stop(&mut self) {
        assert_eq!(self.served.take().unwrap().stop(), 0);
    }

    fn backup(&self) -> Value {
        self.scene.backup(&["live", "--repo", "repo"])
    }

    fn copy(&self, words: &[&str]) -> Value {
        self.scene.last(&[&["copy", "--json"], words].concat())
    }

    /// Restores the state after the commit `number`, from 0 on, out of `repository`, and compares.
    #[track_caller]
    fn expect_moment(&self, number: usize, repository: &[&str]) {
        let (timestamp, digest) = &self.commits[number];
        let timestamp = timestamp.to_string();
        let words = [
            &["restore"],
            repository,
            &["back", "--to-timestamp", &timestamp],
        ];
        let said = self.scene.ok(&words.concat());
        assert_eq!(self.scene.digest("back"), *digest, "{said}");
        fs::remove_dir_all(self.scene.at("back")).unwrap();
    }
}

/// BK13: a point in time is restored from the copy, and from the copy of the copy, over encryption either way;
/// what is there is not copied twice, and every piece is verified.
#[test]
fn moments_are_restored_from_a_copy_of_a_copy() {
    let mut live = Archived::new();
    live.commit();
    live.backup();
    (0..4).for_each(|_| live.commit());
    let with = ["--key-file", "key"];
    live.scene.ok(&["init", "sealed", "--to", RECIPIENT]);
    let to_sealed = [&["repo", "sealed"], &with[..]].concat();
    let report = live.copy(&to_sealed);
    assert_eq!(
        (&report["exit"], &report["log_pieces_left"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(report["log_pieces"], 4, "those after the backup: {report}");
    let from_sealed = ["sealed", "plain", "--from-key-file", "key"];
    assert_eq!(live.copy(&from_sealed)["log_pieces"], 4);

    live.commit();
    let report = live.copy(&to_sealed);
    assert_eq!(report["log_pieces"], 1, "{report}");
    assert_eq!(live.copy(&from_sealed)["log_pieces"], 1);
    for (words, again) in [(&to_sealed[..], "sealed"), (&from_sealed, "plain")] {
        let report = live.copy(words);
        let nothing = [
            "log_pieces",
            "log_pieces_left",
            "bytes_read",
            "bytes_stored",
        ];
        assert!(
            nothing.iter().all(|name| report[name] == 0),
            "{again}: {report}"
        );
    }
    for number in [1, 3, 4] {
        live.expect_moment(number, &[&["sealed"], &with[..]].concat());
        live.expect_moment(number, &["plain"]);
    }
    live.scene
        .ok(&[&["verify", "sealed", "--read-data"], &with[..]].concat());
    live.scene.ok(&["verify", "plain", "--read-data"]);
    // After the end of an engine its small pieces become one, in the copy too.
    live.stop();
    live.archive("repo");
    live.copy(&["repo", "plain"]);
    let pieces = |name: &str| names(&live.scene.at(name).join("log"));
    assert!(pieces("plain").len() < 5, "{:?}", pieces("plain"));
    let is_there = |piece: &String| pieces("repo").contains(piece);
    assert!(pieces("plain").iter().all(is_there));
    live.expect_moment(3, &["plain"]);
}

/// LA7: what a prune of the copy would remove is not copied, and a log that no backup there goes on with is not
/// either.
#[test]
fn only_log_that_a_backup_of_the_copy_goes_on_with_is_copied() {
    let mut live = Archived::new();
    let first = live.backup();
    (0..3).for_each(|_| live.commit());
    let second = live.backup();
    live.commit();
    let report = live.copy(&["repo", "none", id(&first)]);
    assert_eq!(report["log_pieces"], 4, "{report}");
    let report = live.copy(&["repo", "newest", "latest"]);
    assert_eq!(report["log_pieces"], 1, "{report}");
    live.scene.ok(&["copy", "repo", "none"]);
    live.scene.ok(&["forget", "none", id(&first), "--prune"]);
    let kept = names(&live.scene.at("none/log"));
    assert_eq!(kept, names(&live.scene.at("newest/log")));
    let report = live.copy(&["repo", "none", id(&second)]);
    assert_eq!(
        (&report["log_pieces"], &report["exit"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(names(&live.scene.at("none/log")), kept);
    live.stop();
}

/// LA6, LA8: a log that the other repository archives by itself, with other numbers, is left alone, and one
/// with the same numbers is filled up; what is damaged is named, and not copied.
#[test]
fn log_of_another_archive_is_left_alone_and_damage_is_named() {
    let mut live = Archived::new();
    live.backup();
    live.commit();
    live.archive("same");
    // Nobody archives: an engine that ends keeps nothing then, so that the next archive begins with another
    // start of it, and the first one has a gap.
    fs::remove_dir_all(live.scene.at("live/archive")).unwrap();
    live.stop();
    live.served = Some(Served::start(&live.scene.at("live")));
    live.archive("later");
    live.commit();
    live.archive("later");
    live.commit();
    live.archive("later");
    let report = live.copy(&["repo", "later"]);
    assert_eq!(report["exit"], 3, "{report}");
    assert!(report["log_pieces_left"].as_u64() > Some(0), "{report}");
    let problem = report["log_failed"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("by itself"), "{report}");
    let report = live.copy(&["repo", "same"]);
    assert_eq!(report["exit"], 0, "{report}");
    assert!(report["log_pieces"].as_u64() > Some(0), "{report}");
    let is_gap = |name: &&String| name.ends_with("-gap");
    let gaps = |name: &str| {
        names(&live.scene.at(name).join("log"))
            .iter()
            .filter(is_gap)
            .count()
    };
    assert_eq!((gaps("repo"), gaps("same")), (1, 1));

    let folder = live.scene.at("repo/log");
    let piece = &names(&folder)[0];
    let mut bytes = fs::read(folder.join(piece)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(folder.join(piece), bytes).unwrap();
    let report = live.copy(&["repo", "third"]);
    assert_eq!(
        (&report["exit"], &report["log_pieces_left"]),
        (&json!(12), &json!(1))
    );
    assert_eq!(report["log_failed"][0]["name"], format!("log/{piece}"));
    assert!(!names(&live.scene.at("third/log")).contains(piece));
    live.stop();
}
