//! The examples do what they say.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "these tests use files and tools as anybody does"
)]

#[cfg(feature = "s3")]
#[path = "../examples/bucket.rs"]
mod bucket;
#[path = "../examples/embed.rs"]
mod embed;
#[path = "../examples/own_engine/main.rs"]
mod own_engine;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use own_engine::{FILE, Heap, HeapPin, total_of};
use sha2::{Digest, Sha256};
use stillfs::os::Host;
use stillfs::view::PinnedFile;
use stillfs::view::tree::{RangeRead, ReadError};

/// Accounts of the heap, on many pages.
const ACCOUNTS: u64 = 50_000;
const TOTAL: u64 = 7_000_000;

/// The view and its copy keep the state of the pin while the database goes on.
#[test]
fn embed_reads_the_pinned_state_after_later_writes() {
    let dir = tempfile::tempdir().unwrap();
    let stock = embed::run(dir.path()).unwrap();
    let expected = embed::Stock {
        live: "7".to_owned(),
        pinned: "100".to_owned(),
        copied: "100".to_owned(),
    };
    assert_eq!(stock, expected);
}

/// A repository may be in any object store.
#[cfg(feature = "s3")]
#[test]
fn bucket_has_two_backups_that_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let objects = std::sync::Arc::new(object_store::memory::InMemory::new());
    assert_eq!(bucket::run(dir.path(), objects).unwrap(), 2);
}

/// A heap in `base/heap` with some money in it.
fn heap(base: &Path) -> Heap {
    let (host, dir) = (Host::system(), base.join("heap"));
    fs::create_dir(&dir).unwrap();
    Heap::create(&host, &dir, ACCOUNTS).unwrap();
    let heap = Heap::open(&host, &dir).unwrap();
    heap.change(&[(0, TOTAL)]).unwrap();
    heap
}

/// The sum of all accounts at a pin, read without a mount.
fn total_at(view: &PinnedFile) -> Result<u64, ReadError> {
    let mut bytes = vec![0; usize::try_from(view.size()).unwrap()];
    view.read_range(0, &mut bytes)?;
    Ok(total_of(&bytes))
}

/// Somebody who moves money all the time.
#[derive(Debug, Default)]
struct Writer {
    stop: AtomicBool,
    transfers: AtomicU64,
}

impl Writer {
    fn run(&self, heap: &Heap) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.transfers.fetch_add(1, Ordering::SeqCst);
            let (from, to) = (
                (number * 7919) % ACCOUNTS,
                (number * 104_729 + 1) % ACCOUNTS,
            );
            heap.transfer(from, to, number).unwrap();
        }
    }

    /// Waits until so many more transfers have begun.
    fn wait_for(&self, more: u64) {
        let (before, started) = (self.transfers.load(Ordering::SeqCst), Instant::now());
        while self.transfers.load(Ordering::SeqCst) < before + more {
            assert!(started.elapsed() < Duration::from_secs(60), "nobody writes");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An engine that shares nothing with ours but the contract has the same promise on a real mount
/// (S1, S3, N1, N3, M2, M4).
#[test]
fn own_engine_shows_a_still_file_while_its_pages_change() {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        println!("SKIPPED: /dev/fuse cannot be opened: {error}");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let (heap, point) = (heap(base.path()), base.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    let writer = Writer::default();
    thread::scope(|scope| {
        scope.spawn(|| writer.run(&heap));
        // Whatever fails here, the writer ends, and the scope with it.
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            look_while_it_is_written(&heap, &writer, base.path(), &point);
        }));
        writer.stop.store(true, Ordering::SeqCst);
        // A session that ends in a panic leaves its mount.
        let _ = umount2(&point, MntFlags::MNT_DETACH);
        looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(heap.pages_kept(), 0, "released pins keep nothing");
    assert_eq!(heap.total().unwrap(), TOTAL);
}

fn look_while_it_is_written(heap: &Heap, writer: &Writer, base: &Path, point: &Path) {
    let pin: HeapPin = heap.pin().unwrap();
    // The kernel keeps nothing of it: every look is a merged read.
    let options = "direct_io".parse().unwrap();
    let session = pin.mount(&base.join("heap"), point, options).unwrap();
    let file = point.join(FILE);
    let digest = || -> [u8; 32] { Sha256::digest(fs::read(&file).unwrap()).into() };
    writer.wait_for(200);
    let seen = digest();
    for _ in 0..3 {
        writer.wait_for(100);
        assert_eq!(total_at(&pin.view).unwrap(), TOTAL);
        assert_eq!(digest(), seen);
    }
    assert!(heap.pages_kept() > 0);
    assert_ne!(
        fs::read(base.join("heap").join(FILE)).unwrap(),
        fs::read(&file).unwrap()
    );
    assert_eq!(pin.view.counts().failed_checks, 0);
    copy_is_a_heap(&file, &base.join("copy"));

    let opened = fs::File::open(&file).unwrap();
    heap.release(&pin).unwrap();
    let read = |offset| {
        use std::os::unix::fs::FileExt;
        opened.read_at(&mut [0; 16], offset)
    };
    let errno = |read: io::Result<usize>| read.unwrap_err().raw_os_error();
    assert!(total_at(&pin.view).is_err(), "a released pin is read");
    assert_eq!(
        errno(fs::read(&file).map(|bytes| bytes.len())),
        Some(libc::EIO)
    );
    assert_eq!(errno(read(0)), Some(libc::EIO));
    drop((opened, session));
}

/// What a backup tool takes from the mount is a heap that can be opened and written to.
fn copy_is_a_heap(file: &Path, dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::copy(file, dir.join(FILE)).unwrap();
    assert_eq!(total_of(&fs::read(dir.join(FILE)).unwrap()), TOTAL);
    let copy = Heap::open(&Host::system(), dir).unwrap();
    copy.transfer(1, 2, 3).unwrap();
    assert_eq!(copy.total().unwrap(), TOTAL);
}

/// The process may die while somebody reads: the next one goes on with the pin, and lets go of it with
/// the reader (S3, S7, D5).
#[test]
fn own_engine_that_starts_again_goes_on_with_the_pins_that_are_held() {
    let base = tempfile::tempdir().unwrap();
    let first = heap(base.path());
    let HeapPin { view, .. } = first.pin().unwrap();
    first.transfer(0, 1, 5).unwrap();
    drop(first);
    let second = Heap::open(&Host::system(), &base.path().join("heap")).unwrap();
    for account in 0..ACCOUNTS {
        second.transfer(0, account, 5).unwrap();
    }
    assert!(second.pages_kept() > 1);
    assert_eq!(total_at(&view).unwrap(), TOTAL);
    let first_page = |read: &PinnedFile| {
        let mut page = vec![0; 8192];
        read.read_range(8192, &mut page).unwrap();
        page
    };
    assert_eq!(first_page(&view)[32..40], TOTAL.to_le_bytes());
    drop(view);
    let started = Instant::now();
    while second.pages_kept() > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "a pin without a holder stays"
        );
        second.transfer(1, 0, 5).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(second.total().unwrap(), TOTAL);
}
