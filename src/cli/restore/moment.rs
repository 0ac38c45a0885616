//! The point in time that is asked for.

use anyhow::anyhow;
use clap::Args;
use jiff::Timestamp as Time;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::cli::exit::Failure;
use crate::engine::ReplayTarget;
use crate::lsn::{Lsn, Timestamp};
use crate::repository::restore::Moment;

/// Which commit, if it is not that of a backup.
#[derive(Debug, Args)]
pub(super) struct MomentArgs {
    /// The last commit at or before this time: RFC 3339 as 2026-11-20T14:00:00+01:00, or in UTC as
    /// '2026-11-20 14:00'
    #[arg(long, value_name = "TIME", group = "moment", conflicts_with_all = ["backup", "latest"])]
    to_time: Option<String>,
    /// The commit with this number, as `stillfs status` shows it
    #[arg(long, value_name = "N", group = "moment", conflicts_with_all = ["backup", "latest"])]
    to_timestamp: Option<u64>,
    /// The last commit whose records end at or before this position of the log
    #[arg(long, value_name = "LSN", group = "moment", conflicts_with_all = ["backup", "latest"])]
    to_lsn: Option<u64>,
    /// The history on whose line that is, or the beginning of its id; the newest if not given
    #[arg(long, value_name = "ID", requires = "moment")]
    history: Option<String>,
}

impl MomentArgs {
    /// Errors: usage, for what is no time.
    pub(super) fn wanted(&self) -> Result<Option<Moment>, Failure> {
        let target = match (&self.to_time, self.to_timestamp, self.to_lsn) {
            (Some(text), _, _) => ReplayTarget::Wall(wall_ns(text)?),
            (_, Some(number), _) => ReplayTarget::Timestamp(Timestamp(number)),
            (_, _, Some(lsn)) => ReplayTarget::Lsn(Lsn(lsn)),
            _ => return Ok(None),
        };
        let history = self.history.clone();
        Ok(Some(Moment { target, history }))
    }
}

/// Nanoseconds since 1970 of a time as people write it: with its offset, or in UTC.
fn wall_ns(text: &str) -> Result<u64, Failure> {
    let in_utc = || {
        let civil: DateTime = text.trim().parse().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
    };
    let time = text.trim().parse::<Time>().ok().or_else(in_utc);
    let ns = time.and_then(|time| u64::try_from(time.as_nanosecond()).ok());
    ns.ok_or_else(|| {
        Failure::usage(anyhow!(
            "{text} is no time: write 2026-11-20T14:00:00Z, with an offset as +01:00, or in UTC \
             '2026-11-20 14:00'"
        ))
    })
}

/// A time as it is told: in UTC.
pub(super) fn shown(wall_ns: u64) -> String {
    let time = Time::from_nanosecond(i128::from(wall_ns));
    time.map_or_else(|_| format!("{wall_ns} ns"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people write is what is meant: without an offset UTC, whatever the machine's zone.
    #[test]
    fn times_are_read_with_an_offset_or_in_utc() {
        let two = wall_ns("2026-11-20T14:00:00Z").unwrap();
        assert_eq!(shown(two), "2026-11-20T14:00:00Z");
        for text in [
            "2026-11-20 14:00",
            "2026-11-20 14:00:00",
            "2026-11-20T14:00",
            "2026-11-20T15:00:00+01:00",
            " 2026-11-20 09:00:00-05:00 ",
        ] {
            assert_eq!(wall_ns(text).ok(), Some(two), "{text}");
        }
        let later = wall_ns("2026-11-20 14:00:00.000000001").unwrap();
        assert_eq!(later, two + 1);
        for text in [
            "",
            "yesterday",
            "14:00",
            "2026-13-01 10:00",
            "1960-01-01 00:00",
        ] {
            assert!(wall_ns(text).is_err(), "{text}");
        }
    }
}
