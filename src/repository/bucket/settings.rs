//! How long an object store is waited for.

use std::time::Duration;

/// How long an object store is waited for, and how long a lock in it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// How long a lock lives that is not renewed. Whoever finds the lock of a process that died waits for
    /// five quarters of it.
    pub lock_ttl: Duration,
    /// How long one request without content may take. One with content has a second more for each
    /// [`BucketSettings::bytes_per_second`].
    pub request: Duration,
    /// The slowest connection that is good for anything.
    pub bytes_per_second: u64,
    /// How long after a request that failed it is made again, for the first time; each time twice as long.
    pub pause: Duration,
    /// For how long a request that failed by what may pass is made again.
    pub patience: Duration,
    /// The same until the store has answered for the first time: it may not be one.
    pub first_patience: Duration,
}

impl Default for BucketSettings {
    fn default() -> Self {
        Self {
            lock_ttl: Duration::from_secs(60),
            request: Duration::from_secs(20),
            bytes_per_second: 32 << 10,
            pause: Duration::from_millis(100),
            patience: Duration::from_secs(90),
            first_patience: Duration::from_secs(5),
        }
    }
}
