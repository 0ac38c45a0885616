//! Three stores behind one contract: what is put is durable when `put` returns.

use std::path::Path;
use std::sync::Mutex;

use redb::{ReadableDatabase, TableDefinition};
use rusqlite::Connection;
use stillfs::{Database, EngineOptions, PinServing};

use crate::{Outcome, VALUE_BYTES};

/// Bytes of pages that each keeps in memory; it is what the engine does unless told otherwise.
const CACHE_BYTES: u32 = 64 << 20;
const TABLE: &str = "entries";
const REDB_TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new(TABLE);

/// Key and value.
pub(crate) type Entry = (u64, Vec<u8>);

/// A store of numbered values.
pub(crate) trait Store: Send + Sync + std::fmt::Debug {
    /// Puts all of them in one transaction.
    fn put(&self, entries: &mut dyn Iterator<Item = Entry>) -> Outcome<()>;
    /// All that was put is in its file, and no log is needed.
    fn checkpoint(&self) -> Outcome<()>;
    /// Reads the values of the keys that `next` gives; how many it were.
    fn read(&self, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64>;
    /// Reads `count` entries in a row from each key on that `next` gives; how many it were.
    fn scan(&self, count: u64, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64>;
}

/// Opens an empty store of the named kind in `directory`.
pub(crate) fn open(name: &str, directory: &Path) -> Outcome<Box<dyn Store>> {
    Ok(match name {
        "engine" => {
            let options = EngineOptions {
                cache_bytes: u64::from(CACHE_BYTES),
                ..EngineOptions::default()
            };
            let database = Database::open(directory.join("database"), &options, PinServing::Off)?;
            Box::new(Engine(database))
        }
        "sqlite" => Box::new(Sqlite::open(&directory.join("database"))?),
        "redb" => {
            let mut builder = redb::Builder::new();
            builder.set_cache_size(usize::try_from(CACHE_BYTES)?);
            Box::new(Redb(builder.create(directory.join("database"))?))
        }
        _ => return Err(format!("there is no store {name}").into()),
    })
}

fn check(value: &[u8]) -> Outcome<u64> {
    match value.len() {
        VALUE_BYTES => Ok(1),
        other => Err(format!("a value has {other} bytes").into()),
    }
}

#[derive(Debug)]
struct Engine(Database);

impl Store for Engine {
    fn put(&self, entries: &mut dyn Iterator<Item = Entry>) -> Outcome<()> {
        let mut write = self.0.begin_write()?;
        for (key, value) in entries {
            write.put(TABLE, &key.to_be_bytes(), &value)?;
        }
        write.commit()?;
        Ok(())
    }

    fn checkpoint(&self) -> Outcome<()> {
        self.0.checkpoint()?;
        Ok(())
    }

    fn read(&self, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        let read = self.0.begin_read()?;
        let mut found = 0;
        while let Some(key) = next() {
            let value = read.get(TABLE, &key.to_be_bytes())?;
            found += check(&value.ok_or("an entry is missing")?)?;
        }
        Ok(found)
    }

    fn scan(&self, count: u64, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        let read = self.0.begin_read()?;
        let mut found = 0;
        while let Some(key) = next() {
            let range = read.range(TABLE, key.to_be_bytes().to_vec()..)?;
            for entry in range.take(usize::try_from(count)?) {
                found += check(&entry?.1)?;
            }
        }
        Ok(found)
    }
}

/// One connection that all take turns at: connections of their own would wait for each other by sleeping.
#[derive(Debug)]
struct Sqlite(Mutex<Connection>);

impl Sqlite {
    fn open(path: &Path) -> Outcome<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        // Negative: in KiB, and not in pages.
        connection.pragma_update(None, "cache_size", -i64::from(CACHE_BYTES >> 10))?;
        connection.execute_batch("CREATE TABLE entries (key INTEGER PRIMARY KEY, value BLOB)")?;
        Ok(Self(Mutex::new(connection)))
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        let connection = self.0.lock().map_err(|_| "another one panicked")?;
        work(&connection)
    }
}

impl Store for Sqlite {
    fn put(&self, entries: &mut dyn Iterator<Item = Entry>) -> Outcome<()> {
        self.with(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let sql = "INSERT OR REPLACE INTO entries (key, value) VALUES (?1, ?2)";
            let mut insert = connection.prepare_cached(sql)?;
            for (key, value) in entries {
                insert.execute((i64::try_from(key)?, value))?;
            }
            Ok(connection.execute_batch("COMMIT")?)
        })
    }

    fn checkpoint(&self) -> Outcome<()> {
        self.with(|connection| {
            let busy: i64 =
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            match busy {
                0 => Ok(()),
                _ => Err("SQLite's checkpoint was not complete".into()),
            }
        })
    }

    fn read(&self, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            let mut select =
                connection.prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
            let mut found = 0;
            while let Some(key) = next() {
                found += select.query_row([i64::try_from(key)?], |row| {
                    Ok(check(row.get_ref(0)?.as_blob()?))
                })??;
            }
            connection.execute_batch("COMMIT")?;
            Ok(found)
        })
    }

    fn scan(&self, count: u64, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            let sql = "SELECT key, value FROM entries WHERE key >= ?1 ORDER BY key LIMIT ?2";
            let mut select = connection.prepare_cached(sql)?;
            let mut found = 0;
            while let Some(key) = next() {
                let mut rows = select.query([i64::try_from(key)?, i64::try_from(count)?])?;
                while let Some(row) = rows.next()? {
                    let _: i64 = row.get(0)?;
                    found += check(row.get_ref(1)?.as_blob()?)?;
                }
            }
            connection.execute_batch("COMMIT")?;
            Ok(found)
        })
    }
}

#[derive(Debug)]
struct Redb(redb::Database);

impl Store for Redb {
    fn put(&self, entries: &mut dyn Iterator<Item = Entry>) -> Outcome<()> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(REDB_TABLE)?;
            for (key, value) in entries {
                table.insert(key, &*value)?;
            }
        }
        Ok(write.commit()?)
    }

    /// It has no log.
    fn checkpoint(&self) -> Outcome<()> {
        Ok(())
    }

    fn read(&self, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        let read = self.0.begin_read()?;
        let table = read.open_table(REDB_TABLE)?;
        let mut found = 0;
        while let Some(key) = next() {
            let value = table.get(key)?.ok_or("an entry is missing")?;
            found += check(value.value())?;
        }
        Ok(found)
    }

    fn scan(&self, count: u64, next: &mut dyn FnMut() -> Option<u64>) -> Outcome<u64> {
        let read = self.0.begin_read()?;
        let table = read.open_table(REDB_TABLE)?;
        let mut found = 0;
        while let Some(key) = next() {
            for entry in table.range(key..)?.take(usize::try_from(count)?) {
                found += check(entry?.1.value())?;
            }
        }
        Ok(found)
    }
}
