//! Backups as people read of them: times, sources, tables.

use std::time::Duration;

use crate::cli::output;
use crate::repository::{BackupKind, SourceName};

/// A moment, UTC, to the second.
pub(crate) fn when(wall_ns: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long ago that was.
pub(crate) fn age(wall_ns: u64, now_ns: u64) -> String {
    output::duration(Duration::from_nanos(now_ns.saturating_sub(wall_ns)))
}

/// What was backed up: its path, with the machine if it was another than `host`.
pub(crate) fn source(name: &SourceName, host: &str) -> String {
    let path = output::plain(&name.path);
    match name.host == host {
        true => path,
        false => format!("{}:{path}", output::plain(&name.host)),
    }
}

/// The word for a kind.
pub(crate) fn kind(kind: BackupKind) -> &'static str {
    match kind {
        BackupKind::Full => "full",
        BackupKind::Incremental => "incremental",
        BackupKind::Differential => "differential",
    }
}

/// So many bytes in so much time, for people; nothing where that was no time at all.
pub(crate) fn rate(bytes: u64, duration_ns: u64) -> String {
    let time = Duration::from_nanos(duration_ns);
    let seconds = match time.as_millis() {
        millis @ 0..10_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => output::duration(time),
    };
    let per_second = u128::from(bytes) * 1_000_000_000 / u128::from(duration_ns.max(1));
    match u64::try_from(per_second) {
        Ok(per_second) if duration_ns > 0 && bytes > 0 => {
            format!("{seconds} ({}/s)", output::bytes(per_second))
        }
        _ => seconds,
    }
}

/// Rows in columns as wide as their widest word; those of numbers end under each other.
pub(crate) fn columns(rows: &[Vec<String>], is_number: &[bool]) -> Vec<String> {
    let width = |column: usize| {
        let words = rows.iter().filter_map(|row| row.get(column));
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..is_number.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let words = row.iter().zip(&widths).zip(is_number);
        let words: Vec<String> = words
            .map(|((word, width), is_number)| match is_number {
                true => format!("{word:>width$}"),
                false => format!("{word:<width$}"),
            })
            .collect();
        words.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_ages_are_told_in_words() {
        let at = 1_795_201_649_123_456_789;
        assert_eq!(when(at), "2026-11-20 19:07:29");
        assert_eq!(age(at, at + 90 * 1_000_000_000), "1m30s");
        // A clock that was set back.
        assert_eq!(age(at, at - 1), "0s");
        assert_eq!(rate(10 << 20, 2_500_000_000), "2.5 s (4.0 MiB/s)");
        assert_eq!(rate(0, 2_000_000), "0.0 s");
        assert_eq!(rate(1 << 30, 90_000_000_000), "1m30s (11.3 MiB/s)");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_word() {
        let row = |words: [&str; 3]| words.map(str::to_owned).to_vec();
        let rows = [row(["ID", "SIZE", "TAG"]), row(["abc", "1", ""])];
        let lines = columns(&rows, &[false, true, false]);
        assert_eq!(lines, ["ID   SIZE  TAG", "abc     1"]);
    }

    #[test]
    fn another_machine_is_named_and_names_stay_on_their_line() {
        let name = SourceName {
            kind: "tree".to_owned(),
            path: "/a\nb".to_owned(),
            host: "here".to_owned(),
        };
        assert_eq!(source(&name, "here"), "/a\\nb");
        assert_eq!(source(&name, "there"), "here:/a\\nb");
    }
}
