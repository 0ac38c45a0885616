//! Kinds of sources in words: those that records and status have, and those for people.

use crate::source::{Kind, sqlite, tree};

/// The kind that a mount's record or status names. Records of older versions name none.
pub(crate) fn of_name(name: &str) -> Kind {
    match name {
        sqlite::KIND => Kind::Sqlite,
        tree::KIND => Kind::Tree,
        _ => Kind::Native,
    }
}

/// One of a kind, for people.
pub(crate) fn one(kind: Kind) -> &'static str {
    match kind {
        Kind::Native => "a stillfs database",
        Kind::Sqlite => "an SQLite database",
        Kind::Tree => "a directory",
    }
}

/// Many of a kind, for people.
pub(crate) fn many(kind: Kind) -> &'static str {
    match kind {
        Kind::Native => "stillfs databases",
        Kind::Sqlite => "SQLite databases",
        Kind::Tree => "directories",
    }
}
