//! What a daemon does to itself and to its child: session, standard streams, signals.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{self, Signal};
use nix::unistd::{self, Pid};

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
