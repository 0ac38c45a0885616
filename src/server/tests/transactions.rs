use super::*;

#[test]
fn multi_queues_and_exec_runs() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("MULTI", "+OK\r\n");
    client.ask("SET k 1", "+QUEUED\r\n");
    client.ask("INCR k", "+QUEUED\r\n");
    client.ask("MULTI", "-ERR MULTI calls can not be nested\r\n");
    client.ask("SET s x", "+QUEUED\r\n");
    client.ask("INCR s", "+QUEUED\r\n");
    client.ask(
        "EXEC",
        "*4\r\n+OK\r\n:2\r\n+OK\r\n-ERR value is not an integer or out of range\r\n",
    );
    client.ask("GET k", "$1\r\n2\r\n");
    client.ask("EXEC", "-ERR EXEC without MULTI\r\n");
    client.ask("DISCARD", "-ERR DISCARD without MULTI\r\n");
    client.ask("MULTI", "+OK\r\n");
    client.ask("EXEC", "*0\r\n");
}

#[test]
fn a_command_that_cannot_be_queued_aborts_the_transaction() {
    let running = Running::new();
    let mut client = running.client();
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    for wrong in ["NOSUCH", "GET", "CHECKPOINT", "INFO", "HELLO 3"] {
        client.ask("MULTI", "+OK\r\n");
        client.ask("SET k v", "+QUEUED\r\n");
        client.send(&request(wrong));
        assert!(client.line().starts_with("-ERR "));
        client.ask("EXEC", aborted);
    }
    client.ask("GET k", "$-1\r\n");
    client.ask("MULTI", "+OK\r\n");
    client.ask("SET k v", "+QUEUED\r\n");
    client.ask("DISCARD", "+OK\r\n");
    client.ask("GET k", "$-1\r\n");
}

/// R4: nobody sees a part of a transaction, and nobody's commands come between.
#[test]
fn transactions_are_isolated() {
    let running = Running::new();
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let mut client = running.client();
            scope.spawn(move || {
                for _ in 0..200 {
                    client.send(&request("MULTI"));
                    client.send(&request(&format!("SET a {name}")));
                    client.send(&request(&format!("SET b {name}")));
                    client.send(&request("GET a"));
                    client.send(&request("EXEC"));
                    client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
                    client.expect(&format!("*3\r\n+OK\r\n+OK\r\n$3\r\n{name}\r\n"));
                }
            });
        }
        let mut reader = running.client();
        scope.spawn(move || {
            for _ in 0..400 {
                reader.send(&request("MGET a b"));
                assert_eq!(reader.line(), "*2");
                let (a, b) = (reader.line(), reader.line());
                if a == "$-1" {
                    assert_eq!(b, "$-1");
                    continue;
                }
                // The first line of b was the value of a.
                assert_eq!(reader.bulk(), b);
            }
        });
    });
}

#[test]
fn exec_does_nothing_after_a_watched_key_changed() {
    let running = Running::new();
    let (mut client, mut other) = (running.client(), running.client());
    let transaction = |client: &mut Client<TcpStream>, expected: &str| {
        client.ask("MULTI", "+OK\r\n");
        client.ask("SET result done", "+QUEUED\r\n");
        client.ask("EXEC", expected);
    };
    client.ask("WATCH k none", "+OK\r\n");
    other.ask("SET k 1", "+OK\r\n");
    transaction(&mut client, "*-1\r\n");
    client.ask("GET result", "$-1\r\n");
    // The watch ended with EXEC.
    transaction(&mut client, "*1\r\n+OK\r\n");
    client.ask("WATCH k", "+OK\r\n");
    other.ask("DEL k", ":1\r\n");
    client.ask("UNWATCH", "+OK\r\n");
    transaction(&mut client, "*1\r\n+OK\r\n");
    // Watching again does not forget what the key was at first.
    client.ask("WATCH k", "+OK\r\n");
    other.ask("SET k 2", "+OK\r\n");
    client.ask("WATCH k", "+OK\r\n");
    transaction(&mut client, "*-1\r\n");
    // A change by the application that owns the database counts as well.
    client.ask("WATCH k", "+OK\r\n");
    let mut writing = running.database.begin_write().unwrap();
    writing.put("redis.0", b"k", b"3").unwrap();
    writing.commit().unwrap();
    client.ask("MULTI", "+OK\r\n");
    client.ask("WATCH k", "-ERR WATCH inside MULTI is not allowed\r\n");
    client.ask("GET k", "+QUEUED\r\n");
    client.ask("EXEC", "*-1\r\n");
    client.ask("HELLO 2 SETNAME x", "*14\r\n");
    client.rest_of_hello();
}

impl Client<TcpStream> {
    /// Receives the seven pairs of a greeting in RESP2.
    fn rest_of_hello(&mut self) {
        let mut greeting = String::new();
        while !greeting.ends_with("modules *0 ") {
            greeting.push_str(&self.line());
            greeting.push(' ');
        }
    }
}

#[test]
fn one_hundred_connections_count_exactly() {
    let running = Running::new();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            let mut client = running.client();
            scope.spawn(move || {
                for round in 0..20 {
                    // Alone, and several in one batch.
                    if round % 2 == 0 {
                        client.send(&request("INCR n"));
                        assert!(client.line().starts_with(':'));
                    } else {
                        client.send(&request("INCR n").repeat(3));
                        (0..3).for_each(|_| assert!(client.line().starts_with(':')));
                    }
                }
            });
        }
    });
    running.client().ask("GET n", "$4\r\n4000\r\n");
}

#[test]
fn ten_thousand_pipelined_commands_are_answered_in_order() {
    let running = Running::new();
    let mut client = running.client();
    let mut sender = Client(client.0.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(&request("INCR n").repeat(10_000)));
        for number in 1..=10_000 {
            assert_eq!(client.line(), format!(":{number}"));
        }
    });
    // What one send brings is far fewer commits than commands.
    let commits = running.database.begin_read().unwrap().timestamp().0;
    assert!(commits < 5_000, "{commits} commits");
}

/// R2: written by one send, so the server finds both in one batch or in two; either way in order.
#[test]
fn commands_of_a_batch_see_those_before_them() {
    let running = Running::new();
    let mut client = running.client();
    let mut wire = Vec::new();
    for command in [
        "SET k 1",
        "GET k",
        "CHECKPOINT",
        "INCR k",
        "MULTI",
        "INCR k",
        "INFO",
        "DISCARD",
        "SELECT 1",
        "SET k x",
        "SELECT 0",
        "DEL k",
        "GET k",
        "HELLO 3",
    ] {
        wire.extend(request(command));
    }
    client.send(&wire);
    client.expect("+OK\r\n$1\r\n1\r\n*4\r\n$13\r\npages_written\r\n");
    client.line();
    client.expect("$15\r\nlog_bytes_freed\r\n");
    client.line();
    client
        .expect(":2\r\n+OK\r\n+QUEUED\r\n-ERR Command not allowed inside a transaction\r\n+OK\r\n");
    client.expect("+OK\r\n+OK\r\n+OK\r\n:1\r\n$-1\r\n%7\r\n");
}
