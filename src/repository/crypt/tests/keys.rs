//! Who gets in, and who does not any more.

use super::*;
use crate::os::sim::Faults;
use crate::repository::Compression;
use crate::repository::specimen::{files, read_back, units};
use crate::repository::store::Put;

fn keeper(machine: &SimulatedHost, unlock: &Unlock) -> KeyKeeper {
    KeyKeeper::open(&machine.host, root(), unlock).unwrap()
}

/// Each fault with the words that tell people what to do.
#[test]
fn wrong_keys_and_none_are_told_apart() {
    let (machine, _) = empty(1);
    let stranger = new_key();
    let fault = |unlock: &Unlock| open(&machine, unlock).unwrap_err();
    let none = fault(&Unlock::none());
    assert!(matches!(none, RepositoryError::KeyNeeded { .. }), "{none}");
    for word in ["--key-file", "--passphrase-file", "STILLFS_KEY_FILE", "/r"] {
        assert!(none.to_string().contains(word), "{none}");
    }
    for wrong in [by_key(&stranger[0]), by_passphrase("guessed")] {
        let error = fault(&wrong);
        assert!(matches!(error, RepositoryError::WrongKey { .. }), "{error}");
    }
    let both = &mut by_key(&stranger[0]);
    both.add_key_file(format!("# the right one\n\n{}\n", ALICE[0]).as_bytes())
        .unwrap();
    open(&machine, both).unwrap();
    // A passphrase that is meant for another repository.
    both.set_passphrase(passphrase("of another"));
    open(&machine, both).unwrap();
}

/// A plain repository in the place of an encrypted one must not get what is meant for that.
#[test]
fn key_for_what_is_not_encrypted_is_refused() {
    let machine = Host::simulated(1);
    let alice = by_key(ALICE[0]);
    let made = Repository::open_or_create_with(&machine.host, root(), &alice);
    assert!(matches!(made, Err(RepositoryError::NoEncrypted { .. })));
    Repository::open_or_create(&machine.host, root()).unwrap();
    let opened = open(&machine, &alice);
    assert!(matches!(opened, Err(RepositoryError::NotEncrypted { .. })));
    let made = Repository::create(&machine.host, root(), &for_alice());
    assert!(matches!(made, Err(RepositoryError::Exists { .. })));
    let keeper = KeyKeeper::open(&machine.host, root(), &alice);
    assert!(matches!(keeper, Err(RepositoryError::NotEncrypted { .. })));
}

/// CR5, G39.
#[test]
fn what_is_no_key_is_refused_without_telling_it() {
    let secret = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J34";
    let mut unlock = Unlock::none();
    let error = unlock.add_key_file(format!("# key\n{secret}\n").as_bytes());
    assert_eq!(error, Err(KeyFault::NotAnIdentity { line: 2 }));
    assert_eq!(unlock.add_key_file(b"# none\n"), Err(KeyFault::NoIdentity));
    assert_eq!(unlock.add_key_file(b"\xff"), Err(KeyFault::NotText));
    for text in ["", "age1", ALICE[0], "ssh-ed25519 AAAA"] {
        assert_eq!(
            text.parse::<Recipient>().unwrap_err(),
            KeyFault::NotARecipient
        );
    }
    let mut unlock = by_key(ALICE[0]);
    unlock.set_passphrase(passphrase("very secret"));
    let (_machine, repository) = empty(2);
    let shown = format!("{unlock:?} {repository:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("SECRET"),
        "{shown}"
    );
}

/// Everybody who holds a key gets everything, and nobody else anything.
#[test]
fn holders_come_and_go() {
    let (specimen, ids) = rich(3);
    let machine = &specimen.machine;
    let bob = new_key();
    let mut by_alice = keeper(machine, &by_key(ALICE[0]));
    by_alice.add_recipient(&recipient(&bob[1])).unwrap();
    let error = by_alice.add_recipient(&recipient(&bob[1])).unwrap_err();
    assert!(matches!(error, RepositoryError::Exists { .. }), "{error}");
    let id = by_alice
        .add_passphrase(&passphrase("correct horse"))
        .unwrap();
    let ways = [
        by_key(ALICE[0]),
        by_key(&bob[0]),
        by_passphrase("correct horse"),
    ];
    for unlock in &ways {
        let repository = open(machine, unlock).unwrap();
        assert_eq!(
            read_back(&repository, &ids[0]).unwrap(),
            specimen.backups[&ids[0]]
        );
        assert_eq!(keeper(machine, unlock).holders(), by_alice.holders());
    }
    assert!(open(machine, &by_passphrase("Correct horse")).is_err());
    let names: Vec<_> = by_alice.holders().into_iter().map(|one| one.name).collect();
    assert_eq!(names, [ALICE[1], &bob[1], &id]);
    // Whoever knows the passphrase can go on alone, and without it nobody's passphrase is asked for.
    let mut by_words = keeper(machine, &by_passphrase("correct horse"));
    by_words.rotate().unwrap();
    by_words.remove(ALICE[1]).unwrap();
    by_words.remove(&bob[1]).unwrap();
    let error = by_words.remove(&id).unwrap_err();
    assert!(
        matches!(error, RepositoryError::LastHolder { .. }),
        "{error}"
    );
    let error = by_words.remove("bob").unwrap_err();
    assert!(matches!(error, RepositoryError::NoHolder { .. }), "{error}");
    for gone in &ways[..2] {
        let error = open(machine, gone).unwrap_err();
        assert!(matches!(error, RepositoryError::WrongKey { .. }), "{error}");
    }
    open(machine, &ways[2]).unwrap();
    // The one that was removed goes with its file.
    by_words.add_recipient(&recipient(&bob[1])).unwrap();
    by_words.remove(&id).unwrap();
    assert_eq!(Files(&*machine.host.disk).of("keys"), ["keys/ring"]);
    assert!(open(machine, &ways[2]).is_err());
    open(&machine.crash(1), &ways[1]).unwrap();
}

