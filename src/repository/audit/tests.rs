//! The audit log with two writers, crashes, damage, and at its bounds.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::os::{Host, OpenMode, SimulatedHost};
use crate::repository::Repository;
use crate::repository::crypt::NewKeys;

fn event(message: &str) -> AuditEvent {
    AuditEvent {
        command: "backup".to_owned(),
        message: Some(message.to_owned()),
        ..AuditEvent::default()
    }
}

fn open(machine: &SimulatedHost) -> Arc<dyn Store> {
    let repository = Repository::open_or_create(&machine.host, Path::new("/r")).unwrap();
    Arc::clone(repository.store())
}

fn add(machine: &SimulatedHost, store: &dyn Store, message: &str) -> Result<()> {
    record(store, &*machine.host.random, &event(message))
}

fn messages(store: &dyn Store) -> Vec<String> {
    let events = read(store).unwrap().events.into_iter();
    events.filter_map(|event| event.message).collect()
}

/// BK14: of writers at the same time none loses a line.
#[test]
fn writers_at_the_same_time_lose_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::system();
    let place = dir.path().join("r");
    Repository::open_or_create(&host, &place).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (host, place) = (host.clone(), place.clone());
            scope.spawn(move || {
                for number in 0..10 {
                    // A handle of its own, as another process has it.
                    let repository = Repository::open(&host, &place).unwrap();
                    let event = event(&format!("{writer} {number}"));
                    record(repository.store().as_ref(), &*host.random, &event).unwrap();
                }
            });
        }
    });
    let repository = Repository::open(&host, &place).unwrap();
    let log = read(repository.store().as_ref()).unwrap();
    assert_eq!((log.events.len(), log.unreadable), (40, 0));
    for writer in 0..4 {
        let of_writer = log.events.iter().filter_map(|event| {
            let (who, number) = event.message.as_deref()?.split_once(' ')?;
            (who == writer.to_string()).then(|| number.parse::<u32>().unwrap())
        });
        assert!(of_writer.eq(0..10), "writer {writer}");
    }
}

/// BK14: what was recorded is there after the machine stopped, and nothing is torn.
#[test]
fn lines_survive_a_crash_and_none_is_torn() {
    for seed in 0..50 {
        let machine = Host::simulated(seed);
        let store = open(&machine);
        for number in 0..3 {
            add(&machine, store.as_ref(), &number.to_string()).unwrap();
        }
        let after = machine.crash(seed);
        let log = read(open(&after).as_ref()).unwrap();
        assert_eq!((log.events.len(), log.unreadable), (3, 0), "seed {seed}");
    }
}

#[test]
fn log_is_bounded_and_keeps_the_newest_lines() {
    let machine = Host::simulated(1);
    let store = open(&machine);
    // As if many had been added.
    let filler = event(&"x".repeat(900))
        .line()
        .repeat(OBJECT_BYTES_MAX / 1200);
    let large = [
        filler.as_slice(),
        &vec![b'y'; OBJECT_BYTES_MAX - filler.len() - 1],
        b"\n",
    ]
    .concat();
    for round in 0..3 {
        store.put(NEWEST, &[&large], Put::Replace).unwrap();
        add(&machine, store.as_ref(), &format!("round {round}")).unwrap();
        add(&machine, store.as_ref(), &"z".repeat(5000)).unwrap();
        let sizes = [NEWEST, OLDER].map(|object| store.size(object).unwrap());
        assert!(
            sizes.iter().all(|size| *size <= OBJECT_BYTES_MAX as u64),
            "{sizes:?}"
        );
        let messages = messages(store.as_ref());
        let last = messages.last().unwrap();
        assert!(last.len() <= TEXT_BYTES_MAX + 3 && last.starts_with("zz"));
        assert_eq!(messages[messages.len() - 2], format!("round {round}"));
    }
}

#[test]
fn damaged_lines_are_counted_and_the_others_stay() {
    let machine = Host::simulated(2);
    let store = open(&machine);
    add(&machine, store.as_ref(), "first").unwrap();
    let mut bytes = read_object(store.as_ref(), NEWEST).unwrap();
    bytes.extend_from_slice(b"{\"stillfs_audit\":9,\"id\":\"\"}\n\xff\xfe\n{\"half");
    store.put(NEWEST, &[&bytes], Put::Replace).unwrap();
    add(&machine, store.as_ref(), "second").unwrap();
    let log = read(store.as_ref()).unwrap();
    assert_eq!(log.unreadable, 3);
    assert_eq!(messages(store.as_ref()), ["first", "second"]);
    // One that is far too large is read from its end, and comes back within its bound.
    let huge = vec![b'\n'; 3 * OBJECT_BYTES_MAX];
    store.put(NEWEST, &[&huge], Put::Replace).unwrap();
    add(&machine, store.as_ref(), "third").unwrap();
    assert_eq!(messages(store.as_ref()).last().unwrap(), "third");
    assert!(store.size(NEWEST).unwrap() <= OBJECT_BYTES_MAX as u64);
}

#[test]
fn lines_in_both_objects_count_once() {
    let machine = Host::simulated(3);
    let store = open(&machine);
    add(&machine, store.as_ref(), "one").unwrap();
    let bytes = read_object(store.as_ref(), NEWEST).unwrap();
    store.put(OLDER, &[&bytes], Put::Replace).unwrap();
    assert_eq!(messages(store.as_ref()), ["one"]);
}

/// Encrypted: its objects are opened in several steps, and are damaged as a whole.
fn sealed(host: &Host, place: &Path) -> Repository {
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let keys = NewKeys {
        recipients: vec![recipient.parse().unwrap()],
        passphrase: None,
    };
    Repository::create(host, place, &keys).unwrap()
}

/// BK14: a reader finds no damage in what is replaced while he reads.
#[test]
fn reader_beside_a_writer_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::system();
    let repository = sealed(&host, &dir.path().join("r"));
    let store = repository.store().as_ref();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..100 {
                record(store, &*host.random, &event(&number.to_string())).unwrap();
                host.clock.sleep(std::time::Duration::from_millis(3));
            }
        });
        let mut known = 0;
        while !writer.is_finished() {
            let log = read(store).unwrap();
            assert_eq!(log.unreadable, 0, "after {known} lines");
            assert!(log.events.len() >= known, "lines of {known} were lost");
            known = log.events.len();
        }
    });
    assert_eq!(read(store).unwrap().events.len(), 100);
}

#[test]
fn damaged_object_is_counted_and_begun_anew() {
    let machine = Host::simulated(4);
    let repository = sealed(&machine.host, Path::new("/r"));
    let store = repository.store().as_ref();
    let (folder, disk) = (Path::new("/r").join(FOLDER), &*machine.host.disk);
    for bytes in [0, 3, 90, 200] {
        add(&machine, store, "lost").unwrap();
        let stored = disk.list(&folder).unwrap();
        assert_eq!(stored.len(), 1);
        let file = disk.open(&folder.join(&stored[0]), OpenMode::ReadWrite);
        file.unwrap().set_len(bytes).unwrap();
        let log = read(store).unwrap();
        assert_eq!((log.unreadable, log.events.len()), (1, 0), "{bytes}");
        add(&machine, store, "after").unwrap();
        assert_eq!(messages(store), ["after"], "{bytes}");
        assert_eq!(read(store).unwrap().unreadable, 0);
    }
}
