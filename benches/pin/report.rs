//! The table that is printed.

use std::fmt;

use serde::Serialize;

use crate::load::Load;
use crate::pins::{PinCosts, WRITERS};
use crate::rates::Rates;
use crate::sharing::{Sharing, Slots};
use crate::traffic::Percentiles;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) load: Load,
    pub(crate) rates: Option<Rates>,
    pub(crate) pins: PinCosts,
    pub(crate) sharing: Option<Sharing>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load.fmt_rows(f)?;
        if let Some(rates) = &self.rates {
            rates.fmt_rows(f)?;
        }
        self.pins.fmt_rows(f)?;
        self.sharing.as_ref().map_or(Ok(()), |one| one.fmt_rows(f))
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "{what:<44} {value:>12}")
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "PASS" } else { "FAIL" }
}

impl Load {
    fn fmt_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "data.pages, MiB", &(self.file_bytes >> 20))?;
        row(f, "entries", &self.entries)?;
        row(f, "load, MB/s of entries", &rounded(self.mb_per_second))?;
        let slowest = format!("{:.1}", self.slowest_transaction_seconds);
        row(f, "load, slowest transaction of 256 MiB, s", &slowest)?;
        row(f, "load, peak memory, MiB", &(self.peak_memory_bytes >> 20))
    }
}

impl Rates {
    fn fmt_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, rate) in [
            ("disk: append 4 KiB and fdatasync, per s", self.disk_syncs),
            ("commits per s, 1 committer", self.commits_of_1),
            ("commits per s, 4 committers", self.commits_of_4),
            ("commits per s, 8 committers", self.commits_of_8),
            ("reads per s, in the cache", self.hot_reads),
            ("reads per s, all over", self.cold_reads),
            ("scan, MB/s", self.scan_mb),
            ("checkpoint in a row, MB/s", self.checkpoint_in_row_mb),
            ("checkpoint scattered, MB/s", self.checkpoint_scattered_mb),
        ] {
            row(f, what, &rounded(rate))?;
        }
        Ok(())
    }
}

impl PinCosts {
    fn fmt_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            checkpoints,
            seconds,
            ..
        } = self;
        writeln!(
            f,
            "\n{} pins under {WRITERS} writers, {seconds:.0} s, {checkpoints} checkpoints",
            self.commit_lock.count
        )?;
        writeln!(
            f,
            "{:<28} {:>10} {:>12} {:>12} {:>12}",
            "", "count", "p50", "p99", "max"
        )?;
        for (what, percentiles) in [
            ("under the commit lock", self.commit_lock),
            ("gate closed", self.gate_closed),
            ("until granted", self.granted),
            ("commit, without pins", self.commits_quiet),
            ("commit, during pins", self.commits_with_pins),
        ] {
            writeln!(f, "{what:<28} {percentiles}")?;
        }
        let (median, max) = (self.spilled_pages_median, self.spilled_pages_max);
        writeln!(f, "pages spilled at a pin: median {median}, max {max}")?;
        let verdict = verdict(self.commit_lock_target_met);
        writeln!(f, "{verdict}: p99 under the commit lock below 1 ms\n")
    }
}

impl Sharing {
    fn fmt_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins = self.pins;
        writeln!(
            f,
            "slots of {pins} pins taken together:    {}",
            self.together
        )?;
        writeln!(
            f,
            "slots of {pins} pins taken one by one:  {}",
            self.over_time
        )?;
        let verdict = verdict(self.target_met);
        writeln!(
            f,
            "{verdict}: {pins} pins taken together use the slots of one"
        )
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            of_first,
            of_all,
            unshared,
        } = self;
        write!(
            f,
            "{of_all} (the first alone {of_first}, unshared {unshared})"
        )
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(time);
        write!(f, "{:>10} {p50:>12} {p99:>12} {max:>12}", self.count)
    }
}

fn time(microseconds: f64) -> String {
    if microseconds < 1000.0 {
        format!("{microseconds:.1} us")
    } else {
        format!("{:.2} ms", microseconds / 1000.0)
    }
}

fn rounded(rate: f64) -> String {
    format!("{rate:.0}")
}
