//! Objects are put whole or not at all, and read whole or not at all.

use super::troubled::{Fate, Troubled};
use super::*;
use crate::repository::store::Put;
use crate::repository::store_fault::StoreFault;

fn fault_of(result: Result<(), RepositoryError>) -> (StoreFault, u32) {
    match result.unwrap_err() {
        RepositoryError::Store { fault, tries, .. } => (fault, tries),
        error => panic!("{error}"),
    }
}

#[test]
fn objects_are_what_was_put_under_their_names() {
    let objects = Troubled::new();
    let store = store(&objects);
    assert_eq!(store.list("").unwrap(), [""; 0]);
    store.put("packs/b", &[b"con", b"tent"], Put::New).unwrap();
    store.put("packs/a", &[], Put::New).unwrap();
    store.put("repository.json", &[b"{}"], Put::New).unwrap();
    assert_eq!(objects.bytes("hosts/earth/packs/b").unwrap(), b"content");
    let exists = store.put("packs/b", &[b"other"], Put::New).unwrap_err();
    assert!(matches!(exists, RepositoryError::Exists { .. }), "{exists}");
    assert_eq!(content(&store, "packs/b").unwrap(), b"content");
    store.put("packs/b", &[b"changed"], Put::Replace).unwrap();
    assert_eq!(content(&store, "packs/b").unwrap(), b"changed");
    assert_eq!(content(&store, "packs/a").unwrap(), b"");
    // What others put there is listed too, and what has another prefix is not.
    objects.set("hosts/earth/packs/not ours/x", b"");
    objects.set("hosts/earth/packs", b"");
    objects.set("hosts/earthling/packs/c", b"");
    assert_eq!(store.list("packs").unwrap(), ["a", "b", "not ours"]);
    assert_eq!(store.list("").unwrap(), ["packs", "repository.json"]);
    assert_eq!(store.list("none").unwrap(), [""; 0]);
    store.remove("packs/b").unwrap();
    store.remove("packs/b").unwrap();
    assert_eq!(content(&store, "packs/b"), None);
    for name in ["", "a/b/c", ".a", "a b", "a//b", "packs/"] {
        assert!(store.put(name, &[], Put::New).is_err(), "{name}");
    }
}

/// OS3: a range behind the end is told with the size that there is; a connection that breaks gives no zeros.
#[test]
fn read_gives_every_byte_or_says_why_not() {
    let objects = Troubled::new();
    let store = store(&objects);
    store.put("packs/a", &[&[7; 100]], Put::New).unwrap();
    let read = |offset, bytes| {
        let mut out = vec![1; bytes];
        store.read_at("packs/a", offset, &mut out).map(|()| out)
    };
    assert_eq!(read(90, 10).unwrap(), [7; 10]);
    assert!(read(100, 0).unwrap().is_empty());
    for (offset, bytes) in [(90, 11), (100, 1), (1000, 5)] {
        let error = read(offset, bytes).unwrap_err();
        assert!(
            matches!(error, RepositoryError::Cut { bytes: 100, .. }),
            "{offset}: {error}"
        );
    }
    for fate in [Fate::Dropped, Fate::Unanswered, Fate::Short] {
        store.read_afresh("packs/a");
        objects.at_request(0, fate);
        assert_eq!(read(10, 40).unwrap(), [7; 40], "{fate:?}");
        assert!(objects.heal());
    }
    let missing = store.read_at("packs/b", 0, &mut [0]).unwrap_err();
    assert!(matches!(missing, RepositoryError::Missing { .. }));
}

/// OS1, OS2: whether the request or its answer is lost, the object is there once, and is ours.
#[test]
fn put_whose_answer_is_lost_is_made_again_and_known_as_ours() {
    for fate in [Fate::Dropped, Fate::Unanswered] {
        let objects = Troubled::new();
        let store = store(&objects);
        for (put, bytes) in [(Put::New, b"first"), (Put::Replace, b"other")] {
            objects.at_change(0, fate);
            store.put("packs/a", &[bytes], put).unwrap();
            assert!(objects.heal());
            assert_eq!(content(&store, "packs/a").unwrap(), bytes);
        }
        objects.at_change(0, fate);
        let theirs = store.put("packs/a", &[b"third"], Put::New).unwrap_err();
        assert!(matches!(theirs, RepositoryError::Exists { .. }));
        assert_eq!(content(&store, "packs/a").unwrap(), b"other");
        objects.heal();
        objects.at_change(0, fate);
        store.remove("packs/a").unwrap();
        assert_eq!(content(&store, "packs/a"), None);
    }
}

/// A store must not keep the beginning of what it was sent; where one does, it is put right.
#[test]
fn beginning_of_an_object_that_was_cut_off_is_replaced() {
    let objects = Troubled::new();
    let store = store(&objects);
    objects.set("hosts/earth/packs/a", b"con");
    objects.at_change(0, Fate::Dropped);
    store.put("packs/a", &[b"content"], Put::New).unwrap();
    assert_eq!(content(&store, "packs/a").unwrap(), b"content");
}

/// Nobody waits for ever: who has never been reached is given up soon, and it is told how often he was asked.
#[test]
fn store_that_does_not_answer_is_given_up() {
    let objects = Troubled::new();
    let store = store(&objects);
    let slow = Duration::from_secs(60);
    store.put("packs/a", &[b"a"], Put::New).unwrap();
    objects.at_change(0, Fate::Late(slow));
    // Silent once, and then done.
    store.put("packs/b", &[b"b"], Put::New).unwrap();
    objects.kill();
    let (fault, tries) = fault_of(store.put("packs/c", &[b"c"], Put::New));
    assert!(matches!(fault, StoreFault::Other { .. }), "{fault}");
    assert_eq!(tries, 1);
}
