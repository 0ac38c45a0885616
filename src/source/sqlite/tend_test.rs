//! Limits of the held log, over a mark that gives garbage after it was let go.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::os::{Clock, Host, clock::SystemClock};
use crate::source::sqlite::mark::Mark;
use crate::source::sqlite::view::SqliteView;
use crate::source::sqlite::view_test::{FakeMark, PAGE, read_to_the_end, view};
use crate::source::{SqliteOptions, WalFull};
use crate::view::tree::{EndSeen, RangeRead, ReadError};

fn options(full: WalFull, scratch: Option<PathBuf>) -> SqliteOptions {
    SqliteOptions {
        wal_limit_bytes: Some(1000),
        wal_full: full,
        scratch,
        ..SqliteOptions::default()
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        SystemClock.sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come");
}

/// H1: the view ends at its limit, says why, and lets the log go.
#[test]
fn log_at_its_limit_ends_the_view() {
    let mark = FakeMark::new(1);
    let view = view(&mark, &options(WalFull::Break, None));
    mark.held.store(999, Ordering::SeqCst);
    view.tend();
    let status = view.status();
    assert_eq!((&*status.state, status.held_wal_bytes), ("held", 999));
    assert!(status.warning.is_some_and(|text| text.contains("ends")));
    mark.held.store(1000, Ordering::SeqCst);
    view.tend();
    let error = view.read_range(0, &mut [0]).unwrap_err();
    let reason = EndSeen::WalLimit;
    assert!(matches!(error, ReadError::PinEnded { reason: seen } if seen == reason));
    assert!(mark.is_let_go());
    let status = view.status();
    assert_eq!(
        (&*status.state, status.reason),
        ("ended", Some(reason.to_string()))
    );
    assert_eq!((status.held_wal_bytes, status.warning), (0, None));
}

/// A view that would end as soon as it is there is refused.
#[test]
fn log_that_is_at_its_limit_already_is_told_at_once() {
    let mark = FakeMark::new(1);
    mark.held.store(1000, Ordering::SeqCst);
    let held: Arc<dyn Mark> = Arc::<FakeMark>::clone(&mark);
    let options = options(WalFull::Break, None);
    let refused = SqliteView::of_mark(&Host::system(), held, &options, Path::new("/app/app.db"));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("--source-wal-limit"), "{refused}");
    assert!(mark.is_let_go());
}

/// H2, H3: a reader runs from before the copy to after it; it never fails, nor sees another byte.
#[test]
fn spilled_view_reads_on() {
    for round in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let mark = FakeMark::new(800 + round);
        let view = view(&mark, &options(WalFull::Spill, Some(dir.path().to_owned())));
        mark.held.store(800, Ordering::SeqCst);
        thread::scope(|scope| {
            let (begin, has_begun) = mpsc::channel();
            let (view, mark) = (&view, &mark);
            let reader = scope.spawn(move || {
                let mut first = vec![0; mark.content.len()];
                view.read_range(0, &mut first).unwrap();
                assert!(first == mark.content);
                begin.send(()).unwrap();
                read_to_the_end(view, &mark.content)
            });
            has_begun.recv().unwrap();
            view.tend();
            view.tend();
            eventually("the copy", || mark.is_let_go());
            SystemClock.sleep(Duration::from_millis(20));
            let status = view.status();
            view.release();
            let (_, error) = reader.join().unwrap();
            assert_eq!((&*status.state, &*status.how), ("kept", "copy"), "{error}");
            assert_eq!(status.scratch_bytes, mark.content.len() as u64);
            let released = matches!(
                error,
                ReadError::PinEnded {
                    reason: EndSeen::Released
                }
            );
            assert!(released, "{error}");
        });
        view.tend();
        assert_eq!(view.status().warning, None);
    }
}

/// A copy that cannot be made ends nothing before the limit is stretched, and is told of.
#[test]
fn view_without_a_copy_ends_behind_its_limit() {
    let mark = FakeMark::new(2);
    let nowhere = PathBuf::from("/no/such/place");
    let view = view(&mark, &options(WalFull::Spill, Some(nowhere)));
    mark.held.store(1249, Ordering::SeqCst);
    view.tend();
    eventually("the failure", || {
        view.tend();
        let warning = view.status().warning;
        warning.is_some_and(|text| text.contains("/no/such/place"))
    });
    let mut out = vec![0; 100];
    view.read_range(PAGE, &mut out).unwrap();
    assert_eq!(out, mark.content[4096..4196]);
    mark.held.store(1250, Ordering::SeqCst);
    view.tend();
    assert_eq!(view.status().state, "ended");
    let reason = view.status().reason.unwrap();
    assert!(reason.contains("/no/such/place"), "{reason}");
    assert!(mark.is_let_go());
}

/// A copy of a view that ends meanwhile is thrown away.
#[test]
fn copy_that_comes_too_late_revives_nothing() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let mark = FakeMark::new(300);
        let view = view(&mark, &options(WalFull::Spill, Some(dir.path().to_owned())));
        mark.held.store(800, Ordering::SeqCst);
        view.tend();
        view.expire();
        let error = view.look().unwrap_err();
        let is_expired = matches!(
            error,
            ReadError::PinEnded {
                reason: EndSeen::Expired
            }
        );
        assert!(is_expired, "H5: {error}");
        SystemClock.sleep(Duration::from_millis(2));
        view.look().unwrap_err();
        assert_eq!(view.status().scratch_bytes, 0);
    }
}
