//! Limits with real processes, on a small disk of their own: the disk fills, the log fills, time runs
//! out. Writers never notice; readers get their bytes or an error; everybody is told why.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::process::{end_of, eventually, is_root, stillfs};
use crate::resp::{self, Client};
use crate::rig::{Rig, mount_status, refused, status};

/// A file system of its own. Dropping it takes it away, also in a panic, whoever still uses it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, mib: u64) -> Self {
        fs::create_dir(&at).unwrap();
        let disk = Self(at);
        disk.resize(mib, MsFlags::empty());
        disk
    }

    fn resize(&self, mib: u64, flags: MsFlags) {
        let size = format!("size={mib}M");
        let kind = Some("tmpfs");
        mount(kind, &self.0, kind, flags, Some(size.as_str())).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A database on a small disk. The disk goes first, so that the folders below can be removed.
struct Small {
    disk: SmallDisk,
    rig: Rig,
}

impl Small {
    /// An engine with a log of 8 MiB at most, with `keys` values of 4 KiB.
    fn new(mib: u64, floor: &str, keys: u32) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let mut rig = Rig::without_engine()?;
        let disk = SmallDisk::mount(rig.path("disk"), mib);
        rig.source = disk.0.join(rig.source.file_name().unwrap());
        let log = fs::File::create(rig.path("engine.log")).unwrap();
        let options = [
            "--checkpoint-size",
            "1M",
            "--wal-limit",
            "8M",
            "--free-space-floor",
            floor,
        ];
        rig.start_with(&options, Stdio::from(log));
        let small = Self { disk, rig };
        small.put(0..keys, 1).unwrap();
        Some(small)
    }

    /// Sets values of 4 KiB, in transactions of 16.
    fn put(&self, keys: std::ops::Range<u32>, round: u32) -> io::Result<()> {
        let mut client = self.rig.engine().client();
        let keys: Vec<u32> = keys.collect();
        keys.chunks(16)
            .try_for_each(|keys| put_some(&mut client, keys, round))
    }

    fn mount(&self, name: &str, options: &[&str]) -> PathBuf {
        let log = self.rig.path(&format!("{name}.log"));
        let log = ["--log", log.to_str().unwrap()];
        // Past the kernel's cache: what it has from before a pin's end is right, and stays.
        let direct = ["-o", "direct_io"];
        self.rig.mount(name, &[&direct[..], &log, options].concat())
    }

    fn log_of(&self, name: &str) -> String {
        fs::read_to_string(self.rig.path(&format!("{name}.log"))).unwrap()
    }
}

fn put_some(client: &mut Client, keys: &[u32], round: u32) -> io::Result<()> {
    let commands: Vec<Vec<Vec<u8>>> = keys
        .iter()
        .map(|key| {
            let value = [*key, round].map(u32::to_le_bytes).concat().repeat(512);
            resp::words(&[b"SET", key.to_string().as_bytes(), &value])
        })
        .collect();
    client.pipeline(&commands).map(drop)
}

/// Every byte of the view.
fn read(point: &Path) -> io::Result<Vec<u8>> {
    fs::read(point.join("data.pages"))
}

fn read_error(point: &Path) -> Option<i32> {
    let error = read(point).map(drop).expect_err("the pin has ended");
    error.raw_os_error()
}

fn is_ended(point: &Path) -> bool {
    mount_status(point)["state"] == "ended"
}

