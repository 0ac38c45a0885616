//! A lock in an object store, as long as it is ours (OS4, OS5, OS6).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use tokio::sync::Mutex;

use crate::repository::bucket::fault::{fault_of, is_bucket_missing};
use crate::repository::bucket::lock_object::{LOCK_BYTES_MAX, LockObject};
use crate::repository::bucket::request::{Client, GivenUp, Trouble};
use crate::repository::bucket::threads::Threads;
use crate::repository::store_fault::StoreFault;

/// Looks at a lock that another has, during the time that it lives.
const LOOKS: u32 = 60;
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// A lock that is ours, or was.
#[derive(Debug)]
pub(super) struct Lease {
    client: Client,
    path: Path,
    ttl: Duration,
    held: Mutex<Held>,
    /// When the last renewal that was answered was sent, in microseconds of our clock.
    sent_us: AtomicU64,
    /// When a request under it last ended without an answer; 0 for never.
    doubted_us: AtomicU64,
    /// Somebody else has it.
    is_lost: AtomicBool,
    /// We wanted it no longer, and what is under way needs it no longer.
    is_given_up: AtomicBool,
}

#[derive(Debug)]
struct Held {
    /// The state that is in the store, and its version.
    state: LockObject,
    version: UpdateVersion,
    /// A state that was sent, when first, and not answered.
    unanswered: Option<(LockObject, Duration)>,
}

/// A state of a lock as it was found.
#[derive(Debug)]
struct Found {
    bytes: Bytes,
    version: UpdateVersion,
}

/// Who has the lock is watched from here on.
#[derive(Debug)]
struct Watch {
    version: UpdateVersion,
    since: Duration,
}

impl Lease {
    /// Takes the lock at `path` for `owner`, which nobody else ever was. One that is not renewed is taken
    /// over; nothing if its owner is alive, or others keep taking it for longer than `patience`.
    pub(super) async fn take(
        client: Client,
        path: Path,
        (owner, ttl): ([u8; 16], Duration),
        patience: Duration,
    ) -> Result<Option<Self>, GivenUp> {
        let state = LockObject::new(owner, ttl);
        let begun = client.clock.monotonic();
        let mut watch: Option<Watch> = None;
        loop {
            let found = client
                .often(LOCK_BYTES_MAX, |_| find(&client, &path))
                .await?;
            let now = client.clock.monotonic();
            let other = found
                .as_ref()
                .and_then(|found| LockObject::decode(&found.bytes));
            let other_ttl = other.as_ref().map_or(ttl, LockObject::ttl);
            let mode = match found {
                None => Some(PutMode::Create),
                Some(found) if other.is_some_and(|lock| lock.is_free()) => {
                    Some(PutMode::Update(found.version))
                }
                Some(found) => match &watch {
                    Some(watch) if watch.version == found.version => {
                        let is_stale = now.saturating_sub(watch.since) >= other_ttl * 5 / 4;
                        is_stale.then_some(PutMode::Update(found.version))
                    }
                    Some(_) if now.saturating_sub(begun) >= patience => return Ok(None),
                    _ => {
                        let version = found.version;
                        watch = Some(Watch {
                            version,
                            since: now,
                        });
                        None
                    }
                },
            };
            if let Some(mode) = mode {
                if let Some(version) = put_state(&client, &path, &state, mode).await? {
                    return Ok(Some(Self::new(client, path, ttl, (state, version, now))));
                }
                // Somebody was faster: he is watched, if he is to be waited for.
                watch = None;
                if client.clock.monotonic().saturating_sub(begun) >= patience.max(ttl) {
                    return Ok(None);
                }
            }
            tokio::time::sleep((other_ttl / LOOKS).min(LONGEST_LOOK)).await;
        }
    }