/// CR4: after a rotation new objects need the new key, and old ones are read as before.
#[test]
fn rotated_key_is_for_what_comes_after() {
    let (mut specimen, ids) = rich(4);
    let machine = specimen
        .machine
        .with_disk(specimen.machine.disk.another_process());
    // Bob keeps what he had, and is removed.
    let bob = new_key();
    let mut by_alice = keeper(&machine, &by_key(ALICE[0]));
    by_alice.add_recipient(&recipient(&bob[1])).unwrap();
    let kept = open(&machine, &by_key(&bob[0])).unwrap();
    let following = kept.store().lock_line("line").unwrap();
    following.confirm().unwrap();
    by_alice.remove(&bob[1]).unwrap();
    by_alice.rotate().unwrap();
    assert_eq!(
        by_alice.keys().iter().filter(|key| key.is_newest).count(),
        1
    );
    let stale = &specimen.repository;
    let is_told = |error: RepositoryError| {
        let is_it = matches!(error, RepositoryError::KeysChanged { .. });
        assert!(is_it, "{error}");
    };
    for held in [stale, &kept] {
        is_told(held.store().lock().unwrap_err());
        is_told(held.store().lock_marks().unwrap().confirm().unwrap_err());
    }
    is_told(following.confirm().unwrap_err());
    drop(following);
    is_told(stale.store().lock_line("line").unwrap_err());
    specimen.repository = open(&machine, &by_key(ALICE[0])).unwrap();
    let content = files(&[("secret", units("after", 9))]);
    let fourth = specimen.back_up(9, &content, Compression::Lz4);
    drop(specimen.repository.store().lock().unwrap());
    for id in ids.iter().chain([&fourth]) {
        let read = read_back(&specimen.repository, id).unwrap();
        assert_eq!(read, specimen.backups[id]);
    }
    assert_eq!(
        read_back(&kept, &ids[0]).unwrap(),
        specimen.backups[&ids[0]]
    );
    is_told(read_back(&kept, &fourth).unwrap_err());
}

/// Keys of one repository in the place of another's.
#[test]
fn ring_of_another_repository_is_refused() {
    let ((machine, _), (other, _)) = (empty(5), empty(6));
    let ring = Files(&*other.host.disk).read("keys/ring");
    Files(&*machine.host.disk).set("keys/ring", &ring);
    let error = open(&machine, &by_key(ALICE[0])).unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
}

/// The machine stops, or the process is killed, before each change of the making of a repository.
#[test]
fn making_that_was_interrupted_is_done_again() {
    let new = || NewKeys {
        recipients: vec![recipient(ALICE[1])],
        passphrase: Some(passphrase("p")),
    };
    for change in 0.. {
        let machine = Host::simulated(1);
        machine
            .disk
            .set_faults(Faults::power_off_before_change(change));
        let made = Repository::create(&machine.host, root(), &new());
        machine.disk.set_faults(Faults::none());
        for seed in 0..4 {
            let after = machine.with_disk(machine.disk.image_after_crash(seed));
            let again = Repository::create(&after.host, root(), &new());
            let why = format!("change {change} seed {seed}");
            match again {
                Ok(_) => assert!(made.is_err(), "{why}"),
                Err(RepositoryError::Exists { .. }) => {}
                Err(error) => panic!("{why}: {error}"),
            }
            let keys = keeper(&after, &by_passphrase("p"));
            assert_eq!(Files(&*after.host.disk).of("keys").len(), 2, "{why}");
            assert_eq!(keys.holders().len(), 2);
            let repository = open(&after, &by_key(ALICE[0])).unwrap();
            let store = repository.store();
            let _lock = store.lock().unwrap();
            store.put("packs/a", &[b"x"], Put::New).unwrap();
        }
        if made.is_ok() {
            break;
        }
    }
}

/// CR4: the machine stops before each change of a rotation: the ring is the old one or the new one.
#[test]
fn rotation_that_was_interrupted_leaves_a_ring() {
    for change in 0.. {
        let (machine, _) = empty(1);
        let mut keys = keeper(&machine, &by_key(ALICE[0]));
        machine
            .disk
            .set_faults(Faults::power_off_before_change(change));
        let rotated = keys.rotate();
        machine.disk.set_faults(Faults::none());
        for seed in 0..4 {
            let after = machine.with_disk(machine.disk.image_after_crash(seed));
            let count = keeper(&after, &by_key(ALICE[0])).keys().len();
            let counts = if rotated.is_ok() { 2..=2 } else { 1..=2 };
            assert!(
                counts.contains(&count),
                "change {change} seed {seed}: {count}"
            );
        }
        if rotated.is_ok() {
            break;
        }
    }
}
