//! BACKUP and RESTORE as statements of the server (ST1 to ST4).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use stillfs::os::Host;
use stillfs::repository::{Repository, read_audit};

use crate::encrypted::{ALICE, put};
use crate::rig::{Client, Served, stdout};
use crate::scene::{LoadedEngine, Scene, expect_whole, id, make_sqlite, names};

const PATIENCE: Duration = Duration::from_secs(60);

/// `serve` with a backup root, and some keys.
pub(crate) fn serve(scene: &Scene, dir: &str, options: &[&str]) -> Served {
    let root = scene.at("root");
    let _ = fs::create_dir(&root);
    let root = root.to_str().unwrap().to_owned();
    let words = ["--listen", "127.0.0.1:0", "--backup-root", &root];
    Served::start_with(&scene.at(dir), &[&words[..], options].concat())
}

/// Sets so many keys of 4000 bytes that do not compress, some hundred in a transaction.
pub(crate) fn fill(client: &mut Client, keys: usize) {
    let mut state = 1_u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let numbers: Vec<usize> = (0..keys).collect();
    for part in numbers.chunks(500) {
        let mut words = vec![b"MSET".to_vec()];
        for number in part {
            words.push(format!("large{number}").into_bytes());
            words.push((0..4000).map(|_| draw()).collect());
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        assert_eq!(client.ask(&words), "+OK");
    }
}

/// Sends a statement; its reply.
pub(crate) fn say(client: &mut Client, text: &str) -> String {
    let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
    client.ask(&words)
}

/// BACKUP STATUS, by its names.
pub(crate) fn status(client: &mut Client) -> BTreeMap<String, String> {
    let head = say(client, "BACKUP STATUS");
    let count: usize = head
        .strip_prefix('*')
        .unwrap_or_else(|| panic!("{head}"))
        .parse()
        .unwrap();
    let mut words = Vec::new();
    for _ in 0..count {
        let line = client.line().unwrap();
        match line.strip_prefix(':') {
            Some(number) => words.push(number.to_owned()),
            None => {
                assert!(line.starts_with('$'), "{line}");
                words.push(client.line().unwrap());
            }
        }
    }
    let pairs = words
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    pairs.collect()
}

/// Waits until the job is over; what is told of it then.
pub(crate) fn ended(client: &mut Client) -> BTreeMap<String, String> {
    let begun = Instant::now();
    loop {
        let found = status(client);
        if !["running", "finishing"].contains(&&*found["state"]) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?}");
        sleep(Duration::from_millis(5));
    }
}

/// The same for one that must succeed.
#[track_caller]
pub(crate) fn done(client: &mut Client) -> BTreeMap<String, String> {
    let found = ended(client);
    assert_eq!(found["state"], "done", "{found:?}");
    found
}

