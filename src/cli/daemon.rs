//! The mount daemon: pins, mounts, serves until unmounted, releases.
//!
//! Its standard output is a pipe to whoever started it: one line of JSON when the mount answers or
//! cannot be made, and, for `run`, one more when all is over. Its standard input, for `run`, is a
//! pipe that ends with `run` itself, whatever ends it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mount::daemon_arguments;
use crate::cli::output;
use crate::mount::session::Unmounter;
use crate::mount::{
    Lazy, MountOptions, MountPoint, MountRecord, MountedSession, Registry, StatusSource,
};
use crate::os::{Host, process};
use crate::source::{self, LeaseView, PinAs, PinnedSource, ReadMeter, SourceFacts, SourceLease};

/// How often the lease is looked at.
const LEASE_CHECK: Duration = Duration::from_millis(500);

/// What is to be mounted where; paths are absolute.
#[derive(Clone, Debug)]
pub(crate) struct ViewSpec {
    pub(crate) source: PathBuf,
    pub(crate) mount_point: PathBuf,
    pub(crate) options: Vec<String>,
    pub(crate) holder: String,
}

/// How long a view lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until somebody unmounts it.
    UntilUnmounted,
    /// At most until standard input ends.
    AsLongAsInput,
}

/// What the starter hears first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mounted {
    pub(crate) mount_point: PathBuf,
    pub(crate) timestamp: u64,
}

/// What the starter hears.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready(Mounted),
    Failed { exit: u8, message: String },
    Over(Ending),
}

/// How a view ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Why the pin was lost before the view was unmounted, if it was.
    pub(crate) pin_lost: Option<String>,
}

/// Arguments of the hidden `daemon` command.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    source: PathBuf,
    mountpoint: PathBuf,
    #[arg(short = 'o')]
    options: Vec<String>,
    #[arg(long)]
    holder: String,
    #[arg(long)]
    while_input: bool,
}

/// The daemon's own process.
pub(crate) fn run(args: &DaemonArgs) -> ExitCode {
    let spec = ViewSpec {
        source: args.source.clone(),
        mount_point: args.mountpoint.clone(),
        options: args.options.clone(),
        holder: args.holder.clone(),
    };
    let life = if args.while_input {
        Life::AsLongAsInput
    } else {
        Life::UntilUnmounted
    };
    // Out of the starter's session, so that its terminal's signals do not end the view, and out of
    // its directory, so that it can be removed.
    let detached = process::start_session().and_then(|()| std::env::set_current_dir("/"));
    if let Err(error) = detached {
        tracing::debug!(%error, "cannot detach from the starter");
    }
    let outcome = serve(&spec, life, &mut |mounted| {
        report(&Report::Ready(mounted));
        if life == Life::UntilUnmounted {
            // Nobody waits for more: whoever reads our output sees its end.
            let silenced = null().and_then(process::redirect_output);
            if let Err(error) = silenced {
                tracing::debug!(%error, "cannot let go of standard output");
            }
        }
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let exit = failure.exit;
            tracing::error!(error = failure.text(), "the view could not be served");
            report(&Report::Failed {
                exit: exit.code(),
                message: failure.text(),
            });
            exit.into()
        }
    }
}

/// `/dev/null`, which is no file of a database.
#[expect(
    clippy::disallowed_methods,
    reason = "a device, not a file of an engine"
)]
fn null() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

