//! One pin, as the engine holds it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::id::Epoch;
use crate::os::{self, File, FileIdentity, LockKind};
use crate::page::PageNo;
use crate::shadow::ShadowError;
use crate::shadow::adopt::Candidate;
use crate::shadow::index::{ENTRY_BYTES, Entry, INDEX_HEADER_BYTES, IndexHeader, entry_offset};

/// Why a pin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Its holder gave it up, or died.
    Released,
    /// A pre-image could not be kept.
    Broken,
    /// It reached its maximum age.
    Expired,
    /// It reached its shadow limit.
    ShadowFull,
    /// The space that it took was needed for commits.
    DiskFull,
    /// Checkpoints waited for it until the log was at its limit.
    LogFull,
    /// The engine stopped writing after a failed sync.
    Poisoned,
    /// The engine was stopped.
    Stopped,
    /// It was adopted, and nobody reclaimed it in time.
    Unclaimed,
    /// It was never granted.
    Refused,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Released => "released",
            Self::Broken => "broken: a pre-image could not be kept",
            Self::Expired => "expired: it reached its maximum age",
            Self::ShadowFull => "shadow full: it reached its shadow limit",
            Self::DiskFull => "disk full: commits need the space",
            Self::LogFull => "log full: checkpoints waited for it until the log was at its limit",
            Self::Poisoned => "the engine stopped after a failed sync",
            Self::Stopped => "the engine was stopped",
            Self::Unclaimed => "nobody reclaimed it after the engine's restart",
            Self::Refused => "never granted",
        })
    }
}

/// What a pin's life hangs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tenure {
    /// Whoever took it in this process, or on behalf of a client, ends it.
    #[default]
    Handle,
    /// The lock on its index: it ends when nobody holds that any more.
    Lock,
    /// The same, and only for a while: it was adopted, and its holder has not reclaimed it yet.
    Unclaimed {
        /// When it was adopted, since the machine's start.
        since: Duration,
    },
}

/// What a pin cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinCounts {
    /// Pages stored at the pin because the live file did not hold them.
    pub spilled_pages: u64,
    /// Pages captured since, before they were overwritten.
    pub captured_pages: u64,
    /// Of those, how many were written: the others were stored already for another pin.
    pub written_pages: u64,
    /// Entries in its index.
    pub shadowed_pages: u64,
}

#[derive(Debug, Default)]
struct State {
    /// S4: the truth for the engine.
    entries: HashMap<PageNo, Entry>,
    /// Slots whose entry could not be written, or only half: theirs until the end is visible.
    abandoned: Vec<Entry>,
    ended: Option<EndReason>,
    /// A cut was tried and failed; whether the file is cut nobody knows. Nothing is written to it any
    /// more, since that could make a cut index long again, with entries of zeros.
    is_doomed: bool,
    granted: bool,
    page_count: u64,
    tenure: Tenure,
    /// Since when a checkpoint is held up for it.
    holding_since: Option<Duration>,
}

impl State {
    fn refuse_if_ending(&self) -> Result<(), ShadowError> {
        match self.ended {
            Some(reason) => Err(ShadowError::Ended(reason)),
            None if self.is_doomed => Err(ShadowError::Ending),
            None => Ok(()),
        }
    }
}

/// A pin that the engine keeps.
#[derive(Debug)]
pub struct HeldPin {
    file: Arc<dyn File>,
    path: PathBuf,
    header: Mutex<IndexHeader>,
    state: Mutex<State>,
    spilled: AtomicU64,
    captured: AtomicU64,
    written: AtomicU64,
}

