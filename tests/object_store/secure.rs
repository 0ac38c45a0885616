//! https by the certificates that are trusted, and plain http to this machine alone.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bucket::{Bucket, REPO};
use crate::rig::{expect_problem, stdout};

/// Speaks TLS on one side, and passes on what it hears to the other.
const TERMINATOR: &str = "
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(('127.0.0.1', 0))
print('%s:%s' % listener.getsockname(), flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in a, b:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def serve(plain):
    try:
        client = context.wrap_socket(plain, server_side=True)
    except (OSError, ssl.SSLError):
        return
    server = socket.create_connection(('127.0.0.1', int(sys.argv[3])))
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
    pump(client, server)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

struct Terminator {
    child: Child,
    address: SocketAddr,
}

impl Terminator {
    fn start(certificate: &Path, key: &Path, to: SocketAddr) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", TERMINATOR]).args([certificate, key]);
        command.arg(to.port().to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Self { child, address }
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for `names`, by itself, and its key.
fn make_certificate(bucket: &Bucket, name: &str, names: &str) {
    let mut command = Command::new("openssl");
    command.args(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '),
    );
    command.args(["-subj", "/CN=the store", "-addext"]);
    command.arg(format!("subjectAltName={names}"));
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args([
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.pem"),
    ]);
    stdout(&command.current_dir(bucket.scene.at("")).output().unwrap());
}

/// OS1.
#[test]
fn https_is_spoken_with_whom_the_certificate_is_trusted() {
    let Some(bucket) = Bucket::new() else { return };
    bucket.make_app(1);
    let at = |name: &str| bucket.scene.at(name);
    make_certificate(&bucket, "right", "IP:127.0.0.1,DNS:localhost");
    make_certificate(&bucket, "strange", "DNS:elsewhere.example");
    let https = Terminator::start(&at("right.pem"), &at("right.key"), bucket.proxy.address);
    let strange = Terminator::start(&at("strange.pem"), &at("strange.key"), bucket.proxy.address);
    let run = |words: &[&str], endpoint: &str| {
        let mut command = bucket.scene.command(words);
        command
            .env_remove("AWS_ENDPOINT_URL")
            .args(["--endpoint", endpoint]);
        command.output().unwrap()
    };
    let right = format!("https://localhost:{}", https.address.port());
    let backup = ["backup", "app.db", "--repo", REPO];
    let trusting = [&backup[..], &["--cacert", "right.pem"]].concat();
    stdout(&run(&trusting, &right));
    let by_number = format!("https://{}", https.address);
    stdout(&run(
        &["verify", REPO, "--read-data", "--cacert", "right.pem"],
        &by_number,
    ));
    assert_eq!(bucket.backups().len(), 1);

    expect_problem(&run(&backup, &right), 15, &["certificate", "--cacert"]);
    // Of another name, though it is trusted.
    let other = format!("https://{}", strange.address);
    let output = run(
        &[&backup[..], &["--cacert", "strange.pem"]].concat(),
        &other,
    );
    expect_problem(&output, 15, &["certificate"]);
    let missing = [&backup[..], &["--cacert", "missing.pem"]].concat();
    expect_problem(&run(&missing, &right), 1, &["missing.pem"]);
    let none = [&backup[..], &["--cacert", "app.db"]].concat();
    expect_problem(&run(&none, &right), 2, &["PEM"]);
    // Plain to who speaks TLS, and TLS to who speaks plain.
    let plain = format!("http://{}", https.address);
    assert_eq!(run(&backup, &plain).status.code(), Some(15));
    let secured = format!("https://{}", bucket.proxy.address);
    assert_eq!(run(&trusting, &secured).status.code(), Some(15));
    assert_eq!(bucket.backups().len(), 1);
    bucket.verify();
}

/// OS1: nothing goes out in the clear that was not allowed to.
#[test]
fn plain_http_to_another_machine_is_refused() {
    let Some(bucket) = Bucket::new() else { return };
    // An address for documentation, at which nobody is.
    let far = "http://192.0.2.1:9";
    bucket.scene.fails(
        2,
        &["backups", REPO, "--endpoint", far],
        &["--allow-http", "192.0.2.1"],
    );
    let named = "http://store.example";
    bucket.scene.fails(
        2,
        &["backups", REPO, "--endpoint", named],
        &["--allow-http"],
    );
    for here in ["localhost", "127.0.0.1"] {
        let here = format!("http://{here}:{}", bucket.proxy.address.port());
        bucket
            .scene
            .fails(10, &["backups", REPO, "--endpoint", &here], &[REPO]);
    }
    let secret = "http://user:word@127.0.0.1:9";
    let output = bucket.scene.run(&["backups", REPO, "--endpoint", secret]);
    assert_eq!(output.status.code(), Some(2));
}