/// What a client makes is what the command line makes: listed, verified, audited, gone on from, restored.
#[test]
fn backup_by_a_statement_is_one_like_any_other() {
    let scene = Scene::new();
    let root = scene.at("root");
    let mut engine = LoadedEngine::with(serve(&scene, "live", &[]), 50);
    let mut client = engine.served.connect();
    let idle = status(&mut client);
    assert_eq!((&*idle["state"], &*idle["job"]), ("idle", "0"));
    assert_eq!(
        say(&mut client, "BACKUP CANCEL"),
        "-ERR no backup or restore is running"
    );

    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
    let first = done(&mut client);
    assert_eq!(
        (&*first["statement"], &*first["repository"]),
        ("backup", "app")
    );
    assert_eq!(first["error"], "");
    let written = engine.rest();
    assert_eq!(say(&mut client, "backup database to app"), ":2");
    let second = done(&mut client);
    let digest = scene.digest("live");

    let repo = root.join("app");
    let repo = repo.to_str().unwrap();
    let listed = scene.object(&["backups", repo, "--json"]);
    let backups = listed["backups"].as_array().unwrap();
    let told: BTreeSet<&str> = backups.iter().map(id).collect();
    assert_eq!(
        told,
        BTreeSet::from([&*first["backup"], &*second["backup"]]),
        "{listed}"
    );
    // The command line goes on from what a client made.
    let next = scene.backup(&["live", "--repo", repo]);
    assert_eq!(next["parent"], second["backup"].as_str(), "{next}");
    assert_eq!(next["statistics"]["units_new"], 0, "{next}");
    scene.ok(&["verify", repo, "--read-data", "--restore-test"]);
    let repository = Repository::open(&Host::system(), &root.join("app")).unwrap();
    let log = read_audit(repository.store().as_ref()).unwrap();
    let made: Vec<_> = log
        .events
        .iter()
        .filter(|event| event.command == "backup")
        .collect();
    assert_eq!(made.len(), 3, "{log:?}");
    assert_eq!(made[0].backups, [first["backup"].clone()], "{log:?}");

    assert_eq!(say(&mut client, "RESTORE DATABASE FROM app TO copy"), ":3");
    let restored = done(&mut client);
    assert_eq!(
        (&*restored["statement"], &*restored["target"]),
        ("restore", "copy")
    );
    assert_eq!(restored["backup"], next["id"].as_str().unwrap());
    assert_eq!(scene.digest("root/copy"), digest);
    assert_eq!(expect_whole(&root.join("copy"), 50), written);
    let by_name = format!(
        "RESTORE DATABASE FROM app BACKUP {} TO first",
        first["backup"]
    );
    assert_eq!(say(&mut client, &by_name), ":4");
    assert_eq!(done(&mut client)["backup"], first["backup"]);
    expect_whole(&root.join("first"), 50);
    // Again to the same place: it is not empty any more.
    assert_eq!(say(&mut client, &by_name), ":5");
    let again = ended(&mut client);
    assert_eq!(again["state"], "failed");
    assert!(again["error"].contains("first"), "{again:?}");
    engine.stop();
}

/// ST1, ST3, G40, G41: nothing is done, and the reply says why.
#[test]
fn statements_are_refused_without_a_root_and_outside_of_it() {
    let scene = Scene::new();
    let served = Served::start(&scene.at("plain"));
    let mut client = served.connect();
    for text in ["BACKUP DATABASE TO app", "BACKUP STATUS", "BACKUP CANCEL"] {
        let expected = "-ERR BACKUP is switched off: the server was started without --backup-root";
        assert_eq!(say(&mut client, text), expected);
    }
    for text in [
        "RESTORE DATABASE FROM app",
        "RESTORE DATABASE FROM app TO x",
    ] {
        let expected = "-ERR RESTORE is switched off: the server was started without --backup-root";
        assert_eq!(say(&mut client, text), expected);
    }
    assert_eq!(served.stop(), 0);

    let served = serve(&scene, "live", &[]);
    let mut client = served.connect();
    std::os::unix::fs::symlink(scene.at(""), scene.at("root/out")).unwrap();
    let outside = scene.at("elsewhere");
    for place in [
        "../x",
        "a/../../x",
        "out",
        "out/x",
        "s3://bucket/x",
        outside.to_str().unwrap(),
    ] {
        for text in [
            "BACKUP DATABASE TO",
            "RESTORE DATABASE FROM",
            "RESTORE DATABASE FROM app TO",
        ] {
            let found = say(&mut client, &format!("{text} {place}"));
            assert!(
                found.starts_with("-ERR '") && found.contains("is refused"),
                "{text}: {found}"
            );
        }
    }
    for place in [&b"a\0b"[..], &[b'x'; 5000], b"\xff/\r\n"] {
        let found = client.ask(&[b"BACKUP", b"DATABASE", b"TO", place]);
        assert!(found.starts_with("-ERR '") && found.len() < 250, "{found}");
    }
    let missing = say(&mut client, "RESTORE DATABASE FROM app TO x");
    assert!(
        missing.starts_with("-ERR ") && missing.contains("app"),
        "{missing}"
    );
    assert!(say(&mut client, "RESTORE key 0 x").contains("of a key is not supported"));
    assert_eq!(say(&mut client, "MULTI"), "+OK");
    let inside = "-ERR Command not allowed inside a transaction";
    assert_eq!(say(&mut client, "BACKUP STATUS"), inside);
    assert_eq!(say(&mut client, "DISCARD"), "+OK");
    assert_eq!(names(&scene.at("root")), ["out"], "nothing was made");
    assert_eq!(status(&mut client)["job"], "0");
    assert_eq!(served.stop(), 0);
    scene.fails(
        2,
        &["serve", "live", "--backup-root", "live"],
        &["lies in the directory"],
    );
    scene.fails(
        2,
        &["serve", "live", "--backup-key-file", "x"],
        &["--backup-root"],
    );
}

