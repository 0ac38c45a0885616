//! A repository's objects in an object store. See the head of the module.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    UpdateVersion,
};
use parking_lot::Mutex;

use crate::os::{Host, Random};
use crate::repository::bucket::ahead::Ahead;
use crate::repository::bucket::fault::{fault_of, is_bucket_missing, is_without_words};
use crate::repository::bucket::lease::{Kept, Lease};
use crate::repository::bucket::lock_object::TTL_MAX;
use crate::repository::bucket::request::{Client, GivenUp, Trouble};
use crate::repository::bucket::settings::BucketSettings;
use crate::repository::bucket::threads::Threads;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::{
    LINE_LOCK, LOCK, LineLock, MARKS_LOCK, MarksLock, ObjectName, Put, Store, WriterLock,
    refuse_strange,
};
use crate::repository::store_fault::StoreFault;

/// Small reads that wait for the network and not for each other.
const READS_AT_ONCE: usize = 16;
/// How long a change goes on at most before its locks are looked at again.
const TICK: Duration = Duration::from_millis(50);

/// The objects below a prefix of an object store.
pub struct BucketStore {
    client: Client,
    prefix: Path,
    place: String,
    random: Arc<dyn Random>,
    threads: Arc<Threads>,
    /// What was read of packs beyond what was asked for.
    ahead: Ahead,
    /// The locks that are held through this handle.
    leases: Mutex<Vec<Weak<Lease>>>,
}

impl fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketStore")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// What a read found.
enum Read {
    /// What is there of what was asked for, which is enough, and its version.
    Enough(Bytes, Option<String>),
    /// The object has only so many bytes.
    Cut(u64),
}

impl BucketStore {
    /// The objects of `store` whose names begin with `prefix/`, or all for an empty one. `place` is how
    /// people find it. Nothing is asked of the store.
    ///
    /// Errors: `Io` for a prefix that is none, or if no threads can be started.
    pub fn new(
        host: &Host,
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        place: impl Into<String>,
        settings: BucketSettings,
    ) -> Result<Self> {
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
        let parsed = Path::parse(prefix).map_err(invalid);
        let parsed = parsed.map_err(RepositoryError::io("use the prefix", prefix))?;
        let place = place.into();
        let threads = Threads::start();
        // Others do not wait for longer, whatever it says.
        let settings = BucketSettings {
            lock_ttl: settings.lock_ttl.min(TTL_MAX),
            ..settings
        };
        Ok(Self {
            client: Client::new(store, Arc::clone(&host.clock), settings),
            prefix: parsed,
            random: Arc::clone(&host.random),
            threads: Arc::new(threads.map_err(RepositoryError::io("start threads for", &*place))?),
            place,
            ahead: Ahead::default(),
            leases: Mutex::default(),
        })
    }

    /// The name of an object in the store. Errors: `Io` if no object can have this name.
    fn path_of(&self, name: &ObjectName) -> Result<Path> {
        refuse_strange(name)?;
        Ok(Path::from_iter(
            self.prefix.parts().chain(Path::from(name).parts()),
        ))
    }

