//! RESTORE DATABASE without TO: a backup in the place of what is served (ST5, ST6).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::rig::{Client, Served};
use crate::scene::{Scene, Slow, id, names};
use crate::statement::{done, ended, fill, say, serve, status};

const IN_PLACE: &str = "RESTORE DATABASE FROM app";

/// A client that counts upwards under a key of its own, until it is told to stop.
struct Counter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counted>,
}

/// What it was told.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// The last that was acknowledged before LOADING came.
    before: u64,
    /// How often it was told LOADING.
    loading: u64,
    /// The last that was acknowledged at all.
    last: u64,
}

impl Counter {
    fn start(served: &Served, name: &'static str) -> Self {
        let (mut client, stop) = (served.connect(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut counted = Counted::default();
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                number += 1;
                let reply = client.ask(&[b"SET", name.as_bytes(), number.to_string().as_bytes()]);
                match &*reply {
                    "+OK" if counted.loading == 0 => {
                        (counted.before, counted.last) = (number, number);
                    }
                    "+OK" => counted.last = number,
                    reply => {
                        assert!(reply.starts_with("-LOADING "), "{reply}");
                        counted.loading += 1;
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            counted
        });
        Self { stop, thread }
    }

    fn end(self) -> Counted {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn get(client: &mut Client, key: &str) -> Option<String> {
    match &*client.ask(&[b"GET", key.as_bytes()]) {
        "$-1" => None,
        head => {
            assert!(head.starts_with('$'), "{head}");
            Some(client.line().unwrap())
        }
    }
}

/// A served database with some megabytes, and one backup of it.
fn backed_up(scene: &Scene, keys: usize) -> (Served, Client) {
    let served = serve(scene, "live", &[]);
    let mut client = served.connect();
    fill(&mut client, keys);
    client.set(b"state", b"backed up");
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":1");
    done(&mut client);
    (served, client)
}

fn history(dir: &Path) -> String {
    let host = stillfs::os::Host::system();
    let file = host
        .disk
        .open(&dir.join("data.pages"), stillfs::os::OpenMode::Read)
        .unwrap();
    let mut bytes = [0; 512];
    stillfs::os::read_exact_at(&*file, &mut bytes, 0).unwrap();
    stillfs::engine::Header::decode(&bytes)
        .unwrap()
        .history
        .to_string()
}

/// Several clients write all the time: they are told LOADING, and then find what was backed up and what
/// they wrote since. The history is new, the next backup is full, and what is pinned is the new one.
#[test]
fn restore_in_place_under_load_ends_in_what_was_backed_up() {
    let scene = Scene::new();
    let (served, mut client) = backed_up(&scene, 500);
    let before = history(&scene.at("live"));
    client.set(b"state", b"later");
    let counters = ["a", "b", "c"].map(|name| (name, Counter::start(&served, name)));
    thread::sleep(Duration::from_millis(50));
    assert_eq!(say(&mut client, IN_PLACE), ":2");
    assert!(say(&mut client, "GET state").starts_with("-LOADING "));
    assert_eq!(say(&mut client, "PING"), "+PONG");
    assert!(say(&mut client, "BACKUP DATABASE TO app").starts_with("-BUSY a restore is running"));
    let told = done(&mut client);
    assert_eq!(get(&mut client, "state").as_deref(), Some("backed up"));
    thread::sleep(Duration::from_millis(50));
    for (name, counter) in counters {
        let counted = counter.end();
        assert!(
            counted.loading > 0 && counted.last > counted.before,
            "{name}: {counted:?}"
        );
        let found = get(&mut client, name).map(|found| found.parse::<u64>().unwrap());
        assert_eq!(found, Some(counted.last), "{name}: {counted:?}");
    }
    assert_ne!(told["history"], before);
    assert_eq!(say(&mut client, "BACKUP DATABASE TO app"), ":3");
    let next = done(&mut client);
    let listed = scene.object(&["backups", "root/app", "--json"]);
    let backups = listed["backups"].as_array().unwrap();
    let facts = backups
        .iter()
        .find(|facts| id(facts) == next["backup"])
        .unwrap();
    assert_eq!(
        facts["databases"][0]["history"], *told["history"],
        "{facts}"
    );
    assert_eq!(facts["kind"], "full", "{facts}");
    scene.ok(&["verify", "root/app", "--read-data", "--restore-test"]);
    // By the socket of the server that was exchanged, over a pin.
    scene.ok(&["check", "live"]);
    let digest = scene.digest("live");
    assert_eq!(served.stop(), 0);
    assert_eq!(history(&scene.at("live")), told["history"]);
    assert_eq!(scene.digest("live"), digest);
    let left = names(&scene.at("live"));
    assert!(
        !left.iter().any(|name| name.contains("restoring")),
        "{left:?}"
    );
}

/// ST3, ST6: refused before anything is done, or given up: everything that was acknowledged is there.
#[test]
fn restore_in_place_that_fails_leaves_what_was_served() {
    let scene = Scene::new();
    let (served, mut client) = backed_up(&scene, 300);
    let before = history(&scene.at("live"));
    client.set(b"state", b"acknowledged");
    let restore = |client: &mut Client, part: &str| {
        let reply = say(client, IN_PLACE);
        if reply.starts_with(':') {
            let found = ended(client);
            assert_eq!(found["state"], "failed", "{found:?}");
            assert!(found["error"].contains(part), "{part}: {found:?}");
        } else {
            assert!(
                reply.starts_with("-ERR ") && reply.contains(part),
                "{part}: {reply}"
            );
        }
        assert_eq!(
            get(client, "state").as_deref(),
            Some("acknowledged"),
            "{part}"
        );
        client.set(b"state", b"acknowledged");
    };
    let missing = say(&mut client, "RESTORE DATABASE FROM app BACKUP 1999");
    assert!(missing.starts_with("-ERR "), "{missing}");
    assert_eq!(say(&mut client, IN_PLACE), ":2");
    assert_eq!(say(&mut client, "BACKUP CANCEL"), "+OK");
    assert_eq!(ended(&mut client)["state"], "cancelled");
    assert_eq!(get(&mut client, "state").as_deref(), Some("acknowledged"));

    // A bit of some pack.
    let packs = fs::read_dir(scene.at("root/app/packs")).unwrap();
    let pack = packs.map(|entry| entry.unwrap().path()).next().unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&pack, &damaged).unwrap();
    restore(&mut client, "damaged");
    fs::remove_file(&pack).unwrap();
    restore(&mut client, "pack");
    fs::write(&pack, &whole).unwrap();
    assert!(
        !names(&scene.at("live"))
            .iter()
            .any(|name| name.contains("restoring"))
    );
    assert_eq!(history(&scene.at("live")), before);

    assert_eq!(say(&mut client, IN_PLACE), ":5");
    done(&mut client);
    assert_eq!(get(&mut client, "state").as_deref(), Some("backed up"));
    assert_eq!(status(&mut client)["job"], "5");
    assert_eq!(served.stop(), 0);
}

/// ST2: who holds a pin keeps a restore in place out, also over the control socket; and nothing is done.
#[test]
fn restore_in_place_is_refused_while_something_is_pinned() {
    let scene = Scene::new();
    let (served, mut client) = backed_up(&scene, 300);
    client.set(b"state", b"acknowledged");
    let words = "backup live --repo slow --limit-rate 300K --jobs 1 --json";
    let words: Vec<&str> = words.split(' ').collect();
    let mut slow = Slow::start(scene.command(&words));
    slow.line();
    let refused = say(&mut client, IN_PLACE);
    assert!(
        refused.starts_with("-BUSY the database has 1 pin: "),
        "{refused}"
    );
    assert_eq!(get(&mut client, "state").as_deref(), Some("acknowledged"));
    slow.signal(Signal::SIGINT);
    slow.end();
    let mut number = 1;
    // The pin goes with its holder, within a second.
    while !say(&mut client, IN_PLACE).starts_with(':') {
        number += 1;
        assert!(number < 500, "the pin lasts");
        thread::sleep(Duration::from_millis(10));
    }
    done(&mut client);
    assert_eq!(get(&mut client, "state").as_deref(), Some("backed up"));
    assert_eq!(served.stop(), 0);
}

/// An archive goes on with the new history, without a gap: its cursor keeps the log.
#[test]
fn archive_goes_on_after_a_restore_in_place() {
    let scene = Scene::new();
    let (served, mut client) = backed_up(&scene, 20);
    let archive = || scene.last(&["archive", "live", "--repo", "root/app", "--json"]);
    let first = archive();
    assert_eq!(say(&mut client, IN_PLACE), ":2");
    let told = done(&mut client);
    client.set(b"state", b"archived");
    assert_eq!(say(&mut client, "CHECKPOINT"), "*4");
    for _ in 0..4 {
        let line = client.line().unwrap();
        if line.starts_with('$') {
            client.line().unwrap();
        }
    }
    let second = archive();
    assert_ne!(first["history"], second["history"]);
    assert_eq!(second["history"], *told["history"], "{second}");
    assert_eq!(second["gaps"], serde_json::json!([]), "{second}");
    let timestamp = second["timestamp"].to_string();
    scene.ok(&["restore", "root/app", "then", "--to-timestamp", &timestamp]);
    assert_eq!(scene.digest("then"), scene.digest("live"));
    assert_eq!(served.stop(), 0);
}

/// ST4: a server that is told to stop in the midst of it ends cleanly, with one of the two.
#[test]
fn server_that_stops_in_a_restore_in_place_ends_cleanly() {
    let scene = Scene::new();
    let (mut served, mut client) = backed_up(&scene, 100);
    for wait_ms in [0, 5, 15] {
        client.set(b"state", b"acknowledged");
        assert!(say(&mut client, IN_PLACE).starts_with(':'));
        thread::sleep(Duration::from_millis(wait_ms));
        assert_eq!(served.stop(), 0);
        assert!(
            !names(&scene.at("live"))
                .iter()
                .any(|name| name.contains("restoring"))
        );
        served = serve(&scene, "live", &[]);
        client = served.connect();
        let found = get(&mut client, "state").unwrap();
        assert!(["acknowledged", "backed up"].contains(&&*found), "{found}");
        assert_eq!(client.ask(&[b"DBSIZE"]), ":101");
    }
}

/// EX3 with a real process and a real disk: killed at any moment, the next start has one of the two, whole.
#[test]
fn killed_restore_in_place_leaves_the_old_or_the_restored_database() {
    let scene = Scene::new();
    let (mut served, mut client) = backed_up(&scene, 100);
    let (mut old_ones, mut new_ones) = (0, 0);
    for round in 0..12_u64 {
        let marked = format!("round {round}");
        client.set(b"state", marked.as_bytes());
        // The exchange itself is short: some are killed as soon as it seems to begin.
        assert!(say(&mut client, IN_PLACE).starts_with(':'));
        match round % 3 {
            0 => thread::sleep(Duration::from_millis(round * 7)),
            which => {
                let part = if which == 1 { "new" } else { "old" };
                let sign = scene.at("live/.stillfs-restoring").join(part);
                for _ in 0..20_000 {
                    if sign.exists() {
                        break;
                    }
                }
                thread::sleep(Duration::from_micros(round * 150));
            }
        }
        served.crash();
        served = serve(&scene, "live", &[]);
        client = served.connect();
        match get(&mut client, "state").as_deref() {
            Some("backed up") => new_ones += 1,
            Some(found) => {
                assert_eq!(found, marked, "round {round}");
                old_ones += 1;
            }
            None => panic!("round {round}: neither"),
        }
        assert_eq!(client.ask(&[b"DBSIZE"]), ":101", "round {round}");
        let left = names(&scene.at("live"));
        assert!(
            !left.iter().any(|name| name.contains("restoring")),
            "{round}: {left:?}"
        );
    }
    println!("{old_ones} old ones, {new_ones} new ones");
    assert_eq!(served.stop(), 0);
    scene.ok(&["check", "live"]);
}
