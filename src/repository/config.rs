//! `repository.json`: what a folder is known by as a repository.

use serde::{Deserialize, Serialize};

use crate::os::Host;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::{Put, Store};
use crate::repository::{hex, sealed_json};

/// The object.
pub(super) const OBJECT: &str = "repository.json";
/// Newest version of the format of the whole repository.
pub(super) const REPOSITORY_VERSION: u32 = 1;

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    stillfs_repository: u32,
    id: String,
    /// For people: RFC 3339, UTC.
    created: String,
}

/// The id of the repository in `store`. Errors: `Missing`, `Version`, `Damaged`, `Io`.
pub(super) fn read(store: &dyn Store) -> Result<[u8; 16]> {
    let config: Config =
        sealed_json::read(store, OBJECT, "stillfs_repository", REPOSITORY_VERSION)?;
    hex::decode(&config.id).ok_or_else(|| RepositoryError::Damaged {
        object: OBJECT.to_owned(),
        what: "its id is none",
    })
}

/// Makes `store` a repository with a new id, durably. Errors: `Exists`, `NoSpace`, `Io`.
pub(super) fn create(host: &Host, store: &dyn Store) -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let drawn = host.random.fill(&mut id);
    drawn.map_err(RepositoryError::io("draw an id for", store.place()))?;
    let created = i128::from(host.clock.wall_ns());
    let created = jiff::Timestamp::from_nanosecond(created).unwrap_or_default();
    let config = Config {
        stillfs_repository: REPOSITORY_VERSION,
        id: hex::encode(&id),
        created: format!("{created:.0}"),
    };
    store.put(OBJECT, &[&sealed_json::seal(&config)], Put::New)?;
    store.settle()?;
    Ok(id)
}
