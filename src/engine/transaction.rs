//! Transactions: named ordered tables over the pages of one state.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::engine::btree::{self, Outcome};
use crate::engine::catalog::{self, Creation, Table};
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::PageRead;
use crate::engine::shared::Shared;
use crate::engine::snapshot::Snapshot;
use crate::engine::walk::{Keys, Pages, Range, Walk};
use crate::engine::write_set::WriteSet;
use crate::lsn::Timestamp;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: u64 = 1024;
/// Longest value in bytes: what fits a transaction comfortably.
pub const VALUE_BYTES_MAX: u64 = 64 << 20;

/// Reads one committed state, for as long as it is held.
#[derive(Clone, Debug)]
pub struct ReadTransaction {
    snapshot: Arc<Snapshot>,
    /// The table that was asked for first, as the catalog of this state has it.
    first: OnceLock<(String, Option<Table>)>,
}

impl From<Snapshot> for ReadTransaction {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot: Arc::new(snapshot),
            first: OnceLock::new(),
        }
    }
}

impl ReadTransaction {
    /// The commit whose state is read.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.snapshot.point().timestamp
    }

    /// The state itself, page by page.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The table, if there is one.
    fn find(&self, name: &str) -> Result<Option<Table>> {
        if let Some((first, table)) = self.first.get()
            && first == name
        {
            return Ok(*table);
        }
        let table = catalog::open(&*self.snapshot, name)?;
        let _ = self.first.set((name.to_owned(), table));
        Ok(table)
    }

    /// The names of all tables, in the order of their bytes.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn tables(&self) -> Result<Vec<String>> {
        Ok(catalog::list(&*self.snapshot)?
            .into_iter()
            .map(|(name, _)| name)
            .collect())
    }

    /// The value of `key`; `None` also where there is no such table.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(&*self.snapshot, self.find(table)?, key)
    }

    /// The value of `key`, of which `admit` first hears how many bytes it has.
    ///
    /// Errors: those of `admit`, and nothing is read then; `Structure`, `Page`, `Io`.
    pub(crate) fn get_admitted<E: From<EngineError>>(
        &self,
        table: &str,
        key: &[u8],
        admit: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let table = self.find(table)?;
        get_admitted(&*self.snapshot, table, key, admit)
    }

    /// How many bytes the value of `key` has; reads no long value.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn value_bytes(&self, table: &str, key: &[u8]) -> Result<Option<u64>> {
        value_bytes(&*self.snapshot, self.find(table)?, key)
    }

    /// Whether there is an entry for `key`.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn contains(&self, table: &str, key: &[u8]) -> Result<bool> {
        contains(&*self.snapshot, self.find(table)?, key)
    }

    /// Number of entries of `table`; 0 where there is none. Cost: one look-up.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn entry_count(&self, table: &str) -> Result<u64> {
        Ok(self.find(table)?.map_or(0, |table| table.entry_count))
    }

    /// The entries of `table` within `bounds`, from both ends.
    ///
    /// Errors: `Structure`, `Page`, `Io`; later ones come as items.
    pub fn range(&self, table: &str, bounds: impl RangeBounds<Vec<u8>>) -> Result<Range<'static>> {
        let table = self.find(table)?;
        Ok(Range(Walk::new(
            Pages::Still(self.snapshot.clone()),
            table,
            &bounds,
        )))
    }

    /// The keys of `table` within `bounds`, from both ends; reads no long values.
    ///
    /// Errors: `Structure`, `Page`, `Io`; later ones come as items.
    pub fn keys(&self, table: &str, bounds: impl RangeBounds<Vec<u8>>) -> Result<Keys<'static>> {
        let table = self.find(table)?;
        Ok(Keys(Walk::new(
            Pages::Still(self.snapshot.clone()),
            table,
            &bounds,
        )))
    }
}

/// The one transaction that writes. Dropping it rolls it back.
#[derive(Debug)]
pub struct WriteTransaction {
    shared: Arc<Shared>,
    /// `None` once the commit has taken it.
    set: Option<WriteSet>,
    /// Tables that were opened, with their counts as they are now.
    tables: BTreeMap<String, OpenTable>,
    /// An operation failed halfway (invariant B5): only a rollback is possible.
    is_broken: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenTable {
    table: Table,
    count_before: u64,
}

impl WriteTransaction {
    /// Waits for the writer slot, and for a checkpoint if the log is at its limit.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Result<Self> {
        let log = shared.log()?;
        if log.bytes() > shared.sizes.log_bytes_max {
            shared.shorten_log()?;
        }
        shared.refuse_if_strained()?;
        shared.writer.take();
        if let Err(error) = log.refuse_if_poisoned() {
            shared.writer.free();
            return Err(error);
        }
        let base = shared.registry.points().newest;
        let set = Some(WriteSet::new(shared.clone(), base));
        let tables = BTreeMap::new();
        Ok(Self {
            shared: shared.clone(),
            set,
            tables,
            is_broken: false,
        })
    }

