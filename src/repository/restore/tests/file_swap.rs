//! A database file takes the place of one that has a log, with crashes between the steps.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::*;
use crate::repository::restore::*;

/// Runs a program with Python's SQLite on `database`; `None` where there is no Python.
fn python(database: &Path, program: &str) -> Option<String> {
    let code = format!("import sqlite3,sys,os\np=sys.argv[1]\n{program}");
    let output = Command::new("python3")
        .args(["-c", &code])
        .arg(database)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.trim().to_owned())
}

/// Leaves a log with a commit in it.
const WAL: &str = "d=sqlite3.connect(p)
d.execute('pragma journal_mode=wal')
d.execute('create table t(v)')
d.commit()
d.execute('pragma wal_autocheckpoint=0')
d.execute(\"insert into t values('old')\")
d.commit()
print(1,flush=True)
os._exit(0)";
/// Leaves half a transaction in the file, and the journal that takes it back.
const JOURNAL: &str = "d=sqlite3.connect(p,isolation_level=None)
d.execute('create table t(v)')
d.execute(\"insert into t values('old')\")
d.execute('create table filler as with recursive n(i) as (select 1 union all select i+1 from n where i<400) select zeroblob(3000) v from n')
d.execute('pragma cache_size=5')
d.execute('begin immediate')
d.execute(\"update t set v='torn'\")
d.execute('update filler set v=randomblob(3000)')
print(1,flush=True)
os._exit(0)";
const NEW: &str = "d=sqlite3.connect(p,isolation_level=None)
d.execute('create table t(v)')
d.execute(\"insert into t values('new')\")
d.execute('pragma journal_mode=MODE')
d.close()
print(1)";
const LOOK: &str = "d=sqlite3.connect(p)
print(d.execute('pragma integrity_check').fetchone()[0],d.execute('select group_concat(v) from t').fetchone()[0])
d.close()";

struct Databases {
    rig: Rig,
    id: BackupId,
    target: PathBuf,
    new: Vec<u8>,
}

impl Databases {
    fn make(mode: &str) -> Option<Self> {
        let rig = Rig::new();
        let made = rig.path("made.db");
        if python(&made, &NEW.replace("MODE", mode)).as_deref() != Some("1") {
            println!("SKIPPED: needs python3 with SQLite");
            return None;
        }
        let new = fs::read(&made).unwrap();
        fs::remove_file(&made).unwrap();
        let id = rig.back_up("sqlite", &[("made.db", What::Content(new.clone()))]);
        let target = rig.path("app.db");
        Some(Self {
            rig,
            id,
            target,
            new,
        })
    }

    /// The old database and its log, as `program` leaves them.
    fn old(&self, program: &str, log: &str) -> [(PathBuf, Vec<u8>); 2] {
        self.clear();
        python(&self.target, program);
        let old = [self.target.clone(), self.rig.path(log)];
        let old = old.map(|path| (path.clone(), fs::read(&path).unwrap()));
        assert!(old[1].1.len() > 512, "{log}");
        old
    }

    fn clear(&self) {
        for name in self.rig.names() {
            let path = self.rig.path(&name);
            match fs::symlink_metadata(&path).unwrap().is_dir() {
                true => fs::remove_dir_all(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
        }
    }

    fn put(&self, old: &[(PathBuf, Vec<u8>); 2]) {
        self.clear();
        for (path, bytes) in old {
            fs::write(path, bytes).unwrap();
        }
    }

    /// Restores until `step` is to be done, counted from 0; `false` if there are not so many.
    fn stop_at(&self, step: usize, how: Stop) -> bool {
        let count = AtomicUsize::new(0);
        let watch = |_| match (count.fetch_add(1, Ordering::Relaxed) == step, how) {
            (false, _) => Ok(()),
            (true, Stop::Crash) => panic!("the machine stops"),
            (true, Stop::Error) => Err(RepositoryError::Cancelled),
        };
        let run = || self.rig.replace_watched(&self.id, &self.target, &watch);
        let outcome = catch_unwind(AssertUnwindSafe(run));
        !matches!(outcome, Ok(Ok(_)))
    }

    fn is_new(&self) -> bool {
        fs::read(&self.target).unwrap() == self.new
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Crash,
    Error,
}

/// BK9, BK8: stopped at any step, SQLite finds the old database with its log, or the restored one without
/// any; and the next restore ends well from there, whether somebody worked with it meanwhile or not.
#[test]
fn a_crash_at_any_step_leaves_the_old_database_whole_or_the_restored_one_without_a_log() {
    let Some(databases) = Databases::make("wal") else {
        return;
    };
    for (program, log) in [(WAL, "app.db-wal"), (JOURNAL, "app.db-journal")] {
        let old = databases.old(program, log);
        for (how, is_opened) in [
            (Stop::Crash, true),
            (Stop::Crash, false),
            (Stop::Error, false),
        ] {
            let mut seen = Vec::new();
            for step in 0.. {
                let case = format!("{log}, {how:?} at step {step}, opened: {is_opened}");
                databases.put(&old);
                if !databases.stop_at(step, how) {
                    break;
                }
                let is_new = databases.is_new();
                seen.push(is_new);
                if is_new {
                    let names = databases.rig.names();
                    assert!(
                        names.iter().all(|name| !name.starts_with("app.db-")),
                        "{case}"
                    );
                }
                if is_opened {
                    let expected = if is_new { "ok new" } else { "ok old" };
                    let found = python(&databases.target, LOOK).unwrap();
                    assert_eq!(found, expected, "{case}");
                } else if how == Stop::Error && !is_new {
                    assert!(!databases.target.is_symlink(), "{case}");
                    for (path, bytes) in &old {
                        assert!(&fs::read(path).unwrap() == bytes, "{case}");
                    }
                }
                databases
                    .rig
                    .replace(&databases.id, &databases.target)
                    .unwrap();
                assert!(databases.is_new(), "{case}");
                assert_eq!(databases.rig.names(), ["app.db"], "{case}");
            }
            assert!(seen.len() >= 5, "{seen:?}");
            assert_eq!(seen.last(), Some(&true));
            assert_eq!(seen.first(), Some(&false));
        }
    }
}

/// BK9: what the interrupted restore would have given up is given back, log and all, before it goes on.
#[test]
fn an_interrupted_swap_that_is_taken_back_loses_no_commit() {
    let Some(databases) = Databases::make("delete") else {
        return;
    };
    for (program, log) in [(WAL, "app.db-wal"), (JOURNAL, "app.db-journal")] {
        let old = databases.old(program, log);
        for step in 0..4 {
            databases.put(&old);
            databases.stop_at(step, Stop::Crash);
            // The second stops at its first step, when the first is taken back.
            databases.stop_at(0, Stop::Crash);
            for (path, bytes) in &old {
                assert!(&fs::read(path).unwrap() == bytes, "{log} {step}");
            }
            assert!(!databases.target.is_symlink());
        }
    }
}

/// BK9: a log without a database would be replayed over the new one.
#[test]
fn a_log_that_stands_alone_is_something_that_is_there() {
    let rig = Rig::new();
    let id = rig.back_up("sqlite", &[("made.db", content(1, 3, 0))]);
    let target = rig.path("app.db");
    fs::write(rig.path("app.db-wal"), b"log").unwrap();
    let error = rig.restore(&id, &target).unwrap_err();
    assert!(error.to_string().contains("app.db-wal"), "{error}");
    rig.replace(&id, &target).unwrap();
    assert_eq!(rig.names(), ["app.db"]);
    let refused = rig.restore(&id, &target);
    assert!(matches!(refused, Err(RepositoryError::TargetExists { .. })));
    // Empty ones have nothing in them, and a folder is no log.
    fs::write(rig.path("app.db-wal"), b"").unwrap();
    fs::write(rig.path("app.db-shm"), b"index").unwrap();
    rig.replace(&id, &target).unwrap();
    assert_eq!(rig.names(), ["app.db"]);
    fs::create_dir(rig.path("app.db-wal")).unwrap();
    let error = rig.replace(&id, &target).unwrap_err();
    assert!(matches!(error, RepositoryError::Target { .. }), "{error}");
}
