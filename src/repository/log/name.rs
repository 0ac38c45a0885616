//! Names of the objects of an archived log.

#![deny(clippy::indexing_slicing)]

use std::fmt;

use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::repository::hex;

/// The folder of the objects.
pub(in crate::repository) const FOLDER: &str = "log";
const GAP: &str = "gap";

/// One history of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId {
    /// The database.
    pub database: DatabaseId,
    /// The line of commits.
    pub history: HistoryId,
}

impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.database, self.history)
    }
}

/// Which incarnation of the engine in the order in which the archive of a line met them, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// What an object is about, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::repository) struct LogName {
    pub(super) line: LineId,
    pub(super) generation: Generation,
    pub(super) first: Lsn,
    pub(super) end: Lsn,
    pub(super) is_gap: bool,
}

impl LogName {
    /// The whole name of the object.
    pub(in crate::repository) fn object(&self) -> String {
        format!("{FOLDER}/{self}")
    }

    /// What `name`, without its folder, says. Errors: `None` if it is no such name, or says nothing that
    /// can be: an end that is not after the first LSN.
    pub(in crate::repository) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let database = DatabaseId(hex::decode(parts.next()?)?);
        let history = HistoryId(hex::decode(parts.next()?)?);
        let generation = u32::from_be_bytes(hex::decode(parts.next()?)?);
        let first = Lsn(u64::from_be_bytes(hex::decode(parts.next()?)?));
        let end = Lsn(u64::from_be_bytes(hex::decode(parts.next()?)?));
        let is_gap = match parts.next() {
            None => false,
            Some(GAP) => true,
            Some(_) => return None,
        };
        (parts.next().is_none() && first < end).then_some(Self {
            line: LineId { database, history },
            generation: Generation(generation),
            first,
            end,
            is_gap,
        })
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            generation,
            first,
            end,
            is_gap,
        } = self;
        write!(
            f,
            "{line}-{:08x}-{:016x}-{:016x}",
            generation.0, first.0, end.0
        )?;
        match is_gap {
            true => write!(f, "-{GAP}"),
            false => Ok(()),
        }
    }
}
