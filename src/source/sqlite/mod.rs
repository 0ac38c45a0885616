//! SQLite databases as sources: pinned from outside by SQLite's own locks, unmodified.

mod change_time;
mod error;
mod extent;
mod format;
pub mod hand_over;
#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
mod journal;
mod limit;
mod live_files;
mod lock_bytes;
mod mark;
mod media_prepared;
mod page_index;
mod prepared;
mod recognition;
mod recovery;
mod rollback;
mod scratch;
mod shown_header;
mod site;
mod tend;
mod view;
mod wal_index;
mod wal_pin;
mod wal_prepared;
mod wal_scan;

#[cfg(test)]
mod application;
#[cfg(test)]
mod footprint_test;
#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod keeping_test;
#[cfg(test)]
mod media_test;
#[cfg(test)]
mod rollback_test;
#[cfg(test)]
mod tend_test;
#[cfg(test)]
mod view_test;
#[cfg(test)]
mod wal_test;

pub use error::{Holder, ScratchError, Unpinnable};
pub(in crate::source) use prepared::Prepared;
pub use recognition::{FIRST_BYTES, First, recognise, recognise_opened, sidecars};
pub use recovery::{HelperReport, RecoveryError};
pub(in crate::source) use shown_header::JournalShown;
pub(in crate::source) use site::Site;
pub(in crate::source) use view::{PinnedLog, PinnedSqlite, SqliteView};

/// What the facts call this kind of source.
pub const KIND: &str = "sqlite";
