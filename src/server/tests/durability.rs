use super::*;

/// R1: nothing that depended on the failed commit is claimed, and what did not is answered.
#[test]
fn a_failed_commit_is_told_to_every_command_of_its_batch() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("SET k old", "+OK\r\n");
    running.break_next_commit();
    let mut wire = Vec::new();
    for command in [
        "PING",
        "SET k new",
        "GET k",
        "ECHO x",
        "MULTI",
        "SET l 1",
        "EXEC",
    ] {
        wire.extend(request(command));
    }
    client.send(&wire);
    let failed = "-ERR not committed: the database is open read-only\r\n";
    client.expect("+PONG\r\n");
    client.expect(&format!(
        "{failed}{failed}$1\r\nx\r\n+OK\r\n+QUEUED\r\n{failed}"
    ));
    client.ask("GET k", "$3\r\nold\r\n");
    client.ask("GET l", "$-1\r\n");
    client.ask("SET k new", "+OK\r\n");
}

/// R1: a reply is there only after the commit is.
#[test]
fn an_acknowledged_write_is_committed() {
    let running = Running::new();
    let mut client = running.client();
    for number in 0..50 {
        client.ask(&format!("SET k {number}"), "+OK\r\n");
        let reading = running.database.begin_read().unwrap();
        let value = reading.get("redis.0", b"k").unwrap().unwrap();
        assert_eq!(value, number.to_string().as_bytes());
    }
}

/// R2: reading waits for no writer.
#[test]
fn reading_goes_on_while_somebody_else_holds_the_write_transaction() {
    let running = Running::new();
    let (mut reader, mut writer) = (running.client(), running.client());
    let writing = running.database.begin_write().unwrap();
    writer.send(&request("SET k v"));
    reader.ask("GET k", "$-1\r\n");
    reader.ask("PING", "+PONG\r\n");
    reader.ask("WATCH k", "+OK\r\n");
    writing.rollback();
    writer.expect("+OK\r\n");
    reader.ask("GET k", "$1\r\nv\r\n");
}

/// R5: a client that asks for more than its socket holds and never reads holds nobody up.
#[test]
fn a_client_that_never_reads_harms_nobody() {
    let running = Running::with(|options| options.stop_grace = Duration::from_millis(50));
    let mut client = running.client();
    let value = "v".repeat(1 << 20);
    client.ask(&format!("SET big {value}"), "+OK\r\n");
    let mut deaf = running.client();
    for _ in 0..64 {
        deaf.send(&request("GET big"));
        deaf.send(&request("SET seen yes"));
    }
    for number in 0..100 {
        client.ask(&format!("SET k {number}"), "+OK\r\n");
    }
    // Stopping cuts it off instead of waiting for the write timeout.
    running.server.stop();
}

#[test]
fn stop_lets_the_running_batch_finish_and_its_reply_out() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("PING", "+PONG\r\n");
    let writing = running.database.begin_write().unwrap();
    client.send(&request("SET k v"));
    let idle = running.client();
    let shared = Arc::clone(running.server.shared.as_ref().unwrap());
    std::thread::scope(|scope| {
        let server = running.server;
        let stopping = scope.spawn(move || server.stop());
        // New clients are refused once the stop has begun, while the batch is still waiting.
        while !shared.registry.is_stopping() {
            std::thread::yield_now();
        }
        writing.rollback();
        let received = client.rest();
        // The command may not have been received when the stop began; then it was not run.
        let reading = running.database.begin_read().unwrap();
        let is_set = reading.contains("redis.0", b"k").unwrap();
        assert_eq!(received, if is_set { "+OK\r\n" } else { "" });
        stopping.join().unwrap();
    });
    assert_eq!(Client(idle.0).rest(), "");
    assert_eq!(shared.registry.count(), 0);
    // R8: the threads have given their handles of the server, and so of the database, back.
    assert_eq!(Arc::strong_count(&shared), 1);
    assert!(TcpStream::connect(running.address).is_err());
}

