//! What bounds a pin, as people write it: `--max-age`, `--shadow-limit`,
//! `--source-wal-limit`, `--on-full`, `--max-lock`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::cli::size::{self, ByteSize};
use crate::database::{OnFull, PinOptions};
use crate::source::{SqliteOptions, WalFull};

/// The units of an age, in seconds.
const AGE_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
/// Those of what is kept.
const KEEP_UNITS: [(&str, u64); 4] = [
    ("h", 3600),
    ("d", 86_400),
    ("w", 604_800),
    ("y", 31_536_000),
];
/// The units of a lock's time, in milliseconds.
const LOCK_UNITS: [(&str, u64); 2] = [("ms", 1), ("s", 1000)];
/// Longer than any application waits for a lock.
const LOCK_MAX: Duration = Duration::from_secs(60);

/// What happens when a pin may keep no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FullPolicy {
    /// The pin ends.
    #[default]
    Break,
    /// A stillfs engine's checkpoints wait.
    Hold,
    /// What the view of an SQLite database still needs is copied, and its log let go.
    Spill,
}

const LAG_MIN: Duration = Duration::from_secs(1);
const LAG_MAX: Duration = Duration::from_secs(60 * 60);

/// Options that bound a pin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct BoundArgs {
    /// Age at which the pin ends by itself: a number with s, m, h or d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = max_age, allow_hyphen_values = true)]
    pub(crate) max_age: Option<Duration>,
    /// stillfs databases: bytes of old pages that the pin may keep [default: what it takes at the start,
    /// and half of the space that is then free above the engine's floor]
    #[arg(long, value_name = "SIZE", value_parser = size::nonzero, allow_hyphen_values = true)]
    pub(crate) shadow_limit: Option<ByteSize>,
    /// SQLite: bytes of a database's log at which --on-full happens, since no log can be used anew while
    /// its database is pinned [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::nonzero, allow_hyphen_values = true)]
    pub(crate) source_wal_limit: Option<ByteSize>,
    /// What happens when the pin may keep no more: break ends it; hold (stillfs databases) lets the engine's
    /// checkpoints wait until its log is full; spill (SQLite) copies what the view still needs to a private
    /// file, and lets the log go. In a directory hold and spill count for the databases that know them, and
    /// break for the others [default: break]
    #[arg(long, value_name = "POLICY", value_parser = on_full)]
    pub(crate) on_full: Option<FullPolicy>,
    /// SQLite in a rollback mode: how long writers may be stopped while the database is copied; a number
    /// with ms or s [default: 50ms]
    #[arg(long, value_name = "DURATION", value_parser = max_lock, allow_hyphen_values = true)]
    pub(crate) max_lock: Option<Duration>,
}

impl BoundArgs {
    /// The bounds that every source knows, and those of a stillfs database.
    pub(crate) fn options(&self) -> PinOptions {
        PinOptions {
            max_age: self.max_age.unwrap_or(PinOptions::MAX_AGE_DEFAULT),
            on_full: match self.on_full.unwrap_or_default() {
                FullPolicy::Hold => OnFull::Hold,
                FullPolicy::Break | FullPolicy::Spill => OnFull::Break,
            },
            shadow_limit_bytes: self.shadow_limit.map(|limit| limit.0),
        }
    }

    /// Puts the bounds of SQLite databases in.
    pub(crate) fn bound_sqlite(&self, options: &mut SqliteOptions) {
        options.wal_limit_bytes = self.source_wal_limit.map(|limit| limit.0);
        options.wal_full = match self.on_full.unwrap_or_default() {
            FullPolicy::Spill => WalFull::Spill,
            FullPolicy::Break | FullPolicy::Hold => WalFull::Break,
        };
        if let Some(max_lock) = self.max_lock {
            options.max_lock = max_lock;
        }
    }

    /// The same on another command line.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut words: Vec<String> = Vec::new();
        if let Some(age) = self.max_age {
            words.extend(["--max-age".to_owned(), format!("{}s", age.as_secs())]);
        }
        if let Some(limit) = self.shadow_limit {
            words.extend(["--shadow-limit".to_owned(), limit.0.to_string()]);
        }
        if let Some(limit) = self.source_wal_limit {
            words.extend(["--source-wal-limit".to_owned(), limit.0.to_string()]);
        }
        if let Some(on_full) = self.on_full {
            words.extend(["--on-full".to_owned(), on_full.name().to_owned()]);
        }
        if let Some(time) = self.max_lock {
            words.extend(["--max-lock".to_owned(), format!("{}ms", time.as_millis())]);
        }
        words.into_iter().map(OsString::from).collect()
    }
}

impl FullPolicy {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Break => "break",
            Self::Hold => "hold",
            Self::Spill => "spill",
        }
    }
}

/// Errors: what to write instead.
fn on_full(text: &str) -> Result<FullPolicy, String> {
    [FullPolicy::Break, FullPolicy::Hold, FullPolicy::Spill]
        .into_iter()
        .find(|policy| policy.name() == text)
        .ok_or_else(|| "write break, hold or spill".to_owned())
}

/// How far an archive may be behind.
///
/// Errors: what to write instead.
pub(crate) fn max_lag(text: &str) -> Result<Duration, String> {
    let seconds = in_units(text, &AGE_UNITS)
        .ok_or("write a whole number with a unit: 10s or 1m".to_owned())?;
    seconds
        .map(Duration::from_secs)
        .filter(|lag| (LAG_MIN..=LAG_MAX).contains(lag))
        .ok_or_else(|| "a lag is from 1s to 1h".to_owned())
}

