//! Databases where this process, or everybody, can only read. Needs root, for the mounts.

#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::os::Host;
use crate::source::sqlite::application::Application;
use crate::source::sqlite::{PinnedSqlite, Prepared, Unpinnable};
use crate::source::{SourceError, SqliteOptions};
use crate::view::tree::RangeRead;

/// Unmounts when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
}

/// `None`, and a line that says so, where that is not allowed.
fn mount(arguments: &[&str], at: &Path) -> Option<Mounted> {
    let done = Command::new("mount").args(arguments).arg(at).output();
    if done.is_ok_and(|output| output.status.success()) {
        return Some(Mounted(at.to_owned()));
    }
    println!("SKIPPED: needs the right to mount");
    None
}

fn remount(options: &str, at: &Path) {
    let status = Command::new("mount").args(["-o", options]).arg(at).status();
    assert!(status.unwrap().success());
}

fn pin(path: &Path) -> Result<PinnedSqlite, Unpinnable> {
    let reason = |error| match error {
        SourceError::Sqlite { reason, .. } => reason,
        error => panic!("{error}"),
    };
    let options = SqliteOptions::default();
    let mut prepared = Prepared::open(&Host::system(), path, &options).map_err(reason)?;
    prepared.pin().map_err(reason)?;
    prepared.finish().map_err(reason)
}

fn bytes_of(pinned: &PinnedSqlite) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(pinned.view.size()).unwrap()];
    pinned.view.read_range(0, &mut bytes).unwrap();
    bytes
}

/// Q10: a crashed application's log on media that nobody can write, read by its checksums alone.
#[test]
fn log_on_read_only_media_is_read_up_to_its_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(&["-t", "tmpfs", "none"], dir.path()) else {
        return;
    };
    let Some(mut application) = Application::start() else {
        return;
    };
    let path = dir.path().join("app.db");
    application.open_wal(&path);
    application.sql("CREATE TABLE t(v)");
    application.sql("INSERT INTO t VALUES (randomblob(100000))");
    let image = application.image();
    application.sql("PRAGMA cache_size=1");
    application.sql("BEGIN");
    application.sql("INSERT INTO t VALUES (randomblob(100000))");
    application.kill();
    remount("remount,ro", dir.path());
    let pinned = pin(&path).unwrap();
    assert!(bytes_of(&pinned) == image);
    assert!(bytes_of(&pin(&path).unwrap()) == image);
    // Somebody makes it writable after all.
    remount("remount,rw", dir.path());
    std::fs::write(&path, b"other").unwrap();
    let mut byte = [0];
    pinned.view.read_range(0, &mut byte).unwrap_err();
}

/// A mark that the application itself wrote will do; without the application nothing will.
#[test]
fn read_only_mount_of_what_others_write_shares_their_marks() {
    let dir = tempfile::tempdir().unwrap();
    let (live, still) = (dir.path().join("live"), dir.path().join("still"));
    std::fs::create_dir(&live).unwrap();
    std::fs::create_dir(&still).unwrap();
    let live_text = live.to_str().unwrap();
    let Some(_mounted) = mount(&["--bind", live_text], &still) else {
        return;
    };
    remount("remount,bind,ro", &still);
    let Some(mut application) = Application::start() else {
        return;
    };
    application.open_wal(&live.join("app.db"));
    application.sql("CREATE TABLE t(v)");
    application.sql("INSERT INTO t VALUES (randomblob(100000))");
    // This reading writes the mark.
    let image = application.image();
    let pinned = pin(&still.join("app.db")).unwrap();
    application.sql("DELETE FROM t");
    application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    assert!(bytes_of(&pinned) == image);
    drop(pinned);
    application.kill();
    let refused = pin(&still.join("app.db"));
    assert!(
        matches!(refused, Err(Unpinnable::OthersMayWrite)),
        "{refused:?}"
    );
}
