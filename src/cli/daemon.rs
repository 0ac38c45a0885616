//! The mount daemon: pins, mounts, serves until unmounted, releases.
//!
//! What it says to whoever started it, and how it knows that one's end: see `background`.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::age::Age;
use crate::cli::background::{
    Ending, Life, Mounted, Report, ViewSpec, mount_options, tell_trouble,
};
use crate::cli::bounds::BoundArgs;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::starter::{self, Heard};
use crate::mount::registry::HeldRecord;
use crate::mount::session::Unmounter;
use crate::mount::{Lazy, MountPoint, MountRecord, MountedSession, Registry, StatusSource};
use crate::os::process::RunningProcess;
use crate::os::{Host, process};
use crate::pin::EndReason;
use crate::source::{
    self, LeaseView, PinAs, PinnedSource, ReadMeter, SourceError, SourceFacts, SourceLease,
    SqliteOptions, TreeOptions,
};

/// How long a view outlives its starter for the sake of those who still have a file of it open.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(3);
/// How often the lease is looked at.
const LEASE_CHECK: Duration = Duration::from_millis(500);
/// How long the engine may take to say why a pin ended.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

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
    #[arg(long)]
    once_taken_over: bool,
    #[command(flatten)]
    bounds: BoundArgs,
}

/// The daemon's own process.
pub(crate) fn run(args: &DaemonArgs) -> ExitCode {
    let spec = ViewSpec {
        source: args.source.clone(),
        mount_point: args.mountpoint.clone(),
        options: args.options.clone(),
        holder: args.holder.clone(),
        bounds: args.bounds.clone(),
    };
    let life = match (args.while_input, args.once_taken_over) {
        (true, _) => Life::AsLongAsInput,
        (false, true) => Life::OnceTakenOver,
        (false, false) => Life::UntilUnmounted,
    };
    // Out of the starter's session, so that its terminal's signals do not end the view, and out of
    // its directory, so that it can be removed.
    let detached = process::start_session().and_then(|()| std::env::set_current_dir("/"));
    if let Err(error) = detached {
        tracing::debug!(%error, "cannot detach from the starter");
    }
    let outcome = serve(&spec, life, &mut |mounted| {
        report(&Report::Ready(mounted));
        if life != Life::AsLongAsInput {
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
    let options = mount_options(&spec.options)?;
    source::recognise(&host, &spec.source)?;
    let registry = Registry::of_this_user()?;
    let point = MountPoint::check(&spec.mount_point, &spec.source, &registry)?;
    let pin_as = PinAs {
        holder: &spec.holder,
        mount_point: Some(point.path()),
        options: spec.bounds.options(),
        sqlite: SqliteOptions::default(),
        tree: TreeOptions::default(),
    };
    let PinnedSource {
        tree,
        facts,
        reads,
        lease,
        left_out: _,
    } = source::pin(&host, &spec.source, &pin_as)?;
    let record = registry.hold(&record_of(&host, spec, &point, &facts))?;
    let record = Arc::new(Mutex::new(Some(record)));
    let age = Age::start(host.clock.clone(), facts.max_age);
    let watch = LeaseWatch::start(lease)?;
    let status = status_source(&facts, reads.clone(), &watch, age.clone());
    let aging = age.watch(reads.clone());
    let _aging = aging.context("cannot start the thread that watches the pin's age")?;
    let session = crate::mount::mount(tree, &point, options, spec.source.as_os_str(), status)?;
    watch_signals(life, session.unmounter())?;
    let finished = Arc::new(AtomicBool::new(false));
    if life != Life::UntilUnmounted {
        let view = StartedView {
            life,
            mount: spec.mount_point.clone(),
            unmounter: session.unmounter(),
            finished: finished.clone(),
            give_up: watch.stop.clone(),
            reads: reads.clone(),
            seen: watch.seen.clone(),
            record: record.clone(),
        };
        watch_input(view);
    }
    ready(Mounted {
        timestamp: facts.timestamp.map_or(0, |timestamp| timestamp.0),
    });
    wait_unmounted(session)?;
    // Looked at while the pin should still hold: an end is for ever, whoever told of it or did not.
    let mut ending = ending_now(&*reads, &watch.seen);
    if life == Life::AsLongAsInput && !finished.load(Ordering::SeqCst) {
        let reason = || "the view was unmounted before the command had ended".to_owned();
        ending.pin_lost.get_or_insert_with(reason);
    }
    watch.release()?;
    // The record goes last: whoever waits for it may rely on the pin being released.
    drop(record.lock().take());
    match life {
        // The starter tells of it.
        Life::AsLongAsInput => report(&Report::Over(ending)),
        Life::UntilUnmounted | Life::OnceTakenOver => {
            return Ok(tell_trouble(&ending).unwrap_or(Exit::Done));
        }
    }
    Ok(Exit::Done)
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
        timestamp: facts.timestamp.map(|timestamp| timestamp.0),
        snapshot_wall_ns: Some(facts.wall_ns),
        expires_wall_ns: started_wall_ns.checked_add(max_age_ns),
        facts: facts
            .lsn
            .map(|lsn| ("lsn".to_owned(), lsn.to_string()))
            .into_iter()
            .collect(),
    }
}

/// What `user.stillfs.status` of a mount's root says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ViewStatus {
    /// `held`, `no engine`, `engine gone` or `ended`.
    pub(crate) state: String,
    /// How often an engine that started gave the pin back.
    #[serde(default)]
    pub(crate) reconnects: u64,
    /// Why it ended, if it did.
    pub(crate) reason: Option<String>,
    pub(crate) pin: String,
    pub(crate) age_seconds: u64,
    /// When the pin is at its maximum age.
    pub(crate) ends_in_seconds: u64,
    /// What is to be told of a held pin: that it ends soon.
    pub(crate) warning: Option<String>,
    pub(crate) bytes_served: u64,
    pub(crate) live_pages: u64,
    pub(crate) shadow_pages: u64,
    pub(crate) failed_checks: u64,
    /// The last read that failed while the pin held, if one did.
    #[serde(default)]
    pub(crate) failed_read: Option<String>,
}

fn status_source(
    facts: &SourceFacts,
    reads: Arc<dyn ReadMeter>,
    watch: &LeaseWatch,
    age: Age,
) -> StatusSource {
    let (seen, reconnects) = (watch.seen.clone(), watch.reconnects.clone());
    let (pin, max_age) = (facts.pin.to_string(), facts.max_age);
    StatusSource::new(move || {
        let counts = reads.counts();
        let (state, reason) = match (*seen.lock(), reads.look()) {
            (LeaseView::Ended(reason), _) => ("ended", Some(reason.to_string())),
            (LeaseView::PassedOver, Err(error)) => {
                let reason = format!("the engine that started did not take the pin over: {error}");
                ("ended", Some(reason))
            }
            (_, Err(error)) => ("ended", Some(error.to_string())),
            (LeaseView::NoEngine, Ok(())) => ("no engine", None),
            (LeaseView::EngineGone | LeaseView::PassedOver, Ok(())) => ("engine gone", None),
            (LeaseView::Held | LeaseView::Lost, Ok(())) => ("held", None),
        };
        let status = ViewStatus {
            state: state.to_owned(),
            reconnects: reconnects.load(Ordering::Relaxed),
            reason,
            pin: pin.clone(),
            age_seconds: max_age.saturating_sub(age.left()).as_secs(),
            ends_in_seconds: age.left().as_secs(),
            warning: age.warning().filter(|_| state != "ended"),
            bytes_served: counts.served_bytes,
            live_pages: counts.live_pages,
            shadow_pages: counts.shadow_pages,
            failed_checks: counts.failed_checks,
            failed_read: reads.last_failure(),
        };
        serde_json::to_string(&status).unwrap_or_default()
    })
}

/// The thread that listens to the engine while the view is mounted.
struct LeaseWatch {
    seen: Arc<Mutex<LeaseView>>,
    reconnects: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), SourceError>>,
}

