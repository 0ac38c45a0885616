//! How the databases of a view are, all together and one by one: on the way from the daemon to `status`.

use serde::{Deserialize, Serialize};

use crate::cli::omitted::within;
use crate::cli::output;
use crate::source::MemberStatus;

/// The databases of a view; the names are stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Members {
    /// How many the view has.
    pub(crate) database_count: u64,
    /// How many of their pins have ended.
    pub(crate) ended_count: u64,
    /// Bytes of logs that cannot be used anew while the view is there.
    pub(crate) held_wal_bytes: u64,
    /// How fast these grow, over the last minutes.
    pub(crate) growth_bytes_per_second: u64,
    /// Bytes of private copies.
    pub(crate) scratch_bytes: u64,
    /// When the first of the logs is at its limit, at that rate; `null` if never.
    pub(crate) full_in_seconds: Option<u64>,
    /// Whose log that is.
    pub(crate) full_first: Option<String>,
    /// As many as there is room for, the worst first.
    pub(crate) databases: Vec<MemberStatus>,
}

impl Members {
    /// Those of a view; rows in at most `bytes_max` bytes of JSON.
    pub(crate) fn of(mut rows: Vec<MemberStatus>, bytes_max: usize) -> Self {
        rows.sort_by(|a, b| {
            badness(b)
                .cmp(&badness(a))
                .then_with(|| a.path.cmp(&b.path))
        });
        let sum =
            |of: fn(&MemberStatus) -> u64| rows.iter().map(of).fold(0_u64, u64::saturating_add);
        let first = rows
            .iter()
            .filter_map(|row| Some((full_in_seconds(row)?, row)))
            .min_by_key(|(seconds, _)| *seconds);
        Self {
            database_count: rows.len() as u64,
            ended_count: rows.iter().filter(|row| has_ended(row)).count() as u64,
            held_wal_bytes: sum(|row| row.held_wal_bytes),
            growth_bytes_per_second: sum(|row| row.growth_bytes_per_second),
            scratch_bytes: sum(|row| row.scratch_bytes),
            full_in_seconds: first.map(|(seconds, _)| seconds),
            full_first: first.map(|(_, row)| row.path.clone()),
            databases: within(rows, bytes_max),
        }
    }

    /// Why reads of the view fail, if a database's pin has ended: the first by name, and how many more.
    pub(crate) fn end_reason(&self) -> Option<String> {
        let row = self.databases.iter().find(|row| has_ended(row))?;
        let reason = row.reason.as_deref().unwrap_or("its pin has ended");
        let text = match row.path.as_str() {
            "" => reason.to_owned(),
            path => format!("{path}: {reason}"),
        };
        Some(with_more(text, self.ended_count.saturating_sub(1)))
    }

    /// What is to be told of the databases: the worst warning, and how many more there are.
    pub(crate) fn warning(&self) -> Option<String> {
        let warned = self.databases.iter();
        let mut warned = warned.filter_map(|row| Some((row, row.warning.as_deref()?)));
        let (row, warning) = warned.next()?;
        let text = match row.path.as_str() {
            "" => warning.to_owned(),
            path => format!("{path}: {warning}"),
        };
        Some(with_more(text, warned.count() as u64))
    }
}

