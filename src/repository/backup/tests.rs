//! Whole backups: what is in them, which kind they are, and the runner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fixture::{Knows, Model, PAGE_BYTES, Pages, Rig, Source, file_of, noise, options};
use super::*;
use crate::database::{Database, EngineOptions, PinOptions};
use crate::os::path::FileType;
use crate::repository::compression::Compression;
use crate::repository::manifest::{BackupKind, EntryContent};
use crate::repository::store::Put;
use crate::view::tree::{Content, Special};

fn paths(manifest: &Manifest) -> Vec<String> {
    let paths = manifest.entries.iter().map(|entry| entry.path.clone());
    paths.map(|path| String::from_utf8(path).unwrap()).collect()
}

/// Files at every edge of a unit, by name.
fn plain_files() -> Vec<(String, Vec<u8>)> {
    const BLOCK: usize = 64 << 10;
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 8 * BLOCK, 17 * BLOCK + 5];
    let mut files: Vec<_> = sizes
        .iter()
        .map(|bytes| (format!("d/e/{bytes}"), noise(*bytes as u64, *bytes)))
        .collect();
    let mut holed = vec![0; 3 * BLOCK + 9];
    holed[BLOCK] = 1;
    files.push(("d/holed".to_owned(), holed));
    files.push(("d/zeros".to_owned(), vec![0; 2 * BLOCK + 100]));
    files
}

/// BK5: with the manifest and its packs alone every byte comes back, whatever kind of file it was.
#[test]
fn a_full_backup_gives_every_byte_back() {
    let rig = Rig::new(1);
    let sqlite = noise(50, 300 * 512);
    let database = Arc::new(Pages::of(sqlite.clone(), Some(512)));
    let model = Model::new(300);
    let native = model.view(Knows::Nothing);
    let mut source = Source::new("tree")
        .directory("d")
        .directory("d/e")
        .directory(".stillfs")
        .file(".stillfs/snapshot.json", b"facts")
        .directory("db")
        .with("db/data.pages", Content::Paged(native))
        .file("db/snapshot.json", b"facts")
        .file("snapshot.json", b"not facts")
        .with("app.db", Content::Paged(database))
        .with("link", Content::Link("d/e".into()));
    let files = plain_files();
    let mut last = None;
    for (path, bytes) in &files {
        last = Some(source.add(path, Content::Bytes(bytes.as_slice().into())));
    }
    source.link("another", last.unwrap());
    let special = Special {
        kind: FileType::Fifo,
        device: 0,
    };
    let source = source.with("pipe", Content::Special(special));
    let report = rig
        .backup(source.subject(), &options(Wanted::Auto))
        .unwrap();
    let facts = &report.facts;
    assert_eq!((facts.kind, &facts.parent), (BackupKind::Full, &None));
    assert_eq!(facts.full, facts.id);
    for (path, bytes) in &files {
        // The last one has its first name in the root.
        let path = if path == "d/zeros" { "another" } else { path };
        assert!(rig.content(facts, path) == *bytes, "{path}");
    }
    assert!(rig.content(facts, "app.db") == sqlite);
    assert!(rig.content(facts, "db/data.pages") == model.bytes());
    assert_eq!(rig.content(facts, "snapshot.json"), b"not facts");

    let manifest = rig.manifest(facts);
    let paths = paths(&manifest);
    assert_eq!(paths[0], "");
    assert_eq!(paths.len(), 8 + files.len() + 1, "{paths:?}");
    let entry = |path: &str| {
        let mut entries = manifest.entries.iter();
        entries.find(|entry| entry.path == path.as_bytes()).unwrap()
    };
    let named = EntryContent::HardLink(b"another".to_vec());
    assert_eq!(entry("d/zeros").content, named);
    assert_eq!(entry("link").content, EntryContent::Link(b"d/e".to_vec()));
    let found = entry("d/e/1");
    assert_eq!((found.mode, found.uid, found.gid), (0o640, 3, 4));
    assert_eq!(found.mtime_ns, 77);
    assert_eq!(file_of(&manifest, "another").extents.len(), 1, "zeros");
    let left_out: Vec<_> = facts.left_out.iter().map(|fact| &fact.path).collect();
    assert_eq!(left_out, ["pipe"]);
    assert!(!facts.left_out[0].is_wanted);
    facts_say_what_it_is(facts, &model, &manifest);
}

