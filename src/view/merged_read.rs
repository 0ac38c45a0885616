//! The merged read: the order of steps, over a trait, so that the model checker runs exactly these.

use crate::fault::{self, Fault};
use crate::page::PageNo;
use crate::shadow::index::Entry;
use crate::view::tree::{EndSeen, ReadError};

/// What a merged read reads from. Offsets and counts are in pages; buffers hold whole pages.
pub trait MergeSource {
    /// Bytes of a page.
    fn page_bytes(&self) -> usize;
    /// Reads live pages from `first` on; returns how many bytes there were before the end of file.
    fn read_live(&self, first: PageNo, out: &mut [u8]) -> Result<usize, ReadError>;
    /// Orders what was read before what is read next (SeqCst).
    fn fence(&self);
    /// The index entries of the pages from `first` on.
    fn read_entries(&self, first: PageNo, out: &mut [Entry]) -> Result<(), ReadError>;
    /// Reads the image in a slot.
    fn read_slot(&self, page: PageNo, slot: u32, out: &mut [u8]) -> Result<(), ReadError>;
    /// Reads images whose slots lie in a row.
    fn read_slots(&self, row: &mut [Image<'_>]) -> Result<(), ReadError> {
        row.iter_mut()
            .try_for_each(|image| self.read_slot(image.page, image.slot, image.bytes))
    }
    /// Whether `bytes` can be `page` at the pin; `crc` is the one in its entry, if it has one.
    fn check(&self, page: PageNo, bytes: &[u8], crc: Option<u32>) -> Result<(), ReadError>;
    /// Whether all that was read counts (N3).
    fn last_look(&self) -> Result<(), ReadError>;
}

/// A page whose image is in a slot, and where it is to go.
#[derive(Debug)]
pub struct Image<'a> {
    /// The page.
    pub page: PageNo,
    /// Its slot.
    pub slot: u32,
    /// The checksum that its entry has.
    pub crc: u32,
    /// One page.
    pub bytes: &'a mut [u8],
}

/// Reads whole pages of the pin from `first` on into `out`.
///
/// Shape: `out.len()` is a multiple of the page size. Errors: any [`ReadError`]; nothing of `out`
/// counts then. Gives the number of pages that came from slots. Cost: one live pread, one index pread, one
/// preadv for all slots that lie in a row, in whatever order their pages are, and the look.
pub fn read_merged<S: MergeSource>(
    source: &S,
    first: PageNo,
    out: &mut [u8],
) -> Result<u64, ReadError> {
    match read_once(source, first, out) {
        // N4: a page that was read while it was being overwritten has its entry the second time.
        // An entry that is no slot was seen while it was being written.
        Err(ReadError::Page { .. } | ReadError::Entry { .. }) => {}
        other => return other,
    }
    read_once(source, first, out).or_else(|error| match error {
        // Bytes of after the end are no damage: say what it is.
        ReadError::Page { .. } | ReadError::Entry { .. } => last_look(source).and(Err(error)),
        error => Err(error),
    })
}

fn read_once<S: MergeSource>(source: &S, first: PageNo, out: &mut [u8]) -> Result<u64, ReadError> {
    let page_bytes = source.page_bytes();
    let mut entries = vec![Entry::NotShadowed; out.len() / page_bytes];
    if fault::is(Fault::EndLookedAtFirst) {
        source.last_look()?;
    }
    if fault::is(Fault::LookBeforeLiveRead) {
        source.read_entries(first, &mut entries)?;
        fault::linger(Fault::LookBeforeLiveRead);
    }
    let found = source.read_live(first, out)?;
    source.fence();
    if !fault::is(Fault::LookBeforeLiveRead) {
        source.read_entries(first, &mut entries)?;
    }
    fault::linger_after(Fault::EndLookedAtFirst, || source.last_look().is_err());
    // An entry that is there says that its image is; so the image is read after it.
    source.fence();
    let mut page = first;
    let mut end = 0;
    let mut shadowed = Vec::new();
    for (bytes, entry) in out.chunks_exact_mut(page_bytes).zip(&entries) {
        end += page_bytes;
        match *entry {
            Entry::NotShadowed if end > found => {
                let fault = crate::page::PageFault::Short {
                    found: page_bytes - (end - found).min(page_bytes),
                };
                return Err(ReadError::Page {
                    file: "data.pages",
                    page,
                    fault,
                });
            }
            Entry::NotShadowed => source.check(page, bytes, None)?,
            Entry::Unreadable => return Err(ReadError::Unreadable { page }),
            Entry::Slot { slot, crc } => shadowed.push(Image {
                page,
                slot,
                crc,
                bytes,
            }),
        }
        page = PageNo(page.0 + 1);
    }
    read_images(source, &mut shadowed)?;
    source.fence();
    let count = shadowed.len() as u64;
    if fault::is(Fault::EndLookedAtFirst) {
        return Ok(count);
    }
    last_look(source).map(|()| count)
}

