//! The pages that the writing transaction has changed, private until its commit.
//!
//! Those that memory has no room for wait in the spool. Such a page is logged as a full image, since
//! what it was before is not kept beside it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec;
use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, Result};
use crate::engine::free_list;
use crate::engine::page_io::{FreeList, PageRead, PageWrite};
use crate::engine::page_table::Readers;
use crate::engine::shared::Shared;
use crate::engine::spool::Slot;
use crate::engine::wal::{Extent, Hole, longest_zeros};
use crate::page::{PageBuf, PageKind, PageMap, PageNo, PageRef, PageSize};

/// Fewest pages of a transaction that stay in memory, whatever the bound.
const IMAGES_MIN: u64 = 16;

/// So many images more are taken back from the page table at once.
const CLAIM: u64 = 64;

/// The image of a changed page as it will be committed; LSN and checksum are not set yet.
#[derive(Clone, Debug)]
pub(crate) enum After {
    /// In memory.
    Image(PageRef),
    /// In the spool, without the run of zeros that its log record will leave out.
    Spooled(Arc<Slot>, Hole),
}

/// One changed page.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The committed image that it was changed from; `None` for a page that was formatted, and for
    /// one in the spool.
    pub(crate) before: Option<PageRef>,
    /// Whether no commit has had this page yet.
    is_new: bool,
    pub(crate) after: After,
    /// Where it may differ from `before`.
    pub(crate) extent: Extent,
    /// Looked at since the clock came by.
    is_used: AtomicBool,
}

impl Changed {
    fn new(before: Option<PageRef>, is_new: bool, after: PageRef, extent: Extent) -> Self {
        Self {
            before,
            is_new,
            after: After::Image(after),
            extent,
            is_used: AtomicBool::new(false),
        }
    }

