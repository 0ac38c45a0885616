//! Pinning the databases of a tree: each prepared, then all pinned close together, or at one instant.
//!
//! One instant: every writer is kept from committing, all are pinned, the writers go on. A transaction
//! over several databases has all of them locked from its first write until it is committed in all, so
//! that it is in all of the pins or in none. All are stopped, or none stays stopped for more than a moment:
//! a writer that has one of them and waits for another is let through. The one that was in the way is waited
//! for first, with nothing held; so two daemons that meet do not hinder each other for ever either.
//!
//! Databases in rollback mode are pinned by copies under a lock that keeps their writers waiting: each as
//! late as can be, right before it is finished, unless all must be of one instant. Native databases have
//! no lock of such a kind: they are pinned right before the others.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::walk::{Candidate, Walked, is_gone};
use super::xattrs_of;
use crate::fault::{self, Fault};
use crate::os::beneath::Held;
use crate::os::{FileIdentity, Host};
use crate::source::sqlite::{PinnedSqlite, Prepared, Site};
use crate::source::{Instant, LeftOut, PinAs, PinnedSource, SourceError, Unpinned, native};

/// Databases that are prepared, or finished, at the same time.
const THREADS: usize = 4;
/// For how long it is tried to stop all writers.
const PATIENCE: Duration = Duration::from_secs(30);
/// For how long some are stopped while another is tried: a commit over several lets go of one after the
/// other.
const HELD_MAX: Duration = Duration::from_millis(2);
/// The first pause between two tries, and the longest: a writer without rest lets go for microseconds.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_micros(500);
/// How often a database is pinned anew that was replaced meanwhile.
const TRIES: u32 = 3;

/// The pinned databases of a tree.
#[derive(Debug)]
pub(super) struct PinnedSet {
    pub(super) sqlite: Vec<PinnedDatabase>,
    pub(super) native: Vec<PinnedNative>,
    /// Between the first and the last.
    pub(super) skew: Duration,
}

/// One of them.
#[derive(Debug)]
pub(super) struct PinnedDatabase {
    pub(super) candidate: Candidate,
    /// Where else the same file is.
    pub(super) other_names: Vec<(u32, Box<OsStr>)>,
    pub(super) pinned: PinnedSqlite,
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// A native database.
#[derive(Debug)]
pub(super) struct PinnedNative {
    pub(super) folder: u32,
    pub(super) path: PathBuf,
    pub(super) source: PinnedSource,
}

/// A database with all names that it has in the tree.
#[derive(Debug)]
struct Named {
    candidate: Candidate,
    other_names: Vec<(u32, Box<OsStr>)>,
    /// Another name that has a log as well.
    second_log: Option<PathBuf>,
}

/// What a database is taken through.
pub(super) trait Steps: Send {
    /// See [`Prepared::pins_by_copy`].
    fn pins_by_copy(&self) -> bool;
    /// See [`Prepared::catch_up`].
    fn catch_up(&mut self) -> Result<(), SourceError>;
    /// See [`Prepared::stop_writers`].
    fn stop_writers(&mut self) -> Result<(), SourceError>;
    /// See [`Prepared::pin`].
    fn pin(&mut self) -> Result<(), SourceError>;
    /// See [`Prepared::let_writers_go`].
    fn let_writers_go(&mut self);
}

impl Steps for Prepared {
    fn pins_by_copy(&self) -> bool {
        Self::pins_by_copy(self)
    }

    fn catch_up(&mut self) -> Result<(), SourceError> {
        Self::catch_up(self)
    }

    fn stop_writers(&mut self) -> Result<(), SourceError> {
        Self::stop_writers(self)
    }

    fn pin(&mut self) -> Result<(), SourceError> {
        Self::pin(self)
    }

