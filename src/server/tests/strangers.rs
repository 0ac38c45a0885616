//! Clients of a server that asks for a password.

use std::time::Instant;

use super::*;

const NEEDED: &str = "-NOAUTH Authentication required.\r\n";
const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

fn guarded(change: impl FnOnce(&mut ServerOptions)) -> Running {
    Running::with(|options| {
        options.access = Arc::new(Password::new(b"secret"));
        change(options);
    })
}

/// G2: what real Redis allows before the password, and nothing else.
#[test]
fn where_a_password_is_needed_nothing_goes_before_it() {
    let running = guarded(|_| {});
    let mut client = running.client();
    for command in [
        "SET k v",
        "PING",
        "MULTI",
        "INFO",
        "CONFIG GET *",
        "COMMAND",
    ] {
        client.ask(command, NEEDED);
    }
    client.send(&request("HELLO 3"));
    assert!(client.line().starts_with("-NOAUTH HELLO must be called"));
    client.ask("AUTH guess", WRONG);
    client.ask("AUTH other secret", WRONG);
    client.ask("EXISTS k", NEEDED);
    client.ask("AUTH secret", "+OK\r\n");
    client.ask("EXISTS k", ":0\r\n");
    client.ask("RESET", "+RESET\r\n");
    client.ask("PING", NEEDED);
    client.send(&request("HELLO 2 AUTH default secret"));
    assert_eq!(client.line(), "*14");
    let mut leaving = running.client();
    leaving.ask("QUIT", "+OK\r\n");
    assert_eq!(leaving.rest(), "");
}

#[test]
fn without_a_password_auth_is_an_error_and_changes_nothing() {
    let running = Running::new();
    let mut client = running.client();
    client.send(&request("AUTH x"));
    assert!(
        client
            .line()
            .starts_with("-ERR AUTH <password> called without")
    );
    client.ask("PING", "+PONG\r\n");
}

/// The password and what follows it may come in one piece, whatever its size.
#[test]
fn what_follows_the_password_in_the_same_bytes_counts_as_known() {
    let running = guarded(|_| {});
    let mut client = running.client();
    let mut wire = request("AUTH default secret");
    wire.extend(request(&format!("SET k {}", "v".repeat(100_000))));
    wire.extend(request("STRLEN k"));
    client.send(&wire);
    client.expect("+OK\r\n+OK\r\n:100000\r\n");
}

/// G5: R9: a length that a stranger announces is refused before its bytes come.
#[test]
fn a_stranger_cannot_make_the_server_keep_much() {
    let running = guarded(|_| {});
    for (wire, reason) in [
        ("*11\r\n", "unauthenticated multibulk length"),
        ("*2\r\n$16384\r\n", "unauthenticated bulk length"),
        (
            "*2\r\n$4\r\nAUTH\r\n$100000000\r\n",
            "unauthenticated bulk length",
        ),
        (&"a".repeat(17_000), "too big inline request"),
    ] {
        let mut client = running.client();
        client.send(wire.as_bytes());
        assert!(client.line().contains(reason), "{reason}");
        assert_eq!(client.rest(), "");
    }
    let mut client = running.client();
    client.ask(&format!("AUTH {}", "x".repeat(1024)), WRONG);
}

/// G6: five guesses for each connection, and each waits longer; RESET does not begin anew.
#[test]
fn who_guesses_waits_and_is_closed_after_five_times() {
    let running = guarded(|_| {});
    let mut guesser = running.client();
    let begun = Instant::now();
    let mut wire = Vec::new();
    for _ in 0..20 {
        wire.extend(request("AUTH guess"));
        wire.extend(request("RESET"));
    }
    guesser.send(&wire);
    let mut friend = running.client();
    friend.ask("AUTH secret", "+OK\r\n");
    friend.ask("PING", "+PONG\r\n");
    assert_eq!(guesser.rest().matches("WRONGPASS").count(), 5);
    // 100 + 200 + 400 + 800 + 1600 ms.
    assert!(begun.elapsed() >= Duration::from_millis(3100));
}

/// G5: strangers who sit there take the place of nobody.
#[test]
fn a_newcomer_takes_the_place_of_the_first_stranger() {
    let running = guarded(|options| {
        options.strangers_max = 2;
        options.connections_max = 4;
    });
    let mut known = running.client();
    known.ask("AUTH secret", "+OK\r\n");
    let mut strangers: Vec<_> = (0..3)
        .map(|_| {
            let mut client = running.client();
            client.ask("PING", NEEDED);
            client
        })
        .collect();
    assert_eq!(strangers[0].rest(), "");
    strangers[1].ask("PING", NEEDED);
    strangers[2].ask("AUTH secret", "+OK\r\n");
    // Two are known by now, so that there is room for one stranger beside the one who is there.
    let mut last = running.client();
    last.ask("AUTH secret", "+OK\r\n");
    strangers[1].ask("PING", NEEDED);
    known.ask("PING", "+PONG\r\n");
}

/// R10: silence is no way to keep a place.
#[test]
fn a_stranger_who_is_silent_or_talks_without_end_loses_the_place() {
    let running = guarded(|options| options.greeting_timeout = Duration::from_millis(300));
    let mut known = running.client();
    known.ask("AUTH secret", "+OK\r\n");
    let mut silent = running.client();
    let mut talking = running.client();
    assert_eq!(silent.rest(), "");
    loop {
        let _ = talking.0.write_all(&request("PING"));
        let mut reply = [0; 34];
        match talking.0.read(&mut reply) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    known.ask("PING", "+PONG\r\n");
}

/// G3: the password can be had from nowhere.
#[test]
fn no_command_shows_the_password() {
    let running = guarded(|_| {});
    let mut client = running.client();
    client.ask("AUTH secret", "+OK\r\n");
    client.ask("CONFIG GET requirepass", "*0\r\n");
    let mut wire = Vec::new();
    for command in [
        "CONFIG GET *",
        "INFO everything",
        "CLIENT LIST",
        "CLIENT INFO",
        "COMMAND",
    ] {
        wire.extend(request(command));
    }
    wire.extend(request("QUIT"));
    client.send(&wire);
    let all = client.rest();
    assert!(all.contains("maxclients"));
    assert!(!all.contains("secret"), "{all}");
}
