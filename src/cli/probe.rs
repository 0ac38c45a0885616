//! Asks the file system of a path whether it answers, in a process of its own.
//!
//! A request that a daemon has taken and never answers keeps its asker for good: neither a deadline
//! nor a signal gets it back. So a child asks; it is left behind where it hangs, and ends with the
//! mount or its daemon.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::daemon::ViewStatus;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mount::absolute;
use crate::cli::output;
use crate::mount::mountinfo::is_ours;
use crate::os::mount_table;
use crate::os::mounting::ask_file_system;
use crate::os::path::canonical;
use crate::os::xattr;

/// How long a file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
const STATUS_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Arguments of the hidden `probe` command.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    path: PathBuf,
}

/// What a file system answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The error, if it was one.
    errno: Option<i32>,
    /// What the daemon of a view says of itself.
    pub(crate) status: Option<ViewStatus>,
}

impl Answer {
    /// Why the path cannot be reached, if it cannot.
    pub(crate) fn error(&self) -> Option<io::Error> {
        self.errno.map(io::Error::from_raw_os_error)
    }

    /// Whether a daemon was there and has died.
    pub(crate) fn is_of_a_dead_daemon(&self) -> bool {
        let kind = self.error().map(|error| error.kind());
        matches!(
            kind,
            Some(io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
        )
    }
}

/// The child's side.
pub(crate) fn run(args: &ProbeArgs) -> Outcome {
    let asked = canonical(&args.path).and_then(|path| ask_file_system(&path));
    let status = asked.as_ref().ok().and_then(|()| {
        let text = xattr::get(&args.path, "user.stillfs.status", STATUS_BYTES_MAX).ok()?;
        serde_json::from_slice(&text).ok()
    });
    output::json(&Answer {
        errno: asked.err().map(|error| error.raw_os_error().unwrap_or(0)),
        status,
    });
    Ok(Exit::Done)
}

/// Whether a view of ours is mounted at exactly `path`, by the mount table alone.
pub(crate) fn is_view(path: &Path) -> bool {
    mount_table::find(path).is_ok_and(|entry| entry.is_some_and(|entry| is_ours(&entry)))
}

/// The path without links and dots where it exists, without waiting for a file system that hangs.
///
/// Errors: if the file system on the way does not answer.
pub(crate) fn reach(path: &Path) -> Result<PathBuf, Failure> {
    let written = std::path::absolute(path)?;
    if is_view(&written) {
        return Ok(written);
    }
    match ask(&written) {
        Some(_) => absolute(path),
        None => Err(anyhow::anyhow!(
            "{} does not answer: stillfs doctor {} says why",
            path.display(),
            path.display()
        )
        .into()),
    }
}

/// Asks the daemon through its mount. One that hangs costs a moment, nothing more.
pub(crate) fn status_of(mount_point: &Path) -> Option<ViewStatus> {
    ask(mount_point)?.status
}

/// A question that is under way.
#[derive(Debug)]
pub(crate) struct Asked {
    child: Child,
    answer: Receiver<Option<Answer>>,
}

/// Asks the file system of `path`; `None` if it does not answer in time.
pub(crate) fn ask(path: &Path) -> Option<Answer> {
    start(path).ok()?.wait()
}

/// Begins to ask, so that several can be asked at once.
///
/// Errors: the system's, if no process can be had.
pub(crate) fn start(path: &Path) -> io::Result<Asked> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("probe")
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = child.stdout.take();
    let (sender, answer) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = out.map(|out| out.take(ANSWER_BYTES_MAX).read_to_end(&mut text));
        let whole = read.filter(Result::is_ok);
        // Nobody listens any more if this came too late.
        let _ = sender.send(whole.and_then(|_| serde_json::from_slice(&text).ok()));
    });
    Ok(Asked { child, answer })
}

impl Asked {
    /// The answer, if it comes in time.
    pub(crate) fn wait(mut self) -> Option<Answer> {
        let answer = self.answer.recv_timeout(PATIENCE);
        // Not waited for: one that hangs in the kernel does not even die.
        let _ = self.child.kill();
        if answer.is_ok() {
            let _ = self.child.wait();
        }
        answer.ok().flatten()
    }
}
