//! Objects in a folder, over every crash, and the writer's lock.

use super::*;
use crate::os::SimulatedHost;
use crate::os::sim::{Fault, Faults, Operation};

fn root() -> &'static Path {
    Path::new("/r")
}

fn on(machine: &SimulatedHost) -> FolderStore {
    FolderStore::new(&machine.host, root())
}

fn new_store() -> (SimulatedHost, FolderStore) {
    let machine = Host::simulated(1);
    let store = on(&machine);
    store.prepare().unwrap();
    (machine, store)
}

fn content(store: &FolderStore, name: &str) -> Option<Vec<u8>> {
    let size = match store.size(name) {
        Err(RepositoryError::Missing { .. }) => return None,
        size => usize::try_from(size.unwrap()).unwrap(),
    };
    let mut out = vec![0; size];
    store.read_at(name, 0, &mut out).unwrap();
    Some(out)
}

const A: &str = "packs/a";
const B: &str = "packs/b";
const C: &str = "backups/c";

fn old() -> Vec<u8> {
    vec![1; 3000]
}

fn new() -> Vec<u8> {
    vec![2; 1500]
}

/// What a writer does; returns how far it came.
fn write(store: &FolderStore) -> usize {
    let put = |name, bytes: &[u8], put| store.put(name, &[&bytes[..700], &bytes[700..]], put);
    let steps: [&dyn Fn() -> Result<()>; 9] = [
        &|| store.lock().map(drop),
        &|| put(A, &old(), Put::New),
        &|| put(B, &old(), Put::New),
        &|| store.settle(),
        &|| put(C, &old(), Put::New),
        &|| store.settle(),
        &|| put(A, &new(), Put::Replace),
        &|| store.remove(C),
        &|| store.settle(),
    ];
    steps.iter().take_while(|step| step().is_ok()).count()
}

/// BK1's ground: power fails before each change in turn. An object is there whole or not at all, and what
/// was settled is there.
#[test]
fn crash_at_any_step_leaves_whole_objects_and_what_was_settled() {
    let mut seen = BTreeSet::new();
    for change in 0.. {
        let (machine, store) = new_store();
        machine
            .disk
            .set_faults(Faults::power_off_before_change(change));
        let steps = write(&store);
        for seed in 0..12 {
            let after = on(&machine.with_disk(machine.disk.image_after_crash(seed)));
            let [a, b, c] = [A, B, C].map(|name| content(&after, name));
            let why = format!("change {change} seed {seed} steps {steps}: {a:?} {b:?} {c:?}");
            for object in [&a, &b, &c].into_iter().flatten() {
                assert!(*object == old() || *object == new(), "{why}");
            }
            assert!(steps < 4 || b == Some(old()), "{why}");
            assert!(steps < 4 || a.is_some(), "{why}");
            assert!(steps != 6 || c == Some(old()), "{why}");
            assert!(steps < 9 || (a == Some(new()) && c.is_none()), "{why}");
            // A manifest is put when what it needs is settled.
            assert!(c.is_none() || (a.is_some() && b.is_some()), "{why}");
            // Whatever is left behind is in nobody's way.
            let _lock = after.lock().expect(&why);
            assert!(
                after.disk.list(&root().join(TMP)).unwrap().is_empty(),
                "{why}"
            );
            after.put("packs/d", &[b"d"], Put::New).expect(&why);
            seen.insert((a.is_some(), c.is_some(), steps));
        }
        if steps == 9 {
            break;
        }
    }
    assert!(
        seen.contains(&(false, false, 2)) && seen.contains(&(true, true, 5)),
        "{seen:?}"
    );
}

/// Every call of each kind fails once, in turn. Nothing half-done is seen, and the store that failed to
/// sync a folder stores nothing more.
#[test]
fn failure_of_any_call_leaves_the_old_object_or_the_new_one() {
    let operations = [
        Operation::Open,
        Operation::Write,
        Operation::SyncData,
        Operation::Rename,
        Operation::SyncDir,
        Operation::Remove,
        Operation::Lock,
    ];
    for operation in operations {
        for number in 0.. {
            let (machine, store) = new_store();
            let fault = Fault::kind(operation, io::ErrorKind::Other).after(number);
            machine.disk.set_faults(Faults::none().with(fault));
            let steps = write(&store);
            machine.disk.set_faults(Faults::none());
            for name in [A, B, C] {
                let found = content(&store, name);
                assert!(found.is_none_or(|found| found == old() || found == new()));
            }
            if steps == 9 {
                assert!(number > 0, "{operation:?} is never called");
                break;
            }
            if operation == Operation::SyncDir {
                store.put(B, &[b"x"], Put::Replace).unwrap_err();
                store.remove(B).unwrap_err();
                store.settle().unwrap_err();
                // What it had put since the last good sync may be lost any time: nobody may build on it.
                if steps == 3 {
                    assert_eq!([A, B].map(|name| content(&store, name)), [None, None]);
                }
            }
            assert_eq!(
                write_all(&on(&machine)),
                Ok(()),
                "{operation:?} {number} {steps}"
            );
        }
    }
}

