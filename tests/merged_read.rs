//! The order of steps of a merged read, against a source that notes what is asked.

use std::cell::{Cell, RefCell};

use stillfs::page::{PageFault, PageNo};
use stillfs::shadow::index::Entry;
use stillfs::view::merged_read::{Image, MergeSource, read_merged};
use stillfs::view::tree::{EndSeen, ReadError};

const PAGE_BYTES: usize = 4;

/// Live pages are full of 1, slots of 2 and their number.
#[derive(Default)]
struct Source {
    steps: RefCell<Vec<&'static str>>,
    entries: Vec<Entry>,
    rows: RefCell<Vec<Vec<u32>>>,
    bad_checks: Cell<u32>,
    has_ended: bool,
    live_bytes: usize,
}

impl Source {
    fn new(entries: &[Entry]) -> Self {
        Self {
            entries: entries.to_vec(),
            live_bytes: usize::MAX,
            ..Self::default()
        }
    }

    fn note(&self, step: &'static str) {
        self.steps.borrow_mut().push(step);
    }

    fn read(&self) -> Result<Vec<u8>, ReadError> {
        let mut out = vec![0; self.entries.len() * PAGE_BYTES];
        read_merged(self, PageNo(0), &mut out).map(|_| out)
    }
}

impl MergeSource for Source {
    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn read_live(&self, _first: PageNo, out: &mut [u8]) -> Result<usize, ReadError> {
        self.note("live");
        out.fill(1);
        Ok(out.len().min(self.live_bytes))
    }

    fn fence(&self) {
        self.note("fence");
    }

    fn read_entries(&self, _first: PageNo, out: &mut [Entry]) -> Result<(), ReadError> {
        self.note("entries");
        out.copy_from_slice(&self.entries);
        Ok(())
    }

    fn read_slot(&self, _page: PageNo, slot: u32, out: &mut [u8]) -> Result<(), ReadError> {
        self.note("slot");
        out.fill(2 + u8::try_from(slot).expect("a low number"));
        Ok(())
    }

    fn read_slots(&self, row: &mut [Image<'_>]) -> Result<(), ReadError> {
        let slots = row.iter().map(|image| image.slot).collect();
        self.rows.borrow_mut().push(slots);
        row.iter_mut()
            .try_for_each(|image| self.read_slot(image.page, image.slot, image.bytes))
    }

    fn check(&self, page: PageNo, _bytes: &[u8], _crc: Option<u32>) -> Result<(), ReadError> {
        self.note("check");
        let (file, fault) = ("data.pages", PageFault::Short { found: 0 });
        match self.bad_checks.get() {
            0 => Ok(()),
            left => {
                self.bad_checks.set(left - 1);
                Err(ReadError::Page { file, page, fault })
            }
        }
    }

    fn last_look(&self) -> Result<(), ReadError> {
        self.note("look");
        let reason = EndSeen::IndexCut;
        match self.has_ended {
            true => Err(ReadError::PinEnded { reason }),
            false => Ok(()),
        }
    }
}

const SHADOWED: Entry = Entry::Slot { slot: 0, crc: 0 };

/// N2, N3: the index after the live read, the look after the last byte, and fences between.
#[test]
fn steps_come_in_the_order_that_makes_them_right() {
    let source = Source::new(&[Entry::NotShadowed, SHADOWED]);
    assert_eq!(source.read().expect("a read"), [1, 1, 1, 1, 2, 2, 2, 2]);
    let expected = [
        "live", "fence", "entries", "fence", "check", "slot", "check", "fence", "look",
    ];
    assert_eq!(*source.steps.borrow(), expected);
}

/// N4: once more from the top, and then no more.
#[test]
fn failed_page_is_tried_once_more_from_the_top() {
    let source = Source::new(&[Entry::NotShadowed]);
    source.bad_checks.set(1);
    assert!(source.read().is_ok());
    let lives = source
        .steps
        .borrow()
        .iter()
        .filter(|step| **step == "live")
        .count();
    assert_eq!(lives, 2);
    source.bad_checks.set(2);
    assert!(matches!(source.read(), Err(ReadError::Page { .. })));
}

/// N1, N3: right bytes of a pin that has ended are no answer either.
#[test]
fn ended_pin_unreadable_page_and_missing_bytes_fail_the_whole_read() {
    let mut source = Source::new(&[SHADOWED]);
    source.has_ended = true;
    assert!(matches!(source.read(), Err(ReadError::PinEnded { .. })));
    let source = Source::new(&[Entry::NotShadowed, Entry::Unreadable]);
    assert!(matches!(source.read(), Err(ReadError::Unreadable { .. })));
    let mut source = Source::new(&[SHADOWED, Entry::NotShadowed]);
    source.live_bytes = PAGE_BYTES;
    assert!(matches!(source.read(), Err(ReadError::Page { .. })));
    source.entries = vec![SHADOWED, SHADOWED];
    assert_eq!(source.read().expect("all of it is in slots"), [2; 8]);
}

/// N2: slots that lie in a row are asked for together, and each image goes to its own page.
#[test]
fn slots_are_read_in_their_order_and_each_goes_to_its_page() {
    let slot = |slot| Entry::Slot { slot, crc: 0 };
    let source = Source::new(&[
        slot(9),
        slot(4),
        Entry::NotShadowed,
        slot(3),
        slot(5),
        slot(7),
    ]);
    let bytes = source.read().expect("a read");
    let pages: Vec<_> = bytes.chunks(PAGE_BYTES).map(|page| page[0]).collect();
    assert_eq!(pages, [11, 6, 1, 5, 7, 9]);
    assert_eq!(*source.rows.borrow(), [vec![3, 4, 5], vec![7], vec![9]]);
}
