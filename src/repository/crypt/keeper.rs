//! Who holds the keys of a repository: making it, adding and removing holders, rotating the key.

use std::path::Path;
use std::sync::Arc;

use crate::os::Host;
use crate::repository::config;
use crate::repository::crypt::FOLDER;
use crate::repository::crypt::ring::{self, HOLDERS_MAX, Holder, KEYS_MAX, KeyRing, MasterKey};
use crate::repository::crypt::unlock::{self, NewKeys, Passphrase, Recipient, Unlock};
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::folder_store::FolderStore;
use crate::repository::hex;
use crate::repository::store::{Put, Store};

/// One who can open the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderFacts {
    /// `age1...`, or the id of a passphrase.
    pub name: String,
    /// Whether it is a passphrase.
    pub is_passphrase: bool,
}

/// A master key, without itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its id, as objects have it.
    pub id: String,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
    /// Whether new objects are encrypted with it.
    pub is_newest: bool,
}

/// The ring of a repository that was just made.
pub(in crate::repository) struct FreshRing {
    pub(super) ring: KeyRing,
    /// What would be read of it.
    pub(super) read: Digest,
}

/// Makes the keys of the new repository `id`, in the folder of keys of `store`, durably.
///
/// What an interrupted making left there goes. Errors: `NoSpace`, `Io`.
pub(in crate::repository) fn create(
    host: &Host,
    store: &dyn Store,
    id: [u8; 16],
    new: &NewKeys,
) -> Result<FreshRing> {
    for left in store.list(FOLDER)? {
        store.remove(&format!("{FOLDER}/{left}"))?;
    }
    let mut ring = KeyRing {
        repository: id,
        holders: Vec::new(),
        keys: vec![MasterKey::draw(host)?],
    };
    for recipient in &new.recipients {
        hold(&mut ring, recipient)?;
    }
    if let Some(passphrase) = &new.passphrase {
        let holder = put_passphrase(host, store, passphrase)?;
        ring.holders.push(holder);
    }
    let read = ring.write(store)?;
    Ok(FreshRing { ring, read })
}

/// Adds `recipient` to the holders. Errors: `Exists`, `KeyLimit`.
fn hold(ring: &mut KeyRing, recipient: &Recipient) -> Result<()> {
    let recipient = recipient.0.to_string();
    if ring.holders.iter().any(|one| one.recipient == recipient) {
        let object = format!("the key {recipient}");
        return Err(RepositoryError::Exists { object });
    }
    refuse_more_than(HOLDERS_MAX, ring.holders.len())?;
    ring.holders.push(Holder {
        recipient,
        passphrase: None,
    });
    Ok(())
}

fn refuse_more_than(limit: usize, count: usize) -> Result<()> {
    match count < limit {
        true => Ok(()),
        false => Err(RepositoryError::KeyLimit { limit }),
    }
}

fn put_passphrase(host: &Host, store: &dyn Store, passphrase: &Passphrase) -> Result<Holder> {
    let mut id = [0; 8];
    let drawn = host.random.fill(&mut id);
    drawn.map_err(RepositoryError::io("draw an id for", "a passphrase"))?;
    let id = hex::encode(&id);
    let (recipient, sealed) = unlock::new_wrapped_identity(passphrase)?;
    store.put(&format!("{FOLDER}/{id}"), &[&sealed], Put::New)?;
    store.settle()?;
    Ok(Holder {
        recipient: recipient.to_string(),
        passphrase: Some(id),
    })
}

/// The keys of an encrypted repository, to look at and to change.
#[derive(Debug)]
pub struct KeyKeeper {
    host: Host,
    store: Arc<dyn Store>,
    ring: KeyRing,
    /// What the ring was read from, or last written as.
    ring_read: Digest,
}

impl KeyKeeper {
    /// Opens the ring of the repository in the folder `path`.
    ///
    /// Errors: `NoRepository`, `NotEncrypted`, `KeyNeeded`, `WrongKey`, `Version`, `Damaged`, `Io`.
    pub fn open(host: &Host, path: &Path, unlock: &Unlock) -> Result<Self> {
        Self::open_store(host, Arc::new(FolderStore::new(host, path)), unlock)
    }

