use super::*;

#[test]
fn strings_are_set_and_read() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("GET k", "$-1\r\n");
    client.ask("SET k v", "+OK\r\n");
    client.ask("get k", "$1\r\nv\r\n");
    client.ask("GETSET k w", "$1\r\nv\r\n");
    client.ask("APPEND k xyz", ":4\r\n");
    client.ask("APPEND new ab", ":2\r\n");
    client.ask("STRLEN k", ":4\r\n");
    client.ask("STRLEN none", ":0\r\n");
    client.ask("SETNX k no", ":0\r\n");
    client.ask("SETNX n yes", ":1\r\n");
    client.ask("MGET k none n", "*3\r\n$4\r\nwxyz\r\n$-1\r\n$3\r\nyes\r\n");
    client.ask("MSET a 1 b 2 a 3", "+OK\r\n");
    client.ask("MGET a b", "*2\r\n$1\r\n3\r\n$1\r\n2\r\n");
    client.ask("MSETNX c 1 a 9", ":0\r\n");
    client.ask("EXISTS c", ":0\r\n");
    client.ask("MSETNX c 1 d 9", ":1\r\n");
    client.ask("GETDEL c", "$1\r\n1\r\n");
    client.ask("GETDEL c", "$-1\r\n");
    client.ask("GETEX d", "$1\r\n9\r\n");
    client.ask(
        "MSET a",
        "-ERR wrong number of arguments for 'mset' command\r\n",
    );
    client.ask(
        "MSET a 1 b",
        "-ERR wrong number of arguments for 'mset' command\r\n",
    );
}

#[test]
fn set_obeys_its_options() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("SET k 1 XX", "$-1\r\n");
    client.ask("EXISTS k", ":0\r\n");
    client.ask("SET k 1 NX", "+OK\r\n");
    client.ask("SET k 2 nx", "$-1\r\n");
    client.ask("SET k 3 XX KEEPTTL", "+OK\r\n");
    client.ask("SET k 4 GET", "$1\r\n3\r\n");
    client.ask("SET k 5 NX GET", "$1\r\n4\r\n");
    client.ask("SET k 6 XX GET", "$1\r\n4\r\n");
    client.ask("SET new 1 GET", "$-1\r\n");
    client.ask("SET other 1 XX GET", "$-1\r\n");
    client.ask("MGET k new other", "*3\r\n$1\r\n6\r\n$1\r\n1\r\n$-1\r\n");
    client.ask("SET k 7 NX XX", "-ERR syntax error\r\n");
    client.ask("SET k 7 SOON", "-ERR syntax error\r\n");
    client.ask("GET k", "$1\r\n6\r\n");
}

#[test]
fn counters_count_and_refuse_what_is_no_number() {
    let running = Running::new();
    let mut client = running.client();
    let no_number = "-ERR value is not an integer or out of range\r\n";
    client.ask("INCR n", ":1\r\n");
    client.ask("INCRBY n 41", ":42\r\n");
    client.ask("DECR n", ":41\r\n");
    client.ask("DECRBY n -1", ":42\r\n");
    client.ask("INCRBY n 01", no_number);
    client.ask("SET s 1x", "+OK\r\n");
    client.ask("INCR s", no_number);
    client.ask("SET n 9223372036854775807", "+OK\r\n");
    client.ask("INCR n", "-ERR increment or decrement would overflow\r\n");
    client.ask(
        "DECRBY n -9223372036854775808",
        "-ERR decrement would overflow\r\n",
    );
    client.ask("INCRBY n -9223372036854775808", ":-1\r\n");
    client.ask("GET s", "$2\r\n1x\r\n");
    // The reply has 18 digits, which the protocol crate takes for 19.
    client.ask("SET n 999999999999999998", "+OK\r\n");
    client.ask("INCR n", ":999999999999999999\r\n");
    client.ask("PING", "+PONG\r\n");
}

#[test]
fn keys_are_counted_listed_and_removed() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("MSET a:1 x a:2 x b:1 x", "+OK\r\n");
    client.ask("DBSIZE", ":3\r\n");
    client.ask("EXISTS a:1 a:1 none", ":2\r\n");
    client.ask("TYPE a:1", "+string\r\n");
    client.ask("TYPE none", "+none\r\n");
    client.ask("TTL a:1", ":-1\r\n");
    client.ask("PTTL none", ":-2\r\n");
    client.ask("PERSIST a:1", ":0\r\n");
    client.ask("KEYS a:*", "*2\r\n$3\r\na:1\r\n$3\r\na:2\r\n");
    client.ask("KEYS *:1", "*2\r\n$3\r\na:1\r\n$3\r\nb:1\r\n");
    client.ask("KEYS a:1", "*1\r\n$3\r\na:1\r\n");
    client.ask("KEYS c*", "*0\r\n");
    client.ask("DEL a:1 a:1 none", ":1\r\n");
    client.ask("UNLINK a:2", ":1\r\n");
    client.ask("FLUSHDB ASYNC", "+OK\r\n");
    client.ask("FLUSHDB NOW", "-ERR syntax error\r\n");
    client.ask("DBSIZE", ":0\r\n");
}

