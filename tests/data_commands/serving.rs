//! `stillfs serve`.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::Signal;

use crate::rig::{Served, code, encode, expect_problem, load, run, stdout, stillfs};

#[test]
fn what_was_set_is_there_after_a_clean_stop() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d");
    let served = Served::start(&dir);
    assert!(
        served
            .ready
            .starts_with(&format!("ready {} 127.0.0.1:", dir.display()))
    );
    served.connect().set(b"k", b"v\r\n");
    assert_eq!(served.stop(), 0);
    // Stopped cleanly, it needs no log.
    assert_eq!(std::fs::read_dir(dir.join("wal")).unwrap().count(), 0);
    let served = Served::start(&dir);
    let mut client = served.connect();
    assert_eq!(client.ask(&[b"STRLEN", b"k"]), ":3");
    assert_eq!(served.stop(), 0);
}

/// A server whose log is a pipe.
fn logging(dir: &Path) -> Served {
    let mut command = stillfs();
    command.arg("serve").arg(dir);
    command.args(["--listen", "127.0.0.1:0", "--log-level", "info"]);
    command.stderr(Stdio::piped());
    Served::spawn(command)
}

/// As in `stillfs serve d 2>&1 | head`: a line that cannot be logged must stop nothing.
#[test]
fn server_outlives_the_reader_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = logging(dir.path());
    served.drop_log();
    served.connect().set(b"k", b"v");
    assert_eq!(served.stop(), 0);
    assert_eq!(
        std::fs::read_dir(dir.path().join("wal")).unwrap().count(),
        0
    );
}

/// Somebody who asks twice does not want to wait for a client that takes no replies.
#[test]
fn second_signal_ends_the_server_at_once_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let served = logging(dir.path());
    let mut client = served.connect();
    client.set(b"k", &vec![b'v'; 8 << 20]);
    client.send(&encode(&[b"GET", b"k"]).repeat(50)).unwrap();
    // The first reply has begun, and nobody takes the others.
    assert_eq!(client.line().unwrap(), "$8388608");
    assert_eq!(served.stop_twice(Signal::SIGTERM, Signal::SIGINT), 130);
    let served = Served::start(dir.path());
    assert_eq!(served.connect().ask(&[b"STRLEN", b"k"]), ":8388608");
}

/// The message must let somebody find out whom to stop.
#[test]
fn second_engine_is_turned_away_with_the_holder_named() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let second = run("serve", dir.path(), &["--listen", "127.0.0.1:0"]);
    let shown = dir.path().canonicalize().unwrap();
    expect_problem(
        &second,
        11,
        &[&shown.display().to_string(), "in use", "process "],
    );
    expect_problem(&load(dir.path(), &[], b""), 11, &["in use"]);
    assert_eq!(served.connect().ask(&[b"PING"]), "+PONG");
}

/// An address has room for 107 bytes; the engine's own socket must not be bound by that.
#[test]
fn directory_longer_than_a_socket_address_is_served_and_pinned() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().to_path_buf();
    for _ in 0..4 {
        dir.push("d".repeat(60));
        std::fs::create_dir(&dir).unwrap();
    }
    let served = Served::start(&dir);
    served.connect().set(b"k", b"v");
    let text = stdout(&run("dump", &dir, &[]));
    assert_eq!(text, "stillfs dump 1\ntable redis.0 1\nk v\nend 1\n");
    assert_eq!(served.stop(), 0);
}

#[test]
fn unix_socket_alone_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let served = Served::start_with(&dir.path().join("d"), &["--unix", socket.to_str().unwrap()]);
    assert!(
        served
            .ready
            .ends_with(&format!(" unix:{}", socket.display())),
        "{}",
        served.ready
    );
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(served.stop(), 0);
}

#[test]
fn wrong_command_lines_are_told_apart_from_failures() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d");
    for (options, part) in [
        (&["--page-size", "5000"][..], "page size"),
        (&["--page-size", "128K"], "page size"),
        (&["--page-size", "8Q"], "unknown unit"),
        (&["--cache", "many"], "not a size"),
        (&["--cache", "64MB"], "M or MiB"),
        (&["--checkpoint-size", "0"], "must not be 0"),
        (&["--wal-limit", "1M"], "--checkpoint-size"),
        (&["--listen", "0.0.0.0:0"], "loopback"),
        (&["--listen", "nonsense"], "127.0.0.1:PORT"),
    ] {
        expect_problem(&run("serve", &dir, options), 2, &[part]);
        assert!(!dir.exists(), "{options:?}");
    }
    std::fs::write(&dir, b"a file").unwrap();
    expect_problem(
        &run("serve", &dir, &["--listen", "127.0.0.1:0"]),
        1,
        &["directory"],
    );
}

