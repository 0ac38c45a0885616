//! Metrics in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Labels of a sample: names, and what they are.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Samples, gathered by their metric. A metric is written once, with all of its samples.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// A sample of something that goes up and down. Of two with the same labels the last counts.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        let family = self.families.entry(name).or_insert_with(|| Family {
            help,
            samples: BTreeMap::new(),
        });
        family.samples.insert(written(labels), value);
    }

    /// The text, with the moment at which it was made.
    pub(super) fn finish(mut self, now_ns: u64) -> String {
        let name = "stillfs_metrics_timestamp_seconds";
        let help = "When these metrics were gathered.";
        self.gauge(name, help, &[], seconds(now_ns));
        let mut text = String::new();
        for (name, family) in &self.families {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {}", family.help);
            let _ = writeln!(text, "# TYPE {name} gauge");
            for (labels, value) in &family.samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
        text
    }
}

/// Nanoseconds as seconds, for a sample.
#[expect(
    clippy::cast_precision_loss,
    reason = "samples are floating-point numbers"
)]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// A count, for a sample.
#[expect(
    clippy::cast_precision_loss,
    reason = "samples are floating-point numbers"
)]
pub(super) fn count(number: u64) -> f64 {
    number as f64
}

fn written(labels: Labels<'_>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_stand_together_and_labels_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.gauge("b", "B.", &[("x", "1")], 2.0);
        exposition.gauge("a", "A.", &[("path", "a\"\\\nb")], 0.5);
        exposition.gauge("b", "B.", &[("x", "0")], 1.0);
        exposition.gauge("b", "B.", &[("x", "0")], 3.0);
        let text = exposition.finish(1_500_000_000);
        let expected = "# HELP a A.\n# TYPE a gauge\na{path=\"a\\\"\\\\\\nb\"} 0.5\n\
            # HELP b B.\n# TYPE b gauge\nb{x=\"0\"} 3\nb{x=\"1\"} 2\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.ends_with("stillfs_metrics_timestamp_seconds 1.5\n"),
            "{text}"
        );
    }
}
