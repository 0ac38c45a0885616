//! `stillfs dump` and `stillfs load`.

use std::path::Path;
use std::process::Stdio;

use crate::rig::{Served, code, expect_problem, load, run, stdout, stillfs};

/// Every kind of key and value, an empty table, a value of many pages, and keys that look like lines
/// of the format.
fn sample() -> String {
    let long = "x".repeat(100_000);
    let every: String = (0..=255_u8)
        .map(|byte| match byte {
            b'%' => "%25".to_owned(),
            0x21..=0x7e => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect();
    format!(
        "stillfs dump 1\n\
         table a%20b 2\n%00 %\n{every} {every}\n\
         table empty 0\n\
         table redis.0 4\nend 7\nlong {long}\ntable %0a\n%ff%fe {every}\n\
         end 6\n"
    )
}

fn digest(path: &Path) -> String {
    let text = stdout(&run("dump", path, &["--digest"]));
    let digest = text.strip_suffix('\n').unwrap().to_owned();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digest
}

#[test]
fn dump_of_a_loaded_dump_is_the_same_text_and_digest_for_every_page_size() {
    let root = tempfile::tempdir().unwrap();
    let text = sample();
    let mut digests = Vec::new();
    for size in ["4K", "8K", "64K"] {
        let dir = root.path().join(size);
        let loaded = stdout(&load(&dir, &["--page-size", size], text.as_bytes()));
        assert!(loaded.ends_with(": 3 tables, 6 entries\n"), "{loaded}");
        assert_eq!(stdout(&run("dump", &dir, &[])), text);
        expect_problem(&run("check", &dir, &[]), 0, &[]);
        digests.push(digest(&dir));
        let names: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["data.pages"]);
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    // One entry more is another digest.
    let other = root.path().join("other");
    let text = text
        .replace("table empty 0\n", "table empty 1\n% %\n")
        .replace("end 6", "end 7");
    expect_problem(&load(&other, &[], text.as_bytes()), 1, &["line 6 ", "key"]);
    let text = text.replace("\n% %\n", "\nk %\n");
    stdout(&load(&other, &[], text.as_bytes()));
    assert_ne!(digest(&other), digests[0]);
}

/// Many transactions, inner nodes, and a layout that random order made.
#[test]
fn digest_does_not_depend_on_how_the_pages_lie() {
    let root = tempfile::tempdir().unwrap();
    let (served_dir, loaded_dir) = (root.path().join("a"), root.path().join("b"));
    let served = Served::start(&served_dir);
    let mut client = served.connect();
    let mut number = 1_u64;
    for _ in 0..3000 {
        number = number * 48_271 % 0x7fff_ffff;
        client.set(
            format!("{:x}", number % 2500).as_bytes(),
            number.to_string().repeat(20).as_bytes(),
        );
    }
    let running = digest(&served_dir);
    let text = stdout(&run("dump", &served_dir, &[]));
    assert_eq!(served.stop(), 0);
    assert_eq!(digest(&served_dir), running);
    stdout(&load(&loaded_dir, &["--page-size", "4K"], text.as_bytes()));
    assert_eq!(digest(&loaded_dir), running);
    assert_eq!(stdout(&run("dump", &loaded_dir, &[])), text);
}

/// Nothing is left of a load that failed: neither a database nor a directory that it made.
#[test]
fn truncated_dump_is_refused_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (missing, empty) = (root.path().join("missing"), root.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    let text = sample();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    for count in 0..lines.len() {
        let cut = lines[..count].concat();
        let line = format!("line {}", count + 1);
        for dir in [&missing, &empty] {
            let failed = load(dir, &[], cut.as_bytes());
            expect_problem(&failed, 1, &["truncated", &line]);
        }
        assert!(!missing.exists());
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    }
    stdout(&load(&empty, &[], text.as_bytes()));
}

#[test]
fn load_touches_no_directory_that_is_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), b"dear").unwrap();
    expect_problem(
        &load(dir.path(), &[], sample().as_bytes()),
        1,
        &["not empty", "letter.txt"],
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let database = dir.path().join("d");
    stdout(&load(&database, &[], sample().as_bytes()));
    expect_problem(
        &load(&database, &[], b"stillfs dump 1\nend 0\n"),
        1,
        &["not empty", "data.pages"],
    );
    assert_eq!(stdout(&run("dump", &database, &[])), sample());
}

/// A load that was killed is no database, and stands in nobody's way.
#[test]
fn leftover_of_a_killed_load_is_no_database_and_is_cleared() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d");
    let mut command = stillfs();
    command.arg("load").arg(&dir).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its input does not end, so it is in the middle when it is killed.
    let mut input = child.stdin.take().unwrap();
    let entry = format!(" {}\n", "v".repeat(60_000));
    let mut text = b"stillfs dump 1\ntable t 1000000\n".to_vec();
    for number in 1000..1200 {
        text.extend_from_slice(format!("{number}{entry}").as_bytes());
    }
    std::io::Write::write_all(&mut input, &text).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    let scratch = dir.join(".stillfs-load");
    assert!(scratch.join("data.pages").exists());
    expect_problem(&run("check", &dir, &[]), 1, &["not a stillfs database"]);
    let served = run("serve", &dir, &["--listen", "127.0.0.1:0"]);
    expect_problem(&served, 1, &["not a stillfs database"]);
    stdout(&load(&dir, &[], sample().as_bytes()));
    assert!(!scratch.exists());
    assert_eq!(stdout(&run("dump", &dir, &[])), sample());
}

/// `stillfs dump DIR | head` is quiet, but its end is not that of a whole dump.
#[test]
fn reader_that_goes_away_ends_a_dump_quietly() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d");
    let long = "x".repeat(3 << 20);
    let text = format!("stillfs dump 1\ntable t 1\nk {long}\nend 1\n");
    stdout(&load(&dir, &[], text.as_bytes()));
    let mut command = stillfs();
    command
        .arg("dump")
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