fn facts_say_what_it_is(facts: &BackupFacts, model: &Model, manifest: &Manifest) {
    let kinds: Vec<_> = facts.databases.iter().map(|one| &*one.kind).collect();
    assert_eq!(kinds, ["sqlite", "stillfs"]);
    let [sqlite, native] = &facts.databases[..] else {
        panic!("two databases");
    };
    assert_eq!((sqlite.page_bytes, sqlite.page_count), (512, 300));
    assert_eq!((sqlite.lsn, &sqlite.database), (None, &None));
    assert_eq!((native.page_count, native.lsn), (300, Some(model.lsn.0)));
    assert_eq!(native.path, "db/data.pages");
    assert_eq!(native.digest, file_of(manifest, "db/data.pages").digest);
    assert_eq!(native.history, Some(model.history.to_string()));
    assert_eq!(facts.digest, Manifest::digest_of(&manifest.entries));
    let statistics = facts.statistics;
    assert_eq!(statistics.units_read, statistics.units);
    assert_eq!(statistics.bytes_read, statistics.bytes);
    assert!(
        statistics.bytes_new < statistics.bytes,
        "zeros are not stored"
    );
    assert!(statistics.bytes_stored > statistics.bytes_new / 2, "noise");
}

/// BK4: content that is there already is named, not stored: in one backup, and in the next.
#[test]
fn the_same_content_is_stored_once() {
    let rig = Rig::new(2);
    let bytes = noise(9, 20 * (64 << 10));
    let source = || Source::new("tree").file("a", &bytes).file("b", &bytes);
    let first = rig
        .backup(source().subject(), &options(Wanted::Full))
        .unwrap();
    assert_eq!(first.facts.statistics.units, 40);
    assert_eq!(first.facts.statistics.units_new, 20);
    let packs = rig.packs();
    let second = rig
        .backup(source().subject(), &options(Wanted::Full))
        .unwrap();
    assert_eq!(second.facts.statistics.units_read, 40);
    assert_eq!(second.facts.statistics.units_new, 0);
    assert_eq!(rig.packs(), packs);
    assert_eq!(second.facts.digest, first.facts.digest);
    for facts in [&first.facts, &second.facts] {
        assert!(rig.content(facts, "a") == bytes && rig.content(facts, "b") == bytes);
    }
}

/// What `stillfs backups` says was stored is what the repository grew by.
#[test]
fn the_bytes_stored_are_those_of_all_objects() {
    for compression in [Compression::None, Compression::Zstd(1), Compression::Lz4] {
        let rig = Rig::new(3);
        let source = Source::new("tree").file("a", &noise(1, 3 << 20));
        let options = BackupOptions {
            compression,
            ..options(Wanted::Full)
        };
        let facts = rig.backup(source.subject(), &options).unwrap().facts;
        let store = rig.repository.store();
        let size_of = |folder: &str| -> u64 {
            let names = store.list(folder).unwrap().into_iter();
            names
                .map(|name| store.size(&format!("{folder}/{name}")).unwrap())
                .sum()
        };
        let stored = size_of("packs") + size_of("backups");
        assert_eq!(facts.statistics.bytes_stored, stored, "{compression:?}");
    }
}

