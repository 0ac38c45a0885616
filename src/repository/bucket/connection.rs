//! Connections to a server that is not believed: it may redirect, answer without end, or be another one.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::Certificate;
use reqwest::redirect::Policy;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A page of a listing has at most 1000 names of at most 1 KiB, and some markup.
const WORDS_BYTES_MAX: usize = 16 << 20;

/// How servers are connected to.
#[derive(Debug)]
pub(super) struct Connector {
    /// Authorities to trust besides those of the system.
    pub(super) authorities: Vec<Certificate>,
    /// Plain http, of which no certificate is asked.
    pub(super) is_plain: bool,
    /// This machine, to which no proxy leads.
    pub(super) is_here: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("stillfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .http1_only()
            .https_only(!self.is_plain)
            // A redirected put would be told as done by whoever answers then.
            .redirect(Policy::none());
        if self.is_here {
            builder = builder.no_proxy();
        }
        let authorities = self.authorities.iter().cloned();
        // Where no certificate is asked for none is needed, and a system may have none.
        builder = match self.is_plain {
            true => builder.tls_certs_only(authorities),
            false => builder.tls_certs_merge(authorities),
        };
        let client = builder
            .build()
            .map_err(|error| object_store::Error::Generic {
                store: "S3",
                source: Box::new(error),
            })?;
        Ok(HttpClient::new(Bounded { client }))
    }
}

/// Has what is text read to a limit, and listings looked at.
#[derive(Debug)]
struct Bounded {
    client: reqwest::Client,
}

#[async_trait]
impl HttpService for Bounded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let is_list = query.split('&').any(|word| word == "list-type=2");
        let answer = HttpService::call(&self.client, request).await?;
        let is_object = answer.status().is_success() && !is_list;
        if is_object {
            return Ok(answer);
        }
        let is_good = answer.status().is_success();
        let (head, body) = answer.into_parts();
        let mut stream = body.bytes_stream();
        let mut text = Vec::new();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            if text.len() + bytes.len() > WORDS_BYTES_MAX {
                return Err(strange("the answer does not end"));
            }
            text.extend_from_slice(&bytes);
        }
        if is_good && let Some(what) = fault_of_page(&text) {
            return Err(strange(what));
        }
        Ok(HttpResponse::from_parts(head, text.into()))
    }
}

/// Why `text` is no page of a listing, if it is none: one that is taken for the last one, and is not, would
/// have what is not listed taken for needless.
fn fault_of_page(text: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(text) else {
        return Some("the listing is no text");
    };
    if !text.contains("<ListBucketResult") || !text.trim_end().ends_with("</ListBucketResult>") {
        return Some("the answer is no listing");
    }
    let field = |name: &str| {
        let (_, behind) = text.split_once(&format!("<{name}>"))?;
        Some(behind.split_once("</")?.0.trim())
    };
    let has_more = field("IsTruncated") == Some("true");
    let has_token = field("NextContinuationToken").is_some_and(|token| !token.is_empty());
    match has_more && !has_token {
        true => Some("the listing is cut, and does not say how it goes on"),
        false => None,
    }
}

fn strange(what: &'static str) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, std::io::Error::other(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BK2: what is not listed is taken for needless, so no listing may be cut without being known as such.
    #[test]
    fn page_that_is_none_or_has_no_end_is_refused() {
        let page = |inside: &str| {
            let head = "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x\">";
            fault_of_page(format!("{head}{inside}</ListBucketResult>\n").as_bytes())
        };
        assert_eq!(page("<IsTruncated>false</IsTruncated>"), None);
        assert_eq!(page("<Contents><Key>a</Key></Contents>"), None);
        let token = "<NextContinuationToken>a</NextContinuationToken>";
        assert_eq!(
            page(&format!("<IsTruncated>true</IsTruncated>{token}")),
            None
        );
        assert!(page("<IsTruncated>true</IsTruncated>").is_some());
        let empty = "<NextContinuationToken></NextContinuationToken>";
        assert!(page(&format!("<IsTruncated>true</IsTruncated>{empty}")).is_some());
        for text in [
            "",
            "<html></html>",
            "<Error><Code>SlowDown</Code></Error>",
            "<ListBucketResult>",
        ] {
            assert!(fault_of_page(text.as_bytes()).is_some(), "{text}");
        }
        assert!(fault_of_page(&[0xff]).is_some());
    }
}