impl HeldPin {
    pub(super) fn new(file: Arc<dyn File>, path: PathBuf, header: IndexHeader) -> Self {
        Self {
            file,
            path,
            header: Mutex::new(header),
            state: Mutex::default(),
            spilled: AtomicU64::new(0),
            captured: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// A pin of an earlier incarnation, with what its index says.
    pub(super) fn adopted(candidate: Candidate, now: Duration) -> Self {
        let Candidate {
            file,
            path,
            header,
            entries,
        } = candidate;
        let state = State {
            entries,
            granted: header.granted,
            page_count: header.page_count,
            tenure: Tenure::Unclaimed { since: now },
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ..Self::new(file, path, header)
        }
    }

    /// Lets the index accept these epochs.
    ///
    /// Errors: `Io`; nobody knows then which it accepts.
    pub(super) fn accept(&self, epochs: [Epoch; 2]) -> Result<(), ShadowError> {
        self.header.lock().accepted_epochs = epochs;
        self.write_header()
    }

    /// The facts.
    #[must_use]
    pub fn header(&self) -> IndexHeader {
        self.header.lock().clone()
    }

    /// Fills in the pinned commit (step 1 of a pin, under the commit lock): a few words.
    pub fn fix(&self, fill: impl FnOnce(&mut IndexHeader)) {
        let mut header = self.header.lock();
        fill(&mut header);
        self.state.lock().page_count = header.page_count;
    }

    /// Marks the pin as granted; [`crate::shadow::Shadow::write_header`] writes it.
    pub fn grant(&self) {
        self.header.lock().granted = true;
        self.state.lock().granted = true;
    }

    /// What its life hangs on.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.state.lock().tenure
    }

    /// Lets its life hang on the lock on its index from here on.
    pub fn leave_to_lock(&self) {
        self.state.lock().tenure = Tenure::Lock;
    }

    /// Whether this one reclaims it: of several only the first does.
    pub fn claim(&self, tenure: Tenure) -> bool {
        let mut state = self.state.lock();
        let is_free = matches!(state.tenure, Tenure::Unclaimed { .. }) && state.ended.is_none();
        if is_free {
            state.tenure = tenure;
        }
        is_free
    }

    /// Whether nobody holds the lock on its index any more.
    ///
    /// Errors: `Io`.
    pub(super) fn is_abandoned(&self) -> Result<bool, ShadowError> {
        self.file
            .try_lock(LockKind::Exclusive)
            .map_err(ShadowError::io("look at the lock of", "a pin's index"))
    }

    /// Why it should end by itself at `now`, if it should.
    pub(super) fn is_due(&self, now: Duration, claim_patience: Duration) -> Option<EndReason> {
        let header = self.header();
        let is_past = |since: Duration, limit| now.saturating_sub(since) > limit;
        let state = self.state.lock();
        if !state.granted || state.ended.is_some() {
            return None;
        }
        let is_old = header.max_age.is_some_and(|age| is_past(header.taken, age));
        if is_old && !fault::is(Fault::AgeIgnored) {
            return Some(EndReason::Expired);
        }
        let tenure = state.tenure;
        drop(state);
        if tenure == Tenure::Handle {
            return None;
        }
        match self.is_abandoned() {
            Ok(true) if !fault::is(Fault::HolderGoneUnseen) => return Some(EndReason::Released),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, pin = %header.pin, "cannot tell whether a pin is held")
            }
        }
        match tenure {
            Tenure::Unclaimed { since }
                if is_past(since, claim_patience) && !fault::is(Fault::UnclaimedKept) =>
            {
                Some(EndReason::Unclaimed)
            }
            _ => None,
        }
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.state.lock().ended
    }

    /// What it cost.
    #[must_use]
    pub fn counts(&self) -> PinCounts {
        PinCounts {
            spilled_pages: self.spilled.load(Ordering::Relaxed),
            captured_pages: self.captured.load(Ordering::Relaxed),
            written_pages: self.written.load(Ordering::Relaxed),
            shadowed_pages: self.state.lock().entries.len() as u64,
        }
    }

    /// The index file.
    #[must_use]
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Which file the index is.
    ///
    /// Errors: `Io`.
    pub fn identity(&self) -> Result<FileIdentity, ShadowError> {
        self.file
            .identity()
            .map_err(ShadowError::io("look at", "a pin's index"))
    }

    /// The index file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn count_spilled(&self) {
        self.spilled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_captured(&self, written: bool) {
        self.captured.fetch_add(1, Ordering::Relaxed);
        self.written
            .fetch_add(u64::from(written), Ordering::Relaxed);
    }

    /// Since when a checkpoint is held up for it, on the monotonic clock.
    #[must_use]
    pub fn holding_since(&self) -> Option<Duration> {
        self.state.lock().holding_since
    }

    /// The first moment counts, until nothing is held up any more.
    pub(super) fn set_holding(&self, now: Option<Duration>) {
        let mut state = self.state.lock();
        if now.is_some() && state.holding_since.is_none() {
            let pin = self
                .path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            tracing::warn!(pin, "a pin has no room for a page: checkpoints wait");
        }
        state.holding_since = now.map(|now| state.holding_since.unwrap_or(now));
    }

    /// Errors: `AtLimit` if `count` pages more are more than it may keep.
    pub(super) fn refuse_beyond_limit(&self, count: u64) -> Result<(), ShadowError> {
        let header = self.header.lock();
        let Some(limit_bytes) = header.shadow_limit_bytes else {
            return Ok(());
        };
        let state = self.state.lock();
        let pages = (state.entries.len() + state.abandoned.len()) as u64 + count;
        let is_over = pages.saturating_mul(u64::from(header.page_size.get())) > limit_bytes;
        if is_over && !fault::is(Fault::LimitIgnored) {
            return Err(ShadowError::AtLimit { limit_bytes });
        }
        Ok(())
    }

    /// Whether `page` must be captured before it is overwritten.
    pub(super) fn lacks(&self, page: PageNo) -> bool {
        let state = self.state.lock();
        state.ended.is_none() && page.0 < state.page_count && !state.entries.contains_key(&page)
    }

    /// Writes the header, and makes the file as long as its entries.
    pub(super) fn write_header(&self) -> Result<(), ShadowError> {
        let header = self.header();
        let state = self.state.lock();
        state.refuse_if_ending()?;
        let bytes = header.page_count.saturating_mul(ENTRY_BYTES) + INDEX_HEADER_BYTES;
        if self
            .file
            .len()
            .map_err(ShadowError::io("look at", "a pin's index"))?
            < bytes
        {
            self.file
                .set_len(bytes)
                .map_err(ShadowError::io("grow", "a pin's index"))?;
        }
        os::write_all_at(&*self.file, &header.encode(), 0)
            .map_err(ShadowError::io("write", "a pin's index"))
    }

    /// Makes the entries durable, so that the kernel cannot lose one without a word: an entry of the
    /// spill that falls back to 0 would show the live page of before S, which no page check tells.
    /// One of a capture that does so shows a page that is newer than S, which the checks refuse.
    pub(super) fn sync(&self) -> Result<(), ShadowError> {
        self.file
            .sync_data()
            .map_err(ShadowError::io("sync", "a pin's index"))
    }

    /// Publishes entries, of ascending pages: file first, then the private copy.
    ///
    /// Errors: `Ended`, `Ending`, then the slots go back to whoever called; `Io`, `Exhausted`: any of them
    /// may stand in the file, so the pin keeps the slots of all until its end is visible.
    pub(super) fn publish(&self, entries: &[(PageNo, Entry)]) -> Result<(), ShadowError> {
        let mut state = self.state.lock();
        state.refuse_if_ending()?;
        debug_assert!(
            entries
                .iter()
                .all(|(page, _)| !state.entries.contains_key(page)),
            "S2: an entry never changes"
        );
        if let Err(error) = self.write_entries(entries) {
            state
                .abandoned
                .extend(entries.iter().map(|(_, entry)| *entry));
            return Err(error);
        }
        state.entries.extend(entries.iter().copied());
        Ok(())
    }

    fn write_entries(&self, entries: &[(PageNo, Entry)]) -> Result<(), ShadowError> {
        let mut bytes = Vec::new();
        for row in entries.chunk_by(|(one, _), (next, _)| one.0 + 1 == next.0) {
            let Some((first, _)) = row.first() else {
                continue;
            };
            let offset = entry_offset(*first).ok_or(ShadowError::Exhausted)?;
            bytes.clear();
            bytes.extend(
                row.iter()
                    .flat_map(|(_, entry)| entry.encode().to_le_bytes()),
            );
            os::write_all_at(&*self.file, &bytes, offset)
                .map_err(ShadowError::io("write", "a pin's index"))?;
        }
        Ok(())
    }

    /// S3: cuts the index, and gives what the pin held. Later calls give nothing.
    pub(super) fn cut(&self, reason: EndReason) -> Result<Vec<Entry>, ShadowError> {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return Ok(Vec::new());
        }
        state.is_doomed = true;
        if !fault::is(Fault::EndNotVisible) {
            self.file
                .set_len(0)
                .map_err(ShadowError::io("cut", "a pin's index"))?;
        }
        state.ended = Some(reason);
        let mut freed = std::mem::take(&mut state.abandoned);
        freed.extend(state.entries.drain().map(|(_, entry)| entry));
        Ok(freed)
    }

    /// What the pin holds: for those who rebuild who owns which slot, and for the injected fault that
    /// gives it back too early.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries.values().copied().collect()
    }
}
