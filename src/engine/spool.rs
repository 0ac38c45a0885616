//! The spool: page images that memory has no room for, in a file without a name.
//!
//! A private file in the database's directory, made when it is first needed, in slots of one page. It
//! goes with the process, is never synced, and nothing is read from it that this process did not write.
//!
//! * E12 An image that comes back from the spool is the one that was put there, or an error: each slot's
//!   checksum stays in memory. A slot is used again only when nobody holds it any more.
//!
//! Locking: `slots` for numbers only; `cut` is held for reading while a slot is written, and for
//! writing while free space at the end is given back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::page_table::Backing;
use crate::lsn::Lsn;
use crate::os::{self, File, Host};
use crate::page::{PageBuf, PageFault, PageNo, PageSize};

/// Which slots of the file are taken.
#[derive(Debug, Default)]
struct Slots {
    /// Slots below `count` that nobody holds.
    free: BTreeSet<u64>,
    /// One more than the last slot that is held.
    count: u64,
}

impl Slots {
    /// The lowest free slot, so that the end of the file becomes free.
    fn take(&mut self) -> u64 {
        self.free.pop_first().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }

    fn give(&mut self, index: u64) {
        self.free.insert(index);
        while self.count > 0 && self.free.remove(&(self.count - 1)) {
            self.count -= 1;
        }
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Spool {
    host: Host,
    dir: PathBuf,
    page_size: PageSize,
    file: Mutex<Option<Arc<dyn File>>>,
    slots: Mutex<Slots>,
    cut: RwLock<()>,
    /// Slots that the file may have bytes of.
    written: AtomicU64,
}

/// One image in the spool; its space is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    spool: Arc<Spool>,
    index: u64,
    crc: u32,
}

impl Spool {
    /// A spool in `dir`, without a file yet.
    pub(crate) fn new(host: &Host, dir: &Path, page_size: PageSize) -> Arc<Self> {
        Arc::new(Self {
            host: host.clone(),
            dir: dir.to_owned(),
            page_size,
            file: Mutex::default(),
            slots: Mutex::default(),
            cut: RwLock::default(),
            written: AtomicU64::new(0),
        })
    }

    /// Puts an image into a free slot. Shape: one page.
    ///
    /// Errors: `Io`; then nothing is stored.
    pub(crate) fn store(self: &Arc<Self>, image: &[u8]) -> Result<Arc<Slot>> {
        debug_assert_eq!(image.len(), self.page_size.bytes());
        let file = self.file()?;
        let _written_whole = self.cut.read();
        let slot = Slot {
            spool: self.clone(),
            index: self.slots.lock().take(),
            crc: crc32fast::hash(image),
        };
        self.written.fetch_max(slot.index + 1, Ordering::Relaxed);
        os::write_all_at(&*file, image, slot.offset()?).map_err(EngineError::io_at(
            "write",
            FileRole::Spool,
            &self.dir,
        ))?;
        Ok(Arc::new(slot))
    }

    fn file(&self) -> Result<Arc<dyn File>> {
        let mut file = self.file.lock();
        if let Some(file) = &*file {
            return Ok(file.clone());
        }
        let made = self.host.disk.unnamed(&self.dir);
        let made = made.map_err(EngineError::io_at("make", FileRole::Spool, &self.dir))?;
        Ok(file.insert(made).clone())
    }

    /// Gives the free space at the end of the file back to the disk.
    pub(crate) fn give_back(&self) {
        if self.written.load(Ordering::Relaxed) <= self.slots.lock().count {
            return;
        }
        let Some(file) = self.file.lock().clone() else {
            return;
        };
        let _nothing_is_written = self.cut.write();
        let count = self.slots.lock().count;
        // What cannot be cut stays for later slots, and for the next try.
        if file
            .set_len(count * u64::from(self.page_size.get()))
            .is_ok()
        {
            self.written.store(count, Ordering::Relaxed);
        }
    }

    /// Bytes of the images in it.
    pub(crate) fn bytes(&self) -> u64 {
        let slots = self.slots.lock();
        (slots.count - slots.free.len() as u64) * u64::from(self.page_size.get())
    }
}

impl Slot {
    fn offset(&self) -> Result<u64> {
        self.spool
            .page_size
            .offset_of(PageNo(self.index))
            .ok_or(EngineError::Exhausted { what: "the spool" })
    }

