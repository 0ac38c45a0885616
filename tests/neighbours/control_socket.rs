//! Clients of the control socket, and what may lie at its path.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use stillfs::os::unix_socket::{connect, send_with_fds};
use stillfs::pin::PROTOCOL_VERSION;

use crate::process::{end_of, eventually, is_root, stillfs, succeed};
use crate::rig::{Place, STRANGER, Served, as_stranger, chmod};

/// A greeting of the present version from a client without a name.
const HELLO: [u8; 7] = [3, 0, 0, 0, 0, PROTOCOL_VERSION.to_le_bytes()[0], 0];
/// Connections that the server has places for.
const PLACES: usize = 256;

fn socket(served: &Served) -> std::path::PathBuf {
    served.dir.join("control.sock")
}

fn assert_answers(dir: &Path) {
    // The places of those who have just hung up are free when the server has noticed.
    eventually("the engine answers", || {
        let text = succeed(stillfs().arg("status").arg(dir).arg("--json"));
        text.contains("\"state\": \"running\"")
    });
}

fn closed_by_server(stream: &mut UnixStream) -> bool {
    let patience = std::time::Duration::from_secs(60);
    stream.set_read_timeout(Some(patience)).unwrap();
    let ended = stream.read_to_end(&mut Vec::new());
    !ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// G14: P2: whatever clients do, and however many: the next one is served.
#[test]
fn hostile_clients_of_the_socket_hurt_nobody_else() {
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let path = socket(&served);
    for _ in 0..3000 {
        drop(connect(&path).unwrap());
    }
    assert_answers(&served.dir);
    let huge = [0xff; 64];
    let half = &HELLO[..5];
    let unknown = [1, 0, 0, 0, 200];
    let mut many = Vec::new();
    for words in [&huge[..], half, &unknown, &[]]
        .into_iter()
        .cycle()
        .take(400)
    {
        let mut client = connect(&path).unwrap();
        // The server may have enough before we do.
        let _ = client.write_all(words);
        many.push(client);
    }
    // Those who sent nonsense are gone at once, the rest after the time for a greeting.
    for client in &mut many {
        assert!(closed_by_server(client));
    }
    assert_answers(&served.dir);
    let mut deaf = connect(&path).unwrap();
    deaf.write_all(&HELLO).unwrap();
    deaf.set_nonblocking(true).unwrap();
    // Questions without end, whose answers nobody takes.
    while deaf.write(&[1, 0, 0, 0, 4].repeat(1000)).is_ok() {}
    assert_answers(&served.dir);
    served.assert_serves();
}

/// G14: those who have a place keep it only as long as they want something.
#[test]
fn a_full_house_is_told_and_empties() {
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let path = socket(&served);
    let silent: Vec<_> = (0..PLACES).map(|_| connect(&path).unwrap()).collect();
    eventually(
        "a client that comes when all places are taken is served later",
        || {
            let ended = end_of(stillfs().arg("status").arg(&served.dir).arg("--json"));
            ended.out.contains("\"state\": \"running\"")
        },
    );
    drop(silent);
    assert_answers(&served.dir);
}

/// G15: U1: what is passed to us is closed.
#[test]
fn descriptors_that_clients_send_are_not_kept() {
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let file = fs::File::open("/dev/null").unwrap();
    let mut clients = Vec::new();
    let before = served.descriptors();
    for _ in 0..20 {
        let mut client = connect(&socket(&served)).unwrap();
        client.write_all(&HELLO).unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        for _ in 0..10 {
            send_with_fds(&client, &[1, 0, 0, 0, 5], &vec![file.as_fd(); 253]).unwrap();
        }
        clients.push(client);
    }
    assert_answers(&served.dir);
    eventually("no more descriptors than connections", || {
        served.descriptors() <= before + clients.len() + 2
    });
    drop(clients);
    eventually("all of them are closed", || served.descriptors() <= before);
}

/// G16: the mode keeps others out, and where it is widened, their credentials do.
#[test]
fn another_user_gets_no_word_through_the_socket() {
    let place = Place::new();
    let dir = place.dir("db", 0o755);
    let served = Served::start(&place, &dir);
    assert_eq!(fs::metadata(socket(&served)).unwrap().mode() & 0o777, 0o600);
    let Some(mut status) = as_stranger("stillfs", &place) else {
        return;
    };
    let ended = end_of(status.arg("status").arg(&dir).arg("--json"));
    assert!(!ended.out.contains("\"state\": \"running\""), "{ended:?}");
    chmod(&socket(&served), 0o666);
    let mut check = as_stranger("stillfs", &place).unwrap();
    chmod(&dir.join("data.pages"), 0o644);
    let ended = end_of(check.arg("check").arg(&dir));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(
        ended.err.contains("only the engine's user may pin"),
        "{ended:?}"
    );
    assert!(
        served
            .log()
            .contains("refused a connection of another user")
    );
    assert_answers(&dir);
}

/// G17: what is not a dead socket of our own stays, and the start fails with its name.
#[test]
fn only_a_dead_socket_of_our_own_is_replaced() {
    let place = Place::new();
    let dir = place.dir("db", 0o700);
    let path = dir.join("control.sock");
    let precious = place.path("precious");
    fs::write(&precious, "precious").unwrap();
    let refuse = |text: &str| {
        let mut serve = stillfs();
        serve
            .arg("serve")
            .arg(&dir)
            .args(["--listen", "127.0.0.1:0"]);
        let ended = end_of(&mut serve);
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.err.contains(text), "{ended:?}");
    };
    Served::start(&place, &dir).stop();
    symlink(&precious, &path).unwrap();
    refuse("control.sock");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    refuse("control.sock");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    if is_root() {
        drop(UnixListener::bind(&path).unwrap());
        std::os::unix::fs::chown(&path, Some(STRANGER), None).unwrap();
        refuse(&format!("belongs to user {STRANGER}"));
        fs::remove_file(&path).unwrap();
    }
    drop(UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let served = Served::start(&place, &dir);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    served.assert_serves();
}

/// A socket's address has room for 107 bytes.
#[test]
fn a_long_path_changes_nothing() {
    let place = Place::new();
    let dir = place.path(&"d".repeat(150)).join("e".repeat(150));
    fs::create_dir_all(&dir).unwrap();
    let served = Served::start(&place, &dir);
    assert_answers(&dir);
    assert_eq!(fs::metadata(socket(&served)).unwrap().mode() & 0o777, 0o600);
}
