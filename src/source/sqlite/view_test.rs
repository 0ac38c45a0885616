//! Views over a mark that behaves as badly as it may: what it gives after it was let go is garbage.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::os::{Host, OpenMode, write_all_at};
use crate::source::sqlite::Unpinnable;
use crate::source::sqlite::mark::{Mark, Parts};
use crate::source::sqlite::view::{Kept, SqliteView};
use crate::source::sqlite::wal_pin::{HeldWal, Shape};
use crate::source::{HeaderShown, SourceError, SqliteOptions};
use crate::view::tree::{EndSeen, RangeRead, ReadError};

pub(super) const PAGE: u64 = 4096;

/// A database of `pages` pages, the first of them with a header in WAL mode.
#[derive(Debug)]
pub(super) struct FakeMark {
    pub(super) content: Vec<u8>,
    pub(super) held: AtomicU64,
    is_let_go: AtomicBool,
    /// What the mark sees, while it is held too.
    pub(super) is_ignored: AtomicBool,
    pub(super) is_unreadable: AtomicBool,
}

impl FakeMark {
    pub(super) fn new(pages: u64) -> Arc<Self> {
        let mut content = vec![0; usize::try_from(pages * PAGE).unwrap()];
        for (number, page) in (0..=u8::MAX).cycle().zip(content.chunks_exact_mut(4096)) {
            page.fill(number.wrapping_mul(7).wrapping_add(1));
        }
        content[..16].copy_from_slice(b"SQLite format 3\0");
        content[18..20].fill(2);
        Arc::new(Self {
            content,
            held: AtomicU64::new(0),
            is_let_go: AtomicBool::new(false),
            is_ignored: AtomicBool::new(false),
            is_unreadable: AtomicBool::new(false),
        })
    }

    pub(super) fn is_let_go(&self) -> bool {
        self.is_let_go.load(Ordering::SeqCst)
    }
}

