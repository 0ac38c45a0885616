//! Several writers of one bucket: alive, killed, stopped for longer than their lock lives, or with a clock
//! that is an hour off.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bucket::{Bucket, REPO};
use crate::http::Request;
use crate::proxy::{Act, Proxy};
use crate::sample::{rounds, sample};
use crate::scene::{Slow, id, make_sqlite};
use crate::server::{Server, program};
use crate::trouble::faketime;

const TTL: Duration = Duration::from_secs(1);

/// With another application, so that two write what the other has not.
fn bucket() -> Option<Bucket> {
    let bucket = Bucket::new()?;
    bucket.make_app(1);
    make_sqlite(&bucket.scene.at("other.db"), "DELETE");
    bucket.backup();
    Some(bucket)
}

const OTHER: [&str; 3] = ["other.db", "--repo", REPO];

/// A full backup of the application that takes about `seconds`, and has begun to write.
fn slow_backup(bucket: &Bucket, seconds: u32) -> Slow {
    let rate = format!("{}K", 1200 / seconds);
    let words = "backup app.db --type full --compress none --jobs 1 --json --repo";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.extend([REPO, "--limit-rate", &rate]);
    let mut slow = Slow::start(bucket.scene.command(&words));
    // Said once the lock is held.
    while slow.line()["phase"] != "in_progress" {}
    slow
}

fn backup_of(last: &Value) -> String {
    id(&last["backup"]).to_owned()
}

/// OS4, OS6: a second writer is refused for as long as the first one lives, which is longer than a lock that
/// nobody renews; readers are not. When the first is done the next may, and both are whole.
#[test]
fn second_writer_is_refused_until_the_first_is_done() {
    let Some(bucket) = bucket() else { return };
    let slow = slow_backup(&bucket, 4);
    let begun = Instant::now();
    while begun.elapsed() < TTL * 2 {
        let backup = [&["backup"], &OTHER[..]].concat();
        bucket.scene.fails(11, &backup, &["another process writes"]);
        let forget = ["forget", REPO, "--keep-last", "1", "--prune"];
        bucket.scene.fails(11, &forget, &["another process writes"]);
        assert_eq!(bucket.backups().len(), 1);
    }
    let (last, exit) = slow.end();
    assert_eq!(exit, Some(0), "{last}");
    let other = bucket.scene.backup(&OTHER);
    let backups = bucket.backups();
    assert_eq!(backups[1..], [backup_of(&last), id(&other).to_owned()]);
    bucket.verify();
    bucket.expect_rows(&backups[1], 1);
    bucket
        .scene
        .ok(&["restore", REPO, "back", "--backup", id(&other)]);
}

/// OS5: the lock of a writer that was killed is taken over when it is stale, and not before.
#[test]
fn lock_of_a_killed_writer_is_taken_over_when_it_is_stale() {
    let Some(bucket) = bucket() else { return };
    let slow = slow_backup(&bucket, 6);
    slow.signal(Signal::SIGKILL);
    assert_eq!(slow.end().1, None);
    let begun = Instant::now();
    let other = bucket.scene.backup(&OTHER);
    assert!(begun.elapsed() >= TTL, "{:?}", begun.elapsed());
    // Given up in order: nobody waits.
    let begun = Instant::now();
    let next = bucket.backup();
    let waited = begun.elapsed();
    assert_eq!(bucket.backups()[1..], [id(&other), next.as_str()]);
    bucket.verify();
    assert!(waited < TTL * 5, "{waited:?}");
}

