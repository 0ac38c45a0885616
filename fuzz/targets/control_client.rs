//! What a hostile engine answers to a daemon: frames, messages, descriptors.
#![no_main]

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stillfs::os::unix_socket::{self, send_with_fds};
use stillfs::pin::{
    Name, OnShadowFull, PinClient, PinClientTimeouts, PinError, PinRequest, WirePath,
};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::wire::{self, ENGINE};

/// Longer than any answer here takes: the other side closes at the end of what it says.
const TIMEOUTS: PinClientTimeouts = PinClientTimeouts {
    answer: Duration::from_secs(20),
    grant: Duration::from_secs(20),
};

/// What the other side says, and how many descriptors come with it.
type Speech = (Vec<u8>, usize);

/// A socket and the thread behind it.
struct Impostor {
    dir: tempfile::TempDir,
    speeches: Sender<Speech>,
}

static IMPOSTOR: LazyLock<Impostor> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("there is room for a socket");
    let listener = UnixListener::bind(dir.path().join("s")).expect("a socket can be bound");
    let (speeches, heard) = channel();
    std::thread::spawn(move || speak(&listener, &heard));
    Impostor { dir, speeches }
});

fn speak(listener: &UnixListener, speeches: &Receiver<Speech>) {
    for (bytes, descriptors) in speeches {
        let (stream, _) = listener.accept().expect("the client connects");
        send(&stream, &bytes, descriptors);
        // The client may have closed before it heard everything.
        let _ = wire::converse(stream, &[]);
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: usize) {
    let file = std::fs::File::open("/proc/self/exe").expect("every process has a program");
    let (mut rest, mut fds) = (bytes, vec![file.as_fd(); descriptors]);
    while !rest.is_empty() {
        match send_with_fds(stream, rest, &fds) {
            Ok(sent) => rest = &rest[sent..],
            Err(_) => return,
        }
        fds.clear();
    }
}

fn ask(how: u8) -> Result<(), PinError> {
    let path = IMPOSTOR.dir.path().join("s");
    let mut client = PinClient::connect_within(&path, "fuzz", TIMEOUTS)?;
    if how & 1 == 1 {
        client.ping()?;
    }
    if how & 2 == 2 {
        client.status()?;
    }
    let mut pin = client.pin(&PinRequest {
        max_age_ms: None,
        on_full: OnShadowFull::Break,
        shadow_limit_bytes: None,
        holder: Name::cut("fuzz"),
        mount_point: WirePath::default(),
    })?;
    pin.lease.wait_end(TIMEOUTS.answer)?;
    pin.release()
}

/// What a real server says to a client that greets, asks for a pin, and for the status.
fn real_answers() -> Vec<u8> {
    let stream = unix_socket::connect(&ENGINE.socket()).expect("the server is there");
    wire::converse(stream, &wire::conversation())
}

fuzz_target!(
    init: stillfs_fuzz::plant(&[
        [&[1, 3, 4], &real_answers()[..]].concat(),
        [&[2, 3, 4], &real_answers()[..]].concat(),
    ]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let (how, descriptors) = (input.u8(), usize::from(input.u8() % 8));
        let bytes = match input.u8() & 1 {
            0 => input.rest().to_vec(),
            _ => wire::frames(&mut input),
        };
        let speech = (bytes, descriptors);
        IMPOSTOR.speeches.send(speech).expect("the thread lives");
        let _ = ask(how).map_err(|error| error.to_string());
    }
);
