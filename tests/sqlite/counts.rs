//! What kinds of views there were, so that no test passes by not testing.

use std::collections::BTreeMap;

/// Counts by name. Printed at the end of a lane.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Counts it if it is so.
    pub fn add_if(&mut self, is_so: bool, name: &'static str) {
        if is_so {
            self.add(name);
        }
    }

    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Fails unless all of these occurred.
    pub fn assert_occurred(&self, names: &[&str]) {
        for name in names {
            assert!(self.of(name) > 0, "never seen: {name}; seen: {self}");
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.0.iter().map(|(name, count)| format!("{name} {count}"));
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}
