//! `stillfs check`, and `dump` on what it would find.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::rig::{Served, code, expect_problem, load, run, stdout};

const PAGE_BYTES: usize = 8192;

/// A stopped database of some pages, with inner nodes, a long value and no log.
fn stopped(root: &Path) -> PathBuf {
    let dir = root.join("d");
    let mut text = "stillfs dump 1\ntable t 401\n".to_owned();
    for number in 1000..1400 {
        text.push_str(&format!("{number} {}\n", "v".repeat(100)));
    }
    text.push_str(&format!("long {}\nend 401\n", "w".repeat(30_000)));
    stdout(&load(&dir, &[], text.as_bytes()));
    dir
}

fn report(path: &Path) -> (i32, Value) {
    let output = run("check", path, &["--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["exit"], code(&output));
    assert_eq!(json["ok"], code(&output) == 0);
    (code(&output), json)
}

#[test]
fn sound_database_is_clean_stopped_running_and_by_its_page_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = stopped(root.path());
    let text = stdout(&run("check", &dir, &[]));
    assert!(text.contains("1 table, 401 entries"), "{text}");
    assert!(text.ends_with("\nok\n"), "{text}");
    for path in [&dir, &dir.join("data.pages")] {
        let (exit, json) = report(path);
        assert_eq!((exit, json["kind"].as_str()), (0, Some("directory")));
        assert_eq!(json["totals"]["entries"], 401);
        assert_eq!(json["page_size"], PAGE_BYTES);
        assert_eq!(json["findings"], Value::Array(Vec::new()));
    }
    let served = Served::start(&dir);
    served.connect().set(b"k", b"v");
    let (exit, json) = report(&dir);
    assert_eq!((exit, json["kind"].as_str()), (0, Some("pinned")));
    assert_eq!(json["totals"]["entries"], 402);
    assert_eq!(served.stop(), 0);
}

/// A bit of every page, the headers and free pages included.
#[test]
fn flipped_bit_is_found_in_every_page() {
    let root = tempfile::tempdir().unwrap();
    let dir = stopped(root.path());
    let file = dir.join("data.pages");
    let sound = std::fs::read(&file).unwrap();
    assert!(sound.len() > 8 * PAGE_BYTES && sound.len().is_multiple_of(PAGE_BYTES));
    for page in 0..sound.len() / PAGE_BYTES {
        // Positions all over the page, a different one each time.
        let at = page * PAGE_BYTES + (page * 1237 + 100) % PAGE_BYTES;
        let mut damaged = sound.clone();
        damaged[at] ^= 4;
        std::fs::write(&file, &damaged).unwrap();
        let (exit, json) = report(&dir);
        assert_eq!(exit, 12, "page {page}: {json}");
        let findings = json["findings"].as_array().unwrap();
        let named = findings.iter().any(|finding| finding["page"] == page);
        assert!(named, "page {page}: {json}");
        let text = run("check", &dir, &[]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.contains(&format!("damaged: data.pages page {page}: ")),
            "{text}"
        );
    }
    std::fs::write(&file, &sound).unwrap();
    assert_eq!(report(&dir).0, 0);
}

/// A dump of a damaged database fails; it never leaves entries out.
#[test]
fn dump_of_a_damaged_database_fails_and_has_no_end() {
    let root = tempfile::tempdir().unwrap();
    let dir = stopped(root.path());
    let file = dir.join("data.pages");
    let mut bytes = std::fs::read(&file).unwrap();
    let last_key = bytes.windows(4).rposition(|four| four == b"1399").unwrap();
    bytes[last_key] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for options in [&[][..], &["--digest"]] {
        let output = run("dump", &dir, options);
        expect_problem(&output, 12, &["data.pages", "page"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("\nend "), "{text}");
    }
    let digest = run("dump", &dir, &["--digest"]);
    assert_eq!(digest.stdout, b"");
}

#[test]
fn truncated_page_file_is_damage_however_much_is_left() {
    let root = tempfile::tempdir().unwrap();
    let dir = stopped(root.path());
    let file = dir.join("data.pages");
    let sound = std::fs::read(&file).unwrap();
    for bytes in [
        0,
        100,
        PAGE_BYTES,
        2 * PAGE_BYTES,
        5 * PAGE_BYTES + 17,
        sound.len() - 1,
    ] {
        std::fs::write(&file, &sound[..bytes]).unwrap();
        let (exit, json) = report(&dir);
        assert_eq!(exit, 12, "{bytes}: {json}");
        let opened = json["page_size"] == PAGE_BYTES && json["kind"] == "directory";
        let unopened = json["page_size"].is_null() && json["kind"].is_null();
        assert!(opened || unopened, "{json}");
        assert!(json["finding_count"].as_u64().unwrap() > 0);
        let file_named = json["findings"][0]["file"].as_str().unwrap();
        assert!(file_named.ends_with("data.pages"), "{file_named}");
        // An engine would find it out when a client asks for what is missing: it does not start.
        let refused = run("serve", &dir, &["--listen", "127.0.0.1:0"]);
        expect_problem(&refused, 12, &["data.pages"]);
    }
}

/// An acknowledged commit before other acknowledged ones: the log must not end there in silence.
#[test]
fn flipped_bit_in_the_middle_of_the_log_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    let mut client = served.connect();
    for number in 0..20_u32 {
        client.set(number.to_string().as_bytes(), b"v");
    }
    served.crash();
    expect_problem(&run("check", dir.path(), &[]), 0, &[]);
    let mut segments = std::fs::read_dir(dir.path().join("wal")).unwrap();
    let segment = segments.next().unwrap().unwrap().path();
    assert!(segments.next().is_none());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[512 + 24 + 9] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (exit, json) = report(dir.path());
    assert_eq!(exit, 12, "{json}");
    let finding = &json["findings"][0];
    assert_eq!(finding["problem"], "log");
    assert!(
        finding["file"].as_str().unwrap().ends_with(".wal"),
        "{json}"
    );
    expect_problem(&run("dump", dir.path(), &[]), 12, &["log is damaged"]);
    let served = run("serve", dir.path(), &["--listen", "127.0.0.1:0"]);
    expect_problem(&served, 12, &["log is damaged"]);
}

/// Acknowledged commits are in it; without it the page file is an older state.
#[test]
fn missing_log_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path());
    served.connect().set(b"k", b"v");
    served.crash();
    std::fs::remove_dir_all(dir.path().join("wal")).unwrap();
    assert_eq!(report(dir.path()).0, 12);
    expect_problem(&run("dump", dir.path(), &[]), 12, &["commits are missing"]);
}

