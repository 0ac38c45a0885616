//! What a pin keeps others from, and what it leaves in the files of an application.

#![allow(clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::os::range_lock::try_lock;
use crate::os::{File, Host, LockKind, OpenMode};
use crate::source::sqlite::Unpinnable;
use crate::source::sqlite::application::Application;
use crate::source::sqlite::format::{CheckpointState, mark_offset};
use crate::source::sqlite::lock_bytes::read_mark;
use crate::source::sqlite::wal_test::{Scene, assert_same, scene, try_pin};

fn index_of(scene: &Scene) -> Vec<u8> {
    fs::read(scene.beside("-shm")).unwrap()
}

fn state_of(scene: &Scene) -> CheckpointState {
    CheckpointState::parse(&index_of(scene)).unwrap()
}

/// The index, open for the test's own locks.
fn open_index(scene: &Scene) -> Arc<dyn File> {
    let path = scene.beside("-shm");
    Host::system()
        .disk
        .open(&path, OpenMode::ReadWrite)
        .unwrap()
}

/// Bytes and time of change.
fn file(path: &Path) -> (Vec<u8>, i64, i64) {
    let found = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), found.mtime(), found.mtime_nsec())
}

/// Where the two differ.
fn differences(one: &[u8], other: &[u8]) -> Vec<u64> {
    assert_eq!(one.len(), other.len());
    let both = (0..).zip(one.iter().zip(other));
    both.filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at)
        .collect()
}

/// Q2: the last application dies, and the next one takes the index as it is: one made anew would say that
/// nothing was backfilled.
#[test]
fn index_is_not_made_anew_while_pinned() {
    for is_pinned in [true, false] {
        let Some(mut scene) = scene(4096) else { return };
        scene.fill(100);
        let early = scene.pin();
        scene.fill(100);
        // As far as the early mark, so that the log is not started anew.
        scene.checkpoint("PASSIVE");
        let (pinned, image) = (scene.pin(), scene.application.image());
        drop(early);
        if !is_pinned {
            pinned.view.release();
        }
        let backfilled = state_of(&scene).backfilled;
        assert!(backfilled > 0);
        let next = Application::start().unwrap();
        std::mem::replace(&mut scene.application, next).kill();
        scene.application.open(&scene.path);
        scene.application.sql("SELECT count(*) FROM t");
        let expected = if is_pinned { backfilled } else { 0 };
        assert_eq!(state_of(&scene).backfilled, expected);
        if is_pinned {
            assert_same(&pinned, &image);
        }
        scene.assert_sound();
    }
}

/// Q8: of all bytes of an application's files, pinning, reading and letting go change those of one mark.
#[test]
fn nothing_is_written_but_a_mark() {
    let Some(mut scene) = scene(4096) else { return };
    // A mark is raised, or a free one is set, as the log has grown since the last reader or not.
    for rows in [100, 0, 300] {
        if rows > 0 {
            scene.fill(rows);
        }
        let log = scene.beside("-wal");
        let image = scene.application.image();
        let before = (file(&scene.path), file(&log), index_of(&scene));
        let pinned = scene.pin();
        assert_same(&pinned, &image);
        pinned.view.tend();
        pinned.view.look().unwrap();
        pinned.view.release();
        assert_eq!((file(&scene.path), file(&log)), (before.0, before.1));
        let changed = differences(&before.2, &index_of(&scene));
        let is_in = |slot| (mark_offset(slot)..mark_offset(slot) + 4).contains(&changed[0]);
        if let Some(last) = changed.last() {
            let slot = (1..5).find(|slot| is_in(*slot)).expect("it is a mark");
            assert!(*last < mark_offset(slot) + 4, "{changed:?}");
        }
    }
}

/// Q8: a mark that somebody else holds is not written, whoever could use another value.
#[test]
fn mark_is_written_under_its_exclusive_lock_alone() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    scene.checkpoint("PASSIVE");
    let reader = open_index(&scene);
    for slot in 1..5 {
        assert!(try_lock(&*reader, LockKind::Shared, read_mark(slot)).unwrap());
    }
    scene.fill(100);
    let (before, image) = (index_of(&scene), scene.application.image());
    let pinned = scene.pin();
    assert_same(&pinned, &image);
    assert!(differences(&before, &index_of(&scene)).is_empty());
    drop(pinned);
    drop(reader);
    drop(scene.pin());
    assert!(!differences(&before, &index_of(&scene)).is_empty());
}

/// An empty log gets other salts with its first frame, from whoever has never started one anew, so that no
/// mark on it says of which log it is: only the file alone, READ(0), shows such a state.
#[test]
fn empty_log_is_not_marked() {
    let Some(mut scene) = scene(4096) else { return };
    scene.fill(100);
    let path = scene.path.clone();
    scene.application.run(&format!("other = connect({path:?})"));
    scene
        .application
        .run("other.execute('SELECT 1 FROM t').fetchall()");
    scene.checkpoint("TRUNCATE");
    let image = scene.application.image();
    // As a checkpoint holds it for a moment that had begun before the log was emptied.
    let checkpoint = open_index(&scene);
    assert!(try_lock(&*checkpoint, LockKind::Exclusive, read_mark(0)).unwrap());
    let pinned = try_pin(&path);
    drop(checkpoint);
    let pinned = match pinned {
        Err(refused) => {
            assert!(matches!(refused, Unpinnable::NoMark), "{refused}");
            scene.pin()
        }
        marked => marked.unwrap(),
    };
    scene
        .application
        .run("other.execute('INSERT INTO t(v) VALUES (1)')");
    assert_same(&pinned, &image);
    scene.assert_sound();
}