    fn let_writers_go(&mut self) {
        Self::let_writers_go(self);
    }
}

/// A database that was not pinned.
#[derive(Debug)]
struct Failure {
    path: PathBuf,
    error: SourceError,
}

/// Pins all databases of `walked`.
///
/// Errors: of the first database that cannot be pinned, if none is to be left out; nothing is then pinned.
pub(super) fn pin(
    host: &Host,
    source: &Path,
    walked: &Walked,
    pin_as: &PinAs<'_>,
    left_out: &mut Vec<LeftOut>,
) -> Result<PinnedSet, SourceError> {
    let set = Set {
        host,
        source,
        walked,
        pin_as,
    };
    let mut failures = Vec::new();
    let named = set.names(&mut failures);
    let opened = in_parallel(named, |named| {
        let opened = set.open(&named.candidate);
        (named, opened)
    });
    let mut open = Vec::new();
    for (named, opened) in opened {
        match opened {
            Ok(prepared) => open.push((named, prepared)),
            Err(_) if set.has_vanished(&named.candidate) => {}
            Err(error) => failures.push(failure(&named, error)),
        }
    }
    set.settle(&mut failures, left_out)?;
    let native = set.pin_native(&mut failures);
    set.settle(&mut failures, left_out)?;
    let (mut open, at_once) = match pin_as.tree.instant {
        Instant::Close => (pin_close(open, &mut failures), None),
        Instant::Same => pin_at_once(host, open, pin_as.tree.unpinned, &mut failures),
    };
    // Whose writers wait goes first.
    open.sort_by_key(|(_, prepared)| !prepared.pins_by_copy());
    set.settle(&mut failures, left_out)?;
    let sqlite = set.finish(open, &mut failures);
    set.settle(&mut failures, left_out)?;
    // What was pinned at one instant is of that instant, whenever each lock was taken.
    let at = sqlite
        .iter()
        .map(|one| at_once.unwrap_or(one.pinned.pinned_at));
    let at = at.chain(native.iter().map(|(at, _)| *at));
    let skew = match (at.clone().min(), at.max()) {
        (Some(first), Some(last)) => last.saturating_sub(first),
        _ => Duration::ZERO,
    };
    let native = native.into_iter().map(|(_, native)| native).collect();
    Ok(PinnedSet {
        sqlite,
        native,
        skew,
    })
}

fn failure(named: &Named, error: SourceError) -> Failure {
    let path = named.candidate.path.clone();
    Failure { path, error }
}

struct Set<'a> {
    host: &'a Host,
    source: &'a Path,
    walked: &'a Walked,
    pin_as: &'a PinAs<'a>,
}

