//! What was found out about a backup after it was made.

use serde::{Deserialize, Serialize};

use crate::repository::backup_id::BackupId;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::sealed_json;
use crate::repository::store::{Put, Store};

/// Newest version of the format.
pub(super) const MARK_VERSION: u32 = 1;

/// What is kept beside a manifest, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Neither forgotten nor pruned while set.
    #[serde(default)]
    pub is_held: bool,
    /// The newest verification that read every byte and found nothing wrong.
    #[serde(default)]
    pub verified: Option<Verified>,
    /// A writer is about to publish the backup, or to forget it: if there is no manifest, none was lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_underway: bool,
}

/// A verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// Whether it was restored and opened too.
    pub is_restore_tested: bool,
    /// Bytes that were read and checked.
    pub bytes: u64,
}

/// The object: the mark, and whose it is.
#[derive(Serialize, Deserialize)]
struct Record {
    stillfs_mark: u32,
    backup: BackupId,
    #[serde(flatten)]
    mark: Mark,
}

impl Mark {
    /// The object of the mark of `id`.
    #[must_use]
    pub fn object(id: &BackupId) -> String {
        format!("marks/{id}")
    }

    /// Reads the mark of `id`. Errors: `Missing`, `Version`, `Damaged`, `Io`.
    pub(super) fn read(store: &dyn Store, id: &BackupId) -> Result<Self> {
        let object = Self::object(id);
        let record: Record = sealed_json::read(store, &object, "stillfs_mark", MARK_VERSION)?;
        if record.backup != *id {
            let what = "it is the mark of another backup";
            return Err(RepositoryError::Damaged { object, what });
        }
        Ok(record.mark)
    }

    /// Stores it as that of `id`; not durable before [`Store::settle`]. Returns its
    /// bytes. Errors: `NoSpace`, `Io`.
    pub(super) fn write(&self, store: &dyn Store, id: &BackupId) -> Result<u64> {
        let record = Record {
            stillfs_mark: MARK_VERSION,
            backup: id.clone(),
            mark: self.clone(),
        };
        let object = Self::object(id);
        let bytes = sealed_json::seal(&record);
        store.put(&object, &[&bytes], Put::Replace)?;
        Ok(bytes.len() as u64)
    }
}
