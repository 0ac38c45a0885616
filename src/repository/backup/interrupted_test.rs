//! Backups that do not come to their end: cancelled, refused by the disk, pin lost, thread lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::fixture::{Gate, PAGE_BYTES, Pages, Rig, Source, failing, lost, noise, options};
use super::*;
use crate::os::Clock;
use crate::os::clock::SystemClock;
use crate::repository::compression::Compression;
use crate::repository::pack::PACK_BYTES;
use crate::view::tree::Content;

fn source(bytes: &[u8], hook: impl Fn(u64) + Send + Sync + 'static) -> Source {
    let hook = move |page| {
        hook(page);
        None
    };
    let pages = Pages {
        bytes: bytes.to_vec(),
        page_bytes: Some(4096),
        hook: Some(Box::new(hook)),
        ..Pages::default()
    };
    Source::new("sqlite").with("a", Content::Paged(Arc::new(pages)))
}

/// What a backup that failed leaves behind: no manifest, no pin; and the next one succeeds.
fn expect_nothing_published(rig: &Rig, given_up: &AtomicU64, control: &Control, bytes: &[u8]) {
    assert_eq!(given_up.load(Ordering::SeqCst), 1, "BK11");
    assert_eq!(control.progress().phase, Phase::Failed);
    assert_eq!(rig.repository.ids().unwrap(), []);
    let next = rig.backup(source(bytes, |_| {}).subject(), &options(Wanted::Auto));
    let facts = next.unwrap().facts;
    assert!(rig.content(&facts, "a") == bytes);
}

/// BK11, BK1: cancelled before any of its reads, a backup ends, publishes nothing and gives up the pin.
#[test]
fn a_backup_is_cancelled_at_any_read() {
    let bytes = noise(1, 20 * (512 << 10));
    for at in 0..20 {
        let rig = Rig::new(at);
        let control = Control::default();
        let cancelled = control.clone();
        let reads = AtomicU64::new(0);
        let source = source(&bytes, move |_| {
            if reads.fetch_add(1, Ordering::SeqCst) == at {
                cancelled.cancel();
            }
        });
        let given_up = source.given_up.clone();
        let ended = backup(
            &rig.repository,
            source.subject(),
            &options(Wanted::Auto),
            &control,
        );
        assert!(
            matches!(ended, Err(RepositoryError::Cancelled)),
            "{ended:?}"
        );
        expect_nothing_published(&rig, &given_up, &control, &bytes);
    }
}

/// BK1, BK11: whichever object cannot be stored, the manifest among them, no backup appears. What is put
/// after the manifest says no more than that it is there.
#[test]
fn a_backup_fails_with_any_object_that_cannot_be_stored() {
    let bytes = noise(2, 2 * PACK_BYTES + (1 << 20));
    let rig = Rig::new(1);
    let (repository, store) = rig.gated(failing(u64::MAX));
    let options = options(Wanted::Auto);
    let whole = source(&bytes, |_| {}).subject();
    backup(&repository, whole, &options, &Control::default()).unwrap();
    let puts = store.puts.load(Ordering::SeqCst);
    assert!(puts >= 4, "{puts}");
    for number in 0..puts - 1 {
        let rig = Rig::new(number);
        let (repository, _) = rig.gated(failing(number));
        let source = source(&bytes, |_| {});
        let (control, given_up) = (Control::default(), source.given_up.clone());
        let ended = backup(&repository, source.subject(), &options, &control);
        assert!(
            matches!(ended, Err(RepositoryError::NoSpace { .. })),
            "{ended:?}"
        );
        expect_nothing_published(&rig, &given_up, &control, &bytes);
    }
}

/// What an interrupted backup stored is known to the next one, which reads it and stores it not.
#[test]
fn the_next_backup_uses_what_an_interrupted_one_stored() {
    let bytes = noise(3, 3 * PACK_BYTES);
    let rig = Rig::new(1);
    let (repository, _) = rig.gated(failing(2));
    let ended = backup(
        &repository,
        source(&bytes, |_| {}).subject(),
        &options(Wanted::Auto),
        &Control::default(),
    );
    assert!(ended.is_err());
    assert_eq!(rig.packs(), 2);
    let next = rig.backup(source(&bytes, |_| {}).subject(), &options(Wanted::Auto));
    let facts = next.unwrap().facts;
    let units = (PACK_BYTES / PAGE_BYTES) as u64;
    assert_eq!(facts.statistics.units, 3 * units);
    assert!(
        facts.statistics.units_new <= units + 400,
        "{:?}",
        facts.statistics
    );
    assert!(rig.content(&facts, "a") == bytes);
}

