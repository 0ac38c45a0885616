//! How big a view is, and how much of it the database file must have.

use std::io;

use crate::os::{File, read_up_to};
use crate::source::sqlite::format::{DATABASE_HEADER_BYTES, DatabaseHeader, PENDING_BYTE};
use crate::source::sqlite::page_index::PageIndex;
use crate::source::sqlite::wal_pin::Shape;

/// See the head of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// What the view shows.
    pub(super) shape: Shape,
    /// Up to here the database file must have what the log has not. What is missing after it is zeros,
    /// as for SQLite: the page of the locks, and the rest of a last page.
    pub(super) file_bytes: u64,
}

impl Extent {
    /// Of a state of `page_count` pages.
    pub(super) fn of_pages(page_bytes: u64, page_count: u32, index: &PageIndex) -> Self {
        let lock_page = PENDING_BYTE
            .checked_div(page_bytes)
            .map_or(0, |page| page + 1);
        let last = index.last_unlogged(page_count, lock_page);
        let page_count = u64::from(page_count);
        Self {
            shape: Shape {
                page_bytes,
                page_count,
                bytes: page_count * page_bytes,
            },
            file_bytes: u64::from(last) * page_bytes,
        }
    }

    /// Of a state that is the database file, which nobody writes, with `found` bytes. SQLite fills its
    /// last page up with zeros. Where the size of a page is in no log, the file says it, unless it is
    /// encrypted. Errors: the system's.
    pub(super) fn of_file(
        database: &dyn File,
        found: u64,
        page_bytes: Option<u64>,
    ) -> io::Result<Self> {
        let page_bytes = match page_bytes {
            Some(known) => known,
            None => page_bytes_of(database)?,
        };
        let page_count = found.checked_div(page_bytes).map_or(0, |whole| {
            whole + u64::from(!found.is_multiple_of(page_bytes))
        });
        let bytes = match page_bytes {
            0 => found,
            _ => page_count.saturating_mul(page_bytes),
        };
        Ok(Self {
            shape: Shape {
                page_bytes,
                page_count,
                bytes,
            },
            file_bytes: found,
        })
    }
}

/// What the database file itself says; 0 if it is encrypted.
fn page_bytes_of(database: &dyn File) -> io::Result<u64> {
    let mut bytes = [0; DATABASE_HEADER_BYTES];
    let found = read_up_to(database, &mut bytes, 0)?;
    let header = DatabaseHeader::parse(bytes.get(..found).unwrap_or_default());
    Ok(header.map_or(0, |header| header.page_bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::{Host, OpenMode, write_all_at};
    use crate::source::sqlite::page_index::PageIndexBuilder;

    /// The page of the locks is in no log, and need not be in the file either.
    #[test]
    fn page_of_the_locks_is_not_missed() {
        let lock_page = 0x4000_0000 / 65_536 + 1;
        let mut builder = PageIndexBuilder::default();
        builder.push(lock_page + 1, 1);
        let extent = Extent::of_pages(65_536, lock_page + 1, &builder.finish(1, u32::MAX));
        assert_eq!(extent.file_bytes, 0x4000_0000);
        assert_eq!(extent.shape.bytes, 0x4000_0000 + 2 * 65_536);
    }

    #[test]
    fn last_page_of_a_frozen_file_is_filled_up() {
        let machine = Host::simulated(1);
        let file = machine
            .host
            .disk
            .open(Path::new("/a"), OpenMode::CreateNew)
            .unwrap();
        let extent = |bytes, page_bytes| Extent::of_file(&*file, bytes, page_bytes).unwrap();
        assert_eq!(extent(1500, Some(1024)).shape.bytes, 2048);
        assert_eq!(extent(1500, Some(1024)).file_bytes, 1500);
        assert_eq!(extent(1500, None).shape.bytes, 1500);
        write_all_at(&*file, b"SQLite format 3\0\x02\0\x02\x02", 0).unwrap();
        assert_eq!(extent(1500, None).shape.page_count, 3);
        assert_eq!(extent(0, None).shape.bytes, 0);
    }
}
