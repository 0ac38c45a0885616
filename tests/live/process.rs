//! Processes with a deadline: a test that waits for ever tells nobody why.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take; the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// The exit code, as a shell gives it.
    pub fn code(&self) -> i32 {
        let by_signal = || self.status.signal().map(|signal| 128 + signal);
        self.status.code().or_else(by_signal).unwrap()
    }
}

/// The program under test.
pub fn stillfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillfs"));
    command.env("LC_ALL", "C").env_remove("STILLFS_LOG");
    command
}

/// Runs a command to its end, whatever that is.
pub fn end_of(command: &mut Command) -> Ended {
    let mut child = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = collect(child.stdout.take().unwrap());
    let err = collect(child.stderr.take().unwrap());
    let status = wait(&mut child, &format!("{command:?}"));
    let text = |from: mpsc::Receiver<Vec<u8>>| {
        let bytes = from.recv_timeout(PATIENCE).expect("output ends");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ended {
        status,
        out: text(out),
        err: text(err),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    received
}

/// Runs a command that must succeed; gives what it printed.
pub fn succeed(command: &mut Command) -> String {
    let ended = end_of(command);
    assert!(ended.status.success(), "{command:?}: {ended:?}");
    ended.out
}

/// Waits for a child; one that does not end is killed and fails the test.
pub fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("does not end: {what}");
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// Waits for what other processes are about to do.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    within(PATIENCE, what, &mut is_so);
}

/// The same, where the time is part of the promise.
pub fn within(limit: Duration, what: &str, is_so: &mut dyn FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Stops a process, and waits until it is: its threads go on until one of them has taken the signal.
pub fn suspend(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    eventually("a stopped process stands still", || {
        states(pid).iter().all(|state| *state == 'T')
    });
}

/// What the threads of a process do, in the letters of `/proc`; none if it is gone.
fn states(pid: u32) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let states = tasks.into_iter().flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // `PID (NAME) STATE ...`, where the name may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    });
    states.collect()
}

/// Whether a process of the program under test has this number and a thread that is not dead. One that
/// dies loses its command line before its descriptors, and with those its locks.
pub fn is_running(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_alive = |state: &char| !['Z', 'X'].contains(state);
    name.contains(" (stillfs") && states(pid).iter().any(is_alive)
}

/// `false`, and a printed reason, if a tool is missing.
pub fn has_tool(name: &str) -> bool {
    let found = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        println!("SKIPPED: {name} is not installed");
    }
    found.is_ok()
}

/// `false`, and a printed reason, for users who may not do what the test needs.
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: needs root");
    }
    is_root
}

/// Fails unless the trees have the same names and the same bytes.
pub fn assert_same_bytes(one: &Path, other: &Path) {
    let ended = end_of(Command::new("diff").arg("-r").arg(one).arg(other));
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""));
}