/// BK7: a pin that does not stand any more after the last read makes all of it worthless.
#[test]
fn a_lost_pin_publishes_nothing() {
    let rig = Rig::new(1);
    let bytes = noise(4, 100_000);
    let source = source(&bytes, |_| {}).lost();
    let (control, given_up) = (Control::default(), source.given_up.clone());
    let ended = backup(
        &rig.repository,
        source.subject(),
        &options(Wanted::Auto),
        &control,
    );
    assert!(
        matches!(ended, Err(RepositoryError::View { .. })),
        "{ended:?}"
    );
    expect_nothing_published(&rig, &given_up, &control, &bytes);
}

/// BK7: nor does one whose loss a read sees.
#[test]
fn a_read_that_fails_ends_the_backup() {
    let rig = Rig::new(1);
    let bytes = noise(5, 8 << 20);
    let pages = Pages {
        bytes: bytes.clone(),
        page_bytes: Some(4096),
        hook: Some(Box::new(|page| (page == 1024).then(lost))),
        ..Pages::default()
    };
    let source = Source::new("sqlite").with("b", Content::Paged(Arc::new(pages)));
    let (control, given_up) = (Control::default(), source.given_up.clone());
    let ended = backup(
        &rig.repository,
        source.subject(),
        &options(Wanted::Auto),
        &control,
    );
    match ended {
        Err(RepositoryError::View { path, .. }) => assert_eq!(path, "b"),
        other => panic!("{other:?}"),
    }
    expect_nothing_published(&rig, &given_up, &control, &bytes);
}

/// BK11: a thread that panics ends the backup with an answer, and the pin is given up.
#[test]
fn a_lost_thread_ends_the_backup() {
    let rig = Rig::new(1);
    let bytes = noise(6, 8 << 20);
    let source = source(&bytes, |page| assert_ne!(page, 512, "on purpose"));
    let (control, given_up) = (Control::default(), source.given_up.clone());
    let ended = backup(
        &rig.repository,
        source.subject(),
        &options(Wanted::Auto),
        &control,
    );
    assert!(
        matches!(ended, Err(RepositoryError::WorkerLost)),
        "{ended:?}"
    );
    expect_nothing_published(&rig, &given_up, &control, &bytes);

    let rig = Rig::new(2);
    let gate: Gate = Box::new(|_| panic!("on purpose"));
    let (repository, _) = rig.gated(gate);
    let source = self::source(&bytes, |_| {});
    let (control, given_up) = (Control::default(), source.given_up.clone());
    let ended = backup(
        &repository,
        source.subject(),
        &options(Wanted::Auto),
        &control,
    );
    assert!(
        matches!(ended, Err(RepositoryError::WorkerLost)),
        "{ended:?}"
    );
    expect_nothing_published(&rig, &given_up, &control, &bytes);
}

/// A disk that stands still stops the readers before they fill the memory.
#[test]
fn readers_wait_for_a_disk_that_is_slower() {
    let rig = Rig::new(1);
    let bytes = noise(7, 8 * PACK_BYTES);
    let control = Control::default();
    let is_open = Arc::new(AtomicBool::new(false));
    let (open, seen) = (is_open.clone(), control.clone());
    let gate = move |_| {
        // Until nobody reads any more; then everything may pass.
        let mut before = u64::MAX;
        while !open.load(Ordering::SeqCst) {
            SystemClock.sleep(std::time::Duration::from_millis(100));
            let done = seen.progress().bytes_done;
            open.store(done == before, Ordering::SeqCst);
            before = done;
        }
        let packs_max = 5 * PACK_BYTES as u64;
        assert!(
            before <= packs_max + (8 << 20) || before == u64::MAX,
            "{before}"
        );
        Ok(())
    };
    let (repository, _) = rig.gated(Box::new(gate));
    let options = BackupOptions {
        compression: Compression::None,
        ..options(Wanted::Auto)
    };
    backup(
        &repository,
        source(&bytes, |_| {}).subject(),
        &options,
        &control,
    )
    .unwrap();
    assert!(is_open.load(Ordering::SeqCst));
}
