use std::os::unix::net::UnixStream;

use bytes::Bytes;

use super::*;

/// R6: a length is believed only as far as bytes arrive.
#[test]
fn garbage_and_lying_lengths_end_the_connection_with_a_reason() {
    let running = Running::new();
    for (input, reason) in [
        (&b"*1048577\r\n"[..], "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1\r\n$536870912\r\n", "invalid bulk length"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*1\r\n$4\r\nPINGxx", "expected a line end"),
        (b"*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"PING \"x\r\n", "unbalanced quotes"),
        (&[b'*'; 64], "too big count string"),
        (&[b'a'; 70_000], "too big inline request"),
    ] {
        let mut client = running.client();
        client.send(b"PING\r\n");
        client.expect("+PONG\r\n");
        client.send(input);
        assert!(client.line().contains(reason), "{reason}");
        assert_eq!(client.rest(), "");
    }
    running.client().ask("PING", "+PONG\r\n");
}

/// What came before the broken request is still done and answered.
#[test]
fn requests_before_a_broken_one_are_answered() {
    let running = Running::new();
    let mut client = running.client();
    client.send(b"SET k v\r\n*1\r\n$x\r\nSET k w\r\n");
    client.expect("+OK\r\n-ERR Protocol error: invalid bulk length\r\n");
    assert_eq!(client.rest(), "");
    running.client().ask("GET k", "$1\r\nv\r\n");
}

/// R7: the lines of an HTTP request are not taken for commands.
#[test]
fn http_is_dropped_without_a_word() {
    let running = Running::new();
    for input in [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nSET k evil\r\n",
        "PUT / HTTP/1.1\r\n\r\nSET k evil\r\n",
        "Host: x\r\nSET k evil\r\n",
    ] {
        let mut client = running.client();
        client.send(input.as_bytes());
        assert_eq!(client.rest(), "");
    }
    running.client().ask("EXISTS k", ":0\r\n");
}

#[test]
fn a_value_that_arrives_in_pieces_is_whole() {
    let running = Running::new();
    let mut client = running.client();
    let value: String = (0..3_000_000)
        .map(|index| char::from(b'a' + (index % 23) as u8))
        .collect();
    let wire = request(&format!("SET k {value}"));
    for piece in wire.chunks(77_777) {
        client.send(piece);
    }
    client.expect("+OK\r\n");
    client.send(&request("GET k"));
    assert_eq!(client.bulk(), value);
    for byte in request("STRLEN k") {
        client.send(&[byte]);
    }
    client.expect(":3000000\r\n");
}

#[test]
fn one_client_too_many_is_turned_away_and_a_place_that_is_left_is_free() {
    let running = Running::with(|options| options.connections_max = 2);
    let (mut first, mut second) = (running.client(), running.client());
    first.ask("PING", "+PONG\r\n");
    second.ask("PING", "+PONG\r\n");
    let mut third = running.client();
    assert_eq!(third.rest(), "-ERR max number of clients reached\r\n");
    first.ask("QUIT", "+OK\r\n");
    assert_eq!(first.rest(), "");
    let shared = running.server.shared.as_ref().unwrap();
    while shared.registry.count() > 1 {
        std::thread::yield_now();
    }
    running.client().ask("PING", "+PONG\r\n");
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    for address in [
        "0.0.0.0:0",
        "192.0.2.1:6379",
        "[::]:0",
        "[::ffff:192.0.2.1]:0",
    ] {
        let (_dir, database) = open_database();
        let options = ServerOptions {
            listen: Some(address.parse().unwrap()),
            ..ServerOptions::default()
        };
        let error = Server::start(database, options).unwrap_err();
        assert!(
            matches!(error, ServerError::PasswordNeeded { .. }),
            "{error}"
        );
    }
    let (_dir, database) = open_database();
    let options = ServerOptions {
        listen: None,
        ..ServerOptions::default()
    };
    let error = Server::start(database, options).unwrap_err();
    assert!(matches!(error, ServerError::NoListener));
}

#[test]
fn a_unix_socket_serves_beside_the_address_and_goes_with_the_server() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("redis.sock");
    let running = Running::with(|options| options.unix = Some(path.clone()));
    let mut client = Client(UnixStream::connect(&path).unwrap());
    client.ask("SET k v", "+OK\r\n");
    running.client().ask("GET k", "$1\r\nv\r\n");
    let (_dir, database) = open_database();
    let again = ServerOptions {
        listen: None,
        unix: Some(path.clone()),
        ..ServerOptions::default()
    };
    let error = Server::start(database, again).unwrap_err();
    assert!(matches!(error, ServerError::BindPath { .. }));
    running.server.stop();
    assert_eq!(client.rest(), "");
    assert!(!path.exists());
}

/// An address has room for 107 bytes of path.
#[test]
fn a_unix_socket_may_have_a_longer_path_than_an_address() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("d".repeat(200));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("redis.sock");
    let running = Running::with(|options| options.unix = Some(path.clone()));
    let mut client = Client(crate::os::unix_socket::connect(&path).unwrap());
    client.ask("SET k v", "+OK\r\n");
    running.server.stop();
    assert!(!path.exists());
}

#[derive(Debug)]
struct Backups;

impl Statements for Backups {
    fn names(&self) -> &[&'static str] {
        &["backup", "get"]
    }

