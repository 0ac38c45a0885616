//! Pages in memory, for the tests of everything that lives in pages.

use std::collections::HashSet;
use std::sync::Arc;

use crate::engine::catalog;
use crate::engine::check::{CheckReport, check};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::free_list::{self, RawPages};
use crate::engine::page_io::{FreeList, PageRead, PageWrite};
use crate::lsn::Lsn;
use crate::page::{self, PageBuf, PageKind, PageNo, PageRef, PageSize};

/// All page sizes there are.
pub(crate) const PAGE_SIZES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// What happens where a page is used after it was freed, or freed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// The test fails.
    Panics,
    /// It goes on: the pages were damaged on purpose.
    IsIgnored,
}

/// A writing transaction without a file below it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryPages {
    size: PageSize,
    pages: Vec<PageRef>,
    pub(crate) list: FreeList,
    free: HashSet<PageNo>,
    misuse: Misuse,
    /// How often a page was opened for writing.
    pub(crate) modify_count: u64,
}

impl MemoryPages {
    /// Two header pages and nothing else.
    pub(crate) fn new(size: PageSize) -> Self {
        let header = |page| Arc::new(PageBuf::formatted(size, PageNo(page), PageKind::Header));
        Self {
            size,
            pages: vec![header(0), header(1)],
            list: FreeList::default(),
            free: HashSet::new(),
            misuse: Misuse::Panics,
            modify_count: 0,
        }
    }

    /// A database with an empty catalog.
    pub(crate) fn with_catalog(bytes: u64) -> Self {
        let mut pages = Self::new(PageSize::new(bytes).unwrap());
        catalog::initialise(&mut pages).unwrap();
        pages
    }

    /// The state as a reader sees it, every page sealed.
    pub(crate) fn image(&self) -> Image {
        let mut image = Image {
            size: self.size,
            pages: self.pages.clone(),
        };
        for page in 0..image.pages.len() {
            image.change(page, |_| ());
        }
        image
    }

    /// Checks the state.
    pub(crate) fn check(&self) -> CheckReport {
        check(&self.image(), self.list)
    }

    /// A transaction on pages that may be damaged.
    pub(crate) fn over(image: &Image, list: FreeList) -> Self {
        Self {
            size: image.size,
            pages: image.pages.clone(),
            list,
            free: HashSet::new(),
            misuse: Misuse::IsIgnored,
            modify_count: 0,
        }
    }

    fn slot(&mut self, page: PageNo) -> &mut PageRef {
        &mut self.pages[usize::try_from(page.0).unwrap()]
    }
}

fn image_of(pages: &[PageRef], page: PageNo) -> Result<PageRef> {
    let index = usize::try_from(page.0).unwrap_or(usize::MAX);
    pages.get(index).cloned().ok_or(EngineError::Structure {
        page,
        expected: "a page of the file",
        found: page.0,
    })
}

impl PageRead for MemoryPages {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        let image = image_of(&self.pages, page)?;
        let is_stale = self.free.contains(&page) && image.kind() != Some(PageKind::FreeTrunk);
        assert!(
            !is_stale || self.misuse == Misuse::IsIgnored,
            "read of the free page {page}"
        );
        Ok(image)
    }
}

impl RawPages for MemoryPages {
    fn modify_raw(&mut self, page: PageNo) -> Result<&mut [u8]> {
        self.read(page)?;
        self.modify_count += 1;
        let misuse = self.misuse;
        let image = self.slot(page);
        let is_alone = Arc::strong_count(image) == 1;
        assert!(
            is_alone || misuse == Misuse::IsIgnored,
            "{page} is held while it is changed"
        );
        let image: &mut PageBuf = Arc::make_mut(image);
        Ok(image)
    }

    fn format_raw(&mut self, page: PageNo, kind: PageKind) -> Result<&mut [u8]> {
        let size = self.size;
        let image = self.slot(page);
        *image = Arc::new(PageBuf::formatted(size, page, kind));
        Ok(Arc::get_mut(image).unwrap())
    }
}

impl PageWrite for MemoryPages {
    fn modify(&mut self, page: PageNo) -> Result<&mut [u8]> {
        self.modify_raw(page)
    }

    fn allocate(&mut self, kind: PageKind) -> Result<PageNo> {
        let mut list = self.list;
        let popped = free_list::pop(self, &mut list)?;
        self.list = list;
        let page = match popped {
            Some(page) => {
                let was_free = self.free.remove(&page);
                assert!(
                    was_free || self.misuse == Misuse::IsIgnored,
                    "{page} was in use"
                );
                page
            }
            None => {
                let page = PageNo(self.page_count());
                self.pages.push(Arc::new(PageBuf::zeroed(self.size)));
                page
            }
        };
        self.format_raw(page, kind)?;
        Ok(page)
    }

    fn free(&mut self, page: PageNo) -> Result<()> {
        let was_used = self.free.insert(page);
        assert!(
            was_used || self.misuse == Misuse::IsIgnored,
            "{page} is freed twice"
        );
        let mut list = self.list;
        free_list::push(self, &mut list, page)?;
        self.list = list;
        Ok(())
    }
}

/// A committed state whose pages can be damaged.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    size: PageSize,
    pages: Vec<PageRef>,
}

impl Image {
    /// Changes the page `index` and seals it again, so that its checksum is right.
    pub(crate) fn change(&mut self, index: usize, change: impl FnOnce(&mut [u8])) {
        let mut page = PageBuf::clone(&self.pages[index]);
        change(&mut page);
        page.seal(Lsn(1));
        self.pages[index] = Arc::new(page);
    }

    /// Changes the page `index` and leaves its checksum wrong.
    pub(crate) fn damage(&mut self, index: usize, change: impl FnOnce(&mut [u8])) {
        let page: &mut PageBuf = Arc::make_mut(&mut self.pages[index]);
        change(page);
    }
}

impl PageRead for Image {
    fn page_size(&self) -> PageSize {
        self.size
    }

    fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        let image = image_of(&self.pages, page)?;
        page::check(&image, page, Lsn::MAX).map_err(|fault| EngineError::Page {
            file: FileRole::PageFile,
            page,
            fault,
        })?;
        Ok(image)
    }
}
