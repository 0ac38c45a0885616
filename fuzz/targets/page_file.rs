//! A page file as a hostile writer leaves it: header copies, nodes, chains, catalog, free list; read, and
//! checked, without an engine of its own.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use stillfs::database::Engine;
use stillfs::os::{FileIdentity, Host};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::memory_file::MemoryFile;
use stillfs_fuzz::page_image::{PAGE_BYTES, mend_page_file};
use stillfs_fuzz::{sample, walk};

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0], vec![1, 0x14, 0, 136], vec![1, 1, 2, 34, 0, 3]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let is_mended = input.u8() & 1 == 1;
        let mut bytes = sample::content(&sample::CLOSED, "data.pages");
        let changed = input.patch(&mut bytes, PAGE_BYTES);
        if is_mended {
            mend_page_file(&mut bytes, &changed);
        }
        let identity = FileIdentity { device: 1, inode: 2 };
        let file = Arc::new(MemoryFile { bytes, identity });
        if let Ok(engine) = Engine::open_still(&Host::simulated(1).host, file, 1 << 20) {
            walk::look(&engine);
        }
    }
);
