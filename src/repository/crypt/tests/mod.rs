//! Encrypted repositories on simulated machines: what can be read, what is found, who gets in.

mod damage;
mod fixture;
mod keys;
mod ranges;

use std::path::{Path, PathBuf};

use super::*;
use crate::os::{Disk, Host, OpenMode, SimulatedHost, read_exact_at, write_all_at};
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::specimen::Specimen;

/// Test keys, each with its recipient; nothing of anybody's is encrypted for them.
const ALICE: [&str; 2] = [
    "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
    "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
];

fn root() -> &'static Path {
    Path::new("/r")
}

fn recipient(text: &str) -> Recipient {
    text.parse().unwrap()
}

fn by_key(identity: &str) -> Unlock {
    let mut unlock = Unlock::none();
    unlock.add_key_file(identity.as_bytes()).unwrap();
    unlock
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes()).unwrap().weakened()
}

fn by_passphrase(text: &str) -> Unlock {
    let mut unlock = Unlock::none();
    unlock.set_passphrase(passphrase(text));
    unlock
}

/// Another key, as text.
fn new_key() -> [String; 2] {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    let text = identity.to_string();
    [
        text.expose_secret().to_owned(),
        identity.to_public().to_string(),
    ]
}

fn for_alice() -> NewKeys {
    NewKeys {
        recipients: vec![recipient(ALICE[1])],
        passphrase: None,
    }
}

fn open(machine: &SimulatedHost, unlock: &Unlock) -> Result<Repository, RepositoryError> {
    Repository::open_with(&machine.host, root(), unlock)
}

/// An empty repository for Alice.
fn empty(seed: u64) -> (SimulatedHost, Repository) {
    let machine = Host::simulated(seed);
    Repository::create(&machine.host, root(), &for_alice()).unwrap();
    let repository = open(&machine, &by_key(ALICE[0])).unwrap();
    (machine, repository)
}

/// One with backups in it.
fn rich(seed: u64) -> (Specimen, [BackupId; 3]) {
    let (machine, repository) = empty(seed);
    Specimen::of(machine, repository).enriched()
}

/// The files of the repository, and a way to change them under its feet.
struct Files<'a>(&'a dyn Disk);

impl Files<'_> {
    /// All but locks, as `packs/abc...`.
    fn names(&self) -> Vec<String> {
        let mut names = vec!["repository.json".to_owned()];
        for folder in ["backups", "damaged", "keys", "marks", "packs"] {
            let below = self.0.list(&root().join(folder)).unwrap();
            let below = below.iter().map(|name| name.to_str().unwrap());
            names.extend(below.map(|name| format!("{folder}/{name}")));
        }
        names
    }

    /// Those of a folder.
    fn of(&self, folder: &str) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| name.starts_with(&format!("{folder}/")));
        names
    }

    fn path(name: &str) -> PathBuf {
        root().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let file = self.0.open(&Self::path(name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        read_exact_at(file.as_ref(), &mut bytes, 0).unwrap();
        bytes
    }

    fn set(&self, name: &str, bytes: &[u8]) {
        drop(self.0.remove(&Self::path(name)));
        let file = self.0.open(&Self::path(name), OpenMode::CreateNew).unwrap();
        write_all_at(file.as_ref(), bytes, 0).unwrap();
    }
}

/// All bytes of an object.
fn read_all(repository: &Repository, name: &str) -> Result<Vec<u8>, RepositoryError> {
    let store = repository.store();
    let mut out = vec![0; usize::try_from(store.size(name)?).unwrap()];
    store.read_at(name, 0, &mut out)?;
    Ok(out)
}