    fn new(
        client: Client,
        path: Path,
        ttl: Duration,
        (state, version, sent): (LockObject, UpdateVersion, Duration),
    ) -> Self {
        Self {
            client,
            path,
            ttl,
            held: Mutex::new(Held {
                state,
                version,
                unanswered: None,
            }),
            sent_us: AtomicU64::new(micros(sent)),
            doubted_us: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// Renews `lease` for as long as it is there and ours.
    pub(super) async fn keep(lease: Weak<Self>, ttl: Duration) {
        let mut pause = ttl / 4;
        loop {
            tokio::time::sleep(pause).await;
            let Some(lease) = lease.upgrade() else {
                return;
            };
            pause = match lease.renew().await {
                Ok(()) => ttl / 4,
                Err(Trouble::Lost) => return,
                Err(_) => ttl / 16,
            };
        }
    }

    /// How long it counts from now on (OS6).
    fn left(&self) -> Duration {
        let sent = Duration::from_micros(self.sent_us.load(Ordering::Acquire));
        let end = sent + self.ttl * 3 / 4;
        if self.is_given_up.load(Ordering::Acquire) {
            return self.ttl;
        }
        match self.is_lost.load(Ordering::Acquire) {
            true => Duration::ZERO,
            false => end.saturating_sub(self.client.clock.monotonic()),
        }
    }

    /// Whether it counts (OS6).
    pub(super) fn counts(&self) -> bool {
        !self.left().is_zero()
    }

    /// Sees to it that it counts. Errors: `Lost` if somebody else has it.
    pub(super) async fn ensure(&self) -> Result<(), Trouble> {
        // What was sent long ago and is found to be there makes it ours, and does not make it count.
        for _ in 0..2 {
            if !self.left().is_zero() {
                return Ok(());
            }
            self.renew().await?;
        }
        match self.left().is_zero() {
            true => Err(Trouble::Found(StoreFault::Lapsed)),
            false => Ok(()),
        }
    }

    /// Puts the next state in the place of the last.
    async fn renew(&self) -> Result<(), Trouble> {
        let mut held = self.held.lock().await;
        if self.is_lost.load(Ordering::Acquire) || self.is_given_up.load(Ordering::Acquire) {
            return Err(Trouble::Lost);
        }
        let now = self.client.clock.monotonic();
        let sending = held.unanswered.take();
        let (next, sent) = sending.unwrap_or_else(|| (held.state.next(), now));
        held.unanswered = Some((next.clone(), sent));
        let mode = PutMode::Update(held.version.clone());
        let put = put_state_once(&self.client, &self.path, &next, mode);
        let Some(version) = self.client.once(self.ttl / 4, put).await? else {
            self.is_lost.store(true, Ordering::Release);
            return Err(Trouble::Lost);
        };
        *held = Held {
            state: next,
            version,
            unanswered: None,
        };
        self.sent_us.store(micros(sent), Ordering::Release);
        Ok(())
    }

    /// Notes that a request under it ended, and may yet have its effect.
    pub(super) fn doubt(&self) {
        let now = self.client.clock.monotonic();
        self.doubted_us.fetch_max(micros(now), Ordering::AcqRel);
    }

    /// Whether something that was sent under it may yet have its effect.
    fn is_doubted(&self) -> bool {
        let doubted = self.doubted_us.load(Ordering::Acquire);
        let until = Duration::from_micros(doubted) + self.ttl / 2;
        doubted > 0 && self.client.clock.monotonic() < until
    }

    /// Gives it up, if it still is ours. If that cannot be told to the store, or something that was sent may
    /// yet arrive, others wait until it is stale.
    pub(super) async fn give_up(&self) {
        let held = self.held.lock().await;
        self.is_given_up.store(true, Ordering::Release);
        let is_free = held.unanswered.is_none() && !self.is_doubted();
        if self.is_lost.load(Ordering::Acquire) || !is_free {
            return;
        }
        let mode = PutMode::Update(held.version.clone());
        let freed = held.state.freed();
        let put = put_state_once(&self.client, &self.path, &freed, mode);
        if let Err(trouble) = self.client.once(self.ttl / 4, put).await {
            let fault = trouble.fault();
            tracing::debug!(%fault, "a lock was not given up, and will be stale");
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The state of the lock at `path`, if there is one.
async fn find(client: &Client, path: &Path) -> Result<Option<Found>, Trouble> {
    let result = match client.store.get(path).await {
        Err(error @ Error::NotFound { .. }) => {
            let is_missing = !is_bucket_missing(&error);
            return match Trouble::from(error) {
                Trouble::Said(Error::NotFound { .. }) if is_missing => Ok(None),
                trouble => Err(trouble),
            };
        }
        result => result?,
    };
    let version = UpdateVersion {
        e_tag: result.meta.e_tag.clone(),
        version: result.meta.version.clone(),
    };
    if version.e_tag.is_none() {
        let said = "it gives no ETag".to_owned();
        return Err(Trouble::Found(StoreFault::Unable { said }));
    }
    // What is too large to be a lock of ours is somebody's all the same.
    let bytes = match result.meta.size <= LOCK_BYTES_MAX {
        true => result.bytes().await?,
        false => Bytes::new(),
    };
    Ok(Some(Found { bytes, version }))
}

/// As [`put_state_once`], until it is answered.
async fn put_state(
    client: &Client,
    path: &Path,
    state: &LockObject,
    mode: PutMode,
) -> Result<Option<UpdateVersion>, GivenUp> {
    let put = |_| put_state_once(client, path, state, mode.clone());
    client.often(LOCK_BYTES_MAX, put).await
}

/// Puts `state` at `path` under the condition of `mode`: its version, or nothing if another one is there.
async fn put_state_once(
    client: &Client,
    path: &Path,
    state: &LockObject,
    mode: PutMode,
) -> Result<Option<UpdateVersion>, Trouble> {
    let bytes = state.encode();
    let payload = PutPayload::from(bytes.clone());
    let error = match client
        .store
        .put_opts(path, payload, mode.clone().into())
        .await
    {
        Ok(put) if put.e_tag.is_some() => {
            let (e_tag, version) = (put.e_tag, put.version);
            return Ok(Some(UpdateVersion { e_tag, version }));
        }
        // What is there says which version it has.
        Ok(_) => None,
        Err(error @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) => Some(error),
        Err(error) => return Err(error.into()),
    };
    let found = find(client, path).await?;
    let is_as_before = match (&found, &mode) {
        (None, mode) => matches!(mode, PutMode::Create),
        (Some(found), PutMode::Update(version)) => found.version.e_tag == version.e_tag,
        (Some(_), _) => false,
    };
    match (found, error) {
        // An earlier request of ours was done (OS2).
        (Some(found), _) if found.bytes == bytes => Ok(Some(found.version)),
        // The store was about to decide on somebody else's.
        (_, Some(error)) if is_as_before => Err(Trouble::Found(StoreFault::Busy {
            said: fault_of(&error).to_string(),
        })),
        _ => Ok(None),
    }
}

/// A lock that is kept until this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) lease: Arc<Lease>,
    pub(super) threads: Arc<Threads>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let lease = Arc::clone(&self.lease);
        self.threads.wait(async move { lease.give_up().await });
    }
}
