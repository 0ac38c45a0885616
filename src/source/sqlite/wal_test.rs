//! Pins of databases that a real application writes, against what SQLite itself reads of the same state.

#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use crate::os::Host;
use crate::source::sqlite::application::Application;
use crate::source::sqlite::{PinnedSqlite, Prepared, Unpinnable};
use crate::source::{Recovery, SourceError, SqliteOptions};
use crate::view::tree::{EndSeen, RangeRead, ReadError};

/// A database in WAL mode with its application.
pub(super) struct Scene {
    dir: tempfile::TempDir,
    pub(super) path: PathBuf,
    pub(super) application: Application,
}

/// `None` where there is no application to be had.
pub(super) fn scene(page_bytes: u32) -> Option<Scene> {
    let mut application = Application::start()?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("app.db");
    application.make_wal(&path, page_bytes);
    application.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)");
    Some(Scene {
        dir,
        path,
        application,
    })
}

fn prepare(path: &Path) -> Result<Prepared, Unpinnable> {
    let options = SqliteOptions {
        recovery: Recovery::Refused,
        ..SqliteOptions::default()
    };
    Prepared::open(&Host::system(), path, &options).map_err(reason)
}

fn reason(error: SourceError) -> Unpinnable {
    match error {
        SourceError::Sqlite { reason, .. } => reason,
        error => panic!("{error}"),
    }
}

pub(super) fn try_pin(path: &Path) -> Result<PinnedSqlite, Unpinnable> {
    let mut prepared = prepare(path)?;
    prepared.pin().map_err(reason)?;
    prepared.finish().map_err(reason)
}

impl Scene {
    #[track_caller]
    pub(super) fn pin(&self) -> PinnedSqlite {
        try_pin(&self.path).unwrap()
    }

    pub(super) fn fill(&mut self, rows: u32) {
        self.application.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO t(v) SELECT randomblob(100 + i % 900) FROM n"
        ));
    }

    pub(super) fn checkpoint(&mut self, kind: &str) -> String {
        self.application
            .sql(&format!("PRAGMA wal_checkpoint({kind})"))
    }

    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        PathBuf::from(format!("{}{ending}", self.path.display()))
    }

    /// The database is whole, whatever was done to it.
    pub(super) fn assert_sound(&mut self) {
        assert_eq!(self.application.sql("PRAGMA integrity_check"), "[('ok',)]");
    }
}

fn bytes_of(pinned: &PinnedSqlite) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; usize::try_from(pinned.view.size()).unwrap()];
    pinned.view.read_range(0, &mut bytes)?;
    Ok(bytes)
}

#[track_caller]
pub(super) fn assert_same(pinned: &PinnedSqlite, expected: &[u8]) {
    let found = bytes_of(pinned).unwrap();
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
}

#[track_caller]
fn assert_ended(pinned: &PinnedSqlite, expected: EndSeen) {
    match bytes_of(pinned) {
        Err(ReadError::PinEnded { reason }) => assert_eq!(reason, expected),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

/// Q3 to Q5: whatever the writer does after it, a pin shows what SQLite read at it.
#[test]
fn pin_shows_what_sqlite_reads_and_goes_on_to() {
    for page_bytes in [512, 4096, 65_536] {
        let Some(mut scene) = scene(page_bytes) else {
            return;
        };
        let mut pins = Vec::new();
        for step in 0..6 {
            scene.fill(300);
            let image = scene.application.image();
            pins.push((scene.pin(), image));
            match step {
                1 => drop(scene.checkpoint("PASSIVE")),
                2 => drop(scene.application.sql("DELETE FROM t WHERE k % 3 = 0")),
                3 => drop(scene.application.sql("VACUUM")),
                4 => pins.truncate(3),
                _ => {}
            }
            for (pinned, image) in &pins {
                assert_same(pinned, image);
            }
        }
        for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            scene.checkpoint(kind);
            for (pinned, image) in &pins {
                assert_same(pinned, image);
            }
        }
        assert_eq!(scene.application.sql("PRAGMA integrity_check"), "[('ok',)]");
    }
}

/// Q4: the log is started anew and overwritten, and the view is what it was.
#[test]
fn checkpointed_database_is_shown_from_its_file_alone() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(200);
    assert_eq!(scene.checkpoint("PASSIVE").split(',').next(), Some("[(0"));
    let (pinned, image) = (scene.pin(), scene.application.image());
    for _ in 0..5 {
        scene.fill(200);
        assert_same(&pinned, &image);
        // It gets no further than the lock.
        let row = scene.checkpoint("PASSIVE");
        assert!(row.ends_with(", 0)]"), "{row}");
    }
    assert_eq!(pinned.view.status().how, "file");
    drop(pinned);
    assert!(!scene.checkpoint("PASSIVE").ends_with(", 0)]"));
    scene.assert_sound();
}

