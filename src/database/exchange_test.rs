//! A database that is exchanged for another one, stopped before every change of it.

use std::path::Path;

use super::exchange::Exchanged;
use super::restart_test::open;
use super::*;
use crate::engine::start_history;
use crate::id::HistoryId;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{OpenMode, SimulatedHost, read_exact_at, write_all_at};

const EIO: i32 = 5;
const OLD_ROUND: u8 = 7;
const NEW_ROUND: u8 = 1;
const NEW_HISTORY: HistoryId = HistoryId([9; 16]);

const KEYS: u32 = 60;
/// What is moved before the page file is.
const PARTS: u64 = 3;

/// Gives all keys the value `round`, in several pages.
fn fill(database: &Database, round: u8) {
    let mut write = database.begin_write().unwrap();
    for key in 0..KEYS {
        write.put("t", &key.to_be_bytes(), &[round; 100]).unwrap();
    }
    write.commit().unwrap();
}

/// What is in it: the round of all its keys.
#[track_caller]
fn round(database: &Database, at: &str) -> u8 {
    let read = database.begin_read().unwrap();
    let get = |key: u32| read.get("t", &key.to_be_bytes()).unwrap().unwrap()[0];
    let found = get(0);
    assert!((0..KEYS).all(|key| get(key) == found), "{at}: not whole");
    let report = database.check().unwrap();
    assert!(report.findings.is_empty(), "{at}: {report:?}");
    found
}

/// A machine whose database has commits in its log, and another one that is to take its place.
struct Scene {
    machine: SimulatedHost,
    database: Database,
    old: HistoryId,
}

/// The files that the engine keeps of what changed, in a database that is not open.
fn changes(machine: &SimulatedHost) -> usize {
    let found = machine.host.disk.list(&Path::new("/db").join(CHANGES_DIR));
    found.map_or(0, |names| names.len())
}

impl Scene {
    /// Every seed gives the same.
    fn new() -> Self {
        let machine = Host::simulated(3);
        let database = open(&machine.host);
        for number in 1..=3 {
            fill(&database, number);
        }
        database.checkpoint().unwrap();
        fill(&database, OLD_ROUND);
        let new = database.prepare_exchange().unwrap();
        make_new(&machine.host, Path::new("/other"), &new);
        let old = database.engine().identity().history;
        Self {
            machine,
            database,
            old,
        }
    }

    fn exchange(database: Database) -> Exchanged {
        let options = EngineOptions::default();
        let pins = database.refuse_pins().unwrap();
        database.exchange(&options, pins)
    }

    /// Opens what is there, and finds it whole and ready for more; whether it is the new one.
    #[track_caller]
    fn is_new(machine: &SimulatedHost, old: HistoryId, at: &str) -> bool {
        let opened = Database::open_on(&machine.host, "/db", &EngineOptions::default());
        let database = opened.unwrap_or_else(|error| panic!("{at}: {error}"));
        let history = database.engine().identity().history;
        let is_new = history == NEW_HISTORY;
        assert!(is_new || history == old, "{at}: {history}");
        let expected = if is_new { NEW_ROUND } else { OLD_ROUND };
        assert!(
            is_new || changes(machine) > 0,
            "{at}: it forgot what changed"
        );
        assert_eq!(round(&database, at), expected, "{at}");
        let names = machine.host.disk.list(Path::new("/db")).unwrap();
        let is_left = |name: &std::ffi::OsString| name.to_string_lossy().contains(EXCHANGE_DIR);
        assert!(!names.iter().any(is_left), "{at}: {names:?}");
        let pin = database.pin().unwrap();
        fill(&database, 99);
        database.checkpoint().unwrap();
        drop(pin);
        database.close().unwrap();
        drop(database);
        let again = Database::open_on(&machine.host, "/db", &EngineOptions::default()).unwrap();
        assert_eq!(round(&again, at), 99, "{at}");
        assert_eq!(again.engine().identity().history, history, "{at}");
        is_new
    }
}