impl Mark for FakeMark {
    fn shape(&self) -> Shape {
        let bytes = self.content.len() as u64;
        Shape {
            page_bytes: PAGE,
            page_count: bytes / PAGE,
            bytes,
        }
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<u64, ReadError> {
        if self.is_unreadable.load(Ordering::SeqCst) {
            return Err(ReadError::Io {
                op: "read",
                file: "the log",
                offset,
                source: io::Error::other("bad sector"),
            });
        }
        let start = usize::try_from(offset).unwrap();
        for (out, byte) in out.iter_mut().zip(&self.content[start..]) {
            let is_overwritten = self.is_let_go();
            *out = if is_overwritten { 0xee } else { *byte };
        }
        self.look().map(|()| 1)
    }

    fn look(&self) -> Result<(), ReadError> {
        // What was let go cannot tell whether it was overwritten.
        match self.is_ignored.load(Ordering::SeqCst) && !self.is_let_go() {
            false => Ok(()),
            true => Err(ReadError::PinEnded {
                reason: EndSeen::LockIgnored,
            }),
        }
    }

    fn held(&self) -> io::Result<HeldWal> {
        Ok(HeldWal {
            bytes: self.held.load(Ordering::SeqCst),
            bytes_at_pin: 0,
        })
    }

    fn let_go(&self) {
        self.is_let_go.store(true, Ordering::SeqCst);
    }

    fn reads_log(&self) -> bool {
        true
    }

    fn parts(&self) -> Option<Parts> {
        None
    }
}

pub(super) fn view(mark: &Arc<FakeMark>, options: &SqliteOptions) -> Arc<SqliteView> {
    let mark: Arc<dyn Mark> = Arc::<FakeMark>::clone(mark);
    SqliteView::of_mark(&Host::system(), mark, options, Path::new("/app/app.db")).unwrap()
}

/// Reads until the view ends; whatever is given must be the content.
pub(super) fn read_to_the_end(view: &SqliteView, content: &[u8]) -> (u64, ReadError) {
    let mut reads = 0;
    loop {
        let mut out = vec![0; content.len()];
        match view.read_range(0, &mut out) {
            Ok(()) => assert!(out == content, "read {reads} is not of the pin"),
            Err(error) => return (reads, error),
        }
        reads += 1;
    }
}

/// H1, H2: readers run while the view ends; none is given a byte of after it.
#[test]
fn read_that_overlaps_the_end_fails() {
    for round in 0..50 {
        let mark = FakeMark::new(2);
        let view = view(&mark, &SqliteOptions::default());
        let (reads, error) = thread::scope(|scope| {
            let reader = scope.spawn(|| read_to_the_end(&view, &mark.content));
            (0..round).for_each(|_| thread::yield_now());
            view.expire();
            reader.join().unwrap()
        });
        let reason = EndSeen::Expired;
        assert!(
            matches!(&error, ReadError::PinEnded { reason: seen } if *seen == reason),
            "round {round}, after {reads} reads: {error}"
        );
        assert!(mark.is_let_go());
        view.release();
        assert_eq!(view.status().reason, Some(reason.to_string()), "H5");
    }
}

/// H4: the mark says that its lock was ignored; the view ends for good, and lets go.
#[test]
fn end_that_the_mark_sees_is_for_ever() {
    let mark = FakeMark::new(1);
    let view = view(&mark, &SqliteOptions::default());
    view.look().unwrap();
    mark.is_ignored.store(true, Ordering::SeqCst);
    let seen = |result: Result<(), ReadError>| result.unwrap_err().to_string();
    let expected = ReadError::PinEnded {
        reason: EndSeen::LockIgnored,
    };
    assert_eq!(seen(view.read_range(0, &mut [0; 10])), expected.to_string());
    assert!(mark.is_let_go());
    mark.is_ignored.store(false, Ordering::SeqCst);
    assert_eq!(seen(view.look()), expected.to_string());
    assert_eq!(view.last_failure(), None, "an end is no failure");
}

#[test]
fn failure_of_the_disk_is_remembered_and_ends_nothing() {
    let mark = FakeMark::new(2);
    let view = view(&mark, &SqliteOptions::default());
    mark.is_unreadable.store(true, Ordering::SeqCst);
    view.read_range(0, &mut [0; 10]).unwrap_err();
    let told = view.last_failure().unwrap();
    assert!(
        told.contains("/app/app.db") && told.contains("bad sector"),
        "{told}"
    );
    mark.is_unreadable.store(false, Ordering::SeqCst);
    let mut out = vec![0; 4097];
    view.read_range(4095, &mut out).unwrap();
    let counts = view.counts();
    assert_eq!(
        (counts.served_bytes, counts.live_pages, counts.shadow_pages),
        (4097, 1, 1)
    );
    view.read_range(8192, &mut [0]).unwrap_err();
    assert_eq!(
        view.last_failure(),
        Some(told),
        "a bad range is the caller's"
    );
}

/// V2: the header is changed in what is shown of page 1 and nowhere else, or the pin is refused.
#[test]
fn header_is_shown_as_asked() {
    let mark = FakeMark::new(2);
    let options = SqliteOptions {
        header: HeaderShown::Rollback,
        ..SqliteOptions::default()
    };
    let shown = view(&mark, &options);
    let mut out = mark.content.clone();
    shown.read_range(0, &mut out).unwrap();
    let mut expected = mark.content.clone();
    expected[18..20].fill(1);
    assert!(out == expected);
    assert_eq!(shown.status().open_with, "plainly");

    let mut secret = FakeMark::new(2);
    Arc::get_mut(&mut secret).unwrap().content.fill(0xa5);
    let path = Path::new("/app/secret.db");
    let refused = SqliteView::of_mark(&Host::system(), secret, &options, path).unwrap_err();
    let reason = Unpinnable::HeaderUnreadable.to_string();
    assert!(matches!(&refused, SourceError::Sqlite { .. }), "{refused}");
    assert!(refused.to_string().contains(&reason));
}

/// H3: a view that is kept from the start reads its private file, and drops it at the end.
#[test]
fn kept_view_needs_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::system();
    let file = host
        .disk
        .open(&dir.path().join("copy"), OpenMode::CreateNew)
        .unwrap();
    let content = FakeMark::new(3).content.clone();
    write_all_at(&*file, &content, 0).unwrap();
    let kept = Kept {
        file,
        how: "copy",
        scratch_bytes: content.len() as u64,
    };
    let shape = FakeMark::new(3).shape();
    let options = SqliteOptions::default();
    let held = std::time::Duration::from_micros(70);
    let path = Path::new("/app/app.db");
    let view = SqliteView::of_kept(&host, kept, shape, &options, path, held).unwrap();
    let mut out = vec![0; content.len()];
    view.read_range(0, &mut out).unwrap();
    assert!(out == content);
    let status = view.status();
    assert_eq!((&*status.state, &*status.how), ("kept", "copy"));
    assert_eq!((status.lock_held_us, status.scratch_bytes), (70, 3 * PAGE));
    view.release();
    view.look().unwrap_err();
    assert_eq!(view.status().scratch_bytes, 0);
}