/// What the next process does, whatever is there.
fn write_all(store: &FolderStore) -> Result<(), String> {
    let all = || {
        let lock = store.lock()?;
        for name in [A, B, C] {
            store.put(name, &[&new()], Put::Replace)?;
        }
        lock.confirm()?;
        store.settle()
    };
    all().map_err(|error: RepositoryError| error.to_string())
}

/// A process that is killed between the rename and the sync leaves a name that the next one sees, and that
/// a crash may take: the next one's settle must make it durable, though it did not put it.
#[test]
fn names_of_a_killed_writer_are_made_durable_by_the_next() {
    let (machine, store) = new_store();
    store.settle().unwrap();
    store.put(A, &[&old()], Put::New).unwrap();
    let after = machine.process_crash();
    let next = on(&after);
    let _lock = next.lock().unwrap();
    assert_eq!(content(&next, A), Some(old()));
    next.settle().unwrap();
    for seed in 0..20 {
        let image = on(&after.with_disk(after.disk.image_after_crash(seed)));
        assert_eq!(content(&image, A), Some(old()), "seed {seed}");
    }
}

fn is_locked(result: Result<Box<dyn WriterLock>>) -> bool {
    matches!(result, Err(RepositoryError::Locked { .. }))
}

/// BK3: one writer; the lock ends with its owner, who drops it or dies.
#[test]
fn lock_is_held_by_one_and_dies_with_its_owner() {
    let (machine, store) = new_store();
    let other = machine.with_disk(machine.disk.another_process());
    let lock = store.lock().unwrap();
    assert!(is_locked(store.lock()));
    assert!(is_locked(on(&other).lock()));
    lock.confirm().unwrap();
    drop(lock);
    let lock = on(&other).lock().unwrap();
    assert!(is_locked(store.lock()));
    drop(other.process_crash());
    lock.confirm().unwrap_err();
    store.lock().unwrap().confirm().unwrap();
}

/// BK3: somebody takes `LOCK` away, and another writer locks a new one.
#[test]
fn lock_on_a_file_that_is_no_longer_the_lock_does_not_count() {
    let (machine, store) = new_store();
    let lock = store.lock().unwrap();
    machine.disk.remove(&root().join(LOCK)).unwrap();
    assert!(matches!(
        lock.confirm(),
        Err(RepositoryError::Locked { .. })
    ));
    let newer = store.lock().unwrap();
    assert!(matches!(
        lock.confirm(),
        Err(RepositoryError::Locked { .. })
    ));
    newer.confirm().unwrap();
}

/// BK3: readers need no lock, and are not kept out by one.
#[test]
fn reader_reads_while_a_writer_has_the_lock() {
    let (machine, store) = new_store();
    store.put(A, &[&old()], Put::New).unwrap();
    let _lock = store.lock().unwrap();
    let other = on(&machine.with_disk(machine.disk.another_process()));
    assert_eq!(content(&other, A), Some(old()));
    assert_eq!(other.list("packs").unwrap(), ["a"]);
}

#[test]
fn full_disk_is_told_with_what_is_needed_and_what_is_free() {
    let (machine, store) = new_store();
    store.put(A, &[&old()], Put::New).unwrap();
    machine.disk.set_capacity(Some(8192));
    let error = store
        .put(B, &[&[7; 60_000], &[7; 5]], Put::New)
        .unwrap_err();
    match error {
        RepositoryError::NoSpace { needed, free, .. } => {
            assert_eq!(needed, 60_005);
            assert_eq!(free, 4096);
        }
        error => panic!("{error}"),
    }
    assert_eq!(
        (content(&store, A), content(&store, B)),
        (Some(old()), None)
    );
    assert!(machine.disk.list(&root().join(TMP)).unwrap().is_empty());
    assert!(store.free_bytes().unwrap().unwrap() <= 8192);
    machine.disk.set_faults(Faults::none().with(Fault::kind(
        Operation::SyncData,
        io::ErrorKind::QuotaExceeded,
    )));
    let error = store.put(B, &[&[7; 10]], Put::New).unwrap_err();
    assert!(
        matches!(error, RepositoryError::NoSpace { needed: 10, .. }),
        "{error}"
    );
    store.put(B, &[&[7; 10]], Put::New).unwrap();
}

