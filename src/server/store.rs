//! The one transaction in which the commands of a batch see and change the database.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::command::CommandError;
use crate::database::{Database, ReadTransaction, WriteTransaction};
use crate::engine::error::EngineError;

/// Longest key of the engine, in bytes; the shortest has one.
pub(super) const KEY_BYTES_MAX: usize = 1024;
/// Longest value of the engine, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 20;

/// What SELECT chooses among: tables `redis.0` to `redis.15`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Table(u8);

const TABLE_NAMES: [&str; 16] = [
    "redis.0", "redis.1", "redis.2", "redis.3", "redis.4", "redis.5", "redis.6", "redis.7",
    "redis.8", "redis.9", "redis.10", "redis.11", "redis.12", "redis.13", "redis.14", "redis.15",
];

impl Table {
    /// Number `index`, if there is one.
    pub(super) fn new(index: i64) -> Option<Self> {
        let index = u8::try_from(index).ok()?;
        (usize::from(index) < TABLE_NAMES.len()).then_some(Self(index))
    }

    /// All of them, in order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map_while(|index| Self::new(i64::from(index)))
    }

    /// Its number.
    pub(super) fn index(self) -> u8 {
        self.0
    }

    fn name(self) -> &'static str {
        TABLE_NAMES
            .get(usize::from(self.0))
            .expect("a table is only made with a number that has a name")
    }
}

/// Whether some command of the batch may change the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// None may.
    Read,
    /// One may, so all of them run in a write transaction.
    Write,
}

#[derive(Debug)]
enum Open {
    None,
    Read(ReadTransaction),
    Write(WriteTransaction),
}

/// The transaction of one batch. It begins at the first access, so that PING waits for nobody.
#[derive(Debug)]
pub(super) struct Store<'a> {
    database: Option<&'a Database>,
    intent: Intent,
    open: Open,
    failed: Option<Arc<EngineError>>,
    accesses: u64,
}

/// Runs an expression on whichever transaction is open.
macro_rules! reading {
    ($store:expr, $transaction:ident => $body:expr) => {
        match $store.begun()? {
            Open::Read($transaction) => $body,
            Open::Write($transaction) => $body,
            Open::None => return Err(CommandError::NotBegun),
        }
    };
}

impl<'a> Store<'a> {
    /// Nothing begun yet; without a database nothing can be begun.
    pub(super) fn new(database: Option<&'a Database>, intent: Intent) -> Self {
        Self {
            database,
            intent,
            open: Open::None,
            failed: None,
            accesses: 0,
        }
    }

