//! Where a repository's objects are kept: whole objects by name, written once.
//!
//! A folder or a bucket; anything with whole-object writes, ranged reads and a lock can be one.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::os::Host;
use crate::repository::crypt;
use crate::repository::error::RepositoryError;
use crate::repository::folder_store::FolderStore;

/// The lock of the one writer.
pub(super) const LOCK: &str = "LOCK";
/// The lock of whoever changes marks.
pub(super) const MARKS_LOCK: &str = "LOCK.marks";
/// What the lock of a log begins with.
pub(super) const LINE_LOCK: &str = "LOCK.log-";

/// Name of an object: one or two parts of letters, digits, `.`, `-` and `_`, as `packs/00ff...`; no part
/// begins with `.`.
pub type ObjectName = str;

/// Errors: `Io` for what no object can be called.
pub(super) fn refuse_strange(name: &ObjectName) -> Result<(), RepositoryError> {
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain)
    };
    match name.split('/').all(is_part) && name.split('/').count() <= 2 {
        true => Ok(()),
        false => Err(RepositoryError::io("name", name)(
            io::ErrorKind::InvalidInput.into(),
        )),
    }
}

/// What lies where a repository is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A place without content; maybe one in which the making of a repository was interrupted.
    Empty,
    /// Something else.
    Else,
}

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
    /// What is there, where no repository is. Errors: `Io`.
    fn look(&self) -> Result<Found, RepositoryError> {
        let names = self.list("")?;
        // Keys come before the repository that they are of, and open nothing without it.
        let is_ours = |name: &String| [LOCK, MARKS_LOCK, crypt::FOLDER].contains(&name.as_str());
        Ok(match names.iter().all(is_ours) {
            true if names.is_empty() => Found::Nothing,
            true => Found::Empty,
            false => Found::Else,
        })
    }
    /// Makes what must be there before anything can be put; what is there stays. Errors: `NoSpace`, `Io`.
    fn prepare(&self) -> Result<(), RepositoryError> {
        Ok(())
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
    /// How many small reads are best made at the same time: more than one where each waits for a network.
    fn reads_at_once(&self) -> usize {
        1
    }
    /// Bytes that can still be stored, where that is known. Errors: `Io`.
    fn free_bytes(&self) -> Result<Option<u64>, RepositoryError>;
    /// How people find it.
    fn place(&self) -> String;
}

/// The objects in the folder `path`, which may not exist yet. Nothing is read or written.
#[must_use]
pub fn in_folder(host: &Host, path: &Path) -> Arc<dyn Store> {
    Arc::new(FolderStore::new(host, path))
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
