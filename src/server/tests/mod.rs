//! A real server on loopback, spoken to in raw bytes and by the Redis tools.
#![allow(clippy::disallowed_methods)]

mod commands;
mod durability;
mod greedy;
mod limits;
mod slow;
mod strangers;
mod tools;
mod transactions;
mod turns;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;

/// The one place of these tests that knows how a database is opened.
fn open_database() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::database::EngineOptions::default();
    let serving = crate::database::PinServing::Off;
    let database = Database::open(dir.path().join("db"), &options, serving).unwrap();
    (dir, database)
}

/// A server on a port of its own.
struct Running {
    server: Server,
    address: SocketAddr,
    database: Database,
    _dir: tempfile::TempDir,
}

impl Running {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let (dir, database) = open_database();
        let mut options = ServerOptions {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..ServerOptions::default()
        };
        change(&mut options);
        let server = Server::start(database.clone(), options).unwrap();
        let address = server.local_address().unwrap();
        Self {
            server,
            address,
            database,
            _dir: dir,
        }
    }

    fn client(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        // A reply that never comes fails the test instead of hanging it.
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Client(stream)
    }

    fn break_next_commit(&self) {
        let shared = self.server.shared.as_ref().unwrap();
        shared.break_next_commit.store(true, Ordering::SeqCst);
    }
}

/// A client that knows just enough of the protocol to be independent of the server's code.
struct Client<S>(S);

/// The array form of a request given as words between spaces.
fn request(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split(' ').collect();
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        wire.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    wire
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Receives exactly what is expected.
    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut found = vec![0; expected.len()];
        if let Err(error) = self.0.read_exact(&mut found) {
            let found = found.escape_ascii();
            panic!("expected {expected:?}, got only {found}: {error}");
        }
        assert_eq!(
            found.escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }

    /// Sends a command and receives exactly the expected reply.
    #[track_caller]
    fn ask(&mut self, text: &str, expected: &str) {
        self.send(&request(text));
        self.expect(expected);
    }

    /// Receives a line without its end.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap()
    }

    /// Receives a RESP2 bulk string.
    fn bulk(&mut self) -> String {
        let header = self.line();
        let length: usize = header.strip_prefix('$').unwrap().parse().unwrap();
        let mut body = vec![0; length + 2];
        self.0.read_exact(&mut body).unwrap();
        body.truncate(length);
        String::from_utf8(body).unwrap()
    }

    /// Receives an array of bulk strings.
    fn bulks(&mut self) -> Vec<String> {
        let header = self.line();
        let length: usize = header.strip_prefix('*').unwrap().parse().unwrap();
        (0..length).map(|_| self.bulk()).collect()
    }

    /// Receives whatever comes until the server closes; a reset counts as closing.
    fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}
