//! Sockets whose other end says what the fuzzer wants.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use stillfs::database::SOCKET_FILE;
use stillfs::pin::PROTOCOL_VERSION;
use stillfs::{Database, PinServing};

use crate::input::Input;
use crate::sample;

/// Longer than any answer here takes: what does not answer until then hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// Frames of the control protocol: each a length, and a piece of the input. Some lengths lie.
pub fn frames(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while !input.is_empty() {
        let lie = input.u8();
        let payload = input.piece();
        let length = match lie {
            255 => u32::MAX,
            254 => input.u32(),
            _ => payload.len() as u32,
        };
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(payload);
    }
    out
}

/// Says `bytes`, then nothing more, and hears what comes until the end of the connection.
///
/// Panics if that does not come.
pub fn converse(mut stream: UnixStream, bytes: &[u8]) -> Vec<u8> {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    stream
        .set_write_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    // Who refuses the first bytes may close before the last are sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(
            is_reset,
            "the other side neither answers nor closes: {error}"
        );
    }
    heard
}

/// The greeting of a client, as a frame.
pub const HELLO: &[u8] = &[4, 0, 0, 0, 0, PROTOCOL_VERSION.to_le_bytes()[0], 1, b'f'];

/// A client that greets, asks whether anybody is there, for a pin, and for the status.
pub fn conversation() -> Vec<u8> {
    let pin: &[u8] = &[6, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    [HELLO, &[1, 0, 0, 0, 5], pin, &[1, 0, 0, 0, 4]].concat()
}

/// A database on the real disk that hands out pins.
pub struct Pinnable {
    dir: tempfile::TempDir,
    _database: Database,
}

/// The one of this process.
pub static ENGINE: LazyLock<Pinnable> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("there is room for a database");
    let database = Database::open(dir.path().join("db"), &sample::options(), PinServing::On)
        .expect("a database can be made");
    Pinnable {
        dir,
        _database: database,
    }
});

impl Pinnable {
    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("db").join(SOCKET_FILE)
    }
}