/// What a restore makes: a page file that needs no log, with a history of its own, durable.
fn make_new(host: &Host, other_dir: &Path, dir: &Path) {
    let options = EngineOptions::default();
    let other = Database::open_on(host, other_dir, &options).unwrap();
    fill(&other, NEW_ROUND);
    other.close().unwrap();
    drop(other);
    let disk = &host.disk;
    let page_file = other_dir.join(PAGE_FILE);
    let from = disk.open(&page_file, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(from.len().unwrap()).unwrap()];
    read_exact_at(&*from, &mut bytes, 0).unwrap();
    disk.create_dir(dir).unwrap();
    let to = disk
        .open(&dir.join(PAGE_FILE), OpenMode::CreateNew)
        .unwrap();
    write_all_at(&*to, &bytes, 0).unwrap();
    start_history(&*to, dir, NEW_HISTORY).unwrap();
    disk.sync_dir(dir).unwrap();
    disk.sync_dir(dir.parent().unwrap()).unwrap();
}

/// Changes from the closing of the old one to the removal of the last of it.
fn change_count() -> u64 {
    let scene = Scene::new();
    let before = scene.machine.disk.change_count();
    let Exchanged::Done(database) = Scene::exchange(scene.database) else {
        panic!("nothing went wrong");
    };
    assert_eq!(round(&database, "exchanged"), NEW_ROUND);
    assert_eq!(database.engine().identity().history, NEW_HISTORY);
    scene.machine.disk.change_count() - before
}

/// EX2, EX3: the machine stops before each change, and syncs that were not made may be lost.
#[test]
fn power_off_in_an_exchange_leaves_the_old_database_or_the_new_one() {
    let (mut old_ones, mut new_ones, mut after_rename) = (0, 0, 0);
    for number in 0..=change_count() {
        let Scene {
            machine,
            database,
            old,
        } = Scene::new();
        let renames = machine.disk.count(Operation::Rename);
        let stop = Faults::power_off_before_change(number);
        machine.disk.set_faults(stop);
        drop(Scene::exchange(database));
        // The three parts, and then the page file: what was not synced before that could be lost alone.
        after_rename += u64::from(machine.disk.count(Operation::Rename) - renames > PARTS);
        let images = if (1..=2).contains(&after_rename) {
            40
        } else {
            2
        };
        for seed in 0..images {
            let disk = machine.disk.image_after_crash(number * 40 + seed);
            let at = format!("power off {number}, disk {seed}");
            // EX2: who only reads does not settle anything, and finds a whole database.
            let image = machine.with_disk(machine.disk.image_after_crash(number * 40 + seed));
            let reader = Engine::open_read_only(&image.host, Path::new("/db"), 1 << 20);
            drop(reader.unwrap_or_else(|error| panic!("{at}: {error}")));
            match Scene::is_new(&machine.with_disk(disk), old, &at) {
                true => new_ones += 1,
                false => old_ones += 1,
            }
        }
    }
    assert!(old_ones > 10 && new_ones > 10, "{old_ones} {new_ones}");
}

/// EX1, EX3: the process is killed before each change, and whoever comes next finds the lock free.
#[test]
fn kill_in_an_exchange_leaves_the_old_database_or_the_new_one() {
    for number in 0..=change_count() {
        let Scene {
            machine,
            database,
            old,
        } = Scene::new();
        machine.disk.set_faults(Faults::kill_before_change(number));
        drop(Scene::exchange(database));
        machine.disk.set_faults(Faults::none());
        let after = machine.process_crash();
        // The start that settles it is killed, too, before one of its first changes.
        let next = after.with_disk(after.disk.another_process());
        next.disk
            .set_faults(Faults::kill_before_change(number % 11));
        drop(Database::open_on(
            &next.host,
            "/db",
            &EngineOptions::default(),
        ));
        next.disk.set_faults(Faults::none());
        let after = next.process_crash();
        Scene::is_new(&after, old, &format!("kill {number}"));
    }
}

