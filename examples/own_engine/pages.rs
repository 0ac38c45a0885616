//! The pages of a heap: a header page, then pages of accounts.

use stillfs::codec;
use stillfs::id::{DatabaseId, Epoch, HistoryId};
use stillfs::lsn::Lsn;
use stillfs::os::{self, File};
use stillfs::page::{self, PAGE_HEADER_BYTES, PageBuf, PageKind, PageNo, PageSize};
use stillfs::view::{LiveHeader, LiveIdentity};

use super::Outcome;

/// Name of the page file, live and in a mount.
pub(crate) const FILE: &str = "accounts.heap";
pub(super) const PAGE_SIZE: PageSize = PageSize::DEFAULT;
pub(super) const PAGE_BYTES: usize = PAGE_SIZE.bytes();
const MAGIC: [u8; 8] = *b"OWNHEAP1";
/// Accounts begin after the header page.
pub(super) const FIRST: u64 = 1;
pub(super) const ACCOUNTS_PER_PAGE: u64 = (PAGE_BYTES - PAGE_HEADER_BYTES) as u64 / 8;

/// Rule 2: where readers find whose the live file is. All of page 0, so that a torn one is no header.
#[derive(Debug)]
pub(super) struct HeapHeader;

impl LiveHeader for HeapHeader {
    fn decode(&self, bytes: &[u8]) -> Option<LiveIdentity> {
        page::check(bytes, PageNo(0), Lsn::MAX).ok()?;
        (codec::get_array(bytes, 32)? == MAGIC).then_some(LiveIdentity {
            database: DatabaseId(codec::get_array(bytes, 40)?),
            history: HistoryId(codec::get_array(bytes, 56)?),
            epoch: Epoch(codec::get_u64(bytes, 72)?),
            sequence: codec::get_u64(bytes, 80)?,
        })
    }

    fn bytes(&self) -> usize {
        PAGE_BYTES
    }
}

pub(super) fn encode_header(whose: LiveIdentity, lsn: Lsn) -> PageBuf {
    let mut header = PageBuf::formatted(PAGE_SIZE, PageNo(0), PageKind::Header);
    codec::put(&mut header, 32, &MAGIC);
    codec::put(&mut header, 40, &whose.database.0);
    codec::put(&mut header, 56, &whose.history.0);
    codec::put(&mut header, 72, &whose.epoch.0.to_le_bytes());
    codec::put(&mut header, 80, &whose.sequence.to_le_bytes());
    header.seal(lsn);
    header
}

/// The sum of all accounts in the bytes of a heap.
pub(crate) fn total_of(bytes: &[u8]) -> u64 {
    let pages = bytes.chunks(PAGE_BYTES).skip(1);
    let balances = pages.flat_map(|page| page[PAGE_HEADER_BYTES..].chunks_exact(8));
    balances.fold(0, |total, balance| {
        total.wrapping_add(codec::get_u64(balance, 0).unwrap_or_default())
    })
}

pub(super) fn read_page(file: &dyn File, number: PageNo) -> Outcome<PageBuf> {
    let mut page = PageBuf::zeroed(PAGE_SIZE);
    os::read_exact_at(file, &mut page, offset_of(number))?;
    page::check(&page, number, Lsn::MAX)?;
    Ok(page)
}

pub(super) fn offset_of(number: PageNo) -> u64 {
    PAGE_SIZE.offset_of(number).expect("a file is not so long")
}

/// Page and offset in it.
pub(super) fn place_of(account: u64) -> (PageNo, usize) {
    let within = usize::try_from(account % ACCOUNTS_PER_PAGE).expect("less than a page");
    let number = PageNo(FIRST + account / ACCOUNTS_PER_PAGE);
    (number, PAGE_HEADER_BYTES + within * 8)
}