    /// What `work` comes to with a client; `op` and `object` are told where it does not.
    fn ask<T: Send + 'static, F>(
        &self,
        op: &'static str,
        object: &str,
        work: impl FnOnce(Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, GivenUp>> + Send + 'static,
    {
        match self.threads.wait(work(self.client.clone())) {
            Some(result) => result.map_err(|given_up| told(&self.place, op, object, given_up)),
            None => Err(RepositoryError::WorkerLost),
        }
    }

    /// The locks that are held.
    fn held(&self) -> Vec<Arc<Lease>> {
        let mut leases = self.leases.lock();
        leases.retain(|lease| lease.strong_count() > 0);
        leases.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes the lock `name`. Nothing if another has it.
    fn take(&self, name: &str, ttl: Duration, patience: Duration) -> Result<Option<Kept>> {
        let path = self.path_of(name)?;
        let mut owner = [0; 16];
        let drawn = self.random.fill(&mut owner);
        drawn.map_err(RepositoryError::io("draw a name for", name))?;
        let lease = self.ask("lock", name, |client| {
            Lease::take(client, path, (owner, ttl), patience)
        })?;
        let Some(lease) = lease.map(Arc::new) else {
            return Ok(None);
        };
        let watched = Arc::downgrade(&lease);
        self.leases.lock().push(Weak::clone(&watched));
        self.threads.begin(Lease::keep(watched, ttl));
        let threads = Arc::clone(&self.threads);
        Ok(Some(Kept { lease, threads }))
    }
}

/// A request that was given up, as it is told.
fn told(place: &str, op: &'static str, object: &str, given_up: GivenUp) -> RepositoryError {
    let GivenUp { trouble, tries } = given_up;
    let (object, place) = (object.to_owned(), place.to_owned());
    match trouble {
        Trouble::Lost => RepositoryError::Locked { place },
        Trouble::Said(ref error @ Error::NotFound { .. }) if !is_bucket_missing(error) => {
            RepositoryError::Missing { object }
        }
        Trouble::Said(Error::AlreadyExists { .. }) => RepositoryError::Exists { object },
        trouble => RepositoryError::Store {
            op,
            object,
            place,
            fault: trouble.fault(),
            tries,
        },
    }
}

/// What `change` comes to, if all of `leases` count until then (OS6).
async fn under<T>(
    leases: Vec<Arc<Lease>>,
    change: impl Future<Output = std::result::Result<T, Trouble>>,
) -> std::result::Result<T, Trouble> {
    for lease in &leases {
        lease.ensure().await?;
    }
    if leases.is_empty() {
        return change.await;
    }
    let mut doubt = Doubt {
        leases: &leases,
        is_settled: false,
    };
    let mut change = std::pin::pin!(change);
    let mut tick = tokio::time::interval(TICK);
    // A machine that was suspended goes on wherever it was: the locks are looked at before each step.
    let result = future::poll_fn(|context| {
        while tick.poll_tick(context).is_ready() {}
        match leases.iter().all(|lease| lease.counts()) {
            true => change.as_mut().poll(context),
            false => Poll::Ready(Err(Trouble::Found(StoreFault::Lapsed))),
        }
    })
    .await;
    doubt.is_settled = match &result {
        Ok(_) => true,
        Err(trouble) => !trouble.is_doubtful(),
    };
    result
}

/// A request under locks, which is noted if it is dropped or ends without an answer.
struct Doubt<'a> {
    leases: &'a [Arc<Lease>],
    is_settled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.leases.iter().for_each(|lease| lease.doubt());
        }
    }
}

/// Puts `payload` at `path`; `before` requests to do so were made before, and not answered.
async fn put_once(
    client: &Client,
    path: &Path,
    payload: PutPayload,
    mode: PutMode,
    before: u32,
) -> std::result::Result<(), Trouble> {
    let put = client.store.put_opts(path, payload.clone(), mode.into());
    let error = match put.await {
        Ok(_) => return Ok(()),
        Err(error) => match Trouble::from(error) {
            Trouble::Said(error @ Error::AlreadyExists { .. }) if before > 0 => error,
            trouble => return Err(trouble),
        },
    };
    // What is there is ours, if it has our bytes and we have asked before (OS2).
    let ours: Bytes = payload.into();
    let found = match client.store.get(path).await {
        Err(Error::NotFound { .. }) => {
            let said = fault_of(&error).to_string();
            return Err(Trouble::Found(StoreFault::Busy { said }));
        }
        found => found?,
    };
    if found.meta.size > ours.len() as u64 {
        return Err(error.into());
    }
    let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
    let theirs = collect(found, ours.len()).await?;
    match theirs.len() <= ours.len() {
        true if theirs == ours => Ok(()),
        // No store should keep the beginning of what it was sent; nobody else has written that.
        true if ours.starts_with(&theirs) && e_tag.is_some() => {
            let mode = PutMode::Update(UpdateVersion { e_tag, version });
            client
                .store
                .put_opts(path, ours.into(), mode.into())
                .await?;
            Ok(())
        }
        _ => Err(error.into()),
    }
}

/// What comes of an object, up to one byte more than `most`: a store may send what it likes.
async fn collect(result: GetResult, most: usize) -> std::result::Result<Bytes, Trouble> {
    let mut stream = result.into_stream();
    let mut parts = Vec::new();
    let mut bytes = 0_usize;
    while let Some(part) = stream.next().await {
        let part = part?;
        bytes = bytes.saturating_add(part.len());
        parts.push(part);
        if bytes > most {
            break;
        }
    }
    match <[Bytes; 1]>::try_from(parts) {
        Ok([whole]) => Ok(whole),
        Err(parts) => Ok(parts.concat().into()),
    }
}

