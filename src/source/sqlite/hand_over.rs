//! What a view is read from, and how that changes: the order of steps, over a trait, so that the model
//! checker runs exactly these.
//!
//! Runs in the mount daemon; reads on any thread, changes on the one that tends or ends the view.
//!
//! ```text
//! Mark --keep--> Kept        a stage only goes to the right, and none is left twice
//!   \              \
//!    +-----end------+--> Ended(reason)
//! ```
//!
//! * H1 The stage is changed before any lock is let go, so that whatever is overwritten because of it
//!   is overwritten after the change.
//! * H2 A read looks at the stage again after its last byte. If that is another one, none of the bytes
//!   counts: they are read again from where they are kept, or the read fails.
//! * H3 A private copy is complete before the stage says that it is read.
//! * H4 What the mark itself says of an end counts only while the stage still is the mark: after it was
//!   let go, what it looks at is nobody's business any more.
//! * H5 An end is for ever, and the first reason stays.
//!
//! No lock is taken and nobody is waited for. Not here: files, locks, limits.

use crate::fault::{self, Fault};
use crate::view::tree::{EndSeen, ReadError};

/// What a view is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The live database, under a lock of ours.
    Mark,
    /// A private copy.
    Kept,
    /// Nothing any more.
    Ended(EndSeen),
}

/// The reasons that an end of such a view can have, by their numbers.
const REASONS: [EndSeen; 5] = [
    EndSeen::Released,
    EndSeen::Expired,
    EndSeen::WalLimit,
    EndSeen::LockIgnored,
    EndSeen::SidecarRemoved,
];
const MARK: u64 = 0;
const KEPT: u64 = 1;
const ENDED: u64 = 2;

impl Stage {
    /// As one word. A reason that no view of this kind has becomes `LockIgnored`.
    #[must_use]
    pub fn encode(self) -> u64 {
        match self {
            Self::Mark => MARK,
            Self::Kept => KEPT,
            Self::Ended(reason) => {
                let number = (0..).zip(REASONS).find(|(_, known)| *known == reason);
                ENDED + number.map_or(3, |(number, _)| number)
            }
        }
    }

    /// The stage that a word stands for; one that `encode` never gives is an end.
    #[must_use]
    pub fn decode(word: u64) -> Self {
        match word {
            MARK => Self::Mark,
            KEPT => Self::Kept,
            word => {
                let number = usize::try_from(word - ENDED).unwrap_or(usize::MAX);
                Self::Ended(*REASONS.get(number).unwrap_or(&EndSeen::LockIgnored))
            }
        }
    }
}

/// What the steps are done with.
pub trait HandOver {
    /// The stage at this moment.
    fn stage(&self) -> Stage;
    /// Changes the stage if it still is `from`; whether it was.
    fn change(&self, from: Stage, to: Stage) -> bool;
    /// Orders what was done before from what is done next (SeqCst).
    fn fence(&self);
    /// Lets the lock in the live database go.
    fn let_go(&self);
    /// Lets the private copy go.
    fn drop_kept(&self);
}

/// Does `on_mark` or `on_kept`, whichever counts, and gives what it gave if it counted to its end.
///
/// Each may be done more than once, the mark always first. Errors: theirs; `PinEnded`.
pub fn read<S: HandOver, T>(
    steps: &S,
    mut on_mark: impl FnMut() -> Result<T, ReadError>,
    mut on_kept: impl FnMut() -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    // Ends because a stage never comes back (H5): three rounds at most.
    loop {
        let stage = steps.stage();
        // What the stage promises was done before it was set (H3).
        steps.fence();
        let done = match stage {
            Stage::Mark => on_mark(),
            Stage::Kept => on_kept(),
            Stage::Ended(reason) => return Err(ReadError::PinEnded { reason }),
        };
        steps.fence();
        if steps.stage() != stage && !fault::is(Fault::HandOverUnlooked) {
            continue;
        }
        match done {
            // Somebody did what the lock forbids; nothing that is read later counts either.
            Err(ReadError::PinEnded { reason }) if stage == Stage::Mark => {
                end_from(steps, Stage::Mark, reason);
            }
            done => return done,
        }
    }
}

/// Changes over to the private copy, which is complete, and lets the mark go; `false` if the view has
/// ended meanwhile.
pub fn keep<S: HandOver>(steps: &S) -> bool {
    steps.fence();
    let_go_early(steps, Stage::Mark);
    if !steps.change(Stage::Mark, Stage::Kept) {
        return false;
    }
    steps.fence();
    steps.let_go();
    true
}

/// Ends the view and lets go what kept it; `false` if it has ended before.
pub fn end<S: HandOver>(steps: &S, reason: EndSeen) -> bool {
    // Two rounds at most, as in `read`.
    loop {
        let stage = steps.stage();
        if matches!(stage, Stage::Ended(_)) {
            return false;
        }
        if end_from(steps, stage, reason) {
            return true;
        }
    }
}

fn end_from<S: HandOver>(steps: &S, stage: Stage, reason: EndSeen) -> bool {
    let_go_early(steps, stage);
    if !steps.change(stage, Stage::Ended(reason)) {
        return false;
    }
    steps.fence();
    match stage {
        Stage::Mark => steps.let_go(),
        _ => steps.drop_kept(),
    }
    true
}

/// Does nothing, but where the bug is switched on that H1 is there for.
fn let_go_early<S: HandOver>(steps: &S, stage: Stage) {
    if stage == Stage::Mark && fault::is(Fault::LetGoEarly) {
        steps.let_go();
        fault::linger(Fault::LetGoEarly);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H5: each reason is told as it was.
    #[test]
    fn stages_survive_their_encoding() {
        let ends = REASONS.map(Stage::Ended);
        for stage in [Stage::Mark, Stage::Kept].into_iter().chain(ends) {
            assert_eq!(Stage::decode(stage.encode()), stage);
        }
        let strange = Stage::Ended(EndSeen::LockIgnored);
        assert_eq!(Stage::decode(u64::MAX), strange);
        assert_eq!(Stage::Ended(EndSeen::Fenced).encode(), strange.encode());
    }
}