    fn set(&self) -> &WriteSet {
        self.set
            .as_ref()
            .expect("only commit takes it, and that ends the transaction")
    }

    /// The commit that this transaction builds on.
    #[must_use]
    pub fn base(&self) -> Timestamp {
        self.set().base().timestamp
    }

    /// The table, as this transaction sees it.
    fn find(&self, name: &str) -> Result<Option<Table>> {
        match self.tables.get(name) {
            Some(open) => Ok(Some(open.table)),
            None => catalog::open(self.set(), name),
        }
    }

    /// The names of all tables, in the order of their bytes.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn tables(&self) -> Result<Vec<String>> {
        Ok(catalog::list(self.set())?
            .into_iter()
            .map(|(name, _)| name)
            .collect())
    }

    /// The value of `key`, this transaction's own writes included.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(self.set(), self.find(table)?, key)
    }

    /// The value of `key`, of which `admit` first hears how many bytes it has.
    ///
    /// Errors: those of `admit`, and nothing is read then; `Structure`, `Page`, `Io`.
    pub(crate) fn get_admitted<E: From<EngineError>>(
        &self,
        table: &str,
        key: &[u8],
        admit: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let table = self.find(table)?;
        get_admitted(self.set(), table, key, admit)
    }

    /// How many bytes the value of `key` has; reads no long value.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn value_bytes(&self, table: &str, key: &[u8]) -> Result<Option<u64>> {
        value_bytes(self.set(), self.find(table)?, key)
    }

    /// Whether there is an entry for `key`.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn contains(&self, table: &str, key: &[u8]) -> Result<bool> {
        contains(self.set(), self.find(table)?, key)
    }

    /// Number of entries of `table`.
    ///
    /// Errors: `Structure`, `Page`, `Io`.
    pub fn entry_count(&self, table: &str) -> Result<u64> {
        Ok(self.find(table)?.map_or(0, |table| table.entry_count))
    }

    /// The entries of `table` within `bounds`, from both ends.
    ///
    /// Errors: `Structure`, `Page`, `Io`; later ones come as items.
    pub fn range(&self, table: &str, bounds: impl RangeBounds<Vec<u8>>) -> Result<Range<'_>> {
        Ok(Range(Walk::new(
            Pages::Own(self.set()),
            self.find(table)?,
            &bounds,
        )))
    }

    /// The keys of `table` within `bounds`, from both ends; reads no long values.
    ///
    /// Errors: `Structure`, `Page`, `Io`; later ones come as items.
    pub fn keys(&self, table: &str, bounds: impl RangeBounds<Vec<u8>>) -> Result<Keys<'_>> {
        Ok(Keys(Walk::new(
            Pages::Own(self.set()),
            self.find(table)?,
            &bounds,
        )))
    }

    /// Sets the value of `key`, making the table if there is none.
    ///
    /// Shape: key 1 ..= 1024 bytes, value up to 64 MiB, table name 1 ..= 255 bytes of UTF-8.
    /// Errors: `Limit`, which changes nothing; `Structure`, `Page`, `Io`, `Exhausted`, after which
    /// the transaction can only be rolled back.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        check_limit("length of a value in bytes", value.len(), VALUE_BYTES_MAX)?;
        self.changing(|this| {
            let open = this.open_or_create(table)?;
            let set = this.set.as_mut().expect("see set()");
            if btree::insert(set, open.table.root, key, value)? == Outcome::Inserted {
                this.recount(table, open.table.entry_count + 1);
            }
            Ok(())
        })
    }

    /// Removes `key`; says whether it was there.
    ///
    /// Errors: as for [`WriteTransaction::put`].
    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<bool> {
        self.changing(|this| {
            let Some(open) = this.open_table(table)? else {
                return Ok(false);
            };
            let set = this.set.as_mut().expect("see set()");
            let removed = btree::delete(set, open.table.root, key)?;
            if removed {
                this.recount(table, open.table.entry_count.saturating_sub(1));
            }
            Ok(removed)
        })
    }

    /// Removes every entry of `table`; says how many there were.
    ///
    /// Errors: as for [`WriteTransaction::put`].
    pub fn clear(&mut self, table: &str) -> Result<u64> {
        self.changing(|this| {
            let Some(open) = this.open_table(table)? else {
                return Ok(0);
            };
            let set = this.set.as_mut().expect("see set()");
            let removed = btree::clear(set, open.table.root)?;
            this.recount(table, 0);
            Ok(removed)
        })
    }

    /// Removes `table` with all its entries; says whether it was there.
    ///
    /// Errors: as for [`WriteTransaction::put`].
    pub fn drop_table(&mut self, table: &str) -> Result<bool> {
        self.changing(|this| {
            this.tables.remove(table);
            let set = this.set.as_mut().expect("see set()");
            Ok(catalog::drop_table(set, table)?.is_some())
        })
    }

    /// Makes the changes durable and visible, all or none; gives the commit's number. Where nothing
    /// was changed it gives the number of the commit before.
    ///
    /// Errors: `Aborted`, `Io`, `Exhausted`, after which nothing of it is there; `Poisoned`, after
    /// which nobody knows before the next open, but then it is there in whole or not at all.
    pub fn commit(mut self) -> Result<Timestamp> {
        if self.is_broken {
            return Err(EngineError::Aborted);
        }
        let mut set = self.set.take().expect("see set()");
        for (name, open) in &self.tables {
            if open.table.entry_count != open.count_before {
                catalog::set_count(&mut set, name, open.table.entry_count)?;
            }
        }
        let base = set.base();
        let shared = self.shared.clone();
        if set.is_unchanged() {
            drop(self);
            // Its answers may tell of a commit that is not synced yet.
            shared.make_durable(base)?;
            return Ok(base.timestamp);
        }
        let point = self.shared.hear_poison(self.shared.append_commit(set))?;
        // The next writer may build on this commit while its log bytes are synced.
        drop(self);
        shared.make_durable(point)?;
        shared.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(point.timestamp)
    }

    /// Commits up to where others can build on it, and leaves its log unsynced: as another thread would
    /// find a commit that is being synced. Shape: no table has become longer or shorter.
    #[cfg(test)]
    pub(crate) fn commit_unsynced(mut self) {
        let set = self.set.take().expect("see set()");
        self.shared
            .append_commit(set)
            .expect("an append that works");
    }

    /// Forgets the changes.
    pub fn rollback(self) {}

    fn changing<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.is_broken {
            return Err(EngineError::Aborted);
        }
        change(self).inspect_err(|error| {
            self.is_broken = !matches!(error, EngineError::Limit { .. });
        })
    }

    fn open_table(&mut self, name: &str) -> Result<Option<OpenTable>> {
        if let Some(open) = self.tables.get(name) {
            return Ok(Some(*open));
        }
        let Some(table) = catalog::open(self.set(), name)? else {
            return Ok(None);
        };
        let open = OpenTable {
            table,
            count_before: table.entry_count,
        };
        self.tables.insert(name.to_owned(), open);
        Ok(Some(open))
    }

    fn open_or_create(&mut self, name: &str) -> Result<OpenTable> {
        if let Some(open) = self.tables.get(name) {
            return Ok(*open);
        }
        let set = self.set.as_mut().expect("see set()");
        let (Creation::Created(table) | Creation::Existed(table)) = catalog::create(set, name)?;
        let open = OpenTable {
            table,
            count_before: table.entry_count,
        };
        self.tables.insert(name.to_owned(), open);
        Ok(open)
    }

    fn recount(&mut self, name: &str, entry_count: u64) {
        if let Some(open) = self.tables.get_mut(name) {
            open.table.entry_count = entry_count;
        }
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        self.set = None;
        let shared = &self.shared;
        shared.table.lend(shared.sizes.transaction_images, 0);
        if let Some(spool) = &shared.spool {
            spool.give_back();
        }
        shared.writer.free();
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(EngineError::Limit {
            what: "length of a key in bytes",
            found: 0,
            limit: 1,
        });
    }
    check_limit("length of a key in bytes", key.len(), KEY_BYTES_MAX)
}

fn check_limit(what: &'static str, found: usize, limit: u64) -> Result<()> {
    let found = found as u64;
    if found > limit {
        Err(EngineError::Limit { what, found, limit })
    } else {
        Ok(())
    }
}

fn get<R: PageRead>(src: &R, table: Option<Table>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    table.map_or(Ok(None), |table| btree::get(src, table.root, key))
}

fn get_admitted<R: PageRead, E: From<EngineError>>(
    src: &R,
    table: Option<Table>,
    key: &[u8],
    admit: impl FnOnce(u64) -> Result<(), E>,
) -> Result<Option<Vec<u8>>, E> {
    table.map_or(Ok(None), |table| {
        btree::get_admitted(src, table.root, key, admit)
    })
}

fn value_bytes<R: PageRead>(src: &R, table: Option<Table>, key: &[u8]) -> Result<Option<u64>> {
    table.map_or(Ok(None), |table| btree::value_bytes(src, table.root, key))
}

fn contains<R: PageRead>(src: &R, table: Option<Table>, key: &[u8]) -> Result<bool> {
    table.map_or(Ok(false), |table| btree::contains(src, table.root, key))
}
