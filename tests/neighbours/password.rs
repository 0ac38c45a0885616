//! `--password-file`, AUTH, and addresses that others can reach.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::process::{end_of, has_tool, is_root, stillfs};
use crate::rig::{Place, STRANGER, Served, chmod};

const SECRET: &str = "correct-horse-battery";

fn secret_file(place: &Place) -> std::path::PathBuf {
    let path = place.path("password");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    chmod(&path, 0o600);
    path
}

/// Fails unless `serve` with this password file ends with 1 and says `text`, before it makes anything.
fn refused(place: &Place, file: &Path, text: &str) {
    let dir = place.path("db");
    let mut serve = stillfs();
    serve
        .arg("serve")
        .arg(&dir)
        .args(["--listen", "127.0.0.1:0"]);
    let ended = end_of(serve.arg("--password-file").arg(file));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains(text), "{ended:?}");
    assert!(ended.err.contains(file.to_str().unwrap()), "{ended:?}");
    assert!(!ended.err.contains(SECRET), "{ended:?}");
    assert!(!dir.exists());
}

/// G4.
#[test]
fn a_password_file_that_is_not_private_is_refused() {
    let place = Place::new();
    let file = secret_file(&place);
    for mode in [0o644, 0o640, 0o660, 0o602] {
        chmod(&file, mode);
        refused(&place, &file, "chmod 600");
    }
    chmod(&file, 0o600);
    let link = place.path("link");
    symlink(&file, &link).unwrap();
    refused(&place, &link, "symbolic link");
    refused(&place, &place.path("none"), "No such file");
    refused(&place, &place.dir("folder", 0o700), "not a regular file");
    fs::write(&file, "\n").unwrap();
    refused(&place, &file, "is empty");
    fs::write(&file, "x".repeat(5000)).unwrap();
    refused(&place, &file, "longer than 1024 bytes");
    fs::write(&file, format!("{SECRET}\n{SECRET}\n")).unwrap();
    refused(&place, &file, "more than one line");
    if is_root() {
        fs::write(&file, SECRET).unwrap();
        chown(&file, Some(STRANGER), None).unwrap();
        refused(&place, &file, &format!("belongs to user {STRANGER}"));
    }
}

/// G1.
#[test]
fn an_address_that_others_can_reach_needs_a_password() {
    let place = Place::new();
    let dir = place.path("db");
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut serve = stillfs();
        let ended = end_of(serve.arg("serve").arg(&dir).args(["--listen", address]));
        assert_eq!(ended.code(), 2, "{ended:?}");
        assert!(ended.err.contains("--password-file"), "{ended:?}");
        assert!(!dir.exists());
    }
    let file = secret_file(&place);
    let words = [
        "--listen",
        "0.0.0.0:0",
        "--password-file",
        file.to_str().unwrap(),
    ];
    let served = Served::with(&place, &dir, &words, &mut stillfs());
    let port = served.address.unwrap().port();
    let mut client = crate::resp::Client::connect(([127, 0, 0, 1], port).into()).unwrap();
    let error = client.command(&["GET", "k"]).unwrap_err();
    assert!(error.to_string().contains("NOAUTH"), "{error}");
    client.command(&["AUTH", SECRET]).unwrap();
    client.command(&["SET", "k", "v"]).unwrap();
}

/// G3: neither the process list nor the log nor the environment nor the replies tell it.
#[test]
fn the_password_is_seen_nowhere() {
    let place = Place::new();
    let file = secret_file(&place);
    let words = [
        "--listen",
        "127.0.0.1:0",
        "--password-file",
        file.to_str().unwrap(),
    ];
    let served = Served::with(
        &place,
        &place.path("db"),
        &words,
        stillfs().env("STILLFS_LOG", "trace"),
    );
    let mut client = served.client();
    client.command(&["AUTH", "wrong-guess"]).unwrap_err();
    client.command(&["AUTH", "default", SECRET]).unwrap();
    client
        .command(&["HELLO", "2", "AUTH", "default", SECRET])
        .unwrap();
    let mut all = String::new();
    for words in [&["CONFIG", "GET", "*"][..], &["INFO"], &["CLIENT", "LIST"]] {
        all += &format!("{:?}", client.command(words).unwrap());
        all += &String::from_utf8_lossy(&client.command(&["INFO", "everything"]).unwrap().bytes());
    }
    for name in ["cmdline", "environ", "comm"] {
        let path = format!("/proc/{}/{name}", served.pid());
        all += &String::from_utf8_lossy(&fs::read(path).unwrap());
    }
    let log = served.log();
    assert!(log.contains("gave a wrong password"), "{log}");
    for secret in [SECRET, "wrong-guess"] {
        assert!(!all.contains(secret));
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn redis_cli_gives_the_password_as_always() {
    if !has_tool("redis-cli") {
        return;
    }
    let place = Place::new();
    let file = secret_file(&place);
    let words = [
        "--listen",
        "127.0.0.1:0",
        "--password-file",
        file.to_str().unwrap(),
    ];
    let served = Served::with(&place, &place.path("db"), &words, &mut stillfs());
    let port = served.address.unwrap().port().to_string();
    let ask = |password: &str| {
        let mut cli = Command::new("redis-cli");
        cli.env("REDISCLI_AUTH", password);
        end_of(cli.args(["-p", &port, "SET", "k", "v"]))
    };
    assert_eq!(ask(SECRET).out, "OK\n");
    let wrong = ask("wrong");
    assert!(
        format!("{}{}", wrong.out, wrong.err).contains("NOAUTH"),
        "{wrong:?}"
    );
}