/// ST2, ST4: what is cancelled, by a client or by the end of the server, leaves a valid repository.
#[test]
fn job_is_cancelled_by_a_client_and_by_the_end_of_the_server() {
    let scene = Scene::new();
    let root = scene.at("root");
    // Who writes meanwhile makes a backup stand back, so that it lasts.
    let served = serve(&scene, "live", &[]);
    let mut client = served.connect();
    fill(&mut client, 4000);
    let mut engine = LoadedEngine::with(served, 0);
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
    let second = say(&mut client, "BACKUP DATABASE TO app");
    assert!(
        second.starts_with("-BUSY a backup is running, job 1: "),
        "{second}"
    );
    assert!(
        say(&mut client, "RESTORE DATABASE FROM app TO x").starts_with("-"),
        "one at a time"
    );
    assert_eq!(status(&mut client)["state"], "running");
    assert_eq!(say(&mut client, "BACKUP CANCEL"), "+OK");
    assert_eq!(ended(&mut client)["state"], "cancelled");
    assert_eq!(client.ask(&[b"GET", b"none"]), "$-1");
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":2");
    engine.rest();
    engine.stop();
    scene.ok(&["verify", root.join("app").to_str().unwrap(), "--read-data"]);
    assert_eq!(
        fs::read_dir(scene.at("live/shadow"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".pin")
            })
            .count(),
        0,
        "no pin is left"
    );
}

/// An encrypted repository needs the key that the server was given.
#[test]
fn encrypted_repository_is_opened_with_the_key_of_the_server() {
    let scene = Scene::new();
    put(&scene, "alice", ALICE[0]);
    put(&scene, "word", "correct horse");
    let (alice, word) = (scene.at("alice"), scene.at("word"));
    fs::create_dir(scene.at("root")).unwrap();
    scene.ok(&["init", "root/app", "--to", ALICE[1]]);
    let served = serve(&scene, "live", &[]);
    let mut client = served.connect();
    client.set(b"k", b"v");
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
    let refused = ended(&mut client);
    assert_eq!(refused["state"], "failed");
    assert!(refused["error"].contains("encrypted"), "{refused:?}");
    assert!(say(&mut client, "RESTORE DATABASE FROM app TO x").contains("encrypted"));
    assert_eq!(served.stop(), 0);
    fs::set_permissions(&word, fs::Permissions::from_mode(0o644)).unwrap();
    let open_to_all = [
        "serve",
        "live",
        "--backup-root",
        "root",
        "--backup-passphrase-file",
        "word",
    ];
    scene.fails(1, &open_to_all, &["cannot use the passphrase file"]);
    let served = serve(
        &scene,
        "live",
        &["--backup-key-file", alice.to_str().unwrap()],
    );
    let mut client = served.connect();
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
    done(&mut client);
    assert_eq!(say(&mut client, "RESTORE DATABASE FROM app TO x"), ":2");
    done(&mut client);
    assert_eq!(scene.digest("root/x"), scene.digest("live"));
    assert_eq!(served.stop(), 0);
}

