//! The ring of keys: the master keys of a repository, and who holds it.
//!
//! `keys/ring` is an age file for every holder's recipient. In it is one object of JSON:
//!
//! ```text
//! {"stillfs_keys":1,"repository":"<id>","holders":[{"recipient":"age1...","passphrase":"<id>"}],
//!  "keys":[{"id":"<16 bytes>","key":"<32 bytes>","created":"2026-11-20T19:07:29Z"}]}
//! ```
//!
//! * The last key is the one that new objects are sealed with; the first one also gives the names.
//! * A holder with `passphrase` is who knows that of `keys/<id>`, an age file with the identity of
//!   `recipient` in it: so the ring can be changed without asking for anybody's passphrase.
//! * The ring says whose it is: one of another repository is refused.
#![deny(clippy::indexing_slicing)]

use std::fmt;

use age::x25519;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::os::Host;
use crate::repository::crypt::FOLDER;
use crate::repository::crypt::cipher::{Header, ObjectCipher, seal};
use crate::repository::crypt::name::NameCipher;
use crate::repository::crypt::unlock::{self, Unlock};
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::hex;
use crate::repository::store::{Put, Store};

/// The object.
pub(super) const OBJECT: &str = "keys/ring";
/// Newest version of the ring.
const RING_VERSION: u32 = 1;
/// Larger files of the folder are not read.
const BYTES_MAX: u64 = 256 << 10;
pub(super) const HOLDERS_MAX: usize = 64;
pub(super) const KEYS_MAX: usize = 500;
/// What the keys are derived for (BLAKE3 `derive_key`).
const OBJECTS: &str = "stillfs 2026-11-20 keys of objects in an encrypted repository";
const NAMES: &str = "stillfs 2026-11-20 names of objects in an encrypted repository";

/// Who can open the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) recipient: String,
    /// Where the identity is wrapped to a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) passphrase: Option<String>,
}

/// A master key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct MasterKey {
    pub(super) id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
    /// RFC 3339, UTC.
    pub(super) created: String,
}

impl MasterKey {
    /// Errors: `Io` of the randomness.
    pub(super) fn draw(host: &Host) -> Result<Self> {
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        let drawn = host.random.fill(&mut id);
        let drawn = drawn.and_then(|()| host.random.fill(&mut *secret));
        drawn.map_err(RepositoryError::io("draw", "a master key"))?;
        let created = i128::from(host.clock.wall_ns());
        let created = jiff::Timestamp::from_nanosecond(created).unwrap_or_default();
        let created = format!("{created:.0}");
        Ok(Self {
            id,
            secret,
            created,
        })
    }

    /// What the keys of objects are made of.
    fn object_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(OBJECTS, &*self.secret))
    }

    fn name_cipher(&self) -> NameCipher {
        let mut secret = Zeroizing::new([0; 64]);
        let mut hasher = blake3::Hasher::new_derive_key(NAMES);
        hasher.update(&*self.secret);
        hasher.finalize_xof().fill(&mut *secret);
        NameCipher::new(secret)
    }
}

/// The ring as text. Its keys are wiped when it goes.
#[derive(Serialize, Deserialize)]
struct RingText {
    stillfs_keys: u32,
    repository: String,
    holders: Vec<Holder>,
    keys: Vec<KeyText>,
}

/// Only the version of one that may be of a later version.
#[derive(Deserialize)]
struct RingVersion {
    stillfs_keys: u32,
}

#[derive(Serialize, Deserialize)]
struct KeyText {
    id: String,
    key: String,
    created: String,
}

impl Drop for KeyText {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// See the head of the file.
#[derive(Clone)]
pub(super) struct KeyRing {
    pub(super) repository: [u8; 16],
    pub(super) holders: Vec<Holder>,
    /// Not empty.
    pub(super) keys: Vec<MasterKey>,
}

/// Without the keys (CR5).
impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("holders", &self.holders.len())
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads the ring of `repository` out of `store`, and what it was read from.
    ///
    /// Errors: `KeyNeeded`, `WrongKey`, `Missing`, `Version`, `Damaged`, `Io`.
    pub(super) fn read(
        store: &dyn Store,
        repository: [u8; 16],
        unlock: &Unlock,
    ) -> Result<(Self, Digest)> {
        let place = store.place();
        if unlock.is_empty() {
            return Err(RepositoryError::KeyNeeded { place });
        }
        let sealed = read_file(store, OBJECT)?;
        let open = |identities: &[x25519::Identity]| {
            unlock::unwrap_by_identities(&sealed, identities).map_err(damaged)
        };
        // A passphrase may be meant for another repository, and takes a second to try.
        let by_key = open(&unlock.identities)?;
        let text = match (by_key, &unlock.passphrase) {
            (Some(text), _) => Some(text),
            (None, Some(passphrase)) => open(&by_passphrase(store, passphrase)?)?,
            (None, None) => None,
        };
        let text = text.ok_or(RepositoryError::WrongKey { place })?;
        let ring = Self::decode(&text)?;
        match ring.repository == repository {
            true => Ok((ring, Digest::of(&sealed))),
            false => Err(damaged("it is the ring of another repository")),
        }
    }

