//! Words that are long, and that the server would keep, repeat or take apart.

use super::*;

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// G9: a pattern takes forty times its bytes once it is taken apart.
#[test]
fn long_patterns_are_refused() {
    let running = Running::new();
    let mut client = running.client();
    let pattern = long(16_385);
    let refused = "-ERR a pattern has 16385 bytes; at most 16384 can be used\r\n";
    client.ask(&format!("KEYS {pattern}"), refused);
    client.ask(&format!("SCAN 0 MATCH {pattern}"), refused);
    client.ask(&format!("CONFIG GET {pattern}"), refused);
    client.ask(&format!("KEYS {}", long(16_384)), "*0\r\n");
}

/// G9: a name is kept as long as its client, and told to everybody who asks.
#[test]
fn long_names_are_refused() {
    let running = Running::new();
    let mut client = running.client();
    let refused = "-ERR Client names cannot be longer than 256 bytes.\r\n";
    client.ask(&format!("CLIENT SETNAME {}", long(257)), refused);
    client.ask(&format!("HELLO 2 SETNAME {}", long(257)), refused);
    client.ask(&format!("CLIENT SETNAME {}", long(256)), "+OK\r\n");
}

#[test]
fn what_is_not_known_is_repeated_in_part() {
    let running = Running::new();
    let mut client = running.client();
    for command in ["CLIENT", "CONFIG", "COMMAND"] {
        client.send(&request(&format!("{command} {}", long(1 << 20))));
        let line = client.line();
        assert!(line.starts_with("-ERR unknown subcommand 'xxx"), "{line}");
        assert!(line.len() < 300, "{}", line.len());
    }
    client.send(&request(&long(1 << 20)));
    assert!(client.line().len() < 300);
}

/// G9: each row is a hundred times as long as the word that asks for it.
#[test]
fn rows_of_commands_are_counted() {
    let running = Running::with(|options| options.memory_max = 4 << 20);
    let mut client = running.client();
    let no_memory = "-OOM the server has no memory left for this: try again later, or with less at \
                     a time\r\n";
    let words = " get".repeat(10_000);
    client.ask(&format!("COMMAND INFO{words}"), no_memory);
    client.send(&request("COMMAND INFO get"));
    assert_eq!(client.line(), "*1");
}

/// G9: what was queued is in memory until all of it has run.
#[test]
fn memory_is_given_back_after_a_transaction_however_it_ends() {
    let running = Running::with(|options| options.memory_max = 16 << 20);
    let used = || running.server.shared.as_ref().unwrap().budget.used();
    for end in ["EXEC", "DISCARD", "RESET", "QUIT"] {
        let mut client = running.client();
        client.ask("WATCH a", "+OK\r\n");
        client.ask("MULTI", "+OK\r\n");
        client.ask(&format!("SET k {}", long(1 << 20)), "+QUEUED\r\n");
        client.ask("ECHO x", "+QUEUED\r\n");
        assert!(used() > 900_000);
        client.send(&request(end));
        client.line();
        drop(client);
        while used() > 0 {
            std::thread::yield_now();
        }
    }
}
