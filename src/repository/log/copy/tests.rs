//! Copies of logs: gaps, and stores that do not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::lsn::Lsn;
use crate::os::Host;
use crate::os::random::SeededRandom;
use crate::repository::log::model_test::Site;
use crate::repository::log::name::FOLDER;
use crate::repository::store::{LineLock, MarksLock, Store, WriterLock};
use crate::repository::store_fault::StoreFault;

/// A store that answers so many reads, and then no more.
#[derive(Debug)]
pub(in crate::repository::log) struct Silent {
    inner: Arc<dyn Store>,
    pub(in crate::repository::log) reads_left: AtomicUsize,
}

impl Silent {
    pub(in crate::repository::log) fn of(host: &Host, of: &Repository) -> (Arc<Self>, Repository) {
        let store = Arc::new(Self {
            inner: of.store().clone(),
            reads_left: AtomicUsize::new(usize::MAX),
        });
        let unlock = crate::repository::crypt::Unlock::default();
        let opened = Repository::open_store(host, store.clone(), &unlock);
        (store, opened.unwrap())
    }

    fn answer(&self, name: &str) -> Result<()> {
        let take = |left: usize| left.checked_sub(1);
        match self
            .reads_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(RepositoryError::Store {
                op: "read",
                object: name.to_owned(),
                place: "here".to_owned(),
                fault: StoreFault::Unreachable {
                    said: "nobody answers".to_owned(),
                },
                tries: 3,
            }),
        }
    }
}

impl Store for Silent {
    fn put(&self, name: &str, parts: &[&[u8]], put: Put) -> Result<()> {
        self.inner.put(name, parts, put)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        self.answer(name)?;
        self.inner.read_at(name, offset, out)
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.inner.size(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        self.inner.lock()
    }

    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        self.inner.lock_marks()
    }

    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        self.inner.lock_line(line)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

/// A site with some pieces, whose line this is.
fn archived(seed: u64) -> (Site, LineId) {
    let random = SeededRandom::new(seed);
    let mut site = Site::new(seed);
    site.start();
    for _ in 0..3 {
        assert!(site.commit(&random));
        site.step().unwrap().unwrap();
    }
    let line = site.step().unwrap().unwrap().line;
    (site, line)
}

fn names(repository: &Repository) -> Vec<LogName> {
    let names = repository.store().list(FOLDER).unwrap();
    names
        .iter()
        .filter_map(|name| LogName::parse(name))
        .collect()
}

fn copy_line(from: &Repository, to: &Repository, line: LineId) -> Result<LogCopyReport> {
    let mut report = LogCopyReport::default();
    let control = &Control::default();
    let copying = LineCopy { from, to, control };
    copying.line(line, &names(from), &mut report)?;
    Ok(report)
}

/// LA5, LA9: whatever is there already, every gap is copied: of log that is there, too, and of what was given up.
#[test]
fn gaps_are_always_copied() {
    let (site, line) = archived(51);
    let keeper = Host::simulated(52);
    let to = Repository::open_or_create(&keeper.host, std::path::Path::new("/to")).unwrap();
    let from = site.repository();
    let report = copy_line(&from, &to, line).unwrap();
    assert!(report.pieces > 0 && report.pieces_left == 0, "{report:?}");
    let there = names(&to);
    let [first, .., last] = &there[..] else {
        panic!("{there:?}");
    };
    for (first, end) in [
        (first.first, last.end),
        (last.first, last.end),
        (last.end, Lsn(last.end.0 + 800)),
    ] {
        let gap = LogName {
            first,
            end,
            is_gap: true,
            ..*last
        };
        from.store().put(&gap.object(), &[], Put::New).unwrap();
        copy_line(&from, &to, line).unwrap();
        assert!(names(&to).contains(&gap), "{gap}");
    }
    assert_eq!(names(&to), names(&from));
}

/// A store that does not answer for a moment is no damage: the copy fails, on either side and wherever it is, and
/// nothing counts as unreadable.
#[test]
fn store_that_does_not_answer_fails_the_copy() {
    let (site, line) = archived(53);
    for is_from in [true, false] {
        let mut reads = 0;
        loop {
            let keeper = Host::simulated(54);
            let to = Repository::open_or_create(&keeper.host, std::path::Path::new("/to")).unwrap();
            let from = site.repository();
            let some = names(&from)[0];
            copy_piece(&from, &some, &to).unwrap().unwrap();
            let (silent, other) = match is_from {
                true => Silent::of(&site.keeper.host, &from),
                false => Silent::of(&keeper.host, &to),
            };
            silent.reads_left.store(reads, Ordering::SeqCst);
            let copied = match is_from {
                true => copy_line(&other, &to, line),
                false => copy_line(&from, &other, line),
            };
            match copied {
                Ok(report) => {
                    assert_eq!(report.failed, []);
                    assert_eq!(names(&to), names(&from));
                    break;
                }
                Err(error) => assert!(matches!(error, RepositoryError::Store { .. }), "{error}"),
            }
            reads += 1;
        }
        assert!(reads > 1, "{reads}");
    }
}
