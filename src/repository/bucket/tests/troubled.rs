//! A store in memory, and a network before it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use parking_lot::Mutex;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never arrives, and the next ones do.
    Dropped,
    /// It is done, and its answer never arrives.
    Unanswered,
    /// As `Dropped`, and nothing arrives any more.
    DeadBefore,
    /// As `Unanswered`, and nothing arrives any more.
    DeadAfter,
    /// It is done so much later, whatever the client does meanwhile.
    Late(Duration),
    /// Half of what is read arrives.
    Short,
}

#[derive(Debug, Default)]
struct Plan {
    /// Requests so far, and those that change something.
    requests: u32,
    changes: u32,
    at_request: Option<(u32, Fate)>,
    at_change: Option<(u32, Fate)>,
    is_dead: bool,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Troubled {
    inner: Arc<InMemory>,
    plan: Mutex<Plan>,
}

impl Troubled {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From here on: the fate of the request `number`, counted from 0.
    pub(super) fn at_request(&self, number: u32, fate: Fate) {
        *self.plan.lock() = Plan {
            at_request: Some((number, fate)),
            ..Plan::default()
        };
    }

    /// The same of the requests that change something.
    pub(super) fn at_change(&self, number: u32, fate: Fate) {
        *self.plan.lock() = Plan {
            at_change: Some((number, fate)),
            ..Plan::default()
        };
    }

    /// From here on nothing arrives.
    pub(super) fn kill(&self) {
        self.plan.lock().is_dead = true;
    }

    /// From here on all is well. Whether it came to what was planned.
    pub(super) fn heal(&self) -> bool {
        let plan = std::mem::take(&mut *self.plan.lock());
        plan.at_request.is_none() && plan.at_change.is_none()
    }

    /// Bytes of an object, by its whole name.
    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let (inner, path) = (Arc::clone(&self.inner), Path::from(name));
        futures_util::FutureExt::now_or_never(async move {
            Some(inner.get(&path).await.ok()?.bytes().await.ok()?.to_vec())
        })
        .flatten()
    }

    /// Puts one from behind.
    pub(super) fn set(&self, name: &str, bytes: &[u8]) {
        let (inner, path) = (Arc::clone(&self.inner), Path::from(name));
        let payload = PutPayload::from(bytes.to_vec());
        let put = futures_util::FutureExt::now_or_never(async move {
            inner.put(&path, payload).await.map(drop)
        });
        put.unwrap().unwrap();
    }

    /// The fate of a request that comes now.
    fn next(&self, is_change: bool) -> Result<Option<Fate>> {
        let mut plan = self.plan.lock();
        if plan.is_dead {
            return Err(gone());
        }
        let mut fate = None;
        if plan.at_request.is_some_and(|(at, _)| at == plan.requests) {
            fate = plan.at_request.take().map(|(_, fate)| fate);
        }
        plan.requests += 1;
        if is_change {
            if plan.at_change.is_some_and(|(at, _)| at == plan.changes) {
                fate = plan.at_change.take().map(|(_, fate)| fate);
            }
            plan.changes += 1;
        }
        if matches!(fate, Some(Fate::DeadBefore | Fate::DeadAfter)) {
            plan.is_dead = true;
        }
        match fate {
            Some(Fate::Dropped) => Err(cut()),
            Some(Fate::DeadBefore) => Err(gone()),
            fate => Ok(fate),
        }
    }
}

/// The connection breaks.
fn cut() -> Error {
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    generic(HttpError::new(HttpErrorKind::Interrupted, error))
}

/// What does not pass.
fn gone() -> Error {
    generic(std::io::Error::other("the process is gone"))
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic {
        store: "Troubled",
        source: Box::new(error),
    }
}

/// What the client hears of a request that was done.
fn heard<T>(fate: Option<Fate>, result: Result<T>) -> Result<T> {
    match fate {
        Some(Fate::Unanswered) => Err(cut()),
        Some(Fate::DeadAfter) => Err(gone()),
        _ => result,
    }
}

impl std::fmt::Display for Troubled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Troubled")
    }
}

#[async_trait]
impl ObjectStore for Troubled {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fate = self.next(true)?;
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        if let Some(Fate::Late(delay)) = fate {
            let put = tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                inner.put_opts(&location, payload, options).await
            });
            return put.await.unwrap();
        }
        heard(fate, inner.put_opts(&location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("an object is put by one request")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.next(false)?;
        let mut result = heard(fate, self.inner.get_opts(location, options).await)?;
        if fate == Some(Fate::Short)
            && let GetResultPayload::Stream(stream) = result.payload
        {
            let half = stream.map(|bytes| bytes.map(|bytes| bytes.slice(..bytes.len() / 2)));
            result.payload = GetResultPayload::Stream(half.boxed());
        }
        Ok(result)
    }

    async fn get_ranges(&self, _path: &Path, _ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        unreachable!("ranges are asked for one by one")
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let fate = match self.next(true) {
            Ok(fate) => fate,
            Err(error) => return futures_util::stream::once(async { Err(error) }).boxed(),
        };
        let deleted = self.inner.delete_stream(locations);
        deleted.map(move |result| heard(fate, result)).boxed()
    }

    fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        unreachable!("folders are listed one by one")
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fate = self.next(false)?;
        heard(fate, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        unreachable!("nothing is copied in the store")
    }
}
