//! What bounds a pin, as people write it: `--max-age`, `--shadow-limit`, `--on-full`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::cli::size::{self, ByteSize};
use crate::database::{OnFull, PinOptions};

/// The units of a duration, in seconds.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// Options that bound a pin.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BoundArgs {
    /// Age at which the pin ends by itself: a number with s, m, h or d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = max_age, allow_hyphen_values = true)]
    pub(crate) max_age: Option<Duration>,
    /// Bytes of old pages that the pin may keep [default: what it takes at the start, and half of the
    /// space that is then free above the engine's floor]
    #[arg(long, value_name = "SIZE", value_parser = size::nonzero, allow_hyphen_values = true)]
    pub(crate) shadow_limit: Option<ByteSize>,
    /// What happens when the pin may keep no more: break ends it, hold lets the engine's checkpoints wait
    /// until its log is full [default: break]
    #[arg(long, value_name = "POLICY", value_parser = on_full)]
    pub(crate) on_full: Option<OnFull>,
}

impl BoundArgs {
    pub(crate) fn options(&self) -> PinOptions {
        PinOptions {
            max_age: self.max_age.unwrap_or(PinOptions::MAX_AGE_DEFAULT),
            on_full: self.on_full.unwrap_or_default(),
            shadow_limit_bytes: self.shadow_limit.map(|limit| limit.0),
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
        if let Some(on_full) = self.on_full {
            words.extend(["--on-full".to_owned(), name_of(on_full).to_owned()]);
        }
        words.into_iter().map(OsString::from).collect()
    }
}

/// A policy as it is written.
pub(crate) fn name_of(on_full: OnFull) -> &'static str {
    match on_full {
        OnFull::Break => "break",
        OnFull::Hold => "hold",
    }
}

/// Errors: what to write instead.
fn on_full(text: &str) -> Result<OnFull, String> {
    match text {
        "break" => Ok(OnFull::Break),
        "hold" => Ok(OnFull::Hold),
        "spill" => {
            Err("spill is for SQLite sources: a stillfs database takes break or hold".to_owned())
        }
        _ => Err("write break or hold".to_owned()),
    }
}

/// Errors: what to write instead.
fn max_age(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number with a unit: 90s, 30m, 24h or 2d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let (_, seconds) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    let number = text.strip_suffix(unit).ok_or_else(wrong)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let age = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*seconds));
    age.map(Duration::from_secs)
        .filter(|age| (PinOptions::MAX_AGE_MIN..=PinOptions::MAX_AGE_MAX).contains(age))
        .ok_or_else(|| "a maximum age is from 1s to 366d".to_owned())
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
    fn policies_are_those_of_a_native_database() {
        assert_eq!(parse(&[]).unwrap().options(), PinOptions::default());
        let hold = parse(&["--on-full", "hold"]).unwrap().options();
        assert_eq!(hold.on_full, OnFull::Hold);
        let spill = parse(&["--on-full", "spill"]).unwrap_err();
        assert!(spill.contains("for SQLite sources"), "{spill}");
        for text in ["", "Break", "wait"] {
            let error = parse(&["--on-full", text]).unwrap_err();
            assert!(error.contains("break or hold"), "{text:?}: {error}");
        }
        for text in ["0", "1X"] {
            parse(&["--shadow-limit", text]).unwrap_err();
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
        ] {
            let given = parse(words).unwrap();
            let passed = given.to_arguments();
            let passed: Vec<&str> = passed.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(parse(&passed).unwrap().options(), given.options());
        }
    }
}