/// The bytes of the object at `path` from `offset` on: `wanted` if it has so many, `bytes` at least.
async fn read_once(
    client: &Client,
    path: &Path,
    offset: u64,
    (bytes, wanted): (u64, u64),
) -> std::result::Result<Read, Trouble> {
    let end = offset.saturating_add(bytes);
    let options = GetOptions {
        range: Some((offset..offset.saturating_add(wanted)).into()),
        ..GetOptions::default()
    };
    let error = match client.store.get_opts(path, options).await {
        Ok(result) => {
            let (size, e_tag) = (result.meta.size, result.meta.e_tag.clone());
            let most = usize::try_from(wanted).unwrap_or(usize::MAX);
            let read = collect(result, most).await?;
            let there = size.saturating_sub(offset).min(wanted);
            return match read.len() as u64 {
                _ if size < end => Ok(Read::Cut(size)),
                got if got == there => Ok(Read::Enough(read, e_tag)),
                got => Err(Trouble::Found(StoreFault::Short { got, asked: there })),
            };
        }
        Err(error @ Error::NotFound { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    if fault_of(&error).may_pass() {
        return Err(error.into());
    }
    // A range behind the end of an object is refused.
    match client.store.head(path).await {
        Ok(meta) if meta.size < end => Ok(Read::Cut(meta.size)),
        _ => Err(error.into()),
    }
}

/// Size and version of the object at `path`.
async fn look_once(client: &Client, path: &Path) -> std::result::Result<ObjectMeta, Trouble> {
    let error = match client.store.head(path).await {
        Ok(meta) => return Ok(meta),
        Err(error) => error,
    };
    if !is_without_words(&error) {
        return Err(error.into());
    }
    // The answer has no words; that to another question has, and so tells whether the store gave it.
    match client.store.get_range(path, 0..1).await {
        Err(in_words) => Err(in_words.into()),
        Ok(_) => {
            let said = fault_of(&error).to_string();
            Err(Trouble::Found(StoreFault::Busy { said }))
        }
    }
}

/// The names directly below `folder`.
async fn list_once(client: &Client, folder: &Path) -> std::result::Result<Vec<String>, Trouble> {
    let prefix = (!folder.as_ref().is_empty()).then_some(folder);
    let found = client.store.list_with_delimiter(prefix).await?;
    let objects = found.objects.iter().map(|object| &object.location);
    let paths = objects.chain(&found.common_prefixes);
    // The folder itself may be there as an empty object: some tools make such.
    let below = paths.filter(|path| *path != folder);
    let names = below.filter_map(|path| path.filename().map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

impl Store for BucketStore {
    fn put(&self, name: &ObjectName, parts: &[&[u8]], put: Put) -> Result<()> {
        let path = self.path_of(name)?;
        let parts = parts.iter().map(|part| Bytes::copy_from_slice(part));
        let payload: PutPayload = parts.collect();
        let bytes = payload.content_length() as u64;
        let mode = match put {
            Put::New => PutMode::Create,
            Put::Replace => PutMode::Overwrite,
        };
        let leases = self.held();
        let result = self.ask("put", name, |client| async move {
            let put = |before| {
                let put = put_once(&client, &path, payload.clone(), mode.clone(), before);
                under(leases.clone(), put)
            };
            client.often(bytes, put).await
        });
        self.ahead.forget(name);
        result
    }

    /// What is put is durable when the store has said so.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn read_at(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<()> {
        let path = self.path_of(name)?;
        let bytes = out.len() as u64;
        if bytes == 0 {
            return self.size(name).map(drop);
        }
        let kept = Ahead::is_of(name).then(|| self.ahead.part(name, offset, bytes));
        let ask = match kept {
            Some(Ok(part)) => {
                out.copy_from_slice(&part);
                return Ok(());
            }
            Some(Err(ask)) => Some(ask),
            None => None,
        };
        let wanted = ask.map_or(bytes, |ask| ask.bytes);
        let read = self.ask("read", name, |client| async move {
            let read = |_| read_once(&client, &path, offset, (bytes, wanted));
            client.often(wanted, read).await
        })?;
        match read {
            Read::Enough(read, e_tag) => {
                let (first, _) = read.split_at(out.len());
                out.copy_from_slice(first);
                if let Some(ask) = ask {
                    self.ahead.keep(ask, (name, e_tag), offset, read);
                }
                Ok(())
            }
            Read::Cut(bytes) => Err(RepositoryError::Cut {
                object: name.to_owned(),
                bytes,
                needed: offset.saturating_add(out.len() as u64),
            }),
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64> {
        let path = self.path_of(name)?;
        let meta = self.ask("look at", name, |client| async move {
            client.often(0, |_| look_once(&client, &path)).await
        })?;
        self.ahead.expect(name, meta.e_tag.as_deref());
        Ok(meta.size)
    }

    fn read_afresh(&self, name: &ObjectName) {
        self.ahead.forget(name);
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = match folder.is_empty() {
            true => self.prefix.clone(),
            false => self.path_of(folder)?,
        };
        let told_as = if folder.is_empty() {
            "the objects"
        } else {
            folder
        };
        let result = self.ask("list", told_as, |client| async move {
            client.often(0, |_| list_once(&client, &path)).await
        });
        match result {
            Err(RepositoryError::Missing { .. }) => Ok(Vec::new()),
            result => result,
        }
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        let path = self.path_of(name)?;
        let leases = self.held();
        let result = self.ask("remove", name, |client| async move {
            let remove = |_| {
                let remove = async { Ok(client.store.delete(&path).await?) };
                under(leases.clone(), remove)
            };
            client.often(0, remove).await
        });
        self.ahead.forget(name);
        match result {
            Err(RepositoryError::Missing { .. }) => Ok(()),
            result => result,
        }
    }

    /// Waits until a lock that is found is renewed, or was not for as long as it lives.
    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        let ttl = self.client.settings.lock_ttl;
        let place = self.place();
        match self.take(LOCK, ttl, Duration::ZERO)? {
            Some(kept) => Ok(Box::new(BucketLock::new(self, LOCK, kept))),
            None => Err(RepositoryError::Locked { place }),
        }
    }

    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        // It is held for some requests.
        let ttl = self.client.settings.lock_ttl / 2;
        let place = self.place();
        match self.take(MARKS_LOCK, ttl, ttl * 3)? {
            Some(kept) => Ok(Box::new(BucketLock::new(self, MARKS_LOCK, kept))),
            None => Err(RepositoryError::Locked { place }),
        }
    }

    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        let name = format!("{LINE_LOCK}{line}");
        let ttl = self.client.settings.lock_ttl;
        let place = self.place();
        match self.take(&name, ttl, Duration::ZERO)? {
            Some(kept) => Ok(Box::new(BucketLock::new(self, &name, kept))),
            None => Err(RepositoryError::LineLocked { place }),
        }
    }

    fn reads_at_once(&self) -> usize {
        READS_AT_ONCE
    }

    /// Nobody knows.
    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

/// A lock that is given up when it is dropped.
#[derive(Debug)]
struct BucketLock {
    name: String,
    place: String,
    client: Client,
    kept: Kept,
}

impl BucketLock {
    fn new(store: &BucketStore, name: &str, kept: Kept) -> Self {
        Self {
            name: name.to_owned(),
            place: store.place.clone(),
            client: store.client.clone(),
            kept,
        }
    }

    /// Whether it counts; it is renewed if it no longer does.
    fn require(&self) -> Result<()> {
        let lease = Arc::clone(&self.kept.lease);
        let client = self.client.clone();
        let ensured = async move { client.often(0, |_| lease.ensure()).await };
        match self.kept.threads.wait(ensured) {
            Some(Ok(())) => Ok(()),
            Some(Err(given_up)) => Err(told(&self.place, "renew", &self.name, given_up)),
            None => Err(RepositoryError::WorkerLost),
        }
    }
}

impl WriterLock for BucketLock {
    fn confirm(&self) -> Result<()> {
        self.require()
    }
}

impl MarksLock for BucketLock {
    fn confirm(&self) -> Result<()> {
        self.require()
    }
}

impl LineLock for BucketLock {
    fn confirm(&self) -> Result<()> {
        self.require()
    }
}
