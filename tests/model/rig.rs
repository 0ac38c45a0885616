//! The run that every model test makes: writers, checkpoints and overlapping pins at once, each pin
//! checked page by page and entry by entry against its commit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use stillfs::database::{Database, EngineOptions};
use stillfs::os::Host;
use stillfs::os::random::SeededRandom;
use stillfs::page::{PageNo, PageSize};
use stillfs::view::tree::RangeRead;

use crate::workload::{History, Plan};

const WRITERS: u64 = 2;
const PINNERS: u64 = 4;
const PINS_EACH: usize = 4;

pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(4096).expect("a valid size"),
        cache_bytes: 1 << 20,
        checkpoint_bytes: 256 << 10,
        ..EngineOptions::default()
    }
}

/// One pin with what its view must give.
pub(crate) struct Pinned {
    pin: stillfs::database::Pin,
    pages: Vec<Vec<u8>>,
    timestamp: u64,
}

impl Pinned {
    pub(crate) fn take(database: &Database) -> Self {
        let (pin, read) = database.pin_and_read().expect("a pin");
        let timestamp = pin.timestamp().0;
        assert_eq!(
            read.timestamp(),
            pin.timestamp(),
            "D1: pin and reader are of one commit"
        );
        let count = pin.view().header().page_count;
        let pages = (2..count)
            .map(|page| {
                read.snapshot()
                    .page(PageNo(page))
                    .expect("a page at S")
                    .to_vec()
            })
            .collect();
        Self {
            pin,
            pages,
            timestamp,
        }
    }

    /// Every page of the view, in pieces of random size from random places on.
    pub(crate) fn check_pages(&self, random: &SeededRandom) {
        let view = self.pin.view();
        let count = self.pages.len() as u64 + 2;
        let start = random.below(count);
        let mut done = 0;
        while done < count {
            let page = (start + done) % count;
            let run = (1 + random.below(16)).min(count - page).min(count - done);
            self.check_run(view.as_ref(), page, run)
                .unwrap_or_else(|error| {
                    panic!("pin at {}: pages {page} + {run}: {error}", self.timestamp)
                });
            done += run;
        }
        assert_eq!(
            view.counts().failed_checks,
            0,
            "healthy runs fail no page check"
        );
    }

    fn check_run(
        &self,
        view: &dyn RangeRead,
        page: u64,
        run: u64,
    ) -> Result<(), stillfs::view::tree::ReadError> {
        let mut out = vec![0; usize::try_from(run).expect("few pages") * 4096];
        view.read_range(page * 4096, &mut out)?;
        for (found, page) in out.chunks_exact(4096).zip(page..) {
            let Some(index) = page.checked_sub(2) else {
                continue;
            };
            let expected = &self.pages[usize::try_from(index).expect("few pages")];
            assert!(
                found == expected,
                "pin at {}: page {page} differs",
                self.timestamp
            );
        }
        Ok(())
    }

    /// The view as a database: its tables are those of the commits up to S.
    fn check_content(&self, history: &History) {
        let still = self
            .pin
            .open(1 << 20)
            .expect("the view opens as a database");
        let report = still.check().expect("the view can be walked");
        assert!(report.is_clean(), "{:?}", report.findings);
        let read = still.begin_read();
        assert_eq!(read.timestamp().0, self.timestamp);
        history.check_at(self.timestamp, &read);
    }

    /// N3, S3: while the pin ends, a reader gets the right bytes or an error.
    fn end_under_a_reader(self, random: &SeededRandom, stop_overwriting: &AtomicU64) {
        let Self {
            pin,
            pages,
            timestamp,
        } = self;
        let view = Arc::clone(pin.view());
        let count = pages.len() as u64 + 2;
        let first = random.below(count);
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut out = vec![0; 4096];
                for step in 0.. {
                    let page = (first + step * 7) % count;
                    if view.read_range(page * 4096, &mut out).is_err() {
                        break;
                    }
                    if let Some(index) = page.checked_sub(2) {
                        let index = usize::try_from(index).expect("few pages");
                        assert!(
                            out == pages[index],
                            "ending pin at {timestamp}: page {page} differs"
                        );
                    }
                }
            });
            thread::yield_now();
            pin.release().expect("the end is visible");
            stop_overwriting.fetch_add(1, Ordering::Relaxed);
            reader
                .join()
                .expect("what was read of an ending pin was right");
        });
    }
}

/// Takes and checks `pins_total` pins of a new database in `dir` while it is written.
pub(crate) fn run(host: &Host, dir: &Path, seed: u64, pins_total: u64) {
    let database = Database::open_on(host, dir, &options()).expect("a new database");
    let history = History::default();
    let (taken, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    history.commit(&database, &Plan::initial());
    let panicked = AtomicBool::new(false);
    let guard = |work: &dyn Fn()| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if let Err(cause) = result {
            panicked.store(true, Ordering::SeqCst);
            done.store(true, Ordering::SeqCst);
            std::panic::resume_unwind(cause);
        }
    };
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (database, history, done, guard) = (&database, &history, &done, &guard);
            scope.spawn(move || {
                guard(&|| {
                    let random = SeededRandom::new(seed * 100 + writer);
                    while !done.load(Ordering::SeqCst) {
                        history.commit(database, &Plan::draw(&random));
                    }
                });
            });
        }
        let (checkpointed, done_ref, guard_ref) = (&database, &done, &guard);
        scope.spawn(move || {
            guard_ref(&|| {
                while !done_ref.load(Ordering::SeqCst) {
                    checkpointed.checkpoint().expect("a checkpoint");
                }
            });
        });
        let pinners: Vec<_> = (0..PINNERS)
            .map(|pinner| {
                let (database, history, taken, ended) = (&database, &history, &taken, &ended);
                let (done, guard) = (&done, &guard);
                scope.spawn(move || {
                    guard(&|| {
                        let random = SeededRandom::new(seed * 1000 + pinner);
                        let mut held: Vec<Pinned> = Vec::new();
                        while taken.load(Ordering::SeqCst) < pins_total
                            && !done.load(Ordering::SeqCst)
                        {
                            if held.len() < PINS_EACH {
                                held.push(Pinned::take(database));
                                taken.fetch_add(1, Ordering::SeqCst);
                            }
                            let index = random.below(held.len() as u64);
                            let index = usize::try_from(index).expect("few pins");
                            held[index].check_pages(&random);
                            if random.below(2) == 0 {
                                held[index].check_content(history);
                                held[index].check_pages(&random);
                                held.swap_remove(index).end_under_a_reader(&random, ended);
                            }
                        }
                        for pinned in held {
                            pinned.check_pages(&random);
                            pinned.check_content(history);
                        }
                    });
                })
            })
            .collect();
        for pinner in pinners {
            let _ = pinner.join();
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(
        !panicked.load(Ordering::SeqCst),
        "seed {seed}: a thread saw a difference"
    );
    let stats = database.stats();
    assert_eq!(stats.pins, 0, "every pin was released");
    assert_eq!(stats.shadow_slots, 0, "and every slot given back");
    println!(
        "seed {seed}: {} pins, {} commits, {} checkpoints, {} pages written back",
        taken.load(Ordering::SeqCst),
        stats.engine.commits,
        stats.engine.checkpoints,
        stats.engine.pages_written,
    );
}