    /// Images that it holds in memory.
    fn image_count(&self) -> u64 {
        u64::from(self.before.is_some()) + u64::from(matches!(self.after, After::Image(_)))
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct WriteSet {
    shared: Arc<Shared>,
    base: CommitPoint,
    page_count: u64,
    free: FreeList,
    changed: PageMap<Changed>,
    /// Pages in memory, in the order in which they came; some are gone meanwhile.
    clock: VecDeque<PageNo>,
    /// Images of `changed` in memory.
    images: u64,
    /// Who may want what was committed, as of the first change.
    readers: OnceLock<Readers>,
    /// How many there may be before the page table must give back more of what it was lent.
    claimed: u64,
}

impl WriteSet {
    pub(crate) fn new(shared: Arc<Shared>, base: CommitPoint) -> Self {
        Self {
            shared,
            base,
            page_count: base.page_count,
            free: base.free,
            changed: PageMap::default(),
            clock: VecDeque::new(),
            images: 0,
            readers: OnceLock::new(),
            claimed: CLAIM,
        }
    }

    pub(crate) fn base(&self) -> CommitPoint {
        self.base
    }

    pub(crate) fn free_list(&self) -> FreeList {
        self.free
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        self.changed.is_empty()
    }

    /// The changed pages, ascending.
    pub(crate) fn into_changed(self) -> Vec<(PageNo, Changed)> {
        let mut changed: Vec<_> = self.changed.into_iter().collect();
        changed.sort_unstable_by_key(|(page, _)| *page);
        changed
    }

    fn insert(&mut self, page: PageNo, changed: Changed) {
        self.images += changed.image_count();
        match self.changed.insert(page, changed) {
            Some(replaced) if replaced.image_count() > 0 => self.images -= replaced.image_count(),
            _ => self.clock.push_back(page),
        }
    }

    fn remove(&mut self, page: PageNo) {
        if let Some(removed) = self.changed.remove(&page) {
            self.images -= removed.image_count();
        }
        if self.clock.len() > 2 * self.changed.len() + 64 {
            let in_memory = self.changed.iter().filter(|(_, c)| c.image_count() > 0);
            self.clock = in_memory.map(|(&page, _)| page).collect();
        }
    }

    /// E13: sends pages to the spool until there is room for two images more.
    ///
    /// Errors: `Io` if the spool refuses; the transaction can only be rolled back then.
    fn make_room(&mut self) -> Result<()> {
        let images_max = self.shared.sizes.transaction_images.max(IMAGES_MIN);
        while self.images + 2 > images_max {
            let Some(page) = self.clock.pop_front() else {
                break;
            };
            let Some(changed) = self.changed.get_mut(&page) else {
                continue;
            };
            let After::Image(image) = &changed.after else {
                continue;
            };
            if changed.is_used.swap(false, Ordering::Relaxed) {
                self.clock.push_back(page);
                continue;
            }
            let (spool, sink) = (self.shared.spool()?, self.shared.sink.as_deref());
            let slot = self.shared.relief.with(sink, || spool.store(image))?;
            let hole = longest_zeros(image);
            self.images -= changed.image_count();
            changed.after = After::Spooled(slot, hole);
            changed.before = None;
        }
        self.claim();
        Ok(())
    }

    /// E13: the page table has none of the memory that two images more need. The end of the transaction gives
    /// it back.
    fn claim(&mut self) {
        let share = self.shared.sizes.transaction_images;
        if self.images + 2 > self.claimed && self.claimed < share {
            self.claimed += CLAIM;
            self.shared.table.lend(share, self.claimed);
        }
    }

    /// A page that this transaction gives its whole content, whatever it held.
    fn format_page(&mut self, page: PageNo, kind: PageKind) -> Result<()> {
        self.make_room()?;
        let (before, is_new) = match self.changed.get(&page) {
            Some(changed) => (changed.before.clone(), changed.is_new),
            None => (None, page.0 >= self.base.page_count),
        };
        let after = Arc::new(PageBuf::formatted(self.shared.page_size, page, kind));
        self.insert(page, Changed::new(before, is_new, after, Extent::Anywhere));
        Ok(())
    }

    /// Brings a page into the set, and into memory.
    fn bring(&mut self, page: PageNo) -> Result<()> {
        let (before, is_new, after, extent) = match self.changed.get(&page) {
            Some(Changed {
                after: After::Image(_),
                ..
            }) => return Ok(()),
            Some(changed) => (None, changed.is_new, self.read(page)?, Extent::Anywhere),
            None => {
                let before = self.read(page)?;
                let after = self.spare(page, &before).unwrap_or_else(|| before.clone());
                (Some(before), false, after, Extent::Within(Vec::new()))
            }
        };
        self.make_room()?;
        self.insert(page, Changed::new(before, is_new, after, extent));
        Ok(())
    }

    /// A copy of the committed image `before`, made of the one before that if nobody wants it any more: with the
    /// few bytes in which they differ it costs less than a copy of the page.
    fn spare(&self, page: PageNo, before: &PageBuf) -> Option<PageRef> {
        // As of some moment before: that is on the safe side.
        let readers = self.readers.get_or_init(|| self.shared.registry.snapshot());
        let table = &self.shared.table;
        let (mut image, ranges) = table.take_replaced(page, before.lsn(), readers)?;
        Arc::get_mut(&mut image)?.catch_up(before, &ranges);
        Some(image)
    }

    /// The image of a page that is to be changed, and where it was changed so far.
    fn open(&mut self, page: PageNo) -> Result<(&mut PageBuf, &mut Extent)> {
        self.bring(page)?;
        let changed = self.changed.get_mut(&page);
        let Some(Changed {
            after: After::Image(image),
            extent,
            is_used,
            ..
        }) = changed
        else {
            unreachable!("it was brought into memory above");
        };
        *is_used.get_mut() = true;
        Ok((Arc::make_mut(image), extent))
    }
}

impl PageRead for WriteSet {
    fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    fn page_count(&self) -> u64 {
        self.page_count
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        if let Some(changed) = self.changed.get(&page) {
            changed.is_used.store(true, Ordering::Relaxed);
            return match &changed.after {
                After::Image(image) => Ok(image.clone()),
                After::Spooled(slot, _) => Ok(Arc::new(slot.read(page)?)),
            };
        }
        if page.0 >= self.page_count {
            let (expected, found) = ("a page below the page count", self.page_count);
            return Err(EngineError::Structure {
                page,
                expected,
                found,
            });
        }
        self.shared.read_page(page, self.base.lsn)
    }
}

impl PageWrite for WriteSet {
    fn modify(&mut self, page: PageNo) -> Result<&mut [u8]> {
        let (image, extent) = self.open(page)?;
        *extent = Extent::Anywhere;
        Ok(image)
    }

    fn overwrite(&mut self, page: PageNo, offset: usize, bytes: &[u8]) -> Result<()> {
        let (image, extent) = self.open(page)?;
        codec::put(image, offset, bytes);
        extent.add(offset..offset + bytes.len());
        Ok(())
    }

    fn allocate(&mut self, kind: PageKind) -> Result<PageNo> {
        let mut free = self.free;
        let page = match free_list::pop(self, &mut free)? {
            Some(page) => page,
            None => {
                let page = PageNo(self.page_count);
                let next = self.page_count.checked_add(1);
                let fits =
                    next.is_some_and(|next| self.page_size().offset_of(PageNo(next)).is_some());
                if !fits {
                    return Err(EngineError::Exhausted { what: "data.pages" });
                }
                self.page_count += 1;
                page
            }
        };
        self.free = free;
        self.format_page(page, kind)?;
        Ok(page)
    }

    fn free(&mut self, page: PageNo) -> Result<()> {
        let mut free = self.free;
        free_list::push(self, &mut free, page)?;
        self.free = free;
        // E9: a page that was never committed is written in full all the same.
        if free.head == page {
            return Ok(());
        }
        match self.changed.get(&page) {
            Some(changed) if changed.is_new => self.format_page(page, PageKind::Free)?,
            // What it holds committed may stay: nobody reads a free page.
            Some(_) => self.remove(page),
            None => {}
        }
        Ok(())
    }
}

impl free_list::RawPages for WriteSet {
    fn modify_raw(&mut self, page: PageNo) -> Result<&mut [u8]> {
        PageWrite::modify(self, page)
    }

    fn format_raw(&mut self, page: PageNo, kind: PageKind) -> Result<&mut [u8]> {
        self.format_page(page, kind)?;
        PageWrite::modify(self, page)
    }
}