    fn run(&self, seat: &Seat, words: &[Bytes]) -> Reply {
        // The write transaction of the own batch would make this wait for ever.
        if let Some(database) = seat.database() {
            database.begin_write().unwrap().rollback();
        }
        Reply::count(words.len() as u64)
    }
}

#[test]
fn statements_of_others_run_outside_of_transactions() {
    let running = Running::with(|options| options.statements = Some(Arc::new(Backups)));
    let mut client = running.client();
    let mut wire = request("SET k v");
    wire.extend(request("Backup to x"));
    wire.extend(request("SET l v"));
    client.send(&wire);
    client.expect("+OK\r\n:3\r\n+OK\r\n");
    client.ask("GET k", "$1\r\nv\r\n");
    client.ask("MULTI", "+OK\r\n");
    client.ask(
        "BACKUP",
        "-ERR Command not allowed inside a transaction\r\n",
    );
    client.ask("DISCARD", "+OK\r\n");
}

/// What others answer is listed with what the server answers itself.
#[test]
fn statements_of_others_are_listed() {
    let running = Running::with(|options| options.statements = Some(Arc::new(Backups)));
    let mut client = running.client();
    client.ask(
        "COMMAND INFO backup none",
        "*2\r\n*6\r\n$6\r\nbackup\r\n:-2\r\n*1\r\n+no_multi\r\n:0\r\n:0\r\n:0\r\n*-1\r\n",
    );
    client.send(&request("COMMAND LIST"));
    let names = client.bulks();
    assert_eq!(names.iter().filter(|name| *name == "get").count(), 1);
    assert_eq!(names.last().map(String::as_str), Some("backup"));
    client.ask("COMMAND COUNT", &format!(":{}\r\n", names.len()));
}

/// R11: a batch that runs is finished before the seat is free; until it is open again, or if nothing is in
/// it, whatever needs the database answers LOADING, a transaction is over with EXEC, and nothing was changed.
#[test]
fn closed_seat_lets_running_batches_end_and_others_wait_outside() {
    const LOADING: &str =
        "-LOADING the database is being exchanged for another one; try again later\r\n";
    let running = Running::with(|options| options.statements = Some(Arc::new(Backups)));
    let seat = running.server.shared.as_ref().unwrap().seat.clone();
    let (mut client, mut queued) = (running.client(), running.client());
    client.ask("SET k v", "+OK\r\n");
    queued.ask("MULTI", "+OK\r\n");
    queued.ask("SET k other", "+QUEUED\r\n");
    // A batch that cannot go on, because somebody else writes.
    let writer = running.database.begin_write().unwrap();
    let mut waiting = running.client();
    waiting.send(&request("SET late v"));
    std::thread::sleep(Duration::from_millis(100));
    let closed = seat.close().unwrap();
    assert!(seat.close().is_none() && seat.database().is_none());
    let (sender, ended) = std::sync::mpsc::channel();
    let closing = std::thread::spawn(move || {
        closed.wait();
        sender.send(()).unwrap();
        closed
    });
    let soon = Duration::from_millis(50);
    assert!(ended.recv_timeout(soon).is_err(), "the batch still runs");
    for text in [
        "GET k",
        "SET k v",
        "WATCH k",
        "MULTI",
        "CHECKPOINT",
        "DBSIZE",
    ] {
        client.ask(text, LOADING);
    }
    queued.ask("EXEC", LOADING);
    queued.ask("EXEC", LOADING);
    client.ask("PING", "+PONG\r\n");
    client.ask("BACKUP to", ":2\r\n");
    client.send(&request("INFO"));
    let info = client.bulk();
    assert!(
        info.contains("loading:1") && !info.contains("stillfs_commits"),
        "{info}"
    );
    writer.rollback();
    waiting.expect("+OK\r\n");
    let closed = closing.join().unwrap();
    assert!(closed.take().is_some());
    drop(closed);
    client.ask("GET k", LOADING);
    let closed = seat.close().unwrap();
    closed.put(running.database.clone());
    drop(closed);
    client.ask("MGET k late", "*2\r\n$1\r\nv\r\n$1\r\nv\r\n");
    queued.ask("GET k", "$1\r\nv\r\n");
}

/// The longest value goes in and out, also when it replaces another and when it is appended to; one
/// byte more is refused and changes nothing.
#[test]
fn longest_value_is_set_got_and_grown() {
    let running = Running::new();
    let mut client = running.client();
    let longest = store::VALUE_BYTES_MAX;
    let mut set = |length: usize, fill: u8, reply: &str| {
        client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").as_bytes());
        client.send(&vec![fill; length]);
        client.send(b"\r\n");
        if reply.is_empty() {
            return assert!(client.line().starts_with("-ERR"));
        }
        client.expect(reply);
    };
    set(longest - 1, b'a', "+OK\r\n");
    set(longest + 1, b'b', "");
    let mut client = running.client();
    client.ask("APPEND k z", &format!(":{longest}\r\n"));
    client.send(&request("APPEND k z"));
    assert!(client.line().starts_with("-ERR"));
    client.send(&request("GET k"));
    let value = client.bulk();
    assert_eq!(value.len(), longest);
    assert!(value.ends_with("az") && value.starts_with("aa"));
    client.ask("DEL k", ":1\r\n");
    client.ask("EXISTS k", ":0\r\n");
}
