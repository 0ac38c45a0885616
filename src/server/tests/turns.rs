//! Many connections in one loop: what one of them does, or suffers, is nothing to the others.

use std::sync::Barrier;

use super::*;

/// Breaks down where the password is "break", in whatever thread it is asked.
#[derive(Debug)]
struct Breaking;

impl Access for Breaking {
    fn is_required(&self) -> bool {
        false
    }

    fn authenticate(&self, _user: &[u8], password: &[u8]) -> AccessDecision {
        assert_ne!(password, b"break", "as the test asked for");
        AccessDecision::Granted
    }
}

/// Waits in the middle of a statement until the test comes too.
#[derive(Debug)]
struct Waiting(Arc<Barrier>);

impl Statements for Waiting {
    fn names(&self) -> &[&'static str] {
        &["wait"]
    }

    fn run(&self, _seat: &Seat, words: &[bytes::Bytes]) -> Reply {
        assert_eq!(words.len(), 1, "as the test asked for");
        self.0.wait();
        self.0.wait();
        Reply::OK
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}");
}

/// R13: a statement lasts, and its own connection waits for it, and nobody else.
#[test]
fn quick_commands_go_on_beside_a_slow_statement() {
    let barrier = Arc::new(Barrier::new(2));
    let statements = Arc::new(Waiting(Arc::clone(&barrier)));
    let running = Running::with(|options| options.statements = Some(statements));
    let (mut slow, mut quick) = (running.client(), running.client());
    slow.send(&request("WAIT"));
    barrier.wait();
    slow.send(&request("GET k"));
    for number in 0..50 {
        quick.ask(&format!("SET k {number}"), "+OK\r\n");
        quick.ask("PING", "+PONG\r\n");
    }
    barrier.wait();
    slow.expect("+OK\r\n$2\r\n49\r\n");
}

/// R13: a client whose statement breaks down is closed, and so is one whose command does; the loop goes on.
#[test]
fn a_command_that_breaks_down_closes_its_own_connection() {
    let statements = Arc::new(Waiting(Arc::new(Barrier::new(1))));
    let running = Running::with(|options| {
        options.access = Arc::new(Breaking);
        options.statements = Some(statements);
    });
    let mut witness = running.client();
    for text in ["AUTH break", "WAIT for nobody"] {
        let mut client = running.client();
        client.ask("PING", "+PONG\r\n");
        client.send(&request(text));
        assert_eq!(client.rest(), "", "{text}");
        witness.ask("SET k v", "+OK\r\n");
    }
}

/// R12, R13: those that shared its transaction are closed with it, nothing of theirs is there, and the
/// writers go on.
#[test]
fn a_write_that_breaks_down_takes_those_along_that_share_its_transaction() {
    let running = Running::with(|options| options.access = Arc::new(Breaking));
    let group = &running.server.shared.as_ref().unwrap().group;
    let [mut first, mut bad, mut later] = [(); 3].map(|()| running.client());
    later.ask("PING", "+PONG\r\n");
    for _ in 0..3 {
        let writing = running.database.begin_write().unwrap();
        let (mut first, mut bad) = (running.client(), running.client());
        first.send(&request("SET a 1"));
        wait_until("it runs", || group.is_running() && group.waiting() == 0);
        bad.send(&[request("SET b 1"), request("AUTH break")].concat());
        wait_until("it waits", || group.waiting() == 1);
        // It has not been tried when the one before breaks down, and shares the next transaction.
        let mut behind = running.client();
        behind.send(&request("SET d 1"));
        wait_until("it waits", || group.waiting() == 2);
        writing.rollback();
        assert_eq!((first.rest(), bad.rest()), (String::new(), String::new()));
        behind.expect("+OK\r\n");
        later.ask("EXISTS a b", ":0\r\n");
        later.ask("SET c 1", "+OK\r\n");
    }
    first.ask("SET a 2", "+OK\r\n");
    bad.ask("SET b 2", "+OK\r\n");
}

/// R1, R2: replies come in the order of the requests, wherever their batches run and whenever they come.
#[test]
fn requests_that_come_while_others_run_are_answered_in_order() {
    let running = Running::new();
    let client = running.client();
    let mut sending = Client(client.0.try_clone().unwrap());
    let mut client = client;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0..600 {
                sending.send(&request("INCR n"));
                match round % 3 {
                    0 => sending.send(&request("GET n")),
                    1 => sending.send(&request("KEYS n")),
                    _ => sending.send(&request("ECHO x")),
                }
            }
        });
        for round in 0..600 {
            let number = (round + 1).to_string();
            client.expect(&format!(":{number}\r\n"));
            match round % 3 {
                0 => client.expect(&format!("${}\r\n{number}\r\n", number.len())),
                1 => client.expect("*1\r\n$1\r\nn\r\n"),
                _ => client.expect("$1\r\nx\r\n"),
            }
        }
    });
}