/// Errors: what to write instead.
fn max_age(text: &str) -> Result<Duration, String> {
    let seconds = in_units(text, &AGE_UNITS)
        .ok_or("write a whole number with a unit: 90s, 30m, 24h or 2d".to_owned())?;
    seconds
        .map(Duration::from_secs)
        .filter(|age| (PinOptions::MAX_AGE_MIN..=PinOptions::MAX_AGE_MAX).contains(age))
        .ok_or_else(|| "a maximum age is from 1s to 366d".to_owned())
}

/// Errors: what to write instead.
fn max_lock(text: &str) -> Result<Duration, String> {
    let millis = in_units(text, &LOCK_UNITS)
        .ok_or("write a whole number with a unit: 50ms or 2s".to_owned())?;
    millis
        .map(Duration::from_millis)
        .filter(|time| (Duration::from_millis(1)..=LOCK_MAX).contains(time))
        .ok_or_else(|| "writers may be stopped for 1ms to 60s".to_owned())
}

/// How far back backups are kept. Errors: what to write instead.
pub(crate) fn keep_within(text: &str) -> Result<Duration, String> {
    let seconds = in_units(text, &KEEP_UNITS).flatten();
    seconds
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a whole number with a unit: 36h, 30d, 8w or 2y".to_owned())
}

/// A time between two things that are done again and again. Errors: what to write instead.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    let seconds = in_units(text, &AGE_UNITS).or_else(|| in_units(text, &KEEP_UNITS));
    let seconds = seconds.flatten();
    seconds
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a whole number with a unit: 90s, 30m, 36h, 7d, 5w".to_owned())
}

/// A whole number with one of `units`, in the smallest: `None` if it is none, `Some(None)` if it is too
/// large.
fn in_units(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    if number.is_empty() {
        return None;
    }
    let number = number.parse::<u64>().ok();
    Some(number.and_then(|number| number.checked_mul(*factor)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bounds: BoundArgs,
    }

    fn parse(words: &[&str]) -> Result<BoundArgs, String> {
        Line::try_parse_from([&["mount"], words].concat())
            .map(|line| line.bounds)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn ages_are_whole_numbers_with_a_unit() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("30m", 1800),
            ("24h", 86_400),
            ("366d", 31_622_400),
        ] {
            let options = parse(&["--max-age", text]).unwrap().options();
            assert_eq!(options.max_age, Duration::from_secs(seconds), "{text}");
        }
        for text in [
            "", "1", "-1", "-1h", "h", "1.5h", "+1h", "1 h", "1H", "24hours", "1\u{e9}",
        ] {
            let error = parse(&["--max-age", text]).unwrap_err();
            assert!(error.contains("with a unit"), "{text:?}: {error}");
        }
        for text in [
            "0s",
            "367d",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            let error = parse(&["--max-age", text]).unwrap_err();
            assert!(error.contains("from 1s to 366d"), "{text:?}: {error}");
        }
    }

    #[test]
    fn policies_and_limits_reach_the_kind_of_source_that_has_them() {
        let sqlite = |args: &BoundArgs| {
            let mut options = SqliteOptions::default();
            args.bound_sqlite(&mut options);
            options
        };
        let nothing = parse(&[]).unwrap();
        assert_eq!(nothing.options(), PinOptions::default());
        assert_eq!(sqlite(&nothing), SqliteOptions::default());
        let hold = parse(&["--on-full", "hold"]).unwrap();
        assert_eq!(hold.options().on_full, OnFull::Hold);
        assert_eq!(sqlite(&hold), SqliteOptions::default());
        let spill = parse(&["--on-full", "spill", "--source-wal-limit", "1G"]).unwrap();
        assert_eq!(spill.options(), PinOptions::default());
        assert_eq!(sqlite(&spill).wal_full, WalFull::Spill);
        assert_eq!(sqlite(&spill).wal_limit_bytes, Some(1 << 30));
        for text in ["", "Break", "wait"] {
            let error = parse(&["--on-full", text]).unwrap_err();
            assert!(error.contains("break, hold or spill"), "{text:?}: {error}");
        }
        for text in ["0", "1X"] {
            parse(&["--shadow-limit", text]).unwrap_err();
            parse(&["--source-wal-limit", text]).unwrap_err();
        }
    }

    #[test]
    fn times_of_a_lock_are_milliseconds_or_seconds() {
        for (text, millis) in [("1ms", 1), ("50ms", 50), ("2s", 2000), ("60000ms", 60_000)] {
            let max_lock = parse(&["--max-lock", text]).unwrap().max_lock;
            assert_eq!(max_lock, Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "", "50", "ms", "-1ms", "1.5s", "1 s", "1m", "50us", "1\u{e9}",
        ] {
            let error = parse(&["--max-lock", text]).unwrap_err();
            assert!(error.contains("with a unit"), "{text:?}: {error}");
        }
        for text in ["0ms", "0s", "61s", "60001ms", "99999999999999999999s"] {
            let error = parse(&["--max-lock", text]).unwrap_err();
            assert!(error.contains("1ms to 60s"), "{text:?}: {error}");
        }
    }

    /// The daemon's command line says what the user's said.
    #[test]
    fn bounds_survive_the_way_to_the_daemon() {
        for words in [
            &[][..],
            &[
                "--max-age",
                "2d",
                "--shadow-limit",
                "3G",
                "--on-full",
                "hold",
            ],
            &["--on-full", "break"],
            &["--on-full", "spill", "--source-wal-limit", "64M"],
            &["--max-lock", "50ms"],
            &["--max-lock", "3s"],
        ] {
            let given = parse(words).unwrap();
            let passed = given.to_arguments();
            let passed: Vec<&str> = passed.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(parse(&passed).unwrap(), given);
        }
    }
}
