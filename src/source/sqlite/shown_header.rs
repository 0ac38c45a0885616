//! The header of a shown database: what of it is changed, if that is asked for, and how the file opens.
//!
//! Bytes 18 and 19 of an SQLite file say whether it is in WAL mode (2) or not (1). Source:
//! <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>.

use crate::source::HeaderShown;
use crate::view::tree::ReadError;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Write and read version.
const VERSIONS: std::ops::Range<u64> = 18..20;
const ROLLBACK: u8 = 1;
/// As much of the first page as is looked at.
const LOOKED_AT_BYTES: usize = 20;

/// What a shown file says of its journal mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum JournalShown {
    /// A log.
    Wal,
    /// A rollback journal, of whatever kind.
    Rollback,
    /// There is no header to be seen.
    Encrypted,
    /// Nothing: the file is empty.
    Empty,
}

/// How the header of one database is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShownHeader {
    /// What it then says.
    pub(super) journal: JournalShown,
    is_changed: bool,
    is_plain: bool,
}

impl ShownHeader {
    /// Decides by what `read` gives of the view of `bytes` bytes.
    ///
    /// Errors: those of `read`. `None` if the header is to be changed and there is none to be seen: the
    /// file is encrypted.
    pub(super) fn of(
        shown: HeaderShown,
        bytes: u64,
        read: impl FnOnce(&mut [u8]) -> Result<(), ReadError>,
    ) -> Result<Option<Self>, ReadError> {
        let mut found = [0; LOOKED_AT_BYTES];
        if bytes < LOOKED_AT_BYTES as u64 {
            // Nothing is there that says a mode: SQLite opens it as it is.
            let (is_changed, is_plain) = (false, true);
            let journal = match bytes {
                0 => JournalShown::Empty,
                _ => JournalShown::Encrypted,
            };
            return Ok(Some(Self {
                journal,
                is_changed,
                is_plain,
            }));
        }
        read(&mut found)?;
        let is_sqlite = found.starts_with(MAGIC);
        let is_rollback = found.ends_with(&[ROLLBACK, ROLLBACK]);
        Ok(match (shown, is_sqlite) {
            (HeaderShown::Rollback, false) => None,
            (shown, is_sqlite) => Some(Self {
                journal: match (is_sqlite, is_rollback || shown == HeaderShown::Rollback) {
                    (false, _) => JournalShown::Encrypted,
                    (true, true) => JournalShown::Rollback,
                    (true, false) => JournalShown::Wal,
                },
                is_changed: shown == HeaderShown::Rollback && !is_rollback,
                is_plain: is_sqlite && (is_rollback || shown == HeaderShown::Rollback),
            }),
        })
    }

    /// Changes what was read from `offset` as it is shown.
    pub(super) fn apply(self, offset: u64, out: &mut [u8]) {
        if !self.is_changed || offset >= VERSIONS.end {
            return;
        }
        for place in VERSIONS {
            let at = place
                .checked_sub(offset)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = at.and_then(|at| out.get_mut(at)) {
                *byte = ROLLBACK;
            }
        }
    }

    /// What stock SQLite needs to open it on a read-only mount.
    pub(super) fn open_with(self) -> &'static str {
        if self.is_plain {
            "plainly"
        } else {
            "immutable=1"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(versions: u8) -> Vec<u8> {
        let mut page = MAGIC.to_vec();
        page.extend([16, 0, versions, versions, 0, 64]);
        page.resize(4096, 7);
        page
    }

    fn shown(page: &[u8], shown: HeaderShown) -> Option<ShownHeader> {
        let read = |out: &mut [u8]| {
            out.copy_from_slice(&page[..out.len()]);
            Ok(())
        };
        ShownHeader::of(shown, page.len() as u64, read).unwrap()
    }

    /// Two bytes are changed, whatever part of the page is asked for, and no other.
    #[test]
    fn only_the_mode_is_changed_and_only_if_asked() {
        let page = header(2);
        let changed = shown(&page, HeaderShown::Rollback).unwrap();
        assert_eq!(changed.open_with(), "plainly");
        let mut expected = page.clone();
        expected[18..20].fill(1);
        for (start, end) in [(0, 4096), (18, 19), (19, 4096), (10, 19), (20, 40), (0, 18)] {
            let mut out = page[start..end].to_vec();
            changed.apply(start as u64, &mut out);
            assert_eq!(out, expected[start..end], "{start}..{end}");
        }
        let same = shown(&page, HeaderShown::AsItIs).unwrap();
        let mut out = page.clone();
        same.apply(0, &mut out);
        assert_eq!((out, same.open_with()), (page, "immutable=1"));
        let rollback = shown(&header(1), HeaderShown::AsItIs).unwrap();
        assert_eq!(rollback.open_with(), "plainly");
    }

    #[test]
    fn encrypted_file_is_not_changed_and_an_empty_one_needs_not() {
        let secret = vec![0xa5; 4096];
        assert_eq!(shown(&secret, HeaderShown::Rollback), None);
        let same = shown(&secret, HeaderShown::AsItIs).unwrap();
        assert_eq!(same.open_with(), "immutable=1");
        assert_eq!(
            shown(&[], HeaderShown::Rollback).unwrap().open_with(),
            "plainly"
        );
    }
}
