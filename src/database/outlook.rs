//! What lies ahead of each pin: how fast its shadow grows, and when it can take no more.

use std::collections::HashMap;
use std::time::Duration;

use crate::database::trend::{Trend, used_up_in};
use crate::engine::EngineStats;
use crate::id::PinId;
use crate::pin::{Bound, Forecast};
use crate::shadow::{HeldPin, Shadow};

/// What was observed so far.
#[derive(Debug, Default)]
pub(super) struct Trends {
    pins: HashMap<PinId, Trend>,
    log: Trend,
    free: Trend,
}

/// A moment of an engine, for `status`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    now: Duration,
    log_growth: u64,
    log_left: u64,
    free_decline: u64,
    /// `None` where the file system does not say.
    pub(super) free_bytes: Option<u64>,
    pub(super) floor_bytes: u64,
}

impl Trends {
    /// Looks at an engine, whose log may take `log_bytes_max`, and all of its pins, and remembers what it saw.
    pub(super) fn observe(
        &mut self,
        stats: &EngineStats,
        log_bytes_max: u64,
        shadow: &Shadow,
        now: Duration,
    ) -> Outlook {
        let (free_bytes, floor_bytes) = shadow.free_space();
        let free = free_bytes.unwrap_or(u64::MAX);
        self.log.observe(now, stats.lsn);
        self.free.observe(now, free);
        let pins = shadow.pins();
        let seen: HashMap<PinId, u64> = pins
            .iter()
            .filter(|pin| pin.header().granted)
            .map(|pin| (pin.header().pin, shadow_bytes(pin)))
            .collect();
        self.pins.retain(|id, _| seen.contains_key(id));
        for (id, bytes) in seen {
            self.pins.entry(id).or_default().observe(now, bytes);
        }
        Outlook {
            now,
            log_growth: self.log.growth(now, stats.lsn),
            log_left: log_left(stats, log_bytes_max),
            free_decline: self.free.decline(now, free),
            free_bytes,
            floor_bytes,
        }
    }

    /// Bytes per second by which the shadow of `pin` grows, and when it can take no more. `None` if never
    /// at these rates.
    pub(super) fn of_pin(&self, outlook: &Outlook, pin: &HeldPin) -> (u64, Option<Forecast>) {
        let header = pin.header();
        let bytes = shadow_bytes(pin);
        let trend = self.pins.get(&header.pin);
        let growth = trend.map_or(0, |trend| trend.growth(outlook.now, bytes));
        let whole = header
            .page_count
            .saturating_mul(u64::from(header.page_size.get()));
        // A limit that the whole view does not reach is none.
        let limit = header.shadow_limit_bytes.filter(|limit| *limit < whole);
        let shadow = limit.and_then(|limit| used_up_in(limit.saturating_sub(bytes), growth));
        let above = outlook
            .free_bytes
            .map(|free| free.saturating_sub(outlook.floor_bytes));
        let room = Room {
            shadow,
            disk: above.and_then(|above| used_up_in(above, outlook.free_decline)),
            log: used_up_in(outlook.log_left, outlook.log_growth),
            holds: pin.holding_since().is_some(),
        };
        (growth, room.forecast())
    }
}

/// In what time each bound of a pin is reached; `None` if never.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    shadow: Option<Duration>,
    disk: Option<Duration>,
    log: Option<Duration>,
    /// Whether a checkpoint waits for the pin.
    holds: bool,
}

impl Room {
    /// The bound that is reached first.
    fn forecast(&self) -> Option<Forecast> {
        // What holds is at its limit or the floor already: only the log is left to it, and to nothing else.
        let bounds = match self.holds {
            true => vec![(Bound::Log, self.log)],
            false => vec![(Bound::Shadow, self.shadow), (Bound::Disk, self.disk)],
        };
        let known = bounds
            .into_iter()
            .filter_map(|(bound, left)| Some((bound, left?)));
        known
            .min_by_key(|(_, left)| *left)
            .map(|(bound, left)| Forecast {
                bound,
                in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            })
    }
}

/// Bytes that the log may still take. What is kept for an archive alone, or to be used again, goes first, and
/// ends no pin.
fn log_left(stats: &EngineStats, log_bytes_max: u64) -> u64 {
    let first = stats
        .log_kept_bytes
        .saturating_add(stats.log_reusable_bytes);
    log_bytes_max.saturating_sub(stats.wal_bytes.saturating_sub(first))
}

/// Bytes of the images that a pin keeps, those that it shares included.
pub(super) fn shadow_bytes(pin: &HeldPin) -> u64 {
    pin.counts().shadowed_pages * u64::from(pin.header().page_size.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept for an archive alone, or to be used again, takes nothing of the room that a pin has in the log.
    #[test]
    fn log_that_goes_first_leaves_its_room() {
        let stats = EngineStats {
            wal_bytes: 90,
            log_kept_bytes: 50,
            log_reusable_bytes: 30,
            ..EngineStats::default()
        };
        assert_eq!(log_left(&stats, 100), 90);
        assert_eq!(log_left(&stats, 5), 0);
    }

    /// A time without its bound misleads: a shadow that does not grow is full when the disk is.
    #[test]
    fn forecast_is_of_the_bound_that_is_reached_first() {
        let after = |seconds| Some(Duration::from_secs(seconds));
        let told = |room: Room| room.forecast().map(|first| (first.bound, first.in_ms));
        let mut room = Room::default();
        assert_eq!(told(room), None);
        room.log = after(1);
        assert_eq!(
            told(room),
            None,
            "the log is no bound of a pin that holds nothing up"
        );
        room.disk = after(30);
        assert_eq!(told(room), Some((Bound::Disk, 30_000)));
        room.shadow = after(40);
        assert_eq!(told(room), Some((Bound::Disk, 30_000)));
        room.shadow = after(20);
        assert_eq!(told(room), Some((Bound::Shadow, 20_000)));
        room.holds = true;
        assert_eq!(told(room), Some((Bound::Log, 1000)));
        room.log = None;
        assert_eq!(told(room), None);
    }
}
