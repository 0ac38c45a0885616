//! The one job of the statements: started, looked at, cancelled, waited for (ST2, ST4).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::Refusal;
use super::phrase::shown;
use crate::cli::exit::{Exit, Failure};
use crate::os::{Clock, Host};
use crate::repository::restore::RestoreReport;
use crate::repository::{Control, Phase};
use crate::server::Reply;

/// What a job is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// `backup` or `restore`.
    pub(super) statement: &'static str,
    /// As the client named it.
    pub(super) repository: String,
    /// As the client named it; empty for what is served.
    pub(super) target: String,
}

impl Order {
    pub(super) fn of(statement: &'static str, repository: &[u8]) -> Self {
        Self {
            statement,
            repository: shown(repository),
            target: String::new(),
        }
    }
}

/// What there is to tell of a job that succeeded.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The name of the backup.
    pub(super) backup: String,
    /// The new history of a restored database.
    pub(super) history: String,
}

impl Told {
    pub(super) fn of_restore(report: &RestoreReport) -> Self {
        let history = report.histories.first().map(|(_, history)| history.clone());
        Self {
            backup: report.facts.id.to_string(),
            history: history.unwrap_or_default(),
        }
    }
}

/// What a job came to.
#[derive(Clone, Debug)]
enum Outcome {
    Done(Told),
    Failed(String),
    Cancelled,
}

#[derive(Debug)]
struct Job {
    number: u64,
    order: Order,
    control: Control,
    begun: Duration,
    /// When it ended, and with what.
    ended: Option<(Duration, Outcome)>,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    thread: Option<JoinHandle<()>>,
    is_stopping: bool,
}

/// What a job's thread does.
type Body = Box<dyn FnOnce() + Send>;

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    state: Arc<Mutex<State>>,
}

impl Jobs {
    /// Errors: BUSY while one runs.
    pub(super) fn refuse_second(&self) -> Result<(), Refusal> {
        self.state.lock().refuse_second()
    }

    /// Starts `work` on a thread of its own; answers with the number of the job.
    ///
    /// Errors: BUSY while another one runs; a stop; no thread.
    pub(super) fn start(
        &self,
        order: Order,
        work: impl FnOnce(&Control) -> Result<Told, Failure> + Send + 'static,
    ) -> Result<Reply, Refusal> {
        self.start_by(order, work, |body| {
            let builder = std::thread::Builder::new().name("statement".to_owned());
            builder.spawn(body)
        })
    }

    /// As [`Self::start`], on a thread that `spawn` makes.
    fn start_by(
        &self,
        order: Order,
        work: impl FnOnce(&Control) -> Result<Told, Failure> + Send + 'static,
        spawn: impl FnOnce(Body) -> io::Result<JoinHandle<()>>,
    ) -> Result<Reply, Refusal> {
        let mut state = self.state.lock();
        state.refuse_second()?;
        if state.is_stopping {
            return Err("ERR the server is stopping".to_owned());
        }
        if let Some(thread) = state.thread.take() {
            // It has told its end, so this is for a moment.
            drop(thread.join());
        }
        let number = state.job.as_ref().map_or(0, |job| job.number) + 1;
        let (control, host) = (Control::default(), Host::system());
        let begun = host.clock.monotonic();
        let (jobs, watched) = (self.clone(), control.clone());
        let statement = order.statement;
        // Made on the thread itself: what is dropped because there is no thread must not ask for the state,
        // which is locked here.
        let spawned = spawn(Box::new(move || {
            let mut ending = Ending {
                jobs,
                host,
                outcome: Outcome::Failed("its thread panicked; the log says more".to_owned()),
            };
            ending.outcome = match work(&watched) {
                Ok(told) => Outcome::Done(told),
                Err(failure) if failure.exit == Exit::Interrupted => Outcome::Cancelled,
                Err(failure) => Outcome::Failed(failure.text()),
            };
        }));
        let thread =
            spawned.map_err(|error| format!("ERR cannot start the {statement}: {error}"))?;
        tracing::info!(
            job = number,
            statement,
            repository = order.repository,
            "a client started a job"
        );
        state.thread = Some(thread);
        state.job = Some(Job {
            number,
            order,
            control,
            begun,
            ended: None,
        });
        Ok(Reply::count(number))
    }

    /// Errors: there is nothing to cancel.
    pub(super) fn cancel(&self) -> Result<Reply, Refusal> {
        match &self.state.lock().job {
            Some(job) if job.ended.is_none() => {
                job.control.cancel();
                Ok(Reply::OK)
            }
            _ => Err("ERR no backup or restore is running".to_owned()),
        }
    }

