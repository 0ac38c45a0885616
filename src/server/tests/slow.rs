//! Clients that hold what they have: places, half requests, replies that they do not take.

use super::*;

/// G7: R10: a place is not kept by connecting, nor by a request that never ends.
#[test]
fn silence_before_the_first_command_and_half_requests_end() {
    let running = Running::with(|options| {
        options.greeting_timeout = Duration::from_millis(300);
        options.request_timeout = Duration::from_millis(300);
    });
    let mut idle = running.client();
    idle.ask("PING", "+PONG\r\n");
    assert_eq!(running.client().rest(), "");
    for half in [
        "*2\r\n$4\r\n",
        "GET",
        "*1000000\r\n",
        "*1\r\n$100000000\r\nxxx",
    ] {
        let mut client = running.client();
        client.ask("PING", "+PONG\r\n");
        client.send(half.as_bytes());
        assert_eq!(client.rest(), "", "{half}");
    }
    // A known client may be silent between two commands as long as it likes.
    idle.ask("PING", "+PONG\r\n");
}

/// G7: each byte is progress, and a request of them is none.
#[test]
fn a_request_that_trickles_ends() {
    let running = Running::with(|options| options.request_timeout = Duration::from_millis(400));
    let mut client = running.client();
    client.ask("PING", "+PONG\r\n");
    client.send(b"*1\r\n$1000\r\n");
    let began = std::time::Instant::now();
    while client.0.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(began.elapsed() < Duration::from_secs(60), "it goes on");
    }
}

/// A value that comes slowly but steadily has time according to its length.
#[test]
fn a_slow_but_steady_request_is_let_finish() {
    let running = Running::with(|options| options.request_timeout = Duration::from_millis(300));
    let mut client = running.client();
    let value = "v".repeat(400_000);
    for piece in request(&format!("SET k {value}")).chunks(50_000) {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(100));
    }
    client.expect("+OK\r\n");
}

/// G8: R5: what it does not take is dropped with it, and nobody waits for it.
#[test]
fn a_client_that_takes_no_replies_is_closed_and_gives_its_memory_back() {
    let running = Running::with(|options| options.write_timeout = Duration::from_millis(300));
    let mut healthy = running.client();
    healthy.ask(&format!("SET k {}", "v".repeat(8 << 20)), "+OK\r\n");
    let mut deaf = running.client();
    for _ in 0..4 {
        deaf.send(&request("MGET k k k k"));
    }
    let shared = running.server.shared.as_ref().unwrap();
    while shared.registry.count() > 1 {
        healthy.ask("SET l w", "+OK\r\n");
    }
    while shared.budget.used() > 0 {
        std::thread::yield_now();
    }
}

/// G8: one byte now and then is no taking.
#[test]
fn a_client_that_takes_replies_byte_by_byte_is_closed() {
    let running = Running::with(|options| options.write_timeout = Duration::from_millis(300));
    let mut client = running.client();
    client.ask(&format!("SET k {}", "v".repeat(8 << 20)), "+OK\r\n");
    client.send(&request("MGET k k k k"));
    let shared = running.server.shared.as_ref().unwrap();
    while shared.registry.count() > 0 {
        let _ = client.0.read(&mut [0; 512]);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// G9: R9: when all memory is taken, large things fail with a reason and small ones go on.
#[test]
fn without_memory_large_commands_fail_and_small_ones_go_on() {
    let running = Running::with(|options| options.memory_max = 4 << 20);
    let mut client = running.client();
    client.ask(&format!("SET k {}", "v".repeat(1 << 20)), "+OK\r\n");
    client.send(&request("GET k"));
    assert_eq!(client.bulk().len(), 1 << 20);
    let no_memory = "-OOM the server has no memory left for this: try again later, or with less at \
                     a time\r\n";
    client.ask("MGET k k k", no_memory);
    client.ask("APPEND k x", ":1048577\r\n");
    client.ask("STRLEN k", ":1048577\r\n");
    client.ask("MULTI", "+OK\r\n");
    let value = "v".repeat(1 << 20);
    for _ in 0..3 {
        client.send(&request(&format!("SET l {value}")));
    }
    client.expect("+QUEUED\r\n+QUEUED\r\n");
    client.expect(no_memory);
    client.ask(
        "EXEC",
        "-EXECABORT Transaction discarded because of previous errors.\r\n",
    );
    client.ask("EXISTS l", ":0\r\n");
    let mut greedy = running.client();
    // The server closes before it has read all of it.
    let _ = greedy
        .0
        .write_all(&request(&format!("SET m {}", "v".repeat(16 << 20))));
    greedy.rest();
    client.ask("EXISTS m", ":0\r\n");
    assert_eq!(running.server.shared.as_ref().unwrap().budget.used(), 0);
}

/// R9: an argument takes more than its bytes, and a million of nothing are counted too.
#[test]
fn empty_arguments_are_counted() {
    let running = Running::with(|options| options.memory_max = 4 << 20);
    let mut client = running.client();
    let mut wire = b"*1000000\r\n$3\r\nDEL\r\n".to_vec();
    wire.extend(b"$0\r\n\r\n".repeat(300_000));
    let _ = client.0.write_all(&wire);
    client.rest();
    running.client().ask("PING", "+PONG\r\n");
}
