//! A pin's three files as a hostile engine hands them out: what the daemon reads, and a database that is
//! opened on that view.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use stillfs::codec;
use stillfs::database::{Engine, NativeHeader};
use stillfs::os::{FileIdentity, Host};
use stillfs::view::tree::RangeRead;
use stillfs::view::{PinnedFile, ViewFile};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::memory_file::{Files, MemoryFile};
use stillfs_fuzz::page_image::{PAGE_BYTES, field, mend_page_file, mend_sector};
use stillfs_fuzz::{sample, walk};

/// The most that is read at once: as much as the kernel asks of a daemon.
const READ_BYTES_MAX: u64 = 1 << 20;

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0; 8], vec![1; 8], vec![2, 0, 0, 0, 0, 0x14, 0, 128]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let how = input.u8();
        let files = &*sample::PINNED;
        let mut live = sample::content(files, "data.pages");
        let mut slots = sample::content(files, "shadow/slots");
        let mut index = index(files, how & 4 == 0);
        let live_changed = input.patch(&mut live, PAGE_BYTES);
        let slots_changed = input.patch(&mut slots, PAGE_BYTES);
        input.patch(&mut index, PAGE_BYTES);
        if how & 1 == 1 {
            mend_page_file(&mut live, &live_changed);
            mend_page_file(&mut slots, &slots_changed);
            mend_sector(&mut index, 0);
        }
        if how & 2 == 2 {
            mend_entries(&mut index, &slots);
        }
        let identity = FileIdentity {
            device: field(&index, 144),
            inode: field(&index, 152),
        };
        let file = |bytes| Arc::new(MemoryFile { bytes, identity });
        let opened = PinnedFile::open(file(live), file(slots), file(index), Arc::new(NativeHeader));
        let Ok(view) = opened.map(Arc::new) else {
            return;
        };
        let ranges = [(0, view.size().min(READ_BYTES_MAX)), (input.u64(), u64::from(input.u16()))];
        for (offset, bytes) in ranges {
            let mut out = vec![0; usize::try_from(bytes).expect("64-bit memory sizes")];
            let _ = view.read_range(offset, &mut out).map_err(|error| error.to_string());
        }
        let still = Arc::new(ViewFile::new(view));
        if let Ok(engine) = Engine::open_still(&Host::simulated(1).host, still, 1 << 20) {
            walk::look(&engine);
        }
    }
);

/// The index of one of the two pins.
fn index(files: &Files, is_first: bool) -> Vec<u8> {
    let mut indexes = files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "pin"));
    let found = if is_first {
        indexes.next()
    } else {
        indexes.next_back()
    };
    found.expect("the sample has two pins").1.clone()
}

/// Has each entry name the checksum that the image in its slot carries.
fn mend_entries(index: &mut [u8], slots: &[u8]) {
    for at in (4096..index.len().saturating_sub(7)).step_by(8) {
        let slot = codec::get_u32(index, at + 4).unwrap_or_default();
        let image = (slot as usize).wrapping_sub(1).saturating_mul(PAGE_BYTES);
        if let Some(crc) = codec::get_array::<4>(slots, image) {
            codec::put(index, at, &crc);
        }
    }
}
