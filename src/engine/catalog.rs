//! The catalog: which tables there are, where their trees begin, and how many entries they have.
//!
//! It runs in the engine process, in the writing transaction and in every reader. It is a B+tree with
//! its root in page 2; the key is the table's name (UTF-8, 1 to 255 bytes), the value a record:
//!
//! ```text
//! offset size
//!      0    8  root page of the table's tree
//!      8    8  number of entries
//!     16    8  table id; reserved, 0
//!     24    8  reserved, 0
//! ```
//!
//! * C1 The catalog's root is page 2, always; a table's root never changes while the table is there.
//! * C2 What a record reserves is kept as it is when the count changes.
//!
//! Nothing here locks or waits, except for the pages' own reading. It does not count entries itself.

#![deny(clippy::indexing_slicing)]

use std::ops::Bound;

use super::btree::{self, Cursor};
use crate::codec;
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::{PageRead, PageWrite, check_link};
use crate::page::PageNo;

/// The root of the catalog's tree.
pub(crate) const CATALOG_ROOT: PageNo = PageNo(2);
/// Longest name of a table in bytes.
pub(crate) const TABLE_NAME_BYTES_MAX: usize = 255;

const RECORD_BYTES: usize = 32;
const ENTRY_COUNT: usize = 8;

/// A table, as the catalog knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The root of its tree.
    pub(crate) root: PageNo,
    /// Number of its entries.
    pub(crate) entry_count: u64,
}

/// What creating a table found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// There was no such table; it is empty.
    Created(Table),
    /// The table was there and is as it was.
    Existed(Table),
}

/// Makes an empty catalog in a database that has nothing but its two header pages.
///
/// Errors: `Structure` where the first page to be allocated is not page 2; those of the pages.
pub(crate) fn initialise(dst: &mut dyn PageWrite) -> Result<()> {
    let root = btree::create(dst)?;
    if root != CATALOG_ROOT {
        return Err(EngineError::Structure {
            page: CATALOG_ROOT,
            expected: "the first page of a new database",
            found: root.0,
        });
    }
    Ok(())
}

/// The table `name`, or `None`.
///
/// Errors: `Limit` for a name that is empty or too long; `Structure`; those of `read`.
pub(crate) fn open<R: PageRead + ?Sized>(src: &R, name: &str) -> Result<Option<Table>> {
    check_name(name)?;
    let record = btree::get(src, CATALOG_ROOT, name.as_bytes())?;
    record.map(|record| decode(src, &record)).transpose()
}

/// Makes the table `name` if it is not there.
///
/// Errors: `Limit` for a name that is empty or too long; `Structure`; those of the pages.
pub(crate) fn create(dst: &mut dyn PageWrite, name: &str) -> Result<Creation> {
    if let Some(table) = open(dst, name)? {
        return Ok(Creation::Existed(table));
    }
    let root = btree::create(dst)?;
    let mut record = [0; RECORD_BYTES];
    codec::put(&mut record, 0, &root.0.to_le_bytes());
    btree::insert(dst, CATALOG_ROOT, name.as_bytes(), &record)?;
    Ok(Creation::Created(Table {
        root,
        entry_count: 0,
    }))
}

/// Removes the table `name` with all of its entries; returns what it was, or `None`.
///
/// Errors: `Limit` for a name that is empty or too long; `Structure`; those of the pages.
pub(crate) fn drop_table(dst: &mut dyn PageWrite, name: &str) -> Result<Option<Table>> {
    let Some(table) = open(dst, name)? else {
        return Ok(None);
    };
    btree::drop_tree(dst, table.root)?;
    btree::delete(dst, CATALOG_ROOT, name.as_bytes())?;
    Ok(Some(table))
}

/// All tables, in the order of their names' bytes.
///
/// Errors: `Structure`; those of `read`.
pub(crate) fn list<R: PageRead + ?Sized>(src: &R) -> Result<Vec<(String, Table)>> {
    let mut tables = Vec::new();
    let mut cursor = Cursor::new(src, CATALOG_ROOT, Bound::Unbounded, Bound::Unbounded);
    while let Some(entry) = cursor.next()? {
        let (name, record) = entry.to_pair()?;
        tables.push((decode_name(&name)?.to_owned(), decode(src, &record)?));
    }
    Ok(tables)
}

/// Notes how many entries the table `name` has; returns whether there is such a table.
///
/// Errors: `Limit` for a name that is empty or too long; `Structure`; those of the pages.
pub(crate) fn set_count(dst: &mut dyn PageWrite, name: &str, entry_count: u64) -> Result<bool> {
    check_name(name)?;
    let Some(mut record) = btree::get(dst, CATALOG_ROOT, name.as_bytes())? else {
        return Ok(false);
    };
    decode(dst, &record)?;
    codec::put(&mut record, ENTRY_COUNT, &entry_count.to_le_bytes());
    btree::insert(dst, CATALOG_ROOT, name.as_bytes(), &record)?;
    Ok(true)
}

