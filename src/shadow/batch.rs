//! One batch of writeback, seen by the capture.
//!
//! ```text
//! old pages read -> all images into slots -> per pin all entries into its index      in the usual case
//!                -> per page and pin: image into a slot, entry into the index        where a limit, the disk
//!                                                                                    or a page stands against it
//! ```
//!
//! The first way is all or nothing up to the slots: it ends no pin, holds nothing up and takes no space if
//! it does not come that far. So who goes first when space runs out is decided page by page, as L1 to L4
//! have it.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::MutexGuard;

use crate::fault::{self, Fault};
use crate::os::{self, File};
use crate::page::{PageKind, PageNo};
use crate::shadow::capture::{CaptureSteps, Lacked};
use crate::shadow::index::Entry;
use crate::shadow::{HeldPin, Shadow, ShadowError};

/// See the head of the file.
pub(super) struct Batch<'a> {
    pub(super) shadow: &'a Shadow,
    pub(super) live: &'a dyn File,
    pub(super) pins: &'a [Arc<HeldPin>],
    /// What was read of the live file.
    pub(super) old_pages: RefCell<MutexGuard<'a, Vec<u8>>>,
}

impl CaptureSteps for Batch<'_> {
    /// Place in the list of pins.
    type Pin = usize;
    /// Where it is in `old_pages`; `None` where the page cannot be read, which the pins then say.
    type Image = Option<Range<usize>>;
    type Error = ShadowError;

    fn pins_lacking(&self, page: PageNo) -> Vec<usize> {
        let pins = self.pins.iter().enumerate();
        pins.filter(|(_, pin)| pin.lacks(page))
            .map(|(at, _)| at)
            .take(match fault::is(Fault::CaptureForOnePin) {
                true => 1,
                false => usize::MAX,
            })
            .collect()
    }

    fn pre_images(&self, pages: &[PageNo]) -> Vec<Option<Range<usize>>> {
        let page_bytes = self.shadow.page_size.bytes();
        let mut old_pages = self.old_pages.borrow_mut();
        old_pages.resize(pages.len() * page_bytes, 0);
        let mut images = Vec::with_capacity(pages.len());
        for row in pages.chunk_by(|one, next| one.0 + 1 == next.0) {
            let begin = images.len() * page_bytes;
            let rest = old_pages.get_mut(begin..).unwrap_or_default();
            let out = rest.get_mut(..row.len() * page_bytes).unwrap_or_default();
            let is_read = self.read_live(row, out);
            for (at, (page, out)) in row.iter().zip(out.chunks_exact_mut(page_bytes)).enumerate() {
                // One page that cannot be read makes the others no worse.
                let is_read = is_read || row.len() > 1 && self.read_live(&[*page], out);
                let begin = begin + at * page_bytes;
                images.push(is_read.then_some(begin..begin + page_bytes));
            }
        }
        images
    }

    fn store_and_publish_all(
        &self,
        lacked: &[Lacked<usize, Option<Range<usize>>>],
    ) -> Result<bool, ShadowError> {
        if fault::is(Fault::FreePageUncaptured) || fault::is(Fault::PublishAfterOverwrite) {
            return Ok(false);
        }
        let mut wanted = vec![0; self.pins.len()];
        for at in lacked.iter().flat_map(|one| &one.pins) {
            if let Some(count) = wanted.get_mut(*at) {
                *count += 1;
            }
        }
        let mut pins = self.pins.iter().zip(&wanted);
        let is_within_limits =
            pins.all(|(pin, count)| *count == 0 || pin.refuse_beyond_limit(*count).is_ok());
        if !is_within_limits || lacked.iter().any(|one| one.image.is_none()) {
            return Ok(false);
        }
        let holders = |one: &Lacked<_, _>| u32::try_from(one.pins.len()).unwrap_or(u32::MAX);
        let pages: Vec<_> = lacked.iter().map(|one| (one.page, holders(one))).collect();
        let stored = {
            let old_pages = self.old_pages.borrow();
            let room = &self.shadow.room;
            self.shadow.slots.acquire_all(&pages, &old_pages, room)
        };
        // What stands against it is met again page by page, and there is decided who pays for it.
        let Ok(stored) = stored else {
            return Ok(false);
        };
        let mut outcome = Ok(());
        for (at, pin) in self.pins.iter().enumerate() {
            let of_pin = lacked.iter().zip(&stored);
            let of_pin = of_pin.filter(|(one, _)| one.pins.contains(&at));
            let entries: Vec<_> = of_pin
                .map(|(one, (entry, is_fresh))| {
                    pin.count_captured(*is_fresh && one.pins.first() == Some(&at));
                    (one.page, *entry)
                })
                .collect();
            if !entries.is_empty() {
                // All slots get their owners, also after a failure.
                outcome = outcome.and(self.conclude(pin, self.shadow.put(pin, &entries)));
            }
        }
        outcome.map(|()| true)
    }

    fn store_and_publish(
        &self,
        at: &usize,
        page: PageNo,
        image: &Option<Range<usize>>,
    ) -> Result<(), ShadowError> {
        let Some(pin) = self.pins.get(*at) else {
            return Ok(());
        };
        let old_pages = self.old_pages.borrow();
        let image = image.clone().and_then(|range| old_pages.get(range));
        if fault::is(Fault::FreePageUncaptured) && image.is_some_and(is_free) {
            return Ok(());
        }
        let stored = match image {
            None => Ok(Entry::Unreadable),
            Some(image) => self.shadow.store(pin, page, image),
        };
        let published = stored.and_then(|entry| {
            if fault::is(Fault::PublishAfterOverwrite) {
                self.shadow.late.lock().push((pin.clone(), page, entry));
                return Ok(());
            }
            self.shadow.put(pin, &[(page, entry)])
        });
        self.conclude(pin, published)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Batch<'_> {
    /// Whether `row`, pages in a row, could be read.
    fn read_live(&self, row: &[PageNo], out: &mut [u8]) -> bool {
        let offset = row
            .first()
            .and_then(|page| self.shadow.page_size.offset_of(*page));
        offset.is_some_and(|offset| os::read_exact_at(self.live, out, offset).is_ok())
    }

    /// What follows from how a publication for `pin` went.
    ///
    /// Errors: `Held`; `Io` if the pin could not be ended either. Then nothing may be overwritten.
    fn conclude(
        &self,
        pin: &Arc<HeldPin>,
        published: Result<(), ShadowError>,
    ) -> Result<(), ShadowError> {
        match published {
            Ok(()) | Err(ShadowError::Ended(_)) => Ok(()),
            Err(ShadowError::Held) => {
                // Whoever held an earlier try up may have room again.
                let others = self.pins.iter().filter(|other| !Arc::ptr_eq(other, pin));
                others.for_each(|other| other.set_holding(None));
                pin.set_holding(Some(self.shadow.clock.monotonic()));
                Err(ShadowError::Held)
            }
            // S6: the writer goes on and the pin does not, visibly.
            Err(error) => self.shadow.end(pin, error.end_reason()),
        }
    }
}

/// Whether a page says that it is of the free list: only for the injected fault.
fn is_free(image: &[u8]) -> bool {
    let kind = image.get(4).copied().and_then(PageKind::from_u8);
    matches!(kind, Some(PageKind::Free | PageKind::FreeTrunk))
}
