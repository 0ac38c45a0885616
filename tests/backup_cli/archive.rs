//! The log of a served database, followed, while the engine and the archiver are killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stillfs::os::Host;
use stillfs::repository::Repository;
use stillfs::repository::log::{LogCatalog, LogLine};

use crate::rig::{Client, Served};
use crate::scene::{Scene, id, lines};

const PATIENCE: Duration = Duration::from_secs(60);

/// `archive live --repo repo --follow`. Dropping it kills it.
struct Following {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Following {
    fn start(scene: &Scene) -> Self {
        let words = "archive live --repo repo --follow --max-lag 1s --json";
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = scene.command(&words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Its next line.
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// SIGTERM: it archives the rest, says what it came to, and its exit code is 0.
    fn stop(mut self) -> Value {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let summary = loop {
            let line = self.line();
            if line["message_type"] != "progress" {
                break line;
            }
        };
        assert_eq!(summary["message_type"], "summary", "{summary}");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        summary
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `look` says of the one line of the repository.
fn of_line<T>(scene: &Scene, look: impl FnOnce(&LogLine) -> T) -> Option<T> {
    let repository = Repository::open(&Host::system(), &scene.at("repo")).ok()?;
    let catalog = LogCatalog::read(&repository).unwrap();
    assert_eq!(catalog.damaged(), []);
    catalog.lines().next().map(look)
}

/// The number of the newest commit that is archived.
fn archived(scene: &Scene) -> u64 {
    let newest = of_line(scene, |line| {
        let last = line.runs.last().and_then(|run| run.last_commit);
        last.map_or(0, |commit| commit.timestamp.0)
    });
    newest.unwrap_or_default()
}

#[track_caller]
fn wait_archived(scene: &Scene, commits: u64) {
    let begun = Instant::now();
    while archived(scene) < commits {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} of {commits}",
            archived(scene)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Each is one commit.
fn set(client: &mut Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        client.set(format!("key{number}").as_bytes(), &[b'v'; 500]);
    }
}

/// LA1, LA3, LA8: whoever is killed, no commit is missing in the end, in one run without a gap; a second
/// archiver is refused, a backup is not; and a damaged piece is named.
#[test]
fn archive_follows_over_kills_of_the_engine_and_of_itself() {
    let scene = Scene::new();
    let options = ["--listen", "127.0.0.1:0", "--checkpoint-size", "128K"];
    let start = || Served::start_with(&scene.at("live"), &options);
    let served = start();
    set(&mut served.connect(), 0..20);
    let mut following = Following::start(&scene);
    assert_eq!(following.line()["message_type"], "progress");
    set(&mut served.connect(), 20..400);
    let second = ["archive", "live", "--repo", "repo"];
    scene.fails(11, &second, &["another process archives this log"]);
    scene.backup(&["live", "--repo", "repo"]);
    served.crash();
    // What the killed engine left is taken without it.
    wait_archived(&scene, 400);

    let served = start();
    set(&mut served.connect(), 400..600);
    wait_archived(&scene, 600);
    drop(following);
    set(&mut served.connect(), 600..900);
    let following = Following::start(&scene);
    set(&mut served.connect(), 900..1000);
    let summary = following.stop();
    assert_eq!(
        (&summary["timestamp"], &summary["gaps"]),
        (&1000.into(), &serde_json::json!([])),
        "{summary}"
    );
    assert_eq!(served.stop(), 0);
    // Notes of the stop, but no commit.
    let last = scene.last(&["archive", "live", "--repo", "repo", "--json"]);
    assert_eq!((&last["commits"], &last["exit"]), (&0.into(), &0.into()));

    let (runs, gaps, first, last) = of_line(&scene, |line| {
        let run = &line.runs[0];
        let number =
            |commit: Option<stillfs::repository::log::CommitStamp>| commit.unwrap().timestamp.0;
        let (first, last) = (number(run.first_commit), number(run.last_commit));
        (line.runs.len(), line.gaps.len(), first, last)
    })
    .unwrap();
    assert_eq!((runs, gaps, last), (1, 0, 1000));
    assert!(first <= 400, "{first}");
    let verified = scene.last(&["verify", "repo", "--read-data", "--json"]);
    assert_eq!(verified["findings"], serde_json::json!([]), "{verified}");
    assert!(verified["log_piece_count"].as_u64() > Some(0), "{verified}");

    let folder = scene.at("repo/log");
    let piece = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let mut bytes = std::fs::read(piece.path()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(piece.path(), bytes).unwrap();
    let found = scene.last(&["verify", "repo", "--read-data", "--json"]);
    let object = format!("log/{}", piece.file_name().to_str().unwrap());
    assert_eq!(
        (&found["exit"], &found["findings"][0]["object"]),
        (&12.into(), &object.into()),
        "{found}"
    );
}

/// LA4, LA5, LA7: beyond the limit of the log the oldest goes, which is said, and the next backup is full; a
/// prune removes what is older than the oldest backup.
#[test]
fn gap_is_told_and_the_next_backup_is_full_and_old_pieces_are_pruned() {
    let scene = Scene::new();
    let sizes = ["--checkpoint-size", "64K", "--wal-limit", "256K"];
    let options = [&["--listen", "127.0.0.1:0"][..], &sizes[..]].concat();
    let served = Served::start_with(&scene.at("live"), &options);
    let mut client = served.connect();
    set(&mut client, 0..50);
    let archive = ["archive", "live", "--repo", "repo", "--json"];
    assert_eq!(scene.last(&archive)["exit"], 0);
    let first = scene.backup(&["live", "--repo", "repo"]);
    assert_eq!(first["kind"], "full");
    // What ends before it is needless from here on; how much that is depends on when segments end.
    scene.ok(&["forget", "repo", "--prune"]);
    set(&mut client, 50..100);
    let second = scene.backup(&["live", "--repo", "repo"]);
    assert_eq!(second["kind"], "incremental");
    set(&mut client, 100..500);
    let summary = scene.last(&archive);
    assert_eq!(summary["exit"], 3, "{summary}");
    assert_eq!(summary["gaps"].as_array().unwrap().len(), 1, "{summary}");
    assert_eq!(scene.last(&archive)["gaps"], serde_json::json!([]));
    let after = scene.backup(&["live", "--repo", "repo"]);
    assert_eq!(after["kind"], "full");
    set(&mut client, 500..510);
    assert_eq!(
        scene.backup(&["live", "--repo", "repo"])["kind"],
        "incremental"
    );

    let pieces = || std::fs::read_dir(scene.at("repo/log")).unwrap().count();
    let before = pieces();
    scene.ok(&["forget", "repo", "--prune"]);
    assert_eq!(
        pieces(),
        before,
        "the oldest backup may go on with all of them"
    );
    let forget = [
        "forget",
        "repo",
        id(&first),
        id(&second),
        "--prune",
        "--json",
    ];
    let output = scene.run(&forget);
    let pruned = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let pruned = pruned.last().unwrap().unwrap();
    let removed = pruned["prune"]["log_pieces_removed"].as_u64();
    assert!(removed > Some(0) && pieces() < before, "{pruned}");
    assert_eq!(lines(&scene.run(&archive)).pop().unwrap()["exit"], 0);
    assert_eq!(served.stop(), 0);
}