#[test]
fn auto_takes_a_full_one_when_the_last_is_old_or_far_away() {
    let rig = Rig::new(4);
    let one = |wanted| {
        rig.machine.clock.advance(Duration::from_secs(60));
        let subject = Source::new("tree").file("a", b"a").subject();
        rig.backup(subject, &options(wanted))
    };
    for wanted in [Wanted::Incremental, Wanted::Differential] {
        let refused = one(wanted).unwrap_err();
        assert!(matches!(refused, RepositoryError::NoBase { .. }));
    }
    let first = one(Wanted::Auto).unwrap();
    assert_eq!(first.facts.kind, BackupKind::Full);
    let mut before = first.clone();
    for _ in 0..BackupOptions::SINCE_FULL_MAX {
        let next = one(Wanted::Auto).unwrap();
        assert_eq!(next.facts.kind, BackupKind::Incremental, "{}", next.why);
        assert_eq!(next.facts.parent, Some(before.facts.id));
        assert_eq!(next.facts.full, first.facts.id);
        assert!(next.facts.id > first.facts.id);
        before = next;
    }
    let second = one(Wanted::Auto).unwrap();
    assert_eq!(second.facts.kind, BackupKind::Full);
    assert!(second.why.contains("30 backups"), "{}", second.why);
    one(Wanted::Incremental).unwrap();
    let differential = one(Wanted::Differential).unwrap();
    assert_eq!(differential.facts.kind, BackupKind::Differential);
    assert_eq!(differential.facts.parent, Some(second.facts.id));
    rig.machine.clock.advance(BackupOptions::FULL_AGE_MAX);
    let third = one(Wanted::Auto).unwrap();
    assert!(third.why.contains("7 days"), "{}", third.why);
    let other = Source::new("sqlite").file("a", b"a").subject();
    let other = rig.backup(other, &options(Wanted::Auto)).unwrap();
    assert_eq!(other.facts.kind, BackupKind::Full, "another source");
}

/// The clock was ahead once: what was made then is no reason to take none in full for years.
#[test]
fn backups_of_the_future_are_not_built_on() {
    let rig = Rig::new(5);
    let one = || {
        rig.machine.clock.advance(Duration::from_secs(60));
        let subject = Source::new("tree").file("a", b"a").subject();
        rig.backup(subject, &options(Wanted::Auto)).unwrap()
    };
    let now_ns = rig.machine.host.clock.wall_ns();
    rig.machine
        .clock
        .set_wall_ns(now_ns + 1_000_000_000_000_000_000);
    one();
    rig.machine.clock.set_wall_ns(now_ns);
    let full = one();
    assert_eq!(full.facts.kind, BackupKind::Full, "{}", full.why);
    assert!(full.why.contains("future"), "{}", full.why);
    let next = one();
    assert_eq!(next.facts.parent, Some(full.facts.id), "{}", next.why);
    assert_eq!(rig.repository.find("latest").unwrap(), next.facts.id);
}

/// Whoever asks for the newest backup gets it, however many there are in one second.
#[test]
fn backups_of_one_second_are_in_order() {
    let rig = Rig::new(11);
    let mut ids = Vec::new();
    for number in 0..50 {
        let subject = Source::new("tree").file("a", b"a").subject();
        let facts = rig.backup(subject, &options(Wanted::Auto)).unwrap().facts;
        assert!(ids.last() < Some(&facts.id), "{number}: {ids:?}");
        ids.push(facts.id);
    }
    let second = |id: &BackupId| id.as_str()[..16].to_owned();
    assert_eq!(second(&ids[0]), second(&ids[49]), "the clock stands still");
    assert_eq!(rig.repository.ids().unwrap(), ids);
}

/// A copy that goes on by itself has nothing in common with what was backed up but its place.
#[test]
fn another_history_is_no_parent() {
    let rig = Rig::new(5);
    let mut model = Model::new(8);
    let back_up = |model: &Model, wanted| {
        let subject = Source::native(&model.view(Knows::Changes)).subject();
        rig.backup(subject, &options(wanted))
    };
    back_up(&model, Wanted::Full).unwrap();
    model.history = crate::id::HistoryId([9; 16]);
    let refused = back_up(&model, Wanted::Incremental).unwrap_err();
    assert!(matches!(refused, RepositoryError::NoBase { .. }));
    assert_eq!(
        back_up(&model, Wanted::Auto).unwrap().facts.kind,
        BackupKind::Full
    );
}

