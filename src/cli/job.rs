//! A long job of a repository, as it is looked on and interrupted: a bar on a terminal, lines of JSON for
//! programs, nothing at all where nobody looks.

use std::io::{self, IsTerminal};
use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::exit::{Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::output;
use crate::os::{Clock, Host};
use crate::repository::backup::Runner;
use crate::repository::{Control, Phase, Progress, RepositoryError};

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Between two lines of JSON.
const LINE_PAUSE: Duration = Duration::from_secs(1);
const TEMPLATE: &str = "{prefix} {percent:>3}% [{bar:30}] {binary_bytes} of {binary_total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left";

/// What tells how far it is, and can be told to stop.
pub(crate) trait Steered: Sync {
    /// How far it is.
    fn progress(&self) -> Progress;
    /// Asks it to stop.
    fn cancel(&self);
}

impl Steered for Control {
    fn progress(&self) -> Progress {
        Self::progress(self)
    }

    fn cancel(&self) {
        Self::cancel(self);
    }
}

impl Steered for Runner {
    fn progress(&self) -> Progress {
        Self::progress(self)
    }

    fn cancel(&self) {
        Self::cancel(self);
    }
}

/// Whom a job is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A bar, if they are at a terminal.
    People,
    /// Lines of JSON.
    Programs,
    /// Nobody: what it comes to is told with the rest of a command.
    Nobody,
}

impl Audience {
    /// That of a command with or without `--json`.
    pub(crate) fn of(is_json: bool) -> Self {
        match is_json {
            true => Self::Programs,
            false => Self::People,
        }
    }
}

/// Runs `work` on a thread of its own, shows how far it is, and cancels it when somebody asks.
///
/// Errors: those of `work`; `Cancelled` among them if somebody asked in time.
pub(crate) fn run<T: Send>(
    name: &'static str,
    audience: Audience,
    interrupt: &Interrupt,
    steered: &dyn Steered,
    work: impl FnOnce() -> Result<T, RepositoryError> + Send,
) -> Result<T, Failure> {
    let host = Host::system();
    let mut display = Display::new(name, audience, &*host.clock);
    let done = thread::scope(|scope| {
        let (over, is_over) = mpsc::channel::<()>();
        let worker = thread::Builder::new().name("stillfs-job".to_owned());
        let worker = worker.spawn_scoped(scope, move || {
            let _over = over;
            work()
        });
        let worker = worker.context("cannot start the job's thread")?;
        let mut is_cancelled = false;
        while is_over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if interrupt.is_asked() && !is_cancelled {
                is_cancelled = true;
                steered.cancel();
            }
            display.show(&steered.progress());
        }
        display.end();
        let done = worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok::<_, anyhow::Error>(done)
    })?;
    done.map_err(Failure::from)
}

/// Where it is shown.
enum Display<'a> {
    Bar(ProgressBar),
    Lines {
        clock: &'a dyn Clock,
        begun: Duration,
        last: Duration,
    },
    Nothing,
}

/// How far a job is. The names are stable.
#[derive(Debug, Serialize)]
struct ProgressLine {
    message_type: &'static str,
    #[serde(flatten)]
    progress: Progress,
    bytes_per_second: u64,
    seconds_elapsed: u64,
    /// `null` as long as nobody can tell.
    seconds_left: Option<u64>,
}

/// How a command failed. The names are stable.
#[derive(Debug, Serialize)]
struct ErrorLine<'a> {
    message_type: &'static str,
    exit: u8,
    message: &'a str,
}

impl<'a> Display<'a> {
    fn new(name: &'static str, audience: Audience, clock: &'a dyn Clock) -> Self {
        match audience {
            Audience::Programs => {
                let begun = clock.monotonic();
                let last = begun;
                return Self::Lines { clock, begun, last };
            }
            Audience::People if io::stderr().is_terminal() => {}
            Audience::People | Audience::Nobody => return Self::Nothing,
        }
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is right");
        let bar = ProgressBar::no_length().with_prefix(name);
        Self::Bar(bar.with_style(style.progress_chars("=> ")))
    }

    fn show(&mut self, progress: &Progress) {
        match self {
            Self::Bar(bar) => {
                if progress.bytes_total > 0 && progress.phase != Phase::Idle {
                    bar.set_length(progress.bytes_total.max(progress.bytes_done));
                    bar.set_position(progress.bytes_done);
                }
            }
            Self::Lines { clock, begun, last } => {
                let now = clock.monotonic();
                if now.saturating_sub(*last) >= LINE_PAUSE {
                    *last = now;
                    let elapsed = now.saturating_sub(*begun);
                    output::json_line(&ProgressLine::new(*progress, elapsed));
                }
            }
            Self::Nothing => {}
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl ProgressLine {
    fn new(progress: Progress, elapsed: Duration) -> Self {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let per_second = (u128::from(progress.bytes_done) * 1000) / u128::from(millis.max(1));
        let bytes_per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        let left = progress.bytes_total.saturating_sub(progress.bytes_done);
        Self {
            message_type: "progress",
            progress,
            bytes_per_second,
            seconds_elapsed: elapsed.as_secs(),
            seconds_left: left.checked_div(bytes_per_second),
        }
    }
}

/// For programs a failure is a line like the others. For people it is told at the end of the process.
pub(crate) fn tell_failure(is_json: bool, outcome: Outcome) -> Outcome {
    if let (true, Err(failure)) = (is_json, &outcome) {
        output::json_line(&ErrorLine {
            message_type: "error",
            exit: failure.exit.code(),
            message: &failure.text(),
        });
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_progress_tells_rate_and_time_left() {
        let progress = Progress {
            phase: Phase::InProgress,
            fraction: 0.25,
            bytes_done: 3 << 20,
            bytes_total: 12 << 20,
            files_done: 7,
            bytes_stored: 5,
        };
        let line = ProgressLine::new(progress, Duration::from_millis(1500));
        let line = serde_json::to_value(&line).unwrap();
        for (name, value) in [
            ("message_type", "progress".into()),
            ("phase", "in_progress".into()),
            ("fraction", 0.25.into()),
            ("bytes_done", (3 << 20).into()),
            ("bytes_total", (12 << 20).into()),
            ("files_done", 7.into()),
            ("bytes_stored", 5.into()),
            ("bytes_per_second", (2 << 20).into()),
            ("seconds_elapsed", 1.into()),
            ("seconds_left", serde_json::Value::from(4)),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        let nothing = ProgressLine::new(Progress::default(), Duration::ZERO);
        assert_eq!((nothing.bytes_per_second, nothing.seconds_left), (0, None));
    }

    #[test]
    fn bar_has_a_right_template() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
