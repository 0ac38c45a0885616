//! Objects in a store that fails in all the ways that one at the other end of a network does.

mod interrupted;
mod lock;
mod objects;
mod troubled;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::os::{Clock, Host};
use crate::repository::bucket::{BucketSettings, BucketStore};
use crate::repository::error::RepositoryError;
use crate::repository::store::{MarksLock, Store, WriterLock};
use troubled::Troubled;

const PREFIX: &str = "hosts/earth";
/// Long enough for a loaded machine to renew in.
const TTL: Duration = Duration::from_millis(600);

/// Another process's view of the same objects.
fn store(objects: &Arc<Troubled>) -> BucketStore {
    store_on(&Host::system(), objects, TTL)
}

fn store_on(host: &Host, objects: &Arc<Troubled>, lock_ttl: Duration) -> BucketStore {
    let settings = BucketSettings {
        lock_ttl,
        request: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        patience: Duration::from_millis(500),
        first_patience: Duration::from_millis(20),
        ..BucketSettings::default()
    };
    BucketStore::new(host, objects.clone(), PREFIX, "the bucket", settings).unwrap()
}

/// A clock on which any wait is over at once.
#[derive(Debug)]
struct Leaping(AtomicU64);

impl Clock for Leaping {
    fn wall_ns(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        TTL * 2 * u32::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    fn sleep(&self, _duration: Duration) {}
}

/// Takes over the locks of whoever died, as if their time had passed.
fn bury(objects: &Arc<Troubled>) {
    let host = Host {
        clock: Arc::new(Leaping(AtomicU64::new(1))),
        ..Host::system()
    };
    let store = store_on(&host, objects, TTL);
    drop(store.lock().unwrap());
    drop(store.lock_marks().unwrap());
}

fn content(store: &BucketStore, name: &str) -> Option<Vec<u8>> {
    let size = match store.size(name) {
        Err(RepositoryError::Missing { .. }) => return None,
        size => usize::try_from(size.unwrap()).unwrap(),
    };
    let mut out = vec![0; size];
    store.read_at(name, 0, &mut out).unwrap();
    Some(out)
}