/// A manifest that cannot be read is passed over for an older one.
#[test]
fn a_damaged_parent_is_none() {
    let rig = Rig::new(6);
    let one = |wanted| {
        rig.machine.clock.advance(Duration::from_secs(60));
        let subject = Source::new("tree").file("a", b"a").subject();
        rig.backup(subject, &options(wanted))
    };
    let first = one(Wanted::Full).unwrap().facts;
    let second = one(Wanted::Incremental).unwrap().facts;
    let store = rig.repository.store();
    let damage = |facts: &BackupFacts| {
        let name = format!("backups/{}", facts.id);
        store.put(&name, &[b"damaged"], Put::Replace).unwrap();
    };
    damage(&second);
    let third = one(Wanted::Incremental).unwrap().facts;
    assert_eq!(third.parent, Some(first.id.clone()));
    damage(&first);
    damage(&third);
    assert_eq!(one(Wanted::Auto).unwrap().facts.kind, BackupKind::Full);
}

#[test]
fn what_is_not_wanted_is_left_out_and_said() {
    let rig = Rig::new(7);
    let big = noise(1, 5000);
    let source = Source::new("tree")
        .directory("a")
        .directory("a/cache")
        .file("a/cache/1", b"1")
        .file("a/x.tmp", b"2")
        .file("a/keep", b"3")
        .file("a/big", &big)
        .file("keep", b"4")
        .directory("b")
        .directory("b/a")
        .file("b/a/keep", b"5")
        .with(
            "big.db",
            Content::Paged(Arc::new(Pages::of(big.clone(), Some(1000)))),
        );
    let pattern = |text: &str| glob::Pattern::new(text).unwrap();
    let options = BackupOptions {
        exclude: vec![
            pattern("*.tmp"),
            pattern("a/cache"),
            pattern("/keep"),
            pattern("/b"),
        ],
        size_max: Some(4999),
        ..options(Wanted::Full)
    };
    let facts = rig.backup(source.subject(), &options).unwrap().facts;
    assert_eq!(paths(&rig.manifest(&facts)), ["", "a", "big.db", "a/keep"]);
    let mut left_out: Vec<_> = facts.left_out.iter().map(|fact| &*fact.path).collect();
    left_out.sort_unstable();
    assert_eq!(left_out, ["a/big", "a/cache", "a/x.tmp", "b", "keep"]);
    assert!(facts.left_out.iter().all(|fact| fact.is_wanted));
}

#[test]
fn a_rate_is_kept() {
    let rig = Rig::new(8);
    let source = Source::new("tree").file("a", &noise(1, 4 << 20));
    let options = BackupOptions {
        rate_max: Some(1 << 20),
        ..options(Wanted::Full)
    };
    let facts = rig.backup(source.subject(), &options).unwrap().facts;
    let took = Duration::from_nanos(facts.statistics.duration_ns);
    assert!(took >= Duration::from_millis(3400), "{took:?}");
    assert!(took <= Duration::from_secs(6), "{took:?}");
}

