//! stillfs: look at a running database as a folder of still files.
//!
//! A pin fixes one committed state of a running engine. Its view is a page file that does not change,
//! whatever is written meanwhile: **every byte read of it is the byte of the pinned, committed state,
//! or the read fails.**
//!
//! ```text
//! engine process                            mount daemon                     anyone
//! (an application with Database,            (stillfs mount)                  (tar, rsync, restic ...)
//!  or stillfs serve)
//!
//!   commit --> log (synced)
//!      |
//!      v
//!   versions in memory
//!      |
//!      | checkpoint
//!      v
//!   writeback --capture--> shadow, index ~~ files ~~> merged read --> FUSE --> kernel --> copy tool
//!      |                                                  ^
//!      +---overwrite-----> live file ~~~~~~~~ file ~~~~~~~+
//!   pin server <--------- Unix socket: facts, three descriptors ---> pin client
//! ```
//!
//! | module | layer | process | what it is |
//! |---|---|---|---|
//! | [`codec`] [`lsn`] [`id`] [`page`] `amount` | words | both | numbers, ids, pages and their checksums; no I/O |
//! | [`os`] | system | both | the one seam to the operating system, and its simulation |
//! | [`engine`] | storage | engine | B+trees, log, checkpoint, recovery |
//! | [`shadow`] | storage | engine | pre-images, and each pin's index of them |
//! | [`pin`] | storage | both | the conversation over `control.sock` |
//! | [`view`] | view | daemon | the merged read, and the tree that a mount shows |
//! | [`database`] | database | engine | engine, shadow and pin server as one |
//! | [`source`] | edges | daemon | what can be mounted, behind one contract |
//! | [`mount`] | edges | daemon | a tree as a FUSE file system, and the account of mounts |
//! | [`server`] | edges | engine | a database behind the Redis protocol |
//! | [`repository`] | edges | all | backups at rest |
//! | `cli` | command | all | the command line and its exit codes |
//!
//! A module knows those of the layers above its row in this table, and never its siblings.
//! `docs/design.md` has the invariants, `docs/formats.md` the bytes.
//!
//! # The way in
//!
//! An application opens a [`Database`] with [`EngineOptions`]; with [`PinServing::On`] `stillfs mount`
//! can pin it. A [`Pin`] does the same within the process:
//!
//! ```
//! use stillfs::{Database, EngineOptions, PinServing};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let database = Database::open(dir.path().join("app"), &EngineOptions::default(), PinServing::Off)?;
//! let mut write = database.begin_write()?;
//! write.put("greetings", b"en", b"hello")?;
//! write.commit()?;
//!
//! let pin = database.pin()?;
//! let mut write = database.begin_write()?;
//! write.put("greetings", b"en", b"changed")?;
//! write.commit()?;
//!
//! let still = pin.open(1 << 20)?;
//! assert_eq!(still.begin_read().get("greetings", b"en")?.as_deref(), Some(&b"hello"[..]));
//! pin.release()?;
//! database.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! An engine of another kind gets pin, shadow and mount by the contract that `examples/own_engine/`
//! keeps: [`shadow::Shadow`], [`view::LiveHeader`], [`view::PinnedFile`], [`mount::mount`].

mod amount;
pub mod codec;
pub mod id;
pub mod lsn;
pub mod page;

mod fault;

pub mod os;

pub mod engine;
pub mod pin;
pub mod shadow;

pub mod view;

pub mod database;

pub mod mount;
pub mod repository;
pub mod server;
pub mod source;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

pub use database::{
    Database, DatabaseError, EngineOptions, Pin, PinServing, ReadTransaction, WriteTransaction,
};
