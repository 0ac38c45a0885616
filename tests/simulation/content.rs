//! What a database holds by the model, and the comparison of a real one with it.

use std::collections::BTreeMap;

use stillfs::database::{EngineOptions, ReadTransaction, WriteTransaction};
use stillfs::engine::error::EngineError;

use crate::draw::Draw;
use crate::plan::Config;

/// A value, as what it is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    seed: u32,
    length: usize,
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        // Short values of two seeds can be the same.
        (self.seed, self.length) == (other.seed, other.length) || self.bytes() == other.bytes()
    }
}

impl Eq for Value {}

impl Value {
    /// The bytes: both ends and the length tell one value from another, and so does every byte.
    fn bytes(self) -> Vec<u8> {
        let mark = self.seed.to_le_bytes();
        let mut bytes = vec![mark[0] ^ mark[1]; self.length];
        for (target, byte) in bytes.iter_mut().zip(mark) {
            *target = byte;
        }
        for (target, byte) in bytes.iter_mut().rev().zip(mark) {
            *target = byte;
        }
        bytes
    }
}

type Table = BTreeMap<u16, Value>;

/// One committed state: tables by number, entries by number of the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content(BTreeMap<u8, Table>);

/// One change within a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Put(u8, u16, Value),
    Delete(u8, u16),
    Clear(u8),
    Drop(u8),
}

impl Change {
    pub(crate) fn draw(draw: &Draw, config: &Config) -> Self {
        let table = u8::try_from(draw.below(config.tables)).expect("few tables");
        let key = u16::try_from(draw.below(config.keys)).expect("few keys");
        match draw.below(40) {
            0 => Self::Drop(table),
            1 => Self::Clear(table),
            2..=10 => Self::Delete(table, key),
            _ => Self::Put(table, key, draw_value(draw, config)),
        }
    }

    /// Errors: the engine's; the transaction is then good for nothing but a rollback.
    pub(crate) fn make(
        self,
        write: &mut WriteTransaction,
        config: &Config,
    ) -> Result<(), EngineError> {
        match self {
            Self::Put(table, key, value) => {
                write.put(&table_name(table), &key_bytes(key, config), &value.bytes())
            }
            Self::Delete(table, key) => write
                .delete(&table_name(table), &key_bytes(key, config))
                .map(drop),
            Self::Clear(table) => write.clear(&table_name(table)).map(drop),
            Self::Drop(table) => write.drop_table(&table_name(table)).map(drop),
        }
    }

    pub(crate) fn apply(self, content: &mut Content) {
        match self {
            Self::Put(table, key, value) => {
                content.0.entry(table).or_default().insert(key, value);
            }
            Self::Delete(table, key) => {
                if let Some(table) = content.0.get_mut(&table) {
                    table.remove(&key);
                }
            }
            Self::Clear(table) => {
                if let Some(table) = content.0.get_mut(&table) {
                    table.clear();
                }
            }
            Self::Drop(table) => drop(content.0.remove(&table)),
        }
    }
}

fn draw_value(draw: &Draw, config: &Config) -> Value {
    let page = u64::from(config.page_size.get());
    let length = match draw.below(config.long_values) {
        // Values in chains of a few pages, and around the border between cell and chain.
        0 if draw.one_in(2) => draw.between(page, 4 * page),
        0 => draw.between(page / 4 - 80, page / 4 + 20),
        _ => draw.below(150),
    };
    Value {
        seed: u32::try_from(draw.below(1 << 32)).expect("32 bits"),
        length: usize::try_from(length).expect("short"),
    }
}

fn table_name(table: u8) -> String {
    format!("t{table}")
}

fn key_bytes(key: u16, config: &Config) -> Vec<u8> {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(config.key_bytes, b'.');
    bytes
}

impl Content {
    /// What differs between `read` and this, if anything does.
    ///
    /// Errors: the engine's, of the read.
    pub(crate) fn compare(
        &self,
        read: &ReadTransaction,
        config: &Config,
    ) -> Result<Option<String>, EngineError> {
        let names: Vec<String> = self.0.keys().map(|table| table_name(*table)).collect();
        let found = read.tables()?;
        if found != names {
            return Ok(Some(format!("tables {found:?}, expected {names:?}")));
        }
        for (number, entries) in &self.0 {
            let name = table_name(*number);
            let mut expected = entries.iter();
            for entry in read.range(&name, ..)? {
                let (key, value) = entry?;
                let wanted = expected
                    .next()
                    .map(|(key, value)| (key_bytes(*key, config), value.bytes()));
                if wanted.as_ref() != Some(&(key.clone(), value)) {
                    let wanted = wanted.map(|(key, _)| key);
                    return Ok(Some(format!("{name}: found {key:?}, expected {wanted:?}")));
                }
            }
            if let Some((key, _)) = expected.next() {
                return Ok(Some(format!("{name}: key {key} is missing")));
            }
            let count = read.entry_count(&name)?;
            if count != entries.len() as u64 {
                return Ok(Some(format!("{name}: counts {count} entries")));
            }
        }
        Ok(None)
    }
}

/// How the simulated application opens its database.
pub(crate) fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        page_size: config.page_size,
        cache_bytes: config.cache_bytes,
        // The thread that takes checkpoints by itself is never rung: nothing depends on its timing.
        checkpoint_bytes: u64::MAX,
        log_bytes_max: config.log_bytes_max,
        free_floor_bytes: Some(config.floor_bytes),
        ..EngineOptions::default()
    }
}
