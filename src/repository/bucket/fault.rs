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
        return of_connection(http);
    }
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            StoreFault::Unable { said: short(&text) }
        }
        _ => of_answer(error, &text),
    }
}

fn of_connection(http: &HttpError) -> StoreFault {
    // Not the text of the whole error, which has the name of the object.
    let texts: Vec<String> = causes(http).map(ToString::to_string).collect();
    let text = texts.join(": ");
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

/// What an answer is that no store gives, but what stands before one: it does not know what the store has.
///
/// A store that is missing an object says so in words; of one that is asked for the head of an object nobody
/// knows. Two puts at once may get a conflict.
pub(super) fn passing_fault(error: &object_store::Error) -> Option<StoreFault> {
    let text = whole_text(error);
    let said = match (error, status(&text)) {
        (object_store::Error::NotFound { .. }, Some(404)) if code(&text).is_none() => {
            "404, and not from the store"
        }
        (object_store::Error::AlreadyExists { .. }, Some(409)) => "a conflict with another put",
        _ => return None,
    };
    let said = said.to_owned();
    Some(StoreFault::Busy { said })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, body: &str) -> String {
        format!("Server returned non-2xx status code: {status}: {body}")
    }

    fn generic(text: String) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    fn missing(text: String) -> object_store::Error {
        object_store::Error::NotFound {
            path: "packs/a".to_owned(),
            source: text.into(),
        }
    }

    #[test]
    fn answers_are_told_by_what_can_be_done() {
        let fault = |status, code: &str| {
            let body = format!("<Error><Code>{code}</Code></Error>");
            fault_of(&generic(answer(status, &body)))
        };
        let code = |code: &str| code.to_owned();
        let of = |name: &str| StoreFault::Credentials { code: code(name) };
        let signature = "SignatureDoesNotMatch";
        assert_eq!(fault("403 Forbidden", signature), of(signature));
        assert_eq!(
            fault("403 Forbidden", "RequestTimeTooSkewed"),
            StoreFault::Clock
        );
        assert_eq!(fault("404 Not Found", "NoSuchBucket"), StoreFault::NoBucket);
        let full = StoreFault::Full {
            code: code("QuotaExceeded"),
        };
        assert_eq!(fault("403 Forbidden", "QuotaExceeded"), full);
        let full = StoreFault::Full {
            code: code("status 507"),
        };
        assert_eq!(fault_of(&generic(answer("507 Insufficient", ""))), full);
        for status in ["500 Oh", "503 Slow Down", "429 Too Many", "408 Timeout"] {
            assert!(
                fault_of(&generic(answer(status, ""))).may_pass(),
                "{status}"
            );
        }
        for status in ["400 Bad Request", "301 Moved", "403 Forbidden"] {
            assert!(
                !fault_of(&generic(answer(status, ""))).may_pass(),
                "{status}"
            );
        }
    }

    /// OS2: what stands before a store does not know what it has.
    #[test]
    fn missing_is_believed_of_the_store_alone() {
        let said = "<Error><Code>NoSuchKey</Code></Error>";
        assert_eq!(passing_fault(&missing(answer("404 Not Found", said))), None);
        let proxy = missing(answer("404 Not Found", "default backend - 404"));
        assert!(passing_fault(&proxy).is_some_and(|fault| fault.may_pass()));
        // A store that is no server has no status.
        assert_eq!(passing_fault(&missing("no such file".to_owned())), None);
    }

    /// A name may be like the word for a fault, and a store may say anything.
    #[test]
    fn faults_are_not_told_by_names_and_are_one_short_line() {
        let error = std::io::Error::other("connection reset");
        let http = HttpError::new(HttpErrorKind::Interrupted, error);
        let error = object_store::Error::NotFound {
            path: "certificates/a".to_owned(),
            source: Box::new(http),
        };
        let fault = fault_of(&error);
        assert!(matches!(fault, StoreFault::Unreachable { .. }), "{fault}");
        let long = fault_of(&generic("a\nb\u{1b}[1m".repeat(1000))).to_string();
        assert!(long.len() <= SAID_CHARS && !long.chars().any(char::is_control));
    }
}