    /// What the last job is, or came to; the names are stable.
    pub(super) fn status(&self, clock: &dyn Clock) -> Reply {
        let state = self.state.lock();
        let text = |name: &str, value: &str| (Reply::text(name), Reply::text(value));
        let count = |name: &str, value: u64| (Reply::text(name), Reply::count(value));
        let idle = (Order::default(), Told::default());
        let (order, (number, done, total, duration)) = match &state.job {
            None => (&idle.0, (0, 0, 0, Duration::ZERO)),
            Some(job) => {
                let progress = job.control.progress();
                let until = job
                    .ended
                    .as_ref()
                    .map_or_else(|| clock.monotonic(), |(at, _)| *at);
                let duration = until.saturating_sub(job.begun);
                (
                    &job.order,
                    (
                        job.number,
                        progress.bytes_done,
                        progress.bytes_total,
                        duration,
                    ),
                )
            }
        };
        let told = match state.job.as_ref().and_then(|job| job.ended.as_ref()) {
            Some((_, Outcome::Done(told))) => told,
            _ => &idle.1,
        };
        let (phase, error) = state.job.as_ref().map_or(("idle", ""), Job::told);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Reply::Map(vec![
            count("job", number),
            text("statement", order.statement),
            text("state", phase),
            text("repository", &order.repository),
            text("target", &order.target),
            text("backup", &told.backup),
            text("history", &told.history),
            count("bytes_done", done),
            count("bytes_total", total),
            count("duration_ms", duration_ms),
            text("error", error),
        ])
    }

    /// Cancels what runs, waits for its end, and lets nothing begin any more.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.is_stopping = true;
            if let Some(job) = &state.job {
                job.control.cancel();
            }
            state.thread.take()
        };
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of a statement panicked");
        }
    }
}

impl State {
    fn refuse_second(&self) -> Result<(), Refusal> {
        match &self.job {
            Some(job) if job.ended.is_none() => Err(format!(
                "BUSY a {} is running, job {}: wait for its end, or end it with BACKUP CANCEL",
                job.order.statement, job.number
            )),
            _ => Ok(()),
        }
    }
}

impl Job {
    /// The state and the error.
    fn told(&self) -> (&'static str, &str) {
        match &self.ended {
            Some((_, Outcome::Done(_))) => ("done", ""),
            Some((_, Outcome::Failed(error))) => ("failed", error),
            Some((_, Outcome::Cancelled)) => ("cancelled", ""),
            None => match self.control.progress().phase {
                Phase::Idle | Phase::InProgress => ("running", ""),
                Phase::Finalizing | Phase::Completed | Phase::Failed => ("finishing", ""),
            },
        }
    }
}

/// Tells the end of a job, also when it panicked.
#[derive(Debug)]
struct Ending {
    jobs: Jobs,
    host: Host,
    outcome: Outcome,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.jobs.state.lock();
        let at = self.host.clock.monotonic();
        let Some(job) = &mut state.job else {
            return;
        };
        let (number, statement) = (job.number, job.order.statement);
        match &self.outcome {
            Outcome::Done(told) => {
                tracing::info!(
                    job = number,
                    statement,
                    backup = told.backup,
                    "a job is done"
                );
            }
            Outcome::Failed(error) => {
                tracing::error!(job = number, statement, error, "a job failed");
            }
            Outcome::Cancelled => tracing::info!(job = number, statement, "a job was cancelled"),
        }
        job.ended = Some((at, self.outcome.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ST2: where no thread can be had, the job is refused, all that it held is given up, and the next begins.
    #[test]
    fn job_without_a_thread_is_refused_and_holds_nothing() {
        let (jobs, held) = (Jobs::default(), Arc::new(()));
        let kept = held.clone();
        let work = move |_: &Control| {
            drop(kept);
            Ok(Told::default())
        };
        let order = Order::of("backup", b"r");
        let refused = jobs.start_by(order.clone(), work, |body| {
            drop(body);
            Err(io::ErrorKind::WouldBlock.into())
        });
        let refused = refused.unwrap_err();
        assert!(
            refused.starts_with("ERR cannot start the backup"),
            "{refused}"
        );
        assert_eq!(Arc::strong_count(&held), 1);
        let next = jobs.start(order, |_| Ok(Told::default()));
        assert_eq!(next, Ok(Reply::count(1)));
        jobs.stop();
        assert!(matches!(
            jobs.state.lock().job,
            Some(Job {
                ended: Some((_, Outcome::Done(_))),
                ..
            })
        ));
    }
}
