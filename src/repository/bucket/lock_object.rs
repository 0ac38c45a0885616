//! The object that says who may write.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::repository::hex;

/// Version of the format.
const VERSION: u32 = 1;
/// Larger ones are not looked into.
pub(super) const LOCK_BYTES_MAX: u64 = 4096;
/// What a lock may state: a hostile one must not be waited for for ever.
pub(super) const TTL_MAX: Duration = Duration::from_secs(10 * 60);

/// A state of a lock. No two have the same bytes: the owner is drawn anew for each, and counts (OS4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockObject {
    stillfs_lock: u32,
    /// 16 random bytes, as hexadecimal digits.
    owner: String,
    count: u64,
    ttl_ms: u64,
    /// Nobody has it.
    is_free: bool,
}

impl LockObject {
    /// The first state of a lock of `owner`.
    pub(super) fn new(owner: [u8; 16], ttl: Duration) -> Self {
        Self {
            stillfs_lock: VERSION,
            owner: hex::encode(&owner),
            count: 1,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            is_free: false,
        }
    }

    /// The state after this.
    pub(super) fn next(&self) -> Self {
        Self {
            count: self.count + 1,
            ..self.clone()
        }
    }

    /// The last state.
    pub(super) fn freed(&self) -> Self {
        Self {
            is_free: true,
            ..self.next()
        }
    }

    /// Nothing for what this version does not know: it is somebody's lock all the same.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let lock: Self = serde_json::from_slice(bytes).ok()?;
        (lock.stillfs_lock == VERSION).then_some(lock)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("plain fields can be written");
        text.push(b'\n');
        text
    }

    pub(super) fn is_free(&self) -> bool {
        self.is_free
    }

    /// How long it lives if it is not renewed.
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms).min(TTL_MAX)
    }
}
