//! Sizes as people write them: `8192`, `8KiB`, `64M`, `1G`.

use std::fmt;
use std::str::FromStr;

use crate::page::PageSize;

/// The units, largest first: powers of 1024.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SizeError {
    /// It does not begin with a whole number.
    #[error("not a size: write a whole number of bytes, or one with K, M, G or T (8K, 64MiB)")]
    Number,
    /// What stands after the number is no unit.
    #[error("unknown unit {unit:?}: use K, M, G or T (or KiB, MiB, GiB, TiB), powers of 1024")]
    Unit {
        /// The unit.
        unit: String,
    },
    /// A unit of which nobody knows whether it means 1000 or 1024.
    #[error("{unit} can mean two things: write {binary} or {binary}iB for powers of 1024")]
    Ambiguous {
        /// The unit.
        unit: String,
        /// The letter to use.
        binary: char,
    },
    /// More than 64 bits hold.
    #[error("the size is too large")]
    TooLarge,
    /// Zero, where something is needed.
    #[error("the size must not be 0")]
    Zero,
    /// No page has this size.
    #[error("{found} bytes is no page size: it must be 4K, 8K, 16K, 32K or 64K")]
    NoPageSize {
        /// What was asked for.
        found: u64,
    },
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::Number);
        }
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
        number
            .checked_mul(unit_bytes(unit)?)
            .map(Self)
            .ok_or(SizeError::TooLarge)
    }
}

fn unit_bytes(unit: &str) -> Result<u64, SizeError> {
    let unknown = || SizeError::Unit {
        unit: unit.to_owned(),
    };
    let mut letters = unit.chars();
    let Some(first) = letters.next() else {
        return Ok(1);
    };
    if unit == "B" {
        return Ok(1);
    }
    let letter = first.to_ascii_uppercase();
    let found = UNITS.iter().find(|(name, _)| *name == letter);
    let &(binary, shift) = found.ok_or_else(unknown)?;
    match letters.as_str() {
        "" | "iB" | "ib" => Ok(1 << shift),
        "B" | "b" => Err(SizeError::Ambiguous {
            unit: unit.to_owned(),
            binary,
        }),
        _ => Err(unknown()),
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().find(|(_, shift)| whole(*shift)) {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A size that is not 0. Errors: any [`SizeError`] but `NoPageSize`.
pub(crate) fn nonzero(text: &str) -> Result<ByteSize, SizeError> {
    match text.parse()? {
        ByteSize(0) => Err(SizeError::Zero),
        size => Ok(size),
    }
}

/// A page size. Errors: any [`SizeError`].
pub(crate) fn page_size(text: &str) -> Result<PageSize, SizeError> {
    let ByteSize(found) = text.parse()?;
    PageSize::new(found).ok_or(SizeError::NoPageSize { found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, SizeError> {
        text.parse().map(|ByteSize(bytes)| bytes)
    }

    #[test]
    fn numbers_and_units_of_1024_are_understood() {
        for (text, bytes) in [
            ("0", 0),
            ("8192", 8192),
            ("8192B", 8192),
            ("8K", 8192),
            ("8k", 8192),
            ("8KiB", 8192),
            ("8kib", 8192),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("1G", 1 << 30),
            ("3TiB", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_reason() {
        for text in ["", "M", "-1", "+1", " 1", "x", ".5G"] {
            assert_eq!(parse(text), Err(SizeError::Number), "{text:?}");
        }
        for text in [
            "1 G", "1.5G", "1P", "0x10", "8KiBs", "8Ki", "1,5", "64 MiB", "1\u{e9}",
        ] {
            let found = parse(text);
            assert!(
                matches!(found, Err(SizeError::Unit { .. })),
                "{text:?}: {found:?}"
            );
        }
        for text in ["18446744073709551616", "16777216T", "18014398509481984K"] {
            assert_eq!(parse(text), Err(SizeError::TooLarge), "{text}");
        }
    }

    /// 64MB is 64000000 for some and 67108864 for others; a wrong guess would be silent.
    #[test]
    fn unit_with_two_meanings_is_refused_and_names_the_other_spelling() {
        let error = parse("64MB").unwrap_err();
        assert!(matches!(error, SizeError::Ambiguous { binary: 'M', .. }));
        assert!(error.to_string().contains("MiB"), "{error}");
    }

    #[test]
    fn only_page_sizes_are_page_sizes() {
        for (text, bytes) in [("4K", 4096), ("8192", 8192), ("64KiB", 65536)] {
            assert_eq!(page_size(text).map(PageSize::get), Ok(bytes));
        }
        for (text, found) in [
            ("0", 0),
            ("2K", 2048),
            ("12K", 12288),
            ("128K", 131_072),
            ("1T", 1 << 40),
        ] {
            assert_eq!(page_size(text), Err(SizeError::NoPageSize { found }));
        }
        assert_eq!(
            page_size("8Q").map_err(|error| matches!(error, SizeError::Unit { .. })),
            Err(true)
        );
    }

    #[test]
    fn zero_is_refused_where_it_makes_no_sense() {
        assert_eq!(nonzero("0K"), Err(SizeError::Zero));
        assert_eq!(nonzero("1"), Ok(ByteSize(1)));
    }

    #[test]
    fn a_shown_size_is_read_as_the_same() {
        for bytes in [
            0,
            1,
            1000,
            1024,
            8192,
            8193,
            64 << 20,
            1 << 30,
            5 << 40,
            u64::MAX,
        ] {
            assert_eq!(parse(&ByteSize(bytes).to_string()), Ok(bytes));
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64M");
    }
}
