//! Pieces of a database's log in the repository: what lets a restore go on from a backup to any commit.
//!
//! Runs in the process that archives, and in whoever lists, verifies, prunes or replays; no daemon.
//!
//! ```text
//! wal/*.wal --durable, checked--> pieces --settled--> cursor in DIR: the engine may let these bytes go
//!                                   |
//!                                   +-- small ones --merged, settled--> a larger one; then they go
//! ```
//!
//! A line is one history of one database. Its log is a row of bytes by LSN; a piece is a run of whole
//! records of one segment. A generation is the log of one incarnation of the engine (one epoch), numbered
//! in the order in which the archive met them.
//!
//! Object `log/<line>-<generation>-<first LSN>-<end LSN>`, `line` being 32 digits of the database, a hyphen
//! and 32 of the history; 8 digits, and 16 of each LSN. A gap, an empty object, has `-gap` behind it.
//!
//! * LA1 Only log that no crash can take back is archived: what the engine knows to be synced; without an
//!   engine, what recovery would keep, made durable before.
//! * LA2 The cursor names only what is settled in the repository.
//! * LA3 From the first cursor on, the engine removes a segment only if every cursor is past it, or by LA4.
//! * LA4 What is kept for an archive alone makes no commit wait or fail: at the limit of the log, and on a
//!   full disk, the oldest goes.
//! * LA5 What is missing is said: a gap is settled before anything after it counts, and after it the next
//!   backup of kind `auto` is full.
//! * LA6 Where two incarnations have the same LSNs, the later one counts, from its first LSN on.
//! * LA7 A piece goes only when settled pieces have all of its records, or when no backup that is left can
//!   go on with it.
//! * LA8 One archiver writes a line at a time. It needs no writer's lock, and nobody waits for it.
//! * LA9 Nothing is appended to what it does not go on from: where an incarnation has other records than it was
//!   archived with, it is archived anew, as a later generation. That both are one past is shown by a commit, with
//!   its wall clock: one in what both have, or the last archived one, of which the directory knows (W9). From a
//!   gap before such a generation on, or where it was noted to be given up, the older one does not count.
//!
//! Not here: asking the engine, waiting, signals (`cli`); what the engine keeps (`engine::wal`).

mod archiver;
mod catalog;
mod check;
mod copy;
#[cfg(test)]
mod gap_test;
mod holdings;
#[cfg(test)]
mod hostile_test;
mod leisure;
#[cfg(test)]
mod model_test;
mod name;
mod past;
#[cfg(test)]
mod past_test;
mod piece;
#[cfg(test)]
mod put_back_test;
mod retention;

pub use archiver::{Archiver, StepReport};
pub use catalog::{CoveredRun, LogCatalog, LogGap, LogLine, PieceUse};
pub(in crate::repository) use check::check_piece;
pub use copy::LogCopyReport;
pub(in crate::repository) use copy::copy_logs;
pub(in crate::repository) use name::FOLDER;
pub use name::{Generation, LineId};
pub use piece::{CommitStamp, Piece, PieceFacts, read_piece};
#[cfg(test)]
pub(in crate::repository) use piece::{Draft, store_draft};
pub(in crate::repository) use retention::{LogPrune, has_gap_after};