/// The answer to one request is held back until it is let go.
struct Gate {
    reached: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

impl Gate {
    /// At the request of number `number`.
    fn at(proxy: &Proxy, number: usize) -> Self {
        let (reach, reached) = mpsc::channel();
        let (go_on, gone_on) = mpsc::channel();
        let gone_on = Arc::new(Mutex::new(gone_on));
        proxy.plan(move |request| match request.number == number {
            true => Act::Hold(reach.clone(), gone_on.clone()),
            false => Act::Pass,
        });
        Self { reached, go_on }
    }
}

/// OS6: a writer that is stopped for longer than its lock lives, while another one takes over, writes and
/// prunes, changes nothing any more when it goes on.
#[test]
fn stopped_writer_changes_nothing_when_it_goes_on() {
    let Some(bucket) = bucket() else { return };
    let words = [
        "backup", "app.db", "--type", "full", "--json", "--repo", REPO,
    ];
    bucket.proxy.pass();
    bucket.scene.ok(&words);
    let count = bucket.proxy.seen().len();
    let mut refused = 0;
    let numbers = sample(2..count, rounds(3), (0, 1));
    for number in &numbers {
        bucket.step();
        let before = bucket.backups();
        let gate = Gate::at(&bucket.proxy, *number);
        let slow = Slow::start(bucket.scene.command(&words));
        if gate.reached.recv_timeout(Duration::from_secs(20)).is_err() {
            panic!("there was no request {number}: {:?}", slow.end());
        }
        slow.signal(Signal::SIGSTOP);
        let other = bucket
            .scene
            .backup(&[&OTHER[..], &["--type", "full"]].concat());
        let prune = ["forget", REPO, "--keep-last", "1", "--prune"];
        bucket.scene.ok(&prune);
        let meanwhile = bucket.backups();
        let seen = bucket.proxy.seen().len();
        gate.go_on.send(()).unwrap();
        slow.signal(Signal::SIGCONT);
        let (last, exit) = slow.end();
        let after = bucket.proxy.seen();
        let late = after[seen..].iter().filter(|request| {
            let path = request.path();
            request.is_write() && !path.contains("/LOCK") && !path.contains("/audit/")
        });
        let late: Vec<String> = late.map(|request| request.name()).collect();
        let place = format!("at request {number} of {:?}", after[number - 1].name());
        // What it began before it had a lock it may do again with one.
        match exit {
            Some(0) if late.is_empty() => {}
            Some(0) => assert!(!took_the_lock(&after[..*number]), "{place}: {late:?}"),
            Some(11) => {
                refused += 1;
                assert_eq!(late, [""; 0], "{place}");
                assert_eq!(bucket.backups(), meanwhile, "{place}");
            }
            _ => panic!("{place}: {exit:?} {last}"),
        }
        assert!(bucket.backups().contains(&id(&other).to_owned()), "{place}");
        assert!(!before.is_empty(), "{place}");
        bucket.verify();
        let newest = bucket.backup();
        bucket.expect_rows(
            &newest,
            1 + 1 + numbers.iter().position(|n| n == number).unwrap() as u64,
        );
    }
    println!(
        "stopped at {} of {count} requests, refused {refused} times",
        numbers.len()
    );
    assert_ne!(refused, 0);
}

fn took_the_lock(requests: &[Request]) -> bool {
    let mut locks = requests.iter();
    locks.any(|request| request.method == "PUT" && request.path().ends_with("/LOCK"))
}

/// OS5: no clock is compared with another's. Whoever is an hour ahead, and so is his server, finds the lock
/// of the living alive, and that of the dead stale as late as everybody.
#[test]
fn clock_that_is_an_hour_off_makes_no_lock_stale() {
    let Some(bucket) = bucket() else { return };
    let Some(library) = faketime() else {
        return;
    };
    let fake = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", "+1h"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let program = program().unwrap();
    let server = Server::start_with(&program, &bucket.scene.at("server"), &fake);
    let proxy = Proxy::start(server.address);
    let run = || {
        let mut command = bucket.scene.command(&[&["backup"], &OTHER[..]].concat());
        command.env("AWS_ENDPOINT_URL", format!("http://{}", proxy.address));
        command.envs(fake);
        command.output().unwrap()
    };
    let slow = slow_backup(&bucket, 4);
    let output = run();
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    slow.signal(Signal::SIGKILL);
    slow.end();
    let begun = Instant::now();
    let output = run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(begun.elapsed() >= TTL);
    bucket.verify();
    assert_eq!(bucket.backups().len(), 2);
}
