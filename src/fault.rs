//! Deliberate bugs, so that the tests can prove that they would notice.
//!
//! Only a build with the feature `faults` has them, and there the environment variable
//! `STILLFS_FAULT` chooses one. Without the feature [`is`] is a constant `false`.

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(dead_code))]
pub(crate) enum Fault {
    /// Writeback overwrites without capturing.
    CaptureOff,
    /// The merged read does not look into the index after the live read, but before it.
    LookBeforeLiveRead,
    /// The entry is published after the overwrite.
    PublishAfterOverwrite,
    /// The end of the pin is looked at before the read and not after it.
    EndLookedAtFirst,
    /// Slots are given to others before the end is visible.
    SlotsReusedEarly,
    /// The spill stores the newest version and not the one at S.
    SpillNewest,
    /// A page counts as clean while its live write is in flight.
    CleanInFlight,
    /// Page checks of the merged read are off; not a bug by itself: the belts off the braces.
    PageChecksOff,
}

/// How often a thread lets the others go first to keep the window of a bug open.
#[cfg(feature = "faults")]
const LINGER_TURNS: u32 = 200;

#[cfg(feature = "faults")]
impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::CaptureOff => "capture-off",
            Self::LookBeforeLiveRead => "look-before-live-read",
            Self::PublishAfterOverwrite => "publish-after-overwrite",
            Self::EndLookedAtFirst => "end-looked-at-first",
            Self::SlotsReusedEarly => "slots-reused-early",
            Self::SpillNewest => "spill-newest",
            Self::CleanInFlight => "clean-in-flight",
            Self::PageChecksOff => "page-checks-off",
        }
    }
}

/// Whether `fault` is switched on. `STILLFS_FAULT` holds names, separated by commas.
#[cfg(feature = "faults")]
pub(crate) fn is(fault: Fault) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("STILLFS_FAULT").unwrap_or_default());
    chosen.split(',').any(|name| name == fault.name())
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
