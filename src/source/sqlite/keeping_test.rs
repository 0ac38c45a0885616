//! Views of live databases that are kept by clones and copies, on file systems that share blocks and on
//! others, while the application goes on.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::os::{Clock, Host, clock::SystemClock};
use crate::source::fixture::Xfs;
use crate::source::sqlite::application::Application;
use crate::source::sqlite::{PinnedSqlite, Prepared};
use crate::source::{Keeping, SourceError, SqliteOptions, WalFull};
use crate::view::tree::RangeRead;

/// A database in WAL mode of which a part is in the log only, and its size has grown there.
fn live_database(dir: &Path) -> Option<(PathBuf, Application)> {
    let mut application = Application::start()?;
    let path = dir.canonicalize().unwrap().join("app.db");
    application.open_wal(&path);
    application.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)");
    fill(&mut application, 400);
    application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    application.sql("UPDATE t SET v = randomblob(900) WHERE k % 7 = 0");
    fill(&mut application, 200);
    Some((path, application))
}

fn fill(application: &mut Application, rows: u32) {
    application.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         INSERT INTO t(v) SELECT randomblob(900) FROM n"
    ));
}

fn pin(path: &Path, options: &SqliteOptions) -> Result<PinnedSqlite, SourceError> {
    let mut prepared = Prepared::open(&Host::system(), path, options)?;
    prepared.pin()?;
    prepared.finish()
}

fn shown(pinned: &PinnedSqlite) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(pinned.view.size()).unwrap()];
    pinned.view.read_range(0, &mut out).unwrap();
    out
}

/// Whether nothing of ours is in the way: the log begins anew, and the file is written.
fn is_free(application: &mut Application) -> bool {
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)") == "[(0, 0, 0)]"
}

/// H1, H3: with a clone at the pin the application does what it likes to its files.
#[test]
fn clone_is_the_pinned_state_and_holds_nothing() {
    let Some(xfs) = Xfs::new() else { return };
    let Some((path, mut application)) = live_database(&xfs.root()) else {
        return;
    };
    let options = SqliteOptions {
        keeping: Keeping::Clone,
        ..SqliteOptions::default()
    };
    for _ in 0..3 {
        let committed = application.image();
        let pinned = pin(&path, &options).unwrap();
        let status = pinned.view.status();
        assert_eq!((&*status.state, &*status.how), ("kept", "clone"));
        application.sql("DELETE FROM t WHERE k % 3 = 0");
        application.sql("UPDATE t SET v = randomblob(800)");
        assert!(is_free(&mut application), "no lock of ours");
        application.sql("VACUUM");
        assert!(is_free(&mut application));
        assert!(shown(&pinned) == committed);
        assert_eq!(
            fs::read_dir(xfs.root()).unwrap().count(),
            3,
            "no file of ours"
        );
        fill(&mut application, 300);
    }
}

/// What cannot be cloned is refused with what helps, and nothing stays locked.
#[test]
fn clone_on_another_file_system_is_refused() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some((path, mut application)) = live_database(dir.path()) else {
        return;
    };
    let options = SqliteOptions {
        keeping: Keeping::Clone,
        ..SqliteOptions::default()
    };
    let refused = pin(&path, &options).unwrap_err().to_string();
    let words = ["-o clone", "xfs", "app.db"];
    assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    assert!(is_free(&mut application));
}

/// H2, H3: the log grows to its limit, and the view is copied away under its readers, by a clone or whole.
fn spills(root: &Path, how: &str) {
    let Some((path, mut application)) = live_database(root) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        wal_limit_bytes: Some(2 << 20),
        wal_full: WalFull::Spill,
        scratch: Some(scratch.path().to_owned()),
        ..SqliteOptions::default()
    };
    let committed = application.image();
    let pinned = pin(&path, &options).unwrap();
    assert_eq!(pinned.view.status().state, "held");
    assert_ne!(
        application.sql("PRAGMA wal_checkpoint(TRUNCATE)"),
        "[(0, 0, 0)]",
        "the mark holds the log"
    );
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !is_over.load(Ordering::SeqCst) || rounds == 0 {
                assert!(shown(&pinned) == committed, "round {rounds}");
                rounds += 1;
            }
        });
        let mut rounds = 0;
        while pinned.view.status().state == "held" && rounds < 500 {
            // Below the limit something is written; then the copy is waited for.
            if pinned.view.status().held_wal_bytes < 2 << 20 {
                application
                    .sql("UPDATE t SET v = randomblob(900) WHERE k % 20 = abs(random() % 20)");
            } else {
                SystemClock.sleep(Duration::from_millis(10));
            }
            pinned.view.tend();
            rounds += 1;
        }
        let status = pinned.view.status();
        assert!(is_free(&mut application), "{status:?}");
        application.sql("UPDATE t SET v = randomblob(900)");
        assert!(is_free(&mut application));
        SystemClock.sleep(Duration::from_millis(50));
        is_over.store(true, Ordering::SeqCst);
        reader.join().unwrap();
        assert_eq!((&*status.state, &*status.how), ("kept", how), "{status:?}");
    });
    assert!(shown(&pinned) == committed);
    pinned.view.release();
    pinned.view.look().unwrap_err();
}

#[test]
fn spilled_view_is_cloned_where_that_is_possible() {
    if let Some(xfs) = Xfs::new() {
        spills(&xfs.root(), "clone");
    }
}

#[test]
fn spilled_view_is_copied_where_it_cannot_be_cloned() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    spills(dir.path(), "copy");
}

/// The log of a view that ends at its limit is free at once.
#[test]
fn broken_view_frees_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let Some((path, mut application)) = live_database(dir.path()) else {
        return;
    };
    let options = SqliteOptions {
        wal_limit_bytes: Some(2 << 20),
        ..SqliteOptions::default()
    };
    let pinned = pin(&path, &options).unwrap();
    for _ in 0..4 {
        application.sql("UPDATE t SET v = randomblob(900)");
    }
    pinned.view.tend();
    let status = pinned.view.status();
    assert_eq!(status.state, "ended");
    assert!(status.reason.is_some_and(|reason| reason.contains("limit")));
    pinned.view.read_range(0, &mut [0]).unwrap_err();
    assert!(is_free(&mut application));
}

/// J1, J4: in rollback mode a file that was written since is cloned under the lock.
#[test]
fn rollback_database_is_cloned_where_that_is_possible() {
    let Some(xfs) = Xfs::new() else { return };
    let Some(mut application) = Application::start() else {
        return;
    };
    let path = xfs.root().join("app.db");
    application.open(&path);
    application.sql("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)");
    fill(&mut application, 3000);
    let options = SqliteOptions {
        max_lock: Duration::ZERO,
        ..SqliteOptions::default()
    };
    for _ in 0..3 {
        let mut prepared = Prepared::open(&Host::system(), &path, &options).unwrap();
        application.sql("UPDATE t SET v = randomblob(900) WHERE k % 20 = 0");
        let committed = fs::read(&path).unwrap();
        prepared.pin().unwrap();
        let pinned = prepared.finish().unwrap();
        application.sql("UPDATE t SET v = randomblob(900) WHERE k % 20 = 1");
        assert!(shown(&pinned) == committed && fs::read(&path).unwrap() != committed);
        assert_eq!(pinned.view.status().how, "clone");
        println!(
            "SHARED was held for {} us",
            pinned.view.status().lock_held_us
        );
    }
}