/// A mark is written without the lock, while a writer that starts sweeps `tmp/`.
#[test]
fn staged_object_that_is_swept_away_is_written_again() {
    let (machine, store) = new_store();
    store.put(config::OBJECT, &[b"{}"], Put::New).unwrap();
    let fault = Fault::kind(Operation::Rename, io::ErrorKind::NotFound).times(2);
    machine.disk.set_faults(Faults::none().with(fault));
    store.put("marks/x", &[b"mark"], Put::Replace).unwrap();
    assert_eq!(content(&store, "marks/x").unwrap(), b"mark");
    // For ever, it is an error and no loop.
    let fault = Fault::kind(Operation::Rename, io::ErrorKind::NotFound).times(u64::MAX);
    machine.disk.set_faults(Faults::none().with(fault));
    store.put("marks/x", &[b"mark"], Put::Replace).unwrap_err();
}

/// Tools that copy files leave empty folders behind.
#[test]
fn folders_that_are_missing_are_empty_and_made_when_they_are_needed() {
    let machine = Host::simulated(1);
    machine.disk.create_dir(root()).unwrap();
    machine.disk.sync_dir(Path::new("/")).unwrap();
    let store = on(&machine);
    assert!(store.list("packs").unwrap().is_empty());
    // The disk of a repository was taken away: its mount point is no place for packs.
    let gone = store.put(A, &[b"a"], Put::New);
    assert!(matches!(gone, Err(RepositoryError::Missing { .. })));
    assert!(machine.disk.list(root()).unwrap().is_empty());
    let config = root().join(config::OBJECT);
    machine.disk.open(&config, OpenMode::CreateNew).unwrap();
    let _lock = store.lock().unwrap();
    store.put(A, &[b"a"], Put::New).unwrap();
    store.settle().unwrap();
    assert_eq!(
        store.list("").unwrap(),
        [
            "LOCK",
            "audit",
            "backups",
            "damaged",
            "keys",
            "log",
            "marks",
            "packs",
            config::OBJECT,
            "tmp"
        ]
    );
    let after = on(&machine.crash(5));
    assert_eq!(content(&after, A).unwrap(), b"a");
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_missing_and_short_objects_told_apart() {
    let (_machine, store) = new_store();
    for name in [
        "",
        "..",
        "packs/..",
        "packs/../x",
        "a/b/c",
        "/a",
        "packs/",
        "packs/a b",
        ".x",
    ] {
        assert!(store.put(name, &[b"x"], Put::New).is_err(), "{name}");
        assert!(store.size(name).is_err(), "{name}");
        assert!(store.remove(name).is_err(), "{name}");
    }
    store.put(A, &[b"abc"], Put::New).unwrap();
    let exists = store.put(A, &[b"x"], Put::New);
    assert!(matches!(exists, Err(RepositoryError::Exists { .. })));
    let mut out = [0; 3];
    let cut = store.read_at(A, 1, &mut out);
    assert!(matches!(
        cut,
        Err(RepositoryError::Cut {
            bytes: 3,
            needed: 4,
            ..
        })
    ));
    let far = store.read_at(A, u64::MAX, &mut out);
    assert!(far.is_err());
    store.remove(A).unwrap();
    store.remove(A).unwrap();
    assert!(matches!(
        store.size(A),
        Err(RepositoryError::Missing { .. })
    ));
}

/// A backup has what its source keeps from others.
#[test]
fn everything_on_the_real_disk_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = FolderStore::new(&Host::system(), &dir.path().join("above/r"));
    store.prepare().unwrap();
    let _lock = store.lock().unwrap();
    store.put(A, &[b"a"], Put::New).unwrap();
    store.put("top.json", &[b"a"], Put::Replace).unwrap();
    store.settle().unwrap();
    let mode = |path: &str| {
        let metadata = crate::os::path::metadata(&dir.path().join("above").join(path)).unwrap();
        metadata.mode
    };
    for folder in ["", "r", "r/packs", "r/backups", "r/marks", "r/tmp"] {
        assert_eq!(mode(folder), 0o700, "{folder}");
    }
    for file in ["r/packs/a", "r/top.json", "r/LOCK"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert!(is_locked(
        FolderStore::new(&Host::system(), &dir.path().join("above/r")).lock()
    ));
}
