//! What a pin shows: the merged read of one pinned page file, and the tree of nodes that a mount
//! presents.
//!
//! Runs in whatever process reads a pin: the mount daemon, `check`, or the application itself.
//!
//! ```text
//! range --> live file ----> index entries ----> slots of the shadow ----> page checks ----> last look
//!           (whole pages)   (after the live      (replace what is         (crc, number,     (index not cut,
//!                            read, fenced)        shadowed)                LSN <= L)         epoch accepted)
//! ```
//!
//! * N1 A read gives, for every byte, the byte of the pinned commit; or it fails as a whole.
//! * N2 The index is looked at after the live read, and slots after the index, each fenced. An entry
//!   that is still 0 proves that the overwrite had not begun (S1), so the live bytes are those of the
//!   pin; any other replaces them.
//! * N3 After the last byte is read, one look decides whether all of it counts: the pin has not
//!   ended, the live file is of the same database and history, and every valid copy of its header
//!   carries an accepted epoch. Slots that were reused (S3) and live pages that were overwritten
//!   by a stranger are never served.
//! * N4 A page that fails its checks, or an entry that is no slot, is tried once more from the top,
//!   then the read fails.
//!
//! No lock is taken and nobody is waited for. Not here: who holds the pin (`pin`, `database`).

pub mod merged_read;
mod pinned_file;
pub mod tree;

pub use pinned_file::{LiveHeader, LiveIdentity, PinnedFile, ReadCounts, ViewFile};
