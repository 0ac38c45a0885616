//! What a view does not show of its source, databases above all: on the way from the daemon to whoever is told of them.

use serde::{Deserialize, Serialize};

use crate::amount::Many;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::source::LeftOut;

/// Of how many `mount` and `status` say the names.
const TOLD_MAX: usize = 20;

/// All that were left out; the names are stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Omitted {
    /// How many.
    #[serde(rename = "left_out_count", default)]
    pub(crate) count: u64,
    /// As many as there is room for.
    #[serde(rename = "left_out", default)]
    pub(crate) rows: Vec<OmittedRow>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OmittedRow {
    /// Where it is, relative to the source.
    pub(crate) path: String,
    /// Why it is not shown.
    pub(crate) reason: String,
}

impl Omitted {
    /// Those of a pin, in at most `bytes_max` bytes of JSON.
    pub(crate) fn of(left_out: &[LeftOut], bytes_max: usize) -> Self {
        let rows = left_out.iter().map(|one| OmittedRow {
            path: output::path(&one.path),
            reason: one.reason.clone(),
        });
        Self {
            count: left_out.len() as u64,
            rows: within(rows, bytes_max),
        }
    }

    /// A line for each of the first, and one for the rest.
    pub(crate) fn lines(&self) -> Vec<String> {
        let told = self.rows.iter().take(TOLD_MAX);
        let mut lines: Vec<String> = told
            .map(|row| format!("{}: {}", row.path, row.reason))
            .collect();
        let more = self.count.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// Says on standard error what a view lacks, and gives the exit code for it.
    pub(crate) fn tell(&self) -> Exit {
        self.tell_of("view")
    }

    /// As [`Self::tell`], of a view or of what was made from one.
    pub(crate) fn tell_of(&self, what: &str) -> Exit {
        if self.count == 0 {
            return Exit::Done;
        }
        let parts = Many(self.count, "part");
        output::problem(&format!("the {what} lacks {parts} of its source:"));
        for line in self.lines() {
            output::problem(&format!("left out {line}"));
        }
        Exit::LeftOut
    }
}

/// The first of `rows` that fit into `bytes_max` bytes of JSON.
pub(crate) fn within<T: Serialize>(rows: impl IntoIterator<Item = T>, bytes_max: usize) -> Vec<T> {
    let mut bytes = 0_usize;
    let fits = |row: &T| {
        let row = serde_json::to_vec(row).map_or(usize::MAX, |text| text.len());
        bytes = bytes.saturating_add(row).saturating_add(1);
        bytes <= bytes_max
    };
    rows.into_iter().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize) -> Vec<LeftOut> {
        let one = |number| LeftOut {
            path: format!("sub/{number}.db").into(),
            reason: "another process has it for itself".to_owned(),
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_few_are_all_named_and_of_many_the_first() {
        assert_eq!(Omitted::of(&[], 100).lines(), [] as [&str; 0]);
        let two = Omitted::of(&many(2), 10_000).lines();
        assert_eq!(two.len(), 2);
        assert_eq!(two[1], "sub/1.db: another process has it for itself");
        let lines = Omitted::of(&many(1000), 1_000_000).lines();
        assert_eq!(lines.len(), TOLD_MAX + 1);
        assert_eq!(lines.last().unwrap(), "and 980 more");
    }

    /// Whatever an application calls its files, the report and the attribute keep their size.
    #[test]
    fn rows_keep_within_their_bytes_and_the_count_stays() {
        let omitted = Omitted::of(&many(5000), 4096);
        assert_eq!(omitted.count, 5000);
        assert!((20..100).contains(&omitted.rows.len()));
        let text = serde_json::to_string(&omitted).unwrap();
        assert!(text.len() < 4096 + 64, "{}", text.len());
        assert_eq!(serde_json::from_str::<Omitted>(&text).unwrap(), omitted);
    }
}
