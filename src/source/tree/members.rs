//! Several pinned databases as one: one lease that keeps them, one meter that counts and looks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::os::Host;
use crate::os::readiness::StopSignal;
use crate::source::sqlite::SqliteView;
use crate::source::{LeaseView, MemberStatus, ReadMeter, SourceError, SourceLease, native, rest};
use crate::view::ReadCounts;
use crate::view::tree::ReadError;

/// How often each database is looked after.
const TENDED_EVERY: Duration = Duration::from_millis(500);
/// Of many databases only some are looked after each time: a round costs about a dozen system calls for
/// each, and reads look for themselves.
const TENDED_AT_ONCE_MIN: usize = 64;
const ROUNDS: usize = 4;

/// The databases of a view. Paths are relative to the source; that of the source itself is empty.
#[derive(Debug, Default)]
pub(in crate::source) struct Members {
    pub(in crate::source) sqlite: Vec<(PathBuf, Arc<SqliteView>)>,
    pub(in crate::source) native: Vec<(PathBuf, Arc<dyn ReadMeter>)>,
}

/// Says of which database an error is.
fn of_member(path: &Path) -> impl FnOnce(ReadError) -> ReadError {
    let path = path.to_owned();
    move |error| match path.as_os_str().is_empty() {
        true => error,
        false => ReadError::Member {
            path,
            source: Box::new(error),
        },
    }
}

fn native_status(path: &Path, meter: &dyn ReadMeter) -> MemberStatus {
    let ended = meter.look().err();
    MemberStatus {
        path: path.display().to_string(),
        kind: native::KIND.to_owned(),
        state: if ended.is_some() { "ended" } else { "held" }.to_owned(),
        reason: ended.map(|error| error.to_string()),
        how: "pages".to_owned(),
        ..MemberStatus::default()
    }
}

impl ReadMeter for Members {
    fn counts(&self) -> ReadCounts {
        let sqlite = self.sqlite.iter().map(|(_, view)| view.counts());
        let native = self.native.iter().map(|(_, meter)| meter.counts());
        sqlite
            .chain(native)
            .fold(ReadCounts::default(), |sum, one| ReadCounts {
                served_bytes: sum.served_bytes.saturating_add(one.served_bytes),
                live_pages: sum.live_pages.saturating_add(one.live_pages),
                shadow_pages: sum.shadow_pages.saturating_add(one.shadow_pages),
                failed_checks: sum.failed_checks.saturating_add(one.failed_checks),
            })
    }

    fn last_failure(&self) -> Option<String> {
        let sqlite = self
            .sqlite
            .iter()
            .map(|(path, view)| (path, view.last_failure()));
        let native = self
            .native
            .iter()
            .map(|(path, meter)| (path, meter.last_failure()));
        sqlite.chain(native).find_map(|(path, failure)| {
            let failure = failure?;
            Some(match path.as_os_str().is_empty() {
                true => failure,
                false => format!("{}: {failure}", path.display()),
            })
        })
    }

    fn expire(&self) {
        self.sqlite.iter().for_each(|(_, view)| view.expire());
        self.native.iter().for_each(|(_, meter)| meter.expire());
    }

    fn members(&self) -> Vec<MemberStatus> {
        let sqlite = self.sqlite.iter().map(|(path, view)| MemberStatus {
            path: path.display().to_string(),
            ..view.status()
        });
        let native = self.native.iter();
        let native = native.map(|(path, meter)| native_status(path, meter.as_ref()));
        sqlite.chain(native).collect()
    }

    fn look(&self) -> Result<(), ReadError> {
        for (path, view) in &self.sqlite {
            view.look().map_err(of_member(path))?;
        }
        for (path, meter) in &self.native {
            meter.look().map_err(of_member(path))?;
        }
        Ok(())
    }
}

/// What keeps the pins of a view. Dropping it gives them up.
#[derive(Debug)]
pub(in crate::source) struct SetLease {
    host: Host,
    members: Arc<Members>,
    native: Vec<Box<dyn SourceLease>>,
    last: LeaseView,
    /// The database that is looked after next.
    next: usize,
}

impl SetLease {
    /// Keeps `members`, of which `native` are kept by leases of their own.
    pub(in crate::source) fn new(
        host: &Host,
        members: Arc<Members>,
        native: Vec<Box<dyn SourceLease>>,
    ) -> Self {
        Self {
            host: host.clone(),
            members,
            native,
            last: LeaseView::Held,
            next: 0,
        }
    }

    fn look_after(&mut self) -> LeaseView {
        let sqlite = &self.members.sqlite;
        let count = sqlite.len().div_ceil(ROUNDS).max(TENDED_AT_ONCE_MIN);
        let end = self.next.saturating_add(count);
        let has_ended = sqlite
            .iter()
            .enumerate()
            .fold(false, |has_ended, (at, (_, view))| {
                let is_next = at >= self.next && at < end;
                if is_next || view.has_limit() {
                    view.tend();
                }
                // An end is for ever, whoever found it.
                let is_lost = match is_next {
                    true => matches!(view.look(), Err(ReadError::PinEnded { .. })),
                    false => view.has_ended(),
                };
                has_ended || is_lost
            });
        self.next = if end < sqlite.len() { end } else { 0 };
        let sqlite = match has_ended {
            true => LeaseView::Lost,
            false => LeaseView::Held,
        };
        let native = self
            .native
            .iter_mut()
            .map(|one| one.watch(Duration::ZERO, None));
        native.chain([sqlite]).max_by_key(rank).unwrap_or(sqlite)
    }
}

/// How bad it is: of several leases the worst is told.
fn rank(view: &LeaseView) -> u8 {
    match view {
        LeaseView::Held => 0,
        LeaseView::NoEngine => 1,
        LeaseView::EngineGone => 2,
        LeaseView::Lost => 3,
        LeaseView::PassedOver => 4,
        LeaseView::Ended(_) => 5,
    }
}

impl SourceLease for SetLease {
    fn watch(&mut self, timeout: Duration, stop: Option<&StopSignal>) -> LeaseView {
        let begun = self.host.clock.monotonic();
        loop {
            let view = self.look_after();
            let gone = self.host.clock.monotonic().saturating_sub(begun);
            let left = timeout.saturating_sub(gone);
            if view != self.last || left.is_zero() {
                self.last = view;
                return view;
            }
            if rest(&*self.host.clock, left.min(TENDED_EVERY), stop) {
                return view;
            }
        }
    }

    fn reconnects(&self) -> u64 {
        self.native.iter().map(|one| one.reconnects()).sum()
    }

    /// All are released, whatever becomes of one; the first error is given.
    fn release(mut self: Box<Self>) -> Result<(), SourceError> {
        let mut outcome = Ok(());
        for lease in std::mem::take(&mut self.native) {
            outcome = outcome.and(lease.release());
        }
        outcome
    }
}

impl Drop for SetLease {
    fn drop(&mut self) {
        self.members
            .sqlite
            .iter()
            .for_each(|(_, view)| view.release());
    }
}
