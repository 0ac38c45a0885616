//! The log that a pin holds: when it is too much, and what is to be told of it.
//!
//! ```text
//! 0 ........ 80 % ........ limit ........ 125 % ........ + 64 MiB
//!             |              |              |              |
//! break:      warning        ends
//! spill:      copying starts                ends, if the   ends, if the copy
//!                                           copy failed    is not done
//! ```
//!
//! Copying starts before the limit, because the log grows on while it is copied; and since a copy that
//! is under way, or that failed for want of space, may yet be had, the limit is stretched for it once. A log
//! that was longer than the limit before anybody held it counts from there: a copy gets its chance.

use std::time::Duration;

use crate::amount::Bytes;
use crate::database::used_up_in;
use crate::source::WalFull;
use crate::source::sqlite::wal_pin::HeldWal;

/// Where copying starts, and where a limit is warned of, in per cent of the limit.
const NEAR_PERCENT: u64 = 80;
/// Where the view ends although a copy was asked for, of the limit or of the log at the pin.
const STRETCHED_PERCENT: u64 = 125;
/// How much further while the copy is being made: a small limit is soon passed by a fast writer.
const COPYING_BYTES: u64 = 64 << 20;
/// Less held log than this is nobody's concern.
const NOTABLE_BYTES: u64 = 64 << 20;
/// A disk that is full in less is told of.
const FULL_SOON: Duration = Duration::from_secs(10 * 60);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    /// Make a copy, unless one is being made.
    Spill,
    End,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    /// It was not tried, or is under way.
    Possible,
    /// It was tried in vain.
    Failed,
}

/// What is known of the log that a pin holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    pub(super) held: HeldWal,
    pub(super) growth_bytes_per_second: u64,
    pub(super) limit_bytes: Option<u64>,
    pub(super) full: WalFull,
    pub(super) copying: Copying,
    pub(super) database_bytes: u64,
    /// Free space of the log's file system and what must stay of it, where that is known.
    pub(super) free_bytes: Option<u64>,
    pub(super) floor_bytes: u64,
}

fn part(limit: u64, percent: u64) -> u64 {
    let part = u128::from(limit) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

impl Outlook {
    pub(super) fn verdict(&self) -> Verdict {
        let Some(limit) = self.limit_bytes else {
            return Verdict::Nothing;
        };
        let held = self.held.bytes;
        match self.full {
            WalFull::Break if held >= limit => Verdict::End,
            WalFull::Spill if held >= self.stretched(limit) => Verdict::End,
            WalFull::Spill if held >= part(limit, NEAR_PERCENT) => Verdict::Spill,
            _ => Verdict::Nothing,
        }
    }

    /// Where the view ends although a copy was asked for.
    fn stretched(&self, limit: u64) -> u64 {
        let stretched = part(limit.max(self.held.bytes_at_pin), STRETCHED_PERCENT);
        match self.copying {
            Copying::Failed => stretched,
            Copying::Possible => stretched.saturating_add(COPYING_BYTES),
        }
    }

    /// What is to be told, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        let held = Bytes(self.held.bytes);
        if let Some(limit) = self.limit_bytes {
            let is_near = self.held.bytes >= part(limit, NEAR_PERCENT);
            let then = match self.full {
                WalFull::Break => "the view ends",
                WalFull::Spill => "it is copied",
            };
            if is_near {
                let limit = Bytes(limit);
                return Some(format!("holds {held} of log; at {limit} {then}"));
            }
        }
        if let Some(left) = self.free_bytes {
            let left = left.saturating_sub(self.floor_bytes);
            let full_in = used_up_in(left, self.growth_bytes_per_second);
            if self.held.bytes > 0 && (left == 0 || full_in.is_some_and(|time| time < FULL_SOON)) {
                let free = self.free_bytes.map_or(0, |free| free);
                return Some(format!(
                    "holds {held} of log, and the disk has {} left: set --source-wal-limit, or unmount",
                    Bytes(free)
                ));
            }
        }
        let notable = NOTABLE_BYTES.max(self.database_bytes);
        (self.limit_bytes.is_none() && self.held.bytes > notable).then(|| {
            format!(
                "holds {held} of log, more than the database has: unmount it soon, or set --source-wal-limit"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(held: u64, limit: Option<u64>, full: WalFull) -> Outlook {
        Outlook {
            held: HeldWal {
                bytes: held,
                bytes_at_pin: 0,
            },
            growth_bytes_per_second: 0,
            limit_bytes: limit,
            full,
            copying: Copying::Failed,
            database_bytes: 0,
            free_bytes: None,
            floor_bytes: 100,
        }
    }

    #[test]
    fn limit_breaks_or_spills_where_it_says() {
        let verdict = |held, full| outlook(held, Some(1000), full).verdict();
        for (held, with_break, with_spill) in [
            (799, Verdict::Nothing, Verdict::Nothing),
            (800, Verdict::Nothing, Verdict::Spill),
            (1000, Verdict::End, Verdict::Spill),
            (1249, Verdict::End, Verdict::Spill),
            (1250, Verdict::End, Verdict::End),
        ] {
            assert_eq!(verdict(held, WalFull::Break), with_break, "{held}");
            assert_eq!(verdict(held, WalFull::Spill), with_spill, "{held}");
        }
        let none = outlook(u64::MAX, None, WalFull::Break);
        assert_eq!(none.verdict(), Verdict::Nothing);
        let huge = outlook(u64::MAX, Some(u64::MAX), WalFull::Spill);
        assert_eq!(huge.verdict(), Verdict::End, "nothing overflows");
    }

    /// A log that was long before, and one that grows faster than it can be looked at.
    #[test]
    fn copy_gets_its_chance() {
        let mut outlook = outlook(5000, Some(1000), WalFull::Spill);
        assert_eq!(outlook.verdict(), Verdict::End);
        outlook.copying = Copying::Possible;
        assert_eq!(outlook.verdict(), Verdict::Spill);
        outlook.held.bytes = 1250 + COPYING_BYTES;
        assert_eq!(outlook.verdict(), Verdict::End);
        outlook.held.bytes_at_pin = outlook.held.bytes;
        assert_eq!(outlook.verdict(), Verdict::Spill);
        outlook.copying = Copying::Failed;
        assert_eq!(
            outlook.verdict(),
            Verdict::Spill,
            "a quarter more than at the pin"
        );
    }

    #[test]
    fn much_held_log_is_told_of() {
        let near = outlook(800, Some(1000), WalFull::Break);
        assert!(near.warning().is_some_and(|text| text.contains("ends")));
        assert_eq!(outlook(799, Some(1000), WalFull::Break).warning(), None);
        let mut much = outlook(NOTABLE_BYTES + 1, None, WalFull::Break);
        assert!(much.warning().is_some_and(|text| text.contains("unmount")));
        much.database_bytes = NOTABLE_BYTES * 2;
        assert_eq!(much.warning(), None);
        much.free_bytes = Some(1100);
        much.growth_bytes_per_second = 1;
        assert_eq!(
            much.warning().is_some(),
            FULL_SOON > Duration::from_secs(1000)
        );
        much.growth_bytes_per_second = 10;
        assert!(much.warning().is_some_and(|text| text.contains("disk")));
    }
}
