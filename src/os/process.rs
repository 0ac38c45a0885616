//! What a daemon does to itself and to its child: session, standard streams, signals; and how it looks
//! for processes that are no children of its own.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{self, Signal};
use nix::unistd::{self, Pid};

use crate::os::path::{metadata, read_small_file};

/// More than the kernel lets a process have by default.
const ENVIRONMENT_BYTES_MAX: u64 = 16 << 20;
/// Where the moment of its start stands behind the name in `/proc/N/stat`, counted from the state.
const START_FIELD: usize = 19;

/// Makes this process the leader of a session of its own, without a terminal.
///
/// Errors: if it leads a process group already.
pub fn start_session() -> io::Result<()> {
    unistd::setsid().map(drop).map_err(io::Error::from)
}

/// Makes standard output lead to `file`: whoever reads the old one sees its end.
///
/// Errors: the system's.
pub fn redirect_output(file: impl AsFd) -> io::Result<()> {
    unistd::dup2_stdout(file).map_err(io::Error::from)
}

/// Sends a signal to a child that was not waited for yet, so that its number is still its own.
///
/// Errors: the system's; `InvalidInput` for a number that is no signal.
pub fn signal_child(child: &Child, number: i32) -> io::Result<()> {
    let signal = Signal::try_from(number).map_err(io::Error::from)?;
    let id = i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidInput)?;
    signal::kill(Pid::from_raw(id), signal).map_err(io::Error::from)
}

/// The exit code by which a shell tells how a child ended: its own, or 128 + the signal.
#[must_use]
pub fn shell_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// Lets this process open as many files as it may, and says how many that is.
///
/// Errors: the system's.
pub fn raise_file_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Whether the system said that this process may open no more files.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32)
}

/// How many files this process may open: at present, and after raising that itself.
///
/// Errors: the system's.
pub fn file_limit() -> io::Result<(u64, u64)> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

/// The user that this process acts as.
#[must_use]
pub fn effective_user() -> u32 {
    unistd::geteuid().as_raw()
}

/// The name of a user, where the system knows one.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let user = unistd::User::from_uid(unistd::Uid::from_raw(uid));
    user.ok().flatten().map(|user| user.name)
}

/// A process that runs, told from a later one that has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningProcess {
    number: u32,
    started: u64,
}

impl RunningProcess {
    /// `None` if there is none of this number, or one that has ended and that nobody has waited for.
    #[must_use]
    pub fn find(number: u32) -> Option<Self> {
        let path = format!("/proc/{number}/stat");
        let stat = read_small_file(Path::new(&path), 64 << 10).ok()?;
        // The name may have any bytes in it; behind the last bracket there are none.
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(START_FIELD - 1)?.parse().ok()?;
        (!has_ended).then_some(Self { number, started })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(self) -> bool {
        Self::find(self.number) == Some(self)
    }
}

/// Whether a process of this user was started with the variable `name` of this value.
///
/// Other users' are left out, since they could pretend. Those that have written over their environment are not
/// found; nor is one, sometimes, that is just being started: look twice. Errors: the system's.
pub fn is_in_some_environment(name: &str, value: &OsStr) -> io::Result<bool> {
    let wanted = [name.as_bytes(), b"=", value.as_bytes()].concat();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // Any of this may be gone meanwhile.
        let is_own = metadata(&entry.path()).is_ok_and(|found| found.uid == effective_user());
        if !is_own {
            continue;
        }
        let environment = read_small_file(&entry.path().join("environ"), ENVIRONMENT_BYTES_MAX);
        let environment = environment.unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_environment_and_known_until_it_ends() {
        let name = "STILLFS_TEST_OF_ENVIRONMENTS";
        let value = format!("a b=c {}", std::process::id());
        let is_there = || is_in_some_environment(name, OsStr::new(&value)).unwrap();
        assert!(!is_there());
        let mut command = Command::new("cat");
        let mut child = command
            .env(name, &value)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // One that is just being started may not be seen at the first look.
        assert!((0..1000).any(|_| is_there()));
        let part = &value[..value.len() - 1];
        assert!(!is_in_some_environment(name, OsStr::new(part)).unwrap());
        let running = RunningProcess::find(child.id()).unwrap();
        assert!(running.is_running());
        child.kill().unwrap();
        // Ended, and not yet waited for.
        while running.is_running() {
            std::thread::yield_now();
        }
        assert!(!is_there());
        child.wait().unwrap();
        assert_eq!(RunningProcess::find(child.id()), None);
    }
}