/// Q5: other readers hold every slot, the highest mark below our state.
#[test]
fn marks_of_others_are_shared_where_none_is_free() {
    let Some(mut scene) = scene(4096) else { return };
    for reader in 0..4 {
        scene.fill(20);
        scene.application.run(&format!(
            "r{reader} = connect({:?}); r{reader}.execute('BEGIN'); r{reader}.execute('SELECT count(*) FROM t').fetchall()",
            scene.path
        ));
    }
    scene.fill(50);
    scene.application.sql("DELETE FROM t WHERE k < 30");
    let (pinned, image) = (scene.pin(), scene.application.image());
    assert_eq!(pinned.view.status().how, "wal");
    for reader in 0..4 {
        scene
            .application
            .run(&format!("r{reader}.execute('COMMIT')"));
        scene.fill(50);
        scene.checkpoint("PASSIVE");
        assert_same(&pinned, &image);
    }
    scene.assert_sound();
}

/// What is not committed, rolled back or spilled is not there; and every part of the file can be read.
#[test]
fn pin_in_the_middle_of_a_transaction_shows_what_was_before_it() {
    let Some(mut scene) = scene(512) else { return };
    scene.fill(100);
    let image = scene.application.image();
    scene.application.sql("PRAGMA cache_size=5");
    scene.application.sql("BEGIN IMMEDIATE");
    scene.fill(500);
    let pinned = scene.pin();
    assert_same(&pinned, &image);
    scene.application.sql("ROLLBACK");
    scene.fill(100);
    assert_same(&pinned, &image);
    for (at, bytes) in [(0, 1), (511, 2), (700, 1500), (image.len() - 3, 3)] {
        let mut found = vec![0; bytes];
        pinned.view.read_range(at as u64, &mut found).unwrap();
        assert_eq!(found, image[at..at + bytes]);
    }
    let error = pinned.view.read_range(image.len() as u64, &mut [0]);
    assert!(matches!(error, Err(ReadError::Range { .. })));
}

/// A database that shrinks and grows again: pages that were cut off come from nowhere but the pin.
#[test]
fn pages_that_are_cut_off_and_come_again_are_those_of_the_pin() {
    let Some(mut scene) = scene(4096) else { return };
    scene.application.sql("PRAGMA auto_vacuum=FULL");
    scene.application.sql("VACUUM");
    scene.fill(500);
    scene.checkpoint("TRUNCATE");
    scene.application.sql("DELETE FROM t WHERE k > 10");
    let small = (scene.pin(), scene.application.image());
    assert!(small.1.len() < 100_000);
    scene.fill(900);
    let large = (scene.pin(), scene.application.image());
    scene.checkpoint("PASSIVE");
    scene.application.sql("DELETE FROM t");
    scene.checkpoint("PASSIVE");
    for (pinned, image) in [&small, &large] {
        assert_same(pinned, image);
    }
    drop((small, large));
    scene.checkpoint("TRUNCATE");
    scene.assert_sound();
}

/// Q1: whoever closes it last leaves the log and its index to us.
#[test]
fn files_stay_when_the_application_ends_while_pinned() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let (pinned, image) = (scene.pin(), scene.application.image());
    scene.application.run("db.close()");
    assert!(scene.beside("-wal").exists() && scene.beside("-shm").exists());
    assert_same(&pinned, &image);
    scene.application.open(&scene.path);
    scene.fill(100);
    scene.checkpoint("TRUNCATE");
    assert_same(&pinned, &image);
    let locked = scene.application.try_sql("PRAGMA journal_mode=DELETE");
    assert_eq!(locked, Err("error database is locked".to_owned()));
    pinned.view.release();
    assert_ended(&pinned, EndSeen::Released);
    assert_eq!(
        scene.application.sql("PRAGMA journal_mode=DELETE"),
        "[('delete',)]"
    );
    scene.assert_sound();
}

