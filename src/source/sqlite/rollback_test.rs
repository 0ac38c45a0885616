//! Databases in rollback-journal mode that real applications write.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::os::{Clock, File, Host, OpenMode, clock::SystemClock};
use crate::source::fixture::{Sql, has_python, run_program as run};
use crate::source::sqlite::journal::{is_hot, journal_of};
use crate::source::sqlite::rollback::RollbackPrepared;
use crate::source::sqlite::site::Site;
use crate::source::sqlite::{PinnedSqlite, Unpinnable};
use crate::source::{SourceError, SqliteOptions};
use crate::view::tree::RangeRead;

/// A database of `argv[2]`-less shape: 200 accounts whose sum is 20,000, in the journal mode asked for.
const MAKE: &str = "
c = open_db()
c.execute('pragma journal_mode=' + os.environ.get('MODE', 'delete'))
c.execute('create table account(id integer primary key, balance int, note blob)')
c.execute('begin')
c.executemany('insert into account values(?, 100, zeroblob(2000))', ((i,) for i in range(200)))
c.execute('commit')
";

/// Moves money for ever.
const TRANSFER: &str = "
c = open_db()
n = 0
while True:
    c.execute('begin immediate')
    c.execute('update account set balance = balance - 1, note = randomblob(2000) where id = ?', (n % 200,))
    c.execute('update account set balance = balance + 1, note = randomblob(2000) where id = ?', ((n * 7 + 1) % 200,))
    c.execute('commit')
    n += 1
    if n == 3: say('runs')
";

struct Scene {
    _dir: tempfile::TempDir,
    path: PathBuf,
    options: SqliteOptions,
}

impl Scene {
    fn new(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("app.db");
        run(&path, &format!("os.environ['MODE'] = '{mode}'{MAKE}"));
        let options = SqliteOptions {
            scratch: Some(dir.path().to_owned()),
            // The machine may be busy; what is bounded is tested by itself.
            max_lock: Duration::from_secs(20),
            ..SqliteOptions::default()
        };
        Self {
            _dir: dir,
            path,
            options,
        }
    }

    fn file(&self) -> Arc<dyn File> {
        Host::system()
            .disk
            .open(&self.path, OpenMode::Read)
            .unwrap()
    }

    fn site(&self) -> Site {
        Site::of(&self.path).unwrap()
    }

    fn open(&self) -> Result<RollbackPrepared, SourceError> {
        let (host, options) = (Host::system(), &self.options);
        RollbackPrepared::open_with(&host, self.file(), &self.site(), options, recover)
    }

    fn pin(&self) -> Result<PinnedSqlite, SourceError> {
        let mut prepared = self.open()?;
        prepared.pin()?;
        prepared.finish()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Whether nobody holds a lock that keeps a writer from committing.
    fn is_free(&self) -> bool {
        let code = "c = open_db(timeout=0)\nc.execute('begin exclusive')\nsay('free')";
        run(&self.path, code) == "free"
    }

    /// Until a write has another time for sure.
    fn settle(&self) {
        SystemClock.sleep(Duration::from_millis(30));
    }
}

/// What the helper process does.
fn recover(site: &Site, _options: &SqliteOptions) -> Result<(), Unpinnable> {
    run(
        site.path(),
        "open_db().execute('select count(*) from sqlite_master').fetchall()",
    );
    Ok(())
}

fn shown(pinned: &PinnedSqlite) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(pinned.view.size()).unwrap()];
    pinned.view.read_range(0, &mut out).unwrap();
    out
}

/// Stock SQLite finds the copy whole, and no money lost.
fn assert_consistent(content: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    fs::write(&path, content).unwrap();
    let code = "c = open_db()\nsay(c.execute('pragma integrity_check').fetchone()[0], \
        c.execute('select sum(balance) from account').fetchone()[0])";
    assert_eq!(run(&path, code), "ok 20000");
}

