//! Why an object store did not do what it was asked, and what to do about it.

use std::time::Duration;

/// Why an object store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// The credentials are not known, wrong, or expired.
    #[error(
        "the credentials are refused ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    )]
    Credentials {
        /// What the store says.
        code: String,
    },
    /// The credentials are good, and do not allow it.
    #[error(
        "it is not allowed ({code}): let these credentials get, put, delete and list the objects there, or use others"
    )]
    Denied {
        /// What the store says.
        code: String,
    },
    /// There is no bucket of this name.
    #[error("there is no such bucket: make it first, or correct its name or --endpoint")]
    NoBucket,
    /// The clocks of this machine and of the store differ.
    #[error(
        "the clock of this machine and that of the store differ by too much for a signature: set this clock right"
    )]
    Clock,
    /// No room, or no more allowed.
    #[error("the store has no room left for it ({code}): make room, or raise the quota")]
    Full {
        /// What the store says.
        code: String,
    },
    /// The bucket is elsewhere.
    #[error("the bucket is in another region ({code}): give it by --region, or correct --endpoint")]
    Region {
        /// What the store says.
        code: String,
    },
    /// Nobody answers.
    #[error(
        "the store cannot be reached ({said}): check --endpoint, the network, and that the store runs"
    )]
    Unreachable {
        /// What the system says.
        said: String,
    },
    /// The certificate of the store is not trusted.
    #[error(
        "the certificate of the store is not trusted ({said}): give its authority by --cacert FILE, or correct --endpoint"
    )]
    Untrusted {
        /// What is wrong with it.
        said: String,
    },
    /// The answer did not come in time.
    #[error("no answer within {} s: check the network, and that the store runs", within.as_secs_f32())]
    Silent {
        /// How long it was waited for.
        within: Duration,
    },
    /// The store cannot do what a repository needs of it.
    #[error("the store cannot do that ({said}): it must know If-Match, If-None-Match and ETags")]
    Unable {
        /// What is missing.
        said: String,
    },
    /// The store says that it could not, for now.
    #[error("the store could not do it ({said}): try it again later")]
    Busy {
        /// What it says.
        said: String,
    },
    /// Fewer bytes came than were asked for and are there.
    #[error("only {got} of {asked} bytes came: check the network")]
    Short {
        /// How many came.
        got: u64,
        /// How many were asked for.
        asked: u64,
    },
    /// A lock could not be renewed in time, and so the request was dropped.
    #[error(
        "the lock of the repository could not be renewed in time: check the network, and do it again"
    )]
    Lapsed,
    /// Anything else.
    #[error("{said}")]
    Other {
        /// What was said.
        said: String,
    },
}

impl StoreFault {
    /// Whether it may pass by itself in a moment.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Silent { .. }
                | Self::Busy { .. }
                | Self::Short { .. }
                | Self::Lapsed
        )
    }
}