    fn decode(text: &[u8]) -> Result<Self> {
        let RingVersion { stillfs_keys } =
            serde_json::from_slice(text).map_err(|_| damaged("it has no version"))?;
        if stillfs_keys > RING_VERSION {
            return Err(RepositoryError::Version {
                object: OBJECT.to_owned(),
                found: stillfs_keys,
                known: RING_VERSION,
            });
        }
        let wrong = || damaged("a field of it is missing or wrong");
        let text: RingText = serde_json::from_slice(text).map_err(|_| wrong())?;
        let keys = text.keys.iter().map(|key| {
            let secret = hex::decode(&key.key).map(Zeroizing::new);
            Some(MasterKey {
                id: hex::decode(&key.id)?,
                secret: secret?,
                created: key.created.clone(),
            })
        });
        let keys: Option<Vec<_>> = keys.collect();
        let keys = keys.filter(|keys| !keys.is_empty()).ok_or_else(wrong)?;
        Ok(Self {
            repository: hex::decode(&text.repository).ok_or_else(wrong)?,
            holders: text.holders,
            keys,
        })
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys.iter().map(|key| KeyText {
            id: hex::encode(&key.id),
            key: hex::encode(&*key.secret),
            created: key.created.clone(),
        });
        let text = RingText {
            stillfs_keys: RING_VERSION,
            repository: hex::encode(&self.repository),
            holders: self.holders.clone(),
            keys: keys.collect(),
        };
        Zeroizing::new(serde_json::to_vec(&text).expect("plain fields can be written"))
    }

    /// Puts it in the place of the one that is there, for its holders, durably (CR4).
    ///
    /// Returns what it was written as. Errors: `Damaged` if a recipient of it is none; `NoSpace`, `Io`.
    pub(super) fn write(&self, store: &dyn Store) -> Result<Digest> {
        let recipients = self.holders.iter().map(|holder| holder.recipient.parse());
        let recipients: Result<Vec<x25519::Recipient>, _> = recipients.collect();
        let recipients = recipients.map_err(|_| damaged("a holder of it has no recipient"))?;
        let sealed = unlock::wrap_to(&recipients, &self.encode())?;
        store.put(OBJECT, &[&sealed], Put::Replace)?;
        store.settle()?;
        Ok(Digest::of(&sealed))
    }

    /// What names are encrypted with.
    pub(super) fn name_cipher(&self) -> NameCipher {
        let first = self.keys.first().expect("a ring is not empty");
        first.name_cipher()
    }

    /// `parts` as the object `name`, under the newest key, with a new salt. Errors: `Io` of the randomness.
    pub(super) fn seal(&self, host: &Host, name: &str, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let key = self.keys.last().expect("a ring is not empty");
        let mut salt = [0; 32];
        let drawn = host.random.fill(&mut salt);
        drawn.map_err(RepositoryError::io("draw a salt for", name))?;
        let header = Header { key: key.id, salt };
        Ok(seal(&key.object_secret(), &header, name, parts))
    }

    /// What opens the object `name` with `header`; none if its key is not in the ring.
    pub(super) fn cipher(&self, header: &Header, name: &str) -> Option<ObjectCipher> {
        let key = self.keys.iter().find(|key| key.id == header.key)?;
        Some(ObjectCipher::new(&key.object_secret(), header, name))
    }
}

fn damaged(what: &'static str) -> RepositoryError {
    let object = OBJECT.to_owned();
    RepositoryError::Damaged { object, what }
}

/// The identities that `passphrase` gives. Errors: `WrongKey` if it gives none; `Io`.
fn by_passphrase(
    store: &dyn Store,
    passphrase: &unlock::Passphrase,
) -> Result<Vec<x25519::Identity>> {
    let (mut found, mut fault) = (Vec::new(), None);
    let names = store.list(FOLDER)?;
    let names = names.iter().filter(|name| hex::decode::<8>(name).is_some());
    for name in names.take(HOLDERS_MAX) {
        let object = format!("{FOLDER}/{name}");
        let sealed = match read_file(store, &object) {
            Err(RepositoryError::Missing { .. }) => continue,
            sealed => sealed?,
        };
        match unlock::unwrap_by_passphrase(&sealed, passphrase) {
            Ok(Some(identity)) => found.push(identity),
            Ok(None) => {}
            Err(what) => fault = Some(RepositoryError::Damaged { object, what }),
        }
    }
    match (found.is_empty(), fault) {
        (true, Some(fault)) => Err(fault),
        (true, None) => Err(RepositoryError::WrongKey {
            place: store.place(),
        }),
        (false, _) => Ok(found),
    }
}

/// A whole file of the folder of keys. Errors: `Missing`, `Damaged` if it is too large, `Io`.
fn read_file(store: &dyn Store, object: &str) -> Result<Vec<u8>> {
    let bytes = store.size(object)?;
    let size = usize::try_from(bytes).ok().filter(|_| bytes <= BYTES_MAX);
    let size = size.ok_or_else(|| RepositoryError::Damaged {
        object: object.to_owned(),
        what: "it is too large",
    })?;
    let mut out = vec![0; size];
    store.read_at(object, 0, &mut out)?;
    Ok(out)
}

/// Errors: `KeysChanged` if the ring in `store` is not what `read` is of; `Missing`, `Io`.
pub(super) fn confirm(store: &dyn Store, read: &Digest) -> Result<()> {
    match Digest::of(&read_file(store, OBJECT)?) == *read {
        true => Ok(()),
        false => Err(RepositoryError::KeysChanged {
            place: store.place(),
        }),
    }
}