    /// As [`KeyKeeper::open`], of the repository that `store` keeps.
    ///
    /// Errors: as there; `Store` where it is one of objects.
    pub fn open_store(host: &Host, store: Arc<dyn Store>, unlock: &Unlock) -> Result<Self> {
        let place = store.place();
        let found = config::read(store.as_ref()).map_err(|error| match error {
            RepositoryError::Missing { .. } => RepositoryError::NoRepository {
                place: place.clone(),
            },
            error => error,
        })?;
        if !found.is_encrypted {
            return Err(RepositoryError::NotEncrypted { place });
        }
        let (ring, ring_read) = KeyRing::read(store.as_ref(), found.id, unlock)?;
        Ok(Self {
            host: host.clone(),
            store,
            ring,
            ring_read,
        })
    }

    /// Who can open the repository.
    #[must_use]
    pub fn holders(&self) -> Vec<HolderFacts> {
        let holders = self.ring.holders.iter();
        let facts = holders.map(|holder| HolderFacts {
            name: holder
                .passphrase
                .as_ref()
                .unwrap_or(&holder.recipient)
                .clone(),
            is_passphrase: holder.passphrase.is_some(),
        });
        facts.collect()
    }

    /// The master keys, oldest first.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyFacts> {
        let newest = self.ring.keys.len();
        let keys = (1..).zip(&self.ring.keys);
        let facts = keys.map(|(number, key)| KeyFacts {
            id: hex::encode(&key.id),
            created: key.created.clone(),
            is_newest: number == newest,
        });
        facts.collect()
    }

    /// Lets `recipient` open the repository, with all that is in it.
    ///
    /// Errors: `Exists`, `KeyLimit`, `Locked`, `KeysChanged`, `NoSpace`, `Io`.
    pub fn add_recipient(&mut self, recipient: &Recipient) -> Result<()> {
        self.change(|ring, _| hold(ring, recipient))
    }

    /// Lets whoever knows `passphrase` open the repository; returns the id of it.
    ///
    /// Errors: as for [`KeyKeeper::add_recipient`].
    pub fn add_passphrase(&mut self, passphrase: &Passphrase) -> Result<String> {
        let host = self.host.clone();
        let mut id = String::new();
        self.change(|ring, store| {
            refuse_more_than(HOLDERS_MAX, ring.holders.len())?;
            let holder = put_passphrase(&host, store, passphrase)?;
            id = holder.passphrase.clone().unwrap_or_default();
            ring.holders.push(holder);
            Ok(())
        })?;
        Ok(id)
    }

    /// Takes the holder `name` away: he cannot open the ring that there is from now on. What he could read
    /// so far he still can if he has kept the keys; see [`KeyKeeper::rotate`].
    ///
    /// Errors: `NoHolder`, `LastHolder`, and as for [`KeyKeeper::add_recipient`].
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let mut passphrase = None;
        self.change(|ring, store| {
            let is_it =
                |holder: &Holder| holder.passphrase.as_ref().unwrap_or(&holder.recipient) == name;
            let at = ring.holders.iter().position(is_it);
            let at = at.ok_or_else(|| RepositoryError::NoHolder {
                name: name.to_owned(),
            })?;
            if ring.holders.len() == 1 {
                let place = store.place();
                return Err(RepositoryError::LastHolder { place });
            }
            passphrase = ring.holders.remove(at).passphrase;
            Ok(())
        })?;
        if let Some(id) = passphrase {
            self.store.remove(&format!("{FOLDER}/{id}"))?;
            self.store.settle()?;
        }
        Ok(())
    }

    /// Makes a new master key, with which all new objects are encrypted. The old ones stay, for what was
    /// encrypted with them.
    ///
    /// Errors: `KeyLimit`, and as for [`KeyKeeper::add_recipient`].
    pub fn rotate(&mut self) -> Result<()> {
        let host = self.host.clone();
        self.change(|ring, _| {
            refuse_more_than(KEYS_MAX, ring.keys.len())?;
            ring.keys.push(MasterKey::draw(&host)?);
            Ok(())
        })
    }

    /// Changes the ring while nobody writes, and only the one that was read (CR4).
    fn change(
        &mut self,
        change: impl FnOnce(&mut KeyRing, &dyn Store) -> Result<()>,
    ) -> Result<()> {
        let lock = self.store.lock()?;
        ring::confirm(self.store.as_ref(), &self.ring_read)?;
        let mut changed = self.ring.clone();
        change(&mut changed, self.store.as_ref())?;
        lock.confirm()?;
        self.ring_read = changed.write(self.store.as_ref())?;
        self.ring = changed;
        Ok(())
    }
}