/// Q7: two pins of one database in one process share nothing, whichever goes first.
#[test]
fn pin_stands_when_another_of_the_same_database_is_dropped() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let (first, image) = (scene.pin(), scene.application.image());
    let second = scene.pin();
    drop(second);
    let third = scene.pin();
    scene.fill(100);
    drop(third);
    scene.checkpoint("PASSIVE");
    assert!(scene.checkpoint("RESTART").starts_with("[(1"));
    scene.fill(100);
    assert_same(&first, &image);
    drop(first);
    assert!(scene.checkpoint("RESTART").starts_with("[(0"));
}

/// Q6: by another name of the file there is no log, or another, and what the file has is no state of its own.
#[test]
fn database_in_use_with_another_log_is_refused() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let other = scene.dir.path().canonicalize().unwrap().join("other.db");
    std::fs::hard_link(&scene.path, &other).unwrap();
    let refuse = |path: &Path| {
        // Nobody is asked to make an index.
        let options = SqliteOptions {
            helper: Some(PathBuf::from("/nowhere/helper")),
            ..SqliteOptions::default()
        };
        let refused = Prepared::open(&Host::system(), path, &options).map_err(reason);
        assert!(
            matches!(refused, Err(Unpinnable::OtherIndex { .. })),
            "{refused:?}"
        );
    };
    refuse(&other);
    scene.pin();
    std::fs::remove_file(scene.beside("-shm")).unwrap();
    refuse(&scene.path);
}

/// Q6: whoever opened the database now would make files of his own, and not see our locks.
#[test]
fn pin_ends_when_its_log_or_index_is_removed() {
    for ending in ["-wal", "-shm"] {
        let Some(mut scene) = scene(4096) else { return };
        scene.fill(10);
        let (first, second) = (scene.pin(), scene.pin());
        for pinned in [&first, &second] {
            bytes_of(pinned).unwrap();
        }
        std::fs::rename(scene.beside(ending), scene.beside("-away")).unwrap();
        assert_ended(&first, EndSeen::SidecarRemoved);
        std::fs::rename(scene.beside("-away"), scene.beside(ending)).unwrap();
        std::fs::remove_file(scene.beside(ending)).unwrap();
        assert_ended(&second, EndSeen::SidecarRemoved);
    }
}

/// Q6: a file without a name is written by those only who have our index open.
#[test]
fn pin_stands_when_another_file_is_renamed_over_the_database() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let (pinned, image) = (scene.pin(), scene.application.image());
    let other = scene.dir.path().join("other");
    std::fs::write(&other, b"another").unwrap();
    std::fs::rename(&other, &scene.path).unwrap();
    scene.application.sql("INSERT INTO t(v) VALUES (1)");
    assert_same(&pinned, &image);
    for ending in ["-wal", "-shm"] {
        std::fs::remove_file(scene.beside(ending)).unwrap();
    }
    assert_same(&pinned, &image);
}

/// Q9: `cp` knows nothing of locks.
#[test]
fn pin_of_a_file_that_is_overwritten_in_place_ends() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    scene.checkpoint("TRUNCATE");
    let pinned = scene.pin();
    let image = bytes_of(&pinned).unwrap();
    std::fs::write(&scene.path, &image).unwrap();
    assert_ended(&pinned, EndSeen::LockIgnored);
}

/// Q9: the same under a mark, where checkpoints may write the file, but not its head.
#[test]
fn marked_file_that_another_is_copied_over_ends_its_pin() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    scene.checkpoint("TRUNCATE");
    // No page is added, which the first page would count.
    scene
        .application
        .sql("UPDATE t SET v = randomblob(length(v)) WHERE k = 7");
    let pinned = scene.pin();
    let image = bytes_of(&pinned).unwrap();
    assert_eq!(pinned.view.status().how, "wal");
    scene.checkpoint("PASSIVE");
    assert!(
        bytes_of(&pinned).unwrap() == image,
        "a checkpoint is no harm"
    );
    let mut other = image.clone();
    // The change counter: any other state of a database has another.
    other[27] ^= 1;
    other[8192..].fill(7);
    std::fs::write(&scene.path, &other).unwrap();
    assert_ended(&pinned, EndSeen::LockIgnored);
}