    /// The bytes that were stored for `page`.
    ///
    /// Errors: `Spool` if they are not there any more; `Io`.
    pub(crate) fn read(&self, page: PageNo) -> Result<PageBuf> {
        let mut image = PageBuf::zeroed(self.spool.page_size);
        let found = os::read_up_to(&*self.spool.file()?, &mut image, self.offset()?)
            .map_err(EngineError::io_at("read", FileRole::Spool, &self.spool.dir))?;
        let crc = crc32fast::hash(&image);
        let fault = if found < image.len() {
            PageFault::Short { found }
        } else if crc != self.crc {
            PageFault::Checksum {
                expected: self.crc,
                found: crc,
            }
        } else {
            return Ok(image);
        };
        Err(EngineError::Spool { page, fault })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.spool.slots.lock().give(self.index);
    }
}

impl Backing for Slot {
    /// An image that went to the spool before its commit carries no LSN yet.
    fn load(&self, page: PageNo, lsn: Lsn) -> Result<PageBuf> {
        let mut image = self.read(page)?;
        if image.lsn() != lsn {
            image.seal(lsn);
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageKind;

    fn image(page: u64, fill: u8) -> PageBuf {
        let mut image = PageBuf::formatted(PageSize::DEFAULT, PageNo(page), PageKind::Leaf);
        image[100..200].fill(fill);
        image
    }

    fn spool(host: &Host) -> Arc<Spool> {
        host.disk.create_dir(Path::new("/db")).unwrap();
        Spool::new(host, Path::new("/db"), PageSize::DEFAULT)
    }

    /// E12: bytes that changed on their way are an error, also when they are those of another slot.
    #[test]
    fn damaged_and_short_slots_are_errors() {
        let machine = Host::simulated(1);
        let spool = spool(&machine.host);
        let first = spool.store(&image(1, 1)).unwrap();
        let second = spool.store(&image(2, 2)).unwrap();
        assert_eq!(first.read(PageNo(1)).unwrap(), image(1, 1));
        let file = spool.file().unwrap();
        os::write_all_at(&*file, &[9], second.offset().unwrap() + 150).unwrap();
        let damaged = second.read(PageNo(2)).unwrap_err();
        assert!(matches!(damaged, EngineError::Spool { .. }), "{damaged}");
        os::write_all_at(&*file, &image(2, 2), first.offset().unwrap()).unwrap();
        assert!(first.read(PageNo(1)).is_err());
        file.set_len(8192 + 100).unwrap();
        assert!(second.read(PageNo(2)).is_err());
    }

    /// E12: a slot is used again only after the last who holds it, the lowest first; the free end of
    /// the file is cut.
    #[test]
    fn free_slots_are_used_again_and_the_end_is_cut() {
        let machine = Host::simulated(1);
        let spool = spool(&machine.host);
        let slots: Vec<_> = (0..6)
            .map(|page| spool.store(&image(page, 1)).unwrap())
            .collect();
        let held = slots[1].clone();
        drop(slots);
        assert_eq!(spool.bytes(), 8192);
        spool.give_back();
        assert_eq!(spool.file().unwrap().len().unwrap(), 2 * 8192);
        let again = spool.store(&image(7, 7)).unwrap();
        assert_eq!((again.index, held.index), (0, 1));
        assert_eq!(held.read(PageNo(1)).unwrap(), image(1, 1));
        drop((again, held));
        spool.give_back();
        assert_eq!(spool.file().unwrap().len().unwrap(), 0);
        assert!(machine.host.disk.list(Path::new("/db")).unwrap().is_empty());
    }

    /// An image that went to the spool before its commit gets its LSN on the way back.
    #[test]
    fn uncommitted_image_is_sealed_when_it_is_loaded() {
        let machine = Host::simulated(1);
        let slot = spool(&machine.host).store(&image(3, 3)).unwrap();
        let loaded = slot.load(PageNo(3), Lsn(77)).unwrap();
        assert_eq!(crate::page::check(&loaded, PageNo(3), Lsn(77)), Ok(()));
        assert_eq!(loaded.lsn(), Lsn(77));
    }
}
