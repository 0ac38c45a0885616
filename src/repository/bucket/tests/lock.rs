//! One writer at a time, whatever the network and the processes do.

use super::troubled::{Fate, Troubled};
use super::*;
use crate::repository::store::Put;

fn is_locked<T>(result: Result<T, RepositoryError>) -> bool {
    match result {
        Err(RepositoryError::Locked { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

/// A process that was stopped: its lock lives on, and is not renewed.
fn stopped(objects: &Arc<Troubled>) -> (BucketStore, Box<dyn WriterLock>) {
    let store = store(objects);
    let lock = store.lock().unwrap();
    (store, lock)
}

/// OS5: a lock that is renewed is never taken over, however long it is held.
#[test]
fn lock_that_is_renewed_is_held() {
    let objects = Troubled::new();
    let (one, other) = (store(&objects), store(&objects));
    let lock = one.lock().unwrap();
    let clock = Host::system().clock;
    let begun = clock.monotonic();
    while clock.monotonic() - begun < TTL * 2 {
        assert!(is_locked(other.lock()));
        lock.confirm().unwrap();
    }
    drop(lock);
    let lock = other.lock().unwrap();
    lock.confirm().unwrap();
    assert!(is_locked(one.lock()));
    // Others do not wait for each other.
    let marks = one.lock_marks().unwrap();
    marks.confirm().unwrap();
    let line = one.lock_line("a").unwrap();
    line.confirm().unwrap();
    let error = other.lock_line("a").unwrap_err();
    assert!(
        matches!(error, RepositoryError::LineLocked { .. }),
        "{error}"
    );
    other.lock_line("b").unwrap();
}

/// OS4, OS6: whoever is back after his lock was taken over changes nothing.
#[test]
fn lock_that_was_taken_over_is_lost_with_all_that_needs_it() {
    let objects = Troubled::new();
    let (late, lock) = stopped(&objects);
    late.put("packs/a", &[b"a"], Put::New).unwrap();
    bury(&objects);
    assert!(is_locked(wait_for(|| lock.confirm())));
    assert!(is_locked(late.put("backups/b", &[b"b"], Put::New)));
    assert!(is_locked(late.remove("packs/a")));
    assert_eq!(content(&late, "packs/a").unwrap(), b"a");
    assert_eq!(content(&late, "backups/b"), None);
    // The next writer is not bothered by what the late one gives up.
    let next = store(&objects);
    let next_lock = next.lock().unwrap();
    drop(lock);
    next_lock.confirm().unwrap();
    next.put("backups/b", &[b"b"], Put::New).unwrap();
    drop(next_lock);
    late.put("packs/c", &[b"c"], Put::New).unwrap();
}

/// What `ask` says when the lock no longer counts by itself.
fn wait_for(ask: impl Fn() -> Result<(), RepositoryError>) -> Result<(), RepositoryError> {
    let clock = Host::system().clock;
    let begun = clock.monotonic();
    loop {
        let said = ask();
        if said.is_err() || clock.monotonic() - begun > TTL * 2 {
            return said;
        }
        clock.sleep(TTL / 20);
    }
}

/// OS6: a network that is away for longer than a lock counts takes nothing from who finds it as he left it.
#[test]
fn lock_that_nobody_took_meanwhile_is_renewed_late() {
    let objects = Troubled::new();
    let (store, lock) = stopped(&objects);
    objects.kill();
    Host::system().clock.sleep(TTL);
    assert!(lock.confirm().is_err());
    objects.heal();
    lock.confirm().unwrap();
    store.put("packs/a", &[b"a"], Put::New).unwrap();
}

/// OS6: a request that hangs while the lock ends is dropped, and is not made again without the lock.
#[test]
fn publish_that_hangs_is_dropped_before_the_lock_ends() {
    let objects = Troubled::new();
    let (late, lock) = stopped(&objects);
    let clock = Host::system().clock;
    // It is sent, and lands only when nobody waits for it any more.
    objects.at_change(0, Fate::Late(TTL * 20));
    let begun = clock.monotonic();
    let thief = std::thread::spawn({
        let objects = objects.clone();
        move || bury(&objects)
    });
    let published = late.put("backups/b", &[b"b"], Put::New);
    let took = clock.monotonic() - begun;
    thief.join().unwrap();
    assert!(is_locked(published), "a publish without the lock");
    assert!(took < TTL * 5 / 4, "{took:?}");
    assert!(is_locked(lock.confirm()));
    assert_eq!(content(&late, "backups/b"), None);
}

/// OS2, OS4: answers that are lost while a lock is taken, renewed and given up.
#[test]
fn lock_is_known_as_ours_whichever_answer_is_lost() {
    for fate in [Fate::Dropped, Fate::Unanswered] {
        for number in 0..6 {
            let objects = Troubled::new();
            let (one, other) = (store(&objects), store(&objects));
            objects.at_request(number, fate);
            let lock = one.lock().unwrap();
            lock.confirm().unwrap();
            drop(lock);
            let what = format!("{fate:?} of request {number}");
            // Where the answer to giving it up was lost, it is free all the same, or will be stale.
            let lock = one.lock().expect(&what);
            one.put("packs/a", &[b"a"], Put::New).expect(&what);
            assert!(is_locked(other.lock()), "{what}");
            lock.confirm().expect(&what);
        }
    }
}

/// A lock that says nothing that can be read, or that it lives for ever, is a lock, and is stale some day.
#[test]
fn strange_lock_is_respected_and_not_for_ever() {
    let texts: [&[u8]; 4] = [
        b"",
        b"not ours",
        &[0xff; 10_000],
        br#"{"stillfs_lock":1,"owner":"","count":18446744073709551615,"ttl_ms":1,"is_free":false}"#,
    ];
    for text in texts {
        let objects = Troubled::new();
        objects.set("hosts/earth/LOCK", text);
        bury(&objects);
        store(&objects).lock().unwrap().confirm().unwrap();
    }
}

/// OS6: what was sent under a lock and not answered may yet arrive: nobody else may have the lock before that.
#[test]
fn lock_is_not_given_up_while_a_change_under_it_may_yet_arrive() {
    for fate in [None, Some(Fate::Dropped), Some(Fate::Unanswered)] {
        let objects = Troubled::new();
        let store = store(&objects);
        let lock = store.lock_marks().unwrap();
        if let Some(fate) = fate {
            objects.at_change(0, fate);
        }
        store.put("marks/a", &[b"a"], Put::Replace).unwrap();
        drop(lock);
        let left = objects.bytes("hosts/earth/LOCK.marks").unwrap();
        let is_free = String::from_utf8(left)
            .unwrap()
            .contains("\"is_free\":true");
        assert_eq!(is_free, fate.is_none(), "{fate:?}");
        store.lock_marks().unwrap();
    }
}

/// Those who change marks wait for each other.
#[test]
fn marks_are_changed_by_one_after_the_other() {
    let objects = Troubled::new();
    let at_once = 3;
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let store = store(&objects);
            std::thread::spawn(move || {
                let lock: Box<dyn MarksLock> = store.lock_marks().unwrap();
                lock.confirm().unwrap();
                let before = content(&store, "marks/a").unwrap_or_default();
                let after = [&before[..], b"+"].concat();
                store.put("marks/a", &[&after], Put::Replace).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(objects.bytes("hosts/earth/marks/a").unwrap().len(), at_once);
}

/// A runtime's own threads may use a store, and let it go.
#[test]
fn store_is_used_and_dropped_on_a_thread_of_a_runtime() {
    let objects = Troubled::new();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    runtime.block_on(async {
        let store = store(&objects);
        let lock = store.lock().unwrap();
        store.put("packs/a", &[b"a"], Put::New).unwrap();
        drop(lock);
        drop(store);
    });
    assert!(objects.bytes("hosts/earth/packs/a").is_some());
}