    /// The database, if one is in the seat.
    pub(super) fn database(&self) -> Option<&'a Database> {
        self.database
    }

    /// Whether a change has failed, after which nothing is run any more.
    pub(super) fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// How often commands have used it. A command during which this grows depends on the commit.
    pub(super) fn accesses(&self) -> u64 {
        self.accesses
    }

    /// The open transaction. Errors: the one that ended the batch, or that of beginning.
    fn begun(&mut self) -> Result<&mut Open, CommandError> {
        self.accesses += 1;
        if let Some(error) = &self.failed {
            return Err(CommandError::Batch(Arc::clone(error)));
        }
        if matches!(self.open, Open::None) {
            let database = self.database.ok_or(CommandError::Loading)?;
            let begun = match self.intent {
                Intent::Read => database.begin_read().map(Open::Read),
                Intent::Write => database.begin_write().map(Open::Write),
            };
            match begun {
                Ok(open) => self.open = open,
                Err(error) if self.intent == Intent::Read => return Err(error.into()),
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(&mut self.open)
    }

    /// Gives the whole batch up: what a failed change has left in the transaction is not known.
    fn fail(&mut self, error: EngineError) -> CommandError {
        self.open = Open::None;
        let error = Arc::new(error);
        self.failed = Some(Arc::clone(&error));
        CommandError::Batch(error)
    }

    /// The value of a key, of which `admit` first hears how long it is. A key that cannot be stored has
    /// none.
    pub(super) fn get(
        &mut self,
        table: Table,
        key: &[u8],
        admit: impl FnOnce(usize) -> Result<(), CommandError>,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        if checked_key(key).is_err() {
            return Ok(None);
        }
        let admit = |bytes| admit(usize::try_from(bytes).unwrap_or(usize::MAX));
        reading!(self, transaction => transaction.get_admitted(table.name(), key, admit))
    }

    /// How long the value of a key is, without reading it.
    pub(super) fn value_bytes(
        &mut self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<usize>, CommandError> {
        if checked_key(key).is_err() {
            return Ok(None);
        }
        let bytes = reading!(self, transaction => transaction.value_bytes(table.name(), key))?;
        Ok(bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// Whether a key has a value, without reading it.
    pub(super) fn contains(&mut self, table: Table, key: &[u8]) -> Result<bool, CommandError> {
        if checked_key(key).is_err() {
            return Ok(false);
        }
        Ok(reading!(self, transaction => transaction.contains(table.name(), key))?)
    }

    /// How many keys a table has.
    pub(super) fn count(&mut self, table: Table) -> Result<u64, CommandError> {
        Ok(reading!(self, transaction => transaction.entry_count(table.name()))?)
    }

    /// Shows the keys from `start` on to `visit`, in order, until it says to stop.
    pub(super) fn visit_keys(
        &mut self,
        table: Table,
        start: Bound<Vec<u8>>,
        mut visit: impl FnMut(Vec<u8>) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<(), CommandError> {
        let bounds = (start, Bound::Unbounded);
        reading!(self, transaction => {
            for key in transaction.keys(table.name(), bounds)? {
                if visit(key?)?.is_break() {
                    break;
                }
            }
        });
        Ok(())
    }

    /// Sets a key. The caller has checked both lengths, so a failure is the engine's.
    pub(super) fn put(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), CommandError> {
        self.change(|transaction| transaction.put(table.name(), key, value))
    }

    /// Removes a key; returns whether it was there.
    pub(super) fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, CommandError> {
        if checked_key(key).is_err() {
            return Ok(false);
        }
        self.change(|transaction| transaction.delete(table.name(), key))
    }

    /// Removes all keys of a table.
    pub(super) fn clear(&mut self, table: Table) -> Result<u64, CommandError> {
        self.change(|transaction| transaction.clear(table.name()))
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut WriteTransaction) -> Result<T, EngineError>,
    ) -> Result<T, CommandError> {
        let Open::Write(transaction) = self.begun()? else {
            return Err(CommandError::NotBegun);
        };
        change(transaction).map_err(|error| self.fail(error))
    }

    /// Ends the transaction. After `Ok` everything that its commands changed or saw is durable.
    ///
    /// A write transaction is committed even if it changed nothing, because it may have seen a
    /// commit that was not durable yet, and the replies tell of it. Errors: nothing was changed.
    pub(super) fn finish(self) -> Result<(), Arc<EngineError>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.open {
            Open::None | Open::Read(_) => Ok(()),
            Open::Write(transaction) => transaction.commit().map(drop).map_err(Arc::new),
        }
    }

    /// Gives up what was changed, as if the commit had failed.
    #[cfg(test)]
    pub(super) fn break_commit(&mut self, error: EngineError) {
        if matches!(self.open, Open::Write(_)) {
            self.fail(error);
        }
    }
}

/// Refuses a key that cannot be stored.
pub(super) fn checked_key(key: &[u8]) -> Result<(), CommandError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(CommandError::KeyLength { found: key.len() });
    }
    Ok(())
}

/// Refuses a value of a length that cannot be stored.
pub(super) fn checked_value(length: usize) -> Result<(), CommandError> {
    if length > VALUE_BYTES_MAX {
        return Err(CommandError::ValueLength { found: length });
    }
    Ok(())
}
