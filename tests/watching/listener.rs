//! `stillfs metrics --listen`, with peers that ask, and peers that do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exposition::parse;
use crate::scene::Scene;

/// The program, which is killed if the test ends before it does.
struct Listening {
    child: Child,
    address: String,
}

impl Listening {
    fn start(scene: &Scene) -> Self {
        let mut command = scene.command(&["metrics", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line
            .strip_prefix("ready http://")
            .and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// What it answers to these bytes; empty if it hangs up.
    fn ask(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may have hung up already.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[track_caller]
    fn page(&self) -> String {
        let answer = self.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("Content-Type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        body.to_owned()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn page_is_served_and_nothing_else() {
    let scene = Scene::new();
    scene.configure("", &[("app", "")]);
    scene.ok(&["scheduled"]);
    let mut listening = Listening::start(&scene);
    let metrics = parse(&listening.page());
    assert!(metrics.contains_key("stillfs_backup_size_bytes"));
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "405",
        ),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", "404"),
    ] {
        let answer = listening.ask(request);
        let head = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&head),
            "{}: {answer}",
            request.escape_ascii()
        );
    }
    // Anybody could ask there.
    let words = ["metrics", "--listen", "0.0.0.0:0"];
    scene.fails(2, &words, &["no loopback address", "--public"]);
    let pid = Pid::from_raw(listening.child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(listening.child.wait().unwrap().code(), Some(0));
}

/// Whoever asks properly is answered, whatever others do.
#[test]
fn hostile_peers_are_bounded_in_bytes_time_and_number() {
    let scene = Scene::new();
    scene.configure("", &[("app", "")]);
    let listening = Listening::start(&scene);
    let endless = [
        b"GET /metrics HTTP/1.1\r\nX: ".as_slice(),
        &vec![b'x'; 64 << 10],
    ]
    .concat();
    let answer = listening.ask(&endless);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    // Those that say nothing, or half of it, and those that go at once.
    let silent: Vec<TcpStream> = (0..8).map(|_| listening.connect()).collect();
    for mut stream in (0..5).map(|_| listening.connect()) {
        stream.write_all(b"GET /met").unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    listening.page();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "others are not waited for"
    );
    // One that sends a byte now and then has no more time for that.
    let mut slow = listening.connect();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(10) && slow.write_all(b"G").is_ok() {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "a slow peer is hung up on"
    );
    for mut stream in silent {
        assert_eq!(
            stream.read(&mut [0; 16]).unwrap_or(0),
            0,
            "a silent one too"
        );
    }
    // More at once than it takes.
    let crowd: Vec<TcpStream> = (0..40).map(|_| listening.connect()).collect();
    let mut closed = 0;
    for mut stream in &crowd {
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        closed += usize::from(matches!(stream.read(&mut [0; 16]), Ok(0)));
    }
    assert!(closed >= 20, "{closed} of 40 were closed at once");
    drop(crowd);
    std::thread::sleep(Duration::from_millis(300));
    listening.page();
}
