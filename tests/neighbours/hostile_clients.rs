//! Single clients that want more than their share. The memory of a real server is measured.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::process::stillfs;
use crate::resp::words;
use crate::rig::{Place, Served};

/// What all clients together may have.
const CLIENT_MEMORY: [&str; 4] = ["--listen", "127.0.0.1:0", "--client-memory", "256M"];
/// That, the cache of pages (64 MiB), and the rest of the process.
const MIB_MAX: u64 = 256 + 64 + 128;

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(served.address.unwrap()).unwrap();
    let timeout = Some(Duration::from_secs(60));
    stream.set_read_timeout(timeout).unwrap();
    stream.set_write_timeout(timeout).unwrap();
    stream
}

fn rest(mut stream: &TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

/// G11: R6.
#[test]
fn lying_lengths_cost_nothing() {
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    served.assert_serves();
    let before = served.peak_mib();
    for lie in [
        "*1\r\n$4294967296\r\n",
        "*1\r\n$18446744073709551616\r\n",
        "*4294967296\r\n",
        "*9223372036854775807\r\n",
        "$4294967296\r\n*1\r\n$x\r\n",
    ] {
        let stream = connect(&served);
        (&stream).write_all(lie.as_bytes()).unwrap();
        let said = rest(&stream);
        assert!(said.starts_with("-ERR "), "{lie:?}: {said}");
    }
    // As much as may be announced, and then nothing more.
    let waiting: Vec<TcpStream> = (0..100)
        .map(|_| {
            let stream = connect(&served);
            let half = b"*1048576\r\n$134217727\r\nxyz";
            (&stream).write_all(half).unwrap();
            stream
        })
        .collect();
    served.assert_serves();
    let grown = served.peak_mib() - before;
    assert!(grown < 64, "{grown} MiB for {} lies", waiting.len());
}

/// G11: R9: a request of a million arguments is decoded once, in bounded memory, beside others.
#[test]
fn arrays_of_a_million_arguments_are_bounded() {
    let place = Place::new();
    let served = Served::with(&place, &place.path("db"), &CLIENT_MEMORY, &mut stillfs());
    let mut request = b"*1048576\r\n$3\r\nDEL\r\n".to_vec();
    request.extend(b"$0\r\n\r\n".repeat(1_048_575));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stream = connect(&served);
                let _ = (&stream).write_all(&request);
                let _ = stream.shutdown(Shutdown::Write);
                println!("{}", rest(&stream).trim_end());
            });
        }
        for _ in 0..10 {
            served.assert_serves();
        }
    });
    let stream = connect(&served);
    (&stream).write_all(b"*1048577\r\n").unwrap();
    assert!(rest(&stream).contains("invalid multibulk length"));
    let peak = served.peak_mib();
    println!("a million arguments, four times: at most {peak} MiB");
    assert!(peak < MIB_MAX, "{peak} MiB");
}

/// G9: R9: replies that nobody takes, more than there may be: the rest is refused.
#[test]
fn clients_that_never_read_are_bounded_together() {
    let place = Place::new();
    let served = Served::with(&place, &place.path("db"), &CLIENT_MEMORY, &mut stillfs());
    let mut healthy = served.client();
    let value = vec![b'v'; 8 << 20];
    let set = words(&[b"SET", b"big", &value]);
    healthy.pipeline(&[set]).unwrap();
    let deaf: Vec<TcpStream> = (0..12)
        .map(|_| {
            let stream = connect(&served);
            let mget = b"*5\r\n$4\r\nMGET\r\n$3\r\nbig\r\n$3\r\nbig\r\n$3\r\nbig\r\n$3\r\nbig\r\n";
            (&stream).write_all(mget).unwrap();
            stream
        })
        .collect();
    let mut refused = 0;
    for stream in &deaf {
        let mut first = [0; 1];
        stream.peek(&mut first).unwrap();
        refused += u32::from(first == *b"-");
    }
    assert!(refused > 0, "all of them were let in");
    for _ in 0..20 {
        healthy.command(&["SET", "k", "v"]).unwrap();
    }
    served.assert_serves();
    let peak = served.peak_mib();
    println!("12 deaf clients, {refused} refused: at most {peak} MiB");
    assert!(peak < MIB_MAX, "{peak} MiB");
}

/// G12: 100 MB of commands in one go, by one who reads and by some who do not.
#[test]
fn long_pipelines_are_taken_as_they_are_answered() {
    const COMMANDS: usize = 1600;
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let text = "e".repeat(64 << 10);
    let command = format!("*2\r\n$4\r\nECHO\r\n${}\r\n{text}\r\n", text.len()).into_bytes();
    let deaf: Vec<TcpStream> = (0..4)
        .map(|_| {
            let stream = connect(&served);
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    thread::scope(|scope| {
        let stream = connect(&served);
        let (reader, own) = (stream.try_clone().unwrap(), &command);
        scope.spawn(move || {
            for _ in 0..COMMANDS {
                (&stream).write_all(own).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        for mut stream in &deaf {
            // As much as the server, and the kernel between us, take without being read.
            let mut taken = 0;
            while let Ok(count) = stream.write(&command) {
                taken += count;
                assert!(taken < 100 << 20, "a deaf client's pipeline was all taken");
            }
        }
        let mut healthy = served.client();
        for _ in 0..20 {
            healthy.command(&["SET", "k", "v"]).unwrap();
        }
        let answered = rest(&reader).len();
        assert_eq!(answered, COMMANDS * (text.len() + "$65536\r\n\r\n".len()));
    });
    let peak = served.peak_mib();
    println!("a pipeline of 100 MB, four deaf ones: at most {peak} MiB");
    assert!(peak < 400, "{peak} MiB");
}

/// G13.
#[test]
fn browsers_are_dropped_without_a_word() {
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    for http in [
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:6380\r\nContent-Length: 20\r\n\r\nSET evil 1\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:6380\r\n\r\nSET evil 1\r\n",
        "Host: 127.0.0.1\r\nSET evil 1\r\n",
    ] {
        let stream = connect(&served);
        (&stream).write_all(http.as_bytes()).unwrap();
        assert_eq!(rest(&stream), "");
    }
    let evil = served.client().command(&["EXISTS", "evil"]).unwrap();
    assert_eq!(evil, crate::resp::Value::Integer(0));
}