impl Set<'_> {
    /// Each database once. One that has several names is opened by the name that its log has; two names
    /// with a log each are two histories of one file, of which nobody knows which is right.
    fn names(&self, failures: &mut Vec<Failure>) -> Vec<Named> {
        let mut named: Vec<Named> = Vec::new();
        let mut by_identity: HashMap<FileIdentity, usize> = HashMap::new();
        for candidate in &self.walked.databases {
            let is_new = candidate.link_count < 2;
            let known = by_identity.get(&candidate.identity).filter(|_| !is_new);
            let Some(known) = known.and_then(|index| named.get_mut(*index)) else {
                by_identity.insert(candidate.identity, named.len());
                named.push(Named {
                    candidate: candidate.clone(),
                    other_names: Vec::new(),
                    second_log: None,
                });
                continue;
            };
            let mut other = candidate.clone();
            if other.has_log && known.candidate.has_log {
                known.second_log = Some(other.path);
                continue;
            }
            if other.has_log {
                std::mem::swap(&mut other, &mut known.candidate);
            }
            known.other_names.push((other.folder, other.name));
        }
        let (strange, named): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|one| one.second_log.is_some());
        failures.extend(strange.into_iter().map(|one| {
            let second = one.second_log.unwrap_or_default();
            let reason = format!("is the same file as {}, and both names have a log: an SQLite database must have one name", second.display());
            let (path, at) = (one.candidate.path, self.source);
            let error = SourceError::Part { path: at.join(&path), reason };
            Failure { path, error }
        }));
        named
    }

    fn open(&self, candidate: &Candidate) -> Result<Prepared, SourceError> {
        let path = self.source.join(&candidate.path);
        let folder = candidate.path.parent().unwrap_or(Path::new(""));
        let folder = self.walked.folders.root().folder(folder);
        let site = folder.and_then(|folder| Site::within(folder, &path));
        let site = site.map_err(SourceError::io("open the directory of", &path))?;
        Prepared::open_at(self.host, site, &self.pin_as.sqlite)
    }

    /// Makes views of what is pinned.
    fn finish(
        &self,
        open: Vec<(Named, Prepared)>,
        failures: &mut Vec<Failure>,
    ) -> Vec<PinnedDatabase> {
        let finished = in_parallel(open, |(named, prepared)| {
            let pinned = prepared.finish();
            let pinned = pinned.and_then(|pinned| self.settled(&named.candidate, pinned));
            (named, pinned)
        });
        let mut databases = Vec::with_capacity(finished.len());
        for (named, pinned) in finished {
            match pinned {
                Ok((pinned, xattrs)) => databases.push(PinnedDatabase {
                    candidate: named.candidate,
                    other_names: named.other_names,
                    pinned,
                    xattrs,
                }),
                Err(error) => failures.push(failure(&named, error)),
            }
        }
        databases
    }

    fn look(&self, candidate: &Candidate) -> io::Result<Held> {
        self.walked.folders.root().hold(&candidate.path)
    }

    fn has_vanished(&self, candidate: &Candidate) -> bool {
        self.look(candidate).is_err_and(|error| is_gone(&error))
    }

    /// Looks whether the file that was pinned is the one of this name, below the tree: as the walk saw
    /// it, or as it is now. What was replaced in between is pinned anew, if it need not be of one instant.
    fn settled(
        &self,
        candidate: &Candidate,
        mut pinned: PinnedSqlite,
    ) -> Result<(PinnedSqlite, BTreeMap<OsString, Vec<u8>>), SourceError> {
        let path = self.source.join(&candidate.path);
        for _ in 0..TRIES {
            let held = self.look(candidate).ok();
            let is_now = |held: &Held| held.found.metadata.identity == pinned.identity;
            if let Some(held) = held.filter(is_now) {
                return Ok((pinned, xattrs_of(&held.way())));
            }
            if pinned.identity == candidate.identity {
                return Ok((pinned, BTreeMap::new()));
            }
            if self.pin_as.tree.instant == Instant::Same {
                break;
            }
            pinned.view.release();
            let mut prepared = self.open(candidate)?;
            prepared.pin()?;
            pinned = prepared.finish()?;
        }
        Err(SourceError::Part {
            path,
            reason: "was replaced by another file while it was pinned: try again".to_owned(),
        })
    }

    /// Each with the moment of its pin.
    fn pin_native(&self, failures: &mut Vec<Failure>) -> Vec<(Duration, PinnedNative)> {
        let mut pinned = Vec::new();
        for folder in &self.walked.native {
            let path = self.walked.folders.path(*folder);
            match native::pin(self.host, &self.source.join(&path), self.pin_as) {
                Ok(source) => {
                    let folder = *folder;
                    let native = PinnedNative {
                        folder,
                        path,
                        source,
                    };
                    pinned.push((self.host.clock.monotonic(), native));
                }
                Err(error) => failures.push(Failure { path, error }),
            }
        }
        pinned
    }

    /// Leaves out what failed, or gives it as the error.
    fn settle(
        &self,
        failures: &mut Vec<Failure>,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<(), SourceError> {
        failures.sort_by(|one, other| one.path.cmp(&other.path));
        if self.pin_as.tree.unpinned == Unpinned::Refused && !failures.is_empty() {
            let others = failures.len() - 1;
            let first = Box::new(failures.swap_remove(0).error);
            return Err(SourceError::Members { first, others });
        }
        left_out.extend(failures.drain(..).map(|failure| LeftOut {
            path: failure.path,
            reason: failure.error.to_string(),
        }));
        Ok(())
    }
}

/// Pins one right after the other, except those whose writers would have to wait for the last.
fn pin_close<M: Steps>(open: Vec<(Named, M)>, failures: &mut Vec<Failure>) -> Vec<(Named, M)> {
    let mut pinned = Vec::with_capacity(open.len());
    for (named, mut member) in open {
        let outcome = match member.pins_by_copy() {
            true => Ok(()),
            false => member.pin(),
        };
        match outcome {
            Ok(()) => pinned.push((named, member)),
            Err(error) => failures.push(failure(&named, error)),
        }
    }
    pinned
}