/// R5: what a socket had no room for is sent when there is some, in whole and in order.
#[test]
fn a_client_that_takes_its_replies_late_gets_all_of_them() {
    let running = Running::new();
    let (mut late, mut other) = (running.client(), running.client());
    let value = "v".repeat(1 << 20);
    other.ask(&format!("SET big {value}"), "+OK\r\n");
    for number in 0..24 {
        late.send(&request("GET big"));
        late.send(&request(&format!("SET seen {number}")));
    }
    other.ask("PING", "+PONG\r\n");
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..24 {
        assert_eq!(late.bulk(), value);
        late.expect("+OK\r\n");
    }
    other.ask("GET seen", "$2\r\n23\r\n");
    let shared = running.server.shared.as_ref().unwrap();
    wait_until("memory is given back", || shared.budget.used() == 0);
}

/// R10: the time for the rest of a request begins when the replies before it were taken, which is when it is looked
/// for.
#[test]
fn replies_that_are_taken_slowly_take_no_time_from_the_next_request() {
    let running = Running::with(|options| options.request_timeout = Duration::from_millis(200));
    let mut client = running.client();
    let value = "v".repeat(1 << 20);
    client.ask(&format!("SET big {value}"), "+OK\r\n");
    let next = request(&format!("SET next {}", "n".repeat(100_000)));
    let (head, rest) = next.split_at(20);
    client.send(
        &[
            &request("MGET big big big big big big big big big big big big"),
            head,
        ]
        .concat(),
    );
    let mut sending = Client(client.0.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || sending.send(rest));
        assert_eq!(client.line(), "*12");
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(client.bulk().len(), value.len());
        }
        client.expect("+OK\r\n");
    });
}

/// R1, R2: who says that nothing more will come gets the replies of all that came.
#[test]
fn a_client_that_ends_its_side_gets_its_replies() {
    let running = Running::new();
    for _ in 0..20 {
        let mut client = running.client();
        client.send(&[request("SET k v"), request("GET k"), request("SET k w")].concat());
        client.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.rest(), "+OK\r\n$1\r\nv\r\n+OK\r\n");
    }
}

/// A client that goes while its batch waits to run, with more that nobody has read: what was taken is done,
/// and its place is free.
#[test]
fn a_client_that_goes_with_bytes_pending_leaves_nothing_behind() {
    let running = Running::new();
    let shared = running.server.shared.as_ref().unwrap();
    let mut other = running.client();
    other.ask("PING", "+PONG\r\n");
    let writing = running.database.begin_write().unwrap();
    let mut going = running.client();
    going.send(&request("SET k v"));
    wait_until("it runs", || shared.group.is_running());
    going.send(&request("SET k other")[..12]);
    drop(going);
    other.ask("PING", "+PONG\r\n");
    assert_eq!(shared.registry.count(), 2);
    writing.rollback();
    wait_until("its place is free", || shared.registry.count() == 1);
    other.ask("GET k", "$1\r\nv\r\n");
    assert_eq!(shared.budget.used(), 0);
}

/// R8: replies that are half sent when a stop begins are sent in whole to a client that takes them.
#[test]
fn stop_lets_replies_out_that_are_half_sent() {
    let running = Running::with(|options| options.stop_grace = Duration::from_secs(60));
    let mut client = running.client();
    let value = "v".repeat(1 << 20);
    client.ask(&format!("SET big {value}"), "+OK\r\n");
    client.send(&request(
        "MGET big big big big big big big big big big big big",
    ));
    assert_eq!(client.line(), "*12");
    let shared = Arc::clone(running.server.shared.as_ref().unwrap());
    std::thread::scope(|scope| {
        let server = running.server;
        let stopping = scope.spawn(move || server.stop());
        wait_until("the stop begins", || shared.registry.is_stopping());
        std::thread::sleep(Duration::from_millis(20));
        for _ in 0..12 {
            assert_eq!(client.bulk().len(), value.len());
        }
        assert_eq!(client.rest(), "");
        stopping.join().unwrap();
    });
    assert_eq!(Arc::strong_count(&shared), 1);
}
