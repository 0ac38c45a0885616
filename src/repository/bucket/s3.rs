//! A bucket of an S3 server.

use std::sync::{Arc, Once};

use object_store::aws::AmazonS3Builder;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use reqwest::Certificate;

use crate::repository::bucket::connection::Connector;

/// Where a bucket is, and how it is reached. Credentials are taken from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// Its server, as `https://host:port`; that of Amazon if there is none.
    pub endpoint: Option<String>,
    /// Its region; `us-east-1` if there is none.
    pub region: Option<String>,
    /// Certificates of authorities to trust besides those of the system, as PEM.
    pub authorities: Option<Vec<u8>>,
    /// Whether plain http is allowed to another machine.
    pub is_http_allowed: bool,
    /// Whether the bucket is named in the host and not in the path.
    pub is_virtual_hosted: bool,
}

/// Why a bucket cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum S3Error {
    /// A variable of the environment is missing.
    #[error(
        "{variable} is not set: give the credentials of the bucket in the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    NoCredentials {
        /// Which.
        variable: &'static str,
    },
    /// The server would be asked in the clear.
    #[error(
        "{endpoint} is plain http to another machine: everything could be read and changed on the way; use https, or give --allow-http"
    )]
    PlainHttp {
        /// The server.
        endpoint: String,
    },
    /// The server is not named as it must be.
    #[error("the endpoint {endpoint} is none: give it as https://HOST or https://HOST:PORT")]
    Endpoint {
        /// What was given, unless it may be a secret.
        endpoint: String,
    },
    /// The certificates cannot be used.
    #[error("the certificates that are to be trusted cannot be used: they must be in PEM")]
    Authorities,
    /// The client cannot be made.
    #[error("no client for the bucket can be made: {0}")]
    Client(object_store::Error),
}

/// The bucket of `options`. Nothing is asked of it. Errors: see [`S3Error`].
pub fn connect(options: &S3Options) -> Result<Arc<dyn ObjectStore>, S3Error> {
    use_ring();
    let key = variable("AWS_ACCESS_KEY_ID")?;
    let secret = variable("AWS_SECRET_ACCESS_KEY")?;
    let server = match &options.endpoint {
        Some(endpoint) => Server::of(endpoint, options.is_http_allowed)?,
        None => Server::default(),
    };
    let connector = Connector {
        authorities: authorities(options)?,
        is_plain: server.is_plain,
        is_here: server.is_here,
    };
    let retry = RetryConfig {
        // Requests are made again by whoever knows what a lost answer means.
        max_retries: 0,
        ..RetryConfig::default()
    };
    let client = ClientOptions::new().with_allow_http(server.is_plain);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .with_region(options.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(options.is_virtual_hosted)
        .with_disable_bulk_delete(true)
        .with_client_options(client)
        .with_http_connector(connector)
        .with_retry(retry);
    if let Ok(token) = std::env::var("AWS_SESSION_TOKEN")
        && !token.is_empty()
    {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build().map_err(S3Error::Client)?))
}

/// The authorities of `options`. Errors: what is no PEM.
fn authorities(options: &S3Options) -> Result<Vec<Certificate>, S3Error> {
    let Some(pem) = &options.authorities else {
        return Ok(Vec::new());
    };
    match Certificate::from_pem_bundle(pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(S3Error::Authorities),
    }
}

/// What the name of a server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Server {
    /// Whether it is asked in the clear.
    is_plain: bool,
    /// Whether it is this machine.
    is_here: bool,
}

impl Server {
    /// Errors: `Endpoint`; `PlainHttp` to another machine, unless it `is_allowed`.
    fn of(endpoint: &str, is_allowed: bool) -> Result<Self, S3Error> {
        let endpoint = endpoint.to_owned();
        let Ok(url) = reqwest::Url::parse(&endpoint) else {
            return Err(S3Error::Endpoint { endpoint });
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = match host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        // Credentials in it would be told with every error.
        let is_bare = url.username().is_empty() && url.password().is_none();
        let is_plain = url.scheme() == "http";
        match url.scheme() {
            _ if !is_bare => Err(S3Error::Endpoint {
                endpoint: "with a user or a password".to_owned(),
            }),
            "https" | "http" if host.is_empty() => Err(S3Error::Endpoint { endpoint }),
            "http" if !is_here && !is_allowed => Err(S3Error::PlainHttp { endpoint }),
            "https" | "http" => Ok(Self { is_plain, is_here }),
            _ => Err(S3Error::Endpoint { endpoint }),
        }
    }
}

fn variable(variable: &'static str) -> Result<String, S3Error> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => Err(S3Error::NoCredentials { variable }),
    }
}

/// Has TLS done by `ring`, unless the program has chosen.
fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain_http(endpoint: &str, is_allowed: bool) -> Result<bool, S3Error> {
        Server::of(endpoint, is_allowed).map(|server| server.is_plain)
    }

    /// G43: plain http goes to this machine, or is allowed.
    #[test]
    fn plain_http_to_another_machine_is_refused_unless_it_is_allowed() {
        let here = [
            "http://127.0.0.1:9000",
            "http://localhost",
            "http://[::1]:80/s3",
            "http://127.9.9.9",
        ];
        for endpoint in here {
            assert!(is_plain_http(endpoint, false).unwrap(), "{endpoint}");
        }
        let elsewhere = [
            "http://10.0.0.1",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org",
            "http://[2001:db8::1]",
            "http://0.0.0.0",
        ];
        for endpoint in elsewhere {
            let refused = is_plain_http(endpoint, false);
            assert!(
                matches!(refused, Err(S3Error::PlainHttp { .. })),
                "{endpoint}"
            );
            assert!(is_plain_http(endpoint, true).unwrap());
        }
        assert!(!is_plain_http("https://s3.example.org", true).unwrap());
        for endpoint in ["s3.example.org", "ftp://a", "https://", "", "http://:9000"] {
            let none = is_plain_http(endpoint, true);
            assert!(
                matches!(none, Err(S3Error::Endpoint { .. })),
                "{endpoint}: {none:?}"
            );
        }
    }

    /// G43: credentials in the name of a server would be told with every error.
    #[test]
    fn endpoint_with_credentials_is_refused_and_not_told() {
        let error = is_plain_http("https://AKIA:secret@s3.example.org", true).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