#[test]
fn dropping_a_server_stops_it() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("PING", "+PONG\r\n");
    drop(running.server);
    assert_eq!(client.rest(), "");
    assert!(TcpStream::connect(running.address).is_err());
}

/// Waits until so many batches wait for one that is run.
fn wait_for_group(running: &Running, waiting: usize) {
    let group = &running.server.shared.as_ref().unwrap().group;
    for _ in 0..20_000 {
        if group.is_running() && group.waiting() == waiting {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} batches wait", group.waiting());
}

/// R1, R12: three connections share a transaction: its failure first, its commit then.
#[test]
fn batches_that_wait_together_share_a_commit_and_its_failure() {
    let running = Running::new();
    let mut clients = [running.client(), running.client(), running.client()];
    for is_broken in [true, false] {
        let writing = running.database.begin_write().unwrap();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&request(&format!("SET k{number} {is_broken}")));
            wait_for_group(&running, number);
        }
        if is_broken {
            running.break_next_commit();
        }
        let before = running.database.stats().engine.commits;
        writing.rollback();
        for client in &mut clients {
            client.expect(match is_broken {
                true => "-ERR not committed: the database is open read-only\r\n",
                false => "+OK\r\n",
            });
        }
        let commits = running.database.stats().engine.commits - before;
        assert_eq!(commits, u64::from(!is_broken));
        for number in 0..3 {
            let expected = if is_broken {
                "$-1\r\n"
            } else {
                "$5\r\nfalse\r\n"
            };
            clients[0].ask(&format!("GET k{number}"), expected);
        }
    }
}

/// R12: a client whose changes fail takes nobody along that was not tried before, and later nobody at all.
#[test]
fn client_whose_changes_fail_does_not_keep_others_from_writing() {
    let failed = "-ERR not committed: the database is open read-only\r\n";
    let running = Running::new();
    let shared = running.server.shared.as_ref().unwrap();
    *shared.breaking_key.lock() = Some("bad".into());
    let [mut first, mut bad, mut later, mut last] = [(); 4].map(|()| running.client());
    let writing = running.database.begin_write().unwrap();
    let waiting = [&mut first, &mut bad, &mut later, &mut last];
    for (number, (client, key)) in waiting.into_iter().zip(["a", "bad", "b", "c"]).enumerate() {
        client.send(&request(&format!("SET {key} 1")));
        wait_for_group(&running, number);
    }
    writing.rollback();
    first.expect(failed);
    bad.expect(failed);
    later.expect("+OK\r\n");
    last.expect("+OK\r\n");

    let writing = running.database.begin_write().unwrap();
    first.send(&request("SET a 2"));
    wait_for_group(&running, 0);
    bad.send(&request("SET bad 2"));
    later.send(&request("SET b 2"));
    wait_for_group(&running, 1);
    writing.rollback();
    first.expect("+OK\r\n");
    bad.expect(failed);
    later.expect("+OK\r\n");

    *shared.breaking_key.lock() = None;
    bad.ask("SET bad 3", "+OK\r\n");
}

/// R2, R4, R12: however batches share transactions, no change is lost, and none is seen twice.
#[test]
fn counters_of_many_connections_lose_no_step() {
    let running = Running::new();
    let replies = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| running.client()).collect();
        let threads = clients.into_iter().map(|mut client| {
            scope.spawn(move || {
                let mut seen = Vec::new();
                for round in 0..60 {
                    match round % 3 {
                        0 => client.send(&request("INCR n")),
                        _ => {
                            let words = ["MULTI", "INCR n", "INCR n", "EXEC"].map(request);
                            client.send(&words.concat());
                            client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n");
                        }
                    }
                    let mut number = || client.line()[1..].parse::<u64>().unwrap();
                    let first = number();
                    seen.push(first);
                    if round % 3 != 0 {
                        assert_eq!(number(), first + 1, "nobody else in between");
                        seen.push(first + 1);
                    }
                }
                seen
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut sorted = replies;
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=800).collect::<Vec<_>>());
}