/// It is whole, only not for this build: not damage, and it says what to do.
#[test]
fn database_of_a_later_version_is_refused_as_such() {
    let root = tempfile::tempdir().unwrap();
    let dir = stopped(root.path());
    let file = dir.join("data.pages");
    let mut bytes = std::fs::read(&file).unwrap();
    for copy in 0..2 {
        let page = &mut bytes[copy * PAGE_BYTES..(copy + 1) * PAGE_BYTES];
        page[40..44].copy_from_slice(&9_u32.to_le_bytes());
        let inner = crc32fast::hash(&page[32..508]);
        page[508..512].copy_from_slice(&inner.to_le_bytes());
        let whole = crc32fast::hash(&page[4..]);
        page[..4].copy_from_slice(&whole.to_le_bytes());
    }
    std::fs::write(&file, &bytes).unwrap();
    for word in ["check", "dump"] {
        expect_problem(
            &run(word, &dir, &[]),
            1,
            &["format version 9", "newer stillfs"],
        );
    }
    let served = run("serve", &dir, &["--listen", "127.0.0.1:0"]);
    expect_problem(&served, 1, &["format version 9"]);
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn what_is_no_database_is_named_as_such() {
    let root = tempfile::tempdir().unwrap();
    let letter = root.path().join("letter.txt");
    std::fs::write(&letter, b"dear").unwrap();
    for word in ["check", "dump"] {
        let missing = run(word, &root.path().join("nowhere"), &[]);
        expect_problem(&missing, 1, &["nowhere", "does not exist"]);
        let other = run(word, root.path(), &[]);
        expect_problem(&other, 1, &["not a stillfs database", "data.pages"]);
        let other = run(word, &letter, &[]);
        expect_problem(&other, 1, &["letter.txt is not a stillfs database"]);
    }
}