impl LeaseWatch {
    fn start(mut lease: Box<dyn SourceLease>) -> Result<Self, Failure> {
        let seen = Arc::new(Mutex::new(lease.watch(Duration::ZERO)));
        let stop = Arc::new(AtomicBool::new(false));
        let reconnects = Arc::new(AtomicU64::new(0));
        let (sees, stops, counts) = (seen.clone(), stop.clone(), reconnects.clone());
        let body = move || {
            while !stops.load(Ordering::SeqCst) {
                let view = lease.watch(LEASE_CHECK);
                counts.store(lease.reconnects(), Ordering::Relaxed);
                let before = std::mem::replace(&mut *sees.lock(), view);
                if before != view {
                    tell_lease(view);
                }
            }
            let released = lease.release();
            *sees.lock() = LeaseView::Ended(EndReason::Released);
            released
        };
        let thread = thread::Builder::new()
            .name("stillfs-lease".to_owned())
            .spawn(body)
            .context("cannot start the thread that watches the pin")?;
        Ok(Self {
            seen,
            reconnects,
            stop,
            thread,
        })
    }

    /// Gives the pin up.
    fn release(self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::SeqCst);
        let released = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the pin's thread panicked"))?;
        Ok(released.context("cannot release the pin")?)
    }
}

fn tell_lease(view: LeaseView) {
    match view {
        LeaseView::Held => tracing::info!("the engine that started gave the pin back"),
        LeaseView::Ended(reason) => {
            tracing::error!(%reason, "the pin ended: every further read fails");
        }
        LeaseView::NoEngine | LeaseView::EngineGone => {
            tracing::warn!(
                "no engine is there: the view stands, and the next one is asked for its pin"
            );
        }
        LeaseView::Lost => tracing::error!("the pin is lost: reads fail"),
        LeaseView::PassedOver => {
            tracing::error!("the engine that started did not take the pin over: reads fail");
        }
    }
}

