//! The merged read: the order of steps, over a trait, so that the model checker runs exactly these.

use crate::fault::{self, Fault};
use crate::page::PageNo;
use crate::shadow::index::Entry;
use crate::view::tree::ReadError;

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
    /// Whether `bytes` can be `page` at the pin; `crc` is the one in its entry, if it has one.
    fn check(&self, page: PageNo, bytes: &[u8], crc: Option<u32>) -> Result<(), ReadError>;
    /// Whether all that was read counts (N3).
    fn last_look(&self) -> Result<(), ReadError>;
}

/// Reads whole pages of the pin from `first` on into `out`.
///
/// Shape: `out.len()` is a multiple of the page size. Errors: any [`ReadError`]; nothing of `out`
/// counts then. Cost: one live pread, one index pread, one pread per shadowed page, and the look.
pub fn read_merged<S: MergeSource>(
    source: &S,
    first: PageNo,
    out: &mut [u8],
) -> Result<(), ReadError> {
    match read_once(source, first, out) {
        // N4: a page that was read while it was being overwritten has its entry the second time.
        Err(ReadError::Page { .. }) => read_once(source, first, out),
        other => other,
    }
}

fn read_once<S: MergeSource>(source: &S, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
    let page_bytes = source.page_bytes();
    let mut entries = vec![Entry::NotShadowed; out.len() / page_bytes];
    if fault::is(Fault::EndLookedAtFirst) {
        source.last_look()?;
    }
    if fault::is(Fault::LookBeforeLiveRead) {
        source.read_entries(first, &mut entries)?;
        std::thread::yield_now();
    }
    let found = source.read_live(first, out)?;
    source.fence();
    if !fault::is(Fault::LookBeforeLiveRead) {
        source.read_entries(first, &mut entries)?;
    }
    let mut page = first;
    let mut end = 0;
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
            Entry::Slot { slot, crc } => {
                source.read_slot(page, slot, bytes)?;
                source.check(page, bytes, Some(crc))?;
            }
        }
        page = PageNo(page.0 + 1);
    }
    source.fence();
    if fault::is(Fault::EndLookedAtFirst) {
        return Ok(());
    }
    source.last_look()
}
