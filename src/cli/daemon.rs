//! The mount daemon: pins, mounts, serves until unmounted, releases.
//!
//! What it says to whoever started it, and how it knows that one's end: see `background`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::age::Age;
use crate::cli::background::{Ending, Life, Mounted, Report, ViewSpec, tell_trouble};
use crate::cli::bounds::BoundArgs;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::kind;
use crate::cli::lease_watch::LeaseWatch;
use crate::cli::omitted::Omitted;
use crate::cli::request::SourceArgs;
use crate::cli::starter::{self, Heard};
pub(crate) use crate::cli::view_status::ViewStatus;
use crate::cli::view_status::ViewWatch;
use crate::mount::registry::HeldRecord;
use crate::mount::session::Unmounter;
use crate::mount::{Lazy, MountPoint, MountRecord, MountedSession, Registry};
use crate::os::process::RunningProcess;
use crate::os::readiness::StopSignal;
use crate::os::{Host, process};
use crate::source::{self, Kind, LeaseView, LeftOut, PinAs, PinnedSource, ReadMeter, SourceFacts};

/// How long a view outlives its starter for the sake of those who still have a file of it open.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(3);
/// How often the lease is looked at.
const LEASE_CHECK: Duration = Duration::from_millis(500);
/// How long the engine may take to say why a pin ended.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of JSON for what is left out, in a report that has at most 64 KiB.
const REPORT_ROWS_BYTES_MAX: usize = 48 << 10;

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
    #[command(flatten)]
    asked: SourceArgs,
}

/// The daemon's own process.
pub(crate) fn run(args: &DaemonArgs) -> ExitCode {
    let spec = ViewSpec {
        source: args.source.clone(),
        mount_point: args.mountpoint.clone(),
        options: args.options.clone(),
        holder: args.holder.clone(),
        bounds: args.bounds.clone(),
        asked: args.asked.clone(),
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
    let words = spec.check(&host)?;
    let registry = Registry::of_this_user()?;
    let point = MountPoint::check(&spec.mount_point, &spec.source, &registry)?;
    let pin_as = PinAs {
        holder: &spec.holder,
        mount_point: Some(point.path()),
        options: spec.bounds.options(),
        sqlite: spec.asked.sqlite_options(&words, &spec.bounds),
        tree: spec.asked.tree_options(&words),
    };
    let PinnedSource {
        tree,
        facts,
        reads,
        lease,
        left_out,
    } = source::pin(&host, &spec.source, &pin_as)?;
    let mounted = mounted_of(&facts, &*reads, &left_out);
    let record = record_of(&host, spec, &point, &facts, &mounted);
    let record = Arc::new(Mutex::new(Some(registry.hold(&record)?)));
    let age = Age::start(host.clock.clone(), facts.max_age);
    let lease = LeaseWatch::start(lease, reads.clone(), LEASE_CHECK)?;
    let view = ViewWatch {
        reads: reads.clone(),
        seen: lease.seen.clone(),
        reconnects: lease.reconnects.clone(),
        age: age.clone(),
    };
    let status = view.clone().status_source(&facts, &left_out);
    let aging = age.watch(reads);
    let _aging = aging.context("cannot start the thread that watches the pin's age")?;
    let from = spec.source.as_os_str();
    let session = crate::mount::mount(tree, &point, words.mount, from, status)?;
    watch_signals(life, session.unmounter())?;
    let finished = Arc::new(AtomicBool::new(false));
    if life != Life::UntilUnmounted {
        watch_input(StartedView {
            life,
            mount: spec.mount_point.clone(),
            unmounter: session.unmounter(),
            finished: finished.clone(),
            give_up: lease.stop.clone(),
            view: view.clone(),
            record: record.clone(),
        });
    }
    ready(mounted);
    wait_unmounted(session)?;
    // Looked at while the pin should still hold: an end is for ever, whoever told of it or did not.
    let mut ending = ending_now(&view);
    if life == Life::AsLongAsInput && !finished.load(Ordering::SeqCst) {
        let reason = || "the view was unmounted before the command had ended".to_owned();
        ending.pin_lost.get_or_insert_with(reason);
    }
    lease.release()?;
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

fn mounted_of(facts: &SourceFacts, reads: &dyn ReadMeter, left_out: &[LeftOut]) -> Mounted {
    Mounted {
        timestamp: facts.timestamp.map(|timestamp| timestamp.0),
        database_count: reads.members().len() as u64,
        skew_us: u64::try_from(facts.skew.as_micros()).unwrap_or(u64::MAX),
        omitted: Omitted::of(left_out, REPORT_ROWS_BYTES_MAX),
    }
}

fn record_of(
    host: &Host,
    spec: &ViewSpec,
    point: &MountPoint,
    facts: &SourceFacts,
    mounted: &Mounted,
) -> MountRecord {
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
        facts: facts_of(spec, facts, mounted),
    }
}

/// What of a view is known from its record alone, also when its daemon has died.
fn facts_of(spec: &ViewSpec, facts: &SourceFacts, mounted: &Mounted) -> BTreeMap<String, String> {
    let lsn = facts.lsn.map(|lsn| ("lsn", lsn.0));
    // A stillfs database is one by itself.
    let is_set = kind::of_name(facts.kind) != Kind::Native;
    let of_set = [
        ("database_count", mounted.database_count),
        ("left_out_count", mounted.omitted.count),
        ("skew_us", mounted.skew_us),
        ("is_atomic_set", u64::from(spec.asked.atomic_set)),
    ];
    let of_set = of_set.into_iter().filter(|_| is_set);
    let all = lsn.into_iter().chain(of_set);
    all.map(|(name, value)| (name.to_owned(), value.to_string()))
        .collect()
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
    give_up: Arc<StopSignal>,
    view: ViewWatch,
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
        report(&Report::Over(ending_now(&self.view)));
        drop(self.record.lock().take());
        std::process::exit(Exit::Done.code().into())
    }

    /// Releases the pin of a command that nobody waits for any more, so that its reads give errors. The
    /// mount stays while anybody of it lives: an empty directory would be copied without one (M5).
    fn orphan(self, command: Option<RunningProcess>) {
        tracing::error!("the run that the view is for was killed: the pin is released");
        self.give_up.raise();
        let clock = Host::system().clock;
        starter::outlive(command, self.mount.as_os_str(), &*clock, || {
            self.unmounter.unmount(Lazy::No).is_ok()
        });
    }
}

/// How the view is at this moment. That a pin ended is told by a look; why, by the engine where there
/// is one, which may take a moment longer.
fn ending_now(view: &ViewWatch) -> Ending {
    let heard = || match *view.seen.lock() {
        LeaseView::Ended(reason) => Some(reason.to_string()),
        LeaseView::Held
        | LeaseView::NoEngine
        | LeaseView::EngineGone
        | LeaseView::PassedOver
        | LeaseView::Lost => None,
    };
    let pin_lost = view.reads.look().err().map(|error| {
        if let Some(reason) = view.end_reason() {
            return reason;
        }
        let clock = Host::system().clock;
        let until = clock.monotonic() + REASON_PATIENCE;
        while *view.seen.lock() == LeaseView::Held && clock.monotonic() < until {
            clock.sleep(LEASE_CHECK / 10);
        }
        heard().unwrap_or_else(|| error.to_string())
    });
    Ending {
        pin_lost,
        failed_read: view.reads.last_failure(),
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