#[test]
fn numbered_databases_are_apart() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("SET k zero", "+OK\r\n");
    client.ask("SELECT 15", "+OK\r\n");
    client.ask("GET k", "$-1\r\n");
    client.ask("SET k fifteen", "+OK\r\n");
    client.ask("SELECT 16", "-ERR DB index is out of range\r\n");
    client.ask("SELECT -1", "-ERR DB index is out of range\r\n");
    client.ask(
        "SELECT x",
        "-ERR value is not an integer or out of range\r\n",
    );
    client.ask("GET k", "$7\r\nfifteen\r\n");
    let reading = running.database.begin_read().unwrap();
    let table = |name| reading.get(name, b"k").unwrap().unwrap();
    assert_eq!(table("redis.0"), b"zero");
    assert_eq!(table("redis.15"), b"fifteen");
    client.ask("SELECT 3", "+OK\r\n");
    client.ask("FLUSHALL", "+OK\r\n");
    client.ask("SELECT 0", "+OK\r\n");
    client.ask("DBSIZE", ":0\r\n");
}

/// A key that cannot be stored is not there; a command that would have to store it is refused.
#[test]
fn keys_and_values_that_do_not_fit_are_refused() {
    let running = Running::new();
    let mut client = running.client();
    let long = "k".repeat(1025);
    let refusal = "-ERR a key has 1025 bytes; it must have 1 to 1024\r\n";
    for command in [
        "SET {} v",
        "INCR {}",
        "APPEND {} v",
        "MSET a 1 {} v",
        "SETNX {} v",
    ] {
        client.ask(&command.replace("{}", &long), refusal);
    }
    client.ask("EXISTS a", ":0\r\n");
    client.ask(&format!("GET {long}"), "$-1\r\n");
    client.ask(&format!("DEL {long}"), ":0\r\n");
    client.send(b"SET \"\" v\r\n");
    client.expect("-ERR a key has 0 bytes; it must have 1 to 1024\r\n");
    let longest = "k".repeat(1024);
    client.ask(&format!("SET {longest} v"), "+OK\r\n");
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nv\r\n$67108865\r\n");
    client.send(&vec![b'v'; 67_108_865]);
    client.send(b"\r\n");
    client.expect("-ERR a value has 67108865 bytes; at most 67108864 can be stored\r\n");
    client.ask("EXISTS v", ":0\r\n");
}

/// R3: an error is an error, and not half a command.
#[test]
fn expiry_is_refused_and_changes_nothing() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("SET k old", "+OK\r\n");
    for (command, option) in [
        ("SET k v EX 10", "EX"),
        ("SET k v px 10", "PX"),
        ("SET k v EXAT 10", "EXAT"),
        ("SETEX k 10 v", "SETEX"),
        ("PSETEX k 10 v", "PSETEX"),
        ("EXPIRE k 10", "EXPIRE"),
        ("pexpireat k 10", "PEXPIREAT"),
        ("GETEX k EX 10", "EX"),
    ] {
        let expected = format!(
            "-ERR expiry is not supported: stillfs keeps a key until it is deleted, so '{option}' is refused\r\n"
        );
        client.ask(command, &expected);
    }
    client.ask("GET k", "$3\r\nold\r\n");
}