fn report(report: &Report) {
    if let Ok(mut text) = serde_json::to_vec(report) {
        text.push(b'\n');
        let mut out = io::stdout().lock();
        // A starter that went away is told of by the end of standard input, where it matters.
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
}

/// Pins and mounts, calls `ready`, serves until unmounted, and releases.
pub(crate) fn serve(spec: &ViewSpec, life: Life, ready: &mut dyn FnMut(Mounted)) -> Outcome {
    let host = Host::system();
    let options = parse_options(&spec.options)?;
    source::recognise(&host, &spec.source)?;
    let registry = Registry::of_this_user()?;
    let point = MountPoint::check(&spec.mount_point, &spec.source, &registry)?;
    let pin_as = PinAs {
        holder: &spec.holder,
        mount_point: Some(point.path()),
    };
    let PinnedSource {
        tree,
        facts,
        reads,
        lease,
    } = source::pin(&host, &spec.source, &pin_as)?;
    let record = registry.hold(&record_of(&host, spec, &point, &facts))?;
    let watch = LeaseWatch::start(lease)?;
    let status = status_source(&host, &facts, reads, watch.seen.clone());
    let session = crate::mount::mount(tree, &point, options, spec.source.as_os_str(), status)?;
    watch_signals(session.unmounter())?;
    if life == Life::AsLongAsInput {
        watch_input(session.unmounter());
    }
    ready(Mounted {
        mount_point: point.path().to_owned(),
        timestamp: facts.timestamp.0,
    });
    wait_unmounted(session)?;
    let ending = watch.release()?;
    // The record goes last: whoever waits for it may rely on the pin being released.
    drop(record);
    if life == Life::AsLongAsInput {
        report(&Report::Over(ending));
    }
    Ok(Exit::Done)
}

fn parse_options(words: &[String]) -> Result<MountOptions, Failure> {
    let mut options = MountOptions::default();
    for words in words {
        options.apply(words).map_err(Failure::usage)?;
    }
    Ok(options)
}

fn wait_unmounted(session: MountedSession) -> Result<(), Failure> {
    session
        .wait()
        .context("the view ended")
        .map_err(Failure::from)
}

fn record_of(host: &Host, spec: &ViewSpec, point: &MountPoint, facts: &SourceFacts) -> MountRecord {
    let started_wall_ns = host.clock.wall_ns();
    let max_age_ns = u64::try_from(facts.max_age.as_nanos()).unwrap_or(u64::MAX);
    MountRecord {
        mount_point: point.path().to_owned(),
        source: spec.source.clone(),
        source_kind: facts.kind.to_owned(),
        pid: std::process::id(),
        started_wall_ns,
        pin_id: Some(facts.pin.to_string()),
        timestamp: Some(facts.timestamp.0),
        snapshot_wall_ns: Some(facts.wall_ns),
        expires_wall_ns: started_wall_ns.checked_add(max_age_ns),
        facts: [("lsn".to_owned(), facts.lsn.to_string())].into(),
    }
}

/// What `user.stillfs.status` of a mount's root says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ViewStatus {
    /// `held`, `ended` or `engine gone`.
    pub(crate) state: String,
    /// Why it ended, if it did.
    pub(crate) reason: Option<String>,
    pub(crate) pin: String,
    pub(crate) age_seconds: u64,
    pub(crate) bytes_served: u64,
    pub(crate) live_pages: u64,
    pub(crate) shadow_pages: u64,
    pub(crate) failed_checks: u64,
}

fn status_source(
    host: &Host,
    facts: &SourceFacts,
    reads: Arc<dyn ReadMeter>,
    seen: Arc<Mutex<LeaseView>>,
) -> StatusSource {
    let (clock, pin) = (host.clock.clone(), facts.pin.to_string());
    let begun = clock.monotonic();
    StatusSource::new(move || {
        let counts = reads.counts();
        let (state, reason) = match (*seen.lock(), reads.look()) {
            (LeaseView::Ended(reason), _) => ("ended", Some(reason.to_string())),
            (_, Err(error)) => ("ended", Some(error.to_string())),
            (LeaseView::EngineGone, Ok(())) => ("engine gone", None),
            (LeaseView::Held, Ok(())) => ("held", None),
        };
        let status = ViewStatus {
            state: state.to_owned(),
            reason,
            pin: pin.clone(),
            age_seconds: clock.monotonic().saturating_sub(begun).as_secs(),
            bytes_served: counts.served_bytes,
            live_pages: counts.live_pages,
            shadow_pages: counts.shadow_pages,
            failed_checks: counts.failed_checks,
        };
        serde_json::to_string(&status).unwrap_or_default()
    })
}

/// The thread that listens to the engine while the view is mounted.
struct LeaseWatch {
    seen: Arc<Mutex<LeaseView>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Box<dyn SourceLease>>,
}