/// Q9: what is in the log is told from what others put there.
#[test]
fn pin_of_a_log_that_is_overwritten_or_cut_ends() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let pins = [scene.pin(), scene.pin(), scene.pin()];
    let log = std::fs::read(scene.beside("-wal")).unwrap();
    std::fs::write(scene.beside("-wal"), &log[..5000]).unwrap();
    assert_ended(&pins[0], EndSeen::LockIgnored);
    let other: Vec<u8> = log.iter().map(|byte| byte ^ 1).collect();
    std::fs::write(scene.beside("-wal"), other).unwrap();
    assert_ended(&pins[1], EndSeen::LockIgnored);
    std::fs::write(scene.beside("-wal"), &log).unwrap();
    bytes_of(&pins[2]).unwrap();
    std::fs::write(scene.beside("-shm"), [0; 100]).unwrap();
    assert_ended(&pins[2], EndSeen::LockIgnored);
}

/// Who has the database for himself is named.
#[test]
fn database_in_exclusive_mode_is_refused_with_its_process() {
    let Some(mut application) = Application::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    application.open(&path);
    application.sql("PRAGMA locking_mode=EXCLUSIVE");
    application.use_wal();
    application.sql("CREATE TABLE t(x)");
    match prepare(&path) {
        Err(Unpinnable::Locked { by }) => {
            assert_eq!(by.process(), Some(application.process()));
            assert!(by.to_string().contains("python3"), "{by}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_only_sqlite_can_mend_is_refused_where_it_may_not() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(10);
    let copy = scene.dir.path().join("copy.db");
    for ending in ["", "-wal"] {
        let to = PathBuf::from(format!("{}{ending}", copy.display()));
        std::fs::copy(scene.beside(ending), to).unwrap();
    }
    assert!(matches!(prepare(&copy), Err(Unpinnable::NeedsRecovery)));
    std::fs::write(&copy, b"").unwrap();
    assert!(matches!(prepare(&copy), Err(Unpinnable::EmptyBesideLog)));
    let mut two_logs = scene.application.image();
    two_logs[18..20].fill(3);
    std::fs::write(&copy, two_logs).unwrap();
    assert!(matches!(prepare(&copy), Err(Unpinnable::TwoLogs)));
    scene.application.kill();
    assert!(matches!(
        prepare(&scene.path),
        Err(Unpinnable::NeedsRecovery)
    ));
}

/// The set of one instant: no commit between.
#[test]
fn writers_that_are_stopped_commit_nothing_until_they_are_let_go() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(10);
    let mut prepared = prepare(&scene.path).unwrap();
    prepared.stop_writers().unwrap();
    let image = scene.application.image();
    let insert = "INSERT INTO t(v) VALUES (1)";
    let refused = scene.application.try_sql(insert);
    assert_eq!(refused, Err("error database is locked".to_owned()));
    prepared.pin().unwrap();
    prepared.let_writers_go();
    scene.application.sql(insert);
    assert_same(&prepared.finish().unwrap(), &image);
}

/// Whoever wrote the header died in the middle of it, between opening and pin: that is SQLite's to mend.
#[test]
fn header_that_stays_half_written_is_not_pinned() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(10);
    let mut prepared = prepare(&scene.path).unwrap();
    let index = std::fs::read(scene.beside("-shm")).unwrap();
    let mut torn = index.clone();
    torn[48] ^= 1;
    std::fs::write(scene.beside("-shm"), &torn[..]).unwrap();
    let refused = prepared.pin().map_err(reason);
    assert!(matches!(refused, Err(Unpinnable::NeedsRecovery)));
    // The next reader mends it, and the same preparation goes on.
    let image = scene.application.image();
    prepared.pin().unwrap();
    assert_same(&prepared.finish().unwrap(), &image);
}

/// BK12: whoever backs up sees who commits, in the log and after a checkpoint.
#[test]
fn mark_of_a_view_changes_when_the_application_commits() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(10);
    let pinned = scene.pin();
    let quiet = pinned.view.write_mark();
    assert!(quiet.is_some());
    assert_eq!(pinned.view.write_mark(), quiet);
    scene.fill(10);
    assert_ne!(pinned.view.write_mark(), quiet);
}
