//! Backups at rest: still views kept in a repository, verified, and restored.
//!
//! Runs in the process that backs up, verifies or restores; no daemon.
//!
//! ```text
//! tree of a view --units--> digest --new?--> frames --compress--> packs --+
//!                              |                                          +--> manifest --> settled
//!                              +--known: a reference to where it is ------+
//!
//! repository.json     format, id, whether it is encrypted
//! keys/ring, keys/<id>  of an encrypted one: its keys, wrapped for those who hold them
//! LOCK                the one writer
//! LOCK.marks          who changes marks
//! packs/<id>          units of content, in compressed frames, with their digests
//! backups/<id>        one complete manifest each
//! marks/<id>          held, verified: what was found out later about a backup
//! damaged/<id>        what a verification could not read of a pack
//! log/<...>           pieces of logs
//! audit/              who did what to the repository
//! tmp/                what is being written
//! ```
//!
//! * BK1 A manifest is published last: everything that it names is durable before its name appears.
//! * BK2 What a published manifest needs is never removed or changed: a pack is only replaced by one
//!   that has the same content in every slot that a manifest needs.
//! * BK3 Whoever changes packs or manifests holds the writer's lock, which dies with him. Readers need none.
//! * BK4 Content is known by its digest, stored once, and given out only if it has that digest.
//! * BK5 A backup is complete: its manifest and the packs that it names give every byte of it.
//! * BK6 A unit is taken over from the base without being read only if its page is proved unchanged: the
//!   base's commit is of the same database and history, the log, or what is kept of it, has it at its LSN,
//!   of the same incarnation and wall clock, and the changes known between the two commits do not name the
//!   page. If only the changes are not known, it is read, and taken over if its page LSN is not after the
//!   base's. Otherwise it is read, and taken over if its digest is the same.
//! * BK7 A backup is published only if the pin still stands after the last byte was read.
//! * BK8 A target appears under its name only when everything in it was read back and has its digest;
//!   until then the name has what it had.
//! * BK9 Beside a restored database nothing is left that could be replayed over it, and a restored native
//!   database starts a new history.
//! * BK10 "Verified" is said of a backup only after every byte of it was read back and checked.
//! * BK11 However a backup ends, its pin is given up.
//! * BK12 Whoever commits to the source is stood back for: as long as he does, one worker works at a time
//!   and rests longer than it worked, and packs go to the disk in small pieces with rests between them;
//!   unless the backup is told to be in a hurry.
//! * BK13 A point in time is restored to exactly the last commit that is not after it, from a backup and a log
//!   between which no commit is missing; any other is refused before anything is written, with the moments
//!   that are covered.
//! * BK14 Lines of the audit log are added whole and never changed; none is lost where several write.
//!
//! Not here: how a source is pinned (`source`), processes, exit codes, text for people (`cli`).

mod audit;
pub mod backup;
mod backup_id;
mod blob_reader;
#[cfg(feature = "s3")]
pub mod bucket;
mod catalog;
mod compression;
mod config;
mod copy;
pub mod crypt;
mod damage;
mod digest;
mod error;
mod folder_store;
mod frame_copy;
mod hex;
#[cfg(test)]
mod interrupted_test;
mod job;
pub mod log;
mod manifest;
mod mark;
mod need;
pub mod pack;
mod progress;
mod prune;
pub mod restore;
mod retention;
mod sealed_json;
#[cfg(test)]
mod specimen;
pub mod store;
mod store_fault;
mod unit;
mod verify;

pub use audit::{AuditEvent, AuditLog, read as read_audit, record as record_audit};
pub use backup_id::BackupId;
pub use catalog::{Repository, is_of_future};
pub use compression::Compression;
pub use copy::{CopyReport, copy};
pub use digest::Digest;
pub use error::RepositoryError;
pub use manifest::{
    BackupFacts, BackupKind, DatabaseFacts, Entry, EntryContent, Extent, FileContent, FileVersion,
    LeftOutFact, Manifest, SourceName, Statistics,
};
pub use mark::{Mark, Verified};
pub use progress::{Control, Phase, Progress};
pub use prune::{PruneReport, Run, prune, prune_after};
pub use retention::{ForgetReport, Keep, Reason, forget, forget_named, forget_of};
pub use store_fault::StoreFault;
pub use verify::{Depth, RestoreTest, VerifyFinding, VerifyOptions, VerifyReport, verify};

#[cfg(test)]
mod format_test;
