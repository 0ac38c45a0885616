//! What the application does: transactions, readers in its own process, checkpoints.

use parking_lot::Mutex;

use stillfs::database::Database;
use stillfs::engine::error::EngineError;

use crate::content::Change;
use crate::counts::{Counts, one};
use crate::draw::Draw;
use crate::history::History;
use crate::plan::Config;
use crate::world::{World, is_poisoned, note};

/// One transaction of a few changes, committed; the model hears of it.
///
/// Errors: the engine's. Whether the commit may be there nevertheless is noted.
pub(crate) fn transact(
    database: &Database,
    history: &Mutex<History>,
    config: &Config,
    draw: &Draw,
    counts: &Counts,
) -> Result<u64, EngineError> {
    let was_poisoned = is_poisoned(database);
    let (newest, before) = history.lock().newest();
    let mut write = database.begin_write()?;
    assert!(!was_poisoned, "a poisoned engine began a transaction");
    assert_eq!(
        write.base().0,
        newest,
        "a transaction begins at the newest commit"
    );
    let mut content = (*before).clone();
    for _ in 0..draw.between(1, 12) {
        let change = Change::draw(draw, config);
        change.make(&mut write, config)?;
        change.apply(&mut content);
    }
    match write.commit() {
        Ok(timestamp) => {
            history.lock().acknowledge(timestamp.0, content);
            one(&counts.commits);
            Ok(timestamp.0)
        }
        Err(error) => {
            if is_poisoned(database) {
                history.lock().leave_in_flight(content);
                one(&counts.commits_in_flight);
            }
            Err(error)
        }
    }
}

impl World {
    pub(crate) fn write(&mut self, draw: &Draw, count: u64) {
        for _ in 0..count {
            let Some(database) = self.database.clone() else {
                return;
            };
            let written = transact(&database, &self.history, &self.config, draw, &self.counts);
            match written {
                Ok(timestamp) => note!(self, "commit {timestamp}"),
                Err(error) => {
                    note!(self, "no commit: {error}");
                    self.trouble.unsettled |= self.trouble.faults;
                    self.excuse("a commit", &error);
                }
            }
        }
    }

    pub(crate) fn roll_back(&mut self, draw: &Draw) {
        let Some(database) = self.database.clone() else {
            return;
        };
        let mut write = match database.begin_write() {
            Ok(write) => write,
            Err(error) => return self.excuse("a transaction", &error),
        };
        for _ in 0..draw.between(1, 12) {
            let change = Change::draw(draw, &self.config);
            if let Err(error) = change.make(&mut write, &self.config) {
                self.excuse("a change", &error);
                break;
            }
        }
        write.rollback();
    }

    pub(crate) fn begin_read(&mut self) {
        let Some(database) = &self.database else {
            return;
        };
        let read = database.begin_read().expect("a read needs no disk");
        let timestamp = read.timestamp().0;
        let (newest, _) = self.history.lock().newest();
        assert_eq!(
            timestamp, newest,
            "a reader sees the newest acknowledged commit"
        );
        self.history
            .lock()
            .note_wall(timestamp, read.snapshot().point().wall_ns);
        if self.reads.len() < 4 {
            note!(self, "reader at commit {timestamp}");
            self.reads.push(read);
        }
    }

    pub(crate) fn check_read(&mut self, draw: &Draw) {
        if self.reads.is_empty() {
            return self.begin_read();
        }
        let read = &self.reads[draw.index(self.reads.len())];
        let at = read.timestamp().0;
        let content = {
            let history = self.history.lock();
            history
                .get(at)
                .expect("a commit of the model")
                .content
                .clone()
        };
        match content.compare(read, &self.config) {
            Ok(differs) => assert_eq!(differs, None, "a reader at commit {at}"),
            Err(error) => self.excuse("a reader", &error),
        }
    }

    pub(crate) fn end_read(&mut self, draw: &Draw) {
        if !self.reads.is_empty() {
            let at = draw.index(self.reads.len());
            self.reads.swap_remove(at);
        }
    }

    pub(crate) fn checkpoint(&mut self) {
        let Some(database) = self.database.clone() else {
            return;
        };
        match database.checkpoint() {
            Ok(report) => {
                one(&self.counts.checkpoints);
                note!(self, "{} pages written", report.pages_written);
            }
            Err(error) => {
                note!(self, "no checkpoint: {error}");
                self.trouble.unsettled |= self.trouble.faults;
                self.excuse("a checkpoint", &error);
            }
        }
    }

    pub(crate) fn check(&mut self) {
        let Some(database) = self.database.clone() else {
            return;
        };
        match database.check() {
            Ok(report) if report.is_clean() => {}
            Ok(report) => self.excuse("a check", &format!("{report:?}")),
            Err(error) => self.excuse("a check", &error),
        }
    }
}
