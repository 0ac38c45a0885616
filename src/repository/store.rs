//! Where a repository's objects are kept: whole objects by name, written once.
//!
//! A folder today; anything with whole-object writes, ranged reads and a lock can be one.

use std::fmt;

use crate::repository::error::RepositoryError;

/// Name of an object: one or two parts of letters, digits, `.`, `-` and `_`, as `packs/00ff...`; no part
/// begins with `.`.
pub type ObjectName = str;

/// What becomes of an object that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// There must be none: `Exists`.
    New,
    /// It is replaced in one step: a reader finds the old one or the new one.
    Replace,
}

/// Keeps objects.
///
/// An object appears under its name whole, its content durable, or not at all. Its name is durable only
/// after [`Store::settle`].
pub trait Store: Send + Sync + fmt::Debug {
    /// Stores `parts`, one after the other, as `name`.
    ///
    /// Errors: `Exists`, `NoSpace`, `Io`; nothing is then stored under the name, or what was there before.
    fn put(&self, name: &ObjectName, parts: &[&[u8]], put: Put) -> Result<(), RepositoryError>;
    /// As [`Store::put`], in pieces that nobody else at the disk waits for long, where that can be done;
    /// `rest` is called after each.
    fn put_slowly(
        &self,
        name: &ObjectName,
        parts: &[&[u8]],
        put: Put,
        rest: &dyn Fn(),
    ) -> Result<(), RepositoryError> {
        let _ = rest;
        self.put(name, parts, put)
    }
    /// Makes the names of everything put or removed so far durable. Errors: `Io`.
    fn settle(&self) -> Result<(), RepositoryError>;
    /// Fills `out` from `offset` on. Errors: `Missing`, `Cut` where the object ends before, `Io`.
    fn read_at(
        &self,
        name: &ObjectName,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), RepositoryError>;
    /// Asks that later reads of `name` come from where it is kept, not from what a cache has of it.
    ///
    /// Promises nothing: not every place can.
    fn read_afresh(&self, name: &ObjectName) {
        let _ = name;
    }
    /// Size in bytes. Errors: `Missing`, `Io`.
    fn size(&self, name: &ObjectName) -> Result<u64, RepositoryError>;
    /// The objects whose name begins with `folder/`, without it, in the order of their names; of the empty
    /// `folder`, what has a name of one part, and the folders. One that does not exist has none. What
    /// others put there is listed too. Errors: `Io`.
    fn list(&self, folder: &str) -> Result<Vec<String>, RepositoryError>;
    /// Removes an object; none of that name is no error. Errors: `Io`.
    fn remove(&self, name: &ObjectName) -> Result<(), RepositoryError>;
    /// Becomes the one writer, for as long as the lock lives, and removes what interrupted writers left
    /// half-done. Errors: `Locked`, `Io`.
    fn lock(&self) -> Result<Box<dyn WriterLock>, RepositoryError>;
    /// Keeps others from changing marks, which needs no writer's lock, as long as the result lives. Whoever
    /// has it is done in moments, and is waited for. Errors: `Locked` if he is not; `NoSpace`, `Io`.
    fn lock_marks(&self) -> Result<Box<dyn MarksLock>, RepositoryError>;
    /// Becomes the one that archives the log `line`, as long as the result lives; `line` is a part of a name.
    /// Errors: `LineLocked` if another one does; `NoSpace`, `Io`.
    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>, RepositoryError>;
    /// Bytes that can still be stored, where that is known. Errors: `Io`.
    fn free_bytes(&self) -> Result<Option<u64>, RepositoryError>;
    /// How people find it.
    fn place(&self) -> String;
}

/// The right to change marks, until it is dropped or its owner dies.
pub trait MarksLock: Send + Sync + fmt::Debug {
    /// Whether what is put from here on is put as it should be: asked before a mark is changed. Errors:
    /// `KeysChanged`, `Io`.
    fn confirm(&self) -> Result<(), RepositoryError> {
        Ok(())
    }
}

/// The right to archive one log, until it is dropped or its owner dies.
pub trait LineLock: Send + Sync + fmt::Debug {
    /// Whether what is put from here on is still put as it should be: asked before each step of an archive.
    /// Errors: `KeysChanged`, `Io`.
    fn confirm(&self) -> Result<(), RepositoryError> {
        Ok(())
    }
}

/// The right to write, until it is dropped or its owner dies.
pub trait WriterLock: Send + Sync + fmt::Debug {
    /// Whether it still is held: asked before a manifest is published and before anything is removed.
    /// Errors: `Locked` by another.
    fn confirm(&self) -> Result<(), RepositoryError>;
}