/// Reads and checks what is in slots, in the order of the slots.
fn read_images<S: MergeSource>(source: &S, images: &mut [Image<'_>]) -> Result<(), ReadError> {
    images.sort_unstable_by_key(|image| image.slot);
    for row in images.chunk_by_mut(|one, next| one.slot.checked_add(1) == Some(next.slot)) {
        source.read_slots(row)?;
        for image in row {
            source.check(image.page, image.bytes, Some(image.crc))?;
        }
    }
    Ok(())
}

/// The last look, taken once more where the pin looks fenced: an engine that took over in the middle of
/// the first may have let the index forget an epoch that the live header had just before.
///
/// Errors: those of the look. One that comes later counts as well, being after the last byte.
pub fn last_look<S: MergeSource>(source: &S) -> Result<(), ReadError> {
    match source.last_look() {
        Err(ReadError::PinEnded {
            reason: EndSeen::Fenced,
        }) => {
            // What the index showed comes before what the live header shows this time.
            source.fence();
            source.last_look()
        }
        looked => looked,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::page::PageFault;

    /// A source of one page whose looks into the index fail as often as it is told.
    struct Flaky {
        failures: Cell<u32>,
        error: fn() -> ReadError,
        has_ended: bool,
    }

    impl MergeSource for Flaky {
        fn page_bytes(&self) -> usize {
            4
        }

        fn read_live(&self, _first: PageNo, out: &mut [u8]) -> Result<usize, ReadError> {
            out.fill(7);
            Ok(out.len())
        }

        fn fence(&self) {}

        fn read_entries(&self, _first: PageNo, _out: &mut [Entry]) -> Result<(), ReadError> {
            let left = self.failures.get();
            self.failures.set(left.saturating_sub(1));
            if left > 0 {
                Err((self.error)())
            } else {
                Ok(())
            }
        }

        fn read_slot(&self, _: PageNo, _: u32, _: &mut [u8]) -> Result<(), ReadError> {
            unreachable!("no entry leads to a slot")
        }

        fn check(&self, _: PageNo, _: &[u8], _: Option<u32>) -> Result<(), ReadError> {
            Ok(())
        }

        fn last_look(&self) -> Result<(), ReadError> {
            if self.has_ended { Err(ended()) } else { Ok(()) }
        }
    }

    fn ended() -> ReadError {
        ReadError::PinEnded {
            reason: EndSeen::IndexCut,
        }
    }

    fn read(failures: u32, error: fn() -> ReadError) -> Result<(), ReadError> {
        let flaky = Flaky {
            failures: Cell::new(failures),
            error,
            has_ended: false,
        };
        read_merged(&flaky, PageNo(0), &mut [0; 4]).map(drop)
    }

    /// N4: what can be an entry or a page in the middle of its write is looked at twice, not more.
    #[test]
    fn what_looks_half_written_is_looked_at_twice() {
        let errors: [fn() -> ReadError; 2] = [
            || ReadError::Entry {
                page: PageNo(0),
                entry: 7,
            },
            || ReadError::Page {
                file: "data.pages",
                page: PageNo(0),
                fault: PageFault::Short { found: 0 },
            },
        ];
        for error in errors {
            read(1, error).unwrap();
            read(2, error).unwrap_err();
        }
    }

    #[test]
    fn end_of_a_pin_is_not_looked_at_twice() {
        read(1, ended).unwrap_err();
    }

    /// Whoever lost a pin must not be told that the database is damaged.
    #[test]
    fn damage_that_is_seen_after_the_end_is_told_as_the_end() {
        let flaky = Flaky {
            failures: Cell::new(2),
            error: || ReadError::Entry {
                page: PageNo(0),
                entry: 7,
            },
            has_ended: true,
        };
        let read = read_merged(&flaky, PageNo(0), &mut [0; 4]);
        assert!(matches!(read, Err(ReadError::PinEnded { .. })), "{read:?}");
    }
}