#[test]
fn a_scan_returns_every_key_once_while_others_come_and_go() {
    let running = Running::new();
    let (mut client, mut other) = (running.client(), running.client());
    for index in 0..100 {
        client.ask(&format!("SET k{index:03} v"), "+OK\r\n");
    }
    let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
    loop {
        client.send(&request(&format!("SCAN {cursor} COUNT 7")));
        assert_eq!(client.line(), "*2");
        cursor = client.bulk();
        seen.extend(client.bulks());
        // Keys that the scan has not seen yet go, among them the one that it stands on.
        if let Some(last) = seen.last() {
            other.ask(&format!("DEL {last}"), ":1\r\n");
            other.ask(&format!("SET {last}-new v"), "+OK\r\n");
        }
        if cursor == "0" {
            break;
        }
    }
    seen.retain(|key| !key.ends_with("-new"));
    let expected: Vec<String> = (0..100).map(|index| format!("k{index:03}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_scan_filters_and_refuses_cursors_that_it_does_not_know() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("MSET a:1 x a:2 x b:1 x", "+OK\r\n");
    client.ask(
        "SCAN 0 MATCH *:1",
        "*2\r\n$1\r\n0\r\n*2\r\n$3\r\na:1\r\n$3\r\nb:1\r\n",
    );
    client.ask(
        "SCAN 0 MATCH b* COUNT 2",
        "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nb:1\r\n",
    );
    client.ask(
        "SCAN 0 TYPE string MATCH b*",
        "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nb:1\r\n",
    );
    client.ask("SCAN 0 TYPE hash", "*2\r\n$1\r\n0\r\n*0\r\n");
    let forgotten = "-ERR the cursor is not known any more; start the scan again with cursor 0\r\n";
    client.ask("SCAN 65536", forgotten);
    client.ask("SCAN x", "-ERR invalid cursor\r\n");
    client.ask("SCAN 0 COUNT 0", "-ERR syntax error\r\n");
    client.ask("SCAN 0 COUNT", "-ERR syntax error\r\n");
    client.send(&request("SCAN 0 COUNT 1"));
    assert_eq!(client.line(), "*2");
    let cursor = client.bulk();
    assert_eq!(client.bulks(), ["a:1"]);
    // Another connection goes on, as clients with a pool of connections do.
    let mut other = running.client();
    other.send(&request(&format!("SCAN {cursor} COUNT 1")));
    assert_eq!(other.line(), "*2");
    other.bulk();
    assert_eq!(other.bulks(), ["a:2"]);
    other.ask("SELECT 1", "+OK\r\n");
    other.ask(&format!("SCAN {cursor}"), forgotten);
}

#[test]
fn hello_changes_the_form_of_replies() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("HELLO 4", "-NOPROTO unsupported protocol version\r\n");
    client.ask(
        "HELLO 3 SETNAME me",
        "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n\
         $2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
         $7\r\nmodules\r\n*0\r\n",
    );
    client.ask("GET none", "_\r\n");
    client.ask("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n");
    client.ask("CLIENT GETNAME", "$2\r\nme\r\n");
    client.ask("RESET", "+RESET\r\n");
    client.ask("GET none", "$-1\r\n");
    client.ask("CLIENT GETNAME", "$0\r\n\r\n");
}

#[test]
fn clients_find_what_they_ask_before_they_begin() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("PING", "+PONG\r\n");
    client.ask("PING hi", "$2\r\nhi\r\n");
    client.ask("ECHO hi", "$2\r\nhi\r\n");
    client.ask(
        "CONFIG GET SAVE appendon*",
        "*4\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nsave\r\n$0\r\n\r\n",
    );
    client.ask("CONFIG GET nothing", "*0\r\n");
    client.ask("CONFIG RESETSTAT", "+OK\r\n");
    client.ask(
        "CONFIG SET save x",
        "-ERR the configuration cannot be changed while the server runs\r\n",
    );
    client.ask("COMMAND DOCS", "*0\r\n");
    client.ask(
        "COMMAND INFO get nosuch",
        "*2\r\n*6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*-1\r\n",
    );
    client.ask("CLIENT ID", ":1\r\n");
    client.ask("CLIENT SETNAME me", "+OK\r\n");
    client.ask("CLIENT SETINFO LIB-NAME x", "+OK\r\n");
    client.ask("CLIENT NO-EVICT on", "+OK\r\n");
    client.ask(
        "CLIENT KILL x",
        "-ERR unknown subcommand 'KILL' of 'client'\r\n",
    );
    client.send(&request("CLIENT LIST"));
    let list = client.bulk();
    assert!(list.starts_with("id=1 addr=127.0.0.1:") && list.ends_with(" name=me\n"));
    client.send(&request("AUTH secret"));
    assert!(client.line().contains("without any password configured"));
    client.ask(
        "NOSUCH a b",
        "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n",
    );
    client.ask(
        "GET",
        "-ERR wrong number of arguments for 'get' command\r\n",
    );
    client.ask("QUIT", "+OK\r\n");
    assert_eq!(client.rest(), "");
}

#[test]
fn info_tells_of_the_server_and_its_database() {
    let running = Running::new();
    let mut client = running.client();
    client.ask("SET k v", "+OK\r\n");
    client.send(&request("INFO"));
    let info = client.bulk();
    for line in [
        "# Server",
        "redis_version:7.0.0",
        "connected_clients:1",
        "stillfs_commits:1",
        "db0:keys=1,expires=0,avg_ttl=0",
    ] {
        assert!(info.lines().any(|found| found == line), "{line} in {info}");
    }
    client.ask(
        "INFO keyspace",
        "$44\r\n# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n\r\n",
    );
}