/// What every reader and every command says of a view whose pin ended for `reason`.
fn assert_told(small: &Small, name: &str, point: &Path, reason: &str, engine_reason: &str) {
    eventually("the daemon knows why", || {
        let shown = mount_status(point)["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        shown.contains(reason)
    });
    assert_eq!(read_error(point), Some(libc::EIO));
    eventually("the daemon's log says so", || {
        small.log_of(name).contains(reason)
    });
    eventually("the engine's log says so", || {
        let log = small.log_of("engine");
        let mut lines = log.lines();
        lines.any(|line| line.contains("WARN") && line.contains(engine_reason))
    });
    let ended = end_of(stillfs().arg("umount").arg(point));
    assert_eq!(ended.code(), 13, "{ended:?}");
    assert!(ended.err.contains(reason), "{ended:?}");
    assert!(ended.err.contains("had ended before"), "{ended:?}");
}

fn only_pin(small: &Small) -> Value {
    small.rig.pins().first().cloned().unwrap_or_default()
}

/// L1, L4: below the floor a `break` pin ends, and commits go on.
#[test]
fn break_pin_ends_at_the_free_space_floor_and_commits_go_on() {
    let Some(small) = Small::new(60, "16M", 3000) else {
        return;
    };
    let point = small.mount("view", &["--shadow-limit", "1G"]);
    let expected = read(&point).unwrap();
    let engine = status(&small.rig.source)["engines"][0].clone();
    assert_eq!(engine["free_floor_bytes"], 16 << 20);
    assert_eq!(engine["wal_bytes_max"], 8 << 20);
    assert!(engine["free_bytes"].as_u64().unwrap() > 16 << 20);
    let mut round = 1;
    while !is_ended(&point) {
        round += 1;
        small.put(0..3000, round).unwrap();
        assert!(round < 50, "it has to end: {:?}", status(&small.rig.source));
        match read(&point) {
            Ok(found) => assert!(found == expected),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO)),
        }
    }
    assert_told(
        &small,
        "view",
        &point,
        "the disk is nearly full",
        "disk full",
    );
    small.put(0..3000, 100).unwrap();
    small.rig.engine().wait_unpinned();
}

/// L4: a disk that is really full takes the space of every pin, `break` first, before a commit fails;
/// and all goes on when there is space.
#[test]
fn full_disk_ends_every_pin_before_a_commit_fails() {
    let Some(small) = Small::new(110, "0", 3000) else {
        return;
    };
    let first = small.mount("break", &["--shadow-limit", "1G"]);
    small.put(0..3000, 2).unwrap();
    let second = small.mount("hold", &["--on-full", "hold", "--shadow-limit", "1G"]);
    let mut client = small.rig.engine().client();
    let mut order = Vec::new();
    let failed = (0..40_000).find_map(|count: u32| {
        // Old pages and new ones, so that shadow, log and live file all grow.
        let keys = [count % 3000, 10_000 + count / 2];
        let outcome = put_some(&mut client, &keys, 3 + count / 3000);
        if count.is_multiple_of(50) || outcome.is_err() {
            let left: Vec<String> = small
                .rig
                .pins()
                .iter()
                .map(|pin| pin["on_full"].as_str().unwrap().to_owned())
                .collect();
            if order.last() != Some(&left) {
                order.push(left);
            }
        }
        outcome.err()
    });
    let failed = failed.expect("the disk is small").to_string();
    assert!(failed.contains("No space left"), "{failed}");
    assert_eq!(order.last(), Some(&Vec::new()), "{order:?}: {failed}");
    let hold_alone = vec!["hold".to_owned()];
    assert!(
        order.contains(&hold_alone),
        "break goes first: {order:?}\n{}",
        small.log_of("engine")
    );
    for (name, point) in [("break", &first), ("hold", &second)] {
        assert_told(&small, name, point, "the disk is nearly full", "disk full");
    }
    small.disk.resize(300, MsFlags::MS_REMOUNT);
    small.put(0..3000, 1000).unwrap();
    small.rig.engine().wait_unpinned();
}

/// L2, L3: a `hold` pin keeps its bytes while checkpoints wait, which is shown; at the log's limit it
/// ends, and no commit failed.
#[test]
fn hold_pin_holds_until_the_log_is_full() {
    let Some(small) = Small::new(200, "1M", 3000) else {
        return;
    };
    let point = small.mount("view", &["--on-full", "hold", "--shadow-limit", "4M"]);
    let expected = read(&point).unwrap();
    small.put(0..1000, 2).unwrap();
    eventually("checkpoints wait", || {
        only_pin(&small)["state"] == "holding checkpoints"
    });
    let pin = only_pin(&small);
    assert_eq!(
        (&pin["on_full"], &pin["shadow_limit_bytes"]),
        (&"hold".into(), &(4 << 20).into())
    );
    assert!(pin["shadow_bytes"].as_u64().unwrap() <= 4 << 20);
    assert!(pin["holding_seconds"].is_u64(), "{pin}");
    // A time to full comes with what is full then; of a pin that holds, that is the log.
    let first = match pin["full_in_seconds"].is_u64() {
        true => "log".into(),
        false => Value::Null,
    };
    assert_eq!(pin["full_first"], first, "{pin}");
    let text = end_of(stillfs().arg("status").arg(&small.rig.source)).out;
    assert!(text.contains("checkpoints wait for"), "{text}");
    assert!(read(&point).unwrap() == expected);
    let mut key = 10_000;
    while !is_ended(&point) {
        small.put(key..key + 100, 1).unwrap();
        key += 100;
        assert!(key < 30_000, "it has to end");
    }
    assert_told(
        &small,
        "view",
        &point,
        "until the log was at its limit",
        "log full",
    );
    small.put(0..500, 3).unwrap();
}

