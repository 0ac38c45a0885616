//! Starting a mount daemon and hearing from it: the side of `mount` and `run`.
//!
//! The daemon's standard output is a pipe: one [`Report`] in JSON on a line when the mount answers or
//! cannot be made, and for `run` one more when all is over. Its standard input is a pipe that ends with
//! the starter itself, whatever ends it; what is said on it: see `starter`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli::bounds::BoundArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::omitted::Omitted;
use crate::cli::output;
use crate::cli::request::{self, SourceArgs, Words};
use crate::cli::starter::{self, MOUNT_VARIABLE};
use crate::os::Host;
use crate::source;

/// What is to be mounted where; paths are absolute.
#[derive(Clone, Debug)]
pub(crate) struct ViewSpec {
    pub(crate) source: PathBuf,
    pub(crate) mount_point: PathBuf,
    pub(crate) options: Vec<String>,
    pub(crate) holder: String,
    pub(crate) bounds: BoundArgs,
    pub(crate) asked: SourceArgs,
}

impl ViewSpec {
    /// What the words after `-o` say, when all that is asked for is something that the source has.
    ///
    /// Errors: usage; those of recognising a source.
    pub(crate) fn check(&self, host: &Host) -> Result<Words, Failure> {
        let words = Words::parse(&self.options)?;
        let kind = source::kind_of(host, &self.source, &self.asked.sqlite)?;
        request::refuse_foreign(&self.source, kind, &words, &self.bounds, &self.asked)?;
        Ok(words)
    }
}

/// How long a view lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until somebody unmounts it.
    UntilUnmounted,
    /// The same, once the starter has taken note that it is mounted; not if he dies before.
    OnceTakenOver,
    /// Until the starter says that its command has ended; without that, until nobody of it lives.
    AsLongAsInput,
}

/// What the starter hears first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// Number of the pinned commit, where the source numbers its commits.
    pub(crate) timestamp: Option<u64>,
    /// How many databases are pinned.
    pub(crate) database_count: u64,
    /// Microseconds between the first and the last pin.
    pub(crate) skew_us: u64,
    /// What is not shown.
    pub(crate) omitted: Omitted,
}

/// What the starter hears.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Ready(Mounted),
    Failed { exit: u8, message: String },
    Over(Ending),
}

/// How a view ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Why the pin was lost before the view was unmounted, if it was.
    pub(crate) pin_lost: Option<String>,
    /// The last read that failed for another reason, if one did: damage, or a failing disk.
    pub(crate) failed_read: Option<String>,
}

/// A daemon that was started and answers.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said of its mount.
    pub(crate) mounted: Mounted,
}

impl Background {
    /// Starts a daemon and waits until its mount answers.
    ///
    /// Errors: what kept it from mounting, with its exit code.
    pub(crate) fn start(spec: &ViewSpec, life: Life, log: Option<&Path>) -> Result<Self, Failure> {
        let program = std::env::current_exe().context("cannot find the stillfs program")?;
        let mut command = std::process::Command::new(program);
        command
            .args(daemon_arguments(spec, life))
            // Of another view, whose command started this one: the daemon is no user of that.
            .env_remove(MOUNT_VARIABLE)
            .stdout(Stdio::piped());
        command.stdin(match life {
            Life::AsLongAsInput | Life::OnceTakenOver => Stdio::piped(),
            Life::UntilUnmounted => Stdio::null(),
        });
        command.stderr(match log {
            Some(path) => open_log(path)?.into(),
            None => Stdio::null(),
        });
        let mut child = command.spawn().context("cannot start the mount daemon")?;
        let mut input = child.stdin.take();
        let output = child.stdout.take().context("the daemon has no output")?;
        let mut output = BufReader::new(output);
        match hear(&mut output) {
            Some(Report::Ready(mounted)) => {
                if let Some(input) = input.as_mut().filter(|_| life == Life::OnceTakenOver) {
                    starter::say_taken_over(input).context("cannot hand the view over")?;
                }
                Ok(Self {
                    child,
                    input,
                    output,
                    mounted,
                })
            }
            Some(Report::Failed { exit, message }) => {
                let _ = child.wait();
                Err(Failure::new(
                    Exit::from_code(exit),
                    anyhow::anyhow!(message),
                ))
            }
            Some(Report::Over(_)) | None => {
                let status = child.wait().context("cannot wait for the daemon")?;
                Err(anyhow::anyhow!("the mount daemon ended before it mounted ({status})").into())
            }
        }
    }

    /// Tells whom the view is for.
    pub(crate) fn tell_command(&mut self, number: u32) {
        // A daemon that is gone is told of at the end.
        let _ = self
            .input
            .as_mut()
            .map(|input| starter::say_command(input, number));
    }

    /// Ends the view and waits until its pin is released.
    pub(crate) fn finish(mut self) -> Result<Ending, Failure> {
        let _ = self.input.take().map(starter::say_finished);
        let last = hear(&mut self.output);
        let status = self.child.wait().context("cannot wait for the daemon")?;
        match last {
            Some(Report::Over(ending)) => Ok(ending),
            Some(Report::Failed { exit, message }) => Err(Failure::new(
                Exit::from_code(exit),
                anyhow::anyhow!(message),
            )),
            Some(Report::Ready(_)) | None => {
                Err(anyhow::anyhow!("the mount daemon ended unexpectedly ({status})").into())
            }
        }
    }
}

fn hear(output: &mut impl BufRead) -> Option<Report> {
    let mut text = String::new();
    // A report is short; a daemon that writes more is not ours.
    output.take(64 * 1024).read_line(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log of the user's, not a file of an engine"
)]
fn open_log(path: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    let opened = options.create(true).append(true).mode(0o600).open(path);
    Ok(opened.with_context(|| format!("cannot open the log {}", path.display()))?)
}

/// Says what went wrong with a view while it was mounted, and gives the exit code for it.
pub(crate) fn tell_trouble(ending: &Ending) -> Option<Exit> {
    if let Some(reason) = &ending.pin_lost {
        output::problem(&format!(
            "the pin was lost while the view was in use: {reason}"
        ));
        return Some(Exit::PinLost);
    }
    let failed = ending.failed_read.as_ref()?;
    output::problem(&format!(
        "a read of the view failed, so a copy of it is not whole: {failed}; stillfs check says more"
    ));
    Some(Exit::PinLost)
}

/// The words of a spec as arguments of the hidden `daemon` command.
fn daemon_arguments(spec: &ViewSpec, life: Life) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["daemon".into()];
    match life {
        Life::AsLongAsInput => arguments.push("--while-input".into()),
        Life::OnceTakenOver => arguments.push("--once-taken-over".into()),
        Life::UntilUnmounted => {}
    }
    for options in &spec.options {
        arguments.extend(["-o".into(), options.into()]);
    }
    arguments.extend(spec.bounds.to_arguments());
    arguments.extend(spec.asked.to_arguments());
    arguments.extend(["--holder".into(), (&spec.holder).into(), "--".into()]);
    arguments.extend([spec.source.clone().into(), spec.mount_point.clone().into()]);
    arguments
}
