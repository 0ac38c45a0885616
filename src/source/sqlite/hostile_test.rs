//! Files that lie: refused or read as an error, never believed beyond what is there.

#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

use crate::os::random::SeededRandom;
use crate::source::sqlite::application::Application;
use crate::source::sqlite::hostile::{Bytes, Shown, show, show_on_media};

/// The files of a database of two commits, the second in the log only, and what it shows.
fn sample() -> Option<(Bytes, Vec<u8>)> {
    let mut application = Application::start()?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    application.make_wal(&path, 512);
    application.sql("CREATE TABLE t(v)");
    application.sql("INSERT INTO t VALUES (randomblob(3000))");
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    application.sql("INSERT INTO t VALUES (randomblob(2000))");
    let read = |ending: &str| {
        let path = PathBuf::from(format!("{}{ending}", path.display()));
        std::fs::read(path).unwrap()
    };
    let bytes = Bytes {
        database: read(""),
        log: read("-wal"),
        index: read("-shm"),
    };
    Some((bytes, application.image()))
}

fn refused(shown: Shown) -> String {
    match shown {
        Shown::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The rig itself: with an honest log and index, and by the log alone.
#[test]
fn honest_files_are_shown_with_their_index_and_without() {
    let Some((mut bytes, image)) = sample() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        for shown in [show(dir.path(), &bytes), show_on_media(dir.path(), &bytes)] {
            match shown.unwrap() {
                Shown::Bytes(found) => assert!(found == image),
                other => panic!("{other:?}"),
            }
        }
        // What is mended was right before.
        bytes.mend();
    }
}

#[test]
fn index_that_claims_more_than_is_there_is_refused() {
    let Some((honest, _)) = sample() else { return };
    let dir = tempfile::tempdir().unwrap();
    let claim = |at: usize, value: u32| {
        let mut bytes = honest.clone();
        bytes.index[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes.mend();
        refused(show(dir.path(), &bytes).unwrap())
    };
    let shorter = "its -wal file is shorter than its -shm file says";
    assert!(claim(16, 1000).contains(shorter));
    assert!(claim(16, u32::MAX).contains(shorter));
    assert!(claim(20, u32::MAX).contains("is not the commit of its -shm file"));
    assert!(claim(32, 7).contains("is not the one that its -shm file is of"));
    // A page number of 0 at the first frame.
    assert!(claim(136, 0).contains("its -shm file lacks pages"));
    let mut cut = honest.clone();
    cut.index.truncate(140);
    let error = refused(show(dir.path(), &cut).unwrap());
    assert!(error.contains("its -shm file lacks pages"), "{error}");
    cut.index.truncate(100);
    let error = refused(show(dir.path(), &cut).unwrap());
    assert!(error.contains("must be recovered by SQLite"), "{error}");
}

/// A frame says itself whose page it is, so a lie of the index is seen when it is read.
#[test]
fn index_that_leads_to_the_frame_of_another_page_is_seen() {
    let Some((mut bytes, _)) = sample() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = bytes.index[136..144].split_at_mut(4);
    first.swap_with_slice(second);
    let shown = show(dir.path(), &bytes).unwrap();
    let said = format!("{shown:?}");
    assert!(said.contains("does not heed its locks"), "{said}");
}

#[test]
fn database_that_is_shorter_than_its_pages_is_refused() {
    let Some((mut bytes, _)) = sample() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    bytes.database.truncate(512);
    for shown in [show(dir.path(), &bytes), show_on_media(dir.path(), &bytes)] {
        let error = refused(shown.unwrap());
        assert!(error.contains("shorter than the database"), "{error}");
    }
}

/// By the log alone: what a crash tore off at any place ends it at the commit before.
#[test]
fn log_that_is_cut_or_changed_anywhere_ends_at_a_commit() {
    let Some((bytes, image)) = sample() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for at in (0..bytes.log.len()).step_by(61) {
        let (mut cut, mut changed) = (bytes.clone(), bytes.clone());
        cut.log.truncate(at);
        changed.log[at] ^= 0x10;
        for torn in [cut, changed] {
            match show_on_media(dir.path(), &torn).unwrap() {
                // The checkpoint counter of the header is covered by its checksum as well.
                Shown::Bytes(found) => assert!(found == bytes.database, "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
    assert!(image != bytes.database);
}

/// G29, what the fuzzer does for longer: no bytes make a reader panic, hang or ask for endless memory.
#[test]
fn patched_files_are_refused_or_read_and_nothing_else() {
    let Some((honest, _)) = sample() else { return };
    let dir = tempfile::tempdir().unwrap();
    let seed = std::env::var("STILLFS_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("STILLFS_SEED={seed}");
    let random = SeededRandom::new(seed);
    let below = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
    let mut shown_count = 0;
    for _ in 0..50 {
        let mut bytes = honest.clone();
        for _ in 0..=below(3) {
            // The start of the index is where most of what is believed stands.
            let (file, reach) = match below(4) {
                0 => (&mut bytes.log, usize::MAX),
                1 => (&mut bytes.database, usize::MAX),
                _ => (&mut bytes.index, 180),
            };
            let at = below(file.len().min(reach));
            file[at] = random.next().to_le_bytes()[0];
        }
        if below(2) == 0 {
            bytes.mend();
        }
        for shown in [show(dir.path(), &bytes), show_on_media(dir.path(), &bytes)] {
            shown_count += u32::from(matches!(shown.unwrap(), Shown::Bytes(_)));
        }
    }
    assert!(shown_count > 10, "{shown_count}");
}
