//! Runs the built command, and talks to a server that it runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The command that was built with this test.
pub(crate) fn stillfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillfs"));
    command.env("STILLFS_LOG", "error").stdin(Stdio::null());
    command
}

/// Runs `stillfs WORD PATH OPTIONS...`.
pub(crate) fn run(word: &str, path: &Path, options: &[&str]) -> Output {
    stillfs()
        .arg(word)
        .arg(path)
        .args(options)
        .output()
        .unwrap()
}

/// Runs `stillfs load PATH OPTIONS...` with `text` on its standard input.
pub(crate) fn load(path: &Path, options: &[&str], text: &[u8]) -> Output {
    let mut command = stillfs();
    command.arg("load").arg(path).args(options);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A load that refuses at once does not take its input, which is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(text);
    child.wait_with_output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

/// Expects the code, and each of `parts` on standard error.
#[track_caller]
pub(crate) fn expect_problem(output: &Output, exit: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output), exit, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// The standard output of a command that succeeded.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output), 0, "{problem}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// `stillfs serve`, which is killed if the test ends before it does.
pub(crate) struct Served {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The line that it said when it was ready.
    pub(crate) ready: String,
}

impl Served {
    /// Serves `dir` at a free port, and waits until it is ready.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--listen", "127.0.0.1:0"])
    }

    pub(crate) fn start_with(dir: &Path, options: &[&str]) -> Self {
        let mut command = stillfs();
        command.arg("serve").arg(dir).args(options);
        Self::spawn(command)
    }

    /// Runs a `serve` that was put together, and waits until it is ready.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready "), "{ready:?}");
        Self {
            child,
            stdout,
            ready: ready.trim_end().to_owned(),
        }
    }

    /// Nobody reads its log any more, if that was a pipe.
    pub(crate) fn drop_log(&mut self) {
        drop(self.child.stderr.take());
    }

    pub(crate) fn connect(&self) -> Client {
        let address = self.ready.rsplit(' ').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        Client(BufReader::new(stream))
    }

    /// Sends the first signal, and the second when the first has been taken note of; the exit code.
    ///
    /// Shape: started with its log at `info` on a pipe.
    pub(crate) fn stop_twice(mut self, first: Signal, second: Signal) -> i32 {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let log = BufReader::new(self.child.stderr.take().unwrap());
        kill(pid, first).unwrap();
        let noted = log.lines().any(|line| line.unwrap().contains("stopping"));
        assert!(noted, "the log ended before the server stopped");
        kill(pid, second).unwrap();
        let status = self.child.wait().unwrap();
        status.code().expect("it exits by itself")
    }

    /// SIGTERM, and the exit code. Nothing more may be said on standard output.
    pub(crate) fn stop(mut self) -> i32 {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        status.code().expect("it exits by itself")
    }

    /// SIGKILL, at whatever it is doing.
    pub(crate) fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One command in the protocol's form.
pub(crate) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A connection to the server.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Sends a command; gives its reply, which must be a single line.
    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> String {
        self.send(&encode(words)).unwrap();
        self.line().unwrap()
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) {
        assert_eq!(self.ask(&[b"SET", key, value]), "+OK");
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// The next line; an error where the connection ended before its end.
    pub(crate) fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
