//! Everything that can be read of a database, and some of what can be written to it.

use std::hint::black_box;

use stillfs::database::{Engine, ReadTransaction};
use stillfs::engine::error::Result;

use crate::input::Input;

/// Entries that are looked at of one table.
const ENTRIES_MAX: usize = 2000;

/// Reads all tables, with their values.
///
/// Errors: the first, as a reader would meet it.
pub fn read(read: &ReadTransaction) -> Result<()> {
    for table in read.tables()? {
        black_box(read.entry_count(&table)?);
        for entry in read.range(&table, ..)?.take(ENTRIES_MAX) {
            black_box(entry?);
        }
        for key in read.keys(&table, vec![1]..)?.take(ENTRIES_MAX) {
            let key = key?;
            black_box(read.get(&table, &key)?);
        }
    }
    Ok(())
}

/// Checks the database and reads it.
pub fn look(engine: &Engine) {
    // Damage is in the report.
    let report = engine.check().expect("the check reports what it meets");
    for finding in &report.findings {
        black_box(finding.to_string());
    }
    black_box(read(&engine.begin_read()).map_err(|error| error.to_string())).ok();
}

/// Writes what `input` says, in transactions. An error ends the one that met it.
pub fn write(engine: &Engine, input: &mut Input<'_>) {
    for _ in 0..8 {
        if input.is_empty() {
            return;
        }
        black_box(write_once(engine, input).map_err(|error| error.to_string())).ok();
        if input.u8() & 1 == 1 {
            black_box(engine.checkpoint().map_err(|error| error.to_string())).ok();
        }
    }
}

fn write_once(engine: &Engine, input: &mut Input<'_>) -> Result<()> {
    let mut write = engine.begin_write()?;
    for _ in 0..16 {
        let (act, key) = (input.u8(), u32::from(input.u16() % 800).to_be_bytes());
        let table = ["a", "b", "c", "d"][usize::from(act >> 6)];
        match act & 0x0f {
            0 => break,
            1 => write.put(table, &key, &[3; 30])?,
            2 => write.put(table, &key, &vec![4; usize::from(input.u16())])?,
            3 => drop(write.delete(table, &key)?),
            4 => drop(write.clear(table)?),
            5 => drop(write.drop_table(table)?),
            6 => drop(write.get(table, &key)?),
            _ => write.put(table, input.piece(), b"")?,
        }
    }
    write.commit().map(drop)
}
