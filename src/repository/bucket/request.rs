//! One request after the other until one is answered.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::{Error, ObjectStore};

use crate::os::Clock;
use crate::repository::bucket::fault::{fault_of, passing_fault};
use crate::repository::bucket::settings::BucketSettings;
use crate::repository::store_fault::StoreFault;

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a request was not answered as it was meant.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The store said so, or its client.
    Said(Error),
    /// We say so.
    Found(StoreFault),
    /// A lock that it needs is no longer ours.
    Lost,
}

impl Trouble {
    pub(super) fn fault(&self) -> StoreFault {
        match self {
            Self::Said(error) => fault_of(error),
            Self::Found(fault) => fault.clone(),
            Self::Lost => StoreFault::Lapsed,
        }
    }

    /// Whether the request may yet have its effect, or one like it has had.
    pub(super) fn is_doubtful(&self) -> bool {
        match self {
            Self::Said(Error::AlreadyExists { .. } | Error::Precondition { .. }) => false,
            Self::Said(Error::NotFound { .. }) | Self::Lost => false,
            _ => self.fault().may_pass(),
        }
    }

    fn may_pass(&self) -> bool {
        match self {
            Self::Said(
                Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. },
            )
            | Self::Lost => false,
            _ => self.fault().may_pass(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match passing_fault(&error) {
            Some(fault) => Self::Found(fault),
            None => Self::Said(error),
        }
    }
}

/// A request that was given up, and how often it was made.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) trouble: Trouble,
    pub(super) tries: u32,
}

/// A store with the patience that it is asked with. Clones are handles of the same one.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<BucketSettings>,
    /// Whether it has ever answered.
    has_answered: Arc<AtomicBool>,
}

/// A store may show its credentials.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        settings: BucketSettings,
    ) -> Self {
        Self {
            store,
            clock,
            settings: Arc::new(settings),
            has_answered: Arc::default(),
        }
    }

    /// Whether the store has ever answered what was meant.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// How long a request may take that moves `bytes`.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let seconds = bytes / self.settings.bytes_per_second.max(1);
        self.settings.request + Duration::from_secs(seconds)
    }

    /// What `request` comes to within a time.
    pub(super) async fn once<T>(
        &self,
        within: Duration,
        request: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let result = match tokio::time::timeout(within, request).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Found(StoreFault::Silent { within })),
        };
        let is_answered = match &result {
            Ok(_) => true,
            Err(trouble) => matches!(
                trouble,
                Trouble::Said(Error::NotFound { .. } | Error::AlreadyExists { .. })
            ),
        };
        if is_answered {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Makes `request`, which gets the number of requests before it, until it is answered by what does not pass, or patience ends.
    pub(super) async fn often<T, F>(
        &self,
        bytes: u64,
        mut request: impl FnMut(u32) -> F,
    ) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let begun = self.clock.monotonic();
        let mut pause = self.settings.pause;
        for before in 0.. {
            let trouble = match self.once(self.time_for(bytes), request(before)).await {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            let tries = before + 1;
            let patience = match self.has_answered() {
                true => self.settings.patience,
                false => self.settings.first_patience,
            };
            let waited = self.clock.monotonic().saturating_sub(begun) + pause;
            if !trouble.may_pass() || waited > patience {
                return Err(GivenUp { trouble, tries });
            }
            let fault = trouble.fault();
            tracing::debug!(%fault, tries, "an object store is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        unreachable!("requests are not counted to their end")
    }
}