/// BK3: one writer at a time; the other is refused, and its pin given up.
#[test]
fn a_second_runner_is_refused_while_one_works() {
    let rig = Rig::new(9);
    let [go, is_reading] = [0; 2].map(|_| Arc::new(AtomicBool::new(false)));
    let (wait, reading) = (go.clone(), is_reading.clone());
    let hook = move |_| {
        reading.store(true, Ordering::SeqCst);
        while !wait.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        None
    };
    let slow = Pages {
        bytes: noise(1, 10 * PAGE_BYTES),
        page_bytes: Some(4096),
        hook: Some(Box::new(hook)),
        ..Pages::default()
    };
    let source = Source::new("sqlite").with("a", Content::Paged(Arc::new(slow)));
    let runner = Runner::new(rig.repository.clone());
    assert_eq!(runner.phase(), Phase::Idle);
    assert!(runner.wait().is_none());
    runner
        .start(source.subject(), options(Wanted::Auto))
        .unwrap();
    assert_eq!(runner.phase(), Phase::InProgress);
    let source = || Source::new("tree").file("a", b"a");
    let (second, third) = (source(), source());
    let given_up = [second.given_up.clone(), third.given_up.clone()];
    let refused = runner.start(second.subject(), options(Wanted::Auto));
    assert!(matches!(refused, Err(RepositoryError::Locked { .. })));
    while !is_reading.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let refused = rig.backup(third.subject(), &options(Wanted::Auto));
    assert!(matches!(refused, Err(RepositoryError::Locked { .. })));
    assert!(
        given_up
            .iter()
            .all(|count| count.load(Ordering::SeqCst) == 1)
    );
    go.store(true, Ordering::SeqCst);
    let report = runner.wait().unwrap().unwrap();
    assert_eq!(runner.phase(), Phase::Completed);
    assert_eq!(runner.progress().fraction, 1.0);
    assert_eq!(report.facts.statistics.units, 10);
    runner
        .start(source().subject(), options(Wanted::Auto))
        .unwrap();
    runner.wait().unwrap().unwrap();
    assert_eq!(rig.repository.ids().unwrap().len(), 2);
}

/// The same through the library: a database of this process, without a mount; what comes after the pin is
/// not in it, and the next backup reads that alone (BK6).
#[test]
fn a_database_is_backed_up_as_it_was_at_its_pin() {
    let rig = Rig::new(10);
    let database = Database::open_on(&rig.machine.host, "/db", &EngineOptions::default()).unwrap();
    let put = |keys: std::ops::Range<u64>, round: u64| {
        let mut write = database.begin_write().unwrap();
        for key in keys {
            let value = noise(round * 100_000 + key, 500);
            write.put("t", &key.to_le_bytes(), &value).unwrap();
        }
        write.commit().unwrap();
    };
    let expected = || {
        let pin = database.pin().unwrap();
        let bytes = whole(&**pin.view());
        (bytes, pin.lsn(), pin.timestamp())
    };
    let runner = Runner::new(rig.repository.clone());
    let back_up = |subject| {
        runner.start(subject, options(Wanted::Auto)).unwrap();
        let facts = runner.wait().unwrap().unwrap().facts;
        assert_eq!(database.stats().pins, 0, "the pin is given up");
        facts
    };
    put(0..3000, 1);
    // What went with one segment of the log is known as one.
    database.checkpoint().unwrap();
    let (bytes, lsn, timestamp) = expected();
    let subject = Subject::of_database(&database, &PinOptions::default()).unwrap();
    put(7..9, 2);
    database.checkpoint().unwrap();
    let first = back_up(subject);
    assert!(rig.content(&first, "data.pages") == bytes);
    let [facts] = &first.databases[..] else {
        panic!("one database");
    };
    assert_eq!((&*first.source.kind, &*facts.kind), ("stillfs", "stillfs"));
    assert_eq!(facts.page_bytes, database.engine().page_size().get());
    assert_eq!(
        (facts.lsn, facts.timestamp),
        (Some(lsn.0), Some(timestamp.0))
    );

    let (bytes, ..) = expected();
    let subject = || Subject::of_database(&database, &PinOptions::default()).unwrap();
    let second = back_up(subject());
    assert_eq!(second.kind, BackupKind::Incremental);
    assert!(rig.content(&second, "data.pages") == bytes);
    let statistics = second.statistics;
    assert!(statistics.units_read >= 3, "{statistics:?}");
    assert!(
        statistics.units_read < statistics.units / 4,
        "{statistics:?}"
    );
    let third = back_up(subject()).statistics;
    assert_eq!((third.units_read, third.units_new), (0, 0));
}

fn whole(content: &dyn crate::view::tree::RangeRead) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(content.size()).unwrap()];
    content.read_range(0, &mut bytes).unwrap();
    bytes
}