/// Pins all at an instant at which none of them is written, and says when that was.
fn pin_at_once<M: Steps>(
    host: &Host,
    mut open: Vec<(Named, M)>,
    unpinned: Unpinned,
    failures: &mut Vec<Failure>,
) -> (Vec<(Named, M)>, Option<Duration>) {
    // The same order in every daemon: those that meet wait for each other at one place.
    open.sort_by_key(|(named, _)| {
        let FileIdentity { device, inode } = named.candidate.identity;
        (device, inode)
    });
    while let Err((index, error)) = stop_all(host, &mut open) {
        let (named, _) = open.remove(index);
        failures.push(failure(&named, error));
        if unpinned == Unpinned::Refused {
            return (Vec::new(), None);
        }
    }
    let instant = host.clock.monotonic();
    let mut outcomes = Vec::with_capacity(open.len());
    for (_, member) in &mut open {
        outcomes.push(member.pin());
    }
    for (_, member) in open.iter_mut().rev() {
        member.let_writers_go();
    }
    let mut pinned = Vec::with_capacity(open.len());
    for ((named, member), outcome) in open.into_iter().zip(outcomes) {
        match outcome {
            Ok(()) => pinned.push((named, member)),
            Err(error) => failures.push(failure(&named, error)),
        }
    }
    (pinned, Some(instant))
}

/// Stops the writers of all, or of none. Errors: the member that could not be stopped in time, and why.
fn stop_all<M: Steps>(host: &Host, members: &mut [(Named, M)]) -> Result<(), (usize, SourceError)> {
    let until = host.clock.monotonic().saturating_add(PATIENCE);
    let mut pause = PAUSE_MIN;
    let mut first = 0;
    loop {
        for (index, (_, member)) in members.iter_mut().enumerate() {
            member.catch_up().map_err(|error| (index, error))?;
        }
        if fault::is(Fault::WritersNotStopped) {
            return Ok(());
        }
        let Err((index, error)) = try_all(host, members, first) else {
            return Ok(());
        };
        if host.clock.monotonic() >= until {
            return Err((index, error));
        }
        pause = match index == first {
            true => (pause * 2).min(PAUSE_MAX),
            false => PAUSE_MIN,
        };
        first = index;
        host.clock.sleep(some_of(host, pause));
    }
}

/// Stops `first`, then the others. Errors: the one that was in the way, and how; none is then stopped.
fn try_all<M: Steps>(
    host: &Host,
    members: &mut [(Named, M)],
    first: usize,
) -> Result<(), (usize, SourceError)> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|index| *index != first);
    let mut begun = None;
    for (count, index) in order.iter().enumerate() {
        while let Some((_, member)) = members.get_mut(*index)
            && let Err(error) = member.stop_writers()
        {
            let now = host.clock.monotonic();
            let begun = begun.unwrap_or(now.saturating_sub(HELD_MAX));
            if now.saturating_sub(begun) < HELD_MAX {
                host.clock.sleep(PAUSE_MIN);
                continue;
            }
            for index in order.iter().take(count).rev() {
                if let Some((_, member)) = members.get_mut(*index) {
                    member.let_writers_go();
                }
            }
            return Err((*index, error));
        }
        begun = begun.or(Some(host.clock.monotonic()));
    }
    Ok(())
}

/// Between half of `pause` and all of it: two that try at the same moment do not do so again.
fn some_of(host: &Host, pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without chance the pauses are equal, and something else will part the two.
    drop(host.random.fill(&mut random));
    pause / 2 + pause / 2 * u32::from(random[0]) / 256
}

/// Does `work` to each of `items`, a few at the same time; what comes out is in their order.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let count = items.len();
    let left = Mutex::new(items.into_iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(count));
    let run = || {
        loop {
            let next = left.lock().next();
            let Some((index, item)) = next else {
                return;
            };
            let result = work(item);
            done.lock().push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(count) {
            scope.spawn(run);
        }
        run();
    });
    let mut done = done.into_inner();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests;