/// A folder with somebody's files does not become a database.
#[test]
fn directory_that_holds_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), b"dear").unwrap();
    let served = run("serve", dir.path(), &["--listen", "127.0.0.1:0"]);
    expect_problem(&served, 1, &["not a stillfs database", "data.pages"]);
}

/// Every acknowledged SET is there after a kill, whatever the server was doing.
#[test]
fn kill_under_load_loses_nothing_that_was_acknowledged() {
    const BATCH: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    // Small limits, so that checkpoints run all the time.
    let options = [
        "--listen",
        "127.0.0.1:0",
        "--checkpoint-size",
        "256K",
        "--wal-limit",
        "1M",
    ];
    for round in 0..3 {
        let served = Served::start_with(dir.path(), &options);
        let acknowledged = [const { AtomicU64::new(0) }; 2];
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for (writer, count) in acknowledged.iter().enumerate() {
                let (mut client, sender) = (served.connect(), sender.clone());
                scope.spawn(move || {
                    for first in (0..).step_by(usize::try_from(BATCH).unwrap()) {
                        let numbers = first..first + BATCH;
                        let batch = numbers.map(|number: u64| {
                            let key = format!("{round}.{writer}.{number}");
                            encode(&[b"SET", key.as_bytes(), &[b'v'; 200]])
                        });
                        let sent = client.send(&batch.flatten().collect::<Vec<_>>());
                        for _ in 0..BATCH {
                            match sent.as_ref().ok().and_then(|()| client.line().ok()) {
                                Some(reply) => assert_eq!(reply, "+OK"),
                                None => return,
                            }
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                        if count.load(Ordering::SeqCst) >= 2000 {
                            let _ = sender.send(());
                        }
                    }
                });
            }
            receiver.recv().unwrap();
            receiver.recv().unwrap();
            served.crash();
        });
        expect_problem(&run("check", dir.path(), &[]), 0, &[]);
        let text = stdout(&run("dump", dir.path(), &[]));
        let keys: std::collections::HashSet<_> = text
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        for (writer, count) in acknowledged.iter().enumerate() {
            for number in 0..count.load(Ordering::SeqCst) {
                let key = format!("{round}.{writer}.{number}");
                assert!(
                    keys.contains(key.as_str()),
                    "{key} was acknowledged and is lost"
                );
            }
        }
    }
}

/// A torn copy of the header is survived and told; two damaged ones are corruption, with advice.
#[test]
fn damaged_header_copies_are_told() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d");
    assert_eq!(Served::start(&dir).stop(), 0);
    let file = dir.join("data.pages");
    let sound = std::fs::read(&file).unwrap();
    for copy in 0..2 {
        let mut torn = sound.clone();
        torn[copy * 8192..][..512].fill(0xa5);
        std::fs::write(&file, &torn).unwrap();
        let mut command = stillfs();
        command.arg("serve").arg(&dir);
        command.args(["--listen", "127.0.0.1:0", "--log-level", "warn"]);
        let log = root.path().join("log");
        command.stderr(std::fs::File::create(&log).unwrap());
        assert_eq!(Served::spawn(command).stop(), 0);
        let log = std::fs::read_to_string(&log).unwrap();
        let told = log.lines().filter(|line| line.contains("header"));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains("WARN"), "{log}");
        assert!(told[0].contains(&format!("page={copy}")), "{log}");
    }
    let mut torn = sound;
    torn[..512].fill(0xa5);
    torn[8192..][..512].fill(0xa5);
    std::fs::write(&file, &torn).unwrap();
    for word in ["serve", "check"] {
        let output = run(word, &dir, &[]);
        assert_eq!(code(&output), 12, "{word}: {output:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("restore it from a backup"), "{word}: {said}");
    }
}

/// It would be taken for the name of a module, and silence every other.
#[test]
fn log_level_that_there_is_not_is_refused() {
    let output = stillfs().args(["--log-level", "loud", "status"]).output();
    expect_problem(&output.unwrap(), 2, &["no such log level: loud"]);
}