/// EX4: any call fails once, and the exchange is done, or the old database goes on with every commit, its
/// history and what it knows of changes.
#[test]
fn exchange_that_fails_leaves_the_old_database_at_work() {
    let operations = [
        Operation::Open,
        Operation::Write,
        Operation::SyncData,
        Operation::CreateDir,
        Operation::Link,
        Operation::Rename,
        Operation::SyncDir,
        Operation::Read,
    ];
    let (mut kept, mut done) = (0, 0);
    for operation in operations {
        for count in 0.. {
            let Scene {
                machine,
                database,
                old,
            } = Scene::new();
            let changes = machine.host.disk.list(Path::new("/db/changes"));
            let fault = Fault::errno(operation, EIO).after(count);
            let pins = database.refuse_pins().unwrap();
            let before = machine.disk.count(operation);
            machine.disk.set_faults(Faults::none().with(fault));
            let exchanged = database.exchange(&EngineOptions::default(), pins);
            let was_hit = machine.disk.count(operation) - before > count;
            machine.disk.set_faults(Faults::none());
            let at = format!("{operation:?} {count}");
            match exchanged {
                Exchanged::Done(database) => {
                    assert_eq!(round(&database, &at), NEW_ROUND, "{at}");
                    done += 1;
                }
                Exchanged::Kept { database, error } => {
                    assert_eq!(round(&database, &at), OLD_ROUND, "{at}: {error}");
                    assert_eq!(database.engine().identity().history, old, "{at}");
                    let found = machine.host.disk.list(Path::new("/db/changes")).unwrap();
                    let changes = changes.unwrap_or_default();
                    assert!(changes.iter().all(|name| found.contains(name)), "{at}");
                    fill(&database, OLD_ROUND);
                    database.pin().unwrap();
                    kept += 1;
                }
                Exchanged::Lost { error, again } => {
                    panic!("{at}: one failure ends both: {error}; {again}")
                }
            }
            let after = machine.process_crash();
            let disk = after.disk.image_after_crash(count);
            Scene::is_new(&after.with_disk(disk), old, &at);
            if !was_hit {
                break;
            }
        }
    }
    assert!(kept > 20 && done >= operations.len(), "{kept} {done}");
}

/// EX5: neither under a pin, nor is one taken meanwhile; after it they are.
#[test]
fn pins_and_exchanges_keep_each_other_out() {
    let scene = Scene::new();
    let pin = scene.database.pin().unwrap();
    let refused = scene.database.refuse_pins().unwrap_err();
    assert!(
        matches!(refused, DatabaseError::Pinned { pins: 1 }),
        "{refused}"
    );
    drop(pin);
    let pins = scene.database.refuse_pins().unwrap();
    let refused = scene.database.pin().unwrap_err();
    assert!(matches!(refused, DatabaseError::Exchanging), "{refused}");
    assert!(matches!(
        scene.database.refuse_pins(),
        Err(DatabaseError::Exchanging)
    ));
    drop(pins);
    scene.database.pin().unwrap();
    scene.database.abandon_exchange();
    assert!(
        !scene
            .machine
            .host
            .disk
            .list(Path::new("/db"))
            .unwrap()
            .contains(&EXCHANGE_DIR.into())
    );
}

/// EX1: the lock is handed on, and never asked for again: whoever gives it up must ask for it.
#[test]
fn directory_is_locked_all_the_time() {
    let Scene {
        machine, database, ..
    } = Scene::new();
    let no_lock = Fault::errno(Operation::Lock, EIO).on("db").times(u64::MAX);
    machine.disk.set_faults(Faults::none().with(no_lock));
    let Exchanged::Done(database) = Scene::exchange(database) else {
        panic!("it asked for the lock");
    };
    machine.disk.set_faults(Faults::none());
    let other = machine.with_disk(machine.disk.another_process());
    let is_used = || Engine::refuse_if_used(&other.host, Path::new("/db"));
    let found = is_used();
    assert!(matches!(found, Err(EngineError::InUse { .. })), "{found:?}");
    database.close().unwrap();
    drop(database);
    is_used().unwrap();
}

/// EX4: what the new one takes is given back before the old one is opened, which may need it.
#[test]
fn old_database_comes_back_with_the_room_of_the_new_one() {
    let Scene {
        machine, database, ..
    } = Scene::new();
    let pins = database.refuse_pins().unwrap();
    let broken = Fault::errno(Operation::Open, EIO).on(PAGE_FILE);
    let broken = Faults::none().with(broken.times(u64::MAX));
    machine.disk.set_faults(broken);
    let exchanged = database.exchange(&EngineOptions::default(), pins);
    assert!(matches!(exchanged, Exchanged::Lost { .. }), "{exchanged:?}");
    machine.disk.set_faults(Faults::none());
    assert!(!is_there(&machine, EXCHANGE_DIR));
}

