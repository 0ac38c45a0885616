//! A thousand connections at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use stillfs::os::process::raise_file_limit;

use crate::process::eventually;
use crate::rig::{Place, Served};

const CROWD: usize = 1000;

/// What each of the crowd says, by turns, and then waits.
const WORDS: [&[u8]; 8] = [
    b"",
    b"*3\r\n$3\r\nSET\r\n$1\r\n",
    b"\0\xff\xfe garbage \x01\r\n\r\n\r\n",
    b"*1\r\n$4294967296\r\n",
    b"*1048576\r\n$1\r\nx\r\n",
    b"PING\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET evil 1\r\n",
    b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n",
];

/// G10.
#[test]
fn a_thousand_connections_hurt_nobody_else() {
    if raise_file_limit().unwrap() < 2 * CROWD as u64 {
        println!("SKIPPED: too few files may be open");
        return;
    }
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let mut healthy = served.client();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(served.address.unwrap()).unwrap();
        let _ = stream.write_all(WORDS[number % WORDS.len()]);
        crowd.push(stream);
        if number % 50 == 0 {
            let value = number.to_string();
            healthy.command(&["SET", "k", &value]).unwrap();
            let found = healthy.command(&["GET", "k"]).unwrap();
            assert_eq!(found.bytes(), value.as_bytes());
        }
    }
    // Those who broke the protocol were dropped, those who wait are there.
    for (number, stream) in crowd.iter_mut().enumerate() {
        if [3, 6].contains(&(number % WORDS.len())) {
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(!rest.starts_with(b"+"), "{}", rest.escape_ascii());
        }
    }
    served.assert_serves();
    let evil = healthy.command(&["EXISTS", "evil"]).unwrap();
    assert_eq!(evil, crate::resp::Value::Integer(0));
    let peak = served.peak_mib();
    println!("{CROWD} connections: at most {peak} MiB");
    assert!(peak < 400, "{peak} MiB");
    let before = served.descriptors();
    drop(crowd);
    eventually("their descriptors are closed", || {
        served.descriptors() + CROWD / 2 < before
    });
    served.stop();
}
