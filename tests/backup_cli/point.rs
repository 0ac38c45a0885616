//! Points in time, with the log in the repository.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::rig::Served;
use crate::scene::{Scene, names};

/// The machine's time as people write it, surely between the commit before and the one after.
fn time_between_commits() -> String {
    sleep(Duration::from_millis(3));
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
    sleep(Duration::from_millis(3));
    now.to_string()
}

/// A database that is written to, with what it had at each of some times.
struct Diary {
    served: Served,
    name: &'static str,
    moments: Vec<(String, String)>,
}

impl Diary {
    fn open(scene: &Scene, name: &'static str) -> Self {
        Self {
            served: Served::start(&scene.at(name)),
            name,
            moments: Vec::new(),
        }
    }

    fn write(&mut self, scene: &Scene, value: &[u8]) {
        let mut client = self.served.connect();
        for number in 0..4_u8 {
            client.set(&[b'k', number, value[0] % 7], &value.repeat(60));
        }
        client.set(b"last", value);
        let at = time_between_commits();
        self.moments.push((at, scene.digest(self.name)));
    }
}

/// BK13: what was there at a time is there again, to the digest of the whole content, over a restart of the
/// engine; before the first backup and after the last commit of the archive nothing is, and nothing is made.
#[test]
fn every_time_that_is_covered_can_be_restored() {
    let scene = Scene::new();
    let mut diary = Diary::open(&scene, "live");
    diary.write(&scene, b"0");
    scene.ok(&["archive", "live", "--repo", "repo"]);
    scene.backup(&["live", "--repo", "repo"]);
    for value in [b"1", b"2"] {
        diary.write(&scene, value);
    }
    assert_eq!(diary.served.stop(), 0);
    diary.served = Served::start(&scene.at("live"));
    for value in [b"3", b"4"] {
        diary.write(&scene, value);
    }
    scene.ok(&["archive", "live", "--repo", "repo"]);
    let before = names(&scene.at(""));

    for (index, (time, digest)) in diary.moments.iter().enumerate().take(4) {
        let name = format!("at{index}");
        let said = scene.ok(&["restore", "repo", &name, "--to-time", time]);
        assert!(said.contains("replayed"), "{said}");
        assert_eq!(scene.digest(&name), *digest, "{time}: {said}");
        scene.ok(&["check", &name]);
        assert_eq!(names(&scene.at(&name))[..1], ["data.pages"], "{said}");
        std::fs::remove_dir_all(scene.at(&name)).unwrap();
    }
    for time in ["2001-01-01 12:00", diary.moments[4].0.as_str()] {
        let words = ["restore", "repo", "none", "--to-time", time];
        scene.fails(
            1,
            &words,
            &[
                "is not covered",
                "covered is",
                "timestamps",
                "by --to-timestamp ",
            ],
        );
        scene.fails(
            1,
            &[&words[..], &["--dry-run"]].concat(),
            &["is not covered"],
        );
    }
    scene.fails(
        2,
        &["restore", "repo", "none", "--to-time", "noon"],
        &["no time"],
    );
    scene.fails(
        2,
        &[
            "restore",
            "repo",
            "none",
            "--to-lsn",
            "9",
            "--history",
            "zz",
        ],
        &["no such history"],
    );
    assert_eq!(names(&scene.at("")), before);
}

/// BK9, BK13: what is restored goes on in a line of its own, which has what was before; what was given up is
/// on the old line still.
#[test]
fn restored_database_goes_on_and_the_old_line_stays() {
    let scene = Scene::new();
    let mut old = Diary::open(&scene, "live");
    scene.ok(&["archive", "live", "--repo", "repo"]);
    let facts = scene.backup(&["live", "--repo", "repo"]);
    let history = facts["databases"][0]["history"]
        .as_str()
        .unwrap()
        .to_owned();
    for value in [b"1", b"2", b"3", b"4"] {
        old.write(&scene, value);
    }
    scene.ok(&["archive", "live", "--repo", "repo"]);
    assert_eq!(old.served.stop(), 0);
    let (time, digest) = old.moments[1].clone();
    let summary = scene.last(&["restore", "repo", "new", "--to-time", &time, "--json"]);
    assert_eq!(scene.digest("new"), digest);
    let reached = &summary["reached"];
    assert_eq!(reached["history"], history.as_str(), "{summary}");
    let timestamp = reached["timestamp"].to_string();

    let mut new = Diary::open(&scene, "new");
    for value in [b"7", b"8", b"9"] {
        new.write(&scene, value);
    }
    scene.ok(&["archive", "new", "--repo", "repo"]);
    assert_eq!(new.served.stop(), 0);
    // Without a backup of its own, the line of the new one leads over the old one's.
    let restored = |name: &str, more: &[&str]| {
        let words = [&["restore", "repo", name, "--json"], more].concat();
        let summary = scene.last(&words);
        assert_eq!(summary["exit"], 0, "{summary}");
        (scene.digest(name), summary["reached"]["history"].clone())
    };
    let (found, line) = restored("a", &["--to-time", &new.moments[1].0]);
    assert_eq!(found, new.moments[1].1);
    assert_ne!(line, history.as_str());
    let (found, _) = restored("b", &["--to-time", &old.moments[0].0]);
    assert_eq!(found, old.moments[0].1);
    let (found, _) = restored("c", &["--to-timestamp", &timestamp]);
    assert_eq!(found, digest);
    let given_up = ["--to-time", &old.moments[2].0, "--history", &history[..8]];
    let (found, line) = restored("d", &given_up);
    assert_eq!(
        (found, line),
        (old.moments[2].1.clone(), history.as_str().into())
    );
}

/// BK8, RP4: killed at whatever moment, nothing stands at the target, or all of it; the next try makes it whole,
/// whatever the one before had replayed already.
#[test]
fn restore_that_is_killed_is_made_again() {
    let scene = Scene::new();
    let mut diary = Diary::open(&scene, "live");
    scene.ok(&["archive", "live", "--repo", "repo"]);
    scene.backup(&["live", "--repo", "repo"]);
    for value in 0..30_u8 {
        diary.write(&scene, &[b'a' + value; 90]);
    }
    scene.ok(&["archive", "live", "--repo", "repo"]);
    assert_eq!(diary.served.stop(), 0);
    let (time, digest) = &diary.moments[28];
    let words = ["restore", "repo", "back", "--to-time", time];
    let mut killed = 0;
    for wait in 0..16 {
        let mut restore = scene.command(&words);
        let mut restore = restore.stdout(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(2 * wait));
        restore.kill().unwrap();
        if restore.wait().unwrap().success() {
            assert_eq!(scene.digest("back"), *digest);
            std::fs::remove_dir_all(scene.at("back")).unwrap();
        } else {
            killed += 1;
            if scene.at("back").exists() {
                // Killed behind the exchange.
                assert_eq!(scene.digest("back"), *digest);
                std::fs::remove_dir_all(scene.at("back")).unwrap();
            }
        }
    }
    assert!(killed > 0);
    scene.ok(&words);
    assert_eq!(scene.digest("back"), *digest);
    scene.ok(&["check", "back"]);
    assert_eq!(names(&scene.at("")), ["back", "live", "repo"]);
}

/// A repository of something else says so.
#[test]
fn databases_in_a_directory_are_refused_by_time() {
    let scene = Scene::new();
    crate::scene::make_sqlite(&scene.at("app.db"), "WAL");
    scene.backup(&["app.db", "--repo", "repo"]);
    let words = ["restore", "repo", "back.db", "--to-timestamp", "1"];
    scene.fails(
        2,
        &words,
        &["no backup whose source is one stillfs database"],
    );
}
