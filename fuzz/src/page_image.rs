//! Pages and headers with their checksums mended: what a hostile writer would leave.

use stillfs::codec;
use stillfs::page;

/// Page size of every database here: the smallest, so that few bytes make many pages.
pub const PAGE_BYTES: usize = 4096;

/// Mends the checksum of `page_bytes`; its number and LSN stay what they are.
pub fn mend_page(page_bytes: &mut [u8]) {
    let lsn = page::lsn(page_bytes);
    page::seal(page_bytes, lsn);
}

/// Mends a checksum over `from..508`, which is at 508: database headers, segments, indexes.
pub fn mend_sector(bytes: &mut [u8], from: usize) {
    if bytes.len() >= 512 {
        let crc = crc32fast::hash(&bytes[from..508]);
        codec::put(bytes, 508, &crc.to_le_bytes());
    }
}

/// Mends those of the pages of a page file that are whole; those of the headers too.
pub fn mend_page_file(file: &mut [u8], changed: &[usize]) {
    for &number in changed {
        let at = number * PAGE_BYTES;
        if let Some(page_bytes) = file.get_mut(at..at + PAGE_BYTES) {
            if number < 2 {
                mend_sector(page_bytes, 32);
            }
            mend_page(page_bytes);
        }
    }
}

/// The field of eight bytes at `at`, or 0.
pub fn field(bytes: &[u8], at: usize) -> u64 {
    codec::get_u64(bytes, at).unwrap_or_default()
}