impl LeaseWatch {
    fn start(mut lease: Box<dyn SourceLease>) -> Result<Self, Failure> {
        let seen = Arc::new(Mutex::new(LeaseView::Held));
        let stop = Arc::new(AtomicBool::new(false));
        let (sees, stops) = (seen.clone(), stop.clone());
        let body = move || {
            while !stops.load(Ordering::SeqCst) && *sees.lock() == LeaseView::Held {
                let view = lease.watch(LEASE_CHECK);
                match view {
                    LeaseView::Held => {}
                    LeaseView::Ended(reason) => {
                        tracing::error!(%reason, "the pin ended: every further read fails");
                    }
                    LeaseView::EngineGone => {
                        tracing::warn!("the engine is gone: the view stands until one starts");
                    }
                }
                *sees.lock() = view;
            }
            lease
        };
        let thread = thread::Builder::new()
            .name("stillfs-lease".to_owned())
            .spawn(body)
            .context("cannot start the thread that watches the pin")?;
        Ok(Self { seen, stop, thread })
    }

    /// Gives the pin up, and says how it was until then.
    fn release(self) -> Result<Ending, Failure> {
        self.stop.store(true, Ordering::SeqCst);
        let lease = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the pin's thread panicked"))?;
        let seen = *self.seen.lock();
        lease.release().context("cannot release the pin")?;
        let pin_lost = match seen {
            LeaseView::Ended(reason) => Some(reason.to_string()),
            LeaseView::Held | LeaseView::EngineGone => None,
        };
        Ok(Ending { pin_lost })
    }
}

fn watch_signals(unmounter: Unmounter) -> Result<(), Failure> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen to signals")?;
    let body = move || {
        for signal in signals.forever() {
            // A terminal that goes away is no reason to end a backup.
            if signal != SIGHUP {
                take_away(&unmounter);
            }
        }
    };
    thread::Builder::new()
        .name("stillfs-signals".to_owned())
        .spawn(body)
        .context("cannot start the thread that listens to signals")?;
    Ok(())
}

fn watch_input(unmounter: Unmounter) {
    let body = move || {
        let mut rest = Vec::new();
        // Data or an error are as good as the end: nothing is ever sent.
        let _ = io::stdin().lock().read_to_end(&mut rest);
        take_away(&unmounter);
    };
    if let Err(error) = thread::Builder::new()
        .name("stillfs-input".to_owned())
        .spawn(body)
    {
        tracing::error!(%error, "cannot watch for the end of the starter");
    }
}

/// Unmounts; a busy view loses its name at once and ends with its last user.
fn take_away(unmounter: &Unmounter) {
    let outcome = unmounter
        .unmount(Lazy::No)
        .or_else(|_| unmounter.unmount(Lazy::Yes));
    if let Err(error) = outcome {
        tracing::error!(%error, "cannot unmount");
    }
}

/// A daemon that was started and answers.
#[derive(Debug)]
pub(crate) struct Background {
    pub(crate) mounted: Mounted,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
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
            .stdout(Stdio::piped());
        command.stdin(match life {
            Life::AsLongAsInput => Stdio::piped(),
            Life::UntilUnmounted => Stdio::null(),
        });
        command.stderr(match log {
            Some(path) => open_log(path)?.into(),
            None => Stdio::null(),
        });
        let mut child = command.spawn().context("cannot start the mount daemon")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the daemon has no output")?;
        let mut output = BufReader::new(output);
        match hear(&mut output) {
            Some(Report::Ready(mounted)) => Ok(Self {
                mounted,
                child,
                input,
                output,
            }),
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

    /// Ends the view and waits until its pin is released.
    pub(crate) fn finish(mut self) -> Result<Ending, Failure> {
        drop(self.input.take());
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
    let opened = File::options().create(true).append(true).open(path);
    Ok(opened.with_context(|| format!("cannot open the log {}", path.display()))?)
}

/// Says how a view lost its pin, for `run`.
pub(crate) fn tell_lost(ending: &Ending) -> bool {
    if let Some(reason) = &ending.pin_lost {
        output::problem(&format!("the pin was lost while the command ran: {reason}"));
    }
    ending.pin_lost.is_some()
}
