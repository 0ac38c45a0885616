//! One page by HTTP/1: enough for Prometheus, and nothing that a hostile peer could lean on.
//!
//! * One request per connection, of at most 8 KiB; no body is read.
//! * A peer has 5 seconds for all of it, however slowly it sends or takes.
//! * At most 16 connections are served at once; more are closed at once.
//! * The page is made by one thread at a time, and serves everybody for 5 seconds.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::cli::exit::Failure;
use crate::cli::interrupt::Interrupt;
use crate::cli::output;
use crate::os::readiness::stop_accepting;
use crate::os::{Clock, Host};

const REQUEST_BYTES_MAX: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
const PAGE_AGE_MAX: Duration = Duration::from_secs(5);
const PEERS_MAX: usize = 16;
const LOOK: Duration = Duration::from_millis(100);
/// The name of the page.
const PATH: &str = "/metrics";
/// What Prometheus knows the format by.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Makes the page.
type Make<'a> = &'a (dyn Fn() -> String + Sync);

struct Served<'a> {
    make: Make<'a>,
    clock: &'a dyn Clock,
    /// When the last page was made, and it.
    page: Mutex<Option<(Duration, Arc<str>)>>,
    peers: AtomicUsize,
}

/// Serves until somebody asks this process to stop. Errors: the system's.
pub(super) fn serve(host: &Host, address: SocketAddr, make: Make<'_>) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let listener = TcpListener::bind(address);
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    output::line(&format!("ready http://{address}{PATH}"));
    let served = Served {
        make,
        clock: &*host.clock,
        page: Mutex::new(None),
        peers: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            while !interrupt.is_asked() {
                match listener.accept() {
                    Ok((stream, _)) => admit(scope, &served, stream),
                    // For want of descriptors, most likely; or at the end.
                    Err(_) => served.clock.sleep(LOOK),
                }
            }
        });
        while !interrupt.is_asked() && !accepting.is_finished() {
            served.clock.sleep(LOOK);
        }
        stop_accepting(listener.try_clone()?.into())
    })?;
    Ok(())
}

fn admit<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    served: &'scope Served<'_>,
    stream: TcpStream,
) {
    if served.peers.fetch_add(1, Ordering::SeqCst) >= PEERS_MAX {
        served.peers.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let body = move || {
        if let Err(error) = answer(served, &stream) {
            tracing::debug!(%error, "a request for metrics was not answered");
        }
        served.peers.fetch_sub(1, Ordering::SeqCst);
    };
    if let Err(error) = thread::Builder::new().spawn_scoped(scope, body) {
        tracing::warn!(%error, "a request for metrics cannot be answered");
        served.peers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Errors: the peer's, or that it took too long.
fn answer(served: &Served<'_>, stream: &TcpStream) -> io::Result<()> {
    let deadline = served.clock.monotonic() + PATIENCE;
    let head = read_head(served.clock, stream, deadline)?;
    let (status, page) = match head.as_deref().map(asked) {
        None => ("431 Request Header Fields Too Large", None),
        Some(Err(status)) => (status, None),
        Some(Ok(())) => ("200 OK", Some(served.page())),
    };
    let body = page.as_deref().unwrap_or(status);
    let kind = match page {
        Some(_) => FORMAT,
        None => "text/plain; charset=utf-8",
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // What it took to make the page is not the peer's fault.
    let deadline = served.clock.monotonic() + PATIENCE;
    write_until(served.clock, stream, head.as_bytes(), deadline)?;
    write_until(served.clock, stream, body.as_bytes(), deadline)?;
    stream.shutdown(Shutdown::Write)
}

/// Whether the page is asked for; else what to answer.
fn asked(head: &[u8]) -> Result<(), &'static str> {
    const BAD: &str = "400 Bad Request";
    let end = head
        .iter()
        .position(|byte| *byte == b'\r' || *byte == b'\n');
    let line = head.get(..end.unwrap_or(head.len())).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| BAD)?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = *words.as_slice() else {
        return Err(BAD);
    };
    if !version.starts_with("HTTP/1.") {
        return Err(BAD);
    }
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    match target.split('?').next() {
        Some(PATH) => Ok(()),
        _ => Err("404 Not Found"),
    }
}

/// Everything up to the empty line; `None` if it is too long.
fn read_head(
    clock: &dyn Clock,
    mut stream: &TcpStream,
    deadline: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(clock, deadline)?))?;
        let count = match stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(piece.iter().take(count));
        let is_whole = |end: &[u8]| head.windows(end.len()).any(|window| window == end);
        if is_whole(b"\r\n\r\n") || is_whole(b"\n\n") {
            return Ok(Some(head));
        }
        if head.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
    }
}

fn write_until(
    clock: &dyn Clock,
    mut stream: &TcpStream,
    mut bytes: &[u8],
    deadline: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(clock, deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Errors: `TimedOut` if there is none.
fn left(clock: &dyn Clock, deadline: Duration) -> io::Result<Duration> {
    match deadline.checked_sub(clock.monotonic()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Served<'_> {
    fn page(&self) -> Arc<str> {
        let mut page = self.page.lock();
        let now = self.clock.monotonic();
        if let Some((made, page)) = &*page
            && now.saturating_sub(*made) < PAGE_AGE_MAX
        {
            return Arc::clone(page);
        }
        let made: Arc<str> = (self.make)().into();
        *page = Some((self.clock.monotonic(), Arc::clone(&made)));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_apart_with_care() {
        for (head, status) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], Ok(())),
            (b"GET /metrics?x=1 HTTP/1.0\n\n", Ok(())),
            (b"GET / HTTP/1.1\r\n\r\n", Err("404")),
            (b"GET /metrics/.. HTTP/1.1\r\n\r\n", Err("404")),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Err("405")),
            (b"GET /metrics SPDY/3\r\n\r\n", Err("400")),
            (b"GET  /metrics HTTP/1.1\r\n\r\n", Err("400")),
            (b"\xff\xfe\r\n\r\n", Err("400")),
            (b"\r\n\r\n", Err("400")),
        ] {
            let found = asked(head).map_err(|status| &status[..3]);
            assert_eq!(found, status, "{}", head.escape_ascii());
        }
    }
}