/// J1, J4: in every mode the view is the file, to the byte; the leftover journals are not hot.
#[test]
fn still_database_is_shown_as_it_is() {
    if !has_python() {
        return;
    }
    for mode in ["delete", "truncate", "persist", "memory"] {
        let scene = Scene::new(mode);
        let journal = fs::metadata(journal_of(&scene.path));
        assert_eq!(
            journal.is_ok(),
            ["truncate", "persist"].contains(&mode),
            "{mode}"
        );
        scene.settle();
        let pinned = scene.pin().unwrap();
        assert!(shown(&pinned) == scene.bytes(), "{mode}");
        assert_consistent(&shown(&pinned));
        let metadata = fs::metadata(&scene.path).unwrap();
        let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        assert_eq!(
            pinned.attributes.changed_ns,
            u64::try_from(mtime_ns).unwrap()
        );
        assert_eq!(pinned.identity.inode, metadata.ino());
        let status = pinned.view.status();
        assert_eq!((&*status.state, &*status.open_with), ("kept", "plainly"));
        assert_eq!(status.page_count * status.page_size, pinned.view.size());
        assert!(scene.is_free(), "{mode}");
    }
}

/// J1: what was written after the copy was made is in the view, and what is written after the pin is not.
#[test]
fn copy_that_is_out_of_date_is_made_again() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    scene.settle();
    let write = "open_db().execute('update account set note = randomblob(2000)')";
    let mut prepared = scene.open().unwrap();
    run(&scene.path, write);
    let committed = scene.bytes();
    prepared.pin().unwrap();
    assert!(
        !scene.is_free(),
        "the moment is held until the copy is there"
    );
    let pinned = prepared.finish().unwrap();
    assert!(scene.is_free());
    run(&scene.path, write);
    assert!(shown(&pinned) == committed && committed != scene.bytes());
    assert_consistent(&shown(&pinned));
    assert!(pinned.view.status().lock_held_us > 0);
}

/// J1, J2, J4: an application commits all the time.
#[test]
fn busy_database_is_copied_between_two_commits() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    let mut writer = Sql::start_program(&scene.path, TRANSFER);
    assert_eq!(writer.line(), "runs");
    for _ in 0..12 {
        assert_consistent(&shown(&scene.pin().unwrap()));
    }
    drop(writer);
    let hot = is_hot(&*Host::system().disk, &*scene.file(), &scene.path).unwrap();
    println!("killed with a hot journal: {hot}");
    assert_consistent(&shown(&scene.pin().unwrap()));
}

/// J4: nobody waits longer than is allowed, by the estimate or by the clock; it is refused with advice.
#[test]
fn copy_that_takes_too_long_is_refused() {
    if !has_python() {
        return;
    }
    let mut scene = Scene::new("delete");
    scene.options.max_lock = Duration::ZERO;
    let mut writer = Sql::start_program(&scene.path, TRANSFER);
    assert_eq!(writer.line(), "runs");
    // Where the writer did not get in between, nothing was left to copy under the lock.
    let mut tries = (0..200).map(|_| scene.pin());
    let refused = tries.find_map(Result::err).expect("a pin that waits");
    let refused = refused.to_string();
    let advice = ["journal_mode=WAL", "--max-lock", "app.db"];
    assert!(
        advice.iter().all(|word| refused.contains(word)),
        "{refused}"
    );
    drop(writer);

    scene.options.max_lock = Duration::from_nanos(1);
    let mut prepared = scene.open().unwrap();
    run(
        &scene.path,
        "open_db().execute('update account set note = randomblob(9)')",
    );
    // What was measured promised more than the disk keeps; and a set's pin is not taken again.
    prepared.copied_per_second = Some(u64::MAX);
    prepared.stop_writers().unwrap();
    let refused = prepared.finish().unwrap_err();
    let is_late = matches!(
        &refused,
        SourceError::Sqlite {
            reason: Unpinnable::CopyTooLong { .. },
            ..
        }
    );
    assert!(is_late, "{refused}");
    assert!(scene.is_free());
}

