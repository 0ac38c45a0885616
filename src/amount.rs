//! Amounts as people read them.

use std::fmt;

/// A number of bytes: `512 B`, `1.5 KiB`, `1.0 GiB`. Rounded down to a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let Self(count) = *self;
        if count < 1024 {
            return write!(f, "{count} B");
        }
        let mut unit = 0;
        let mut tenths = count / 1024 * 10 + count % 1024 * 10 / 1024;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// So many of a thing: `1 pin`, `2 pins`, `0 entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Many<'a>(pub(crate) u64, pub(crate) &'a str);

impl fmt::Display for Many<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1.strip_suffix('y')) {
            (1, _) => write!(f, "1 {}", self.1),
            (count, Some(stem)) => write!(f, "{count} {stem}ies"),
            (count, None) => write!(f, "{count} {}s", self.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let words = |count| format!("{}, {}", Many(count, "table"), Many(count, "entry"));
        assert_eq!(words(0), "0 tables, 0 entries");
        assert_eq!(words(1), "1 table, 1 entry");
        assert_eq!(words(20), "20 tables, 20 entries");
    }
}
