//! What an object store says when it does not do what it was asked.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use crate::repository::store_fault::StoreFault;

/// Longest text of a store that is told.
const SAID_CHARS: usize = 300;

/// Why `error` came.
pub(super) fn fault_of(error: &object_store::Error) -> StoreFault {
    let text = whole_text(error);
    if let Some(http) = http_error(error) {
        return of_connection(http, text);
    }
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            StoreFault::Unable { said: short(&text) }
        }
        _ => of_answer(error, &text),
    }
}

fn of_connection(http: &HttpError, text: String) -> StoreFault {
    let root = root_text(http);
    if ["certificate", "UnknownIssuer", "CertNotValid"]
        .iter()
        .any(|word| text.contains(word))
    {
        return StoreFault::Untrusted { said: short(&root) };
    }
    match http.kind() {
        HttpErrorKind::Decode => StoreFault::Busy { said: short(&root) },
        _ => StoreFault::Unreachable { said: short(&root) },
    }
}

fn of_answer(error: &object_store::Error, text: &str) -> StoreFault {
    let status = status(text);
    let code = code(text).map_or_else(
        || status.map_or_else(String::new, |status| format!("status {status}")),
        str::to_owned,
    );
    match code.as_str() {
        "NoSuchBucket" => return StoreFault::NoBucket,
        "RequestTimeTooSkewed" | "RequestExpired" => return StoreFault::Clock,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "NotSignedUp" => return StoreFault::Credentials { code },
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "TemporaryRedirect" => return StoreFault::Region { code },
        "NotImplemented" => return StoreFault::Unable { said: code },
        "SlowDown"
        | "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "IncompleteBody"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch" => return StoreFault::Busy { said: code },
        _ => {}
    }
    let is_full = ["Quota", "StorageFull", "InsufficientStorage", "DiskFull"];
    if status == Some(507) || is_full.iter().any(|word| code.contains(word)) {
        return StoreFault::Full { code };
    }
    match (error, status) {
        (object_store::Error::Unauthenticated { .. }, _) => StoreFault::Credentials { code },
        (object_store::Error::PermissionDenied { .. }, _) => StoreFault::Denied { code },
        (_, Some(301 | 307 | 308)) => StoreFault::Region { code },
        (_, Some(408 | 429 | 500..=599)) => StoreFault::Busy { said: code },
        _ if text.contains("LOCATION") => StoreFault::Region {
            code: "redirected".to_owned(),
        },
        _ => StoreFault::Other { said: short(text) },
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