/// J3: a writer is killed in the middle of a transaction that is in the file already.
#[test]
fn hot_journal_is_rolled_back_first() {
    if !has_python() {
        return;
    }
    for mode in ["delete", "persist", "truncate"] {
        let scene = Scene::new(mode);
        let committed = scene.bytes();
        let code = format!(
            "c = open_db()
c.execute('pragma journal_mode={mode}')
c.execute('pragma cache_size=5')
c.execute('begin')
c.execute('update account set balance = 1, note = randomblob(2000)')
os.kill(os.getpid(), signal.SIGKILL)"
        );
        let mut writer = Sql::start_program(&scene.path, &code);
        assert_eq!(writer.wait().signal(), Some(9));
        assert!(scene.bytes() != committed, "it was written to the file");
        let looks_hot = || is_hot(&*Host::system().disk, &*scene.file(), &scene.path).unwrap();
        assert!(looks_hot(), "{mode}");
        let pinned = scene.pin().unwrap();
        assert!(shown(&pinned) == committed, "{mode}");
        assert!(!looks_hot(), "{mode}");

        // Who may not recover is refused, and nothing of it is shown.
        let mut writer = Sql::start_program(&scene.path, &code);
        writer.wait();
        let (host, options) = (Host::system(), &scene.options);
        let forbidden = |_: &Site, _: &SqliteOptions| Err(Unpinnable::NeedsRecovery);
        let refused =
            RollbackPrepared::open_with(&host, scene.file(), &scene.site(), options, forbidden);
        assert!(refused.unwrap_err().to_string().contains("no_recover"));
        assert!(looks_hot(), "{mode}");
    }
}

/// A journal of a writer that lives is not hot: what it has not committed is not in the file.
#[test]
fn transaction_under_way_is_not_shown_and_not_disturbed() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    let code = "c = open_db()
c.execute('begin immediate')
c.execute('update account set balance = 1')
say('began')
hear()
c.execute('commit')
say('committed')
hear()";
    let committed = scene.bytes();
    let mut writer = Sql::start_program(&scene.path, code);
    assert_eq!(writer.line(), "began");
    assert!(fs::metadata(journal_of(&scene.path)).is_ok_and(|found| found.len() > 0));
    let pinned = scene.pin().unwrap();
    assert!(shown(&pinned) == committed);
    assert_eq!(writer.try_run("commit"), "committed");
    assert!(shown(&pinned) == committed && scene.bytes() != committed);
}

#[test]
fn empty_database_is_shown_empty() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    fs::write(&scene.path, b"").unwrap();
    // SQLite deletes the journal of an empty database and plays nothing back.
    fs::write(journal_of(&scene.path), [0xd9; 600]).unwrap();
    let pinned = scene.pin().unwrap();
    assert_eq!(pinned.view.size(), 0);
    assert_eq!(pinned.view.status().page_count, 0);
    pinned.view.read_range(0, &mut []).unwrap();
}

/// An application that keeps the file for itself is named.
#[test]
fn exclusive_application_is_named() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    let mut prepared = scene.open().unwrap();
    prepared.patience = Duration::from_millis(30);
    let code = "c = open_db()
c.execute('pragma locking_mode=exclusive')
c.execute('update account set balance = balance')
say('has it')
hear()";
    let mut writer = Sql::start_program(&scene.path, code);
    assert_eq!(writer.line(), "has it");
    let refused = prepared.pin().unwrap_err().to_string();
    assert!(refused.contains(&writer.process().to_string()), "{refused}");
}

/// The database is replaced, or changes its mode, while it is copied.
#[test]
fn other_file_or_mode_is_refused() {
    if !has_python() {
        return;
    }
    let scene = Scene::new("delete");
    let mut prepared = scene.open().unwrap();
    run(&scene.path, "open_db().execute('pragma journal_mode=wal')");
    let refused = prepared.pin().unwrap_err().to_string();
    assert!(refused.contains("WAL"), "{refused}");
    let other = scene.path.with_extension("other");
    fs::copy(&scene.path, &other).unwrap();
    fs::rename(&other, &scene.path).unwrap();
    let refused = prepared.pin().unwrap_err().to_string();
    assert!(refused.contains("took its place"), "{refused}");
}

/// An encrypted file says nothing of its mode; what lies beside it does, and a log makes the file alone no
/// committed state.
#[test]
fn encrypted_database_that_gets_a_log_is_refused() {
    for (ending, bytes) in [("-shm", 32_768), ("-wal", 4120)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("app.db");
        fs::write(&path, vec![0xa5; 8192]).unwrap();
        let host = Host::system();
        let file = host.disk.open(&path, OpenMode::Read).unwrap();
        let options = SqliteOptions::default();
        let site = Site::of(&path).unwrap();
        let prepared = RollbackPrepared::open_with(&host, file, &site, &options, recover);
        let mut prepared = prepared.unwrap();
        fs::write(format!("{}{ending}", path.display()), vec![7; bytes]).unwrap();
        let refused = prepared.pin().unwrap_err().to_string();
        assert!(refused.contains("WAL"), "{refused}");
    }
}