fn watch_signals(life: Life, unmounter: Unmounter) -> Result<(), Failure> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen to signals")?;
    let body = move || {
        for signal in signals.forever() {
            // A terminal that goes away is no reason to end a backup. And under a command that lives
            // nothing is taken away: `run` gets the signal too, or is the one to send it to (M5).
            if signal != SIGHUP && life != Life::AsLongAsInput {
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

/// A view that somebody started for himself.
struct StartedView {
    life: Life,
    mount: PathBuf,
    unmounter: Unmounter,
    /// Whether its command has ended.
    finished: Arc<AtomicBool>,
    /// Makes the thread of the lease release the pin.
    give_up: Arc<AtomicBool>,
    reads: Arc<dyn ReadMeter>,
    seen: Arc<Mutex<LeaseView>>,
    record: Arc<Mutex<Option<HeldRecord>>>,
}

impl StartedView {
    fn heard(self, heard: Heard) {
        match heard {
            Heard::TakenOver => {}
            Heard::Finished => {
                self.finished.store(true, Ordering::SeqCst);
                self.end();
            }
            Heard::Gone { command } if self.life == Life::AsLongAsInput => self.orphan(command),
            // Nobody knows of the view yet.
            Heard::Gone { .. } => self.end(),
        }
    }

    /// Unmounts. Who has a file of the view open keeps it for a moment; then this process ends, and with
    /// its descriptors the pin, and whoever still reads gets errors.
    fn end(self) -> ! {
        take_away(&self.unmounter);
        Host::system().clock.sleep(ORPHAN_PATIENCE);
        report(&Report::Over(ending_now(&*self.reads, &self.seen)));
        drop(self.record.lock().take());
        std::process::exit(Exit::Done.code().into())
    }

    /// Releases the pin of a command that nobody waits for any more, so that its reads give errors. The
    /// mount stays while anybody of it lives: an empty directory would be copied without one (M5).
    fn orphan(self, command: Option<RunningProcess>) {
        tracing::error!("the run that the view is for was killed: the pin is released");
        self.give_up.store(true, Ordering::SeqCst);
        let clock = Host::system().clock;
        starter::outlive(command, self.mount.as_os_str(), &*clock, || {
            self.unmounter.unmount(Lazy::No).is_ok()
        });
    }
}

/// How the view is at this moment. That a pin ended is told by its index; why, by the engine, which may
/// take a moment longer.
fn ending_now(reads: &dyn ReadMeter, seen: &Mutex<LeaseView>) -> Ending {
    let heard = || match *seen.lock() {
        LeaseView::Ended(reason) => Some(reason.to_string()),
        LeaseView::Held
        | LeaseView::NoEngine
        | LeaseView::EngineGone
        | LeaseView::PassedOver
        | LeaseView::Lost => None,
    };
    let pin_lost = reads.look().err().map(|error| {
        let clock = Host::system().clock;
        let until = clock.monotonic() + REASON_PATIENCE;
        while *seen.lock() == LeaseView::Held && clock.monotonic() < until {
            clock.sleep(LEASE_CHECK / 10);
        }
        heard().unwrap_or_else(|| error.to_string())
    });
    let failed_read = reads.last_failure();
    Ending {
        pin_lost,
        failed_read,
    }
}

fn watch_input(view: StartedView) {
    let body = move || view.heard(starter::listen(io::stdin().lock()));
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