/// The example that docs/backup.md names, with a client that knows nothing of stillfs.
#[test]
fn example_in_python_backs_up_and_restores() {
    let has_client = |python: &&str| {
        let mut command = Command::new(python);
        let output = command.args(["-c", "import redis"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let pythons = ["python3", "/usr/bin/python3"];
    let Some(python) = pythons.into_iter().find(has_client) else {
        println!("SKIPPED: no Python has the package redis (python3-redis)");
        return;
    };
    let scene = Scene::new();
    let served = serve(&scene, "live", &[]);
    let port = served.ready.rsplit(':').next().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/backup_statements.py");
    let output = Command::new(python)
        .arg(example)
        .arg(port)
        .output()
        .unwrap();
    let said = stdout(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(lines[1], "greeting: hello");
    assert!(lines[3].starts_with("copy in copy-"), "{said}");
    assert_eq!(served.stop(), 0);
}

/// The names that docs/backup.md promises, in its order of words.
#[test]
fn names_of_the_status_are_those_of_the_document() {
    let scene = Scene::new();
    let served = serve(&scene, "live", &[]);
    let names: BTreeSet<String> = status(&mut served.connect()).into_keys().collect();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backup.md");
    let document = fs::read_to_string(document).unwrap();
    let told = document.split("BACKUP STATUS has ").nth(1).unwrap();
    let told = told.split("The names are stable").next().unwrap();
    let mut depth = 0;
    let outside: String = told
        .chars()
        .filter(|letter| {
            depth += i32::from(*letter == '(') - i32::from(*letter == ')');
            depth == 0
        })
        .collect();
    let documented = outside.split('`').skip(1).step_by(2).map(str::to_owned);
    assert_eq!(documented.collect::<BTreeSet<_>>(), names);
    assert_eq!(served.stop(), 0);
}

/// G40, G42: behind the password; and only databases of stillfs are restored.
#[test]
fn statements_are_behind_the_password_and_restore_nothing_else() {
    let scene = Scene::new();
    let secret = scene.at("secret");
    fs::write(&secret, "word\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let served = serve(
        &scene,
        "live",
        &["--password-file", secret.to_str().unwrap()],
    );
    let mut client = served.connect();
    for text in [
        "BACKUP STATUS",
        "BACKUP DATABASE TO app",
        "RESTORE DATABASE FROM app",
    ] {
        assert!(say(&mut client, text).starts_with("-NOAUTH "), "{text}");
    }
    assert_eq!(say(&mut client, "AUTH word"), "+OK");
    make_sqlite(&scene.at("app.db"), "WAL");
    let facts = scene.backup(&["app.db", "--repo", "root/app"]);
    let named = format!("RESTORE DATABASE FROM app BACKUP {}", id(&facts));
    for text in [
        "RESTORE DATABASE FROM app",
        &named,
        &format!("{named} TO x"),
    ] {
        let found = say(&mut client, text);
        assert!(
            found.starts_with("-ERR ") && found.contains("database of stillfs"),
            "{found}"
        );
    }
    assert_eq!(names(&scene.at("root")), ["app"]);
    assert_eq!(served.stop(), 0);
}

/// Of several databases in a repository the own one is meant; who has none there must name one.
#[test]
fn restore_without_a_name_means_the_own_database() {
    let scene = Scene::new();
    for name in ["one", "two", "three"] {
        let served = serve(&scene, name, &[]);
        let mut client = served.connect();
        client.set(b"name", name.as_bytes());
        if name == "three" {
            let refused = say(&mut client, "RESTORE DATABASE FROM app");
            assert!(
                refused.contains("backups of 2 databases, and none of this one"),
                "{refused}"
            );
            assert!(
                refused.contains("/one") && refused.contains("/two"),
                "{refused}"
            );
        } else {
            assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
            done(&mut client);
        }
        assert_eq!(served.stop(), 0);
    }
    let served = serve(&scene, "one", &[]);
    let mut client = served.connect();
    client.set(b"name", b"changed");
    assert_eq!(say(&mut client, "RESTORE DATABASE FROM app"), ":1");
    done(&mut client);
    assert_eq!(client.ask(&[b"GET", b"name"]), "$3");
    assert_eq!(client.line().unwrap(), "one");
    assert_eq!(served.stop(), 0);
}
