//! What an object store says when it does not do what it was asked, and what to do about it.

use std::error::Error;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

/// Longest text of a store that is told.
const SAID_CHARS: usize = 300;

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
    /// Why `error` came.
    pub(super) fn of(error: &object_store::Error) -> Self {
        let text = whole_text(error);
        if let Some(http) = http_error(error) {
            return Self::of_connection(http, text);
        }
        match error {
            object_store::Error::NotImplemented { .. }
            | object_store::Error::NotSupported { .. } => Self::Unable { said: short(&text) },
            _ => Self::of_answer(error, &text),
        }
    }

    fn of_connection(http: &HttpError, text: String) -> Self {
        let root = root_text(http);
        if ["certificate", "UnknownIssuer", "CertNotValid"]
            .iter()
            .any(|word| text.contains(word))
        {
            return Self::Untrusted { said: short(&root) };
        }
        match http.kind() {
            HttpErrorKind::Decode => Self::Busy { said: short(&root) },
            _ => Self::Unreachable { said: short(&root) },
        }
    }

    fn of_answer(error: &object_store::Error, text: &str) -> Self {
        let status = status(text);
        let code = code(text).map_or_else(
            || status.map_or_else(String::new, |status| format!("status {status}")),
            str::to_owned,
        );
        match code.as_str() {
            "NoSuchBucket" => return Self::NoBucket,
            "RequestTimeTooSkewed" | "RequestExpired" => return Self::Clock,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "NotSignedUp" => return Self::Credentials { code },
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "TemporaryRedirect" => return Self::Region { code },
            "NotImplemented" => return Self::Unable { said: code },
            "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "IncompleteBody"
            | "BadDigest"
            | "XAmzContentSHA256Mismatch" => return Self::Busy { said: code },
            _ => {}
        }
        let is_full = ["Quota", "StorageFull", "InsufficientStorage", "DiskFull"];
        if status == Some(507) || is_full.iter().any(|word| code.contains(word)) {
            return Self::Full { code };
        }
        match (error, status) {
            (object_store::Error::Unauthenticated { .. }, _) => Self::Credentials { code },
            (object_store::Error::PermissionDenied { .. }, _) => Self::Denied { code },
            (_, Some(301 | 307 | 308)) => Self::Region { code },
            (_, Some(408 | 429 | 500..=599)) => Self::Busy { said: code },
            _ if text.contains("LOCATION") => Self::Region {
                code: "redirected".to_owned(),
            },
            _ => Self::Other { said: short(text) },
        }
    }

    /// Whether it may pass by itself in a moment.
    pub(super) fn may_pass(&self) -> bool {
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

/// Whether the store said nothing but a status, as it does when it is asked for the head of an object.
pub(super) fn is_without_words(error: &object_store::Error) -> bool {
    http_error(error).is_none() && code(&whole_text(error)).is_none()
}

/// Whether the bucket itself is missing, and not the object.
pub(super) fn is_bucket_missing(error: &object_store::Error) -> bool {
    code(&whole_text(error)) == Some("NoSuchBucket")
}

fn http_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a HttpError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn whole_text(error: &object_store::Error) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn root_text(error: &HttpError) -> String {
    causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// The code in the answer of an S3 server, which stands in the text of the client's error.
fn code(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once("<Code>")?;
    let (code, _) = behind.split_once("</Code>")?;
    let is_plain = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_plain.then_some(code)
}

/// The status in the text of the client's error.
fn status(text: &str) -> Option<u16> {
    let (_, behind) = text.split_once("status code: ")?;
    behind.get(..3)?.parse().ok()
}

/// `text` on one line and not too long: a store may say anything.
fn short(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(SAID_CHARS).collect()
}
