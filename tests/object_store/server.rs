//! The S3 server: s3s-fs, on a folder of the test, with keys of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) const ACCESS_KEY: &str = "AKIDOFTHETESTS";
pub(crate) const SECRET_KEY: &str = "secret-of-the-tests";

/// Where the program is: `STILLFS_S3_SERVER`, where `scripts/prepare` puts it, or in the path. Says SKIPPED
/// and why if it is nowhere.
pub(crate) fn program() -> Option<PathBuf> {
    let named = std::env::var_os("STILLFS_S3_SERVER").map(PathBuf::from);
    let target = Path::new(env!("CARGO_BIN_EXE_stillfs")).ancestors().nth(2);
    let built = target.map(|target| target.join("tools/bin/s3s-fs"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("s3s-fs"));
    let mut places = named.into_iter().chain(built).chain(installed);
    let found = places.find(|place| place.is_file());
    if found.is_none() {
        println!("SKIPPED: s3s-fs is not there: run scripts/prepare, or set STILLFS_S3_SERVER");
    }
    found
}

/// A server that runs, until it is dropped.
pub(crate) struct Server {
    program: PathBuf,
    root: PathBuf,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Server {
    /// Shape: `root` exists, and each of its folders is a bucket.
    pub(crate) fn start(program: &Path, root: &Path) -> Self {
        Self::start_with(program, root, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(program: &Path, root: &Path, more: &[(&str, &str)]) -> Self {
        let (child, address) = spawn(program, root, 0, more);
        let (program, root) = (program.to_owned(), root.to_owned());
        Self {
            program,
            root,
            address,
            child,
        }
    }

    /// SIGKILL, at whatever it is doing.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port as before.
    pub(crate) fn start_again(&mut self) {
        (self.child, self.address) = spawn(&self.program, &self.root, self.address.port(), &[]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, root: &Path, port: u16, more: &[(&str, &str)]) -> (Child, SocketAddr) {
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
    command.arg(root).env("RUST_LOG", "s3s_fs=info");
    command.envs(more.iter().copied());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = log.by_ref().find_map(|line| {
        let line = line.unwrap();
        let (_, address) = line.split_once("running at http://")?;
        Some(address.trim().parse().unwrap())
    });
    // What it says of its errors must go somewhere.
    std::thread::spawn(move || log.for_each(drop));
    (child, address.expect("the server says where it listens"))
}
