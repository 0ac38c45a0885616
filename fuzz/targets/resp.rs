//! What Redis clients send: framing, inline commands, every command on a small database.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stillfs::Database;
use stillfs::os::{Host, unix_socket};
use stillfs::server::{Server, ServerOptions};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::{sample, wire};

const COMMANDS: &[&str] = &[
    "PING", "ECHO", "AUTH", "HELLO", "SELECT", "QUIT", "GET", "SET", "MGET", "MSET", "SETNX",
    "GETDEL", "DEL", "EXISTS", "INCR", "INCRBY", "DECR", "DECRBY", "APPEND", "STRLEN", "SCAN",
    "KEYS", "DBSIZE", "FLUSHDB", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "INFO", "COMMAND",
    "CONFIG", "CLIENT", "EXPIRE", "STILLFS", "RESET", "FLUSHALL", "TTL",
];
const WORDS: &[&str] = &[
    "k",
    "l",
    "0",
    "1",
    "-1",
    "3",
    "NX",
    "XX",
    "GET",
    "MATCH",
    "COUNT",
    "*",
    "k?[a-z]",
    "SETNAME",
    "9223372036854775807",
    "-9223372036854775808",
    "EX",
    "LIST",
    "",
    "maxmemory",
];

/// A server on a simulated disk, reached by a real socket.
struct Rig {
    dir: tempfile::TempDir,
    database: Database,
    _server: Server,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("there is room for a socket");
    let machine = Host::simulated(1);
    let database = Database::open_on(&machine.host, sample::DIR, &sample::options())
        .expect("a database can be made");
    let options = ServerOptions {
        listen: None,
        unix: Some(dir.path().join("s")),
        ..ServerOptions::default()
    };
    let server = Server::start(database.clone(), options).expect("a socket can be bound");
    Rig {
        dir,
        database,
        _server: server,
    }
});

impl Rig {
    /// Leaves no table of the input before, so that an input fails by itself or not at all.
    fn clear(&self) {
        let mut write = self.database.begin_write().expect("nothing fails here");
        for table in write.tables().expect("nothing fails here") {
            write.drop_table(&table).expect("nothing fails here");
        }
        write.commit().expect("nothing fails here");
    }
}

/// Commands of words that mean something, with pieces of the input among them.
fn commands(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while !input.is_empty() {
        let (command, shape) = (input.u8(), input.u8());
        let mut words = vec![COMMANDS[usize::from(command) % COMMANDS.len()].as_bytes()];
        for _ in 0..shape % 6 {
            words.push(match input.u8() {
                255 => input.piece(),
                word => WORDS[usize::from(word) % WORDS.len()].as_bytes(),
            });
        }
        if shape & 0x80 == 0 {
            out.extend(format!("*{}\r\n", words.len()).bytes());
            for word in words {
                out.extend(format!("${}\r\n", word.len()).bytes());
                out.extend(word);
                out.extend(b"\r\n");
            }
        } else {
            out.extend(words.join(&b' '));
            out.extend(b"\r\n");
        }
    }
    out
}

fuzz_target!(
    init: stillfs_fuzz::plant(&[
        b"\xff*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\nGET k\r\nECHO \"a\\x00\" 'b'\r\n".to_vec(),
        vec![0, 24, 0, 7, 2, 0, 1, 20, 3, 2, 9, 11, 25, 0],
    ]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let bytes = match input.u8() {
            0..=127 => commands(&mut input),
            _ => input.rest().to_vec(),
        };
        RIG.clear();
        let stream = unix_socket::connect(&RIG.dir.path().join("s"));
        wire::converse(stream.expect("the server is there"), &bytes);
        let report = RIG.database.check().expect("nothing fails here");
        assert!(report.is_clean(), "{:?}", report.findings);
    }
);