/// L1: at its own limit a `break` pin ends; `run` says so by its exit code, whatever COMMAND made of it.
#[test]
fn run_exits_13_with_the_reason_when_the_shadow_limit_is_reached() {
    let Some(small) = Small::new(200, "1M", 3000) else {
        return;
    };
    let go = small.rig.path("go");
    let point = small.rig.dir("view");
    let script = format!("until [ -e {} ]; do sleep 0.05; done; exit 0", go.display());
    let mut command = stillfs();
    command
        .args(["run", "--shadow-limit", "4M", "--at"])
        .arg(&point);
    command
        .arg(&small.rig.source)
        .args(["--", "sh", "-c", &script]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| end_of(&mut command));
        eventually("it is mounted", || !small.rig.pins().is_empty());
        let mut round = 1;
        while !small.rig.pins().is_empty() && round < 50 {
            round += 1;
            small.put(0..3000, round).unwrap();
        }
        fs::write(&go, "").unwrap();
        let ended = running.join().unwrap();
        assert_eq!(ended.code(), 13, "{ended:?}");
        assert!(
            ended.err.contains("its shadow reached the limit"),
            "{ended:?}"
        );
    });
}

/// The maximum age is warned of, and then ends the pin: by the engine, and by the daemon where there is
/// no engine any more.
#[test]
fn pin_ends_at_its_maximum_age_with_and_without_an_engine() {
    let Some(mut small) = Small::new(200, "1M", 50) else {
        return;
    };
    let point = small.mount("view", &["--max-age", "3s"]);
    assert_eq!(only_pin(&small)["max_age_seconds"], 3);
    eventually("it has ended", || is_ended(&point));
    assert_told(&small, "view", &point, "maximum age", "expired");
    assert!(small.log_of("view").contains("WARN the pin ends in"));

    let point = small.mount("alone", &["--max-age", "3s"]);
    small.rig.take_engine().kill();
    eventually("it has ended", || is_ended(&point));
    assert_eq!(read_error(&point), Some(libc::EIO));
    let ended = end_of(stillfs().arg("umount").arg(&point));
    assert_eq!(ended.code(), 13, "{ended:?}");
    assert!(
        ended.err.contains("it reached its maximum age"),
        "{ended:?}"
    );
}

/// What cannot be asked for is a usage error, also where only the engine can know; and a pin without
/// room is refused with what to do.
#[test]
fn bounds_that_cannot_be_are_refused() {
    let Some(small) = Small::new(64, "100M", 50) else {
        return;
    };
    let point = small.rig.dir("view");
    let (source, point) = (small.rig.source.as_os_str(), point.as_os_str());
    for (option, value, text) in [
        ("--on-full", "spill", "--on-full spill is for SQLite"),
        (
            "--source-wal-limit",
            "1G",
            "--source-wal-limit is for SQLite",
        ),
        ("--max-lock", "1s", "--max-lock is for SQLite"),
        ("-o", "clone", "-o clone is for SQLite"),
        ("-o", "files=clone", "-o files is for directories"),
        ("--on-full", "wait", "write break, hold or spill"),
        ("--max-age", "5", "with a unit"),
        ("--max-age", "400d", "from 1s to 366d"),
        ("--shadow-limit", "0", "must not be 0"),
        ("--shadow-limit", "100", "less than every pin takes"),
    ] {
        let words = ["mount", option, value].map(AsRef::as_ref);
        refused(&[&words[..], &[source, point]].concat(), 2, text);
    }
    let words: [&std::ffi::OsStr; 3] = ["mount".as_ref(), source, point];
    refused(
        &words,
        1,
        "make room, or start the engine with a lower floor",
    );
    assert!(small.rig.pins().is_empty());
}
