//! A client of the tests' own, which signs what it asks for as S3 wants it (version 4).

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::http::Answer;
use crate::server::{ACCESS_KEY, SECRET_KEY};

/// Nothing here takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request on a connection of its own. Errors: no whole answer came.
pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    condition: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    ask_with(SECRET_KEY, address, method, target, condition, body)
}

/// With another key.
pub(crate) fn ask_with(
    secret: &str,
    address: SocketAddr,
    method: &str,
    target: &str,
    condition: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let digest = hex(&Sha256::digest(body));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let lines = format!("host:{address}\nx-amz-content-sha256:{digest}\nx-amz-date:{time}\n");
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}");
    let scope = format!("{}/us-east-1/s3/aws4_request", &time[..8]);
    let canonical = hex(&Sha256::digest(canonical));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/') {
        key = authenticated(&key, part.as_bytes());
    }
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{canonical}");
    let signature = hex(&authenticated(&key, text.as_bytes()));
    let size = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\n\
         x-amz-date: {time}\r\nx-amz-content-sha256: {digest}\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential={ACCESS_KEY}/{scope},SignedHeaders={names},Signature={signature}\r\n{condition}\r\n"
    );
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Answer::receive(&mut BufReader::new(stream), method)
}

/// HMAC of SHA-256. Shape: the key is no longer than a block.
fn authenticated(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        let key = key.iter().copied().chain(std::iter::repeat(0));
        key.take(64).map(|byte| byte ^ with).collect()
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text);
    let outer = Sha256::new().chain_update(pad(0x5c));
    outer.chain_update(inner.finalize()).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