fn is_there(machine: &SimulatedHost, name: &str) -> bool {
    let path = Path::new("/db").join(name);
    let folder = path.parent().unwrap();
    let names = machine.host.disk.list(folder).unwrap_or_default();
    names.contains(&path.file_name().unwrap().to_owned())
}

/// A process that was killed when the new one had just taken its place, and the old history.
fn killed_after_the_exchange() -> (SimulatedHost, HistoryId) {
    for number in 0.. {
        let Scene {
            machine,
            database,
            old,
        } = Scene::new();
        machine.disk.set_faults(Faults::kill_before_change(number));
        drop(Scene::exchange(database));
        machine.disk.set_faults(Faults::none());
        let after = machine.process_crash();
        let in_work = |name: &str| is_there(&after, &format!("{EXCHANGE_DIR}/{name}/{PAGE_FILE}"));
        if in_work("old") && !in_work("new") {
            return (after, old);
        }
    }
    unreachable!("the page file is renamed at some time")
}

fn damage(machine: &SimulatedHost) {
    let live = Path::new("/db").join(PAGE_FILE);
    let file = machine.host.disk.open(&live, OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, &[0; 1 << 16], 0).unwrap();
}

/// EX4: a start whose new database does not open goes back to the old one, unless the new one was in use.
#[test]
fn start_falls_back_to_the_old_database() {
    let (machine, old) = killed_after_the_exchange();
    damage(&machine);
    assert!(!Scene::is_new(&machine, old, "damaged at once"));

    let (machine, old) = killed_after_the_exchange();
    let stays = Fault::errno(Operation::Rename, EIO).times(u64::MAX);
    let stays = stays.on(format!("{EXCHANGE_DIR}.gone"));
    machine.disk.set_faults(Faults::none().with(stays));
    let database = open(&machine.host);
    assert_eq!(database.engine().identity().history, NEW_HISTORY);
    fill(&database, 9);
    drop(database);
    machine.disk.set_faults(Faults::none());
    damage(&machine);
    let opened = Database::open_on(&machine.host, "/db", &EngineOptions::default());
    let refused = opened.unwrap_err();
    assert!(
        matches!(refused, DatabaseError::Restored { .. }),
        "{refused}"
    );
    let kept = Path::new("/db").join(EXCHANGE_DIR).join("old");
    assert!(
        refused.to_string().contains(kept.to_str().unwrap()),
        "{refused}"
    );
    // As the message says.
    let moved = machine
        .host
        .disk
        .rename(&kept.join(PAGE_FILE), &Path::new("/db").join(PAGE_FILE));
    moved.unwrap();
    assert!(!Scene::is_new(&machine, old, "moved back"));
}

/// EX6: neither a file of that name nor somebody's own folder is removed, or keeps a database shut.
#[test]
fn what_no_restore_made_stays() {
    for name in [EXCHANGE_DIR.to_owned(), format!("{EXCHANGE_DIR}/mine")] {
        let machine = Host::simulated(5);
        drop(open(&machine.host));
        let (dir, disk) = (Path::new("/db"), &machine.host.disk);
        if name != EXCHANGE_DIR {
            disk.create_dir(&dir.join(EXCHANGE_DIR)).unwrap();
        }
        disk.open(&dir.join(&name), OpenMode::CreateNew).unwrap();
        let database = open(&machine.host);
        database.prepare_exchange().unwrap_err();
        database.abandon_exchange();
        drop(database);
        drop(open(&machine.host));
        assert!(is_there(&machine, &name), "{name}");
    }
}

/// The engine can write the new page file, and nobody can who could not write the old one.
#[test]
#[allow(clippy::disallowed_methods)]
fn new_page_file_has_the_mode_of_the_one_it_replaces() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    let (top, host) = (tempfile::tempdir().unwrap(), Host::system());
    let dir = top.path().join("db");
    let database = Database::open_on(&host, &dir, &EngineOptions::default()).unwrap();
    let new = database.prepare_exchange().unwrap();
    make_new(&host, &top.path().join("other"), &new);
    let live = dir.join(PAGE_FILE);
    for (path, mode) in [(&live, 0o640), (&new.join(PAGE_FILE), 0o406)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let exchanged = Scene::exchange(database);
    assert!(matches!(exchanged, Exchanged::Done(_)), "{exchanged:?}");
    let found = fs::metadata(&live).unwrap().permissions().mode();
    assert_eq!(found & 0o7777, 0o640);
}
