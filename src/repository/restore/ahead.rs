//! Work that is done by several threads ahead of the one that needs the results in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use parking_lot::{Condvar, Mutex};

use crate::repository::error::{RepositoryError, Result};

/// Results that wait, and whose turn it is.
struct Line<T> {
    ready: BTreeMap<usize, Result<T>>,
    /// The next that nobody makes yet.
    next: usize,
    /// The next that is taken.
    wanted: usize,
    is_over: bool,
}

/// Has `make` called for 0 to `count` by `threads` threads, and `take` with the results in that order, by the
/// caller's. At most `threads` and one are made and not taken. Ends when `take` says so, at the first error
/// in that order, and when all are taken.
///
/// Errors: the first of `make` or `take`; `WorkerLost`.
pub(super) fn in_order<T: Send>(
    count: usize,
    threads: usize,
    make: &(dyn Fn(usize) -> Result<T> + Sync),
    take: &mut dyn FnMut(T) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let line = Mutex::new(Line {
        ready: BTreeMap::new(),
        next: 0,
        wanted: 0,
        is_over: false,
    });
    let (has_room, is_ready) = (Condvar::new(), Condvar::new());
    let threads = threads.max(1);
    let work = || {
        // However it ends, by a panic too, nobody waits for it.
        let _end = End {
            line: &line,
            wake: [&has_room, &is_ready],
        };
        loop {
            let mut held = line.lock();
            has_room.wait_while(&mut held, |line| {
                !line.is_over && line.next < count && line.next > line.wanted + threads
            });
            if held.is_over || held.next >= count {
                return;
            }
            let index = held.next;
            held.next += 1;
            drop(held);
            let made = make(index);
            line.lock().ready.insert(index, made);
            is_ready.notify_one();
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let result = take_all(count, &line, (&has_room, &is_ready), take);
        line.lock().is_over = true;
        has_room.notify_all();
        for worker in workers {
            // One that panicked was missed already, if anything was wanted of it.
            drop(worker.join());
        }
        result
    })
}

/// Wakes all when a thread ends.
struct End<'a, T> {
    line: &'a Mutex<Line<T>>,
    wake: [&'a Condvar; 2],
}

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.line.lock().is_over = true;
        }
        self.wake.iter().for_each(|wake| {
            wake.notify_all();
        });
    }
}

fn take_all<T>(
    count: usize,
    line: &Mutex<Line<T>>,
    (has_room, is_ready): (&Condvar, &Condvar),
    take: &mut dyn FnMut(T) -> Result<ControlFlow<()>>,
) -> Result<()> {
    for index in 0..count {
        let mut held = line.lock();
        is_ready.wait_while(&mut held, |line| {
            !line.is_over && !line.ready.contains_key(&index)
        });
        let made = held
            .ready
            .remove(&index)
            .ok_or(RepositoryError::WorkerLost)?;
        held.wanted = index + 1;
        drop(held);
        has_room.notify_all();
        if take(made?)?.is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    /// Order is that of the numbers, whoever is done first, and nobody runs further ahead than told.
    #[test]
    fn results_come_in_order_and_not_too_many_wait() {
        for threads in 1..4 {
            let (made, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut found = Vec::new();
            let make = |index: usize| {
                made.fetch_add(1, Ordering::SeqCst);
                for _ in 0..(index * 7) % 5 {
                    thread::yield_now();
                }
                Ok(index)
            };
            let mut take = |index| {
                let ahead = made.load(Ordering::SeqCst) - taken.fetch_add(1, Ordering::SeqCst);
                assert!(ahead <= 2 * threads + 2, "{ahead} ahead of {threads}");
                found.push(index);
                Ok(ControlFlow::Continue(()))
            };
            in_order(100, threads, &make, &mut take).unwrap();
            assert_eq!(found, (0..100).collect::<Vec<_>>());
        }
    }

    /// An error counts where its turn is, not where it was found; a panic ends all.
    #[test]
    fn the_first_error_in_order_ends_it_and_a_panic_too() {
        let make = |index| match index {
            5 => Err(RepositoryError::Cancelled),
            _ => Ok(index),
        };
        let mut taken = 0;
        let mut take = |_| {
            taken += 1;
            Ok(ControlFlow::Continue(()))
        };
        let found = in_order(50, 3, &make, &mut take);
        assert!(matches!(found, Err(RepositoryError::Cancelled)));
        assert_eq!(taken, 5);
        let broken = in_order(50, 2, &|_| Ok(()), &mut |()| Ok(ControlFlow::Break(())));
        assert!(broken.is_ok());
        let make = |index: usize| {
            assert!(index < 3, "a bug");
            Ok(index)
        };
        let lost = in_order(9, 1, &make, &mut |_| Ok(ControlFlow::Continue(())));
        assert!(matches!(lost, Err(RepositoryError::WorkerLost)), "{lost:?}");
    }
}