fn with_more(text: String, more: u64) -> String {
    match more {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// Sorts ended pins before warned ones, and these before what holds much.
fn badness(row: &MemberStatus) -> (bool, bool, u64, u64) {
    (
        has_ended(row),
        row.warning.is_some(),
        row.held_wal_bytes,
        row.growth_bytes_per_second,
    )
}

fn has_ended(row: &MemberStatus) -> bool {
    row.state == "ended"
}

/// When a held log is at its limit, at the rate of the last minutes.
pub(crate) fn full_in_seconds(row: &MemberStatus) -> Option<u64> {
    let limit = row.wal_limit_bytes.filter(|_| row.state == "held")?;
    let left = limit.saturating_sub(row.held_wal_bytes);
    left.checked_div(row.growth_bytes_per_second)
}

/// One database in a line, for people.
pub(crate) fn line(row: &MemberStatus, name: &str) -> String {
    let mut text = format!("{name}: {}", row.state);
    if let Some(reason) = &row.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text.push_str(&match (row.how.as_str(), row.scratch_bytes) {
        ("", _) => String::new(),
        ("wal", _) => ", read from file and log".to_owned(),
        ("file", _) => ", read from its file".to_owned(),
        ("pages", _) => ", read from its pages".to_owned(),
        (how, 0) => format!(", read from a private {how}"),
        (how, bytes) => format!(", read from a private {how} of {}", output::bytes(bytes)),
    });
    if row.lock_held_us > 0 {
        let tenths = row.lock_held_us.div_ceil(100);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        text.push_str(&format!("; no commits for {whole}.{tenth} ms"));
    }
    if row.state == "held" && row.held_wal_bytes > 0 {
        let limit = row.wal_limit_bytes.map(output::bytes);
        let limit = limit.map_or("no limit".to_owned(), |limit| format!("limit {limit}"));
        text.push_str(&format!(
            "; holds {} of log ({limit}), growing {}/s",
            output::bytes(row.held_wal_bytes),
            output::bytes(row.growth_bytes_per_second)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &str, held_wal_bytes: u64) -> MemberStatus {
        MemberStatus {
            path: path.to_owned(),
            kind: "sqlite".to_owned(),
            state: "held".to_owned(),
            how: "wal".to_owned(),
            held_wal_bytes,
            ..MemberStatus::default()
        }
    }

    #[test]
    fn the_worst_stands_first_and_totals_count_all() {
        let ended = MemberStatus {
            state: "ended".to_owned(),
            reason: Some("its log was removed".to_owned()),
            ..held("z.db", 0)
        };
        let warned = MemberStatus {
            warning: Some("its log grows".to_owned()),
            ..held("b.db", 5)
        };
        let limited = MemberStatus {
            wal_limit_bytes: Some(1000),
            growth_bytes_per_second: 90,
            ..held("c.db", 100)
        };
        let rows = vec![
            held("a.db", 7),
            limited,
            warned,
            ended.clone(),
            held("d.db", 7),
        ];
        let members = Members::of(rows, 10_000);
        let order: Vec<&str> = members
            .databases
            .iter()
            .map(|row| row.path.as_str())
            .collect();
        assert_eq!(order, ["z.db", "b.db", "c.db", "a.db", "d.db"]);
        assert_eq!((members.database_count, members.ended_count), (5, 1));
        assert_eq!(members.held_wal_bytes, 119);
        assert_eq!(members.full_in_seconds, Some(10));
        assert_eq!(members.full_first.as_deref(), Some("c.db"));
        assert_eq!(
            members.end_reason().as_deref(),
            Some("z.db: its log was removed")
        );
        assert_eq!(members.warning().as_deref(), Some("b.db: its log grows"));
        let both = Members::of(
            vec![
                ended.clone(),
                MemberStatus {
                    path: String::new(),
                    ..ended
                },
            ],
            10_000,
        );
        assert_eq!(
            both.end_reason().as_deref(),
            Some("its log was removed; and 1 more")
        );
    }

    /// The kernel takes no attribute over 64 KiB, whatever files are called.
    #[test]
    fn thousands_of_databases_keep_within_their_bytes() {
        let name = "\u{1}".repeat(3000);
        let rows = (0..5000).map(|n| held(&format!("{n}{name}"), n)).collect();
        let members = Members::of(rows, 40_000);
        assert_eq!(members.database_count, 5000);
        assert!(!members.databases.is_empty());
        let text = serde_json::to_string(&members).unwrap();
        assert!(text.len() < 64_000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Members>(&text).unwrap(), members);
    }

    #[test]
    fn a_line_says_what_a_database_holds() {
        let row = MemberStatus {
            wal_limit_bytes: Some(1 << 30),
            growth_bytes_per_second: 2048,
            ..held("a.db", 3 << 20)
        };
        assert_eq!(
            line(&row, "a.db"),
            "a.db: held, read from file and log; holds 3.0 MiB of log (limit 1.0 GiB), growing 2.0 KiB/s"
        );
        let copy = MemberStatus {
            state: "kept".to_owned(),
            how: "copy".to_owned(),
            scratch_bytes: 1024,
            lock_held_us: 1201,
            ..held("", 9)
        };
        assert_eq!(
            line(&copy, "app.db"),
            "app.db: kept, read from a private copy of 1.0 KiB; no commits for 1.3 ms"
        );
    }
}
