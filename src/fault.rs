//! Deliberate bugs, so that the tests can prove that they would notice.
//!
//! Only a build with the feature `faults` has them, and there the environment variable
//! `STILLFS_FAULT` chooses one. Without the feature [`is`] is a constant `false`. Each is a small
//! deviation at the real place; `scripts/mutants` turns them on one after another.

/// The bugs: what goes wrong, and the name by which `STILLFS_FAULT` chooses it.
macro_rules! faults {
    ($($(#[$doc:meta])+ $fault:ident = $name:literal,)+) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "faults"), allow(dead_code))]
        pub(crate) enum Fault {
            $($(#[$doc])+ $fault,)+
        }

        #[cfg(feature = "faults")]
        impl Fault {
            fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)+
                }
            }
        }
    };
}

faults! {
    /// Writeback overwrites without capturing.
    CaptureOff = "capture-off",
    /// The merged read does not look into the index after the live read, but before it.
    LookBeforeLiveRead = "look-before-live-read",
    /// The entry is published after the overwrite.
    PublishAfterOverwrite = "publish-after-overwrite",
    /// The end of the pin is looked at before the read and not after it.
    EndLookedAtFirst = "end-looked-at-first",
    /// Slots are given to others before the end is visible.
    SlotsReusedEarly = "slots-reused-early",
    /// The spill stores the newest version and not the one at S.
    SpillNewest = "spill-newest",
    /// A page counts as clean while its live write is in flight.
    CleanInFlight = "clean-in-flight",
    /// Page checks of the merged read are off; not a bug by itself: the belts off the braces.
    PageChecksOff = "page-checks-off",

    /// The spill leaves the view's two header pages out.
    HeaderNotSpilled = "header-not-spilled",
    /// The spill leaves its first page out.
    SpillMissesPage = "spill-misses-page",
    /// A pre-image is kept for the first of the pins that lack it.
    CaptureForOnePin = "capture-for-one-pin",
    /// A page of the free list is overwritten uncaptured.
    FreePageUncaptured = "free-page-uncaptured",
    /// A slot that a second pin shares has one holder, so that it is freed with the first of them.
    SlotHolderUncounted = "slot-holder-uncounted",
    /// The index of a pin that ends is not cut, and its slots are used for others.
    EndNotVisible = "end-not-visible",
    /// A pin is granted before the log is durable through its commit.
    GrantBeforeDurable = "grant-before-durable",
    /// The pins do not hear that the engine stopped writing after a failed sync.
    PoisonUnheard = "poison-unheard",

    /// A held pin is told of the new epoch and then forgotten.
    AdoptionSkipped = "adoption-skipped",
    /// The slots of an adopted pin count as free.
    SlotsNotRebuilt = "slots-not-rebuilt",
    /// A held pin of another live file, database or history is adopted.
    ForeignAdopted = "foreign-adopted",
    /// A held pin that another incarnation has fenced is adopted.
    FencedAdopted = "fenced-adopted",
    /// The entries of a pin that is adopted are believed, whatever the slots hold.
    EntriesBelieved = "entries-believed",
    /// An adopted pin that nobody reclaims lasts.
    UnclaimedKept = "unclaimed-kept",
    /// A pin lasts beyond its maximum age.
    AgeIgnored = "age-ignored",
    /// A pin whose holder is gone lasts.
    HolderGoneUnseen = "holder-gone-unseen",

    /// Pages that a pin holds are overwritten.
    HoldOverwrites = "hold-overwrites",
    /// A pin may grow beyond its limit.
    LimitIgnored = "limit-ignored",
    /// The shadow may take the disk's last byte.
    FloorIgnored = "floor-ignored",
    /// Where space runs out the youngest pin goes first.
    YoungestGoesFirst = "youngest-goes-first",
    /// On a full disk the pins that hold go before those that break.
    HoldGoesFirst = "hold-goes-first",
    /// A log at its limit ends no pin that holds it up.
    LogLimitHolds = "log-limit-holds",

    /// An engine that opens keeps the epoch of the one before.
    EpochUnchanged = "epoch-unchanged",
    /// The new epoch gets into the live file with the first checkpoint, after its writeback.
    EpochLate = "epoch-late",
    /// The epoch is the one before plus 1, and not drawn at random.
    EpochCounted = "epoch-counted",
    /// The copies of the header are not written by turns.
    HeaderOneCopy = "header-one-copy",

    /// A commit is acknowledged before its log is synced.
    CommitUnsynced = "commit-unsynced",
    /// A reader sees the newest commit, durable or not.
    ReaderNotDurable = "reader-not-durable",
    /// A failed sync of the log does not stop the commits after it.
    FailedSyncForgotten = "failed-sync-forgotten",
    /// The directory entry of a new segment is not synced.
    SegmentNameUnsynced = "segment-name-unsynced",
    /// An old segment is overwritten before its new name, which says that it is none, is durable.
    SpareNameUnsynced = "spare-name-unsynced",
    /// An old segment is made the next one before its new header is durable.
    SpareHeaderUnsynced = "spare-header-unsynced",
    /// Where an old segment could not be made the next one, its old records stay in it.
    AbandonedUncut = "abandoned-uncut",
    /// Records are checked without the salt of their segment, so that an old tail passes.
    SaltNotMixed = "salt-not-mixed",
    /// What a failed append left is not cut back.
    DebrisLeft = "debris-left",
    /// A delta that is torn, or of another page, is applied.
    TornDeltaAccepted = "torn-delta-accepted",
    /// A bad record ends the log, whatever follows it.
    DamageTakenForTail = "damage-taken-for-tail",
    /// Recovery does not sync the log that it read.
    RecoveryUnsynced = "recovery-unsynced",
    /// A checkpoint goes on with deltas upon images that stand before the new log start.
    DeltaBeforeStart = "delta-before-start",
    /// A checkpoint names the new log start before the live file is synced.
    HeaderBeforeLiveSync = "header-before-live-sync",
    /// A checkpoint lets its segments go before the live file is synced.
    SegmentRemovedEarly = "segment-removed-early",
    /// Old pages are not kept for readers of this process.
    ReadersForgotten = "readers-forgotten",
    /// A commit's wall clock is the machine's, also where that went back.
    WallClockBack = "wall-clock-back",

    /// The read mark in a live SQLite database is let go right after the pin.
    SqliteMarkDropped = "sqlite-mark-dropped",
    /// The last frame of the pinned state in an SQLite log is left out.
    SqliteFrameShort = "sqlite-frame-short",
    /// The databases of a set are pinned without stopping their writers.
    WritersNotStopped = "writers-not-stopped",
    /// The SQLite log is read where only the database file may be.
    SqliteLogUnderReadZero = "sqlite-log-under-read-zero",
    /// The checks of frames and the last look at an SQLite pin are off; not a bug by itself, as above.
    SqliteChecksOff = "sqlite-checks-off",

    /// The lock of a pin in a foreign engine is let go before its view knows.
    LetGoEarly = "let-go-early",
    /// A read that overlaps a change of what its view is read from counts.
    HandOverUnlooked = "hand-over-unlooked",
    /// A copy of a database in rollback mode counts although the file was written since.
    CopyUnverified = "copy-unverified",
    /// A hot journal is not seen.
    HotJournalUnseen = "hot-journal-unseen",

    /// A manifest is published before the names of what it needs are durable.
    ManifestUnsettled = "manifest-unsettled",
    /// The first of the pages that have changed is left out of what is known to have changed.
    ChangedPageLeftOut = "changed-page-left-out",
    /// A backup is taken over from one of another history, as if it were of the same.
    ForeignBaseBelieved = "foreign-base-believed",
    /// The last look at a pin, after the last byte was read, is left out.
    LastLookSkipped = "last-look-skipped",
    /// The pin of a backup that is done lasts.
    BackupPinKept = "backup-pin-kept",
    /// Whoever asks for the lock of a repository gets it.
    WriterLockIgnored = "writer-lock-ignored",
    /// A prune does not ask the newest backup what it needs.
    NewestNotAsked = "newest-not-asked",
    /// The units of a frame are given out whatever their digests are.
    DigestUnchecked = "digest-unchecked",
    /// Backups are verified by what their packs say of themselves.
    VerifiedUnread = "verified-unread",
    /// A restored database keeps the history that it was pinned in.
    HistoryKept = "history-kept",
}

/// How often a thread lets the others go first to keep the window of a bug open.
#[cfg(feature = "faults")]
const LINGER_TURNS: u32 = 200;

/// Whether `fault` is switched on. `STILLFS_FAULT` holds names, separated by commas.
#[cfg(feature = "faults")]
pub(crate) fn is(fault: Fault) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("STILLFS_FAULT").unwrap_or_default());
    // Asked in the innermost loops of tests that switch none on.
    !chosen.is_empty() && chosen.split(',').any(|name| name == fault.name())
}

/// Keeps the window of `fault` open for a while, if it is switched on.
#[cfg(feature = "faults")]
pub(crate) fn linger(fault: Fault) {
    if is(fault) {
        (0..LINGER_TURNS).for_each(|_| std::thread::yield_now());
    }
}

/// Lets the others go first, and keeps the window of `fault` open if it `happened` meanwhile.
#[cfg(feature = "faults")]
pub(crate) fn linger_after(fault: Fault, happened: impl FnOnce() -> bool) {
    if is(fault) {
        std::thread::yield_now();
        if happened() {
            // It happens seldom, so what follows may take its time.
            (0..5).for_each(|_| linger(fault));
        }
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn linger_after(_fault: Fault, _happened: impl FnOnce() -> bool) {}

/// Does nothing in this build.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) const fn linger(_fault: Fault) {}

/// Whether `fault` is switched on: never in this build.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) const fn is(_fault: Fault) -> bool {
    false
}
