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