fn check_name(name: &str) -> Result<()> {
    if (1..=TABLE_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(EngineError::Limit {
        what: "length of a table's name in bytes",
        found: name.len() as u64,
        limit: TABLE_NAME_BYTES_MAX as u64,
    })
}

/// Decodes a key of the catalog.
///
/// Errors: `Structure`.
pub(crate) fn decode_name(key: &[u8]) -> Result<&str> {
    let name = std::str::from_utf8(key).ok();
    let is_name = |name: &&str| (1..=TABLE_NAME_BYTES_MAX).contains(&name.len());
    name.filter(is_name).ok_or(EngineError::Structure {
        page: CATALOG_ROOT,
        expected: "a table's name of 1 to 255 bytes of UTF-8",
        found: key.len() as u64,
    })
}

/// Decodes a record of the catalog.
///
/// Errors: `Structure`.
pub(crate) fn decode<R: PageRead + ?Sized>(src: &R, record: &[u8]) -> Result<Table> {
    let root = codec::get_u64(record, 0);
    let entry_count = codec::get_u64(record, ENTRY_COUNT);
    let (Some(root), Some(entry_count), RECORD_BYTES) = (root, entry_count, record.len()) else {
        return Err(EngineError::Structure {
            page: CATALOG_ROOT,
            expected: "a table's record of 32 bytes",
            found: record.len() as u64,
        });
    };
    let root = PageNo(root);
    check_link(src, CATALOG_ROOT, root)?;
    Ok(Table { root, entry_count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::btree::memory_pages::MemoryPages;

    /// C1: however the catalog grows and shrinks, it is found at page 2, and a table keeps its root.
    #[test]
    fn tables_are_created_once_listed_in_order_and_dropped_with_their_pages() {
        let mut pages = MemoryPages::with_catalog(4096);
        let names: Vec<_> = (0..300)
            .map(|number| format!("table {number:03}"))
            .collect();
        for name in names.iter().rev() {
            let created = create(&mut pages, name).unwrap();
            let Creation::Created(table) = created else {
                panic!("{created:?}");
            };
            assert_eq!(create(&mut pages, name).unwrap(), Creation::Existed(table));
            btree::insert(&mut pages, table.root, b"key", &vec![1; 10_000]).unwrap();
            assert!(set_count(&mut pages, name, 1).unwrap());
            assert_eq!(open(&pages, name).unwrap().unwrap().entry_count, 1);
        }
        let listed: Vec<_> = list(&pages)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(listed, names);
        assert!(pages.check().is_clean());
        for name in &names {
            assert!(drop_table(&mut pages, name).unwrap().is_some());
            assert_eq!(drop_table(&mut pages, name).unwrap(), None);
            assert!(!set_count(&mut pages, name, 1).unwrap());
        }
        assert!(pages.check().is_clean());
        assert_eq!(pages.page_count() - pages.list.count, 3);
    }

    #[test]
    fn names_have_1_to_255_bytes() {
        let mut pages = MemoryPages::with_catalog(4096);
        for bad in ["", &"x".repeat(256)] {
            assert!(matches!(open(&pages, bad), Err(EngineError::Limit { .. })));
            assert!(matches!(
                create(&mut pages, bad),
                Err(EngineError::Limit { .. })
            ));
        }
        assert!(create(&mut pages, &"x".repeat(255)).is_ok());
    }

    /// C2: a later version may have put something there.
    #[test]
    fn reserved_bytes_outlive_a_change_of_the_count() {
        let mut pages = MemoryPages::with_catalog(4096);
        create(&mut pages, "table").unwrap();
        let mut record = btree::get(&pages, CATALOG_ROOT, b"table").unwrap().unwrap();
        codec::put(&mut record, 16, &[9; 16]);
        btree::insert(&mut pages, CATALOG_ROOT, b"table", &record).unwrap();
        set_count(&mut pages, "table", 5).unwrap();
        let record = btree::get(&pages, CATALOG_ROOT, b"table").unwrap().unwrap();
        assert_eq!(codec::get_array(&record, 8), Some(5_u64.to_le_bytes()));
        assert_eq!(codec::get_array(&record, 16), Some([9; 16]));
    }

    #[test]
    fn bad_records_and_names_are_errors() {
        let mut pages = MemoryPages::with_catalog(4096);
        let record = |root: u64| [&root.to_le_bytes()[..], &[0; 24]].concat();
        for bad in [vec![], vec![0; 31], vec![0; 33], record(2), record(1000)] {
            btree::insert(&mut pages, CATALOG_ROOT, b"table", &bad).unwrap();
            assert!(open(&pages, "table").is_err(), "{bad:?}");
            assert!(list(&pages).is_err());
            assert!(drop_table(&mut pages, "table").is_err());
            assert!(!pages.check().is_clean());
        }
        btree::delete(&mut pages, CATALOG_ROOT, b"table").unwrap();
        btree::insert(&mut pages, CATALOG_ROOT, &[0xFF, 0xFE], &record(3)).unwrap();
        assert!(list(&pages).is_err());
    }
}
