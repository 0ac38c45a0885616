//! `repository.json`: what a folder is known by as a repository.

use serde::{Deserialize, Serialize};

use crate::os::Host;
use crate::repository::crypt::ENCRYPTION_VERSION;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::{Put, Store};
use crate::repository::{hex, sealed_json};

/// The object.
pub(super) const OBJECT: &str = "repository.json";
/// Newest version of the format of the whole repository.
pub(super) const REPOSITORY_VERSION: u32 = 2;
/// That of one that is not encrypted: older versions can read it.
const PLAIN_VERSION: u32 = 1;

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    stillfs_repository: u32,
    id: String,
    /// For people: RFC 3339, UTC.
    created: String,
    /// Version of the encryption, from version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<u32>,
}

/// What a repository is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: [u8; 16],
    /// Whether its objects are sealed, and its keys in `keys/`.
    pub(super) is_encrypted: bool,
}

/// What the repository in `store` is known by. Errors: `Missing`, `Version`, `Damaged`, `Io`.
pub(super) fn read(store: &dyn Store) -> Result<Known> {
    let config: Config =
        sealed_json::read(store, OBJECT, "stillfs_repository", REPOSITORY_VERSION)?;
    let damaged = |what| RepositoryError::Damaged {
        object: OBJECT.to_owned(),
        what,
    };
    match (config.stillfs_repository, config.encryption) {
        (PLAIN_VERSION, None) | (REPOSITORY_VERSION, Some(ENCRYPTION_VERSION)) => {}
        (REPOSITORY_VERSION, Some(found)) if found > ENCRYPTION_VERSION => {
            return Err(RepositoryError::Version {
                object: format!("the encryption that {OBJECT} names"),
                found,
                known: ENCRYPTION_VERSION,
            });
        }
        _ => return Err(damaged("it does not say how the repository is encrypted")),
    }
    Ok(Known {
        id: hex::decode(&config.id).ok_or_else(|| damaged("its id is none"))?,
        is_encrypted: config.encryption.is_some(),
    })
}

/// An id for a new repository. Errors: `Io`.
pub(super) fn draw_id(host: &Host, store: &dyn Store) -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let drawn = host.random.fill(&mut id);
    drawn.map_err(RepositoryError::io("draw an id for", store.place()))?;
    Ok(id)
}

/// Makes `store` the repository that is `known`, durably. Errors: `Exists`, `NoSpace`, `Io`.
pub(super) fn create(host: &Host, store: &dyn Store, known: Known) -> Result<()> {
    let created = i128::from(host.clock.wall_ns());
    let created = jiff::Timestamp::from_nanosecond(created).unwrap_or_default();
    let config = Config {
        stillfs_repository: match known.is_encrypted {
            true => REPOSITORY_VERSION,
            false => PLAIN_VERSION,
        },
        id: hex::encode(&known.id),
        created: format!("{created:.0}"),
        encryption: known.is_encrypted.then_some(ENCRYPTION_VERSION),
    };
    store.put(OBJECT, &[&sealed_json::seal(&config)], Put::New)?;
    store.settle()
}
